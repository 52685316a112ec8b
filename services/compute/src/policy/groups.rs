//! Rules of aggregates and server groups.

use policy::Rule;

use super::{ADMIN, MEMBER, READER, guard};

pub const RULES: &[Rule] = &[
    guard("os_compute_api:os-aggregates:index", ADMIN, "List aggregates.", &[("GET", "/os-aggregates")]),
    guard("os_compute_api:os-aggregates:show", ADMIN, "Show an aggregate.", &[("GET", "/os-aggregates/{aggregate_id}")]),
    guard("os_compute_api:os-aggregates:create", ADMIN, "Create an aggregate.", &[("POST", "/os-aggregates")]),
    guard(
        "os_compute_api:os-aggregates:update",
        ADMIN,
        "Change an aggregate's name or availability zone.",
        &[("PUT", "/os-aggregates/{aggregate_id}")],
    ),
    guard("os_compute_api:os-aggregates:delete", ADMIN, "Delete an aggregate.", &[("DELETE", "/os-aggregates/{aggregate_id}")]),
    guard(
        "os_compute_api:os-aggregates:add_host",
        ADMIN,
        "Add a host to an aggregate.",
        &[("POST", "/os-aggregates/{aggregate_id}/action (add_host)")],
    ),
    guard(
        "os_compute_api:os-aggregates:remove_host",
        ADMIN,
        "Remove a host from an aggregate.",
        &[("POST", "/os-aggregates/{aggregate_id}/action (remove_host)")],
    ),
    guard(
        "os_compute_api:os-aggregates:set_metadata",
        ADMIN,
        "Change an aggregate's metadata.",
        &[("POST", "/os-aggregates/{aggregate_id}/action (set_metadata)")],
    ),
    guard(
        "compute:aggregates:images",
        ADMIN,
        "Have an aggregate's hosts fetch images ahead of use.",
        &[("POST", "/os-aggregates/{aggregate_id}/images")],
    ),
    guard("os_compute_api:os-server-groups:index", READER, "List server groups.", &[("GET", "/os-server-groups")]),
    guard(
        "os_compute_api:os-server-groups:index:all_projects",
        ADMIN,
        "List the server groups of all projects.",
        &[("GET", "/os-server-groups")],
    ),
    guard("os_compute_api:os-server-groups:show", READER, "Show a server group.", &[("GET", "/os-server-groups/{server_group_id}")]),
    guard("os_compute_api:os-server-groups:create", MEMBER, "Create a server group.", &[("POST", "/os-server-groups")]),
    guard("os_compute_api:os-server-groups:delete", MEMBER, "Delete a server group.", &[("DELETE", "/os-server-groups/{server_group_id}")]),
];
