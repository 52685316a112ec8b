//! Choosing a host: placement says where a server fits, filters say where it may go, weighers where it goes best.

mod aggregates;
mod filters;
mod weighers;

use std::collections::{HashMap, HashSet};

use base::{Error, Kind, Result};
use block_storage::Place;
use placement::{Candidate, Placement, Requirements};
use store::{Select, Tx, params};

use crate::cpus::{self, Threads};
use crate::db::aggregates::{Metadata, metadata_by_host_in};
use crate::db::nodes::{self, Node};
use crate::db::servers::Server;

pub use filters::FILTERS;

/// The trait of hosts some of whose processors are threads of the same core.
pub(crate) const THREADED: &str = "HW_CPU_HYPERTHREADING";

/// A host that a server fits on, with what filters and weighers look at.
#[derive(Clone, Debug)]
pub struct HostState {
    pub node: Node,
    pub zone: String,
    /// Metadata of the aggregates it is in.
    pub aggregates: Vec<Metadata>,
    pub free_vcpus: f64,
    pub free_memory_mb: f64,
    pub free_disk_gb: f64,
    /// Servers of the wanted group that are here.
    pub group_members: usize,
    /// What it is to the server's volumes; none: nothing, or the server has none.
    pub volumes: Option<Place>,
}

/// What the server asks for, beyond the room placement has checked.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub zone: Option<String>,
    pub requested_host: Option<String>,
    /// Hosts on which it was tried before.
    pub ignored: Vec<String>,
    pub same_host: Option<HashSet<String>>,
    pub different_host: HashSet<String>,
    pub group: Option<Group>,
    pub image_properties: std::collections::BTreeMap<String, String>,
    pub project_id: String,
    /// Of the flavor.
    pub extra_specs: std::collections::BTreeMap<String, String>,
    /// Whether it has volumes, or gets some that lie somewhere already.
    pub has_volumes: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// `affinity`, `anti-affinity`, `soft-affinity`, `soft-anti-affinity`.
    pub policy: String,
    /// Of anti-affinity.
    pub max_per_host: usize,
    /// Members by host id.
    pub hosts: HashMap<String, usize>,
}

/// The host chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub host_id: String,
    pub host: String,
    pub zone: String,
}

/// What a server of this size claims, by resource class.
pub fn resources(server: &Server) -> Result<Vec<(String, u64)>> {
    let flavor = server.flavor()?;
    let ephemeral = server.doc.ephemeral.unwrap_or(flavor.ephemeral_gb);
    let swap = server.doc.swap.unwrap_or(flavor.swap_mb);
    // A root disk that is a volume is counted in block storage.
    let root = if server.doc.image.as_ref().is_some_and(|i| i.sha256.is_empty()) { 0 } else { flavor.root_gb };
    let disk = root + ephemeral + swap.div_ceil(1024);
    let cpus = if cpus::is_dedicated(server) { "PCPU" } else { "VCPU" };
    let mut all: Vec<(String, u64)> = [(cpus, cpus::online(server).len() as u64), ("MEMORY_MB", flavor.memory_mb), ("DISK_GB", disk)]
        .map(|(c, n)| (c.to_string(), n))
        .to_vec();
    // `resources:CLASS=N` replaces or adds; zero takes a class out.
    for (key, value) in &flavor.doc.extra_specs {
        if let (Some(class), Ok(amount)) = (key.strip_prefix("resources:"), value.parse::<u64>()) {
            all.retain(|(c, _)| c != class);
            all.push((class.to_string(), amount));
        }
    }
    all.retain(|(_, n)| *n > 0);
    Ok(all)
}

/// Resources and traits, as placement is asked for them.
pub fn requirements(server: &Server) -> Result<Requirements> {
    let (mut required, mut forbidden) = (Vec::new(), Vec::new());
    let image = server.doc.image.iter().flat_map(|i| &i.properties);
    for (key, value) in server.flavor()?.doc.extra_specs.iter().chain(image) {
        if let Some(name) = key.strip_prefix("trait:") {
            match value.as_str() {
                "required" => required.push(name.to_string()),
                "forbidden" => forbidden.push(name.to_string()),
                _ => {}
            }
        }
    }
    match cpus::of_server(server).threads {
        Threads::Prefer => {}
        Threads::Isolate => forbidden.push(THREADED.to_string()),
        Threads::Require => required.push(THREADED.to_string()),
    }
    Ok(Requirements { resources: resources(server)?, required, forbidden, ..Requirements::default() })
}

/// The best host for a server, apart from those in `ignored` (host ids), that has room for what its ports ask for too. `NoCapacity` when
/// there is none.
pub fn choose_in(tx: &Tx, placement: &Placement, server: &Server, ignored: &[String], groups: Vec<placement::Group>) -> Result<Choice> {
    choose_among_in(tx, placement, server, ignored, &HashMap::new(), groups)
}

/// As [`choose_in`], with what the hosts are to the server's volumes, which come along. Empty: it has none.
pub fn choose_among_in(
    tx: &Tx,
    placement: &Placement,
    server: &Server,
    ignored: &[String],
    places: &HashMap<String, Place>,
    groups: Vec<placement::Group>,
) -> Result<Choice> {
    let mut requirements = Requirements { groups, ..requirements(server)? };
    let asked = &server.doc.placement;
    let nodes = nodes::node_list_in(tx)?;
    let zones = nodes::zones_in(tx)?;
    let metadata = metadata_by_host_in(tx)?;
    if let Some(name) = asked.forced_host.as_ref().or(asked.requested_host.as_ref()) {
        requirements.in_providers = Some(nodes.iter().filter(|n| n.name == *name).map(|n| n.id.clone()).collect());
    }
    let candidates = placement.candidates_in(tx, &requirements, 1000)?;
    let group = group_in(tx, asked.group.as_deref(), &server.id)?;
    let mut states: Vec<HostState> = candidates.iter().filter_map(|c| state(c, &nodes, &zones, &metadata, group.as_ref())).collect();
    for state in &mut states {
        state.volumes = places.get(&state.node.id).cloned();
    }
    let has_volumes = !places.is_empty();
    // What keeps its volumes from any of these hosts, for who asks why there is none.
    let barred = states.iter().filter(|h| !ignored.contains(&h.node.id)).find_map(|h| h.volumes.as_ref()?.barred.clone());
    let none = || none(barred.as_deref().unwrap_or("There are not enough hosts available."));
    if asked.forced_host.is_some() {
        // Forcing a host goes past the filters, but not onto one that was tried, or cannot be reached by us or by its volumes.
        let reached = |h: &HostState| h.node.is_up() && filters::volumes(h, has_volumes);
        let found = states.into_iter().find(|h| reached(h) && !ignored.contains(&h.node.id));
        return found.map(choice).ok_or_else(none);
    }
    let same_host = (!asked.same_host.is_empty()).then(|| hosts_of_in(tx, &asked.same_host)).transpose()?;
    let wish = Wish {
        zone: asked.zone.clone(),
        requested_host: asked.requested_host.clone(),
        ignored: ignored.to_vec(),
        same_host,
        different_host: hosts_of_in(tx, &asked.different_host)?,
        group,
        image_properties: server.doc.image.as_ref().map(|i| i.properties.clone()).unwrap_or_default(),
        project_id: server.project_id.clone(),
        extra_specs: server.flavor()?.doc.extra_specs.clone(),
        has_volumes,
    };
    select(states, &wish).map(choice).ok_or_else(none)
}

/// Filters, then weighs; the best host, the first by name among equals.
pub fn select(hosts: Vec<HostState>, wish: &Wish) -> Option<HostState> {
    let mut left = hosts;
    for (name, passes) in FILTERS {
        let before = left.len();
        left.retain(|host| passes(host, wish));
        if left.is_empty() && before > 0 {
            tracing::info!(filter = name, before, "a filter left no host");
        }
    }
    weighers::best(left, wish)
}

fn none(why: &str) -> Error {
    Error::new(Kind::NoCapacity, format!("No valid host was found. {why}"))
}

fn choice(host: HostState) -> Choice {
    Choice { host_id: host.node.id, host: host.node.name, zone: host.zone }
}

fn state(
    candidate: &Candidate,
    nodes: &[Node],
    zones: &HashMap<String, String>,
    metadata: &HashMap<String, Vec<Metadata>>,
    group: Option<&Group>,
) -> Option<HostState> {
    let node = nodes.iter().find(|n| n.id == candidate.provider)?.clone();
    let free = |class: &str| {
        let stock = candidate.stock.iter().find(|s| s.inventory.class == class);
        stock.map_or(0.0, |s| s.inventory.capacity().saturating_sub(s.used) as f64)
    };
    Some(HostState {
        zone: zones.get(&node.name).cloned().unwrap_or_else(|| nodes::DEFAULT_ZONE.into()),
        aggregates: metadata.get(&node.name).cloned().unwrap_or_default(),
        // One of them was asked for.
        free_vcpus: free("VCPU") + free("PCPU"),
        free_memory_mb: free("MEMORY_MB"),
        free_disk_gb: free("DISK_GB"),
        group_members: group.and_then(|g| g.hosts.get(&node.id).copied()).unwrap_or(0),
        volumes: None,
        node,
    })
}

fn hosts_of_in(tx: &Tx, server_ids: &[String]) -> Result<HashSet<String>> {
    let rows = Select::new("SELECT host_id FROM server").in_list("id", server_ids).eq("deleted", 0).fetch(tx, |r| r.opt_text(0))?;
    Ok(rows.into_iter().flatten().collect())
}

/// Whether a server may be on this host as far as its group goes, now. For the transaction that puts it there: others of the
/// group may have been placed since the host was chosen, and none is until the transaction ends.
pub fn group_allows_in(tx: &Tx, server: &Server, host_id: &str) -> Result<bool> {
    let Some(id) = server.doc.placement.group.as_deref() else { return Ok(true) };
    tx.lock(&format!("compute/group/{id}"))?;
    let Some(group) = group_in(tx, Some(id), &server.id)? else { return Ok(true) };
    Ok(match group.policy.as_str() {
        "affinity" => group.hosts.is_empty() || group.hosts.contains_key(host_id),
        "anti-affinity" => group.hosts.get(host_id).copied().unwrap_or(0) < group.max_per_host,
        _ => true,
    })
}

fn group_in(tx: &Tx, id: Option<&str>, server_id: &str) -> Result<Option<Group>> {
    let Some(id) = id else { return Ok(None) };
    let found = tx.query_opt("SELECT policy, rules FROM server_group WHERE id = ?1", params![id], |r| {
        Ok((r.text(0)?, r.json::<serde_json::Value>(1)?))
    })?;
    let Some((policy, rules)) = found else { return Ok(None) };
    let max = rules["max_server_per_host"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    let mut hosts: HashMap<String, usize> = HashMap::new();
    let members = tx.query(
        "SELECT s.host_id FROM server_group_member m JOIN server s ON s.id = m.server_id \
         WHERE m.group_id = ?1 AND s.deleted = 0 AND s.id <> ?2 AND s.host_id IS NOT NULL",
        params![id, server_id],
        |r| r.text(0),
    )?;
    for host in members {
        *hosts.entry(host).or_default() += 1;
    }
    Ok(Some(Group { policy, max_per_host: max.max(1), hosts }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Timestamp;
    use rpc::message::HostInfo;

    fn host(name: &str, memory: f64) -> HostState {
        let node = Node {
            id: format!("id-{name}"),
            number: 1,
            service_id: String::new(),
            name: name.into(),
            info: HostInfo::default(),
            connected: true,
            disabled: false,
            disabled_reason: None,
            forced_down: false,
            lost: false,
            resting: false,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            service_updated_at: None,
            told: String::new(),
            fenced: false,
        };
        HostState {
            node,
            zone: "nova".into(),
            aggregates: Vec::new(),
            free_vcpus: 4.0,
            free_memory_mb: memory,
            free_disk_gb: 10.0,
            group_members: 0,
            volumes: None,
        }
    }

    fn chosen(hosts: Vec<HostState>, wish: &Wish) -> Option<String> {
        select(hosts, wish).map(|h| h.node.name)
    }

    #[test]
    fn the_most_free_memory_wins_and_names_decide_among_equals() {
        assert_eq!(chosen(vec![host("a", 1.0), host("b", 2.0)], &Wish::default()).unwrap(), "b");
        assert_eq!(chosen(vec![host("b", 1.0), host("a", 1.0)], &Wish::default()).unwrap(), "a");
        assert_eq!(chosen(vec![], &Wish::default()), None);
    }

    #[test]
    fn hosts_that_are_down_or_disabled_are_left_out() {
        let mut down = host("a", 9.0);
        down.node.connected = false;
        let mut disabled = host("b", 8.0);
        disabled.node.disabled = true;
        let mut forced = host("c", 7.0);
        forced.node.forced_down = true;
        assert_eq!(chosen(vec![down, disabled, forced, host("d", 1.0)], &Wish::default()).unwrap(), "d");
    }

    #[test]
    fn zones_retries_and_hints_narrow() {
        let mut east = host("a", 9.0);
        east.zone = "east".into();
        let wish = Wish { zone: Some("east".into()), ..Wish::default() };
        assert_eq!(chosen(vec![east.clone(), host("b", 99.0)], &wish).unwrap(), "a");
        let wish = Wish { ignored: vec!["id-a".into()], ..Wish::default() };
        assert_eq!(chosen(vec![east.clone()], &wish), None);
        let wish = Wish { same_host: Some(["id-b".to_string()].into()), ..Wish::default() };
        assert_eq!(chosen(vec![east.clone(), host("b", 1.0)], &wish).unwrap(), "b");
        let wish = Wish { different_host: ["id-a".to_string()].into(), ..Wish::default() };
        assert_eq!(chosen(vec![east, host("b", 1.0)], &wish).unwrap(), "b");
    }

    #[test]
    fn aggregates_take_what_their_metadata_let_in() {
        let metadata = |key: &str, value: &str| Metadata::from([(key.to_string(), value.to_string())]);
        let mut fast = host("a", 9.0);
        fast.aggregates = vec![metadata("disk", "ssd, nvme"), metadata("x", "y")];
        let mut rented = host("b", 8.0);
        rented.aggregates = vec![metadata("filter_tenant_id_1", "p1,p2")];
        let wish = |key: &str, value: &str, project: &str| Wish {
            extra_specs: [(key.to_string(), value.to_string())].into(),
            project_id: project.into(),
            ..Wish::default()
        };
        let both = || vec![fast.clone(), rented.clone()];
        assert_eq!(chosen(both(), &wish("aggregate_instance_extra_specs:disk", "nvme", "p1")).unwrap(), "a");
        assert_eq!(chosen(both(), &wish("aggregate_instance_extra_specs:disk", "hdd", "p1")), None);
        assert_eq!(chosen(vec![rented.clone()], &wish("disk", "nvme", "p2")).unwrap(), "b");
        assert_eq!(chosen(vec![rented.clone()], &wish("hw:x", "y", "p3")), None);
    }

    #[test]
    fn groups_keep_together_or_apart() {
        let with = |policy: &str, members: usize| {
            let mut a = host("a", 99.0);
            a.group_members = members;
            let hosts: HashMap<String, usize> = if members > 0 { [("id-a".to_string(), members)].into() } else { HashMap::new() };
            let group = Group { policy: policy.into(), max_per_host: 1, hosts };
            chosen(vec![a, host("b", 1.0)], &Wish { group: Some(group), ..Wish::default() })
        };
        assert_eq!(with("anti-affinity", 1).unwrap(), "b");
        assert_eq!(with("anti-affinity", 0).unwrap(), "a");
        assert_eq!(with("affinity", 1).unwrap(), "a");
        assert_eq!(with("soft-anti-affinity", 1).unwrap(), "b");
        assert_eq!(with("soft-affinity", 1).unwrap(), "a");
    }

    #[test]
    fn a_server_goes_where_most_of_its_volumes_are_or_can_come() {
        let at = |mut host: HostState, gib: i64, barred: Option<&str>| {
            host.volumes = Some(Place { gib, barred: barred.map(str::to_string) });
            host
        };
        let wish = Wish { has_volumes: true, ..Wish::default() };
        let all = || vec![at(host("a", 1.0), 5, None), at(host("b", 99.0), 1, None), at(host("c", 99.0), 0, None), host("d", 99.0)];
        assert_eq!(chosen(all(), &wish).unwrap(), "a", "what would have to be carried outweighs how full hosts are");
        let mut full = all();
        full[0].node.connected = false;
        assert_eq!(chosen(full, &wish).unwrap(), "b", "one without them will do");
        assert_eq!(chosen(vec![at(host("a", 9.0), 5, Some("no way")), host("d", 9.0)], &wish), None, "d keeps no volumes at all");
        assert_eq!(chosen(vec![host("d", 9.0)], &Wish::default()).unwrap(), "d");
    }

    #[test]
    fn image_properties_must_suit_the_host() {
        let wish = |key: &str, value: &str| Wish { image_properties: [(key.to_string(), value.to_string())].into(), ..Wish::default() };
        assert_eq!(chosen(vec![host("a", 1.0)], &wish("hw_architecture", "ppc64")), None);
        assert!(chosen(vec![host("a", 1.0)], &wish("architecture", "x86_64")).is_some());
        assert_eq!(chosen(vec![host("a", 1.0)], &wish("img_hv_type", "xen")), None);
        assert_eq!(chosen(vec![host("a", 1.0)], &wish("hw_vm_mode", "xen")), None);
    }
}
