//! `/types`.

use std::collections::BTreeMap;

use base::{Error, Kind, Result, Timestamp};
use http_api::query::parse_bool;
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};

use super::body::{self, inner, need, only};
use super::list::Wanted;
use super::time;
use crate::db::types::{self as db, Encryption, TypeDoc, VolumeType};
use crate::{DEFAULT_TYPE, Volumes};

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes
        .get("/types", index)
        .post("/types", create)
        .get("/types/{id}", show)
        .put("/types/{id}", update)
        .delete("/types/{id}", delete)
        .post("/types/{id}/action", act)
        .get("/types/{id}/os-volume-type-access", access)
        .get("/types/{id}/extra_specs", specs)
        .post("/types/{id}/extra_specs", specs_add)
        .get("/types/{id}/extra_specs/{key}", spec)
        .put("/types/{id}/extra_specs/{key}", spec_put)
        .delete("/types/{id}/extra_specs/{key}", spec_remove)
        .get("/types/{id}/encryption", encryption)
        .post("/types/{id}/encryption", encryption_create)
        .get("/types/{id}/encryption/{key}", encryption_item)
        .put("/types/{id}/encryption/{key}", encryption_update)
        .delete("/types/{id}/encryption/{key}", encryption_delete)
}

/// Extra specs that everybody may see; others tell of the backend.
const OPEN_SPECS: &[&str] = &["RESKEY:availability_zones", "multiattach", "replication_enabled"];

pub fn visible_specs(volumes: &Volumes, req: &Request, t: &VolumeType) -> BTreeMap<String, String> {
    let all = volumes.may("volume_extension:types_extra_specs:read_sensitive", &req.ctx, &());
    t.doc.extra_specs.iter().filter(|(k, _)| all || OPEN_SPECS.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn view(volumes: &Volumes, req: &Request, t: &VolumeType) -> Value {
    let mut view = json!({"id": t.id, "name": t.name, "is_public": t.is_public, "description": t.description});
    let target = [("project_id", req.ctx.project_id())];
    if volumes.may("volume_extension:access_types_extra_specs", &req.ctx, &target) {
        view["extra_specs"] = json!(visible_specs(volumes, req, t));
    }
    if volumes.may("volume_extension:access_types_qos_specs_id", &req.ctx, &target) {
        view["qos_specs_id"] = json!(t.qos_specs_id);
    }
    view["os-volume-type-access:is_public"] = json!(t.is_public);
    view
}

async fn index(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:type_get_all", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let wanted = Wanted::read(&req, volumes.core.config.int("api.max_limit"))?;
    let order = wanted.order(&[("created_at", "created_at"), ("updated_at", "updated_at"), ("name", "name"), ("id", "id")], "id")?;
    let public = match req.query.get("is_public") {
        Some(_) if !req.ctx.is_admin() => Some(true),
        Some(text) if text.eq_ignore_ascii_case("none") => None,
        Some(text) => Some(parse_bool(text).ok_or_else(|| Error::invalid(format!("Invalid is_public filter [{text}]")))?),
        None => Some(true),
    };
    let (admin, project) = (req.ctx.is_admin(), req.ctx.project_id());
    let mut all = volumes
        .core
        .store
        .read(|tx| {
            let mut kept = Vec::new();
            for t in db::type_list_in(tx)? {
                let mine = !t.is_public && db::access_list_in(tx, &t.id)?.iter().any(|p| p == project);
                let fits = match (admin, public) {
                    (true, Some(wanted)) => t.is_public == wanted,
                    (true, None) => true,
                    (false, _) => t.is_public || mine,
                };
                if fits {
                    kept.push(t);
                }
            }
            Ok(kept)
        })
        .await?;
    for (column, dir) in order.iter().rev() {
        all.sort_by(|a, b| match *column {
            "name" => a.name.cmp(&b.name),
            "created_at" => a.created_at.cmp(&b.created_at),
            "updated_at" => a.updated_at.cmp(&b.updated_at),
            _ => a.id.cmp(&b.id),
        });
        if *dir == store::Dir::Desc {
            all.reverse();
        }
    }
    if let Some(wanted) = wanted.filter("extra_specs") {
        let pairs = super::list::dict(wanted)?;
        all.retain(|t| pairs.iter().all(|(k, v)| t.doc.extra_specs.get(k) == Some(v)));
    }
    if let Some(name) = wanted.filter("name") {
        all.retain(|t| t.name == name);
    }
    if let Some(marker) = &wanted.page.marker {
        let at = all.iter().position(|t| t.id == *marker).ok_or_else(|| db::not_found(marker))?;
        all.drain(..=at);
    }
    all.drain(..usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(all.len()));
    let limit = wanted.page.limit.and_then(|l| usize::try_from(l).ok());
    all.truncate(limit.unwrap_or(usize::MAX));
    let mut body = json!({"volume_types": all.iter().map(|t| view(&volumes, &req, t)).collect::<Vec<_>>()});
    if let (Some(last), Some(limit)) = (all.last(), limit)
        && all.len() == limit
    {
        body["volume_type_links"] = super::list::next(&req, "types", &last.id);
    }
    json(200, &body)
}

/// The type of the path, if the caller may use `rule`.
async fn found(volumes: &Volumes, req: &Request, rule: &'static str) -> Result<VolumeType> {
    volumes.authorize(rule, &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let id = req.param("id");
    let admin = req.ctx.is_admin();
    let project = req.ctx.project_id();
    volumes
        .core
        .store
        .read(|tx| {
            let t = match db::type_fetch_in(tx, id)? {
                Some(t) => t,
                None if id == "default" => db::type_by_name_in(tx, DEFAULT_TYPE)?.ok_or_else(|| db::not_found(id))?,
                None => return Err(db::not_found(id)),
            };
            let visible = t.is_public || admin || db::access_list_in(tx, &t.id)?.iter().any(|p| p == project);
            if visible { Ok(t) } else { Err(db::not_found(id)) }
        })
        .await
}

async fn show(volumes: Volumes, req: Request) -> Result<Response> {
    let t = found(&volumes, &req, "volume_extension:type_get").await?;
    json(200, &json!({"volume_type": view(&volumes, &req, &t)}))
}

async fn create(volumes: Volumes, req: Request) -> Result<Response> {
    volumes.authorize("volume_extension:type_create", &req.ctx, &())?;
    let map = inner(&req, "volume_type", &[])?;
    let now = Timestamp::now();
    let name = need("name", body::trimmed(&map, "name")?)?;
    if name.is_empty() {
        return Err(body::wrong("name", "It is empty"));
    }
    let t = VolumeType {
        id: base::id::uuid(),
        name,
        description: body::text(&map, "description")?,
        is_public: body::flag(&map, "os-volume-type-access:is_public")?.unwrap_or(true),
        qos_specs_id: None,
        created_at: now,
        updated_at: now,
        doc: TypeDoc { extra_specs: body::metadata("extra_specs", map.get("extra_specs"))?.unwrap_or_default(), encryption: None },
    };
    let stored = t.clone();
    volumes.core.store.write(move |tx| db::type_put_in(tx, &stored)).await.map_err(|e| taken(e, &t.name))?;
    // The answers to create and update are without what extensions show.
    let mut shown = view(&volumes, &req, &t);
    forget(&mut shown, &["qos_specs_id"]);
    json(200, &json!({ "volume_type": shown }))
}

fn forget(view: &mut Value, names: &[&str]) {
    if let Some(map) = view.as_object_mut() {
        map.retain(|name, _| !names.contains(&name.as_str()));
    }
}

fn taken(error: Error, name: &str) -> Error {
    match error.kind() {
        Kind::Exists => Error::conflict(format!("Volume Type {name} already exists.")).caused_by(error),
        _ => error,
    }
}

/// Changes the type of the path.
async fn change(
    volumes: &Volumes,
    req: &Request,
    rule: &'static str,
    work: impl FnOnce(&store::Tx, &mut VolumeType) -> Result<()> + Send + 'static,
) -> Result<VolumeType> {
    let id = found(volumes, req, rule).await?.id;
    volumes
        .core
        .store
        .write(move |tx| {
            let mut t = db::type_fetch_in(tx, &id)?.ok_or_else(|| db::not_found(&id))?;
            work(tx, &mut t)?;
            t.updated_at = Timestamp::now();
            db::type_put_in(tx, &t)?;
            Ok(t)
        })
        .await
}

async fn update(volumes: Volumes, req: Request) -> Result<Response> {
    let map = inner(&req, "volume_type", &[])?;
    only(&map, &["name", "description", "is_public"])?;
    let (name, description, public) = (body::trimmed(&map, "name")?, body::text(&map, "description")?, body::flag(&map, "is_public")?);
    if name.as_deref() == Some("") {
        return Err(Error::invalid("Volume type name can not be empty."));
    }
    if name.is_none() && description.is_none() && public.is_none() {
        return Err(Error::invalid("Specify volume type name, description, is_public or a combination thereof."));
    }
    let shown = name.clone().unwrap_or_default();
    let t = change(&volumes, &req, "volume_extension:type_update", move |tx, t| {
        if let Some(name) = name {
            if t.name == DEFAULT_TYPE && name != t.name && db::type_used_in(tx, &t.id)? {
                return Err(Error::conflict("The default volume type that is in use cannot be renamed."));
            }
            tx.execute(
                "UPDATE volume_quota SET resource = REPLACE(resource, ?1, ?2) WHERE resource LIKE ?3",
                &[format!("_{}", t.name).into(), format!("_{name}").into(), format!("%\\_{}", store::escape_like(&t.name)).into()],
            )?;
            t.name = name;
        }
        if let Some(description) = description {
            t.description = Some(description);
        }
        if let Some(public) = public {
            t.is_public = public;
        }
        Ok(())
    })
    .await
    .map_err(|e| taken(e, &shown))?;
    let mut shown = view(&volumes, &req, &t);
    forget(&mut shown, &["qos_specs_id", "os-volume-type-access:is_public"]);
    json(200, &json!({ "volume_type": shown }))
}

async fn delete(volumes: Volumes, req: Request) -> Result<Response> {
    let id = found(&volumes, &req, "volume_extension:type_delete").await?.id;
    volumes
        .core
        .store
        .write(move |tx| {
            if db::type_used_in(tx, &id)? || crate::groups::type_grouped_in(tx, &id)? {
                return Err(Error::invalid(format!("Target volume type is still in use: volume type {id}")));
            }
            if db::type_list_in(tx)?.len() == 1 {
                return Err(Error::invalid("Volume types are required: the last one cannot be deleted."));
            }
            db::type_delete_in(tx, &id)
        })
        .await?;
    empty(202)
}

async fn act(volumes: Volumes, req: Request) -> Result<Response> {
    let body = req.object()?;
    let add = body.contains_key("addProjectAccess");
    let name = if add { "addProjectAccess" } else { "removeProjectAccess" };
    let rule = if add {
        "volume_extension:volume_type_access:addProjectAccess"
    } else {
        "volume_extension:volume_type_access:removeProjectAccess"
    };
    let map = inner(&req, name, &[])?;
    only(&map, &["project"])?;
    let project = need("project", body::text(&map, "project")?.filter(|p| !p.is_empty()))?;
    change(&volumes, &req, rule, move |tx, t| {
        if t.is_public {
            return Err(Error::conflict("Invalid volume type: Type access modification is not applicable to public volume type."));
        }
        if add {
            tx.attempt(|tx| db::access_add_in(tx, &t.id, &project)).map_err(|error| match error.kind() {
                Kind::Exists => Error::conflict(format!("Volume type access for {} / {project} combination already exists.", t.id)),
                _ => error,
            })
        } else if db::access_remove_in(tx, &t.id, &project)? {
            Ok(())
        } else {
            Err(Error::new(Kind::NotFound, format!("Volume type access not found for {} / {project} combination.", t.id)))
        }
    })
    .await?;
    empty(202)
}

async fn access(volumes: Volumes, req: Request) -> Result<Response> {
    let t = found(&volumes, &req, "volume_extension:volume_type_access:get_all_for_type").await?;
    if t.is_public {
        return Err(Error::new(Kind::NotFound, "Access list not available for public volume types."));
    }
    let projects = volumes.core.store.read(|tx| db::access_list_in(tx, &t.id)).await?;
    let rows: Vec<Value> = projects.iter().map(|p| json!({"volume_type_id": t.id, "project_id": p})).collect();
    json(200, &json!({ "volume_type_access": rows }))
}

fn no_spec(id: &str, key: &str) -> Error {
    Error::new(Kind::NotFound, format!("Volume Type {id} has no extra specs with key {key}."))
}

async fn specs(volumes: Volumes, req: Request) -> Result<Response> {
    let t = found(&volumes, &req, "volume_extension:types_extra_specs:index").await?;
    json(200, &json!({"extra_specs": visible_specs(&volumes, &req, &t)}))
}

async fn specs_add(volumes: Volumes, req: Request) -> Result<Response> {
    let body = req.object()?;
    only(&body, &["extra_specs"])?;
    let more = need("extra_specs", body::metadata("extra_specs", body.get("extra_specs"))?)?;
    let shown = more.clone();
    change(&volumes, &req, "volume_extension:types_extra_specs:create", move |_, t| {
        t.doc.extra_specs.extend(more);
        Ok(())
    })
    .await?;
    json(200, &json!({ "extra_specs": shown }))
}

async fn spec(volumes: Volumes, req: Request) -> Result<Response> {
    let t = found(&volumes, &req, "volume_extension:types_extra_specs:show").await?;
    let key = req.param("key");
    let specs = visible_specs(&volumes, &req, &t);
    let value = specs.get(key).ok_or_else(|| no_spec(&t.id, key))?;
    json(200, &json!({ key: value }))
}

async fn spec_put(volumes: Volumes, req: Request) -> Result<Response> {
    let pairs = need("extra_specs", body::metadata("extra_specs", Some(&Value::Object(req.object()?)))?)?;
    let key = req.param("key").to_string();
    if pairs.len() != 1 {
        return Err(Error::invalid("Request body contains too many items."));
    }
    let Some(value) = pairs.get(&key).cloned() else { return Err(Error::invalid("Request body and URI mismatch.")) };
    let shown = pairs.clone();
    change(&volumes, &req, "volume_extension:types_extra_specs:update", move |_, t| {
        t.doc.extra_specs.insert(key, value);
        Ok(())
    })
    .await?;
    json(200, &shown)
}

async fn spec_remove(volumes: Volumes, req: Request) -> Result<Response> {
    let key = req.param("key").to_string();
    change(&volumes, &req, "volume_extension:types_extra_specs:delete", move |_, t| {
        t.doc.extra_specs.remove(&key).map(drop).ok_or_else(|| no_spec(&t.id, &key))
    })
    .await?;
    empty(202)
}

fn encryption_view(t: &VolumeType) -> Value {
    t.doc.encryption.as_ref().map_or_else(
        || json!({}),
        |e| {
            json!({
                "volume_type_id": t.id,
                "encryption_id": e.encryption_id,
                "provider": e.provider,
                "control_location": e.control_location,
                "cipher": e.cipher,
                "key_size": e.key_size,
                "created_at": time(e.created_at),
                "updated_at": null,
                "deleted_at": null,
                "deleted": false,
            })
        },
    )
}

async fn encryption(volumes: Volumes, req: Request) -> Result<Response> {
    let t = found(&volumes, &req, "volume_extension:volume_type_encryption:get").await?;
    json(200, &encryption_view(&t))
}

async fn encryption_item(volumes: Volumes, req: Request) -> Result<Response> {
    let t = found(&volumes, &req, "volume_extension:volume_type_encryption:get").await?;
    let view = encryption_view(&t);
    match view.get(req.param("key")) {
        Some(value) => json(200, &json!({req.param("key"): value})),
        None => Err(Error::new(Kind::NotFound, "The resource could not be found.")),
    }
}

/// The fields of a body that are given.
type Given = (Option<String>, Option<String>, Option<String>, Option<i64>);

fn encryption_body(req: &Request) -> Result<Given> {
    let map = inner(req, "encryption", &[])?;
    only(&map, &["provider", "control_location", "cipher", "key_size"])?;
    let location = body::text(&map, "control_location")?;
    if location.as_deref().is_some_and(|l| !matches!(l, "front-end" | "back-end")) {
        return Err(body::wrong("control_location", "It is not one of ['front-end', 'back-end']"));
    }
    let key_size = match map.get("key_size") {
        None | Some(Value::Null) => None,
        Some(value) => Some(body::int("key_size", value)?)
            .filter(|n| (0..=i64::from(i32::MAX)).contains(n))
            .map(Some)
            .ok_or_else(|| body::wrong("key_size", "It is out of range"))?,
    };
    Ok((body::text(&map, "provider")?, location, body::text(&map, "cipher")?, key_size))
}

async fn encryption_create(volumes: Volumes, req: Request) -> Result<Response> {
    let (provider, location, cipher, key_size) = encryption_body(&req)?;
    let provider = need("provider", provider.filter(|p| !p.is_empty()))?;
    let made = Encryption {
        encryption_id: base::id::uuid(),
        provider,
        control_location: need("control_location", location)?,
        cipher,
        key_size,
        created_at: Timestamp::now(),
    };
    let shown = made.clone();
    let t = change(&volumes, &req, "volume_extension:volume_type_encryption:create", move |tx, t| {
        if t.doc.encryption.is_some() {
            return Err(Error::invalid(format!("Volume type encryption for type {} already exists.", t.id)));
        }
        if db::type_used_in(tx, &t.id)? {
            return Err(Error::invalid(format!("Cannot create encryption specs. Volume type {} in use.", t.id)));
        }
        t.doc.encryption = Some(made);
        Ok(())
    })
    .await?;
    json(
        200,
        &json!({"encryption": {
            "volume_type_id": t.id, "encryption_id": shown.encryption_id, "provider": shown.provider, "control_location": shown.control_location,
            "cipher": shown.cipher, "key_size": shown.key_size,
        }}),
    )
}

fn no_encryption(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Volume type encryption for type {id} does not exist."))
}

async fn encryption_update(volumes: Volumes, req: Request) -> Result<Response> {
    let given = encryption_body(&req)?;
    let shown = json!({"encryption": {"provider": given.0, "control_location": given.1, "cipher": given.2, "key_size": given.3}});
    change(&volumes, &req, "volume_extension:volume_type_encryption:update", move |tx, t| {
        if db::type_used_in(tx, &t.id)? {
            return Err(Error::invalid(format!("Cannot update encryption specs. Volume type {} in use.", t.id)));
        }
        let id = t.id.clone();
        let e = t.doc.encryption.as_mut().ok_or_else(|| no_encryption(&id))?;
        let (provider, location, cipher, key_size) = given;
        if let Some(provider) = provider {
            e.provider = provider;
        }
        if let Some(location) = location {
            e.control_location = location;
        }
        e.cipher = cipher.or(e.cipher.take());
        e.key_size = key_size.or(e.key_size);
        Ok(())
    })
    .await?;
    json(200, &shown)
}

async fn encryption_delete(volumes: Volumes, req: Request) -> Result<Response> {
    change(&volumes, &req, "volume_extension:volume_type_encryption:delete", move |tx, t| {
        if db::type_used_in(tx, &t.id)? {
            return Err(Error::invalid(format!("Cannot delete encryption specs. Volume type {} in use.", t.id)));
        }
        t.doc.encryption.take().map(drop).ok_or_else(|| no_encryption(&t.id))
    })
    .await?;
    empty(202)
}
