//! `/qos-specs`.

use base::{Error, Kind, Result, Timestamp};
use http_api::query::parse_bool;
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};

use super::body::{self, inner, need};
use super::list::links;
use crate::Volumes;
use crate::db::types::{self as db, Qos};

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/qos-specs", index)
        .post("/qos-specs", create)
        .get("/qos-specs/{id}", show)
        .put("/qos-specs/{id}", update)
        .delete("/qos-specs/{id}", delete)
        .put("/qos-specs/{id}/delete_keys", delete_keys)
        .get("/qos-specs/{id}/associations", associations)
        .get("/qos-specs/{id}/associate", associate)
        .get("/qos-specs/{id}/disassociate", disassociate)
        .get("/qos-specs/{id}/disassociate_all", disassociate_all)
}

const CONSUMERS: &[&str] = &["front-end", "back-end", "both"];

fn view(q: &Qos) -> Value {
    json!({"id": q.id, "name": q.name, "consumer": q.consumer, "specs": q.specs})
}

fn with_links(req: &Request, q: &Qos) -> Value {
    json!({"qos_specs": view(q), "links": links(req, &format!("qos-specs/{}", q.id))})
}

async fn index(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:qos_specs_manage:get_all", &req.ctx, &())?;
    let all = volumes.core.store.read(db::qos_list_in).await?;
    json(200, &json!({"qos_specs": all.iter().map(view).collect::<Vec<_>>()}))
}

async fn show(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:qos_specs_manage:get", &req.ctx, &())?;
    let found = volumes.core.store.read(|tx| db::qos_fetch_in(tx, req.param("id"))).await?;
    json(200, &with_links(&req, &found))
}

/// Consumer and specs of a body.
fn read(map: serde_json::Map<String, Value>) -> Result<(Option<String>, std::collections::BTreeMap<String, String>)> {
    let mut specs = need("qos_specs", body::metadata("qos_specs", Some(&Value::Object(map)))?)?;
    let consumer = specs.remove("consumer");
    if let Some(consumer) = consumer.as_deref().filter(|c| !CONSUMERS.contains(c)) {
        return Err(Error::invalid(format!("Invalid qos specs: Valid consumer of QoS specs are: {CONSUMERS:?}, not {consumer}")));
    }
    Ok((consumer, specs))
}

async fn create(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:qos_specs_manage:create", &req.ctx, &())?;
    let mut map = inner(&req, "qos_specs", &[])?;
    let name = need("name", body::trimmed(&map, "name")?.filter(|n| !n.is_empty()))?;
    map.remove("name");
    let (consumer, specs) = read(map)?;
    let made =
        Qos { id: base::id::uuid(), name, consumer: consumer.unwrap_or_else(|| "back-end".into()), specs, created_at: Timestamp::now() };
    let stored = made.clone();
    volumes.core.store.write(move |tx| db::qos_put_in(tx, &stored)).await.map_err(|e| match e.kind() {
        Kind::Exists => Error::conflict(format!("QoS Specs {} already exists.", made.name)).caused_by(e),
        _ => e,
    })?;
    json(200, &with_links(&req, &made))
}

async fn update(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:qos_specs_manage:update", &req.ctx, &())?;
    let map = inner(&req, "qos_specs", &[])?;
    let shown = map.clone();
    let (consumer, specs) = read(map)?;
    let id = req.param("id").to_string();
    volumes
        .core
        .store
        .write(move |tx| {
            let mut q = db::qos_fetch_in(tx, &id)?;
            q.consumer = consumer.unwrap_or(q.consumer);
            q.specs.extend(specs);
            db::qos_put_in(tx, &q)
        })
        .await?;
    json(200, &json!({ "qos_specs": shown }))
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:qos_specs_manage:delete", &req.ctx, &())?;
    let force = req.query.get("force").and_then(parse_bool).unwrap_or(false);
    let id = req.param("id").to_string();
    volumes
        .core
        .store
        .write(move |tx| {
            db::qos_fetch_in(tx, &id)?;
            let used = db::type_list_in(tx)?.iter().any(|t| t.qos_specs_id.as_ref() == Some(&id));
            if used && !force {
                return Err(Error::invalid(format!("QoS Specs {id} is still associated with entities.")));
            }
            db::qos_delete_in(tx, &id)
        })
        .await?;
    empty(202)
}

async fn delete_keys(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:qos_specs_manage:update", &req.ctx, &())?;
    let body = req.object()?;
    let keys = need("keys", body.get("keys").and_then(Value::as_array).cloned())?;
    let keys: Vec<String> = keys.iter().filter_map(|k| k.as_str().map(str::to_string)).collect();
    let id = req.param("id").to_string();
    volumes
        .core
        .store
        .write(move |tx| {
            let mut q = db::qos_fetch_in(tx, &id)?;
            for key in &keys {
                if q.specs.remove(key).is_none() {
                    return Err(Error::invalid(format!("QoS spec {id} has no spec with key {key}.")));
                }
            }
            db::qos_put_in(tx, &q)
        })
        .await?;
    empty(202)
}

async fn associations(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:qos_specs_manage:get", &req.ctx, &())?;
    let id = req.param("id");
    let all = volumes
        .core
        .store
        .read(|tx| {
            db::qos_fetch_in(tx, id)?;
            db::type_list_in(tx)
        })
        .await?;
    let of = all.iter().filter(|t| t.qos_specs_id.as_deref() == Some(id));
    let rows: Vec<Value> = of.map(|t| json!({"association_type": "volume_type", "name": t.name, "id": t.id})).collect();
    json(200, &json!({ "qos_associations": rows }))
}

async fn tie(volumes: Volumes, req: Request, add: bool) -> Result<Response> {
    volumes.authorize("volume_extension:qos_specs_manage:update", &req.ctx, &())?;
    let kind = need("vol_type_id", req.query.get("vol_type_id").filter(|t| !t.is_empty()).map(str::to_string))?;
    let id = req.param("id").to_string();
    volumes
        .core
        .store
        .write(move |tx| {
            db::qos_fetch_in(tx, &id)?;
            let mut t = db::type_fetch_in(tx, &kind)?.ok_or_else(|| db::not_found(&kind))?;
            if add && t.qos_specs_id.as_ref().is_some_and(|q| *q != id) {
                return Err(Error::invalid(format!("Invalid volume type: Type {kind} is already associated with another qos specs")));
            }
            t.qos_specs_id = if add { Some(id) } else { t.qos_specs_id.filter(|q| *q != id) };
            db::type_put_in(tx, &t)
        })
        .await?;
    empty(202)
}

async fn associate(volumes: Volumes, req: Request) -> Result<Response> {
    tie(volumes, req, true).await
}
async fn disassociate(volumes: Volumes, req: Request) -> Result<Response> {
    tie(volumes, req, false).await
}

async fn disassociate_all(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:qos_specs_manage:update", &req.ctx, &())?;
    let id = req.param("id").to_string();
    volumes
        .core
        .store
        .write(move |tx| {
            db::qos_fetch_in(tx, &id)?;
            for mut t in db::type_list_in(tx)?.into_iter().filter(|t| t.qos_specs_id.as_ref() == Some(&id)) {
                t.qos_specs_id = None;
                db::type_put_in(tx, &t)?;
            }
            Ok(())
        })
        .await?;
    empty(202)
}
