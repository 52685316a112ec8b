//! `/resource_classes`.

use base::{Error, Kind, Result, Timestamp};
use http_api::response::set_header;
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json};
use store::params;

use super::providers::path;
use super::{admit, authorize, dated, only, since, text_at, v, wrong};
use crate::{Placement, change, names};

fn view(req: &Request, name: &str) -> Value {
    json!({"name": name, "links": [{"rel": "self", "href": format!("{}/resource_classes/{name}", path(req))}]})
}

fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("No such resource class {name}."))
}

pub async fn index(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(2))?;
    admit(&placement, "placement:resource_classes:list", &req)?;
    let custom = placement.core.store.read(|tx| tx.query("SELECT name FROM custom_class ORDER BY name", params![], |r| r.text(0))).await?;
    let all = names::CLASSES.iter().map(|c| c.to_string()).chain(custom);
    dated(&req, json(200, &json!({"resource_classes": all.map(|name| view(&req, &name)).collect::<Vec<_>>()}))?, None)
}

fn custom(name: &str) -> Result<String> {
    if names::is_custom(name) {
        Ok(name.to_string())
    } else {
        Err(wrong("name", &format!("'{name}' does not match '^CUSTOM_[A-Z0-9_]+$'")))
    }
}

pub async fn create(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(2))?;
    admit(&placement, "placement:resource_classes:create", &req)?;
    let object = req.object()?;
    only(&object, &["name"])?;
    let name = custom(text_at(&object, "name")?)?;
    let stored = name.clone();
    placement
        .core
        .store
        .write(move |tx| {
            let insert = tx.execute("INSERT INTO custom_class (name, created_at) VALUES (?1, ?2)", params![&stored, Timestamp::now()]);
            insert.map_err(|e| {
                if e.is(Kind::Exists) { Error::exists(format!("Conflicting resource class already exists: {stored}")) } else { e }
            })
        })
        .await?;
    let mut response = empty(201)?;
    set_header(&mut response, "location", &format!("{}/resource_classes/{name}", req.base_url));
    Ok(response)
}

pub async fn show(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(2))?;
    admit(&placement, "placement:resource_classes:show", &req)?;
    let name = req.param("name");
    if !placement.core.store.read(|tx| names::class_exists_in(tx, name)).await? {
        return Err(missing(name));
    }
    dated(&req, json(200, &view(&req, name))?, None)
}

/// From 1.7 on this creates a class; before, it renamed one.
pub async fn update(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(2))?;
    let rule = "placement:resource_classes:update";
    if req.version >= v(7) {
        authorize(&placement, rule, &req)?
    } else {
        admit(&placement, rule, &req)?
    }
    let name = req.param("name").to_string();
    if req.version >= v(7) {
        let stored = custom(&name)?;
        let made = placement
            .core
            .store
            .write(move |tx| {
                tx.execute(
                    "INSERT INTO custom_class (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    params![stored, Timestamp::now()],
                )
            })
            .await?;
        let mut response = empty(if made > 0 { 201 } else { 204 })?;
        set_header(&mut response, "location", &format!("{}/resource_classes/{name}", req.base_url));
        return Ok(response);
    }
    let object = req.object()?;
    only(&object, &["name"])?;
    let new = custom(text_at(&object, "name")?)?;
    let renamed = new.clone();
    placement
        .core
        .store
        .write(move |tx| {
            if names::CLASSES.contains(&name.as_str()) {
                return Err(Error::invalid(format!("Cannot update standard resource class {name}.")));
            }
            let taken = |e: Error| if e.is(Kind::Exists) { Error::exists(format!("Resource class already exists: {new}")) } else { e };
            if tx.execute("UPDATE custom_class SET name = ?2 WHERE name = ?1", params![&name, &new]).map_err(taken)? == 0 {
                return Err(missing(&name));
            }
            for provider in tx.query("SELECT provider FROM inventory WHERE class = ?1", params![&name], |r| r.text(0))? {
                change::note_in(tx, &provider)?;
            }
            tx.execute("UPDATE inventory SET class = ?2 WHERE class = ?1", params![&name, &new])?;
            tx.execute("UPDATE allocation SET class = ?2 WHERE class = ?1", params![&name, &new]).map(drop)
        })
        .await?;
    json(200, &view(&req, &renamed))
}

pub async fn delete(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(2))?;
    authorize(&placement, "placement:resource_classes:delete", &req)?;
    let name = req.param("name").to_string();
    placement
        .core
        .store
        .write(move |tx| {
            if names::CLASSES.contains(&name.as_str()) {
                return Err(Error::invalid(format!("Cannot delete standard resource class {name}.")));
            }
            if tx.query_opt("SELECT 1 FROM inventory WHERE class = ?1 LIMIT 1", params![&name], |r| r.int(0))?.is_some() {
                return Err(Error::conflict(format!("Cannot delete resource class {name}. Class is in use in inventory.")));
            }
            if tx.execute("DELETE FROM custom_class WHERE name = ?1", params![&name])? == 0 { Err(missing(&name)) } else { Ok(()) }
        })
        .await?;
    empty(204)
}
