//! The listener: accepts, optionally wraps in TLS, serves, and drains on shutdown.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base::{Result, error::Internal};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::certificate::Certificate;
use crate::peer::Peer;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// How long a TLS handshake and the headers of a request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves until `stop` becomes true, then lets running requests end for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: Arc<App>,
    mut stop: watch::Receiver<bool>,
    drain: Duration,
) -> Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let slot = slots.clone().acquire_owned().await.internal("connection slots")?;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        let (socket, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the peer is gone already: the next accept may succeed.
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Answers are small: waiting to fill a packet would cost 40 ms.
        let _ = socket.set_nodelay(true);
        let (app, tls, stop) = (app.clone(), tls.clone(), stop.clone());
        let mut peer = Peer { secure: tls.is_some(), address: Some(from.ip().to_canonical()), certificate: None };
        tasks.spawn(async move {
            let _slot = slot;
            match tls {
                None => connection(socket, app, peer, stop).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(socket)).await {
                        // The first one is the client's own; what follows only vouches for it (CVE-2023-2422).
                        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                        peer.certificate = shown.map(|shown| Certificate::from_der(shown.to_vec()));
                        connection(stream, app, peer, stop).await;
                    }
                }
            }
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!("{} connections were still busy at shutdown", tasks.len());
    }
    Ok(())
}

/// Returns when `stop` turns true, or when nobody is left who could turn it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopped| *stopped).await;
}

async fn connection(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, app: Arc<App>, peer: Peer, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (app, peer) = (app.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(app.handle(request.map(Body::new), &peer).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 * 1024);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped(&mut stop) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection: {error}");
    }
}
