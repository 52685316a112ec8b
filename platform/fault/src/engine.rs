//! Setting, clearing and logging: each in the caller's transaction, the alarm and its event log row together.

use base::{Result, Timestamp};
use store::{Tx, params};

use crate::Faults;
use crate::alarm::{Alarm, Severity, covers};
use crate::catalogue;

/// The event log keeps this many rows; the oldest go.
pub const EVENT_LOG_SIZE: i64 = 4000;

impl Faults {
    /// Sets an alarm, or renews the one with the same id and entity. A repeat that changes nothing only renews
    /// the time: no event is logged. Returns the alarm's uuid.
    pub fn alarm_set_in(&self, tx: &Tx, alarm: &Alarm) -> Result<String> {
        alarm.check()?;
        let alarm = alarm.clone().trimmed();
        let now = Timestamp::now();
        let at = alarm.timestamp.unwrap_or(now);
        if catalogue::known(&alarm.alarm_id).is_none() {
            tracing::warn!(alarm_id = alarm.alarm_id, "an alarm that the catalogue does not know");
        }
        let present = tx.query_opt(
            "SELECT uuid, severity, reason_text, proposed_repair_action FROM alarm WHERE alarm_id = ?1 AND entity_instance_id = ?2",
            params![alarm.alarm_id, alarm.entity_instance_id],
            |row| Ok((row.text(0)?, row.int(1)?, row.text(2)?, row.text(3)?)),
        )?;
        if let Some((uuid, severity, reason, repair)) = &present {
            if *severity == alarm.severity as i64 && *reason == alarm.reason_text && *repair == alarm.proposed_repair_action {
                tx.execute("UPDATE alarm SET raised_at = ?2, updated_at = ?3 WHERE uuid = ?1", params![uuid, at, now])?;
                return Ok(uuid.clone());
            }
        }
        let uuid = base::id::uuid();
        let masked = alarm.suppression && inhibited(tx, &alarm)?;
        tx.execute(
            "INSERT INTO alarm (id, uuid, alarm_id, entity_type_id, entity_instance_id, raised_at, severity, alarm_type, probable_cause, reason_text,
                 proposed_repair_action, service_affecting, suppression, inhibit_alarms, masked, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?16)
             ON CONFLICT (alarm_id, entity_instance_id) DO UPDATE SET uuid = excluded.uuid, entity_type_id = excluded.entity_type_id,
                 raised_at = excluded.raised_at, severity = excluded.severity, alarm_type = excluded.alarm_type, probable_cause = excluded.probable_cause,
                 reason_text = excluded.reason_text, proposed_repair_action = excluded.proposed_repair_action, service_affecting = excluded.service_affecting,
                 suppression = excluded.suppression, inhibit_alarms = excluded.inhibit_alarms, masked = excluded.masked, updated_at = excluded.updated_at",
            params![
                next_id(tx, "alarm")?,
                uuid,
                alarm.alarm_id,
                alarm.entity_type_id,
                alarm.entity_instance_id,
                at,
                alarm.severity as i64,
                alarm.alarm_type.word(),
                cause(&alarm),
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
        log(tx, "set", &alarm, at)?;
        Ok(uuid)
    }

    /// Clears the alarm with exactly this id and entity; says whether there was one.
    pub fn alarm_clear_in(&self, tx: &Tx, alarm_id: &str, entity_instance_id: &str) -> Result<bool> {
        let found = tx.query_opt(
            "DELETE FROM alarm WHERE alarm_id = ?1 AND entity_instance_id = ?2
             RETURNING entity_type_id, severity, alarm_type, probable_cause, reason_text, proposed_repair_action, service_affecting, suppression, inhibit_alarms",
            params![alarm_id, entity_instance_id],
            |row| {
                let cleared = Alarm {
                    alarm_id: alarm_id.to_string(),
                    entity_type_id: row.text(0)?,
                    entity_instance_id: entity_instance_id.to_string(),
                    severity: Severity::from_number(row.int(1)?),
                    alarm_type: crate::alarm::AlarmType::parse(&row.text(2)?).unwrap_or(crate::alarm::AlarmType::Other),
                    probable_cause: cause_number(&row.text(3)?),
                    reason_text: row.text(4)?,
                    proposed_repair_action: row.text(5)?,
                    service_affecting: row.flag(6)?,
                    suppression: row.flag(7)?,
                    inhibit_alarms: row.flag(8)?,
                    timestamp: None,
                };
                Ok(cleared)
            },
        )?;
        let Some(cleared) = found else { return Ok(false) };
        if cleared.inhibit_alarms {
            remask(tx)?;
        }
        log(tx, "clear", &cleared, Timestamp::now())?;
        Ok(true)
    }

    /// Writes a log: an event that is no condition and so never cleared.
    pub fn log_in(&self, tx: &Tx, entry: &Alarm) -> Result<()> {
        entry.check()?;
        let entry = entry.clone().trimmed();
        let at = entry.timestamp.unwrap_or_else(Timestamp::now);
        log(tx, "log", &entry, at).map(|_| ())
    }
}

/// The word of a cause number; unknown numbers are unspecified.
fn cause(alarm: &Alarm) -> &'static str {
    crate::alarm::PROBABLE_CAUSES.get(usize::from(alarm.probable_cause)).copied().unwrap_or("unspecified-reason")
}

pub(crate) fn cause_number(word: &str) -> u8 {
    crate::alarm::PROBABLE_CAUSES.iter().position(|w| *w == word).and_then(|i| u8::try_from(i).ok()).unwrap_or(65)
}

/// Row ids count up by hand: one text for both databases. The lock keeps two writers of a cluster apart.
fn next_id(tx: &Tx, table: &str) -> Result<i64> {
    tx.lock(&format!("fault-{table}"))?;
    tx.query_one(&format!("SELECT COALESCE(MAX(id), 0) + 1 FROM {table}"), params![], |row| row.int(0))
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

fn log(tx: &Tx, state: &str, alarm: &Alarm, at: Timestamp) -> Result<i64> {
    let id = next_id(tx, "event_log")?;
    tx.execute(
        "INSERT INTO event_log (id, uuid, event_log_id, state, entity_type_id, entity_instance_id, raised_at, severity, event_log_type, probable_cause,
             reason_text, proposed_repair_action, service_affecting, suppression)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            id,
            base::id::uuid(),
            alarm.alarm_id,
            state,
            alarm.entity_type_id,
            alarm.entity_instance_id,
            at,
            alarm.severity as i64,
            alarm.alarm_type.word(),
            cause(alarm),
            alarm.reason_text,
            alarm.proposed_repair_action,
            alarm.service_affecting,
            alarm.suppression
        ],
    )?;
    tx.execute("DELETE FROM event_log WHERE id <= ?1", params![id - EVENT_LOG_SIZE])?;
    Ok(id)
}
