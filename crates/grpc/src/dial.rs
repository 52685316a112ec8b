//! The host's end.

use std::time::Duration;

use base::error::Internal;
use base::{Error, Kind, Result};
use futures_util::StreamExt;
use rpc::message::{Lender, Secret, ToHost};
use rpc::session::{ControllerEnd, HostEnd, link_with};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};

use crate::codec::{ENVELOPE_LIMIT, Reader, Writer};
use crate::tls::{ClientTls, chain};
use crate::wire::sessions_client::SessionsClient;
use crate::wire::{Envelope, ImageRequest, RenewAnswer, RenewRequest};
use crate::{BACKLOG, Renewed, Timing, WINDOW, wire};

/// How long the next piece of an image may take.
const PIECE: Duration = Duration::from_secs(30);

/// Opens a session with the controller at `url` (`https://name:port`). The caller greets.
pub async fn dial(url: &str, tls: &ClientTls) -> Result<HostEnd> {
    dial_with(url, tls, Timing::default()).await
}

/// The same with other times.
pub async fn dial_with(url: &str, tls: &ClientTls, timing: Timing) -> Result<HostEnd> {
    let (host, ControllerEnd { outgoing, incoming }) = link_with(BACKLOG);
    let mut writer = Writer::default();
    let envelopes = ReceiverStream::new(incoming).filter_map(move |message| std::future::ready(writer.envelope(message)));
    let opening = async {
        let mut client = connect(url, tls, timing).await?;
        client.open(envelopes).await.map_err(|status| Error::unavailable(format!("{url} gives no session")).caused_by(status))
    };
    let stream = within(url, timing.handshake, opening).await?.into_inner();
    tokio::spawn(listen(stream, outgoing));
    Ok(host)
}

/// Writes the data of an image to `to`, unless the controller names another host that has it; that it may do when `elsewhere` is said. Nothing is
/// checked here: the reader knows the hash. `NotFound` when the controller has none.
pub async fn image(
    url: &str,
    tls: &ClientTls,
    sha256: &str,
    elsewhere: bool,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<Option<Lender>> {
    let timing = Timing::default();
    let asking = async {
        let mut client = connect(url, tls, timing).await?;
        let answer = client.image(ImageRequest { sha256: sha256.to_string(), elsewhere }).await;
        answer.map_err(|status| failed(status, format!("{url} gives no image {sha256}")))
    };
    let mut stream = within(url, timing.handshake, asking).await?.into_inner();
    loop {
        let chunk =
            within(url, PIECE, async { stream.message().await.map_err(|s| failed(s, format!("image {sha256} broke off"))) }).await?;
        match chunk {
            Some(wire::Chunk { lender: Some(lender), .. }) => {
                let wire::Lender { address, name, authority, certificate, key } = lender;
                return Ok(Some(Lender { address, name, authority, certificate, key: Secret(key) }));
            }
            Some(chunk) => to.write_all(&chunk.data).await.internal("writing an image")?,
            None => return to.flush().await.internal("writing an image").map(|()| None),
        }
    }
}

/// Has the controller sign a request (PKCS #10 in PEM) of the host whose certificate `tls` holds.
pub async fn renew(url: &str, tls: &ClientTls, request: &str) -> Result<Renewed> {
    let timing = Timing::default();
    let asking = async {
        let mut client = connect(url, tls, timing).await?;
        let answer = client.renew(RenewRequest { request: request.to_string() }).await;
        answer.map_err(|status| failed(status, format!("{url} gives no certificate")))
    };
    let RenewAnswer { certificate, authority } = within(url, timing.handshake, asking).await?.into_inner();
    Ok(Renewed { authority: if authority.is_empty() { tls.ca.clone() } else { authority }, certificate })
}

fn failed(status: Status, what: String) -> Error {
    match status.code() {
        Code::NotFound => Error::new(Kind::NotFound, what).caused_by(status),
        Code::InvalidArgument => Error::invalid(what).caused_by(status),
        _ => Error::unavailable(what).caused_by(status),
    }
}

async fn within<T>(url: &str, patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(patience, work).await.map_err(|_| Error::timeout(format!("{url} does not answer")))?
}

async fn connect(url: &str, tls: &ClientTls, timing: Timing) -> Result<SessionsClient<Channel>> {
    // tonic would connect in the clear.
    if !url.starts_with("https://") {
        return Err(Error::invalid(format!("{url}: a controller is dialled by https")));
    }
    chain("ca", &tls.ca)?;
    chain("cert", &tls.cert)?;
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca)).identity(Identity::from_pem(&tls.cert, &tls.key));
    let endpoint = Endpoint::from_shared(url.to_string())
        .map_err(|e| Error::invalid(format!("{url} is no address of a controller")).caused_by(e))?
        .tls_config(config)
        .map_err(|e| Error::invalid("certificate and key of this host").caused_by(e))?
        .connect_timeout(timing.handshake)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(timing.keep_alive)
        .keep_alive_timeout(timing.keep_alive_answer)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let channel = endpoint.connect().await.map_err(|e| Error::unavailable(format!("no connection to {url}")).caused_by(e))?;
    Ok(SessionsClient::new(channel).max_decoding_message_size(ENVELOPE_LIMIT).max_encoding_message_size(ENVELOPE_LIMIT))
}

/// Hands on what the controller says until either side ends the session.
async fn listen(mut stream: Streaming<Envelope>, outgoing: mpsc::Sender<ToHost>) {
    let heard = async {
        let mut reader = Reader::default();
        loop {
            let envelope = match stream.message().await {
                Ok(Some(envelope)) => envelope,
                Ok(None) => return,
                Err(status) => return tracing::info!("the controller's stream broke: {status}"),
            };
            match reader.message(&envelope) {
                Ok(message) => {
                    if outgoing.send(message).await.is_err() {
                        return;
                    }
                }
                Err(error) => return tracing::error!("the controller is not understood: {}", error.chain()),
            }
        }
    };
    tokio::select! {
        () = heard => {}
        () = outgoing.closed() => {}
    }
}
