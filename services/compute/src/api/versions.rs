//! Version documents.

use base::Result;
use http_api::{Request, Response, json};
use serde_json::{Value, json};

use crate::{Compute, VERSIONS};

/// Without the versioned part of the path, whatever followed it.
fn base(req: &Request) -> String {
    format!("{}/v2.1/", req.base_url)
}

fn document(req: &Request) -> Value {
    json!({
        "id": "v2.1",
        "status": "CURRENT",
        "version": VERSIONS.max.to_string(),
        "min_version": VERSIONS.min.to_string(),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": base(req)}],
    })
}

pub async fn index(_: Compute, req: Request) -> Result<Response> {
    json(200, &json!({"versions": [document(&req)]}))
}

pub async fn show(_: Compute, req: Request) -> Result<Response> {
    let mut version = document(&req);
    version["links"] = json!([
        {"rel": "self", "href": base(&req)},
        {"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"},
    ]);
    version["media-types"] = json!([
        {"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"},
    ]);
    json(200, &json!({"version": version}))
}
