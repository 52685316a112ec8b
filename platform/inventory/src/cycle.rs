//! The power-cycle that a sensor asks for (maintenance specification, section 9): a machine that is too hot is switched off, cools, and is
//! switched on again. One that is no better after three times stays off.

use std::sync::Arc;
use std::time::Duration;

use ::bmc::{Action, Bmc, Power};
use async_trait::async_trait;
use base::{Context, Error, Result, Timestamp};
use fault::{Alarm, Severity};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, New, Operation, Retry, StepContext};

use crate::Inventory;
use crate::act::COMMAND;
use crate::db::{self, Host};
use crate::enable::Enabling;
use crate::hosts::entity;
use crate::sensors;

pub const KIND: &str = "inventory.host_cycle";
/// StarlingX's words.
pub(crate) const TASK: &str = "Critical Event Power-Cycle";
const DOWN: &str = "Critical Event Power-Down";
/// Cycles that may come to nothing.
const CYCLES: u32 = 3;
/// A machine may take so many times as long to boot as it cools.
const BOOT: u32 = 3;
const LOOK: Duration = Duration::from_millis(200);
/// What each step may take beyond its own time.
const SPARE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Params {
    /// The host's [`crate::Upkeep::run`] while this is the operation that works on it.
    run: String,
}

/// Since when a machine is off, and the boot that it had before.
#[derive(Debug, Serialize, Deserialize)]
struct Off {
    since: Timestamp,
    boot: String,
}

impl Host {
    /// A sensor has it switched off and on, or off for good: nobody else switches it on.
    pub fn is_power_cycled(&self) -> bool {
        self.task == TASK || self.upkeep.held_off
    }
}

impl Inventory {
    /// Begins one, for a host in service that nothing else is done with. False: not now.
    pub fn host_cycle_begin_in(&self, tx: &Tx, mut host: Host) -> Result<bool> {
        if host.operational() != "enabled" || !host.task.is_empty() || !host.has_bmc() || host.personality == "controller" {
            return Ok(false);
        }
        let run = base::id::uuid();
        (host.task, host.progress) = (TASK.into(), String::new());
        (host.upkeep.enabling, host.upkeep.run, host.upkeep.verdict) = (Enabling::Due, run.clone(), String::new());
        db::host_put_in(tx, &mut host)?;
        self.host_open_in(tx, &host)?;
        self.cycle_log_in(tx, &host, "a sensor is critical: its machine is switched off, cools, and is switched on again")?;
        let params = serde_json::to_value(Params { run }).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        let ctx = Context::system(format!("req-{}", base::id::uuid()));
        self.core.tasks.submit(tx, New::new(KIND, "host", &host.uuid).params(params).context(ctx))?;
        Ok(true)
    }

    fn cycle_log_in(&self, tx: &Tx, host: &Host, what: &str) -> Result<()> {
        let name = &host.hostname;
        tracing::warn!(host = name, "{what}");
        let of = format!("{}.command=power-cycle", entity(name));
        self.faults.log_in(tx, &Alarm::known(COMMAND, of, Severity::None, format!("{name}: {what}"), ""))
    }
}

pub struct HostCycle(pub Inventory);

impl HostCycle {
    /// How long a machine cools, and is then watched.
    fn pause(&self) -> Duration {
        self.time("maintenance.cycle_seconds")
    }

    fn time(&self, key: &str) -> Duration {
        Duration::from_secs(self.0.core.config.int(key))
    }

    /// The host, if this operation is still the one that works on it.
    fn own_in(tx: &Tx, cx: &StepContext) -> Result<Option<Host>> {
        let params: Params = cx.param()?;
        let own = |host: &Host| !host.deleted && host.task == TASK && host.upkeep.run == params.run;
        Ok(db::host_fetch_in(tx, &cx.resource_id)?.filter(own))
    }

    async fn own(&self, cx: &StepContext) -> Result<Option<Host>> {
        self.0.core.store.read(|tx| Self::own_in(tx, cx)).await
    }

    fn bmc(&self, host: &Host) -> Result<Arc<Bmc>> {
        let missing = || Error::conflict("its board management controller (BMC) is no longer provisioned");
        self.0.bmc_of(host)?.ok_or_else(missing)
    }

    /// Waits until then; false: it is not to go on.
    async fn wait_until(&self, cx: &StepContext, end: Timestamp) -> Result<bool> {
        while Timestamp::now() < end {
            if cx.cancelled() || self.own(cx).await?.is_none() {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(true)
    }

    /// Notes that the machine is off; its host says nothing any more.
    fn off(&self, cx: &StepContext, host: Host, then: impl FnOnce(&Inventory, &Tx, &mut Host) -> Result<()> + Send + 'static) -> Effect {
        let boot = host.upkeep.boot;
        let (this, cx) = (self.0.clone(), cx.clone());
        Effect::with(Off { since: Timestamp::now(), boot }).commit(move |tx| {
            let Some(mut host) = Self::own_in(tx, &cx)? else { return Ok(()) };
            host.powered_off = true;
            then(&this, tx, &mut host)?;
            db::host_put_in(tx, &mut host)?;
            let (sessions, id) = (this.core.hosts.sessions().clone(), host.uuid.clone());
            tx.after_commit(move || sessions.end(&id, "this host was switched off"));
            Ok(())
        })
    }

    /// Switches it on; true: its host is there, in another boot. False: it has not come in its time.
    async fn on(&self, cx: &StepContext, host: &Host) -> Result<bool> {
        let bmc = self.bmc(host)?;
        if bmc.power().await? != Power::On {
            bmc.act(Action::On).await?;
        }
        let before: Off = cx.output("off")?;
        let end = Timestamp::now().plus(self.pause() * BOOT);
        loop {
            let there = self.0.session_of(&cx.resource_id).is_some_and(|info| info.boot_id != before.boot);
            match self.own(cx).await? {
                Some(host) if there && host.connected => return Ok(true),
                Some(_) if !cx.cancelled() && Timestamp::now() < end => tokio::time::sleep(LOOK).await,
                _ => return Ok(false),
            }
        }
    }

    /// It cools no better: once more, or never again.
    fn again(&self, cx: &StepContext) -> Effect {
        if cx.restarts() + 1 < CYCLES { Effect::restart_from("off") } else { Effect::none() }
    }

    /// Its sensors are well, or it is no longer this operation's.
    fn over(&self, cx: &StepContext) -> Effect {
        let (this, cx) = (self.0.clone(), cx.clone());
        Effect::finish_early().commit(move |tx| {
            let Some(mut host) = Self::own_in(tx, &cx)? else { return Ok(()) };
            (host.task, host.upkeep.run, host.powered_off) = (String::new(), String::new(), false);
            db::host_put_in(tx, &mut host)?;
            this.host_open_in(tx, &host)
        })
    }
}

#[async_trait]
impl Operation for HostCycle {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["off", "cool", "on", "hold", "down"]
    }
    fn deadline(&self) -> Duration {
        (self.time("maintenance.action_seconds") * 2 + self.pause() * (2 + BOOT) + SPARE * 4) * (CYCLES + 1)
    }
    fn retry(&self, step: &str) -> Retry {
        let action = self.time("maintenance.action_seconds");
        Retry::within(match step {
            "off" | "down" => action,
            "on" => action + self.pause() * BOOT,
            _ => self.pause() + SPARE,
        })
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let Some(host) = self.own(cx).await? else { return Ok(Effect::finish_early()) };
        match step {
            "off" => {
                self.bmc(&host)?.is_off_within(self.time("maintenance.action_seconds")).await?;
                Ok(self.off(cx, host, |_, _, _| Ok(())))
            }
            "cool" => {
                let off: Off = cx.output("off")?;
                self.wait_until(cx, off.since.plus(self.pause())).await?;
                Ok(Effect::none())
            }
            "on" => match self.on(cx, &host).await? {
                true => Ok(Effect::with(Timestamp::now())),
                false if self.own(cx).await?.is_none() => Ok(Effect::finish_early()),
                // One that does not come is no better; the step after this one sees that nothing was measured.
                false => Ok(Effect::with(Timestamp(0))),
            },
            "hold" => {
                let on: Timestamp = cx.output("on")?;
                let came = on != Timestamp(0);
                if came && !self.wait_until(cx, on.plus(self.pause())).await? {
                    return Ok(Effect::finish_early());
                }
                let critical = self.0.core.store.read(|tx| sensors::wants_cycle_in(tx, &cx.resource_id)).await?;
                Ok(if came && !critical { self.over(cx) } else { self.again(cx) })
            }
            _ => {
                self.bmc(&host)?.is_off_within(self.time("maintenance.action_seconds")).await?;
                Ok(self.off(cx, host, |this, tx, host| {
                    (host.task, host.upkeep.run, host.upkeep.held_off) = (String::new(), String::new(), true);
                    host.upkeep.verdict = DOWN.into();
                    let why = format!("a sensor is still critical after {CYCLES} power-cycles: its machine stays off");
                    host.progress = format!("Host {}: {why}", host.hostname);
                    this.cycle_log_in(tx, host, &why)
                }))
            }
        }
    }

    /// What a machine was told it has been told.
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }

    /// It goes into service again when it is there; one that is off is switched on as any that is to be on.
    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut host) = Self::own_in(tx, cx)? else { return Ok(()) };
        (host.task, host.upkeep.run) = (String::new(), String::new());
        host.progress = format!("power-cycle of host {} failed: {}", host.hostname, error.message());
        tracing::error!("{}", host.progress);
        db::host_put_in(tx, &mut host)?;
        self.0.host_open_in(tx, &host)
    }
}
