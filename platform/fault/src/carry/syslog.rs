//! Events as lines of syslog (RFC 5424 over UDP), whose text is the JSON that collectors of StarlingX's fault log read.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use async_trait::async_trait;
use base::{Result, Timestamp, error::Internal};
use events::Recorded;
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use super::Way;
use crate::HIERARCHICAL;

/// Facility local5, severity informational.
const PRIORITY: u8 = 21 * 8 + 6;
/// Longest texts in characters: a line must fit a datagram.
const TEXT: usize = 2000;

pub struct Syslog {
    pub to: SocketAddr,
}

#[async_trait]
impl Way for Syslog {
    fn name(&self) -> &'static str {
        "fault.syslog"
    }

    async fn deliver(&self, event: &Recorded) -> Result<()> {
        // Each alarm of the tree has a line of its own.
        if event.event.event_type == HIERARCHICAL {
            return Ok(());
        }
        let any: SocketAddr = if self.to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).await.internal("a socket for syslog")?;
        socket.send_to(line(event).as_bytes(), self.to).await.internal("sending to syslog")?;
        Ok(())
    }
}

fn line(event: &Recorded) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "-" } else { host.trim() };
    let of = |key: &str| match &event.event.payload[key] {
        Value::String(text) => text.chars().take(TEXT).collect(),
        other => other.to_string(),
    };
    let text = json!({
        "event_log_id": of("event_log_id"),
        "reason_text": of("reason_text"),
        "entity_instance_id": of("entity_instance_id"),
        "severity": of("severity"),
        "state": of("state"),
        "proposed_repair_action": of("proposed_repair_action"),
        "timestamp": of("timestamp").replace('T', " "),
    });
    format!("<{PRIORITY}>1 {} {host} sturnus {} fault - {text}", Timestamp::now().iso_micros_z(), std::process::id())
}
