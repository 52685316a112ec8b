//! `/os-availability-zone` (compute API reference, "Availability zones").

use std::collections::BTreeMap;

use base::Result;
use http_api::{Request, Response, Routes, json};
use serde_json::{Value, json};

use crate::Compute;
use crate::db::nodes::{DEFAULT_ZONE, Node, node_list_in, zones_in};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes.get("/os-availability-zone", index).get("/os-availability-zone/detail", detail)
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-availability-zone:list", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    list(compute, false).await
}

async fn detail(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-availability-zone:detail", &req.ctx, &())?;
    list(compute, true).await
}

async fn list(compute: Compute, detailed: bool) -> Result<Response> {
    let (nodes, zones) = compute.core.store.read(|tx| Ok((node_list_in(tx)?, zones_in(tx)?))).await?;
    let mut by_zone: BTreeMap<String, Vec<&Node>> = BTreeMap::new();
    for node in &nodes {
        by_zone.entry(zones.get(&node.name).cloned().unwrap_or_else(|| DEFAULT_ZONE.into())).or_default().push(node);
    }
    let hosts = |nodes: &[&Node]| -> Value {
        let rows = nodes.iter().map(|n| {
            let service = json!({"active": !n.disabled, "available": n.is_up(), "updated_at": n.updated_at.iso_micros()});
            (n.name.clone(), json!({"nova-compute": service}))
        });
        Value::Object(rows.collect())
    };
    // A zone is available while one of its hosts can take servers.
    let info: Vec<Value> = by_zone
        .iter()
        .map(|(name, nodes)| {
            json!({
                "zoneName": name,
                "zoneState": {"available": nodes.iter().any(|n| !n.disabled)},
                "hosts": if detailed { hosts(nodes) } else { Value::Null },
            })
        })
        .collect();
    json(200, &json!({"availabilityZoneInfo": info}))
}
