//! `/resource_providers/{uuid}/inventories`.

use base::{Error, Kind, Result};
use http_api::response::set_header;
use http_api::{Request, Response, empty, json};
use serde_json::{Map, Value, json};
use store::{Tx, params};

use super::{admit, authorize, dated, generation_bump_in, int_at, method_since, only, provider_in, provider_of, text_at, v, wrong};
use crate::Placement;
use crate::claims::{Inventory, amount_value, inventories_in, inventory_put_in};
use crate::names;

fn view(i: &Inventory) -> Value {
    json!({
        "total": i.total, "reserved": i.reserved, "min_unit": i.min_unit, "max_unit": i.max_unit,
        "step_size": i.step_size, "allocation_ratio": i.allocation_ratio,
    })
}

fn with_generation(mut view: Value, generation: i64) -> Value {
    view["resource_provider_generation"] = json!(generation);
    view
}

fn all(inventories: &[Inventory], generation: i64) -> Value {
    let map: Map<String, Value> = inventories.iter().map(|i| (i.class.clone(), view(i))).collect();
    json!({"inventories": map, "resource_provider_generation": generation})
}

pub async fn index(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:inventories:list", &req)?;
    let (provider, inventories) =
        placement.core.store.read(|tx| Ok((provider_in(tx, req.param("uuid"))?, inventories_in(tx, req.param("uuid"))?))).await?;
    dated(&req, json(200, &all(&inventories, provider.generation))?, Some(provider.updated_at))
}

pub async fn show(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:inventories:show", &req)?;
    let (uuid, class) = (req.param("uuid"), req.param("class"));
    let (provider, inventories) = placement.core.store.read(|tx| Ok((provider_in(tx, uuid)?, inventories_in(tx, uuid)?))).await?;
    let found = inventories.iter().find(|i| i.class == class).ok_or_else(|| missing(class, uuid))?;
    dated(&req, json(200, &with_generation(view(found), provider.generation))?, Some(provider.updated_at))
}

fn missing(class: &str, uuid: &str) -> Error {
    Error::new(Kind::NotFound, format!("No inventory of class {class} for {uuid}"))
}

const FIELDS: [&str; 6] = ["total", "reserved", "min_unit", "max_unit", "step_size", "allocation_ratio"];

/// One inventory of a body. Before 1.26 something must be left beside what is reserved.
fn read(req: &Request, class: &str, object: &Map<String, Value>) -> Result<Inventory> {
    let count = |name: &str, min: i64, default: i64| -> Result<u64> { Ok(int_at(object, name, min)?.unwrap_or(default).unsigned_abs()) };
    if !object.contains_key("total") {
        return Err(wrong("total", "is a required property"));
    }
    let ratio = match object.get("allocation_ratio") {
        None => 1.0,
        Some(value) => value.as_f64().filter(|r| *r <= LARGEST_RATIO).ok_or_else(|| wrong("allocation_ratio", "is not a number"))?,
    };
    let inventory = Inventory {
        class: class.to_string(),
        total: count("total", 1, 1)?,
        reserved: count("reserved", 0, 0)?,
        min_unit: count("min_unit", 1, 1)?,
        max_unit: count("max_unit", 1, i64::from(i32::MAX))?,
        step_size: count("step_size", 1, 1)?,
        allocation_ratio: ratio,
    };
    let left = inventory.reserved <= inventory.total && ratio >= 0.0;
    if left && (req.version >= v(26) || inventory.capacity() > 0) {
        Ok(inventory)
    } else {
        Err(Error::invalid(format!(
            "Invalid inventory for '{class}' on resource provider '{}'. The reserved value is greater than {}total.",
            req.param("uuid"),
            if req.version >= v(26) { "" } else { "or equal to " },
        )))
    }
}

/// The largest number of single precision.
const LARGEST_RATIO: f64 = 3.40282e+38;

/// All inventories of a provider as a body has them, and the generation the client saw.
pub(super) fn inventories_of(req: &Request, object: &Map<String, Value>) -> Result<(i64, Vec<Inventory>)> {
    only(object, &["resource_provider_generation", "inventories"])?;
    let seen = generation_at(object)?;
    let Some(Value::Object(map)) = object.get("inventories") else { return Err(wrong("inventories", "is a required object")) };
    let mut wanted = Vec::new();
    for (class, value) in map {
        let value = value.as_object().ok_or_else(|| wrong(class, "is not of type 'object'"))?;
        only(value, &[&FIELDS[..], &["resource_provider_generation"]].concat())?;
        wanted.push(read(req, class, value)?);
    }
    Ok((seen, wanted))
}

pub(super) const IN_USE: &str = "placement.inventory.inuse";

/// What is allocated may not be taken away by removing a class; shrinking below use is allowed, as in the reference.
pub(super) fn remove_in(tx: &Tx, provider: &str, class: &str, code: &'static str) -> Result<()> {
    let used =
        tx.query_opt("SELECT 1 FROM allocation WHERE provider = ?1 AND class = ?2 LIMIT 1", params![provider, class], |r| r.int(0))?;
    if used.is_some() {
        let message = format!("update conflict: Inventory for '{class}' on resource provider '{provider}' in use.");
        return Err(Error::conflict(message).named(code));
    }
    tx.execute("DELETE FROM inventory WHERE provider = ?1 AND class = ?2", params![provider, class]).map(drop)
}

pub async fn create(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:inventories:create", &req)?;
    provider_of(&placement, &req).await?;
    let object = req.object()?;
    only(&object, &[&FIELDS[..], &["resource_class", "resource_provider_generation"]].concat())?;
    let class = text_at(&object, "resource_class")?;
    let inventory = read(&req, class, &object)?;
    let uuid = req.param("uuid").to_string();
    let stored = inventory.clone();
    let seen = int_at(&object, "resource_provider_generation", 0)?;
    let generation = placement
        .core
        .store
        .write(move |tx| {
            let provider = provider_in(tx, &uuid)?;
            names::class_check_in(tx, &stored.class)?;
            if inventories_in(tx, &uuid)?.iter().any(|i| i.class == stored.class) {
                return Err(Error::conflict("Update conflict: inventory already exists").named("placement.concurrent_update"));
            }
            inventory_put_in(tx, &uuid, &stored)?;
            generation_bump_in(tx, &provider, seen)
        })
        .await?;
    let mut response = json(201, &with_generation(view(&inventory), generation))?;
    set_header(&mut response, "location", &format!("{}/resource_providers/{}/inventories/{class}", req.base_url, req.param("uuid")));
    dated(&req, response, None)
}

fn generation_at(object: &Map<String, Value>) -> Result<i64> {
    int_at(object, "resource_provider_generation", 0)?.ok_or_else(|| wrong("resource_provider_generation", "is a required property"))
}

pub async fn replace(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:inventories:update", &req)?;
    provider_of(&placement, &req).await?;
    let (seen, wanted) = inventories_of(&req, &req.object()?)?;
    let (uuid, stored) = (req.param("uuid").to_string(), wanted.clone());
    let generation = placement
        .core
        .store
        .write(move |tx| {
            let provider = provider_in(tx, &uuid)?;
            let generation = generation_bump_in(tx, &provider, Some(seen))?;
            for present in inventories_in(tx, &uuid)? {
                if !stored.iter().any(|i| i.class == present.class) {
                    remove_in(tx, &uuid, &present.class, IN_USE)?;
                }
            }
            for inventory in &stored {
                names::class_check_in(tx, &inventory.class)?;
                inventory_put_in(tx, &uuid, inventory)?;
            }
            Ok(generation)
        })
        .await?;
    dated(&req, json(200, &all(&wanted, generation))?, None)
}

pub async fn update(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:inventories:update", &req)?;
    provider_of(&placement, &req).await?;
    let object = req.object()?;
    only(&object, &[&FIELDS[..], &["resource_provider_generation"]].concat())?;
    let seen = generation_at(&object)?;
    let inventory = read(&req, req.param("class"), &object)?;
    amount_value(inventory.total)?;
    let (uuid, stored) = (req.param("uuid").to_string(), inventory.clone());
    let generation = placement
        .core
        .store
        .write(move |tx| {
            let provider = provider_in(tx, &uuid)?;
            names::class_check_in(tx, &stored.class)?;
            if !inventories_in(tx, &uuid)?.iter().any(|i| i.class == stored.class) {
                return Err(Error::invalid(format!(
                    "No inventory record with resource class {} for resource provider {uuid} for update",
                    stored.class
                )));
            }
            inventory_put_in(tx, &uuid, &stored)?;
            generation_bump_in(tx, &provider, Some(seen))
        })
        .await?;
    dated(&req, json(200, &with_generation(view(&inventory), generation))?, None)
}

pub async fn delete(placement: Placement, req: Request) -> Result<Response> {
    authorize(&placement, "placement:resource_providers:inventories:delete", &req)?;
    let (uuid, class) = (req.param("uuid").to_string(), req.param("class").to_string());
    placement
        .core
        .store
        .write(move |tx| {
            let provider = provider_in(tx, &uuid)?;
            if !inventories_in(tx, &uuid)?.iter().any(|i| i.class == class) {
                return Err(missing(&class, &uuid));
            }
            remove_in(tx, &uuid, &class, "placement.concurrent_update")?;
            generation_bump_in(tx, &provider, None)
        })
        .await?;
    empty(204)
}

pub async fn clear(placement: Placement, req: Request) -> Result<Response> {
    method_since(&req, v(5))?;
    authorize(&placement, "placement:resource_providers:inventories:delete", &req)?;
    let uuid = req.param("uuid").to_string();
    placement
        .core
        .store
        .write(move |tx| {
            let provider = provider_in(tx, &uuid)?;
            for inventory in inventories_in(tx, &uuid)? {
                remove_in(tx, &uuid, &inventory.class, IN_USE)?;
            }
            generation_bump_in(tx, &provider, None)
        })
        .await?;
    empty(204)
}
