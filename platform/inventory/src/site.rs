//! What is known of the site as a whole: in which boot of its machine the controller ran last, and whether all of the site has lost
//! its power (maintenance specification, section 5, "DOR"; VIM specification, section 3, "multi-node recovery").

use base::{Result, Timestamp};
use fault::{Alarm, Severity};
use serde::{Deserialize, Serialize};
use store::{Tx, Value, params};

use crate::Inventory;

/// The site recovers from an outage of all of it.
const RECOVERING: &str = "700.016";
const ENTERED: &str = "700.216";
const LEFT: &str = "700.217";
const ENTITY: &str = "subsystem=vim";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Site {
    /// The boot of the controller's machine that was seen last.
    pub boot: String,
    /// When the site came back from an outage of all of it; none: it is over.
    pub outage: Option<Timestamp>,
}

impl Inventory {
    pub fn site_in(&self, tx: &Tx) -> Result<Site> {
        Ok(tx.query_opt("SELECT doc FROM site WHERE id = 1", &[], |row| row.json(0))?.unwrap_or_default())
    }

    /// Notes it down. An outage that begins or is over is told of.
    pub fn site_put_in(&self, tx: &Tx, site: &Site) -> Result<()> {
        let before = self.site_in(tx)?;
        let sql = "INSERT INTO site (id, doc) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc";
        tx.execute(sql, params![Value::json(site)?])?;
        let log = |id, text: &str| self.faults.log_in(tx, &Alarm::known(id, ENTITY.into(), Severity::Critical, text.into(), ""));
        match (before.outage, site.outage) {
            (None, Some(_)) => {
                let text = "Multi-Node Recovery Mode";
                let repair =
                    "The hosts of the site are waited for; no action is needed. What runs on hosts that do not come is recovered then.";
                self.faults.alarm_set_in(tx, &Alarm::known(RECOVERING, ENTITY.into(), Severity::Minor, text.into(), repair))?;
                log(ENTERED, "Multi-Node Recovery Mode entered")
            }
            (Some(_), None) => {
                self.faults.alarm_clear_in(tx, RECOVERING, ENTITY)?;
                log(LEFT, "Multi-Node Recovery Mode left")
            }
            _ => Ok(()),
        }
    }
}
