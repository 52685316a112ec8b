//! How a machine becomes a host of this cloud.
//!
//! An operator makes a token: an id, a secret, and the fingerprint of this cloud's authority. The machine fetches the
//! authority's certificate and checks it against the fingerprint, so that nobody in between can pose as the cloud; then it
//! sends id, secret and a request for a certificate. A token is good once and for a while; the very same request may be
//! repeated, as its answer may have been lost.

use std::time::Duration;

use base::error::Internal;
use base::{Error, Result, Timestamp};
use pki::Authority;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::Tx;

use crate::Inventory;
use crate::db::{self, Host, Token};
use crate::enable::Enabling;

/// How long a token is good when nothing else is asked for, and at most.
pub const LIFETIME: Duration = Duration::from_secs(3600);
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a machine sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Id and secret with a dot between: the token without the fingerprint.
    token: String,
    hostname: String,
    /// The id it has from an earlier time in this cloud.
    host_id: Option<String>,
    /// PKCS #10 in PEM.
    request: String,
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a name can be a host's: letters, digits and hyphens, as in DNS; short enough for its certificate.
pub fn hostname_check(name: &str) -> Result<()> {
    let fits = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match name.len() <= 64 && name.split('.').all(fits) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "hostname: '{name}' is no host name: letters, digits and hyphens, 64 characters, with dots between parts."
        ))),
    }
}

impl Inventory {
    /// The URL where hosts open their sessions. `Conflict` when this cloud takes in none.
    pub(crate) fn sessions_url(&self) -> Result<String> {
        let none = || Error::conflict("This cloud takes in no hosts: `hosts.listen` is not set in its configuration.");
        self.core.config.sessions_url().ok_or_else(none)
    }

    async fn authority(&self) -> Result<Authority> {
        let directory = self.pki();
        tokio::task::spawn_blocking(move || Authority::open(&directory)).await.internal("opening the authority broke off")?
    }

    /// What a machine must know before it can trust this cloud.
    pub(crate) async fn join_offer(&self) -> Result<Value> {
        let sessions = self.sessions_url()?;
        Ok(json!({"authority": self.authority().await?.certificate(), "sessions": sessions}))
    }

    /// A new token; its full text is told this once.
    pub(crate) async fn token_make(&self, hostname: String, lifetime: Duration) -> Result<(Token, String)> {
        self.sessions_url()?;
        let fingerprint = pki::fingerprint(self.authority().await?.certificate())?;
        let mut random = [0u8; 24];
        getrandom::fill(&mut random).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
        let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (id, secret) = text.split_at(16);
        let now = Timestamp::now();
        let token = Token {
            id: id.into(),
            secret_hash: hash(secret),
            hostname,
            expires_at: now.plus(lifetime),
            created_at: now,
            used_at: None,
            used_for: String::new(),
            used_by: String::new(),
        };
        let row = token.clone();
        self.core.store.write(move |tx| db::token_add_in(tx, &row)).await?;
        let text = format!("{id}.{secret}.{fingerprint}");
        Ok((token, text))
    }

    /// Lets a machine in: its host, and a certificate for the key of its request.
    pub(crate) async fn join(&self, join: Join) -> Result<Value> {
        hostname_check(&join.hostname)?;
        if join.host_id.as_deref().is_some_and(|id| !base::id::is_uuid(id)) {
            return Err(Error::invalid("host_id: not a UUID."));
        }
        // Looked at before the token is used up.
        pki::request_check(&join.request)?;
        let sessions = self.sessions_url()?;
        let authority = self.authority().await?;
        let request = join.request.clone();
        // Who has no token keeps no writer waiting.
        self.core.store.read(|tx| token_check_in(tx, &join)).await?;
        let host = self.core.store.write(move |tx| admit_in(tx, &join)).await?;
        let (id, name, certificate) = (host.uuid.clone(), host.hostname.clone(), authority.certificate().to_string());
        let signed =
            tokio::task::spawn_blocking(move || authority.sign_host(&id, &name, &request)).await.internal("signing broke off")??;
        tracing::info!(host_id = host.uuid, "{} has joined", host.hostname);
        Ok(json!({
            "host_id": host.uuid, "hostname": host.hostname, "certificate": signed, "authority": certificate, "sessions": sessions,
        }))
    }
}

/// The token that a machine may join with, and whether it has done so before.
fn token_check_in(tx: &Tx, join: &Join) -> Result<(Token, bool)> {
    // One answer for all: who guesses learns nothing.
    let refused = || Error::forbidden("The token is not known, has expired or was used.");
    let (id, secret) = join.token.split_once('.').ok_or_else(refused)?;
    let token = db::token_fetch_in(tx, id)?.filter(|t| t.secret_hash == hash(secret)).ok_or_else(refused)?;
    let again = token.used_at.is_some() && token.used_for == hash(&join.request);
    if token.expires_at < Timestamp::now() || (token.used_at.is_some() && !again) {
        return Err(refused());
    }
    if !token.hostname.is_empty() && token.hostname != join.hostname {
        return Err(Error::forbidden(format!("The token is for host {} only.", token.hostname)));
    }
    Ok((token, again))
}

/// Uses up the token and makes, or takes up, the host's record.
fn admit_in(tx: &Tx, join: &Join) -> Result<Host> {
    let (token, again) = token_check_in(tx, join)?;
    let mut host = match db::host_by_name_in(tx, &join.hostname)? {
        None => {
            // In service when it has come and was tested.
            let mut host = Host::new(&join.hostname, "worker");
            host.upkeep.enabling = Enabling::Due;
            host
        }
        // It was announced, it asks a second time, or it is the same machine that lost its certificate.
        Some(host) if !host.provisioned || (again && host.uuid == token.used_by) || join.host_id.as_ref() == Some(&host.uuid) => host,
        Some(host) => {
            return Err(Error::exists(format!(
                "There is a host {} already. Give this one another name (--name), or delete the other one first.",
                host.hostname
            )));
        }
    };
    if host.personality == "controller" {
        return Err(Error::exists(format!("Host {} is the controller.", host.hostname)));
    }
    host.provisioned = true;
    db::host_put_in(tx, &mut host)?;
    db::token_used_in(tx, &token.id, &hash(&join.request), &host.uuid)?;
    Ok(host)
}
