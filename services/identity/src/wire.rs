//! Reading request bodies: one member object, its known properties checked, everything else kept as extra attributes.

use base::Result;
use http_api::Request;
use serde_json::{Map, Value};

use crate::fault;

pub type Object = Map<String, Value>;

/// The body as a JSON object.
pub fn body(req: &Request) -> Result<Object> {
    let whole: Value = serde_json::from_slice(&req.body).map_err(|_| fault::expecting("valid JSON", "request body"))?;
    match whole {
        Value::Object(map) => Ok(map),
        _ => Err(fault::expecting("a JSON object", "request body")),
    }
}

/// `{"user": {...}}`: the inner object. Nothing may stand beside it.
pub fn member(req: &Request, key: &str) -> Result<Object> {
    let mut whole = body(req)?;
    let inner = whole.remove(key).ok_or_else(|| fault::field(key, format!("'{key}' is a required property")))?;
    if let Some(other) = whole.keys().next() {
        return Err(fault::field(other, format!("Additional properties are not allowed ('{other}' was unexpected)")));
    }
    match inner {
        Value::Object(map) => Ok(map),
        other => Err(fault::field(key, format!("{other} is not of type 'object'"))),
    }
}

/// `{"limits": [{...}]}`: the inner objects, at least one.
pub fn members(req: &Request, key: &str) -> Result<Vec<Object>> {
    let mut whole = body(req)?;
    let inner = whole.remove(key).ok_or_else(|| fault::field(key, format!("'{key}' is a required property")))?;
    if let Some(other) = whole.keys().next() {
        return Err(fault::field(other, format!("Additional properties are not allowed ('{other}' was unexpected)")));
    }
    let Value::Array(items) = inner else { return Err(fault::field(key, format!("{inner} is not of type 'array'"))) };
    if items.is_empty() {
        return Err(fault::field(key, "[] is too short"));
    }
    let object = |item: Value| match item {
        Value::Object(map) => Ok(map),
        other => Err(fault::field(key, format!("{other} is not of type 'object'"))),
    };
    items.into_iter().map(object).collect()
}

/// For updates: something must be there to change.
pub fn not_empty(map: &Object, what: &str) -> Result<()> {
    if map.is_empty() {
        return Err(fault::field(what, "{} does not have enough properties"));
    }
    Ok(())
}

/// When all known properties are taken out, nothing may be left.
pub fn nothing_else(map: &Object, what: &str) -> Result<()> {
    match map.keys().next() {
        None => Ok(()),
        Some(other) => Err(fault::field(what, format!("Additional properties are not allowed ('{other}' was unexpected)"))),
    }
}

/// Takes a property out of the object.
pub struct Take<'a> {
    pub map: &'a mut Object,
    pub what: &'static str,
}

impl Take<'_> {
    fn path(&self, key: &str) -> String {
        format!("{}/{key}", self.what)
    }
    fn wrong(&self, key: &str, value: &Value, wanted: &str) -> base::Error {
        fault::field(&self.path(key), format!("{value} is not of type {wanted}"))
    }

    /// A name: at least one character that is not a space.
    pub fn name(&mut self, key: &str, max: usize) -> Result<Option<String>> {
        let Some(value) = self.map.remove(key) else { return Ok(None) };
        let Value::String(text) = value else { return Err(self.wrong(key, &value, "'string'")) };
        if text.chars().count() > max {
            return Err(fault::field(&self.path(key), format!("'{text}' is too long")));
        }
        if text.trim().is_empty() || text.contains('\0') {
            return Err(fault::field(&self.path(key), format!("'{text}' does not match '[\\\\S]+'")));
        }
        Ok(Some(text.trim().to_string()))
    }

    /// Absent, null, or a text of at most `max` characters.
    pub fn nullable_text(&mut self, key: &str, max: usize) -> Result<Option<Option<String>>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::String(text)) => {
                if text.chars().count() > max {
                    return Err(fault::field(&self.path(key), format!("'{text}' is too long")));
                }
                if text.contains('\0') {
                    return Err(fault::field(&self.path(key), "a NUL character is not allowed"));
                }
                Ok(Some(Some(text)))
            }
            Some(other) => Err(self.wrong(key, &other, "'string', 'null'")),
        }
    }

    /// As [`Take::nullable_text`], but null is refused.
    pub fn text(&mut self, key: &str, max: usize) -> Result<Option<String>> {
        if self.map.get(key).is_some_and(Value::is_null) {
            return Err(self.wrong(key, &Value::Null, "'string'"));
        }
        Ok(self.nullable_text(key, max)?.flatten())
    }

    /// An id: letters, digits and dashes. Null counts as absent.
    pub fn id(&mut self, key: &str) -> Result<Option<String>> {
        let Some(text) = self.nullable_text(key, 64)?.flatten() else { return Ok(None) };
        if !is_id(&text) {
            return Err(fault::field(&self.path(key), format!("'{text}' does not match '^[a-zA-Z0-9-]+$'")));
        }
        Ok(Some(text))
    }

    /// A boolean, or one of the words that stand for one. Null counts as absent.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(Value::String(word)) => boolean_word(&word)
                .map(Some)
                .ok_or_else(|| fault::field(&self.path(key), format!("'{word}' is not one of the words for a boolean"))),
            Some(other) => Err(self.wrong(key, &other, "'boolean', 'string', 'null'")),
        }
    }

    /// A boolean and nothing that looks like one.
    pub fn strict_flag(&mut self, key: &str) -> Result<Option<bool>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.wrong(key, &other, "'boolean'")),
        }
    }

    /// An integer within bounds.
    pub fn int(&mut self, key: &str, min: i64, max: i64) -> Result<Option<i64>> {
        let Some(value) = self.map.remove(key) else { return Ok(None) };
        let number = value.as_i64().ok_or_else(|| self.wrong(key, &value, "'integer'"))?;
        if number < min {
            return Err(fault::field(&self.path(key), format!("{number} is less than the minimum of {min}")));
        }
        if number > max {
            return Err(fault::field(&self.path(key), format!("{number} is greater than the maximum of {max}")));
        }
        Ok(Some(number))
    }

    /// Everything known was taken out: whatever is left is too much.
    pub fn nothing_else(&self) -> Result<()> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(other) => Err(fault::field(self.what, format!("Additional properties are not allowed ('{other}' was unexpected)"))),
        }
    }

    /// The `options` object; `known` names each option and its form.
    pub fn options(&mut self, known: &[(&str, OptionForm)]) -> Result<Option<Object>> {
        let options = match self.map.remove("options") {
            None => return Ok(None),
            Some(Value::Object(options)) => options,
            Some(other) => return Err(self.wrong("options", &other, "'object'")),
        };
        for (name, value) in &options {
            let path = format!("{}/options/{name}", self.what);
            let Some((_, form)) = known.iter().find(|(known, _)| known == name) else {
                let message = format!("Additional properties are not allowed ('{name}' was unexpected)");
                return Err(fault::field(&format!("{}/options", self.what), message));
            };
            if value.is_null() {
                continue;
            }
            match form {
                OptionForm::Flag if !value.is_boolean() => return Err(fault::field(&path, format!("{value} is not of type 'boolean'"))),
                OptionForm::Rules => check_rules(value).map_err(|problem| fault::field(&path, problem))?,
                OptionForm::Flag => {}
            }
        }
        Ok(Some(options))
    }

    /// A list of tags: unique, at most 80, none with a comma or a slash.
    pub fn tags(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Array(items)) => tag_list(items).map(Some),
            Some(other) => Err(self.wrong(key, &other, "'array'")),
        }
    }

    /// The id in a body may only repeat the one in the path.
    pub fn same_id(&mut self, id: &str) -> Result<()> {
        match self.map.remove("id") {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(given)) if given == id => Ok(()),
            Some(_) => Err(base::Error::invalid("Cannot change ID")),
        }
    }
}

/// What an option's value looks like.
#[derive(Clone, Copy)]
pub enum OptionForm {
    Flag,
    /// A list of lists of authentication methods.
    Rules,
}

pub const IMMUTABLE: &[(&str, OptionForm)] = &[("immutable", OptionForm::Flag)];

fn check_rules(value: &Value) -> Result<(), &'static str> {
    const WRONG: &str = "must be a list of lists of strings, each of them without repetitions and none empty";
    let lists = value.as_array().ok_or(WRONG)?;
    for (i, list) in lists.iter().enumerate() {
        let methods = list.as_array().filter(|m| !m.is_empty()).ok_or(WRONG)?;
        let repeats = methods.iter().enumerate().any(|(j, method)| !method.is_string() || methods[..j].contains(method));
        if repeats || lists[..i].contains(list) {
            return Err(WRONG);
        }
    }
    Ok(())
}

pub fn tag_list(items: Vec<Value>) -> Result<Vec<String>> {
    let mut tags: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        let Value::String(tag) = item else { return Err(fault::field("tags", format!("{item} is not of type 'string'"))) };
        check_tag(&tag)?;
        if tags.contains(&tag) {
            return Err(fault::field("tags", format!("'{tag}' is there twice: has non-unique elements")));
        }
        tags.push(tag);
    }
    if tags.len() > 80 {
        return Err(fault::field("tags", "more than 80 tags: is too long"));
    }
    Ok(tags)
}

pub fn check_tag(tag: &str) -> Result<()> {
    if tag.is_empty() || tag.chars().count() > 255 || tag.contains([',', '/', '\0']) {
        return Err(fault::field("tags", format!("'{tag}' does not match '^[^,/]*$' or is not of 1 to 255 characters")));
    }
    Ok(())
}

/// Takes over new options; null removes one.
pub fn merge(into: &mut Object, changes: Object) {
    for (name, value) in changes {
        if value.is_null() {
            into.remove(&name);
        } else {
            into.insert(name, value);
        }
    }
}

pub fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The words upstream's schema lists; the empty one is false.
pub fn boolean_word(word: &str) -> Option<bool> {
    match word {
        "" => Some(false),
        _ => http_api::query::parse_bool(word).filter(|_| !matches!(word.to_ascii_lowercase().as_str(), "t" | "f")),
    }
}
