//! The wire: routes and handlers, one resource a file.

mod application_credentials;
mod assignments;
mod auth;
mod credentials;
mod discovery;
mod domain_config;
mod domains;
mod ec2;
mod endpoint_filter;
mod endpoint_policy;
mod endpoints;
mod federation;
mod grants;
mod groups;
mod json_home;
mod limits;
mod oauth1;
mod oauth2;
mod policies;
mod projects;
mod regions;
mod registered_limits;
mod revocations;
mod roles;
mod services;
mod trusts;
mod users;

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::HeaderValue;
use base::{Context, Result, Scope};
use bytes::Bytes;
use http_api::{Api, FaultStyle, Request, Response, Routes, Table, response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Identity;
use crate::wire::Object;

pub fn routes(identity: Identity) -> Result<Table> {
    let api = Api { service: "identity", style: FaultStyle::Identity, versions: None, head: true, slash: true };
    let all: &[fn(R) -> R] = &[
        auth::routes,
        users::routes,
        projects::routes,
        roles::routes,
        grants::routes,
        domains::routes,
        groups::routes,
        assignments::routes,
        credentials::routes,
        policies::routes,
        trusts::routes,
        application_credentials::routes,
        revocations::routes,
        regions::routes,
        services::routes,
        endpoints::routes,
        registered_limits::routes,
        limits::routes,
        domain_config::routes,
        ec2::routes,
        oauth1::routes,
        oauth2::routes,
        endpoint_filter::routes,
        endpoint_policy::routes,
        federation::routes,
    ];
    let homes = Arc::<OnceLock<discovery::Homes>>::default();
    let routes = discovery::routes(Routes::new(identity, api), homes.clone());
    let table = all.iter().fold(routes, |routes, add| add(routes)).build()?;
    let _ = homes.set(discovery::Homes::of(table.infos()));
    Ok(table)
}

type R = Routes<Identity>;

/// A JSON answer that caches must keep apart by token.
fn answer(status: u16, body: &impl Serialize) -> Result<Response> {
    let mut response = http_api::json(status, body)?;
    vary(&mut response);
    Ok(response)
}

/// As [`answer`], of JSON that is there already.
fn rendered(status: u16, body: Bytes) -> Response {
    let mut response = response::with_type(status, "application/json", Body::from(body));
    vary(&mut response);
    response
}

fn nothing() -> Result<Response> {
    let mut response = http_api::empty(204)?;
    vary(&mut response);
    Ok(response)
}

fn vary(response: &mut Response) {
    response.headers_mut().insert("vary", HeaderValue::from_static("X-Auth-Token"));
}

/// The domain of a new user, group or project whose request names none.
fn default_domain(ctx: &Context) -> String {
    match &ctx.scope {
        Scope::Domain { id, .. } => id.clone(),
        _ => "default".into(),
    }
}

/// The part of a target that repeats the caller's domain. Without one it stays away: a rule that asks for it must fail, and
/// an empty value would equal the caller's missing domain.
fn own_domain(ctx: &Context, inside: impl FnOnce(&str) -> Value) -> Value {
    ctx.domain_id().map_or_else(|| json!({}), |domain| json!({ "target": inside(domain) }))
}

/// What rules may ask about a thing that is to be made: the texts of its request, nothing that is missing.
fn wanted(what: &str, map: &Object) -> Value {
    let texts = map.iter().filter(|(name, value)| matches!(name.as_str(), "domain_id" | "name") && value.is_string());
    let inner: Object = texts.map(|(name, value)| (name.clone(), value.clone())).collect();
    json!({ "target": { what: inner } })
}

/// The most items on a page.
fn max(identity: &Identity) -> u64 {
    identity.0.config.int("api.max_limit")
}

/// The limit that was asked for, when there is more than it lets through.
fn more(ask: &crate::list::Ask, more: bool) -> Option<u64> {
    ask.limit.filter(|_| more)
}

fn is_head(req: &Request) -> bool {
    req.method == axum::http::Method::HEAD
}
