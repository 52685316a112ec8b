//! Version documents.

use base::Result;
use http_api::{Request, Response, json};
use serde_json::{Value, json};

use crate::{Compute, VERSIONS};

/// The current version, as lists show it.
fn current(req: &Request) -> Value {
    json!({
        "id": "v2.1",
        "status": "CURRENT",
        "version": VERSIONS.max.to_string(),
        "min_version": VERSIONS.min.to_string(),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": format!("{}/v2.1/", req.base_url)}],
    })
}

/// The one from before there were microversions.
fn legacy(req: &Request) -> Value {
    json!({
        "id": "v2.0",
        "status": "DEPRECATED",
        "version": "",
        "min_version": "",
        "updated": "2025-07-04T12:00:00Z",
        "links": [{"rel": "self", "href": format!("{}/v2/", req.base_url)}],
    })
}

/// A version by itself: with its media type and a link to what describes it.
fn whole(mut version: Value, kind: &str, page: &str) -> Result<Response> {
    if let Some(links) = version["links"].as_array_mut() {
        links.push(json!({"rel": "describedby", "type": "text/html", "href": page}));
    }
    version["media-types"] =
        json!([{"base": "application/json", "type": format!("application/vnd.openstack.compute+json;version={kind}")}]);
    json(200, &json!({ "version": version }))
}

pub async fn index(_: Compute, req: Request) -> Result<Response> {
    json(200, &json!({"versions": [legacy(&req), current(&req)]}))
}

pub async fn show(_: Compute, req: Request) -> Result<Response> {
    whole(current(&req), "2.1", "http://docs.openstack.org/")
}

pub async fn show_legacy(_: Compute, req: Request) -> Result<Response> {
    whole(legacy(&req), "2", "http://docs.openstack.org/")
}
