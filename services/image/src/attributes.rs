//! Attributes of an image as requests name them: which may be set, and what their values must be.

use base::{Error, Result};
use serde_json::{Map, Value};

use crate::model::{Image, Status, Visibility};
use crate::patch::{Change, Op};
use crate::schema;

/// Kept by the service itself.
const READ_ONLY: &[&str] = &[
    "created_at",
    "updated_at",
    "status",
    "checksum",
    "size",
    "virtual_size",
    "direct_url",
    "self",
    "file",
    "schema",
    "stores",
    "os_hash_algo",
    "os_hash_value",
];
const RESERVED: &[&str] = &["location", "deleted", "deleted_at"];
/// Upstream's own bookkeeping lives below this prefix.
const RESERVED_PREFIX: &str = "os_glance";
const MAX_NAME: usize = 255;

/// The attributes that are no custom properties.
const BASE: &[&str] =
    &["id", "name", "visibility", "owner", "protected", "os_hidden", "disk_format", "container_format", "min_disk", "min_ram", "tags"];

/// Whether a property is the service's own, by which imports tell how far they are.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED_PREFIX)
}

/// Whether a name may be given at all, on create or update.
pub fn check_name(name: &str) -> Result<()> {
    if READ_ONLY.contains(&name) {
        return Err(Error::forbidden(format!("Attribute '{name}' is read-only.")));
    }
    if RESERVED.contains(&name) || is_reserved(name) {
        return Err(Error::forbidden(format!("Attribute '{name}' is reserved.")));
    }
    if name == "locations" {
        return Err(Error::forbidden("It's not allowed to set locations when an image is created."));
    }
    if name.chars().count() > MAX_NAME {
        return Err(Error::invalid(format!("Custom property should not be greater than {MAX_NAME} characters.")));
    }
    if name.is_empty() || name.contains('\0') {
        return Err(Error::invalid("The name of a custom property must not be empty or contain a NUL character."));
    }
    Ok(())
}

/// Whether a custom property may have this name.
pub fn check_property(name: &str) -> Result<()> {
    if BASE.contains(&name) {
        return Err(Error::invalid(format!("Attribute '{name}' is no custom property.")));
    }
    check_name(name)
}

pub fn check_tag(tag: &str) -> Result<()> {
    schema::check("tags", &Value::Array(vec![Value::String(tag.into())]))
}

/// A new image from the body of a create request; `owner` unless the body names one.
pub fn image_from(body: Map<String, Value>, owner: Option<String>) -> Result<Image> {
    for (name, value) in &body {
        // A value of the wrong type is told before the name: as upstream.
        if schema::properties().contains_key(name) {
            schema::check(name, value)?;
        }
        check_name(name)?;
        schema::check(name, value)?;
    }
    let id = body.get("id").and_then(Value::as_str).map_or_else(base::id::uuid, str::to_string);
    let mut image = Image::new(id, owner);
    for (name, value) in body {
        if name != "id" {
            set(&mut image, &name, value)?;
        }
    }
    Ok(image)
}

/// One change of an update request.
pub fn apply(image: &mut Image, change: &Change) -> Result<()> {
    let name = change.name.as_str();
    let is_base = BASE.contains(&name);
    let exists = is_base || image.properties.contains_key(name);
    match change.op {
        Op::Remove if is_base => return Err(Error::forbidden(format!("Property {name} may not be removed."))),
        Op::Remove | Op::Replace if !exists => return Err(Error::conflict(format!("Property {name} does not exist."))),
        Op::AddNew if exists => return Err(Error::conflict(format!("Property {name} already present."))),
        Op::Remove => {
            image.properties.remove(name);
            return Ok(());
        }
        Op::Add | Op::AddNew | Op::Replace => {}
    }
    if matches!(name, "disk_format" | "container_format") && image.status != Status::Queued {
        return Err(Error::forbidden(format!("Attribute {name} can be only replaced for a queued image.")));
    }
    set(image, name, change.value.clone().unwrap_or_default())
}

/// Sets an attribute to a value that fits its schema.
fn set(image: &mut Image, name: &str, value: Value) -> Result<()> {
    let text = value.as_str().map(str::to_string);
    match name {
        "name" => image.name = text,
        "visibility" => image.visibility = Visibility::parse(text.as_deref().unwrap_or_default())?,
        "owner" => image.owner = text,
        "protected" => image.protected = value == true,
        "os_hidden" => image.os_hidden = value == true,
        "disk_format" => image.disk_format = text,
        "container_format" => image.container_format = text,
        "min_disk" => image.min_disk = small_count(name, &value)?,
        "min_ram" => image.min_ram = small_count(name, &value)?,
        "tags" => image.tags = value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect(),
        _ => {
            image.properties.insert(name.to_string(), text.unwrap_or_default());
        }
    }
    Ok(())
}

/// A number that fits upstream's column.
fn small_count(name: &str, value: &Value) -> Result<u64> {
    let number = value.as_u64().filter(|n| *n <= i32::MAX as u64);
    number.ok_or_else(|| Error::invalid(format!("Invalid value '{value}' for parameter '{name}': it must be between 0 and {}.", i32::MAX)))
}
