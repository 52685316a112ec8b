//! `/v3/OS-FEDERATION`.

mod mappings;
mod protocols;
mod providers;
mod saml;
mod service_providers;
mod websso;

use super::R;
use super::auth::create_federated;

pub fn routes(routes: R) -> R {
    const AUTH: &str = "/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/auth";
    let routes = routes.public("GET", AUTH, create_federated).public("POST", AUTH, create_federated);
    let routes = super::auth::reach_routes(routes, "/v3/OS-FEDERATION/projects", "/v3/OS-FEDERATION/domains");
    let routes = websso::routes(routes);
    saml::routes(service_providers::routes(mappings::routes(protocols::routes(providers::routes(routes)))))
}
