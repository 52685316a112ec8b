//! Host maintenance (maintenance specification, sections 5 and 6; VIM specification, section 3): hosts are watched by pulses, one
//! that is lost is fenced by its lease, and only then are its guests brought up on other hosts (decision 0013).
//!
//! [`Pulse`] sends and hears, in a thread of its own, and keeps no record. What it sees goes through [`Maintenance`] into the
//! store, where [`recovery`] finds it: whoever dies in between, the next controller goes on from there.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod bmc;
mod keys;
mod mending;
mod office;
mod pulse;
mod recovery;
mod sensors;

pub use pulse::{Pulse, Report, Target, reports};

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use base::Result;
use compute::Compute;
use heartbeat::Health;
use inventory::{Host, Inventory};
use prometheus_client::metrics::{counter::Counter, family::Family};
use rpc::heartbeat::{HeartbeatDocument, Peer};
use rpc::message::ToHost;
use rpc::session::Said;
use service::Core;
use store::Tx;
use task::Nudge;
use tokio::sync::watch;
use uuid::Uuid;

use bmc::{Done, Fencing};
use keys::Keys;

/// How often the list of hosts is looked at, and those that wait to be admitted.
const LOOK: Duration = Duration::from_millis(500);
/// How often packets that were dropped are told of, at most.
const TELL: Duration = Duration::from_secs(60);

/// The engine's handle. Cheap to clone.
#[derive(Clone)]
pub struct Maintenance(Arc<Inner>);

pub struct Inner {
    core: Core,
    inventory: Inventory,
    compute: Compute,
    recovery: Nudge,
    /// Something happened that the list of hosts may follow from.
    look: tokio::sync::Notify,
}

impl std::ops::Deref for Maintenance {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Maintenance {
    pub fn new(core: Core, inventory: Inventory, compute: Compute) -> Maintenance {
        let recovery = recovery::Recovery { core: core.clone(), inventory: inventory.clone(), compute: compute.clone() };
        let recovery = core.tasks.reconcile(Arc::new(recovery));
        let mending = mending::Mending { core: core.clone(), inventory: inventory.clone(), compute: compute.clone() };
        core.tasks.reconcile(Arc::new(mending));
        core.tasks.reconcile(Arc::new(sensors::Sensors::new(core.clone(), inventory.clone())));
        core.tasks.reconcile(Arc::new(bmc::Audit::new(core.clone(), inventory.clone())));
        let this = Maintenance(Arc::new(Inner { core, inventory, compute, recovery, look: tokio::sync::Notify::new() }));
        this.core.hosts.listen(Arc::new(this.clone()));
        this
    }

    /// Watches the hosts of other machines until `stop` becomes true. `address`: where this controller is reached by them.
    pub fn watch(self, address: IpAddr, mut stop: watch::Receiver<bool>) -> Result<impl Future<Output = ()>> {
        let keys = Keys::open(&self.core.config.home().join("keys"))?;
        let (reports, mut heard) = pulse::reports();
        let config = &self.core.config;
        let pulse = Pulse::start(keys.controller(), address, config.text("heartbeat.cluster_address").parse().ok(), reports)?;
        self.inventory.pulses_set(Box::new(pulse.answers()));
        let dropped = (0, std::time::Instant::now());
        let packets = Family::default();
        self.core.metrics.register(
            "heartbeat_dropped_packets",
            "Packets at the pulse's port that were no host's new answers",
            packets.clone(),
        );
        let (told, roster, fencing, forced) = Default::default();
        let mut watching = Watching { maintenance: self.clone(), pulse, keys, told, roster, dropped, packets, fencing, forced };
        Ok(async move {
            let mut look = tokio::time::interval(LOOK);
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                let outcome = tokio::select! {
                    biased;
                    () = stopped(&mut stop) => return,
                    Some(report) = heard.recv() => watching.take(report).await,
                    done = watching.fencing.next() => watching.done(done).await,
                    _ = look.tick() => watching.look().await,
                    () = self.look.notified() => watching.look().await,
                };
                if let Err(error) = outcome {
                    tracing::error!("{}", error.chain());
                }
            }
        })
    }
}

#[async_trait]
impl service::HostListener for Maintenance {
    async fn heard(&self, _: &str, said: &Said) -> Result<()> {
        if matches!(said, Said::Connected(_) | Said::Disconnected) {
            self.look.notify_one();
        }
        Ok(())
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error: whoever could say so is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The port on which the guards of hosts listen.
fn port(core: &Core) -> u16 {
    u16::try_from(core.config.int("heartbeat.port")).unwrap_or(0)
}

struct Watching {
    maintenance: Maintenance,
    pulse: Pulse,
    keys: Keys,
    /// What each host was told last.
    told: BTreeMap<Uuid, Told>,
    roster: Roster,
    /// Packets dropped so far that an operator was told of, and when.
    dropped: (u64, std::time::Instant),
    packets: Family<[(&'static str, &'static str); 1], Counter>,
    fencing: Fencing,
    /// Hosts that were to be locked by force at the last look.
    forced: Ids,
}

/// Who belongs to the site, and since which change of it.
#[derive(Default)]
struct Roster {
    edition: u64,
    site: u64,
    addresses: BTreeMap<Uuid, SocketAddr>,
}

/// Enough to see that a host knows what it should, without making its document anew.
#[derive(PartialEq)]
struct Told {
    session: u64,
    edition: u64,
    locked: bool,
}

impl Watching {
    /// Takes in what was seen.
    async fn take(&mut self, report: Report) -> Result<()> {
        let this = self.maintenance.clone();
        let store = this.core.store.clone();
        match report {
            Report::Changed { host, before, now } => {
                tracing::warn!(host = %host, ?before, ?now, "heartbeat");
                store.write(move |tx| this.inventory.host_health_in(tx, &host.to_string(), noted(now))).await
            }
            Report::Way { host, way, now } => {
                tracing::warn!(host = %host, ?way, ?now, "heartbeat");
                store.write(move |tx| this.inventory.host_way_in(tx, &host.to_string(), way, noted(now))).await
            }
            Report::CutOff(cut_off) => {
                tracing::warn!(cut_off, "too many of the site's hosts are silent at once, or no longer are");
                store.write(move |tx| this.inventory.site_cut_off_in(tx, cut_off)).await
            }
            Report::Bound(host) => store.write(move |tx| this.inventory.host_leased_in(tx, &host.to_string())).await,
            Report::Fenced(host) => {
                tracing::warn!(host = %host, "fenced: its lease has run out");
                let id = host.to_string();
                let written = store
                    .write(move |tx| {
                        this.inventory.host_fence_in(tx, &id)?;
                        this.compute.host_failed_in(tx, &id)
                    })
                    .await;
                if written.is_err() {
                    // Nothing is known of it: it is said again.
                    self.pulse.fence_forget(&host);
                }
                self.maintenance.recovery.nudge();
                written
            }
        }
    }

    /// A BMC has done what it was told, or not.
    async fn done(&mut self, done: Done) -> Result<()> {
        let id = match done {
            Done::Off(id) => id,
            Done::Failed(id, why) => {
                let this = self.maintenance.clone();
                return this.core.store.clone().write(move |tx| this.inventory.host_force_tried_in(tx, &id.to_string(), &why)).await;
            }
            Done::On => return Ok(()),
        };
        tracing::warn!(host = %id, "its machine is switched off");
        // Before anything else: it gets no right to have guests when it boots.
        self.pulse.fence(&id);
        self.take(Report::Fenced(id)).await?;
        let inventory = &self.maintenance.inventory;
        let hosts = self.maintenance.core.store.read(|tx| inventory.hosts_in(tx)).await?;
        // One that is to be off for a sensor's sake is switched on in its own time, or not at all.
        if !hosts.iter().any(|host| host.uuid == id.to_string() && host.is_power_cycled()) {
            self.fencing.switch_on(id);
        }
        Ok(())
    }

    /// Follows the list of hosts, and admits those that may have guests again.
    async fn look(&mut self) -> Result<()> {
        let this = self.maintenance.clone();
        let (hosts, rules) = this.core.store.read(|tx| Ok((this.inventory.hosts_in(tx)?, this.inventory.heartbeat_rules_in(tx)?))).await?;
        // Before any host is known by them.
        self.pulse.rules_set(rules);
        let mut targets = BTreeMap::new();
        for host in hosts.iter().filter(|h| h.guarded && h.provisioned) {
            let (Ok(id), Ok(address)) = (host.uuid.parse::<Uuid>(), host.mgmt_ip.parse::<IpAddr>()) else { continue };
            let port = port(&this.core);
            let asked = this.core.config.text("heartbeat.cluster_address").parse::<IpAddr>().is_ok();
            let cluster = host.upkeep.cluster_ip.parse().ok().filter(|_| asked).map(|address: IpAddr| SocketAddr::new(address, port));
            let known = host.upkeep.ways.unwrap_or([host.health, inventory::Health::Well]);
            let ways = known.map(health);
            let (address, key) = (SocketAddr::new(address, port), self.keys.host(&id));
            targets
                .insert(id, Target { address, cluster, ways, key, health: health(host.health), bound: host.leased, fenced: host.fenced });
        }
        let site = self.pulse.site_set(targets.clone());
        let forced: Ids = hosts.iter().filter(|h| h.is_forced()).filter_map(|h| h.uuid.parse().ok()).collect();
        forced.iter().for_each(|id| self.pulse.bar(id));
        // A lock by force that came to nothing takes nobody's lease.
        self.forced.difference(&forced).for_each(|id| self.pulse.relent(id));
        self.forced = forced;
        let force = Duration::from_secs(this.core.config.int("maintenance.force_seconds"));
        for id in hosts.iter().filter(|h| h.is_force_over(force)).map(|h| h.uuid.clone()) {
            let this = self.maintenance.clone();
            this.core.store.clone().write(move |tx| this.inventory.host_force_over_in(tx, &id, force)).await?;
        }
        for host in hosts.iter().filter_map(|h| h.uuid.parse::<Uuid>().ok().map(|id| (id, h.health))) {
            // What was seen but could not be noted down then.
            let seen = self.pulse.health(&host.0).map(noted).filter(|seen| *seen != host.1);
            if let Some(seen) = seen {
                let (this, id) = (self.maintenance.clone(), host.0.to_string());
                this.core.store.clone().write(move |tx| this.inventory.host_health_in(tx, &id, seen)).await?;
            }
        }
        for (host, id) in hosts.iter().filter_map(|h| h.uuid.parse::<Uuid>().ok().map(|id| (h, id))) {
            let seen = self.pulse.ways(&id).map(|ways| ways.map(noted));
            if seen != host.upkeep.ways && targets.contains_key(&id) {
                let (this, id) = (self.maintenance.clone(), host.uuid.clone());
                this.core.store.clone().write(move |tx| this.inventory.host_ways_in(tx, &id, seen)).await?;
            }
        }
        if hosts.iter().any(|host| host.upkeep.waiting) && !self.pulse.is_cut_off() {
            // A controller before this one waited for them.
            let this = self.maintenance.clone();
            this.core.store.clone().write(move |tx| this.inventory.site_wait_in(tx, false)).await?;
        }
        let pulse = &self.pulse;
        let lost = |host: &Host, id: &Uuid| pulse.health(id).map_or(host.is_silent(), |now| now == Health::Lost && rules.fails);
        let waits = pulse.is_cut_off() || office::waits(&this.core, &this.inventory).await?;
        self.fencing.look(&this.inventory, &hosts, lost, waits, force);
        let locked = hosts.iter().filter(|h| h.locked).filter_map(|h| h.uuid.parse().ok()).collect();
        self.tell(site, &targets, &locked).await;
        for id in self.pulse.waiting() {
            self.admit(id).await?;
        }
        let dropped = self.pulse.dropped();
        for (reason, packets) in [("unauthentic", dropped), ("stale", self.pulse.stale())] {
            self.packets.get_or_create(&[("reason", reason)]).inner().store(packets, Ordering::Relaxed);
        }
        if dropped > self.dropped.0 && self.dropped.1.elapsed() > TELL {
            tracing::warn!(dropped, stale = self.pulse.stale(), "packets that are no answers of a host came to the pulse's port");
            self.dropped = (dropped, std::time::Instant::now());
        }
        Ok(())
    }

    /// Tells each host of the site what it does not know. Each document names all others: one is made only for a host that lacks it.
    async fn tell(&mut self, site: u64, targets: &BTreeMap<Uuid, Target>, locked: &Ids) {
        let hosts = self.maintenance.core.hosts.sessions();
        self.told.retain(|id, _| targets.contains_key(id));
        let roster = &mut self.roster;
        let same = |(id, target): (&Uuid, &Target)| roster.addresses.get(id) == Some(&target.address);
        if roster.site != site || roster.addresses.len() != targets.len() || !targets.iter().all(same) {
            let addresses = targets.iter().map(|(id, target)| (*id, target.address)).collect();
            *roster = Roster { edition: roster.edition + 1, site, addresses };
        }
        let mut site_key = None;
        for (id, target) in targets {
            let name = id.to_string();
            let Some(session) = hosts.session(&name) else { continue };
            let told = Told { session, edition: roster.edition, locked: locked.contains(id) };
            if self.told.get(id) == Some(&told) {
                continue;
            }
            let peers = targets.iter().filter(|(other, _)| *other != id);
            let peers = peers.map(|(other, target)| Peer { id: *other, address: Some(target.address.ip()) });
            let controller = Peer { id: self.keys.controller(), address: None };
            let document = HeartbeatDocument {
                site,
                controller: self.keys.controller(),
                key: target.key.clone(),
                site_key: site_key.get_or_insert_with(|| self.keys.site(targets.keys())).clone(),
                port: target.address.port(),
                peers: std::iter::once(controller).chain(peers).collect(),
                locked: told.locked,
            };
            match self.maintenance.core.hosts.send(&name, ToHost::Heartbeat(Box::new(document))).await {
                Ok(()) => drop(self.told.insert(*id, told)),
                Err(error) => tracing::debug!(host = name, "{}", error.chain()),
            }
        }
    }

    /// Gives a host that answers again its right to have guests, once it knows of each guest that is elsewhere now.
    async fn admit(&self, host: Uuid) -> Result<()> {
        let (this, id) = (self.maintenance.clone(), host.to_string());
        if !this.core.hosts.is_connected(&id) || !this.compute.documents_told(&id) {
            return Ok(());
        }
        if this.core.store.clone().write(move |tx| this.admit_in(tx, &id)).await? {
            tracing::info!(host = %host, "admitted again");
            self.pulse.admit(&host);
        }
        Ok(())
    }
}

impl Maintenance {
    /// Admits a host that was fenced, if nothing speaks against it. One that is locked waits as long as it has guests that
    /// are still to be brought up elsewhere, whatever became of the first tries: with its right it would run them.
    pub fn admit_in(&self, tx: &Tx, id: &str) -> Result<bool> {
        if !self.compute.host_is_clear_in(tx, id)? {
            return Ok(false);
        }
        let locked = self.inventory.hosts_in(tx)?.iter().any(|host| host.uuid == id && host.locked);
        if locked && self.compute.stranded_in(tx, id)?.iter().any(recovery::recovers) {
            return Ok(false);
        }
        self.inventory.host_admit_in(tx, id)?;
        self.compute.host_recovered_in(tx, id)?;
        Ok(true)
    }
}

/// Ids of the hosts of a site.
type Ids = BTreeSet<Uuid>;

/// What is noted down of how a host answers.
fn noted(health: Health) -> inventory::Health {
    match health {
        Health::Lost => inventory::Health::Lost,
        Health::Degraded => inventory::Health::Degraded,
        Health::Well | Health::Minor => inventory::Health::Well,
    }
}

/// How a host answered when it was last noted down.
fn health(known: inventory::Health) -> Health {
    match known {
        inventory::Health::Well => Health::Well,
        inventory::Health::Degraded => Health::Degraded,
        inventory::Health::Lost => Health::Lost,
    }
}
