//! `/resource_providers/{uuid}/aggregates`.

use base::Result;
use http_api::{Request, Response, json};
use serde_json::{Value, json};
use store::{Tx, params};

use super::{admit, dated, generation_bump_in, int_at, only, provider_in, provider_of, since, v, wrong};
use crate::{Placement, change, names};

fn of_in(tx: &Tx, uuid: &str) -> Result<Vec<String>> {
    tx.query("SELECT aggregate FROM provider_aggregate WHERE provider = ?1 ORDER BY aggregate", params![uuid], |r| r.text(0))
}

fn view(req: &Request, aggregates: &[String], generation: i64) -> Value {
    let mut view = json!({ "aggregates": aggregates });
    if req.version >= v(19) {
        view["resource_provider_generation"] = json!(generation);
    }
    view
}

pub async fn index(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(1))?;
    admit(&placement, "placement:resource_providers:aggregates:list", &req)?;
    let (provider, aggregates) =
        placement.core.store.read(|tx| Ok((provider_in(tx, req.param("uuid"))?, of_in(tx, req.param("uuid"))?))).await?;
    dated(&req, json(200, &view(&req, &aggregates, provider.generation))?, Some(provider.updated_at))
}

pub async fn replace(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(1))?;
    admit(&placement, "placement:resource_providers:aggregates:update", &req)?;
    provider_of(&placement, &req).await?;
    let value: Value = req.json()?;
    // Before 1.19 the body was the bare list.
    let (list, seen) = match &value {
        Value::Object(object) if req.version >= v(19) => {
            only(object, &["aggregates", "resource_provider_generation"])?;
            let seen = int_at(object, "resource_provider_generation", i64::MIN)?
                .ok_or_else(|| wrong("resource_provider_generation", "is a required property"))?;
            (object.get("aggregates").and_then(Value::as_array), Some(seen))
        }
        Value::Array(list) if req.version < v(19) => (Some(list), None),
        _ => (None, None),
    };
    let list = list.ok_or_else(|| wrong("aggregates", "is a required list"))?;
    let mut aggregates = Vec::new();
    for item in list {
        match item.as_str().and_then(names::canonical) {
            Some(uuid) if !aggregates.contains(&uuid) => aggregates.push(uuid),
            Some(_) => return Err(wrong("aggregates", "has non-unique elements")),
            None => return Err(wrong("aggregates", &format!("{item} is not a 'uuid'"))),
        }
    }
    let (uuid, stored) = (req.param("uuid").to_string(), aggregates.clone());
    let generation = placement
        .core
        .store
        .write(move |tx| {
            let provider = provider_in(tx, &uuid)?;
            tx.execute("DELETE FROM provider_aggregate WHERE provider = ?1", params![&uuid])?;
            for aggregate in &stored {
                tx.execute("INSERT INTO provider_aggregate (provider, aggregate) VALUES (?1, ?2)", params![&uuid, aggregate])?;
            }
            if seen.is_some() {
                return generation_bump_in(tx, &provider, seen);
            }
            // Clients from before 1.19 do not know that this has a generation.
            change::note_in(tx, &uuid)?;
            Ok(provider.generation)
        })
        .await?;
    dated(&req, json(200, &view(&req, &aggregates, generation))?, None)
}
