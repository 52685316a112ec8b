//! What a host's monitors see of its machine.

use base::Timestamp;
use serde::{Deserialize, Serialize};

/// All of it, as of now: what is not in it is well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitorReport {
    pub conditions: Vec<Condition>,
    /// The host's clock when it said so.
    pub clock: Timestamp,
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
