//! Interfaces of servers: one more, one less, other addresses.

use std::net::IpAddr;
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use network::{NicPlan, NicWanted, ServerPorts};

use super::{require_state, require_unlocked};
use crate::Compute;
use crate::db::actions;
use crate::db::servers::{self as db, Server};
use crate::op::{self, server_nic};
use crate::scheduler;
use crate::states::vm;

/// How long a client waits for a card to be plugged in.
const WAIT: Duration = Duration::from_secs(90);

impl Compute {
    /// Gives a server an interface and waits until its guest has it; answers the port.
    pub async fn nic_attach(&self, ctx: &Context, id: &str, wanted: NicWanted) -> Result<String> {
        let server = self.server_for(ctx, id, "os_compute_api:os-attach-interfaces:create").await?;
        nic_state("attach_interface", ctx, &server)?;
        let auto = wanted == NicWanted::Auto;
        let plan = self.network.nics_plan(ctx, &[wanted], &[]).await.map_err(|error| match error.kind() {
            Kind::QuotaExceeded => Error::forbidden(error.message().to_string()),
            Kind::Conflict if auto => Error::invalid(error.message().to_string()),
            Kind::Invalid if error.message().contains("is already in use") => Error::conflict(error.message().to_string()),
            _ if error.status().is_some() || error.name().is_some() => Error::new(error.kind(), error.message().to_string()),
            _ => error,
        })?;
        let Some(plan) = plan.into_iter().next() else {
            let project = ctx.project_id();
            return Err(Error::invalid(format!("No specific network was requested and none are available for project '{project}'.")));
        };
        let (port, operation) = self
            .server_change(ctx, id, move |this, tx, ctx, server| {
                nic_state("attach_interface", ctx, server)?;
                let port_id = this.nic_port_in(tx, ctx, server, &plan)?;
                actions::action_start_in(tx, &server.id, "attach_interface", ctx)?;
                crate::notify::server_event_in(tx, "interface_attach.start", server, ctx, None)?;
                let params = server_nic::Params { port_id: port_id.clone(), attach: true };
                Ok((port_id, this.nic_submit_in(tx, ctx, server, &params)?))
            })
            .await?;
        let done = self.core.tasks.wait(&operation, WAIT).await?;
        match done.state {
            task::State::Done => Ok(port),
            _ => {
                let why = done.error.unwrap_or_else(|| "it was cancelled".into());
                Err(Error::internal(format!("Failed to attach network adapter device to {id}: {why}")))
            }
        }
    }

    /// Makes or takes the port, bound to the server's host, and gives the server's document a new generation.
    fn nic_port_in(&self, tx: &store::Tx, ctx: &Context, server: &mut Server, plan: &NicPlan) -> Result<String> {
        let host_id = self.server_host(server)?;
        let zone = server.availability_zone.clone().unwrap_or_default();
        let ports = ServerPorts {
            server_id: server.id.clone(),
            project_id: server.project_id.clone(),
            hostname: server.hostname.clone(),
            availability_zone: zone.clone(),
        };
        let port = self.network.port_attach_in(tx, ctx, &ports, plan).map_err(|error| {
            // The fault of another service says it in that service's words.
            if error.status().is_some() || error.name().is_some() { Error::new(error.kind(), error.message().to_string()) } else { error }
        })?;
        if !self.network.demands_kept_in(tx, &server.id, Some(&port))?.is_empty() {
            let claimed = self.claim_here_in(tx, server, &host_id, &scheduler::resources(server)?, Some(&port));
            claimed.map_err(|error| match error.kind() {
                Kind::NoCapacity => {
                    let why = "its host cannot give the port what it asks for.";
                    Error::invalid(format!("Failed to attach network adapter device to {}: {why}", server.id)).caused_by(error)
                }
                _ => error,
            })?;
        }
        self.network.ports_bind_in(tx, &server.id, &host_id, server.host.as_deref().unwrap_or_default(), &zone)?;
        server.spec_generation += 1;
        db::server_update_in(tx, server)?;
        Ok(port)
    }

    /// Takes a port away from a server, and gives back what it asked for.
    pub(crate) fn nic_release_in(&self, tx: &store::Tx, server: &Server, port: &str) -> Result<()> {
        let asked = !self.network.demands_kept_in(tx, &server.id, None)?.is_empty();
        self.network.port_release_in(tx, &server.id, port)?;
        match &server.host_id {
            Some(host_id) if asked => self.claim_here_in(tx, server, host_id, &scheduler::resources(server)?, None),
            _ => Ok(()),
        }
    }

    fn nic_submit_in(&self, tx: &store::Tx, ctx: &Context, server: &Server, params: &server_nic::Params) -> Result<String> {
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(server_nic::KIND, server, ctx, params))
    }

    /// Begins to take an interface away: the guest lets go of its card first.
    pub async fn nic_detach(&self, ctx: &Context, id: &str, port: &str) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-attach-interfaces:delete").await?;
        let port = port.to_string();
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            nic_state("detach_interface", ctx, server)?;
            if !this.network.nics_in(tx, &server.id)?.iter().any(|nic| nic.port_id == port) {
                return Err(Error::new(Kind::NotFound, format!("Port id {port} could not be found.")));
            }
            if server.doc.detaching.contains(&port) {
                return Ok(());
            }
            server.doc.detaching.push(port.clone());
            server.spec_generation += 1;
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "detach_interface", ctx)?;
            crate::notify::server_event_in(tx, "interface_detach.start", server, ctx, None)?;
            let params = server_nic::Params { port_id: port, attach: false };
            this.nic_submit_in(tx, ctx, server, &params).map(drop)
        })
        .await
    }

    /// Gives the server's port on a network one address more.
    pub async fn nic_address_add(&self, ctx: &Context, id: &str, network: String) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-multinic:add").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            // The network tells us of its ports' changes, and with it the guest.
            this.network.fixed_ip_add_in(tx, ctx, &server.id, &network)?;
            actions::action_start_in(tx, &server.id, "addFixedIp", ctx)
        })
        .await
    }

    pub async fn nic_address_remove(&self, ctx: &Context, id: &str, address: IpAddr) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-multinic:remove").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            if !this.network.fixed_ip_remove_in(tx, ctx, &server.id, address)? {
                return Err(Error::invalid(format!("Fixed IP {address} could not be found for instance {}.", server.id)));
            }
            actions::action_start_in(tx, &server.id, "removeFixedIp", ctx)
        })
        .await
    }

    /// Leads a floating address to the server.
    pub async fn floating_ip_add(&self, ctx: &Context, id: &str, address: IpAddr, fixed: Option<IpAddr>) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-floating-ips:add").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            let nics = this.network.nics_in(tx, &server.id)?;
            let own: Vec<(String, IpAddr)> = nics.iter().flat_map(|n| n.fixed.iter().map(|f| (n.port_id.clone(), f.address))).collect();
            if own.is_empty() {
                return Err(Error::invalid("No fixed IPs associated to instance"));
            }
            let to = match fixed {
                Some(fixed) => own
                    .iter()
                    .find(|(_, address)| *address == fixed)
                    .ok_or_else(|| Error::invalid("Specified fixed address not assigned to instance"))?,
                None => own.iter().find(|(_, address)| address.is_ipv4()).ok_or_else(|| {
                    Error::invalid(format!(
                        "Unable to associate floating IP {address} to any fixed IPs for instance {}. Instance has no fixed IPv4 addresses to associate.",
                        server.id
                    ))
                })?,
            };
            let found = this.network.floating_ip_find_in(tx, ctx, address)?;
            let (floating, _) = found.ok_or_else(|| Error::new(Kind::NotFound, "floating IP not found"))?;
            this.network.floating_ip_lead_in(tx, ctx, &floating, Some((to.0.as_str(), to.1))).map_err(|error| {
                let text = format!("Unable to associate floating IP {address} to fixed IP {} for instance {}. Error: ", to.1, server.id);
                Error::invalid(text + error.message())
            })
        })
        .await
    }

    pub async fn floating_ip_remove(&self, ctx: &Context, id: &str, address: IpAddr) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-floating-ips:remove").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            let found = this.network.floating_ip_find_in(tx, ctx, address)?;
            let (floating, port) = found.ok_or_else(|| Error::new(Kind::NotFound, "floating IP not found"))?;
            let nics = this.network.nics_in(tx, &server.id)?;
            if !nics.iter().any(|nic| Some(&nic.port_id) == port.as_ref()) {
                return Err(Error::conflict(format!("Floating IP {address} is not associated with instance {}.", server.id)));
            }
            this.network.floating_ip_lead_in(tx, ctx, &floating, None)
        })
        .await
    }
}

fn nic_state(action: &str, ctx: &Context, server: &Server) -> Result<()> {
    require_unlocked(server, ctx)?;
    require_state(action, server, &[vm::ACTIVE, vm::PAUSED, vm::STOPPED])
}
