//! Mappings as they are stored; what is in them is read by [`rules`](super::rules).

use base::{Context, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use super::rules::{Rules, Version};
use super::taken;
use crate::list::Ask;
use crate::wire::{self, Object};
use crate::{Identity, fault, note};

#[derive(Clone, Debug)]
pub struct Mapping {
    pub id: String,
    pub schema_version: String,
    pub rules: Value,
}

const COLUMNS: &str = "id, schema_version, rules";

fn map(row: &Row) -> Result<Mapping> {
    Ok(Mapping { id: row.text(0)?, schema_version: row.text(1)?, rules: row.json(2)? })
}

impl Mapping {
    pub fn view(&self, req: &Request) -> Value {
        let link = format!("{}/v3/OS-FEDERATION/mappings/{}", req.base_url, self.id);
        json!({ "id": self.id, "schema_version": self.schema_version, "rules": self.rules, "links": { "self": link } })
    }
}

pub fn mapping_get_in(tx: &Tx, id: &str) -> Result<Mapping> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM federation_mapping WHERE id = ?1"), params![id], map)?
        .ok_or_else(|| fault::not_found("mapping", id))
}

pub fn mapping_exists_in(tx: &Tx, id: &str) -> Result<bool> {
    Ok(tx.query_opt("SELECT 1 FROM federation_mapping WHERE id = ?1", params![id], |_| Ok(()))?.is_some())
}

pub fn mapping_list_in(tx: &Tx, ask: &Ask) -> Result<(Vec<Mapping>, bool)> {
    ask.fetch(tx, Select::new(format!("SELECT {COLUMNS} FROM federation_mapping")), "federation_mapping", map)
}

/// What a request wants to set: always all of it.
pub struct MappingChange {
    /// None: a new mapping gets the first version, a known one keeps its own.
    pub schema_version: Option<String>,
    pub rules: Value,
}

impl MappingChange {
    pub fn read(mut map: Object) -> Result<MappingChange> {
        let mut take = wire::Take { map: &mut map, what: "mapping" };
        let schema_version = take.text("schema_version", 5)?.filter(|version| !version.is_empty());
        let rules = map.remove("rules").ok_or_else(|| fault::field("mapping", "'rules' is a required property"))?;
        Ok(MappingChange { schema_version, rules })
    }
}

impl Identity {
    pub(crate) async fn mapping_create(&self, ctx: &Context, id: &str, change: MappingChange) -> Result<Mapping> {
        let version = Version::read(change.schema_version.as_deref())?;
        Rules::read(&change.rules, version)?;
        let mapping = Mapping { id: id.to_string(), schema_version: version.name().into(), rules: change.rules };
        let ctx = ctx.clone();
        self.add(move |tx| {
            let inserted = tx.attempt(|tx| {
                tx.execute(
                    &format!("INSERT INTO federation_mapping ({COLUMNS}) VALUES (?1, ?2, ?3)"),
                    params![&mapping.id, &mapping.schema_version, store::Value::json(&mapping.rules)?],
                )
            });
            inserted.map_err(|e| taken(e, "mapping", &mapping.id))?;
            note(tx, &ctx, "mapping.created", &mapping.id)?;
            Ok(mapping)
        })
        .await
    }

    pub(crate) async fn mapping_update(&self, ctx: &Context, id: &str, change: MappingChange) -> Result<Mapping> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            let mut mapping = mapping_get_in(tx, &id)?;
            let version = Version::read(Some(change.schema_version.as_deref().unwrap_or(&mapping.schema_version)))?;
            Rules::read(&change.rules, version)?;
            mapping.schema_version = version.name().into();
            mapping.rules = change.rules;
            tx.execute(
                "UPDATE federation_mapping SET schema_version = ?2, rules = ?3 WHERE id = ?1",
                params![&id, &mapping.schema_version, store::Value::json(&mapping.rules)?],
            )?;
            note(tx, &ctx, "mapping.updated", &id)?;
            Ok(mapping)
        })
        .await
    }

    pub(crate) async fn mapping_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            if tx.execute("DELETE FROM federation_mapping WHERE id = ?1", params![&id])? == 0 {
                return Err(fault::not_found("mapping", &id));
            }
            note(tx, &ctx, "mapping.deleted", &id)
        })
        .await
    }
}
