//! Shelving servers, and taking them off the shelf.

use base::{Context, Error, Kind, Result};
use rpc::instance::Power;

use super::images::image_body;
use super::{require_state, require_unlocked};
use crate::Compute;
use crate::db::servers::{self as db, Server};
use crate::db::{actions, nodes};
use crate::op::{self, server_shelve, server_unshelve};
use crate::states::{task, vm};

/// Where an unshelved server shall go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unshelve {
    /// None inside: any zone, and none it is pinned to.
    pub zone: Option<Option<String>>,
    pub host: Option<String>,
}

impl Compute {
    pub async fn server_shelve(&self, ctx: &Context, id: &str) -> Result<()> {
        let server = self.server_for(ctx, id, "os_compute_api:os-shelve:shelve").await?;
        // What boots from a volume has nothing that would have to be kept elsewhere, and gives up its place at once.
        let volumes = server.boots_from_volume();
        let image = match volumes {
            true => None,
            false => Some(self.images.image_draft(ctx, image_body(&server, &format!("{}-shelved", server.display_name), "snapshot"))?),
        };
        let offload = volumes || self.core.config.int("compute.shelved_offload") != 0;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            require_state("shelve", server, &[vm::ACTIVE, vm::STOPPED, vm::PAUSED, vm::SUSPENDED])?;
            this.server_host(server)?;
            let mut copy = None;
            if let Some(image) = &image {
                this.images.image_insert_in(tx, ctx, image)?;
                copy = Some(server_shelve::Copy { image_id: image.id.clone(), snapshot: base::id::uuid() });
            }
            let params = server_shelve::Params { copy, offload, volumes, vm_state: server.vm_state.clone() };
            server.task_state = Some(task::SHELVING.into());
            server.progress = 0;
            server.want(Power::Stopped);
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "shelve", ctx)?;
            crate::notify::server_event_in(tx, "shelve.start", server, ctx, None)?;
            this.shelve_submit_in(tx, ctx, server, &params)
        })
        .await
    }

    /// Gives up the place of a shelved server.
    pub async fn server_shelve_offload(&self, ctx: &Context, id: &str) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-shelve:shelve_offload").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            require_state("shelveOffload", server, &[vm::SHELVED])?;
            let params = server_shelve::Params { copy: None, offload: true, volumes: false, vm_state: server.vm_state.clone() };
            server.task_state = Some(task::SHELVING_OFFLOADING.into());
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "shelveOffload", ctx)?;
            crate::notify::server_event_in(tx, "shelve_offload.start", server, ctx, None)?;
            this.shelve_submit_in(tx, ctx, server, &params)
        })
        .await
    }

    fn shelve_submit_in(&self, tx: &store::Tx, ctx: &Context, server: &Server, params: &server_shelve::Params) -> Result<()> {
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(server_shelve::KIND, server, ctx, params)).map(drop)
    }

    pub async fn server_unshelve(&self, ctx: &Context, id: &str, wish: Unshelve) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-shelve:unshelve").await?;
        if wish.host.is_some() {
            self.server_for(ctx, id, "os_compute_api:os-shelve:unshelve_to_host").await?;
        }
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            require_unlocked(server, ctx)?;
            require_state("unshelve", server, &[vm::SHELVED, vm::SHELVED_OFFLOADED])?;
            let placed = server.vm_state == vm::SHELVED;
            if placed && (wish.zone.is_some() || wish.host.is_some()) {
                let text = format!(
                    "Specifying an availability zone or a host when unshelving server '{}' with status 'SHELVED' is not supported. \
                     It is only supported when the server status is 'SHELVED_OFFLOADED'.",
                    server.id
                );
                return Err(Error::conflict(text));
            }
            let zones = nodes::zones_in(tx)?;
            if let Some(zone) = &wish.zone {
                let known = |zone: &String| zone == nodes::DEFAULT_ZONE || zones.values().any(|known| known == zone);
                if zone.as_ref().is_some_and(|zone| !known(zone)) {
                    return Err(Error::invalid(format!(
                        "The requested availability zone is not available: {}",
                        zone.as_deref().unwrap_or_default()
                    )));
                }
                server.doc.placement.zone.clone_from(zone);
                server.doc.pinned_zone.clone_from(zone);
            }
            if let Some(host) = &wish.host {
                if nodes::node_by_name_in(tx, host)?.is_none() {
                    return Err(Error::invalid(format!("Compute host {host} could not be found.")));
                }
                let of_host = zones.get(host).map_or(nodes::DEFAULT_ZONE, String::as_str);
                if server.doc.placement.zone.as_deref().is_some_and(|zone| zone != of_host) {
                    let zone = server.doc.placement.zone.as_deref().unwrap_or_default();
                    return Err(Error::conflict(format!("Host \"{host}\" is not in the availability zone \"{zone}\".")));
                }
            }
            server.doc.placement.forced_host = None;
            server.doc.placement.requested_host = wish.host;
            let Some(shelved) = server.doc.shelved.clone() else {
                return Err(Error::new(Kind::Conflict, format!("Instance {} has no shelved image.", server.id)));
            };
            let params = server_unshelve::Params { image_id: shelved.image_id, vm_state: server.vm_state.clone() };
            server.task_state = Some(task::UNSHELVING.into());
            server.progress = 0;
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "unshelve", ctx)?;
            crate::notify::server_event_in(tx, "unshelve.start", server, ctx, None)?;
            let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
            this.core.tasks.submit(tx, op::submit(server_unshelve::KIND, server, ctx, params)).map(drop)
        })
        .await
    }
}
