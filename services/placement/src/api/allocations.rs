//! `/allocations` and `/resource_providers/{uuid}/allocations`.

use std::collections::{BTreeMap, BTreeSet};

use base::{Error, Kind, Result, Timestamp};
use http_api::{Request, Response, Version, empty, json};
use serde_json::{Map, Value, json};
use store::{Tx, params};

use super::{admit, authorize, concurrent, dated, int_at, only, provider_in, since, text_at, v, wrong};
use crate::Placement;
use crate::claims::{allocations_withdraw_in, provider_raise_in, stock_in};
use crate::names;

/// What one consumer is to have.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    consumer: String,
    /// Provider, class, amount.
    amounts: Vec<(String, String, u64)>,
    project: Option<String>,
    user: Option<String>,
    kind: Option<String>,
    /// From 1.28 on: the generation the client saw; `Some(None)`: it thinks the consumer new.
    generation: Option<Option<i64>>,
}

pub(super) fn consumer_uuid(text: &str) -> Result<String> {
    names::canonical(text).ok_or_else(|| Error::invalid(format!("Malformed consumer_uuid: {text}")))
}

/// The `resources` of one provider: class → amount, at least one.
fn amounts(provider: &str, resources: Option<&Value>, into: &mut Vec<(String, String, u64)>) -> Result<()> {
    let resources = resources
        .and_then(Value::as_object)
        .filter(|r| !r.is_empty())
        .ok_or_else(|| wrong("resources", "is a required, non-empty object"))?;
    for (class, amount) in resources {
        if !names::is_name(class) {
            return Err(wrong("resources", &format!("'{class}' is no name of a resource class")));
        }
        let amount = amount.as_u64().filter(|n| *n > 0).ok_or_else(|| wrong(class, "is not an integer of at least 1"))?;
        into.push((provider.to_string(), class.clone(), amount));
    }
    Ok(())
}

/// Reads one consumer's part of a body, in the form of the version. `many`: as part of `POST /allocations`.
pub(super) fn read(version: Version, consumer: String, object: &Map<String, Value>, many: bool) -> Result<Wanted> {
    let mut known = vec!["allocations"];
    if version >= v(8) {
        known.extend(["project_id", "user_id"]);
    }
    if version >= v(28) {
        known.push("consumer_generation");
    }
    if version >= v(34) {
        known.push("mappings");
    }
    if version >= v(38) {
        known.push("consumer_type");
    }
    only(object, &known)?;
    let mut wanted = Wanted { consumer, amounts: Vec::new(), project: None, user: None, kind: None, generation: None };
    if version >= v(8) {
        for (name, slot) in [("project_id", &mut wanted.project), ("user_id", &mut wanted.user)] {
            let text = text_at(object, name)?;
            if text.is_empty() || text.len() > 255 {
                return Err(wrong(name, "must have 1 to 255 characters"));
            }
            *slot = Some(text.to_string());
        }
    }
    if version >= v(28) {
        wanted.generation = Some(match object.get("consumer_generation") {
            Some(Value::Null) => None,
            Some(_) => int_at(object, "consumer_generation", i64::MIN)?,
            None => return Err(wrong("consumer_generation", "is a required property")),
        });
    }
    if version >= v(38) {
        let kind = text_at(object, "consumer_type")?;
        if !names::is_name(kind) {
            return Err(wrong("consumer_type", &format!("'{kind}' does not match '^[A-Z0-9_]+$'")));
        }
        wanted.kind = Some(kind.to_string());
    }
    if let Some(mappings) = object.get("mappings") {
        let fits = mappings.as_object().is_some_and(|m| {
            let uuids = |list: &Vec<Value>| !list.is_empty() && list.iter().all(|u| u.as_str().is_some_and(base::id::is_uuid));
            !m.is_empty() && m.values().all(|v| v.as_array().is_some_and(uuids))
        });
        if !fits {
            return Err(wrong("mappings", "is not an object of lists of 'uuid'"));
        }
    }
    match object.get("allocations") {
        Some(Value::Object(map)) if version >= v(12) => {
            // An empty set takes everything back, where the version allows it.
            if map.is_empty() && !(many || version >= v(28)) {
                return Err(wrong("allocations", "has too few properties"));
            }
            for (provider, of) in map {
                if !base::id::is_uuid(provider) {
                    return Err(wrong("allocations", &format!("'{provider}' is not a 'uuid'")));
                }
                let of = of.as_object().ok_or_else(|| wrong(provider, "is not of type 'object'"))?;
                only(of, &["resources", "generation"])?;
                amounts(provider, of.get("resources"), &mut wanted.amounts)?;
            }
        }
        Some(Value::Array(list)) if version < v(12) && !list.is_empty() => {
            for item in list {
                let item = item.as_object().ok_or_else(|| wrong("allocations", "has an item that is no object"))?;
                only(item, &["resource_provider", "resources"])?;
                let provider = item
                    .get("resource_provider")
                    .and_then(Value::as_object)
                    .ok_or_else(|| wrong("resource_provider", "is a required property"))?;
                only(provider, &["uuid"])?;
                let uuid = super::uuid_at(provider, "uuid")?;
                // Of a provider that is named twice the last counts.
                wanted.amounts.retain(|(earlier, _, _)| *earlier != uuid);
                amounts(&uuid, item.get("resources"), &mut wanted.amounts)?;
            }
        }
        _ => return Err(wrong("allocations", "is missing or of the wrong type")),
    }
    Ok(wanted)
}

/// Puts a set of consumers in order at once: all fit, or nothing changes.
pub(super) fn allocations_set_in(tx: &Tx, all: &[Wanted]) -> Result<()> {
    let now = Timestamp::now();
    let mut touched = BTreeSet::new();
    for wanted in all {
        touched.append(&mut consumer_set_in(tx, wanted, now)?);
    }
    for wanted in all {
        let providers: BTreeSet<&String> = wanted.amounts.iter().map(|(provider, _, _)| provider).collect();
        for provider in providers {
            if tx.query_opt("SELECT 1 FROM provider WHERE uuid = ?1", params![provider], |r| r.int(0))?.is_none() {
                return Err(Error::invalid(format!("Allocation for resource provider '{provider}' that does not exist.")));
            }
            touched.insert(provider.clone());
        }
        for (provider, class, amount) in &wanted.amounts {
            allocation_put_in(tx, &wanted.consumer, provider, class, *amount, now)?;
        }
    }
    touched.iter().try_for_each(|provider| provider_raise_in(tx, provider, now))
}

/// The consumer's own row, without any allocations; gone, when it is to have none. Says whose generation rises:
/// who served it, when nobody does any more.
fn consumer_set_in(tx: &Tx, wanted: &Wanted, now: Timestamp) -> Result<BTreeSet<String>> {
    let present = tx.query_opt("SELECT generation FROM consumer WHERE uuid = ?1", params![&wanted.consumer], |r| r.int(0))?;
    if let Some(seen) = wanted.generation.filter(|seen| *seen != present) {
        let text = |g: Option<i64>| g.map_or("null".to_string(), |g| g.to_string());
        return Err(concurrent(format!("consumer generation conflict - expected {} but got {}", text(present), text(seen))));
    }
    let had = if present.is_some() { allocations_withdraw_in(tx, &wanted.consumer)? } else { BTreeSet::new() };
    if wanted.amounts.is_empty() {
        tx.execute("DELETE FROM consumer WHERE uuid = ?1", params![&wanted.consumer])?;
        return Ok(had);
    }
    let unknown = || UNKNOWN.to_string();
    tx.execute(
        "INSERT INTO consumer (uuid, project_id, user_id, kind, generation, created_at) VALUES (?1, ?2, ?3, ?4, 1, ?5)
         ON CONFLICT (uuid) DO UPDATE SET generation = consumer.generation + 1, project_id = excluded.project_id, user_id = excluded.user_id,
             kind = COALESCE(CAST(?6 AS TEXT), consumer.kind)",
        params![
            &wanted.consumer,
            wanted.project.clone().unwrap_or_else(unknown),
            wanted.user.clone().unwrap_or_else(unknown),
            wanted.kind.clone().unwrap_or_default(),
            now,
            wanted.kind.clone()
        ],
    )?;
    Ok(BTreeSet::new())
}

/// Consumers of clients from before owners were asked for.
const UNKNOWN: &str = "00000000-0000-0000-0000-000000000000";

fn allocation_put_in(tx: &Tx, consumer: &str, provider: &str, class: &str, amount: u64, now: Timestamp) -> Result<()> {
    names::class_check_in(tx, class)?;
    let refused = |why: &str| {
        Error::conflict(format!("Unable to allocate inventory: {amount} of '{class}' on resource provider '{provider}': {why}."))
    };
    let stock = stock_in(tx, provider, class, "")?.ok_or_else(|| refused("the provider has no such inventory"))?;
    if !stock.inventory.fits_unit(amount) {
        return Err(refused("the amount violates min_unit, max_unit or step_size"));
    }
    if !stock.inventory.fits(stock.used, amount) {
        return Err(refused("it would exceed the capacity"));
    }
    tx.execute(
        "INSERT INTO allocation (consumer, provider, class, used, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![consumer, provider, class, crate::claims::amount_value(amount)?, now],
    )
    .map(drop)
}

pub async fn manage(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(13))?;
    admit(&placement, "placement:allocations:manage", &req)?;
    let object = req.object()?;
    if object.is_empty() {
        return Err(wrong("body", "does not have enough properties"));
    }
    let mut all = Vec::new();
    for (consumer, of) in &object {
        let of = of.as_object().ok_or_else(|| wrong(consumer, "is not of type 'object'"))?;
        all.push(read(req.version, consumer_uuid(consumer)?, of, true)?);
    }
    placement.core.store.write(move |tx| allocations_set_in(tx, &all)).await?;
    empty(204)
}

pub async fn update(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:allocations:update", &req)?;
    let wanted = read(req.version, consumer_uuid(req.param("consumer"))?, &req.object()?, false)?;
    placement.core.store.write(move |tx| allocations_set_in(tx, &[wanted])).await?;
    empty(204)
}

pub async fn show(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:allocations:list", &req)?;
    let consumer = names::canonical(req.param("consumer")).unwrap_or_default();
    let (owner, rows) = placement
        .core
        .store
        .read(|tx| {
            let owner = tx.query_opt("SELECT project_id, user_id, kind, generation FROM consumer WHERE uuid = ?1", params![&consumer], |r| Ok((r.text(0)?, r.text(1)?, r.text(2)?, r.int(3)?)))?;
            let sql = "SELECT a.provider, p.generation, a.class, a.used, a.updated_at FROM allocation a JOIN provider p ON p.uuid = a.provider WHERE a.consumer = ?1 ORDER BY a.provider, a.class";
            let rows = tx.query(sql, params![&consumer], |r| Ok((r.text(0)?, r.int(1)?, r.text(2)?, r.int(3)?, r.time(4)?)))?;
            Ok((owner, rows))
        })
        .await?;
    let changed = rows.iter().map(|r| r.4).max();
    let mut by_provider: BTreeMap<String, (i64, Map<String, Value>)> = BTreeMap::new();
    for (provider, generation, class, used, _) in rows {
        by_provider.entry(provider).or_insert_with(|| (generation, Map::new())).1.insert(class, json!(used));
    }
    let allocations: Map<String, Value> = by_provider
        .into_iter()
        .map(|(uuid, (generation, resources))| (uuid, json!({"generation": generation, "resources": resources})))
        .collect();
    let mut body = json!({ "allocations": allocations });
    if let Some((project, user, kind, generation)) = owner {
        if req.version >= v(12) {
            body["project_id"] = json!(project);
            body["user_id"] = json!(user);
        }
        if req.version >= v(28) {
            body["consumer_generation"] = json!(generation);
        }
        if req.version >= v(38) {
            body["consumer_type"] = json!(if kind.is_empty() { "unknown" } else { &kind });
        }
    }
    dated(&req, json(200, &body)?, changed)
}

pub async fn delete(placement: Placement, req: Request) -> Result<Response> {
    authorize(&placement, "placement:allocations:delete", &req)?;
    let consumer = names::canonical(req.param("consumer")).unwrap_or_else(|| req.param("consumer").to_string());
    let writer = placement.clone();
    placement
        .core
        .store
        .write(move |tx| {
            if tx.query_opt("SELECT 1 FROM allocation WHERE consumer = ?1 LIMIT 1", params![&consumer], |r| r.int(0))?.is_none() {
                return Err(Error::new(Kind::NotFound, format!("No allocations for consumer '{consumer}'")));
            }
            writer.release_in(tx, &consumer)
        })
        .await?;
    empty(204)
}

pub async fn provider(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:allocations:list", &req)?;
    let uuid = req.param("uuid");
    let (provider, rows) = placement
        .core
        .store
        .read(|tx| {
            let sql = "SELECT a.consumer, c.generation, a.class, a.used FROM allocation a JOIN consumer c ON c.uuid = a.consumer WHERE a.provider = ?1 ORDER BY a.consumer, a.class";
            Ok((provider_in(tx, uuid)?, tx.query(sql, params![uuid], |r| Ok((r.text(0)?, r.int(1)?, r.text(2)?, r.int(3)?)))?))
        })
        .await?;
    let mut allocations: Map<String, Value> = Map::new();
    for (consumer, generation, class, used) in rows {
        let of = allocations.entry(consumer).or_insert_with(|| json!({"resources": {}}));
        of["resources"][class] = json!(used);
        if req.version >= v(28) {
            of["consumer_generation"] = json!(generation);
        }
    }
    dated(
        &req,
        json(200, &json!({"resource_provider_generation": provider.generation, "allocations": allocations}))?,
        Some(provider.updated_at),
    )
}
