//! A server to another host, with another flavor or the same: it is switched off, its disks are copied, and it starts there. Until
//! that is confirmed everything is on its old host to go back to, off.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use block_storage::bring::Destination;
use rpc::instance::{InstanceState, Power, Restart};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use super::server_resize::flavor_take;
use crate::Compute;
use crate::cpus;
use crate::db::servers::{self as db, Resize, Server, Source};
use crate::db::volumes::volumes_of_in;
use crate::db::{actions, migrations, nodes, tombstones};
use crate::flavors::Flavor;
use crate::scheduler;
use crate::states::{task as task_state, vm};
use crate::vim::Stage;

pub const KIND: &str = "compute.server_move";
/// A guest may take its time to shut down.
const STOP: Duration = Duration::from_secs(300);
const COPY: Duration = Duration::from_secs(4 * 3600);
const START: Duration = Duration::from_secs(600);
/// How long what was brought to the other host may take to be cleared away.
const CLEAR: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub migration: String,
    /// None: the same one.
    pub flavor: Option<Flavor>,
    /// The host (name) that was asked for.
    pub target: Option<String>,
    /// Where and what it was.
    pub source: Source,
    pub vm_state: String,
    pub wanted: Power,
}

impl Params {
    fn name(&self) -> &'static str {
        if self.flavor.is_some() { "Resize" } else { "Cold-Migrate" }
    }
}

/// Output of `claim`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claimed {
    host_id: String,
    host: String,
    zone: String,
}

pub struct ServerMove(pub Compute);

#[async_trait]
impl Operation for ServerMove {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["claim", "stop", "copy", "switch", "start"]
    }
    fn deadline(&self) -> Duration {
        STOP + COPY + START
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(match step {
            "claim" | "switch" => Duration::from_secs(60),
            "stop" => STOP,
            "copy" => COPY,
            _ => START,
        })
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        match step {
            "claim" => self.claim(cx, params).await,
            "stop" => self.stop(cx, params).await,
            "copy" => self.copy(cx, params).await,
            "switch" => self.switch(cx, params),
            _ => self.start(cx, params).await,
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        let Some(claimed) = cx.opt_output::<Claimed>("claim")? else { return Ok(Effect::none()) };
        match step {
            "claim" => Ok(self.unclaim(cx, params)),
            "copy" => {
                self.0.volumes_return(cx, &claimed.host_id, &params.source).await?;
                self.clear(cx, claimed, Some(params.source.host_id), false).await
            }
            "switch" => Ok(self.unswitch(cx, claimed)),
            "start" => self.clear(cx, claimed, None, true).await,
            _ => Ok(Effect::none()),
        }
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let params: Params = cx.param()?;
        migrations::migration_status_in(tx, &params.migration, "error")?;
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
        if !deleting {
            server.task_state = None;
            server.vm_state.clone_from(&params.vm_state);
            if server.host_id.as_ref() != Some(&params.source.host_id) {
                // The other host cannot be reached and may run it: there it is, then.
                server.vm_state = vm::ERROR.into();
                server.doc.held_failed = true;
            }
        }
        db::server_update_in(tx, &mut server)?;
        self.0.status_again_after_commit(tx, &server.id);
        let (host, now) = (server.host.as_deref(), Timestamp::now());
        let event = if params.flavor.is_some() { "compute_prep_resize" } else { "cold_migrate" };
        actions::action_event_in(tx, &server.id, &cx.context.request_id, event, host, now, Some(error.message()))?;
        if deleting {
            return self.0.vim_log_in(tx, &server, params.name(), Stage::Cancelled, None);
        }
        let code = if error.is(Kind::NoCapacity) { 400 } else { 500 };
        db::fault_put_in(tx, &server.id, code, error.message(), &error.chain())?;
        self.0.vim_log_in(tx, &server, params.name(), Stage::Failed, Some(error.message()))?;
        crate::notify::server_event_in(tx, "resize.error", &server, &cx.context, Some(error.message()))
    }
}

impl ServerMove {
    /// The other host, room there, and the order to the guest to switch itself off.
    async fn claim(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let compute = self.0.clone();
        let what = if params.flavor.is_some() { "resize" } else { "cold migrate" };
        let (choice, resources) = compute
            .core
            .store
            .read(|tx| {
                let server = db::server_get_in(tx, &cx.resource_id)?;
                let mut then = server.clone();
                match &params.flavor {
                    Some(flavor) => then_take(&mut then, flavor)?,
                    None => cpus::offline_set(&mut then, BTreeSet::new()),
                }
                let choice = compute.move_choose_in(tx, &then, params.target.clone(), &params.source.host_id);
                let returning = compute.others_returning_in(tx, std::slice::from_ref(&params.source.host_id))?;
                let choice = choice.map_err(|error| match error.kind() {
                    Kind::NoCapacity if returning => {
                        Error::unavailable("Hosts are still returning after the controller's start.").caused_by(error)
                    }
                    Kind::NoCapacity => {
                        Error::new(Kind::NoCapacity, format!("No valid host was found. No valid host found for {what}")).caused_by(error)
                    }
                    _ => error,
                })?;
                Ok((choice, scheduler::resources(&then)?))
            })
            .await?;
        let (id, claimed) = (cx.resource_id.clone(), Claimed { host_id: choice.host_id, host: choice.host, zone: choice.zone });
        Ok(Effect::with(&claimed).commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            if !scheduler::group_allows_in(tx, &server, &claimed.host_id)? {
                return Err(Error::unavailable("Another server of the group was placed meanwhile."));
            }
            compute.placement.hand_over_in(tx, &id, &params.migration, None)?;
            let claim = compute.claim_in(tx, &server, &claimed.host_id, &resources);
            claim.map_err(|error| match error.kind() {
                Kind::NoCapacity => Error::unavailable("The chosen host is full by now.").caused_by(error),
                _ => error,
            })?;
            server.doc.restart = Restart::Soft;
            server.want(Power::Stopped);
            if server.task_state.as_deref() != Some(task_state::DELETING) {
                server.task_state = Some(task_state::RESIZE_MIGRATING.into());
            }
            migrations::migration_to_in(tx, &params.migration, "migrating", &claimed.host)?;
            db::server_update_in(tx, &mut server)
        }))
    }

    fn unclaim(&self, cx: &StepContext, params: Params) -> Effect {
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        Effect::none().commit(move |tx| {
            let here = db::server_fetch_in(tx, &id, false)?.filter(|s| s.host_id.as_ref() == Some(&params.source.host_id));
            let Some(mut server) = here else { return Ok(()) };
            let resources = scheduler::resources(&server)?;
            compute.claim_back_in(tx, &params.migration, &server, &params.source.host_id, &resources)?;
            server.want(params.wanted);
            db::server_save_in(tx, &mut server)?;
            compute.tell_after_commit(tx, &server);
            Ok(())
        })
    }

    async fn stop(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let server = self.0.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = &params.source.host_id;
        let generation = self.0.instance_send(host_id, &server.id).await?;
        let status = cx.aside(self.0.host_settled(cx, host_id, generation, 0, STOP)).await??;
        if status.state != InstanceState::Stopped {
            let why = status.error.unwrap_or_else(|| "the guest does not stop".into());
            return Err(Error::conflict(format!("The server could not be switched off: {why}")));
        }
        Ok(Effect::none())
    }

    async fn copy(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, id) = (&self.0, cx.resource_id.as_str());
        let claimed: Claimed = cx.output("claim")?;
        let (spec, stale) =
            compute.core.store.read(|tx| Ok((compute.spec_in(tx, id)?, tombstones::tombstone_fetch_in(tx, &claimed.host_id, id)?))).await?;
        if let Some(generation) = stale {
            // It was there before, and what it left must be gone first.
            if !compute.host_removed(&claimed.host_id, id, generation, CLEAR).await? {
                return Err(Error::unavailable(format!("Host {} still has the server's old disks.", claimed.host)));
            }
        }
        compute.disks_copy(cx, &spec, &params.source.host_id, &claimed.host_id).await.map_err(|error| match error.kind() {
            Kind::Internal => Error::conflict(format!("The server's disks could not be copied: {}", error.chain())),
            _ => error,
        })?;
        compute.volumes_bring(cx, &Destination { host_id: claimed.host_id, host: claimed.host }).await?;
        Ok(Effect::none())
    }

    /// Has the other host clear away what was brought there. `sure`: nothing may come after before it has said so.
    async fn clear(&self, cx: &StepContext, claimed: Claimed, only_if_on: Option<String>, sure: bool) -> Result<Effect> {
        let (compute, id, host_id) = (self.0.clone(), cx.resource_id.clone(), claimed.host_id.clone());
        let marked = compute
            .core
            .store
            .write(move |tx| {
                let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(None) };
                if only_if_on.is_some() && server.host_id != only_if_on {
                    return Ok(None);
                }
                server.spec_generation += 1;
                tombstones::tombstone_put_in(tx, &host_id, &id, server.spec_generation)?;
                db::server_save_in(tx, &mut server)?;
                Ok(Some((server.spec_generation, nodes::node_fetch_in(tx, &host_id)?)))
            })
            .await?;
        let Some((generation, node)) = marked else { return Ok(Effect::none()) };
        let gone = compute.host_removed(&claimed.host_id, &cx.resource_id, generation, CLEAR).await? || node.is_none();
        // One that is fenced does not run it; what it still has goes when it is back.
        if sure && !gone && !node.is_some_and(|node| node.fenced) {
            return Err(Error::unavailable(format!("Host {} may run the guest.", claimed.host)));
        }
        let id = cx.resource_id.clone();
        Ok(Effect::none()
            .commit(move |tx| if gone { tombstones::tombstone_drop_in(tx, &claimed.host_id, &id, generation).map(drop) } else { Ok(()) }))
    }

    /// The change of hosts. The old one keeps the guest as it is: off.
    fn switch(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, id, claimed) = (self.0.clone(), cx.resource_id.clone(), cx.output::<Claimed>("claim")?);
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            if server.doc.resize.is_some() {
                return Ok(());
            }
            server.doc.resize = Some(Resize {
                migration: params.migration.clone(),
                flavor: server.flavor()?.clone(),
                disks: server.doc.disks.clone(),
                ephemeral: server.doc.ephemeral,
                swap: server.doc.swap,
                offline: server.doc.offline.clone(),
                vm_state: params.vm_state.clone(),
                at: Timestamp::now(),
                source: Some(params.source),
            });
            match &params.flavor {
                Some(flavor) => then_take(&mut server, flavor)?,
                None => cpus::offline_set(&mut server, BTreeSet::new()),
            }
            compute.network.ports_bind_in(tx, &id, &claimed.host_id, &claimed.host, &claimed.zone)?;
            server.host_id = Some(claimed.host_id);
            server.node = Some(claimed.host.clone());
            server.host = Some(claimed.host);
            server.availability_zone = Some(claimed.zone);
            server.doc.restart = Restart::Hard;
            server.boot += 1;
            server.want(params.wanted);
            migrations::migration_status_in(tx, &params.migration, "post-migrating")?;
            db::server_update_in(tx, &mut server)
        }))
    }

    fn unswitch(&self, cx: &StepContext, claimed: Claimed) -> Effect {
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        Effect::none().commit(move |tx| {
            let there = db::server_fetch_in(tx, &id, false)?.filter(|s| s.host_id.as_ref() == Some(&claimed.host_id));
            let Some(mut server) = there else { return Ok(()) };
            server.spec_generation += 1;
            let known = nodes::node_fetch_in(tx, &claimed.host_id)?.is_some();
            if tombstones::tombstone_drop_in(tx, &claimed.host_id, &id, server.spec_generation)? && known {
                // Nobody has heard that the guest is not there: it must not be twice.
                db::server_save_in(tx, &mut server)?;
                compute.tell_after_commit(tx, &server);
                return Ok(());
            }
            compute.move_home_in(tx, &mut server)?;
            server.wanted = Power::Stopped;
            db::server_save_in(tx, &mut server)
        })
    }

    async fn start(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, started) = (self.0.clone(), Timestamp::now());
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = compute.server_host(&server)?;
        let generation = compute.instance_send(&host_id, &server.id).await?;
        let status = compute.host_settled(cx, &host_id, generation, server.boot, START).await?;
        if matches!(status.state, InstanceState::Failed | InstanceState::Absent) {
            let why = status.error.unwrap_or_else(|| "the guest is not there".into());
            return Err(Error::conflict(format!("Host {} could not start it: {why}", server.host.unwrap_or_default())));
        }
        let (ctx, id) = (cx.context.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            let deleting = server.task_state.clone().filter(|t| t == task_state::DELETING);
            server.settle(vm::RESIZED);
            server.task_state = deleting;
            server.launched_at = Some(Timestamp::now());
            db::server_update_in(tx, &mut server)?;
            migrations::migration_status_in(tx, &params.migration, "finished")?;
            compute.status_again_after_commit(tx, &id);
            let source = Some(params.source.host.as_str());
            actions::action_event_in(tx, &id, &ctx.request_id, "cold_migrate", None, started, None)?;
            actions::action_event_in(tx, &id, &ctx.request_id, "compute_prep_resize", server.host.as_deref(), started, None)?;
            actions::action_event_in(tx, &id, &ctx.request_id, "compute_resize_instance", source, started, None)?;
            actions::action_event_in(tx, &id, &ctx.request_id, "compute_finish_resize", server.host.as_deref(), started, None)?;
            compute.vim_log_in(tx, &server, params.name(), Stage::Completed, None)?;
            crate::notify::server_event_in(tx, "finish_resize.end", &server, &ctx, None)
        }))
    }
}

/// Makes the server one of this flavor, on the disks it has: they grow. Swap begins anew.
fn then_take(server: &mut Server, flavor: &Flavor) -> Result<()> {
    let old = server.flavor()?.clone();
    let root_shrinks = flavor.root_gb < old.root_gb && !server.boots_from_volume();
    if root_shrinks || flavor.ephemeral_gb < server.doc.ephemeral.unwrap_or(old.ephemeral_gb) {
        return Err(Error::conflict("Resize error: Unable to resize disk down."));
    }
    flavor_take(server, flavor);
    (server.doc.ephemeral, server.doc.swap) = (None, None);
    server.doc.disks.swap = server.doc.disks.fresh();
    Ok(())
}

impl Compute {
    /// The best host for a server but the one it is on, or the one that was asked for.
    pub(crate) fn move_choose_in(&self, tx: &Tx, server: &Server, target: Option<String>, source: &str) -> Result<scheduler::Choice> {
        let mut asked = server.clone();
        // What a create was forced to does not count any more.
        (asked.doc.placement.forced_host, asked.doc.placement.requested_host) = (None, target);
        self.host_choose_in(tx, &asked, &[source.to_string()])
    }

    /// Brings the volumes of a server that is off to the host that it goes to.
    pub(crate) async fn volumes_bring(&self, cx: &StepContext, to: &Destination) -> Result<()> {
        for id in self.core.store.read(|tx| volumes_of_in(tx, &cx.resource_id)).await?.into_iter().filter_map(|row| row.volume_id) {
            self.volumes.volume_bring(cx, &id, to).await?;
        }
        Ok(())
    }

    /// They are again where it was, if the server is: what of them is on `away` was brought there by this operation.
    pub(crate) async fn volumes_return(&self, cx: &StepContext, away: &str, home: &Source) -> Result<()> {
        let look = self.core.store.read(|tx| Ok((db::server_fetch_in(tx, &cx.resource_id, false)?, volumes_of_in(tx, &cx.resource_id)?)));
        let (server, rows) = look.await?;
        if server.is_none_or(|server| server.host_id.as_ref() != Some(&home.host_id)) {
            return Ok(());
        }
        let to = Destination { host_id: home.host_id.clone(), host: home.host.clone() };
        for id in rows.into_iter().filter_map(|row| row.volume_id) {
            let (this, of, volume, away) = (self.clone(), cx.clone(), id.clone(), away.to_string());
            self.core.store.write(move |tx| this.volumes.bring_over_in(tx, &of, &volume, &away)).await?;
            self.volumes.volume_return(cx, &id, &to).await?;
        }
        Ok(())
    }

    /// Makes a server that went to another host one of its old host again, with what it had there. Its ports follow; what it claims
    /// does not.
    pub(crate) fn move_home_in(&self, tx: &Tx, server: &mut Server) -> Result<()> {
        let Some(before) = server.doc.resize.take() else { return Ok(()) };
        let Some(source) = before.source else { return Err(Error::internal("the server never left its host")) };
        flavor_take(server, &before.flavor);
        cpus::offline_set(server, before.offline);
        // Numbers of disks are never used again.
        let last = server.doc.disks.last;
        server.doc.disks = before.disks;
        server.doc.disks.last = last;
        (server.doc.ephemeral, server.doc.swap) = (before.ephemeral, before.swap);
        let zone = source.zone.clone().unwrap_or_else(|| nodes::DEFAULT_ZONE.into());
        self.network.ports_bind_in(tx, &server.id, &source.host_id, &source.host, &zone)?;
        server.availability_zone = source.zone;
        (server.host_id, server.node, server.host) = (Some(source.host_id), Some(source.host.clone()), Some(source.host));
        Ok(())
    }
}
