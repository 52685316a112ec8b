//! Compares what servers should be with what hosts say they are, and repairs what messages missed.

use std::time::Duration;

use async_trait::async_trait;
use base::Result;
use store::Select;
use task::{Filter, Reconciler};

use crate::Compute;
use crate::db::servers::{self as db, SERVER_COLUMNS, Server};
use crate::spec;
use crate::states::vm;

/// A state between two others that no operation works on any more is over after this time.
const STALE: Duration = Duration::from_secs(60);
/// Servers looked at in one transaction.
const PAGE: u64 = 500;
/// Deleted servers are kept this long for listings of changes.
const KEEP_DELETED: Duration = Duration::from_secs(30 * 24 * 3600);

pub struct ServerPower(pub Compute);

#[async_trait]
impl Reconciler for ServerPower {
    fn name(&self) -> &'static str {
        "compute.server_power"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(30)
    }
    async fn run(&self) -> Result<()> {
        let mut after = String::new();
        loop {
            let page = self
                .0
                .core
                .store
                .read(|tx| {
                    Select::new(format!("SELECT {SERVER_COLUMNS} FROM server"))
                        .eq("deleted", 0)
                        .gt("id", &after)
                        .order(&[("id", store::Dir::Asc)])
                        .limit(PAGE)
                        .fetch(tx, db::server_row)
                })
                .await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.id);
            for server in &page {
                self.look(server).await?;
            }
        }
        self.purge().await
    }
}

impl ServerPower {
    async fn look(&self, server: &Server) -> Result<()> {
        if server.task_state.is_some() || server.vm_state == vm::BUILDING {
            return self.unstick(server).await;
        }
        self.confirm(server).await?;
        self.heartbeat(server).await?;
        let Some(host_id) = server.host_id.as_deref().filter(|h| self.0.core.hosts.is_connected(h)) else { return Ok(()) };
        match self.0.statuses.said(&server.id).remove(host_id) {
            Some(status) if status.generation >= server.spec_generation => self.0.status_take(host_id, &status).await,
            // The host has not carried out the newest document: it may have missed it.
            _ => self.0.instance_send(host_id, &server.id).await.map(drop),
        }
    }

    /// Tells of a guest that should have a heartbeat and has had none for long.
    async fn heartbeat(&self, server: &Server) -> Result<()> {
        if !spec::heartbeat(server) {
            return Ok(());
        }
        let patience = Duration::from_secs(self.0.core.config.int("compute.guest_silent_seconds"));
        let silent = server.vm_state == vm::ACTIVE && self.0.beats.of(server).is_none();
        let told = self.0.beats.silent(&server.id, silent, patience);
        let Some(raise) = told else { return Ok(()) };
        let (this, id) = (self.0.clone(), server.id.clone());
        self.0
            .core
            .store
            .write(move |tx| {
                let Some(server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
                if raise { this.guest_silent_in(tx, &server) } else { this.guest_heard_in(tx, &server) }
            })
            .await?;
        self.0.beats.told(&server.id, raise);
        Ok(())
    }

    /// Confirms a resize that nobody has taken back for so long.
    async fn confirm(&self, server: &Server) -> Result<()> {
        let window = Duration::from_secs(self.0.core.config.int("compute.resize_confirm_seconds"));
        let due =
            |s: &Server| s.vm_state == vm::RESIZED && s.doc.resize.as_ref().is_some_and(|r| base::Timestamp::now().since(r.at) >= window);
        if window.is_zero() || !due(server) {
            return Ok(());
        }
        let (this, id, generation) = (self.0.clone(), server.id.clone(), server.generation);
        self.0
            .core
            .store
            .write(move |tx| {
                let Some(mut server) = db::server_fetch_in(tx, &id, false)?.filter(|s| s.generation == generation) else { return Ok(()) };
                this.resize_confirm_in(tx, &base::Context::system(format!("req-{}", base::id::uuid())), &mut server)
            })
            .await
    }

    /// A server that is being changed although no operation is at it is not being changed.
    async fn unstick(&self, server: &Server) -> Result<()> {
        if base::Timestamp::now().since(server.updated_at) < STALE {
            return Ok(());
        }
        let filter = Filter { resource_id: Some(server.id.clone()), open: true, limit: Some(1), ..Filter::default() };
        if !self.0.core.tasks.list(&filter).await?.is_empty() {
            return Ok(());
        }
        tracing::warn!(server = server.id, task = server.task_state, "no operation works on a server's task: it is ended");
        let (id, generation) = (server.id.clone(), server.generation);
        self.0
            .core
            .store
            .write(move |tx| {
                let Some(mut server) = db::server_fetch_in(tx, &id, false)?.filter(|s| s.generation == generation) else { return Ok(()) };
                server.task_state = None;
                if server.vm_state == vm::BUILDING {
                    server.vm_state = vm::ERROR.into();
                    db::fault_put_in(tx, &id, 500, "The build of the instance ended without a result.", "")?;
                }
                db::server_update_in(tx, &mut server)
            })
            .await
    }

    /// Forgets servers that were deleted long ago.
    async fn purge(&self) -> Result<()> {
        let keep = i64::try_from(KEEP_DELETED.as_micros()).unwrap_or(i64::MAX);
        let before = base::Timestamp(base::Timestamp::now().micros() - keep);
        let old = "SELECT id FROM server WHERE deleted = 1 AND updated_at < ?1";
        let some = self.0.core.store.read(|tx| tx.query_opt(&format!("{old} LIMIT 1"), store::params![before], |r| r.text(0))).await?;
        if some.is_none() {
            return Ok(());
        }
        self.0
            .core
            .store
            .write(move |tx| {
                for table in ["server_tag", "server_fault", "server_action", "server_action_event"] {
                    tx.execute(&format!("DELETE FROM {table} WHERE server_id IN ({old})"), store::params![before])?;
                }
                tx.execute("DELETE FROM server WHERE deleted = 1 AND updated_at < ?1", store::params![before])?;
                Ok(())
            })
            .await
    }
}
