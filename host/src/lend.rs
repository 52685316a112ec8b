//! Images from host to host: who has one gives it to one other host, over a connection that exists for this alone.
//!
//! The controller has made an authority for the two ends and forgotten it, so each end knows the other one and nobody else. The lender sends
//! [`WAIT`] each second while the image is still on its way to itself, then [`DATA`], the length (eight bytes, the greatest first)
//! and the bytes. Whether they are the right ones is for the taker to find out: it knows the hash.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::error::Internal;
use base::{Error, Result};
use rpc::message::{Lender, Secret};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::cache::Cache;

/// Given away at once. Whoever comes on top of that is sent to the controller.
const MOST: usize = 8;
/// How long the taker may be on its way, and how long either end waits for the next byte.
const ARRIVAL: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(30);
const BEAT: Duration = Duration::from_secs(1);
const WAIT: u8 = b'W';
const DATA: u8 = b'D';
/// Read from the disk at once.
const PIECE: usize = 1 << 20;

/// What an end shows, and whose certificate the other one must have; in PEM.
pub struct End {
    pub authority: String,
    pub certificate: String,
    pub key: Secret,
}

pub struct Lending(Arc<Semaphore>);

impl Default for Lending {
    fn default() -> Lending {
        Lending(Arc::new(Semaphore::new(MOST)))
    }
}

impl Lending {
    /// Opens a door for one taker; where it is.
    pub async fn offer(&self, cache: Arc<Cache>, sha256: &str, address: &str, end: End) -> Result<SocketAddr> {
        if !cache.expects(sha256) {
            return Err(Error::not_found("Image data", sha256));
        }
        let busy = |_| Error::unavailable("This host gives away as many images as it can.");
        let place = self.0.clone().try_acquire_owned().map_err(busy)?;
        let ip: IpAddr = address.parse().map_err(|_| Error::invalid(format!("`{address}` is no address")))?;
        let acceptor = acceptor(&end)?;
        let listener = TcpListener::bind(SocketAddr::new(ip, 0)).await.internal("opening a door for an image")?;
        let at = listener.local_addr().internal("opening a door for an image")?;
        let sha256 = sha256.to_string();
        tokio::spawn(async move {
            if let Err(error) = serve(&listener, acceptor, &cache, &sha256, place).await {
                tracing::info!("image {sha256} was not given away: {}", error.chain());
            }
        });
        Ok(at)
    }
}

async fn serve(listener: &TcpListener, acceptor: TlsAcceptor, cache: &Cache, sha256: &str, _place: OwnedSemaphorePermit) -> Result<()> {
    let mut taker = within(ARRIVAL, arrival(listener, &acceptor)).await?;
    let doing = "giving an image away";
    let arrived = cache.arrived(sha256);
    tokio::pin!(arrived);
    let path = loop {
        tokio::select! {
            path = &mut arrived => break path.ok_or_else(|| Error::not_found("Image data", sha256))?,
            () = tokio::time::sleep(BEAT) => {
                within(SILENCE, async { taker.write_u8(WAIT).await.internal(doing)?; taker.flush().await.internal(doing) }).await?;
            }
        }
    };
    let file = File::open(&path).await.internal(doing)?;
    let length = file.metadata().await.internal(doing)?.len();
    taker.write_u8(DATA).await.internal(doing)?;
    taker.write_u64(length).await.internal(doing)?;
    copy(&mut BufReader::with_capacity(PIECE, file), &mut taker, length).await?;
    within(SILENCE, async { taker.shutdown().await.internal(doing) }).await
}

/// The one who may come. Others may knock meanwhile: they are sent away and change nothing.
async fn arrival(listener: &TcpListener, acceptor: &TlsAcceptor) -> Result<tokio_rustls::server::TlsStream<TcpStream>> {
    loop {
        let (stream, from) = listener.accept().await.internal("waiting for who takes an image")?;
        match within(ARRIVAL, async { acceptor.accept(stream).await.internal("shaking hands") }).await {
            Ok(stream) => return Ok(stream),
            Err(error) => tracing::info!("{from} may not have an image: {}", error.chain()),
        }
    }
}

/// Writes the image that a lender has to a file, in place of what was there.
pub async fn take(lender: &Lender, to: &Path) -> Result<()> {
    let connector = connector(lender)?;
    let name = ServerName::try_from(lender.name.clone()).map_err(|_| Error::invalid("a lender without a name"))?;
    let doing = "fetching an image from another host";
    let mut stream = within(ARRIVAL, async {
        let stream = TcpStream::connect(&lender.address).await.internal(doing)?;
        connector.connect(name, stream).await.internal(doing)
    })
    .await?;
    while within(SILENCE, async { stream.read_u8().await.internal(doing) }).await? == WAIT {}
    let length = within(SILENCE, async { stream.read_u64().await.internal(doing) }).await?;
    let mut file = File::create(to).await.internal("cannot make a cached image")?;
    copy(&mut BufReader::with_capacity(PIECE, stream), &mut file, length).await?;
    file.flush().await.internal("cannot write a cached image")
}

/// Exactly `length` bytes; neither end may be silent.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), length: u64) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let mut left = length;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = within(SILENCE, async { from.read(&mut piece[..room]).await.internal("reading an image") }).await?;
        if read == 0 {
            return Err(Error::unavailable(format!("an image broke off, {left} bytes before its end")));
        }
        within(SILENCE, async { to.write_all(&piece[..read]).await.internal("writing an image") }).await?;
        left -= read as u64;
    }
    Ok(())
}

async fn within<T>(patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(patience, work).await.map_err(|_| Error::timeout("the other host says nothing"))?
}

fn roots(authority: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(|_| Error::invalid("no authority in PEM"))?;
    roots.add(certificate).map_err(|e| Error::invalid("this is no authority").caused_by(e))?;
    Ok(roots)
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn shown(certificate: &str, key: &Secret) -> Result<Shown> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| Error::invalid("no certificate in PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(key.0.as_bytes()).map_err(|_| Error::invalid("no key in PEM"))?;
    Ok((vec![certificate], key))
}

fn acceptor(end: &End) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let only = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&end.authority)?), provider.clone()).build();
    let (chain, key) = shown(&end.certificate, &end.key)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .internal("TLS versions")?
        .with_client_cert_verifier(only.internal("a taker's authority")?)
        .with_single_cert(chain, key)
        .map_err(|e| Error::invalid("a lender's certificate").caused_by(e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connector(lender: &Lender) -> Result<TlsConnector> {
    let (chain, key) = shown(&lender.certificate, &lender.key)?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .internal("TLS versions")?
        .with_root_certificates(roots(&lender.authority)?)
        .with_client_auth_cert(chain, key)
        .map_err(|e| Error::invalid("a taker's certificate").caused_by(e))?;
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use pki::Pair;
    use sha2::{Digest, Sha256};
    use tokio::sync::Notify;

    use super::*;
    use crate::cache::{Fetch, ImageSource};

    /// A cache whose images come when told so, and one image: its data and hash.
    struct Far {
        _home: tempfile::TempDir,
        cache: Arc<Cache>,
        go: Arc<Notify>,
        whole: Arc<AtomicBool>,
        data: Vec<u8>,
        hash: String,
    }

    fn far() -> Far {
        let home = tempfile::tempdir().unwrap();
        let (go, whole) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(true)));
        let data: Vec<u8> = (0..1_300_000u32).flat_map(u32::to_le_bytes).collect();
        let hash: String = Sha256::digest(&data).iter().map(|b| format!("{b:02x}")).collect();
        let (told, given, all) = (go.clone(), data.clone(), whole.clone());
        let fetch: Fetch = Arc::new(move |_, to, _| {
            let (told, given, all) = (told.clone(), given.clone(), all.clone());
            Box::pin(async move {
                told.notified().await;
                let part = if all.load(Ordering::Relaxed) { &given[..] } else { &given[..9] };
                std::fs::write(to, part).internal("writing")?;
                Ok(false)
            })
        });
        let cache = Arc::new(Cache::open(home.path().join("cache"), ImageSource::Remote(fetch)).unwrap());
        Far { _home: home, cache, go, whole, data, hash }
    }

    async fn lent(lending: &Lending, far: &Far, pair: Pair) -> Result<Lender> {
        let end = End { authority: pair.authority.clone(), certificate: pair.server.certificate, key: Secret(pair.server.key) };
        let at = lending.offer(far.cache.clone(), &far.hash, "127.0.0.1", end).await?;
        let Pair { authority, name, client, .. } = pair;
        Ok(Lender { address: at.to_string(), name, authority, certificate: client.certificate, key: Secret(client.key) })
    }

    #[tokio::test]
    async fn an_image_goes_to_the_one_host_it_is_meant_for() {
        let (far, lending, near) = (far(), Lending::default(), tempfile::tempdir().unwrap());
        assert!(lent(&lending, &far, Pair::new("a").unwrap()).await.unwrap_err().is(base::Kind::NotFound));
        far.go.notify_one();
        far.cache.image(&far.hash, "raw").await.unwrap();
        let lender = lent(&lending, &far, Pair::new("b").unwrap()).await.unwrap();
        // Who has a certificate of another connection gets nothing, and is in nobody's way.
        let other = Pair::new("b").unwrap();
        let stranger = Lender { certificate: other.client.certificate, key: Secret(other.client.key), ..lender.clone() };
        assert!(take(&stranger, &near.path().join("stranger")).await.is_err());
        let misled = Lender { authority: other.authority, ..lender.clone() };
        assert!(take(&misled, &near.path().join("misled")).await.is_err());
        let lender = lent(&lending, &far, Pair::new("c").unwrap()).await.unwrap();
        drop(TcpStream::connect(&lender.address).await.unwrap());
        take(&lender, &near.path().join("whole")).await.unwrap();
        assert!(std::fs::read(near.path().join("whole")).unwrap() == far.data);
        assert!(take(&lender, &near.path().join("again")).await.is_err(), "one door is for one");
    }

    #[tokio::test]
    async fn a_lender_that_waits_for_it_itself_hands_it_on_or_says_that_it_did_not_come() {
        let (far, lending, near) = (far(), Lending::default(), tempfile::tempdir().unwrap());
        for comes in [false, true] {
            far.whole.store(comes, Ordering::Relaxed);
            let (cache, hash) = (far.cache.clone(), far.hash.clone());
            let filling = tokio::spawn(async move { cache.image(&hash, "raw").await });
            while !far.cache.expects(&far.hash) {
                tokio::task::yield_now().await;
            }
            let lender = lent(&lending, &far, Pair::new("a").unwrap()).await.unwrap();
            let to = near.path().join(comes.to_string());
            let taking = tokio::spawn({
                let to = to.clone();
                async move { take(&lender, &to).await }
            });
            tokio::time::sleep(BEAT * 2).await;
            assert!(!taking.is_finished());
            far.go.notify_one();
            assert_eq!(filling.await.unwrap().is_ok(), comes);
            assert_eq!(taking.await.unwrap().is_ok(), comes);
        }
    }

    #[tokio::test]
    async fn only_so_many_are_given_away_at_once() {
        let (far, lending) = (far(), Lending::default());
        far.go.notify_one();
        far.cache.image(&far.hash, "raw").await.unwrap();
        for _ in 0..MOST {
            lent(&lending, &far, Pair::new("a").unwrap()).await.unwrap();
        }
        assert!(lent(&lending, &far, Pair::new("a").unwrap()).await.unwrap_err().is(base::Kind::Unavailable));
    }
}
