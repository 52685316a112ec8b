//! Ports as the hosts' documents show them. A document holds every port of its networks, so what was made of a port is kept
//! until the port changes, and what several hosts have in common is gathered once for all of them.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use base::Result;
use ipnet::IpNet;
use rpc::network::{Lease, Port as WirePort, RemotePort};
use store::{Select, Tx, params};

use crate::document::{lease, net_of, wire_port};
use crate::ports::{FixedIp, Port};
use crate::routers::INTERFACE;
use crate::row::Resource;

/// Ids in one statement.
const PART: usize = 500;

pub struct Seen {
    pub id: String,
    created_at: String,
    /// Id of the host it is bound to.
    pub host: String,
    /// How others reach it there; the network's own is on every host.
    pub remote: Option<RemotePort>,
    /// MAC and addresses of the network's own port.
    pub service: Option<(String, Vec<FixedIp>)>,
    /// None of the network service's own ports, nor of one without an address.
    pub lease: Option<Lease>,
    /// Of a guest's port that is bound.
    pub guest: Option<WirePort>,
    /// Its own policy; its network may have one for it.
    pub qos_policy: Option<String>,
    /// Of a router's interface: the router.
    pub router: Option<String>,
    /// What it brings into its groups.
    members: Vec<IpNet>,
}

impl Seen {
    fn of(port: &Port) -> Seen {
        let own = port.device_owner.starts_with("network:");
        let pairs = port.allowed_address_pairs.iter().filter_map(|p| net_of(&p.ip_address));
        Seen {
            id: port.id().into(),
            created_at: port.common.created_at.clone(),
            host: port.host.clone(),
            remote: (!port.is_service())
                .then(|| RemotePort { mac: port.mac_address.clone(), addresses: port.fixed_ips.iter().map(|f| f.ip_address).collect() }),
            service: port.is_service().then(|| (port.mac_address.clone(), port.fixed_ips.clone())),
            lease: (!own && !port.fixed_ips.is_empty()).then(|| lease(port)),
            guest: (!own && port.vif_type == "bridge").then(|| wire_port(port)),
            qos_policy: port.qos_policy_id.clone(),
            router: (port.device_owner == INTERFACE).then(|| port.device_id.clone()),
            members: port.fixed_ips.iter().map(|f| IpNet::from(f.ip_address)).chain(pairs).collect(),
        }
    }
}

/// By port: its revision, and what documents show of it then.
type Known = HashMap<String, (i64, Arc<Seen>)>;

/// What was seen of ports in this round of documents and in the one before.
#[derive(Default)]
pub struct Cache(Mutex<(Known, Known)>);

impl Cache {
    /// A round is over: what neither it nor the one before asked for is forgotten.
    pub fn turn(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.0.is_empty() {
            known.1 = std::mem::take(&mut known.0);
        }
    }

    fn get(&self, ports: &[(String, i64)]) -> Vec<Option<Arc<Seen>>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, old) = &mut *known;
        let mut one = |(id, revision): &(String, i64)| {
            if let Some((at, seen)) = new.get(id) {
                return (at == revision).then(|| seen.clone());
            }
            let (id, (at, seen)) = old.remove_entry(id)?;
            let fits = (at == *revision).then(|| seen.clone());
            new.insert(id, (at, seen));
            fits
        };
        ports.iter().map(&mut one).collect()
    }

    fn put(&self, revision: i64, seen: Arc<Seen>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.insert(seen.id.clone(), (revision, seen));
    }
}

/// What the documents of several hosts are made of, out of one snapshot.
pub struct Gather<'a> {
    pub tx: &'a Tx,
    cache: &'a Cache,
    networks: HashMap<String, Rc<Vec<Arc<Seen>>>>,
    members: HashMap<String, Rc<Vec<IpNet>>>,
}

impl<'a> Gather<'a> {
    pub fn new(tx: &'a Tx, cache: &'a Cache) -> Gather<'a> {
        Gather { tx, cache, networks: HashMap::new(), members: HashMap::new() }
    }

    /// The ports that a host has: bound to it, or of guests on their way there. Oldest first.
    pub fn of_host(&self, host_id: &str) -> Result<Vec<Arc<Seen>>> {
        let sql = "SELECT p.id, p.revision_number FROM port p WHERE p._host = ?1 \
            UNION SELECT p.id, p.revision_number FROM port_visit v JOIN port p ON p.id = v.port_id WHERE v.host_id = ?1";
        self.seen(sql, host_id)
    }

    /// All ports of a network, oldest first.
    pub fn of_network(&mut self, network_id: &str) -> Result<Rc<Vec<Arc<Seen>>>> {
        if let Some(known) = self.networks.get(network_id) {
            return Ok(known.clone());
        }
        let ports = Rc::new(self.seen("SELECT p.id, p.revision_number FROM port p WHERE p.network_id = ?1", network_id)?);
        self.networks.insert(network_id.into(), ports.clone());
        Ok(ports)
    }

    /// The addresses of a group's ports, and the pairs they are allowed, in order.
    pub fn members(&mut self, group_id: &str) -> Result<Rc<Vec<IpNet>>> {
        if let Some(known) = self.members.get(group_id) {
            return Ok(known.clone());
        }
        let sql =
            "SELECT p.id, p.revision_number FROM port_security_group s JOIN port p ON p.id = s.port_id WHERE s.security_group_id = ?1";
        let mut members: Vec<IpNet> = self.seen(sql, group_id)?.iter().flat_map(|p| p.members.iter().copied()).collect();
        members.sort();
        members.dedup();
        let members = Rc::new(members);
        self.members.insert(group_id.into(), members.clone());
        Ok(members)
    }

    /// The ports that `sql` names with their revisions.
    fn seen(&self, sql: &str, of: &str) -> Result<Vec<Arc<Seen>>> {
        let named = self.tx.query(sql, params![of], |row| Ok((row.text(0)?, row.int(1)?)))?;
        let known = self.cache.get(&named);
        let missing: Vec<&str> = named.iter().zip(&known).filter(|(_, k)| k.is_none()).map(|((id, _), _)| id.as_str()).collect();
        let mut ports: Vec<Arc<Seen>> = known.into_iter().flatten().collect();
        for part in missing.chunks(PART) {
            let docs = Select::new("SELECT doc FROM port").in_list("id", part.iter().copied());
            for port in docs.fetch(self.tx, |row| row.json::<Port>(0))? {
                let seen = Arc::new(Seen::of(&port));
                self.cache.put(port.common.revision_number, seen.clone());
                ports.push(seen);
            }
        }
        ports.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        Ok(ports)
    }
}
