//! The reconciler of image content.

use std::time::Duration;

use async_trait::async_trait;
use base::Result;

use crate::Images;

/// Removes files that no image has, ends uploads that have died, and forgets tasks whose time is over.
pub struct Content(pub Images);

#[async_trait]
impl task::Reconciler for Content {
    fn name(&self) -> &'static str {
        "image.content"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(60)
    }
    async fn run(&self) -> Result<()> {
        self.0.tasks_expire().await?;
        self.0.content_reconcile().await
    }
}

/// Brings the content of images that are queued for the cache.
pub struct Cache(pub Images);

#[async_trait]
impl task::Reconciler for Cache {
    fn name(&self) -> &'static str {
        "image.cache"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(60)
    }
    async fn run(&self) -> Result<()> {
        self.0.cache_fill().await
    }
}
