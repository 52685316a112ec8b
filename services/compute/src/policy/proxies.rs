//! Rules of what compute passes on to other services before version 2.36. Theirs hold besides.

use policy::Rule;

use super::{ANYONE, MEMBER, READER, guard};

pub const RULES: &[Rule] = &[
    guard("os_compute_api:os-security-groups:get", READER, "List security groups, before version 2.36.", &[("GET", "/os-security-groups")]),
    guard(
        "os_compute_api:os-security-groups:show",
        READER,
        "Show a security group, before version 2.36.",
        &[("GET", "/os-security-groups/{security_group_id}")],
    ),
    guard(
        "os_compute_api:os-security-groups:create",
        MEMBER,
        "Create a security group, before version 2.36.",
        &[("POST", "/os-security-groups")],
    ),
    guard(
        "os_compute_api:os-security-groups:update",
        MEMBER,
        "Change a security group, before version 2.36.",
        &[("PUT", "/os-security-groups/{security_group_id}")],
    ),
    guard(
        "os_compute_api:os-security-groups:delete",
        MEMBER,
        "Delete a security group, before version 2.36.",
        &[("DELETE", "/os-security-groups/{security_group_id}")],
    ),
    guard(
        "os_compute_api:os-security-groups:rule:create",
        MEMBER,
        "Create a rule of a security group, before version 2.36.",
        &[("POST", "/os-security-group-rules")],
    ),
    guard(
        "os_compute_api:os-security-groups:rule:delete",
        MEMBER,
        "Delete a rule of a security group, before version 2.36.",
        &[("DELETE", "/os-security-group-rules/{security_group_id}")],
    ),
    guard("os_compute_api:os-networks:list", READER, "List networks, before version 2.36.", &[("GET", "/os-networks")]),
    guard("os_compute_api:os-networks:show", READER, "Show a network, before version 2.36.", &[("GET", "/os-networks/{network_id}")]),
    guard(
        "os_compute_api:os-tenant-networks:list",
        READER,
        "List networks with few attributes, before version 2.36.",
        &[("GET", "/os-tenant-networks")],
    ),
    guard(
        "os_compute_api:os-tenant-networks:show",
        READER,
        "Show few attributes of a network, before version 2.36.",
        &[("GET", "/os-tenant-networks/{network_id}")],
    ),
    guard(
        "os_compute_api:os-floating-ip-pools",
        ANYONE,
        "List the networks with floating addresses, before version 2.36.",
        &[("GET", "/os-floating-ip-pools")],
    ),
    guard("os_compute_api:os-floating-ips:list", READER, "List floating addresses, before version 2.36.", &[("GET", "/os-floating-ips")]),
    guard(
        "os_compute_api:os-floating-ips:create",
        MEMBER,
        "Take a floating address, before version 2.36.",
        &[("POST", "/os-floating-ips")],
    ),
    guard(
        "os_compute_api:os-floating-ips:show",
        READER,
        "Show a floating address, before version 2.36.",
        &[("GET", "/os-floating-ips/{floating_ip_id}")],
    ),
    guard(
        "os_compute_api:os-floating-ips:delete",
        MEMBER,
        "Give a floating address back, before version 2.36.",
        &[("DELETE", "/os-floating-ips/{floating_ip_id}")],
    ),
    guard("os_compute_api:os-volumes:list", READER, "List volumes, before version 2.36.", &[("GET", "/os-volumes")]),
    guard("os_compute_api:os-volumes:create", MEMBER, "Create a volume, before version 2.36.", &[("POST", "/os-volumes")]),
    guard("os_compute_api:os-volumes:detail", READER, "List volumes in detail, before version 2.36.", &[("GET", "/os-volumes/detail")]),
    guard("os_compute_api:os-volumes:show", READER, "Show a volume, before version 2.36.", &[("GET", "/os-volumes/{volume_id}")]),
    guard("os_compute_api:os-volumes:delete", MEMBER, "Delete a volume, before version 2.36.", &[("DELETE", "/os-volumes/{volume_id}")]),
    guard("os_compute_api:os-volumes:snapshots:list", READER, "List snapshots, before version 2.36.", &[("GET", "/os-snapshots")]),
    guard("os_compute_api:os-volumes:snapshots:create", MEMBER, "Create a snapshot, before version 2.36.", &[("POST", "/os-snapshots")]),
    guard(
        "os_compute_api:os-volumes:snapshots:detail",
        READER,
        "List snapshots in detail, before version 2.36.",
        &[("GET", "/os-snapshots/detail")],
    ),
    guard(
        "os_compute_api:os-volumes:snapshots:show",
        READER,
        "Show a snapshot, before version 2.36.",
        &[("GET", "/os-snapshots/{snapshot_id}")],
    ),
    guard(
        "os_compute_api:os-volumes:snapshots:delete",
        MEMBER,
        "Delete a snapshot, before version 2.36.",
        &[("DELETE", "/os-snapshots/{snapshot_id}")],
    ),
];
