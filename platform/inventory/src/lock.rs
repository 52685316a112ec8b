//! Locking a host (maintenance specification, section 3; VIM specification, section 3): its running instances are moved to other
//! hosts first, one after the other; when one cannot be, the host is put back into service and says why. By force nothing is moved:
//! the host gets no more lease, which ends its guests, and is locked when that is certain; then they are brought up elsewhere.

use std::time::Duration;

use async_trait::async_trait;
use base::{Context, Error, Result, Timestamp};
use fault::{Alarm, Severity};
use rpc::message::{Part, Readiness};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, New, Operation, Retry, StepContext};

use crate::Inventory;
use crate::act::COMMAND;
use crate::db::{self, Host};
use crate::enable::{Enabling, failures};
use crate::hosts::entity;

pub const KIND: &str = "inventory.host_lock";
/// StarlingX's word for it; clients look for it.
const TASK: &str = "Disabling Services";
/// The word for a lock that waits for no instance.
pub(crate) const FORCE: &str = "Force Lock Reset in Progress";
/// What is shown of a lock by force that came to nothing.
const FORCE_FAILED: &str = "Force Lock Failed, its instances may still run";
/// How often a machine is told to switch off for a lock by force.
const TRIES: u32 = 3;
/// How long all instances together may take to leave.
const LEAVE: Duration = Duration::from_secs(3000);
/// How long a host that cannot be asked is waited for, and what its services may take beyond their time.
const GONE: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(60);
/// How often an instance that is on its way is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long an instance that has just arrived is left alone before the next one leaves. What it touches first it has to fetch and, when
/// it is emulated, to translate anew; with another guest's last pages on the same processors it would stand still for longer.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize, Deserialize)]
struct Params {
    servers: Vec<String>,
    since: Timestamp,
    /// The host's [`crate::Upkeep::run`] while this lock is the one that is under way.
    #[serde(default)]
    run: String,
}

impl Inventory {
    /// Begins to lock a host. Refused before anything moves when one of its instances cannot leave it.
    pub(crate) fn host_lock_begin_in(&self, tx: &Tx, ctx: &Context, mut host: Host) -> Result<Host> {
        if host.locked {
            return Err(Error::invalid(format!("Host {} is already locked.", host.hostname)));
        }
        if !host.task.is_empty() {
            return Err(Error::invalid(format!("Host {}: an operation is in progress ({}).", host.hostname, host.task)));
        }
        // Of a site of one host the controller is maintained with it; any other site would have no controller in service.
        if host.personality == "controller" && !self.is_alone_in(tx, &host)? {
            return Err(Error::invalid(format!(
                "Lock of host {} rejected because it is the active controller, and there is no other that could take over.",
                host.hostname
            )));
        }
        if host.is_lost() {
            return Err(Error::invalid(format!(
                "Lock of host {} rejected because it is lost: its instances recover elsewhere.",
                host.hostname
            )));
        }
        let servers = self
            .compute
            .departing_in(tx, &host.uuid)
            .map_err(|error| Error::invalid(format!("Lock of host {} rejected because {}", host.hostname, error.message())))?;
        if servers.is_empty() && !host.upkeep.services {
            return self.host_lock_in(tx, host);
        }
        let run = base::id::uuid();
        (host.task, host.progress, host.upkeep.run) = (TASK.into(), String::new(), run.clone());
        host.upkeep.verdict = String::new();
        db::host_put_in(tx, &mut host)?;
        self.host_open_in(tx, &host)?;
        let params = serde_json::to_value(Params { servers, since: Timestamp::now(), run });
        let params = params.map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, New::new(KIND, "host", &host.uuid).params(params).context(ctx.clone()))?;
        Ok(host)
    }
}

impl Host {
    /// It is being emptied, to be locked.
    pub(crate) fn is_locking(&self) -> bool {
        !self.locked && self.task == TASK && !self.upkeep.dropped
    }

    /// Its lease is to end, so that it can be locked by force.
    pub fn is_forced(&self) -> bool {
        self.task == FORCE && !self.fenced
    }

    /// Whether its machine is to be told now to switch off for a lock by force, which as a whole may take `limit`: each try has its
    /// part of that.
    pub fn is_force_due(&self, limit: Duration) -> bool {
        self.forcing().is_some_and(|forcing| Timestamp::now() >= forcing.since.plus(limit / TRIES * forcing.tries))
    }

    /// Whether a lock by force has had its time.
    pub fn is_force_over(&self, limit: Duration) -> bool {
        self.forcing().is_some_and(|forcing| Timestamp::now() >= forcing.since.plus(limit))
    }

    fn forcing(&self) -> Option<Forcing> {
        self.upkeep.forcing.filter(|_| self.is_forced())
    }
}

/// How long one of the tries of a lock by force may take: a bit less than its part, so that the last is over before the lock is.
pub fn force_try(limit: Duration) -> Duration {
    limit / (TRIES + 1)
}

/// How far a lock by force is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forcing {
    pub since: Timestamp,
    /// That came to nothing.
    pub tries: u32,
}

impl Inventory {
    /// A host that is being emptied is not to be locked after all (VIM specification, section 2, "enable while disabling"). The
    /// operation sees it and ends; instances that have moved stay where they are, and one that is on its way arrives. Services that are
    /// being stopped are stopped first, and then started again.
    pub(crate) fn host_lock_drop_in(&self, tx: &Tx, mut host: Host) -> Result<Host> {
        host.progress = format!("The lock of host {} was dropped: it was unlocked.", host.hostname);
        if host.upkeep.stopping {
            host.upkeep.dropped = true;
        } else {
            (host.task, host.upkeep.run) = (String::new(), String::new());
        }
        db::host_put_in(tx, &mut host)?;
        self.host_open_in(tx, &host)?;
        Ok(host)
    }

    /// Its services have stopped, and it goes its way into service again.
    fn host_lock_dropped_in(&self, tx: &Tx, ctx: &Context, mut host: Host) -> Result<()> {
        host.task = String::new();
        host.upkeep.dropped = false;
        if host.upkeep.enabling == Enabling::Done {
            host.upkeep.enabling = Enabling::Due;
        }
        if host.connected {
            return self.host_enable_in(tx, ctx, &mut host);
        }
        db::host_put_in(tx, &mut host)?;
        self.host_open_in(tx, &host)
    }

    /// The same for a caller who knows it by its id.
    pub fn host_force_lock_in(&self, tx: &Tx, id: &str) -> Result<()> {
        let host = db::host_fetch_in(tx, id)?.filter(|host| !host.deleted).ok_or_else(|| Error::not_found("Host", id))?;
        self.host_force_in(tx, host).map(drop)
    }

    /// Begins to lock a host by force; it is locked when it is fenced ([`Inventory::host_fence_in`]).
    pub(crate) fn host_force_in(&self, tx: &Tx, mut host: Host) -> Result<Host> {
        let refused = |why: &str| Err(Error::invalid(format!("Force-lock of host {} rejected because {why}.", host.hostname)));
        if host.locked {
            return refused("it is already locked");
        }
        if host.personality == "controller" {
            return refused("it is the active controller");
        }
        // Its BMC switches it off, and that is certain.
        if !(host.has_bmc() && host.waits) {
            if !host.leased {
                return refused("it has neither a BMC nor a lease: nothing would be certain about its instances");
            }
            if db::host_list_in(tx)?.iter().filter(|h| h.leased).count() < 2 {
                return refused("of two machines neither can be certain about the other, and it has no BMC");
            }
        }
        if host.fenced {
            // It is certain already: its instances are elsewhere, or will be.
            return self.host_lock_in(tx, host);
        }
        (host.task, host.progress, host.upkeep.dropped) = (FORCE.into(), String::new(), false);
        (host.upkeep.forcing, host.upkeep.verdict) = (Some(Forcing { since: Timestamp::now(), tries: 0 }), String::new());
        if host.upkeep.enabling == Enabling::Running {
            // Whoever puts it into service sees that it is no longer to be.
            (host.upkeep.enabling, host.upkeep.run) = (Enabling::Due, String::new());
        }
        db::host_put_in(tx, &mut host)?;
        self.host_open_in(tx, &host)?;
        Ok(host)
    }
}

impl Inventory {
    /// A host's BMC was told to switch its machine off for a lock by force, and it is not known to be. After so many tries that is the
    /// end of the lock: who said "locked" now would let its instances run twice.
    pub fn host_force_tried_in(&self, tx: &Tx, id: &str, why: &str) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(|h| !h.deleted && h.is_forced()) else { return Ok(()) };
        let Some(forcing) = &mut host.upkeep.forcing else { return Ok(()) };
        forcing.tries += 1;
        if forcing.tries >= TRIES {
            return self.host_force_failed_in(tx, host, &format!("its BMC was told {TRIES} times to switch it off ({why})"));
        }
        db::host_put_in(tx, &mut host)
    }

    /// The same of one whose time is over.
    pub fn host_force_over_in(&self, tx: &Tx, id: &str, limit: Duration) -> Result<()> {
        match db::host_fetch_in(tx, id)?.filter(|host| !host.deleted && host.is_force_over(limit)) {
            Some(host) => self.host_force_failed_in(tx, host, &format!("nothing was certain within {} s", limit.as_secs())),
            None => Ok(()),
        }
    }

    /// The host stays what it was, and a lock by force can be asked for again.
    fn host_force_failed_in(&self, tx: &Tx, mut host: Host, why: &str) -> Result<()> {
        (host.task, host.upkeep.forcing, host.upkeep.verdict) = (String::new(), None, FORCE_FAILED.into());
        let name = &host.hostname;
        host.progress = format!(
            "Force-lock of host {name} failed: {why}. Its instances may still run. Correct what keeps its BMC from it, or switch the machine off \
             by hand, and ask again."
        );
        tracing::error!("{}", host.progress);
        let of = format!("{}.command=force-lock", entity(name));
        let text = format!("{name}: force-lock failed: {why}");
        self.faults.log_in(tx, &Alarm::known(COMMAND, of, Severity::None, text, ""))?;
        db::host_put_in(tx, &mut host)?;
        self.host_open_in(tx, &host)
    }
}

pub struct HostLock(pub Inventory);

#[async_trait]
impl Operation for HostLock {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["empty", "stop"]
    }
    fn retry(&self, step: &str) -> Retry {
        match step {
            "empty" => Retry::within(LEAVE),
            _ => Retry::within(self.limit() + AWAY),
        }
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        match step {
            "empty" => self.empty(cx, params).await,
            _ => self.stop(cx, params).await,
        }
    }

    /// Instances that have moved stay where they are: there they are well.
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        // One by force may have begun meanwhile.
        let Some(mut host) = Self::own_in(tx, cx, &cx.param()?)? else { return Ok(()) };
        (host.task, host.upkeep.run, host.upkeep.dropped) = (String::new(), String::new(), false);
        host.progress = format!("Lock of host {} failed because {}", host.hostname, error.message());
        if std::mem::take(&mut host.upkeep.stopping) && host.upkeep.enabling == Enabling::Done {
            // Its services are started before it takes anything again.
            host.upkeep.enabling = Enabling::Due;
        }
        tracing::warn!("{}", host.progress);
        db::host_put_in(tx, &mut host)?;
        self.0.host_open_in(tx, &host)
    }
}

impl HostLock {
    /// How long stopping a host's services may take.
    fn limit(&self) -> Duration {
        Duration::from_secs(self.0.core.config.int("maintenance.services_seconds"))
    }

    /// The host, if this operation is still the one that locks it.
    fn own_in(tx: &Tx, cx: &StepContext, params: &Params) -> Result<Option<Host>> {
        let own = |host: &Host| !host.deleted && !host.locked && host.task == TASK && host.upkeep.run == params.run;
        Ok(db::host_fetch_in(tx, &cx.resource_id)?.filter(own))
    }

    async fn own(&self, cx: &StepContext, params: &Params) -> Result<Option<Host>> {
        self.0.core.store.read(|tx| Self::own_in(tx, cx, params)).await
    }

    async fn empty(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        // What is done to the instances is the system's doing, in the name of this request.
        let ctx = Context::system(cx.context.request_id.clone());
        for (number, server) in params.servers.iter().enumerate() {
            if number > 0 {
                tokio::time::sleep(SETTLE).await;
            }
            loop {
                let wanted = self.own(cx, &params).await?.is_some();
                // One that is on its way arrives, whatever becomes of the lock.
                let over = self.0.compute.depart(&ctx, server, &cx.resource_id, params.since, wanted).await?;
                match (over, wanted) {
                    (true, true) => break,
                    (true, false) => return Ok(Effect::finish_early()),
                    _ if cx.cancelled() => return Err(Error::conflict("it was cancelled.")),
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        }
        let cx = cx.clone();
        Ok(Effect::none().commit(move |tx| match Self::own_in(tx, &cx, &params)? {
            Some(mut host) => {
                host.upkeep.stopping = host.upkeep.services;
                db::host_put_in(tx, &mut host)
            }
            None => Ok(()),
        }))
    }

    /// Has the host stop the services that it has started. What comes of it is told and keeps nobody from locking the host: its instances
    /// have left, and who locks it wants to work on it.
    async fn stop(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let Some(host) = self.own(cx, &params).await? else { return Ok(Effect::finish_early()) };
        let failed = if host.upkeep.stopping { self.services_stop(cx).await } else { None };
        let (this, cx) = (self.0.clone(), cx.clone());
        Ok(Effect::none().commit(move |tx| match Self::own_in(tx, &cx, &params)? {
            Some(mut host) => {
                (host.upkeep.services, host.upkeep.stopping, host.upkeep.run) = (false, false, String::new());
                if host.upkeep.dropped {
                    return this.host_lock_dropped_in(tx, &cx.context, host);
                }
                let mut host = this.host_lock_in(tx, host)?;
                if let Some(why) = failed {
                    host.progress = format!("Host {} is locked, and not all of its services were stopped: {why}", host.hostname);
                    tracing::warn!("{}", host.progress);
                    db::host_put_in(tx, &mut host)?;
                }
                Ok(())
            }
            None => Ok(()),
        }))
    }

    /// Why not all of them were.
    async fn services_stop(&self, cx: &StepContext) -> Option<String> {
        let (limit, began) = (self.limit(), tokio::time::Instant::now());
        let mut away = None;
        loop {
            match self.0.ready_ask(&cx.resource_id, Part::Stop, &cx.operation_id, limit).await {
                Ok(Readiness { unusable: Some(why), .. }) => return Some(why),
                Ok(readiness) if readiness.over => return failures(&readiness),
                Ok(_) => away = None,
                // A host that is not there has nobody to stop them; its agent may just be started anew.
                Err(error) => {
                    let since = *away.get_or_insert_with(tokio::time::Instant::now);
                    if since.elapsed() > GONE {
                        return Some(format!("it cannot be asked ({})", error.message()));
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
            if began.elapsed() > limit + GONE {
                return Some(format!("not over within {} s", limit.as_secs()));
            }
        }
    }
}
