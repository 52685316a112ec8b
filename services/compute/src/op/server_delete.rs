//! Deleting a server. It only goes forward: a host that cannot be reached is told when it returns.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result, Timestamp};
use rpc::instance::Power;
use serde::{Deserialize, Serialize};
use store::{Tx, params};
use task::{Effect, Operation, StepContext};

use crate::Compute;
use crate::db::servers as db;
use crate::db::{actions, leases, migrations, tombstones};
use crate::states::{power, vm};
use crate::vim::Stage;

pub const KIND: &str = "compute.server_delete";
/// How long a host may take to remove a guest before the server is gone for its users anyway.
const REMOVE: Duration = Duration::from_secs(120);

/// Output of `mark`.
#[derive(Debug, Serialize, Deserialize)]
struct Marked {
    host_id: Option<String>,
    generation: u64,
    at: Timestamp,
}

pub struct ServerDelete(pub Compute);

#[async_trait]
impl Operation for ServerDelete {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["mark", "remove"]
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        match step {
            "mark" => self.mark(cx).await,
            _ => self.remove(cx).await,
        }
    }

    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        server.vm_state = vm::ERROR.into();
        server.task_state = None;
        db::server_update_in(tx, &mut server)?;
        db::fault_put_in(tx, &server.id, 500, error.message(), &error.chain())?;
        self.0.vim_log_in(tx, &server, "Delete", Stage::Failed, Some(error.message()))?;
        crate::notify::server_event_in(tx, "delete.error", &server, &cx.context, Some(error.message()))
    }
}

impl ServerDelete {
    async fn mark(&self, cx: &StepContext) -> Result<Effect> {
        let Some(server) = self.0.core.store.read(|tx| db::server_fetch_in(tx, &cx.resource_id, false)).await? else {
            return Ok(Effect::finish_early());
        };
        let marked = Marked { host_id: server.host_id.clone(), generation: server.spec_generation + 1, at: Timestamp::now() };
        let (compute, id, host_id) = (self.0.clone(), server.id, marked.host_id.clone());
        Ok(Effect::with(&marked).commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            // What was read is still so: operations on a server run one after the other. Small changes of its metadata or its
            // interfaces may have come between, of which its host knows: a host heeds only what is newer than that.
            server.wanted = Power::Absent;
            server.spec_generation += 1;
            if let Some(host_id) = &host_id {
                tombstones::tombstone_put_in(tx, host_id, &id, server.spec_generation)?;
            }
            if let Some(dest) = server.coming_to() {
                tombstones::tombstone_put_in(tx, dest, &id, server.spec_generation)?;
                compute.host_tell_after_commit(tx, dest, &id);
            }
            if let Some(kept_on) = server.kept_on() {
                tombstones::tombstone_put_in(tx, kept_on, &id, server.spec_generation)?;
                compute.host_tell_after_commit(tx, kept_on, &id);
            }
            db::server_save_in(tx, &mut server)
        }))
    }

    async fn remove(&self, cx: &StepContext) -> Result<Effect> {
        let marked: Marked = cx.output("mark")?;
        let compute = self.0.clone();
        let gone = match &marked.host_id {
            Some(host_id) => {
                let stored = compute.core.store.read(|tx| db::server_fetch_in(tx, &cx.resource_id, false)).await?;
                let generation = stored.map_or(marked.generation, |s| s.spec_generation);
                compute.host_removed(host_id, &cx.resource_id, generation, REMOVE).await?
            }
            None => true,
        };
        let (id, ctx) = (cx.resource_id.clone(), cx.context.clone());
        let shelved = compute.core.store.read(|tx| db::server_fetch_in(tx, &id, false)).await?.and_then(|s| s.doc.shelved);
        if let Some(image_id) = shelved.and_then(|s| s.image_id) {
            compute.copy_image_remove(cx, &image_id).await?;
        }
        Ok(Effect::none().commit(move |tx| {
            let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
            compute.network.ports_release_in(tx, &id)?;
            compute.placement.release_in(tx, &id)?;
            if let Some(resize) = server.doc.resize.take() {
                compute.placement.release_in(tx, &resize.migration)?;
            }
            for migration in migrations::evacuations_in(tx, None, Some(&id))? {
                compute.evacuated_in(tx, migration.source.as_deref().unwrap_or_default(), &id)?;
            }
            compute.volumes_release_in(tx, &ctx, &server, true)?;
            if let Some(host_id) = marked.host_id.as_ref().filter(|_| gone) {
                tombstones::tombstone_drop_in(tx, host_id, &id, server.spec_generation)?;
            }
            server.vm_state = vm::DELETED.into();
            server.task_state = None;
            server.power_state = power::NOSTATE;
            server.terminated_at = Some(Timestamp::now());
            leases::lease_drop_in(tx, &server.id)?;
            server.deleted = true;
            // Secrets end with the server.
            server.doc.admin_pass = None;
            server.doc.posted_password = String::new();
            server.doc.user_data = None;
            server.doc.seed = String::new();
            db::server_update_in(tx, &mut server)?;
            crate::db::console_tokens::console_tokens_drop_in(tx, &id)?;
            tx.execute("DELETE FROM server_group_member WHERE server_id = ?1", params![&id])?;
            actions::action_event_in(tx, &id, &ctx.request_id, "compute_terminate_instance", server.host.as_deref(), marked.at, None)?;
            compute.vim_forget_in(tx, &server)?;
            compute.vim_log_in(tx, &server, "Delete", Stage::Completed, None)?;
            crate::notify::server_event_in(tx, "delete.end", &server, &ctx, None)?;
            tx.after_commit(move || compute.statuses.forget(&id));
            Ok(())
        }))
    }
}
