//! `/group_types`, since 3.11.

use base::{Error, Kind, Result, Timestamp};
use http_api::query::parse_bool;
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};

use super::body::{self, inner, need, only};
use super::list::{Wanted, next};
use super::since;
use crate::Volumes;
use crate::db::groups::{self as db, GroupType};

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/group_types", index)
        .post("/group_types", create)
        .get("/group_types/{id}", show)
        .put("/group_types/{id}", update)
        .delete("/group_types/{id}", delete)
        .get("/group_types/{id}/group_specs", specs)
        .post("/group_types/{id}/group_specs", specs_add)
        .get("/group_types/{id}/group_specs/{key}", spec)
        .put("/group_types/{id}/group_specs/{key}", spec_put)
        .delete("/group_types/{id}/group_specs/{key}", spec_remove)
}

fn view(volumes: &Volumes, req: &Request, t: &GroupType) -> Value {
    let mut view = json!({"id": t.id, "name": t.name, "description": t.description, "is_public": t.is_public});
    if volumes.may("group:access_group_types_specs", &req.ctx, &()) {
        view["group_specs"] = json!(t.specs);
    }
    view
}

async fn index(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 11)?;
    let wanted = Wanted::read(&req, volumes.core.config.int("api.max_limit"))?;
    let order = wanted.order(&[("created_at", "created_at"), ("name", "name"), ("id", "id")], "id")?;
    let public = match req.query.get("is_public") {
        Some(text) if req.ctx.is_admin() && text.eq_ignore_ascii_case("none") => None,
        Some(text) if req.ctx.is_admin() => {
            Some(parse_bool(text).ok_or_else(|| Error::invalid(format!("Invalid is_public filter [{text}]")))?)
        }
        _ => Some(true),
    };
    let mut all = volumes.core.store.read(db::group_types_in).await?;
    all.retain(|t| public.is_none_or(|wanted| t.is_public == wanted));
    for (column, dir) in order.iter().rev() {
        all.sort_by(|a, b| match *column {
            "name" => a.name.cmp(&b.name),
            "created_at" => a.created_at.cmp(&b.created_at),
            _ => a.id.cmp(&b.id),
        });
        if *dir == store::Dir::Desc {
            all.reverse();
        }
    }
    if let Some(marker) = &wanted.page.marker {
        let missing = || Error::new(Kind::NotFound, format!("Group type {marker} could not be found."));
        let at = all.iter().position(|t| t.id == *marker).ok_or_else(missing)?;
        all.drain(..=at);
    }
    all.drain(..usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(all.len()));
    let limit = wanted.page.limit.and_then(|l| usize::try_from(l).ok());
    all.truncate(limit.unwrap_or(usize::MAX));
    let mut body = json!({"group_types": all.iter().map(|t| view(&volumes, &req, t)).collect::<Vec<_>>()});
    if let (Some(last), Some(limit)) = (all.last(), limit)
        && all.len() == limit
    {
        body["group_type_links"] = next(&req, "group_types", &last.id);
    }
    json(200, &body)
}

/// The type of the path.
async fn found(volumes: &Volumes, req: &Request) -> Result<GroupType> {
    since(req, 11)?;
    let id = req.param("id");
    if id == "default" {
        return Err(Error::new(Kind::NotFound, "Default group type can not be found."));
    }
    volumes.core.store.read(|tx| volumes.group_type_visible_in(tx, &req.ctx, id)).await
}

async fn show(volumes: Volumes, req: Request) -> Result<Response> {
    let t = found(&volumes, &req).await?;
    json(200, &json!({"group_type": view(&volumes, &req, &t)}))
}

fn taken(error: Error, name: &str) -> Error {
    match error.kind() {
        Kind::Exists => Error::conflict(format!("Group Type {name} already exists.")).caused_by(error),
        _ => error,
    }
}

async fn create(volumes: Volumes, req: Request) -> Result<Response> {
    since(&req, 11)?;
    volumes.authorize("group:group_types:create", &req.ctx, &())?;
    let map = inner(&req, "group_type", &[])?;
    only(&map, &["name", "description", "is_public", "group_specs"])?;
    let name = need("name", body::trimmed(&map, "name")?)?;
    if name.is_empty() {
        return Err(body::wrong("name", "It is empty"));
    }
    let t = GroupType {
        id: base::id::uuid(),
        name,
        description: body::text(&map, "description")?,
        is_public: body::flag(&map, "is_public")?.unwrap_or(true),
        specs: body::metadata("group_specs", map.get("group_specs"))?.unwrap_or_default(),
        created_at: Timestamp::now(),
    };
    let stored = t.clone();
    volumes.core.store.write(move |tx| db::group_type_put_in(tx, &stored)).await.map_err(|e| taken(e, &t.name))?;
    json(202, &json!({"group_type": view(&volumes, &req, &t)}))
}

/// Changes the type of the path.
async fn change(
    volumes: &Volumes,
    req: &Request,
    rule: &'static str,
    work: impl FnOnce(&mut GroupType) -> Result<()> + Send + 'static,
) -> Result<GroupType> {
    volumes.authorize(rule, &req.ctx, &())?;
    let id = found(volumes, req).await?.id;
    volumes
        .core
        .store
        .write(move |tx| {
            let mut t = db::group_type_get_in(tx, &id)?;
            work(&mut t)?;
            db::group_type_put_in(tx, &t)?;
            Ok(t)
        })
        .await
}

async fn update(volumes: Volumes, req: Request) -> Result<Response> {
    let map = inner(&req, "group_type", &[])?;
    only(&map, &["name", "description", "is_public"])?;
    let (name, description, public) = (body::trimmed(&map, "name")?, body::text(&map, "description")?, body::flag(&map, "is_public")?);
    if name.as_deref() == Some("") {
        return Err(Error::invalid("Group type name can not be empty."));
    }
    if name.is_none() && description.is_none() && public.is_none() {
        return Err(Error::invalid("Specify group type name, description or a combination thereof."));
    }
    let shown = name.clone().unwrap_or_default();
    let changed = change(&volumes, &req, "group:group_types:update", move |t| {
        t.name = name.unwrap_or(std::mem::take(&mut t.name));
        t.description = description.or(t.description.take());
        t.is_public = public.unwrap_or(t.is_public);
        Ok(())
    });
    let t = changed.await.map_err(|e| taken(e, &shown))?;
    json(200, &json!({"group_type": view(&volumes, &req, &t)}))
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("group:group_types:delete", &req.ctx, &())?;
    let id = found(&volumes, &req).await?.id;
    volumes
        .core
        .store
        .write(move |tx| match db::group_type_used_in(tx, &id)? {
            true => Err(Error::invalid("Target group type is still in use.")),
            false => db::group_type_delete_in(tx, &id),
        })
        .await?;
    empty(202)
}

fn no_spec(id: &str, key: &str) -> Error {
    Error::new(Kind::NotFound, format!("Group Type {id} has no specs with key {key}."))
}

async fn specs(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("group:group_types_specs:get_all", &req.ctx, &())?;
    let t = found(&volumes, &req).await?;
    json(200, &json!({"group_specs": t.specs}))
}

async fn specs_add(volumes: Volumes, req: Request) -> Result<Response> {
    let body = req.object()?;
    only(&body, &["group_specs"])?;
    let more = need("group_specs", body::metadata("group_specs", body.get("group_specs"))?)?;
    let shown = more.clone();
    change(&volumes, &req, "group:group_types_specs:create", move |t| {
        t.specs.extend(more);
        Ok(())
    })
    .await?;
    json(202, &json!({ "group_specs": shown }))
}

async fn spec(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("group:group_types_specs:get", &req.ctx, &())?;
    let t = found(&volumes, &req).await?;
    let key = req.param("key");
    let value = t.specs.get(key).ok_or_else(|| no_spec(&t.id, key))?;
    json(200, &json!({ key: value }))
}

async fn spec_put(volumes: Volumes, req: Request) -> Result<Response> {
    let pairs = need("group_specs", body::metadata("group_specs", Some(&Value::Object(req.object()?)))?)?;
    let key = req.param("key").to_string();
    if pairs.len() != 1 {
        return Err(Error::invalid("Request body contains too many items."));
    }
    let Some(value) = pairs.get(&key).cloned() else { return Err(Error::invalid("Request body and URI mismatch.")) };
    change(&volumes, &req, "group:group_types_specs:update", move |t| {
        t.specs.insert(key, value);
        Ok(())
    })
    .await?;
    json(200, &pairs)
}

async fn spec_remove(volumes: Volumes, req: Request) -> Result<Response> {
    let key = req.param("key").to_string();
    change(&volumes, &req, "group:group_types_specs:delete", move |t| t.specs.remove(&key).map(drop).ok_or_else(|| no_spec(&t.id, &key)))
        .await?;
    empty(202)
}
