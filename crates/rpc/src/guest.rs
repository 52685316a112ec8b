//! What a guest says of itself over its heartbeat, as far as the controller has to know it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Whether a guest's heart beats. Sent whenever that changes, and of all that beat when a session starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStatus {
    pub instance_id: String,
    pub beat: Option<GuestBeat>,
}

/// What a guest that beats has declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestBeat {
    /// How long it may take to be there again after it was moved.
    pub restart_seconds: u32,
}

/// Something that a guest did, or failed to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestEvent {
    Established,
    /// It has taken leave, or its port was closed.
    Disconnected {
        reason: String,
    },
    /// It has fallen silent.
    Lost {
        repair: Repair,
    },
    Unhealthy {
        repair: Repair,
        reason: String,
    },
}

/// What the guest itself wants done when it is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    None,
    Log,
    Reboot,
    Stop,
}

/// What came of a vote or a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestVerdict {
    Accepted,
    /// It had its time and said nothing: that is consent.
    Silent,
    Rejected(String),
    /// Its heart does not beat: nobody was asked.
    Absent,
}

/// What became of asking a guest to do with one vCPU more or less.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestScaled {
    Done {
        /// Which one it was; none: the guest does not say.
        cpu: Option<u32>,
        /// Those that are online in the guest now.
        online: BTreeSet<u32>,
    },
    Failed(String),
    /// It had its time and said nothing.
    Silent,
    /// It has no port.
    Absent,
}

/// What a guest wants of the other servers of its group. Nobody keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupSaid {
    Broadcast { text: String },
    StatusQuery { seq: u64 },
}

/// What a guest is told of the other servers of its group. Nobody keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupTell {
    /// `source` is the hypervisor's name of who said it.
    Broadcast {
        source: String,
        text: String,
    },
    /// One member, in answer to a query.
    Status {
        seq: u64,
        of: serde_json::Value,
    },
    StatusDone {
        seq: u64,
    },
    /// Something has happened to another member.
    Notification(serde_json::Value),
}
