//! Service providers: other clouds that believe this one. Every token names those that are enabled.

use base::{Context, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use super::taken;
use crate::list::Ask;
use crate::wire::{self, Object};
use crate::{Identity, fault, note};

#[derive(Clone, Debug)]
pub struct ServiceProvider {
    pub id: String,
    pub enabled: bool,
    pub description: Option<String>,
    /// Where its users authenticate.
    pub auth_url: String,
    /// Where it takes assertions.
    pub sp_url: String,
    pub relay_state_prefix: String,
}

const COLUMNS: &str = "id, enabled, description, auth_url, sp_url, relay_state_prefix";

fn map(row: &Row) -> Result<ServiceProvider> {
    Ok(ServiceProvider {
        id: row.text(0)?,
        enabled: row.flag(1)?,
        description: row.opt_text(2)?,
        auth_url: row.text(3)?,
        sp_url: row.text(4)?,
        relay_state_prefix: row.text(5)?,
    })
}

impl ServiceProvider {
    pub fn view(&self, req: &Request) -> Value {
        json!({
            "id": self.id,
            "enabled": self.enabled,
            "description": self.description,
            "auth_url": self.auth_url,
            "sp_url": self.sp_url,
            "relay_state_prefix": self.relay_state_prefix,
            "links": { "self": format!("{}/v3/OS-FEDERATION/service_providers/{}", req.base_url, self.id) },
        })
    }
}

pub fn service_provider_get_in(tx: &Tx, id: &str) -> Result<ServiceProvider> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM service_provider WHERE id = ?1"), params![id], map)?
        .ok_or_else(|| fault::not_found("Service Provider", id))
}

pub fn service_provider_list_in(tx: &Tx, ask: &Ask) -> Result<(Vec<ServiceProvider>, bool)> {
    ask.fetch(tx, Select::new(format!("SELECT {COLUMNS} FROM service_provider")), "service_provider", map)
}

/// As tokens name them: those that are enabled.
pub fn service_providers_of_tokens_in(tx: &Tx) -> Result<Vec<Value>> {
    tx.query("SELECT id, auth_url, sp_url FROM service_provider WHERE enabled = 1 ORDER BY id", params![], |row| {
        Ok(json!({ "id": row.text(0)?, "auth_url": row.text(1)?, "sp_url": row.text(2)? }))
    })
}

/// What a request wants to set.
pub struct ServiceProviderChange {
    pub enabled: Option<bool>,
    pub description: Option<Option<String>>,
    pub auth_url: Option<String>,
    pub sp_url: Option<String>,
    pub relay_state_prefix: Option<Option<String>>,
}

impl ServiceProviderChange {
    pub fn read(mut map: Object) -> Result<ServiceProviderChange> {
        let mut take = wire::Take { map: &mut map, what: "service_provider" };
        let change = ServiceProviderChange {
            enabled: take.flag("enabled")?,
            description: take.nullable_text("description", 65_535)?,
            auth_url: url(&mut take, "auth_url")?,
            sp_url: url(&mut take, "sp_url")?,
            relay_state_prefix: take.nullable_text("relay_state_prefix", 256)?,
        };
        wire::nothing_else(&map, "service_provider")?;
        Ok(change)
    }
}

fn url(take: &mut wire::Take, key: &str) -> Result<Option<String>> {
    let Some(url) = take.text(key, 225)? else { return Ok(None) };
    let rest = url.split_once("://").filter(|(scheme, _)| matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https"));
    if rest.is_none_or(|(_, rest)| rest.is_empty() || rest.contains(char::is_whitespace)) {
        return Err(fault::field(&format!("service_provider/{key}"), format!("'{url}' is not a URL of http or https")));
    }
    Ok(Some(url))
}

impl Identity {
    fn relay_state_prefix(&self) -> String {
        self.0.config.text("saml.relay_state_prefix").into()
    }

    pub(crate) async fn service_provider_create(&self, ctx: &Context, id: &str, change: ServiceProviderChange) -> Result<ServiceProvider> {
        let required = |name: &str| fault::field("service_provider", format!("'{name}' is a required property"));
        let provider = ServiceProvider {
            id: id.to_string(),
            enabled: change.enabled.unwrap_or(false),
            description: change.description.flatten(),
            auth_url: change.auth_url.ok_or_else(|| required("auth_url"))?,
            sp_url: change.sp_url.ok_or_else(|| required("sp_url"))?,
            relay_state_prefix: change.relay_state_prefix.flatten().unwrap_or_else(|| self.relay_state_prefix()),
        };
        let ctx = ctx.clone();
        self.change(move |tx| {
            let inserted = tx.attempt(|tx| {
                tx.execute(
                    &format!("INSERT INTO service_provider ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
                    params![
                        &provider.id,
                        provider.enabled,
                        &provider.description,
                        &provider.auth_url,
                        &provider.sp_url,
                        &provider.relay_state_prefix
                    ],
                )
            });
            inserted.map_err(|e| taken(e, "service_provider", &provider.id))?;
            note(tx, &ctx, "service_provider.created", &provider.id)?;
            Ok(provider)
        })
        .await
    }

    pub(crate) async fn service_provider_update(&self, ctx: &Context, id: &str, change: ServiceProviderChange) -> Result<ServiceProvider> {
        let (ctx, id, default_prefix) = (ctx.clone(), id.to_string(), self.relay_state_prefix());
        self.change(move |tx| {
            let mut provider = service_provider_get_in(tx, &id)?;
            provider.enabled = change.enabled.unwrap_or(provider.enabled);
            provider.description = change.description.unwrap_or(provider.description);
            provider.auth_url = change.auth_url.unwrap_or(provider.auth_url);
            provider.sp_url = change.sp_url.unwrap_or(provider.sp_url);
            if let Some(prefix) = change.relay_state_prefix {
                provider.relay_state_prefix = prefix.unwrap_or(default_prefix);
            }
            tx.execute(
                "UPDATE service_provider SET enabled = ?2, description = ?3, auth_url = ?4, sp_url = ?5, relay_state_prefix = ?6 WHERE id = ?1",
                params![&id, provider.enabled, &provider.description, &provider.auth_url, &provider.sp_url, &provider.relay_state_prefix],
            )?;
            note(tx, &ctx, "service_provider.updated", &id)?;
            Ok(provider)
        })
        .await
    }

    pub(crate) async fn service_provider_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            if tx.execute("DELETE FROM service_provider WHERE id = ?1", params![&id])? == 0 {
                return Err(fault::not_found("Service Provider", &id));
            }
            note(tx, &ctx, "service_provider.deleted", &id)
        })
        .await
    }
}
