//! What a host needs to know to keep a volume, and what it says about one.

use serde::{Deserialize, Serialize};

/// The wanted state of one volume. A document with a lower generation than one already stored is ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    pub id: String,
    pub generation: u64,
    /// Everything of it removed; the host reports `Absent` and then forgets the document.
    #[serde(default)]
    pub absent: bool,
    /// Virtual size; a volume grows to it, never shrinks.
    pub bytes: u64,
    /// Several guests may have it open at once. Then what is written to is a raw file of its own.
    #[serde(default)]
    pub shared: bool,
    /// Where its first content comes from; read once, when the volume is made.
    pub source: VolumeSource,
    /// Snapshots that shall exist. One that is new is taken, one that is missing here is dropped.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// Raised by one for each wanted return to a snapshot or to an image.
    #[serde(default)]
    pub revert: Option<Revert>,
    /// Copies of its content as one file that shall exist, to be read piece by piece. Each is of the moment it was made.
    #[serde(default)]
    pub exports: Vec<Export>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub id: String,
    /// `raw`, `qcow2`, `vmdk`, `vdi`, `vhd` or `vhdx`.
    pub format: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revert {
    pub serial: u64,
    /// Empty when it becomes an image.
    pub snapshot: String,
    #[serde(default)]
    pub image: Option<ImageContent>,
}

/// What the cache keeps under this SHA-256; `format` is `raw` or `qcow2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageContent {
    pub sha256: String,
    pub format: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeSource {
    Blank,
    /// The cached image with this SHA-256; `format` is `raw` or `qcow2`.
    Image {
        sha256: String,
        format: String,
    },
    /// A snapshot of any volume of this host.
    Snapshot {
        id: String,
    },
    /// Another volume of this host as it is when this one is made.
    Volume {
        id: String,
    },
    /// What was brought here from another host under this id. Only to hosts that know it
    /// ([`crate::message::HostInfo::carries`]).
    Parcel {
        id: String,
    },
}

/// What a host observes of a volume. Sent whenever it changes, and for all volumes when a session starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    pub id: String,
    /// Generation of the document that has been fully applied (0: none yet), or of the one `Failed` speaks of.
    pub generation: u64,
    pub state: VolumeState,
    pub bytes: u64,
    pub snapshots: Vec<String>,
    /// Size in bytes of each finished export.
    #[serde(default)]
    pub exports: std::collections::BTreeMap<String, u64>,
    /// Why `state` is `Failed`, or what holds up the work on the newest document.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Being worked on.
    Working,
    Ready,
    /// The document could not be applied; what there was before it, is as it was.
    Failed,
    /// Gone without trace.
    Absent,
}

/// The document that makes a host remove a volume.
pub fn absent(id: &str, generation: u64) -> VolumeSpec {
    VolumeSpec {
        id: id.to_string(),
        generation,
        absent: true,
        bytes: 0,
        shared: false,
        source: VolumeSource::Blank,
        snapshots: Vec::new(),
        revert: None,
        exports: Vec::new(),
    }
}
