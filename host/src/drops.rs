//! Counts of what the host's ports dropped, since the process started.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rpc::monitor::Dropped;

/// By port and reason.
#[derive(Default)]
pub struct Drops(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl Drops {
    pub fn add(&self, port: &'static str, reason: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((port, reason)).or_default() += 1;
    }

    pub fn list(&self) -> Vec<Dropped> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .map(|((port, reason), packets)| Dropped { port: (*port).into(), reason: (*reason).into(), packets: *packets })
            .collect()
    }
}
