//! Content brought to where hosts take it from, when a server or a volume shall be made of an image that only other stores have.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use base::{Error, Result};
use task::StepContext;

use crate::Images;
use crate::db::images as db;

/// How often it is told how far the content is, and seen whether it is wanted any more.
const LOOK: Duration = Duration::from_millis(500);

/// Content on its way here: whoever wants what is coming already waits for it.
#[derive(Default)]
pub struct Coming(Mutex<HashMap<String, Weak<Arrival>>>);

#[derive(Default)]
pub struct Arrival {
    /// Held by whoever brings it.
    pub turn: tokio::sync::Mutex<()>,
    file: OnceLock<PathBuf>,
}

impl Arrival {
    /// Says where it lands, so that others see how far it is.
    pub fn lands(&self, file: &Path) {
        let _ = self.file.set(file.to_path_buf());
    }

    /// Bytes that are here.
    fn bytes(&self) -> u64 {
        self.file.get().and_then(|file| std::fs::metadata(file).ok()).map_or(0, |file| file.len())
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

impl Images {
    /// Sees to it that hosts can take this content from here, as a step of a durable operation: done again it finds what is there,
    /// and what it brings stays in the cache. Content that no image has any more may be with the hosts yet: that is theirs to say.
    pub async fn content_bring(&self, cx: &StepContext, sha256: &str) -> Result<()> {
        let missing = self.core().store.read(|tx| match db::content_here(tx, sha256)? {
            true => Ok(None),
            false => db::image_of_content(tx, sha256),
        });
        let Some((id, size)) = missing.await? else { return Ok(()) };
        let arrival = self.coming().arrival(sha256);
        let told = async {
            let mut before = 0;
            loop {
                tokio::time::sleep(LOOK).await;
                if cx.cancelled() {
                    return Err(Error::conflict(format!("Image {id} is not wanted here any more.")));
                }
                let percent = u8::try_from(arrival.bytes().saturating_mul(100) / size.max(1)).unwrap_or(100).min(100);
                if percent > before {
                    before = percent;
                    cx.progress(percent).await?;
                }
            }
        };
        // How long it takes is for the other store to say: other steps go on.
        let brought = cx.aside(async {
            tokio::select! {
                brought = self.cache_now(&id) => brought,
                ended = told => ended,
            }
        });
        brought.await?
    }
}
