//! What ports ask of the host that they are bound to: the promised bandwidth and packet rates of their policies, in placement's words.

use std::collections::HashMap;

use base::{Context, Error, Kind as ErrorKind, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::Tx;

use super::rules::{self, MINIMUM, PACKET_MINIMUM, RuleType, amount, text};
use super::{devices, devices_on, effective};
use crate::attr::Object;
use crate::networks::Net;
use crate::nics::NicPlan;
use crate::ports::{self, Port};
use crate::row::{self, Resource};
use crate::{Network, fault};

/// The key of `binding:profile` that says who gives what a port asks for.
const ALLOCATION: &str = "allocation";

/// The resource classes of what rules promise, by direction.
const BANDWIDTH: [(&str, &str); 2] = [("ingress", "NET_BW_IGR_KILOBIT_PER_SEC"), ("egress", "NET_BW_EGR_KILOBIT_PER_SEC")];
const PACKETS: [(&str, &str); 3] = [
    ("any", "NET_PACKET_RATE_KILOPACKET_PER_SEC"),
    ("ingress", "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC"),
    ("egress", "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC"),
];

/// Whether ports ask for this resource class.
pub fn is_demanded(class: &str) -> bool {
    BANDWIDTH.iter().chain(&PACKETS).any(|(_, known)| *known == class)
}

/// A port's group of resources, which one provider gives together.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    pub port_id: String,
    /// The type of the rules that promise it.
    pub kind: &'static str,
    /// The group's id: another one as soon as the rules are others.
    pub group: String,
    pub traits: Vec<String>,
    /// By resource class, in kilobits or thousands of packets per second.
    pub resources: Vec<(String, u64)>,
}

impl Demand {
    /// What the rules of a policy make a port of this type ask for on a network: a group for each kind of promise, bandwidth first.
    fn of(port_id: &str, vnic_type: &str, physical_network: Option<&str>, rules: &[Object]) -> Vec<Demand> {
        let network = match physical_network {
            Some(name) => format!("CUSTOM_PHYSNET_{}", word(name)),
            None => "CUSTOM_NETWORK_TUNNEL_PROVIDER".into(),
        };
        let vnic = format!("CUSTOM_VNIC_TYPE_{}", word(vnic_type));
        let group = |kind: &'static RuleType, classes: &[(&str, &str)], traits: Vec<String>| {
            let promised = || rules.iter().filter(|rule| text(rule, "type") == kind.name && amount(rule, kind.amount) > 0);
            let class = |rule: &Object| classes.iter().find(|(direction, _)| text(rule, "direction") == *direction);
            let resource = |rule: &Object| class(rule).map(|(_, class)| (class.to_string(), amount(rule, kind.amount)));
            let resources: Vec<(String, u64)> = promised().filter_map(resource).collect();
            let group = mixed(std::iter::once(port_id).chain(promised().map(|rule| text(rule, "id"))));
            (!resources.is_empty()).then(|| Demand { port_id: port_id.to_string(), kind: kind.name, group, traits, resources })
        };
        let bandwidth = group(&MINIMUM, &BANDWIDTH, vec![network, vnic.clone()]);
        // Whatever network a packet is of, the host works on it.
        bandwidth.into_iter().chain(group(&PACKET_MINIMUM, &PACKETS, vec![vnic])).collect()
    }

    fn view(&self) -> Value {
        let resources: Object = self.resources.iter().map(|(class, n)| (class.clone(), json!(n))).collect();
        json!({"id": self.group, "required": self.traits, "resources": resources})
    }
}

/// What a port asks for, as clients see it. The groups' providers belong together: one is above the others.
fn request(demands: &[Demand]) -> Value {
    if demands.is_empty() {
        return Value::Null;
    }
    let groups: Vec<&str> = demands.iter().map(|demand| demand.group.as_str()).collect();
    json!({"request_groups": demands.iter().map(Demand::view).collect::<Vec<_>>(), "same_subtree": groups})
}

/// A name as part of a trait's.
pub fn word(name: &str) -> String {
    name.to_ascii_uppercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// An id of its own for these ids together.
fn mixed<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    let digest = ids.fold(Sha256::new(), |digest, id| digest.chain_update(id).chain_update(" ")).finalize();
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-8{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// Adds `qos_network_policy_id` and `resource_request` to ports, whose networks are given.
pub fn decorate(tx: &Tx, ports: &mut [Object], networks: &HashMap<String, Vec<Object>>) -> Result<()> {
    let network_of = |port: &Object| networks.get(text(port, "network_id")).and_then(|list| list.first());
    let policy_of = |object: Option<&Object>| object.and_then(|o| o.get("qos_policy_id")).and_then(Value::as_str).map(str::to_string);
    let holds = |port: &Object| {
        let (own, of_network) = (policy_of(Some(port)), policy_of(network_of(port)));
        effective(own.as_deref(), of_network.as_deref(), text(port, "device_owner")).map(str::to_string)
    };
    let mut policies: Vec<String> = ports.iter().filter_map(holds).collect();
    policies.sort();
    policies.dedup();
    let rules = rules::of_policies(tx, &policies)?;
    for port in ports {
        let physical = network_of(port).and_then(|n| n.get("provider:physical_network")).and_then(Value::as_str);
        let rules = holds(port).and_then(|policy| rules.get(&policy)).map(Vec::as_slice).unwrap_or_default();
        let demands = Demand::of(text(port, "id"), text(port, "binding:vnic_type"), physical, rules);
        let own = text(port, "device_owner").starts_with("network:");
        let of_network = policy_of(network_of(port)).filter(|_| !own);
        port.insert("qos_network_policy_id".into(), json!(of_network));
        port.insert("resource_request".into(), request(&demands));
    }
    Ok(())
}

fn rules_of(tx: &Tx, policy: Option<&str>) -> Result<Vec<Object>> {
    let Some(policy) = policy else { return Ok(Vec::new()) };
    Ok(rules::of_policies(tx, &[policy.to_string()])?.remove(policy).unwrap_or_default())
}

fn of_port(tx: &Tx, port: &Port) -> Result<Vec<Demand>> {
    let network = row::fetch::<Net>(tx, &port.network_id)?;
    let policy = effective(port.qos_policy_id.as_deref(), network.qos_policy_id.as_deref(), &port.device_owner);
    Ok(Demand::of(port.id(), &port.vnic_type, network.physical_network.as_deref(), &rules_of(tx, policy)?))
}

/// Takes out of a port's profile who gives what it asked for, because nobody does any more.
pub fn allocation_forget(port: &mut Port) {
    port.profile.remove(ALLOCATION);
    port.promised.clear();
}

/// What a client wrote over a profile leaves as it is who gives what the port asks for.
pub fn allocation_keep(old: &Port, port: &mut Port) {
    match old.profile.get(ALLOCATION) {
        Some(kept) => drop(port.profile.insert(ALLOCATION.into(), kept.clone())),
        None => drop(port.profile.remove(ALLOCATION)),
    }
}

/// Whether somebody gives what a port asked for.
pub fn has_allocation(port: &Port) -> bool {
    port.profile.contains_key(ALLOCATION)
}

/// Whether somebody gives a port what rules of this type promise. Where a port does not say which, it is bandwidth.
fn is_promised(port: &Port, kind: &str) -> bool {
    has_allocation(port) && if port.promised.is_empty() { kind == MINIMUM.name } else { port.promised.iter().any(|known| known == kind) }
}

impl Network {
    /// What a server's ports ask of its host.
    pub fn demands_in(&self, tx: &Tx, server_id: &str) -> Result<Vec<Demand>> {
        let ports = ports::of_server(self, tx, server_id)?;
        Ok(ports.iter().map(|port| of_port(tx, port)).collect::<Result<Vec<_>>>()?.concat())
    }

    /// As [`Network::demands_in`], of what the ports have, as much of it as they ask for by now, and all that a new one asks for. What is
    /// promised to a port later it has as soon as its server gets another host.
    pub fn demands_kept_in(&self, tx: &Tx, server_id: &str, newcomer: Option<&str>) -> Result<Vec<Demand>> {
        let mut kept = Vec::new();
        for port in ports::of_server(self, tx, server_id)? {
            let new = newcomer == Some(port.id());
            kept.extend(of_port(tx, &port)?.into_iter().filter(|demand| new || is_promised(&port, demand.kind)));
        }
        Ok(kept)
    }

    /// What the ports of a plan will ask of the host that the server gets.
    pub fn demands_planned_in(&self, tx: &Tx, plan: &[NicPlan]) -> Result<Vec<Demand>> {
        let one = |nic: &NicPlan| match nic.port_id.as_deref().map(|id| row::find::<Port>(tx, id)).transpose()?.flatten() {
            Some(port) => of_port(tx, &port),
            None => {
                let Some(network) = row::find::<Net>(tx, &nic.network_id)? else { return Ok(Vec::new()) };
                let rules = rules_of(tx, network.qos_policy_id.as_deref())?;
                Ok(Demand::of("", "normal", network.physical_network.as_deref(), &rules))
            }
        };
        Ok(plan.iter().map(one).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Writes down on a server's ports which provider gives each what it asks for; the others have none.
    pub fn promises_put_in(&self, tx: &Tx, server_id: &str, given: &[(Demand, String)]) -> Result<()> {
        for mut port in ports::of_server(self, tx, server_id)? {
            let own = || given.iter().filter(|(demand, _)| demand.port_id == port.id());
            let promised: Vec<String> = own().map(|(demand, _)| demand.kind.to_string()).collect();
            let own: Object = own().map(|(demand, provider)| (demand.group.clone(), json!(provider))).collect();
            let before = (port.profile.clone(), port.promised.clone());
            allocation_forget(&mut port);
            if !own.is_empty() {
                port.profile.insert(ALLOCATION.into(), Value::Object(own));
                port.promised = promised;
            }
            if before != (port.profile.clone(), port.promised.clone()) {
                row::update(tx, &mut port)?;
            }
        }
        Ok(())
    }

    /// Has `listener` called with the id of each server whose ports may ask for something else from now on, within the transaction, which
    /// fails with it: with `NoCapacity` where the host has not so much, with `Conflict` and why where it is no time for that. There is one
    /// listener.
    pub fn demands_listen(&self, listener: crate::DeviceListener) {
        let _ = self.0.demands.set(listener);
    }

    pub(crate) fn demand_changed(&self, tx: &Tx, ctx: &Context, server_id: &str) -> Result<()> {
        let Some(listener) = self.0.demands.get().filter(|_| !server_id.is_empty()) else { return Ok(()) };
        let Err(error) = listener(tx, server_id) else { return Ok(()) };
        // A policy's owner need not know whose servers go by it.
        let seen = self.sees_all(ctx) || self.device_project(tx, server_id)?.is_some_and(|project| project == ctx.project_id());
        let server = if seen { format!("server {server_id}") } else { "a server".into() };
        Err(match error.kind() {
            ErrorKind::NoCapacity => {
                let message = format!("The host of {server} cannot give its ports what they would ask for.");
                fault::in_use("QosPlacementAllocationUpdateConflict", message).caused_by(error)
            }
            ErrorKind::Conflict => {
                let message = format!("What the ports of {server} ask for cannot change: {}", error.message());
                Error::conflict(message).named("QosPlacementAllocationUpdateConflict")
            }
            _ => error,
        })
    }

    /// The rules of a policy are others.
    pub(crate) fn policy_demands_changed(&self, tx: &Tx, ctx: &Context, policy: &str) -> Result<()> {
        devices(tx, policy)?.iter().try_for_each(|server| self.demand_changed(tx, ctx, server))
    }

    /// A network has another policy.
    pub(crate) fn network_demands_changed(&self, tx: &Tx, ctx: &Context, network: &str) -> Result<()> {
        devices_on(tx, network)?.iter().try_for_each(|server| self.demand_changed(tx, ctx, server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_asks_for_what_its_rules_promise() {
        let rule = |kind: &str, direction: &str, n: u64| {
            let rule = json!({"id": base::id::uuid(), "type": kind, "direction": direction, "min_kbps": n, "max_kbps": n, "min_kpps": n});
            rule.as_object().cloned().unwrap()
        };
        let port = base::id::uuid();
        assert_eq!(Demand::of(&port, "normal", None, &[rule("bandwidth_limit", "egress", 5)]), []);
        assert_eq!(Demand::of(&port, "normal", None, &[rule("minimum_bandwidth", "egress", 0)]), []);
        let rules = [rule("minimum_bandwidth", "egress", 5), rule("minimum_bandwidth", "ingress", 7)];
        let one = |rules: &[Object]| {
            let mut demands = Demand::of(&port, "virtio-forwarder", Some("phys-1"), rules);
            assert_eq!(demands.len(), 1);
            demands.remove(0)
        };
        let demand = one(&rules);
        assert_eq!(demand.traits, ["CUSTOM_PHYSNET_PHYS_1", "CUSTOM_VNIC_TYPE_VIRTIO_FORWARDER"]);
        assert_eq!(demand.resources, [("NET_BW_EGR_KILOBIT_PER_SEC".into(), 5), ("NET_BW_IGR_KILOBIT_PER_SEC".into(), 7)]);
        assert!(base::id::is_uuid(&demand.group));
        assert_ne!(one(&rules[..1]).group, demand.group, "other rules are another group");
        assert_eq!(one(&rules[..1]).group, one(&rules[..1]).group);
        let rules = [rule("minimum_packet_rate", "any", 3), rule("minimum_bandwidth", "egress", 5)];
        let both = Demand::of(&port, "normal", None, &rules);
        assert_eq!(both[0].traits, ["CUSTOM_NETWORK_TUNNEL_PROVIDER", "CUSTOM_VNIC_TYPE_NORMAL"]);
        assert_eq!(both[1].traits, ["CUSTOM_VNIC_TYPE_NORMAL"]);
        assert_eq!(both[1].resources, [("NET_PACKET_RATE_KILOPACKET_PER_SEC".into(), 3)]);
        assert_eq!(request(&both)["same_subtree"], json!([both[0].group, both[1].group]));
        let directed = [rule("minimum_packet_rate", "ingress", 1), rule("minimum_packet_rate", "egress", 2)];
        let classes = one(&directed).resources;
        let class = |way: &str| format!("NET_PACKET_RATE_{way}_KILOPACKET_PER_SEC");
        assert_eq!(classes, [(class("IGR"), 1), (class("EGR"), 2)]);
    }
}
