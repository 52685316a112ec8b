//! Quotas.

use base::Result;
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json};

use super::{access, object_of};
use crate::attr::Object;
use crate::{Network, db, fault, quotas};

fn require(net: &Network, req: &Request, rule: &str, project: &str) -> Result<()> {
    let target: Object = [("project_id", project), ("tenant_id", project)].map(|(k, v)| (k.to_string(), json!(v))).into_iter().collect();
    access::require(net, &req.ctx, rule, &target)
}

/// The limits of projects that have some of their own.
pub async fn index(net: Network, req: Request) -> Result<Response> {
    require(&net, &req, "get_quota", "")?;
    let quotas = net
        .core()
        .store
        .read(|tx| {
            let rows = db::quotas::projects(tx)?.into_iter().map(|project| {
                let mut row = quotas::view(tx, &project)?;
                row.insert("tenant_id".into(), json!(project));
                row.insert("project_id".into(), json!(project));
                Ok(row)
            });
            rows.collect::<Result<Vec<Object>>>()
        })
        .await?;
    json(200, &json!({"quotas": quotas}))
}

/// Whose quotas `/quotas/tenant` would be.
pub async fn whose(_net: Network, req: Request) -> Result<Response> {
    let word = if req.path.ends_with("project") { "project" } else { "tenant" };
    let project = req.ctx.project_id();
    if project.is_empty() {
        return Err(fault::bad("QuotaMissingTenant", "Tenant-id was missing from quota request."));
    }
    json(200, &json!({word: {format!("{word}_id"): project}}))
}

pub async fn show(net: Network, req: Request) -> Result<Response> {
    let project = req.param("project");
    require(&net, &req, "get_quota", project)?;
    let quota = net.core().store.read(|tx| quotas::view(tx, project)).await?;
    json(200, &json!({"quota": quota}))
}

pub async fn default(net: Network, req: Request) -> Result<Response> {
    require(&net, &req, "get_quota", req.param("project"))?;
    json(200, &json!({"quota": quotas::defaults_view()}))
}

pub async fn details(net: Network, req: Request) -> Result<Response> {
    let project = req.param("project");
    require(&net, &req, "get_quota", project)?;
    let quota = net.core().store.read(|tx| quotas::details(tx, project)).await?;
    json(200, &json!({"quota": quota}))
}

pub async fn update(net: Network, req: Request) -> Result<Response> {
    let project = req.param("project").to_string();
    require(&net, &req, "update_quota", &project)?;
    let (limits, checked) = match object_of(&req)?.remove("quota") {
        Some(Value::Object(map)) => quotas::read(&map)?,
        _ => return Err(fault::request("Unable to find 'quota' in request body")),
    };
    let quota = net
        .core()
        .store
        .write(move |tx| {
            for (resource, limit) in limits {
                if checked && limit >= 0 && db::quotas::used(tx, resource, &project)? > limit {
                    let message = format!("Change would make usage less than 0 for the following resources: {resource}.");
                    return Err(fault::bad("InvalidQuotaValue", message));
                }
                db::quotas::set(tx, &project, resource, limit)?;
            }
            quotas::view(tx, &project)
        })
        .await?;
    json(200, &json!({"quota": quota}))
}

pub async fn delete(net: Network, req: Request) -> Result<Response> {
    let project = req.param("project").to_string();
    require(&net, &req, "delete_quota", &project)?;
    let gone = net.core().store.write({
        let project = project.clone();
        move |tx| db::quotas::clear(tx, &project)
    });
    if gone.await? == 0 {
        return Err(fault::missing("TenantQuotaNotFound", format!("Quota for project {project} could not be found.")));
    }
    empty(204)
}
