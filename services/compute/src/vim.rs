//! Alarms and logs of instances, as the infrastructure manager of StarlingX gives them (spec/vim.md, section 5).

use ::guest::message::Event;
use base::{Context, Result};
use fault::{Alarm, Severity, instance_entity};
use store::Tx;

use crate::Compute;
use crate::db::migrations;
use crate::db::servers::Server;
use crate::states::vm;

pub const FAILED: &str = "700.001";
/// It is live migrating.
const MOVING: &str = "700.008";
const REPAIR_MOVING: &str = "Wait for the migration to complete; no repair action required";
const REPAIR_AUTO: &str = "The system will attempt recovery; no repair action required";
const REPAIR_MANUAL: &str = "Manual action is needed: start, rebuild or delete the instance";

/// How far an action on an instance is, as an offset from its first log id, which tells that it was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Progress = 1,
    Rejected = 2,
    Cancelled = 3,
    Failed = 4,
    Completed = 5,
}

/// By whom an action is issued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Issuer {
    /// Who calls: a tenant, or the system itself.
    #[default]
    Caller,
    /// Its guest has asked for it.
    Guest,
    /// That was logged before its guest was asked.
    Known,
}

/// First of the six log ids of each action.
const FIRST: &[(&str, u32)] = &[
    ("Create", 103),
    ("Delete", 109),
    ("Pause", 115),
    ("Unpause", 121),
    ("Suspend", 127),
    ("Resume", 133),
    ("Start", 139),
    ("Stop", 145),
    ("Live-Migrate", 151),
    ("Cold-Migrate", 157),
    ("Cold-Migrate-Confirm", 163),
    ("Cold-Migrate-Revert", 169),
    ("Evacuate", 175),
    ("Reboot", 181),
    ("Rebuild", 187),
    ("Resize", 193),
    ("Resize-Confirm", 199),
    ("Resize-Revert", 205),
];

pub(crate) fn owner(server: &Server) -> &str {
    if server.doc.owner_name.is_empty() { &server.project_id } else { &server.doc.owner_name }
}

/// `instance N owned by T on host H`.
pub(crate) fn about(server: &Server) -> String {
    let owner = owner(server);
    let place = server.host.as_ref().map(|host| format!(" on host {host}")).unwrap_or_default();
    format!("instance {} owned by {owner}{place}", server.display_name)
}

pub(crate) fn because(reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!(", reason {}", reason.chars().take(255).collect::<String>()),
        None => String::new(),
    }
}

/// What the end of a migration or resize is called in logs, and how the guest is told of it.
pub(crate) fn ended_in(tx: &Tx, migration: &str, back: bool) -> Result<(&'static str, Event)> {
    let cold = migrations::migration_fetch_in(tx, migration)?.is_some_and(|m| m.kind == "migration");
    Ok(match (cold, back) {
        (true, false) => ("Cold-Migrate-Confirm", Event::ColdMigrateEnd),
        (true, true) => ("Cold-Migrate-Revert", Event::ColdMigrateEnd),
        (false, false) => ("Resize-Confirm", Event::ResizeEnd),
        (false, true) => ("Resize-Revert", Event::ResizeEnd),
    })
}

impl Compute {
    /// Logs that an action was asked for.
    pub(crate) fn vim_issued_in(&self, tx: &Tx, ctx: &Context, server: &Server, action: &str) -> Result<()> {
        let who = match server.doc.issuer {
            Issuer::Known => return Ok(()),
            Issuer::Guest => "the instance",
            Issuer::Caller if ctx.internal => "the system",
            Issuer::Caller => "tenant",
        };
        self.action_log_in(tx, server, action, 0, format!("{action} issued by {who} against {}", about(server)))
    }

    /// Logs that an action was asked for, and is begun: its operation is stored in this transaction.
    pub(crate) fn vim_begin_in(&self, tx: &Tx, ctx: &Context, server: &Server, action: &str) -> Result<()> {
        self.vim_issued_in(tx, ctx, server, action)?;
        self.vim_log_in(tx, server, action, Stage::Progress, None)
    }

    /// Logs how far an action is.
    pub(crate) fn vim_log_in(&self, tx: &Tx, server: &Server, action: &str, stage: Stage, reason: Option<&str>) -> Result<()> {
        let how = match stage {
            Stage::Progress => "in progress",
            Stage::Rejected => "rejected",
            Stage::Cancelled => "cancelled",
            Stage::Failed => "failed",
            Stage::Completed => "complete",
        };
        self.action_log_in(tx, server, action, stage as u32, format!("{action} {how} for {}{}", about(server), because(reason)))
    }

    fn action_log_in(&self, tx: &Tx, server: &Server, action: &str, offset: u32, text: String) -> Result<()> {
        match FIRST.iter().find(|(name, _)| *name == action) {
            Some((_, first)) => self.log_in(tx, server, first + offset, text),
            None => Ok(()),
        }
    }

    /// Logs that the instance has another name than before, if it has.
    pub(crate) fn vim_renamed_in(&self, tx: &Tx, server: &Server, before: &str) -> Result<()> {
        if server.display_name == before {
            return Ok(());
        }
        let old = about(&Server { display_name: before.into(), ..server.clone() });
        self.log_in(tx, server, 214, format!("Instance {} is now named {}", &old["instance ".len()..], server.display_name))
    }

    fn log_in(&self, tx: &Tx, server: &Server, number: u32, text: String) -> Result<()> {
        let mut log = Alarm::of_instance(&format!("700.{number}"), &server.project_id, &server.id, Severity::Critical, text, "");
        log.alarm_type = fault::AlarmType::Equipment;
        log.probable_cause = 75;
        log.service_affecting = false;
        self.faults.log_in(tx, &log)
    }

    /// The instance has failed: log and alarm. `recovering`: the host is at it.
    pub(crate) fn vim_failed_in(&self, tx: &Tx, server: &Server, reason: Option<&str>, recovering: bool) -> Result<()> {
        let about = about(server);
        self.log_in(tx, server, 102, format!("Instance {} failed{}", &about["instance ".len()..], because(reason)))?;
        let text = match (recovering, reason) {
            (false, Some(reason)) => format!("Instance {} has failed, recovery was given up: {reason}", &about["instance ".len()..]),
            _ => match &server.host {
                Some(host) => format!("Instance {} owned by {} has failed on host {host}", server.display_name, owner(server)),
                None => format!("Instance {} owned by {} has failed to schedule", server.display_name, owner(server)),
            },
        };
        let repair = if recovering { REPAIR_AUTO } else { REPAIR_MANUAL };
        let alarm = Alarm::of_instance(FAILED, &server.project_id, &server.id, Severity::Critical, text, repair);
        self.faults.alarm_set_in(tx, &alarm).map(drop)
    }

    /// The instance has failed again and again, and is tried no more.
    pub(crate) fn vim_exhausted_in(&self, tx: &Tx, server: &Server, reason: Option<&str>) -> Result<()> {
        let text = format!("Instance {} has failed, recovery exhausted{}", &about(server)["instance ".len()..], because(reason));
        let alarm = Alarm::of_instance(FAILED, &server.project_id, &server.id, Severity::Critical, text, REPAIR_MANUAL);
        self.faults.alarm_set_in(tx, &alarm).map(drop)
    }

    /// The instance is on its way to another host while it runs.
    pub(crate) fn vim_moving_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        if server.vm_state == vm::PAUSED {
            // One at a time, and that comes first.
            return Ok(());
        }
        let text = format!("Instance {} is live migrating", &about(server)["instance ".len()..]);
        let mut alarm = Alarm::of_instance(MOVING, &server.project_id, &server.id, Severity::Warning, text, REPAIR_MOVING);
        alarm.service_affecting = true;
        self.faults.alarm_set_in(tx, &alarm).map(drop)
    }

    /// It is there, or stays.
    pub(crate) fn vim_moving_over_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        self.faults.alarm_clear_in(tx, MOVING, &instance_entity(&server.project_id, &server.id)).map(drop)
    }

    /// The instance is well again: the alarm goes, and if there was one a log says so.
    pub(crate) fn vim_enabled_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        if self.faults.alarm_clear_in(tx, FAILED, &instance_entity(&server.project_id, &server.id))? {
            let about = about(server);
            self.log_in(tx, server, 101, format!("Instance {} is now enabled", &about["instance ".len()..]))?;
        }
        Ok(())
    }

    /// The instance is gone, and its alarm with it.
    pub(crate) fn vim_forget_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        self.vim_moving_over_in(tx, server)?;
        self.conditions_forget_in(tx, server)?;
        self.guest_heard_in(tx, server)?;
        let (this, id) = (self.clone(), server.id.clone());
        tx.after_commit(move || this.beats.gone(&id));
        self.faults.alarm_clear_in(tx, FAILED, &instance_entity(&server.project_id, &server.id)).map(drop)
    }
}
