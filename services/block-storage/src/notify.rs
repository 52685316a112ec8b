//! Events for the outbox, under upstream's notification names.

use base::{Context, Result};
use events::{Event, Priority};
use serde_json::json;
use store::Tx;

use crate::model::{Snapshot, Volume};

/// Records `volume.<what>`, for example `create.end`.
pub fn volume_event_in(tx: &Tx, what: &str, volume: &Volume, ctx: &Context, problem: Option<&str>) -> Result<()> {
    let mut payload = json!({
        "volume_id": volume.id,
        "tenant_id": volume.project_id,
        "user_id": volume.user_id,
        "host": volume.host,
        "display_name": volume.name,
        "availability_zone": volume.zone,
        "volume_type": volume.type_id,
        "size": volume.size,
        "status": volume.status,
        "snapshot_id": volume.snapshot_id,
        "created_at": volume.created_at.iso_plain(),
        "launched_at": volume.doc.launched_at.map(|t| t.iso_plain()),
        "metadata": volume.doc.metadata,
    });
    if let Some(problem) = problem {
        payload["error"] = json!(problem);
    }
    record(tx, format!("volume.{what}"), &volume.id, &volume.project_id, ctx, payload, problem.is_some())
}

/// Records `snapshot.<what>`.
pub fn snapshot_event_in(tx: &Tx, what: &str, snapshot: &Snapshot, ctx: &Context, problem: Option<&str>) -> Result<()> {
    let payload = json!({
        "snapshot_id": snapshot.id,
        "volume_id": snapshot.volume_id,
        "tenant_id": snapshot.project_id,
        "user_id": snapshot.user_id,
        "display_name": snapshot.name,
        "volume_size": snapshot.size,
        "status": snapshot.status,
        "created_at": snapshot.created_at.iso_plain(),
        "metadata": snapshot.doc.metadata,
        "error": problem,
    });
    record(tx, format!("snapshot.{what}"), &snapshot.id, &snapshot.project_id, ctx, payload, problem.is_some())
}

fn record(tx: &Tx, kind: String, id: &str, project: &str, ctx: &Context, payload: serde_json::Value, bad: bool) -> Result<()> {
    let priority = if bad { Priority::Error } else { Priority::Info };
    let event = Event::new(kind, id, ctx).project(project).priority(priority).payload(payload);
    events::record(tx, &event).map(drop)
}
