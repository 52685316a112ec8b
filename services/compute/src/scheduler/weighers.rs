//! Weighers: each gives every host a value, values are scaled to 0..1 among the hosts and added up.

use super::{HostState, Wish};

type Weigher = fn(&HostState, &Wish) -> f64;

/// Name, multiplier, value.
static WEIGHERS: &[(&str, f64, Weigher)] = &[
    ("RAMWeigher", 1.0, |host, _| host.free_memory_mb),
    ("CPUWeigher", 1.0, |host, _| host.free_vcpus),
    ("DiskWeigher", 1.0, |host, _| host.free_disk_gb),
    // A group's wish outweighs how full hosts are.
    ("ServerGroupSoftAffinityWeigher", 10.0, |host, wish| soft(host, wish, "soft-affinity", 1.0)),
    ("ServerGroupSoftAntiAffinityWeigher", 10.0, |host, wish| soft(host, wish, "soft-anti-affinity", -1.0)),
    // And what does not have to be carried outweighs both.
    ("VolumesWeigher", 20.0, |host, _| host.volumes.as_ref().map_or(0.0, |place| place.gib as f64)),
];

fn soft(host: &HostState, wish: &Wish, policy: &str, sign: f64) -> f64 {
    let wanted = wish.group.as_ref().is_some_and(|g| g.policy == policy);
    if wanted { sign * host.group_members as f64 } else { 0.0 }
}

pub fn best(hosts: Vec<HostState>, wish: &Wish) -> Option<HostState> {
    let mut weights = vec![0.0; hosts.len()];
    for (_, multiplier, value) in WEIGHERS {
        let values: Vec<f64> = hosts.iter().map(|h| value(h, wish)).collect();
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        if high > low {
            for (weight, value) in weights.iter_mut().zip(&values) {
                *weight += multiplier * (value - low) / (high - low);
            }
        }
    }
    let weighed = hosts.into_iter().zip(weights);
    let order = |a: &(HostState, f64), b: &(HostState, f64)| a.1.total_cmp(&b.1).then_with(|| b.0.node.name.cmp(&a.0.node.name));
    weighed.max_by(order).map(|(host, _)| host)
}
