//! Setting, clearing and logging: each in the caller's transaction, the alarm, its event log row and its entry in the outbox
//! together.

use base::{Context, Result, Timestamp};
use events::Event;
use serde_json::json;
use store::{Row, Tx, escape_like, params};

use crate::alarm::{Alarm, AlarmType, Severity, cause_number, covers};
use crate::flap::{Hold, renewed_in};
use crate::suppression::hidden_in;
use crate::{Faults, catalogue};

/// What the outbox calls these events.
pub const EVENTS: &str = "fault.";
/// One for a whole tree of entities, besides the clear event of each alarm.
pub const HIERARCHICAL: &str = "fault.hierarchical_clear";

const HIERARCHICAL_TEXT: &str = "System initiated hierarchical alarm clear";

/// An alarm that is set.
#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    pub uuid: String,
    pub alarm: Alarm,
    pub masked: bool,
}

/// How a client's alarm is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    /// The uuid of the alarm if it is new, when it is one.
    pub uuid: String,
    /// What is there stays as it is.
    pub keep_existing: bool,
}

/// Which alarms are meant.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    Uuid(&'a str),
    Id(&'a str),
    Entity(&'a str),
    Key(&'a str, &'a str),
    /// Those of an entity and of what lies below it.
    Under(&'a str),
    /// The same, of one id.
    IdUnder(&'a str, &'a str),
}

/// How alarms are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clearing {
    /// One that comes and goes too often stays for now.
    Damped,
    /// For good, also one that was held.
    Final,
    /// The same, and a trap tells of the whole tree.
    Tree,
}

/// An event as it goes to the log and the outbox.
pub(crate) struct Logged {
    pub state: &'static str,
    pub alarm_uuid: String,
    pub alarm: Alarm,
    pub at: Timestamp,
    pub masked: bool,
    /// A trap tells of the whole tree.
    pub hierarchical: bool,
}

impl Faults {
    /// Sets an alarm of ours, or renews the one with the same id and entity. A repeat that changes nothing only renews
    /// the time: no event is logged. Returns the alarm's uuid.
    pub fn alarm_set_in(&self, tx: &Tx, alarm: &Alarm) -> Result<String> {
        self.set_in(tx, alarm.clone().catalogued(), &Setting::default())
    }

    /// As [`Faults::alarm_set_in`], but an alarm that is set stays exactly as it is.
    pub fn alarm_keep_in(&self, tx: &Tx, alarm: &Alarm) -> Result<String> {
        self.set_in(tx, alarm.clone().catalogued(), &Setting { keep_existing: true, ..Setting::default() })
    }

    /// Clears the alarm with exactly this id and entity; says whether there was one.
    pub fn alarm_clear_in(&self, tx: &Tx, alarm_id: &str, entity_instance_id: &str) -> Result<bool> {
        Ok(self.clear_in(tx, Which::Key(alarm_id, entity_instance_id))? > 0)
    }

    /// Clears every alarm of an entity and of what lies below it; says how many there were.
    pub fn alarms_clear_under_in(&self, tx: &Tx, entity_instance_id: &str) -> Result<usize> {
        let count = self.take_in(tx, Which::Under(entity_instance_id), Clearing::Tree)?;
        if count > 0 {
            let (payload, at) = (entity_instance_id.to_string(), Timestamp::now().iso_micros());
            let payload = json!({"entity_instance_id": payload, "reason_text": HIERARCHICAL_TEXT, "timestamp": at, "state": "clear"});
            let event = Event::new(HIERARCHICAL, entity_instance_id, &Context::default()).payload(payload);
            // In its turn behind the clears, which are recorded as late.
            tx.before_commit(move |tx| events::record(tx, &event).map(drop));
            self.wake_in(tx);
        }
        Ok(count)
    }

    /// Writes a log of ours: an event that is no condition and so never cleared.
    pub fn log_in(&self, tx: &Tx, entry: &Alarm) -> Result<()> {
        self.message_in(tx, entry.clone().catalogued())
    }

    /// An alarm as a client describes it.
    pub(crate) fn set_in(&self, tx: &Tx, alarm: Alarm, how: &Setting) -> Result<String> {
        alarm.check()?;
        let alarm = alarm.trimmed();
        let now = Timestamp::now();
        let at = alarm.timestamp.unwrap_or(now);
        if catalogue::known(&alarm.alarm_id).is_none() {
            tracing::warn!(alarm_id = alarm.alarm_id, "an alarm that the catalogue does not know");
        }
        let sql = format!("SELECT {COLUMNS}, {} FROM alarm WHERE alarm_id = ?1 AND entity_instance_id = ?2", Hold::COLUMNS);
        let present =
            tx.query_opt(&sql, params![alarm.alarm_id, alarm.entity_instance_id], |row| Ok((active(row)?, Hold::read(row, 14)?)))?;
        if let Some((present, hold)) = present {
            if !how.keep_existing || hold.as_ref().is_some_and(|hold| hold.cleared) {
                self.renew_in(tx, &present, hold, alarm, at, now)?;
            }
            return Ok(present.uuid);
        }
        let uuid = fresh_uuid(tx, &how.uuid)?;
        let masked = alarm.suppression && inhibited(tx, &alarm)?;
        tx.lock("fault-alarm")?;
        tx.execute(
            "INSERT INTO alarm (id, uuid, alarm_id, entity_type_id, entity_instance_id, raised_at, severity, alarm_type, probable_cause, reason_text,
                 proposed_repair_action, service_affecting, suppression, inhibit_alarms, masked, created_at, updated_at)
             VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM alarm), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?15)",
            params![
                uuid,
                alarm.alarm_id,
                alarm.entity_type_id,
                alarm.entity_instance_id,
                at,
                alarm.severity as i64,
                alarm.alarm_type.word(),
                alarm.cause(),
                alarm.reason_text,
                alarm.proposed_repair_action,
                alarm.service_affecting,
                alarm.suppression,
                alarm.inhibit_alarms,
                masked,
                now
            ],
        )?;
        if alarm.inhibit_alarms {
            remask(tx)?;
        }
        self.logged_in(tx, Logged { state: "set", alarm_uuid: uuid.clone(), alarm, at, masked, hierarchical: false });
        Ok(uuid)
    }

    /// Sets an alarm that is set already. It keeps its uuid: who has it from a list can still use it.
    fn renew_in(&self, tx: &Tx, present: &Active, hold: Option<Hold>, alarm: Alarm, at: Timestamp, now: Timestamp) -> Result<()> {
        let same = Alarm { timestamp: None, ..present.alarm.clone() } == Alarm { timestamp: None, ..alarm.clone() };
        if same && !hold.as_ref().is_some_and(|hold| hold.cleared) {
            return tx
                .execute("UPDATE alarm SET raised_at = ?2, updated_at = ?3 WHERE uuid = ?1", params![present.uuid, at, now])
                .map(drop);
        }
        let masked = alarm.suppression && inhibited(tx, &alarm)?;
        tx.execute(
            "UPDATE alarm SET entity_type_id = ?2, raised_at = ?3, severity = ?4, alarm_type = ?5, probable_cause = ?6, reason_text = ?7,
                 proposed_repair_action = ?8, service_affecting = ?9, suppression = ?10, inhibit_alarms = ?11, masked = ?12, updated_at = ?13
             WHERE uuid = ?1",
            params![
                present.uuid,
                alarm.entity_type_id,
                at,
                alarm.severity as i64,
                alarm.alarm_type.word(),
                alarm.cause(),
                alarm.reason_text,
                alarm.proposed_repair_action,
                alarm.service_affecting,
                alarm.suppression,
                alarm.inhibit_alarms,
                masked,
                now
            ],
        )?;
        if alarm.inhibit_alarms || present.alarm.inhibit_alarms {
            remask(tx)?;
        }
        let told = hold.map_or(Ok(true), |hold| renewed_in(tx, &present.uuid, &hold, alarm.severity, now))?;
        if told {
            self.logged_in(tx, Logged { state: "set", alarm_uuid: present.uuid.clone(), alarm, at, masked, hierarchical: false });
        }
        Ok(())
    }

    /// Alarms that are set, masked and suppressed ones too, in the order in which they were raised first.
    pub fn alarms_in(&self, tx: &Tx, which: Which) -> Result<Vec<Active>> {
        alarms_in(tx, which)
    }

    /// The entities on which an alarm is set, and nothing else of it: cheap, however many they are.
    pub fn alarm_entities_in(&self, tx: &Tx, alarm_id: &str) -> Result<Vec<String>> {
        let sql = "SELECT entity_instance_id FROM alarm WHERE alarm_id = ?1 AND cleared = 0 ORDER BY entity_instance_id";
        tx.query(sql, params![alarm_id], |row| row.text(0))
    }

    /// Whether the alarm with exactly this id and entity is set.
    pub fn alarm_is_set_in(&self, tx: &Tx, alarm_id: &str, entity_instance_id: &str) -> Result<bool> {
        let sql = "SELECT 1 FROM alarm WHERE alarm_id = ?1 AND entity_instance_id = ?2 AND cleared = 0";
        Ok(tx.query_opt(sql, params![alarm_id, entity_instance_id], |_| Ok(()))?.is_some())
    }

    /// Clears what is meant; says how many there were. One that comes and goes too often is counted, and held set for now.
    pub fn clear_in(&self, tx: &Tx, which: Which) -> Result<usize> {
        self.take_in(tx, which, Clearing::Damped)
    }

    pub(crate) fn take_in(&self, tx: &Tx, which: Which, how: Clearing) -> Result<usize> {
        let (found, at) = (if how == Clearing::Damped { alarms_in(tx, which)? } else { rows_in(tx, which)? }, Timestamp::now());
        let (count, mut cleared) = (found.len(), Vec::with_capacity(found.len()));
        for active in found {
            if how == Clearing::Damped && self.holds_in(tx, &active, at)? {
                continue;
            }
            tx.execute("DELETE FROM alarm WHERE uuid = ?1", params![active.uuid])?;
            cleared.push(active);
        }
        if cleared.iter().any(|active| active.alarm.inhibit_alarms) {
            remask(tx)?;
        }
        let hierarchical = how == Clearing::Tree;
        for Active { uuid, alarm, masked } in cleared {
            self.logged_in(tx, Logged { state: "clear", alarm_uuid: uuid, alarm, at, masked, hierarchical });
        }
        Ok(count)
    }

    /// A log as a client describes it.
    pub(crate) fn message_in(&self, tx: &Tx, entry: Alarm) -> Result<()> {
        entry.check()?;
        let alarm = entry.trimmed();
        let at = alarm.timestamp.unwrap_or_else(Timestamp::now);
        self.logged_in(tx, Logged { state: "log", alarm_uuid: String::new(), alarm, at, masked: false, hierarchical: false });
        Ok(())
    }

    /// The log's row is written as the last thing of the transaction, and in the order of the outbox: its number comes after the
    /// outbox's counter is locked, so nobody waits longer than a commit takes, and there is one order of locks.
    pub(crate) fn logged_in(&self, tx: &Tx, logged: Logged) {
        let size = self.log_size;
        tx.before_commit(move |tx| log(tx, &logged, size));
        self.wake_in(tx);
    }
}

/// The uuid a client wants, if it is one and free; else a new one.
fn fresh_uuid(tx: &Tx, wanted: &str) -> Result<String> {
    let good = wanted.len() == 36 && base::id::is_uuid(wanted);
    let free = good && tx.query_opt("SELECT id FROM alarm WHERE uuid = ?1", params![wanted], |row| row.int(0))?.is_none();
    Ok(if free { wanted.to_string() } else { base::id::uuid() })
}

/// The columns [`active`] reads.
const COLUMNS: &str = "uuid, alarm_id, entity_type_id, entity_instance_id, raised_at, severity, alarm_type, probable_cause, reason_text, \
     proposed_repair_action, service_affecting, suppression, inhibit_alarms, masked";

fn active(row: &Row) -> Result<Active> {
    Ok(Active {
        uuid: row.text(0)?,
        alarm: Alarm {
            alarm_id: row.text(1)?,
            entity_type_id: row.text(2)?,
            entity_instance_id: row.text(3)?,
            timestamp: Some(row.time(4)?),
            severity: Severity::from_number(row.int(5)?),
            alarm_type: AlarmType::parse(&row.text(6)?).unwrap_or(AlarmType::Other),
            probable_cause: cause_number(&row.text(7)?),
            reason_text: row.text(8)?,
            proposed_repair_action: row.text(9)?,
            service_affecting: row.flag(10)?,
            suppression: row.flag(11)?,
            inhibit_alarms: row.flag(12)?,
        },
        masked: row.flag(13)?,
    })
}

/// Alarms that are set. One that is only held so is none of them.
pub(crate) fn alarms_in(tx: &Tx, which: Which) -> Result<Vec<Active>> {
    found_in(tx, which, "cleared = 0")
}

/// Those that are only held set, too.
pub(crate) fn rows_in(tx: &Tx, which: Which) -> Result<Vec<Active>> {
    found_in(tx, which, "1 = 1")
}

fn found_in(tx: &Tx, which: Which, also: &str) -> Result<Vec<Active>> {
    let (condition, values) = match which {
        Which::Uuid(uuid) => ("uuid = ?1", params![uuid].to_vec()),
        Which::Id(id) => ("alarm_id = ?1", params![id].to_vec()),
        Which::Entity(entity) => ("entity_instance_id = ?1", params![entity].to_vec()),
        Which::Key(id, entity) => ("alarm_id = ?1 AND entity_instance_id = ?2", params![id, entity].to_vec()),
        Which::Under(entity) => ("entity_instance_id LIKE ?1 ESCAPE '\\'", params![beginning(entity)].to_vec()),
        Which::IdUnder(id, entity) => ("alarm_id = ?1 AND entity_instance_id LIKE ?2 ESCAPE '\\'", params![id, beginning(entity)].to_vec()),
    };
    let mut found = tx.query(&format!("SELECT {COLUMNS} FROM alarm WHERE {condition} AND {also} ORDER BY id"), &values, active)?;
    // The text only narrows the search down.
    if let Which::Under(entity) | Which::IdUnder(_, entity) = which {
        found.retain(|active| covers(entity, &active.alarm.entity_instance_id));
    }
    Ok(found)
}

fn beginning(entity: &str) -> String {
    escape_like(entity) + "%"
}

/// Whether an alarm above this one inhibits it.
fn inhibited(tx: &Tx, alarm: &Alarm) -> Result<bool> {
    let above = tx.query("SELECT alarm_id, entity_instance_id FROM alarm WHERE inhibit_alarms = 1", params![], |row| {
        Ok((row.text(0)?, row.text(1)?))
    })?;
    Ok(above
        .iter()
        .any(|(id, entity)| covers(entity, &alarm.entity_instance_id) && !(*id == alarm.alarm_id && *entity == alarm.entity_instance_id)))
}

/// Works out anew which alarms are masked, after an inhibitor came or went.
fn remask(tx: &Tx) -> Result<()> {
    let inhibitors =
        tx.query("SELECT id, entity_instance_id FROM alarm WHERE inhibit_alarms = 1", params![], |row| Ok((row.int(0)?, row.text(1)?)))?;
    let maskable = tx.query("SELECT id, entity_instance_id, masked FROM alarm WHERE suppression = 1", params![], |row| {
        Ok((row.int(0)?, row.text(1)?, row.flag(2)?))
    })?;
    for (id, entity, was) in maskable {
        let masked = inhibitors.iter().any(|(other, above)| *other != id && covers(above, &entity));
        if masked != was {
            tx.execute("UPDATE alarm SET masked = ?2 WHERE id = ?1", params![id, masked])?;
        }
    }
    Ok(())
}

fn log(tx: &Tx, logged: &Logged, size: i64) -> Result<()> {
    let Logged { state, alarm_uuid, alarm, at, masked, hierarchical } = logged;
    tx.query_opt_locked("SELECT value FROM event_counter WHERE name = 'seq'", params![], |row| row.int(0))?;
    let suppressed = hidden_in(tx, &alarm.alarm_id, &alarm.entity_instance_id, state)?;
    let uuid = base::id::uuid();
    let id = tx.query_one(
        "INSERT INTO event_log (id, uuid, event_log_id, state, entity_type_id, entity_instance_id, raised_at, severity, event_log_type, probable_cause,
             reason_text, proposed_repair_action, service_affecting, suppression)
         VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM event_log), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) RETURNING id",
        params![
            uuid,
            alarm.alarm_id,
            *state,
            alarm.entity_type_id,
            alarm.entity_instance_id,
            *at,
            alarm.severity as i64,
            alarm.alarm_type.word(),
            alarm.cause(),
            alarm.reason_text,
            alarm.proposed_repair_action,
            alarm.service_affecting,
            alarm.suppression
        ],
        |row| row.int(0),
    )?;
    tx.execute("DELETE FROM event_log WHERE id <= ?1", params![id - size])?;
    let payload = json!({
        "uuid": uuid,
        "alarm_uuid": alarm_uuid,
        "event_log_id": alarm.alarm_id,
        "state": state,
        "entity_type_id": alarm.entity_type_id,
        "entity_instance_id": alarm.entity_instance_id,
        "timestamp": at.iso_micros(),
        "severity": alarm.severity.word(),
        "reason_text": alarm.reason_text,
        "event_log_type": alarm.alarm_type.word(),
        "probable_cause": alarm.cause(),
        "proposed_repair_action": alarm.proposed_repair_action,
        "service_affecting": alarm.service_affecting,
        "suppression": alarm.suppression,
        "suppression_status": if suppressed { "suppressed" } else { "unsuppressed" },
        "masked": masked,
        "hierarchical": hierarchical,
    });
    let event = Event::new(format!("{EVENTS}{state}"), alarm.entity_instance_id.as_str(), &Context::default()).payload(payload);
    events::record(tx, &event).map(drop)
}
