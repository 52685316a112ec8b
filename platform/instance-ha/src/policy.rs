//! Who may do what, under upstream's names.

use policy::Rule;

const ADMIN: &str = "rule:admin_api";

pub static RULES: &[Rule] = &[
    Rule::helper("context_is_admin", "role:admin", "The cloud's administrators."),
    Rule::helper("admin_api", "rule:context_is_admin", "Administrators; nobody else sees or changes anything here."),
    Rule::new("os_masakari_api:segments:index", ADMIN, "List failover segments.", &[("GET", "/segments")]),
    Rule::new("os_masakari_api:segments:detail", ADMIN, "Show a failover segment.", &[("GET", "/segments/{segment_id}")]),
    Rule::new("os_masakari_api:segments:create", ADMIN, "Create a failover segment.", &[("POST", "/segments")]),
    Rule::new("os_masakari_api:segments:update", ADMIN, "Change a failover segment.", &[("PUT", "/segments/{segment_id}")]),
    Rule::new("os_masakari_api:segments:delete", ADMIN, "Delete a failover segment.", &[("DELETE", "/segments/{segment_id}")]),
    Rule::new("os_masakari_api:os-hosts:index", ADMIN, "List the hosts of a segment.", &[("GET", "/segments/{segment_id}/hosts")]),
    Rule::new("os_masakari_api:os-hosts:detail", ADMIN, "Show a host of a segment.", &[("GET", "/segments/{segment_id}/hosts/{host_id}")]),
    Rule::new("os_masakari_api:os-hosts:create", ADMIN, "Take a host into a segment.", &[("POST", "/segments/{segment_id}/hosts")]),
    Rule::new(
        "os_masakari_api:os-hosts:update",
        ADMIN,
        "Change a host of a segment.",
        &[("PUT", "/segments/{segment_id}/hosts/{host_id}")],
    ),
    Rule::new(
        "os_masakari_api:os-hosts:delete",
        ADMIN,
        "Take a host out of a segment.",
        &[("DELETE", "/segments/{segment_id}/hosts/{host_id}")],
    ),
    Rule::new("os_masakari_api:notifications:index", ADMIN, "List notifications.", &[("GET", "/notifications")]),
    Rule::new("os_masakari_api:notifications:detail", ADMIN, "Show a notification.", &[("GET", "/notifications/{notification_id}")]),
    Rule::new("os_masakari_api:notifications:create", ADMIN, "Notify of a failure.", &[("POST", "/notifications")]),
    Rule::new(
        "os_masakari_api:vmoves:index",
        ADMIN,
        "List the moves of instances that followed from a notification.",
        &[("GET", "/notifications/{notification_id}/vmoves")],
    ),
    Rule::new(
        "os_masakari_api:vmoves:detail",
        ADMIN,
        "Show a move of an instance.",
        &[("GET", "/notifications/{notification_id}/vmoves/{vmove_id}")],
    ),
];
