//! `/v3/policies`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::list::{Ask, Attribute, Form, collection};
use crate::policies::PolicyBlobChange;
use crate::{Identity, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/policies", index)
        .post("/v3/policies", create)
        .get("/v3/policies/{policy_id}", show)
        .patch("/v3/policies/{policy_id}", update)
        .delete("/v3/policies/{policy_id}", delete)
}

const ATTRIBUTES: &[Attribute] = &[("type", "type", Form::Text)];

async fn index(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_policies", &req.ctx, &Value::Null)?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let (policies, rest) = identity.policy_list(&ask).await?;
    let views = policies.iter().map(|policy| policy.view(&req)).collect();
    answer(200, &collection(&req, "policies", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_policy", &req.ctx, &Value::Null)?;
    let policy = PolicyBlobChange::read(wire::member(&req, "policy")?)?.whole()?;
    let policy = identity.policy_create(&req.ctx, policy).await?;
    answer(201, &json!({ "policy": policy.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_policy", &req.ctx, &Value::Null)?;
    let policy = identity.policy_fetch(req.param("policy_id")).await?;
    answer(200, &json!({ "policy": policy.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_policy", &req.ctx, &Value::Null)?;
    let id = req.param("policy_id");
    let mut map = wire::member(&req, "policy")?;
    wire::not_empty(&map, "policy")?;
    wire::Take { map: &mut map, what: "policy" }.same_id(id)?;
    let policy = identity.policy_update(&req.ctx, id, PolicyBlobChange::read(map)?).await?;
    answer(200, &json!({ "policy": policy.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_policy", &req.ctx, &Value::Null)?;
    identity.policy_delete(&req.ctx, req.param("policy_id")).await?;
    nothing()
}
