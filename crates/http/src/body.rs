//! Request bodies: bounded and whole, or a stream for uploads.

use axum::body::{Body, BodyDataStream};
use base::{Error, Kind, Result};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

/// Reads a whole body of at most `limit` bytes.
pub async fn collect(body: Body, declared: Option<u64>, limit: usize) -> Result<Bytes> {
    let too_large = || Error::new(Kind::TooLarge, format!("Request is too large: at most {limit} bytes are accepted."));
    if declared.is_some_and(|n| n > limit as u64) {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(part) = stream.next().await {
        let part = part.map_err(broken)?;
        if whole.len() + part.len() > limit {
            return Err(too_large());
        }
        if whole.is_empty() && declared == Some(part.len() as u64) {
            return Ok(part);
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

/// A body read piece by piece.
pub struct Upload {
    stream: BodyDataStream,
}

impl Upload {
    pub fn new(body: Body) -> Self {
        Upload { stream: body.into_data_stream() }
    }
    /// What a service of our own brings, piece by piece; an error ends it.
    pub fn from_stream(pieces: impl futures_util::Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Upload::new(Body::from_stream(pieces.map(|piece| piece.map_err(std::io::Error::other))))
    }
    /// The next piece; `None` at the end; an error when the client went away before it.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.stream.next().await.transpose().map_err(broken)
    }
}

fn broken(error: axum::Error) -> Error {
    Error::invalid("The request body ended early.").caused_by(error)
}
