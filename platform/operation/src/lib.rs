//! Durable operations as a resource of their own: what is under way, how far it is, what came of it, and cancelling.
//!
//! Sturnus's own API; no OpenStack service has it. Every service's operations show here, whatever their kind.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod api;
mod policy;

pub use policy::RULES;

use base::Result;
use service::{Core, Service};

/// The service's handle. Cheap to clone.
#[derive(Clone)]
pub struct Operations {
    core: Core,
}

impl Operations {
    pub fn new(core: Core) -> Operations {
        Operations { core }
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: "operation",
            name: "sturnus",
            description: "Durable operations",
            mounts: &["/operation"],
            endpoint: "/operation",
            routes: api::routes(self.clone())?,
        })
    }
}
