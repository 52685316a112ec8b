//! Rules of servers: who may do what with one, in which state, and what happens then.

mod create;
mod emptying;
mod evacuate;
mod former;
mod images;
mod live;
mod mending;
mod nics;
mod power;
mod rebuild;
mod resize;
mod scale;
mod shelve;
mod trust;

use base::{Context, Error, Kind, Result};
use store::Tx;

use crate::Compute;
use crate::api::server_body::ServerUpdate;
use crate::db::actions;
use crate::db::servers::{self as db, Server};
use crate::op;
use crate::states::{task, vm};

pub(crate) use create::password;
pub use create::{Created, metadata_fits_in};
pub use evacuate::{Evacuate, Stranded};
pub use former::Former;
pub use images::Backup;
pub use live::LiveWish;
pub use mending::{Broken, Mend};
pub use power::PowerAction;
pub use rebuild::Rebuild;
pub(crate) use scale::scale_quota_in;
pub use shelve::Unshelve;

/// The rule's target: whose server it is.
pub fn target(server: &Server) -> [(&str, &str); 2] {
    [("project_id", &server.project_id), ("user_id", &server.user_id)]
}

/// 409 of a server that is in the wrong state for `action`.
pub fn wrong_state(action: &str, server: &Server, attribute: &str) -> Error {
    let state = match attribute {
        "vm_state" => server.vm_state.as_str(),
        "task_state" => server.task_state.as_deref().unwrap_or("None"),
        _ => server.power_name(),
    };
    Error::conflict(format!("Cannot '{action}' instance {} while it is in {attribute} {state}", server.id))
}

/// A server whose guest is not being asked about something else.
pub fn require_free(action: &str, server: &Server) -> Result<()> {
    match &server.doc.gate {
        None => Ok(()),
        Some(gate) => Err(Error::conflict(format!("Cannot '{action}' instance {} action '{}' is in progress", server.id, gate.action))),
    }
}

/// A server in one of these vm states, without a task, whose guest is not being asked.
pub fn require_state(action: &str, server: &Server, states: &[&str]) -> Result<()> {
    require_free(action, server)?;
    require_settled(action, server, states)
}

/// A server in one of these vm states, and without a task.
pub fn require_settled(action: &str, server: &Server, states: &[&str]) -> Result<()> {
    if !states.contains(&server.vm_state.as_str()) {
        return Err(wrong_state(action, server, "vm_state"));
    }
    if server.task_state.is_some() {
        return Err(wrong_state(action, server, "task_state"));
    }
    Ok(())
}

/// A locked server is left alone by all but administrators.
pub fn require_unlocked(server: &Server, ctx: &Context) -> Result<()> {
    if server.is_locked() && !ctx.is_admin() {
        return Err(Error::conflict(format!("Instance {} is locked", server.id)));
    }
    Ok(())
}

impl Server {
    fn power_name(&self) -> &'static str {
        match self.power_state {
            1 => "running",
            3 => "paused",
            4 => "shutdown",
            6 => "crashed",
            _ => "pending",
        }
    }
}

impl Compute {
    /// The server, if the caller may know of it at all.
    pub(crate) fn server_visible_in(&self, tx: &Tx, ctx: &Context, id: &str, deleted: bool) -> Result<Server> {
        match db::server_fetch_in(tx, id, deleted)? {
            Some(server) if ctx.is_admin() || server.project_id == ctx.project_id() => Ok(server),
            _ => Err(db::not_found(id)),
        }
    }

    /// The server, if the caller may use `rule` on it.
    pub async fn server_for(&self, ctx: &Context, id: &str, rule: &str) -> Result<Server> {
        let server = self.core.store.read(|tx| self.server_visible_in(tx, ctx, id, false)).await?;
        self.authorize(rule, ctx, &target(&server))?;
        Ok(server)
    }

    /// Changes a server in one transaction: reads it again there, so that `change` sees what is.
    pub async fn server_change<T: Send + 'static>(
        &self,
        ctx: &Context,
        id: &str,
        change: impl FnOnce(&Compute, &Tx, &Context, &mut Server) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (this, ctx, id) = (self.clone(), ctx.clone(), id.to_string());
        self.core
            .store
            .write(move |tx| {
                let mut server = this.server_visible_in(tx, &ctx, &id, false)?;
                change(&this, tx, &ctx, &mut server)
            })
            .await
    }

    pub async fn server_update(&self, ctx: &Context, id: &str, update: ServerUpdate) -> Result<Server> {
        self.server_for(ctx, id, "os_compute_api:servers:update").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            let names_change = update.name.is_some() || update.hostname.is_some();
            let before = server.display_name.clone();
            if let Some(name) = update.name {
                server.display_name = name;
            }
            if let Some(description) = update.description {
                server.display_description = description;
            }
            if let Some(hostname) = update.hostname {
                server.hostname = hostname;
            }
            if let Some(auto) = update.auto_disk_config {
                server.auto_disk_config = auto;
            }
            if update.access_ip_v4.is_some() {
                server.access_ip_v4 = update.access_ip_v4;
            }
            if update.access_ip_v6.is_some() {
                server.access_ip_v6 = update.access_ip_v6;
            }
            if let Some(zone) = update.pinned_zone {
                pin(server, zone)?;
            }
            this.server_changed_in(tx, server, names_change)?;
            this.vim_renamed_in(tx, server, &before)?;
            crate::notify::server_event_in(tx, "update", server, ctx, None)?;
            Ok(server.clone())
        })
        .await
    }

    /// Stores a server whose guest may have to hear of the change.
    pub(crate) fn server_changed_in(&self, tx: &Tx, server: &mut Server, guest: bool) -> Result<()> {
        if guest && server.host_id.is_some() {
            server.spec_generation += 1;
        }
        db::server_update_in(tx, server)?;
        if guest {
            self.tell_after_commit(tx, server);
        }
        Ok(())
    }

    /// Tells a server's host of it as soon as the transaction is durable.
    pub(crate) fn tell_after_commit(&self, tx: &Tx, server: &Server) {
        if let Some(host_id) = &server.host_id {
            self.host_tell_after_commit(tx, host_id, &server.id);
        }
    }

    /// Deletes a server: answers at once, the rest is an operation. Deleting one that is being deleted is fine.
    pub async fn server_delete(&self, ctx: &Context, id: &str, rule: &str, action: &'static str) -> Result<()> {
        self.server_for(ctx, id, rule).await?;
        let asked = self
            .server_change(ctx, id, move |this, tx, ctx, server| {
                require_unlocked(server, ctx)?;
                if server.task_state.as_deref() == Some(task::DELETING) {
                    return Ok(false);
                }
                server.task_state = Some(task::DELETING.into());
                server.progress = 0;
                db::server_update_in(tx, server)?;
                actions::action_start_in(tx, &server.id, action, ctx)?;
                crate::notify::server_event_in(tx, "delete.start", server, ctx, None)?;
                this.vim_begin_in(tx, ctx, server, "Delete")?;
                let params = serde_json::json!({"action": action});
                this.core.tasks.submit(tx, op::submit(op::server_delete::KIND, server, ctx, params))?;
                Ok(true)
            })
            .await?;
        if asked {
            self.operations_cancel(id).await?;
        }
        Ok(())
    }

    /// Cancels what is under way with a server that is to be deleted.
    async fn operations_cancel(&self, server_id: &str) -> Result<()> {
        let filter = ::task::Filter { resource_id: Some(server_id.to_string()), open: true, ..Default::default() };
        for operation in self.core.tasks.list(&filter).await? {
            if operation.kind != op::server_delete::KIND {
                match self.core.tasks.cancel(&operation.id).await {
                    Err(error) if !error.is(Kind::Conflict) && !error.is(Kind::NotFound) => return Err(error),
                    _ => {}
                }
            }
        }
        self.statuses.poke(server_id);
        Ok(())
    }

    /// Sets a server's state by hand.
    pub async fn server_reset_state(&self, ctx: &Context, id: &str, error: bool) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-admin-actions:reset_state").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            this.gate_void_in(tx, server, "its state was set by hand");
            server.vm_state = if error { vm::ERROR } else { vm::ACTIVE }.into();
            server.task_state = None;
            server.doc.held_failed = false;
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "reset_state", ctx)
        })
        .await
    }

    /// Locks a server against its users.
    pub async fn server_lock(&self, ctx: &Context, id: &str, reason: Option<String>) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-lock-server:lock").await?;
        self.server_change(ctx, id, move |_, tx, ctx, server| {
            let owner = ctx.project_id() == server.project_id;
            // An owner may not take over an administrator's lock.
            if !owner || server.locked_by.is_none() {
                server.locked_by = Some(if owner { "owner" } else { "admin" }.into());
            }
            server.doc.locked_reason = reason;
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "lock", ctx)?;
            crate::notify::server_event_in(tx, "lock", server, ctx, None)
        })
        .await
    }

    pub async fn server_unlock(&self, ctx: &Context, id: &str) -> Result<()> {
        let server = self.server_for(ctx, id, "os_compute_api:os-lock-server:unlock").await?;
        if server.locked_by.as_deref() == Some("admin") {
            self.authorize("os_compute_api:os-lock-server:unlock:unlock_override", ctx, &target(&server))?;
        }
        self.server_change(ctx, id, move |_, tx, ctx, server| {
            server.locked_by = None;
            server.doc.locked_reason = None;
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "unlock", ctx)?;
            crate::notify::server_event_in(tx, "unlock", server, ctx, None)
        })
        .await
    }
}

/// Pins a server to the zone it is in, or lets it loose.
fn pin(server: &mut Server, wanted: Option<String>) -> Result<()> {
    let Some(wanted) = wanted else {
        server.doc.pinned_zone = None;
        return Ok(());
    };
    match &server.doc.pinned_zone {
        Some(now) if *now != wanted => Err(Error::conflict(
            "Cannot change the pinned availability zone directly. Unpin the server first by setting pinned_availability_zone to null.",
        )),
        Some(_) => Ok(()),
        None if server.availability_zone.as_deref() != Some(wanted.as_str()) => Err(Error::conflict(format!(
            "A server can only be pinned to its current availability zone '{}', but '{wanted}' was requested.",
            server.availability_zone.as_deref().unwrap_or_default()
        ))),
        None => {
            server.doc.pinned_zone = Some(wanted);
            Ok(())
        }
    }
}
