//! The hardware monitor (maintenance specification, section 9): what BMCs measure, in groups, and what is done about it.

pub mod db;

use base::{Error, Result, Timestamp};
use bmc::Status;
use fault::{Alarm, Severity, Which};
use serde::{Deserialize, Serialize};
use store::Tx;

use crate::Inventory;
use crate::db as hosts;
use crate::db::Host;
use crate::hosts::entity;
use db::{Group, GroupDoc, Sensor, SensorDoc};

/// A sensor is out of its range; no sensors can be learned; they cannot be read.
const SENSOR: &str = "200.007";
const MODEL: &str = "200.014";
const READ: &str = "200.015";
/// Seconds between readings.
pub const INTERVAL: u32 = 120;
pub const SHORTEST: u32 = 10;
/// Readings in a row without a sensor until it counts, and that fail until that is told.
const MISSING: u32 = 3;
pub const FAILED: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Ignore,
    Log,
    Alarm,
    /// Of what is critical only, and of hosts in service only.
    Reset,
    PowerCycle,
}

/// All there are, with their words; those from the fourth on are for what is critical.
pub const ACTIONS: [(&str, Action); 5] = [
    ("ignore", Action::Ignore),
    ("log", Action::Log),
    ("alarm", Action::Alarm),
    ("reset", Action::Reset),
    ("power-cycle", Action::PowerCycle),
];

impl Action {
    pub fn word(self) -> &'static str {
        ACTIONS.iter().find(|(_, action)| *action == self).map_or("", |(word, _)| *word)
    }
    pub fn parse(word: &str) -> Option<Action> {
        // As some clients have it.
        let word = if word == "powercycle" { "power-cycle" } else { word };
        ACTIONS.iter().find(|(known, _)| *known == word).map(|(_, action)| *action)
    }
    /// It is done to the machine.
    fn is_drastic(self) -> bool {
        matches!(self, Action::Reset | Action::PowerCycle)
    }
}

/// What is done at which severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actions {
    pub minor: Action,
    pub major: Action,
    pub critical: Action,
}

impl Default for Actions {
    fn default() -> Actions {
        Actions { minor: Action::Ignore, major: Action::Log, critical: Action::Alarm }
    }
}

impl Actions {
    fn at(&self, status: Status) -> Option<Action> {
        match status {
            Status::Ok | Status::Offline => None,
            Status::Minor => Some(self.minor),
            Status::Major => Some(self.major),
            Status::Critical => Some(self.critical),
        }
    }
}

/// What is to be changed of a group.
#[derive(Clone, Debug, Default)]
pub struct GroupChange {
    pub disabled: Option<bool>,
    pub suppress: Option<bool>,
    pub interval: Option<u32>,
    pub minor: Option<Action>,
    pub major: Option<Action>,
    pub critical: Option<Action>,
}

fn severity(status: Status) -> Severity {
    match status {
        Status::Critical => Severity::Critical,
        Status::Major => Severity::Major,
        _ => Severity::Minor,
    }
}

/// How StarlingX calls the group of a quantity.
fn group_name(quantity: bmc::Quantity) -> &'static str {
    match quantity {
        bmc::Quantity::Temperature => "server temperature",
        bmc::Quantity::Fan => "server fans",
        bmc::Quantity::Voltage => "server voltage",
        bmc::Quantity::Power => "server power",
        bmc::Quantity::Usage => "server usage",
    }
}

impl Inventory {
    /// When a host's sensors are to be read again, from the last time on: the shortest of its groups' times. None: they are yet
    /// to be learned.
    pub fn sensors_interval_in(&self, tx: &Tx, host_id: &str) -> Result<Option<u32>> {
        if db::sensors_in(tx, Some(host_id))?.is_empty() {
            return Ok(None);
        }
        Ok(db::groups_in(tx, Some(host_id))?.iter().map(|group| group.doc.interval).min())
    }

    /// What a host's BMC measured. True: the machine is to be reset now.
    pub fn sensors_read_in(&self, tx: &Tx, host_id: &str, read: &[bmc::Sensor]) -> Result<bool> {
        let Some(host) = hosts::host_fetch_in(tx, host_id)?.filter(|h| !h.deleted && h.has_bmc()) else { return Ok(false) };
        let of = entity(&host.hostname);
        self.faults.alarm_clear_in(tx, READ, &of)?;
        if db::sensors_in(tx, Some(host_id))?.is_empty() {
            if read.is_empty() {
                let text = format!("{}: its board management controller (BMC) has no sensors that could be watched.", host.hostname);
                self.faults.alarm_set_in(tx, &Alarm::known(MODEL, of, Severity::Minor, text, "Check the board management controller."))?;
                return Ok(false);
            }
            learn_in(tx, host_id, read, db::groups_in(tx, Some(host_id))?)?;
        }
        self.faults.alarm_clear_in(tx, MODEL, &of)?;
        let groups = db::groups_in(tx, Some(host_id))?;
        let (mut reset, mut cycle) = (false, false);
        for mut sensor in db::sensors_in(tx, Some(host_id))? {
            let Some(group) = groups.iter().find(|group| group.uuid == sensor.group_id) else { continue };
            let before = sensor.doc.clone();
            take(&mut sensor.doc, read.iter().find(|r| r.name == sensor.name));
            let drastic = self.sensor_act_in(tx, &host, group, &mut sensor)?;
            reset |= drastic == Some(Action::Reset);
            cycle |= drastic == Some(Action::PowerCycle);
            if sensor.doc != before {
                db::sensor_put_in(tx, &mut sensor)?;
            }
        }
        self.sensors_degrade_in(tx, host)?;
        // What is off for a while needs no reset.
        let cycling = cycle && hosts::host_fetch_in(tx, host_id)?.map_or(Ok(false), |host| self.host_cycle_begin_in(tx, host))?;
        Ok(reset && !cycling)
    }

    /// Does what is to be done about a sensor's status; answers what is to be done to its machine, once for each time that it becomes so.
    fn sensor_act_in(&self, tx: &Tx, host: &Host, group: &Group, sensor: &mut Sensor) -> Result<Option<Action>> {
        let status = Status::parse(&sensor.doc.status);
        let action = group.doc.actions.at(status).filter(|_| is_heard(group, sensor));

        let at = format!("{}.sensor={}", entity(&host.hostname), sensor.name);
        if action == Some(Action::Alarm) {
            let text = format!("{}: sensor '{}' is {}", host.hostname, sensor.name, status.word());
            let repair = "If the problem persists, check the machine, or have it looked after.";
            self.faults.alarm_set_in(tx, &Alarm::known(SENSOR, at, severity(status), text, repair))?;
        } else {
            self.faults.alarm_clear_in(tx, SENSOR, &at)?;
        }
        if action == Some(Action::Log) && sensor.doc.acted != action {
            tracing::warn!(host = host.hostname, sensor = sensor.name, status = status.word(), "sensor");
        }
        if action.is_some_and(Action::is_drastic) && (host.operational() != "enabled" || !host.task.is_empty()) {
            // Until it is in service nothing is done to its machine; if it is critical then, that is its time.
            sensor.doc.acted = None;
            return Ok(None);
        }
        let drastic = action.filter(|action| action.is_drastic() && sensor.doc.acted != Some(*action));
        sensor.doc.acted = action;
        Ok(drastic)
    }

    /// A host one of whose sensors is alarming is degraded.
    fn sensors_degrade_in(&self, tx: &Tx, mut host: Host) -> Result<()> {
        let alarms = self.faults.alarms_in(tx, Which::IdUnder(SENSOR, &entity(&host.hostname)))?;
        let hot = alarms.iter().any(|active| active.alarm.severity >= Severity::Major);
        if host.hot != hot {
            host.hot = hot;
            hosts::host_put_in(tx, &mut host)?;
        }
        Ok(())
    }

    /// A host's sensors could not be read, so many times in a row.
    pub fn sensors_unread_in(&self, tx: &Tx, host_id: &str, times: u32, why: &str) -> Result<()> {
        let Some(host) = hosts::host_fetch_in(tx, host_id)?.filter(|h| !h.deleted && h.has_bmc() && times >= FAILED) else { return Ok(()) };
        let text = format!("{}: its sensors cannot be read: {why}", host.hostname);
        let repair = "Check the board management controller (BMC), and its address, user name and password.";
        self.faults.alarm_keep_in(tx, &Alarm::known(READ, entity(&host.hostname), Severity::Major, text, repair)).map(drop)
    }

    /// Forgets what is known of a host's sensors.
    pub(crate) fn sensors_forget_in(&self, tx: &Tx, host: &Host) -> Result<()> {
        db::sensors_forget_in(tx, &host.uuid)?;
        db::groups_forget_in(tx, &host.uuid)?;
        self.sensor_alarms_clear_in(tx, host)
    }

    fn sensor_alarms_clear_in(&self, tx: &Tx, host: &Host) -> Result<()> {
        for id in [SENSOR, MODEL, READ] {
            self.faults.clear_in(tx, Which::IdUnder(id, &entity(&host.hostname)))?;
        }
        Ok(())
    }

    /// Forgets a host's sensors, so that they are learned anew; how often they are read and what is done stays with each group.
    pub(crate) fn sensors_relearn_in(&self, tx: &Tx, mut host: Host) -> Result<()> {
        if !host.has_bmc() {
            return Err(Error::invalid(format!("Host {}: its board management controller (BMC) is not provisioned.", host.hostname)));
        }
        db::sensors_forget_in(tx, &host.uuid)?;
        self.sensor_alarms_clear_in(tx, &host)?;
        host.hot = false;
        hosts::host_put_in(tx, &mut host)
    }

    pub(crate) fn sensor_group_change_in(&self, tx: &Tx, uuid: &str, change: &GroupChange) -> Result<Group> {
        let missing = || Error::new(base::Kind::NotFound, format!("Sensor group {uuid} not found."));
        let mut group = db::group_in(tx, uuid)?.ok_or_else(missing)?;
        let doc = &mut group.doc;
        doc.disabled = change.disabled.unwrap_or(doc.disabled);
        doc.suppress = change.suppress.unwrap_or(doc.suppress);
        doc.interval = change.interval.unwrap_or(doc.interval);
        let actions = &mut doc.actions;
        actions.minor = change.minor.unwrap_or(actions.minor);
        actions.major = change.major.unwrap_or(actions.major);
        actions.critical = change.critical.unwrap_or(actions.critical);
        if actions.minor.is_drastic() || actions.major.is_drastic() {
            return Err(Error::invalid("Only what is critical can reset or power-cycle a host."));
        }
        let host = hosts::host_fetch_in(tx, &group.host_id)?;
        if actions.critical == Action::PowerCycle && host.as_ref().is_some_and(|host| host.personality == "controller") {
            return Err(Error::invalid("The controller's own host cannot be power-cycled: nobody would switch it on again."));
        }
        db::group_put_in(tx, &mut group)?;
        if let Some(host) = host {
            for mut sensor in db::sensors_in(tx, Some(&group.host_id))?.into_iter().filter(|sensor| sensor.group_id == group.uuid) {
                // What is critical already resets nothing: that is for when it becomes so.
                self.sensor_act_in(tx, &host, &group, &mut sensor)?;
                db::sensor_put_in(tx, &mut sensor)?;
            }
            self.sensors_degrade_in(tx, host)?;
        }
        Ok(group)
    }

    pub(crate) fn sensor_change_in(&self, tx: &Tx, uuid: &str, suppress: Option<bool>, disabled: Option<bool>) -> Result<Sensor> {
        let missing = || Error::new(base::Kind::NotFound, format!("Sensor {uuid} not found."));
        let mut sensor = db::sensor_in(tx, uuid)?.ok_or_else(missing)?;
        sensor.doc.suppress = suppress.unwrap_or(sensor.doc.suppress);
        sensor.doc.disabled = disabled.unwrap_or(sensor.doc.disabled);
        if let (Some(host), Some(group)) = (hosts::host_fetch_in(tx, &sensor.host_id)?, db::group_in(tx, &sensor.group_id)?) {
            self.sensor_act_in(tx, &host, &group, &mut sensor)?;
            db::sensor_put_in(tx, &mut sensor)?;
            self.sensors_degrade_in(tx, host)?;
        }
        Ok(sensor)
    }
}

/// Whether anything is done about a sensor.
fn is_heard(group: &Group, sensor: &Sensor) -> bool {
    let (group, sensor) = (&group.doc, &sensor.doc);
    !(group.suppress || group.disabled || sensor.suppress || sensor.disabled)
}

/// Whether a host has a sensor that is critical and asks for a power-cycle.
pub(crate) fn wants_cycle_in(tx: &Tx, host_id: &str) -> Result<bool> {
    let groups = db::groups_in(tx, Some(host_id))?;
    let wants = |sensor: &Sensor| {
        let group = groups.iter().find(|group| group.uuid == sensor.group_id && group.doc.actions.critical == Action::PowerCycle);
        Status::parse(&sensor.doc.status) == Status::Critical && group.is_some_and(|group| is_heard(group, sensor))
    };
    Ok(db::sensors_in(tx, Some(host_id))?.iter().any(wants))
}

/// Makes the model of a machine from what was read first, in the groups that there are, and new ones.
fn learn_in(tx: &Tx, host_id: &str, read: &[bmc::Sensor], mut groups: Vec<Group>) -> Result<()> {
    let now = Timestamp::now();
    for one in read {
        let name = group_name(one.quantity);
        let group_id = match groups.iter().find(|group| group.name == name) {
            Some(group) => group.uuid.clone(),
            None => {
                let mut group = Group {
                    uuid: base::id::uuid(),
                    host_id: host_id.into(),
                    name: name.into(),
                    created_at: now,
                    updated_at: now,
                    doc: GroupDoc { kind: one.quantity.word().into(), ..GroupDoc::default() },
                };
                db::group_put_in(tx, &mut group)?;
                groups.push(group.clone());
                group.uuid
            }
        };
        let limits = &one.thresholds;
        let mut sensor = Sensor {
            uuid: base::id::uuid(),
            host_id: host_id.into(),
            group_id,
            name: one.name.clone(),
            created_at: now,
            updated_at: now,
            doc: SensorDoc {
                kind: one.quantity.word().into(),
                unit: one.unit.clone(),
                // Nothing is said by the reading that it was learned by.
                status: Status::Ok.word().into(),
                thresholds: [
                    limits.lower_critical,
                    limits.lower_major,
                    limits.lower_minor,
                    limits.upper_minor,
                    limits.upper_major,
                    limits.upper_critical,
                ],
                ..SensorDoc::default()
            },
        };
        db::sensor_put_in(tx, &mut sensor)?;
    }
    Ok(())
}

/// Takes a reading: the first of another status is one to wait for the second.
fn take(doc: &mut SensorDoc, read: Option<&bmc::Sensor>) {
    doc.missing = if read.is_some() { 0 } else { doc.missing.saturating_add(1) };
    doc.reading = read.and_then(|read| read.reading);
    let now = match read {
        Some(read) => read.status.word(),
        None if doc.missing == MISSING => Status::Minor.word(),
        None => return,
    };
    if now == doc.status {
        doc.pending = None;
    } else if doc.pending.as_deref() == Some(now) || doc.missing > 0 {
        (doc.status, doc.pending) = (now.into(), None);
    } else {
        doc.pending = Some(now.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: Status) -> bmc::Sensor {
        let (name, unit) = ("x".to_string(), "RPM".to_string());
        bmc::Sensor { name, quantity: bmc::Quantity::Fan, reading: Some(1.0), unit, status, thresholds: bmc::Thresholds::default() }
    }

    #[test]
    fn one_reading_says_nothing_and_a_missing_sensor_counts_after_three() {
        let mut doc = SensorDoc { status: "ok".into(), ..SensorDoc::default() };
        take(&mut doc, Some(&read(Status::Critical)));
        assert_eq!(doc.status, "ok");
        take(&mut doc, Some(&read(Status::Ok)));
        take(&mut doc, Some(&read(Status::Critical)));
        assert_eq!(doc.status, "ok");
        take(&mut doc, Some(&read(Status::Critical)));
        assert_eq!(doc.status, "critical");
        for _ in 0..2 {
            take(&mut doc, Some(&read(Status::Ok)));
        }
        assert_eq!(doc.status, "ok");
        for _ in 0..MISSING - 1 {
            take(&mut doc, None);
            assert_eq!((doc.status.as_str(), doc.reading), ("ok", None));
        }
        take(&mut doc, None);
        assert_eq!(doc.status, "minor");
        for _ in 0..2 {
            take(&mut doc, Some(&read(Status::Ok)));
        }
        assert_eq!(doc.status, "ok");
    }
}
