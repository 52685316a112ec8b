//! Rules of flavors, keys, limits and hosts.

use policy::Rule;

use super::{ADMIN, ANYONE, READER, guard};

const OWN_KEYS: &str = "(rule:context_is_admin) or user_id:%(user_id)s";

pub const RULES: &[Rule] = &[
    guard("os_compute_api:os-flavor-manage:create", ADMIN, "Create a flavor.", &[("POST", "/flavors")]),
    guard("os_compute_api:os-flavor-manage:update", ADMIN, "Change a flavor's description.", &[("PUT", "/flavors/{flavor_id}")]),
    guard("os_compute_api:os-flavor-manage:delete", ADMIN, "Delete a flavor.", &[("DELETE", "/flavors/{flavor_id}")]),
    guard(
        "os_compute_api:os-flavor-access",
        ADMIN,
        "List who may use a private flavor.",
        &[("GET", "/flavors/{flavor_id}/os-flavor-access")],
    ),
    guard(
        "os_compute_api:os-flavor-access:add_tenant_access",
        ADMIN,
        "Let a project use a private flavor.",
        &[("POST", "/flavors/{flavor_id}/action (addTenantAccess)")],
    ),
    guard(
        "os_compute_api:os-flavor-access:remove_tenant_access",
        ADMIN,
        "Take a private flavor from a project.",
        &[("POST", "/flavors/{flavor_id}/action (removeTenantAccess)")],
    ),
    guard(
        "os_compute_api:os-flavor-extra-specs:index",
        READER,
        "List a flavor's extra specs.",
        &[("GET", "/flavors/{flavor_id}/os-extra_specs")],
    ),
    guard(
        "os_compute_api:os-flavor-extra-specs:show",
        READER,
        "Show one of a flavor's extra specs.",
        &[("GET", "/flavors/{flavor_id}/os-extra_specs/{key}")],
    ),
    guard(
        "os_compute_api:os-flavor-extra-specs:create",
        ADMIN,
        "Add extra specs to a flavor.",
        &[("POST", "/flavors/{flavor_id}/os-extra_specs")],
    ),
    guard(
        "os_compute_api:os-flavor-extra-specs:update",
        ADMIN,
        "Set one of a flavor's extra specs.",
        &[("PUT", "/flavors/{flavor_id}/os-extra_specs/{key}")],
    ),
    guard(
        "os_compute_api:os-flavor-extra-specs:delete",
        ADMIN,
        "Delete one of a flavor's extra specs.",
        &[("DELETE", "/flavors/{flavor_id}/os-extra_specs/{key}")],
    ),
    guard("os_compute_api:os-keypairs:index", OWN_KEYS, "List keys.", &[("GET", "/os-keypairs")]),
    guard("os_compute_api:os-keypairs:show", OWN_KEYS, "Show a key.", &[("GET", "/os-keypairs/{name}")]),
    guard("os_compute_api:os-keypairs:create", OWN_KEYS, "Create or import a key.", &[("POST", "/os-keypairs")]),
    guard("os_compute_api:os-keypairs:delete", OWN_KEYS, "Delete a key.", &[("DELETE", "/os-keypairs/{name}")]),
    guard("os_compute_api:limits", ANYONE, "Show the limits of one's own project.", &[("GET", "/limits")]),
    guard("os_compute_api:limits:other_project", ADMIN, "Show the limits of another project.", &[("GET", "/limits")]),
    guard("os_compute_api:os-quota-sets:show", READER, "Show a project's quotas.", &[("GET", "/os-quota-sets/{project_id}")]),
    guard(
        "os_compute_api:os-quota-sets:detail",
        READER,
        "Show a project's quotas with what is used.",
        &[("GET", "/os-quota-sets/{project_id}/detail")],
    ),
    guard("os_compute_api:os-quota-sets:defaults", ANYONE, "Show the default quotas.", &[("GET", "/os-quota-sets/{project_id}/defaults")]),
    guard("os_compute_api:os-quota-sets:update", ADMIN, "Change a project's quotas.", &[("PUT", "/os-quota-sets/{project_id}")]),
    guard("os_compute_api:os-quota-sets:delete", ADMIN, "Reset a project's quotas.", &[("DELETE", "/os-quota-sets/{project_id}")]),
    guard("os_compute_api:os-quota-class-sets:show", ADMIN, "Show the quotas of a class.", &[("GET", "/os-quota-class-sets/{class}")]),
    guard("os_compute_api:os-quota-class-sets:update", ADMIN, "Change the quotas of a class.", &[("PUT", "/os-quota-class-sets/{class}")]),
    guard("os_compute_api:os-availability-zone:list", ANYONE, "List availability zones.", &[("GET", "/os-availability-zone")]),
    guard(
        "os_compute_api:os-availability-zone:detail",
        ADMIN,
        "List availability zones with their hosts.",
        &[("GET", "/os-availability-zone/detail")],
    ),
    guard("os_compute_api:os-services:list", ADMIN, "List compute services.", &[("GET", "/os-services")]),
    guard(
        "os_compute_api:os-services:update",
        ADMIN,
        "Enable, disable or force down a compute service.",
        &[("PUT", "/os-services/{service_id}")],
    ),
    guard(
        "os_compute_api:os-services:delete",
        ADMIN,
        "Delete the service of a host that is gone.",
        &[("DELETE", "/os-services/{service_id}")],
    ),
    guard("os_compute_api:os-hypervisors:list", ADMIN, "List hypervisors.", &[("GET", "/os-hypervisors")]),
    guard("os_compute_api:os-hypervisors:list-detail", ADMIN, "List hypervisors with details.", &[("GET", "/os-hypervisors/detail")]),
    guard("os_compute_api:os-hypervisors:statistics", ADMIN, "Sum up all hypervisors.", &[("GET", "/os-hypervisors/statistics")]),
    guard("os_compute_api:os-hypervisors:show", ADMIN, "Show a hypervisor.", &[("GET", "/os-hypervisors/{hypervisor_id}")]),
    guard(
        "os_compute_api:os-hypervisors:uptime",
        ADMIN,
        "Show how long a hypervisor has been up.",
        &[("GET", "/os-hypervisors/{hypervisor_id}/uptime")],
    ),
    guard("os_compute_api:os-hypervisors:search", ADMIN, "Find hypervisors by name.", &[("GET", "/os-hypervisors/{pattern}/search")]),
    guard(
        "os_compute_api:os-hypervisors:servers",
        ADMIN,
        "List the servers of hypervisors found by name.",
        &[("GET", "/os-hypervisors/{pattern}/servers")],
    ),
];
