//! Quotas and limits.

use std::collections::BTreeMap;

use base::{Error, Result};
use http_api::query::parse_bool;
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Map, Value, json};
use store::Tx;

use super::body::{self, inner};
use crate::{Volumes, quotas};

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/limits", limits)
        .get("/os-quota-sets/{id}", show)
        .put("/os-quota-sets/{id}", update)
        .delete("/os-quota-sets/{id}", delete)
        .get("/os-quota-sets/{id}/defaults", defaults)
        .get("/os-quota-class-sets/{id}", class_show)
        .put("/os-quota-class-sets/{id}", class_update)
}

fn set(tx: &Tx, project: &str, usage: bool) -> Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for name in quotas::names_in(tx)? {
        let limit = quotas::limit_in(tx, project, &name)?;
        let value =
            if usage { json!({"limit": limit, "in_use": quotas::used_in(tx, project, &name)?, "reserved": 0}) } else { json!(limit) };
        all.insert(name, value);
    }
    Ok(all)
}

fn quota_set(id: &str, mut all: BTreeMap<String, Value>) -> Value {
    all.insert("id".into(), id.into());
    json!({ "quota_set": all })
}

async fn show(volumes: Volumes, req: Request) -> Result<Response> {
    let id = req.param("id");
    volumes.authorize("volume_extension:quotas:show", &req.ctx, &[("project_id", id)])?;
    let usage = match req.query.get("usage") {
        Some(text) => parse_bool(text).ok_or_else(|| Error::invalid(format!("Invalid value '{text}' for usage.")))?,
        None => false,
    };
    let all = volumes.core.store.read(|tx| set(tx, id, usage)).await?;
    json(200, &quota_set(id, all))
}

async fn defaults(volumes: Volumes, req: Request) -> Result<Response> {
    let id = req.param("id");
    volumes.authorize("volume_extension:quotas:show", &req.ctx, &[("project_id", id)])?;
    let all = volumes
        .core
        .store
        .read(|tx| quotas::names_in(tx)?.into_iter().map(|n| Ok((n.clone(), json!(quotas::default_in(tx, &n)?)))).collect::<Result<_>>())
        .await?;
    json(200, &quota_set(id, all))
}

/// The limits a body sets.
fn wanted(map: &Map<String, Value>) -> Result<Vec<(String, i64)>> {
    let mut limits = Vec::new();
    for (name, value) in map.iter().filter(|(name, _)| !matches!(name.as_str(), "tenant_id" | "id" | "class_name" | "force")) {
        let limit = body::int(name, value)?;
        if !(-1..=i64::from(i32::MAX)).contains(&limit) {
            return Err(body::wrong(name, format!("{limit} is not between -1 and {}", i32::MAX)));
        }
        limits.push((name.clone(), limit));
    }
    Ok(limits)
}

fn check(names: &[String], limits: &[(String, i64)]) -> Result<()> {
    match limits.iter().find(|(name, _)| !names.contains(name)) {
        Some((name, _)) => Err(Error::invalid(format!("Bad key(s) in quota set: {name}"))),
        None => Ok(()),
    }
}

async fn update(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:quotas:update", &req.ctx, &())?;
    let limits = wanted(&inner(&req, "quota_set", &[])?)?;
    let skip = req.query.get("skip_validation").and_then(parse_bool).unwrap_or(true);
    let id = req.param("id").to_string();
    let mut all = volumes
        .core
        .store
        .write(move |tx| {
            check(&quotas::names_in(tx)?, &limits)?;
            for (name, limit) in &limits {
                if !skip && *limit >= 0 && quotas::used_in(tx, &id, name)? > *limit {
                    return Err(Error::invalid(format!("Quota limit for {name} is below what is in use.")));
                }
                quotas::limit_set_in(tx, &id, name, *limit)?;
            }
            set(tx, &id, false)
        })
        .await?;
    all.remove("id");
    json(200, &json!({ "quota_set": all }))
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:quotas:delete", &req.ctx, &())?;
    let id = req.param("id").to_string();
    volumes.core.store.write(move |tx| quotas::limits_forget_in(tx, &id)).await?;
    empty(200)
}

async fn class_show(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:quota_classes:get", &req.ctx, &())?;
    class_answer(&volumes, &req, true).await
}

async fn class_answer(volumes: &Volumes, req: &Request, with_id: bool) -> Result<Response> {
    let mut all: BTreeMap<String, Value> = volumes
        .core
        .store
        .read(|tx| quotas::names_in(tx)?.into_iter().map(|n| Ok((n.clone(), json!(quotas::default_in(tx, &n)?)))).collect::<Result<_>>())
        .await?;
    if with_id {
        all.insert("id".into(), req.param("id").into());
    }
    json(200, &json!({ "quota_class_set": all }))
}

async fn class_update(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:quota_classes:update", &req.ctx, &())?;
    let limits = wanted(&inner(&req, "quota_class_set", &[])?)?;
    let class = req.param("id").to_string();
    volumes
        .core
        .store
        .write(move |tx| {
            check(&quotas::names_in(tx)?, &limits)?;
            limits.iter().try_for_each(|(name, limit)| quotas::class_set_in(tx, &class, name, *limit))
        })
        .await?;
    class_answer(&volumes, &req, false).await
}

async fn limits(volumes: Volumes, req: Request) -> Result<Response> {
    let project = match req.query.get("project_id") {
        Some(project) if req.ctx.is_admin() => project.to_string(),
        _ => req.ctx.project_id().to_string(),
    };
    let used = volumes.may("limits_extension:used_limits", &req.ctx, &[("project_id", project.as_str())]);
    let absolute = volumes
        .core
        .store
        .read(|tx| {
            let mut all = Map::new();
            for (name, limit, usage) in [
                ("volumes", "maxTotalVolumes", "totalVolumesUsed"),
                ("snapshots", "maxTotalSnapshots", "totalSnapshotsUsed"),
                ("gigabytes", "maxTotalVolumeGigabytes", "totalGigabytesUsed"),
                ("backups", "maxTotalBackups", "totalBackupsUsed"),
                ("backup_gigabytes", "maxTotalBackupGigabytes", "totalBackupGigabytesUsed"),
            ] {
                all.insert(limit.into(), json!(quotas::limit_in(tx, &project, name)?));
                if used {
                    all.insert(usage.into(), json!(quotas::used_in(tx, &project, name)?));
                }
            }
            Ok(all)
        })
        .await?;
    json(200, &json!({"limits": {"rate": [], "absolute": absolute}}))
}
