//! Moving a running server, and what can be done about it on its way.

use base::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};
use store::Tx;

use super::resize::target_check_in;
use super::{require_state, require_unlocked, wrong_state};
use crate::Compute;
use crate::db::migrations::{self, Migration};
use crate::db::servers::{self as db, Server};
use crate::db::{actions, nodes};
use crate::gate::Gated;
use crate::op::{self, server_live};
use crate::states::{task, vm};

/// How a running server is to be moved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LiveWish {
    /// A host's name; none: the scheduler chooses.
    pub target: Option<String>,
    /// To that host past the filters.
    pub forced: bool,
    /// Whether disks are to be copied; none: as needed.
    pub block: Option<bool>,
    /// What can be known at once is told at once (before 2.34).
    pub waits: bool,
}

/// A server that is on its way to another host; in one of these states, when any are named.
fn require_state_migrating(server: &Server, ctx: &Context, action: &str, states: &[&str]) -> Result<()> {
    require_unlocked(server, ctx)?;
    if !states.is_empty() && !states.contains(&server.vm_state.as_str()) {
        return Err(wrong_state(action, server, "vm_state"));
    }
    match server.task_state.as_deref() {
        Some(task::MIGRATING) => Ok(()),
        _ => Err(wrong_state(action, server, "task_state")),
    }
}

fn migration_of_in(tx: &Tx, server: &Server, number: &str) -> Result<Migration> {
    let missing = || Error::new(Kind::NotFound, format!("Migration {number} not found for instance {}", server.id));
    let number: i64 = number.parse().map_err(|_| missing())?;
    migrations::migration_of_in(tx, &server.id, number)?.ok_or_else(missing)
}

fn wrong_status(migration: &Migration, method: &str) -> Error {
    let Migration { id, server_id, status, .. } = migration;
    Error::invalid(format!(
        "Migration {id} state of instance {server_id} is {status}. Cannot {method} while the migration is in this state."
    ))
}

impl Compute {
    pub async fn server_migrate_live(&self, ctx: &Context, id: &str, wish: LiveWish) -> Result<()> {
        let rule = match wish.target.is_some() {
            false => "os_compute_api:os-migrate-server:migrate_live",
            true => "os_compute_api:os-migrate-server:migrate_live:host",
        };
        let server = self.server_for(ctx, id, rule).await?;
        self.gated(ctx, server, Gated::Live(wish)).await
    }

    pub(crate) fn migrate_live_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, wish: &LiveWish) -> Result<()> {
        require_unlocked(server, ctx)?;
        require_state("os-migrateLive", server, &[vm::ACTIVE, vm::PAUSED])?;
        let host_id = self.server_host(server)?;
        target_check_in(tx, server, wish.target.as_deref())?;
        if !nodes::node_fetch_in(tx, &host_id)?.is_some_and(|node| node.is_up()) {
            return Err(Error::invalid("Compute service is unavailable at this time."));
        }
        if wish.waits && !self.others_returning_in(tx, std::slice::from_ref(&host_id))? {
            self.live_choose_in(tx, server, wish.target.as_deref(), wish.forced, wish.block, &[]).map_err(|error| match error.kind() {
                Kind::NoCapacity => Error::invalid(error.message().to_string()).caused_by(error),
                _ => error,
            })?;
        }
        let (source, target) = (server.host.clone().unwrap_or_default(), wish.target.as_deref());
        let migration = migrations::migration_begin_in(tx, ctx, &server.id, "live-migration", "accepted", Some(&source), target)?;
        let params = server_live::Params {
            migration,
            target: wish.target.clone(),
            forced: wish.forced,
            block: wish.block,
            source: db::Source { host_id, host: source, zone: server.availability_zone.clone() },
            vm_state: server.vm_state.clone(),
        };
        server.task_state = Some(task::MIGRATING.into());
        server.progress = 0;
        db::server_update_in(tx, server)?;
        actions::action_start_in(tx, &server.id, "live-migration", ctx)?;
        crate::notify::server_event_in(tx, "live_migration.pre.start", server, ctx, None)?;
        self.vim_moving_in(tx, server)?;
        self.vim_begin_in(tx, ctx, server, "Live-Migrate")?;
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(server_live::KIND, server, ctx, params)).map(drop)
    }

    /// Has a server on its way stand still, so that it is there soon. `number` is that of its migration; `Conflict` when it is not on its
    /// way, `Invalid` when that cannot help.
    pub async fn server_live_force(&self, ctx: &Context, id: &str, number: &str) -> Result<()> {
        let number = number.to_string();
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            require_state_migrating(server, ctx, "force complete live migration", &[vm::ACTIVE])?;
            let migration = migration_of_in(tx, server, &number)?;
            let wrong = wrong_status(&migration, "force complete");
            let Some(live) = server.doc.live.as_mut().filter(|live| live.migration == migration.uuid && migration.status == "running")
            else {
                return Err(wrong);
            };
            live.force = true;
            server.spec_generation += 1;
            db::server_save_in(tx, server)?;
            this.tell_after_commit(tx, server);
            actions::action_start_in(tx, &server.id, "live_migration_force_complete", ctx)?;
            crate::notify::server_event_in(tx, "live.migration.force.complete.start", server, ctx, None)
        })
        .await
    }

    /// Has a server on its way stay, if it has not left. `number` is that of its migration; `Conflict` when it is not on its way,
    /// `Invalid` in a state of the migration in which this cannot be asked.
    pub async fn server_live_abort(&self, ctx: &Context, id: &str, number: &str, allowed: &'static [&'static str]) -> Result<()> {
        let number = number.to_string();
        self.server_change(ctx, id, move |_, tx, ctx, server| {
            require_state_migrating(server, ctx, "abort live migration", &[])?;
            let migration = migration_of_in(tx, server, &number)?;
            if !allowed.contains(&migration.status.as_str()) {
                return Err(wrong_status(&migration, "abort live migration"));
            }
            actions::action_start_in(tx, &server.id, "live_migration_cancel", ctx)?;
            crate::notify::server_event_in(tx, "live.migration.abort.start", server, ctx, None)
        })
        .await?;
        let filter = ::task::Filter { resource_id: Some(id.to_string()), open: true, ..Default::default() };
        for operation in self.core.tasks.list(&filter).await?.into_iter().filter(|o| o.kind == server_live::KIND) {
            match self.core.tasks.cancel(&operation.id).await {
                Err(error) if !error.is(Kind::Conflict) && !error.is(Kind::NotFound) => return Err(error),
                _ => {}
            }
        }
        self.statuses.poke(id);
        Ok(())
    }
}
