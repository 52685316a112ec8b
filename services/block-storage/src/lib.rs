//! The block storage service: OpenStack Block Storage v3 over volumes on the hosts' own disks.
//!
//! A volume is a row here and a chain of layers on one host ([`rpc::volume`]). Other services use the [`Volumes`] handle;
//! [`Volumes::service`] is the API.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod api;
mod attachments;
pub mod bring;
mod capabilities;
mod create;
pub mod db;
mod groups;
mod handle;
mod hosts;
pub mod image_volumes;
mod messages;
pub mod model;
mod notify;
mod on_behalf;
pub mod op;
mod passing;
mod places;
mod policy;
pub mod quotas;
mod room;
mod snapshots;
mod statuses;
mod transfers;
mod uploads;
mod visits;
mod volumes;

use std::sync::{Arc, OnceLock};

use base::{Context, Result, Timestamp};
use http_api::{Version, Versions};
use image::Images;
use placement::Placement;
use service::{Core, Service};

pub use create::{ImagePart, VolumeWish};
pub use db::MIGRATIONS;
pub use handle::VolumeFacts;
pub use places::Place;
pub use policy::RULES;
pub use room::CLASS as ROOM;
pub use snapshots::SnapshotWish;
pub use uploads::UploadWish;

/// Name of this service in policies.
pub const KIND: &str = "block-storage";
/// The zone everything is in.
pub const ZONE: &str = "nova";
/// The type volumes get whose maker names none.
pub const DEFAULT_TYPE: &str = "local";

pub const VERSIONS: Versions = Versions { service: "volume", legacy_header: None, min: Version::new(3, 0), max: Version::new(3, 71) };

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Volumes(Arc<Inner>);

pub struct Inner {
    pub core: Core,
    pub images: Images,
    pub placement: Placement,
    pub(crate) statuses: statuses::Statuses,
    pub(crate) projects: OnceLock<image_volumes::Projects>,
    /// For what is started from the thread that commits.
    pub(crate) runtime: tokio::runtime::Handle,
}

impl std::ops::Deref for Volumes {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Volumes {
    pub async fn new(core: Core, images: Images, placement: Placement) -> Result<Volumes> {
        core.store.migrate(KIND, MIGRATIONS).await?;
        core.store
            .write(|tx| {
                // Hosts connect again after a start; until then none is there.
                db::hosts::hosts_all_disconnected_in(tx)?;
                if db::types::type_list_in(tx)?.is_empty() {
                    let now = Timestamp::now();
                    let kind = db::types::VolumeType {
                        id: base::id::uuid(),
                        name: DEFAULT_TYPE.into(),
                        description: Some("On the disk of the host".into()),
                        is_public: true,
                        qos_specs_id: None,
                        created_at: now,
                        updated_at: now,
                        doc: db::types::TypeDoc::default(),
                    };
                    db::types::type_put_in(tx, &kind)?;
                }
                Ok(())
            })
            .await?;
        let runtime = tokio::runtime::Handle::current();
        let (statuses, projects) = (statuses::Statuses::default(), OnceLock::new());
        let volumes = Volumes(Arc::new(Inner { core, images, placement, statuses, projects, runtime }));
        let adopted = volumes.clone();
        volumes.core.store.write(move |tx| adopted.pools_adopt_in(tx)).await?;
        volumes.core.tasks.register(Arc::new(op::VolumeCreate(volumes.clone())));
        volumes.core.tasks.register(Arc::new(op::VolumeDelete(volumes.clone())));
        volumes.core.tasks.register(Arc::new(op::VolumeChange(volumes.clone())));
        volumes.core.tasks.register(Arc::new(op::VolumeUpload(volumes.clone())));
        volumes.core.tasks.register(Arc::new(op::VolumeMigrate(volumes.clone())));
        volumes.core.hosts.listen(Arc::new(volumes.clone()));
        volumes.images.volumes_set(volumes.clone());
        Ok(volumes)
    }

    /// Whether `ctx` may do what `rule` guards, on `target`.
    pub fn authorize(&self, rule: &str, ctx: &Context, target: &dyn ::policy::Target) -> Result<()> {
        self.core.authorize(KIND, rule, ctx, target)
    }

    /// As [`Volumes::authorize`], as an answer instead of an error.
    pub fn may(&self, rule: &str, ctx: &Context, target: &dyn ::policy::Target) -> bool {
        self.core.policy.check(KIND, rule, ctx, target)
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: KIND,
            name: "cinder",
            description: "Volumes that servers use",
            mounts: &["/volume"],
            endpoint: "/volume/v3/{project_id}",
            routes: api::routes(self)?,
        })
    }
}
