//! Volumes, snapshots and attachments as they are stored.

use std::collections::BTreeMap;

use base::Timestamp;
use policy::{Attr, Target};
use rpc::volume::{Export, Parts, Revert, Role, VolumeSource};
use serde::{Deserialize, Serialize};

pub type Metadata = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub struct Volume {
    pub id: String,
    pub generation: i64,
    pub project_id: String,
    pub user_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    /// GiB.
    pub size: i64,
    pub type_id: Option<String>,
    pub zone: String,
    pub host_id: Option<String>,
    pub host: Option<String>,
    pub bootable: bool,
    pub multiattach: bool,
    pub snapshot_id: Option<String>,
    pub source_volid: Option<String>,
    pub migration_status: Option<String>,
    pub group_id: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec_generation: u64,
    /// The storage (id) that it is in, if several hosts see it; none: the disk of its host.
    pub storage: Option<String>,
    pub doc: VolumeDoc,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeDoc {
    pub metadata: Metadata,
    /// Of the image it was made from.
    pub image_metadata: Metadata,
    pub readonly: Option<bool>,
    /// What it was before what is done with it now.
    pub previous_status: Option<String>,
    /// None: not known yet, it is not made.
    pub source: Option<VolumeSource>,
    pub revert: Option<Revert>,
    pub exports: Vec<Export>,
    /// While it is carried to another host.
    pub parcel: Option<Parcel>,
    pub launched_at: Option<Timestamp>,
    /// Only this host will do.
    pub wanted_host: Option<String>,
    pub type_name: Option<String>,
    /// What the backend of the storage is called.
    pub storage_name: Option<String>,
    /// The host (id) that kept it before this one, in shared storage, and whether that is certain to do nothing with it any more.
    pub kept_by: Option<String>,
    pub seize: bool,
    /// While its type changes: what it had before, which is what it is for everybody until the change is done.
    pub former_type: Option<FormerType>,
    /// What is frozen of it beside its snapshots: the image that it holds.
    pub frozen: Option<String>,
}

/// A volume's content on its way to a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parcel {
    /// Also of the export on the old host.
    pub id: String,
    pub to: String,
    /// The operation that carries it.
    pub by: String,
    /// What it is made of, when it went in several files; known when all of them are there.
    #[serde(default)]
    pub parts: Option<Parts>,
}

/// Id and name of a type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FormerType {
    pub id: Option<String>,
    pub name: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub id: String,
    pub generation: i64,
    pub volume_id: String,
    pub project_id: String,
    pub user_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    pub size: i64,
    pub progress: String,
    pub group_snapshot_id: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub doc: SnapshotDoc,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotDoc {
    pub metadata: Metadata,
    pub image_metadata: Metadata,
    pub bootable: bool,
    pub type_id: Option<String>,
}

/// Volumes that are kept together.
#[derive(Clone, Debug)]
pub struct VolumeGroup {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    pub group_type_id: String,
    pub zone: String,
    /// Ids of the types its volumes may have.
    pub volume_types: Vec<String>,
    pub group_snapshot_id: Option<String>,
    pub source_group_id: Option<String>,
    pub created_at: Timestamp,
}

/// Snapshots of all volumes of a group.
#[derive(Clone, Debug)]
pub struct GroupSnapshot {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub group_id: String,
    pub group_type_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    pub created_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Attachment {
    pub id: String,
    pub volume_id: String,
    pub project_id: String,
    pub server_id: Option<String>,
    pub host: Option<String>,
    pub mountpoint: Option<String>,
    pub mode: String,
    pub status: String,
    pub attached_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub doc: AttachmentDoc,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachmentDoc {
    pub connector: Option<serde_json::Value>,
    pub connection_info: serde_json::Map<String, serde_json::Value>,
}

impl Volume {
    /// Id and name of the type that it has for everybody.
    pub fn shown_type(&self) -> (Option<&str>, Option<&str>) {
        match &self.doc.former_type {
            Some(former) => (former.id.as_deref(), former.name.as_deref()),
            None => (self.type_id.as_deref(), self.doc.type_name.as_deref()),
        }
    }

    /// Whether it can be passed to another host as it is. One of several servers is on one host with all of them.
    pub fn is_passable(&self) -> bool {
        self.storage.is_some() && !self.multiattach
    }

    /// How its host comes to keep it, in shared storage.
    pub fn takes(&self) -> Role {
        match &self.doc.kept_by {
            Some(from) if self.doc.seize => Role::Seize { from: from.clone() },
            _ => Role::Keep,
        }
    }

    /// The pool that it is in, without its host.
    pub fn pool(&self) -> &str {
        self.doc.storage_name.as_deref().unwrap_or(crate::capabilities::LOCAL)
    }

    pub fn status_is(&self, any: &[&str]) -> bool {
        any.contains(&self.status.as_str())
    }
}

macro_rules! target {
    ($type:ty) => {
        /// What policy rules may ask.
        impl Target for $type {
            fn attribute(&self, name: &str) -> Option<Attr<'_>> {
                match name {
                    "project_id" | "tenant_id" => Some(Attr::Str(&self.project_id)),
                    "id" => Some(Attr::Str(&self.id)),
                    _ => None,
                }
            }
        }
    };
}
target!(Volume);
target!(Snapshot);
target!(Attachment);
target!(VolumeGroup);
target!(GroupSnapshot);
