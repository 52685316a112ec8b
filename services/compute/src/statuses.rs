//! What hosts last said of guests, and those who wait to hear something.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rpc::instance::InstanceStatus;
use tokio::sync::watch;

/// How often a waiter looks by itself, in case the reason to stop makes no noise.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default)]
struct Slot {
    /// By host: while a guest moves, one speaks of its end and another of its beginning, and neither word may hide the other.
    said: HashMap<String, InstanceStatus>,
    /// Counts wake-ups that carry no status.
    pokes: u64,
}

/// The newest status of every guest, by server.
#[derive(Default)]
pub struct Statuses {
    slots: Mutex<HashMap<String, watch::Sender<Slot>>>,
}

/// How a wait ended.
#[derive(Debug, PartialEq)]
pub enum Waited<T> {
    Found(T),
    /// The caller's own reason to stop.
    Stopped,
    TimedOut,
}

impl Statuses {
    fn slots(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a status; answers whether somebody waits for this guest and will deal with it.
    pub fn put(&self, host_id: &str, status: &InstanceStatus) -> bool {
        let mut slots = self.slots();
        let slot = slots.entry(status.id.clone()).or_insert_with(|| watch::channel(Slot::default()).0);
        slot.send_modify(|s| {
            s.said.insert(host_id.to_string(), status.clone());
        });
        slot.receiver_count() > 0
    }

    /// What each host said last of a guest.
    pub fn said(&self, server_id: &str) -> HashMap<String, InstanceStatus> {
        self.slots().get(server_id).map(|s| s.borrow().said.clone()).unwrap_or_default()
    }

    /// Wakes who waits for this guest, to look at their reasons to stop.
    pub fn poke(&self, server_id: &str) {
        if let Some(slot) = self.slots().get(server_id) {
            slot.send_modify(|s| s.pokes += 1);
        }
    }

    /// Wakes everybody: a host came or went.
    pub fn poke_all(&self) {
        for slot in self.slots().values() {
            slot.send_modify(|s| s.pokes += 1);
        }
    }

    /// Forgets a guest that is gone, unless somebody still waits for it.
    pub fn forget(&self, server_id: &str) {
        let mut slots = self.slots();
        if slots.get(server_id).is_some_and(|s| s.receiver_count() == 0) {
            slots.remove(server_id);
        }
    }

    /// Waits until `accept` takes what a host said last (host id and status), or `stop` says so, or time is up.
    pub async fn wait<T>(
        &self,
        server_id: &str,
        limit: Duration,
        mut accept: impl FnMut(&str, &InstanceStatus) -> Option<T>,
        mut stop: impl FnMut() -> bool,
    ) -> Waited<T> {
        let mut heard = self.slots().entry(server_id.to_string()).or_insert_with(|| watch::channel(Slot::default()).0).subscribe();
        let end = Instant::now() + limit;
        loop {
            let said = heard.borrow_and_update().said.clone();
            if let Some(found) = said.iter().find_map(|(host, status)| accept(host, status)) {
                return Waited::Found(found);
            }
            if stop() {
                return Waited::Stopped;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::TimedOut;
            }
            // Whether something was heard or it is time to look again, the loop looks.
            let _ = tokio::time::timeout(left.min(LOOK), heard.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::instance::InstanceState;

    fn status(generation: u64) -> InstanceStatus {
        InstanceStatus {
            id: "a".into(),
            generation,
            boot: 0,
            state: InstanceState::Running,
            pid: None,
            started_at: None,
            error: None,
            snapshots: vec![],
            elsewhere: false,
            moving: None,
        }
    }

    #[tokio::test]
    async fn waits_for_the_right_status_and_remembers_the_last() {
        let statuses = std::sync::Arc::new(Statuses::default());
        assert!(!statuses.put("h", &status(1)));
        let waiting = {
            let statuses = statuses.clone();
            tokio::spawn(async move {
                let accept = |host: &str, s: &InstanceStatus| (s.generation >= 2).then(|| host.to_string());
                statuses.wait("a", Duration::from_secs(10), accept, || false).await
            })
        };
        while !statuses.put("h2", &status(1)) {
            tokio::task::yield_now().await;
        }
        statuses.put("h2", &status(2));
        assert_eq!(waiting.await.unwrap(), Waited::Found("h2".to_string()));
        assert_eq!(statuses.wait("a", Duration::ZERO, |_, s| (s.generation == 2).then_some(()), || false).await, Waited::Found(()));
        assert_eq!(statuses.wait("a", Duration::ZERO, |_, _| None::<()>, || false).await, Waited::TimedOut);
        assert_eq!(statuses.wait("a", Duration::from_secs(9), |_, _| None::<()>, || true).await, Waited::Stopped);
        statuses.forget("a");
        assert!(statuses.said("a").is_empty());
    }

    #[tokio::test]
    async fn one_hosts_word_does_not_hide_anothers() {
        let statuses = Statuses::default();
        statuses.put("old", &status(1));
        statuses.put("new", &status(2));
        statuses.put("old", &status(3));
        let from = |wanted: &'static str| move |host: &str, s: &InstanceStatus| (host == wanted).then_some(s.generation);
        assert_eq!(statuses.wait("a", Duration::ZERO, from("new"), || false).await, Waited::Found(2));
        assert_eq!(statuses.wait("a", Duration::ZERO, from("old"), || false).await, Waited::Found(3));
    }
}
