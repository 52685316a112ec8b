//! `/traits` and `/resource_providers/{uuid}/traits`.

use base::{Error, Kind, Result, Timestamp};
use http_api::response::set_header;
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json};
use store::{Tx, params};

use super::{admit, authorize, dated, generation_bump_in, int_at, only, provider_in, since, v, wrong};
use crate::filter::only_known;
use crate::{Placement, names};

pub async fn index(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(6))?;
    admit(&placement, "placement:traits:list", &req)?;
    only_known(&req.query, &["name", "associated"])?;
    let associated = match req.query.get("associated").map(str::to_ascii_lowercase).as_deref() {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => return Err(Error::invalid("The query parameter \"associated\" only accepts \"true\" or \"false\"")),
    };
    let (custom, used) = placement
        .core
        .store
        .read(|tx| {
            let custom = tx.query("SELECT name FROM custom_trait ORDER BY name", params![], |r| r.text(0))?;
            Ok((custom, tx.query("SELECT DISTINCT trait FROM provider_trait", params![], |r| r.text(0))?))
        })
        .await?;
    let mut all: Vec<String> = names::TRAITS.iter().map(|t| t.to_string()).chain(custom).collect();
    if let Some(filter) = req.query.get("name") {
        match filter.split_once(':') {
            Some(("in", list)) => all.retain(|t| list.split(',').any(|n| n == t)),
            Some(("startswith", prefix)) => all.retain(|t| t.starts_with(prefix)),
            // As upstream, which knows no other operator and does not mind.
            Some(_) => {}
            None => {
                return Err(Error::invalid(format!(
                    "Badly formatted name parameter. Expected name query string parameter in form: ?name=[in|startswith]:[name1,name2|prefix]. Got: \"{filter}\""
                )));
            }
        }
    }
    if let Some(wanted) = associated {
        all.retain(|t| used.contains(t) == wanted);
    }
    dated(&req, json(200, &json!({ "traits": all }))?, None)
}

fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("No such trait(s): {name}."))
}

pub async fn show(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(6))?;
    authorize(&placement, "placement:traits:show", &req)?;
    let name = req.param("name");
    if !placement.core.store.read(|tx| names::trait_exists_in(tx, name)).await? {
        return Err(missing(name));
    }
    dated(&req, empty(204)?, None)
}

pub async fn create(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(6))?;
    authorize(&placement, "placement:traits:update", &req)?;
    let name = req.param("name").to_string();
    if !names::is_custom(&name) {
        return Err(Error::invalid(
            "The trait is invalid. A valid trait must be no longer than 255 characters, start with the prefix \"CUSTOM_\" and use following characters: \"A\"-\"Z\", \"0\"-\"9\" and \"_\"",
        ));
    }
    let made = placement
        .core
        .store
        .write(move |tx| {
            tx.execute(
                "INSERT INTO custom_trait (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![name, Timestamp::now()],
            )
        })
        .await?;
    let mut response = empty(if made > 0 { 201 } else { 204 })?;
    set_header(&mut response, "location", &format!("{}/traits/{}", req.base_url, req.param("name")));
    dated(&req, response, None)
}

pub async fn delete(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(6))?;
    authorize(&placement, "placement:traits:delete", &req)?;
    let name = req.param("name").to_string();
    placement
        .core
        .store
        .write(move |tx| {
            if !names::trait_exists_in(tx, &name)? {
                return Err(missing(&name));
            }
            if !names::is_custom(&name) {
                return Err(Error::invalid(format!("Cannot delete standard trait {name}.")));
            }
            if tx.query_opt("SELECT 1 FROM provider_trait WHERE trait = ?1 LIMIT 1", params![&name], |r| r.int(0))?.is_some() {
                return Err(Error::conflict(format!("The trait {name} is in use by a resource provider.")));
            }
            tx.execute("DELETE FROM custom_trait WHERE name = ?1", params![&name]).map(drop)
        })
        .await?;
    empty(204)
}

fn of_in(tx: &Tx, uuid: &str) -> Result<Vec<String>> {
    tx.query("SELECT trait FROM provider_trait WHERE provider = ?1 ORDER BY trait", params![uuid], |r| r.text(0))
}

fn view(traits: &[String], generation: i64) -> Value {
    json!({"traits": traits, "resource_provider_generation": generation})
}

pub async fn provider_index(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(6))?;
    admit(&placement, "placement:resource_providers:traits:list", &req)?;
    let (provider, traits) =
        placement.core.store.read(|tx| Ok((provider_in(tx, req.param("uuid"))?, of_in(tx, req.param("uuid"))?))).await?;
    dated(&req, json(200, &view(&traits, provider.generation))?, Some(provider.updated_at))
}

pub async fn provider_replace(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(6))?;
    admit(&placement, "placement:resource_providers:traits:update", &req)?;
    let object = req.object()?;
    only(&object, &["traits", "resource_provider_generation"])?;
    let seen = int_at(&object, "resource_provider_generation", 0)?
        .ok_or_else(|| wrong("resource_provider_generation", "is a required property"))?;
    let list = object.get("traits").and_then(Value::as_array).ok_or_else(|| wrong("traits", "is a required list"))?;
    let mut traits: Vec<String> = Vec::new();
    for item in list {
        let name = item.as_str().filter(|t| !t.is_empty() && t.len() <= 255);
        let name = name.ok_or_else(|| wrong("traits", &format!("{item} is no name of a trait")))?;
        if !traits.iter().any(|t| t == name) {
            traits.push(name.to_string());
        }
    }
    let (uuid, stored) = (req.param("uuid").to_string(), traits.clone());
    let generation = placement
        .core
        .store
        .write(move |tx| {
            let provider = provider_in(tx, &uuid)?;
            names::traits_check_in(tx, &stored)?;
            let generation = generation_bump_in(tx, &provider, Some(seen))?;
            tx.execute("DELETE FROM provider_trait WHERE provider = ?1", params![&uuid])?;
            for name in &stored {
                tx.execute("INSERT INTO provider_trait (provider, trait) VALUES (?1, ?2)", params![&uuid, name])?;
            }
            Ok(generation)
        })
        .await?;
    dated(&req, json(200, &view(&traits, generation))?, None)
}

pub async fn provider_clear(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(6))?;
    authorize(&placement, "placement:resource_providers:traits:delete", &req)?;
    let uuid = req.param("uuid").to_string();
    placement
        .core
        .store
        .write(move |tx| {
            let provider = provider_in(tx, &uuid)?;
            tx.execute("DELETE FROM provider_trait WHERE provider = ?1", params![&uuid])?;
            generation_bump_in(tx, &provider, None)
        })
        .await?;
    empty(204)
}
