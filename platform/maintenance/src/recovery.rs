//! Brings the guests of fenced hosts up elsewhere (VIM specification, section 3): in the order of their priorities, a few at a
//! time, and one that fails again and again less and less often.

use std::time::Duration;

use async_trait::async_trait;
use base::{Context, Result, Timestamp};
use compute::Compute;
use compute::servers::{Evacuate, Stranded};
use inventory::Inventory;
use service::Core;
use store::Tx;
use task::Reconciler;

use crate::office;

/// Evacuations under way at once, from all hosts.
pub const AT_ONCE: usize = 8;
const EVERY: Duration = Duration::from_secs(1);
/// Tries of one guest within [`WINDOW`], and the pause after the first, doubled after each up to so many of them.
pub const TRIES: usize = 5;
pub const WINDOW: Duration = Duration::from_secs(3600);
const PAUSE: Duration = Duration::from_secs(30);
const LONGEST: u32 = 32;
/// How often this looks whether there is room again, while more wait for it.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Recovery {
    pub core: Core,
    pub inventory: Inventory,
    pub compute: Compute,
}

#[async_trait]
impl Reconciler for Recovery {
    fn name(&self) -> &'static str {
        "maintenance.recovery"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self) -> Result<()> {
        let end = tokio::time::Instant::now() + EVERY;
        while self.begin_some().await? {
            tokio::time::sleep(LOOK).await;
            // A run is no longer than a controller that died in it should be missed for.
            if tokio::time::Instant::now() > end {
                task::nudge_here(&self.core.store, self.name());
                break;
            }
        }
        Ok(())
    }
}

/// Whether it is one that is brought up elsewhere.
pub fn recovers(server: &Stranded) -> bool {
    server.auto_recovery && server.leased && server.task_state.is_none() && server.obstacle.is_none()
}

/// Whether a guest with these tries behind it, the newest last, is to be tried now.
pub fn due(tries: &[Timestamp], now: Timestamp, pause: Duration) -> bool {
    match tries.last() {
        None => true,
        Some(_) if tries.len() >= TRIES => false,
        Some(last) => now.since(*last) >= pause * (1u32 << (tries.len() - 1)).min(LONGEST),
    }
}

impl Recovery {
    /// Begins as many evacuations as there is room for. Returns whether more wait.
    async fn begin_some(&self) -> Result<bool> {
        if office::waits(&self.core, &self.inventory).await? {
            return Ok(false);
        }
        let hosts = self.core.store.read(|tx| self.inventory.hosts_in(tx)).await?;
        let hosts: Vec<String> = hosts.into_iter().filter(|host| host.fenced).map(|host| host.uuid).collect();
        if hosts.is_empty() {
            return Ok(false);
        }
        let running = self.core.store.read(|tx| self.compute.evacuations_running_in(tx)).await?;
        let mut room = AT_ONCE.saturating_sub(running);
        for host in &hosts {
            let stranded = self.core.store.read(|tx| self.compute.stranded_in(tx, host)).await?;
            for server in stranded.iter().filter(|server| recovers(server)) {
                if room == 0 {
                    return Ok(true);
                }
                if !self.core.store.read(|tx| self.is_due_in(tx, &server.id)).await? {
                    self.tell_exhausted(&server.id).await?;
                    continue;
                }
                match self.evacuate(host, &server.id).await {
                    Ok(begun) => room -= usize::from(begun),
                    // One that cannot be moved keeps no other.
                    Err(error) => tracing::warn!(server = server.id, "not evacuated: {}", error.chain()),
                }
            }
        }
        Ok(false)
    }

    /// Says so of a guest that was tried as often as it is.
    async fn tell_exhausted(&self, id: &str) -> Result<()> {
        if self.core.store.read(|tx| self.compute.evacuations_since_in(tx, id, WINDOW)).await?.len() < TRIES {
            return Ok(());
        }
        let (compute, id) = (self.compute.clone(), id.to_string());
        self.core.store.write(move |tx| compute.mend_exhausted_in(tx, &id)).await
    }

    fn is_due_in(&self, tx: &Tx, id: &str) -> Result<bool> {
        Ok(due(&self.compute.evacuations_since_in(tx, id, WINDOW)?, Timestamp::now(), PAUSE))
    }

    /// Begins one, if all still holds: until now nothing was certain.
    async fn evacuate(&self, host: &str, id: &str) -> Result<bool> {
        let (this, host, id) = (self.clone(), host.to_string(), id.to_string());
        self.core
            .store
            .write(move |tx| {
                let fenced = this.inventory.hosts_in(tx)?.iter().any(|h| h.uuid == host && h.fenced);
                let stranded = this.compute.stranded_one_in(tx, &host, &id)?;
                if !fenced || !stranded.is_some_and(|server| recovers(&server)) || !this.is_due_in(tx, &id)? {
                    return Ok(false);
                }
                let ctx = Context::system(format!("req-{}", base::id::uuid()));
                this.compute.evacuate_begin_in(tx, &ctx, &id, &Evacuate::default())?;
                Ok(true)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_fails_again_is_tried_less_often_and_then_not() {
        let at = |seconds: u64| Timestamp(0).plus(Duration::from_secs(seconds));
        let due = |tries: &[Timestamp], now| super::due(tries, now, PAUSE);
        assert!(due(&[], at(0)));
        assert!(!due(&[at(0)], at(29)) && due(&[at(0)], at(30)));
        assert!(!due(&[at(0), at(30)], at(89)) && due(&[at(0), at(30)], at(90)));
        let four = [at(0), at(30), at(90), at(210)];
        assert!(!due(&four, at(449)) && due(&four, at(450)));
        assert!(!due(&[at(0), at(30), at(90), at(210), at(450)], at(3599)));
    }
}
