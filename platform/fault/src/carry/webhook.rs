//! Events as signed POST requests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use base::{Config, Error, Result, Timestamp, error::Internal};
use events::Recorded;
use hmac::{Hmac, Mac};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::{Value, json};
use sha2::Sha256;

use super::Way;
use crate::EVENTS;

/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A secret shorter than this is none.
const SECRET: usize = 16;

pub struct Webhook {
    url: String,
    secret: Vec<u8>,
    client: reqwest::Client,
    requests: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Webhook {
    /// None when the configuration names no receiver.
    pub fn new(config: &Config, metrics: &http_api::metrics::Metrics) -> Result<Option<Webhook>> {
        let url = config.text("fault.webhook_url");
        if url.is_empty() {
            return Ok(None);
        }
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err(Error::invalid(format!("`{url}` is no value for `fault.webhook_url`: it must begin with https:// or http://")));
        }
        // Ours is the only cryptography linked in; installed twice is as good as once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
        let authorities = config.text("fault.webhook_ca");
        if !authorities.is_empty() {
            let pem = std::fs::read(authorities).map_err(|e| Error::invalid(format!("`fault.webhook_ca`: {authorities}: {e}")))?;
            let bundle = reqwest::Certificate::from_pem_bundle(&pem);
            client = client.tls_certs_only(bundle.map_err(|e| Error::invalid(format!("`fault.webhook_ca`: {authorities}: {e}")))?);
        }
        let requests = Family::default();
        metrics.register("fault_webhook_requests", "Events sent to the webhook by what became of them", requests.clone());
        let client = client.build().internal("a client for the webhook")?;
        Ok(Some(Webhook { url: url.into(), secret: secret(config)?, client, requests }))
    }

    fn count(&self, outcome: &'static str) {
        self.requests.get_or_create(&[("outcome", outcome)]).inc();
    }
}

#[async_trait]
impl Way for Webhook {
    fn name(&self) -> &'static str {
        "fault.webhook"
    }

    async fn deliver(&self, event: &Recorded) -> Result<()> {
        let body = body(event).to_string();
        let at = (Timestamp::now().micros() / 1_000_000).to_string();
        let request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("x-sturnus-event", event.seq.to_string())
            .header("x-sturnus-timestamp", &at)
            .header("x-sturnus-signature", signature(&self.secret, &at, &body)?);
        let answer = request.body(body).send().await.map_err(|error| {
            self.count("unreachable");
            Error::unavailable("the webhook's receiver cannot be reached").caused_by(error)
        })?;
        match answer.status().as_u16() {
            200..300 => self.count("delivered"),
            // It does not like this one, and will not like it better tomorrow; those behind it must not wait for ever.
            status @ (400 | 413 | 415 | 422) => {
                self.count("refused");
                tracing::warn!(status, event = event.seq, "the webhook's receiver refuses an event: it is dropped");
            }
            status => {
                self.count("failed");
                return Err(Error::unavailable(format!("the webhook's receiver answers {status}")));
            }
        }
        Ok(())
    }
}

/// An event as receivers and followers of the stream see it.
pub fn body(event: &Recorded) -> Value {
    let kind = event.event.event_type.strip_prefix(EVENTS).unwrap_or_default();
    json!({"id": event.seq, "type": kind, "event": event.event.payload})
}

/// HMAC-SHA256 of `timestamp.body`, in hexadecimal.
fn signature(secret: &[u8], at: &str, body: &str) -> Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).internal("the webhook's key")?;
    mac.update(at.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    Ok(format!("v1={}", mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>()))
}

/// The key both sides know; made when the configuration names no file and ours is not there yet.
fn secret(config: &Config) -> Result<Vec<u8>> {
    let named = config.text("fault.webhook_secret_file");
    let path = if named.is_empty() { config.home().join("keys/webhook.secret") } else { PathBuf::from(named) };
    if named.is_empty() && !path.exists() {
        make(&path)?;
    }
    let text = std::fs::read_to_string(&path).map_err(|e| Error::invalid(format!("the webhook's secret: {}: {e}", path.display())))?;
    match text.trim() {
        secret if secret.len() >= SECRET => Ok(secret.as_bytes().to_vec()),
        _ => Err(Error::invalid(format!("the webhook's secret in {} is shorter than {SECRET} characters", path.display()))),
    }
}

/// Whole or not at all, and for nobody else's eyes.
fn make(path: &Path) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let made = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let part = path.with_extension("part");
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        writeln!(file, "{}{}", base::id::hex(), base::id::hex())?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    made().internal("making the webhook's secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_receivers_compute() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef
        let signed = signature(b"0123456789abcdef", "1700000000", "{\"a\":1}").unwrap();
        assert_eq!(signed, "v1=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23");
    }
}
