//! The tests of hosts in service (maintenance specification, section 2): the same that a host goes through on its way there, again and
//! again. One that fails them is degraded; three times in a row, and it goes its whole way into service anew.

use std::time::Duration;

use async_trait::async_trait;
use base::{Context, Result};
use fault::{Alarm, Severity};
use rpc::message::{Part, Readiness};
use store::Tx;
use task::Reconciler;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Inventory;
use crate::db::{self, Host};
use crate::enable::{CONFIGURATION, failures};
use crate::hosts::entity;
use crate::rounds::Rounds;

/// Failures in a row after which a host is no longer relied on.
const FAILURES: u32 = 3;
/// How often it is looked who is due.
const LOOK: Duration = Duration::from_secs(1);

pub struct InService {
    inventory: Inventory,
    rounds: Rounds,
}

impl Host {
    /// It is in service, and nothing is done with it.
    fn is_tested(&self) -> bool {
        self.operational() == "enabled" && self.task.is_empty() && self.connected && !self.is_waited_for()
    }
}

impl InService {
    pub fn new(inventory: Inventory) -> InService {
        InService { inventory, rounds: Rounds::default() }
    }
}

#[async_trait]
impl Reconciler for InService {
    fn name(&self) -> &'static str {
        "inventory.in_service"
    }

    fn every(&self) -> Duration {
        LOOK
    }

    async fn run(&self) -> Result<()> {
        let every = Duration::from_secs(self.inventory.core.config.int("maintenance.in_service_seconds"));
        if every.is_zero() {
            return Ok(());
        }
        let hosts = self.inventory.core.store.read(db::host_list_in).await?;
        let hosts: Vec<Host> = hosts.into_iter().filter(Host::is_tested).collect();
        let mut tested = JoinSet::new();
        // Who comes into service has just been tested.
        for id in self.rounds.due(&hosts, every) {
            let inventory = self.inventory.clone();
            tested.spawn(async move { (inventory.test(&id, every).await, id) });
        }
        while let Some(Ok((outcome, id))) = tested.join_next().await {
            // Nothing is known of one that cannot be asked; its heartbeat tells of that.
            let Some(outcome) = outcome else { continue };
            let differs = |host: &Host| outcome.is_err() || host.upkeep.unwell > 0;
            if self.inventory.core.store.read(|tx| db::host_fetch_in(tx, &id)).await?.is_some_and(|host| differs(&host)) {
                let this = self.inventory.clone();
                self.inventory.core.store.write(move |tx| this.host_tested_in(tx, &id, outcome)).await?;
            }
        }
        Ok(())
    }
}

impl Inventory {
    /// Has a host run its tests; an error says what failed, none that it could not be asked.
    pub(crate) async fn test(&self, id: &str, limit: Duration) -> Option<std::result::Result<(), String>> {
        if self.session_of(id).is_none_or(|info| !info.readies) {
            return None;
        }
        let (run, end) = (base::id::uuid(), Instant::now() + limit);
        loop {
            match self.ready_ask(id, Part::Tests, &run, limit).await {
                Ok(Readiness { unusable: Some(why), .. }) => return Some(Err(why)),
                Ok(readiness) if readiness.over => return Some(failures(&readiness).map_or(Ok(()), Err)),
                Ok(_) if Instant::now() > end => return Some(Err(format!("not over within {} s", limit.as_secs()))),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    fn host_tested_in(&self, tx: &Tx, id: &str, outcome: std::result::Result<(), String>) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(|host| !host.deleted && host.is_tested()) else { return Ok(()) };
        let of = entity(&host.hostname);
        let Err(why) = outcome else {
            (host.upkeep.unwell, host.progress) = (0, String::new());
            self.faults.alarm_clear_in(tx, CONFIGURATION, &of)?;
            return db::host_put_in(tx, &mut host);
        };
        host.upkeep.unwell = host.upkeep.unwell.saturating_add(1);
        host.progress = format!("Host {}: its tests failed in service, {} times in a row: {why}", host.hostname, host.upkeep.unwell);
        tracing::warn!("{}", host.progress);
        if host.upkeep.unwell < FAILURES {
            return db::host_put_in(tx, &mut host);
        }
        if host.personality == "controller" {
            // Out of service it would serve nobody, and there is no other: it is told of.
            let text = format!("{} experienced an in-service failure of its tests: {why}", host.hostname);
            let repair = "Correct what the test says; nothing else is needed.";
            self.faults.alarm_keep_in(tx, &Alarm::known(CONFIGURATION, of, Severity::Critical, text, repair))?;
            return db::host_put_in(tx, &mut host);
        }
        host.upkeep.unwell = 0;
        host.upkeep.shut = !host.failed && self.compute.host_is_shut_in(tx, id)?;
        self.host_enable_in(tx, &Context::system(format!("req-{}", base::id::uuid())), &mut host)
    }
}
