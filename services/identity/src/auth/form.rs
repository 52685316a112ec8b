//! What is read out of a request's `auth`, with faults that name the place.

use base::Result;
use serde_json::{Map, Value};
use store::Tx;

use crate::projects::project_fetch_in;
use crate::{fault, projects};

/// A thing by id or by name.
#[derive(Clone)]
pub(super) enum Named {
    Id(String),
    Name(String),
}

/// A thing of a domain by id or by name.
pub(super) enum Lookup {
    Id(String),
    Name { name: String, domain: Named },
}

impl Lookup {
    /// As it was asked for: to count who asks how often.
    pub(super) fn text(&self) -> String {
        match self {
            Lookup::Id(id) => id.clone(),
            Lookup::Name { name, domain: Named::Id(domain) | Named::Name(domain) } => format!("{domain}/{name}"),
        }
    }
}

/// A name wins over an id, as upstream.
pub(super) fn named(map: &Map<String, Value>, path: &str) -> Result<Named> {
    match (text(map, "name", path)?, text(map, "id", path)?) {
        (Some(name), _) => Ok(Named::Name(name)),
        (None, Some(id)) => Ok(Named::Id(id)),
        (None, None) => Err(fault::field(path, "id or name must be present.")),
    }
}

pub(super) fn object<'a>(map: &'a Map<String, Value>, key: &str, inside: &str) -> Result<&'a Map<String, Value>> {
    match map.get(key) {
        Some(Value::Object(inner)) => Ok(inner),
        Some(_) => Err(fault::field(&format!("{inside}/{key}"), "it is not of type 'object'")),
        None => Err(fault::expecting(key, inside)),
    }
}

pub(super) fn text(map: &Map<String, Value>, key: &str, inside: &str) -> Result<Option<String>> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(fault::field(&format!("{inside}/{key}"), "it is not of type 'string'")),
    }
}

/// An enabled domain; none is no more than a failed login.
pub(super) fn find_domain(tx: &Tx, domain: &Named) -> Result<String> {
    let found = match domain {
        Named::Id(id) => project_fetch_in(tx, id)?,
        Named::Name(name) => projects::project_by_name_in(tx, name, "")?,
    };
    found.filter(|d| d.is_domain && d.enabled).map(|d| d.id).ok_or_else(fault::unauthorized)
}
