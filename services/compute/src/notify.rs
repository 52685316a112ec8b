//! Events about servers for the outbox, under upstream's notification names.

use base::{Context, Result};
use events::{Event, Priority};
use serde_json::json;
use store::Tx;

use crate::db::servers::Server;

/// Records `compute.instance.<what>`, for example `create.end`.
pub fn server_event_in(tx: &Tx, what: &str, server: &Server, ctx: &Context, problem: Option<&str>) -> Result<()> {
    let flavor = server.doc.flavor.as_ref();
    let mut payload = json!({
        "instance_id": server.id,
        "tenant_id": server.project_id,
        "user_id": server.user_id,
        "display_name": server.display_name,
        "hostname": server.hostname,
        "reservation_id": server.reservation_id,
        "host": server.host,
        "node": server.node,
        "availability_zone": server.availability_zone,
        "state": server.vm_state,
        "state_description": server.task_state.as_deref().unwrap_or_default(),
        "progress": server.progress,
        "instance_type": flavor.map(|f| f.name.as_str()),
        "instance_flavor_id": server.flavor_id,
        "vcpus": server.vcpus,
        "memory_mb": server.memory_mb,
        "root_gb": flavor.map(|f| f.root_gb),
        "ephemeral_gb": flavor.map(|f| f.ephemeral_gb),
        "disk_gb": flavor.map(|f| f.root_gb + f.ephemeral_gb),
        "image_ref_url": server.image_ref,
        "metadata": server.doc.metadata,
        "created_at": server.created_at.iso_plain().replace('T', " "),
        "launched_at": server.launched_at.map(|t| t.iso_plain().replace('T', " ")).unwrap_or_default(),
        "deleted_at": if server.deleted { server.terminated_at.map(|t| t.iso_plain().replace('T', " ")) } else { None }.unwrap_or_default(),
        "terminated_at": server.terminated_at.map(|t| t.iso_plain().replace('T', " ")).unwrap_or_default(),
    });
    if let Some(problem) = problem {
        payload["fault"] = json!(problem);
    }
    let publisher = server.host.as_ref().map_or_else(|| "compute".to_string(), |host| format!("compute.{host}"));
    let priority = if problem.is_some() { Priority::Error } else { Priority::Info };
    let event = Event::new(format!("compute.instance.{what}"), &server.id, ctx)
        .project(&server.project_id)
        .publisher(publisher)
        .priority(priority)
        .payload(payload);
    events::record(tx, &event).map(drop)
}
