//! Links, namespaces and tables. Asked of `ip` and `nft`, so that nothing of the switch's own netlink code is
//! trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use base::{Error, Result};
use rpc::instance::tap_name;
use rpc::network::{NetworkDocument, NetworkKind};
use serde_json::Value;

use crate::records::{Records, file_name, list};
use crate::{Kind, Report, Verdict};

/// The link group that the switch puts on whatever it makes.
const GROUP: u64 = 0x5374_7572;

pub fn check(records: &Records, report: &mut Report) -> Result<()> {
    let none = NetworkDocument::default();
    let wanted = records.network.as_ref().unwrap_or(&none);
    links(records, wanted, report)?;
    namespaces(records, wanted, report)?;
    tables(records, wanted, report)
}

/// Runs a command that prints JSON; none when it is not installed.
fn ask(program: &str, arguments: &[&str]) -> Result<Option<Value>> {
    let out = match Command::new(program).args(arguments).output() {
        Ok(out) => out,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::internal(format!("cannot run {program}")).caused_by(e)),
    };
    if !out.status.success() {
        return Err(Error::internal(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&out.stderr).trim())));
    }
    match out.stdout.iter().all(u8::is_ascii_whitespace) {
        true => Ok(Some(Value::Array(vec![]))),
        false => {
            serde_json::from_slice(&out.stdout).map(Some).map_err(|e| Error::internal(format!("{program} printed no JSON")).caused_by(e))
        }
    }
}

/// What each kind of link stands for, by the id in its alias.
fn wanted_ids(document: &NetworkDocument) -> BTreeMap<&'static str, BTreeSet<&str>> {
    let networks: BTreeSet<&str> = document.networks.iter().map(|n| n.id.as_str()).collect();
    let served = document.networks.iter().filter(|n| n.service_port.is_some()).map(|n| n.id.as_str()).collect();
    let router_ports = document.routers.iter().flat_map(|r| {
        let interfaces = r.interfaces.iter().map(|i| i.port_id.as_str());
        interfaces.chain(r.gateway.iter().map(|g| g.port_id.as_str()))
    });
    let vlans = || {
        document
            .networks
            .iter()
            .filter_map(|n| if let NetworkKind::Vlan { physical_network, .. } = &n.kind { Some((n, physical_network)) } else { None })
    };
    BTreeMap::from([
        ("network", networks.clone()),
        ("tunnel", networks),
        ("physical", vlans().map(|(_, physical)| physical.as_str()).collect()),
        ("trunk", vlans().map(|(network, _)| network.id.as_str()).collect()),
        ("vlan", vlans().map(|(network, _)| network.id.as_str()).collect()),
        ("port", document.ports.iter().map(|p| p.id.as_str()).collect()),
        ("service", served),
        ("router-port", router_ports.collect()),
        ("router", document.routers.iter().map(|r| r.id.as_str()).collect()),
        ("cipher", document.encryption.iter().map(|_| "hosts").collect()),
    ])
}

fn links(records: &Records, document: &NetworkDocument, report: &mut Report) -> Result<()> {
    let Some(Value::Array(all)) = ask("ip", &["-j", "link", "show"])? else { return Ok(()) };
    let wanted = wanted_ids(document);
    let mut taps = BTreeSet::new();
    for link in &all {
        let text = |key: &str| link.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, alias, group) = (text("ifname"), text("ifalias"), text("group"));
        let number = group.strip_prefix("0x").map_or_else(|| group.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
        let marked = number == Some(GROUP);
        let mut parts = alias.splitn(3, ':');
        let (owner, kind, id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if !marked {
            if owner == "sturnus" {
                report.add(Kind::Link, name, Verdict::Foreign, format!("says {alias} and has not the mark"));
            }
            continue;
        }
        let fits = wanted.get(kind).is_some_and(|ids| ids.contains(id));
        let (verdict, why) = match (owner, fits) {
            _ if !records.network_readable => (Verdict::Kept, "the wanted network cannot be read".to_string()),
            ("sturnus", true) => (Verdict::Live, format!("{kind} {id}")),
            ("sturnus", false) => (Verdict::Stale, format!("nothing wants {kind} {id}")),
            _ => (Verdict::Stale, "marked, and never finished".to_string()),
        };
        if kind == "port" {
            taps.insert(name.to_string());
        }
        report.add(Kind::Link, name, verdict, why);
    }
    for port in document.ports.iter().filter(|p| !taps.contains(&tap_name(&p.id))) {
        report.add(Kind::Link, tap_name(&port.id), Verdict::Contradictory, format!("the tap of port {} is not there", port.id));
    }
    Ok(())
}

fn namespaces(records: &Records, document: &NetworkDocument, report: &mut Report) -> Result<()> {
    let mut wanted: BTreeSet<String> = document.routers.iter().map(|r| format!("sturnus-r-{}", r.id)).collect();
    wanted.extend(document.networks.iter().filter(|n| n.service_port.is_some()).map(|n| format!("sturnus-n-{}", n.id)));
    let present: BTreeSet<String> = list(Path::new("/run/netns"))?.iter().map(|p| file_name(p)).collect();
    for name in &present {
        let recorded = records.switch.namespaces.contains(name);
        if !recorded && !name.starts_with("sturnus-") {
            continue;
        }
        let (verdict, why) = match (recorded, wanted.contains(name)) {
            // A name is no proof.
            (false, _) => (Verdict::Foreign, "the switch has no record of it"),
            (true, _) if !is_namespace(name) => (Verdict::Stale, "recorded, and only a file"),
            (true, _) if !named_inside(name)? => (Verdict::Foreign, "recorded, and another's by its own word"),
            _ if !records.network_readable => (Verdict::Kept, "the wanted network cannot be read"),
            (true, true) => (Verdict::Live, "recorded and wanted"),
            (true, false) => (Verdict::Stale, "recorded, and nothing wants it"),
        };
        report.add(Kind::Namespace, name.clone(), verdict, why);
    }
    for name in records.switch.namespaces.difference(&present) {
        let (verdict, why) = match wanted.contains(name) {
            true => (Verdict::Contradictory, "recorded and wanted, and not there"),
            false => (Verdict::Stale, "recorded, and neither wanted nor there"),
        };
        report.add(Kind::Namespace, name.clone(), verdict, why);
    }
    Ok(())
}

/// Whether something is mounted there, as `ip netns` and the switch do it.
fn is_namespace(name: &str) -> bool {
    let path = format!("/run/netns/{name}");
    std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().any(|l| l.split(' ').nth(4) == Some(path.as_str()))
}

/// The switch writes what a namespace is for on its loopback link before it names it.
fn named_inside(name: &str) -> Result<bool> {
    let link = ask("ip", &["-n", name, "-j", "link", "show", "lo"])?;
    let alias = link.as_ref().and_then(|l| l.get(0)).and_then(|l| l.get("ifalias")).and_then(Value::as_str).unwrap_or_default();
    Ok(alias.starts_with("sturnus:"))
}

fn tables(records: &Records, document: &NetworkDocument, report: &mut Report) -> Result<()> {
    let Some(listed) = ask("nft", &["-j", "list", "tables"])? else { return Ok(()) };
    let tables = listed.get("nftables").and_then(Value::as_array).into_iter().flatten().filter_map(|v| v.get("table"));
    for table in tables.filter(|t| t.get("name").and_then(Value::as_str) == Some("sturnus")) {
        let name = format!("{} sturnus", table.get("family").and_then(Value::as_str).unwrap_or_default());
        let (verdict, why) = match () {
            () if !records.network_readable => (Verdict::Kept, "the wanted network cannot be read"),
            () if records.network.is_none() => (Verdict::Stale, "no network is wanted"),
            () if document.networks.is_empty() && document.ports.is_empty() => (Verdict::Kept, "of a network without ports"),
            () => (Verdict::Live, "the rules of this host"),
        };
        report.add(Kind::Table, name, verdict, why);
    }
    Ok(())
}
