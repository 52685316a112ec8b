//! The schema documents, and the check of attributes against them: what clients read is what is enforced.

mod check;
pub mod metadefs;

use std::sync::OnceLock;

use base::{Error, Result};
use serde_json::{Map, Value, json};

use check::{UUID, fits};

pub const CONTAINER_FORMATS: &[&str] = &["ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"];
pub const DISK_FORMATS: &[&str] = &["ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"];

/// The properties of an image.
pub fn properties() -> &'static Map<String, Value> {
    static PROPERTIES: OnceLock<Map<String, Value>> = OnceLock::new();
    PROPERTIES.get_or_init(|| match build() {
        Value::Object(map) => map,
        _ => Map::new(),
    })
}

fn or_null(names: &[&str]) -> Value {
    std::iter::once(Value::Null).chain(names.iter().map(|n| json!(n))).collect()
}

fn locations() -> Value {
    let validation = json!({
        "type": "object",
        "writeOnly": true,
        "additionalProperties": false,
        "required": ["os_hash_algo", "os_hash_value"],
        "properties": {
            "checksum": {"type": "string", "minLength": 32, "maxLength": 32},
            "os_hash_algo": {"type": "string", "maxLength": 64},
            "os_hash_value": {"type": "string", "maxLength": 128}
        }
    });
    json!({
        "type": "array",
        "description": "The addresses of the content of the image",
        "items": {
            "type": "object",
            "required": ["url", "metadata"],
            "properties": {"url": {"type": "string", "maxLength": 255}, "metadata": {"type": "object"}, "validation_data": validation}
        }
    })
}

fn build() -> Value {
    let mut base = json!({
        "id": {"type": "string", "description": "An identifier for the image", "pattern": UUID},
        "name": {"type": ["null", "string"], "description": "Descriptive name for the image", "maxLength": 255},
        "status": {"type": "string", "readOnly": true, "description": "Status of the image", "enum":
            ["queued", "saving", "active", "killed", "deleted", "uploading", "importing", "pending_delete", "deactivated"]},
        "visibility": {"type": "string", "description": "Scope of image accessibility",
            "enum": ["community", "public", "private", "shared"]},
        "protected": {"type": "boolean", "description": "If true, image will not be deletable."},
        "os_hidden": {"type": "boolean", "description": "If true, image will not appear in default image list response."},
        "checksum": {"type": ["null", "string"], "readOnly": true, "description": "md5 hash of image contents.", "maxLength": 32},
        "os_hash_algo": {"type": ["null", "string"], "readOnly": true, "maxLength": 64,
            "description": "Algorithm to calculate the os_hash_value"},
        "os_hash_value": {"type": ["null", "string"], "readOnly": true, "maxLength": 128,
            "description": "Hexdigest of the image contents using the algorithm specified by the os_hash_algo"},
        "owner": {"type": ["null", "string"], "description": "Owner of the image", "maxLength": 255},
        "size": {"type": ["null", "integer"], "readOnly": true, "description": "Size of image file in bytes"},
        "virtual_size": {"type": ["null", "integer"], "readOnly": true, "description": "Virtual size of image in bytes"},
        "container_format": {"type": ["null", "string"], "description": "Format of the container", "enum": or_null(CONTAINER_FORMATS)},
        "disk_format": {"type": ["null", "string"], "description": "Format of the disk", "enum": or_null(DISK_FORMATS)},
        "created_at": {"type": "string", "readOnly": true, "description": "Date and time of image registration"},
        "updated_at": {"type": "string", "readOnly": true, "description": "Date and time of the last image modification"},
        "tags": {"type": "array", "description": "List of strings related to the image", "items": {"type": "string", "maxLength": 255}},
        "min_ram": {"type": "integer", "description": "Amount of ram (in MB) required to boot image."},
        "min_disk": {"type": "integer", "description": "Amount of disk space (in GB) required to boot image."},
        "self": {"type": "string", "readOnly": true, "description": "An image self url"},
        "file": {"type": "string", "readOnly": true, "description": "An image file url"},
        "schema": {"type": "string", "readOnly": true, "description": "An image schema url"},
        "direct_url": {"type": "string", "readOnly": true, "description": "The address of the content of the image"},
        "locations": locations(),
        "stores": {"type": "string", "readOnly": true, "description": "The stores that have the content of the image"}
    });
    // Well-known properties of upstream's default schema file; the rest of the custom ones are any text.
    let known = json!({
        "kernel_id": {"type": ["null", "string"], "pattern": UUID, "is_base": false,
            "description": "ID of image stored in Glance that should be used as the kernel when booting an AMI-style image."},
        "ramdisk_id": {"type": ["null", "string"], "pattern": UUID, "is_base": false,
            "description": "ID of image stored in Glance that should be used as the ramdisk when booting an AMI-style image."},
        "instance_uuid": {"type": "string", "is_base": false, "description": "The instance this image is associated with."},
        "architecture": {"type": "string", "is_base": false, "description": "Operating system architecture."},
        "os_distro": {"type": "string", "is_base": false, "description": "Common name of the operating system distribution."},
        "os_version": {"type": "string", "is_base": false, "description": "Operating system version as specified by the distributor."},
        "description": {"type": "string", "is_base": false, "description": "A human-readable string describing this image."}
    });
    if let (Some(base), Value::Object(known)) = (base.as_object_mut(), known) {
        base.extend(known);
    }
    base
}

/// `GET /v2/schemas/image`.
pub fn image() -> Value {
    json!({
        "name": "image",
        "properties": properties(),
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"}
        ]
    })
}

pub fn member() -> Value {
    json!({
        "name": "member",
        "properties": {
            "created_at": {"type": "string", "description": "Date and time of image member creation"},
            "image_id": {"type": "string", "description": "An identifier for the image", "pattern": UUID},
            "member_id": {"type": "string", "description": "An identifier for the image member (tenantId)"},
            "status": {"type": "string", "description": "The status of this image member", "enum": ["pending", "accepted", "rejected"]},
            "updated_at": {"type": "string", "description": "Date and time of last modification of image member"},
            "schema": {"type": "string", "readOnly": true}
        }
    })
}

pub fn task() -> Value {
    json!({
        "name": "task",
        "properties": {
            "id": {"type": "string", "description": "An identifier for the task", "pattern": UUID},
            "type": {"type": "string", "description": "What the task does", "enum": ["import", "api_image_import", "location_import"]},
            "status": {"type": "string", "description": "How far the task is", "enum": ["pending", "processing", "success", "failure"]},
            "input": {"type": ["null", "object"], "description": "What the task was asked for"},
            "result": {"type": ["null", "object"], "description": "What has come of it"},
            "owner": {"type": "string", "description": "The project whose task it is"},
            "message": {"type": "string", "description": "Why it has failed"},
            "image_id": {"type": "string", "description": "The image that it is about"},
            "request_id": {"type": "string", "description": "The request that it was made by"},
            "user_id": {"type": "string", "description": "Who made the request"},
            "expires_at": {"type": ["null", "string"], "description": "When the task will be forgotten"},
            "created_at": {"type": "string", "description": "When the task was made"},
            "updated_at": {"type": "string", "description": "When the task last changed"},
            "self": {"type": "string", "readOnly": true},
            "schema": {"type": "string", "readOnly": true}
        }
    })
}

/// A page of `name` (`images`, `members`) whose items are of `item`.
pub fn collection(name: &str, item: Value) -> Value {
    json!({
        "name": name,
        "properties": {
            name: {"type": "array", "items": item},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"}
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"}
        ]
    })
}

/// Whether a body that adds a location is what it should be.
pub fn location_check(body: &Map<String, Value>) -> Result<()> {
    let schema = json!({
        "required": ["url"],
        "properties": {
            "url": {"type": "string"},
            "validation_data": {
                "type": ["null", "object"],
                "additionalProperties": false,
                "properties": {
                    "os_hash_algo": {"type": "string", "enum": ["sha1", "sha256", "sha512", "md5"]},
                    "os_hash_value": {"type": "string", "maxLength": 128}
                }
            }
        }
    });
    let unfit = |what: String| Error::invalid(format!("Provided object does not match schema 'location': {what}."));
    fits(&schema, &schema, &Value::Object(body.clone())).map_err(unfit)
}

/// Whether a value fits the schema of an attribute; custom ones are text.
pub fn check(name: &str, value: &Value) -> Result<()> {
    let wrong = |what: String| Err(Error::invalid(format!("Provided object does not match schema 'image': {what} in property '{name}'.")));
    match properties().get(name) {
        Some(schema) => match fits(schema, schema, value) {
            Ok(()) => Ok(()),
            Err(what) => wrong(what),
        },
        None if value.as_str().is_some_and(|text| text.contains('\0')) => wrong("a text with a NUL character is not allowed".into()),
        None if value.is_string() => Ok(()),
        None => wrong(format!("{value} is not of type 'string'")),
    }
}
