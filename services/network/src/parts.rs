//! Which hosts have a part of a router, and what each part does.
//!
//! Every host with a guest on a network of a router has a part of it: the inner interfaces, and the floating addresses of its own
//! guests. One of the router's hosts is its *home*: the gateway's own address is there, and what leaves without a floating address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use base::Result;
use rpc::network::RouterHome;
use sha2::{Digest, Sha256};
use store::{Tx, params};

use crate::floatingips::{self, FloatingIp};
use crate::networks::Net;
use crate::ports::Port;
use crate::routers::{GATEWAY, INTERFACE, Router};
use crate::row::{self, Resource};
use crate::seen::Gather;

/// The host a document is for, and where all hosts' tunnels end.
pub struct Site {
    pub host_id: String,
    tunnels: BTreeMap<String, IpAddr>,
}

impl Site {
    pub fn read(tx: &Tx, host_id: &str) -> Result<Site> {
        let rows =
            tx.query("SELECT id, address FROM network_host WHERE address <> ''", params![], |row| Ok((row.text(0)?, row.text(1)?)))?;
        let tunnels = rows.into_iter().filter_map(|(id, address)| Some((id, address.parse().ok()?))).collect();
        Ok(Site { host_id: host_id.into(), tunnels })
    }
    pub fn others(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.tunnels.iter().filter(|(id, _)| **id != self.host_id).map(|(id, address)| (id.as_str(), *address))
    }
    /// Where another host's tunnel ends.
    pub fn other(&self, host_id: &str) -> Option<IpAddr> {
        self.tunnels.get(host_id).copied().filter(|_| host_id != self.host_id)
    }
    /// Whether no tunnel leads from here to anywhere.
    pub fn is_alone(&self) -> bool {
        !self.tunnels.contains_key(&self.host_id) || self.others().next().is_none()
    }
}

/// The MAC that a part has for itself where all parts share a port's: always the same for a port and a host.
pub fn mac(port_id: &str, host_id: &str) -> String {
    let hash = Sha256::digest(format!("{port_id} {host_id}"));
    format!("02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", hash[0], hash[1], hash[2], hash[3], hash[4])
}

/// What a host has of a router.
pub struct Part<'a> {
    pub router: &'a Router,
    joints: Vec<&'a Port>,
    /// All hosts that have a part.
    pub hosts: BTreeSet<String>,
    pub is_home: bool,
    /// The addresses it leads to its guests, of the home also those whose guests are nowhere; and whether the guest is still coming.
    pub floating: Vec<(FloatingIp, bool)>,
}

/// Whether floating addresses can be on other hosts than the home. Without translation what answers a fixed address must leave as it
/// came; and where the network outside is an overlay, nobody there knows a part's MAC.
fn spread(tx: &Tx, router: &Router) -> Result<bool> {
    match router.external_gateway_info.as_ref().filter(|g| g.enable_snat) {
        Some(gateway) => Ok(row::find::<Net>(tx, &gateway.network_id)?.is_some_and(|net| !net.is_overlay())),
        None => Ok(false),
    }
}

impl<'a> Part<'a> {
    /// `coming`: ports of guests on their way here.
    pub fn of(
        gather: &mut Gather,
        site: &Site,
        router: &'a Router,
        mut joints: Vec<&'a Port>,
        coming: &BTreeSet<String>,
    ) -> Result<Part<'a>> {
        joints.sort_by(|a, b| a.id().cmp(b.id()));
        // Where each of its guests' ports is.
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        for joint in joints.iter().filter(|p| p.device_owner == INTERFACE) {
            let ports = gather.of_network(&joint.network_id)?;
            places.extend(ports.iter().filter(|p| p.guest.is_some()).map(|p| (p.id.clone(), p.host.clone())));
        }
        let mut hosts: BTreeSet<String> = places.values().cloned().collect();
        hosts.insert(router.gateway_host.clone());
        let is_home = router.gateway_host == site.host_id;
        let spread = spread(gather.tx, router)?;
        let mut floating = Vec::new();
        for item in floatingips::of_router(gather.tx, router.id())? {
            let place = item.port_id.as_ref().and_then(|id| places.get(id)).filter(|host| spread && site.tunnels.contains_key(*host));
            let comes = spread && item.port_id.as_ref().is_some_and(|id| coming.contains(id));
            match place.map_or(is_home, |host| *host == site.host_id) {
                true => floating.push((item, false)),
                false if comes => floating.push((item, true)),
                false => {}
            }
        }
        Ok(Part { router, joints, hosts, is_home, floating })
    }

    pub fn interfaces(&self) -> impl Iterator<Item = &'a Port> {
        self.joints.iter().copied().filter(|p| p.device_owner == INTERFACE)
    }

    /// The port to the outside, when this part has one.
    pub fn gateway(&self) -> Option<&'a Port> {
        let leads_out = self.is_home || !self.floating.is_empty();
        self.joints.iter().copied().find(|p| leads_out && p.device_owner == GATEWAY)
    }

    pub fn networks(&self) -> impl Iterator<Item = &'a str> {
        self.interfaces().chain(self.gateway()).map(|p| p.network_id.as_str())
    }

    /// Where what this part does not lead out itself goes.
    pub fn home(&self, site: &Site) -> Option<RouterHome> {
        let host = &self.router.gateway_host;
        let leads_out = self.joints.iter().any(|p| p.device_owner == GATEWAY);
        let through = self.interfaces().next().filter(|_| leads_out && !self.is_home)?;
        let mac = if site.other(host).is_some() { mac(through.id(), host) } else { String::new() };
        Some(RouterHome { port_id: through.id().into(), mac })
    }
}
