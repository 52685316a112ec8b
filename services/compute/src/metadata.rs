//! What a guest may ask about itself: OpenStack's documents and the EC2 tree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use base::Result;
use base64::Engine;
use network::{FixedInfo, NicInfo};
use rpc::instance::Metadata;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cpus;
use crate::db::servers::Server;
use crate::db::volumes::ServerVolume;

/// Appended to host names that are not fully qualified.
const DOMAIN: &str = "novalocal";

pub fn documents(server: &Server, nics: &[NicInfo]) -> Result<Metadata> {
    Ok(Metadata {
        meta_data: meta_data(server, nics),
        network_data: network_data(nics),
        vendor_data: json!({}),
        user_data_base64: server.doc.user_data.clone(),
        ec2: ec2(server, nics)?,
        config_drive: !server.config_drive.is_empty(),
        files: server.doc.files.iter().map(|(_, content)| content.clone()).collect(),
        password: server.doc.posted_password.clone(),
    })
}

fn host_name(server: &Server) -> String {
    if server.hostname.contains('.') { server.hostname.clone() } else { format!("{}.{DOMAIN}", server.hostname) }
}

/// A device that its owner has tagged, so that the guest finds it. Where QEMU has put it is not known here.
fn device(kind: &str, tag: &str) -> Value {
    json!({"type": kind, "bus": "none", "address": "none", "tags": [tag]})
}

fn tagged_nic(nic: &NicInfo) -> Option<Value> {
    let mut device = device("nic", nic.tag.as_deref()?);
    device["mac"] = json!(nic.mac);
    Some(device)
}

/// Adds a tagged volume to the devices of a guest's document.
pub fn volume_add(metadata: &mut Metadata, volume: &ServerVolume) {
    let (Some(id), Some(tag)) = (&volume.volume_id, &volume.tag) else { return };
    let mut device = device("disk", tag);
    device["serial"] = json!(id);
    device["path"] = json!(volume.device);
    if let Some(devices) = metadata.meta_data["devices"].as_array_mut() {
        devices.push(device);
    }
}

fn meta_data(server: &Server, nics: &[NicInfo]) -> Value {
    let mut data = json!({
        "uuid": server.id,
        "name": server.display_name,
        "hostname": host_name(server),
        "launch_index": server.launch_index,
        "availability_zone": server.availability_zone.as_deref().unwrap_or("nova"),
        "project_id": server.project_id,
        "devices": nics.iter().filter_map(tagged_nic).collect::<Vec<_>>(),
        "dedicated_cpus": if cpus::is_dedicated(server) { cpus::online(server) } else { BTreeSet::new() },
        "random_seed": random_seed(&server.doc.seed),
    });
    if !server.doc.metadata.is_empty() {
        data["meta"] = json!(server.doc.metadata);
    }
    if let Some(key) = &server.doc.public_key {
        data["public_keys"] = json!({key.name.as_str(): key.data});
        data["keys"] = json!([{"name": key.name, "type": key.kind, "data": key.data}]);
    }
    if !server.doc.files.is_empty() {
        let entry = |(n, (path, _)): (usize, &(String, String))| json!({"path": path, "content_path": format!("/content/{n:04}")});
        data["files"] = server.doc.files.iter().enumerate().map(entry).collect();
    }
    let rescue = server.doc.rescue.as_ref().and_then(|r| r.admin_pass.as_ref());
    if let Some(password) = rescue.or(server.doc.admin_pass.as_ref()) {
        data["admin_pass"] = json!(password);
    }
    data
}

/// 512 bytes from the server's secret, the same each time they are asked for.
fn random_seed(secret: &str) -> String {
    let mut bytes = Vec::with_capacity(512);
    for block in 0u8..16 {
        bytes.extend_from_slice(&Sha256::new().chain_update(secret).chain_update([block]).finalize());
    }
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn network_data(nics: &[NicInfo]) -> Value {
    let (mut links, mut networks, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for nic in nics {
        let link = rpc::instance::tap_name(&nic.port_id);
        links.push(json!({"id": link, "vif_id": nic.port_id, "type": "bridge", "mtu": nic.mtu, "ethernet_mac_address": nic.mac}));
        for fixed in &nic.fixed {
            let number = networks.len();
            let dns: Vec<Value> = fixed.dns.iter().map(|a| json!({"type": "dns", "address": a})).collect();
            for server in &dns {
                if !services.contains(server) {
                    services.push(server.clone());
                }
            }
            networks.push(network_entry(number, &link, nic, fixed, &dns));
        }
    }
    json!({"links": links, "networks": networks, "services": services})
}

fn network_entry(number: usize, link: &str, nic: &NicInfo, fixed: &FixedInfo, dns: &[Value]) -> Value {
    let v4 = fixed.address.is_ipv4();
    let kind = match (v4, fixed.dhcp, fixed.ipv6_mode.as_deref()) {
        (true, true, _) => "ipv4_dhcp",
        (true, false, _) => "ipv4",
        (false, _, Some("slaac")) => "ipv6_slaac",
        (false, true, Some("dhcpv6-stateless")) => "ipv6_dhcpv6-stateless",
        (false, true, Some("dhcpv6-stateful")) => "ipv6_dhcpv6-stateful",
        (false, ..) => "ipv6",
    };
    let mut entry = json!({"id": format!("network{number}"), "type": kind, "link": link, "network_id": nic.network_id});
    if kind == "ipv4_dhcp" {
        return entry;
    }
    entry["ip_address"] = json!(fixed.address);
    entry["netmask"] = json!(fixed.cidr.netmask());
    let mut routes: Vec<Value> = Vec::new();
    if let Some(gateway) = fixed.gateway {
        let any = if v4 { "0.0.0.0" } else { "::" };
        routes.push(json!({"network": any, "netmask": any, "gateway": gateway}));
    }
    routes.extend(fixed.routes.iter().map(|(to, via)| json!({"network": to.network(), "netmask": to.netmask(), "gateway": via})));
    entry["routes"] = json!(routes);
    if !dns.is_empty() {
        entry["services"] = json!(dns);
    }
    entry
}

/// Paths below `/latest/meta-data/`.
fn ec2(server: &Server, nics: &[NicInfo]) -> Result<BTreeMap<String, String>> {
    let flavor = server.flavor()?;
    let mut tree = BTreeMap::new();
    let mut put = |path: &str, text: String| {
        tree.insert(path.to_string(), text);
    };
    let name = host_name(server);
    put("instance-id", format!("i-{:08x}", server.number));
    put("ami-id", if server.image_ref.is_empty() { "None".into() } else { format!("ami-{}", base::id::short(&server.image_ref, 8)) });
    put("ami-launch-index", server.launch_index.to_string());
    put("ami-manifest-path", String::new());
    put("hostname", name.clone());
    put("local-hostname", name.clone());
    put("public-hostname", name);
    put("instance-action", "none".into());
    put("instance-type", flavor.name.clone());
    put("reservation-id", server.reservation_id.clone());
    put("placement/availability-zone", server.availability_zone.clone().unwrap_or_else(|| "nova".into()));
    let v4 = |a: &&IpAddr| a.is_ipv4();
    let fixed: Vec<&IpAddr> = nics.iter().flat_map(|n| &n.fixed).map(|f| &f.address).collect();
    let floating: Vec<&IpAddr> = nics.iter().flat_map(|n| &n.floating).map(|(_, a)| a).collect();
    put("local-ipv4", fixed.iter().copied().find(v4).map(ToString::to_string).unwrap_or_default());
    put("public-ipv4", floating.iter().copied().find(v4).map(ToString::to_string).unwrap_or_default());
    let mut groups: Vec<&str> = nics.iter().flat_map(|n| &n.security_groups).map(|(_, name)| name.as_str()).collect();
    groups.sort_unstable();
    groups.dedup();
    put("security-groups", groups.join("\n"));
    put("block-device-mapping/ami", "vda".into());
    put("block-device-mapping/root", server.root_device_name.clone().unwrap_or_else(|| "/dev/vda".into()));
    if cpus::of_server(server).least.is_some() {
        // As the first of those who read it wrote sets.
        let offline: Vec<String> = server.doc.offline.iter().map(u32::to_string).collect();
        put("offline_cpuset", format!("set([{}])", offline.join(", ")));
    }
    if let Some(key) = &server.doc.public_key {
        put("public-keys/0/openssh-key", key.data.clone());
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(fixed: Vec<FixedInfo>) -> NicInfo {
        NicInfo {
            port_id: "ce531f90-199f-48c0-816c-13e38010b442".into(),
            network_id: "net".into(),
            network_name: "private".into(),
            mac: "fa:16:3e:00:00:01".into(),
            mtu: 1450,
            model: "virtio".into(),
            fixed,
            floating: Vec::new(),
            security_groups: Vec::new(),
            tag: None,
            status: "ACTIVE".into(),
        }
    }

    fn fixed(address: &str, cidr: &str, dhcp: bool, mode: Option<&str>) -> FixedInfo {
        FixedInfo {
            address: address.parse().unwrap(),
            subnet_id: "s".into(),
            cidr: cidr.parse().unwrap(),
            gateway: Some(address.parse().unwrap()),
            dns: vec!["8.8.8.8".parse().unwrap()],
            routes: Vec::new(),
            dhcp,
            ipv6_mode: mode.map(str::to_string),
        }
    }

    #[test]
    fn networks_say_how_addresses_are_got() {
        let data = network_data(&[nic(vec![
            fixed("10.0.0.5", "10.0.0.0/24", true, None),
            fixed("10.1.0.5", "10.1.0.0/24", false, None),
            fixed("fd00::5", "fd00::/64", true, Some("slaac")),
            fixed("fd01::5", "fd01::/64", true, Some("dhcpv6-stateful")),
            fixed("fd02::5", "fd02::/64", false, None),
        ])]);
        let kinds: Vec<&str> = data["networks"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["ipv4_dhcp", "ipv4", "ipv6_slaac", "ipv6_dhcpv6-stateful", "ipv6"]);
        assert!(data["networks"][0].get("ip_address").is_none());
        assert_eq!(data["networks"][1]["netmask"], "255.255.255.0");
        assert_eq!(data["networks"][1]["routes"][0]["network"], "0.0.0.0");
        assert_eq!(data["links"][0]["id"], "tapce531f90-19");
        assert_eq!(data["services"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn the_seed_is_stable_and_secret() {
        assert_eq!(random_seed("a"), random_seed("a"));
        assert_ne!(random_seed("a"), random_seed("b"));
        assert_eq!(base64::engine::general_purpose::STANDARD.decode(random_seed("a")).unwrap().len(), 512);
    }
}
