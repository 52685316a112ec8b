//! Reading request bodies strictly: every attribute is taken by name and type, and one that nobody took is refused.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base::{Error, Result};
use http_api::Version;
use serde_json::{Map, Value};

/// One value and where it was found.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    pub at: &'a str,
    pub value: &'a Value,
    /// Of a request to version 2.0: unknown attributes are passed over, names may have spaces at their ends.
    pub relaxed: bool,
}

impl<'a> Field<'a> {
    /// The 400 of a value that does not fit; `why` completes it.
    pub fn wrong(&self, why: impl std::fmt::Display) -> Error {
        let mut shown = self.value.to_string();
        if shown.len() > 300 {
            let cut = (0..=300).rev().find(|i| shown.is_char_boundary(*i)).unwrap_or(0);
            shown.truncate(cut);
            shown.push_str("...");
        }
        Error::invalid(format!("Invalid input for field/attribute {}. Value: {shown}. {why}", self.at))
    }

    fn str(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong(format!("{} is not of type 'string'", self.value)))
    }
}

/// An object whose attributes are being taken.
pub struct Fields<'a> {
    at: String,
    map: &'a Map<String, Value>,
    taken: Vec<&'a str>,
    relaxed: bool,
}

impl<'a> Fields<'a> {
    /// The whole body of a request in this version.
    pub fn root(map: &'a Map<String, Value>, version: Version) -> Self {
        Fields { at: String::new(), map, taken: Vec::new(), relaxed: version == Version::LEGACY }
    }

    pub fn of(field: Field<'a>) -> Result<Self> {
        let map = field.value.as_object().ok_or_else(|| field.wrong(format!("{} is not of type 'object'", field.value)))?;
        Ok(Fields { at: field.at.to_string(), map, taken: Vec::new(), relaxed: field.relaxed })
    }

    fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_string() } else { format!("{}.{name}", self.at) }
    }

    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Takes an attribute if it is there.
    pub fn take<T>(&mut self, name: &str, read: impl FnOnce(Field) -> Result<T>) -> Result<Option<T>> {
        let Some((key, value)) = self.map.get_key_value(name) else { return Ok(None) };
        self.taken.push(key);
        read(Field { at: &self.path(name), value, relaxed: self.relaxed }).map(Some)
    }

    /// Takes an attribute that must be there.
    pub fn need<T>(&mut self, name: &str, read: impl FnOnce(Field) -> Result<T>) -> Result<T> {
        let at = self.at.clone();
        self.take(name, read)?.ok_or_else(|| missing(&at, name))
    }

    /// An attribute that exists in `allowed` versions only; outside them it is refused with the unknown ones.
    pub fn take_if<T>(&mut self, allowed: bool, name: &str, read: impl FnOnce(Field) -> Result<T>) -> Result<Option<T>> {
        if allowed { self.take(name, read) } else { Ok(None) }
    }

    /// Refuses what was not taken.
    pub fn finish(self) -> Result<()> {
        let extra: Vec<String> = self.map.keys().filter(|k| !self.taken.contains(&k.as_str())).map(|k| format!("'{k}'")).collect();
        if extra.is_empty() || self.relaxed {
            return Ok(());
        }
        let verb = if extra.len() == 1 { "was" } else { "were" };
        let problem = format!("Additional properties are not allowed ({} {verb} unexpected)", extra.join(", "));
        Err(Error::invalid(if self.at.is_empty() { problem } else { format!("Invalid input for field/attribute {}. {problem}", self.at) }))
    }
}

fn missing(at: &str, name: &str) -> Error {
    if at.is_empty() {
        Error::invalid(format!("'{name}' is a required property"))
    } else {
        Error::invalid(format!("Invalid input for field/attribute {at}. '{name}' is a required property"))
    }
}

/// Anything.
pub fn any(f: Field) -> Result<Value> {
    Ok(f.value.clone())
}

pub fn null(f: Field) -> Result<()> {
    if f.value.is_null() { Ok(()) } else { Err(f.wrong("it must be null")) }
}

/// `read`, or null.
pub fn nullable<T>(read: impl FnOnce(Field) -> Result<T>) -> impl FnOnce(Field) -> Result<Option<T>> {
    move |f| if f.value.is_null() { Ok(None) } else { read(f).map(Some) }
}

/// A text of `min` to `max` characters.
pub fn text(min: usize, max: usize) -> impl Fn(Field) -> Result<String> {
    move |f| {
        let text = f.str()?;
        let length = text.chars().count();
        if length < min {
            return Err(f.wrong(format!("'{text}' is too short")));
        }
        if length > max {
            return Err(f.wrong(format!("it is longer than {max} characters")));
        }
        Ok(text.to_string())
    }
}

/// A text of which every character passes `fits`.
pub fn text_of(min: usize, max: usize, fits: impl Fn(char) -> bool, what: &'static str) -> impl Fn(Field) -> Result<String> {
    move |f| {
        let text = text(min, max)(f)?;
        if text.chars().all(&fits) { Ok(text) } else { Err(f.wrong(format!("it may only hold {what}"))) }
    }
}

/// Characters that names and descriptions may hold; those beyond the basic plane are refused, as the reference does.
pub fn printable(c: char) -> bool {
    let format = matches!(c as u32, 0xAD | 0x600..=0x605 | 0x61C | 0x6DD | 0x70F | 0x180E | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0xFEFF | 0xFFF9..=0xFFFB);
    let private = matches!(c as u32, 0xE000..=0xF8FF);
    let nothing = matches!(c as u32, 0xFDD0..=0xFDEF | 0xFFFE | 0xFFFF);
    !c.is_control() && !format && !private && !nothing && (c as u32) <= 0xFFFF
}

/// A name: 1 to 255 printable characters, no space at either end.
pub fn name(f: Field) -> Result<String> {
    let name = text(1, 255)(f)?;
    let ends = name.starts_with(char::is_whitespace) || name.ends_with(char::is_whitespace);
    if f.relaxed && !name.trim().is_empty() && name.chars().all(printable) {
        return Ok(name.trim().to_string());
    }
    if ends || !name.chars().all(printable) {
        return Err(f.wrong("printable characters. Can not start or end with whitespace."));
    }
    Ok(name)
}

pub fn description(f: Field) -> Result<Option<String>> {
    nullable(text_of(0, 255, printable, "printable characters"))(f)
}

/// A boolean, or one of the words that stand for one.
pub fn boolean(f: Field) -> Result<bool> {
    let word = match f.value {
        Value::Bool(b) => return Ok(*b),
        Value::String(word) => word.as_str(),
        _ => "",
    };
    match word {
        "True" | "TRUE" | "true" | "1" | "ON" | "On" | "on" | "YES" | "Yes" | "yes" => Ok(true),
        "False" | "FALSE" | "false" | "0" | "OFF" | "Off" | "off" | "NO" | "No" | "no" => Ok(false),
        _ => Err(f.wrong("it is not a boolean")),
    }
}

/// An integer or its decimal text.
pub fn integer(min: i64, max: i64) -> impl Fn(Field) -> Result<i64> {
    move |f| {
        let n = match f.value {
            Value::Number(n) => n.as_i64().or_else(|| n.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64)),
            Value::String(s) => {
                let digits = s.strip_prefix('-').unwrap_or(s);
                (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten()
            }
            _ => None,
        };
        let n = n.ok_or_else(|| f.wrong("it is not of type 'integer'"))?;
        if n < min {
            return Err(f.wrong(format!("{n} is less than the minimum of {min}")));
        }
        if n > max {
            return Err(f.wrong(format!("{n} is greater than the maximum of {max}")));
        }
        Ok(n)
    }
}

/// A count from 1 on.
pub fn positive(f: Field) -> Result<i64> {
    integer(1, i64::from(i32::MAX))(f)
}

/// A UUID, in the form with dashes and lower case.
pub fn uuid(f: Field) -> Result<String> {
    let text = f.str()?;
    if base::id::is_uuid(text) { Ok(text.to_string()) } else { Err(f.wrong(format!("'{text}' is not a 'uuid'"))) }
}

pub fn ip(f: Field) -> Result<IpAddr> {
    f.str()?.parse().map_err(|_| f.wrong("it is neither an 'ipv4' nor an 'ipv6' address"))
}
pub fn ipv4(f: Field) -> Result<String> {
    f.str()?.parse::<std::net::Ipv4Addr>().map(|a| a.to_string()).map_err(|_| f.wrong("it is not an 'ipv4' address"))
}
pub fn ipv6(f: Field) -> Result<String> {
    f.str()?.parse::<std::net::Ipv6Addr>().map(|a| a.to_string()).map_err(|_| f.wrong("it is not an 'ipv6' address"))
}

/// One of these words.
pub fn one_of(words: &'static [&'static str]) -> impl Fn(Field) -> Result<&'static str> {
    move |f| {
        let text = f.str()?;
        words.iter().find(|w| **w == text).copied().ok_or_else(|| f.wrong(format!("'{text}' is not one of {words:?}")))
    }
}

/// A host label: letters, digits and inner dashes.
pub fn hostname(f: Field) -> Result<String> {
    let text = text_of(2, 63, |c| c.is_ascii_alphanumeric() || c == '-', "letters, digits and dashes")(f)?;
    if text.starts_with('-') || text.ends_with('-') {
        return Err(f.wrong("a host name neither starts nor ends with a dash"));
    }
    Ok(text)
}

pub fn fqdn(f: Field) -> Result<String> {
    text_of(1, 255, |c| c.is_ascii_alphanumeric() || "-._".contains(c), "letters, digits, dashes, dots and underscores")(f)
}

/// Base64 text, kept as it is after a check. Line breaks are allowed, as in the reference.
pub fn base64(max: usize) -> impl Fn(Field) -> Result<String> {
    use base64::Engine;
    move |f| {
        let text = text(0, max)(f)?;
        let plain: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        base64::engine::general_purpose::STANDARD.decode(&plain).map_err(|_| f.wrong("it is not 'base64'"))?;
        Ok(plain)
    }
}

pub fn tag(f: Field) -> Result<String> {
    text_of(1, 60, |c| c != ',' && c != '/', "characters other than ',' and '/'")(f)
}

/// A list, each item read by `read`, of at most `max` items.
pub fn list<T>(max: usize, read: impl Fn(Field) -> Result<T>) -> impl Fn(Field) -> Result<Vec<T>> {
    move |f| {
        let items = f.value.as_array().ok_or_else(|| f.wrong(format!("{} is not of type 'array'", f.value)))?;
        if items.len() > max {
            return Err(f.wrong(format!("it has more than {max} items")));
        }
        items.iter().enumerate().map(|(i, value)| read(Field { at: &format!("{}[{i}]", f.at), value, ..f })).collect()
    }
}

/// Whether a text may be a key of server metadata.
pub fn is_metadata_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= 255 && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_:. ".contains(c))
}

/// Server metadata: short texts under short names.
pub fn metadata(f: Field) -> Result<BTreeMap<String, String>> {
    let map = f.value.as_object().ok_or_else(|| f.wrong(format!("{} is not of type 'object'", f.value)))?;
    let mut metadata = BTreeMap::new();
    for (key, value) in map {
        if !is_metadata_key(key) {
            return Err(f.wrong(format!("Additional properties are not allowed ('{key}' was unexpected)")));
        }
        let at = format!("{}.{key}", f.at);
        metadata.insert(key.clone(), text(0, 255)(Field { at: &at, value, ..f })?);
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read<T>(value: Value, read: impl FnOnce(Field) -> Result<T>) -> Result<T> {
        read(Field { at: "x", value: &value, relaxed: false })
    }

    #[test]
    fn what_is_not_taken_is_refused() {
        let body = json!({"name": "a", "nmae": 1});
        let map = body.as_object().unwrap();
        let mut fields = Fields::root(map, Version::new(2, 1));
        assert_eq!(fields.need("name", name).unwrap(), "a");
        assert!(fields.need("flavorRef", any).unwrap_err().message().contains("flavorRef"));
        assert_eq!(fields.finish().unwrap_err().message(), "Additional properties are not allowed ('nmae' was unexpected)");
        assert!(Fields::root(map, Version::LEGACY).finish().is_ok());
        let spaced = json!(" a ");
        assert_eq!(name(Field { at: "x", value: &spaced, relaxed: true }).unwrap(), "a");
        assert!(name(Field { at: "x", value: &json!(" "), relaxed: true }).is_err());
    }

    #[test]
    fn kinds_take_what_the_reference_takes() {
        for good in ["a", "a b", "ü", "名前"] {
            assert!(read(json!(good), name).is_ok(), "{good}");
        }
        for bad in
            [json!(""), json!(" a"), json!("a "), json!("a\u{0}"), json!("a\n"), json!(7), json!("x".repeat(256)), json!("\u{1F600}")]
        {
            assert!(read(bad.clone(), name).is_err(), "{bad}");
        }
        assert!(read(json!("Yes"), boolean).unwrap());
        assert!(!read(json!(false), boolean).unwrap());
        assert!(read(json!(1), boolean).is_err());
        assert_eq!(read(json!("12"), positive).unwrap(), 12);
        assert!(read(json!("1.5"), positive).is_err());
        assert!(read(json!(0), positive).is_err());
        assert!(read(json!(true), positive).is_err());
        assert!(read(json!("a-b"), hostname).is_ok());
        assert!(read(json!("-ab"), hostname).is_err());
        assert!(read(json!("aGk="), base64(100)).is_ok());
        assert!(read(json!("a=b"), base64(100)).is_err());
        assert!(read(json!({"k": "v"}), metadata).is_ok());
        assert!(read(json!({"k": 1}), metadata).is_err());
        assert!(read(json!({"k/": "v"}), metadata).is_err());
        assert!(read(json!("a,b"), tag).is_err());
    }
}
