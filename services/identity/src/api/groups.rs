//! `/v3/groups`.

use base::{Error, Kind, Result};
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, default_domain, max, more, nothing, own_domain, wanted};
use crate::groups::{GroupChange, group_fetch_in, group_get_in, group_list_in, is_member_in};
use crate::list::{Ask, Attribute, Form, collection};
use crate::users::{ExpiryFilter, user_fetch_in, user_get_in, users_of_group_in};
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/groups", index)
        .post("/v3/groups", create)
        .get("/v3/groups/{group_id}", show)
        .patch("/v3/groups/{group_id}", update)
        .delete("/v3/groups/{group_id}", delete)
        .get("/v3/groups/{group_id}/users", index_users)
        .get("/v3/groups/{group_id}/users/{user_id}", show_user)
        .put("/v3/groups/{group_id}/users/{user_id}", create_user)
        .delete("/v3/groups/{group_id}/users/{user_id}", delete_user)
}

const ATTRIBUTES: &[Attribute] = &[("name", "name", Form::Text), ("domain_id", "domain_id", Form::Text)];

async fn target(identity: &Identity, req: &Request) -> Result<Value> {
    let (group_id, user_id) = (req.param("group_id"), req.param("user_id"));
    let (group, user) = identity.0.store.read(|tx| Ok((group_fetch_in(tx, group_id)?, user_fetch_in(tx, user_id)?))).await?;
    let mut inner = json!({});
    if let Some(group) = group {
        inner["group"] = group.target();
    }
    if let Some(user) = user {
        inner["user"] = user.target();
    }
    Ok(json!({ "group_id": group_id, "user_id": user_id, "target": inner }))
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let domain = req.ctx.domain_id();
    identity.allow("list_groups", &req.ctx, &own_domain(&req.ctx, |domain| json!({ "group": { "domain_id": domain } })))?;
    if let Some(of) = domain.or_else(|| req.query.get("domain_id")) {
        identity.directory_refresh(of).await?;
    }
    let (groups, rest) = identity.0.store.read(|tx| group_list_in(tx, &ask, domain)).await?;
    let views = groups.iter().map(|group| group.view(&req)).collect();
    answer(200, &collection(&req, "groups", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let map = wire::member(&req, "group")?;
    let target = wanted("group", &map);
    let change = GroupChange::read(map)?;
    if change.name.is_none() {
        return Err(fault::field("group", "'name' is a required property"));
    }
    identity.allow("create_group", &req.ctx, &target)?;
    let domain = change.domain_id.clone().unwrap_or_else(|| default_domain(&req.ctx));
    identity.directory_refuse(&domain).await?;
    let group = identity.group_create(&req.ctx, domain, change).await?;
    answer(201, &json!({ "group": group.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_group", &req.ctx, &target(&identity, &req).await?)?;
    identity.directory_refresh_group(req.param("group_id")).await?;
    let group = identity.0.store.read(|tx| group_get_in(tx, req.param("group_id"))).await?;
    answer(200, &json!({ "group": group.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("group_id");
    let mut map = wire::member(&req, "group")?;
    wire::not_empty(&map, "group")?;
    wire::Take { map: &mut map, what: "group" }.same_id(id)?;
    let change = GroupChange::read(map)?;
    identity.allow("update_group", &req.ctx, &target(&identity, &req).await?)?;
    identity.directory_refuse_change(id).await?;
    let group = identity.group_update(&req.ctx, id, change).await?;
    answer(200, &json!({ "group": group.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    // As upstream, that there is no such group is told to everybody.
    identity.0.store.read(|tx| group_get_in(tx, req.param("group_id"))).await?;
    identity.allow("delete_group", &req.ctx, &target(&identity, &req).await?)?;
    identity.directory_refuse_change(req.param("group_id")).await?;
    identity.group_delete(&req.ctx, req.param("group_id")).await?;
    nothing()
}

async fn index_users(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_users_in_group", &req.ctx, &target(&identity, &req).await?)?;
    let ask = Ask::read(&req.query, super::users::ATTRIBUTES, max(&identity))?;
    let expiry = req.query.get("password_expires_at").map(ExpiryFilter::read).transpose()?;
    let id = req.param("group_id");
    identity.directory_refresh_group(id).await?;
    let users = identity
        .0
        .store
        .read(|tx| {
            group_get_in(tx, id)?;
            users_of_group_in(tx, id, expiry.as_ref())
        })
        .await?;
    let domain = req.ctx.domain_id();
    let views = users.iter().filter(|u| domain.is_none_or(|d| u.domain_id == d)).map(|u| u.view(&req)).collect();
    let (views, rest) = ask.keep(views);
    answer(200, &collection(&req, "users", views, more(&ask, rest)))
}

async fn show_user(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("check_user_in_group", &req.ctx, &target(&identity, &req).await?)?;
    let (group, user) = (req.param("group_id"), req.param("user_id"));
    identity.directory_refresh_group(group).await?;
    let is_member = identity
        .0
        .store
        .read(|tx| {
            group_get_in(tx, group)?;
            user_get_in(tx, user)?;
            is_member_in(tx, group, user)
        })
        .await?;
    if is_member { nothing() } else { Err(Error::new(Kind::NotFound, format!("User '{user}' not found in group '{group}'."))) }
}

async fn create_user(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("add_user_to_group", &req.ctx, &target(&identity, &req).await?)?;
    identity.directory_refuse_change(req.param("group_id")).await?;
    identity.member_add(&req.ctx, req.param("group_id"), req.param("user_id")).await?;
    nothing()
}

async fn delete_user(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("remove_user_from_group", &req.ctx, &target(&identity, &req).await?)?;
    identity.directory_refuse_change(req.param("group_id")).await?;
    identity.member_remove(&req.ctx, req.param("group_id"), req.param("user_id")).await?;
    nothing()
}
