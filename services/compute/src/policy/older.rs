//! Rules of usage reports, of what old versions had, and of small things below servers.

use policy::Rule;

use super::{ADMIN, ANYONE, MEMBER, READER, guard};

pub const RULES: &[Rule] = &[
    guard("os_compute_api:os-simple-tenant-usage:list", ADMIN, "List the usage of all projects.", &[("GET", "/os-simple-tenant-usage")]),
    guard(
        "os_compute_api:os-simple-tenant-usage:show",
        READER,
        "Show the usage of a project.",
        &[("GET", "/os-simple-tenant-usage/{tenant_id}")],
    ),
    guard(
        "os_compute_api:os-instance-usage-audit-log:list",
        ADMIN,
        "List the audits of the last month.",
        &[("GET", "/os-instance_usage_audit_log")],
    ),
    guard(
        "os_compute_api:os-instance-usage-audit-log:show",
        ADMIN,
        "List the audits of the month before a time.",
        &[("GET", "/os-instance_usage_audit_log/{before_timestamp}")],
    ),
    guard("os_compute_api:os-hosts:list", ADMIN, "List hosts, before version 2.43.", &[("GET", "/os-hosts")]),
    guard("os_compute_api:os-hosts:show", ADMIN, "Show a host, before version 2.43.", &[("GET", "/os-hosts/{host_name}")]),
    guard("os_compute_api:os-hosts:update", ADMIN, "Change a host, before version 2.43.", &[("PUT", "/os-hosts/{host_name}")]),
    guard("os_compute_api:os-hosts:reboot", ADMIN, "Reboot a host, before version 2.43.", &[("GET", "/os-hosts/{host_name}/reboot")]),
    guard(
        "os_compute_api:os-hosts:shutdown",
        ADMIN,
        "Switch a host off, before version 2.43.",
        &[("GET", "/os-hosts/{host_name}/shutdown")],
    ),
    guard("os_compute_api:os-hosts:start", ADMIN, "Switch a host on, before version 2.43.", &[("GET", "/os-hosts/{host_name}/startup")]),
    guard(
        "os_compute_api:extensions",
        ANYONE,
        "List what once were extensions.",
        &[("GET", "/extensions"), ("GET", "/extensions/{alias}")],
    ),
    guard("compute:server:topology:index", READER, "Show a server's NUMA topology.", &[("GET", "/servers/{server_id}/topology")]),
    guard(
        "compute:server:topology:host:index",
        ADMIN,
        "See where on the host a server's NUMA nodes are; guests have none so far.",
        &[("GET", "/servers/{server_id}/topology")],
    ),
    guard(
        "os_compute_api:os-server-password:show",
        READER,
        "Show the encrypted password of a server.",
        &[("GET", "/servers/{server_id}/os-server-password")],
    ),
    guard(
        "os_compute_api:os-server-password:clear",
        MEMBER,
        "Forget the encrypted password of a server.",
        &[("DELETE", "/servers/{server_id}/os-server-password")],
    ),
    guard(
        "os_compute_api:os-server-external-events:create",
        "rule:service_api",
        "Tell compute of events of servers, as other services do.",
        &[("POST", "/os-server-external-events")],
    ),
];
