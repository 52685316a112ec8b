//! A request as handlers see it.

use std::net::IpAddr;
use std::sync::Mutex;

use axum::body::Body;
use axum::http::{HeaderMap, Method};
use base::{Context, Error, Result};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::body::Upload;
use crate::certificate::Certificate;
use crate::query::Query;
use crate::version::Version;

/// Everything about a request, after routing, token check, version negotiation and reading of the body.
pub struct Request {
    pub ctx: Context,
    pub version: Version,
    pub method: Method,
    /// The path as sent, with the service's mount point.
    pub path: String,
    pub query: Query,
    pub headers: HeaderMap,
    /// Empty on upload routes: see [`Request::upload`].
    pub body: Bytes,
    /// `scheme://host/mount` without a slash at the end: what links begin with.
    pub base_url: String,
    /// `scheme://host`.
    pub root_url: String,
    /// Of the client, or of the proxy nearest to it that is believed; none: it is this process.
    pub address: Option<IpAddr>,
    /// What the client has shown, verified by us or by a proxy that is believed.
    pub certificate: Option<Certificate>,
    /// It came from one of `api.proxies`: what that says of the client in headers of its own may be believed.
    pub by_proxy: bool,
    /// The token that was sent, verbatim.
    pub token: Option<String>,
    pub(crate) params: Vec<(&'static str, String)>,
    /// Behind a lock only so that handlers may share a request between threads.
    pub(crate) raw: Mutex<Option<Body>>,
    /// For websocket upgrades.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
}

impl Request {
    /// A variable of the route's path; empty when the route has none of that name.
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str()).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The body of an upload route. A second call gets an empty one.
    pub fn upload(&mut self) -> Upload {
        let raw = self.raw.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        Upload::new(raw.take().unwrap_or_else(Body::empty))
    }

    /// The body as JSON; the error names the field that does not fit.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        parse(&self.body, "")
    }

    /// The body as any JSON object.
    pub fn object(&self) -> Result<serde_json::Map<String, Value>> {
        match self.json::<Value>()? {
            Value::Object(map) => Ok(map),
            _ => Err(Error::invalid("The request body must be a JSON object.")),
        }
    }

    /// The value of `key` in a body of the form `{"key": {...}}`.
    pub fn wrapped<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let mut object = self.object()?;
        let Some(inner) = object.remove(key) else {
            return Err(Error::invalid(format!("Invalid input for field/attribute {key}: '{key}' is a required property.")));
        };
        from_value(inner, key)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8], at: &str) -> Result<T> {
    if bytes.is_empty() {
        return Err(Error::invalid("A request body is required."));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|e| shape_error(at, &e))?;
    reader.end().map_err(|_| Error::invalid("Malformed request body: unexpected text after the JSON document."))?;
    Ok(value)
}

/// A JSON value as a type; the error names the field, below `at`.
pub fn from_value<T: DeserializeOwned>(value: Value, at: &str) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| shape_error(at, &e))
}

fn shape_error(at: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> Error {
    let inner = error.inner();
    if inner.is_syntax() || inner.is_eof() {
        return Error::invalid(format!("Malformed request body: {inner}."));
    }
    let path = error.path().to_string();
    let field = match (at, path.as_str()) {
        ("", ".") => "body".to_string(),
        ("", path) => path.to_string(),
        (at, ".") => at.to_string(),
        (at, path) => format!("{at}.{path}"),
    };
    Error::invalid(format!("Invalid input for field/attribute {field}: {inner}."))
}
