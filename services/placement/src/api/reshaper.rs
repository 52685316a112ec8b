//! `/reshaper`: inventories move between providers together with what is allocated of them.

use std::collections::BTreeMap;

use base::{Error, Result};
use http_api::{Request, Response, empty};
use serde_json::{Map, Value};
use store::Tx;

use super::allocations::{Wanted, allocations_set_in, consumer_uuid, read};
use super::inventories::{self, inventories_of, remove_in};
use super::{admit, concurrent, generation_bump_in, only, provider_in, since, v, wrong};
use crate::claims::{Inventory, inventories_in, inventory_put_in};
use crate::{Placement, names};

/// What a provider is to have, and its generation as the client knows it.
type Shapes = BTreeMap<String, (i64, Vec<Inventory>)>;

fn object_at<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a Map<String, Value>> {
    object.get(name).and_then(Value::as_object).ok_or_else(|| wrong(name, "is a required object"))
}

pub async fn create(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(30))?;
    admit(&placement, "placement:reshaper:reshape", &req)?;
    let object = req.object()?;
    only(&object, &["inventories", "allocations"])?;
    let mut shapes = Shapes::new();
    for (provider, of) in object_at(&object, "inventories")? {
        let uuid = names::canonical(provider).ok_or_else(|| wrong("inventories", &format!("'{provider}' is not a 'uuid'")))?;
        let of = of.as_object().ok_or_else(|| wrong(provider, "is not of type 'object'"))?;
        shapes.insert(uuid, inventories_of(&req, of)?);
    }
    if shapes.is_empty() {
        return Err(wrong("inventories", "does not have enough properties"));
    }
    let mut all = Vec::new();
    for (consumer, of) in object_at(&object, "allocations")? {
        let of = of.as_object().ok_or_else(|| wrong(consumer, "is not of type 'object'"))?;
        all.push(read(req.version, consumer_uuid(consumer)?, of, true)?);
    }
    placement.core.store.write(move |tx| reshape_in(tx, &shapes, &all)).await?;
    empty(204)
}

/// First what shall be is added to what is, so that allocations can move; then what shall not be goes.
fn reshape_in(tx: &Tx, shapes: &Shapes, all: &[Wanted]) -> Result<()> {
    for (uuid, (seen, inventories)) in shapes {
        let missing = |_| {
            Error::invalid(format!("Resource provider {uuid} in inventories not found.")).named("placement.resource_provider.not_found")
        };
        let provider = provider_in(tx, uuid).map_err(missing)?;
        if provider.generation != *seen {
            let actual = provider.generation;
            return Err(concurrent(format!("resource provider generation conflict for provider {uuid}: actual: {actual}, given: {seen}")));
        }
        for inventory in inventories {
            names::class_check_in(tx, &inventory.class)?;
            inventory_put_in(tx, uuid, inventory)?;
        }
        if !inventories.is_empty() {
            generation_bump_in(tx, &provider, None)?;
        }
    }
    allocations_set_in(tx, all)?;
    for (uuid, (_, inventories)) in shapes {
        for present in inventories_in(tx, uuid)? {
            if !inventories.iter().any(|i| i.class == present.class) {
                remove_in(tx, uuid, &present.class, inventories::IN_USE)?;
            }
        }
        generation_bump_in(tx, &provider_in(tx, uuid)?, None)?;
    }
    Ok(())
}
