//! A host of another machine's cloud: its session, its images and its certificate come over the network.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Config;
use base::error::Internal;
use grpc::ClientTls;
use host::{Dial, ImageSource};
use pki::HostFiles;

/// How often the certificate's age is looked at, and how soon again when it could not be renewed.
const LOOK: Duration = Duration::from_secs(12 * 3600);
const AGAIN: Duration = Duration::from_secs(600);

/// Where the controller is, and by what this host proves who it is.
#[derive(Clone)]
pub struct Joined {
    url: String,
    directory: PathBuf,
}

impl Joined {
    /// As `sturnus join` left it.
    pub fn open(config: &Config) -> Result<Joined> {
        let joined = Joined { url: config.text("controller.url").to_string(), directory: config.home().join("pki") };
        if joined.url.is_empty() {
            bail!("this machine has not joined a cloud: `sturnus join URL --token TOKEN` makes it a host of one");
        }
        joined.tls()?;
        Ok(joined)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The id by which the cloud knows this host.
    pub fn id(&self) -> Result<String> {
        Ok(self.files().peer()?.host_id)
    }

    fn files(&self) -> HostFiles {
        HostFiles::new(&self.directory)
    }

    /// Read each time: the certificate may have been renewed.
    fn tls(&self) -> base::Result<ClientTls> {
        let (ca, cert, key) = self.files().load()?;
        Ok(ClientTls { ca, cert, key })
    }

    pub fn dial(&self) -> Dial {
        let this = self.clone();
        Arc::new(move || {
            let this = this.clone();
            Box::pin(async move { grpc::dial(&this.url, &this.tls()?).await })
        })
    }

    pub fn images(&self) -> ImageSource {
        let this = self.clone();
        ImageSource::Remote(Arc::new(move |sha256, path| {
            let this = this.clone();
            Box::pin(async move {
                let mut file = tokio::fs::File::create_new(&path).await.internal("cannot make a cached image")?;
                grpc::image(&this.url, &this.tls()?, &sha256, &mut file).await
            })
        }))
    }

    /// Replaces the certificate in time, for ever.
    pub async fn renew(self) {
        loop {
            let pause = match self.renew_when_due().await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::warn!("renewing this host's certificate: {}", error.chain());
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn renew_when_due(&self) -> base::Result<()> {
        if !self.files().is_due()? {
            return Ok(());
        }
        let tls = self.tls()?;
        let request = pki::Request::new()?;
        let certificate = grpc::renew(&self.url, &tls, &request.text).await?;
        self.files().store(&tls.ca, &certificate, &request)?;
        tracing::info!("this host's certificate was renewed");
        Ok(())
    }

    /// This machine's address on the way to the controller. Nothing is sent.
    pub async fn address(&self) -> Result<IpAddr> {
        toward(&self.url).await
    }
}

/// This machine's address on the way to a URL.
pub async fn toward(url: &str) -> Result<IpAddr> {
    let (scheme, rest) = url.split_once("://").context("a URL begins with https://")?;
    let authority = rest.split('/').next().unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let port = if scheme == "http" { 80 } else { 443 };
    let place = if has_port { authority.to_string() } else { format!("{authority}:{port}") };
    let to: SocketAddr = tokio::net::lookup_host(&place).await.with_context(|| place.clone())?.next().with_context(|| place.clone())?;
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to).with_context(|| format!("there is no way to {to}"))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_way_to_a_controller_begins_at_an_address_of_ours() {
        for url in ["https://127.0.0.1:5001", "http://127.0.0.1", "https://127.0.0.1:5000/inventory"] {
            assert_eq!(toward(url).await.unwrap().to_string(), "127.0.0.1");
        }
        assert!(toward("127.0.0.1:5001").await.is_err());
    }
}
