//! Damping: an alarm that comes and goes too often is held set, and told of once, until nothing has changed for a while.
//!
//! What is held keeps its row, with what was set last, and remembers in `cleared` whether its cause is gone: who sets and clears
//! sees that, who looks at lists sees an alarm that is set.

use std::time::Duration;

use async_trait::async_trait;
use base::{Config, Result, Timestamp};
use store::{Row, Tx, Value, params};
use task::Reconciler;

use crate::Faults;
use crate::alarm::{Alarm, Severity};
use crate::engine::{Active, Clearing, Logged, Which, rows_in};

/// No more clears than this are remembered of an alarm.
const MOST: u64 = 1000;
/// Released at a time.
const BATCH: i64 = 200;

/// From when on alarms are held, and for how long.
#[derive(Clone, Copy)]
pub(crate) struct Damping {
    /// An alarm may be cleared this often in `window`; 0: as often as it likes.
    count: usize,
    window: Duration,
    quiet: Duration,
}

impl Damping {
    pub fn new(config: &Config) -> Damping {
        let seconds = |key: &str| Duration::from_secs(config.int(key).min(u64::from(u32::MAX)));
        let count = usize::try_from(config.int("fault.flap_count").min(MOST)).unwrap_or(0);
        Damping { count, window: seconds("fault.flap_seconds"), quiet: seconds("fault.flap_quiet") }
    }

    /// What has not changed since then is quiet. Where nothing is held any more, everything is.
    fn quiet_since(&self, now: Timestamp) -> Timestamp {
        if self.count == 0 { now } else { earlier(now, self.quiet) }
    }
}

fn earlier(now: Timestamp, span: Duration) -> Timestamp {
    Timestamp(now.micros().saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
}

/// That an alarm is held.
pub(crate) struct Hold {
    /// Its cause is gone.
    pub cleared: bool,
    /// The worst severity that was told of.
    worst: Severity,
}

impl Hold {
    pub const COLUMNS: &'static str = "held_at, cleared, worst";

    /// From [`Hold::COLUMNS`], the first of which is at `first`.
    pub fn read(row: &Row, first: usize) -> Result<Option<Hold>> {
        let hold = Hold { cleared: row.flag(first + 1)?, worst: Severity::from_number(row.int(first + 2)?) };
        Ok(row.opt_time(first)?.map(|_| hold))
    }
}

/// Notes that a held alarm was set again; says whether that is to be told: it is when it was never that bad.
pub(crate) fn renewed_in(tx: &Tx, uuid: &str, hold: &Hold, severity: Severity, now: Timestamp) -> Result<bool> {
    tx.execute(
        "UPDATE alarm SET held_at = CASE WHEN cleared = 1 THEN ?2 ELSE held_at END, cleared = 0, worst = ?3 WHERE uuid = ?1",
        params![uuid, now, severity.max(hold.worst) as i64],
    )?;
    Ok(severity > hold.worst)
}

impl Faults {
    /// Counts that an alarm is being cleared; says whether it is to stay for that, as it is held or is from now on.
    pub(crate) fn holds_in(&self, tx: &Tx, active: &Active, now: Timestamp) -> Result<bool> {
        let Damping { count, window, quiet } = self.damping;
        if count == 0 {
            return Ok(false);
        }
        let Active { uuid, alarm, masked } = active;
        let kept = "UPDATE alarm SET held_at = ?2, cleared = 1 WHERE uuid = ?1 AND held_at IS NOT NULL";
        if tx.execute(kept, params![uuid, now])? > 0 {
            return Ok(true);
        }
        let key = "alarm_id = ?1 AND entity_instance_id = ?2";
        let known = format!("SELECT clears FROM alarm_flap WHERE {key}");
        let mut clears: Vec<i64> =
            tx.query_opt(&known, params![alarm.alarm_id, alarm.entity_instance_id], |row| row.json(0))?.unwrap_or_default();
        clears.retain(|at| *at > earlier(now, window).micros());
        clears.push(now.micros());
        if clears.len() <= count {
            tx.execute(
                "INSERT INTO alarm_flap (alarm_id, entity_instance_id, clears, changed_at) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (alarm_id, entity_instance_id) DO UPDATE SET clears = excluded.clears, changed_at = excluded.changed_at",
                params![alarm.alarm_id, alarm.entity_instance_id, Value::json(&clears)?, now],
            )?;
            return Ok(false);
        }
        tx.execute(&format!("DELETE FROM alarm_flap WHERE {key}"), params![alarm.alarm_id, alarm.entity_instance_id])?;
        let hold = "UPDATE alarm SET held_at = ?2, cleared = 1, worst = ?3 WHERE uuid = ?1";
        tx.execute(hold, params![uuid, now, alarm.severity as i64])?;
        let reason_text = format!(
            "Cleared more than {count} times in {} seconds: held set until nothing changes for {} seconds. {}",
            window.as_secs(),
            quiet.as_secs(),
            alarm.reason_text
        );
        // To those who are told it is the same alarm, still set; so its suppression counts for this too.
        let told = Alarm { reason_text, ..alarm.clone() }.trimmed();
        self.logged_in(tx, Logged { state: "set", alarm_uuid: uuid.clone(), alarm: told, at: now, masked: *masked, hierarchical: false });
        Ok(true)
    }

    /// Ends the holding of an alarm that has been quiet: it is what it was last.
    fn release_in(&self, tx: &Tx, uuid: &str, since: Timestamp, now: Timestamp) -> Result<()> {
        let sql = "SELECT cleared FROM alarm WHERE uuid = ?1 AND held_at <= ?2";
        match tx.query_opt(sql, params![uuid, since], |row| row.flag(0))? {
            // It has changed, or is gone.
            None => Ok(()),
            Some(true) => self.take_in(tx, Which::Uuid(uuid), Clearing::Final).map(drop),
            Some(false) => {
                tx.execute("UPDATE alarm SET held_at = NULL, worst = 0 WHERE uuid = ?1", params![uuid])?;
                for Active { uuid, alarm, masked } in rows_in(tx, Which::Uuid(uuid))? {
                    self.logged_in(tx, Logged { state: "set", alarm_uuid: uuid, alarm, at: now, masked, hierarchical: false });
                }
                Ok(())
            }
        }
    }
}

/// Releases what has been quiet, and forgets clears that no longer count.
pub(crate) struct Release {
    pub faults: Faults,
}

#[async_trait]
impl Reconciler for Release {
    fn name(&self) -> &'static str {
        "fault.flap"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(5)
    }
    async fn run(&self) -> Result<()> {
        let now = Timestamp::now();
        let (since, past) = (self.faults.damping.quiet_since(now), earlier(now, self.faults.damping.window));
        let due = "SELECT uuid FROM alarm WHERE held_at <= ?1 ORDER BY held_at LIMIT ?2";
        let old = "SELECT 1 FROM alarm_flap WHERE changed_at < ?1 LIMIT 1";
        loop {
            let read = self.faults.core.store.read(move |tx| {
                let old = tx.query_opt(old, params![past], |row| row.int(0))?.is_some();
                Ok((tx.query(due, params![since, BATCH], |row| row.text(0))?, old))
            });
            let (due, old) = read.await?;
            if due.is_empty() && !old {
                return Ok(());
            }
            let faults = self.faults.clone();
            let release = move |tx: &Tx| {
                tx.execute("DELETE FROM alarm_flap WHERE changed_at < ?1", params![past])?;
                due.iter().try_for_each(|uuid| faults.release_in(tx, uuid, since, now))
            };
            self.faults.core.store.write(release).await?;
        }
    }
}
