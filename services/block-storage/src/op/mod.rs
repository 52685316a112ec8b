//! Durable operations on volumes. Those of one volume run one after the other.

mod change;
mod create;
mod delete;
pub mod migrate;
pub mod upload;

pub use change::{Change, VolumeChange};
pub use create::VolumeCreate;
pub use delete::VolumeDelete;
pub use migrate::VolumeMigrate;
pub use upload::VolumeUpload;

use std::time::Duration;

use base::Context;
use serde_json::Value;
use task::New;

use crate::model::Volume;

pub const CREATE: &str = "block_storage.volume_create";
pub const DELETE: &str = "block_storage.volume_delete";
pub const CHANGE: &str = "block_storage.volume_change";
pub const MIGRATE: &str = "block_storage.volume_migrate";
pub const UPLOAD: &str = "block_storage.volume_upload";

/// How long an image may be on its way to the controller from another store.
const IMAGE: Duration = Duration::from_secs(1800);

pub fn submit(kind: &str, volume: &Volume, ctx: &Context, params: Value) -> New {
    New::new(kind, "volume", &volume.id).project(&volume.project_id).context(ctx.clone()).params(params)
}
