//! SQL that is more than one row of one resource.

pub mod networks;
pub mod ports;
pub mod quotas;
pub mod security_groups;

use serde_json::Value as Json;
use std::collections::HashMap;

use base::Result;
use store::{Select, Tx};

use crate::attr::Object;

/// The ids of some objects.
pub fn ids(objects: &[Object]) -> Vec<String> {
    column(objects, "id")
}

/// The different texts of an attribute.
pub fn column(objects: &[Object], name: &str) -> Vec<String> {
    let mut texts: Vec<String> = objects.iter().filter_map(|o| o.get(name).and_then(Json::as_str).map(str::to_string)).collect();
    texts.sort();
    texts.dedup();
    texts
}

/// Documents of a table whose `key` column is one of `values`, grouped by it.
pub fn grouped(tx: &Tx, table: &str, key: &str, values: &[String]) -> Result<HashMap<String, Vec<Object>>> {
    let mut out: HashMap<String, Vec<Object>> = HashMap::new();
    if values.is_empty() {
        return Ok(out);
    }
    let order = [("created_at", store::Dir::Asc), ("id", store::Dir::Asc)];
    let rows = Select::new(format!("SELECT {key}, doc FROM {table}"))
        .in_list(key, values.iter().map(String::as_str))
        .order(&order)
        .fetch(tx, |row| Ok((row.text(0)?, row.json::<Object>(1)?)))?;
    for (key, object) in rows {
        out.entry(key).or_default().push(object);
    }
    Ok(out)
}
