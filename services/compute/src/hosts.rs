//! Hosts: what they say becomes nodes, server states, alarms; what they have to know is sent when they come.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use base::{Context, Error, Kind, Result, Timestamp};
use placement::{Child, Inventory};
use rpc::instance::{InstanceSpec, InstanceState, InstanceStatus, Power};
use rpc::message::{Bandwidth, HostEvent, HostEventKind, HostInfo, PacketRates, ToController, ToHost};
use rpc::session::Said;
use service::HostListener;
use store::{Tx, params};

use crate::Compute;
use crate::db::aggregates::aggregate_host_forget_in;
use crate::db::servers::{self as db, Server};
use crate::db::tombstones;
use crate::db::{leases, migrations, nodes};
use crate::messages;
use crate::scheduler::THREADED;
use crate::spec;
use crate::states::{power, vm};
use crate::vim::Stage;

/// The server state that goes with what a host observes; none while it is at work.
pub fn vm_state_of(state: InstanceState) -> Option<&'static str> {
    match state {
        InstanceState::Running => Some(vm::ACTIVE),
        InstanceState::Paused => Some(vm::PAUSED),
        InstanceState::Suspended => Some(vm::SUSPENDED),
        InstanceState::Stopped => Some(vm::STOPPED),
        InstanceState::Failed => Some(vm::ERROR),
        InstanceState::Building | InstanceState::Recovering | InstanceState::Absent => None,
    }
}

/// Which hosts have been told everything in their present session, by the number of that session.
#[derive(Default)]
pub struct Told(Mutex<HashMap<String, (u64, bool)>>);

impl Told {
    fn hosts(&self) -> MutexGuard<'_, HashMap<String, (u64, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session has begun or ended: nothing has been told in the one that follows.
    fn begin(&self, host_id: &str) -> u64 {
        let mut hosts = self.hosts();
        let slot = hosts.entry(host_id.to_string()).or_default();
        *slot = (slot.0 + 1, false);
        slot.0
    }

    fn done(&self, host_id: &str, session: u64) {
        if let Some(slot) = self.hosts().get_mut(host_id).filter(|slot| slot.0 == session) {
            slot.1 = true;
        }
    }

    fn is(&self, host_id: &str) -> bool {
        self.hosts().get(host_id).is_some_and(|slot| slot.1)
    }
}

/// How long after the controller's start a host that was known before may be awaited.
const RETURN: std::time::Duration = std::time::Duration::from_secs(30);

impl Compute {
    /// Whether room may still come with hosts that have not called since the controller started.
    pub(crate) fn hosts_returning_in(&self, tx: &Tx) -> Result<bool> {
        self.others_returning_in(tx, &[])
    }

    /// Whether a host has no session now: it calls again, or is lost, which is an error.
    pub(crate) fn host_away_in(&self, tx: &Tx, host_id: &str) -> Result<bool> {
        match nodes::node_fetch_in(tx, host_id)? {
            Some(node) if node.lost => Err(Error::conflict("the host is lost.")),
            node => Ok(node.is_some_and(|node| !node.connected)),
        }
    }

    /// Whether hosts may still come, but for these.
    pub(crate) fn others_returning_in(&self, tx: &Tx, but: &[String]) -> Result<bool> {
        if self.started.elapsed() >= RETURN {
            return Ok(false);
        }
        // One that guests may be started on already, and volumes brought to in a moment.
        let half = self.volumes.hosts_away_in(tx)?;
        let may = |node: &nodes::Node| (!node.connected && !but.contains(&node.id)) || (node.connected && half.contains(&node.id));
        Ok(nodes::node_list_in(tx)?.iter().any(may))
    }
}

#[async_trait]
impl HostListener for Compute {
    async fn heard(&self, host_id: &str, said: &Said) -> Result<()> {
        match said {
            Said::Connected(info) => {
                self.beats.forget(host_id);
                self.node_take(info).await?;
                self.aggregates_mirror(&info.id, &info.name).await?;
                self.statuses.poke_all();
                // In a task of its own: the host must be able to talk while it is being told.
                let (this, host_id, session) = (self.clone(), host_id.to_string(), self.told.begin(host_id));
                self.runtime.spawn(async move {
                    match this.documents_send(&host_id).await {
                        Ok(()) => this.told.done(&host_id, session),
                        Err(error) => tracing::warn!(host_id, "a host could not be told of its guests: {}", error.chain()),
                    }
                });
                Ok(())
            }
            Said::Info(info) => self.node_take(info).await,
            Said::Disconnected => {
                self.told.begin(host_id);
                let id = host_id.to_string();
                let this = self.clone();
                let gone = move |tx: &Tx| {
                    nodes::node_disconnected_in(tx, &id)?;
                    this.host_tell_in(tx, &id)
                };
                self.core.store.write(gone).await?;
                self.statuses.poke_all();
                Ok(())
            }
            Said::Message(ToController::Status(status)) => {
                if status.elsewhere {
                    self.lease_take(host_id, status).await?;
                }
                // Who waits for a guest hears of it; that one is gone from a host it has left counts whoever waits.
                if self.statuses.put(host_id, status) && status.state != InstanceState::Absent {
                    Ok(())
                } else {
                    self.status_take(host_id, status).await
                }
            }
            Said::Message(ToController::Guest(status)) => {
                self.beats.put(host_id, status);
                Ok(())
            }
            Said::Message(ToController::Group { instance_id, said }) => {
                self.mail.put(host_id, instance_id, said.clone());
                ::task::nudge_here(&self.core.store, messages::NAME);
                Ok(())
            }
            Said::Message(ToController::Event { number, event }) => self.event_take(host_id, *number, event).await,
            Said::Message(_) | Said::Refused(_) => Ok(()),
        }
    }
}

/// The provider of what the part of the network service on a host gives, above those of its networks: its name is the type of its agent.
const SWITCH: &str = "Sturnus host";
/// How the networks call the bandwidth for all tunnels of a host together.
const TUNNELLED: &str = "rp_tunnelled";
const VNIC: &str = "CUSTOM_VNIC_TYPE_NORMAL";

/// The provider of a host's bandwidth on a physical network, or for tunnels.
fn wire(bandwidth: &Bandwidth) -> Child {
    let of = match bandwidth.network.as_str() {
        TUNNELLED => "CUSTOM_NETWORK_TUNNEL_PROVIDER".to_string(),
        name => format!("CUSTOM_PHYSNET_{}", network::word(name)),
    };
    let kilobits = [("NET_BW_EGR_KILOBIT_PER_SEC", bandwidth.egress), ("NET_BW_IGR_KILOBIT_PER_SEC", bandwidth.ingress)];
    let inventories = kilobits.map(|(class, n)| Inventory::of(class, n, 1.0)).to_vec();
    Child { name: bandwidth.network.clone(), inventories, traits: vec![of, VNIC.into()], children: Vec::new() }
}

/// What may be promised to ports on a host: none, when it says nothing.
fn switch(info: &HostInfo) -> Option<Child> {
    let PacketRates { any, egress, ingress } = info.packet_rates;
    let packets = [
        ("NET_PACKET_RATE_KILOPACKET_PER_SEC", any),
        ("NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC", egress),
        ("NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC", ingress),
    ];
    let inventories = packets.map(|(class, n)| Inventory::of(class, n, 1.0)).to_vec();
    let children: Vec<Child> = info.bandwidths.iter().map(wire).collect();
    let switch = Child { name: SWITCH.into(), inventories, traits: vec![VNIC.into()], children };
    (info.packet_rates != PacketRates::default() || !switch.children.is_empty()).then_some(switch)
}

impl Compute {
    /// Takes in what a host offers: its node, and what placement may hand out there.
    async fn node_take(&self, info: &HostInfo) -> Result<()> {
        let stored = info.clone();
        let this = self.clone();
        let put = move |tx: &Tx| {
            nodes::node_put_in(tx, &stored)?;
            this.host_tell_in(tx, &stored.id)
        };
        self.core.store.write(put).await?;
        let config = &self.core.config;
        let mut memory = Inventory::of("MEMORY_MB", info.memory_mib, config.float("host.ram_allocation_ratio"));
        memory.reserved = config.int("host.reserved_memory_mib").min(info.memory_mib);
        // Where some are dedicated, those that are shared have to be named, as upstream.
        let shared = match &info.shared {
            Some(shared) => shared.len() as u64,
            None if info.dedicated.is_empty() => u64::from(info.vcpus),
            None => 0,
        };
        let inventories = [
            Inventory::of("VCPU", shared, config.float("host.cpu_allocation_ratio")),
            Inventory::of("PCPU", info.dedicated.len() as u64, 1.0),
            memory,
            Inventory::of("DISK_GB", info.disk_gib, 1.0),
        ];
        let traits =
            ["COMPUTE_NODE", "COMPUTE_IMAGE_TYPE_QCOW2", "COMPUTE_IMAGE_TYPE_RAW", "COMPUTE_NET_VIF_MODEL_VIRTIO"].map(String::from);
        let threaded = [THREADED.to_string()];
        let (has, lacks) = if info.threads { (&threaded[..], &[][..]) } else { (&[][..], &threaded[..]) };
        let traits: Vec<String> = traits.into_iter().chain(has.iter().cloned()).collect();
        self.placement.provider_sync(&info.id, &info.name, &inventories, &traits, lacks).await?;
        self.placement.children_sync(&info.id, &info.name, switch(info).as_slice()).await
    }

    /// A server's addresses or groups changed: what its guest may read of itself follows.
    pub(crate) fn interfaces_changed_in(&self, tx: &Tx, server_id: &str) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, server_id, false)?.filter(|s| s.host_id.is_some()) else { return Ok(()) };
        self.server_changed_in(tx, &mut server, true)
    }

    /// Tells a host of a guest what the store says now: its document, or that it must be gone. Answers the generation told.
    pub async fn instance_send(&self, host_id: &str, server_id: &str) -> Result<u64> {
        let _turn = self.core.hosts.turn(host_id).await;
        let document = self.core.store.read(|tx| self.document_in(tx, host_id, server_id)).await?;
        let generation = document.generation;
        if !document.recovery.elsewhere && self.core.store.read(|tx| leases::lease_is_in(tx, host_id, server_id)).await? {
            // From the moment on in which the host may hear of this, the guest cannot be counted on to end with the host's lease.
            let id = server_id.to_string();
            self.core.store.write(move |tx| leases::lease_drop_in(tx, &id)).await?;
        }
        self.core.hosts.send(host_id, ToHost::Instance(Box::new(document))).await?;
        Ok(generation)
    }

    /// What a host shall know of a guest. A tombstone outranks a document that is not newer.
    fn document_in(&self, tx: &Tx, host_id: &str, server_id: &str) -> Result<InstanceSpec> {
        let here = |s: &Server| s.host_id.as_deref() == Some(host_id) || s.coming_to() == Some(host_id);
        let server = db::server_fetch_in(tx, server_id, false)?.filter(here);
        let tombstone = tombstones::tombstone_fetch_in(tx, host_id, server_id)?;
        match (server, tombstone) {
            (server, Some(generation)) if server.as_ref().is_none_or(|s| s.spec_generation <= generation) => {
                Ok(spec::absent(server_id, generation))
            }
            (Some(server), _) if server.is_doubtful() => Err(Error::new(
                Kind::NotFound,
                format!("The image of instance {server_id} is not verified or not converted: no host hears of it."),
            )),
            (Some(server), _) => Ok(spec::moving(&server, self.spec_in(tx, server_id)?, host_id)),
            (None, _) => Err(Error::new(Kind::NotFound, format!("Instance {server_id} is not on host {host_id}."))),
        }
    }

    /// A server's document as it is now.
    pub(crate) fn spec_in(&self, tx: &Tx, server_id: &str) -> Result<InstanceSpec> {
        let server = db::server_get_in(tx, server_id)?;
        let nics = self.network.nics_in(tx, server_id)?;
        let mut document = spec::build(&server, &nics, self.recovery)?;
        self.volumes_document_in(tx, &mut document)?;
        Ok(document)
    }

    /// Whether a host has been told, in its present session, of every guest that it shall have or must not have. Before that it
    /// may not know that a guest it had lives elsewhere now.
    pub fn documents_told(&self, host_id: &str) -> bool {
        self.told.is(host_id)
    }

    /// Tells a host everything about its guests: first which must be gone. What it knows already it ignores.
    async fn documents_send(&self, host_id: &str) -> Result<()> {
        let told = self
            .core
            .store
            .read(|tx| {
                let mut told = tombstones::tombstone_list_in(tx, host_id)?;
                let gone: BTreeSet<String> = told.iter().cloned().collect();
                let on = db::servers_on_host_in(tx, host_id)?.into_iter().chain(db::servers_coming_in(tx, host_id)?);
                told.extend(on.map(|s| s.id).filter(|id| !gone.contains(id)));
                Ok(told)
            })
            .await?;
        for id in told {
            match self.instance_send(host_id, &id).await {
                // It left meanwhile.
                Err(error) if error.kind() == Kind::NotFound => {}
                sent => sent.map(drop)?,
            }
        }
        Ok(())
    }

    /// A host says that it goes by a document in which the guest may run elsewhere. That counts if it is the newest one, and the guest is
    /// there: of one that is still on its way only where it comes from can be lost with it.
    async fn lease_take(&self, host_id: &str, status: &InstanceStatus) -> Result<()> {
        if self.core.store.read(|tx| leases::lease_is_in(tx, host_id, &status.id)).await? {
            return Ok(());
        }
        let (this, host_id, status) = (self.clone(), host_id.to_string(), status.clone());
        self.core
            .store
            .write(move |tx| match this.document_in(tx, &host_id, &status.id) {
                Ok(document) if document.recovery.elsewhere && document.generation == status.generation => {
                    let there = db::server_fetch_in(tx, &status.id, false)?.is_some_and(|s| s.host_id.as_ref() == Some(&host_id));
                    if there { leases::lease_put_in(tx, &host_id, &status.id) } else { Ok(()) }
                }
                Err(error) if error.kind() != Kind::NotFound => Err(error),
                _ => Ok(()),
            })
            .await
    }

    /// Takes in what a host observes of a guest that no operation waits for.
    pub(crate) async fn status_take(&self, host_id: &str, status: &InstanceStatus) -> Result<()> {
        // Most reports say what is known: look before asking for the writer.
        let id = status.id.clone();
        let known = self.core.store.read(|tx| db::server_fetch_in(tx, &id, true)).await?;
        let settled = known.as_ref().is_some_and(|s| {
            !s.deleted
                && s.host_id.as_deref() == Some(host_id)
                && (s.task_state.is_some() || s.vm_state == vm::BUILDING || observed(s, status).is_none())
        });
        if settled {
            return Ok(());
        }
        if known.is_none() && status.state != InstanceState::Absent {
            tracing::warn!(host_id, server = id, "a host reports a guest that is not known here; it is left alone");
            return Ok(());
        }
        let (this, host_id, status) = (self.clone(), host_id.to_string(), status.clone());
        self.core.store.write(move |tx| this.status_take_in(tx, &host_id, &status)).await
    }

    fn status_take_in(&self, tx: &Tx, host_id: &str, status: &InstanceStatus) -> Result<()> {
        if status.state == InstanceState::Absent {
            // While the server counts as there, its operation ends the tombstone: without it the host would be told to make it again.
            let there = db::server_fetch_in(tx, &status.id, false)?.is_some_and(|s| s.host_id.as_deref() == Some(host_id));
            if !there && tombstones::tombstone_drop_in(tx, host_id, &status.id, status.generation)? {
                self.live_cleared_in(tx, host_id, &status.id)?;
                if let Some(node) = nodes::node_fetch_in(tx, host_id)? {
                    self.evacuated_in(tx, &node.name, &status.id)?;
                }
                let (this, id) = (self.clone(), status.id.clone());
                tx.after_commit(move || this.statuses.forget(&id));
            }
            return Ok(());
        }
        let Some(mut server) = db::server_fetch_in(tx, &status.id, true)? else { return Ok(()) };
        if !server.deleted && server.kept_on() == Some(host_id) && status.state == InstanceState::Stopped {
            // There to be gone back to.
            return Ok(());
        }
        if !server.deleted && server.coming_to() == Some(host_id) {
            // On its way there.
            return Ok(());
        }
        let idle = server.task_state.is_none() && server.vm_state != vm::BUILDING;
        let elsewhere = server.host_id.as_deref().map_or(idle, |h| h != host_id);
        if server.deleted || elsewhere {
            if tombstones::tombstone_fetch_in(tx, host_id, &server.id)?.is_some_and(|generation| generation > status.generation) {
                // That it must be gone is on its way.
                self.host_tell_after_commit(tx, host_id, &server.id);
                return Ok(());
            }
            // A guest that outlived its server here: never two, and nothing left over. Should the server come back, its
            // documents are newer.
            let generation = status.generation.max(server.spec_generation) + 1;
            server.spec_generation = generation;
            db::server_save_in(tx, &mut server)?;
            tombstones::tombstone_put_in(tx, host_id, &server.id, generation)?;
            self.host_tell_after_commit(tx, host_id, &server.id);
            self.tell_after_commit(tx, &server);
            return Ok(());
        }
        if server.host_id.is_none() || !idle {
            return Ok(());
        }
        let Some((state, power_state)) = observed(&server, status) else { return Ok(()) };
        let before = server.vm_state.clone();
        server.vm_state = state.into();
        server.power_state = power_state;
        let why = status.error.clone().filter(|_| state == vm::PAUSED);
        server.doc.stopped_because = why.unwrap_or_default();
        let ctx = Context::system(format!("req-{}", base::id::uuid()));
        if status.state == InstanceState::Stopped && server.wanted == Power::Running {
            // It shut itself down: so be it, also after the machine restarts.
            server.want(Power::Stopped);
            self.tell_after_commit(tx, &server);
        }
        if state == vm::ERROR {
            server.doc.held_failed = true;
            let why = status.error.as_deref().unwrap_or("the guest failed");
            db::fault_put_in(tx, &server.id, 500, why, "")?;
        } else if std::mem::take(&mut server.doc.held_failed) {
            self.vim_enabled_in(tx, &server)?;
        }
        db::server_update_in(tx, &mut server)?;
        if before != server.vm_state {
            crate::notify::server_event_in(tx, "update", &server, &ctx, None)?;
        }
        Ok(())
    }

    /// Looks at a guest's newest status again once an operation is over: it may have changed while the operation ended.
    pub(crate) fn status_again_after_commit(&self, tx: &Tx, server_id: &str) {
        let (this, id, runtime) = (self.clone(), server_id.to_string(), self.runtime.clone());
        tx.after_commit(move || {
            runtime.spawn(async move {
                // One that is away says it all again when it returns.
                for (host_id, status) in this.statuses.said(&id).into_iter().filter(|(host, _)| this.core.hosts.is_connected(host)) {
                    if let Err(error) = this.status_take(&host_id, &status).await {
                        tracing::warn!(server = id, "a status could not be taken in: {}", error.chain());
                    }
                }
            });
        });
    }

    /// Tells a host of a guest as soon as the transaction is durable. When that fails, the host's next session does.
    pub(crate) fn host_tell_after_commit(&self, tx: &Tx, host_id: &str, server_id: &str) {
        let (this, host_id, id, runtime) = (self.clone(), host_id.to_string(), server_id.to_string(), self.runtime.clone());
        tx.after_commit(move || {
            runtime.spawn(async move {
                if let Err(error) = this.instance_send(&host_id, &id).await {
                    tracing::debug!(host_id, server = id, "a host could not be told now: {}", error.chain());
                }
            });
        });
    }

    /// Takes in an event once: each host numbers its own, and sends them again until they are stored.
    async fn event_take(&self, host_id: &str, number: u64, event: &HostEvent) -> Result<()> {
        let (this, host_id, event) = (self.clone(), host_id.to_string(), event.clone());
        self.core
            .store
            .write(move |tx| {
                let stored = tx.query_opt("SELECT stored FROM host_event WHERE host_id = ?1", params![&host_id], |r| r.count(0))?;
                if stored.is_some_and(|stored| stored >= number) {
                    return Ok(());
                }
                tx.execute(
                    "INSERT INTO host_event (host_id, stored) VALUES (?1, ?2) ON CONFLICT (host_id) DO UPDATE SET stored = excluded.stored",
                    params![&host_id, number],
                )?;
                this.event_take_in(tx, &host_id, &event)
            })
            .await
    }

    fn event_take_in(&self, tx: &Tx, host_id: &str, event: &HostEvent) -> Result<()> {
        let id = match &event.kind {
            HostEventKind::InstanceDied { instance_id, .. }
            | HostEventKind::InstanceRecovered { instance_id, .. }
            | HostEventKind::InstanceRecoveryFailed { instance_id, .. }
            | HostEventKind::InstanceShutDown { instance_id }
            | HostEventKind::InstancePanicked { instance_id, .. }
            | HostEventKind::Guest { instance_id, .. }
            | HostEventKind::PasswordPosted { instance_id, .. } => instance_id,
        };
        let Some(mut server) = db::server_fetch_in(tx, id, false)? else { return Ok(()) };
        if server.host_id.as_deref() != Some(host_id) {
            return Ok(());
        }
        let ctx = Context::system(format!("req-{}", base::id::uuid()));
        // While an operation is at it, or a delete, the state is the operation's; alarms and logs are true all the same.
        let idle = server.task_state.is_none() && server.vm_state != vm::BUILDING;
        match &event.kind {
            HostEventKind::InstanceDied { reason, will_recover, .. } => {
                self.vim_failed_in(tx, &server, Some(reason), *will_recover)?;
                if idle && !will_recover {
                    fail(tx, &mut server, reason)?;
                }
                crate::notify::server_event_in(tx, "died", &server, &ctx, Some(reason))
            }
            HostEventKind::InstanceRecovered { .. } => {
                if idle && (server.doc.held_failed || server.power_state != power::RUNNING) {
                    let state = server.state_seen(InstanceState::Running).unwrap_or(vm::ACTIVE);
                    server.settle(state);
                    server.doc.held_failed = false;
                    db::server_update_in(tx, &mut server)?;
                }
                self.vim_enabled_in(tx, &server)?;
                crate::notify::server_event_in(tx, "recovered", &server, &ctx, None)
            }
            HostEventKind::InstanceRecoveryFailed { reason, .. } => {
                if idle {
                    fail(tx, &mut server, reason)?;
                }
                self.vim_failed_in(tx, &server, Some(reason), false)?;
                crate::notify::server_event_in(tx, "recovery.error", &server, &ctx, Some(reason))
            }
            HostEventKind::InstanceShutDown { .. } => {
                if idle && server.wanted == Power::Running {
                    let state = server.state_seen(InstanceState::Stopped).unwrap_or(vm::STOPPED);
                    server.want(Power::Stopped);
                    server.settle(state);
                    db::server_update_in(tx, &mut server)?;
                    self.tell_after_commit(tx, &server);
                    self.vim_log_in(tx, &server, "Stop", Stage::Completed, Some("the instance shut itself down"))?;
                    return crate::notify::server_event_in(tx, "power_off.end", &server, &ctx, None);
                }
                Ok(())
            }
            HostEventKind::InstancePanicked { cause, .. } => {
                tracing::warn!(server = server.id, cause, "a guest panicked");
                if cause == "watchdog: reset" {
                    self.vim_log_in(tx, &server, "Reboot", Stage::Completed, Some("the instance's watchdog fired"))?;
                }
                crate::notify::server_event_in(tx, "panicked", &server, &ctx, Some(cause))
            }
            HostEventKind::Guest { event, .. } => self.guest_event_in(tx, &ctx, &mut server, idle, event),
            HostEventKind::PasswordPosted { password, .. } => {
                if server.doc.posted_password.is_empty() {
                    server.doc.posted_password = password.0.clone();
                    self.server_changed_in(tx, &mut server, true)?;
                }
                Ok(())
            }
        }
    }
}

/// The guest is held failed by its host.
fn fail(tx: &Tx, server: &mut Server, reason: &str) -> Result<()> {
    server.vm_state = vm::ERROR.into();
    server.power_state = power::CRASHED;
    server.doc.held_failed = true;
    db::server_update_in(tx, server)?;
    db::fault_put_in(tx, &server.id, 500, reason, "")
}

/// What a report changes in a server that nothing is being done with.
fn observed(server: &Server, status: &InstanceStatus) -> Option<(&'static str, i64)> {
    // Not about the newest document: a newer report will come.
    if status.generation < server.spec_generation {
        return None;
    }
    let state = server.state_seen(status.state)?;
    // An error set by hand stays until it is reset by hand.
    if server.vm_state == vm::ERROR && !server.doc.held_failed && state != vm::ERROR {
        return None;
    }
    let power_state = match status.state {
        InstanceState::Running => power::RUNNING,
        InstanceState::Paused => power::PAUSED,
        InstanceState::Stopped | InstanceState::Suspended => power::SHUTDOWN,
        _ => power::CRASHED,
    };
    (server.vm_state != state || server.power_state != power_state).then_some((state, power_state))
}

impl Compute {
    /// Servers that are on a host, whatever their state.
    pub fn servers_on_in(&self, tx: &Tx, host_id: &str) -> Result<u64> {
        tx.query_one("SELECT COUNT(*) FROM server WHERE host_id = ?1 AND deleted = 0", params![host_id], |row| row.count(0))
    }

    /// Disables a host's service for a reason, or enables it for none: the scheduler passes over disabled ones.
    pub fn host_close_in(&self, tx: &Tx, host_id: &str, reason: Option<&str>) -> Result<()> {
        tx.execute(
            "UPDATE compute_node SET disabled = ?2, disabled_reason = ?3, service_updated_at = ?4 WHERE id = ?1",
            params![host_id, reason.is_some(), reason, Timestamp::now()],
        )?;
        self.host_tell_in(tx, host_id)
    }

    /// The host is locked, or no longer: none of its servers is started while it is.
    pub fn host_rests_in(&self, tx: &Tx, host_id: &str, resting: bool) -> Result<()> {
        nodes::node_resting_in(tx, host_id, resting)
    }

    /// Whether nothing new comes to a host because somebody has said so.
    pub fn host_is_shut_in(&self, tx: &Tx, host_id: &str) -> Result<bool> {
        Ok(nodes::node_fetch_in(tx, host_id)?.is_some_and(|node| node.disabled))
    }

    /// The host answers no pulses, or does again. Nothing new comes to one that does not.
    pub fn host_lost_in(&self, tx: &Tx, host_id: &str, lost: bool) -> Result<()> {
        nodes::node_lost_in(tx, host_id, lost)?;
        self.host_tell_in(tx, host_id)
    }

    /// Forgets a host that is gone for good and has no servers.
    pub fn host_forget_in(&self, tx: &Tx, host_id: &str) -> Result<()> {
        let Some(node) = nodes::node_fetch_in(tx, host_id)? else {
            // Its service may be gone already, and what others keep below its provider not.
            return self.placement.provider_forget_in(tx, host_id);
        };
        for migration in migrations::evacuations_in(tx, Some(&node.name), None)? {
            self.evacuated_in(tx, &node.name, &migration.server_id)?;
        }
        // A host of that name that comes later is another one.
        aggregate_host_forget_in(tx, &node.name)?;
        self.placement.provider_forget_in(tx, &node.id)?;
        // Nobody is left to say that these guests are gone.
        tx.execute("DELETE FROM instance_tombstone WHERE host_id = ?1", params![host_id])?;
        tx.execute("DELETE FROM compute_node WHERE id = ?1", params![&node.id]).map(drop)
    }

    /// The host of a server that has one it can be reached on.
    pub fn server_host(&self, server: &Server) -> Result<String> {
        let not_ready = || Error::conflict(format!("Instance {} is not ready", server.id));
        server.host_id.clone().ok_or_else(not_ready)
    }
}
