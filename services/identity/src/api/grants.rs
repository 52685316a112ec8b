//! Grants: a role for a user or group on a project, a domain or the system, also inherited.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};
use store::Tx;

use super::{R, answer, nothing};
use crate::grants::{Actor, Grant, On, actor_exists_in, grant_exists_in, granted_roles_in, no_grant};
use crate::list::collection;
use crate::projects::{domain_get_in, project_get_in};
use crate::roles::{role_get_in, roles_by_ids_in};
use crate::{Identity, fault, groups, users};

pub fn routes(mut routes: R) -> R {
    for target in ["projects/{project_id}", "domains/{domain_id}"] {
        for actor in ["users/{user_id}", "groups/{group_id}"] {
            let all = format!("{target}/{actor}/roles");
            routes = member(routes, &format!("/v3/{all}/{{role_id}}"))
                .get(&format!("/v3/{all}"), index)
                .get(&format!("/v3/OS-INHERIT/{all}/inherited_to_projects"), index);
            routes = member(routes, &format!("/v3/OS-INHERIT/{all}/{{role_id}}/inherited_to_projects"));
        }
    }
    for actor in ["users/{user_id}", "groups/{group_id}"] {
        let all = format!("/v3/system/{actor}/roles");
        routes = member(routes, &format!("{all}/{{role_id}}")).get(&all, index);
    }
    routes
}

fn member(routes: R, path: &str) -> R {
    routes.get(path, show).put(path, create).delete(path, delete)
}

/// What the path names.
struct Named {
    actor: Actor,
    on: On,
    role_id: String,
    inherited: bool,
}

impl Named {
    fn of(req: &Request) -> Named {
        let param = |name: &str| Some(req.param(name)).filter(|v| !v.is_empty()).map(str::to_string);
        Named {
            actor: param("user_id").map(Actor::User).unwrap_or_else(|| Actor::Group(req.param("group_id").to_string())),
            on: param("project_id").map(On::Project).or_else(|| param("domain_id").map(On::Domain)).unwrap_or(On::System),
            role_id: req.param("role_id").to_string(),
            inherited: req.path.trim_end_matches('/').ends_with("/inherited_to_projects"),
        }
    }

    fn grant(&self) -> Grant {
        Grant { actor: self.actor.clone(), on: self.on.clone(), role_id: self.role_id.clone(), inherited: self.inherited }
    }

    /// The name of the rule: grants on the system have rules of their own.
    fn rule(&self, verb: &str) -> String {
        match (&self.on, &self.actor, verb) {
            (On::System, Actor::User(_), "list") => "list_system_grants_for_user".into(),
            (On::System, Actor::Group(_), "list") => "list_system_grants_for_group".into(),
            (On::System, Actor::User(_), _) => format!("{verb}_system_grant_for_user"),
            (On::System, Actor::Group(_), _) => format!("{verb}_system_grant_for_group"),
            (_, _, "list") => "list_grants".into(),
            _ => format!("{verb}_grant"),
        }
    }

    /// What rules may ask. `lenient`: the actor may be gone (its grants can still be taken back).
    fn target_in(&self, tx: &Tx, lenient: bool) -> Result<Value> {
        let mut target = json!({});
        if !self.role_id.is_empty() {
            target["role"] = role_get_in(tx, &self.role_id)?.target();
        }
        if !lenient {
            actor_exists_in(tx, &self.actor)?;
        }
        match &self.actor {
            Actor::User(id) => {
                if let Some(user) = users::user_fetch_in(tx, id)? {
                    target["user"] = user.target();
                }
            }
            Actor::Group(id) => {
                if let Some(group) = groups::group_fetch_in(tx, id)? {
                    target["group"] = group.target();
                }
            }
        }
        match &self.on {
            On::Project(id) => target["project"] = project_get_in(tx, id)?.target(),
            On::Domain(id) => target["domain"] = domain_get_in(tx, id)?.target(),
            On::System => {}
        }
        Ok(json!({ "target": target }))
    }
}

async fn guarded(identity: &Identity, req: &Request, verb: &str) -> Result<Named> {
    let named = Named::of(req);
    let target = identity.0.store.read(|tx| named.target_in(tx, verb == "revoke")).await?;
    identity.allow(&named.rule(verb), &req.ctx, &target)?;
    Ok(named)
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let named = guarded(&identity, &req, "list").await?;
    let roles = identity.0.store.read(|tx| roles_by_ids_in(tx, &granted_roles_in(tx, &named.actor, &named.on, named.inherited)?)).await?;
    let views = roles.iter().map(|role| role.view(&req)).collect();
    answer(200, &collection(&req, "roles", views, None))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let named = guarded(&identity, &req, "check").await?;
    let grant = named.grant();
    if identity.0.store.read(|tx| grant_exists_in(tx, &grant)).await? { nothing() } else { Err(no_grant(&grant)) }
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let named = guarded(&identity, &req, "create").await?;
    identity.grant_create(&req.ctx, named.grant()).await?;
    nothing()
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let named = guarded(&identity, &req, "revoke").await?;
    if named.role_id.is_empty() {
        return Err(fault::not_found("role", ""));
    }
    identity.grant_delete(&req.ctx, named.grant()).await?;
    nothing()
}
