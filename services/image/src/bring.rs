//! Content brought to where hosts take it from, when a server or a volume shall be made of an image that only other stores have.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base::{Error, Kind, Result};
use task::StepContext;
use tokio::sync::OwnedMutexGuard;

use crate::Images;
use crate::db::images as db;
use crate::model::Image;
use crate::stores::Store;
use crate::uploads::Receiving;

/// How often it is told how far the content is, and seen whether it is wanted any more.
const LOOK: Duration = Duration::from_millis(500);

/// Content on its way here: whoever wants what is coming already waits for it.
#[derive(Default)]
pub struct Coming(Mutex<HashMap<String, Weak<Arrival>>>);

#[derive(Default)]
pub struct Arrival {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Where it lands.
    file: Mutex<Option<PathBuf>>,
}

impl Arrival {
    /// Waits until nobody else brings it.
    pub async fn turn(self: Arc<Self>, images: &Images) -> Turn {
        let held = self.turn.clone().lock_owned().await;
        Turn { receiving: Receiving::named(images, base::id::uuid()), arrival: self, _held: held }
    }

    fn file(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are here.
    pub fn bytes(&self) -> u64 {
        self.file().as_ref().and_then(|file| std::fs::metadata(file).ok()).map_or(0, |file| file.len())
    }
}

/// The turn of whoever brings content. What blocks has a share of it: it goes on when nobody waits for it any more, and the next one begins
/// after it.
pub struct Turn {
    /// What comes is not in its place, and nobody may tidy it away.
    receiving: Receiving,
    arrival: Arc<Arrival>,
    _held: OwnedMutexGuard<()>,
}

impl Turn {
    /// As which it is received.
    pub fn upload(&self) -> &str {
        self.receiving.id()
    }

    /// Says where it lands, so that others see how far it is.
    pub fn lands(&self, file: &Path) {
        *self.arrival.file() = Some(file.to_path_buf());
    }
}

impl Coming {
    pub fn arrival(&self, sha256: &str) -> Arc<Arrival> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, arrival| arrival.strong_count() > 0);
        if let Some(arrival) = all.get(sha256).and_then(Weak::upgrade) {
            return arrival;
        }
        let arrival = Arc::new(Arrival::default());
        all.insert(sha256.to_string(), Arc::downgrade(&arrival));
        arrival
    }
}

/// What went wrong at the places of an image's content. Where it lies is for the log only: an address may have a secret in it.
pub struct Failures {
    image: String,
    worst: Option<Error>,
}

impl Failures {
    pub fn of(image: &Image) -> Failures {
        Failures { image: image.id.clone(), worst: None }
    }

    pub fn add(&mut self, error: Error) {
        tracing::warn!(image = self.image, "content does not come from one of its places: {}", error.chain());
        keep_worse(&mut self.worst, error);
    }

    /// What the caller is told.
    pub fn end(self) -> Error {
        let missing = format!("The content of image {} is not there.", self.image);
        match self.worst {
            // It is about the image and not about its place.
            Some(error) if error.is(Kind::UnsupportedMediaType) => error,
            Some(error) => Error::new(error.kind(), missing).caused_by(error),
            None => Error::unavailable(missing),
        }
    }
}

/// What may pass by itself counts most, as it is worth another try; then the last.
fn keep_worse(worst: &mut Option<Error>, error: Error) {
    if error.is_transient() || !worst.as_ref().is_some_and(Error::is_transient) {
        *worst = Some(error);
    }
}

/// For whom the image may be somebody else's that has the same content.
fn of_any(error: Error) -> Error {
    Error::new(error.kind(), "The content of the image is not there.").caused_by(error)
}

/// Tells how much of `size` there is, until the operation is cancelled: that is the error.
pub async fn told(cx: &StepContext, size: u64, bytes: impl Fn() -> u64) -> Result<()> {
    let mut before = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        if cx.cancelled() {
            return Err(Error::conflict("The image is not wanted here any more."));
        }
        let percent = u8::try_from(bytes().saturating_mul(100) / size.max(1)).unwrap_or(100).min(100);
        if percent > before {
            before = percent;
            cx.progress(percent).await?;
        }
    }
}

impl Images {
    /// Sees to it that hosts can take this content from here, as a step of a durable operation: done again it finds what is there,
    /// and what it brings stays in the cache. Content that no image has any more may be with the hosts yet: that is theirs to say.
    pub async fn content_bring(&self, cx: &StepContext, sha256: &str) -> Result<()> {
        let candidates = self.core().store.read(|tx| match db::content_here(tx, sha256)? {
            true => Ok(Vec::new()),
            false => db::images_of_content(tx, sha256),
        });
        let mut candidates = candidates.await?;
        let Some(size) = candidates.first().map(|image| image.size) else { return Ok(()) };
        // Stores of ours are asked before other people's servers.
        let of_others = |store: &String| self.stores().find(store).is_none_or(Store::is_read_only);
        candidates.sort_by_key(|image| image.stores.iter().all(of_others));
        let arrival = self.coming().arrival(sha256);
        let told = told(cx, size, || arrival.bytes());
        // How long it takes is for the other store to say: other steps go on.
        let brought = cx.aside(async {
            tokio::select! {
                brought = self.bring_any(&candidates) => brought,
                ended = told => ended,
            }
        });
        brought.await?
    }
    /// Brings the content of the first of these images that can be had.
    async fn bring_any(&self, candidates: &[db::Candidate]) -> Result<()> {
        let mut worst = None;
        for image in candidates {
            match self.cache_now(&image.id).await {
                Ok(()) => return Ok(()),
                Err(error) => keep_worse(&mut worst, error),
            }
        }
        worst.map_or(Ok(()), |error| Err(of_any(error)))
    }
}
