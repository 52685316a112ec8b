//! An image as it is stored, and who may see it.

use std::collections::{BTreeMap, BTreeSet};

use base::{Error, Result, Timestamp};
use policy::{Attr, Target};
use serde_json::{Map, Value};

/// Where an image is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Has no content yet.
    Queued,
    /// Content is being uploaded.
    Saving,
    /// Content is being staged, or waits for its import.
    Uploading,
    /// Content is being imported.
    Importing,
    Active,
    /// Has content that is not given out.
    Deactivated,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Saving => "saving",
            Status::Uploading => "uploading",
            Status::Importing => "importing",
            Status::Active => "active",
            Status::Deactivated => "deactivated",
        }
    }
    pub fn parse(text: &str) -> Result<Status> {
        [Status::Queued, Status::Saving, Status::Uploading, Status::Importing, Status::Active, Status::Deactivated]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| Error::internal(format!("image status {text:?}")))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    Private,
    Shared,
    Community,
    Public,
}

impl Visibility {
    pub fn as_str(self) -> &'static str {
        match self {
            Visibility::Private => "private",
            Visibility::Shared => "shared",
            Visibility::Community => "community",
            Visibility::Public => "public",
        }
    }
    pub fn parse(text: &str) -> Result<Visibility> {
        [Visibility::Private, Visibility::Shared, Visibility::Community, Visibility::Public]
            .into_iter()
            .find(|v| v.as_str() == text)
            .ok_or_else(|| Error::invalid(format!("Invalid visibility value: {text}")))
    }
}

/// A store that has an image's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub store: String,
    /// Where, if the store does not know that by itself; otherwise empty.
    pub url: String,
    /// What its user has noted about it; not the store, which is shown with it.
    pub metadata: Map<String, Value>,
}

impl Location {
    /// In a store that knows where its content is.
    pub fn of(store: &str) -> Location {
        Location { store: store.into(), url: String::new(), metadata: Map::new() }
    }
    /// In a store that is to be told where: at this address, or in one of the others when that is empty.
    pub fn at(store: &str, url: impl Into<String>) -> Location {
        Location { url: url.into(), ..Location::of(store) }
    }
    /// Whether it is the same place, whatever is noted about it.
    pub fn is(&self, other: &Location) -> bool {
        self.store == other.store && self.url == other.url
    }
}

#[derive(Clone, Debug)]
pub struct Image {
    pub id: String,
    pub name: Option<String>,
    pub status: Status,
    pub visibility: Visibility,
    pub owner: Option<String>,
    pub protected: bool,
    pub os_hidden: bool,
    pub disk_format: Option<String>,
    pub container_format: Option<String>,
    /// GiB.
    pub min_disk: u64,
    /// MiB.
    pub min_ram: u64,
    pub size: Option<u64>,
    pub virtual_size: Option<u64>,
    /// What the content was found to be; none: it was not inspected.
    pub content_format: Option<String>,
    pub checksum: Option<String>,
    pub os_hash_algo: Option<String>,
    pub os_hash_value: Option<String>,
    pub sha256: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub generation: i64,
    pub properties: BTreeMap<String, String>,
    pub tags: BTreeSet<String>,
    /// Where the content is, in order.
    pub locations: Vec<Location>,
    /// The caller's project, when the image is shared with it.
    pub member: Option<String>,
}

impl Image {
    /// A new image without content.
    pub fn new(id: String, owner: Option<String>) -> Image {
        let now = Timestamp::now();
        Image {
            id,
            name: None,
            status: Status::Queued,
            visibility: Visibility::Shared,
            owner,
            protected: false,
            os_hidden: false,
            disk_format: None,
            container_format: None,
            min_disk: 0,
            min_ram: 0,
            size: None,
            virtual_size: None,
            content_format: None,
            checksum: None,
            os_hash_algo: None,
            os_hash_value: None,
            sha256: None,
            created_at: now,
            updated_at: now,
            generation: 1,
            properties: BTreeMap::new(),
            tags: BTreeSet::new(),
            locations: Vec::new(),
            member: None,
        }
    }

    /// Whether a project sees it, before policy has its say. `project` is empty for tokens without one.
    pub fn is_visible_to(&self, project: &str, admin: bool) -> bool {
        admin
            || matches!(self.visibility, Visibility::Public | Visibility::Community)
            || match &self.owner {
                None => true,
                Some(owner) => {
                    !project.is_empty()
                        && (owner == project || (self.visibility == Visibility::Shared && self.member.as_deref() == Some(project)))
                }
            }
    }
}

/// What policy rules may ask of an image.
impl Target for Image {
    fn attribute(&self, name: &str) -> Option<Attr<'_>> {
        fn optional(value: &Option<String>) -> Option<Attr<'_>> {
            Some(value.as_deref().map_or(Attr::Null, Attr::Str))
        }
        match name {
            "id" | "image_id" => Some(Attr::Str(&self.id)),
            "project_id" | "owner" => optional(&self.owner),
            // Without a membership there is nothing that an equally absent project of the caller could match.
            "member_id" | "member" => self.member.as_deref().map(Attr::Str),
            "name" => optional(&self.name),
            "disk_format" => optional(&self.disk_format),
            "container_format" => optional(&self.container_format),
            "status" => Some(Attr::Str(self.status.as_str())),
            "visibility" => Some(Attr::Str(self.visibility.as_str())),
            "protected" => Some(Attr::Bool(self.protected)),
            "os_hidden" => Some(Attr::Bool(self.os_hidden)),
            _ => self.properties.get(name).map(|value| Attr::Str(value)),
        }
    }
}

/// One project an image is shared with.
#[derive(Clone, Debug)]
pub struct Member {
    pub image_id: String,
    pub member: String,
    pub status: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}
