//! Sees to it that each server has the alarm of what it is in ([`crate::conditions`]).
//!
//! It is woken by every change of a server, and looks at those that changed, by the time of their change; now and then at all. It remembers which
//! alarm each server has, so one that is as its alarm says, and one that just runs, cost a few columns of an index's row.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::{Result, Timestamp};
use store::{Dir, Row, Select};
use task::Reconciler;
use tokio::sync::Mutex;

use crate::Compute;
use crate::conditions::{ALL, PAUSED, candidates};

pub const NAME: &str = "compute.server_alarms";
/// The longest time between two looks; also how exactly the time is kept that a server is paused before it has its alarm.
const LOOK: Duration = Duration::from_secs(2);
/// How often all are compared, whether something is known to have changed or not.
const WHOLE: Duration = Duration::from_secs(60);
/// What changes at about the same time is looked at together: so long at least, and the longer the more there was the last time, so that
/// a bulk does not pay for each look at all that has changed in the last second.
const GATHER: Duration = Duration::from_millis(20);
const GATHER_ROW: Duration = Duration::from_millis(1);
const GATHER_MOST: Duration = Duration::from_millis(500);
/// A server is paused for so long before it has its alarm.
const HOLD_OFF: Duration = Duration::from_secs(10);
/// Changes are stored a little after the time they bear; in microseconds.
const SLACK: i64 = 1_000_000;
/// Servers read in one transaction.
const PAGE: u64 = 1000;

pub struct ServerAlarms {
    compute: Compute,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// When all were compared; none: that is to be done.
    compared: Option<Instant>,
    /// The newest change that was looked at.
    seen: Timestamp,
    /// How many changes the last look has read.
    read: u32,
    /// The alarm of each server that has one.
    alarms: HashMap<String, &'static str>,
    /// Since when those are paused that have no alarm of it yet.
    paused: HashMap<String, Instant>,
}

struct Seen {
    id: String,
    vm_state: String,
    task_state: Option<String>,
    deleted: bool,
    updated_at: Timestamp,
}

const COLUMNS: &str = "SELECT id, vm_state, task_state, deleted, updated_at FROM server";

fn seen(row: &Row) -> Result<Seen> {
    Ok(Seen { id: row.text(0)?, vm_state: row.text(1)?, task_state: row.opt_text(2)?, deleted: row.flag(3)?, updated_at: row.time(4)? })
}

impl ServerAlarms {
    pub fn new(compute: Compute) -> ServerAlarms {
        ServerAlarms { compute, memory: Mutex::default() }
    }
}

#[async_trait]
impl Reconciler for ServerAlarms {
    fn name(&self) -> &'static str {
        NAME
    }
    fn every(&self) -> Duration {
        LOOK
    }
    async fn run(&self) -> Result<()> {
        let mut memory = self.memory.lock().await;
        tokio::time::sleep(GATHER.max(GATHER_ROW.saturating_mul(memory.read)).min(GATHER_MOST)).await;
        let whole = memory.compared.is_none_or(|at| at.elapsed() >= WHOLE);
        let suspects = if whole { self.all(&mut memory).await? } else { self.changed(&mut memory).await? };
        for id in suspects {
            let long = memory.paused.get(&id).is_some_and(|since| since.elapsed() >= HOLD_OFF);
            match self.compute.condition_align(&id, long).await {
                Ok(Some(alarm)) => {
                    memory.paused.remove(&id);
                    memory.alarms.insert(id, alarm);
                }
                Ok(None) => {
                    memory.alarms.remove(&id);
                }
                Err(error) => {
                    // The next try begins from what is stored.
                    memory.compared = None;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl ServerAlarms {
    /// Those that have changed and may have an alarm that is not theirs, or lack one.
    async fn changed(&self, memory: &mut Memory) -> Result<Vec<String>> {
        let since = Timestamp(memory.seen.micros() - SLACK);
        let changed = self.compute.core.store.read(|tx| Select::new(COLUMNS).ge("updated_at", since).fetch(tx, seen)).await?;
        memory.read = u32::try_from(changed.len()).unwrap_or(u32::MAX);
        let mut suspects = Vec::new();
        for server in &changed {
            memory.seen = memory.seen.max(server.updated_at);
            if memory.doubts(server) {
                suspects.push(server.id.clone());
            }
        }
        let due = memory.paused.iter().filter(|(id, since)| since.elapsed() >= HOLD_OFF && !suspects.contains(id));
        let due: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        suspects.extend(due);
        Ok(suspects)
    }

    /// The same of all. Alarms of servers that are no more are cleared at once.
    async fn all(&self, memory: &mut Memory) -> Result<Vec<String>> {
        let (store, faults) = (&self.compute.core.store, &self.compute.faults);
        memory.alarms.clear();
        memory.seen = Timestamp::now();
        let mut orphans = HashMap::new();
        for condition in ALL {
            let entities = store.read(|tx| faults.alarm_entities_in(tx, condition.alarm)).await?;
            for entity in entities {
                let Some((_, id)) = entity.split_once(".instance=") else { continue };
                memory.alarms.insert(id.to_string(), condition.alarm);
                orphans.insert(id.to_string(), (condition.alarm, entity));
            }
        }
        let (mut suspects, mut there, mut after) = (Vec::new(), HashSet::new(), String::new());
        loop {
            // The words of the index's condition.
            let some = || Select::new(COLUMNS).cond("(vm_state NOT IN ('active', 'deleted') OR task_state IS NOT NULL)", []);
            let page = store.read(|tx| some().gt("id", &after).order(&[("id", Dir::Asc)]).limit(PAGE).fetch(tx, seen)).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.id);
            for server in page {
                orphans.remove(&server.id);
                if memory.doubts(&server) {
                    suspects.push(server.id.clone());
                }
                there.insert(server.id);
            }
        }
        memory.paused.retain(|id, _| there.contains(id));
        for (id, (alarm, entity)) in orphans {
            // It runs, or it is gone: then perhaps so long that nothing is left of it.
            if self.compute.condition_align(&id, false).await?.is_none() {
                memory.alarms.remove(&id);
                let faults = faults.clone();
                if store.read(|tx| faults.alarm_is_set_in(tx, alarm, &entity)).await? {
                    store.write(move |tx| faults.alarm_clear_in(tx, alarm, &entity).map(drop)).await?;
                }
            }
        }
        memory.compared = Some(Instant::now());
        Ok(suspects)
    }
}

impl Memory {
    /// Whether a server has to be looked at more closely.
    fn doubts(&mut self, server: &Seen) -> bool {
        let fits = if server.deleted { &[] } else { candidates(&server.vm_state, server.task_state.as_deref()) };
        let is_paused = fits.iter().any(|c| **c == PAUSED);
        let present = self.alarms.get(&server.id);
        let is_due = if is_paused && present != Some(&PAUSED.alarm) {
            self.paused.entry(server.id.clone()).or_insert_with(Instant::now).elapsed() >= HOLD_OFF
        } else {
            self.paused.remove(&server.id);
            false
        };
        match present {
            Some(alarm) => !fits.iter().any(|c| c.alarm == *alarm),
            None if is_paused => is_due,
            None => !fits.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: &str, vm_state: &str, task_state: Option<&str>) -> Seen {
        Seen {
            id: id.into(),
            vm_state: vm_state.into(),
            task_state: task_state.map(String::from),
            deleted: false,
            updated_at: Timestamp::now(),
        }
    }

    #[test]
    fn only_those_are_looked_at_whose_alarm_is_in_doubt() {
        let mut memory = Memory::default();
        assert!(!memory.doubts(&server("a", "active", None)));
        assert!(memory.doubts(&server("a", "stopped", None)));
        memory.alarms.insert("a".into(), "700.004");
        assert!(!memory.doubts(&server("a", "stopped", None)));
        assert!(memory.doubts(&server("a", "active", None)) && memory.doubts(&server("a", "suspended", None)));
        // One that was paused has its alarm in ten seconds, if it still is then.
        assert!(!memory.doubts(&server("b", "paused", None)) && memory.paused.contains_key("b"));
        assert!(!memory.doubts(&server("b", "active", None)) && memory.paused.is_empty());
        memory.paused.insert("b".into(), Instant::now().checked_sub(HOLD_OFF).unwrap());
        assert!(memory.doubts(&server("b", "paused", None)));
        let gone = Seen { deleted: true, ..server("a", "stopped", None) };
        assert!(memory.doubts(&gone));
    }
}
