//! The API: wire forms, version windows and handlers. No SQL and no host calls in here.

mod aggregates;
mod consoles;
mod flavors;
mod hypervisors;
mod images;
mod keypairs;
mod migrations;
mod networks;
mod old_volumes;
mod older;
mod proxies;
mod quotas;
mod resources;
mod security_groups;
mod server_actions;
pub mod server_body;
mod server_extras;
mod server_groups;
mod server_life;
mod server_metadata;
mod server_nics;
mod server_parts;
mod server_query;
mod server_tags;
mod server_view;
mod servers;
mod services;
mod usage;
mod versions;
mod volumes;
mod zones;

use base::Result;
use http_api::{Api, FaultStyle, Routes, Table};

use crate::{Compute, VERSIONS};

/// The whole route table.
pub fn routes(compute: &Compute) -> Result<Table> {
    let api = Api { service: "compute", style: FaultStyle::Compute, versions: Some(VERSIONS), head: false, slash: false };
    let routes = Routes::new(compute.clone(), api).public("GET", "/", versions::index).public("GET", "/v2.1", versions::show);
    let routes = routes.public("GET", "/v2", versions::show_legacy);
    let routes = consoles::public(routes).under_also("/v2.1", "/v2.1/{project_id}").legacy_also("/v2", "/v2/{project_id}");
    let parts = [
        servers::routes,
        server_actions::routes,
        server_metadata::routes,
        server_tags::routes,
        server_parts::routes,
        server_nics::routes,
        migrations::routes,
        resources::routes,
        volumes::routes,
    ];
    parts.into_iter().fold(routes, |routes, add| add(routes)).build()
}
