//! Service parameters (inventory specification, section 8): what an operator sets of the site's services while they run. A value is
//! written down first, and holds from when its section is applied. Here are those of `platform maintenance`, the heartbeat's.

pub mod db;

use std::time::Duration;

use ::heartbeat::Rules;
use base::{Config, Error, Result};
use fault::{Alarm, Severity};
use serde::{Deserialize, Serialize};
use store::Tx;

use crate::Inventory;
use crate::hosts::entity;
use db::Parameter;

pub const PLATFORM: &str = "platform";
pub const MAINTENANCE: &str = "maintenance";
/// The configuration was changed.
const CONFIGURED: &str = "200.024";

const PERIOD: &str = "heartbeat_period";
const DEGRADE: &str = "heartbeat_degrade_threshold";
const LOSS: &str = "heartbeat_failure_threshold";
const ACTION: &str = "heartbeat_failure_action";
const MNFA: &str = "mnfa_threshold";
const MNFA_TIMEOUT: &str = "mnfa_timeout";

/// What may be set.
enum Values {
    Number(std::ops::RangeInclusive<u32>),
    /// The same, or 0 for what is said here.
    NumberOr(std::ops::RangeInclusive<u32>, &'static str),
    Word(&'static [&'static str]),
}

/// A parameter there is, with its default: a key of the configuration, or the value itself.
struct Known {
    name: &'static str,
    default: &'static str,
    values: Values,
}

/// Of `platform maintenance`; bounds are StarlingX's.
static KNOWN: [Known; 6] = [
    Known { name: PERIOD, default: "100", values: Values::Number(100..=1000) },
    Known { name: DEGRADE, default: "6", values: Values::Number(4..=100) },
    Known { name: LOSS, default: "10", values: Values::Number(10..=100) },
    Known { name: ACTION, default: "fail", values: Values::Word(&["fail", "degrade", "alarm", "none"]) },
    Known { name: MNFA, default: "heartbeat.mnfa_threshold", values: Values::NumberOr(2..=100, "more than half of the site") },
    Known { name: MNFA_TIMEOUT, default: "heartbeat.mnfa_timeout", values: Values::NumberOr(100..=86400, "as long as it lasts") },
];

impl Known {
    fn of(name: &str) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.name == name)
    }

    fn default<'a>(&'a self, config: &'a Config) -> &'a str {
        if self.default.contains('.') { config.text(self.default) } else { self.default }
    }

    fn check(&self, value: &str) -> Result<()> {
        let number = value.parse::<u32>().ok().filter(|number| number.to_string() == value);
        let (fits, what) = match &self.values {
            Values::Number(range) => (number.is_some_and(|n| range.contains(&n)), format!("from {} to {}", range.start(), range.end())),
            Values::NumberOr(range, zero) => {
                let what = format!("from {} to {}, or 0: {zero}", range.start(), range.end());
                (number.is_some_and(|n| n == 0 || range.contains(&n)), what)
            }
            Values::Word(words) => (words.contains(&value), format!("one of {}", words.join(", "))),
        };
        if fits { Ok(()) } else { Err(Error::invalid(format!("Parameter '{}': '{value}' is no value for it; it is {what}.", self.name))) }
    }
}

/// What follows when a host's heartbeat is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLoss {
    /// It is out of service, and what it has recovers elsewhere.
    #[default]
    Fail,
    Degrade,
    Alarm,
    Nothing,
}

impl OnLoss {
    fn of(word: &str) -> OnLoss {
        match word {
            "degrade" => OnLoss::Degrade,
            "alarm" => OnLoss::Alarm,
            "none" => OnLoss::Nothing,
            _ => OnLoss::Fail,
        }
    }

    pub(crate) fn degrades(self) -> bool {
        matches!(self, OnLoss::Fail | OnLoss::Degrade)
    }
}

impl Inventory {
    /// Notes down those that are new in this release.
    pub(crate) fn parameters_prepare_in(tx: &Tx) -> Result<()> {
        for known in &KNOWN {
            db::parameter_add_in(tx, PLATFORM, MAINTENANCE, known.name)?;
        }
        Ok(())
    }

    /// What is shown of one that has no value of its own.
    pub(crate) fn parameter_shown(&self, parameter: &Parameter) -> String {
        self.value_or_default(&parameter.name, &parameter.value)
    }

    fn value_or_default(&self, name: &str, value: &str) -> String {
        match (value, Known::of(name)) {
            ("", Some(known)) => known.default(&self.core.config).into(),
            _ => value.into(),
        }
    }

    /// Writes down another value, which holds when it is applied.
    pub(crate) fn parameter_set_in(&self, tx: &Tx, uuid: &str, value: &str) -> Result<Parameter> {
        let mut parameter = db::parameter_in(tx, uuid)?.ok_or_else(|| not_found(uuid))?;
        let known = Known::of(&parameter.name).ok_or_else(|| not_found(uuid))?;
        known.check(value)?;
        parameter.value = value.into();
        db::parameter_put_in(tx, &mut parameter)?;
        Ok(parameter)
    }

    /// All values of a service, or of one section of it, hold from now on.
    pub(crate) fn parameters_apply_in(&self, tx: &Tx, service: &str, section: Option<&str>) -> Result<()> {
        let of = |p: &Parameter| p.service == service && section.is_none_or(|section| p.section == section);
        let all: Vec<Parameter> = db::parameters_in(tx)?.into_iter().filter(of).collect();
        if all.is_empty() {
            let section = section.map(|section| format!(" {section}")).unwrap_or_default();
            return Err(Error::invalid(format!(
                "There are no service parameters of {service}{section}; known are those of platform maintenance."
            )));
        }
        let number = |name: &str| all.iter().find(|p| p.name == name).and_then(|p| self.parameter_shown(p).parse::<u32>().ok());
        if let (Some(degrade), Some(loss)) = (number(DEGRADE), number(LOSS))
            && degrade >= loss
        {
            return Err(Error::invalid(format!("Parameter '{DEGRADE}' is {degrade}: it must be less than '{LOSS}', which is {loss}.")));
        }
        let hosts = self.hosts_in(tx)?;
        let controller = hosts.iter().find(|host| host.personality == "controller").map_or("controller", |host| host.hostname.as_str());
        for mut parameter in all.into_iter().filter(|p| p.applied != p.value) {
            let (before, now) = (self.value_or_default(&parameter.name, &parameter.applied), self.parameter_shown(&parameter));
            parameter.applied = parameter.value.clone();
            db::parameter_put_in(tx, &mut parameter)?;
            let what = format!("{} {} {}", parameter.service, parameter.section, parameter.name);
            let text = format!("{controller}: service parameter {what} was changed from '{before}' to '{now}'");
            let of = format!("{}.event={}", entity(controller), parameter.name);
            self.faults.log_in(tx, &Alarm::known(CONFIGURED, of, Severity::None, text, ""))?;
        }
        self.hosts_on_loss_in(tx)
    }

    fn applied_in(&self, tx: &Tx, name: &str) -> Result<String> {
        let applied = db::parameter_applied_in(tx, PLATFORM, MAINTENANCE, name)?.unwrap_or_default();
        Ok(self.value_or_default(name, &applied))
    }

    /// What follows from a heartbeat that is lost, as it was applied last.
    pub(crate) fn on_loss_in(&self, tx: &Tx) -> Result<OnLoss> {
        Ok(OnLoss::of(&self.applied_in(tx, ACTION)?))
    }

    /// How silence is judged, as it was applied last.
    pub fn heartbeat_rules_in(&self, tx: &Tx) -> Result<Rules> {
        let number = |name: &str| Ok::<u64, Error>(self.applied_in(tx, name)?.parse().unwrap_or_default());
        let small = |name: &str| Ok::<u32, Error>(u32::try_from(number(name)?).unwrap_or(u32::MAX));
        Ok(Rules {
            period: Duration::from_millis(number(PERIOD)?),
            degrade: small(DEGRADE)?,
            loss: small(LOSS)?,
            fails: self.on_loss_in(tx)? == OnLoss::Fail,
            most: usize::try_from(number(MNFA)?).unwrap_or(usize::MAX),
            patience: Duration::from_secs(number(MNFA_TIMEOUT)?),
        })
    }
}

pub(crate) fn not_found(uuid: &str) -> Error {
    Error::new(base::Kind::NotFound, format!("Service parameter {uuid} not found."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_bounds_and_one_form() {
        let fits = |name: &str, value: &str| Known::of(name).unwrap().check(value).is_ok();
        for (name, least, most) in [(PERIOD, 100, 1000), (DEGRADE, 4, 100), (LOSS, 10, 100), (MNFA, 2, 100), (MNFA_TIMEOUT, 100, 86400)] {
            assert!(fits(name, &least.to_string()) && fits(name, &most.to_string()), "{name}");
            for wrong in
                [(least - 1).to_string(), (most + 1).to_string(), format!("0{least}"), format!("+{least}"), String::new(), "x".into()]
            {
                assert!(!fits(name, &wrong), "{name} {wrong}");
            }
        }
        assert!(fits(MNFA, "0") && fits(MNFA_TIMEOUT, "0") && !fits(PERIOD, "0"));
        assert!(fits(ACTION, "none") && !fits(ACTION, "None") && !fits(ACTION, ""));
        for known in &KNOWN {
            assert!(known.check(known.default(&Config::for_home("/nowhere"))).is_ok(), "{}", known.name);
        }
    }
}
