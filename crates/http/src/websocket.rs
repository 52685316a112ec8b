//! Websockets: the request becomes a stream of bytes, each piece a binary message.

use std::future::Future;

use axum::extract::FromRequestParts;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use base::{Error, Result};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::request::Request;
use crate::response::Response;

/// The largest message taken in.
const MESSAGE: usize = 1 << 20;
/// What is read before it is sent.
const CHUNK: usize = 16 << 10;

/// Answers with the upgrade; then `serve` has the stream for as long as it runs. The first of `protocols` that the client
/// names is chosen.
pub async fn upgrade<F>(
    req: &mut Request,
    protocols: &'static [&'static str],
    serve: impl FnOnce(DuplexStream) -> F + Send + 'static,
) -> Result<Response>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut parts, ()) = hyper::Request::new(()).into_parts();
    parts.method = req.method.clone();
    parts.headers = req.headers.clone();
    if let Some(upgrade) = req.upgrade.take() {
        parts.extensions.insert(upgrade);
    }
    let socket = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|_| Error::invalid("A websocket is here: ask for an upgrade of the connection."))?;
    Ok(socket.protocols(protocols.iter().copied()).max_message_size(MESSAGE).on_upgrade(async move |socket| {
        let (near, far) = tokio::io::duplex(4 * CHUNK);
        tokio::join!(bridge(socket, near), serve(far));
    }))
}

/// Carries bytes between a websocket and a stream until either ends.
async fn bridge(socket: WebSocket, io: DuplexStream) {
    let (mut to, mut from) = socket.split();
    let (mut read, mut write) = tokio::io::split(io);
    let outward = async {
        let mut chunk = vec![0u8; CHUNK];
        while let Ok(n) = read.read(&mut chunk).await {
            if n == 0 || to.send(Message::Binary(bytes::Bytes::copy_from_slice(&chunk[..n]))).await.is_err() {
                return;
            }
        }
    };
    let inward = async {
        while let Some(Ok(message)) = from.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Text(text) => text.into(),
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            if write.write_all(&data).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
    // A peer that is gone needs no goodbye.
    let _ = to.send(Message::Close(None)).await;
}
