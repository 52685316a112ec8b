//! `/v1/join_tokens` and `/v1/join`.

use std::time::Duration;

use base::{Error, Result, Timestamp};
use http_api::{Request, Response, empty, json};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Inventory;
use crate::db::{self, Token};
use crate::join::{Join, LIFETIME, LONGEST, hostname_check};

fn view(token: &Token) -> Value {
    let state = match (token.used_at, token.expires_at < Timestamp::now()) {
        (Some(_), _) => "used",
        (None, true) => "expired",
        (None, false) => "good",
    };
    json!({
        "id": token.id,
        "hostname": token.hostname,
        "state": state,
        "created_at": token.created_at.iso_micros_z(),
        "expires_at": token.expires_at.iso_micros_z(),
        "used_at": token.used_at.map(Timestamp::iso_micros_z),
        "used_by": token.used_by,
    })
}

pub async fn index(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:join_tokens:get", &req.ctx)?;
    let tokens = inventory.core.store.read(db::token_list_in).await?;
    json(200, &json!({"join_tokens": tokens.iter().map(view).collect::<Vec<_>>()}))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct New {
    hostname: String,
    lifetime_seconds: Option<u64>,
}

pub async fn create(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:join_tokens:add", &req.ctx)?;
    let new: New = req.json()?;
    if !new.hostname.is_empty() {
        hostname_check(&new.hostname)?;
    }
    let lifetime = new.lifetime_seconds.map_or(LIFETIME, Duration::from_secs);
    if lifetime.is_zero() || lifetime > LONGEST {
        return Err(Error::invalid(format!("lifetime_seconds: must be from 1 to {}.", LONGEST.as_secs())));
    }
    let (token, text) = inventory.token_make(new.hostname, lifetime).await?;
    let mut body = view(&token);
    body["token"] = json!(text);
    json(200, &body)
}

pub async fn delete(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:join_tokens:delete", &req.ctx)?;
    let id = req.param("id").to_string();
    let unknown = Error::new(base::Kind::NotFound, format!("Join token {id} not found."));
    match inventory.core.store.write(move |tx| db::token_delete_in(tx, &id)).await? {
        true => empty(204),
        false => Err(unknown),
    }
}

pub async fn offer(inventory: Inventory, _: Request) -> Result<Response> {
    json(200, &inventory.join_offer().await?)
}

pub async fn join(inventory: Inventory, req: Request) -> Result<Response> {
    let join: Join = req.json()?;
    json(200, &inventory.join(join).await?)
}
