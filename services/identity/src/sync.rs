//! Reconcilers: the keys of tokens grow old, revocations and ended trusts are forgotten.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base::Result;

use crate::Identity;
use crate::token::keys::{self, Keys};
use crate::token::validate::revocations_prune_in;
use crate::trusts::trusts_prune_in;

/// Makes a new key primary when the present one is as old as the configuration allows.
pub struct TokenKeys(pub Identity);

#[async_trait]
impl task::Reconciler for TokenKeys {
    fn name(&self) -> &'static str {
        "identity.token_keys"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(60)
    }
    async fn run(&self) -> Result<()> {
        let inner = &self.0.0;
        let rotation = Duration::from_secs(inner.config.int("token.key_rotation_seconds").max(1));
        if self.0.keys().age() < rotation {
            return Ok(());
        }
        let keep = keys::needed(self.0.token_lifetime().max(crate::token::validate::EXPIRED_WINDOW), rotation);
        let directory = inner.key_directory.clone();
        let fresh = tokio::task::spawn_blocking(move || {
            keys::rotate(&directory, keep)?;
            Keys::open(&directory)
        });
        let fresh = fresh.await.map_err(|e| base::Error::internal("rotating the token keys").caused_by(e))??;
        *inner.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        tracing::info!("a new token key is primary");
        Ok(())
    }
}

/// Forgets revocations of tokens that are over anyway, and trusts that have ended.
pub struct Revocations(pub Identity);

#[async_trait]
impl task::Reconciler for Revocations {
    fn name(&self) -> &'static str {
        "identity.revocations"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(3600)
    }
    async fn run(&self) -> Result<()> {
        let prune = |tx: &store::Tx| {
            revocations_prune_in(tx)?;
            trusts_prune_in(tx)
        };
        self.0.0.store.write(prune).await.map(|_| ())
    }
}
