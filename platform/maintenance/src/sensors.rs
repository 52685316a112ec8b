//! Reads the sensors of machines that have a BMC, each as often as its groups say.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::bmc::Action;
use async_trait::async_trait;
use base::Result;
use inventory::{Host, Inventory, Streaks};
use service::Core;
use task::Reconciler;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often it is looked whose sensors are due; also how soon those of a new machine are learned.
const LOOK: Duration = Duration::from_secs(5);

pub struct Sensors {
    core: Core,
    inventory: Inventory,
    /// When each host's were read last.
    read: Mutex<BTreeMap<String, Instant>>,
    unread: Streaks,
}

impl Sensors {
    pub fn new(core: Core, inventory: Inventory) -> Sensors {
        Sensors { core, inventory, read: Mutex::default(), unread: Streaks::default() }
    }

    fn last_read(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn is_due(&self, host: &Host) -> Result<bool> {
        let interval = self.core.store.read(|tx| self.inventory.sensors_interval_in(tx, &host.uuid)).await?;
        let interval = interval.map_or(LOOK, |seconds| Duration::from_secs(seconds.into()));
        Ok(self.last_read().get(&host.uuid).is_none_or(|last| last.elapsed() >= interval))
    }
}

#[async_trait]
impl Reconciler for Sensors {
    fn name(&self) -> &'static str {
        "maintenance.sensors"
    }

    fn every(&self) -> Duration {
        LOOK
    }

    async fn run(&self) -> Result<()> {
        let hosts = self.core.store.read(|tx| self.inventory.hosts_in(tx)).await?;
        let mut reading = JoinSet::new();
        // What is off measures nothing.
        for host in hosts.into_iter().filter(|host| host.has_bmc() && !host.powered_off) {
            if !self.is_due(&host).await? {
                continue;
            }
            match self.inventory.bmc_of(&host) {
                Ok(Some(bmc)) => drop(reading.spawn(async move { (bmc.sensors().await, bmc, host) })),
                Ok(None) => {}
                Err(error) => tracing::error!("{}", error.chain()),
            }
        }
        while let Some(Ok((read, bmc, host))) = reading.join_next().await {
            let (inventory, id) = (self.inventory.clone(), host.uuid.clone());
            match read {
                Ok(sensors) => {
                    self.unread.take(&host.uuid, false);
                    self.last_read().insert(host.uuid.clone(), Instant::now());
                    if self.core.store.write(move |tx| inventory.sensors_read_in(tx, &id, &sensors)).await? {
                        tracing::warn!(host = host.hostname, "reset: a sensor has become critical");
                        if let Err(error) = bmc.act(Action::Reset).await {
                            tracing::error!(host = host.hostname, "{}", error.chain());
                        }
                    }
                }
                Err(error) => {
                    let failed = self.unread.take(&host.uuid, true);
                    let why = error.message().to_string();
                    self.core.store.write(move |tx| inventory.sensors_unread_in(tx, &id, failed, &why)).await?;
                }
            }
        }
        Ok(())
    }
}
