//! Other flavors, and other hosts.

use std::collections::BTreeMap;

use base::{Context, Error, Kind, Result};
use store::Tx;

use super::power::PowerAction;
use super::{create, require_state, require_unlocked};
use crate::Compute;
use crate::cpus;
use crate::db::servers as db;
use crate::db::{actions, migrations, nodes};
use crate::gate::Gated;
use crate::op::{self, server_move, server_move_back, server_resize};
use crate::quotas;
use crate::scheduler;
use crate::states::{task, vm};
use crate::vim::Stage;

impl Compute {
    pub async fn server_resize(&self, ctx: &Context, id: &str, flavor_id: &str, auto_disk_config: Option<bool>) -> Result<()> {
        let server = self.server_for(ctx, id, "os_compute_api:servers:resize").await?;
        let disabled = server.doc.image.as_ref().and_then(|i| i.properties.get("auto_disk_config")).map(String::as_str);
        if auto_disk_config == Some(true) && disabled.is_some_and(|v| v.eq_ignore_ascii_case("disabled")) {
            return Err(Error::invalid(format!("Requested image {} has automatic disk resize disabled.", server.image_ref)));
        }
        self.gated(ctx, server, Gated::Resize { flavor_id: flavor_id.to_string(), auto_disk_config }).await
    }

    pub(crate) fn resize_in(
        &self,
        tx: &Tx,
        ctx: &Context,
        server: &mut db::Server,
        flavor_id: &str,
        auto_disk_config: Option<bool>,
    ) -> Result<()> {
        require_unlocked(server, ctx)?;
        require_state("resize", server, &[vm::ACTIVE, vm::STOPPED])?;
        self.server_host(server)?;
        let flavor = create::flavor_for_in(tx, flavor_id, &server.project_id, ctx.is_admin())?;
        let now = server.flavor()?;
        if flavor.id == now.id {
            return Err(Error::invalid("When resizing, instances must change flavor!"));
        }
        if flavor.root_gb == 0 && now.root_gb != 0 && !server.boots_from_volume() {
            return Err(Error::invalid("Server disk was unable to be resized because: Resize to zero disk flavor is not allowed."));
        }
        if let Some(image) = &server.doc.image
            && flavor.memory_mb < image.min_ram_mib
        {
            return Err(Error::invalid("Flavor's memory is too small for requested image."));
        }
        cpus::of(&flavor, server.doc.image.as_ref().map_or(&BTreeMap::new(), |image| &image.properties))?;
        let vcpus = i64::from(flavor.vcpus) - i64::from(server.vcpus);
        let memory = i64::try_from(flavor.memory_mb).unwrap_or(i64::MAX) - i64::try_from(now.memory_mb).unwrap_or(i64::MAX);
        quotas::growth_check_in(tx, &server.project_id, &server.user_id, vcpus, memory)?;
        if let Some(auto) = auto_disk_config {
            server.auto_disk_config = auto;
        }
        let host = server.host.clone();
        let mut then = server.clone();
        server_resize::flavor_take(&mut then, &flavor);
        let elsewhere = self.moves_for_room_in(tx, &then)?;
        let dest = host.as_deref().filter(|_| !elsewhere);
        let migration = migrations::migration_begin_in(tx, ctx, &server.id, "resize", "pre-migrating", host.as_deref(), dest)?;
        server.task_state = Some(task::RESIZE_PREP.into());
        server.progress = 0;
        db::server_update_in(tx, server)?;
        actions::action_start_in(tx, &server.id, "resize", ctx)?;
        if elsewhere {
            crate::notify::server_event_in(tx, "resize.prep.start", server, ctx, None)?;
            self.vim_begin_in(tx, ctx, server, "Resize")?;
            return self.move_submit_in(tx, ctx, server, migration, Some(flavor), None);
        }
        let params = server_resize::Params { migration, flavor, vm_state: server.vm_state.clone() };
        crate::notify::server_event_in(tx, "resize.prep.start", server, ctx, None)?;
        self.vim_begin_in(tx, ctx, server, "Resize")?;
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(server_resize::KIND, server, ctx, params)).map(drop)
    }

    pub async fn server_resize_confirm(&self, ctx: &Context, id: &str) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:servers:confirm_resize").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            require_state("confirmResize", server, &[vm::RESIZED])?;
            this.resize_confirm_in(tx, ctx, server)
        })
        .await
    }

    /// Nothing is left to wait for: the guest has its new size already.
    pub(crate) fn resize_confirm_in(&self, tx: &store::Tx, ctx: &Context, server: &mut db::Server) -> Result<()> {
        let started = base::Timestamp::now();
        actions::action_start_in(tx, &server.id, "confirmResize", ctx)?;
        crate::notify::server_event_in(tx, "resize.confirm.start", server, ctx, None)?;
        let migration = server.doc.resize.as_ref().map(|before| before.migration.clone()).unwrap_or_default();
        let (name, event) = crate::vim::ended_in(tx, &migration, false)?;
        self.vim_begin_in(tx, ctx, server, name)?;
        self.resize_keep_in(tx, server)?;
        server.settle(if server.wanted == rpc::instance::Power::Stopped { vm::STOPPED } else { vm::ACTIVE });
        db::server_update_in(tx, server)?;
        let host = server.host.as_deref();
        actions::action_event_in(tx, &server.id, &ctx.request_id, "compute_confirm_resize", host, started, None)?;
        self.status_again_after_commit(tx, &server.id);
        self.vim_log_in(tx, server, name, Stage::Completed, None)?;
        self.guest_tell_after_commit(tx, server, event);
        crate::notify::server_event_in(tx, "resize.confirm.end", server, ctx, None)
    }

    pub async fn server_resize_revert(&self, ctx: &Context, id: &str) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:servers:revert_resize").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            Self::power_check(PowerAction::RevertResize, ctx, server)?;
            let Some(before) = server.doc.resize.clone() else {
                return Err(Error::new(Kind::NotFound, format!("Migration for instance {} refers to a finished resize.", server.id)));
            };
            let now = server.flavor()?;
            let vcpus = i64::from(before.flavor.vcpus) - before.offline.len() as i64 - i64::from(server.vcpus);
            let memory = i64::try_from(before.flavor.memory_mb).unwrap_or(i64::MAX) - i64::try_from(now.memory_mb).unwrap_or(i64::MAX);
            quotas::growth_check_in(tx, &server.project_id, &server.user_id, vcpus, memory)?;
            if before.source.is_some() {
                return this.move_back_in(tx, ctx, server, before.migration);
            }
            this.resize_back_in(tx, server)?;
            server.wanted = if before.vm_state == vm::STOPPED { rpc::instance::Power::Stopped } else { rpc::instance::Power::Running };
            migrations::migration_status_in(tx, &before.migration, "reverting")?;
            this.power_begin_in(tx, ctx, server, PowerAction::RevertResize, Some(before.migration), None)
        })
        .await
    }

    /// Whether a server of another size has room on another host only: where it can, it stays, and nothing is copied.
    fn moves_for_room_in(&self, tx: &store::Tx, then: &db::Server) -> Result<bool> {
        let host_id = self.server_host(then)?;
        let mut here = scheduler::requirements(then)?;
        here.in_providers = Some(vec![host_id.clone()]);
        if !self.placement.candidates_in(tx, &here, 1)?.is_empty() {
            return Ok(false);
        }
        match self.move_choose_in(tx, then, None, &host_id) {
            Err(error) if error.is(Kind::NoCapacity) => Ok(false),
            choice => choice.map(|_| true),
        }
    }

    fn move_submit_in(
        &self,
        tx: &store::Tx,
        ctx: &Context,
        server: &db::Server,
        migration: String,
        flavor: Option<crate::flavors::Flavor>,
        target: Option<String>,
    ) -> Result<()> {
        let source = db::Source {
            host_id: self.server_host(server)?,
            host: server.host.clone().unwrap_or_default(),
            zone: server.availability_zone.clone(),
        };
        let params = server_move::Params { migration, flavor, target, source, vm_state: server.vm_state.clone(), wanted: server.wanted };
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(server_move::KIND, server, ctx, params)).map(drop)
    }

    /// Begins the way back of a server that is on another host than before.
    fn move_back_in(&self, tx: &store::Tx, ctx: &Context, server: &mut db::Server, migration: String) -> Result<()> {
        migrations::migration_status_in(tx, &migration, "reverting")?;
        let params = server_move_back::Params { migration, wanted: server.wanted };
        server.doc.restart = rpc::instance::Restart::Soft;
        server.want(rpc::instance::Power::Stopped);
        server.task_state = Some(task::RESIZE_REVERTING.into());
        db::server_update_in(tx, server)?;
        actions::action_start_in(tx, &server.id, "revertResize", ctx)?;
        crate::notify::server_event_in(tx, "resize.revert.start", server, ctx, None)?;
        let (name, _) = crate::vim::ended_in(tx, &params.migration, true)?;
        self.vim_begin_in(tx, ctx, server, name)?;
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(server_move_back::KIND, server, ctx, params)).map(drop)
    }

    /// Moves a server to another host, or the one that is named: switched off, copied, started there, and to be confirmed.
    pub async fn server_migrate(&self, ctx: &Context, id: &str, host: Option<String>) -> Result<()> {
        let rule = match host.is_some() {
            false => "os_compute_api:os-migrate-server:migrate",
            true => "os_compute_api:os-migrate-server:migrate:host",
        };
        let server = self.server_for(ctx, id, rule).await?;
        self.gated(ctx, server, Gated::Migrate { host }).await
    }

    pub(crate) fn migrate_in(&self, tx: &Tx, ctx: &Context, server: &mut db::Server, host: Option<&str>) -> Result<()> {
        require_unlocked(server, ctx)?;
        require_state("migrate", server, &[vm::ACTIVE, vm::STOPPED])?;
        let host_id = self.server_host(server)?;
        target_check_in(tx, server, host)?;
        if !nodes::node_fetch_in(tx, &host_id)?.is_some_and(|node| node.is_up()) {
            return Err(Error::conflict("The service is unavailable at this time."));
        }
        // It has all its vCPUs there.
        let more = i64::from(server.flavor()?.vcpus) - i64::from(server.vcpus);
        quotas::growth_check_in(tx, &server.project_id, &server.user_id, more, 0)?;
        let source = server.host.as_deref();
        let migration = migrations::migration_begin_in(tx, ctx, &server.id, "migration", "pre-migrating", source, host)?;
        server.task_state = Some(task::RESIZE_PREP.into());
        server.progress = 0;
        db::server_update_in(tx, server)?;
        actions::action_start_in(tx, &server.id, "migrate", ctx)?;
        crate::notify::server_event_in(tx, "resize.prep.start", server, ctx, None)?;
        self.vim_begin_in(tx, ctx, server, "Cold-Migrate")?;
        self.move_submit_in(tx, ctx, server, migration, None, host.map(String::from))
    }
}

/// A host that was named must be another one.
pub(super) fn target_check_in(tx: &store::Tx, server: &db::Server, host: Option<&str>) -> Result<()> {
    let Some(host) = host else { return Ok(()) };
    if nodes::node_by_name_in(tx, host)?.is_none() {
        return Err(Error::invalid(format!("Compute host {host} could not be found.")));
    }
    if server.host.as_deref() == Some(host) {
        return Err(Error::invalid(format!("Unable to migrate instance ({}) to current host ({host}).", server.id)));
    }
    Ok(())
}
