//! Under which names others know a user: by identity provider and protocol.

use base::{Error, Kind, Result};
use serde_json::{Value, json};
use store::{Tx, params};

use super::protocols::protocol_get_in;
use super::providers::provider_get_in;
use super::taken;
use crate::fault;

/// One name of a user elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub idp_id: String,
    pub protocol_id: String,
    pub unique_id: String,
}

/// More than anybody has.
const MAX: usize = 100;
const PATH: &str = "user/federated";

/// Of `[{"idp_id": ..., "protocols": [{"protocol_id": ..., "unique_id": ...}]}]`.
pub fn read(value: &Value) -> Result<Vec<Link>> {
    let list = |value: &Value, path: &str| match value {
        Value::Array(items) => Ok(items.clone()),
        other => Err(fault::field(path, format!("{other} is not of type 'array'"))),
    };
    let mut links = Vec::new();
    for (i, one) in list(value, PATH)?.iter().enumerate() {
        let path = format!("{PATH}/{i}");
        let idp_id = text(one, "idp_id", &path, 64)?;
        let path = format!("{path}/protocols");
        let protocols = list(one.get("protocols").unwrap_or(&Value::Null), &path)?;
        if protocols.is_empty() {
            return Err(fault::field(&path, "[] is too short"));
        }
        for (j, one) in protocols.iter().enumerate() {
            let path = format!("{path}/{j}");
            let (protocol_id, unique_id) = (text(one, "protocol_id", &path, 64)?, text(one, "unique_id", &path, 255)?);
            links.push(Link { idp_id: idp_id.clone(), protocol_id, unique_id });
        }
    }
    if links.len() > MAX {
        return Err(fault::field(PATH, format!("there are more than {MAX}")));
    }
    Ok(links)
}

fn text(map: &Value, key: &str, path: &str, max: usize) -> Result<String> {
    let value = map.get(key).ok_or_else(|| fault::field(path, format!("'{key}' is a required property")))?;
    let path = format!("{path}/{key}");
    let text = value.as_str().ok_or_else(|| fault::field(&path, format!("{value} is not of type 'string'")))?;
    if text.is_empty() || text.chars().count() > max || text.contains('\0') {
        return Err(fault::field(&path, format!("'{text}' is not of 1 to {max} characters")));
    }
    Ok(text.into())
}

/// From now on others know the user by these names and no others. The providers and protocols must be there; a name that is somebody
/// else's is `Conflict`. `only_of`: a domain; providers of others are `Forbidden`.
pub fn links_replace_in(tx: &Tx, user_id: &str, links: &[Link], only_of: Option<&str>) -> Result<()> {
    tx.execute("DELETE FROM federated_user WHERE user_id = ?1", params![user_id])?;
    for Link { idp_id, protocol_id, unique_id } in links {
        let missing = |e: Error| if e.is(Kind::NotFound) { Error::invalid(e.to_string()) } else { e };
        let provider = provider_get_in(tx, idp_id).map_err(missing)?;
        protocol_get_in(tx, idp_id, protocol_id).map_err(missing)?;
        if only_of.is_some_and(|domain| provider.domain_id != domain) {
            return Err(fault::forbidden_action("identity:update_identity_provider"));
        }
        let inserted = tx.attempt(|tx| {
            tx.execute(
                "INSERT INTO federated_user (idp_id, protocol_id, unique_id, user_id) VALUES (?1, ?2, ?3, ?4)",
                params![idp_id, protocol_id, unique_id, user_id],
            )
        });
        inserted.map_err(|e| taken(e, "federated_user", unique_id))?;
    }
    Ok(())
}

/// As the API shows them.
pub fn federated_in(tx: &Tx, user_id: &str) -> Result<Vec<Value>> {
    let rows = tx.query(
        "SELECT idp_id, protocol_id, unique_id FROM federated_user WHERE user_id = ?1 ORDER BY idp_id, protocol_id, unique_id",
        params![user_id],
        |row| Ok((row.text(0)?, json!({ "protocol_id": row.text(1)?, "unique_id": row.text(2)? }))),
    )?;
    let mut providers: Vec<(String, Vec<Value>)> = Vec::new();
    for (idp_id, protocol) in rows {
        match providers.last_mut() {
            Some((last, protocols)) if *last == idp_id => protocols.push(protocol),
            _ => providers.push((idp_id, vec![protocol])),
        }
    }
    Ok(providers.into_iter().map(|(idp_id, protocols)| json!({ "idp_id": idp_id, "protocols": protocols })).collect())
}
