//! Rules of servers' volumes.

use policy::Rule;

use super::{ADMIN, MEMBER, READER, guard};

pub const RULES: &[Rule] = &[
    guard(
        "os_compute_api:os-volumes-attachments:index",
        READER,
        "List the volumes of a server.",
        &[("GET", "/servers/{server_id}/os-volume_attachments")],
    ),
    guard(
        "os_compute_api:os-volumes-attachments:show",
        READER,
        "Show a volume of a server.",
        &[("GET", "/servers/{server_id}/os-volume_attachments/{volume_id}")],
    ),
    guard(
        "os_compute_api:os-volumes-attachments:create",
        MEMBER,
        "Attach a volume to a server.",
        &[("POST", "/servers/{server_id}/os-volume_attachments")],
    ),
    guard(
        "os_compute_api:os-volumes-attachments:update",
        MEMBER,
        "Change whether a volume goes with its server.",
        &[("PUT", "/servers/{server_id}/os-volume_attachments/{volume_id}")],
    ),
    guard(
        "os_compute_api:os-volumes-attachments:swap",
        ADMIN,
        "Put another volume in the place of one.",
        &[("PUT", "/servers/{server_id}/os-volume_attachments/{volume_id}")],
    ),
    guard(
        "os_compute_api:os-volumes-attachments:delete",
        MEMBER,
        "Detach a volume from a server.",
        &[("DELETE", "/servers/{server_id}/os-volume_attachments/{volume_id}")],
    ),
];
