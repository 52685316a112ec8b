//! Starts failed guests of hosts that are well anew (VIM specification, section 3, "recovery audit"). A guest whose process dies is
//! running again before this hears of it: its host heals it by itself, and this is for what that has given up.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use base::{Result, Timestamp};
use compute::Compute;
use inventory::Inventory;
use service::Core;
use task::Reconciler;

use crate::office;
use crate::recovery::{TRIES, WINDOW, due};

/// Started in one batch, and when very many have failed; and the pause between two.
const BATCH: usize = 4;
const THROTTLED: usize = 2;
const VERY_MANY: usize = 250;
const PAUSE: Duration = Duration::from_secs(2);

pub struct Mending {
    pub core: Core,
    pub inventory: Inventory,
    pub compute: Compute,
}

impl Mending {
    /// How long a guest that has failed is left alone.
    fn hold(&self) -> Duration {
        Duration::from_secs(self.core.config.int("recovery.hold_seconds"))
    }
}

#[async_trait]
impl Reconciler for Mending {
    fn name(&self) -> &'static str {
        "maintenance.mending"
    }

    fn every(&self) -> Duration {
        // Tests shorten the one with the other.
        PAUSE.min(self.hold().max(Duration::from_millis(100)))
    }

    async fn run(&self) -> Result<()> {
        let broken = self.core.store.read(|tx| self.compute.broken_in(tx, WINDOW)).await?;
        if broken.is_empty() || !office::is_stable(&self.core, &self.inventory).await? {
            return Ok(());
        }
        let hosts = self.core.store.read(|tx| self.inventory.hosts_in(tx)).await?;
        // One that is being worked on is left alone.
        let well = |host: &inventory::Host| host.operational() == "enabled" && !host.is_waited_for() && host.task.is_empty();
        let well: BTreeSet<String> = hosts.into_iter().filter(well).map(|host| host.uuid).collect();
        let hold = self.hold();
        let now = Timestamp::now();
        let mut room = if broken.len() > VERY_MANY { THROTTLED } else { BATCH };
        for server in broken.into_iter().filter(|server| well.contains(&server.host_id) && !server.exhausted) {
            if server.tries.len() >= TRIES {
                tracing::error!(server = server.id, "it is tried no more");
                let compute = self.compute.clone();
                self.core.store.write(move |tx| compute.mend_exhausted_in(tx, &server.id)).await?;
                continue;
            }
            if room == 0 || now.since(server.since) < hold || !due(&server.tries, now, hold) {
                continue;
            }
            room -= 1;
            // One that cannot be tried keeps no other.
            if let Err(error) = self.compute.mend(&server.id).await {
                tracing::warn!(server = server.id, "not mended: {}", error.chain());
            }
        }
        Ok(())
    }
}
