//! `/v3/OS-FEDERATION`.

mod mappings;
mod protocols;
mod providers;
mod service_providers;

use super::R;

pub fn routes(routes: R) -> R {
    let routes = super::auth::reach_routes(routes, "/v3/OS-FEDERATION/projects", "/v3/OS-FEDERATION/domains");
    service_providers::routes(mappings::routes(protocols::routes(providers::routes(routes))))
}
