//! What hosts last said of volumes, and those who wait to hear something.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rpc::volume::VolumeStatus;
use tokio::sync::watch;

/// How often a waiter looks by itself, in case the reason to stop makes no noise.
const LOOK: Duration = Duration::from_secs(1);

type Said = Option<(String, VolumeStatus)>;

/// The newest status of every volume that was spoken of.
#[derive(Default)]
pub struct Statuses(Mutex<HashMap<String, watch::Sender<Said>>>);

impl Statuses {
    fn slots(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Said>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a status; answers whether somebody waits for this volume.
    pub fn put(&self, host_id: &str, status: &VolumeStatus) -> bool {
        let mut slots = self.slots();
        let slot = slots.entry(status.id.clone()).or_insert_with(|| watch::channel(None).0);
        slot.send_replace(Some((host_id.to_string(), status.clone())));
        slot.receiver_count() > 0
    }

    /// Forgets a volume that is gone, unless somebody still waits.
    pub fn forget(&self, id: &str) {
        let mut slots = self.slots();
        if slots.get(id).is_some_and(|s| s.receiver_count() == 0) {
            slots.remove(id);
        }
    }

    /// Waits until `accept` takes what a host said last, or `stop` says so, or time is up: then None.
    pub async fn wait<T>(
        &self,
        id: &str,
        limit: Duration,
        mut accept: impl FnMut(&str, &VolumeStatus) -> Option<T>,
        mut stop: impl FnMut() -> bool,
    ) -> Option<T> {
        let mut heard = self.slots().entry(id.to_string()).or_insert_with(|| watch::channel(None).0).subscribe();
        let end = Instant::now() + limit;
        loop {
            let said = heard.borrow_and_update().clone();
            if let Some(found) = said.and_then(|(host, status)| accept(&host, &status)) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || stop() {
                return None;
            }
            // Whether something was heard or it is time to look again, the loop looks.
            let _ = tokio::time::timeout(left.min(LOOK), heard.changed()).await;
        }
    }
}
