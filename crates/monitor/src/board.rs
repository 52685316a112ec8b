//! What is not well now.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::Timestamp;
use rpc::monitor::{Condition, MonitorReport};
use tokio::sync::watch;

type Conditions = BTreeMap<(String, String), Condition>;

pub struct Board {
    conditions: Mutex<Conditions>,
    changed: watch::Sender<u64>,
    quorum: watch::Sender<String>,
}

impl Default for Board {
    fn default() -> Board {
        Board { conditions: Mutex::default(), changed: watch::channel(0).0, quorum: watch::channel(String::new()).0 }
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Conditions> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, condition: Condition) {
        let key = (condition.alarm_id.clone(), condition.entity.clone());
        let before = self.lock().insert(key, condition.clone());
        if before.as_ref() != Some(&condition) {
            self.changed.send_modify(|times| *times += 1);
        }
    }

    pub fn clear(&self, alarm_id: &str, entity: &str) {
        if self.lock().remove(&(alarm_id.to_string(), entity.to_string())).is_some() {
            self.changed.send_modify(|times| *times += 1);
        }
    }

    pub fn conditions(&self) -> Vec<Condition> {
        self.lock().values().cloned().collect()
    }

    pub fn report(&self) -> MonitorReport {
        MonitorReport { conditions: self.conditions(), clock: Timestamp::now(), dropped: Vec::new() }
    }

    /// A process without which the machine cannot be counted on does not come back.
    pub(crate) fn quorum_lost(&self, process: &str) {
        self.quorum.send_replace(process.to_string());
    }

    /// Changes each time that such a process is told of: its name.
    pub fn quorum(&self) -> watch::Receiver<String> {
        self.quorum.subscribe()
    }

    /// Changes whenever a report would be another one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
