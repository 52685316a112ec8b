//! The keys of this controller and those of the others: in a shared database, all have the same without anybody copying files.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use base::{Error, Result};

use crate::token::keys::{self, Keys};
use crate::token::ring::Ring;
use crate::token::shared::{Seal, agree_in, are_in, rotate_in};
use crate::{Identity, sync};

/// Of tokens, and of secrets in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repository {
    Token,
    Credential,
}

impl Repository {
    const ALL: [Repository; 2] = [Repository::Token, Repository::Credential];

    fn name(self) -> &'static str {
        match self {
            Repository::Token => "token",
            Repository::Credential => "credential",
        }
    }

    /// The setting that names a directory of somebody's own: then that is in force, and not the database.
    fn setting(self) -> &'static str {
        match self {
            Repository::Token => "token.key_directory",
            Repository::Credential => "credential.key_repository",
        }
    }
}

/// How often an unknown key makes us look whether there are new ones.
const LOOK: Duration = Duration::from_secs(1);

impl Identity {
    fn ring(&self, repository: Repository) -> &Ring {
        match repository {
            Repository::Token => &self.0.keys,
            Repository::Credential => &self.0.credential_keys,
        }
    }

    /// None: the directory is in force.
    fn seal(&self, repository: Repository) -> Option<&Seal> {
        self.0.seal.as_ref().filter(|_| self.0.config.text(repository.setting()).is_empty())
    }

    /// As [`Identity::keys_follow`], at the start: also keys that are known are opened, so that a secret that was changed is told, or made good.
    pub(crate) async fn keys_begin(&self) -> Result<()> {
        for repository in Repository::ALL {
            if self.seal(repository).is_some() {
                let own = self.own(repository).await?;
                self.keys_take(repository, own).await?;
            }
        }
        self.signatures_follow().await
    }

    /// Reads all keys again: of the database where they are shared, else of their directories.
    pub(crate) async fn keys_follow(&self) -> Result<()> {
        for repository in Repository::ALL {
            match self.seal(repository) {
                Some(_) => self.keys_agree(repository).await?,
                None => self.keys_reload(repository, |_| Ok(())).await?,
            }
        }
        self.signatures_follow().await
    }

    /// Makes the staged key primary. With `age` only when the primary key is that old.
    pub(crate) async fn keys_rotate_in(&self, repository: Repository, keep: usize, age: Option<Duration>) -> Result<()> {
        if self.seal(repository).is_none() {
            if age.is_some_and(|age| self.ring(repository).keys().age() < age) {
                return Ok(());
            }
            self.keys_reload(repository, move |ring| keys::rotate(ring.directory(), keep)).await?;
            tracing::info!("a new key is primary: {}", repository.name());
            return Ok(());
        }
        let identity = self.clone();
        let own = self.own(repository).await?;
        let done = self.0.store.write(move |tx| {
            let seal = identity.seal(repository).ok_or_else(|| Error::internal("keys that are not shared"))?;
            let done = rotate_in(tx, repository.name(), seal, &own, keep, age)?;
            if done {
                task::nudge_in(tx, sync::KEYS);
            }
            Ok(done)
        });
        if done.await? {
            tracing::info!("a new key is primary: {}", repository.name());
        }
        self.keys_agree(repository).await
    }

    /// A token that no key opens may be of a controller that has rotated twice since we looked, one that nobody signed of a controller that is new. Whether
    /// to try again.
    pub(crate) async fn keys_missed(&self, token: &str) -> Result<bool> {
        let signed = self.0.signatures.is_some() && token.contains('.');
        let is_alone = if signed { self.0.store.is_sqlite() } else { self.seal(Repository::Token).is_none() };
        if is_alone {
            return Ok(false);
        }
        {
            // Whoever sends nonsense makes nobody look more often.
            let mut last = self.0.keys_missed.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < LOOK) {
                return Ok(false);
            }
            *last = Some(Instant::now());
        }
        if signed {
            self.signatures_follow().await?;
            return Ok(true);
        }
        let before = self.keys();
        self.keys_agree(Repository::Token).await?;
        Ok(!before.are(&self.keys()))
    }

    /// The keys in the directory.
    async fn own(&self, repository: Repository) -> Result<keys::Texts> {
        let directory = self.ring(repository).directory().to_path_buf();
        blocking(move || keys::texts(&directory)).await
    }

    /// Makes the keys here those of the database, which gets the ones here when it has none.
    async fn keys_agree(&self, repository: Repository) -> Result<()> {
        let own = self.own(repository).await?;
        if self.0.store.read(|tx| are_in(tx, repository.name(), &own)).await? && self.ring(repository).keys().are(&Keys::of(&own)?) {
            return Ok(());
        }
        self.keys_take(repository, own).await
    }

    /// Takes the keys of the database, which gets the own ones when it has none.
    async fn keys_take(&self, repository: Repository, own: keys::Texts) -> Result<()> {
        let identity = self.clone();
        let agreed = self.0.store.write(move |tx| {
            let seal = identity.seal(repository).ok_or_else(|| Error::internal("keys that are not shared"))?;
            agree_in(tx, repository.name(), seal, &own)
        });
        let agreed = agreed.await?;
        let fresh = Keys::of(&agreed)?;
        let directory = self.ring(repository).directory().to_path_buf();
        blocking(move || keys::replace(&directory, &agreed)).await?;
        if self.ring(repository).put(fresh) && repository == Repository::Token {
            self.0.cache.invalidate();
        }
        Ok(())
    }

    /// Reads a directory again, after `first` is done with it.
    async fn keys_reload(&self, repository: Repository, first: impl FnOnce(&Ring) -> Result<()> + Send + 'static) -> Result<()> {
        let identity = self.clone();
        let is_new = blocking(move || {
            first(identity.ring(repository))?;
            identity.ring(repository).reload()
        });
        if is_new.await? && repository == Repository::Token {
            // What was sealed with a key that is gone is void.
            self.0.cache.invalidate();
        }
        Ok(())
    }
}

pub async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(|e| Error::internal("looking at keys").caused_by(e))?
}
