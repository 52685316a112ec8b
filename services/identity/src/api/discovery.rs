//! Version documents, and JSON home for who wants that.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use base::{Error, Result};
use http_api::{Request, Response, RouteInfo, response};
use serde_json::{Value, json};

use super::{R, json_home};

/// JSON home as seen from `/` and from `/v3`. Made of the finished table of routes, of which these here are part.
pub struct Homes {
    root: Value,
    v3: Value,
}

impl Homes {
    pub fn of(routes: &[RouteInfo]) -> Homes {
        Homes { root: json_home::document(routes, "/v3"), v3: json_home::document(routes, "") }
    }
}

pub fn routes(routes: R, homes: Arc<OnceLock<Homes>>) -> R {
    let of_v3 = homes.clone();
    routes
        .public("GET", "/", move |_, req| {
            let homes = homes.clone();
            async move { if json_home::is_wanted(&req) { home(homes.get().map(|homes| &homes.root)) } else { versions(&req) } }
        })
        .public("GET", "/v3", move |_, req| {
            let homes = of_v3.clone();
            async move { if json_home::is_wanted(&req) { home(homes.get().map(|homes| &homes.v3)) } else { version(&req) } }
        })
}

fn home(document: Option<&Value>) -> Result<Response> {
    let document = document.ok_or_else(|| Error::internal("JSON home was asked for before there was one"))?;
    Ok(response::with_type(200, "application/json-home", Body::from(document.to_string())))
}

fn document(req: &Request) -> Value {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{ "rel": "self", "href": format!("{}/v3/", req.base_url) }],
        "media-types": [{ "base": "application/json", "type": "application/vnd.openstack.identity-v3+json" }],
    })
}

fn versions(req: &Request) -> Result<Response> {
    let mut answer = http_api::json(300, &json!({ "versions": { "values": [document(req)] } }))?;
    response::set_header(&mut answer, "location", &format!("{}/v3/", req.base_url));
    Ok(answer)
}

fn version(req: &Request) -> Result<Response> {
    http_api::json(200, &json!({ "version": document(req) }))
}
