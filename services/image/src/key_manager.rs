//! Where certificates of signers are kept: a key manager, asked on behalf of the user.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use base::error::Internal;
use base::{Config, Error, Result};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;

/// For a whole question.
const PATIENCE: Duration = Duration::from_secs(10);
/// No certificate, and no description of one, is larger.
const DOCUMENT: usize = 64 << 10;

/// A key manager.
#[async_trait]
pub trait KeyManager: Send + Sync {
    /// The certificate with this id, in PEM or DER. `token` is that of the user who wants it. Errors are for users to read.
    async fn certificate(&self, token: &str, id: &str) -> Result<Vec<u8>>;
}

/// No key manager at all.
pub struct Nowhere;

#[async_trait]
impl KeyManager for Nowhere {
    async fn certificate(&self, _: &str, _: &str) -> Result<Vec<u8>> {
        Err(nowhere())
    }
}

fn nowhere() -> Error {
    Error::unavailable("There is no key manager, which would have the certificate.")
}

/// How the endpoint of the key manager is found; none: there is no key manager.
#[async_trait]
pub trait Endpoint: Send + Sync {
    async fn url(&self) -> Result<Option<String>>;
}

/// A key manager that speaks Barbican's API.
pub struct Barbican<E> {
    endpoint: E,
    client: Client,
}

impl<E: Endpoint> Barbican<E> {
    pub fn new(config: &Config, endpoint: E) -> Result<Barbican<E>> {
        // Ours is the only cryptography linked in; installed twice is as good as once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
        let authorities = config.text("image.key_manager_authorities");
        if !authorities.is_empty() {
            client = client.tls_certs_only(certificates(authorities.as_ref())?);
        }
        Ok(Barbican { endpoint, client: client.build().internal("a client for the key manager")? })
    }

    /// The address of a secret below the endpoint, which has a version in it or not.
    async fn address(&self, id: &str) -> Result<String> {
        let Some(url) = self.endpoint.url().await? else {
            return Err(nowhere());
        };
        let url = url.trim_end_matches('/');
        let version = if url.ends_with("/v1") { "" } else { "/v1" };
        Ok(format!("{url}{version}/secrets/{id}"))
    }
}

fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>> {
    let wrong = |problem: &dyn std::fmt::Display| Error::invalid(format!("image.key_manager_authorities: {}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|e| wrong(&e))?;
    reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| wrong(&e))
}

#[async_trait]
impl<E: Endpoint> KeyManager for Barbican<E> {
    async fn certificate(&self, token: &str, id: &str) -> Result<Vec<u8>> {
        let address = self.address(id).await?;
        let ask = |address: &str, accept: &str| self.client.get(address).header("x-auth-token", token).header("accept", accept);
        let described = body(ask(&address, "application/json"), id).await?;
        let described: Value = serde_json::from_slice(&described)
            .map_err(|e| Error::unavailable("The key manager does not describe secrets in JSON.").caused_by(e))?;
        let kind = described["secret_type"].as_str().unwrap_or("opaque");
        if kind != "certificate" {
            return Err(Error::invalid(format!("Secret {id} is of type {kind}, not a certificate.")));
        }
        // Only secrets that have content are told of with its type.
        let Some(content) = described["content_types"]["default"].as_str() else {
            return Err(Error::invalid(format!("Secret {id} has no content.")));
        };
        body(ask(&format!("{address}/payload"), content), id).await
    }
}

async fn body(request: RequestBuilder, id: &str) -> Result<Vec<u8>> {
    let failed = |e: reqwest::Error| Error::unavailable("The key manager does not answer.").caused_by(e.without_url());
    let mut answer = request.send().await.map_err(failed)?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(Error::not_found("Certificate", id)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(Error::forbidden(format!("The key manager does not give certificate {id} to you.")));
        }
        other => return Err(Error::unavailable(format!("The key manager answers with status {}.", other.as_u16()))),
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > DOCUMENT {
            return Err(Error::unavailable(format!("The key manager answers with more than {DOCUMENT} bytes.")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}
