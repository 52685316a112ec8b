//! The two JSON patch dialects of image updates: 2.0 (`{"replace": "/name", "value": ...}`) and 2.1 (`{"op", "path", "value"}`).

use base::{Error, Result};
use serde_json::{Map, Value};

use crate::{attributes, schema};

/// Media types, oldest first. The last is RFC 6902's own, of which dialect 2.1 is a part.
pub const TYPES: [&str; 3] =
    ["application/openstack-images-v2.0-json-patch", "application/openstack-images-v2.1-json-patch", "application/json-patch+json"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets, whether or not it is there.
    Add,
    /// The older dialect's `add`, which refuses what is there.
    AddNew,
    Replace,
    Remove,
}

/// One change of one attribute, its value checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub op: Op,
    pub name: String,
    /// Where in `locations`: a number, or `-` for the end.
    pub position: Option<String>,
    /// None when removing.
    pub value: Option<Value>,
}

const OPERATIONS: &str = "add, remove, replace";

/// Reads a whole patch document; `old` is dialect 2.0.
pub fn parse(body: &Value, old: bool) -> Result<Vec<Change>> {
    let Value::Array(operations) = body else {
        return Err(Error::invalid("Request body must be a JSON array of operation objects."));
    };
    operations.iter().map(|operation| change(operation, old)).collect()
}

fn change(operation: &Value, old: bool) -> Result<Change> {
    let Value::Object(operation) = operation else { return Err(Error::invalid("Operations must be JSON objects.")) };
    let (op, pointer) = if old { old_operation(operation)? } else { operation_of(operation)? };
    let path = pointer_parts(pointer)?;
    let (name, position) = match (&path[..], op) {
        // The one attribute that patches reach into, and have to.
        ([name, position], Op::Add | Op::AddNew | Op::Remove) if name == "locations" => (name.clone(), Some(position.clone())),
        ([name], Op::Replace) if name == "locations" => (name.clone(), None),
        ([name], _) if name != "locations" => (name.clone(), None),
        _ => return Err(Error::invalid(format!("Invalid JSON pointer for this resource: '/{}'", path.join("/")))),
    };
    let value = match op {
        Op::Remove => None,
        _ => {
            let word = if op == Op::Replace { "replace" } else { "add" };
            let missing = || Error::invalid(format!("Operation \"{word}\" requires a member named \"value\"."));
            Some(operation.get("value").cloned().ok_or_else(missing)?)
        }
    };
    if name == "id" {
        return Err(Error::forbidden("Attribute 'id' is read-only."));
    }
    if name == "locations" {
        // One of them, or all.
        let all = value.as_ref().map(|value| if position.is_some() { Value::Array(vec![value.clone()]) } else { value.clone() });
        all.map_or(Ok(()), |all| schema::check(&name, &all))?;
        return Ok(Change { op, name, position, value });
    }
    attributes::check_name(&name)?;
    if let Some(value) = &value {
        schema::check(&name, value)?;
    }
    Ok(Change { op, name, position, value })
}

fn operation_of(operation: &Map<String, Value>) -> Result<(Op, &str)> {
    let op = match operation.get("op") {
        None | Some(Value::Null) => {
            return Err(Error::invalid(format!(
                "Unable to find `op` in JSON Schema change. It must be one of the following: {OPERATIONS}."
            )));
        }
        Some(Value::String(op)) => op.as_str(),
        Some(other) => return Err(Error::invalid(format!("Invalid operation: `{other}`. It must be one of the following: {OPERATIONS}."))),
    };
    let op = match op {
        "add" => Op::Add,
        "replace" => Op::Replace,
        "remove" => Op::Remove,
        _ => return Err(Error::invalid(format!("Invalid operation: `{op}`. It must be one of the following: {OPERATIONS}."))),
    };
    let path = operation.get("path").ok_or_else(|| Error::invalid("Unable to find 'path' in JSON Schema change"))?;
    Ok((op, path.as_str().ok_or_else(|| Error::invalid("'path' in a JSON Schema change must be a string"))?))
}

fn old_operation(operation: &Map<String, Value>) -> Result<(Op, &str)> {
    let words = [("add", Op::AddNew), ("remove", Op::Remove), ("replace", Op::Replace)];
    let mut found = words.into_iter().filter_map(|(word, op)| Some((op, operation.get(word)?)));
    match (found.next(), found.next()) {
        (Some((op, path)), None) => Ok((op, path.as_str().ok_or_else(|| Error::invalid("The path of an operation must be a string"))?)),
        _ => Err(Error::invalid("Operation objects must contain exactly one member named \"add\", \"remove\", or \"replace\".")),
    }
}

/// The parts of a JSON pointer: `~1` stands for `/`, `~0` for `~`.
fn pointer_parts(pointer: &str) -> Result<Vec<String>> {
    let wrong = |why: &str| Err(Error::invalid(format!("Pointer `{pointer}` {why}.")));
    let Some(rest) = pointer.strip_prefix('/') else { return wrong("does not start with \"/\"") };
    if rest.trim().is_empty() {
        return wrong("does not contain a valid token");
    }
    if rest.ends_with('/') {
        return wrong("ends with \"/\"");
    }
    let mut parts = Vec::new();
    for part in rest.split('/') {
        if part.trim().is_empty() {
            return wrong("contains adjacent \"/\"");
        }
        let mut escapes = part.split('~').skip(1);
        if !escapes.all(|after| after.starts_with(['0', '1'])) {
            return wrong("contains \"~\" that is not part of a recognized escape sequence");
        }
        parts.push(part.replace("~1", "/").replace("~0", "~").trim().to_string());
    }
    Ok(parts)
}
