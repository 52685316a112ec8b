//! Putting a host into service (maintenance specification, section 4): its own tests, its own services, ten pulses answered in a
//! row; then, and not before, it takes what is placed on hosts. A host that does not get through is tried again, for each cause a
//! few times, and then left failed until it is locked and unlocked.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use base::error::Internal;
use base::{Context, Error, Kind, Result, Timestamp};
use fault::{Alarm, Severity};
use rpc::message::{Part, Readiness, Request, Response};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, New, Operation, Reconciler, Retry, StepContext};
use tokio::time::Instant;

use crate::Inventory;
use crate::act::Act;
use crate::db::{self, Host};
use crate::heartbeat::Health;
use crate::hosts::entity;
use crate::lock::Forcing;
use crate::parameters::OnLoss;

pub const KIND: &str = "inventory.host_enable";
/// The host has failed in a way that affects service.
pub(crate) const FAILED: &str = "200.004";
/// Its configuration cannot be used.
pub(crate) const CONFIGURATION: &str = "200.011";
const STATE: &str = "200.022";
/// Pulses in a row that a host must have answered.
const SOAK: u32 = heartbeat::BACK;
const LOOK: Duration = Duration::from_millis(50);
/// How long a host may be without a session in the middle of it: its agent, or its controller, is started again.
const AWAY: Duration = Duration::from_secs(60);

/// How far a host is on its way into service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enabling {
    /// Through.
    #[default]
    Done,
    /// As soon as it is there.
    Due,
    Running,
    /// It did not get through: `Upkeep::cause`.
    Failed,
}

/// Why a host did not get into service. Each has its own budget of tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Configuration,
    Tests,
    Services,
    Heartbeat,
    /// Anything else, such as a host that went away meanwhile.
    Enable,
}

impl Cause {
    /// StarlingX's word in the text that clients look for.
    fn word(self) -> &'static str {
        match self {
            Cause::Configuration => "Configuration",
            Cause::Tests => "In-Test",
            Cause::Services => "Service",
            Cause::Heartbeat => "Heartbeat",
            Cause::Enable => "Enable",
        }
    }
}

/// What is remembered of a host between its ways into service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upkeep {
    pub enabling: Enabling,
    /// Names the operation that is under way: one that was overtaken ends by itself.
    pub run: String,
    pub cause: Option<Cause>,
    /// Times in a row that it failed, by cause.
    pub failures: BTreeMap<Cause, u32>,
    /// When it is tried again; none while it has failed: not by itself.
    pub retry_at: Option<Timestamp>,
    /// The boot of the machine that was seen last.
    pub boot: String,
    /// Times in a row that its heartbeat was lost, and when it was back from the last.
    pub losses: u32,
    pub back_at: Option<Timestamp>,
    /// Most of the site is as silent as it is: it is waited for.
    pub waiting: bool,
    /// Times in a row that it rebooted itself.
    pub reboots: u32,
    /// It has not been in service since it was unlocked.
    pub unlocking: bool,
    /// An operator had taken its compute service out of service before: that stays so.
    pub shut: bool,
    /// It has started services that are to be stopped when it is locked.
    pub services: bool,
    /// They may have been stopped.
    pub stopping: bool,
    /// It was unlocked meanwhile.
    pub dropped: bool,
    /// Its machine is off for good, because a sensor was critical again and again.
    pub held_off: bool,
    /// Times in a row that its tests failed while it was in service.
    pub unwell: u32,
    /// What is done to its machine.
    pub act: Option<Act>,
    /// It is being locked by force.
    pub forcing: Option<Forcing>,
    /// What came of what was last done with it, shown as its task until something else is done.
    pub verdict: String,
    /// Its address on the network among the hosts; empty: it has none.
    pub cluster_ip: String,
    /// How it answers on each of its networks; none: it is asked on one only.
    pub ways: Option<[Health; 2]>,
    /// What follows when its heartbeat is lost.
    pub on_loss: OnLoss,
    /// Why it has been let in no more; empty: it has not asked, or is.
    pub refused: String,
}

impl Upkeep {
    /// How often in a row it failed, by cause, was lost, and rebooted itself; empty: never.
    pub(crate) fn info(&self) -> String {
        let failures = self.failures.iter().map(|(cause, times)| format!("{}={times}", cause.word()));
        let losses = (self.losses > 0).then(|| format!("Losses={}", self.losses));
        let reboots = (self.reboots > 0).then(|| format!("Reboots={}", self.reboots));
        failures.chain(losses).chain(reboots).collect::<Vec<_>>().join(" ")
    }
}

impl Host {
    /// What is being done with it, or what is to be known of it, in StarlingX's words.
    pub fn task_shown(&self) -> String {
        match (&self.upkeep, &self.task) {
            // What goes on by itself.
            (Upkeep { waiting: true, .. }, _) if self.is_silent() => "Graceful Recovery Wait".into(),
            (_, task) if task.is_empty() && self.fenced && self.connected && !self.is_silent() => "Graceful Recovery".into(),
            (Upkeep { enabling: Enabling::Failed, cause: Some(cause), retry_at, .. }, task) if task.is_empty() => match retry_at {
                // None of the causes that have a text of their own.
                Some(_) if *cause == Cause::Enable && self.upkeep.unlocking => "Unlock Operation Failed".into(),
                None => format!("{} Failure, threshold reached, Lock/Unlock to retry", cause.word()),
                Some(_) => format!("{} Failure, retry pending", cause.word()),
            },
            (Upkeep { verdict, .. }, task) if task.is_empty() => verdict.clone(),
            (_, task) => task.clone(),
        }
    }

    /// Why the last that was to be done with it was not, or why it is not let in.
    pub fn progress_shown(&self) -> String {
        match self.upkeep.refused.as_str() {
            "" => self.progress.clone(),
            why => format!("Host {} is sent away, because {why}", self.hostname),
        }
    }

    /// Why it takes nothing that is placed on hosts, as far as its way into service is concerned.
    pub(crate) fn enabling_reason(&self) -> Option<&str> {
        match self.upkeep.enabling {
            Enabling::Done => None,
            Enabling::Failed if self.is_kept() => None,
            Enabling::Failed => Some("the host could not be put into service"),
            Enabling::Due | Enabling::Running => Some("the host is being put into service"),
        }
    }
}

/// What each step's work is called meanwhile; the last is that of the soak.
const TASKS: [&str; 3] = ["Testing", "Initializing", "Enabling"];

#[derive(Debug, Serialize, Deserialize)]
struct Params {
    run: String,
}

/// Tells how many pulses in a row a host has answered. None: it is not sent any.
pub type Pulses = Box<dyn Fn(&str) -> Option<u32> + Send + Sync>;

impl Inventory {
    /// Says by whom hosts are watched.
    pub fn pulses_set(&self, pulses: Pulses) {
        *self.pulses.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(pulses);
    }

    /// Whether a host has answered long enough; one without a guard is asked nothing.
    fn is_steady(&self, host: &Host) -> bool {
        let pulses = self.pulses.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        !host.guarded || pulses.as_ref().is_none_or(|pulses| pulses(&host.uuid).is_some_and(|answered| answered >= SOAK))
    }

    /// Begins to put an unlocked host that is there into service.
    pub(crate) fn host_enable_in(&self, tx: &Tx, ctx: &Context, host: &mut Host) -> Result<()> {
        let run = base::id::uuid();
        (host.task, host.progress) = (TASKS[0].into(), String::new());
        (host.upkeep.enabling, host.upkeep.run, host.upkeep.retry_at) = (Enabling::Running, run.clone(), None);
        host.upkeep.verdict = String::new();
        db::host_put_in(tx, host)?;
        self.host_open_in(tx, host)?;
        let params = serde_json::to_value(Params { run }).internal("writing parameters")?;
        self.core.tasks.submit(tx, New::new(KIND, "host", &host.uuid).params(params).context(ctx.clone())).map(drop)
    }

    /// The same for a host that is to be, when it is there and its time has come. True: it was begun.
    pub(crate) fn host_enable_due_in(&self, tx: &Tx, host: &mut Host) -> Result<bool> {
        if !host.is_due(Timestamp::now()) {
            return Ok(false);
        }
        self.host_enable_in(tx, &Context::system(format!("req-{}", base::id::uuid())), host)?;
        Ok(true)
    }

    /// Nothing is to be done any more to put it into service.
    pub(crate) fn host_enable_forget_in(&self, tx: &Tx, host: &mut Host) -> Result<()> {
        // What is not of its way into service stays.
        let Upkeep { boot, cluster_ip, ways, on_loss, services, reboots, .. } = std::mem::take(&mut host.upkeep);
        host.upkeep = Upkeep { boot, cluster_ip, ways, on_loss, services, reboots, ..Upkeep::default() };
        for id in [FAILED, CONFIGURATION] {
            self.faults.alarm_clear_in(tx, id, &entity(&host.hostname))?;
        }
        Ok(())
    }

    /// A host did not get into service. It is tried again, while its budget for this cause lasts.
    pub(crate) fn host_enable_failed_in(&self, tx: &Tx, host: &mut Host, cause: Cause, why: &str) -> Result<()> {
        let failures = host.upkeep.failures.entry(cause).or_default();
        *failures += 1;
        let seconds = match cause {
            Cause::Heartbeat => "maintenance.heartbeat_retry_seconds",
            _ => "maintenance.retry_seconds",
        };
        let again = u64::from(*failures) <= self.core.config.int("maintenance.retries");
        let pause = Duration::from_secs(self.core.config.int(seconds));
        host.upkeep.retry_at = again.then(|| Timestamp::now().plus(pause));
        (host.upkeep.enabling, host.upkeep.cause) = (Enabling::Failed, Some(cause));
        (host.task, host.progress) = (String::new(), format!("Host {} could not be put into service: {why}", host.hostname));
        tracing::warn!("{}", host.progress);
        db::host_put_in(tx, host)?;
        self.host_open_in(tx, host)?;
        let (of, name) = (entity(&host.hostname), &host.hostname);
        let repair = match again {
            true => "If it does not get into service by itself, correct what it says, and lock and unlock the host.",
            false => "It is not tried again by itself: correct what it says, and lock and unlock the host.",
        };
        let (id, other, text) = match cause {
            Cause::Configuration => (CONFIGURATION, FAILED, format!("{name} experienced a configuration failure: {why}")),
            _ => (FAILED, CONFIGURATION, format!("{name} experienced a service-affecting failure: {why}")),
        };
        self.faults.alarm_clear_in(tx, other, &of)?;
        self.faults.alarm_set_in(tx, &Alarm::known(id, of, Severity::Critical, text, repair))?;
        self.host_state_log_in(tx, host, host.operational())
    }

    fn host_enabled_in(&self, tx: &Tx, mut host: Host) -> Result<()> {
        let shut = host.upkeep.shut;
        self.host_enable_forget_in(tx, &mut host)?;
        (host.task, host.progress) = (String::new(), String::new());
        db::host_put_in(tx, &mut host)?;
        self.host_open_in(tx, &Host { upkeep: Upkeep { shut, ..host.upkeep.clone() }, ..host.clone() })?;
        self.host_state_log_in(tx, &host, "enabled")
    }

    /// A host is there, in this boot of its machine. When it is another one than before the host has rebooted by itself: it goes
    /// through its tests before it takes anything new.
    pub(crate) fn host_booted_in(&self, tx: &Tx, host: &mut Host, boot: &str) -> Result<()> {
        let before = std::mem::replace(&mut host.upkeep.boot, boot.to_string());
        // What its monitors saw was in another boot; they say what they see now.
        let failed = if before.is_empty() || before == boot { host.failed } else { std::mem::take(&mut host.failed) };
        if before.is_empty() || before == boot || host.locked || host.upkeep.enabling != Enabling::Done {
            return Ok(());
        }
        host.upkeep.enabling = Enabling::Due;
        host.upkeep.shut = !failed && self.compute.host_is_shut_in(tx, &host.uuid)?;
        if host.upkeep.act.is_some() {
            // Somebody has ordered that.
            return Ok(());
        }
        let text = format!("{} experienced a service-affecting failure: its machine rebooted by itself.", host.hostname);
        let repair = "No action is needed when it gets into service again.";
        self.faults.alarm_set_in(tx, &Alarm::known(FAILED, entity(&host.hostname), Severity::Critical, text, repair)).map(drop)
    }

    fn host_state_log_in(&self, tx: &Tx, host: &Host, state: &str) -> Result<()> {
        let text = format!("{} is now '{state}'", host.hostname);
        let of = format!("{}.state={state}", entity(&host.hostname));
        self.faults.log_in(tx, &Alarm::known(STATE, of, Severity::None, text, ""))
    }
}

impl Host {
    fn is_due(&self, now: Timestamp) -> bool {
        let time = match self.upkeep.enabling {
            Enabling::Due => true,
            Enabling::Failed => self.upkeep.retry_at.is_some_and(|at| at <= now),
            Enabling::Done | Enabling::Running => false,
        };
        time && self.connected && !self.deleted && !self.locked && self.task.is_empty() && !self.upkeep.held_off
    }
}

pub struct HostEnable(pub Inventory);

/// What those that failed have said.
pub(crate) fn failures(readiness: &Readiness) -> Option<String> {
    let all: Vec<String> = readiness.failures.iter().map(|(name, said)| format!("{name}: {said}")).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

impl Inventory {
    /// Has a host do one of its parts, or asks how far it is with that run.
    pub(crate) async fn ready_ask(&self, id: &str, part: Part, run: &str, limit: Duration) -> Result<Readiness> {
        let request = Request::Ready { part, run: run.into(), seconds: limit.as_secs() };
        match self.core.hosts.sessions().ask(id, request).await? {
            Response::Json(value) => serde_json::from_value(value).internal("a host's answer cannot be read"),
            _ => Err(Error::internal("a host answers something else")),
        }
    }
}

impl HostEnable {
    fn time(&self, key: &str) -> Duration {
        Duration::from_secs(self.0.core.config.int(key))
    }

    /// The host, if this operation is still the one that puts it into service.
    fn own_in(tx: &Tx, id: &str, run: &str) -> Result<Option<Host>> {
        let own = |host: &Host| !host.deleted && host.upkeep.enabling == Enabling::Running && host.upkeep.run == run;
        Ok(db::host_fetch_in(tx, id)?.filter(own))
    }

    async fn own(&self, cx: &StepContext, params: &Params) -> Result<Option<Host>> {
        self.0.core.store.read(|tx| Self::own_in(tx, &cx.resource_id, &params.run)).await
    }

    /// Has the host do its part, and waits for it. How many executables there were.
    async fn part(&self, cx: &StepContext, params: &Params, part: Part, limit: Duration) -> Result<usize> {
        let id = &cx.resource_id;
        let end = Instant::now() + limit + AWAY;
        loop {
            if self.0.session_of(id).is_some_and(|info| !info.readies) {
                // Of a release that has nothing to make ready.
                return Ok(0);
            }
            if cx.cancelled() || self.own(cx, params).await?.is_none() {
                return Err(Error::conflict("it was cancelled"));
            }
            match self.0.ready_ask(id, part, &params.run, limit).await? {
                Readiness { unusable: Some(why), .. } => return Err(Error::invalid(why)),
                readiness @ Readiness { over: true, .. } => match failures(&readiness) {
                    None => return Ok(readiness.count),
                    Some(failures) => return Err(Error::conflict(failures)),
                },
                _ if Instant::now() > end => return Err(Error::conflict(format!("not over within {} s", limit.as_secs()))),
                _ => {}
            }
        }
    }

    async fn soak(&self, cx: &StepContext, params: &Params) -> Result<()> {
        let limit = self.time("maintenance.soak_seconds");
        let end = Instant::now() + limit;
        loop {
            let host = self.own(cx, params).await?.filter(|_| !cx.cancelled()).ok_or_else(|| Error::conflict("it was cancelled"))?;
            if self.0.is_steady(&host) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Error::conflict(format!("it has not answered {SOAK} pulses in a row within {} s", limit.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

const STEPS: &[&str] = &["test", "services", "soak"];

#[async_trait]
impl Operation for HostEnable {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        STEPS
    }
    fn retry(&self, step: &str) -> Retry {
        let limit = match step {
            "test" => self.time("maintenance.test_seconds"),
            "services" => self.time("maintenance.services_seconds"),
            _ => self.time("maintenance.soak_seconds"),
        };
        Retry { most: Duration::from_secs(1), ..Retry::within(limit + 2 * AWAY) }
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        if self.own(cx, &params).await?.is_none() {
            return Ok(Effect::finish_early());
        }
        let outcome = match step {
            "test" => self.part(cx, &params, Part::Tests, self.time("maintenance.test_seconds")).await,
            "services" => self.part(cx, &params, Part::Services, self.time("maintenance.services_seconds")).await,
            _ => self.soak(cx, &params).await.map(|()| 0),
        };
        if outcome.is_err() && self.own(cx, &params).await?.is_none() {
            // Locked by force, or deleted.
            return Ok(Effect::finish_early());
        }
        let (count, services) = (outcome?, step == "services");
        let (this, id, next) = (self.0.clone(), cx.resource_id.clone(), STEPS.iter().position(|known| *known == step).map_or(0, |n| n + 1));
        Ok(Effect::with(true).commit(move |tx| {
            let Some(mut host) = Self::own_in(tx, &id, &params.run)? else { return Ok(()) };
            if services {
                host.upkeep.services = count > 0;
            }
            match TASKS.get(next) {
                Some(task) => {
                    host.task = (*task).into();
                    db::host_put_in(tx, &mut host)
                }
                None => this.host_enabled_in(tx, host),
            }
        }))
    }

    /// A host that was tested, and services that run, harm nobody.
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let params: Params = cx.param()?;
        let Some(mut host) = Self::own_in(tx, &cx.resource_id, &params.run)? else { return Ok(()) };
        let (cause, what) = match (error.kind(), host.task.as_str()) {
            (Kind::Invalid, _) => (Cause::Configuration, "its configuration cannot be used"),
            (Kind::Conflict, "Testing") => (Cause::Tests, "a test failed"),
            (Kind::Conflict, "Initializing") => (Cause::Services, "a service could not be started"),
            (Kind::Conflict, _) => (Cause::Heartbeat, "its heartbeat is not steady"),
            _ => (Cause::Enable, "it went away, or something else failed"),
        };
        let why = format!("{what} ({})", error.message());
        self.0.host_enable_failed_in(tx, &mut host, cause, &why)
    }
}

/// Tries again those hosts whose time has come, and begins with those that have come.
pub struct Enabler(pub Inventory);

#[async_trait]
impl Reconciler for Enabler {
    fn name(&self) -> &'static str {
        "inventory.enable"
    }

    fn every(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run(&self) -> Result<()> {
        let now = Timestamp::now();
        let hosts = self.0.core.store.read(db::host_list_in).await?;
        for id in hosts.into_iter().filter(|host| host.is_due(now)).map(|host| host.uuid) {
            let this = self.0.clone();
            let begin = move |tx: &Tx| match db::host_fetch_in(tx, &id)? {
                Some(mut host) => this.host_enable_due_in(tx, &mut host).map(drop),
                None => Ok(()),
            };
            self.0.core.store.write(begin).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_failed_says_how_and_whether_it_is_tried_again() {
        let mut host = Host::new("edge-1", "worker");
        (host.upkeep.enabling, host.upkeep.cause) = (Enabling::Failed, Some(Cause::Enable));
        host.upkeep.retry_at = Some(Timestamp::now());
        assert_eq!(host.task_shown(), "Enable Failure, retry pending");
        host.upkeep.unlocking = true;
        assert_eq!(host.task_shown(), "Unlock Operation Failed");
        host.upkeep.cause = Some(Cause::Tests);
        assert_eq!(host.task_shown(), "In-Test Failure, retry pending");
        (host.upkeep.cause, host.upkeep.retry_at) = (Some(Cause::Enable), None);
        assert_eq!(host.task_shown(), "Enable Failure, threshold reached, Lock/Unlock to retry");
    }
}
