//! Events on their way out of the cloud. Each way follows the outbox with a durable cursor of its own: what happened while it was
//! not there, or while we were not, is delivered in its order, and at least once.

pub mod syslog;
pub mod webhook;

use std::time::Duration;

use async_trait::async_trait;
use base::Result;
use events::{Feed, Recorded};
use store::Store;
use task::Reconciler;

use crate::EVENTS;

/// Rows looked at at a time.
const BATCH: u64 = 200;
/// The longest pause between attempts; the first is a quarter of a second.
const LONGEST: Duration = Duration::from_secs(60);

/// A way out.
#[async_trait]
pub trait Way: Send + Sync + 'static {
    /// Also the name of its cursor: `fault.syslog`.
    fn name(&self) -> &'static str;
    /// An error brings the same event again, later.
    async fn deliver(&self, event: &Recorded) -> Result<()>;
}

/// Follows the outbox for one way.
pub struct Carrier<W> {
    pub store: Store,
    pub way: W,
}

#[async_trait]
impl<W: Way> Reconciler for Carrier<W> {
    fn name(&self) -> &'static str {
        self.way.name()
    }
    fn every(&self) -> Duration {
        LONGEST
    }
    async fn run(&self) -> Result<()> {
        let mut feed = Feed::open_new(&self.store, self.way.name()).await?;
        loop {
            let batch = feed.next(BATCH).await?;
            let Some(last) = batch.last().map(|event| event.seq) else { return Ok(()) };
            for event in batch.iter().filter(|event| event.event.event_type.starts_with(EVENTS)) {
                if let Err(error) = self.way.deliver(event).await {
                    feed.commit(event.seq - 1).await?;
                    return Err(error);
                }
            }
            feed.commit(last).await?;
        }
    }
}
