//! Filters under the names operators know them by. Memory, processors and disk are placement's business.

use super::{HostState, Wish, aggregates};

type Filter = fn(&HostState, &Wish) -> bool;

/// In the order they are applied.
pub static FILTERS: &[(&str, Filter)] = &[
    ("RetryFilter", |host, wish| !wish.ignored.contains(&host.node.id)),
    ("ComputeFilter", |host, _| host.node.is_up() && !host.node.disabled),
    ("AvailabilityZoneFilter", |host, wish| wish.zone.as_ref().is_none_or(|zone| *zone == host.zone)),
    ("RequestedHostFilter", |host, wish| wish.requested_host.as_ref().is_none_or(|name| *name == host.node.name)),
    ("ImagePropertiesFilter", image_properties),
    ("AggregateInstanceExtraSpecsFilter", aggregates::extra_specs),
    ("AggregateMultiTenancyIsolation", aggregates::tenants),
    ("SameHostFilter", |host, wish| wish.same_host.as_ref().is_none_or(|ids| ids.contains(&host.node.id))),
    ("DifferentHostFilter", |host, wish| !wish.different_host.contains(&host.node.id)),
    ("ServerGroupAffinityFilter", affinity),
    ("ServerGroupAntiAffinityFilter", anti_affinity),
    ("VolumesFilter", |host, wish| volumes(host, wish.has_volumes)),
];

/// Whether all volumes of a server are on the host, or can come.
pub fn volumes(host: &HostState, any: bool) -> bool {
    !any || host.volumes.as_ref().is_some_and(|place| place.barred.is_none())
}

fn image_properties(host: &HostState, wish: &Wish) -> bool {
    let property = |names: &[&str]| names.iter().find_map(|n| wish.image_properties.get(*n)).map(|v| v.to_ascii_lowercase());
    let own = host.node.info.cpu["arch"].as_str().unwrap_or(std::env::consts::ARCH).to_ascii_lowercase();
    let architecture = property(&["hw_architecture", "architecture"]).is_none_or(|a| canonical(&a) == canonical(&own));
    let hypervisor = property(&["img_hv_type", "hypervisor_type"]).is_none_or(|t| t == "qemu" || t == "kvm");
    let mode = property(&["hw_vm_mode", "vm_mode"]).is_none_or(|m| m == "hvm" || m == "hv");
    architecture && hypervisor && mode
}

fn canonical(arch: &str) -> &str {
    match arch {
        "amd64" | "x86_64" | "x64" => "x86_64",
        "arm64" | "aarch64" => "aarch64",
        other => other,
    }
}

fn affinity(host: &HostState, wish: &Wish) -> bool {
    match &wish.group {
        Some(group) if group.policy == "affinity" && !group.hosts.is_empty() => group.hosts.contains_key(&host.node.id),
        _ => true,
    }
}

fn anti_affinity(host: &HostState, wish: &Wish) -> bool {
    match &wish.group {
        Some(group) if group.policy == "anti-affinity" => host.group_members < group.max_per_host,
        _ => true,
    }
}
