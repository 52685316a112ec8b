//! What this machine offers.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use base::Config;
use rpc::message::HostInfo;
use serde_json::json;

use crate::hypervisor::{Abilities, boot_id, process::uptime_micros};
use crate::promises::{bandwidths, packet_rates};

/// The inventory, as of now, but for the disk.
pub fn host_info(config: &Config, id: &str, abilities: &Abilities) -> HostInfo {
    let memory = meminfo(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
    HostInfo {
        id: id.to_string(),
        name: name(config),
        address: address(config).to_string(),
        vcpus: std::thread::available_parallelism().map(|n| n.get() as u32).unwrap_or(1),
        memory_mib: memory.0,
        used_memory_mib: memory.0.saturating_sub(memory.1),
        accelerator: abilities.accelerator.clone(),
        hypervisor_version: abilities.version,
        cpu: cpu(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        boot_id: boot_id(),
        uptime_seconds: uptime_micros() / 1_000_000,
        volumes: true,
        streams: true,
        guarded: false,
        moves: true,
        reboots: true,
        waits: false,
        live: true,
        lends: true,
        readies: true,
        carries: true,
        layers: true,
        dedicated: Vec::new(),
        shared: None,
        threads: false,
        cluster_address: config.text("host.cluster_address").to_string(),
        tunnel_key: String::new(),
        storage: None,
        bandwidths: bandwidths(config).unwrap_or_default(),
        packet_rates: packet_rates(config, &name(config)).unwrap_or_default(),
        ..HostInfo::default()
    }
}

/// Where this host is reached: as the configuration says, else where its API listens.
fn address(config: &Config) -> IpAddr {
    let listen = config.listen().ip();
    let given = config.text("host.address").parse();
    given.unwrap_or(if listen.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen })
}

/// What this host is called.
pub fn name(config: &Config) -> String {
    match config.text("host.name") {
        "" => nix::unistd::gethostname()
            .ok()
            .and_then(|n| n.into_string().ok())
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| "localhost".into()),
        name => name.to_string(),
    }
}

/// Total and available memory in MiB.
fn meminfo(text: &str) -> (u64, u64) {
    let field = |name: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.trim().split(' ').next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or_default() / 1024
    };
    (field("MemTotal:"), field("MemAvailable:"))
}

/// Size and free space of the file system that holds guests' disks, in GiB.
pub(crate) fn disk(home: &Path) -> (u64, u64) {
    nix::sys::statvfs::statvfs(home).map_or((0, 0), |s| {
        let unit = s.fragment_size();
        ((s.blocks() * unit) >> 30, (s.blocks_available() * unit) >> 30)
    })
}

/// In the shape OpenStack shows as `cpu_info`.
fn cpu(text: &str) -> serde_json::Value {
    let first = text.split("\n\n").next().unwrap_or_default();
    let field = |name: &str| {
        let line = first.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name));
        line.and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_string()).unwrap_or_default()
    };
    let count = |name: &str| {
        let mut all: Vec<&str> = text.lines().filter(|l| l.split(':').next().is_some_and(|k| k.trim() == name)).collect();
        all.sort_unstable();
        all.dedup();
        all.len().max(1)
    };
    let processors = text.lines().filter(|l| l.starts_with("processor")).count().max(1);
    let (sockets, cores) = (count("physical id"), field("cpu cores").parse().unwrap_or(1usize).max(1));
    json!({
        "arch": std::env::consts::ARCH,
        "vendor": match field("vendor_id").as_str() { "GenuineIntel" => "Intel".to_string(), "AuthenticAMD" => "AMD".to_string(), other => other.to_string() },
        "model": field("model name"),
        "features": field("flags").split(' ').filter(|f| !f.is_empty()).collect::<Vec<_>>(),
        "topology": {"cells": 1, "sockets": sockets, "cores": cores, "threads": (processors / (sockets * cores)).max(1)},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        assert_eq!(meminfo("MemTotal:       16384000 kB\nMemFree: 1 kB\nMemAvailable:    8192000 kB\n"), (16000, 8000));
        let text = "processor : 0\nvendor_id : AuthenticAMD\nmodel name : X\nphysical id : 0\ncpu cores : 1\nflags : a b\n\nprocessor : 1\nphysical id : 0\n\n";
        assert_eq!(cpu(text)["topology"], json!({"cells": 1, "sockets": 1, "cores": 1, "threads": 2}));
        assert_eq!(cpu(text)["features"], json!(["a", "b"]));
        let home = tempfile::tempdir().unwrap();
        let info = host_info(&Config::for_home(home.path()), "x", &Abilities::default());
        assert!(info.memory_mib > 0 && info.vcpus > 0 && disk(home.path()).0 > 0 && !info.name.is_empty());
    }
}
