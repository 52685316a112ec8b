//! The controller's end.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base::{Error, Kind, Result, error::Internal};
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use pki::{Peer, Revocations};
use rpc::message::Lender;
use rpc::session::{HostEnd, Hosts, link_with};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::codec::{ENVELOPE_LIMIT, Reader, Writer};
use crate::tls::ServerTls;
use crate::wire::sessions_server::{Sessions, SessionsServer};
use crate::wire::{Chunk, Envelope, ImageRequest, RenewAnswer, RenewRequest};
use crate::{BACKLOG, Timing, WINDOW, wire};

/// Handshakes that may be under way at once.
const HANDSHAKES: usize = 64;
/// Bytes of an image in one message.
const CHUNK: usize = 256 * 1024;
/// How long sessions may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// What a controller has for its hosts besides their sessions.
pub trait Desk: Send + Sync + 'static {
    /// Where the data of the image with this hash lies. `NotFound`.
    fn image(&self, sha256: &str) -> Result<PathBuf>;
    /// Another host that `host` can have it from, if it would go there (`elsewhere`).
    fn lender<'a>(&'a self, _host: &'a Peer, _sha256: &'a str, _elsewhere: bool) -> BoxFuture<'a, Option<Lender>> {
        Box::pin(std::future::ready(None))
    }
    /// A certificate for the key of `request` (PKCS #10 in PEM), for a host that has shown a good one.
    fn renew(&self, host: &Peer, request: &str) -> Result<Renewed>;
    /// A connection was closed before it was a host's: it showed no good certificate (`refused`), or nothing in time (`silent`).
    fn turned_away(&self, reason: &'static str);
}

/// What a host gets in place of its certificate; in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The authority's own: it may have been renewed as well.
    pub authority: String,
    pub certificate: String,
}

/// Serves hosts that dial in until `stop` becomes true.
pub async fn serve(listener: TcpListener, tls: ServerTls, hosts: Hosts, desk: Arc<dyn Desk>, stop: watch::Receiver<bool>) -> Result<()> {
    serve_with(listener, tls, hosts, desk, Timing::default(), stop).await
}

/// The same with other times.
pub async fn serve_with(
    listener: TcpListener,
    tls: ServerTls,
    hosts: Hosts,
    desk: Arc<dyn Desk>,
    timing: Timing,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let acceptor = tls.acceptor()?;
    let (accepted, incoming) = mpsc::channel(1);
    let doors = tokio::spawn(accept(listener, acceptor, timing.handshake, desk.clone(), accepted));
    let service = SessionsServer::new(Service { hosts, desk, revocations: tls.revocations, timing, stop: stop.clone() })
        .max_decoding_message_size(ENVELOPE_LIMIT)
        .max_encoding_message_size(ENVELOPE_LIMIT);
    let mut stopped = stop.clone();
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(timing.keep_alive))
        .http2_keepalive_timeout(Some(timing.keep_alive_answer))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(4)
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
            // A sender that is gone means stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
    let mut stopped = stop;
    let late = async {
        let _ = stopped.wait_for(|stop| *stop).await;
        tokio::time::sleep(DRAIN).await;
    };
    let outcome = tokio::select! {
        outcome = server => outcome.internal("serving hosts"),
        () = late => Ok(()),
    };
    doors.abort();
    outcome
}

/// Takes in connections; each shakes hands on its own, so that a slow one delays nobody.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    patience: Duration,
    desk: Arc<dyn Desk>,
    accepted: mpsc::Sender<io::Result<Link>>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                // Most likely no descriptor is left; trying at once would only spin.
                tracing::warn!("taking in a host's connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, accepted, desk) = (acceptor.clone(), accepted.clone(), desk.clone());
        tokio::spawn(async move {
            let link = tokio::time::timeout(patience, shake_hands(stream, &acceptor)).await;
            drop(place);
            match link {
                Ok(Ok(link)) => {
                    // The server may have stopped.
                    let _ = accepted.send(Ok(link)).await;
                }
                Ok(Err(error)) => {
                    desk.turned_away("refused");
                    tracing::warn!("{address} was not let in: {error}");
                }
                Err(_) => {
                    desk.turned_away("silent");
                    tracing::debug!("{address} does not shake hands");
                }
            }
        });
    }
}

async fn shake_hands(stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<Link> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = certificate.ok_or_else(|| io::Error::other("no certificate")).and_then(|c| pki::peer(c).map_err(io::Error::other))?;
    Ok(Link { stream, peer })
}

/// A connection whose peer has proved who it is.
struct Link {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for Link {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct Service {
    hosts: Hosts,
    desk: Arc<dyn Desk>,
    revocations: Option<Arc<Revocations>>,
    timing: Timing,
    stop: watch::Receiver<bool>,
}

impl Service {
    /// Who asks, if he may.
    fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::unauthenticated("no certificate"));
        };
        if revoked(self.revocations.as_deref(), &peer) {
            return Err(Status::permission_denied("the host's certificate was revoked"));
        }
        Ok(peer)
    }
}

fn status(error: Error) -> Status {
    match error.kind() {
        Kind::NotFound => Status::not_found(error.message()),
        Kind::Invalid => Status::invalid_argument(error.message()),
        _ => {
            tracing::error!("a host's question: {}", error.chain());
            Status::internal(error.message())
        }
    }
}

#[tonic::async_trait]
impl Sessions for Service {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<Envelope, Status>> + Send>>;

    type ImageStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn image(&self, request: Request<ImageRequest>) -> Result<Response<Self::ImageStream>, Status> {
        let peer = self.peer(&request)?;
        let ImageRequest { sha256, elsewhere } = request.into_inner();
        let path = self.desk.image(&sha256).map_err(status)?;
        if let Some(Lender { address, name, authority, certificate, key }) = self.desk.lender(&peer, &sha256, elsewhere).await {
            let lender = wire::Lender { address, name, authority, certificate, key: key.0 };
            let only = Chunk { lender: Some(lender), ..Chunk::default() };
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(only)))));
        }
        let file = tokio::fs::File::open(&path).await.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Status::not_found("no such image"),
            _ => Status::internal(format!("{}: {e}", path.display())),
        })?;
        let chunks = ReaderStream::with_capacity(file, CHUNK);
        let chunks = chunks.map(|chunk| chunk.map(|data| Chunk { data, lender: None }).map_err(|e| Status::internal(e.to_string())));
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewAnswer>, Status> {
        let (host, desk) = (self.peer(&request)?, self.desk.clone());
        // It writes to disk.
        let signed = tokio::task::spawn_blocking(move || desk.renew(&host, &request.get_ref().request)).await;
        let Renewed { authority, certificate } = signed.map_err(|e| Status::internal(e.to_string()))?.map_err(status)?;
        Ok(Response::new(RenewAnswer { certificate, authority }))
    }

    async fn open(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Self::OpenStream>, Status> {
        let peer = self.peer(&request)?;
        let (HostEnd { outgoing, incoming }, controller) = link_with(BACKLOG);
        let (hosts, host) = (self.hosts.clone(), peer.clone());
        tokio::spawn(async move {
            if let Err(error) = hosts.serve_known(controller, &host.host_id, &host.name).await {
                tracing::warn!(host.host_id, "a session ended: {}", error.chain());
            }
        });
        let stop = self.stop.clone();
        tokio::spawn(listen(request.into_inner(), outgoing, peer, self.revocations.clone(), self.timing.revocation, stop));
        let mut writer = Writer::default();
        let envelopes = ReceiverStream::new(incoming).filter_map(move |message| std::future::ready(writer.envelope(message).map(Ok)));
        Ok(Response::new(Box::pin(envelopes)))
    }
}

/// Whether a live session must end. A list that cannot be read ends nothing that runs: it only keeps newcomers out.
fn revoked(revocations: Option<&Revocations>, peer: &Peer) -> bool {
    match revocations.map(|list| list.contains(&peer.serial)) {
        None => false,
        Some(Ok(revoked)) => revoked,
        Some(Err(error)) => {
            tracing::error!(host_id = peer.host_id, "looking up the revocations: {}", error.chain());
            false
        }
    }
}

/// Hands on what a host says. When this ends, so does the session.
async fn listen(
    mut stream: Streaming<Envelope>,
    outgoing: mpsc::Sender<rpc::message::ToController>,
    peer: Peer,
    revocations: Option<Arc<Revocations>>,
    every: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let host_id = peer.host_id.as_str();
    let watched = async {
        let mut ticks = tokio::time::interval(every);
        while !revoked(revocations.as_deref(), &peer) {
            ticks.tick().await;
        }
    };
    let heard = async {
        let mut reader = Reader::default();
        loop {
            let envelope = match stream.message().await {
                Ok(Some(envelope)) => envelope,
                Ok(None) => return,
                Err(status) => return tracing::info!(host_id, "a host's stream broke: {status}"),
            };
            match reader.message(&envelope) {
                Ok(message) => {
                    if outgoing.send(message).await.is_err() {
                        return;
                    }
                }
                Err(error) => return tracing::error!(host_id, "a host is not understood: {}", error.chain()),
            }
        }
    };
    tokio::select! {
        () = heard => {}
        () = outgoing.closed() => {}
        () = watched => tracing::warn!(host_id, "the host's certificate was revoked: its session ends"),
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
