//! The tests of hosts that are out of service and left so (maintenance specification, sections 2 and 12): of one that is not tried again
//! by itself an operator reads whether it is worth being tried. They put no host back into service.

use std::time::Duration;

use async_trait::async_trait;
use base::Result;
use fault::{Alarm, Severity};
use store::Tx;
use task::Reconciler;
use tokio::task::JoinSet;

use crate::Inventory;
use crate::db::{self, Host};
use crate::enable::{Cause, Enabling, FAILED};
use crate::hosts::entity;
use crate::rounds::Rounds;

/// How often it is looked who is due.
const LOOK: Duration = Duration::from_secs(1);

/// By what it is known what they said.
pub(crate) const LEFT: &str = "out of service, and its tests";

pub struct OutOfService {
    inventory: Inventory,
    rounds: Rounds,
}

impl Host {
    /// It is out of service, answers, and nothing is done with it, nor will be by itself.
    fn is_left(&self) -> bool {
        let tried = self.upkeep.enabling == Enabling::Failed && self.upkeep.retry_at.is_some();
        !self.deleted
            && !self.locked
            && self.connected
            && !self.is_lost()
            && self.task.is_empty()
            && self.operational() == "disabled"
            && !tried
    }
}

impl OutOfService {
    pub fn new(inventory: Inventory) -> OutOfService {
        OutOfService { inventory, rounds: Rounds::default() }
    }
}

#[async_trait]
impl Reconciler for OutOfService {
    fn name(&self) -> &'static str {
        "inventory.out_of_service"
    }

    fn every(&self) -> Duration {
        LOOK
    }

    async fn run(&self) -> Result<()> {
        let every = Duration::from_secs(self.inventory.core.config.int("maintenance.out_of_service_seconds"));
        if every.is_zero() {
            return Ok(());
        }
        let limit = Duration::from_secs(self.inventory.core.config.int("maintenance.test_seconds"));
        let hosts = self.inventory.core.store.read(db::host_list_in).await?;
        let left: Vec<Host> = hosts.into_iter().filter(Host::is_left).collect();
        let mut tested = JoinSet::new();
        for id in self.rounds.due(&left, every) {
            let inventory = self.inventory.clone();
            tested.spawn(async move { (inventory.test(&id, limit).await, id) });
        }
        while let Some(Ok((outcome, id))) = tested.join_next().await {
            let Some(outcome) = outcome else { continue };
            let this = self.inventory.clone();
            self.inventory.core.store.write(move |tx| this.host_left_tested_in(tx, &id, outcome)).await?;
        }
        Ok(())
    }
}

impl Inventory {
    fn host_left_tested_in(&self, tx: &Tx, id: &str, outcome: std::result::Result<(), String>) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(Host::is_left) else { return Ok(()) };
        let name = host.hostname.clone();
        let progress = match &outcome {
            Ok(()) if host.failed => format!("Host {name}: {LEFT} succeed: what its monitors say must be mended."),
            Ok(()) => format!("Host {name}: {LEFT} succeed: lock and unlock it to have it tried again."),
            Err(why) => format!("Host {name}: {LEFT} fail: {why}"),
        };
        if host.progress == progress {
            return Ok(());
        }
        tracing::warn!("{progress}");
        host.progress = progress;
        // The alarm that stands since its tests failed says what they say now.
        if let (Err(why), Some(Cause::Tests)) = (&outcome, host.upkeep.cause) {
            let text = format!("{name} experienced a service-affecting failure: a test failed ({why})");
            let repair = "It is not tried again by itself: correct what it says, and lock and unlock the host.";
            self.faults.alarm_set_in(tx, &Alarm::known(FAILED, entity(&name), Severity::Critical, text, repair))?;
        }
        db::host_put_in(tx, &mut host)
    }
}
