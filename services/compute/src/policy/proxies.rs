//! Rules of what compute passes on to other services before version 2.36. Theirs hold besides.

use policy::Rule;

use super::{MEMBER, READER, guard};

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
];
