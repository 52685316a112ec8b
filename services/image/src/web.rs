//! Content that others keep: an image has its address, at which it is read for each download. Nothing is written there.
//!
//! What is known of the content is what comes of it: as many bytes, and of a whole download the hash. It is not known before
//! somebody has read it here; until then no host gets it, since nobody has looked into it either.

use axum::body::Body;
use base::{Error, Result};
use bytes::{Buf, Bytes};
use futures_util::stream;
use http_api::body::Upload;
use sha2::digest::DynDigest;
use sha2::{Sha256, Sha512};
use tokio::time::Instant;

use crate::Images;
use crate::bring::Failures;
use crate::content::{Temporary, hex};
use crate::db::images::Content;
use crate::model::Image;
use crate::op::HOURS;

/// A hash that is computed, and what has to come out.
struct Sum {
    digest: Box<dyn DynDigest + Send>,
    wanted: String,
}

impl Sum {
    /// None: nobody knows the image's hash.
    fn of(image: &Image) -> Option<Sum> {
        if let Some(sha256) = &image.sha256 {
            return Some(Sum { digest: Box::<Sha256>::default(), wanted: sha256.clone() });
        }
        // The one algorithm by which others say what their content is.
        let wanted = image.os_hash_value.clone().filter(|_| image.os_hash_algo.as_deref() == Some("sha512"))?;
        Some(Sum { digest: Box::<Sha512>::default(), wanted })
    }
}

/// Content on its way through.
struct Passing {
    body: Upload,
    /// Bytes that come and were not asked for.
    before: u64,
    left: u64,
    sum: Option<Sum>,
}

impl Passing {
    /// The last piece is given out only when all that came is what it should be.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.left > 0 {
            let Some(mut piece) = self.body.chunk().await? else { return Err(Error::unavailable("The content ended early.")) };
            let before = piece.len().min(usize::try_from(self.before).unwrap_or(usize::MAX));
            piece.advance(before);
            self.before -= before as u64;
            piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            if piece.is_empty() {
                continue;
            }
            self.left -= piece.len() as u64;
            if let Some(sum) = &mut self.sum {
                sum.digest.update(&piece);
            }
            if let Some(sum) = self.sum.take_if(|_| self.left == 0)
                && hex(&sum.digest.finalize()) != sum.wanted
            {
                return Err(Error::unavailable("The content is not what its hash says."));
            }
            return Ok(Some(piece));
        }
        Ok(None)
    }
}

impl Images {
    /// `length` bytes from `start` of an image's content, from this address.
    pub(crate) async fn web_read(&self, image: &Image, url: &str, start: u64, length: u64) -> Result<Body> {
        let size = image.size.unwrap_or_default();
        let (body, before) = self.0.sources.part(url, size, start, length).await?;
        let sum = if length == size { Sum::of(image) } else { None };
        let (passing, id) = (Passing { body, before, left: length, sum }, image.id.clone());
        let pieces = stream::try_unfold((passing, id), |(mut passing, id)| async move {
            match passing.next().await {
                Ok(piece) => Ok(piece.map(|piece| (piece, (passing, id)))),
                Err(error) => {
                    tracing::warn!(image = id, "a download is broken off: {}", error.chain());
                    Err(error)
                }
            }
        });
        Ok(Body::from_stream(pieces))
    }

    /// Brings an image's content from the first of these addresses that has it: hashed, looked into, and compared with what is known.
    /// None when none has, for `failures`. `upload`: as which it is received.
    pub(crate) async fn web_fetch(
        &self,
        image: &Image,
        urls: &[&str],
        upload: &str,
        failures: &mut Failures,
    ) -> Option<(Temporary, Content)> {
        // A server that sends a little now and then would be waited for without end.
        let end = Instant::now() + HOURS;
        for url in urls {
            let fetched = tokio::time::timeout_at(end, self.web_fetch_from(image, url, upload)).await;
            match fetched {
                Ok(Ok(fetched)) => return Some(fetched),
                Ok(Err(error)) => failures.add(error),
                Err(_) => {
                    failures.add(Error::timeout(format!("{url} does not come to its end.")));
                    return None;
                }
            }
        }
        None
    }

    async fn web_fetch_from(&self, image: &Image, url: &str, upload: &str) -> Result<(Temporary, Content)> {
        let max = image.size.unwrap_or(self.core().config.int("image.max_bytes"));
        let mut body = self.0.sources.get(url, max).await?;
        let written = self.write_down(upload, self.stores().local(), max, &mut body, None, false).await?;
        written.facts.check(image)?;
        let found = self.judge(image, written.facts.clone(), &written.inspector)?;
        Ok((written.into_file(), found))
    }

    /// What there is at an address that somebody wants to give to an image, in bytes.
    pub(crate) async fn web_size(&self, image: &Image, url: &str) -> Result<u64> {
        let size = self.0.sources.size(url).await?;
        let max = self.core().config.int("image.max_bytes");
        match image.size {
            _ if size > max => Err(crate::content::too_large(max)),
            Some(known) if known != size => Err(Error::invalid(format!("{url} has {size} bytes, the image has {known}."))),
            _ => Ok(size),
        }
    }
}
