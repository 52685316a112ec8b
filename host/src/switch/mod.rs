//! The network of one host on Linux bridges, namespaces and nftables.
//!
//! [`Switch::apply`] takes the whole wanted network and makes the machine's what it says, by difference. Everything
//! the switch makes can be recognised without it:
//!
//! | thing | where | recognised by |
//! |---|---|---|
//! | bridge of a network (`br…`), tunnel (`vx…`), tap (`tap…`), outer ends of veths (`sn…` service, `sr…` router, `sg…` gateway) | the process's own network namespace | link group `0x53747572`, set in the request that makes the link (a tap's before it is made lasting); alias `sturnus:<kind>:<id>`, set right after |
//! | veths of VLANs, with the end `vi…` in the network's bridge and `vo…`, on which the programs are that put tags on frames and take them off, in the physical network's | the process's own namespace | link group, alias |
//! | inner ends of veths (`ns-…`, `qr-…`, `qg-…`) | our namespaces | link group; they go with their outer ends |
//! | namespaces `sturnus-r-<router>`, `sturnus-n-<network>` | `/run/netns` | named in `$HOME/host/network.json` before they are made; alias `sturnus:router:<id>` or `sturnus:service:<id>` on their loopback link, set before they get their name |
//! | the encrypting link `sturnus-wg`; it goes with the process | the process's own namespace | link group; alias `sturnus:cipher:hosts` |
//! | the rule by which tunnels' packets find it | | its priority 4789 and table 0x5374 |
//! | nftables tables `bridge sturnus` and `inet sturnus`; in routers' namespaces `inet sturnus` and `ip sturnus` | | the name |
//! | addresses on a bridge of a physical network | the process's own namespace | named in `network.json` before they are added |
//!
//! Alias kinds: `network` (bridge), `physical` (bridge of a physical network that has VLANs alone), `tunnel`, `vlan` and `trunk` (inner and
//! outer end of a VLAN's veth), `port` (tap), `service`, `router-port`, `router`. A link with the group
//! and without an alias, and a recorded name that is a plain file, are what a crash leaves; the next apply mends
//! or removes them. Kernel settings are changed only inside our namespaces, and `nf_call_*` on bridges that guests
//! with security groups are on.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base::error::Internal;
use rpc::instance::Metadata;
use rpc::monitor::Dropped;
use rpc::network::NetworkDocument;

use crate::drops::Drops;
use crate::wire::{Applied, Keep, Wire};

pub(crate) mod cipher;
mod conntrack;
mod engine;
mod forwarding;
mod frame;
mod guard;
mod link;
mod namespace;
mod netlink;
mod nft;
mod plan;
mod record;
mod router_rules;
mod serve;
mod sys;
#[cfg(test)]
mod tests;
mod vlan;

const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);

/// What the machine gives and the document does not say.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine's bridge for each physical network. A bridge that does not exist is made, and removed with the
    /// last network on it; one that exists is used and left alone.
    pub physical_networks: BTreeMap<String, String>,
    /// Name servers for what the networks' own names do not answer; none: such questions are refused.
    pub resolvers: Vec<IpAddr>,
    /// This host's end of tunnels to other hosts; none: networks stay on this host.
    pub vtep: Option<IpAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Options { physical_networks: BTreeMap::from([("external".into(), "br-ex".into())]), resolvers: Vec::new(), vtep: None }
    }
}

/// Counts what the switch changes, and lets tests break it at any change.
#[derive(Debug)]
pub struct Probe {
    operations: AtomicU64,
    limit: AtomicU64,
}

impl Default for Probe {
    fn default() -> Self {
        Probe { operations: AtomicU64::new(0), limit: AtomicU64::new(u64::MAX) }
    }
}

impl Probe {
    /// Changes made so far.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }
    /// Lets this many more changes through; all later ones fail, as if the process had died there.
    pub fn fail_after(&self, operations: u64) {
        self.limit.store(self.operations().saturating_add(operations), Ordering::Relaxed);
    }
    fn step(&self, what: &str) -> io::Result<()> {
        let n = self.operations.fetch_add(1, Ordering::Relaxed);
        tracing::trace!(what, "switch change");
        if n >= self.limit.load(Ordering::Relaxed) { Err(io::Error::other("stopped by a test")) } else { Ok(()) }
    }
}

struct Work {
    engine: engine::Engine,
    servers: serve::Servers,
}

/// See the module's description.
pub struct Switch {
    work: Arc<Mutex<Work>>,
    desk: Arc<serve::Desk>,
    /// One document at a time.
    turn: tokio::sync::Mutex<()>,
    probe: Arc<Probe>,
    drops: Arc<Drops>,
    /// The public key of its encrypted tunnels.
    key: String,
    ready: RwLock<std::collections::BTreeSet<String>>,
}

impl Switch {
    pub fn start(home: PathBuf, options: Options) -> base::Result<Arc<Switch>> {
        let probe = Arc::new(Probe::default());
        let record = record::Record::load(&home).internal("reading the switch's record")?;
        let key = cipher::Key::load(&home).internal("the key of encrypted tunnels")?;
        let public = key.public();
        let drops = Arc::new(Drops::default());
        let desk = Arc::new(serve::Desk::default());
        let servers = serve::Servers::new(desk.clone(), options.resolvers.clone(), drops.clone());
        let engine = engine::Engine::new(options, record, key, drops.clone(), probe.clone()).internal("opening netlink")?;
        Ok(Arc::new(Switch {
            work: Arc::new(Mutex::new(Work { engine, servers })),
            desk,
            turn: tokio::sync::Mutex::new(()),
            probe,
            drops,
            key: public,
            ready: RwLock::default(),
        }))
    }

    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    pub async fn apply(&self, document: &NetworkDocument) -> base::Result<Applied> {
        let _turn = self.turn.lock().await;
        let (work, document) = (self.work.clone(), document.clone());
        let job = move || {
            let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
            let Work { engine, servers } = &mut *work;
            let plan = engine.plan(&document);
            let mut outcome = engine.apply(&document, plan)?;
            outcome.errors.extend(servers.update(engine, &document));
            io::Result::Ok(outcome)
        };
        let outcome =
            tokio::task::spawn_blocking(job).await.internal("applying a network document")?.internal("applying a network document")?;
        *self.ready.write().unwrap_or_else(PoisonError::into_inner) = outcome.ports.iter().cloned().collect();
        Ok(Applied { errors: outcome.errors, ports: outcome.ports })
    }
}

#[async_trait::async_trait]
impl Wire for Switch {
    async fn apply(&self, document: &NetworkDocument) -> base::Result<Applied> {
        Switch::apply(self, document).await
    }
    fn port_ready(&self, port_id: &str) -> bool {
        self.ready.read().unwrap_or_else(PoisonError::into_inner).contains(port_id)
    }
    fn instance_metadata_set(&self, instance_id: &str, metadata: Metadata) {
        self.desk.set(instance_id, metadata);
    }
    fn instance_metadata_remove(&self, instance_id: &str) {
        self.desk.remove(instance_id);
    }
    fn passwords_keep(&self, keep: Keep) {
        self.desk.keep_in(keep);
    }
    fn tunnel_key(&self) -> String {
        self.key.clone()
    }
    fn dropped(&self) -> Vec<Dropped> {
        self.drops.list()
    }
}
