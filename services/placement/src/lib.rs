//! The placement service (OpenStack Placement API).
//!
//! Providers have inventories of resource classes and traits; consumers hold allocations. [`claims`] is the
//! way in for the scheduler: it checks and writes in the caller's transaction.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod api;
mod change;
pub mod claims;
mod filter;
pub mod groups;
pub mod holdings;
mod index;
mod names;
mod policy;
mod search;

pub use claims::{Candidate, Child, Claim, Inventory, Requirements, Stock};
pub use groups::{Amounts, Group};
pub use holdings::Holding;

pub use policy::RULES;

use std::sync::Arc;

use base::Result;
use index::Live;
use service::{Core, Service};

pub static MIGRATIONS: &[store::Migration] = &[
    store::Migration { name: "0001_placement", sql: include_str!("../migrations/0001_placement.sql") },
    store::Migration { name: "0002_sums", sql: include_str!("../migrations/0002_sums.sql") },
    store::Migration { name: "0003_changes", sql: include_str!("../migrations/0003_changes.sql") },
];

/// The service's handle. Cheap to clone.
#[derive(Clone)]
pub struct Placement {
    pub(crate) core: Core,
    pub(crate) index: Arc<Live>,
}

impl Placement {
    /// The store its tables are in: for callers that join their writes with `..._in` functions.
    pub fn core_store(&self) -> &store::Store {
        &self.core.store
    }

    pub async fn new(core: Core) -> Result<Placement> {
        core.store.migrate("placement", MIGRATIONS).await?;
        let placement = Placement { core, index: Arc::default() };
        let follower = placement.clone();
        tokio::spawn(async move { follower.index.follow(&follower.core.store).await });
        Ok(placement)
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: "placement",
            name: "placement",
            description: "OpenStack Placement",
            mounts: &["/placement"],
            endpoint: "/placement",
            routes: api::routes(self.clone())?,
        })
    }
}
