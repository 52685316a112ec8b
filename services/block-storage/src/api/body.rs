//! Reading of request bodies: strict where the reference is.

use base::{Error, Result};
use http_api::Request;
use http_api::query::parse_bool;
use serde_json::{Map, Value};

use crate::model::Metadata;

/// Metadata of one thing: as many pairs as this.
const PAIRS: usize = 128;

pub fn wrong(field: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Invalid input for field/attribute {field}. {why}"))
}

/// The object under `key`, the only one of the body but for `beside`.
pub fn inner(req: &Request, key: &str, beside: &[&str]) -> Result<Map<String, Value>> {
    let mut body = req.object()?;
    if let Some(other) = body.keys().find(|k| *k != key && !beside.contains(&k.as_str())) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{other}' was unexpected)")));
    }
    match body.remove(key) {
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(wrong(key, "It is not of type 'object'")),
        None => Err(Error::invalid(format!("'{key}' is a required property"))),
    }
}

/// Refuses what is not in the list.
pub fn only(map: &Map<String, Value>, allowed: &[&str]) -> Result<()> {
    match map.keys().find(|k| !allowed.contains(&k.as_str())) {
        Some(other) => Err(Error::invalid(format!("Additional properties are not allowed ('{other}' was unexpected)"))),
        None => Ok(()),
    }
}

/// A text, an absent one or null.
pub fn text(map: &Map<String, Value>, name: &str) -> Result<Option<String>> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= 255 => Ok(Some(text.clone())),
        Some(Value::String(_)) => Err(wrong(name, "It is longer than 255 characters")),
        Some(other) => Err(wrong(name, format!("{other} is not of type 'string', 'null'"))),
    }
}

/// As [`text`], without the blanks around it.
pub fn trimmed(map: &Map<String, Value>, name: &str) -> Result<Option<String>> {
    Ok(text(map, name)?.map(|t| t.trim().to_string()))
}

pub fn uuid(map: &Map<String, Value>, name: &str) -> Result<Option<String>> {
    match text(map, name)?.filter(|t| !t.is_empty()) {
        Some(id) if !base::id::is_uuid(&id) => Err(wrong(name, format!("'{id}' is not a 'uuid'"))),
        other => Ok(other),
    }
}

pub fn need<T>(name: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::invalid(format!("'{name}' is a required property")))
}

pub fn flag(map: &Map<String, Value>, name: &str) -> Result<Option<bool>> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(Value::String(text)) => parse_bool(text).map(Some).ok_or_else(|| wrong(name, format!("'{text}' is not a boolean"))),
        Some(other) => Err(wrong(name, format!("{other} is not a boolean"))),
    }
}

/// A whole number, also as text.
pub fn int(name: &str, value: &Value) -> Result<i64> {
    let number = match value {
        Value::Number(n) => n.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| wrong(name, format!("{value} is not an integer")))
}

/// A size in GiB.
pub fn size(map: &Map<String, Value>, name: &str) -> Result<Option<i64>> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match int(name, value)? {
            n if (1..=i64::from(i32::MAX)).contains(&n) => Ok(Some(n)),
            n => Err(wrong(name, format!("{n} is not between 1 and {}", i32::MAX))),
        },
    }
}

pub fn metadata(name: &str, value: Option<&Value>) -> Result<Option<Metadata>> {
    let map = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong(name, format!("{other} is not of type 'object'"))),
    };
    if map.len() > PAIRS {
        return Err(wrong(name, "It has too many pairs"));
    }
    let mut metadata = Metadata::new();
    for (key, value) in map {
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_:. ".contains(c);
        if key.is_empty() || key.len() > 255 || !key.chars().all(fine) {
            return Err(wrong(name, format!("'{key}' is no key: 1 to 255 letters, digits and -_:. are")));
        }
        let text = match value {
            Value::String(text) if text.chars().count() <= 255 => text.clone(),
            Value::Number(n) => n.to_string(),
            Value::Bool(b) => if *b { "True" } else { "False" }.to_string(),
            _ => return Err(wrong(&format!("{name}.{key}"), "It is no text of at most 255 characters")),
        };
        metadata.insert(key.clone(), text);
    }
    Ok(Some(metadata))
}
