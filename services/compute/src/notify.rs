//! Events about servers for the outbox, under upstream's notification names.

use base::{Context, Result};
use events::{Event, Priority};
use serde_json::{Value, json};
use store::Tx;

use crate::db::servers::Server;

/// What a server is, in upstream's oldest form of it.
pub fn payload(server: &Server) -> Value {
    let flavor = server.doc.flavor.as_ref();
    let image = server.doc.image.as_ref();
    let of_image = |key: &str| image.and_then(|image| image.properties.get(key)).map(String::as_str).unwrap_or_default();
    json!({
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
        "vcpus": flavor.map_or(server.vcpus, |f| f.vcpus),
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
        "instance_type_id": server.flavor_id,
        "architecture": of_image("hw_architecture"),
        "os_type": of_image("os_type"),
        "kernel_id": "",
        "ramdisk_id": "",
        "cell_name": "",
        "access_ip_v4": server.access_ip_v4,
        "access_ip_v6": server.access_ip_v6,
        "image_meta": image.map(|image| &image.properties).cloned().unwrap_or_default(),
    })
}

/// Records `compute.instance.<what>`, for example `create.end`.
pub fn server_event_in(tx: &Tx, what: &str, server: &Server, ctx: &Context, problem: Option<&str>) -> Result<()> {
    let mut payload = payload(server);
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
    if server.doc.placement.group.is_some() {
        task::nudge_in(tx, crate::messages::NAME);
        task::nudge_in(tx, crate::sync::group_alarms::NAME);
    }
    events::record(tx, &event).map(drop)
}
