//! One provider: what it says about itself, its keys, and what it says about a token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Error, Result, Timestamp};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Client;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::jwt::{self, Fault, KeySet};
use super::{claims, fetch};
use crate::fault;
use crate::federation::peers::address;
use crate::federation::settings::Oidc;

/// How long what it says about itself is taken for true.
const FRESH: Duration = Duration::from_secs(3600);
/// How long it is left alone after it was asked for keys, or did not describe itself: whoever sends tokens with made-up names of keys asks
/// nothing of it, and nobody waits behind others who wait for one that is silent.
const PAUSE: Duration = Duration::from_secs(10);

pub struct Provider {
    pub settings: Oidc,
    /// Where browsers come back to.
    pub browser_url: String,
    pub(super) http: Client,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    document: Option<(Instant, Arc<Value>)>,
    keys: Option<(Instant, Arc<KeySet>)>,
    /// When it was last asked for keys.
    asked: Option<Instant>,
    /// Since when it does not describe itself.
    silent: Option<Instant>,
}

impl Provider {
    /// `own_url`: of the Identity API, up to `/v3`.
    pub fn new(settings: Oidc, own_url: &str) -> Result<Provider> {
        let browser_url = address(&format!("{own_url}/auth"), &settings.identity_provider, &settings.protocol, "websso");
        Ok(Provider { http: fetch::client(settings.ca_certificate.as_deref())?, browser_url, settings, known: Mutex::default() })
    }

    /// What a token says about its user. `Unauthenticated` when it is not believed, `Unavailable` when the provider is needed and
    /// cannot be asked.
    pub async fn claims(&self, token: &str) -> Result<Map<String, Value>> {
        let now = Timestamp::now().micros() / 1_000_000;
        let (claims, problem) = if self.settings.introspect || !jwt::is_jwt(token) {
            let claims = self.introspect(token).await?;
            let problem = claims::problem_of_answer(&claims, &self.settings, now);
            (claims, problem)
        } else {
            let claims = self.verify(token).await?;
            let problem = claims::problem(&claims, &self.settings, now);
            (claims, problem)
        };
        match problem {
            None => Ok(claims),
            Some(problem) => Err(self.refuse(problem)),
        }
    }

    /// Why is for the log alone.
    pub fn refuse(&self, problem: &str) -> Error {
        tracing::info!(issuer = self.settings.issuer, "a token is not believed: {problem}");
        fault::unauthorized()
    }

    pub(super) async fn verify(&self, token: &str) -> Result<Map<String, Value>> {
        let (keys, fresh) = self.keys(false).await?;
        let outcome = match jwt::verify(token, &keys) {
            Err(Fault::UnknownKey) if !fresh => jwt::verify(token, &self.keys(true).await?.0),
            outcome => outcome,
        };
        outcome.map_err(|fault| match fault {
            Fault::UnknownKey => self.refuse("none of the keys is its key"),
            Fault::Wrong(problem) => self.refuse(problem),
        })
    }

    /// Its keys, and whether they were fetched just now. With `again` they are fetched although there are some, but not at once after
    /// the last time.
    async fn keys(&self, again: bool) -> Result<(Arc<KeySet>, bool)> {
        let mut known = self.known.lock().await;
        let rested = known.asked.is_none_or(|at| at.elapsed() >= PAUSE);
        if let Some((at, keys)) = &known.keys
            && (!rested || (!again && at.elapsed() < FRESH))
        {
            return Ok((keys.clone(), false));
        }
        if !rested {
            return Err(Error::unavailable("The identity provider could not be asked a moment ago."));
        }
        known.asked = Some(Instant::now());
        let document = self.document(&mut known).await?;
        let keys = fetch::json(self.http.get(self.endpoint(&document, "jwks_uri")?)).await?;
        let keys = KeySet::read(&keys).map_err(|_| Error::unavailable("The identity provider has no keys."))?;
        let keys = Arc::new(keys);
        known.keys = Some((Instant::now(), keys.clone()));
        Ok((keys, true))
    }

    /// What it says about itself.
    pub(super) async fn described(&self) -> Result<Arc<Value>> {
        self.document(&mut *self.known.lock().await).await
    }

    /// What it says about itself (OpenID Connect Discovery 1.0).
    async fn document(&self, known: &mut Known) -> Result<Arc<Value>> {
        if let Some((at, document)) = &known.document
            && at.elapsed() < FRESH
        {
            return Ok(document.clone());
        }
        if known.silent.is_some_and(|since| since.elapsed() < PAUSE) {
            return Err(Error::unavailable("The identity provider could not be asked a moment ago."));
        }
        known.silent = Some(Instant::now());
        let url = format!("{}/.well-known/openid-configuration", self.settings.issuer.trim_end_matches('/'));
        let document = Arc::new(fetch::json(self.http.get(url)).await?);
        if document.get("issuer").and_then(Value::as_str) != Some(self.settings.issuer.as_str()) {
            return Err(Error::unavailable("The identity provider says that it is another one."));
        }
        known.document = Some((Instant::now(), document.clone()));
        known.silent = None;
        Ok(document)
    }

    pub(super) fn endpoint(&self, document: &Value, name: &str) -> Result<String> {
        let url = document.get(name).and_then(Value::as_str).filter(|url| fetch::is_safe(url));
        url.map(str::to_string).ok_or_else(|| Error::unavailable(format!("The identity provider has no '{name}' with a URL of https.")))
    }

    /// What it says about a token (RFC 7662).
    async fn introspect(&self, token: &str) -> Result<Map<String, Value>> {
        let Some(secret) = &self.settings.client_secret else {
            return Err(self.refuse("only its maker can read it, who would want a secret"));
        };
        let document = self.described().await?;
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let request = self
            .http
            .post(self.endpoint(&document, "introspection_endpoint")?)
            .basic_auth(encode(&self.settings.client_id), Some(encode(secret)))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("token={}&token_type_hint=access_token", encode(token)));
        match fetch::json(request).await? {
            Value::Object(claims) => Ok(claims),
            _ => Err(Error::unavailable("The identity provider does not answer with a JSON object.")),
        }
    }
}
