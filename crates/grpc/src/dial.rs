//! The host's end.

use base::{Error, Result};
use futures_util::StreamExt;
use rpc::message::ToHost;
use rpc::session::{ControllerEnd, HostEnd, link_with};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::codec::{ENVELOPE_LIMIT, Reader, Writer};
use crate::tls::{ClientTls, chain};
use crate::wire::Envelope;
use crate::wire::sessions_client::SessionsClient;
use crate::{BACKLOG, Timing, WINDOW};

/// Opens a session with the controller at `url` (`https://name:port`). The caller greets.
pub async fn dial(url: &str, tls: &ClientTls) -> Result<HostEnd> {
    dial_with(url, tls, Timing::default()).await
}

/// The same with other times.
pub async fn dial_with(url: &str, tls: &ClientTls, timing: Timing) -> Result<HostEnd> {
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
    let (host, ControllerEnd { outgoing, incoming }) = link_with(BACKLOG);
    let mut writer = Writer::default();
    let envelopes = ReceiverStream::new(incoming).filter_map(move |message| std::future::ready(writer.envelope(message)));
    let opening = async {
        let channel = endpoint.connect().await.map_err(|e| Error::unavailable(format!("no connection to {url}")).caused_by(e))?;
        let mut client = SessionsClient::new(channel).max_decoding_message_size(ENVELOPE_LIMIT).max_encoding_message_size(ENVELOPE_LIMIT);
        client.open(envelopes).await.map_err(|status| Error::unavailable(format!("{url} gives no session")).caused_by(status))
    };
    let stream =
        tokio::time::timeout(timing.handshake, opening).await.map_err(|_| Error::timeout(format!("{url} does not answer")))??.into_inner();
    tokio::spawn(listen(stream, outgoing));
    Ok(host)
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
