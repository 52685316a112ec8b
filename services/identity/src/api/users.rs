//! `/v3/users`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, default_domain, max, more, nothing, own_domain, wanted};
use crate::federation::links::federated_in;
use crate::list::{Ask, Attribute, Form, collection};
use crate::users::{ExpiryFilter, UserChange, user_fetch_in, user_get_in, user_list_in};
use crate::{Identity, fault, grants, groups, projects, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/users", index)
        .post("/v3/users", create)
        .get("/v3/users/{user_id}", show)
        .patch("/v3/users/{user_id}", update)
        .delete("/v3/users/{user_id}", delete)
        .public("POST", "/v3/users/{user_id}/password", action_password)
        .get("/v3/users/{user_id}/projects", index_projects)
        .get("/v3/users/{user_id}/groups", index_groups)
}

pub const ATTRIBUTES: &[Attribute] =
    &[("name", "name", Form::Text), ("domain_id", "domain_id", Form::Text), ("enabled", "enabled", Form::Flag)];

/// What rules may ask: the user of the path, when there is one.
async fn target(identity: &Identity, id: &str) -> Result<Value> {
    let found = identity.0.store.read(|tx| user_fetch_in(tx, id)).await?;
    let inner = found.map_or_else(|| json!({}), |user| json!({ "user": user.target() }));
    Ok(json!({ "user_id": id, "target": inner }))
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let domain = req.ctx.domain_id();
    identity.allow("list_users", &req.ctx, &own_domain(&req.ctx, |domain| json!({ "domain_id": domain })))?;
    let known: Vec<(&str, &str)> =
        ["idp_id", "protocol_id", "unique_id"].into_iter().filter_map(|name| Some((name, req.query.get(name)?))).collect();
    let expiry = req.query.get("password_expires_at").map(ExpiryFilter::read).transpose()?;
    if let Some(of) = domain.or_else(|| req.query.get("domain_id")) {
        match req.query.get("name") {
            Some(name) => identity.directory_refresh_name(of, name).await?,
            None => identity.directory_refresh(of).await?,
        }
    }
    let (users, rest) = identity.0.store.read(|tx| user_list_in(tx, &ask, domain, expiry.as_ref(), &known)).await?;
    let views = users.iter().map(|user| user.view(&req)).collect();
    answer(200, &collection(&req, "users", views, more(&ask, rest)))
}

/// Whoever manages the users of one domain must not become the user whom another domain's provider will vouch for: its groups and roles would
/// be those of an account with a password of the manager's choice.
fn links_anywhere(identity: &Identity, req: &Request) -> bool {
    identity.allow("update_identity_provider", &req.ctx, &Value::Null).is_ok()
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let map = wire::member(&req, "user")?;
    let target = wanted("user", &map);
    let mut change = UserChange::read(map)?;
    if change.name.is_none() {
        return Err(fault::field("user", "'name' is a required property"));
    }
    identity.allow("create_user", &req.ctx, &target)?;
    change.links_anywhere = links_anywhere(&identity, &req);
    let domain = change.domain_id.clone().unwrap_or_else(|| default_domain(&req.ctx));
    identity.directory_refuse(&domain).await?;
    let (user, federated) = identity.user_create(&req.ctx, domain, change).await?;
    answer(201, &json!({ "user": user.view_with(&req, federated) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("user_id");
    identity.allow("get_user", &req.ctx, &target(&identity, id).await?)?;
    identity.directory_refresh_user(id).await?;
    let (user, federated) = identity.0.store.read(|tx| Ok((user_get_in(tx, id)?, federated_in(tx, id)?))).await?;
    answer(200, &json!({ "user": user.view_with(&req, federated) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("user_id");
    let mut map = wire::member(&req, "user")?;
    wire::not_empty(&map, "user")?;
    wire::Take { map: &mut map, what: "user" }.same_id(id)?;
    let mut change = UserChange::read(map)?;
    identity.allow("update_user", &req.ctx, &target(&identity, id).await?)?;
    change.links_anywhere = links_anywhere(&identity, &req);
    identity.directory_refuse_change(id).await?;
    let (user, federated) = identity.user_update(&req.ctx, id, change).await?;
    answer(200, &json!({ "user": user.view_with(&req, federated) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("user_id");
    identity.allow("delete_user", &req.ctx, &target(&identity, id).await?)?;
    identity.directory_refuse_change(id).await?;
    identity.user_delete(&req.ctx, id).await?;
    nothing()
}

async fn action_password(identity: Identity, req: Request) -> Result<Response> {
    let mut map = wire::member(&req, "user")?;
    let mut take = wire::Take { map: &mut map, what: "user" };
    let (original, new) = (take.text("original_password", usize::MAX)?, take.text("password", 4096)?);
    let (Some(original), Some(new)) = (original, new) else {
        return Err(fault::field("user", "'original_password' and 'password' are required properties"));
    };
    if let Some(other) = map.keys().next() {
        return Err(fault::field("user", format!("Additional properties are not allowed ('{other}' was unexpected)")));
    }
    identity.directory_refuse_password(req.param("user_id")).await?;
    identity.password_change(&req.ctx, req.param("user_id"), original, new, req.address).await?;
    nothing()
}

async fn index_projects(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("user_id");
    identity.allow("list_user_projects", &req.ctx, &target(&identity, id).await?)?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    identity.directory_refresh_user(id).await?;
    let found = identity
        .0
        .store
        .read(|tx| {
            user_get_in(tx, id)?;
            projects::projects_by_ids_in(tx, &grants::reach_in(tx, id, false)?)
        })
        .await?;
    let (views, rest) = ask.keep(found.iter().map(|p| json!(p.view(&req))).collect());
    answer(200, &collection(&req, "projects", views, more(&ask, rest)))
}

async fn index_groups(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("user_id");
    identity.allow("list_groups_for_user", &req.ctx, &target(&identity, id).await?)?;
    let ask = Ask::read(&req.query, &[("name", "name", Form::Text)], max(&identity))?;
    identity.directory_refresh_user(id).await?;
    let found = identity
        .0
        .store
        .read(|tx| {
            user_get_in(tx, id)?;
            groups::groups_of_user_in(tx, id)
        })
        .await?;
    // A token for a domain shows that domain only.
    let domain = req.ctx.domain_id();
    let found = found.iter().filter(|(group, _)| domain.is_none_or(|domain| group.domain_id == domain));
    let views = found.map(|(group, end)| {
        let mut view = group.view(&req);
        if let Some(end) = end {
            view["membership_expires_at"] = json!(end.iso_micros());
        }
        view
    });
    let (views, rest) = ask.keep(views.collect());
    answer(200, &collection(&req, "groups", views, more(&ask, rest)))
}
