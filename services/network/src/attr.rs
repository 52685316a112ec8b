//! Attributes as data: what a resource's body may hold, its defaults, and how a value is checked.

use std::net::IpAddr;

use base::Result;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::fault;

pub type Object = Map<String, Value>;

/// What a value must be. A check answers the value in its usual form, or the reason why it is none.
#[derive(Clone, Copy)]
pub enum Check {
    /// Anything: the resource looks itself, or clients never set it.
    Any,
    Flag,
    /// Text of at most this many characters.
    Text(usize),
    TextOrNull(usize),
    Uuid,
    UuidOrNull,
    Int(i64, i64),
    IntOrNull(i64, i64),
    AddressOrNull,
    Cidr,
    Mac,
    OneOf(&'static [&'static str]),
    OneOfOrNull(&'static [&'static str]),
    /// A list of different texts, each at most this long.
    Texts(usize),
    Custom(fn(&Value) -> Result<Value, String>),
}

/// What stands in when a create request leaves the attribute out.
#[derive(Clone, Copy)]
pub enum Absent {
    Required,
    /// The resource decides.
    Unset,
    Null,
    Flag(bool),
    Text(&'static str),
    List,
}

#[derive(Clone, Copy)]
pub struct Attribute {
    pub name: &'static str,
    pub check: Check,
    pub absent: Absent,
    pub post: bool,
    pub put: bool,
    /// Stored in a column of its own, named as the attribute with `_` for `:`.
    pub column: bool,
}

impl Attribute {
    /// Clients may give it when they create.
    pub const fn post(mut self, absent: Absent) -> Self {
        self.post = true;
        self.absent = absent;
        self
    }
    /// Clients may change it.
    pub const fn put(mut self) -> Self {
        self.put = true;
        self
    }
    pub const fn column(mut self) -> Self {
        self.column = true;
        self
    }
    pub fn column_name(&self) -> String {
        self.name.replace(':', "_")
    }
}

/// An attribute that clients only read.
pub const fn attr(name: &'static str, check: Check) -> Attribute {
    Attribute { name, check, absent: Absent::Unset, post: false, put: false, column: false }
}

/// A resource's names and attributes.
pub struct Kind {
    pub singular: &'static str,
    pub plural: &'static str,
    pub table: &'static str,
    /// Fault type and word of a missing one.
    pub not_found: &'static str,
    pub label: &'static str,
    pub attributes: &'static [Attribute],
    /// Keys that policy rules look at and clients never see.
    pub policy_only: &'static [&'static str],
    /// Filters beyond the attributes.
    pub filters: &'static [&'static str],
}

impl Kind {
    pub fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        let name = if name == "tenant_id" { "project_id" } else { name };
        COMMON.iter().chain(self.attributes).find(|a| a.name == name)
    }
    pub fn columns(&self) -> impl Iterator<Item = &'static Attribute> {
        COMMON.iter().chain(self.attributes).filter(|a| a.column)
    }
    pub fn missing(&self, id: &str) -> base::Error {
        let message = match self.singular {
            "security_group" | "security_group_rule" => format!("{} {id} does not exist", self.label),
            "router" | "floatingip" => format!("{} {id} could not be found", self.label),
            _ => format!("{} {id} could not be found.", self.label),
        };
        fault::missing(self.not_found, message)
    }
}

/// Attributes of every resource.
pub static COMMON: &[Attribute] = &[
    attr("id", Check::Uuid).column(),
    attr("name", Check::Text(255)).post(Absent::Text("")).put().column(),
    attr("project_id", Check::Text(255)).column(),
    attr("description", Check::Text(255)).post(Absent::Text("")).put(),
    attr("revision_number", Check::Int(0, i64::MAX)).column(),
    attr("created_at", Check::Text(32)).column(),
    attr("updated_at", Check::Text(32)).column(),
    attr("tags", Check::Texts(255)),
];

impl Check {
    pub fn apply(&self, value: &Value) -> Result<Value, String> {
        let shown = || show(value);
        match self {
            Check::Any => Ok(value.clone()),
            Check::Flag => flag(value).map(Value::Bool).ok_or_else(|| format!("'{}' cannot be converted to boolean", shown())),
            Check::Text(max) => text(value, *max).map(|t| json!(t)),
            Check::TextOrNull(max) => or_null(value, |v| text(v, *max).map(|t| json!(t))),
            Check::Uuid => uuid(value).map(|t| json!(t)),
            Check::UuidOrNull => or_null(value, |v| uuid(v).map(|t| json!(t))),
            Check::Int(min, max) => int(value, *min, *max).map(|n| json!(n)),
            Check::IntOrNull(min, max) => or_null(value, |v| int(v, *min, *max).map(|n| json!(n))),
            Check::AddressOrNull => or_null(value, |v| address(v).map(|a| json!(a))),
            Check::Cidr => cidr(value).map(|net| json!(net)),
            Check::Mac => mac(value).map(|m| json!(m)),
            Check::OneOf(words) => one_of(value, words),
            Check::OneOfOrNull(words) => or_null(value, |v| one_of(v, words)),
            Check::Texts(max) => {
                let list = value.as_array().ok_or_else(|| format!("'{}' is not a list", shown()))?;
                let texts = list.iter().map(|v| text(v, *max)).collect::<Result<Vec<_>, _>>()?;
                distinct(&texts)?;
                Ok(json!(texts))
            }
            Check::Custom(check) => check(value),
        }
    }
}

fn or_null(value: &Value, check: impl Fn(&Value) -> Result<Value, String>) -> Result<Value, String> {
    if value.is_null() { Ok(Value::Null) } else { check(value) }
}

pub fn distinct(items: &[String]) -> Result<(), String> {
    for (i, item) in items.iter().enumerate() {
        if items[..i].contains(item) {
            return Err(format!("Duplicate items in the list: '{item}'"));
        }
    }
    Ok(())
}

fn one_of(value: &Value, words: &[&str]) -> Result<Value, String> {
    match value.as_str() {
        Some(text) if words.contains(&text) => Ok(value.clone()),
        _ => Err(format!("'{}' is not in {}", show(value), words.join(", "))),
    }
}

/// A value as messages show it.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().take(300).collect(),
        Value::Null => "None".into(),
        other => other.to_string().chars().take(300).collect(),
    }
}

pub fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        Value::Number(n) => match n.as_i64() {
            Some(1) => Some(true),
            Some(0) => Some(false),
            _ => None,
        },
        _ => None,
    }
}

pub fn text(value: &Value, max: usize) -> Result<String, String> {
    let text = value.as_str().ok_or_else(|| format!("'{}' is not a valid string", show(value)))?;
    if text.chars().count() > max {
        return Err(format!("'{}' exceeds maximum length of {max}", show(value)));
    }
    if text.contains('\0') {
        return Err("a text must not contain the character NUL".into());
    }
    Ok(text.to_string())
}

pub fn uuid(value: &Value) -> Result<String, String> {
    let text = value.as_str().unwrap_or_default();
    if base::id::is_uuid(text) { Ok(text.to_string()) } else { Err(format!("'{}' is not a valid UUID", show(value))) }
}

pub fn int(value: &Value, min: i64, max: i64) -> Result<i64, String> {
    let n = match value {
        Value::Number(n) => n.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let n = n.ok_or_else(|| format!("'{}' is not an integer", show(value)))?;
    if n < min {
        return Err(format!("'{n}' is too small - must be at least '{min}'"));
    }
    if n > max {
        return Err(format!("'{n}' is too large - must be no larger than '{max}'"));
    }
    Ok(n)
}

pub fn address(value: &Value) -> Result<IpAddr, String> {
    value.as_str().and_then(|t| t.parse().ok()).ok_or_else(|| format!("'{}' is not a valid IP address", show(value)))
}

/// A network in canonical form: no bits set behind the prefix.
pub fn cidr(value: &Value) -> Result<IpNet, String> {
    let text = value.as_str().unwrap_or_default();
    let net: IpNet = text.parse().map_err(|_| format!("'{}' is not a valid IP subnet", show(value)))?;
    if net.trunc() != net {
        return Err(format!("'{text}' isn't a recognized IP subnet cidr, '{}' is recommended", net.trunc()));
    }
    Ok(net)
}

/// A MAC address of one station, as `aa:bb:cc:dd:ee:ff`.
pub fn mac(value: &Value) -> Result<String, String> {
    let wrong = || format!("'{}' is not a valid MAC address", show(value));
    let text = value.as_str().ok_or_else(wrong)?.to_ascii_lowercase();
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
    if digits.len() != 12 || text.len() > 17 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) || digits == "000000000000" {
        return Err(wrong());
    }
    let pairs: Vec<&str> = (0..6).map(|i| &digits[2 * i..2 * i + 2]).collect();
    Ok(pairs.join(":"))
}

/// A created resource's attributes: checked, with defaults. `project` is filled in from the caller by [`project_of`].
pub fn for_create(kind: &Kind, body: &Object) -> Result<Object> {
    let mut out = Object::new();
    for (name, value) in body {
        let Some(attribute) = kind.attribute(name) else {
            return Err(fault::request(format!("Unrecognized attribute(s) '{name}'")));
        };
        if attribute.name == "project_id" || attribute.name == "tags" {
            continue;
        }
        if !attribute.post {
            return Err(fault::request(format!("Attribute '{name}' not allowed in POST")));
        }
        out.insert(name.clone(), attribute.check.apply(value).map_err(|reason| fault::attribute(name, reason))?);
    }
    for attribute in COMMON.iter().chain(kind.attributes).filter(|a| a.post && !body.contains_key(a.name)) {
        let value = match attribute.absent {
            Absent::Required => {
                return Err(fault::request(format!("Failed to parse request. Required attribute '{}' not specified", attribute.name)));
            }
            Absent::Unset => continue,
            Absent::Null => Value::Null,
            Absent::Flag(b) => Value::Bool(b),
            Absent::Text(t) => json!(t),
            Absent::List => json!([]),
        };
        out.insert(attribute.name.to_string(), value);
    }
    Ok(out)
}

/// The attributes an update names, checked.
pub fn for_update(kind: &Kind, body: &Object) -> Result<Object> {
    let mut out = Object::new();
    for (name, value) in body {
        let Some(attribute) = kind.attribute(name) else {
            return Err(fault::request(format!("Unrecognized attribute(s) '{name}'")));
        };
        if !attribute.put {
            return Err(fault::request(format!("Cannot update read-only attribute {name}")));
        }
        out.insert(name.clone(), attribute.check.apply(value).map_err(|reason| fault::attribute(name, reason))?);
    }
    Ok(out)
}

/// The attributes the caller named himself with something else than their default: what attribute rules are about.
pub fn explicit<'a>(kind: &Kind, body: &'a Object) -> Vec<(&'a String, &'a Value)> {
    let differs = |name: &str, value: &Value| match kind.attribute(name).map(|a| a.absent) {
        Some(Absent::Null) => !value.is_null(),
        Some(Absent::Flag(b)) => flag(value) != Some(b),
        Some(Absent::Text(t)) => value.as_str() != Some(t),
        Some(Absent::List) => value.as_array().is_none_or(|l| !l.is_empty()),
        _ => true,
    };
    body.iter().filter(|(name, value)| differs(name, value)).collect()
}

/// Whose the new resource is.
pub fn project_of(ctx: &base::Context, body: &Object) -> Result<String> {
    let named = |key: &str| -> Result<Option<String>> {
        match body.get(key) {
            None => Ok(None),
            Some(value) => text(value, 255).map(Some).map_err(|reason| fault::attribute(key, reason)),
        }
    };
    let (tenant, project) = (named("tenant_id")?, named("project_id")?);
    if let (Some(a), Some(b)) = (&tenant, &project)
        && a != b
    {
        return Err(fault::request("'project_id' and 'tenant_id' do not match"));
    }
    let given = project.or(tenant);
    match given {
        Some(id) if id == ctx.project_id() || ctx.is_admin() || ctx.has_role("service") => Ok(id),
        Some(_) => Err(fault::request(
            "Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires admin privileges",
        )),
        None if ctx.project_id().is_empty() && !ctx.internal => {
            Err(fault::request("The token is scoped to no project: 'project_id' is required"))
        }
        None => Ok(ctx.project_id().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|n| json!(n)),
            any::<f64>().prop_map(|n| json!(n)),
            ".*".prop_map(Value::String),
            "[0-9a-f:./-]{0,40}".prop_map(Value::String),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((".{0,8}", inner), 0..4).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// No value makes a check panic, and what a check answers passes the check unchanged.
        #[test]
        fn checks_are_total_and_settle(value in json_value()) {
            for check in [Check::Any, Check::Flag, Check::Text(20), Check::TextOrNull(5), Check::Uuid, Check::Int(0, 10),
                Check::AddressOrNull, Check::Cidr, Check::Mac, Check::Texts(9), Check::OneOf(&["a"])] {
                if let Ok(settled) = check.apply(&value) {
                    prop_assert_eq!(check.apply(&settled), Ok(settled.clone()));
                }
            }
        }
    }

    #[test]
    fn macs_networks_and_flags() {
        assert_eq!(mac(&json!("FA-16-3E-00-00-01")).unwrap(), "fa:16:3e:00:00:01");
        for wrong in ["fa:16:3e:00:00", "00:00:00:00:00:00", "fa:16:3e:00:00:0g", "", "fa:16:3e:00:00:01:02"] {
            assert!(mac(&json!(wrong)).is_err(), "{wrong}");
        }
        assert!(cidr(&json!("10.0.0.1/24")).unwrap_err().contains("10.0.0.0/24"));
        assert!(cidr(&json!("10.0.0.0/33")).is_err());
        assert_eq!(flag(&json!("True")), Some(true));
        assert_eq!(flag(&json!(2)), None);
    }
}
