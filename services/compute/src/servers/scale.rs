//! One vCPU more or less for a server that runs (guest specification, section 5).

use std::time::Duration;

use base::{Context, Error, Kind, Result};
use store::Tx;

use super::{require_state, require_unlocked};
use crate::Compute;
use crate::cpus;
use crate::db::actions;
use crate::db::servers::{self as db, Server};
use crate::op::{self, server_scale};
use crate::quotas;
use crate::states::{task, vm};

impl Compute {
    /// Scales a server, and waits for what becomes of it, as long as requests wait for guests.
    pub async fn server_scale(&self, ctx: &Context, id: &str, up: bool) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:wrs-res:scale").await?;
        let permit = base::id::uuid();
        let place = self.held.enter(&permit);
        self.server_change(ctx, id, move |this, tx, ctx, server| this.scale_in(tx, ctx, server, up, permit)).await?;
        place.wait(Duration::from_secs(self.core.config.int("compute.guest_wait_seconds"))).await
    }

    fn scale_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, up: bool, permit: String) -> Result<()> {
        require_unlocked(server, ctx)?;
        require_state("scale", server, &[vm::ACTIVE])?;
        self.server_host(server)?;
        let Some(least) = cpus::of_server(server).least else {
            return Err(Error::invalid(format!("Instance {} cannot be scaled: its flavor has no hw:wrs:min_vcpus.", server.id)));
        };
        let cpu = server.doc.offline.first().copied().filter(|_| up);
        match (up, cpu) {
            (true, None) => return Err(limit(server, "at its maximum of")),
            (true, Some(_)) => scale_quota_in(tx, server)?,
            (false, _) if server.vcpus <= least => return Err(limit(server, "at its minimum of")),
            (false, _) => {}
        }
        server.task_state = Some(task::SCALING.into());
        db::server_update_in(tx, server)?;
        actions::action_start_in(tx, &server.id, "scale", ctx)?;
        crate::notify::server_event_in(tx, "scale.start", server, ctx, None)?;
        let params = server_scale::Params { permit, cpu };
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(server_scale::KIND, server, ctx, params)).map(drop)
    }
}

fn limit(server: &Server, what: &str) -> Error {
    Error::invalid(format!("Instance {} cannot be scaled: it is {what} {} vcpus.", server.id, server.vcpus))
}

/// Room for one more in the quota. What exceeds it is a bad request here.
pub(crate) fn scale_quota_in(tx: &Tx, server: &Server) -> Result<()> {
    quotas::growth_check_in(tx, &server.project_id, &server.user_id, 1, 0).map_err(|error| match error.kind() {
        Kind::QuotaExceeded => Error::invalid(error.message().to_string()),
        _ => error,
    })
}
