//! The image service: OpenStack Image v2.
//!
//! An image is a row and, once it has content, a place in one or several stores; that of the machine itself is a directory of files
//! `$home/images/<sha256>` that images with equal content share.
//! Other services use the [`Images`] handle; [`Images::service`] is the API.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod api;
mod attributes;
pub mod bootable;
mod bring;
mod cache;
mod content;
mod db;
mod download;
pub mod formats;
mod images;
mod imports;
mod key_manager;
mod limits;
mod listing;
mod locations;
mod members;
mod metadefs;
mod model;
mod op;
mod patch;
mod policy;
mod prepare;
mod rbd;
mod remote;
mod s3;
mod schema;
mod signatures;
mod stores;
mod sync;
mod tasks;
mod uploads;
pub mod volumes;
mod web;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base::{Context, Error, Result, Timestamp};
use service::{Core, Service};
use store::Migration;

pub use db::converted::Converted;
pub use key_manager::{Barbican, Endpoint, KeyManager};
pub use limits::Limits;
pub use model::{Image, Status, Visibility};
pub use op::ImageImport;
pub use policy::RULES;
pub use remote::Endpoints;
pub use signatures::{Doubt, Trust};

pub static MIGRATIONS: &[Migration] = &[
    Migration { name: "0001_images", sql: include_str!("../migrations/0001_images.sql") },
    Migration { name: "0002_metadefs", sql: include_str!("../migrations/0002_metadefs.sql") },
    Migration { name: "0003_imports", sql: include_str!("../migrations/0003_imports.sql") },
    Migration { name: "0004_cache", sql: include_str!("../migrations/0004_cache.sql") },
    Migration { name: "0005_created", sql: include_str!("../migrations/0005_created.sql") },
    Migration { name: "0006_bootable", sql: include_str!("../migrations/0006_bootable.sql") },
];

/// Name of this service in policies.
const KIND: &str = "image";

/// The handle of the service; cheap to clone.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    core: Core,
    stores: stores::Stores,
    /// Who may be asked for content.
    sources: download::Sources,
    plugins: prepare::Plugins,
    limits: OnceLock<limits::Limits>,
    endpoints: OnceLock<remote::Endpoints>,
    caching: Caching,
    coming: bring::Coming,
    /// Held by who converts content for hosts.
    converting: tokio::sync::Mutex<()>,
    /// Held while a content file gets its name together with its record, and while one is removed because it has none:
    /// so neither can happen between the two halves of the other.
    publish: tokio::sync::Mutex<()>,
    /// Where certificates of signers are; given when the services that know it are there.
    key_manager: OnceLock<Box<dyn KeyManager>>,
    /// Uploads that this process is receiving.
    uploads: Mutex<HashSet<String>>,
}

/// Wakes the reconciler of the cache.
#[derive(Default)]
struct Caching(OnceLock<task::Nudge>);

impl Caching {
    fn nudge(&self) {
        if let Some(nudge) = self.0.get() {
            nudge.nudge();
        }
    }
}

/// What it takes to start a guest from an image.
#[derive(Clone, Debug)]
pub struct BootImage {
    pub id: String,
    pub name: String,
    pub status: String,
    /// Empty: nobody's.
    pub owner: String,
    /// Empty: not said yet.
    pub disk_format: String,
    pub container_format: String,
    pub min_disk_gib: u64,
    pub min_ram_mib: u64,
    pub size: u64,
    pub virtual_size: Option<u64>,
    /// What the content was found to be; empty: it was not inspected.
    pub content_format: String,
    /// Name of the content file in [`Images::directory`], where [`Images::content_bring`] sees to it; empty while there is no content.
    pub sha256: String,
    pub properties: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub tags: Vec<String>,
    pub visibility: String,
}

impl BootImage {
    /// `InvalidInput` for content that nobody has read: it is at an address of others, and hosts take content by its hash alone.
    pub fn content_known(&self) -> Result<()> {
        if self.sha256.is_empty() && self.size > 0 {
            return Err(Error::invalid(format!(
                "The content of image {} has not been read yet: cache the image or copy it to a store.",
                self.id
            )));
        }
        Ok(())
    }
    /// Why nothing may be made of content that is not what its image says; none when it is, or nobody has looked. A disk with partitions, or one that its
    /// guest has encrypted, is raw.
    pub fn content_unfit(&self) -> Option<String> {
        let found = match self.content_format.as_str() {
            "" => return None,
            "gpt" | "luks" => "raw",
            other => other,
        };
        let opaque = formats::OPAQUE.contains(&self.disk_format.as_str());
        (found != self.disk_format && !(opaque && found == "raw")).then(|| {
            format!("Image {} is unacceptable: disk_format is {}, but the content is {}.", self.id, self.disk_format, self.content_format)
        })
    }
}

impl Images {
    pub async fn new(core: Core) -> Result<Images> {
        core.store.migrate(KIND, MIGRATIONS).await?;
        let stores = stores::Stores::open(&core.config)?;
        let sources = download::Sources::of(&core.config)?;
        let plugins = prepare::Plugins::of(&core.config)?;
        let inner = Inner {
            core,
            stores,
            sources,
            plugins,
            key_manager: OnceLock::new(),
            limits: OnceLock::new(),
            endpoints: OnceLock::new(),
            caching: Caching::default(),
            coming: bring::Coming::default(),
            converting: Default::default(),
            publish: tokio::sync::Mutex::new(()),
            uploads: Mutex::default(),
        };
        let images = Images(Arc::new(inner));
        images.core().tasks.register(Arc::new(op::ImageImport(images.clone())));
        images.standard_load().await?;
        images.core().tasks.reconcile(Arc::new(sync::Content(images.clone())));
        let caching = images.core().tasks.reconcile(Arc::new(sync::Cache(images.clone())));
        let _ = images.0.caching.0.set(caching);
        Ok(images)
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: KIND,
            name: "glance",
            description: "Images that guests are started from",
            mounts: &["/image"],
            endpoint: "/image",
            routes: api::routes(self.clone()).build()?,
        })
    }

    /// Where content files are, each named by its SHA-256 in lower-case hexadecimal.
    pub fn directory(&self) -> PathBuf {
        self.stores().local_directory().path().to_path_buf()
    }

    /// An image for a guest: `NotFound` when the caller may not see it. Whether its status and format do is for the caller to check.
    pub async fn boot_image(&self, ctx: &Context, id: &str) -> Result<BootImage> {
        let image = self.image_show(ctx, id).await?;
        if !image.locations.iter().any(|location| location.store == stores::LOCAL) {
            self.cache_hit(&image.id).await?;
        }
        Ok(BootImage {
            id: image.id,
            name: image.name.unwrap_or_default(),
            status: image.status.as_str().into(),
            owner: image.owner.unwrap_or_default(),
            disk_format: image.disk_format.unwrap_or_default(),
            container_format: image.container_format.unwrap_or_default(),
            min_disk_gib: image.min_disk,
            min_ram_mib: image.min_ram,
            size: image.size.unwrap_or_default(),
            virtual_size: image.virtual_size,
            content_format: image.content_format.unwrap_or_default(),
            sha256: image.sha256.unwrap_or_default(),
            properties: image.properties.into_iter().filter(|(name, _)| !attributes::is_reserved(name)).collect(),
            created_at: image.created_at,
            updated_at: image.updated_at,
            tags: image.tags.into_iter().collect(),
            visibility: image.visibility.as_str().into(),
        })
    }

    /// Says who keeps volumes, once; before that stores that keep images in them are away.
    pub fn volumes_set(&self, keeper: impl volumes::Keeper + 'static) {
        self.stores().keeper().made(keeper);
    }

    fn core(&self) -> &Core {
        &self.0.core
    }
    /// Says where certificates of signers are, once; without it images that are signed get no content.
    pub fn key_manager_set(&self, key_manager: impl KeyManager + 'static) {
        let _ = self.0.key_manager.set(Box::new(key_manager));
    }
    fn key_manager(&self) -> &dyn KeyManager {
        self.0.key_manager.get().map_or(&key_manager::Nowhere, |found| &**found)
    }
    fn stores(&self) -> &stores::Stores {
        &self.0.stores
    }
    fn coming(&self) -> &bring::Coming {
        &self.0.coming
    }
    fn uploads(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
