//! Asking a provider. It is believed about users, but not trusted with our time or memory: answers are bounded, redirects are not
//! followed, and whatever goes wrong is `Unavailable`.

use std::path::Path;
use std::time::Duration;

use base::error::Internal;
use base::{Error, Result};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(5);
/// No document of a provider is larger.
const DOCUMENT: usize = 256 * 1024;

/// Whether what is sent there is not for everybody to read: HTTPS, or this machine.
pub fn is_safe(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    (url.scheme() == "https" || (url.scheme() == "http" && here)) && url.username().is_empty() && url.password().is_none()
}

pub fn client(authorities: Option<&Path>) -> Result<Client> {
    // Ours is the only cryptography linked in; installed twice is as good as once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
    let client = match authorities {
        None => client,
        Some(path) => {
            let wrong = |problem: &dyn std::fmt::Display| Error::invalid(format!("ca_certificate: {}: {problem}", path.display()));
            let pem = std::fs::read(path).map_err(|e| wrong(&e))?;
            client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| wrong(&e))?)
        }
    };
    client.build().internal("a client for an identity provider")
}

/// The JSON that answers a request.
pub async fn json(request: RequestBuilder) -> Result<Value> {
    match send(request).await? {
        (StatusCode::OK, body) => read(&body),
        (status, _) => Err(unwanted(status)),
    }
}

/// As [`json`]; none: it refuses what was asked (400 to 403).
pub async fn answer(request: RequestBuilder) -> Result<Option<Value>> {
    match send(request).await? {
        (StatusCode::OK, body) => read(&body).map(Some),
        (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Ok(None),
        (status, _) => Err(unwanted(status)),
    }
}

fn unwanted(status: StatusCode) -> Error {
    Error::unavailable(format!("The identity provider answers with status {}.", status.as_u16()))
}

fn read(body: &[u8]) -> Result<Value> {
    serde_json::from_slice(body).map_err(|e| Error::unavailable("The identity provider does not answer with JSON.").caused_by(e))
}

async fn send(request: RequestBuilder) -> Result<(StatusCode, Vec<u8>)> {
    let failed = |e: reqwest::Error| Error::unavailable("The identity provider does not answer.").caused_by(e.without_url());
    let mut answer = request.header("accept", "application/json").send().await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > DOCUMENT {
            return Err(Error::unavailable(format!("The identity provider answers with more than {DOCUMENT} bytes.")));
        }
        body.extend_from_slice(&piece);
    }
    Ok((answer.status(), body))
}
