//! The only host of a site reboots itself (maintenance specification, section 4): when it does not get through its way into service, or a
//! process without which it is nothing does not come back, there is no other that could take over, and nobody else who could try. A few
//! times in a row, also across these reboots; then it stays as it is, with its alarms.

use std::time::Duration;

use async_trait::async_trait;
use base::{Context, Result};
use fault::{Severity, Which};
use store::Tx;
use task::Reconciler;

use crate::Inventory;
use crate::act::Act;
use crate::db::{self, Host};
use crate::enable::{Enabling, Upkeep};
use crate::hosts::entity;

/// A process that is watched has failed.
const PROCESS: &str = "200.006";

pub struct SelfReboot(pub Inventory);

impl SelfReboot {
    /// Whether this machine is told how to: it is asked for nothing that it would refuse.
    fn can(&self) -> bool {
        !matches!(self.0.core.config.text("host.reboot_command"), "" | "auto")
    }
}

#[async_trait]
impl Reconciler for SelfReboot {
    fn name(&self) -> &'static str {
        "inventory.self_reboot"
    }

    fn every(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run(&self) -> Result<()> {
        let hosts = self.0.core.store.read(db::host_list_in).await?;
        let own = |host: &&Host| host.personality == "controller" && host.connected && !host.locked && host.task.is_empty();
        let Some(host) = hosts.iter().find(own).filter(|host| host.is_broken() || host.upkeep.reboots > 0) else { return Ok(()) };
        let steady = Duration::from_secs(self.0.core.config.int("maintenance.steady_seconds"));
        let up = self.0.session_of(&host.uuid).map(|info| Duration::from_secs(info.uptime_seconds));
        let (steady, can) = (up.is_some_and(|up| up >= steady), self.can());
        let (this, id) = (self.0.clone(), host.uuid.clone());
        self.0.core.store.write(move |tx| this.host_self_reboot_in(tx, &id, steady, can)).await
    }
}

impl Host {
    /// It has been given up, or something that it needs has failed.
    fn is_broken(&self) -> bool {
        self.failed || self.is_given_up()
    }

    fn is_given_up(&self) -> bool {
        self.upkeep.enabling == Enabling::Failed && self.upkeep.retry_at.is_none()
    }
}

impl Inventory {
    /// `steady`: its machine has been up for so long that being well counts; `can`: it knows how it is rebooted.
    fn host_self_reboot_in(&self, tx: &Tx, id: &str, steady: bool, can: bool) -> Result<()> {
        let idle = |host: &Host| !host.deleted && host.connected && !host.locked && host.task.is_empty();
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(idle) else { return Ok(()) };
        if !host.is_broken() {
            if host.upkeep.enabling != Enabling::Done || !steady || host.upkeep.reboots == 0 {
                return Ok(());
            }
            // It has been well since the last one.
            host.upkeep.reboots = 0;
            return db::host_put_in(tx, &mut host);
        }
        let most = self.core.config.int("maintenance.self_reboots");
        if !can || u64::from(host.upkeep.reboots) >= most || !self.is_alone_in(tx, &host)? {
            return Ok(());
        }
        let process = self.faults.alarms_in(tx, Which::IdUnder(PROCESS, &entity(&host.hostname)))?;
        if !host.is_given_up() && !process.iter().any(|active| active.alarm.severity == Severity::Critical) {
            // Such as a disk that is full: it would be so afterwards.
            return Ok(());
        }
        host.upkeep.reboots += 1;
        tracing::error!(host = host.hostname, "it reboots itself, {} of {most} times in a row", host.upkeep.reboots);
        if host.is_given_up() {
            // Its way into service begins anew, with the whole budget of tries.
            let Upkeep { failures, cause, enabling, .. } = &mut host.upkeep;
            failures.clear();
            (*cause, *enabling) = (None, Enabling::Due);
        }
        self.host_act_begin_in(tx, &Context::system(format!("req-{}", base::id::uuid())), host, Act::Reboot).map(drop)
    }
}
