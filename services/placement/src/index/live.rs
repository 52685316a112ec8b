//! The index as it follows the store.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use base::Result;
use store::{Store, Tx};
use tokio::sync::{Mutex, Notify};

use super::{Index, News, providers_in};
use crate::change;

/// The index, and whoever brings it up to date.
#[derive(Default)]
pub struct Live {
    index: RwLock<Index>,
    /// One at a time reads what is new.
    reading: Mutex<()>,
    /// Somebody had to read much that the index does not know yet.
    behind: Notify,
}

impl Live {
    /// The index as it is.
    pub fn get(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the index to what was committed before this call, or later.
    pub async fn catch_up(&self, store: &Store) -> Result<()> {
        let version = store.read(change::version_in).await?;
        if self.get().version() >= Some(version) {
            return Ok(());
        }
        let _turn = self.reading.lock().await;
        let seen = self.get().version();
        let news = store.read(|tx| news_in(tx, seen)).await?;
        if Some(news.version) > seen {
            let all = news.all;
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            index.apply(news);
            if all {
                let (providers, bytes) = index.size();
                tracing::info!(providers, bytes, "the index of placement was read");
            }
        }
        Ok(())
    }

    /// Has the index brought up to date soon.
    pub fn fell_behind(&self) {
        self.behind.notify_one();
    }

    /// Brings the index up to date whenever it fell behind.
    pub async fn follow(&self, store: &Store) {
        loop {
            self.behind.notified().await;
            if let Err(error) = self.catch_up(store).await {
                tracing::warn!(?error, "the index of placement could not be brought up to date");
            }
        }
    }
}

/// What is new since `seen`, as one snapshot shows it.
fn news_in(tx: &Tx, seen: Option<i64>) -> Result<News> {
    let version = change::version_in(tx)?;
    let Some(seen) = seen else {
        return Ok(News { version, all: true, providers: providers_in(tx, None)?, gone: Vec::new() });
    };
    let changed = change::since_in(tx, seen)?;
    let providers = providers_in(tx, Some(&changed))?;
    let there: std::collections::HashSet<&str> = providers.iter().map(|p| p.uuid.as_str()).collect();
    let gone = changed.iter().filter(|uuid| !there.contains(uuid.as_str())).cloned().collect();
    Ok(News { version, all: false, providers, gone })
}
