//! Version documents, availability zones, addresses in use.

use base::Result;
use http_api::{Request, Response, json};
use serde_json::{Value, json};
use store::{Tx, params};

use super::{access, project_fields};
use crate::attr::{Object, flag, show};
use crate::networks::Net;
use crate::row::{self, Resource};
use crate::subnets::Subnet;
use crate::{Network, fault, ip};

pub async fn versions(_net: Network, req: Request) -> Result<Response> {
    let links = json!([{"rel": "self", "href": format!("{}/v2.0/", req.base_url)}]);
    json(200, &json!({"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]}))
}

const COLLECTIONS: &[(&str, &str, &str)] = &[
    ("network", "networks", "networks"),
    ("subnet", "subnets", "subnets"),
    ("port", "ports", "ports"),
    ("router", "routers", "routers"),
    ("floatingip", "floatingips", "floatingips"),
    ("security_group", "security_groups", "security-groups"),
    ("security_group_rule", "security_group_rules", "security-group-rules"),
    ("quota", "quotas", "quotas"),
    ("extension", "extensions", "extensions"),
    ("agent", "agents", "agents"),
    ("availability_zone", "availability_zones", "availability_zones"),
    ("network_ip_availability", "network_ip_availabilities", "network-ip-availabilities"),
    ("service_provider", "service_providers", "service-providers"),
];

pub async fn resources(_net: Network, req: Request) -> Result<Response> {
    let list = COLLECTIONS.iter().map(|(name, collection, path)| {
        json!({"name": name, "collection": collection, "links": [{"rel": "self", "href": format!("{}/v2.0/{path}", req.base_url)}]})
    });
    json(200, &json!({"resources": list.collect::<Vec<_>>()}))
}

/// Keeps what equals every given filter (of several values of one, any), then cuts to `fields`.
pub fn filtered(req: &Request, rows: Vec<Object>) -> Vec<Object> {
    let fields: Vec<String> = req.query.all("fields").map(str::to_string).collect();
    let matches = |row: &Object| {
        row.iter().all(|(name, value)| {
            let mut wanted = req.query.all(name).peekable();
            wanted.peek().is_none()
                || wanted.any(|text| match value {
                    Value::Bool(b) => flag(&json!(text)) == Some(*b),
                    Value::String(known) => known == text,
                    other => show(other) == text,
                })
        })
    };
    let mut rows: Vec<Object> = rows.into_iter().filter(matches).collect();
    for row in &mut rows {
        project_fields(row, &fields);
    }
    rows
}

pub fn object(value: Value) -> Object {
    match value {
        Value::Object(map) => map,
        _ => Object::new(),
    }
}

pub async fn availability_zones(net: Network, req: Request) -> Result<Response> {
    access::require(&net, &req.ctx, "get_availability_zone", &Object::new())?;
    let zones = ["network", "router"].map(|resource| object(json!({"name": net.zone(), "resource": resource, "state": "available"})));
    json(200, &json!({"availability_zones": filtered(&req, zones.into_iter().collect())}))
}

/// How many addresses of a network can be handed out, and how many are.
fn availability_of(tx: &Tx, network: &Net, version: Option<u8>) -> Result<Object> {
    let subnets: Vec<Subnet> = crate::subnets::of_network(tx, network.id())?;
    let mut rows = Vec::new();
    let (mut total, mut used) = (0u128, 0u128);
    for subnet in subnets.iter().filter(|s| version.is_none_or(|v| v == s.ip_version)) {
        let own = subnet
            .allocation_pools
            .iter()
            .map(|p| ip::number(p.end) - ip::number(p.start))
            .fold(0u128, |sum, n| sum.saturating_add(n).saturating_add(1));
        let taken = tx.query_one("SELECT COUNT(*) FROM ip_allocation WHERE subnet_id = ?1", params![subnet.id()], |row| row.count(0))?;
        total = total.saturating_add(own);
        used += u128::from(taken);
        rows.push(json!({
            "subnet_id": subnet.id(),
            "subnet_name": subnet.common.name,
            "cidr": subnet.cidr,
            "ip_version": subnet.ip_version,
            "total_ips": number(own),
            "used_ips": taken,
        }));
    }
    Ok(object(json!({
        "network_id": network.id(),
        "network_name": network.common.name,
        "project_id": network.project(),
        "tenant_id": network.project(),
        "total_ips": number(total),
        "used_ips": number(used),
        "subnet_ip_availability": rows,
    })))
}

/// JSON numbers of this size are floats to most readers, here as upstream.
fn number(n: u128) -> Value {
    u64::try_from(n).map_or_else(|_| json!(n as f64), |n| json!(n))
}

pub async fn availabilities(net: Network, req: Request) -> Result<Response> {
    if !access::allowed(&net, &req.ctx, "get_network_ip_availability", &Object::new()) {
        return json(200, &json!({"network_ip_availabilities": []}));
    }
    let version = match req.query.get("ip_version") {
        None => None,
        Some("4") => Some(4),
        Some("6") => Some(6),
        Some(other) => return Err(fault::input(format!("'{other}' is no ip_version"))),
    };
    let rows = net
        .core()
        .store
        .read(|tx| row::list::<Net>(tx, "1 = 1", params![])?.iter().map(|n| availability_of(tx, n, version)).collect::<Result<Vec<_>>>())
        .await?;
    json(200, &json!({"network_ip_availabilities": filtered(&req, rows)}))
}

pub async fn availability(net: Network, req: Request) -> Result<Response> {
    let id = req.param("id");
    if !access::allowed(&net, &req.ctx, "get_network_ip_availability", &Object::new()) {
        return Err(crate::networks::KIND.missing(id));
    }
    let row = net.core().store.read(|tx| availability_of(tx, &row::fetch::<Net>(tx, id)?, None)).await?;
    json(200, &json!({"network_ip_availability": row}))
}

/// There are no drivers to choose from.
pub async fn service_providers(_net: Network, _req: Request) -> Result<Response> {
    json(200, &json!({"service_providers": []}))
}
