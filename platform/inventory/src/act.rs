//! What is done to a locked host's machine (maintenance specification, section 3): it reboots itself when it is told to, and is reset
//! and switched on and off by its BMC.

use std::sync::Arc;
use std::time::Duration;

use ::bmc::{Action, Bmc, Power};
use async_trait::async_trait;
use base::{Context, Error, Kind, Result};
use fault::{Alarm, Severity};
use rpc::message::{HostInfo, Request, Response};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, New, Operation, Retry, StepContext};
use tokio::time::Instant;

use crate::Inventory;
use crate::db::{self, Host};
use crate::hosts::entity;

pub const KIND: &str = "inventory.host_action";
/// A command was given to a host.
pub(crate) const COMMAND: &str = "200.021";
/// How often a machine that is on its way is looked at.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    Reboot,
    Reset,
    PowerOn,
    PowerOff,
}

impl Act {
    pub fn parse(word: &str) -> Option<Act> {
        [Act::Reboot, Act::Reset, Act::PowerOn, Act::PowerOff].into_iter().find(|act| act.word() == word)
    }

    pub fn word(self) -> &'static str {
        match self {
            Act::Reboot => "reboot",
            Act::Reset => "reset",
            Act::PowerOn => "power-on",
            Act::PowerOff => "power-off",
        }
    }

    /// What the host's `task` says until its machine has been told, and then; StarlingX's words.
    fn tasks(self) -> (&'static str, &'static str) {
        match self {
            Act::Reboot => ("Reboot Request", "Rebooting"),
            Act::Reset => ("Reset Request", "Resetting"),
            Act::PowerOn => ("Powering-on", "Powering-on"),
            Act::PowerOff => ("Powering-off", "Powering-off"),
        }
    }
}

/// Its machine is on its way up.
const BOOTING: &str = "Booting";

#[derive(Debug, Serialize, Deserialize)]
struct Params {
    act: Act,
    /// The machine's boot before it, when it was known.
    boot: Option<String>,
}

impl Inventory {
    /// Begins one, when the host's state allows it.
    pub fn host_act_begin_in(&self, tx: &Tx, ctx: &Context, mut host: Host, act: Act) -> Result<Host> {
        let refused = |why: &str| Err(Error::invalid(format!("Host {}: {} rejected because {why}.", host.hostname, act.word())));
        // The only host of a site takes its controller along, and both are back after the boot.
        let alone = host.personality == "controller" && self.is_alone_in(tx, &host)?;
        if host.personality == "controller" && !(alone && act == Act::Reboot) {
            return refused("it is the active controller");
        }
        if !host.locked && !alone {
            return refused("it is unlocked; lock it first");
        }
        if !host.task.is_empty() {
            return refused(&format!("an operation is in progress ({})", host.task));
        }
        if act != Act::Reboot && !host.has_bmc() {
            return refused("its board management controller (BMC) is not provisioned");
        }
        if act == Act::Reset && host.powered_off {
            return refused("it is powered off");
        }
        if act == Act::Reboot && !host.connected && !host.has_bmc() {
            return refused("it is offline, and has no board management controller (BMC)");
        }
        (host.task, host.progress) = (act.tasks().0.into(), String::new());
        host.upkeep.act = Some(act);
        db::host_put_in(tx, &mut host)?;
        if !host.locked {
            self.host_open_in(tx, &host)?;
        }
        let text = format!("{} was told to {}", host.hostname, act.word());
        let log = Alarm::known(COMMAND, format!("{}.command={}", entity(&host.hostname), act.word()), Severity::None, text, "");
        self.faults.log_in(tx, &log)?;
        let params = serde_json::to_value(Params { act, boot: self.session_of(&host.uuid).map(|info| info.boot_id) });
        let params = params.map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, New::new(KIND, "host", &host.uuid).params(params).context(ctx.clone()))?;
        Ok(host)
    }

    /// What a host that has a session says of itself.
    pub(crate) fn session_of(&self, id: &str) -> Option<HostInfo> {
        self.core.hosts.sessions().connected().into_iter().find(|info| info.id == id)
    }

    /// Has the machine rebooted by its own agent, or by its BMC where that cannot be.
    async fn reboot(&self, id: &str, bmc: Option<Arc<Bmc>>) -> Result<()> {
        let why = match self.session_of(id) {
            None => Error::unavailable("the host is offline"),
            Some(info) if !info.reboots => Error::conflict("the host is of a release that cannot be told to"),
            Some(_) => match self.core.hosts.sessions().ask(id, Request::Reboot).await {
                Ok(Response::Refused(why)) => Error::conflict(why),
                Ok(_) => return Ok(()),
                Err(error) => error,
            },
        };
        match bmc {
            Some(bmc) => bmc.act(Action::Reset).await,
            None => Err(why),
        }
    }
}

pub struct HostAct(pub Inventory);

impl HostAct {
    fn time(&self, key: &str) -> Duration {
        Duration::from_secs(self.0.core.config.int(key))
    }

    async fn host(&self, id: &str) -> Result<Host> {
        let found = self.0.core.store.read(|tx| db::host_fetch_in(tx, id)).await?;
        found.filter(|host| !host.deleted).ok_or_else(|| Error::not_found("Host", id))
    }

    /// What the host's task is from now on, while this operation works on it.
    async fn task(&self, id: &str, act: Act, task: &'static str) -> Result<()> {
        let (this, id) = (self.0.clone(), id.to_string());
        let differs = |host: &Host| host.upkeep.act == Some(act) && host.task != task;
        if !self.0.core.store.read(|tx| db::host_fetch_in(tx, &id)).await?.is_some_and(|host| differs(&host)) {
            return Ok(());
        }
        let note = move |tx: &Tx| match db::host_fetch_in(tx, &id)?.filter(|host| host.upkeep.act == Some(act)) {
            Some(mut host) => {
                host.task = task.into();
                db::host_put_in(tx, &mut host)
            }
            None => Ok(()),
        };
        this.core.store.write(note).await
    }

    /// Whether the machine is in another boot than it was.
    fn has_booted(&self, id: &str, params: &Params) -> bool {
        self.0.session_of(id).is_some_and(|info| params.boot.as_ref() != Some(&info.boot_id))
    }

    async fn act(&self, id: &str, params: &Params) -> Result<()> {
        let host = self.host(id).await?;
        let bmc = self.0.bmc_of(&host)?;
        let missing = || Error::conflict("its board management controller (BMC) is no longer provisioned");
        // One that was cut off after it had been told shows it: it is not told twice.
        if matches!(params.act, Act::Reboot | Act::Reset) && self.has_booted(id, params) && params.boot.is_some() {
            return Ok(());
        }
        let (action, already) = match params.act {
            Act::Reboot => return self.0.reboot(id, bmc).await,
            Act::Reset => (Action::Reset, None),
            Act::PowerOn => (Action::On, Some(Power::On)),
            Act::PowerOff => (Action::Off, Some(Power::Off)),
        };
        let bmc = bmc.ok_or_else(missing)?;
        let power = bmc.power().await?;
        if Some(power) == already {
            return Ok(());
        }
        if action == Action::Reset && power == Power::Off {
            return Err(Error::conflict("it is powered off"));
        }
        bmc.act(action).await
    }

    /// Waits until it is done.
    async fn settle(&self, cx: &StepContext, params: &Params) -> Result<()> {
        let id = &cx.resource_id;
        if matches!(params.act, Act::PowerOn | Act::PowerOff) {
            let host = self.host(id).await?;
            let missing = || Error::conflict("its board management controller (BMC) is no longer provisioned");
            let bmc = self.0.bmc_of(&host)?.ok_or_else(missing)?;
            let wanted = if params.act == Act::PowerOn { Power::On } else { Power::Off };
            bmc.wait(wanted, self.time("maintenance.action_seconds")).await?;
        }
        let booted = async || match params.act {
            Act::PowerOff => Ok::<bool, Error>(true),
            // Its session is noted down a moment after it has begun.
            Act::PowerOn => Ok(self.0.session_of(id).is_some() && self.host(id).await?.connected),
            _ => Ok(self.has_booted(id, params) && self.host(id).await?.connected),
        };
        let patience = self.time("maintenance.boot_seconds");
        let end = Instant::now() + patience;
        while !booted().await? {
            if self.0.session_of(id).is_none() {
                self.task(id, params.act, BOOTING).await?;
            }
            if cx.cancelled() {
                return Err(Error::conflict("it was cancelled"));
            }
            if Instant::now() > end {
                // Not a fault that goes by trying again: it has had its time.
                return Err(Error::conflict(format!("it has not come back within {} s", patience.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Operation for HostAct {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["act", "settle"]
    }
    fn retry(&self, step: &str) -> Retry {
        let action = self.time("maintenance.action_seconds");
        match step {
            "act" => Retry { first: Duration::from_secs(1), most: Duration::from_secs(10), within: action },
            // Beyond its own two deadlines.
            _ => Retry::within(2 * action + self.time("maintenance.boot_seconds") + Duration::from_secs(60)),
        }
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        if step == "act" {
            let outcome = self.act(&cx.resource_id, &params).await;
            if outcome.as_ref().is_err_and(|error| error.is(Kind::Unavailable)) {
                // The other language, where either may be spoken.
                if let Some(bmc) = self.0.bmc_of(&self.host(&cx.resource_id).await?)? {
                    bmc.switch();
                }
            }
            outcome?;
            self.task(&cx.resource_id, params.act, params.act.tasks().1).await?;
            return Ok(Effect::none());
        }
        self.settle(cx, &params).await?;
        let (this, id, act) = (self.0.clone(), cx.resource_id.clone(), params.act);
        Ok(Effect::none().commit(move |tx| {
            let Some(mut host) = db::host_fetch_in(tx, &id)?.filter(|h| !h.deleted && h.upkeep.act == Some(act)) else { return Ok(()) };
            (host.task, host.powered_off, host.upkeep.act) = (String::new(), act == Act::PowerOff, None);
            db::host_put_in(tx, &mut host)?;
            if !host.locked {
                this.host_open_in(tx, &host)?;
            }
            if act == Act::PowerOff {
                // Nobody is to wait for what it says.
                let sessions = this.core.hosts.sessions().clone();
                tx.after_commit(move || sessions.end(&id, "this host was switched off"));
            }
            Ok(())
        }))
    }

    /// What a machine was told it has been told.
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Ok(params) = cx.param::<Params>() else { return Ok(()) };
        let own = |host: &Host| host.upkeep.act == Some(params.act);
        let Some(mut host) = db::host_fetch_in(tx, &cx.resource_id)?.filter(own) else { return Ok(()) };
        (host.task, host.upkeep.act) = (String::new(), None);
        host.progress = format!("{} of host {} failed: {}", params.act.word(), host.hostname, error.message());
        tracing::warn!("{}", host.progress);
        db::host_put_in(tx, &mut host)?;
        if host.locked { Ok(()) } else { self.0.host_open_in(tx, &host) }
    }
}
