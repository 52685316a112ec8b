//! The pairs that sign tokens: each controller has its own, and tells the others of its database whom to believe.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base::Result;

use crate::shared_keys::blocking;
use crate::token::jws::Signatures;
use crate::token::pairs::{Pairs, public_of};
use crate::token::published::{RENEW, public_keys_in, publish_in};
use crate::token::validate::EXPIRED_WINDOW;
use crate::{Identity, sync};

impl Identity {
    fn pairs(&self) -> PathBuf {
        self.0.config.home().join("keys/jws")
    }

    /// For how long a key that signs no more is believed: until the last token of it is over, which its controller may have made until it had to say
    /// again that it is there.
    fn pairs_keep(&self) -> Duration {
        self.token_lifetime() + EXPIRED_WINDOW + 2 * RENEW
    }

    /// Reads the pairs, tells the other controllers of ours and hears of theirs. Nothing when tokens are sealed.
    pub(crate) async fn signatures_follow(&self) -> Result<()> {
        let Some(signatures) = &self.0.signatures else { return Ok(()) };
        let (directory, keep) = (self.pairs(), self.pairs_keep());
        let pairs = blocking(move || Pairs::open(&directory, keep)).await?;
        let others = if self.0.store.is_sqlite() { Vec::new() } else { self.public_keys(pairs.published()?).await? };
        let readable = |text: &String| {
            let key = public_of(text);
            if key.is_none() {
                tracing::warn!("what the database has for a public key of tokens is none");
            }
            key
        };
        let fresh = Arc::new(Signatures::of(pairs, others.iter().filter_map(readable).collect()));
        let before = {
            let mut present = signatures.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *present, fresh.clone())
        };
        if fresh.has_lost(&before) {
            // What they signed is void.
            self.0.cache.invalidate();
        }
        Ok(())
    }

    /// Of all controllers. Ours are there when this returns, so nothing is signed that another would not believe.
    async fn public_keys(&self, own: Vec<String>) -> Result<Vec<String>> {
        let keep = self.pairs_keep();
        if let Some(all) = self.0.store.read(|tx| public_keys_in(tx, &own, keep)).await? {
            return Ok(all);
        }
        let publish = self.0.store.write(move |tx| {
            if publish_in(tx, &own, keep)? {
                task::nudge_in(tx, sync::KEYS);
            }
            public_keys_in(tx, &own, keep)
        });
        Ok(publish.await?.unwrap_or_default())
    }

    /// Signs with the next pair from now on. With `age` only when the present one has signed for so long.
    pub(crate) async fn signatures_rotate(&self, age: Option<Duration>) -> Result<()> {
        if self.0.signatures.is_none() {
            return Ok(());
        }
        // The next one is everybody's knowledge first.
        self.signatures_follow().await?;
        let (directory, keep) = (self.pairs(), self.pairs_keep());
        let done = blocking(move || {
            if age.is_some_and(|age| Pairs::open(&directory, keep).is_ok_and(|pairs| pairs.age() < age)) {
                return Ok(false);
            }
            Pairs::rotate(&directory).map(|()| true)
        });
        if done.await? {
            tracing::info!("a new key signs tokens");
            self.signatures_follow().await?;
        }
        Ok(())
    }
}
