//! What every service is made from ([`Core`]) and the one value it exports ([`Service`]).
//!
//! A service crate has `pub static RULES`, `pub static MIGRATIONS`, a handle type (`Network`: cheap to
//! clone, the only way in for other services), `Network::new(core, ...)`, which also registers its
//! operations and reconcilers with `core.tasks` and its [`HostListener`] with `core.hosts`, and
//! `Network::service()`, which returns the [`Service`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod carry;
mod hosts;
#[cfg(feature = "testing")]
pub mod testing;

use std::sync::Arc;

use base::{Config, Context, Result};

pub use hosts::{HostLinks, HostListener};

/// What a service stands on. Cheap to clone.
#[derive(Clone)]
pub struct Core {
    pub config: Arc<Config>,
    pub store: store::Store,
    pub policy: policy::Policy,
    pub tasks: task::Engine,
    pub hosts: HostLinks,
    pub metrics: http_api::metrics::Metrics,
}

impl Core {
    /// Whether `ctx` may do what `rule` of `service` guards, on `target`.
    pub fn authorize(&self, service: &'static str, rule: &str, ctx: &Context, target: &dyn policy::Target) -> Result<()> {
        self.policy.authorize(service, rule, ctx, target)
    }
}

/// Everything the rest of the program needs to know of a service; the catalogue, version documents,
/// coverage tables and policy samples are derived from it.
pub struct Service {
    /// Official service type, also its name in policies and faults: `network`.
    pub kind: &'static str,
    /// Code name clients print: `neutron`.
    pub name: &'static str,
    pub description: &'static str,
    /// Where the routes are mounted: `["/network"]`.
    pub mounts: &'static [&'static str],
    /// Path of the catalogue's endpoint: `/network`. `{project_id}` is replaced by the token's project.
    pub endpoint: &'static str,
    pub routes: http_api::Table,
}
