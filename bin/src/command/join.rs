//! `sturnus join`: makes this machine a host of a cloud.
//!
//! The token's last part is the fingerprint of the cloud's authority. Until the authority's certificate is known to have it,
//! nothing is believed and nothing secret is sent.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use pki::{HostFiles, Request};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};

use super::{Place, down};
use crate::joined::toward;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Join {
    /// The cloud: https://ADDRESS:PORT, as `sturnus host token` prints it
    url: String,
    /// One-time token that `sturnus host token` printed
    #[arg(long)]
    token: String,
    /// Name of this machine in the cloud [default: the system's host name]
    #[arg(long)]
    name: Option<String>,
    /// Address by which other hosts reach this machine [default: the one that leads to the cloud, found at each start]
    #[arg(long)]
    address: Option<IpAddr>,
}

impl Join {
    pub async fn run(self, place: &Place) -> Result<ExitCode> {
        let (path, config) = (place.file()?, place.load()?);
        let home = config.home();
        if path.exists() && config.text("role") != "host" {
            bail!("{} makes this machine a cloud of its own: take another --home to join one", path.display());
        }
        if down::running(&home)?.is_some() {
            bail!("sturnus runs in {}: stop it first (sturnus down)", home.display());
        }
        let (token, fingerprint) = self
            .token
            .rsplit_once('.')
            .filter(|(token, _)| token.contains('.'))
            .ok_or_else(|| anyhow!("--token: not a token as `sturnus host token` prints it, three parts with dots between"))?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        };
        let url = self.url.trim_end_matches('/');
        let local = toward(url).await.with_context(|| format!("{url} is not reached"))?;
        if url.starts_with("http://") && !local.is_loopback() {
            bail!("{url}: a token is not sent in the clear");
        }
        let offer = offer(url, fingerprint).await?;
        let request = pending(&home)?;
        let body = json!({"token": token, "hostname": name, "host_id": host::id(&home)?, "request": request.text});
        let authority = Certificate::from_pem(offer["authority"].as_str().unwrap_or_default().as_bytes())?;
        let cloud = client(|builder| builder.tls_certs_merge([authority]))?;
        let answer = cloud.post(format!("{url}/inventory/v1/join")).json(&body).send().await.with_context(|| url.to_string())?;
        let answer = crate::client::answered(answer).await?;
        let text = |key: &str| answer[key].as_str().map(str::to_string).ok_or_else(|| anyhow!("the cloud's answer has no `{key}`"));
        // The id goes first: with another one the certificate would be of no use.
        host::id_set(&home, &text("host_id")?)?;
        HostFiles::new(&home.join("pki")).store(&text("authority")?, &text("certificate")?, &request)?;
        // Who had the earlier certificate may have had the key of its tunnels too.
        host::tunnel_key_forget(&home)?;
        let mut settings = format!("role = \"host\"\n\n[controller]\nurl = \"{}\"\n\n[host]\nname = \"{name}\"\n", text("sessions")?);
        if let Some(address) = self.address {
            settings.push_str(&format!("address = \"{address}\"\n"));
        }
        super::write_config(&path, &settings).with_context(|| path.display().to_string())?;
        std::fs::remove_file(home.join(PENDING)).context("forgetting the request")?;
        println!("{name} is a host of {url}. Start it:\n  sturnus up --daemon");
        Ok(ExitCode::SUCCESS)
    }
}

fn client(trust: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Result<Client> {
    // Ours is the only cryptography linked in; installed twice is as good as once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(trust(Client::builder().timeout(PATIENCE)).build()?)
}

/// What the cloud tells to anyone: its authority, which must have the fingerprint, and where sessions are opened.
async fn offer(url: &str, fingerprint: &str) -> Result<Value> {
    let anyone = client(|builder| builder.tls_danger_accept_invalid_certs(true))?;
    let answer = anyone.get(format!("{url}/inventory/v1/join")).send().await.with_context(|| format!("no cloud answers at {url}"))?;
    let offer = crate::client::answered(answer).await?;
    let found = pki::fingerprint(offer["authority"].as_str().unwrap_or_default()).context("the cloud's authority")?;
    if found != fingerprint {
        bail!("{url} is not the cloud that the token is of: its authority has another fingerprint. Somebody may be in between.");
    }
    Ok(offer)
}

/// Where a key waits for its certificate: when the answer is lost, the very same request may be sent again.
const PENDING: &str = "pki/request.pem";

fn pending(home: &std::path::Path) -> Result<Request> {
    let path = home.join(PENDING);
    if let Ok(text) = std::fs::read_to_string(&path) {
        return Ok(Request::parse(&text)?);
    }
    let request = Request::new()?;
    request.keep(&path)?;
    Ok(request)
}
