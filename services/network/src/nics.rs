//! Servers' interfaces: what the compute service asks of the network.

use std::collections::HashMap;
use std::net::IpAddr;

use base::{Context, Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Tx, params};

use crate::allocation::{self, Wish};
use crate::attr::Object;
use crate::floatingips::FloatingIp;
use crate::networks::Net;
use crate::ports::{self, Draft, Port};
use crate::row::{self, Common, Resource};
use crate::security_groups::{self, SecurityGroup};
use crate::subnets::{self, Subnet};
use crate::{Network, db, hosts, quotas};

/// An interface as a client asks for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NicWanted {
    Network {
        id: String,
        fixed_ip: Option<IpAddr>,
        tag: Option<String>,
    },
    Port {
        id: String,
        tag: Option<String>,
    },
    /// The project's only network, or no interface where it has none.
    Auto,
}

/// An interface that was checked and can be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NicPlan {
    pub network_id: String,
    /// A port of the user's.
    pub port_id: Option<String>,
    pub fixed_ip: Option<IpAddr>,
    /// None: the project's default group.
    pub security_groups: Option<Vec<String>>,
    pub tag: Option<String>,
}

/// The server that gets ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerPorts {
    pub server_id: String,
    pub project_id: String,
    pub hostname: String,
    pub availability_zone: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FixedInfo {
    pub address: IpAddr,
    pub subnet_id: String,
    pub cidr: IpNet,
    pub gateway: Option<IpAddr>,
    pub dns: Vec<IpAddr>,
    pub routes: Vec<(IpNet, IpAddr)>,
    pub dhcp: bool,
    pub ipv6_mode: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NicInfo {
    pub port_id: String,
    pub network_id: String,
    pub network_name: String,
    pub mac: String,
    pub mtu: u32,
    pub model: String,
    pub fixed: Vec<FixedInfo>,
    /// Fixed and floating address.
    pub floating: Vec<(IpAddr, IpAddr)>,
    /// Id and name.
    pub security_groups: Vec<(String, String)>,
    pub tag: Option<String>,
    pub status: String,
}

impl Network {
    /// Checks wanted interfaces without side effects and settles which they are.
    pub async fn nics_plan(&self, ctx: &Context, wanted: &[NicWanted], groups: &[String]) -> Result<Vec<NicPlan>> {
        self.core().store.read(|tx| plan(self, tx, ctx, wanted, groups)).await
    }

    /// Makes and takes the ports of a server, in order. Once made they stay the same when asked again.
    pub fn ports_create_in(&self, tx: &Tx, ctx: &Context, server: &ServerPorts, plan: &[NicPlan]) -> Result<Vec<String>> {
        let mut present = ports::of_server(self, tx, &server.server_id)?;
        let mut out = Vec::new();
        for (nic, place) in plan.iter().zip(0i64..) {
            let known = |p: &Port| match &nic.port_id {
                Some(id) => p.id() == id,
                None => p.made_for == server.server_id && p.place == place,
            };
            if let Some(i) = present.iter().position(known) {
                out.push(present.swap_remove(i).common.id);
                continue;
            }
            let id = match &nic.port_id {
                Some(id) => self.port_take(tx, ctx, server, nic, id, place)?,
                None => self.port_make(tx, ctx, server, nic, place)?,
            };
            out.push(id);
        }
        Ok(out)
    }

    fn port_take(&self, tx: &Tx, ctx: &Context, server: &ServerPorts, nic: &NicPlan, id: &str, place: i64) -> Result<String> {
        let mut port = row::fetch::<Port>(tx, id)?;
        if !port.device_id.is_empty() {
            return Err(Error::conflict(format!("Port {id} is still in use.")));
        }
        port.device_id = server.server_id.clone();
        port.device_owner = owner(&server.availability_zone);
        port.hostname = server.hostname.clone();
        port.tag = nic.tag.clone();
        port.place = place;
        row::update(tx, &mut port)?;
        ports::touch(self, tx, &port)?;
        self.recorded(tx, ctx, "port.update.end", &port)?;
        Ok(port.common.id)
    }

    fn port_make(&self, tx: &Tx, ctx: &Context, server: &ServerPorts, nic: &NicPlan, place: i64) -> Result<String> {
        let network = row::fetch::<Net>(tx, &nic.network_id)?;
        quotas::check(tx, &ports::KIND, &server.project_id)?;
        let draft = Draft {
            common: Common::new(&server.project_id, &Object::new()),
            admin_state_up: true,
            wishes: nic.fixed_ip.map(|at| vec![Wish { subnet_id: None, address: Some(at) }]),
            device_id: server.server_id.clone(),
            device_owner: owner(&server.availability_zone),
            groups: nic.security_groups.clone().filter(|_| network.port_security_enabled),
            vnic_type: "normal".into(),
            made_for: server.server_id.clone(),
            tag: nic.tag.clone(),
            hostname: server.hostname.clone(),
            place,
            ..Draft::default()
        };
        let port = ports::make(self, tx, ctx, &network, draft)?;
        self.recorded(tx, ctx, "port.create.end", &port)?;
        Ok(port.common.id)
    }

    /// Binds a server's ports to the host it runs on. The host hears of it as soon as this is durable.
    pub fn ports_bind_in(&self, tx: &Tx, server_id: &str, host_id: &str, host_name: &str, az: &str) -> Result<()> {
        let ctx = Context::system("");
        for mut port in ports::of_server(self, tx, server_id)? {
            if port.host == host_id && port.host_name == host_name {
                continue;
            }
            hosts::touch_host(self, tx, &port.host)?;
            port.bind(host_name, Some(host_id));
            port.device_owner = owner(az);
            row::update(tx, &mut port)?;
            ports::touch(self, tx, &port)?;
            self.recorded(tx, &ctx, "port.update.end", &port)?;
        }
        Ok(())
    }

    /// Gives a server one port more, behind those it has. The server's ports are bound by another call.
    pub fn port_attach_in(&self, tx: &Tx, ctx: &Context, server: &ServerPorts, nic: &NicPlan) -> Result<String> {
        let place = ports::of_server(self, tx, &server.server_id)?.iter().map(|p| p.place).max().map_or(0, |last| last + 1);
        match &nic.port_id {
            Some(id) => self.port_take(tx, ctx, server, nic, id, place),
            None => self.port_make(tx, ctx, server, nic, place),
        }
    }

    /// The server is on its way to a host, running: that host makes its ports ready beside the one they are bound to.
    pub fn ports_visit_in(&self, tx: &Tx, server_id: &str, host_id: &str) -> Result<()> {
        for port in ports::of_server(self, tx, server_id)? {
            let sql = "INSERT INTO port_visit (port_id, host_id) VALUES (?1, ?2) ON CONFLICT (port_id, host_id) DO NOTHING";
            tx.execute(sql, params![port.id(), host_id])?;
        }
        hosts::touch_host(self, tx, host_id)
    }

    /// It is there, or will not come.
    pub fn ports_visit_end_in(&self, tx: &Tx, server_id: &str, host_id: &str) -> Result<()> {
        let sql = "DELETE FROM port_visit WHERE host_id = ?2 AND (port_id IN (SELECT id FROM port WHERE device_id = ?1) \
            OR port_id NOT IN (SELECT id FROM port))";
        if tx.execute(sql, params![server_id, host_id])? > 0 {
            hosts::touch_host(self, tx, host_id)?;
        }
        Ok(())
    }

    /// The server has no host for a while: its ports stay, with their addresses, and are bound nowhere.
    pub fn ports_unbind_in(&self, tx: &Tx, server_id: &str) -> Result<()> {
        let ctx = Context::system("");
        for mut port in ports::of_server(self, tx, server_id)?.into_iter().filter(|p| !p.host.is_empty()) {
            ports::touch(self, tx, &port)?;
            hosts::touch_host(self, tx, &port.host)?;
            port.bind("", None);
            row::update(tx, &mut port)?;
            self.recorded(tx, &ctx, "port.update.end", &port)?;
        }
        Ok(())
    }

    /// Gives a server's port on a network one address more. `NotFound` when it has no port there.
    pub fn fixed_ip_add_in(&self, tx: &Tx, ctx: &Context, server_id: &str, network_id: &str) -> Result<()> {
        let port = ports::of_server(self, tx, server_id)?.into_iter().find(|p| p.network_id == network_id);
        let port = port.ok_or_else(|| Error::not_found("Network", network_id))?;
        let mut last = Error::invalid(format!("No fixed IP addresses available for network: {network_id}"));
        for subnet in subnets::of_network(tx, network_id)? {
            let mut wanted: Vec<Value> =
                port.fixed_ips.iter().map(|f| json!({"subnet_id": f.subnet_id, "ip_address": f.ip_address})).collect();
            wanted.push(json!({"subnet_id": subnet.id()}));
            match tx.attempt(|tx| self.addresses_set_in(tx, ctx, port.clone(), wanted)) {
                Err(error) => last = Error::invalid(format!("No fixed IP addresses available for network: {network_id}")).caused_by(error),
                done => return done,
            }
        }
        Err(last)
    }

    /// Takes an address away from a server's ports. False when none has it.
    pub fn fixed_ip_remove_in(&self, tx: &Tx, ctx: &Context, server_id: &str, address: IpAddr) -> Result<bool> {
        let holds = |p: &Port| p.fixed_ips.iter().any(|f| f.ip_address == address);
        let Some(port) = ports::of_server(self, tx, server_id)?.into_iter().find(holds) else { return Ok(false) };
        let left = port.fixed_ips.iter().filter(|f| f.ip_address != address);
        let wanted = left.map(|f| json!({"subnet_id": f.subnet_id, "ip_address": f.ip_address})).collect();
        self.addresses_set_in(tx, ctx, port, wanted)?;
        Ok(true)
    }

    fn addresses_set_in(&self, tx: &Tx, ctx: &Context, port: Port, wanted: Vec<Value>) -> Result<()> {
        let change = Object::from_iter([("fixed_ips".to_string(), Value::Array(wanted))]);
        let port = Port::update_in(self, tx, ctx, port, &change)?;
        self.recorded(tx, ctx, "port.update.end", &port)
    }

    /// Id and port of a floating address that the caller may use.
    pub fn floating_ip_find_in(&self, tx: &Tx, ctx: &Context, address: IpAddr) -> Result<Option<(String, Option<String>)>> {
        let found: Vec<FloatingIp> = row::list(tx, "floating_ip_address = ?1", params![address.to_string()])?;
        let own = found.into_iter().find(|f| self.sees_all(ctx) || f.common.project_id == ctx.project_id());
        Ok(own.map(|f| (f.common.id.clone(), f.port_id)))
    }

    /// Leads a floating address to a fixed one of a port, or nowhere.
    pub fn floating_ip_lead_in(&self, tx: &Tx, ctx: &Context, id: &str, to: Option<(&str, IpAddr)>) -> Result<()> {
        let item = row::fetch::<FloatingIp>(tx, id)?;
        let change = match to {
            Some((port, fixed)) => json!({"port_id": port, "fixed_ip_address": fixed}),
            None => json!({"port_id": null}),
        };
        let change = change.as_object().cloned().unwrap_or_default();
        let item = FloatingIp::update_in(self, tx, ctx, item, &change)?;
        self.recorded(tx, ctx, "floatingip.update.end", &item)
    }

    /// Takes a server's ports away from it: its own go, the user's are free again.
    pub fn ports_release_in(&self, tx: &Tx, server_id: &str) -> Result<()> {
        let ctx = Context::system("");
        for mut port in ports::of_server(self, tx, server_id)? {
            if port.made_for == server_id {
                ports::remove(self, tx, &ctx, port)?;
                continue;
            }
            ports::touch(self, tx, &port)?;
            hosts::touch_host(self, tx, &port.host)?;
            port.bind("", None);
            port.device_id.clear();
            port.device_owner.clear();
            port.hostname.clear();
            port.tag = None;
            row::update(tx, &mut port)?;
            self.recorded(tx, &ctx, "port.update.end", &port)?;
        }
        Ok(())
    }

    /// Takes one port away from a server, as [`Network::ports_release_in`] does for all.
    pub fn port_release_in(&self, tx: &Tx, server_id: &str, port_id: &str) -> Result<()> {
        let ctx = Context::system("");
        let Some(mut port) = row::find::<Port>(tx, port_id)?.filter(|p| p.device_id == server_id) else { return Ok(()) };
        if port.made_for == server_id {
            return ports::remove(self, tx, &ctx, port);
        }
        ports::touch(self, tx, &port)?;
        port.bind("", None);
        port.device_id.clear();
        port.device_owner.clear();
        port.hostname.clear();
        port.tag = None;
        row::update(tx, &mut port)?;
        self.recorded(tx, &ctx, "port.update.end", &port)
    }

    /// Interfaces of many servers with a fixed number of queries.
    pub async fn nics(&self, server_ids: &[String]) -> Result<HashMap<String, Vec<NicInfo>>> {
        if server_ids.is_empty() {
            return Ok(HashMap::new());
        }
        self.core().store.read(|tx| infos(self, tx, server_ids)).await
    }

    pub fn nics_in(&self, tx: &Tx, server_id: &str) -> Result<Vec<NicInfo>> {
        Ok(infos(self, tx, &[server_id.to_string()])?.remove(server_id).unwrap_or_default())
    }

    /// Ids and names of the groups of a server's ports, each once.
    pub async fn security_groups_of(&self, server_id: &str) -> Result<Vec<(String, String)>> {
        let nics = self.core().store.read(|tx| infos(self, tx, &[server_id.to_string()])).await?.remove(server_id).unwrap_or_default();
        let mut out: Vec<(String, String)> = nics.into_iter().flat_map(|n| n.security_groups).collect();
        out.sort();
        out.dedup();
        Ok(out)
    }

    /// Adds a group, by id or name, to all ports of a server, or takes it away.
    pub fn security_group_change_in(
        &self,
        tx: &Tx,
        ctx: &Context,
        server_id: &str,
        project_id: &str,
        group: &str,
        adding: bool,
    ) -> Result<()> {
        let id = group_id(tx, project_id, group)?;
        for mut port in ports::of_server(self, tx, server_id)?.into_iter().filter(|p| p.port_security_enabled) {
            let before = port.clone();
            port.security_groups.retain(|known| *known != id);
            if adding {
                port.security_groups.push(id.clone());
            }
            if before.security_groups == port.security_groups {
                continue;
            }
            row::update(tx, &mut port)?;
            db::security_groups::bind(tx, &port)?;
            ports::touch(self, tx, &before)?;
            ports::touch(self, tx, &port)?;
            self.recorded(tx, ctx, "port.update.end", &port)?;
        }
        Ok(())
    }
}

fn owner(az: &str) -> String {
    format!("compute:{az}")
}

/// A group of the project by id or name.
fn group_id(tx: &Tx, project: &str, wanted: &str) -> Result<String> {
    let own: Vec<SecurityGroup> = row::list(tx, "project_id = ?1 AND (id = ?2 OR name = ?2)", params![project, wanted])?;
    match own.as_slice() {
        [group] => Ok(group.id().to_string()),
        [] => Err(Error::not_found("Security group", wanted)),
        several => match several.iter().find(|g| g.id() == wanted) {
            Some(group) => Ok(group.id().to_string()),
            None => Err(Error::conflict(format!("Multiple security groups found matching '{wanted}'. Use an ID to be more specific."))),
        },
    }
}

fn plan(net: &Network, tx: &Tx, ctx: &Context, wanted: &[NicWanted], groups: &[String]) -> Result<Vec<NicPlan>> {
    let project = ctx.project_id();
    let mut ids = Vec::new();
    for group in groups {
        match group_id(tx, project, group) {
            Ok(id) if !ids.contains(&id) => ids.push(id),
            Ok(_) => {}
            // The default group is made with the first port.
            Err(_) if group == security_groups::DEFAULT && db::security_groups::default_id(tx, project)?.is_none() && groups.len() == 1 => {
            }
            Err(error) => return Err(error),
        }
    }
    let security_groups = (!ids.is_empty()).then_some(ids);
    let mut out: Vec<NicPlan> = Vec::new();
    for nic in wanted {
        match nic {
            NicWanted::Port { id, tag } => {
                let port = row::find::<Port>(tx, id)?.filter(|p| net.sees_all(ctx) || p.project() == project);
                let port = port.ok_or_else(|| Error::not_found("Port", id))?;
                if !port.device_id.is_empty() || out.iter().any(|p| p.port_id.as_deref() == Some(id)) {
                    return Err(Error::conflict(format!("Port {id} is still in use.")));
                }
                if port.fixed_ips.is_empty() && !subnets::of_network(tx, &port.network_id)?.is_empty() {
                    return Err(Error::invalid(format!("Port {id} requires a FixedIP in order to be used.")));
                }
                out.push(NicPlan {
                    network_id: port.network_id.clone(),
                    port_id: Some(id.clone()),
                    fixed_ip: None,
                    security_groups: None,
                    tag: tag.clone(),
                });
            }
            NicWanted::Network { id, fixed_ip, tag } => {
                let network = row::find::<Net>(tx, id)?.filter(|n| n.seen_by(net, ctx)).ok_or_else(|| Error::not_found("Network", id))?;
                attachable(net, tx, ctx, &network, *fixed_ip)?;
                out.push(NicPlan {
                    network_id: id.clone(),
                    port_id: None,
                    fixed_ip: *fixed_ip,
                    security_groups: security_groups.clone(),
                    tag: tag.clone(),
                });
            }
            NicWanted::Auto => {
                let own: Vec<Net> =
                    row::list(tx, "router_external = 0 AND admin_state_up = 1 AND (project_id = ?1 OR shared = 1)", params![project])?;
                match own.as_slice() {
                    [] => {}
                    [only] => {
                        attachable(net, tx, ctx, only, None)?;
                        out.push(NicPlan {
                            network_id: only.id().into(),
                            port_id: None,
                            fixed_ip: None,
                            security_groups: security_groups.clone(),
                            tag: None,
                        });
                    }
                    _ => return Err(Error::conflict("Multiple possible networks found, use a Network ID to be more specific.")),
                }
            }
        }
    }
    let new = i64::try_from(out.iter().filter(|p| p.port_id.is_none()).count()).unwrap_or(i64::MAX);
    let limit = quotas::limits(tx, project)?.into_iter().find(|(name, _)| *name == "port").map_or(-1, |(_, n)| n);
    if new > 0 && limit >= 0 && db::quotas::used(tx, "port", project)? + new > limit {
        return Err(Error::quota("Maximum number of ports exceeded").named("PortLimitExceeded"));
    }
    Ok(out)
}

/// Whether a server may have a new port on the network.
fn attachable(net: &Network, tx: &Tx, ctx: &Context, network: &Net, fixed: Option<IpAddr>) -> Result<()> {
    let id = network.id();
    if network.external && !network.shared && network.project() != ctx.project_id() && !net.sees_all(ctx) {
        return Err(Error::forbidden(format!("It is not allowed to create an interface on external network {id}")));
    }
    let subnets = subnets::of_network(tx, id)?;
    if subnets.is_empty() && network.port_security_enabled {
        return Err(Error::invalid(format!("Network {id} requires a subnet in order to boot instances on.")));
    }
    if let Some(at) = fixed {
        let subnet = subnets.iter().find(|s| s.cidr.contains(&at));
        let subnet = subnet.ok_or_else(|| Error::invalid(format!("Fixed IP {at} is not a valid ip address for network {id}.")))?;
        if allocation::holder(tx, subnet.id(), at)?.is_some() {
            return Err(Error::invalid(format!("Fixed IP address {at} is already in use on network {id}.")));
        }
    }
    Ok(())
}

fn infos(net: &Network, tx: &Tx, servers: &[String]) -> Result<HashMap<String, Vec<NicInfo>>> {
    let mut ports: Vec<Port> = ports::theirs(net, tx, row::list_in(tx, "device_id", servers)?)?;
    ports.sort_by_key(|p| p.place);
    let unique = |items: Vec<String>| items.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    let by_id = |ids: Vec<String>| unique(ids);
    let networks: HashMap<String, Net> = row::list_in::<Net>(tx, "id", &by_id(ports.iter().map(|p| p.network_id.clone()).collect()))?
        .into_iter()
        .map(|n| (n.common.id.clone(), n))
        .collect();
    let subnet_ids = unique(ports.iter().flat_map(|p| p.fixed_ips.iter().map(|f| f.subnet_id.clone())).collect());
    let subnets: HashMap<String, Subnet> =
        row::list_in::<Subnet>(tx, "id", &subnet_ids)?.into_iter().map(|s| (s.common.id.clone(), s)).collect();
    let group_ids = unique(ports.iter().flat_map(|p| p.security_groups.clone()).collect());
    let groups: HashMap<String, String> =
        row::list_in::<SecurityGroup>(tx, "id", &group_ids)?.into_iter().map(|g| (g.common.id, g.common.name)).collect();
    let port_ids: Vec<String> = ports.iter().map(|p| p.common.id.clone()).collect();
    let floating: Vec<FloatingIp> = row::list_in(tx, "port_id", &port_ids)?;
    let mut out: HashMap<String, Vec<NicInfo>> = HashMap::new();
    for port in ports {
        let Some(network) = networks.get(&port.network_id) else { continue };
        let fixed = port.fixed_ips.iter().filter_map(|f| {
            let subnet = subnets.get(&f.subnet_id)?;
            Some(FixedInfo {
                address: f.ip_address,
                subnet_id: f.subnet_id.clone(),
                cidr: subnet.cidr,
                gateway: subnet.gateway_ip,
                dns: subnet.dns_nameservers.clone(),
                routes: subnet.host_routes.iter().map(|r| (r.destination, r.nexthop)).collect(),
                dhcp: subnet.enable_dhcp,
                ipv6_mode: subnet.mode().map(str::to_string),
            })
        });
        let own = floating.iter().filter(|f| f.port_id.as_deref() == Some(port.id()));
        let info = NicInfo {
            port_id: port.id().into(),
            network_id: port.network_id.clone(),
            network_name: network.common.name.clone(),
            mac: port.mac_address.clone(),
            mtu: u32::try_from(network.mtu).unwrap_or(1500),
            model: "virtio".into(),
            fixed: fixed.collect(),
            floating: own.filter_map(|f| Some((f.fixed_ip_address?, f.floating_ip_address))).collect(),
            security_groups: port.security_groups.iter().map(|id| (id.clone(), groups.get(id).cloned().unwrap_or_default())).collect(),
            tag: port.tag.clone(),
            status: port.status.clone(),
        };
        out.entry(port.device_id).or_default().push(info);
    }
    Ok(out)
}
