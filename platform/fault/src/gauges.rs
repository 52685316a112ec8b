//! How many alarms there are, for who scrapes metrics.

use std::time::Duration;

use async_trait::async_trait;
use base::{Result, Timestamp};
use http_api::metrics::Metrics;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use store::{Store, params};
use task::Reconciler;

use crate::Severity;
use crate::suppression::hidden_until;

/// By this name it is nudged.
pub(crate) const NAME: &str = "fault.gauges";

/// Counts what an operator sees in the summary, and what is hidden from him.
pub(crate) struct Gauges {
    store: Store,
    alarms: Family<[(&'static str, &'static str); 1], Gauge>,
    hidden: Family<[(&'static str, &'static str); 1], Gauge>,
}

impl Gauges {
    pub fn new(store: &Store, metrics: &Metrics) -> Gauges {
        let gauges = Gauges { store: store.clone(), alarms: Family::default(), hidden: Family::default() };
        metrics.register("fault_alarms", "Active alarms that are shown, by severity", gauges.alarms.clone());
        metrics.register("fault_alarms_hidden", "Active alarms that are masked or suppressed", gauges.hidden.clone());
        gauges
    }
}

#[async_trait]
impl Reconciler for Gauges {
    fn name(&self) -> &'static str {
        NAME
    }
    fn every(&self) -> Duration {
        Duration::from_secs(60)
    }
    fn everywhere(&self) -> bool {
        true
    }
    async fn run(&self) -> Result<()> {
        let hidden = hidden_until("a.alarm_id", "a.entity_instance_id", "1 = 1");
        let sql = format!(
            "SELECT severity, masked, suppressed, COUNT(*) FROM (SELECT a.severity, a.masked, CASE WHEN {hidden} > ?1 THEN 1 ELSE 0 END AS suppressed
             FROM alarm a) counted GROUP BY severity, masked, suppressed"
        );
        let now = Timestamp::now();
        let rows =
            self.store.read(|tx| tx.query(&sql, params![now], |row| Ok((row.int(0)?, row.flag(1)?, row.flag(2)?, row.int(3)?)))).await?;
        let count = |which: &dyn Fn(i64, bool, bool) -> bool| -> i64 {
            rows.iter().filter(|(severity, masked, suppressed, _)| which(*severity, *masked, *suppressed)).map(|row| row.3).sum()
        };
        for severity in [Severity::Critical, Severity::Major, Severity::Minor, Severity::Warning] {
            let shown = count(&|of, masked, suppressed| of == severity as i64 && !masked && !suppressed);
            self.alarms.get_or_create(&[("severity", severity.word())]).set(shown);
        }
        self.hidden.get_or_create(&[("reason", "masked")]).set(count(&|_, masked, _| masked));
        self.hidden.get_or_create(&[("reason", "suppressed")]).set(count(&|_, masked, suppressed| suppressed && !masked));
        Ok(())
    }
}
