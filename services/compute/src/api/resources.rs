//! Routes of flavors, keys, limits and hosts.

use http_api::Routes;

use super::{flavors, hypervisors, keypairs, quotas, services, zones};
use crate::Compute;

/// Adds the routes; all lie below `/v2.1` and `/v2.1/{project_id}`.
pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    [flavors::routes, keypairs::routes, quotas::routes, zones::routes, services::routes, hypervisors::routes]
        .into_iter()
        .fold(routes, |routes, add| add(routes))
}
