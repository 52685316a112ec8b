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
    /// Where its files are when hosts share them; none: on the host's own disk. `absent` then means that they go; without it the host
    /// only lets go of what it keeps there.
    #[serde(default)]
    pub stored: Option<Stored>,
}

/// A volume in the storage that hosts share. Only to hosts that see it ([`crate::message::HostInfo::storage`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The storage's id.
    pub storage: String,
    pub role: Role,
}

/// What a host is to a volume that several see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It makes it, and keeps it then.
    Make,
    /// It keeps it, as soon as the host that has kept it has let go.
    Keep,
    /// It keeps it now, whatever this host says, which has kept it: it is certain to do nothing any more.
    Seize { from: String },
    /// It opens it for a guest that comes from the host that keeps it, and changes nothing.
    Visit,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub id: String,
    /// `raw`, `qcow2`, `vmdk`, `vdi`, `vhd` or `vhdx`. Or several files, of hosts that know it ([`crate::message::HostInfo::layers`]):
    /// `layers`, those that the volume and its snapshots are in, and `below`, those without what the volume is written to now.
    pub format: String,
}

/// A file of a volume that goes to another host with its snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The part it lies over, one before it. None: over nothing.
    #[serde(default)]
    pub below: Option<u32>,
    /// Virtual size.
    pub bytes: u64,
    /// Without tables, as large as what is in it.
    #[serde(default)]
    pub raw: bool,
    /// The snapshots that are frozen in it.
    #[serde(default)]
    pub snapshots: Vec<String>,
}

/// What such a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    pub parts: Vec<Part>,
    pub head: Head,
}

/// What of it is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The last part.
    Last,
    /// None of them yet, but an empty one over this part.
    Over(u32),
    /// None of them: an empty one.
    Blank,
}

/// Under which name a part of an export or a parcel is asked for and written: where others have just its id.
pub fn part_key(id: &str, part: u32) -> String {
    format!("{id}-{part}")
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
    /// As that, in several files, with the snapshots in them. Only to hosts that know it ([`crate::message::HostInfo::layers`]).
    Parts {
        id: String,
        parts: Parts,
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
    /// What finished exports of several files are made of.
    #[serde(default)]
    pub parts: std::collections::BTreeMap<String, Parts>,
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
        stored: None,
    }
}
