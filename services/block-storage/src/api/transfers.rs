//! `/os-volume-transfer`, and from 3.55 on `/volume-transfers`.

use base::Result;
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};

use super::body::{self, inner, need, only};
use super::list::{Wanted, links};
use super::{at_least, since, time};
use crate::Volumes;
use crate::transfers::{Transfer, transfer_list_in};

pub fn routes(mut routes: Routes<Volumes>) -> Routes<Volumes> {
    for name in [OLD, NEW] {
        routes = routes
            .get(&format!("/{name}"), index)
            .post(&format!("/{name}"), create)
            .get(&format!("/{name}/detail"), detail)
            .get(&format!("/{name}/{{id}}"), show)
            .delete(&format!("/{name}/{{id}}"), delete)
            .post(&format!("/{name}/{{id}}/accept"), accept);
    }
    routes
}

const OLD: &str = "os-volume-transfer";
const NEW: &str = "volume-transfers";

/// The newer path is for newer versions only.
fn open(req: &Request) -> Result<&'static str> {
    if !req.path.contains(&format!("/{NEW}")) {
        return Ok(OLD);
    }
    since(req, 55).map(|()| NEW)
}

fn view(req: &Request, t: &Transfer, name: &str, whole: bool) -> Value {
    let mut view = json!({
        "id": t.id, "volume_id": t.volume_id, "name": t.name, "links": links(req, &format!("{name}/{}", t.id)),
    });
    if whole {
        view["created_at"] = json!(time(t.created_at));
        if at_least(req, 55) {
            view["no_snapshots"] = json!(t.no_snapshots);
        }
        if at_least(req, 57) {
            view["source_project_id"] = json!(t.project_id);
            view["destination_project_id"] = Value::Null;
            view["accepted"] = json!(false);
        }
    }
    view
}

async fn list(volumes: Volumes, req: Request, whole: bool) -> Result<Response> {
    let name = open(&req)?;
    volumes.authorize("volume:get_all_transfers", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let wanted = Wanted::read(&req, 0)?;
    let mut all = volumes.core.store.read(|tx| transfer_list_in(tx, wanted.project(&req))).await?;
    if let Some(marker) = &wanted.page.marker
        && let Some(at) = all.iter().position(|t| t.id == *marker)
    {
        all.drain(..=at);
    }
    all.truncate(wanted.page.limit.and_then(|l| usize::try_from(l).ok()).unwrap_or(usize::MAX));
    json(200, &json!({"transfers": all.iter().map(|t| view(&req, t, name, whole)).collect::<Vec<_>>()}))
}

async fn index(volumes: Volumes, req: Request) -> Result<Response> {
    list(volumes, req, false).await
}
async fn detail(volumes: Volumes, req: Request) -> Result<Response> {
    list(volumes, req, true).await
}

async fn show(volumes: Volumes, req: Request) -> Result<Response> {
    let name = open(&req)?;
    let found = volumes.core.store.read(|tx| volumes.transfer_visible_in(tx, &req.ctx, req.param("id"))).await?;
    volumes.authorize("volume:get_transfer", &req.ctx, &[("project_id", found.project_id.as_str())])?;
    json(200, &json!({"transfer": view(&req, &found, name, true)}))
}

async fn create(volumes: Volumes, req: Request) -> Result<Response> {
    let name = open(&req)?;
    let map = inner(&req, "transfer", &[])?;
    only(&map, if at_least(&req, 55) { &["volume_id", "name", "no_snapshots"] } else { &["volume_id", "name"] })?;
    let id = need("volume_id", body::uuid(&map, "volume_id")?)?;
    let without = body::flag(&map, "no_snapshots")?.unwrap_or(false);
    let (transfer, key) = volumes.transfer_create(&req.ctx, &id, body::trimmed(&map, "name")?, without).await?;
    let mut shown = view(&req, &transfer, name, true);
    shown["auth_key"] = json!(key);
    json(202, &json!({ "transfer": shown }))
}

async fn accept(volumes: Volumes, req: Request) -> Result<Response> {
    let name = open(&req)?;
    let map = inner(&req, "accept", &[])?;
    only(&map, &["auth_key"])?;
    let key = need("auth_key", body::text(&map, "auth_key")?)?;
    let transfer = volumes.transfer_accept(&req.ctx, req.param("id"), key).await?;
    json(202, &json!({"transfer": view(&req, &transfer, name, false)}))
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    open(&req)?;
    volumes.transfer_delete(&req.ctx, req.param("id")).await?;
    empty(202)
}
