//! Values that go into a statement.

use base::Timestamp;
use std::borrow::Cow;

/// One parameter of a statement. Made with [`crate::params!`] or `Value::from`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Value {
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }
    /// The JSON text of anything serde can write, for the document column of a table.
    pub fn json(of: &impl serde::Serialize) -> base::Result<Value> {
        use base::error::Internal;
        Ok(Value::Text(serde_json::to_string(of).internal("writing a JSON column")?))
    }
}

macro_rules! from_int {
    ($($t:ty),*) => {$(
        impl From<$t> for Value {
            fn from(v: $t) -> Self {
                Value::Int(i64::try_from(v).unwrap_or(i64::MAX))
            }
        }
        impl From<&$t> for Value {
            fn from(v: &$t) -> Self {
                Value::from(*v)
            }
        }
    )*};
}
from_int!(i8, i16, i32, i64, u8, u16, u32, u64, usize);

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::Int(i64::from(v))
    }
}
impl From<&bool> for Value {
    fn from(v: &bool) -> Self {
        Value::from(*v)
    }
}
impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Value::Real(v)
    }
}
impl From<Timestamp> for Value {
    fn from(v: Timestamp) -> Self {
        Value::Int(v.micros())
    }
}
impl From<&Timestamp> for Value {
    fn from(v: &Timestamp) -> Self {
        Value::Int(v.micros())
    }
}
impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::Text(v.to_owned())
    }
}
impl From<&&str> for Value {
    fn from(v: &&str) -> Self {
        Value::Text((*v).to_owned())
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Value::Text(v)
    }
}
impl From<&String> for Value {
    fn from(v: &String) -> Self {
        Value::Text(v.clone())
    }
}
impl From<Cow<'_, str>> for Value {
    fn from(v: Cow<'_, str>) -> Self {
        Value::Text(v.into_owned())
    }
}
impl From<Vec<u8>> for Value {
    fn from(v: Vec<u8>) -> Self {
        Value::Bytes(v)
    }
}
impl From<&Vec<u8>> for Value {
    fn from(v: &Vec<u8>) -> Self {
        Value::Bytes(v.clone())
    }
}
impl From<&[u8]> for Value {
    fn from(v: &[u8]) -> Self {
        Value::Bytes(v.to_vec())
    }
}
/// As JSON text.
impl From<&serde_json::Value> for Value {
    fn from(v: &serde_json::Value) -> Self {
        Value::Text(v.to_string())
    }
}
/// As JSON text.
impl From<serde_json::Value> for Value {
    fn from(v: serde_json::Value) -> Self {
        Value::Text(v.to_string())
    }
}
impl From<&Value> for Value {
    fn from(v: &Value) -> Self {
        v.clone()
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Value::Null, Into::into)
    }
}
macro_rules! from_option_ref {
    ($($t:ty),*) => {$(
        impl From<&Option<$t>> for Value {
            fn from(v: &Option<$t>) -> Self {
                v.as_ref().map_or(Value::Null, Value::from)
            }
        }
    )*};
}
from_option_ref!(String, i32, i64, u32, u64, bool, Timestamp);

/// What `params!` makes of each expression, without taking it from its owner.
#[doc(hidden)]
pub fn value_of<T: Clone + Into<Value>>(v: &T) -> Value {
    v.clone().into()
}

/// `params![a, b]`: a `&[Value]`, each converted with `Value::from`. The expressions are only borrowed.
#[macro_export]
macro_rules! params {
    () => { &[] as &[$crate::Value] };
    ($($v:expr),+ $(,)?) => { &[$($crate::value_of(&$v)),+] as &[$crate::Value] };
}
