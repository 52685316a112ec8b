//! The API, versions 1.0 to 1.3 (API reference "Instance High Availability").
//!
//! | route | does |
//! |---|---|
//! | `/v1/segments` | failover segments; `enabled` since 1.2 |
//! | `/v1/segments/{id}/hosts` | their hosts |
//! | `/v1/notifications` | failures that were told of; what was done about one since 1.1 |
//! | `/v1/notifications/{id}/vmoves` | what became of each instance, since 1.3 |
//!
//! Times are ISO 8601 in UTC without a zone. Lists are the newest first, at most 1,000 to a page; a marker is an id or a uuid.

mod hosts;
mod notifications;
mod segments;
mod vmoves;

use base::{Error, Kind, Result, Timestamp};
use compute::fields::Field;
use http_api::{Api, FaultStyle, Page, Request, Response, Routes, SortDir, Table, Version, Versions, json};
use serde_json::{Value, json};
use store::{Dir, Select};

use crate::segments::Listing;
use crate::{InstanceHa, KIND};

const VERSIONS: Versions = Versions { service: KIND, legacy_header: None, min: Version::new(1, 0), max: Version::new(1, 3) };
const PAGE: u64 = 1000;

pub fn routes(ha: InstanceHa) -> Result<Table> {
    let api = Api { service: KIND, style: FaultStyle::Compute, versions: Some(VERSIONS), head: false, slash: true };
    let routes = Routes::new(ha, api).public("GET", "/", versions).public("GET", "/v1", version).under("/v1");
    [segments::routes, hosts::routes, notifications::routes, vmoves::routes].into_iter().fold(routes, |routes, add| add(routes)).build()
}

fn document(req: &Request) -> Value {
    json!({
        "id": "v1.0",
        "status": "CURRENT",
        "version": VERSIONS.max.to_string(),
        "min_version": VERSIONS.min.to_string(),
        "updated": "2016-07-01T11:33:21Z",
        "links": [{"rel": "self", "href": format!("{}/v1/", req.base_url)}],
    })
}

async fn versions(_: InstanceHa, req: Request) -> Result<Response> {
    json(200, &json!({"versions": [document(&req)]}))
}

async fn version(_: InstanceHa, req: Request) -> Result<Response> {
    let mut document = document(&req);
    document["media-types"] = json!([{"base": "application/json", "type": "application/vnd.openstack.masakari+json;version=1"}]);
    json(200, &json!({"version": document}))
}

/// 404 of what this version does not have yet.
fn since(req: &Request, minor: u16) -> Result<()> {
    if req.version >= Version::new(1, minor) { Ok(()) } else { Err(Error::new(Kind::NotFound, "The resource could not be found.")) }
}

fn time(at: Option<Timestamp>) -> Value {
    json!(at.map(|at| at.iso_micros()))
}

/// Refuses a body in which something is missing: a new thing needs all of `needed`, a change any attribute. Each with whether it is there.
fn complete(f: &Field, new: bool, needed: &[(&str, bool)], others: &[(&str, bool)]) -> Result<()> {
    if let Some((name, _)) = needed.iter().find(|(_, there)| new && !there) {
        return Err(f.wrong(format!("'{name}' is a required property")));
    }
    let all = needed.iter().chain(others);
    if all.clone().any(|(_, there)| *there) {
        return Ok(());
    }
    let names: Vec<String> = all.map(|(name, _)| format!("'{name}'")).collect();
    Err(f.wrong(format!("one of {} is a required property", names.join(", "))))
}

/// What a list is asked for. `keys`: by what it may be sorted, with the columns of it.
fn listing(req: &Request, select: Select, keys: &[(&'static str, &'static str)]) -> Result<Listing> {
    let allowed: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
    let page = Page::from_query(&req.query, PAGE, &allowed)?;
    let column = |key: &str| keys.iter().find(|(known, _)| *known == key).map(|(_, column)| *column);
    let dir = |dir: &SortDir| if *dir == SortDir::Asc { Dir::Asc } else { Dir::Desc };
    let mut order: Vec<(&'static str, Dir)> =
        page.sort.iter().filter_map(|(key, sort)| column(key).map(|column| (column, dir(sort)))).collect();
    // Without a key, and as the last one that makes every order whole: the newest first, or as a lone direction says.
    let first = req.query.get("sort_dir").filter(|_| order.is_empty());
    let last = if first == Some("asc") { Dir::Asc } else { order.first().map_or(Dir::Desc, |(_, dir)| *dir) };
    if order.is_empty() {
        order.push(("created_at", last));
    }
    order.push(("id", last));
    let limit = page.limit.unwrap_or(PAGE);
    Ok(Listing { select, order, marker: page.marker, limit })
}

/// A filter that is a boolean.
fn flag(req: &Request, name: &str) -> Result<Option<bool>> {
    let wrong = |text: &str| Error::invalid(format!("Invalid value for {name}: '{text}' is not a boolean."));
    req.query.get(name).map(|text| http_api::query::parse_bool(text).ok_or_else(|| wrong(text))).transpose()
}

/// Adds the filters that are columns of texts.
fn filtered(req: &Request, mut select: Select, names: &[&str]) -> Select {
    for name in names {
        select = select.opt_eq(name, req.query.get(name));
    }
    select
}
