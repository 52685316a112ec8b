//! Fault management: alarms that are set and cleared, the event log, suppression (StarlingX's FM API v1).
//!
//! An alarm is unique by its id and entity. Services raise them through [`Faults`] in their own transactions,
//! so that an alarm and its cause commit together.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod alarm;
mod api;
mod carry;
pub mod catalogue;
mod clients;
mod engine;
mod flap;
mod gauges;
mod history;
mod policy;
mod query;
mod snmp;
mod suppression;

pub use alarm::{Alarm, AlarmType, Severity, instance_entity};
pub use clients::Access;
pub use engine::{Active, EVENTS, HIERARCHICAL, Which};
pub use policy::RULES;

use std::sync::Arc;

use base::{Error, Result};
use service::{Core, Service};
use store::{Tx, params};

pub static MIGRATIONS: &[store::Migration] = &[
    store::Migration { name: "0001_fault", sql: include_str!("../migrations/0001_fault.sql") },
    store::Migration { name: "0002_obsolete", sql: include_str!("../migrations/0002_obsolete.sql") },
    store::Migration { name: "0003_entity_suppression", sql: include_str!("../migrations/0003_entity_suppression.sql") },
    store::Migration { name: "0004_flap", sql: include_str!("../migrations/0004_flap.sql") },
];

/// The service's handle. Cheap to clone.
#[derive(Clone)]
pub struct Faults {
    core: Core,
    /// Rows the event log keeps.
    log_size: i64,
    damping: flap::Damping,
    counters: clients::Counters,
    /// Those who do something after each event.
    wakes: Arc<[task::Nudge]>,
    snmp: Option<Arc<snmp::Snmp>>,
    /// How many more may follow the stream.
    followers: Arc<tokio::sync::Semaphore>,
}

/// More followers of the stream at a time are turned away.
const FOLLOWERS: usize = 128;

impl Faults {
    pub async fn new(core: Core) -> Result<Faults> {
        core.store.migrate("fault", MIGRATIONS).await?;
        suppressions_align(&core).await?;
        let log_size = i64::try_from(core.config.int("fault.event_log_size")).unwrap_or(i64::MAX).max(1);
        core.tasks.reconcile(Arc::new(history::History::new(&core)));
        core.tasks.reconcile(Arc::new(suppression::Expiry { store: core.store.clone() }));
        let mut wakes = vec![core.tasks.reconcile(Arc::new(gauges::Gauges::new(&core.store, &core.metrics)))];
        let syslog = match core.config.text("fault.syslog") {
            "" => None,
            to => Some(carry::syslog::Syslog { to: to.parse().map_err(|_| Error::invalid("`fault.syslog` must be ADDRESS:PORT"))? }),
        };
        wakes.extend(carried(&core, "fault.syslog", syslog).await?);
        wakes.extend(carried(&core, "fault.webhook", carry::webhook::Webhook::new(&core.config, &core.metrics)?).await?);
        let snmp = snmp::Snmp::new(&core.config, &core.store, &core.metrics)?;
        let traps = snmp.clone().filter(|snmp| snmp.has_sinks()).map(snmp::Traps);
        wakes.extend(carried(&core, "fault.traps", traps).await?);
        let counters = clients::Counters::new(&core.metrics);
        let followers = Arc::new(tokio::sync::Semaphore::new(FOLLOWERS));
        let damping = flap::Damping::new(&core.config);
        let faults = Faults { core, log_size, damping, counters, wakes: wakes.into(), snmp, followers };
        faults.core.tasks.reconcile(Arc::new(flap::Release { faults: faults.clone() }));
        Ok(faults)
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

    /// How many packets of C clients came to this end: `taken`, `refused`, `foreign`, `length`, `late`, `broken`, `unread`, `stranger`.
    pub fn client_packets(&self, outcome: &'static str) -> u64 {
        self.counters.of(outcome)
    }

    /// Those who carry events further look at once, when the transaction is durable.
    pub(crate) fn wake_in(&self, tx: &Tx) {
        self.wakes.iter().for_each(|wake| wake.nudge_after_commit(tx));
    }
}

/// Starts a way out that the configuration asks for. One that is no longer asked for keeps no events back.
async fn carried<W: carry::Way>(core: &Core, name: &'static str, way: Option<W>) -> Result<Option<task::Nudge>> {
    let Some(way) = way else {
        events::forget(&core.store, name).await?;
        return Ok(None);
    };
    // What happens from now on is its business, also before its first run.
    events::Feed::open_new(&core.store, name).await?;
    Ok(Some(core.tasks.reconcile(Arc::new(carry::Carrier { store: core.store.clone(), way }))))
}

/// Brings the suppression table in line with the catalogue: one row an alarm id. An id that the catalogue no longer has is
/// forgotten when nothing refers to it, and else hidden and no longer suppressed.
async fn suppressions_align(core: &Core) -> Result<()> {
    let ids = catalogue::alarm_ids();
    let sql = "SELECT alarm_id FROM event_suppression WHERE obsolete = 0 ORDER BY alarm_id";
    let present = core.store.read(|tx| tx.query(sql, params![], |row| row.text(0))).await?;
    if present == ids {
        return Ok(());
    }
    core.store
        .write(move |tx| {
            for id in ids.iter().filter(|id| !present.iter().any(|p| p == *id)) {
                tx.execute(
                    "INSERT INTO event_suppression (alarm_id, uuid, suppressed) VALUES (?1, ?2, 0)
                         ON CONFLICT (alarm_id) DO UPDATE SET obsolete = 0",
                    params![*id, base::id::uuid()],
                )?;
            }
            for id in present.iter().filter(|id| !ids.contains(&id.as_str())) {
                tx.execute("UPDATE event_suppression SET suppressed = 0, obsolete = 1 WHERE alarm_id = ?1", params![id])?;
                tx.execute(
                    "DELETE FROM event_suppression WHERE alarm_id = ?1 AND NOT EXISTS (SELECT 1 FROM alarm WHERE alarm_id = ?1)
                         AND NOT EXISTS (SELECT 1 FROM event_log WHERE event_log_id = ?1)",
                    params![id],
                )?;
            }
            Ok(())
        })
        .await
}
