//! The bytes of a file as a stream that reads ahead.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::task::{JoinHandle, spawn_blocking};

/// What a download reads at once, in bytes; it holds two of these.
const PIECE: u64 = 128 << 10;

/// The bytes of a file from `start`. Each piece is read while the one before it is sent.
pub fn pieces(file: File, start: u64, length: u64) -> impl Stream<Item = io::Result<Bytes>> {
    let file = Arc::new(file);
    let read = move |at: u64, end: u64| -> Option<JoinHandle<io::Result<Bytes>>> {
        let (file, size) = (file.clone(), (end - at).min(PIECE));
        (size > 0).then(|| spawn_blocking(move || piece(&file, at, size)))
    };
    let end = start.saturating_add(length);
    let first = read(start, end);
    stream::unfold((start, first), move |(at, coming)| {
        let read = read.clone();
        async move {
            let piece = match coming?.await {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => return Some((Err(error), (at, None))),
                Err(error) => return Some((Err(io::Error::other(error)), (at, None))),
            };
            let at = at + piece.len() as u64;
            Some((Ok(piece), (at, read(at, end))))
        }
    })
}

/// Blocks.
fn piece(file: &File, at: u64, size: u64) -> io::Result<Bytes> {
    let mut piece = BytesMut::zeroed(usize::try_from(size).map_err(io::Error::other)?);
    file.read_exact_at(&mut piece, at)?;
    Ok(piece.freeze())
}
