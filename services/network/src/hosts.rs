//! Hosts: whose document changed, sending it, and what comes back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base::{Context, Error, Kind as ErrorKind, Result, Timestamp};
use rpc::message::{HostInfo, ToController, ToHost};
use rpc::network::NetworkDocument;
use rpc::session::Said;
use store::{Tx, params};

use crate::floatingips::FloatingIp;
use crate::ports::Port;
use crate::routers::Router;
use crate::row::{self, Resource};
use crate::seen::Gather;
use crate::{Network, document, encryption};

/// Hosts with a port on a network, or on one that a router joins to it.
pub fn touch_network(net: &Network, tx: &Tx, network_id: &str) -> Result<()> {
    let owners = "('network:router_interface', 'network:router_gateway')";
    let sql = format!(
        "UPDATE network_host SET wanted = wanted + 1 WHERE EXISTS (SELECT 1 FROM port p WHERE p._host = network_host.id AND p.network_id IN (\
         SELECT CAST(?1 AS TEXT) UNION SELECT b.network_id FROM port a JOIN port b ON b.device_id = a.device_id AND b.device_owner IN {owners} \
         WHERE a.network_id = ?1 AND a.device_owner IN {owners}))"
    );
    touched(net, tx, tx.execute(&sql, params![network_id])?)
}

/// Hosts that may have a part of the network: those that [`touch_network`] touches.
pub fn near(tx: &Tx, network_id: &str) -> Result<Vec<String>> {
    let owners = "('network:router_interface', 'network:router_gateway')";
    let sql = format!(
        "SELECT id FROM network_host WHERE EXISTS (SELECT 1 FROM port p WHERE p._host = network_host.id AND p.network_id IN (\
         SELECT CAST(?1 AS TEXT) UNION SELECT b.network_id FROM port a JOIN port b ON b.device_id = a.device_id AND b.device_owner IN {owners} \
         WHERE a.network_id = ?1 AND a.device_owner IN {owners})) ORDER BY started_at, id"
    );
    tx.query(&sql, params![network_id], |row| row.text(0))
}

/// Hosts with a port in a group, or in one whose rules name it.
pub fn touch_groups(net: &Network, tx: &Tx, groups: &[String]) -> Result<()> {
    for group in groups {
        let n = tx.execute(
            "UPDATE network_host SET wanted = wanted + 1 WHERE EXISTS (SELECT 1 FROM port_security_group s \
             WHERE s._host = network_host.id AND s.security_group_id IN \
             (SELECT CAST(?1 AS TEXT) UNION SELECT security_group_id FROM security_group_rule WHERE remote_group_id = ?1))",
            params![group],
        )?;
        touched(net, tx, n)?;
    }
    Ok(())
}

/// Hosts with a port on any network the router joins.
pub fn touch_router(net: &Network, tx: &Tx, router_id: &str) -> Result<()> {
    let sql = "SELECT network_id FROM port WHERE device_id = ?1 AND device_owner IN ('network:router_interface', 'network:router_gateway') LIMIT 1";
    match tx.query_opt(sql, params![router_id], |row| row.text(0))? {
        Some(network) => touch_network(net, tx, &network),
        None => Ok(()),
    }
}

pub fn touch_host(net: &Network, tx: &Tx, host_id: &str) -> Result<()> {
    if host_id.is_empty() {
        return Ok(());
    }
    touched(net, tx, tx.execute("UPDATE network_host SET wanted = wanted + 1 WHERE id = ?1", params![host_id])?)
}

/// Every host there is.
pub fn touch_all(net: &Network, tx: &Tx) -> Result<()> {
    touched(net, tx, tx.execute("UPDATE network_host SET wanted = wanted + 1", params![])?)
}

fn touched(net: &Network, tx: &Tx, hosts: u64) -> Result<()> {
    if hosts > 0 {
        net.nudge(tx);
    }
    Ok(())
}

/// The host that is to carry a new router: of those that are open the one with the fewest.
pub fn for_router(tx: &Tx) -> Result<Option<String>> {
    tx.query_opt(
        "SELECT h.id FROM network_host h WHERE h.closed = 0 ORDER BY (SELECT COUNT(*) FROM router r WHERE r._gateway_host = h.id), h.started_at, h.id LIMIT 1",
        params![],
        |row| row.text(0),
    )
}

/// A host's name; empty when there is none of that id.
pub fn name_of(tx: &Tx, host_id: &str) -> Result<String> {
    Ok(tx.query_opt("SELECT name FROM network_host WHERE id = ?1", params![host_id], |row| row.text(0))?.unwrap_or_default())
}

/// How many sent documents are remembered for each host: reports lag behind by few.
const REMEMBERED: usize = 16;

/// What the documents that connected hosts were sent lately held: a report vouches for just that.
#[derive(Default)]
pub struct Sent(Mutex<HashMap<String, VecDeque<Held>>>);

#[derive(Clone)]
struct Held {
    generation: u64,
    /// Ports of routers.
    joints: HashSet<String>,
    /// Floating addresses and where they lead.
    floating: HashSet<(String, IpAddr)>,
}

impl Held {
    fn of(document: &NetworkDocument) -> Held {
        let joints = |r: &rpc::network::Router| {
            let inner = r.interfaces.iter().map(|i| i.port_id.clone());
            inner.chain(r.gateway.iter().map(|g| g.port_id.clone())).collect::<Vec<_>>()
        };
        Held {
            generation: document.generation,
            joints: document.routers.iter().flat_map(joints).collect(),
            floating: document.routers.iter().flat_map(|r| &r.floating).filter(|f| !f.coming).map(|f| (f.id.clone(), f.fixed)).collect(),
        }
    }
}

impl Sent {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Held>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn last(&self, host: &str) -> Option<u64> {
        self.lock().get(host)?.back().map(|held| held.generation)
    }
    fn held(&self, host: &str, generation: u64) -> Option<Held> {
        self.lock().get(host)?.iter().rev().find(|held| held.generation == generation).cloned()
    }
    fn add(&self, host: &str, held: Held) {
        let mut hosts = self.lock();
        let list = hosts.entry(host.into()).or_default();
        list.push_back(held);
        if list.len() > REMEMBERED {
            list.pop_front();
        }
    }
    fn forget(&self, host: &str) {
        self.lock().remove(host);
    }
}

/// Hosts whose documents are made together: they share what is read, and all of them are in memory at once.
const TOGETHER: usize = 8;

/// Sends each connected host its document when it changed.
pub struct Documents(pub Network);

#[async_trait]
impl task::Reconciler for Documents {
    fn name(&self) -> &'static str {
        "network.documents"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(5)
    }
    /// A controller sends to the hosts whose sessions it has.
    fn everywhere(&self) -> bool {
        true
    }
    async fn run(&self) -> Result<()> {
        let connected: Vec<String> = self.0.core().hosts.sessions().connected().into_iter().map(|info| info.id).collect();
        for some in connected.chunks(TOGETHER) {
            self.0.hosts_sync(some).await?;
        }
        self.0.seen().turn();
        Ok(())
    }
}

/// What a host said, taken in. The listener that `core.hosts` keeps.
pub struct Listener(pub Network);

#[async_trait]
impl service::HostListener for Listener {
    async fn heard(&self, host_id: &str, said: &Said) -> Result<()> {
        match said {
            Said::Connected(info) => self.0.host_connected(info).await,
            Said::Disconnected => {
                self.0.sent().forget(host_id);
                Ok(())
            }
            Said::Message(ToController::Network { generation, ports_up, error }) => {
                self.0.host_reported(host_id, *generation, ports_up, error.as_deref()).await
            }
            _ => Ok(()),
        }
    }
}

impl Network {
    /// Sends connected hosts their documents now, those that are newer than what each was sent. What is sent to a host
    /// afterwards finds its document there.
    async fn hosts_sync(&self, hosts: &[String]) -> Result<()> {
        let documents = |tx: &Tx| {
            let mut gather = Gather::new(tx, self.seen());
            let mut documents = Vec::new();
            for host in hosts {
                let sql = "SELECT wanted FROM network_host WHERE id = ?1";
                match tx.query_opt(sql, params![host], |row| row.count(0))? {
                    Some(wanted) if self.sent().last(host) != Some(wanted) => documents.push((host, document::build(&mut gather, host)?)),
                    _ => {}
                }
            }
            Ok(documents)
        };
        for (host, document) in self.core().store.read(documents).await? {
            // Remembered first: the report may be faster than this task.
            self.sent().add(host, Held::of(&document));
            match self.core().hosts.send(host, ToHost::Network(Box::new(document))).await {
                Ok(()) => {}
                // It gets the document when it returns.
                Err(error) if error.is(ErrorKind::Unavailable) => self.sent().forget(host),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn host_connected(&self, info: &HostInfo) -> Result<()> {
        let (net, info) = (self.clone(), info.clone());
        let id = info.id.clone();
        self.core()
            .store
            .write(move |tx| {
                let now = Timestamp::now();
                let claimed = tunnel_end(&info);
                let holder = net.host_address_holder_in(tx, &info)?;
                let address = if holder.is_some() { String::new() } else { claimed.clone() };
                if let Some(holder) = holder {
                    tracing::error!("host {} says that it is at {claimed}, which is host {holder}'s: no tunnel leads to it", info.name);
                }
                let sql = "SELECT address, tunnel_key FROM network_host WHERE id = ?1";
                let before = tx.query_opt(sql, params![&info.id], |row| Ok((row.text(0)?, row.text(1)?)))?;
                tx.execute(
                    "INSERT INTO network_host (id, name, started_at, heard_at, wanted, applied, error, address, tunnel_key) \
                     VALUES (?1, ?2, ?3, ?3, 1, 0, '', ?4, ?5) ON CONFLICT (id) DO UPDATE SET name = excluded.name, heard_at = excluded.heard_at, \
                     applied = 0, address = excluded.address, tunnel_key = excluded.tunnel_key",
                    params![&info.id, &info.name, now, &address, &info.tunnel_key],
                )?;
                let moved = before.as_ref().is_some_and(|(known, _)| *known != address);
                let peer = before.as_ref().is_none_or(|(_, key)| *key != info.tunnel_key) && encryption::is_on(tx)?;
                if moved || peer {
                    // Everybody's tunnels may lead there.
                    touch_all(&net, tx)?;
                }
                if let Some((left, _)) = before.filter(|_| moved) {
                    net.address_freed_in(tx, &info.id, left);
                }
                adopt(&net, tx, &info)
            })
            .await?;
        self.sent().forget(&id);
        self.hosts_sync(&[id]).await
    }

    async fn host_reported(&self, host_id: &str, generation: u64, ports_up: &[String], error: Option<&str>) -> Result<()> {
        let held = self.sent().held(host_id, generation).filter(|_| error.is_none());
        let changes = |tx: &Tx| report_changes(tx, host_id, generation, ports_up, error, held.as_ref());
        let changes = self.core().store.read(changes).await?;
        if !changes.any {
            return Ok(());
        }
        if let Some(error) = error {
            tracing::warn!(host_id, generation, "a host could not apply its network document: {error}");
        }
        let (net, host_id, error) = (self.clone(), host_id.to_string(), error.map(str::to_string));
        self.core()
            .store
            .write(move |tx| {
                let ctx = Context::system(format!("req-{}", base::id::uuid()));
                tx.execute(
                    "UPDATE network_host SET applied = ?2, error = ?3, heard_at = ?4 WHERE id = ?1",
                    params![&host_id, generation, error.unwrap_or_default(), Timestamp::now()],
                )?;
                for (id, status) in changes.ports {
                    // One that went meanwhile, elsewhere or down has nothing to report: its change brings a report of its own.
                    let here = |p: &Port| {
                        p.host == host_id
                            && p.status != status
                            && (status == "DOWN" || p.admin_state_up || p.device_owner.starts_with("network:"))
                    };
                    let Some(mut port) = row::find_locked::<Port>(tx, &id)?.filter(here) else { continue };
                    port.status = status.into();
                    row::update(tx, &mut port)?;
                    net.recorded(tx, &ctx, "port.update.end", &port)?;
                }
                // What was read may have changed since.
                for id in floating_up(tx, &host_id, held.as_ref())? {
                    let Some(mut item) = row::find_locked::<FloatingIp>(tx, &id)? else { continue };
                    item.status = "ACTIVE".into();
                    row::update(tx, &mut item)?;
                    net.recorded(tx, &ctx, "floatingip.update.end", &item)?;
                }
                Ok(())
            })
            .await
    }
}

struct Changes {
    any: bool,
    ports: Vec<(String, &'static str)>,
}

/// What a report changes. Routers' ports and floating addresses are up once the host has applied, without an error,
/// a document that held them as they are now.
fn report_changes(
    tx: &Tx,
    host_id: &str,
    generation: u64,
    ports_up: &[String],
    error: Option<&str>,
    held: Option<&Held>,
) -> Result<Changes> {
    let known =
        tx.query_opt("SELECT applied, error FROM network_host WHERE id = ?1", params![host_id], |row| Ok((row.count(0)?, row.text(1)?)))?;
    let Some((applied, old_error)) = known else { return Ok(Changes { any: false, ports: Vec::new() }) };
    let bound = tx.query("SELECT id, status, admin_state_up, device_owner FROM port WHERE _host = ?1", params![host_id], |row| {
        Ok((row.text(0)?, row.text(1)?, row.flag(2)?, row.text(3)?))
    })?;
    let ports_up: HashSet<&String> = ports_up.iter().collect();
    let mut ports = Vec::new();
    for (id, status, admin_up, owner) in bound {
        let up = if owner.starts_with("network:") {
            status == "ACTIVE" || held.is_some_and(|h| h.joints.contains(&id))
        } else {
            admin_up && ports_up.contains(&id)
        };
        let now = if up { "ACTIVE" } else { "DOWN" };
        if status != now {
            ports.push((id, now));
        }
    }
    let floating = floating_up(tx, host_id, held)?;
    let any = applied != generation || old_error != error.unwrap_or_default() || !ports.is_empty() || !floating.is_empty();
    Ok(Changes { any, ports })
}

/// Floating addresses that are down and were led, as they are now, by a document that the host has applied. Only those that may be
/// on this host are looked at: of guests here, and of routers that it is the home of.
fn floating_up(tx: &Tx, host_id: &str, held: Option<&Held>) -> Result<Vec<String>> {
    let Some(held) = held.filter(|h| !h.floating.is_empty()) else { return Ok(Vec::new()) };
    let sql = "SELECT f.id, f.fixed_ip_address FROM port p JOIN floatingip f ON f.port_id = p.id \
               WHERE p._host = ?1 AND f.router_id IS NOT NULL AND f.status = 'DOWN' \
               UNION SELECT f.id, f.fixed_ip_address FROM router r JOIN floatingip f ON f.router_id = r.id \
               WHERE r._gateway_host = ?1 AND f.status = 'DOWN'";
    let down = tx.query(sql, params![host_id], |row| Ok((row.text(0)?, row.opt_text(1)?)))?;
    let up = down.into_iter().filter_map(|(id, fixed)| Some((id, fixed?.parse().ok()?))).filter(|at| held.floating.contains(at));
    Ok(up.map(|(id, _)| id).collect())
}

/// Where a host's tunnels end; empty when no other host reaches it.
fn tunnel_end(info: &HostInfo) -> String {
    let reached = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    info.address.parse().ok().filter(reached).map(|address| address.to_string()).unwrap_or_default()
}

/// Routers that waited for a host get this one, unless it is closed to them.
fn adopt(net: &Network, tx: &Tx, info: &HostInfo) -> Result<()> {
    let open = tx.query_opt("SELECT 1 FROM network_host WHERE id = ?1 AND closed = 0", params![&info.id], |row| row.int(0))?;
    if open.is_none() {
        return Ok(());
    }
    for router in row::list::<Router>(tx, "_gateway_host = ''", params![])? {
        carry(net, tx, router, &info.id)?;
    }
    Ok(())
}

/// Has another host carry a router, or none for an empty id.
fn carry(net: &Network, tx: &Tx, mut router: Router, host_id: &str) -> Result<()> {
    let before = std::mem::replace(&mut router.gateway_host, host_id.to_string());
    let name = name_of(tx, host_id)?;
    row::update(tx, &mut router)?;
    for mut port in crate::db::ports::of_device(tx, router.id())? {
        if crate::allocation::is_router_port(&port.device_owner) {
            port.bind(&name, Some(host_id).filter(|id| !id.is_empty()));
            row::update(tx, &mut port)?;
            // Guests of every host reach it by another tunnel now.
            touch_network(net, tx, &port.network_id)?;
        }
    }
    touch_host(net, tx, &before)?;
    touch_host(net, tx, host_id)
}

impl Network {
    /// Closes a host to routers, or opens it. Those it carries go to the other open hosts, or wait for one.
    pub fn host_close_in(&self, tx: &Tx, host_id: &str, closed: bool) -> Result<()> {
        tx.execute("UPDATE network_host SET closed = ?2 WHERE id = ?1", params![host_id, closed])?;
        let waiting = if closed { host_id } else { "" };
        for router in row::list::<Router>(tx, "_gateway_host = ?1", params![waiting])? {
            let to = for_router(tx)?.unwrap_or_default();
            carry(self, tx, router, &to)?;
        }
        Ok(())
    }

    /// The name of another host whose address is the one that this host says is its own. Who had it first keeps it until it comes
    /// back at another or is deleted, also while it is away: its guests may be behind it still.
    pub fn host_address_holder_in(&self, tx: &Tx, info: &HostInfo) -> Result<Option<String>> {
        let sql = "SELECT name FROM network_host WHERE address = ?1 AND address <> '' AND id <> ?2";
        tx.query_opt(sql, params![tunnel_end(info), &info.id], |row| row.text(0))
    }

    /// A host is no longer at an address: who claimed it in vain is to greet again.
    fn address_freed_in(&self, tx: &Tx, host_id: &str, address: String) {
        if address.is_empty() {
            return;
        }
        let (sessions, host_id) = (self.core().hosts.sessions().clone(), host_id.to_string());
        tx.after_commit(move || {
            for info in sessions.connected().iter().filter(|info| info.id != host_id && tunnel_end(info) == address) {
                sessions.end(&info.id, "its address belongs to no other host any more");
            }
        });
    }

    /// Forgets a host that is gone for good; `Conflict` while ports are bound to it.
    pub fn host_forget_in(&self, tx: &Tx, host_id: &str) -> Result<()> {
        self.host_close_in(tx, host_id, true)?;
        let bound = tx.query_opt("SELECT 1 FROM port WHERE _host = ?1 LIMIT 1", params![host_id], |row| row.int(0))?;
        if bound.is_some() {
            return Err(Error::conflict("Ports are bound to the host."));
        }
        let address = tx.query_opt("SELECT address FROM network_host WHERE id = ?1", params![host_id], |row| row.text(0))?;
        tx.execute("DELETE FROM network_host WHERE id = ?1", params![host_id])?;
        self.address_freed_in(tx, host_id, address.unwrap_or_default());
        // It is nobody's peer any more.
        if encryption::is_on(tx)? { touch_all(self, tx) } else { Ok(()) }
    }
}
