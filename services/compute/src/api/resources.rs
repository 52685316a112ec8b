//! Routes of flavors, keys, limits and hosts.

use http_api::Routes;

use super::{
    aggregates, consoles, flavors, hypervisors, images, keypairs, networks, old_volumes, older, quotas, security_groups, server_extras,
    server_groups, services, usage, zones,
};
use crate::Compute;

/// Adds the routes; all lie below `/v2.1` and `/v2.1/{project_id}`.
pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    let parts = [
        flavors::routes,
        keypairs::routes,
        quotas::routes,
        zones::routes,
        services::routes,
        hypervisors::routes,
        aggregates::routes,
        server_groups::routes,
        consoles::routes,
        server_extras::routes,
        usage::routes,
        older::routes,
        security_groups::routes,
        networks::routes,
        images::routes,
        old_volumes::routes,
    ];
    parts.into_iter().fold(routes, |routes, add| add(routes))
}
