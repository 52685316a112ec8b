//! Servers of a host that is lost: which there are, and how one comes to another host.

use std::cmp::Reverse;

use base::{Context, Error, Kind, Result, Timestamp};
use rpc::instance::Power;
use store::Tx;

use super::require_settled;
use crate::Compute;
use crate::db::servers::{self as db, Server};
use crate::db::{actions, leases, migrations, nodes, tombstones, volumes};
use crate::op::{self, server_evacuate};
use crate::spec;
use crate::states::{task, vm};

/// States a server is evacuated in.
const STATES: &[&str] = &[vm::ACTIVE, vm::STOPPED, vm::ERROR];

/// How a server is to be evacuated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evacuate {
    /// A host's name; none: the scheduler chooses.
    pub target: Option<String>,
    /// To that host past the filters.
    pub forced: bool,
    /// What the caller says of the disks (before 2.14).
    pub shared: Option<bool>,
    /// It stays off, whatever it was (since 2.95).
    pub stopped: bool,
    pub admin_pass: Option<String>,
}

/// A server of a host, with what a recovery sorts and chooses by.
#[derive(Clone, Debug, PartialEq)]
pub struct Stranded {
    pub id: String,
    pub name: String,
    pub project_id: String,
    pub vm_state: String,
    pub task_state: Option<String>,
    /// `sw:wrs:recovery_priority`: 1 comes first, 10 last.
    pub priority: u8,
    pub vcpus: u32,
    pub memory_mb: u64,
    /// GiB on the host's own disk.
    pub disk_gb: u64,
    pub swap_mb: u64,
    /// `sw:wrs:auto_recovery`.
    pub auto_recovery: bool,
    /// Its host has confirmed that it ends there with the host's lease.
    pub leased: bool,
    /// Why it cannot be evacuated now.
    pub obstacle: Option<String>,
}

impl Compute {
    /// Evacuates a server for an administrator: its host must be down, or have been said to be.
    pub async fn server_evacuate(&self, ctx: &Context, id: &str, wish: Evacuate) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-evacuate").await?;
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            if let Some(host) = &wish.target {
                if nodes::node_by_name_in(tx, host)?.is_none() {
                    return Err(Error::new(Kind::NotFound, format!("Compute host {host} not found.")));
                }
                if server.host.as_ref() == Some(host) {
                    return Err(Error::invalid("The target host can't be the same one."));
                }
            }
            require_settled("evacuate", server, STATES)?;
            let host_id = this.server_host(server)?;
            if let Some(node) = nodes::node_fetch_in(tx, &host_id)?.filter(nodes::Node::is_up) {
                return Err(Error::invalid(format!("Compute service of {} is still in use.", node.name)));
            }
            this.evacuate_in(tx, ctx, server, &wish)
        })
        .await
    }

    /// Begins to evacuate a server. The caller has made sure that its host runs it no more: nothing here looks at that.
    pub fn evacuate_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, wish: &Evacuate) -> Result<()> {
        let operation = self.evacuate_prepare_in(tx, ctx, server, wish)?;
        self.core.tasks.submit(tx, operation).map(drop)
    }

    /// As [`Compute::evacuate_in`], but for the operation, which is answered.
    pub fn evacuate_prepare_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, wish: &Evacuate) -> Result<::task::New> {
        require_settled("evacuate", server, STATES)?;
        let host_id = self.server_host(server)?;
        if let Some(why) = self.bound_in(tx, server)? {
            return Err(Error::conflict(why));
        }
        self.volumes_free_in(tx, server, &host_id)?;
        if server.doc.resize.is_some() {
            // The size it had before went with the host's disk.
            self.resize_keep_in(tx, server)?;
        }
        let host = server.host.clone().unwrap_or_default();
        let target = wish.target.as_deref();
        let migration = migrations::migration_begin_in(tx, ctx, &server.id, "evacuation", "accepted", Some(&host), target)?;
        let before = server_evacuate::Before {
            host_id,
            host,
            zone: server.availability_zone.clone(),
            wanted: server.wanted,
            boot: server.boot,
            disks: server.doc.disks.clone(),
            root_image: server.doc.root_image.clone(),
            rescue: server.doc.rescue.clone(),
        };
        let params = server_evacuate::Params {
            migration,
            target: wish.target.clone(),
            forced: wish.forced,
            shared: wish.shared,
            stopped: wish.stopped,
            before,
        };
        if wish.admin_pass.is_some() {
            server.doc.admin_pass.clone_from(&wish.admin_pass);
        }
        // A guest on a lost host has no say any more.
        self.gate_void_in(tx, server, "it is evacuated");
        server.task_state = Some(task::REBUILDING.into());
        server.progress = 0;
        db::server_update_in(tx, server)?;
        actions::action_start_in(tx, &server.id, "evacuate", ctx)?;
        crate::notify::server_event_in(tx, "evacuate", server, ctx, None)?;
        self.vim_begin_in(tx, ctx, server, "Evacuate")?;
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        Ok(op::submit(server_evacuate::KIND, server, ctx, params))
    }

    /// As [`Compute::evacuate_in`], for a server that is to be found first.
    pub fn evacuate_begin_in(&self, tx: &Tx, ctx: &Context, id: &str, wish: &Evacuate) -> Result<()> {
        self.evacuate_in(tx, ctx, &mut db::server_get_in(tx, id)?, wish)
    }

    /// How many evacuations are under way.
    pub fn evacuations_running_in(&self, tx: &Tx) -> Result<usize> {
        migrations::evacuations_running_in(tx, None)
    }

    /// When evacuations of a server from the host that it is on began, within the last `window`, the newest last. That a host was lost
    /// on which it had just been placed says nothing against the next one.
    pub fn evacuations_since_in(&self, tx: &Tx, id: &str, window: std::time::Duration) -> Result<Vec<Timestamp>> {
        let now = Timestamp::now();
        let host = db::server_fetch_in(tx, id, false)?.and_then(|server| server.host);
        let all = migrations::evacuations_in(tx, host.as_deref(), Some(id))?;
        Ok(all.iter().rev().map(|m| m.created_at).filter(|at| now.since(*at) < window).collect())
    }

    /// The host of these servers is lost: each has its alarm.
    pub fn host_failed_in(&self, tx: &Tx, host_id: &str) -> Result<()> {
        nodes::node_fenced_in(tx, host_id, true)?;
        let leased = leases::leases_of_in(tx, host_id)?;
        self.volumes.host_fenced_in(tx, host_id, true, |server| {
            let told = tombstones::tombstone_fetch_in(tx, host_id, server)?.is_some();
            let there = db::server_fetch_in(tx, server, false)?.is_some_and(|s| s.host_id.as_deref() == Some(host_id));
            Ok((told || there) && !leased.contains(server))
        })?;
        for server in db::servers_on_host_in(tx, host_id)?.iter().filter(|s| s.wanted == Power::Running) {
            let recovers = spec::recovery(server, self.recovery).elsewhere && leased.contains(&server.id);
            self.vim_failed_in(tx, server, Some("its host is lost"), recovers)?;
        }
        Ok(())
    }

    /// The host of these servers is back, and they with it.
    pub fn host_recovered_in(&self, tx: &Tx, host_id: &str) -> Result<()> {
        nodes::node_fenced_in(tx, host_id, false)?;
        self.volumes.host_fenced_in(tx, host_id, false, |_| Ok(false))?;
        for server in db::servers_on_host_in(tx, host_id)?.iter().filter(|s| s.vm_state != vm::ERROR) {
            self.vim_enabled_in(tx, server)?;
        }
        Ok(())
    }

    /// Whether a host that was lost knows all that became of its guests: none is on its way to another host, and each that is
    /// elsewhere has been reported gone from there.
    pub fn host_is_clear_in(&self, tx: &Tx, host_id: &str) -> Result<bool> {
        if !tombstones::tombstone_list_in(tx, host_id)?.is_empty() {
            return Ok(false);
        }
        let Some(node) = nodes::node_fetch_in(tx, host_id)? else { return Ok(true) };
        Ok(migrations::evacuations_running_in(tx, Some(&node.name))? == 0)
    }

    /// The servers of a host in the order in which they are to be brought up elsewhere: by priority, then the largest first.
    pub fn stranded_in(&self, tx: &Tx, host_id: &str) -> Result<Vec<Stranded>> {
        let leased = leases::leases_of_in(tx, host_id)?;
        let servers = db::servers_on_host_in(tx, host_id)?.into_iter();
        let all: Result<Vec<Stranded>> = servers.map(|server| self.stranding_in(tx, &server, leased.contains(&server.id))).collect();
        let mut all = all?;
        // Stable: equals stay in the order of their creation.
        all.sort_by_key(|s| (s.priority, Reverse((s.vcpus, s.memory_mb, s.disk_gb, s.swap_mb))));
        Ok(all)
    }

    /// The same of one server, if it is on that host.
    pub fn stranded_one_in(&self, tx: &Tx, host_id: &str, id: &str) -> Result<Option<Stranded>> {
        let server = db::server_fetch_in(tx, id, false)?.filter(|s| s.host_id.as_deref() == Some(host_id));
        let leased = leases::lease_is_in(tx, host_id, id)?;
        server.map(|server| self.stranding_in(tx, &server, leased)).transpose()
    }

    /// `leased`: its host has confirmed that it ends there with its lease.
    fn stranding_in(&self, tx: &Tx, server: &Server, leased: bool) -> Result<Stranded> {
        let recovery = spec::recovery(server, self.recovery);
        let flavor = server.flavor()?;
        let root = if server.boots_from_volume() { 0 } else { flavor.root_gb };
        Ok(Stranded {
            id: server.id.clone(),
            name: server.display_name.clone(),
            project_id: server.project_id.clone(),
            vm_state: server.vm_state.clone(),
            task_state: server.task_state.clone(),
            priority: recovery.priority,
            vcpus: server.vcpus,
            memory_mb: server.memory_mb,
            disk_gb: root + server.doc.ephemeral.unwrap_or(flavor.ephemeral_gb),
            swap_mb: server.doc.swap.unwrap_or(flavor.swap_mb),
            auto_recovery: recovery.auto,
            leased: recovery.elsewhere && leased,
            obstacle: match require_settled("evacuate", server, STATES) {
                Err(error) => Some(error.message().to_string()),
                Ok(()) => self.bound_in(tx, server)?,
            },
        })
    }

    /// What keeps a server on its host: volumes that are files there.
    fn bound_in(&self, tx: &Tx, server: &Server) -> Result<Option<String>> {
        let shared = self.volumes_shared_in(tx, &server.id)?;
        let mut volumes = volumes::volumes_of_in(tx, &server.id)?.into_iter().filter_map(|row| row.volume_id);
        let host = server.host.as_deref().unwrap_or_default();
        let bound = volumes.find(|id| !shared.contains(id));
        Ok(bound.map(|id| format!("Instance {} cannot be evacuated: its volume {id} is on host {host}.", server.id)))
    }

    /// Volumes that other hosts see too are no other host's before it is certain that the guest writes to them no more: its host says so,
    /// or is fenced, and has said before that it ends the guest then.
    fn volumes_free_in(&self, tx: &Tx, server: &Server, host_id: &str) -> Result<()> {
        let Some(volume) = self.volumes_shared_in(tx, &server.id)?.into_iter().next() else { return Ok(()) };
        let fenced = nodes::node_fetch_in(tx, host_id)?.is_some_and(|node| node.fenced) && leases::lease_is_in(tx, host_id, &server.id)?;
        if fenced || self.core.hosts.is_connected(host_id) {
            return Ok(());
        }
        let host = server.host.as_deref().unwrap_or_default();
        Err(Error::conflict(format!(
            "Instance {} cannot be evacuated: it is not certain that host {host} writes no more to its volume {volume}. The host must be fenced first.",
            server.id
        )))
    }

    /// The host that a server was evacuated from runs it no more: what it had there is free.
    pub(crate) fn evacuated_in(&self, tx: &Tx, host: &str, server_id: &str) -> Result<()> {
        for migration in migrations::evacuations_in(tx, Some(host), Some(server_id))? {
            self.placement.release_in(tx, &migration.uuid)?;
            if migration.status == "done" {
                migrations::migration_status_in(tx, &migration.uuid, "completed")?;
            }
        }
        Ok(())
    }
}
