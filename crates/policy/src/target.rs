//! What a rule is checked against: the attributes of the thing the caller wants to touch.

use serde_json::{Map, Number, Value};
use std::borrow::Cow;

/// One value of a target or of the caller, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attr<'a> {
    /// Known to have no value; compares as the text `None`.
    Null,
    Bool(bool),
    Str(&'a str),
    Json(&'a Value),
}

impl<'a> Attr<'a> {
    /// The text that checks compare, as upstream would print the value: `True`, `None`, `12`. Lists and objects have none.
    pub fn text(self) -> Option<Cow<'a, str>> {
        Some(match self {
            Attr::Null | Attr::Json(Value::Null) => Cow::Borrowed("None"),
            Attr::Bool(true) | Attr::Json(Value::Bool(true)) => Cow::Borrowed("True"),
            Attr::Bool(false) | Attr::Json(Value::Bool(false)) => Cow::Borrowed("False"),
            Attr::Str(text) => Cow::Borrowed(text),
            Attr::Json(Value::String(text)) => Cow::Borrowed(text.as_str()),
            Attr::Json(Value::Number(number)) => Cow::Owned(number_text(number)),
            Attr::Json(Value::Array(_) | Value::Object(_)) => return None,
        })
    }
    pub(crate) fn is_bool(self) -> bool {
        matches!(self, Attr::Bool(_) | Attr::Json(Value::Bool(_)))
    }
}

fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float_text(float),
        _ => number.to_string(),
    }
}

/// A float as Python prints it: always with a point or an exponent, the exponent with a sign and two digits.
pub(crate) fn float_text(float: f64) -> String {
    let size = float.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{float:e}");
        if let Some((digits, exponent)) = text.split_once('e') {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
            return format!("{digits}e{sign}{exponent:0>2}");
        }
        return text;
    }
    let text = format!("{float}");
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// Attributes that `%(name)s` in a rule resolves to. A name that is not there makes the check false.
pub trait Target {
    fn attribute(&self, name: &str) -> Option<Attr<'_>>;
}

/// No attributes at all: for rules that only look at the caller.
impl Target for () {
    fn attribute(&self, _: &str) -> Option<Attr<'_>> {
        None
    }
}

/// The cheap form: `&[("project_id", id)]`.
impl<const N: usize> Target for [(&str, &str); N] {
    fn attribute(&self, name: &str) -> Option<Attr<'_>> {
        pair(self, name)
    }
}
impl Target for &[(&str, &str)] {
    fn attribute(&self, name: &str) -> Option<Attr<'_>> {
        pair(self, name)
    }
}

fn pair<'a>(pairs: &'a [(&str, &str)], name: &str) -> Option<Attr<'a>> {
    pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| Attr::Str(value))
}

/// A JSON object. `a.b` and `a:b` are first looked for as whole keys, then as paths into nested objects.
impl Target for Value {
    fn attribute(&self, name: &str) -> Option<Attr<'_>> {
        find(self.as_object()?, name).map(Attr::Json)
    }
}
impl Target for Map<String, Value> {
    fn attribute(&self, name: &str) -> Option<Attr<'_>> {
        find(self, name).map(Attr::Json)
    }
}

/// The first target wins; the second answers for what the first lacks.
impl<A: Target, B: Target> Target for (A, B) {
    fn attribute(&self, name: &str) -> Option<Attr<'_>> {
        self.0.attribute(name).or_else(|| self.1.attribute(name))
    }
}
impl<T: Target + ?Sized> Target for &T {
    fn attribute(&self, name: &str) -> Option<Attr<'_>> {
        (**self).attribute(name)
    }
}

fn find<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = object.get(name) {
        return Some(value);
    }
    name.match_indices(['.', ':']).find_map(|(at, _)| find(object.get(&name[..at])?.as_object()?, &name[at + 1..]))
}
