//! The API: wire forms, version windows and handlers.

mod actions;
mod attachments;
mod body;
mod group_snapshots;
mod group_types;
mod groups;
mod info;
mod limits;
mod list;
mod messages;
mod metadata;
mod qos;
mod snapshots;
mod transfers;
mod types;
mod uploads;
mod volumes;

use base::{Error, Kind, Result};
use http_api::{Api, FaultStyle, Request, Routes, Table, Version};

use crate::{KIND, VERSIONS, Volumes};

pub fn routes(volumes: &Volumes) -> Result<Table> {
    let api = Api { service: KIND, style: FaultStyle::Compute, versions: Some(VERSIONS), head: false, slash: false };
    let routes = Routes::new(volumes.clone(), api)
        .public("GET", "/", info::versions)
        .public("GET", "/v3", info::version)
        .under_also("/v3", "/v3/{project_id}");
    let parts = [
        volumes::routes,
        actions::routes,
        metadata::routes,
        snapshots::routes,
        attachments::routes,
        types::routes,
        qos::routes,
        transfers::routes,
        limits::routes,
        messages::routes,
        group_types::routes,
        groups::routes,
        group_snapshots::routes,
        info::routes,
    ];
    parts.into_iter().fold(routes, |routes, add| add(routes)).build()
}

/// 404 of what this version does not have yet.
fn since(req: &Request, minor: u16) -> Result<()> {
    if req.version >= Version::new(3, minor) { Ok(()) } else { Err(Error::new(Kind::NotFound, "The resource could not be found.")) }
}

fn at_least(req: &Request, minor: u16) -> bool {
    req.version >= Version::new(3, minor)
}

/// Times in this API have microseconds and no zone.
fn time(at: base::Timestamp) -> String {
    at.iso_micros()
}
