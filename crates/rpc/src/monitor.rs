//! What a host's monitors see of its machine.

use base::Timestamp;
use serde::{Deserialize, Serialize};

/// All of it, as of now: what is not in it is well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitorReport {
    pub conditions: Vec<Condition>,
    /// The host's clock when it said so.
    pub clock: Timestamp,
    /// What was dropped on the host's ports since its program started.
    #[serde(default)]
    pub dropped: Vec<Dropped>,
}

/// Packets of one kind that a host's port dropped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dropped {
    /// What serves the port: `tunnel`, `dhcp`.
    pub port: String,
    /// Why: `malformed`, `replayed`.
    pub reason: String,
    pub packets: u64,
}

/// Something that is not well, as an alarm of the catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    pub alarm_id: String,
    /// Below the host: `process=sshd`; empty: the host itself.
    pub entity: String,
    pub level: Level,
    pub reason: String,
    /// The host counts as degraded by it.
    pub degrades: bool,
    /// The host is out of service by it.
    pub fails: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Minor,
    Major,
    Critical,
}
