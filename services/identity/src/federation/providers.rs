//! Identity providers: who is believed about users, and under which names others know them.

use base::{Context, Kind, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use super::shadow::users_remove_in;
use super::taken;
use crate::list::Ask;
use crate::projects::{self, Project};
use crate::wire::{self, Object};
use crate::{Identity, fault, note};

#[derive(Clone, Debug)]
pub struct Provider {
    pub id: String,
    /// Where its users live.
    pub domain_id: String,
    pub enabled: bool,
    pub description: Option<String>,
    /// For how many minutes a membership that it told of holds beyond the token; none: as the configuration says.
    pub authorization_ttl: Option<i64>,
    pub remote_ids: Vec<String>,
}

const COLUMNS: &str = "id, domain_id, enabled, description, authorization_ttl";

/// Without its remote ids.
fn map(row: &Row) -> Result<Provider> {
    Ok(Provider {
        id: row.text(0)?,
        domain_id: row.text(1)?,
        enabled: row.flag(2)?,
        description: row.opt_text(3)?,
        authorization_ttl: row.opt_int(4)?,
        remote_ids: Vec::new(),
    })
}

impl Provider {
    pub fn view(&self, req: &Request) -> Value {
        let link = link(req, &self.id);
        json!({
            "id": self.id,
            "domain_id": self.domain_id,
            "enabled": self.enabled,
            "description": self.description,
            "authorization_ttl": self.authorization_ttl,
            "remote_ids": self.remote_ids,
            "links": { "self": link, "protocols": format!("{link}/protocols") },
        })
    }
}

pub fn link(req: &Request, id: &str) -> String {
    format!("{}/v3/OS-FEDERATION/identity_providers/{id}", req.base_url)
}

fn remote_ids_in(tx: &Tx, id: &str) -> Result<Vec<String>> {
    tx.query("SELECT remote_id FROM identity_provider_remote WHERE idp_id = ?1 ORDER BY remote_id", params![id], |row| row.text(0))
}

pub fn provider_get_in(tx: &Tx, id: &str) -> Result<Provider> {
    let found = tx.query_opt(&format!("SELECT {COLUMNS} FROM identity_provider WHERE id = ?1"), params![id], map)?;
    let mut provider = found.ok_or_else(|| fault::not_found("Identity Provider", id))?;
    provider.remote_ids = remote_ids_in(tx, id)?;
    Ok(provider)
}

pub fn provider_list_in(tx: &Tx, ask: &Ask) -> Result<(Vec<Provider>, bool)> {
    let (mut providers, more) = ask.fetch(tx, Select::new(format!("SELECT {COLUMNS} FROM identity_provider")), "identity_provider", map)?;
    for provider in &mut providers {
        provider.remote_ids = remote_ids_in(tx, &provider.id)?;
    }
    Ok((providers, more))
}

fn remote_ids_replace_in(tx: &Tx, id: &str, remote_ids: &[String]) -> Result<()> {
    tx.execute("DELETE FROM identity_provider_remote WHERE idp_id = ?1", params![id])?;
    for remote_id in remote_ids {
        let inserted =
            tx.attempt(|tx| tx.execute("INSERT INTO identity_provider_remote (remote_id, idp_id) VALUES (?1, ?2)", params![remote_id, id]));
        inserted.map_err(|e| {
            if e.is(Kind::Exists) { fault::duplicate("identity_provider", format!("Duplicate remote ID: {remote_id}")) } else { e }
        })?;
    }
    Ok(())
}

/// Removes the provider and all that stands on it, its users too.
pub fn provider_remove_in(tx: &Tx, ctx: &Context, id: &str) -> Result<()> {
    users_remove_in(tx, ctx, id, None)?;
    tx.execute("DELETE FROM federation_protocol WHERE idp_id = ?1", params![id])?;
    tx.execute("DELETE FROM identity_provider_remote WHERE idp_id = ?1", params![id])?;
    tx.execute("DELETE FROM identity_provider WHERE id = ?1", params![id])?;
    Ok(())
}

/// Those whose users live in a domain that goes.
pub fn providers_of_domain_remove_in(tx: &Tx, ctx: &Context, domain_id: &str) -> Result<()> {
    for id in tx.query("SELECT id FROM identity_provider WHERE domain_id = ?1", params![domain_id], |row| row.text(0))? {
        provider_remove_in(tx, ctx, &id)?;
        note(tx, ctx, "identity_provider.deleted", &id)?;
    }
    Ok(())
}

/// What a request wants to set.
#[derive(Debug, Default)]
pub struct ProviderChange {
    pub domain_id: Option<String>,
    pub enabled: Option<bool>,
    pub description: Option<Option<String>>,
    pub authorization_ttl: Option<Option<i64>>,
    pub remote_ids: Option<Vec<String>>,
}

impl ProviderChange {
    pub fn read(mut map: Object, new: bool) -> Result<ProviderChange> {
        let mut take = wire::Take { map: &mut map, what: "identity_provider" };
        // The users of a provider stay in their domain, so only a new one's can be chosen.
        let domain_id = if new { take.id("domain_id")? } else { None };
        let change = ProviderChange {
            domain_id,
            enabled: take.flag("enabled")?,
            description: take.nullable_text("description", 65_535)?,
            authorization_ttl: minutes(take.map.remove("authorization_ttl"))?,
            remote_ids: remote_ids(take.map.remove("remote_ids"))?,
        };
        wire::nothing_else(&map, "identity_provider")?;
        Ok(change)
    }
}

fn minutes(value: Option<Value>) -> Result<Option<Option<i64>>> {
    match value {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        // As many minutes as microseconds of them fit a time.
        Some(value) => match value.as_i64().filter(|n| (0..=i64::from(u32::MAX)).contains(n)) {
            Some(minutes) => Ok(Some(Some(minutes))),
            None => Err(fault::field("identity_provider/authorization_ttl", format!("{value} is not a number of minutes"))),
        },
    }
}

/// The database of upstream takes 255 characters, its schema 64: entity ids of SAML are often longer.
fn remote_ids(value: Option<Value>) -> Result<Option<Vec<String>>> {
    const PATH: &str = "identity_provider/remote_ids";
    let items = match value {
        None => return Ok(None),
        Some(Value::Null) => return Ok(Some(Vec::new())),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(fault::field(PATH, format!("{other} is not of type 'array', 'null'"))),
    };
    let mut ids: Vec<String> = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let place = format!("{PATH}/{i}");
        let Value::String(id) = item else { return Err(fault::field(&place, format!("{item} is not of type 'string'"))) };
        if id.chars().count() > 255 || id.contains('\0') {
            return Err(fault::field(&place, format!("'{id}' is too long")));
        }
        if ids.contains(&id) {
            return Err(fault::field(PATH, format!("'{id}' is there twice: has non-unique elements")));
        }
        ids.push(id);
    }
    ids.sort();
    Ok(Some(ids))
}

impl Identity {
    /// Without a domain it gets one of its own.
    pub(crate) async fn provider_create(&self, ctx: &Context, id: &str, change: ProviderChange) -> Result<Provider> {
        let provider = Provider {
            id: id.to_string(),
            domain_id: change.domain_id.clone().unwrap_or_else(base::id::hex),
            enabled: change.enabled.unwrap_or(false),
            description: change.description.flatten(),
            authorization_ttl: change.authorization_ttl.flatten(),
            remote_ids: change.remote_ids.unwrap_or_default(),
        };
        let ctx = ctx.clone();
        self.add(move |tx| {
            if change.domain_id.is_some() {
                projects::domain_get_in(tx, &provider.domain_id)?;
            } else {
                projects::project_insert_in(tx, &own_domain(&provider))?;
                note(tx, &ctx, "domain.created", &provider.domain_id)?;
            }
            let inserted = tx.attempt(|tx| {
                tx.execute(
                    &format!("INSERT INTO identity_provider ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5)"),
                    params![&provider.id, &provider.domain_id, provider.enabled, &provider.description, provider.authorization_ttl],
                )
            });
            inserted.map_err(|e| taken(e, "identity_provider", &provider.id))?;
            remote_ids_replace_in(tx, &provider.id, &provider.remote_ids)?;
            note(tx, &ctx, "identity_provider.created", &provider.id)?;
            Ok(provider)
        })
        .await
    }

    pub(crate) async fn provider_update(&self, ctx: &Context, id: &str, change: ProviderChange) -> Result<Provider> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            let mut provider = provider_get_in(tx, &id)?;
            provider.enabled = change.enabled.unwrap_or(provider.enabled);
            provider.description = change.description.unwrap_or(provider.description);
            provider.authorization_ttl = change.authorization_ttl.unwrap_or(provider.authorization_ttl);
            tx.execute(
                "UPDATE identity_provider SET enabled = ?2, description = ?3, authorization_ttl = ?4 WHERE id = ?1",
                params![&id, provider.enabled, &provider.description, provider.authorization_ttl],
            )?;
            if let Some(remote_ids) = change.remote_ids {
                remote_ids_replace_in(tx, &id, &remote_ids)?;
                provider.remote_ids = remote_ids;
            }
            note(tx, &ctx, "identity_provider.updated", &id)?;
            Ok(provider)
        })
        .await
    }

    pub(crate) async fn provider_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            provider_get_in(tx, &id)?;
            provider_remove_in(tx, &ctx, &id)?;
            note(tx, &ctx, "identity_provider.deleted", &id)
        })
        .await
    }
}

fn own_domain(provider: &Provider) -> Project {
    Project {
        id: provider.domain_id.clone(),
        name: provider.domain_id.clone(),
        domain_id: String::new(),
        parent_id: String::new(),
        is_domain: true,
        enabled: true,
        description: Some(format!("Auto generated federated domain for Identity Provider: {}", provider.id)),
        options: Object::new(),
        extra: Object::new(),
        tags: Vec::new(),
    }
}
