//! `OS-ENDPOINT-POLICY`, below `/v3/policies` and `/v3/endpoints`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, nothing};
use crate::Identity;
use crate::endpoint_policy::{Place, association_check_in, endpoints_for_policy_in, policy_for_endpoint_in};
use crate::list::collection;

pub fn routes(routes: R) -> R {
    let routes = routes
        .get("/v3/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints", index_endpoints)
        .get("/v3/endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy", show_policy);
    [
        "/v3/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints/{endpoint_id}",
        "/v3/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}",
        "/v3/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}/regions/{region_id}",
    ]
    .into_iter()
    .fold(routes, |routes, path| routes.get(path, check).put(path, create).delete(path, delete))
}

/// What the path names, and how the rules for it end.
fn place(req: &Request) -> (Place, &'static str) {
    let named = |name| req.param(name).to_string();
    match (req.param("endpoint_id"), req.param("region_id")) {
        ("", "") => (Place::Service(named("service_id")), "service"),
        ("", _) => (Place::Region { service: named("service_id"), region: named("region_id") }, "region_and_service"),
        _ => (Place::Endpoint(named("endpoint_id")), "endpoint"),
    }
}

async fn check(identity: Identity, req: Request) -> Result<Response> {
    let (place, what) = place(&req);
    identity.allow(&format!("check_policy_association_for_{what}"), &req.ctx, &Value::Null)?;
    identity.0.store.read(|tx| association_check_in(tx, req.param("policy_id"), &place)).await?;
    nothing()
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let (place, what) = place(&req);
    identity.allow(&format!("create_policy_association_for_{what}"), &req.ctx, &Value::Null)?;
    identity.policy_associate(&req.ctx, req.param("policy_id"), place).await?;
    nothing()
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let (place, what) = place(&req);
    identity.allow(&format!("delete_policy_association_for_{what}"), &req.ctx, &Value::Null)?;
    identity.policy_dissociate(&req.ctx, req.param("policy_id"), place).await?;
    nothing()
}

async fn index_endpoints(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_endpoints_for_policy", &req.ctx, &Value::Null)?;
    let endpoints = identity.0.store.read(|tx| endpoints_for_policy_in(tx, req.param("policy_id"))).await?;
    answer(200, &collection(&req, "endpoints", endpoints.iter().map(|endpoint| endpoint.view(&req)).collect(), None))
}

async fn show_policy(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_policy_for_endpoint", &req.ctx, &Value::Null)?;
    let policy = identity.0.store.read(|tx| policy_for_endpoint_in(tx, req.param("endpoint_id"))).await?;
    answer(200, &json!({ "policy": policy.view(&req) }))
}
