//! Other flavors, and other hosts.

use base::{Context, Error, Kind, Result};

use super::power::PowerAction;
use super::{create, require_state, require_unlocked};
use crate::Compute;
use crate::db::servers as db;
use crate::db::{actions, migrations, nodes};
use crate::op::{self, server_resize};
use crate::quotas;
use crate::states::{task, vm};
use crate::vim::Stage;

impl Compute {
    pub async fn server_resize(&self, ctx: &Context, id: &str, flavor_id: &str, auto_disk_config: Option<bool>) -> Result<()> {
        let server = self.server_for(ctx, id, "os_compute_api:servers:resize").await?;
        let disabled = server.doc.image.as_ref().and_then(|i| i.properties.get("auto_disk_config")).map(String::as_str);
        if auto_disk_config == Some(true) && disabled.is_some_and(|v| v.eq_ignore_ascii_case("disabled")) {
            return Err(Error::invalid(format!("Requested image {} has automatic disk resize disabled.", server.image_ref)));
        }
        let flavor_id = flavor_id.to_string();
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            require_state("resize", server, &[vm::ACTIVE, vm::STOPPED])?;
            this.server_host(server)?;
            let flavor = create::flavor_for_in(tx, &flavor_id, &server.project_id, ctx.is_admin())?;
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
            let vcpus = i64::from(flavor.vcpus) - i64::from(now.vcpus);
            let memory = i64::try_from(flavor.memory_mb).unwrap_or(i64::MAX) - i64::try_from(now.memory_mb).unwrap_or(i64::MAX);
            quotas::growth_check_in(tx, &server.project_id, &server.user_id, vcpus, memory)?;
            if let Some(auto) = auto_disk_config {
                server.auto_disk_config = auto;
            }
            let host = server.host.clone();
            let migration =
                migrations::migration_begin_in(tx, ctx, &server.id, "resize", "pre-migrating", host.as_deref(), host.as_deref())?;
            server.task_state = Some(task::RESIZE_PREP.into());
            server.progress = 0;
            let params = server_resize::Params { migration, flavor, vm_state: server.vm_state.clone() };
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "resize", ctx)?;
            crate::notify::server_event_in(tx, "resize.prep.start", server, ctx, None)?;
            this.vim_log_in(tx, server, "Resize", Stage::Issued, None)?;
            let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
            this.core.tasks.submit(tx, op::submit(server_resize::KIND, server, ctx, params)).map(drop)
        })
        .await
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
        self.vim_log_in(tx, server, "Resize-Confirm", Stage::Issued, None)?;
        self.resize_keep_in(tx, server)?;
        server.settle(if server.wanted == rpc::instance::Power::Stopped { vm::STOPPED } else { vm::ACTIVE });
        db::server_update_in(tx, server)?;
        let host = server.host.as_deref();
        actions::action_event_in(tx, &server.id, &ctx.request_id, "compute_confirm_resize", host, started, None)?;
        self.status_again_after_commit(tx, &server.id);
        self.vim_log_in(tx, server, "Resize-Confirm", Stage::Completed, None)?;
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
            let vcpus = i64::from(before.flavor.vcpus) - i64::from(now.vcpus);
            let memory = i64::try_from(before.flavor.memory_mb).unwrap_or(i64::MAX) - i64::try_from(now.memory_mb).unwrap_or(i64::MAX);
            quotas::growth_check_in(tx, &server.project_id, &server.user_id, vcpus, memory)?;
            this.resize_back_in(tx, server)?;
            server.wanted = if before.vm_state == vm::STOPPED { rpc::instance::Power::Stopped } else { rpc::instance::Power::Running };
            migrations::migration_status_in(tx, &before.migration, "reverting")?;
            this.power_begin_in(tx, ctx, server, PowerAction::RevertResize, Some(before.migration))
        })
        .await
    }

    /// Moving a server to another host, live or not. Hosts share no storage and guests' disks do not travel yet, so no other host
    /// is ever valid; that is told where upstream tells it: in the server's fault and its actions, or at once when `waits`.
    pub async fn server_migrate(&self, ctx: &Context, id: &str, live: bool, host: Option<String>, waits: bool) -> Result<()> {
        let rule = match (live, host.is_some()) {
            (false, false) => "os_compute_api:os-migrate-server:migrate",
            (false, true) => "os_compute_api:os-migrate-server:migrate:host",
            (true, false) => "os_compute_api:os-migrate-server:migrate_live",
            (true, true) => "os_compute_api:os-migrate-server:migrate_live:host",
        };
        self.server_for(ctx, id, rule).await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            let (verb, states) = match live {
                true => ("os-migrateLive", [vm::ACTIVE, vm::PAUSED]),
                false => ("migrate", [vm::ACTIVE, vm::STOPPED]),
            };
            require_state(verb, server, &states)?;
            this.server_host(server)?;
            if let Some(host) = &host {
                if nodes::node_by_name_in(tx, host)?.is_none() {
                    return Err(Error::invalid(format!("Compute host {host} could not be found.")));
                }
                if server.host.as_ref() == Some(host) {
                    let text = format!("Unable to migrate instance ({}) to current host ({host}).", server.id);
                    return Err(Error::invalid(text));
                }
            }
            let why = match live {
                true => "No valid host was found. There are not enough hosts available.",
                false => "No valid host was found. No valid host found for cold migrate",
            };
            if waits {
                return Err(Error::invalid(why));
            }
            let (action, kind, event, log) = match live {
                true => ("live-migration", "live-migration", "conductor_live_migrate_instance", "Live-Migrate"),
                false => ("migrate", "migration", "cold_migrate", "Cold-Migrate"),
            };
            migrations::migration_begin_in(tx, ctx, &server.id, kind, "error", server.host.as_deref(), host.as_deref())?;
            let now = base::Timestamp::now();
            actions::action_start_in(tx, &server.id, action, ctx)?;
            actions::action_event_in(tx, &server.id, &ctx.request_id, event, None, now, Some(why))?;
            db::fault_put_in(tx, &server.id, 400, why, "")?;
            this.vim_log_in(tx, server, log, Stage::Issued, None)?;
            this.vim_log_in(tx, server, log, Stage::Failed, Some(why))
        })
        .await
    }
}
