//! What guests do, and what is done about it (guest specification, section 2.4).

use std::time::Duration;

use base::{Context, Result, Timestamp};
use fault::{Alarm, Severity, instance_entity};
use rpc::guest::{GuestEvent, Repair};
use store::Tx;

use crate::Compute;
use crate::db::servers::{self as db, Server};
use crate::servers::PowerAction;
use crate::spec;
use crate::states::vm;
use crate::vim::{Issuer, about, because};

/// A guest that should have a heartbeat has none.
const SILENT: &str = "700.015";
const REPAIR_SILENT: &str = "Verify the guest client is running in the instance and its configuration";
/// How often a guest is repaired within this time before it is left failed.
const REPAIRS: (usize, Duration) = (5, Duration::from_secs(3600));

impl Compute {
    pub(crate) fn guest_event_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, idle: bool, event: &GuestEvent) -> Result<()> {
        let log = |id: &str, severity, word: &str, why: Option<&str>| {
            let text = format!("Guest heartbeat {word} for {}{}", about(server), because(why));
            self.faults.log_in(tx, &Alarm::of_instance(id, &server.project_id, &server.id, severity, text, ""))
        };
        let (repair, why) = match event {
            GuestEvent::Established => {
                log("700.211", Severity::Major, "established", None)?;
                return self.guest_heard_in(tx, server);
            }
            GuestEvent::Disconnected { reason } => return log("700.212", Severity::Major, "disconnected", some(reason)),
            GuestEvent::Lost { repair } => {
                log("700.213", Severity::Critical, "failed", None)?;
                (*repair, "the guest's heartbeat failed".to_string())
            }
            GuestEvent::Unhealthy { repair, reason } => {
                log("700.215", Severity::Critical, "health check failed", some(reason))?;
                (*repair, format!("the guest is not well{}", because(some(reason))))
            }
        };
        // What an operation is at, it has told the guest of; a guest that is asked has its say yet.
        if !idle || server.doc.gate.is_some() || server.vm_state != vm::ACTIVE || !spec::heartbeat(server) {
            return Ok(());
        }
        let action = match repair {
            Repair::None | Repair::Log => return Ok(()),
            Repair::Reboot => PowerAction::RebootSoft,
            Repair::Stop => PowerAction::Stop,
        };
        let now = Timestamp::now();
        server.doc.repairs.retain(|at| now.since(*at) < REPAIRS.1);
        if !spec::recovery(server, self.recovery).auto {
            return self.guest_failed_in(tx, server, &why);
        }
        if server.doc.repairs.len() >= REPAIRS.0 {
            return self.guest_failed_in(tx, server, &format!("{why}; recovery exhausted"));
        }
        server.doc.repairs.push(now);
        server.doc.issuer = Issuer::Guest;
        tracing::warn!(server = server.id, ?action, "{why}");
        self.power_begin_in(tx, ctx, server, action, None, None)
    }

    /// It stays failed until somebody starts it again: its process runs, so its host knows nothing of it.
    fn guest_failed_in(&self, tx: &Tx, server: &mut Server, why: &str) -> Result<()> {
        server.vm_state = vm::ERROR.into();
        server.doc.held_failed = false;
        db::server_update_in(tx, server)?;
        db::fault_put_in(tx, &server.id, 500, why, "")?;
        self.vim_failed_in(tx, server, Some(why), false)
    }

    /// It should have a heartbeat, and has had none for long.
    pub(crate) fn guest_silent_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        let text = format!("Guest heartbeat not established for {}", about(server));
        let alarm = Alarm::of_instance(SILENT, &server.project_id, &server.id, Severity::Major, text, REPAIR_SILENT);
        self.faults.alarm_set_in(tx, &alarm).map(drop)
    }

    /// It has one, or needs none.
    pub(crate) fn guest_heard_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        self.faults.alarm_clear_in(tx, SILENT, &instance_entity(&server.project_id, &server.id)).map(drop)
    }
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
