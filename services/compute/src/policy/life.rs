//! Rules of what changes a server's life: images of it, other disks, sizes and hosts.

use policy::Rule;

use super::{ADMIN, MANAGER, MEMBER, guard};

pub const RULES: &[Rule] = &[
    guard("os_compute_api:os-suspend-server:suspend", MEMBER, "Suspend a server.", &[("POST", "/servers/{server_id}/action (suspend)")]),
    guard("os_compute_api:os-suspend-server:resume", MEMBER, "Resume a server.", &[("POST", "/servers/{server_id}/action (resume)")]),
    guard(
        "os_compute_api:os-admin-password",
        MEMBER,
        "Set the administrator's password of a server.",
        &[("POST", "/servers/{server_id}/action (changePassword)")],
    ),
    guard(
        "os_compute_api:servers:create_image",
        MEMBER,
        "Make an image of a server.",
        &[("POST", "/servers/{server_id}/action (createImage)")],
    ),
    guard(
        "os_compute_api:os-create-backup",
        MEMBER,
        "Make a backup of a server.",
        &[("POST", "/servers/{server_id}/action (createBackup)")],
    ),
    guard("os_compute_api:servers:rebuild", MEMBER, "Rebuild a server.", &[("POST", "/servers/{server_id}/action (rebuild)")]),
    guard(
        "os_compute_api:servers:rebuild:trusted_certs",
        MEMBER,
        "Rebuild a server with trusted image certificates.",
        &[("POST", "/servers/{server_id}/action (rebuild)")],
    ),
    guard("os_compute_api:os-rescue", MEMBER, "Rescue a server.", &[("POST", "/servers/{server_id}/action (rescue)")]),
    guard("os_compute_api:os-unrescue", MEMBER, "End the rescue of a server.", &[("POST", "/servers/{server_id}/action (unrescue)")]),
    guard("os_compute_api:servers:resize", MEMBER, "Resize a server.", &[("POST", "/servers/{server_id}/action (resize)")]),
    guard("os_compute_api:servers:confirm_resize", MEMBER, "Confirm a resize.", &[("POST", "/servers/{server_id}/action (confirmResize)")]),
    guard("os_compute_api:servers:revert_resize", MEMBER, "Revert a resize.", &[("POST", "/servers/{server_id}/action (revertResize)")]),
    guard(
        "os_compute_api:servers:trigger_crash_dump",
        MEMBER,
        "Have a server's kernel dump itself.",
        &[("POST", "/servers/{server_id}/action (trigger_crash_dump)")],
    ),
    guard(
        "os_compute_api:os-admin-actions:inject_network_info",
        ADMIN,
        "Tell a server again of its network.",
        &[("POST", "/servers/{server_id}/action (injectNetworkInfo)")],
    ),
    guard(
        "os_compute_api:os-migrate-server:migrate",
        MANAGER,
        "Move a server to another host.",
        &[("POST", "/servers/{server_id}/action (migrate)")],
    ),
    guard(
        "os_compute_api:os-migrate-server:migrate:host",
        ADMIN,
        "Move a server to a named host.",
        &[("POST", "/servers/{server_id}/action (migrate)")],
    ),
    guard(
        "os_compute_api:os-migrate-server:migrate_live",
        MANAGER,
        "Move a running server to another host.",
        &[("POST", "/servers/{server_id}/action (os-migrateLive)")],
    ),
    guard(
        "os_compute_api:os-migrate-server:migrate_live:host",
        ADMIN,
        "Move a running server to a named host.",
        &[("POST", "/servers/{server_id}/action (os-migrateLive)")],
    ),
    guard("os_compute_api:os-migrations:index", MANAGER, "List migrations.", &[("GET", "/os-migrations")]),
    guard("os_compute_api:os-migrations:index:all_projects", ADMIN, "List migrations of all projects.", &[("GET", "/os-migrations")]),
    guard("os_compute_api:os-migrations:index:host", ADMIN, "See the hosts of migrations.", &[("GET", "/os-migrations")]),
    guard(
        "os_compute_api:servers:migrations:index",
        MANAGER,
        "List a server's migrations that are under way.",
        &[("GET", "/servers/{server_id}/migrations")],
    ),
    guard(
        "os_compute_api:servers:migrations:index:host",
        ADMIN,
        "See the hosts of a server's migrations.",
        &[("GET", "/servers/{server_id}/migrations")],
    ),
    guard(
        "os_compute_api:servers:migrations:show",
        ADMIN,
        "Show a migration that is under way.",
        &[("GET", "/servers/{server_id}/migrations/{migration_id}")],
    ),
    guard(
        "os_compute_api:servers:migrations:force_complete",
        MANAGER,
        "Complete a migration at any price.",
        &[("POST", "/servers/{server_id}/migrations/{migration_id}/action (force_complete)")],
    ),
    guard(
        "os_compute_api:servers:migrations:delete",
        MANAGER,
        "Abort a migration.",
        &[("DELETE", "/servers/{server_id}/migrations/{migration_id}")],
    ),
    guard("os_compute_api:os-shelve:shelve", MEMBER, "Shelve a server.", &[("POST", "/servers/{server_id}/action (shelve)")]),
    guard(
        "os_compute_api:os-shelve:shelve_offload",
        ADMIN,
        "Give up the place of a shelved server.",
        &[("POST", "/servers/{server_id}/action (shelveOffload)")],
    ),
    guard(
        "os_compute_api:os-shelve:unshelve",
        MEMBER,
        "Take a server off the shelf.",
        &[("POST", "/servers/{server_id}/action (unshelve)")],
    ),
    guard(
        "os_compute_api:os-shelve:unshelve_to_host",
        ADMIN,
        "Take a server off the shelf onto a named host.",
        &[("POST", "/servers/{server_id}/action (unshelve)")],
    ),
    guard(
        "os_compute_api:os-attach-interfaces:create",
        MEMBER,
        "Give a server an interface.",
        &[("POST", "/servers/{server_id}/os-interface")],
    ),
    guard(
        "os_compute_api:os-attach-interfaces:delete",
        MEMBER,
        "Take an interface away from a server.",
        &[("DELETE", "/servers/{server_id}/os-interface/{port_id}")],
    ),
    guard(
        "os_compute_api:os-multinic:add",
        MEMBER,
        "Give a server an address, before version 2.44.",
        &[("POST", "/servers/{server_id}/action (addFixedIp)")],
    ),
    guard(
        "os_compute_api:os-multinic:remove",
        MEMBER,
        "Take an address away from a server, before version 2.44.",
        &[("POST", "/servers/{server_id}/action (removeFixedIp)")],
    ),
    guard(
        "os_compute_api:os-floating-ips:add",
        MEMBER,
        "Lead a floating address to a server, before version 2.44.",
        &[("POST", "/servers/{server_id}/action (addFloatingIp)")],
    ),
    guard(
        "os_compute_api:os-floating-ips:remove",
        MEMBER,
        "Lead a floating address away from a server, before version 2.44.",
        &[("POST", "/servers/{server_id}/action (removeFloatingIp)")],
    ),
];
