//! Waking those who wait for a change, in this process and (on PostgreSQL) in the other controllers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// One counter a channel; a waiter has been nudged when it differs from what it saw last.
#[derive(Clone, Default)]
pub(crate) struct Bus(Arc<Mutex<HashMap<String, watch::Sender<u64>>>>);

impl Bus {
    pub(crate) fn wake(&self, channel: &str) {
        let channels = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(sender) = channels.get(channel) {
            sender.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
    /// For a listener that may have missed some.
    pub(crate) fn wake_all(&self) {
        for sender in self.0.lock().unwrap_or_else(|e| e.into_inner()).values() {
            sender.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
    pub(crate) fn watch(&self, channel: &str) -> Watch {
        let mut channels = self.0.lock().unwrap_or_else(|e| e.into_inner());
        Watch(channels.entry(channel.to_owned()).or_default().subscribe())
    }
}

/// Waits for [`crate::Tx::nudge`] on one channel; made by [`crate::Store::watch`]. Nudges that come while nobody waits
/// are kept, many as one.
#[derive(Clone)]
pub struct Watch(watch::Receiver<u64>);

impl Watch {
    pub async fn wait(&mut self) {
        if self.0.changed().await.is_err() {
            // The store is gone: nothing will ever come.
            std::future::pending::<()>().await;
        }
    }
}
