//! What other controllers change is seen here at once. Reconcilers: the keys of tokens grow old, revocations and ended trusts are forgotten,
//! directories are looked at again.

use std::time::Duration;

use async_trait::async_trait;
use base::Result;

use crate::federation::saml::replay::assertion_uses_prune_in;
use crate::federation::shadow::memberships_prune_in;
use crate::shared_keys::Repository;
use crate::token::cache::Cache;
use crate::token::keys;
use crate::token::validate::revocations_prune_in;
use crate::trusts::trusts_prune_in;
use crate::{Identity, application_credentials, oauth1};

/// The channel on which controllers tell each other that answers about tokens have changed.
const CHANGED: &str = "identity.changed";

/// Once this is committed, every token is looked up again, here and on the other controllers.
pub fn changed_in(tx: &store::Tx, cache: Cache) {
    tx.after_commit(move || cache.invalidate());
    tell(tx);
}

/// Tells the other controllers, once this is committed.
fn tell(tx: &store::Tx) {
    if !tx.is_sqlite() {
        tx.nudge(CHANGED);
    }
}

/// Makes the tokens in memory void whenever another controller has changed something. While the database cannot tell, they are read
/// again after a second ([`Cache::new`]).
pub fn follow(store: &store::Store, cache: Cache) {
    if store.is_sqlite() {
        return;
    }
    let mut changed = store.watch(CHANGED);
    tokio::spawn(async move {
        loop {
            changed.wait().await;
            cache.invalidate();
        }
    });
}

/// The name of [`FollowKeys`].
pub const KEYS: &str = "identity.keys";

/// Reads all keys again: another controller may have rotated, the operator, or a keystone that shares them. Signs with the next pair when the own one
/// is as old as the configuration allows.
pub struct FollowKeys(pub Identity);

#[async_trait]
impl task::Reconciler for FollowKeys {
    fn name(&self) -> &'static str {
        KEYS
    }
    fn every(&self) -> Duration {
        Duration::from_secs(60)
    }
    fn everywhere(&self) -> bool {
        true
    }
    async fn run(&self) -> Result<()> {
        self.0.keys_follow().await?;
        // Each controller has a pair of its own, and none of the others can make a new one.
        match self.0.0.config.int("token.key_rotation_seconds") {
            0 => Ok(()),
            seconds => self.0.signatures_rotate(Some(Duration::from_secs(seconds))).await,
        }
    }
}

/// Makes a new key of tokens primary when the present one is as old as the configuration allows.
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
        // Somebody else may have rotated.
        self.0.keys_follow().await?;
        match self.0.0.config.int("token.key_rotation_seconds") {
            0 => Ok(()),
            seconds => self.rotate(Some(Duration::from_secs(seconds))).await,
        }
    }
}

impl TokenKeys {
    /// With `age` only when the primary key is that old.
    pub async fn rotate(&self, age: Option<Duration>) -> Result<()> {
        let rotation = match self.0.0.config.int("token.key_rotation_seconds") {
            // By hand: as many are kept as when it were done each day.
            0 => Duration::from_secs(86_400),
            seconds => Duration::from_secs(seconds),
        };
        let keep = keys::needed(self.0.token_lifetime().max(crate::token::validate::EXPIRED_WINDOW), rotation);
        self.0.keys_rotate_in(Repository::Token, keep, age).await
    }
}

/// Disables who was not seen for too long.
pub struct InactiveUsers(pub Identity);

#[async_trait]
impl task::Reconciler for InactiveUsers {
    fn name(&self) -> &'static str {
        "identity.inactive_users"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(3600)
    }
    async fn run(&self) -> Result<()> {
        self.0.inactive_users_disable().await
    }
}

/// Forgets revocations of tokens that are over anyway, and trusts, application credentials and tokens of OAuth that have ended.
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
            application_credentials::prune_in(tx)?;
            oauth1::prune_in(tx)?;
            assertion_uses_prune_in(tx)?;
            trusts_prune_in(tx)
        };
        self.0.0.store.write(prune).await.map(|_| ())
    }
}

/// Looks again at the directories of domains, so that who is disabled or gone there is not valid here for long.
pub struct Directories(pub Identity);

#[async_trait]
impl task::Reconciler for Directories {
    fn name(&self) -> &'static str {
        "identity.directories"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(300)
    }
    async fn run(&self) -> Result<()> {
        self.0.directories_refresh().await
    }
}

/// Ends memberships that an identity provider told of too long ago.
pub struct Memberships(pub Identity);

#[async_trait]
impl task::Reconciler for Memberships {
    fn name(&self) -> &'static str {
        "identity.memberships"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(60)
    }
    async fn run(&self) -> Result<()> {
        let cache = self.0.0.cache.clone();
        let prune = move |tx: &store::Tx| {
            if memberships_prune_in(tx)? > 0 {
                changed_in(tx, cache);
            }
            Ok(())
        };
        self.0.add(prune).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_controllers_change_makes_tokens_void_here() {
        let database = store::testing::postgres(&[]).await;
        let (one, two) = (store::Store::open(&database.url).await.unwrap(), store::Store::open(&database.url).await.unwrap());
        let cache = Cache::new(true);
        follow(&two, cache.clone());
        // Until the second one listens, which makes everybody look once.
        let mut listens = two.watch("listens");
        while tokio::time::timeout(Duration::from_millis(20), listens.wait()).await.is_err() {
            one.write(|tx| {
                tx.nudge("listens");
                Ok(())
            })
            .await
            .unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = cache.generation();
        one.write(|tx| {
            tell(tx);
            Ok(())
        })
        .await
        .unwrap();
        let limit = tokio::time::Instant::now() + Duration::from_secs(30);
        while cache.generation() == before {
            assert!(tokio::time::Instant::now() < limit, "nothing was heard");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        one.close().await;
        two.close().await;
        database.delete().await;
    }
}
