//! Protocols of identity providers: by which ways their users come, and with which mapping.

use base::{Context, Error, Kind, Result};
use http_api::Request;
use serde_json::{Map, Value, json};
use store::{Row, Select, Tx, params};

use super::mappings::mapping_exists_in;
use super::providers::{self, provider_get_in};
use super::shadow::users_remove_in;
use super::taken;
use crate::wire::{self, Object};
use crate::{Identity, fault, note};

#[derive(Clone, Debug)]
pub struct Protocol {
    pub id: String,
    pub idp_id: String,
    pub mapping_id: String,
    /// The attribute of an assertion that names who made it.
    pub remote_id_attribute: Option<String>,
}

const COLUMNS: &str = "id, idp_id, mapping_id, remote_id_attribute";

fn map(row: &Row) -> Result<Protocol> {
    Ok(Protocol { id: row.text(0)?, idp_id: row.text(1)?, mapping_id: row.text(2)?, remote_id_attribute: row.opt_text(3)? })
}

impl Protocol {
    /// As it is shown alone.
    pub fn view(&self, req: &Request) -> Map<String, Value> {
        let provider = providers::link(req, &self.idp_id);
        let mut view = Map::new();
        view.insert("id".into(), json!(self.id));
        view.insert("mapping_id".into(), json!(self.mapping_id));
        view.insert("links".into(), json!({ "self": format!("{provider}/protocols/{}", self.id), "identity_provider": provider }));
        view
    }

    /// As lists show it.
    pub fn listed(&self, req: &Request) -> Value {
        let mut view = self.view(req);
        view.insert("idp_id".into(), json!(self.idp_id));
        view.insert("remote_id_attribute".into(), json!(self.remote_id_attribute));
        Value::Object(view)
    }
}

pub fn protocol_get_in(tx: &Tx, idp_id: &str, id: &str) -> Result<Protocol> {
    let sql = format!("SELECT {COLUMNS} FROM federation_protocol WHERE idp_id = ?1 AND id = ?2");
    tx.query_opt(&sql, params![idp_id, id], map)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("Could not find federated protocol {id} for Identity Provider: {idp_id}.")))
}

/// Sorted by id. Of a provider that is not there: none, as upstream.
pub fn protocol_list_in(tx: &Tx, idp_id: &str) -> Result<Vec<Protocol>> {
    Select::new(format!("SELECT {COLUMNS} FROM federation_protocol")).eq("idp_id", idp_id).order(&[("id", store::Dir::Asc)]).fetch(tx, map)
}

/// What a request wants to set.
pub struct ProtocolChange {
    pub mapping_id: String,
    pub remote_id_attribute: Option<Option<String>>,
}

impl ProtocolChange {
    pub fn read(mut map: Object, new: bool) -> Result<ProtocolChange> {
        let mut take = wire::Take { map: &mut map, what: "protocol" };
        let mapping_id = take.text("mapping_id", 64)?.ok_or_else(|| fault::field("protocol", "'mapping_id' is a required property"))?;
        // Once set, it can be emptied but not removed.
        let attribute = if new { take.nullable_text("remote_id_attribute", 64)? } else { take.text("remote_id_attribute", 64)?.map(Some) };
        wire::nothing_else(&map, "protocol")?;
        if mapping_id.is_empty() {
            return Err(fault::field("protocol/mapping_id", "'' is too short"));
        }
        Ok(ProtocolChange { mapping_id, remote_id_attribute: attribute })
    }
}

fn check_mapping(tx: &Tx, id: &str) -> Result<()> {
    if mapping_exists_in(tx, id)? { Ok(()) } else { Err(Error::invalid(format!("Invalid mapping id: {id}"))) }
}

impl Identity {
    pub(crate) async fn protocol_create(&self, ctx: &Context, idp_id: &str, id: &str, change: ProtocolChange) -> Result<Protocol> {
        let protocol = Protocol {
            id: id.to_string(),
            idp_id: idp_id.to_string(),
            mapping_id: change.mapping_id,
            remote_id_attribute: change.remote_id_attribute.flatten(),
        };
        let ctx = ctx.clone();
        self.add(move |tx| {
            check_mapping(tx, &protocol.mapping_id)?;
            provider_get_in(tx, &protocol.idp_id)?;
            let inserted = tx.attempt(|tx| {
                tx.execute(
                    &format!("INSERT INTO federation_protocol ({COLUMNS}) VALUES (?1, ?2, ?3, ?4)"),
                    params![&protocol.id, &protocol.idp_id, &protocol.mapping_id, &protocol.remote_id_attribute],
                )
            });
            inserted.map_err(|e| taken(e, "federation_protocol", &protocol.id))?;
            note(tx, &ctx, "federation_protocol.created", &protocol.id)?;
            Ok(protocol)
        })
        .await
    }

    pub(crate) async fn protocol_update(&self, ctx: &Context, idp_id: &str, id: &str, change: ProtocolChange) -> Result<Protocol> {
        let (ctx, idp_id, id) = (ctx.clone(), idp_id.to_string(), id.to_string());
        self.change(move |tx| {
            check_mapping(tx, &change.mapping_id)?;
            let mut protocol = protocol_get_in(tx, &idp_id, &id)?;
            protocol.mapping_id = change.mapping_id;
            protocol.remote_id_attribute = change.remote_id_attribute.unwrap_or(protocol.remote_id_attribute);
            tx.execute(
                "UPDATE federation_protocol SET mapping_id = ?3, remote_id_attribute = ?4 WHERE idp_id = ?1 AND id = ?2",
                params![&idp_id, &id, &protocol.mapping_id, &protocol.remote_id_attribute],
            )?;
            note(tx, &ctx, "federation_protocol.updated", &id)?;
            Ok(protocol)
        })
        .await
    }

    pub(crate) async fn protocol_delete(&self, ctx: &Context, idp_id: &str, id: &str) -> Result<()> {
        let (ctx, idp_id, id) = (ctx.clone(), idp_id.to_string(), id.to_string());
        self.change(move |tx| {
            protocol_get_in(tx, &idp_id, &id)?;
            users_remove_in(tx, &ctx, &idp_id, Some(&id))?;
            tx.execute("DELETE FROM federation_protocol WHERE idp_id = ?1 AND id = ?2", params![&idp_id, &id])?;
            note(tx, &ctx, "federation_protocol.deleted", &id)
        })
        .await
    }
}
