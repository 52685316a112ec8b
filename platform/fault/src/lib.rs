//! Fault management: alarms that are set and cleared, the event log, suppression (StarlingX's FM API v1).
//!
//! An alarm is unique by its id and entity. Services raise them through [`Faults`] in their own transactions,
//! so that an alarm and its cause commit together.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod alarm;
mod api;
pub mod catalogue;
mod engine;
mod policy;
mod query;

pub use alarm::{Alarm, AlarmType, Severity, instance_entity};
pub use policy::RULES;

use base::Result;
use service::{Core, Service};
use store::params;

pub static MIGRATIONS: &[store::Migration] = &[store::Migration { name: "0001_fault", sql: include_str!("../migrations/0001_fault.sql") }];

/// The service's handle. Cheap to clone.
#[derive(Clone)]
pub struct Faults {
    core: Core,
}

impl Faults {
    pub async fn new(core: Core) -> Result<Faults> {
        core.store.migrate("fault", MIGRATIONS).await?;
        suppressions_seed(&core).await?;
        Ok(Faults { core })
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: "faultmanagement",
            name: "fm",
            description: "Fault Management",
            mounts: &["/fault"],
            endpoint: "/fault",
            routes: api::routes(self.clone())?,
        })
    }
}

/// Brings the suppression table in line with the catalogue: one row an alarm id.
async fn suppressions_seed(core: &Core) -> Result<()> {
    let ids = catalogue::alarm_ids();
    let present = core.store.read(|tx| tx.query_one("SELECT COUNT(*) FROM event_suppression", params![], |row| row.count(0))).await?;
    if present == ids.len() as u64 {
        return Ok(());
    }
    core.store
        .write(move |tx| {
            for id in &ids {
                tx.execute(
                    "INSERT INTO event_suppression (alarm_id, uuid, suppressed) VALUES (?1, ?2, 0) ON CONFLICT DO NOTHING",
                    params![*id, base::id::uuid()],
                )?;
            }
            Ok(())
        })
        .await
}
