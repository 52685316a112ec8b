//! Version documents.

use base::Result;
use http_api::{Request, Response, response};
use serde_json::{Value, json};

use super::R;
use crate::Identity;

pub fn routes(routes: R) -> R {
    routes.public("GET", "/", versions).public("GET", "/v3", version)
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

async fn versions(_: Identity, req: Request) -> Result<Response> {
    let mut answer = http_api::json(300, &json!({ "versions": { "values": [document(&req)] } }))?;
    response::set_header(&mut answer, "location", &format!("{}/v3/", req.base_url));
    Ok(answer)
}

async fn version(_: Identity, req: Request) -> Result<Response> {
    http_api::json(200, &json!({ "version": document(&req) }))
}
