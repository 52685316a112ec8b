//! What servers are in besides running, each with its alarm (VIM specification, section 5): the alarm follows from the state
//! alone, so one that a crash has kept from being set or cleared is put right by whoever looks next.

use base::Result;
use fault::{Alarm, Severity, instance_entity};
use store::Tx;

use crate::Compute;
use crate::db::migrations;
use crate::db::servers::{self as db, Server};
use crate::states::{task, vm};
use crate::vim::{FAILED, owner};

/// What a server is in, and how its alarm has it.
#[derive(Debug, PartialEq)]
pub struct Condition {
    pub alarm: &'static str,
    says: &'static str,
    place: Place,
    repair: &'static str,
}

/// How its host is named.
#[derive(Debug, PartialEq)]
enum Place {
    On,
    From,
    To,
}

const fn condition(alarm: &'static str, says: &'static str, place: Place, repair: &'static str) -> Condition {
    Condition { alarm, says, place, repair }
}

pub const PAUSED: Condition = condition("700.002", "is paused", Place::On, "Unpause the instance");
const SUSPENDED: Condition = condition("700.003", "is suspended", Place::On, "Resume the instance");
const STOPPED: Condition = condition("700.004", "is stopped", Place::On, "Start the instance");
const REBOOTING: Condition =
    condition("700.005", "is rebooting", Place::On, "Wait for the reboot to complete; if the problem persists, contact support");
const REBUILDING: Condition =
    condition("700.006", "is rebuilding", Place::On, "Wait for the rebuild to complete; if the problem persists, contact support");
const EVACUATING: Condition =
    condition("700.007", "is evacuating", Place::From, "Wait for the evacuation to complete; if the problem persists, contact support");
const COLD_MIGRATING: Condition =
    condition("700.009", "is cold migrating", Place::From, "Wait for the migration to complete; if the problem persists, contact support");
const COLD_MIGRATED: Condition =
    condition("700.010", "has been cold-migrated, waiting for confirmation,", Place::To, "Confirm or revert the migration of the instance");
const COLD_REVERTING: Condition = condition(
    "700.011",
    "is reverting its cold migration",
    Place::On,
    "Wait for the revert to complete; if the problem persists, contact support",
);
const RESIZING: Condition =
    condition("700.012", "is resizing", Place::On, "Wait for the resize to complete; if the problem persists, contact support");
const RESIZED: Condition =
    condition("700.013", "has been resized, waiting for confirmation,", Place::On, "Confirm or revert the resize of the instance");
const RESIZE_REVERTING: Condition =
    condition("700.014", "is reverting its resize", Place::On, "Wait for the revert to complete; if the problem persists, contact support");

pub const ALL: [&Condition; 12] = [
    &PAUSED,
    &SUSPENDED,
    &STOPPED,
    &REBOOTING,
    &REBUILDING,
    &EVACUATING,
    &COLD_MIGRATING,
    &COLD_MIGRATED,
    &COLD_REVERTING,
    &RESIZING,
    &RESIZED,
    &RESIZE_REVERTING,
];

/// The conditions that states leave open, of which the server's migrations tell the one; none: it has no alarm of these. One at a time:
/// what the server is comes before what is done with it.
pub fn candidates(vm_state: &str, task_state: Option<&str>) -> &'static [&'static Condition] {
    match (vm_state, task_state) {
        (vm::STOPPED, _) => &[&STOPPED],
        (vm::PAUSED, _) => &[&PAUSED],
        (vm::SUSPENDED, _) => &[&SUSPENDED],
        (_, Some(task::REBOOTING | task::REBOOTING_HARD)) => &[&REBOOTING],
        (_, Some(task::REBUILDING)) => &[&REBUILDING, &EVACUATING],
        (_, Some(task::RESIZE_PREP | task::RESIZE_MIGRATING)) => &[&COLD_MIGRATING, &RESIZING],
        (_, Some(task::RESIZE_REVERTING)) => &[&COLD_REVERTING, &RESIZE_REVERTING],
        (vm::RESIZED, _) => &[&COLD_MIGRATED, &RESIZED],
        _ => &[],
    }
}

/// A server, the one of these alarms that it should have, and those it has.
struct Compared {
    server: Server,
    wanted: Option<&'static Condition>,
    present: Vec<&'static str>,
}

impl Compute {
    /// What a server is in now. While it counts as failed that is its alarm.
    fn condition_in(&self, tx: &Tx, server: &Server) -> Result<Option<&'static Condition>> {
        let entity = instance_entity(&server.project_id, &server.id);
        let candidates = if server.deleted { &[] } else { candidates(&server.vm_state, server.task_state.as_deref()) };
        let (first, second) = match candidates {
            [] => return Ok(None),
            _ if self.faults.alarm_is_set_in(tx, FAILED, &entity)? => return Ok(None),
            [only] => return Ok(Some(only)),
            [first, second, ..] => (*first, *second),
        };
        // The first of each two is the rarer: it has a migration of its kind.
        let is_first = if *first == REBUILDING {
            !migrations::is_evacuating_in(tx, &server.id)?
        } else {
            migrations::last_move_in(tx, &server.id)?.is_some_and(|kind| kind == "migration")
        };
        Ok(Some(if is_first { first } else { second }))
    }

    /// One that is paused not long enough is to have none.
    fn compare_in(&self, tx: &Tx, id: &str, paused_long: bool) -> Result<Option<Compared>> {
        let Some(server) = db::server_fetch_in(tx, id, true)? else { return Ok(None) };
        let entity = instance_entity(&server.project_id, &server.id);
        let mut present = Vec::new();
        for condition in ALL {
            if self.faults.alarm_is_set_in(tx, condition.alarm, &entity)? {
                present.push(condition.alarm);
            }
        }
        let wanted = self.condition_in(tx, &server)?;
        let wanted = wanted.filter(|c| **c != PAUSED || paused_long || present.contains(&PAUSED.alarm));
        Ok(Some(Compared { server, wanted, present }))
    }

    /// Sees to it that a server has the alarm of what it is in, and no other of these; answers which one it has.
    pub(crate) async fn condition_align(&self, id: &str, paused_long: bool) -> Result<Option<&'static str>> {
        let Some(found) = self.core.store.read(|tx| self.compare_in(tx, id, paused_long)).await? else { return Ok(None) };
        let wanted = found.wanted.map(|c| c.alarm);
        if found.present == wanted.as_slice() {
            return Ok(wanted);
        }
        let (this, id) = (self.clone(), id.to_string());
        self.core
            .store
            .write(move |tx| {
                let Some(Compared { server, wanted, present }) = this.compare_in(tx, &id, paused_long)? else { return Ok(None) };
                let entity = instance_entity(&server.project_id, &server.id);
                for alarm in present.iter().filter(|alarm| wanted.is_none_or(|c| c.alarm != **alarm)) {
                    this.faults.alarm_clear_in(tx, alarm, &entity)?;
                }
                if let Some(condition) = wanted.filter(|c| !present.contains(&c.alarm)) {
                    this.faults.alarm_set_in(tx, &alarm_of(condition, &server))?;
                }
                Ok(wanted.map(|c| c.alarm))
            })
            .await
    }

    /// The server is gone, and what it was in.
    pub(crate) fn conditions_forget_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        let entity = instance_entity(&server.project_id, &server.id);
        for condition in ALL {
            if self.faults.alarm_is_set_in(tx, condition.alarm, &entity)? {
                self.faults.alarm_clear_in(tx, condition.alarm, &entity)?;
            }
        }
        Ok(())
    }
}

fn alarm_of(condition: &Condition, server: &Server) -> Alarm {
    let mut text = format!("Instance {} owned by {} {}", server.display_name, owner(server), condition.says);
    if let Some(host) = &server.host {
        text += match condition.place {
            Place::On => " on host ",
            Place::From => " from host ",
            Place::To => " to host ",
        };
        text += host;
    }
    if *condition == PAUSED && !server.doc.stopped_because.is_empty() {
        text += ": ";
        text += &server.doc.stopped_because;
    }
    Alarm::of_instance(condition.alarm, &server.project_id, &server.id, Severity::Critical, text, condition.repair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_comes_before_what_is_done_with_it() {
        let of = |vm: &str, task: Option<&str>| candidates(vm, task).iter().map(|c| c.alarm).collect::<Vec<_>>();
        assert!(of(vm::ACTIVE, None).is_empty() && of(vm::ERROR, None).is_empty() && of(vm::ACTIVE, Some(task::POWERING_OFF)).is_empty());
        assert_eq!((of(vm::STOPPED, Some(task::RESIZE_PREP)), of(vm::PAUSED, Some(task::MIGRATING))), (vec!["700.004"], vec!["700.002"]));
        assert_eq!((of(vm::ERROR, Some(task::REBOOTING_HARD)), of(vm::SUSPENDED, None)), (vec!["700.005"], vec!["700.003"]));
        assert_eq!(
            (of(vm::ACTIVE, Some(task::REBUILDING)), of(vm::RESIZED, None)),
            (vec!["700.006", "700.007"], vec!["700.010", "700.013"])
        );
        assert_eq!(of(vm::RESIZED, Some(task::RESIZE_REVERTING)), vec!["700.011", "700.014"]);
        assert_eq!(of(vm::ACTIVE, Some(task::RESIZE_MIGRATING)), vec!["700.009", "700.012"]);
    }

    #[test]
    fn they_are_those_of_the_catalogue() {
        for condition in ALL {
            let known = fault::catalogue::known(condition.alarm).unwrap();
            assert!(known.is_alarm && known.severities == [Severity::Critical], "{}", condition.alarm);
        }
        let ids: Vec<_> = ALL.iter().map(|c| c.alarm).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }
}
