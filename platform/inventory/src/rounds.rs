//! Who of the hosts is due for what is done with each of them again and again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::db::Host;

/// When it was last each host's turn, since the controller's start.
#[derive(Default)]
pub struct Rounds(Mutex<BTreeMap<String, Instant>>);

impl Rounds {
    /// Those whose time has come, which begins anew. `hosts`: all with whom it is done now; who is new among them waits for a whole time.
    pub fn due(&self, hosts: &[Host], every: Duration) -> Vec<String> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|id, _| hosts.iter().any(|host| host.uuid == *id));
        let mut due = Vec::new();
        for host in hosts {
            match last.get(&host.uuid) {
                Some(last) if last.elapsed() < every => continue,
                Some(_) => due.push(host.uuid.clone()),
                None => {}
            }
            last.insert(host.uuid.clone(), Instant::now());
        }
        due
    }
}
