//! The schema documents of metadata definitions, and the check of requests against them.

use base::{Error, Result};
use serde_json::{Map, Value, json};

use super::check::fits;

/// The longest name of anything.
const NAME: u64 = 80;

fn read_only(mut properties: Value, names: &[&str]) -> Value {
    for name in names {
        properties[*name] = match *name {
            "created_at" | "updated_at" => json!({"type": "string", "readOnly": true, "format": "date-time"}),
            _ => json!({"type": "string", "readOnly": true}),
        };
    }
    properties
}

fn value_types() -> Value {
    json!({"type": "string", "enum": ["array", "boolean", "integer", "number", "object", "string", null]})
}

/// What describes one property: title, type, and what its values may be.
fn property_words() -> Value {
    json!({
        "name": {"type": "string", "maxLength": NAME},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "operators": {"type": "array", "items": {"type": "string"}},
        "type": value_types(),
        "required": {"$ref": "#/definitions/stringArray"},
        "minimum": {"type": "number"},
        "maximum": {"type": "number"},
        "maxLength": {"$ref": "#/definitions/positiveInteger"},
        "minLength": {"$ref": "#/definitions/positiveIntegerDefault0"},
        "pattern": {"type": "string", "format": "regex"},
        "enum": {"type": "array"},
        "readonly": {"type": "boolean"},
        "default": {},
        "items": {"type": "object", "properties": {"type": value_types(), "enum": {"type": "array"}}},
        "maxItems": {"$ref": "#/definitions/positiveInteger"},
        "minItems": {"$ref": "#/definitions/positiveIntegerDefault0"},
        "uniqueItems": {"type": "boolean", "default": false},
        "additionalItems": {"type": "boolean"}
    })
}

fn definitions() -> Value {
    json!({
        "positiveInteger": {"type": "integer", "minimum": 0},
        "positiveIntegerDefault0": {"allOf": [{"$ref": "#/definitions/positiveInteger"}, {"default": 0}]},
        "stringArray": {"type": "array", "items": {"type": "string"}, "uniqueItems": true},
        "property": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["title", "type"],
                "additionalProperties": false,
                "properties": property_words()
            }
        }
    })
}

pub fn namespace() -> Value {
    let properties = json!({
        "namespace": {"type": "string", "maxLength": NAME, "description": "The name, unique in the cloud."},
        "display_name": {"type": "string", "maxLength": NAME, "description": "The name as people see it."},
        "description": {"type": "string", "maxLength": 500, "description": "What the namespace is about."},
        "visibility": {"type": "string", "enum": ["public", "private"], "description": "Whether other projects see it."},
        "protected": {"type": "boolean", "description": "Whether it is kept from being deleted."},
        "owner": {"type": "string", "maxLength": 255, "description": "The project whose it is."},
        "resource_type_associations": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "maxLength": NAME},
            "prefix": {"type": "string", "maxLength": NAME},
            "properties_target": {"type": "string", "maxLength": NAME}
        }}},
        "properties": {"$ref": "#/definitions/property"},
        "objects": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "maxLength": NAME},
            "description": {"type": "string"},
            "required": {"$ref": "#/definitions/stringArray"},
            "properties": {"$ref": "#/definitions/property"}
        }}},
        "tags": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": NAME}}}}
    });
    json!({
        "name": "namespace",
        "properties": read_only(properties, &["created_at", "updated_at", "self", "schema"]),
        "additionalProperties": false,
        "required": ["namespace"],
        "definitions": definitions()
    })
}

pub fn object() -> Value {
    let properties = json!({
        "name": {"type": "string", "maxLength": NAME},
        "description": {"type": "string"},
        "required": {"$ref": "#/definitions/stringArray"},
        "properties": {"$ref": "#/definitions/property"}
    });
    json!({
        "name": "object",
        "properties": read_only(properties, &["created_at", "updated_at", "self", "schema"]),
        "additionalProperties": false,
        "required": ["name"],
        "definitions": definitions()
    })
}

pub fn property() -> Value {
    let mut definitions = definitions();
    if let Some(definitions) = definitions.as_object_mut() {
        definitions.remove("property");
    }
    json!({
        "name": "property",
        "properties": property_words(),
        "additionalProperties": false,
        "required": ["name", "title", "type"],
        "definitions": definitions
    })
}

pub fn tag() -> Value {
    json!({
        "name": "tag",
        "properties": read_only(json!({"name": {"type": "string", "maxLength": NAME}}), &["created_at", "updated_at"]),
        "additionalProperties": false,
        "required": ["name"]
    })
}

/// The body that makes several tags.
pub fn tag_list() -> Value {
    json!({
        "name": "tags",
        "properties": {"tags": {"type": "array", "items": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": NAME}},
            "required": ["name"],
            "additionalProperties": false
        }}},
        "additionalProperties": false,
        "required": ["tags"]
    })
}

pub fn resource_type() -> Value {
    let properties = json!({
        "name": {"type": "string", "maxLength": NAME, "description": "A type of resource, named as in orchestration where it is known there."},
        "prefix": {"type": "string", "maxLength": NAME, "description": "What a property's name begins with at such a resource."},
        "properties_target": {"type": "string", "maxLength": NAME, "description": "Which metadata of such a resource is meant, where it has several."}
    });
    json!({
        "name": "resource_type_association",
        "properties": read_only(properties, &["created_at", "updated_at"]),
        "additionalProperties": false,
        "required": ["name"]
    })
}

/// A list of `name` with items of `item`, whose definitions move to the top.
pub fn collection(name: &str, item: Value) -> Value {
    let (item, definitions) = apart(item);
    let mut whole = super::collection(name, item);
    if !definitions.is_null() {
        whole["definitions"] = definitions;
    }
    whole
}

/// `properties` is no list: names stand for its items.
pub fn properties() -> Value {
    let mut item = property();
    item["required"] = json!(["title", "type"]);
    let (item, definitions) = apart(item);
    let mut whole = super::collection("properties", Value::Null);
    whole["properties"]["properties"] = json!({"type": "object", "additionalProperties": item});
    whole["definitions"] = definitions;
    whole
}

fn apart(mut item: Value) -> (Value, Value) {
    let definitions = item.as_object_mut().and_then(|item| item.remove("definitions")).unwrap_or_default();
    (item, definitions)
}

/// Whether a request's body is what `schema` describes.
pub fn check(schema: &Value, body: &Map<String, Value>) -> Result<()> {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if property["readOnly"] == true && body.contains_key(name) {
            return Err(Error::forbidden(format!("Attribute '{name}' is read-only.")));
        }
    }
    let name = schema["name"].as_str().unwrap_or_default();
    let unfit = |what: String| Error::invalid(format!("Provided object does not match schema '{name}': {what}."));
    fits(schema, schema, &Value::Object(body.clone())).map_err(unfit)
}
