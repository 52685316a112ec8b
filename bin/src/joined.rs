//! A host of another machine's cloud: its session, its images and its certificate come over the network.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Config;
use base::error::Internal;
use grpc::ClientTls;
use host::{Dial, ImageSource};
use pki::HostFiles;
use rpc::message::Lender;

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
        ImageSource::Remote(Arc::new(move |sha256, path, elsewhere| {
            let this = this.clone();
            Box::pin(async move {
                let Some(lender) = this.image(&sha256, &path, elsewhere).await? else { return Ok(false) };
                match host::lend::take(&lender, &path).await {
                    Ok(()) => {
                        tracing::info!("image {sha256} came from the host at {}", lender.address);
                        return Ok(true);
                    }
                    Err(error) => tracing::info!("{} gives no image {sha256}: {}", lender.address, error.chain()),
                }
                this.image(&sha256, &path, false).await.map(|_| false)
            })
        }))
    }

    /// An image from the controller, or whom it names that has it.
    async fn image(&self, sha256: &str, path: &Path, elsewhere: bool) -> base::Result<Option<Lender>> {
        let mut file = tokio::fs::File::create(path).await.internal("cannot make a cached image")?;
        grpc::image(&self.url, &self.tls()?, sha256, elsewhere, &mut file).await
    }

    /// Replaces the certificate in time, for ever.
    pub async fn renew(self) {
        self.renew_every(LOOK, AGAIN).await;
    }

    async fn renew_every(self, look: Duration, again: Duration) {
        loop {
            let pause = match self.renew_when_due().await {
                Ok(()) => look,
                Err(error) => {
                    tracing::warn!("renewing this host's certificate: {}", error.chain());
                    again
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
        let answer = grpc::renew(&self.url, &tls, &request.text).await?;
        self.files().store(&answer.authority, &answer.certificate, &request)?;
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use pki::{Authority, Life, Request, Served};
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;

    /// Signs, and answers with a certificate of the authority that was renewed meanwhile.
    struct Desk {
        pki: PathBuf,
        signed: AtomicUsize,
    }

    impl grpc::Desk for Desk {
        fn image(&self, sha256: &str) -> base::Result<PathBuf> {
            Err(base::Error::not_found("Image data", sha256))
        }
        fn renew(&self, host: &pki::Peer, request: &str) -> base::Result<grpc::Renewed> {
            self.signed.fetch_add(1, Ordering::SeqCst);
            let authority = Authority::open(&self.pki)?;
            let certificate = authority.sign_host(&host.host_id, &host.name, request)?;
            Ok(grpc::Renewed { authority: format!("{}\n", authority.certificate()), certificate })
        }
        fn turned_away(&self, _: &'static str) {}
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_renews_its_certificate_in_time_and_tries_again_when_nobody_answers() {
        let home = tempfile::tempdir().unwrap();
        let (pki, directory) = (home.path().join("authority"), home.path().join("host"));
        let authority = Authority::open(&pki).unwrap().lasting(Duration::from_secs(1200));
        let (files, request) = (HostFiles::new(&directory), Request::new().unwrap());
        files.store(authority.certificate(), &authority.sign_host("a", "edge", &request.text).unwrap(), &request).unwrap();
        assert!(files.is_due().unwrap());
        // Nobody listens there yet.
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let joined = Joined { url: format!("https://{address}"), directory };
        assert!(joined.renew_when_due().await.is_err());
        let beat = Duration::from_millis(20);
        let renewing = tokio::spawn(joined.clone().renew_every(beat, beat));
        tokio::time::sleep(beat * 3).await;

        let desk = Arc::new(Desk { pki: pki.clone(), signed: AtomicUsize::new(0) });
        let shown = Served::issued(&pki, vec!["127.0.0.1".to_string()]).unwrap();
        let tls = grpc::ServerTls { ca: authority.certificate().to_string(), shown, revocations: None };
        let listener = TcpListener::bind(address).await.unwrap();
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(grpc::serve(listener, tls, rpc::session::Hosts::new().0, desk.clone(), stopped));
        let begun = std::time::Instant::now();
        while files.is_due().unwrap() {
            assert!(begun.elapsed() < Duration::from_secs(20) && !renewing.is_finished());
            tokio::time::sleep(beat).await;
        }
        tokio::time::sleep(beat * 10).await;
        assert_eq!(desk.signed.load(Ordering::SeqCst), 1, "one that is good is left alone");
        let (ca, certificate, _) = files.load().unwrap();
        assert_eq!(ca, format!("{}\n", authority.certificate()), "the authority's own comes along");
        assert!(Life::of(&certificate).unwrap().left() > 364 * 24 * 3600);
        assert_eq!(joined.id().unwrap(), "a");
        renewing.abort();
        // With the new one it is let in.
        grpc::dial(&joined.url, &joined.tls().unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn the_way_to_a_controller_begins_at_an_address_of_ours() {
        for url in ["https://127.0.0.1:5001", "http://127.0.0.1", "https://127.0.0.1:5000/inventory"] {
            assert_eq!(toward(url).await.unwrap().to_string(), "127.0.0.1");
        }
        assert!(toward("127.0.0.1:5001").await.is_err());
    }
}
