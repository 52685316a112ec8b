//! Makes the machine's links, namespaces and rules what the plan says, by difference from what is there.
//!
//! The order keeps a guest guarded at every instant: what is stale goes first, then the rules change, then new
//! links join. An error stops only what depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ipnet::IpNet;
use rpc::network::NetworkDocument;

use super::cipher::{self, Cipher, Key};
use super::forwarding::Known;
use super::guard::{self, Marks};
use super::link::{self, Change, GROUP, Link, RouteEntry, Rule};
use super::namespace::{self, Found, Namespace};
use super::netlink::Netlink;
use super::plan::{self, Plan, PortKind};
use super::record::Record;
use super::{Options, Probe, conntrack, nft, router_rules, sys, vlan};
use crate::drops::Drops;

pub struct Engine {
    options: Options,
    probe: Arc<Probe>,
    record: Record,
    route: Netlink,
    netfilter: Netlink,
    rules: nft::State,
    marks: Marks,
    pub namespaces: BTreeMap<String, Live>,
    last: Option<NetworkDocument>,
    serial: u64,
    key: Key,
    drops: Arc<Drops>,
    cipher: Option<Cipher>,
}

/// A namespace of ours that is there.
pub struct Live {
    pub namespace: Namespace,
    rules: nft::State,
    /// Another number for each namespace, also for one made anew under the same name.
    pub serial: u64,
    /// Index of each link inside that is wanted.
    pub links: BTreeMap<String, u32>,
    /// What it was last made to be, when that went without error.
    done: Option<plan::Namespace>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub errors: Vec<String>,
    pub ports: Vec<String>,
}

impl Engine {
    pub fn new(options: Options, record: Record, key: Key, drops: Arc<Drops>, probe: Arc<Probe>) -> io::Result<Engine> {
        let (route, netfilter) = (Netlink::route(probe.clone())?, Netlink::netfilter(probe.clone())?);
        Ok(Engine {
            options,
            probe,
            record,
            route,
            netfilter,
            rules: nft::State::default(),
            marks: Marks::default(),
            namespaces: BTreeMap::new(),
            last: None,
            serial: 0,
            key,
            drops,
            cipher: None,
        })
    }

    pub fn plan(&self, document: &NetworkDocument) -> Plan {
        Plan::new(document, &self.options)
    }

    pub fn apply(&mut self, document: &NetworkDocument, mut plan: Plan) -> io::Result<Outcome> {
        // The same document again means: look whether everything is still there.
        // After a failure nothing counts as known.
        let last = self.last.take();
        let whole = last.as_ref().is_none_or(|last| last == document);
        if document.ports.iter().any(|p| p.port_security) && !bridges_filter() {
            // Without it no group would hold: better no network than an open one.
            return Err(io::Error::other("the kernel has no br_netfilter, which security groups need"));
        }
        let mut outcome = Outcome { errors: std::mem::take(&mut plan.errors), ports: Vec::new() };
        let mut links = link::link_list(&mut self.route)?;
        self.remove_stale(&plan, &mut links, &mut outcome)?;

        let networks: BTreeSet<&str> = document.networks.iter().map(|n| n.id.as_str()).collect();
        let zones = self.record.zones(&self.probe, &networks)?;
        self.marks.assign(document.ports.iter().map(|p| p.id.as_str()));
        let rules = guard::ruleset(document, &plan.names, &self.marks, &zones, plan.cipher.as_ref().map(|c| c.local));
        self.rules.apply(None, &mut self.netfilter, &rules, &self.probe)?;
        if let Err(e) = self.encrypt(plan.cipher.as_ref(), &links) {
            outcome.errors.push(format!("encrypted tunnels: {e}"));
        }

        let mut bridges: BTreeMap<&str, u32> = BTreeMap::new();
        for bridge in &plan.bridges {
            match self.bridge(bridge, &mut links) {
                Ok(index) => drop(bridges.insert(&bridge.name, index)),
                Err(e) => outcome.errors.push(format!("bridge {}: {e}", bridge.name)),
            }
        }
        self.namespaces_open(&plan, &mut outcome)?;
        let mut broken: BTreeSet<&str> = BTreeSet::new();
        // Links and bridges of VLANs that lead nowhere.
        let mut dark: BTreeSet<&str> = BTreeSet::new();
        let told = plan.ports.iter().any(|p| matches!(p.kind, PortKind::Tunnel { .. } | PortKind::Cable { pinned: true, .. }));
        let mut known = if told { Known::read(&mut self.route)? } else { Known::default() };
        for port in &plan.ports {
            let result = match bridges.get(port.bridge.as_str()) {
                Some(bridge) => self.port(port, *bridge, &mut links, whole).and_then(|()| self.forward(port, *bridge, &links, &mut known)),
                None => Err(io::Error::other(format!("bridge {} is not there", port.bridge))),
            };
            match (result, &port.kind) {
                (Ok(()), PortKind::Tap { .. }) if dark.contains(port.bridge.as_str()) => {}
                (Ok(()), PortKind::Tap { port_id }) => outcome.ports.push(port_id.clone()),
                (Ok(()), PortKind::Vlan { .. }) if dark.contains(port.name.as_str()) => drop(dark.insert(&port.bridge)),
                (Ok(()), _) => {}
                (Err(e), kind) => {
                    match kind {
                        PortKind::Cable { namespace, .. } => drop(broken.insert(namespace)),
                        PortKind::Trunk { inner, .. } => drop(dark.insert(inner)),
                        PortKind::Vlan { .. } => drop(dark.insert(&port.bridge)),
                        _ => {}
                    }
                    outcome.errors.push(format!("{}: {e}", port.alias));
                }
            }
        }
        for wanted in &plan.namespaces {
            let Some(live) = self.namespaces.get_mut(&wanted.name) else { continue };
            if !whole && live.done.as_ref() == Some(wanted) {
                continue;
            }
            let fresh = live.done.take().is_none_or(|done| done.rules != wanted.rules);
            let mut result = live.configure(wanted, &self.probe);
            let router = document.routers.iter().find(|r| plan::router_namespace(&r.id) == wanted.name);
            if let (Ok(()), Some(router), true) = (&result, router, fresh) {
                result = conntrack::cut_untranslated(&mut live.namespace.netfilter, router);
            }
            match result {
                Ok(()) if broken.contains(wanted.name.as_str()) => {}
                Ok(()) => live.done = Some(wanted.clone()),
                Err(e) => outcome.errors.push(format!("{}: {e}", wanted.alias)),
            }
        }
        let guarded = |d: &NetworkDocument| (d.ports.clone(), d.security_groups.clone());
        if last.as_ref().is_none_or(|last| guarded(last) != guarded(document)) {
            conntrack::cut_refused(&mut self.netfilter, document, &zones)?;
        }
        self.last = outcome.errors.is_empty().then(|| document.clone());
        Ok(outcome)
    }

    /// Removes links, addresses and namespaces of ours that nobody wants.
    fn remove_stale(&mut self, plan: &Plan, links: &mut BTreeMap<String, Link>, outcome: &mut Outcome) -> io::Result<()> {
        let recorded: Vec<(String, IpNet)> =
            self.record.addresses().iter().flat_map(|(name, set)| set.iter().map(|a| (name.clone(), *a))).collect();
        for (name, address) in recorded {
            if plan.bridges.iter().any(|b| b.name == name && b.addresses.contains(&address)) {
                continue;
            }
            if let Some(link) = links.get(&name) {
                link::address_delete(&mut self.route, link.index, &address)?;
            }
            self.record.address_remove(&self.probe, &name, address)?;
        }
        let bridges: BTreeSet<&str> = plan.bridges.iter().map(|b| b.name.as_str()).collect();
        let mut wanted: BTreeMap<&str, &str> = plan.ports.iter().map(|p| (p.name.as_str(), p.alias.as_str())).collect();
        wanted.extend(plan.bridges.iter().map(|b| (b.name.as_str(), b.alias.as_str())));
        wanted.extend(plan.cipher.iter().map(|_| (cipher::LINK, cipher::ALIAS)));
        let stale: Vec<Link> = links
            .values()
            .filter(|l| l.group == GROUP && l.name != "lo")
            // A name that is wanted for something else now is stale too; a bridge for provider networks is used by
            // whichever network has the physical network.
            .filter(|l| match wanted.get(l.name.as_str()) {
                None => true,
                Some(alias) => !l.alias.is_empty() && l.alias != *alias && !bridges.contains(l.name.as_str()),
            })
            .cloned()
            .collect();
        // Ports before their bridges.
        for link in stale.iter().filter(|l| l.kind != "bridge").chain(stale.iter().filter(|l| l.kind == "bridge")) {
            match link::link_delete(&mut self.route, link) {
                Ok(()) => drop(links.remove(&link.name)),
                Err(e) => outcome.errors.push(format!("link {}: {e}", link.name)),
            }
        }
        let wanted: BTreeSet<&str> = plan.namespaces.iter().map(|n| n.name.as_str()).collect();
        let stale: Vec<String> = self.record.namespaces().iter().filter(|n| !wanted.contains(n.as_str())).cloned().collect();
        let mut gone = Vec::new();
        for name in stale {
            let ours = match self.namespaces.remove(&name) {
                Some(_) => true,
                None => match Namespace::find(&name, &self.probe)? {
                    Found::Nothing => false,
                    Found::File => true,
                    Found::Namespace(_, alias) => alias.starts_with("sturnus:"),
                },
            };
            match if ours { namespace::remove(&name, &self.probe) } else { Ok(()) } {
                Ok(()) => gone.push(name),
                Err(e) => outcome.errors.push(format!("namespace {name}: {e}")),
            }
        }
        self.record.namespaces_remove(&self.probe, &gone)
    }

    /// Starts, informs and ends what encrypts tunnels.
    fn encrypt(&mut self, wanted: Option<&cipher::Wanted>, links: &BTreeMap<String, Link>) -> io::Result<()> {
        let Some(wanted) = wanted else {
            self.cipher = None;
            return cipher::path::settle(&mut self.route, None);
        };
        let cipher = match self.cipher.take().filter(|cipher| cipher.serves(wanted) && links.contains_key(cipher::LINK)) {
            Some(cipher) => cipher,
            None => {
                self.probe.step("make the encrypting link")?;
                let cipher = Cipher::start(wanted, &self.key, self.drops.clone())?;
                // The address that the packets are from is another link's.
                namespace::setting_write(&format!("net/ipv4/conf/{}/rp_filter", cipher::LINK), "2")?;
                cipher
            }
        };
        let cipher = self.cipher.insert(cipher);
        let link = link::link_get(&mut self.route, cipher::LINK)?.ok_or_else(|| io::Error::other("its link is gone again"))?;
        if link.alias != cipher::ALIAS {
            if wanted.local.is_ipv4() {
                cipher::path::address_add(&mut self.route, link.index)?;
            }
            link::link_mark(&mut self.route, link.index, cipher::ALIAS, true)?;
        }
        if !link.up || link.mtu != wanted.mtu {
            link::link_set(&mut self.route, link.index, cipher::LINK, Change { mtu: Some(wanted.mtu), up: true, ..Change::default() })?;
        }
        cipher.update(wanted);
        cipher::path::settle(&mut self.route, Some((wanted.local, link.index)))
    }

    fn bridge(&mut self, wanted: &plan::Bridge, links: &mut BTreeMap<String, Link>) -> io::Result<u32> {
        if !links.contains_key(&wanted.name) {
            link::bridge_create(&mut self.route, &wanted.name, &wanted.mac, wanted.mtu)?;
            if let Some(made) = link::link_get(&mut self.route, &wanted.name)? {
                links.insert(wanted.name.clone(), made);
            }
        }
        let link = links.get_mut(&wanted.name).ok_or_else(|| io::Error::other("gone again"))?;
        let ours = link.group == GROUP;
        if !ours && wanted.overlay {
            return Err(io::Error::other("a link of this name exists that is not ours"));
        }
        if link.kind != "bridge" {
            return Err(io::Error::other("the link of this name is no bridge"));
        }
        if ours && link.alias != wanted.alias {
            link::link_mark(&mut self.route, link.index, &wanted.alias, wanted.overlay)?;
            link.alias = wanted.alias.clone();
        }
        // A bridge that is the machine's own keeps its MTU and state.
        if ours && (!link.up || link.mtu != wanted.mtu) {
            let change = Change { mtu: Some(wanted.mtu), up: true, ..Change::default() };
            link::link_set(&mut self.route, link.index, &wanted.name, change)?;
        }
        if wanted.filtered && !link.filtered {
            link::bridge_filter(&mut self.route, link)?;
        }
        let index = link.index;
        if !wanted.addresses.is_empty() {
            let present = link::address_list(&mut self.route)?;
            for address in &wanted.addresses {
                if !present.contains(&(index, *address)) {
                    self.record.address_add(&self.probe, &wanted.name, *address)?;
                    link::address_add(&mut self.route, index, address)?;
                }
            }
        }
        Ok(index)
    }

    /// Opens, adopts or makes the wanted namespaces.
    fn namespaces_open(&mut self, plan: &Plan, outcome: &mut Outcome) -> io::Result<()> {
        let missing: Vec<&plan::Namespace> = plan.namespaces.iter().filter(|n| !self.namespaces.contains_key(&n.name)).collect();
        let mut make = Vec::new();
        for wanted in missing {
            let recorded = self.record.namespaces().contains(&wanted.name);
            match Namespace::find(&wanted.name, &self.probe) {
                Ok(Found::Nothing) => make.push(wanted),
                Ok(Found::File) if recorded => make.push(wanted),
                Ok(Found::Namespace(namespace, alias)) if alias == wanted.alias => {
                    self.record.namespaces_add(&self.probe, &[&wanted.name])?;
                    self.adopt(*namespace);
                }
                Ok(_) => outcome.errors.push(format!("namespace {}: one of this name exists that is not ours", wanted.name)),
                Err(e) => outcome.errors.push(format!("namespace {}: {e}", wanted.name)),
            }
        }
        let names: Vec<&str> = make.iter().map(|n| n.name.as_str()).collect();
        self.record.namespaces_add(&self.probe, &names)?;
        for wanted in make {
            match Namespace::create(&wanted.name, &wanted.alias, &wanted.settings, &self.probe) {
                Ok(namespace) => self.adopt(namespace),
                Err(e) => outcome.errors.push(format!("namespace {}: {e}", wanted.name)),
            }
        }
        Ok(())
    }

    fn adopt(&mut self, namespace: Namespace) {
        self.serial += 1;
        let live = Live { rules: nft::State::default(), serial: self.serial, links: BTreeMap::new(), done: None, namespace };
        self.namespaces.insert(live.namespace.name.clone(), live);
    }

    fn port(&mut self, wanted: &plan::Port, bridge: u32, links: &mut BTreeMap<String, Link>, whole: bool) -> io::Result<()> {
        if let Some(link) = links.get(&wanted.name) {
            if link.group != GROUP {
                return Err(io::Error::other(format!("a link {} exists that is not ours", wanted.name)));
            }
            if let PortKind::Cable { namespace, inner, .. } = &wanted.kind
                && let Some(live) = self.namespaces.get_mut(namespace)
                && (whole || live.done.is_none())
            {
                let other = link::link_get(&mut live.namespace.route, inner)?;
                if other.is_none_or(|o| o.index != link.peer || o.peer != link.index) {
                    link::link_delete(&mut self.route, link)?;
                    links.remove(&wanted.name);
                }
            }
        }
        if let PortKind::Trunk { inner, .. } = &wanted.kind {
            self.pair(&wanted.name, inner, links)?;
        }
        if !links.contains_key(&wanted.name) {
            self.port_create(wanted)?;
            let made = [Some(&wanted.name), if let PortKind::Trunk { inner, .. } = &wanted.kind { Some(inner) } else { None }];
            for name in made.into_iter().flatten() {
                let made = link::link_get(&mut self.route, name)?.ok_or_else(|| io::Error::other("gone again"))?;
                links.insert(name.clone(), made);
            }
        }
        let Some(link) = links.get_mut(&wanted.name) else { return Ok(()) };
        if link.alias != wanted.alias {
            link::link_mark(&mut self.route, link.index, &wanted.alias, true)?;
            link.alias = wanted.alias.clone();
        }
        if let PortKind::Trunk { id, inner, .. } = &wanted.kind
            && let Err(e) = vlan::settle(&mut self.route, link.index, &wanted.name, *id)
        {
            // Up without its programs it would join the VLAN with what has no tag.
            link::link_delete(&mut self.route, link)?;
            links.remove(&wanted.name);
            links.remove(inner);
            return Err(e);
        }
        if let (PortKind::Tunnel { .. }, true) = (&wanted.kind, link.master != bridge) {
            link::link_set(&mut self.route, link.index, &wanted.name, Change { master: Some(bridge), ..Change::default() })?;
            link::tunnel_port(&mut self.route, link.index, &wanted.name)?;
            link.master = bridge;
        }
        let change = Change {
            mtu: (link.mtu != wanted.mtu).then_some(wanted.mtu),
            master: (link.master != bridge).then_some(bridge),
            up: !link.up,
            mac: None,
        };
        if change != Change::default() {
            link::link_set(&mut self.route, link.index, &wanted.name, change)?;
        }
        Ok(())
    }

    /// Removes the ends of a VLAN's veth when they are not each other's.
    fn pair(&mut self, outer: &str, inner: &str, links: &mut BTreeMap<String, Link>) -> io::Result<()> {
        let fits = match (links.get(outer), links.get(inner)) {
            (Some(outer), Some(inner)) => outer.peer == inner.index && inner.peer == outer.index,
            (None, None) => true,
            _ => false,
        };
        for name in [outer, inner].into_iter().filter(|_| !fits) {
            let Some(link) = links.get(name) else { continue };
            if link.group != GROUP {
                return Err(io::Error::other(format!("a link {name} exists that is not ours")));
            }
            link::link_delete(&mut self.route, link)?;
            links.remove(name);
        }
        Ok(())
    }

    /// Tells a tunnel where it leads, and a bridge what need not be learned.
    fn forward(&mut self, wanted: &plan::Port, bridge: u32, links: &BTreeMap<String, Link>, known: &mut Known) -> io::Result<()> {
        match (&wanted.kind, links.get(&wanted.name)) {
            (PortKind::Tunnel { forwarding, .. }, Some(link)) => known.apply(&mut self.route, link.index, bridge, forwarding),
            (PortKind::Cable { mac, pinned: true, .. }, Some(link)) => known.pin(&mut self.route, link.index, *mac),
            _ => Ok(()),
        }
    }

    fn port_create(&mut self, wanted: &plan::Port) -> io::Result<()> {
        match &wanted.kind {
            PortKind::Tap { .. } => {
                self.probe.step("make tap")?;
                let tap = sys::Tap::create(&wanted.name)?;
                let made = link::link_get(&mut self.route, &wanted.name)?.ok_or_else(|| io::Error::other("gone again"))?;
                // Marked before it is kept: a crash in between takes the tap along.
                link::link_mark(&mut self.route, made.index, &wanted.alias, true)?;
                self.probe.step("keep tap")?;
                tap.keep()
            }
            PortKind::Tunnel { vni, local, .. } => link::vxlan_create(&mut self.route, &wanted.name, *vni, *local, wanted.mtu),
            PortKind::Trunk { inner, .. } => link::cable_create(&mut self.route, &wanted.name, inner, wanted.mtu),
            PortKind::Vlan { outer } => Err(io::Error::other(format!("its other end {outer} is not there"))),
            PortKind::Cable { namespace, inner, mac, .. } => {
                let live = self.namespaces.get_mut(namespace).ok_or_else(|| io::Error::other(format!("no namespace {namespace}")))?;
                live.done = None;
                let peer = link::Peer { name: inner, namespace: live.namespace.fd.as_fd(), mac: *mac };
                link::veth_create(&mut self.route, &wanted.name, wanted.mtu, peer)
            }
        }
    }
}

/// Whether bridged packets can pass the `inet` hooks; the module is loaded when it is one.
fn bridges_filter() -> bool {
    let there = || std::path::Path::new("/proc/sys/net/bridge").exists();
    there() || (std::process::Command::new("modprobe").arg("br_netfilter").status().is_ok() && there())
}

impl Live {
    /// Addresses, routes and rules inside. In a namespace of ours everything is ours.
    fn configure(&mut self, wanted: &plan::Namespace, probe: &Arc<Probe>) -> io::Result<()> {
        let route = &mut self.namespace.route;
        let links = link::link_list(route)?;
        self.links.clear();
        let mut errors = Vec::new();
        let mut addresses: Vec<(u32, IpNet)> = wanted.loopback.iter().map(|a| (1, *a)).collect();
        // All addresses of a link with another MAC are news to its neighbours.
        let mut announce = Vec::new();
        for inner in &wanted.links {
            let Some(link) = links.get(&inner.name) else {
                errors.push(format!("{} is missing", inner.name));
                continue;
            };
            self.links.insert(inner.name.clone(), link.index);
            let change = Change {
                mtu: (link.mtu != inner.mtu).then_some(inner.mtu),
                mac: (link.mac != Some(inner.mac)).then_some(inner.mac),
                up: !link.up,
                master: None,
            };
            if change != Change::default() {
                link::link_set(route, link.index, &inner.name, change)?;
            }
            addresses.extend(inner.addresses.iter().map(|a| (link.index, *a)));
            if change.mac.is_some() {
                announce.extend(inner.addresses.iter().map(|a| (link.index, *a)));
            }
            // The kernel makes it when the link comes up; after somebody took it away only we do.
            if let Ok(own) = IpNet::new(link::link_local(&inner.mac).into(), 64) {
                addresses.push((link.index, own));
            }
        }
        let present = link::address_list(route)?;
        let loopback = |a: &IpNet| a.addr().is_loopback();
        let local = |a: &IpNet| matches!(a, IpNet::V6(v6) if v6.addr().is_unicast_link_local());
        for (index, address) in present.iter().filter(|p| !addresses.contains(p) && !loopback(&p.1) && !local(&p.1)) {
            link::address_delete(route, *index, address)?;
        }
        let missing: Vec<(u32, IpNet)> = addresses.iter().filter(|a| !present.contains(a)).copied().collect();
        for (index, address) in &missing {
            link::address_add(route, *index, address)?;
        }
        let leads_in = |address: &IpAddr| self.rules.applied().is_some_and(|rules| router_rules::leads_in(rules, address));
        // A guest that has come is reached before anything else is done; other addresses wait for their rules.
        let (ready, others): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(_, address)| leads_in(&address.addr()));
        announce.extend(others);
        announce_in(self.namespace.fd.as_fd(), wanted, &links, &ready);
        let loose: Vec<String> = wanted.links.iter().filter(|l| l.loose).map(|l| format!("net/ipv4/conf/{}/rp_filter", l.name)).collect();
        if !loose.is_empty() {
            namespace::inside(self.namespace.fd.as_fd(), || loose.iter().try_for_each(|key| namespace::setting_write(key, "2")))?;
        }
        let mut known = Known::read(route)?;
        for inner in &wanted.links {
            if let Some(link) = links.get(&inner.name) {
                known.neighbours(route, link.index, &inner.neighbours)?;
            }
        }
        let mut routes: Vec<RouteEntry> = Vec::new();
        for route in &wanted.routes {
            if let Some(link) = links.get(&route.link) {
                routes.push(RouteEntry { destination: route.destination, via: route.via, index: link.index, table: route.table });
            }
        }
        let present = link::route_list(route)?;
        for entry in present.iter().filter(|r| !routes.contains(r)) {
            link::route_delete(route, entry)?;
        }
        for entry in routes.iter().filter(|r| !present.contains(r)) {
            if let Err(e) = link::route_add(route, entry) {
                errors.push(format!("route {}: {e}", entry.destination));
            }
        }
        let first = (!wanted.sources.is_empty()).then_some(Rule::KnownFirst);
        let sources: Vec<Rule> = first.into_iter().chain(wanted.sources.iter().map(|source| Rule::Source(*source))).collect();
        let present = link::rule_list(route)?;
        for rule in sources.iter().filter(|r| !present.contains(r)) {
            link::rule_add(route, rule)?;
        }
        // The one that lets what is known go before goes last.
        for rule in present.iter().rev().filter(|r| !sources.contains(r)) {
            link::rule_delete(route, rule)?;
        }
        self.rules.apply(Some(self.namespace.fd.as_fd()), &mut self.namespace.netfilter, &wanted.rules, probe)?;
        announce_in(self.namespace.fd.as_fd(), wanted, &links, &announce);
        if errors.is_empty() { Ok(()) } else { Err(io::Error::other(errors.join("; "))) }
    }
}

/// Tells the neighbours of a namespace's links of these addresses, by a link's index.
fn announce_in(namespace: BorrowedFd<'_>, wanted: &plan::Namespace, links: &BTreeMap<String, Link>, addresses: &[(u32, IpNet)]) {
    for inner in wanted.links.iter().filter(|l| l.announce) {
        if let Some(link) = links.get(&inner.name) {
            let new: Vec<IpNet> = addresses.iter().filter(|(index, _)| *index == link.index).map(|(_, a)| *a).collect();
            if !new.is_empty() {
                // Neighbours that miss it ask again later: not worth failing for.
                let _ = namespace::inside(namespace, || super::frame::announce(link.index, &inner.mac, &new));
            }
        }
    }
}
