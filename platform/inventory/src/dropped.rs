//! What hosts dropped on their ports, for who scrapes metrics.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http_api::metrics::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use rpc::monitor::Dropped;

/// Host, port and reason.
type Labels = [(&'static str, String); 3];
/// More are not taken from one host.
const MOST: usize = 100;

pub(crate) struct Counts {
    packets: Family<Labels, Counter>,
    /// What is shown of each host, by its id.
    shown: Mutex<HashMap<String, Vec<Labels>>>,
}

impl Counts {
    pub fn new(metrics: &Metrics) -> Counts {
        let counts = Counts { packets: Family::default(), shown: Mutex::default() };
        metrics.register("host_dropped_packets", "Packets that a host's ports dropped since its program started", counts.packets.clone());
        counts
    }

    /// Shows what a host said last, and nothing it said before.
    pub fn take(&self, id: &str, hostname: &str, dropped: &[Dropped]) {
        let plain = |text: &str| text.len() <= 32 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let said = dropped.iter().filter(|d| plain(&d.port) && plain(&d.reason)).take(MOST);
        let of = |d: &Dropped| [("host", hostname.to_string()), ("port", d.port.clone()), ("reason", d.reason.clone())];
        let said: Vec<(Labels, u64)> = said.map(|d| (of(d), d.packets)).collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let labels: Vec<Labels> = said.iter().map(|(labels, _)| labels.clone()).collect();
        for old in shown.insert(id.to_string(), labels.clone()).unwrap_or_default() {
            if !labels.contains(&old) {
                self.packets.remove(&old);
            }
        }
        for (labels, packets) in said {
            self.packets.get_or_create(&labels).inner().store(packets, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
