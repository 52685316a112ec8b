//! `/os-server-groups` (compute API reference, "Server groups").

use base::{Error, Result};
use http_api::{Request, Response, Routes, Version, empty, json};
use serde_json::{Value, json};

use super::servers::no_query;
use crate::Compute;
use crate::fields::{self, Field, Fields};
use crate::server_groups::{GroupWithMembers, ServerGroupCreate};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/os-server-groups", index)
        .post("/os-server-groups", create)
        .get("/os-server-groups/{id}", show)
        .delete("/os-server-groups/{id}", delete)
}

/// Groups show whose they are.
const WITH_OWNER: Version = Version::new(2, 13);
const WITH_SOFT: Version = Version::new(2, 15);
/// One policy, with rules, in place of a list of one.
const WITH_RULES: Version = Version::new(2, 64);
const STRICT: Version = Version::new(2, 75);

const HARD: &[&str] = &["anti-affinity", "affinity"];
const ALL: &[&str] = &["anti-affinity", "affinity", "soft-anti-affinity", "soft-affinity"];

fn view(found: &GroupWithMembers, version: Version) -> Value {
    let group = &found.group;
    let mut view = json!({"id": group.id, "name": group.name, "members": found.members});
    if version >= WITH_RULES {
        view["policy"] = json!(group.policy);
        view["rules"] = group.rules.clone();
    } else {
        view["policies"] = json!([group.policy]);
        view["metadata"] = json!({});
    }
    if version >= WITH_OWNER {
        view["project_id"] = json!(group.project_id);
        view["user_id"] = json!(group.user_id);
    }
    view
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    let project = req.ctx.project_id();
    compute.authorize("os_compute_api:os-server-groups:index", &req.ctx, &[("project_id", project)])?;
    let known = ["all_projects", "limit", "offset"];
    if let Some((name, _)) = req.query.0.iter().find(|(n, _)| req.version >= STRICT && !known.contains(&n.as_str())) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
    }
    // Others who ask for all projects get their own, as ever.
    let all = req.query.has("all_projects") && req.ctx.is_admin();
    if all {
        compute.authorize("os_compute_api:os-server-groups:index:all_projects", &req.ctx, &[("project_id", project)])?;
    }
    let max = compute.core.config.int("api.max_limit");
    let limit = req.query.int("limit")?.filter(|limit| *limit > 0).unwrap_or(max).min(max);
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let offset = count(req.query.int("offset")?.unwrap_or(0));
    let found = compute.server_group_list((!all).then_some(project), offset, count(limit)).await?;
    json(200, &json!({"server_groups": found.iter().map(|group| view(group, req.version)).collect::<Vec<_>>()}))
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let found = compute.server_group_show(&req.ctx, req.param("id")).await?;
    compute.authorize("os_compute_api:os-server-groups:show", &req.ctx, &[("project_id", found.group.project_id.as_str())])?;
    json(200, &json!({"server_group": view(&found, req.version)}))
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-server-groups:create", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let body = req.object()?;
    let version = req.version;
    let mut root = Fields::root(&body, req.version);
    let wish = root.need("server_group", |f| {
        let mut of = Fields::of(f)?;
        let name = of.need("name", fields::name)?;
        let (policy, rules) = if version >= WITH_RULES {
            (of.need("policy", fields::one_of(ALL))?, of.take("rules", rules)?.unwrap_or_else(|| json!({})))
        } else {
            let allowed = if version >= WITH_SOFT { ALL } else { HARD };
            (of.need("policies", |f| only_policy(f, allowed))?, json!({}))
        };
        of.finish()?;
        Ok(ServerGroupCreate { name, policy: policy.to_string(), rules })
    })?;
    root.finish()?;
    if wish.policy != "anti-affinity" && wish.rules != json!({}) {
        return Err(Error::invalid("Only anti-affinity policy supports rules."));
    }
    let group = compute.server_group_create(&req.ctx, wish).await?;
    json(200, &json!({"server_group": view(&GroupWithMembers { group, members: Vec::new() }, version)}))
}

/// A list of exactly one policy.
fn only_policy(f: Field, allowed: &'static [&'static str]) -> Result<&'static str> {
    match fields::list(1, fields::one_of(allowed))(f)?.first() {
        Some(policy) => Ok(policy),
        None => Err(f.wrong("[] is too short")),
    }
}

fn rules(f: Field) -> Result<Value> {
    let mut of = Fields::of(f)?;
    let most = of.take("max_server_per_host", fields::positive)?;
    of.finish()?;
    Ok(most.map_or_else(|| json!({}), |most| json!({"max_server_per_host": most})))
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    let id = req.param("id");
    let found = compute.server_group_show(&req.ctx, id).await?;
    compute.authorize("os_compute_api:os-server-groups:delete", &req.ctx, &[("project_id", found.group.project_id.as_str())])?;
    compute.server_group_delete(&req.ctx, id).await?;
    empty(204)
}
