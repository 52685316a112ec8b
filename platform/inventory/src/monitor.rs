//! What hosts' monitors see (maintenance specification, sections 7 and 8): each thing that is not well is an alarm as long as the
//! host says so, and makes it degraded or failed.

use std::time::Duration;

use base::{Result, Timestamp};
use fault::{Alarm, Severity, Which};
use rpc::monitor::{Condition, Level, MonitorReport};
use store::Tx;

use crate::Inventory;
use crate::db::{self, Host};
use crate::hosts::entity;
use crate::out_of_service::LEFT;

/// What a host may say of itself.
const ALARMS: [&str; 12] =
    ["100.101", "100.103", "100.104", "100.106", "100.107", "100.108", "100.109", "100.110", "100.111", CLOCK, "100.119", "200.006"];
/// More at once are not taken from one host.
const MOST: usize = 200;
/// The compute function of the only controller is broken.
const FUNCTION: &str = "200.013";
/// No usable time, and below the host what that is of.
const CLOCK: &str = "100.114";
const NTP: &str = "ntp";
/// How far a host's clock may be from ours, what it took to say so included, and how often in a row until that is told.
const APART: Duration = Duration::from_secs(5);
const TIMES: u32 = 3;

fn severity(level: Level) -> Severity {
    match level {
        Level::Minor => Severity::Minor,
        Level::Major => Severity::Major,
        Level::Critical => Severity::Critical,
    }
}

/// How to repair it.
fn repair(alarm_id: &str) -> &'static str {
    match alarm_id {
        "100.101" | "100.103" => "Move instances to other hosts, or look for what else takes it.",
        "100.104" => "Remove files that are no longer needed, or give the filesystem more room.",
        CLOCK | "100.119" => "Check the servers of time and the ways to them, and that all machines have theirs from the same ones.",
        "100.106" | "100.107" | "100.108" | "100.109" | "100.110" | "100.111" => "Check the cable and the switch.",
        _ => "If it does not come back by itself, lock and unlock the host.",
    }
}

fn alarm(host: &Host, condition: &Condition) -> Option<Alarm> {
    let plain = condition.entity.len() <= 150 && !condition.entity.chars().any(char::is_control);
    if !ALARMS.contains(&condition.alarm_id.as_str()) || !plain {
        return None;
    }
    let of = match condition.entity.as_str() {
        "" => entity(&host.hostname),
        below => format!("{}.{below}", entity(&host.hostname)),
    };
    let text = format!("{}: {}", host.hostname, condition.reason);
    Some(Alarm::known(&condition.alarm_id, of, severity(condition.level), text, repair(&condition.alarm_id)))
}

impl Inventory {
    pub(crate) async fn host_monitored(&self, id: &str, report: &MonitorReport) -> Result<()> {
        let apart = Timestamp::now().since(report.clock).max(report.clock.since(Timestamp::now()));
        let wrong = self.clocks.take(id, apart > APART);
        if let Some(host) = self.core.store.read(|tx| db::host_fetch_in(tx, id)).await?.filter(|host| !host.deleted) {
            self.dropped.take(id, &host.hostname, &report.dropped);
        }
        let (this, id, mut conditions) = (self.clone(), id.to_string(), report.conditions.clone());
        if wrong >= TIMES {
            // Whatever its time service says of itself.
            conditions.retain(|known| (known.alarm_id.as_str(), known.entity.as_str()) != (CLOCK, NTP));
            conditions.insert(0, clock_wrong());
        }
        if !self.core.store.read(|tx| self.host_differs_in(tx, &id, &conditions)).await? {
            return Ok(());
        }
        self.core.store.write(move |tx| this.host_conditions_in(tx, &id, &conditions)).await
    }

    /// The alarms that a host's monitors may have set.
    fn monitored_in(&self, tx: &Tx, host: &Host) -> Result<Vec<fault::Active>> {
        let mut all = Vec::new();
        for id in ALARMS {
            all.extend(self.faults.alarms_in(tx, Which::IdUnder(id, &entity(&host.hostname)))?);
        }
        Ok(all)
    }

    /// Most reports say what is known.
    fn host_differs_in(&self, tx: &Tx, id: &str, conditions: &[Condition]) -> Result<bool> {
        let Some(host) = db::host_fetch_in(tx, id)?.filter(|h| !h.deleted) else { return Ok(false) };
        let wanted: Vec<Alarm> = conditions.iter().take(MOST).filter_map(|condition| alarm(&host, condition)).collect();
        let known = self.monitored_in(tx, &host)?;
        let same = |wanted: &Alarm| {
            known.iter().any(|k| {
                let of = |a: &Alarm| (a.alarm_id.clone(), a.entity_instance_id.clone(), a.severity, a.reason_text.clone());
                of(&k.alarm) == of(wanted)
            })
        };
        let flags = flags(conditions.iter().take(MOST).filter(|condition| alarm(&host, condition).is_some()));
        Ok(known.len() != wanted.len() || (host.degraded, host.failed) != flags || !wanted.iter().all(same))
    }

    /// Takes all that a host's monitors see: sets what is new, and clears what is no longer so.
    pub fn host_conditions_in(&self, tx: &Tx, id: &str, conditions: &[Condition]) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(|h| !h.deleted) else { return Ok(()) };
        let taken: Vec<(&Condition, Alarm)> = conditions.iter().take(MOST).filter_map(|c| Some((c, alarm(&host, c)?))).collect();
        for known in self.monitored_in(tx, &host)? {
            let known = known.alarm;
            let stays = taken.iter().any(|(_, a)| (&a.alarm_id, &a.entity_instance_id) == (&known.alarm_id, &known.entity_instance_id));
            if !stays {
                self.faults.alarm_clear_in(tx, &known.alarm_id, &known.entity_instance_id)?;
            }
        }
        for (_, alarm) in &taken {
            self.faults.alarm_set_in(tx, alarm)?;
        }
        let (degraded, failed) = flags(taken.iter().map(|(condition, _)| *condition));
        self.host_function_in(tx, &host, failed)?;
        if (host.degraded, host.failed) == (degraded, failed) {
            return Ok(());
        }
        let opens = host.failed != failed;
        (host.degraded, host.failed) = (degraded, failed);
        if opens && !failed && host.progress.contains(LEFT) {
            host.progress.clear();
        }
        db::host_put_in(tx, &mut host)?;
        if opens { self.host_open_in(tx, &host) } else { Ok(()) }
    }

    /// A controller whose host can have no guests is in service all the same: there is no other.
    fn host_function_in(&self, tx: &Tx, host: &Host, failed: bool) -> Result<()> {
        let (name, of) = (&host.hostname, entity(&host.hostname));
        if !failed || host.personality != "controller" {
            return self.faults.alarm_clear_in(tx, FUNCTION, &of).map(drop);
        }
        let text =
            format!("{name}: what its guests need has failed, and there is no other controller; it takes no new guests, and is degraded.");
        let repair = "Mend what the other alarms of the host tell of; if it does not come back by itself, lock and unlock the host.";
        self.faults.alarm_keep_in(tx, &Alarm::known(FUNCTION, of, Severity::Major, text, repair)).map(drop)
    }
}

/// A clock that is far from the controller's. It is said once: how far tells nothing more.
fn clock_wrong() -> Condition {
    let reason = format!("its clock and the controller's are more than {} s apart", APART.as_secs());
    Condition { alarm_id: CLOCK.into(), entity: NTP.into(), level: Level::Major, reason, degrades: false, fails: false }
}

/// Whether the host is degraded, and out of service, by any of these.
fn flags<'a>(conditions: impl Iterator<Item = &'a Condition>) -> (bool, bool) {
    conditions.fold((false, false), |(degraded, failed), condition| (degraded || condition.degrades, failed || condition.fails))
}
