//! The event log's second limit: age.

use std::time::Duration;

use async_trait::async_trait;
use base::{Result, Timestamp};
use service::Core;
use store::{Store, params};
use task::Reconciler;

const DAY: i64 = 24 * 3600 * 1_000_000;

/// Deletes events that are older than the configuration wants them kept.
pub(crate) struct History {
    store: Store,
    /// None: only the log's size counts.
    days: Option<i64>,
}

impl History {
    pub fn new(core: &Core) -> History {
        let days = i64::try_from(core.config.int("fault.event_log_days")).unwrap_or(0);
        History { store: core.store.clone(), days: (days > 0).then_some(days) }
    }
}

#[async_trait]
impl Reconciler for History {
    fn name(&self) -> &'static str {
        "fault.history"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(3600)
    }
    async fn run(&self) -> Result<()> {
        let Some(days) = self.days else { return Ok(()) };
        let before = Timestamp(Timestamp::now().micros().saturating_sub(days.saturating_mul(DAY)));
        self.store.write(move |tx| tx.execute("DELETE FROM event_log WHERE raised_at < ?1", params![before])).await.map(drop)
    }
}
