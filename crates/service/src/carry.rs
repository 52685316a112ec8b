//! Files from one host to another, piece by piece, through the sessions of both.

use base::error::Internal;
use base::{Error, Result};
use rpc::message::{DiskPiece, Request, Response};
use serde::de::DeserializeOwned;
use task::StepContext;

use crate::HostLinks;

/// What is asked of a host at once.
pub const PIECE: u32 = 4 << 20;

/// What a host has answered in `Json`.
pub fn answer<T: DeserializeOwned>(answer: Response) -> Result<T> {
    match answer {
        Response::Json(value) => serde_json::from_value(value).internal("reading a host's answer"),
        _ => Err(Error::internal("a host answered a request for a disk with something else")),
    }
}

impl HostLinks {
    /// Carries a file between two hosts: `read` asks one for the piece at an offset, `write` gives it to the other; while a piece is
    /// being written the next one is read. `go_on` is asked before each. `share`: bytes carried before, of how many, for the operation's
    /// progress. Answers the file's size.
    pub async fn carry(
        &self,
        cx: &StepContext,
        (from, to): (&str, &str),
        read: impl Fn(u64) -> Request,
        write: impl Fn(u64, DiskPiece) -> Request,
        go_on: impl Fn() -> Result<()>,
        share: Option<(u64, u64)>,
    ) -> Result<u64> {
        let read_at = |offset| {
            let request = read(offset);
            async move { answer::<DiskPiece>(self.ask(from, request).await?) }
        };
        let (mut offset, mut piece, mut told) = (0, read_at(0).await?, 0);
        while piece.bytes > 0 {
            go_on()?;
            let next = offset + piece.bytes;
            let (written, following) = tokio::join!(self.ask(to, write(offset, piece)), read_at(next));
            written?;
            (offset, piece) = (next, following?);
            if let Some((before, all)) = share {
                let percent = u8::try_from((before + offset) * 100 / all.max(1)).unwrap_or(100).min(100);
                if percent > told {
                    told = percent;
                    cx.progress(percent).await?;
                }
            }
        }
        Ok(offset)
    }
}
