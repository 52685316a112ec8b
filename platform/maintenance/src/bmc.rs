//! The BMCs of hosts: asked again and again how they are ([`Audit`]), and told to switch a lost host off, which is the proof that its
//! guests do not run ([`Fencing`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::bmc::{Action, Bmc, Power};
use async_trait::async_trait;
use base::Result;
use inventory::{Host, Inventory, Streaks, force_try};
use service::Core;
use task::Reconciler;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

/// How often each BMC is asked.
const PING: Duration = Duration::from_secs(30);
/// For how long a host must have been lost before it is switched off: a network that is down for a moment is no reason. As long as a
/// lease, so that guests are elsewhere as soon as those of a host without BMC.
const LOST: Duration = heartbeat::LEASE;
/// How long a BMC may take to switch a machine off; then it is told again.
const OFF: Duration = Duration::from_secs(30);
/// How often a machine that is to be on is told so after it was fenced, and the pause between.
const ON: (u32, Duration) = (5, Duration::from_secs(5));

/// Follows the power of every machine that has a BMC, says when a BMC cannot be reached, and switches on again what is to run.
pub struct Audit {
    core: Core,
    inventory: Inventory,
    /// How often in a row each was silent.
    silent: Streaks,
}

impl Audit {
    pub fn new(core: Core, inventory: Inventory) -> Audit {
        Audit { core, inventory, silent: Streaks::default() }
    }
}

#[async_trait]
impl Reconciler for Audit {
    fn name(&self) -> &'static str {
        "maintenance.bmc"
    }

    fn every(&self) -> Duration {
        PING
    }

    async fn run(&self) -> Result<()> {
        let hosts = self.core.store.read(|tx| self.inventory.hosts_in(tx)).await?;
        let mut asked = JoinSet::new();
        for host in hosts.into_iter().filter(Host::has_bmc) {
            // One whose password cannot be opened says so where it is used; it keeps no other from being asked.
            match self.inventory.bmc_of(&host) {
                Ok(Some(bmc)) => drop(asked.spawn(async move { (bmc.power().await, bmc, host) })),
                Ok(None) => {}
                Err(error) => tracing::error!("{}", error.chain()),
            }
        }
        while let Some(Ok((power, bmc, host))) = asked.join_next().await {
            let times = self.silent.take(&host.uuid, power.is_err());
            let seen = match &power {
                Ok(power) => Ok(*power),
                Err(error) => Err((times, error.message().to_string())),
            };
            let (inventory, id) = (self.inventory.clone(), host.uuid.clone());
            self.core.store.write(move |tx| inventory.host_power_seen_in(tx, &id, seen)).await?;
            // Lost ones are the business of who fences them.
            let wanted = !host.locked && host.task.is_empty() && !host.connected && !host.is_lost() && !host.is_power_cycled();
            if wanted && matches!(power, Ok(Power::Off)) {
                tracing::warn!(host = host.hostname, "it is unlocked and switched off: it is switched on");
                if let Err(error) = bmc.act(Action::On).await {
                    tracing::warn!(host = host.hostname, "{}", error.chain());
                }
            }
        }
        Ok(())
    }
}

/// What came of it.
pub enum Done {
    /// The machine is off, for certain.
    Off(Uuid),
    /// Nothing is known of it, for this reason.
    Failed(Uuid, String),
    On,
}

/// Switches off machines whose hosts are lost, or locked by force.
#[derive(Default)]
pub struct Fencing {
    /// Since when they are.
    lost: BTreeMap<Uuid, Instant>,
    busy: BTreeSet<Uuid>,
    running: JoinSet<Done>,
    bmcs: BTreeMap<Uuid, Arc<Bmc>>,
}

impl Fencing {
    /// Begins what is due. `lost`: whether a host is, as of now; `waits`: most of the site is, or has just
    /// come back: it is no single host's fault; `force`: how long a lock by force may take.
    pub fn look(&mut self, inventory: &Inventory, hosts: &[Host], lost: impl Fn(&Host, &Uuid) -> bool, waits: bool, force: Duration) {
        let mut still = BTreeSet::new();
        for host in hosts.iter().filter(|h| h.has_bmc() && h.waits && !h.locked && !h.fenced) {
            let Ok(id) = host.uuid.parse::<Uuid>() else { continue };
            if !host.is_forced() && !lost(host, &id) {
                continue;
            }
            still.insert(id);
            let since = *self.lost.entry(id).or_insert_with(Instant::now);
            let forced = host.is_forced();
            let due = if forced { host.is_force_due(force) } else { !waits && since.elapsed() >= LOST };
            if self.busy.contains(&id) || !due {
                continue;
            }
            let bmc = match inventory.bmc_of(host) {
                Ok(Some(bmc)) => bmc,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!("{}", error.chain());
                    continue;
                }
            };
            tracing::warn!(host = host.hostname, "it is switched off, so that its instances can be started elsewhere");
            self.busy.insert(id);
            self.bmcs.insert(id, bmc.clone());
            // A lock by force ends: no try takes longer than its part of the time.
            let patience = if forced { OFF.min(force_try(force)) } else { OFF };
            self.running.spawn(async move {
                match bmc.is_off_within(patience).await {
                    Ok(()) => Done::Off(id),
                    Err(error) => {
                        tracing::warn!(host = %id, "not known to be off: {}", error.chain());
                        Done::Failed(id, error.message().to_string())
                    }
                }
            });
        }
        self.lost.retain(|id, _| still.contains(id));
    }

    /// The next that is done; waits for ever while nothing is under way.
    pub async fn next(&mut self) -> Done {
        loop {
            match self.running.join_next().await {
                Some(Ok(done)) => {
                    if let Done::Off(id) | Done::Failed(id, _) = &done {
                        self.busy.remove(id);
                        // One that failed waits as one that has just been lost.
                        self.lost.remove(id);
                    }
                    return done;
                }
                Some(Err(error)) => tracing::error!("a task broke off: {error}"),
                None => std::future::pending().await,
            }
        }
    }

    /// The host is fenced: its machine is to run again, without what is elsewhere now.
    pub fn switch_on(&mut self, id: Uuid) {
        let Some(bmc) = self.bmcs.remove(&id) else { return };
        self.running.spawn(async move {
            for _ in 0..ON.0 {
                match bmc.act(Action::On).await {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(host = %id, "not switched on: {}", error.chain()),
                }
                tokio::time::sleep(ON.1).await;
            }
            Done::On
        });
    }
}
