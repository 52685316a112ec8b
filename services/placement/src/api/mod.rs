//! The Placement API: wire forms and version windows. Source: the Placement API reference and its version history.

mod aggregates;
mod allocations;
mod candidates;
mod classes;
mod inventories;
mod providers;
mod reshaper;
mod traits;
mod usages;

use base::{Error, Kind, Result, Timestamp};
use http_api::response::set_header;
use http_api::{Api, FaultStyle, Request, Response, Routes, Table, Version, Versions, json};
use serde_json::{Value, json};
use store::{Tx, params};

use crate::Placement;
use crate::claims::provider_raise_in;

pub const VERSIONS: Versions = Versions { service: "placement", legacy_header: None, min: Version::new(1, 0), max: Version::new(1, 39) };

const fn v(minor: u16) -> Version {
    Version::new(1, minor)
}

pub fn routes(placement: Placement) -> Result<Table> {
    let api = Api { service: "placement", style: FaultStyle::Placement, versions: Some(VERSIONS), head: false, slash: false };
    Routes::new(placement, api)
        .public("GET", "/", versions)
        .get("/resource_providers", providers::index)
        .post("/resource_providers", providers::create)
        .get("/resource_providers/{uuid}", providers::show)
        .put("/resource_providers/{uuid}", providers::update)
        .delete("/resource_providers/{uuid}", providers::delete)
        .get("/resource_providers/{uuid}/inventories", inventories::index)
        .post("/resource_providers/{uuid}/inventories", inventories::create)
        .put("/resource_providers/{uuid}/inventories", inventories::replace)
        .delete("/resource_providers/{uuid}/inventories", inventories::clear)
        .get("/resource_providers/{uuid}/inventories/{class}", inventories::show)
        .put("/resource_providers/{uuid}/inventories/{class}", inventories::update)
        .delete("/resource_providers/{uuid}/inventories/{class}", inventories::delete)
        .get("/resource_providers/{uuid}/aggregates", aggregates::index)
        .put("/resource_providers/{uuid}/aggregates", aggregates::replace)
        .get("/resource_providers/{uuid}/traits", traits::provider_index)
        .put("/resource_providers/{uuid}/traits", traits::provider_replace)
        .delete("/resource_providers/{uuid}/traits", traits::provider_clear)
        .get("/resource_providers/{uuid}/usages", usages::provider)
        .get("/resource_providers/{uuid}/allocations", allocations::provider)
        .get("/resource_classes", classes::index)
        .post("/resource_classes", classes::create)
        .get("/resource_classes/{name}", classes::show)
        .put("/resource_classes/{name}", classes::update)
        .delete("/resource_classes/{name}", classes::delete)
        .get("/traits", traits::index)
        .get("/traits/{name}", traits::show)
        .put("/traits/{name}", traits::create)
        .delete("/traits/{name}", traits::delete)
        .post("/allocations", allocations::manage)
        .get("/allocations/{consumer}", allocations::show)
        .put("/allocations/{consumer}", allocations::update)
        .delete("/allocations/{consumer}", allocations::delete)
        .post("/reshaper", reshaper::create)
        .get("/allocation_candidates", candidates::index)
        .get("/usages", usages::project)
        .build()
}

async fn versions(_: Placement, req: Request) -> Result<Response> {
    let v1 = json!({
        "id": "v1.0", "min_version": VERSIONS.min.to_string(), "max_version": VERSIONS.max.to_string(), "status": "CURRENT",
        "links": [{"rel": "self", "href": ""}],
    });
    dated(&req, json(200, &json!({"versions": [v1]}))?, None)
}

/// From 1.15 on answers say when the thing last changed and that they are not to be cached.
fn dated(req: &Request, mut response: Response, changed: Option<Timestamp>) -> Result<Response> {
    if req.version >= v(15) {
        let at = changed.unwrap_or_else(Timestamp::now).http_date();
        set_header(&mut response, "last-modified", &at);
        set_header(&mut response, "cache-control", "no-cache");
    }
    Ok(response)
}

/// A resource that came with `min`.
fn since(req: &Request, min: Version) -> Result<()> {
    if req.version >= min { Ok(()) } else { Err(Error::new(Kind::NotFound, "The resource could not be found.")) }
}

/// A method that came with `min`.
fn method_since(req: &Request, min: Version) -> Result<()> {
    if req.version >= min {
        Ok(())
    } else {
        Err(Error::new(Kind::MethodNotAllowed, "The method specified is not allowed for this resource."))
    }
}

fn authorize(placement: &Placement, rule: &str, req: &Request) -> Result<()> {
    placement.core.authorize("placement", rule, &req.ctx, &[("project_id", req.ctx.project_id())])
}

/// For what has a body or answers with one: it must be JSON, then the rule is asked.
fn admit(placement: &Placement, rule: &str, req: &Request) -> Result<()> {
    if req.method == "GET" {
        accepts_json(req)?
    } else {
        is_json(req)?
    }
    authorize(placement, rule, req)
}

fn accepts_json(req: &Request) -> Result<()> {
    let Some(accept) = req.header("accept").filter(|a| !a.trim().is_empty()) else { return Ok(()) };
    let fits = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|p| p.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0)));
        matches!(kind.as_str(), "application/json" | "application/*" | "*/*") && !refused
    };
    if accept.split(',').any(fits) { Ok(()) } else { Err(Error::new(Kind::NotAcceptable, "Only application/json is provided")) }
}

fn is_json(req: &Request) -> Result<()> {
    let kind = req.header("content-type").map(|t| t.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match kind.as_deref() {
        Some("application/json") => Ok(()),
        None | Some("") if !req.body.is_empty() => Err(Error::invalid("content-type header required when content-length > 0")),
        kind => {
            let kind = kind.filter(|k| !k.is_empty()).unwrap_or("None");
            Err(Error::new(Kind::UnsupportedMediaType, format!("The media type {kind} is not supported, use application/json")))
        }
    }
}

/// A provider's own columns.
#[derive(Clone, Debug)]
struct Provider {
    uuid: String,
    name: String,
    generation: i64,
    parent: Option<String>,
    root: String,
    updated_at: Timestamp,
}

const PROVIDER: &str = "uuid, name, generation, parent, root, updated_at";

fn provider_row(r: &store::Row) -> Result<Provider> {
    Ok(Provider {
        uuid: r.text(0)?,
        name: r.text(1)?,
        generation: r.int(2)?,
        parent: r.opt_text(3)?,
        root: r.text(4)?,
        updated_at: r.time(5)?,
    })
}

fn provider_in(tx: &Tx, uuid: &str) -> Result<Provider> {
    let found = tx.query_opt(&format!("SELECT {PROVIDER} FROM provider WHERE uuid = ?1"), params![uuid], provider_row)?;
    found.ok_or_else(|| Error::new(Kind::NotFound, format!("No resource provider with uuid {uuid} found")))
}

/// The provider of the path: that there is one is asked before the body is read.
async fn provider_of(placement: &Placement, req: &Request) -> Result<Provider> {
    placement.core.store.read(|tx| provider_in(tx, req.param("uuid"))).await
}

/// Checks the generation the client saw, and raises it. Returns the new generation.
fn generation_bump_in(tx: &Tx, provider: &Provider, seen: Option<i64>) -> Result<i64> {
    if seen.is_some_and(|seen| seen != provider.generation) {
        return Err(concurrent("resource provider generation conflict"));
    }
    provider_raise_in(tx, &provider.uuid, Timestamp::now())?;
    Ok(provider.generation + 1)
}

/// Somebody was faster.
fn concurrent(message: impl Into<String>) -> Error {
    Error::conflict(message).named("placement.concurrent_update")
}

/// An object of exactly these attributes.
fn only(object: &serde_json::Map<String, Value>, known: &[&str]) -> Result<()> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Error::invalid(format!("JSON does not validate: Additional properties are not allowed ('{key}' was unexpected)"))),
        None => Ok(()),
    }
}

fn wrong(field: &str, why: &str) -> Error {
    Error::invalid(format!("JSON does not validate: {field}: {why}"))
}

fn text_at<'a>(object: &'a serde_json::Map<String, Value>, name: &str) -> Result<&'a str> {
    match object.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong(name, "is not of type 'string'")),
        None => Err(wrong(name, "is a required property")),
    }
}

fn uuid_at(object: &serde_json::Map<String, Value>, name: &str) -> Result<String> {
    crate::names::canonical(text_at(object, name)?).ok_or_else(|| wrong(name, "is not a 'uuid'"))
}

fn int_at(object: &serde_json::Map<String, Value>, name: &str, min: i64) -> Result<Option<i64>> {
    match object.get(name) {
        None => Ok(None),
        Some(value) => {
            let n = value.as_i64().ok_or_else(|| wrong(name, "is not of type 'integer'"))?;
            if n < min || n > i64::from(i32::MAX) {
                Err(wrong(name, &format!("{n} is not between {min} and {}", i32::MAX)))
            } else {
                Ok(Some(n))
            }
        }
    }
}
