//! What every API of the cloud shares: a route table that is data, microversions, faults in each service's
//! own form, paging, streaming bodies, and the server itself.
//!
//! A service builds one [`Routes`] and hands it over; [`App`] mounts them all and answers requests:
//! request id → route → token → microversion → body → handler → fault.
//!
//! ```text
//! fn routes(network: Network) -> Routes<Network> {
//!     Routes::new(network, Api { service: "network", style: FaultStyle::Network, versions: None, head: true, slash: true })
//!         .public("GET", "/", versions)
//!         .get("/v2.0/networks", networks::index)
//!         .post("/v2.0/networks", networks::create)
//!         .get("/v2.0/networks/{id}", networks::show)
//! }
//! async fn show(network: Network, req: Request) -> Result<Response> {
//!     let view = network.network_show(&req.ctx, req.param("id")).await?;
//!     json(200, &serde_json::json!({ "network": view }))
//! }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod access;
pub mod app;
pub mod body;
pub mod certificate;
pub mod fault;
pub mod metrics;
pub mod page;
pub mod peer;
pub mod query;
pub mod request;
pub mod response;
pub mod routes;
pub mod server;
pub mod tls;
pub mod version;
pub mod websocket;

pub use app::{App, Asked, Authenticate};
pub use certificate::{Certificate, Proxies};
pub use fault::FaultStyle;
pub use page::{Page, SortDir};
pub use peer::Peer;
pub use query::Query;
pub use request::Request;
pub use response::{Response, empty, json, text};
pub use routes::{Api, RouteInfo, Routes, Table};
pub use version::{Version, Versions};
