//! Messages to users: why what was begun after the answer did not come to its end.

use std::time::Duration;

use base::{Context, Result, Timestamp};
use store::Tx;

use crate::Volumes;
use crate::db::messages::{self as db, Message};
use crate::model::Volume;

/// How long a message is kept.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// A number of upstream's, and what it means.
pub type Words = (&'static str, &'static str);

/// What was done.
pub const SCHEDULE: Words = ("001", "schedule allocate volume");
pub const UPLOAD: Words = ("003", "copy volume to image");
pub const EXTEND: Words = ("007", "extend volume");
pub const CREATE: Words = ("008", "create volume from backend storage");
pub const SNAPSHOT_CREATE: Words = ("009", "create snapshot");
pub const SNAPSHOT_DELETE: Words = ("010", "delete snapshot");
pub const REIMAGE: Words = ("017", "reimage volume");
const ACTIONS: &[Words] = &[SCHEDULE, UPLOAD, EXTEND, CREATE, SNAPSHOT_CREATE, SNAPSHOT_DELETE, REIMAGE];

/// What came of it.
pub const UNKNOWN: Words = ("001", "An unknown error occurred.");
pub const NO_BACKEND: Words = ("003", "Could not find any available weighted backend.");
pub const NOT_UPLOADED: Words = ("004", "Failed to upload volume to image at backend.");
pub const NOT_EXTENDED: Words = ("010", "Volume Driver failed to extend volume.");
const DETAILS: &[Words] = &[UNKNOWN, NO_BACKEND, NOT_UPLOADED, NOT_EXTENDED];

/// What a user reads.
pub fn text(message: &Message) -> String {
    let words = |known: &[Words], number: &str, other: &'static str| known.iter().find(|w| w.0 == number).map_or(other, |w| w.1);
    format!("{}:{}", words(ACTIONS, &message.action, "unknown action"), words(DETAILS, &message.detail, UNKNOWN.1))
}

/// Tells a project why something was not done with its volume or snapshot.
pub fn message_in(tx: &Tx, ctx: &Context, volume: &Volume, snapshot: Option<&str>, action: Words, detail: Words) -> Result<()> {
    let (kind, resource) = snapshot.map_or(("VOLUME", volume.id.as_str()), |id| ("VOLUME_SNAPSHOT", id));
    let now = Timestamp::now();
    db::message_insert_in(
        tx,
        &Message {
            id: base::id::uuid(),
            project_id: volume.project_id.clone(),
            request_id: ctx.request_id.clone(),
            action: action.0.into(),
            detail: detail.0.into(),
            event_id: format!("VOLUME_{kind}_{}_{}", action.0, detail.0),
            level: "ERROR".into(),
            resource_type: kind.into(),
            resource_uuid: resource.into(),
            created_at: now,
            expires_at: now.plus(KEPT),
        },
    )
}

impl Volumes {
    /// A message of the caller's project.
    pub fn message_visible_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<Message> {
        match db::message_fetch_in(tx, id)? {
            Some(message) if ctx.is_admin() || message.project_id == ctx.project_id() => Ok(message),
            _ => Err(db::not_found(id)),
        }
    }
}
