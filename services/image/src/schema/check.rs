//! Whether a value fits a JSON schema, of the words of that language that our documents use.

use serde_json::Value;

/// The pattern of every id; no other is used.
pub const UUID: &str = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$";

/// The error says what does not fit, and in which property. `root` is the document that references point into.
pub fn fits(schema: &Value, root: &Value, value: &Value) -> Result<(), String> {
    if let Some(target) = schema["$ref"].as_str() {
        let target = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return fits(target.unwrap_or(&Value::Null), root, value);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        fits(part, root, value)?;
    }
    of_type(&schema["type"], value)?;
    if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
        return Err(format!("{value} is not one of {}", Value::Array(allowed.clone())));
    }
    match value {
        Value::String(text) => text_fits(schema, text),
        Value::Number(number) => match schema["minimum"].as_f64().filter(|least| number.as_f64().is_some_and(|n| n < *least)) {
            Some(least) => Err(format!("{value} is less than the minimum of {least}")),
            None => Ok(()),
        },
        Value::Array(items) => {
            if schema["uniqueItems"] == true && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
                return Err(format!("{value} has non-unique elements"));
            }
            match schema.get("items") {
                Some(each) => items.iter().try_for_each(|item| fits(each, root, item)),
                None => Ok(()),
            }
        }
        Value::Object(members) => {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !members.contains_key(name) {
                    return Err(format!("'{name}' is a required property"));
                }
            }
            members.iter().try_for_each(|(name, member)| member_fits(schema, root, name, member))
        }
        _ => Ok(()),
    }
}

fn of_type(wanted: &Value, value: &Value) -> Result<(), String> {
    let types: Vec<&str> = match wanted {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let is = |name: &&str| match *name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    if types.iter().any(is) {
        return Ok(());
    }
    Err(format!("{value} is not of type {}", types.iter().map(|t| format!("'{t}'")).collect::<Vec<_>>().join(", ")))
}

fn text_fits(schema: &Value, text: &str) -> Result<(), String> {
    if schema["maxLength"].as_u64().is_some_and(|max| text.chars().count() as u64 > max) {
        return Err(format!("a text of {} characters is too long", text.chars().count()));
    }
    if schema.get("pattern").is_some() && !(text.len() == 36 && base::id::is_uuid(text)) {
        return Err(format!("{text:?} does not match '{UUID}'"));
    }
    // No database keeps it.
    if text.contains('\0') {
        return Err("a text with a NUL character is not allowed".into());
    }
    Ok(())
}

fn member_fits(schema: &Value, root: &Value, name: &str, value: &Value) -> Result<(), String> {
    let own = schema["properties"].get(name);
    let outcome = match (own, &schema["additionalProperties"]) {
        (Some(own), _) => fits(own, root, value),
        (None, Value::Bool(false)) => return Err(format!("additional properties are not allowed ('{name}' was unexpected)")),
        (None, any @ Value::Object(_)) if name.contains('\0') => {
            fits(any, root, value).and(Err("a name with a NUL character is not allowed".into()))
        }
        (None, any @ Value::Object(_)) => fits(any, root, value),
        (None, _) => Ok(()),
    };
    outcome.map_err(|what| format!("{what} in property '{name}'"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words() {
        let schema = json!({
            "definitions": {"count": {"type": "integer", "minimum": 0}, "names": {"type": "array", "items": {"type": "string"}, "uniqueItems": true}},
            "type": "object",
            "required": ["name"],
            "additionalProperties": false,
            "properties": {
                "name": {"type": ["null", "string"], "maxLength": 3},
                "count": {"allOf": [{"$ref": "#/definitions/count"}, {"default": 0}]},
                "names": {"$ref": "#/definitions/names"},
                "kind": {"enum": ["a", null]},
                "map": {"type": "object", "additionalProperties": {"type": "number"}}
            }
        });
        let good = json!({"name": "abc", "count": 0, "names": ["x", "y"], "kind": null, "map": {"a": 1.5}});
        assert_eq!(fits(&schema, &schema, &good), Ok(()));
        for (member, value, what) in [
            ("name", json!("abcd"), "too long in property 'name'"),
            ("name", json!(5), "not of type 'null', 'string' in property 'name'"),
            ("count", json!(-1), "less than the minimum of 0 in property 'count'"),
            ("names", json!(["x", "x"]), "non-unique"),
            ("names", json!([1]), "not of type 'string' in property 'names'"),
            ("kind", json!("b"), "not one of"),
            ("map", json!({"a": "b"}), "not of type 'number' in property 'a' in property 'map'"),
            ("map", json!([]), "not of type 'object'"),
            ("other", json!(1), "'other' was unexpected"),
        ] {
            let mut bad = good.clone();
            bad[member] = value;
            let said = fits(&schema, &schema, &bad).unwrap_err();
            assert!(said.contains(what), "{member}: {said}");
        }
        assert_eq!(fits(&schema, &schema, &json!({})), Err("'name' is a required property".into()));
        assert!(fits(&schema, &schema, &json!({"name": "a\0"})).unwrap_err().contains("NUL"));
    }
}
