//! Keeps the tables of what is over from growing for ever.

use std::time::Duration;

use async_trait::async_trait;
use base::Result;
use task::Reconciler;

const HOUR: Duration = Duration::from_secs(3600);
/// How long ended operations and events that everybody has seen can still be looked at.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

pub struct Housekeeping {
    pub store: store::Store,
    pub tasks: task::Engine,
}

#[async_trait]
impl Reconciler for Housekeeping {
    fn name(&self) -> &'static str {
        "housekeeping"
    }
    fn every(&self) -> Duration {
        HOUR
    }
    async fn run(&self) -> Result<()> {
        let operations = self.tasks.prune(KEEP).await?;
        let events = events::prune(&self.store, KEEP).await?;
        if operations + events > 0 {
            tracing::info!(operations, events, "old rows deleted");
        }
        Ok(())
    }
}
