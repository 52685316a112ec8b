//! `/limits`, `/os-quota-sets`, `/os-quota-class-sets` (compute API reference, "Limits", "Quota sets").

use base::{Error, Result};
use http_api::{Request, Response, Routes, Version, empty, json};
use serde_json::{Map, Value, json};
use store::{Tx, params};

use crate::Compute;
use crate::db::server_groups::server_group_count_in;
use crate::fields::{self, Fields};
use crate::quotas::{DEFAULTS, limit_in, server_use_in, user_limit_in};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/limits", limits)
        .get("/os-quota-sets/{project}", show)
        .put("/os-quota-sets/{project}", update)
        .delete("/os-quota-sets/{project}", delete)
        .get("/os-quota-sets/{project}/defaults", defaults)
        .get("/os-quota-sets/{project}/detail", detail)
        .get("/os-quota-class-sets/{class}", class_show)
        .put("/os-quota-class-sets/{class}", class_update)
}

/// Resources of the network service left here.
const WITHOUT_NETWORK: Version = Version::new(2, 36);
const WITHOUT_IMAGE_META: Version = Version::new(2, 39);
/// Server groups joined the quota classes.
const CLASS_GROUPS: Version = Version::new(2, 50);
const WITHOUT_FILES: Version = Version::new(2, 57);
const STRICT: Version = Version::new(2, 75);

/// The resources a version knows.
fn resources(version: Version) -> impl Iterator<Item = (&'static str, i64)> {
    DEFAULTS.iter().copied().filter(move |(name, _)| match *name {
        "fixed_ips" | "floating_ips" | "security_groups" | "security_group_rules" => version < WITHOUT_NETWORK,
        "injected_files" | "injected_file_content_bytes" | "injected_file_path_bytes" => version < WITHOUT_FILES,
        _ => true,
    })
}

/// What is in use of a resource that is counted by project.
fn used_in(tx: &Tx, project: &str, user: Option<&str>, resource: &str) -> Result<i64> {
    let servers = || server_use_in(tx, project, user);
    match resource {
        "instances" => Ok(servers()?.instances),
        "cores" => Ok(servers()?.cores),
        "ram" => Ok(servers()?.ram),
        "server_groups" => server_group_count_in(tx, project, user),
        // Counted by user, or by the thing they belong to: a project has no use of its own.
        _ => Ok(0),
    }
}

async fn limits(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:limits", &req.ctx, &())?;
    if let Some((name, _)) = req.query.0.iter().find(|(n, _)| req.version >= STRICT && n != "tenant_id" && n != "reserved") {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
    }
    let project = match req.query.get("tenant_id") {
        Some(other) if other != req.ctx.project_id() => {
            compute.authorize("os_compute_api:limits:other_project", &req.ctx, &[("project_id", other)])?;
            other
        }
        _ => req.ctx.project_id(),
    };
    let version = req.version;
    let absolute = compute
        .core
        .store
        .read(|tx| {
            let mut absolute = Map::new();
            let mut put = |name: &str, resource: &str| -> Result<()> {
                absolute.insert(name.into(), json!(limit_in(tx, project, resource)?));
                Ok(())
            };
            put("maxServerMeta", "metadata_items")?;
            put("maxTotalInstances", "instances")?;
            put("maxTotalCores", "cores")?;
            put("maxTotalRAMSize", "ram")?;
            put("maxTotalKeypairs", "key_pairs")?;
            put("maxServerGroups", "server_groups")?;
            put("maxServerGroupMembers", "server_group_members")?;
            if version < WITHOUT_IMAGE_META {
                put("maxImageMeta", "metadata_items")?;
            }
            if version < WITHOUT_FILES {
                put("maxPersonality", "injected_files")?;
                put("maxPersonalitySize", "injected_file_content_bytes")?;
            }
            if version < WITHOUT_NETWORK {
                put("maxTotalFloatingIps", "floating_ips")?;
                put("maxSecurityGroups", "security_groups")?;
                put("maxSecurityGroupRules", "security_group_rules")?;
                absolute.insert("totalFloatingIpsUsed".into(), json!(0));
                absolute.insert("totalSecurityGroupsUsed".into(), json!(0));
            }
            let used = server_use_in(tx, project, None)?;
            absolute.insert("totalInstancesUsed".into(), json!(used.instances));
            absolute.insert("totalCoresUsed".into(), json!(used.cores));
            absolute.insert("totalRAMUsed".into(), json!(used.ram));
            absolute.insert("totalServerGroupsUsed".into(), json!(used_in(tx, project, None, "server_groups")?));
            Ok(absolute)
        })
        .await?;
    json(200, &json!({"limits": {"rate": [], "absolute": absolute}}))
}

/// The user the quotas are asked for, if any. Unknown parameters are refused from 2.75 on.
fn user(req: &Request, also: &[&str]) -> Result<Option<String>> {
    match req.query.0.iter().find(|(n, _)| req.version >= STRICT && n != "user_id" && !also.contains(&n.as_str())) {
        Some((name, _)) => Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)"))),
        None => Ok(req.query.get("user_id").map(str::to_string)),
    }
}

fn limit_of(tx: &Tx, project: &str, user: Option<&str>, resource: &str) -> Result<i64> {
    match user {
        Some(user) => user_limit_in(tx, project, user, resource),
        None => limit_in(tx, project, resource),
    }
}

async fn set_view(compute: &Compute, req: &Request, user: Option<&str>, with_id: bool) -> Result<Value> {
    let (project, version) = (req.param("project"), req.version);
    compute
        .core
        .store
        .read(|tx| {
            let mut set = Map::new();
            for (name, _) in resources(version) {
                set.insert(name.into(), json!(limit_of(tx, project, user, name)?));
            }
            if with_id {
                set.insert("id".into(), json!(project));
            }
            Ok(json!({ "quota_set": set }))
        })
        .await
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-quota-sets:show", &req.ctx, &[("project_id", req.param("project"))])?;
    let user = user(&req, &[])?;
    json(200, &set_view(&compute, &req, user.as_deref(), true).await?)
}

async fn detail(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-quota-sets:detail", &req.ctx, &[("project_id", req.param("project"))])?;
    let user = user(&req, &[])?;
    let (project, version) = (req.param("project"), req.version);
    let set = compute
        .core
        .store
        .read(|tx| {
            let mut set = Map::new();
            for (name, _) in resources(version) {
                let limit = limit_of(tx, project, user.as_deref(), name)?;
                set.insert(name.into(), json!({"limit": limit, "in_use": used_in(tx, project, user.as_deref(), name)?, "reserved": 0}));
            }
            set.insert("id".into(), json!(project));
            Ok(set)
        })
        .await?;
    json(200, &json!({ "quota_set": set }))
}

async fn defaults(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-quota-sets:defaults", &req.ctx, &[("project_id", req.param("project"))])?;
    let (project, version) = (req.param("project"), req.version);
    let mut set = compute.core.store.read(|tx| class_in(tx, "default", version)).await?;
    set.insert("id".into(), json!(project));
    json(200, &json!({ "quota_set": set }))
}

/// Limits in a body: integers from -1 (none) on, of resources the version knows.
fn wanted(of: &mut Fields, version: Version) -> Result<Vec<(&'static str, i64)>> {
    let mut wanted = Vec::new();
    for (name, _) in resources(version) {
        if let Some(limit) = of.take(name, fields::integer(-1, i64::from(i32::MAX)))? {
            wanted.push((name, limit));
        }
    }
    Ok(wanted)
}

async fn update(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-quota-sets:update", &req.ctx, &[("project_id", req.param("project"))])?;
    let user = user(&req, &[])?;
    let body = req.object()?;
    let version = req.version;
    let mut root = Fields::root(&body, req.version);
    let (wanted, force) = root.need("quota_set", |f| {
        let mut of = Fields::of(f)?;
        let wanted = wanted(&mut of, version)?;
        let force = of.take("force", fields::boolean)?.unwrap_or(false);
        of.finish()?;
        Ok((wanted, force))
    })?;
    root.finish()?;
    let (project, for_user) = (req.param("project").to_string(), user.clone());
    compute
        .core
        .store
        .write(move |tx| {
            tx.lock(&format!("compute/quota/{project}"))?;
            for (name, limit) in wanted {
                let used = used_in(tx, &project, for_user.as_deref(), name)?;
                if !force && limit >= 0 && limit < used {
                    return Err(Error::invalid(format!(
                        "Quota limit {limit} for {name} must be greater than or equal to already used and reserved {used}."
                    )));
                }
                if for_user.is_some() {
                    let most = limit_in(tx, &project, name)?;
                    if most >= 0 && (limit > most || limit < 0) {
                        return Err(Error::invalid(format!("Quota limit {limit} for {name} must be less than or equal to {most}.")));
                    }
                }
                tx.execute(
                    "INSERT INTO compute_quota (project_id, user_id, resource, hard_limit) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (project_id, user_id, resource) DO UPDATE SET hard_limit = excluded.hard_limit",
                    params![&project, for_user.clone().unwrap_or_default(), name, limit],
                )?;
            }
            Ok(())
        })
        .await?;
    json(200, &set_view(&compute, &req, user.as_deref(), false).await?)
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-quota-sets:delete", &req.ctx, &[("project_id", req.param("project"))])?;
    let (project, user) = (req.param("project").to_string(), user(&req, &[])?);
    compute
        .core
        .store
        .write(move |tx| match user {
            Some(user) => tx.execute("DELETE FROM compute_quota WHERE project_id = ?1 AND user_id = ?2", params![&project, &user]),
            None => tx.execute("DELETE FROM compute_quota WHERE project_id = ?1", params![&project]),
        })
        .await?;
    empty(202)
}

/// The limits of a class: its own where it has them, else the built-in ones.
fn class_in(tx: &Tx, class: &str, version: Version) -> Result<Map<String, Value>> {
    let mut set = Map::new();
    for (name, builtin) in resources(version) {
        let sql = "SELECT hard_limit FROM compute_quota_class WHERE class = ?1 AND resource = ?2";
        let own = tx.query_opt(sql, params![class, name], |r| r.int(0))?;
        set.insert(name.into(), json!(own.unwrap_or(builtin)));
    }
    Ok(set)
}

fn class_view(mut set: Map<String, Value>, version: Version) -> Map<String, Value> {
    if version < CLASS_GROUPS {
        set.remove("server_groups");
        set.remove("server_group_members");
    }
    set
}

async fn class_show(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-quota-class-sets:show", &req.ctx, &())?;
    let (class, version) = (req.param("class"), req.version);
    let mut set = class_view(compute.core.store.read(|tx| class_in(tx, class, version)).await?, version);
    set.insert("id".into(), json!(class));
    json(200, &json!({ "quota_class_set": set }))
}

async fn class_update(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-quota-class-sets:update", &req.ctx, &())?;
    let body = req.object()?;
    let (class, version) = (req.param("class").to_string(), req.version);
    let mut root = Fields::root(&body, req.version);
    let wanted = root.need("quota_class_set", |f| {
        let mut of = Fields::of(f)?;
        let wanted = wanted(&mut of, version)?;
        of.finish()?;
        Ok(wanted)
    })?;
    root.finish()?;
    let set = compute
        .core
        .store
        .write(move |tx| {
            for (name, limit) in wanted {
                tx.execute(
                    "INSERT INTO compute_quota_class (class, resource, hard_limit) VALUES (?1, ?2, ?3)
                     ON CONFLICT (class, resource) DO UPDATE SET hard_limit = excluded.hard_limit",
                    params![&class, name, limit],
                )?;
            }
            class_in(tx, &class, version)
        })
        .await?;
    json(200, &json!({"quota_class_set": class_view(set, version)}))
}
