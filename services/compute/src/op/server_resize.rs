//! Another flavor for a server, on the host it is on. Until it is confirmed everything is there to go back to: the old disks
//! on the host, the old resources under the migration's name in placement.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use rpc::instance::{InstanceState, Restart};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::cpus;
use crate::db::servers::{self as db, Resize, Server};
use crate::db::{actions, migrations, tombstones};
use crate::flavors::Flavor;
use crate::scheduler;
use crate::states::{task as task_state, vm};
use crate::vim::Stage;

pub const KIND: &str = "compute.server_resize";
/// Disks may have to be copied, and a guest may take its time to shut down.
const APPLY: Duration = Duration::from_secs(1800);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub migration: String,
    pub flavor: Flavor,
    /// The state it had.
    pub vm_state: String,
}

pub struct ServerResize(pub Compute);

#[async_trait]
impl Operation for ServerResize {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["claim", "apply"]
    }
    fn retry(&self, step: &str) -> Retry {
        if step == "apply" { Retry::within(APPLY) } else { Retry::within(Duration::from_secs(30)) }
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        if step == "claim" { self.claim(cx, params) } else { self.apply(cx, params).await }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        if step != "claim" {
            return Ok(Effect::none());
        }
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
            compute.resize_back_in(tx, &mut server)?;
            db::server_save_in(tx, &mut server)?;
            compute.tell_after_commit(tx, &server);
            Ok(())
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let params: Params = cx.param()?;
        migrations::migration_status_in(tx, &params.migration, "error")?;
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
        if !deleting {
            server.task_state = None;
            server.vm_state = params.vm_state;
        }
        db::server_update_in(tx, &mut server)?;
        self.0.status_again_after_commit(tx, &server.id);
        let (host, now) = (server.host.as_deref(), Timestamp::now());
        actions::action_event_in(tx, &server.id, &cx.context.request_id, "compute_prep_resize", host, now, Some(error.message()))?;
        if deleting {
            return self.0.vim_log_in(tx, &server, "Resize", Stage::Cancelled, None);
        }
        db::fault_put_in(tx, &server.id, 500, error.message(), &error.chain())?;
        self.0.vim_log_in(tx, &server, "Resize", Stage::Failed, Some(error.message()))?;
        crate::notify::server_event_in(tx, "resize.error", &server, &cx.context, Some(error.message()))
    }
}

impl ServerResize {
    /// Room for both sizes, and the new one written down with its disks: copies of the old ones.
    fn claim(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, id) = (self.0.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            let host_id = compute.server_host(&server)?;
            let old = server.flavor()?.clone();
            let root_shrinks = params.flavor.root_gb < old.root_gb && !server.boots_from_volume();
            if root_shrinks || params.flavor.ephemeral_gb < old.ephemeral_gb {
                return Err(Error::conflict("Resize error: Unable to resize disk down."));
            }
            let before = Resize {
                migration: params.migration.clone(),
                flavor: old.clone(),
                disks: server.doc.disks.clone(),
                ephemeral: server.doc.ephemeral,
                swap: server.doc.swap,
                offline: server.doc.offline.clone(),
                vm_state: params.vm_state.clone(),
                at: Timestamp::now(),
                source: None,
            };
            server.doc.resize = Some(before);
            flavor_take(&mut server, &params.flavor);
            (server.doc.ephemeral, server.doc.swap) = (None, None);
            let disks = &mut server.doc.disks;
            disks.root_from = Some(disks.root);
            disks.root = disks.fresh();
            // A disk the old flavor had none of begins empty.
            disks.ephemeral_from = (old.ephemeral_gb > 0).then_some(disks.ephemeral);
            disks.ephemeral = disks.fresh();
            disks.swap = disks.fresh();
            let new_claim = scheduler::resources(&server)?;
            // What its ports have they have once: it stays on the host.
            compute.placement.hand_over_in(tx, &server.id, &params.migration, Some(&host_id))?;
            compute.claim_in(tx, &server, &host_id, &new_claim).map_err(|error| match error.kind() {
                Kind::NoCapacity => Error::conflict("No valid host was found. No valid host found for resize").caused_by(error),
                _ => error,
            })?;
            server.doc.restart = Restart::Soft;
            server.boot += 1;
            server.spec_generation += 1;
            if server.task_state.as_deref() != Some(task_state::DELETING) {
                server.task_state = Some(task_state::RESIZE_MIGRATING.into());
            }
            migrations::migration_status_in(tx, &params.migration, "migrating")?;
            db::server_update_in(tx, &mut server)
        }))
    }

    async fn apply(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let (compute, started) = (self.0.clone(), Timestamp::now());
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = compute.server_host(&server)?;
        let generation = compute.instance_send(&host_id, &server.id).await?;
        let status = compute.host_settled(cx, &host_id, generation, server.boot, APPLY).await?;
        if matches!(status.state, InstanceState::Failed | InstanceState::Absent) {
            let why = status.error.unwrap_or_else(|| "the guest is not there".into());
            return Err(Error::conflict(format!("Resize error: {why}")));
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
            let host = server.host.as_deref();
            for event in ["compute_prep_resize", "compute_resize_instance", "compute_finish_resize"] {
                actions::action_event_in(tx, &id, &ctx.request_id, event, host, started, None)?;
            }
            compute.vim_log_in(tx, &server, "Resize", Stage::Completed, None)?;
            crate::notify::server_event_in(tx, "finish_resize.end", &server, &ctx, None)
        }))
    }
}

/// Makes the server one of this flavor, with all its vCPUs.
pub(crate) fn flavor_take(server: &mut Server, flavor: &Flavor) {
    server.flavor_id = flavor.id.clone();
    server.memory_mb = flavor.memory_mb;
    server.doc.flavor = Some(flavor.clone());
    cpus::offline_set(server, BTreeSet::new());
}

impl Compute {
    /// Gives the server its old flavor, disks and resources back. The guest needs a new process for it.
    pub(crate) fn resize_back_in(&self, tx: &Tx, server: &mut Server) -> Result<()> {
        let Some(before) = server.doc.resize.take() else { return Ok(()) };
        flavor_take(server, &before.flavor);
        cpus::offline_set(server, before.offline);
        // Numbers of disks are never used again.
        let last = server.doc.disks.last;
        server.doc.disks = before.disks;
        server.doc.disks.last = last;
        (server.doc.ephemeral, server.doc.swap) = (before.ephemeral, before.swap);
        let (host_id, claim) = (self.server_host(server)?, scheduler::resources(server)?);
        self.claim_back_in(tx, &before.migration, server, &host_id, &claim)?;
        server.doc.restart = Restart::Hard;
        server.boot += 1;
        server.spec_generation += 1;
        Ok(())
    }

    /// The new size is kept: what there was to go back to goes.
    pub(crate) fn resize_keep_in(&self, tx: &Tx, server: &mut Server) -> Result<()> {
        let Some(before) = server.doc.resize.take() else { return Ok(()) };
        self.placement.release_in(tx, &before.migration)?;
        if let Some(source) = &before.source {
            tombstones::tombstone_put_in(tx, &source.host_id, &server.id, server.spec_generation + 1)?;
            self.host_tell_after_commit(tx, &source.host_id, &server.id);
        }
        (server.doc.disks.root_from, server.doc.disks.ephemeral_from) = (None, None);
        migrations::migration_status_in(tx, &before.migration, "confirmed")?;
        server.spec_generation += 1;
        self.tell_after_commit(tx, server);
        Ok(())
    }
}
