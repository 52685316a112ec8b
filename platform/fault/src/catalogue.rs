//! The catalogue of known alarms and logs, from `catalogue.tsv`: one line an id, whose columns its first line names.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::alarm::{AlarmType, Severity, cause_known};

/// Suppressions are described by no more than this.
const DESCRIPTION: usize = 250;

/// What is known of an id beforehand.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub id: &'static str,
    /// Else it is a log.
    pub is_alarm: bool,
    /// Those it is raised with; the first is its usual one.
    pub severities: Vec<Severity>,
    /// Patterns of the entities it is raised on.
    pub entity: &'static str,
    /// One, or several from which the code that raises it chooses.
    pub types: Vec<AlarmType>,
    pub probable_cause: u8,
    affecting: Affecting,
    /// Whether hierarchy may mask it; a log cannot be.
    pub suppressible: Option<bool>,
    /// The lowest severity that counts; none: it never does.
    pub mgmt_affecting: Option<Severity>,
    pub degrade_affecting: Option<Severity>,
    pub meaning: &'static str,
}

/// Whether service is affected.
#[derive(Clone, Debug, PartialEq)]
enum Affecting {
    Always(bool),
    Of(Vec<(Severity, bool)>),
}

impl Known {
    pub fn severity(&self) -> Severity {
        self.severities.first().copied().unwrap_or(Severity::None)
    }

    pub fn service_affecting(&self, severity: Severity) -> bool {
        match &self.affecting {
            Affecting::Always(affecting) => *affecting,
            Affecting::Of(severities) => severities.iter().any(|(of, affecting)| *of == severity && *affecting),
        }
    }

    /// The meaning, cut to what the list of suppressions shows.
    pub fn description(&self) -> String {
        if self.meaning.chars().count() <= DESCRIPTION {
            return self.meaning.into();
        }
        self.meaning.chars().take(DESCRIPTION).collect::<String>() + " ..."
    }
}

static KNOWN: LazyLock<HashMap<&'static str, Known>> =
    LazyLock::new(|| lines().filter_map(|line| parse(line).ok()).map(|known| (known.id, known)).collect());

fn lines() -> impl Iterator<Item = &'static str> {
    include_str!("../catalogue.tsv").lines().skip(1)
}

fn parse(line: &'static str) -> Result<Known, String> {
    let cells: Vec<&'static str> = line.split('\t').collect();
    let [id, kind, severities, entity, types, cause, affecting, suppressible, mgmt, degrade, _context, meaning] = cells[..] else {
        return Err(format!("{line}: {} cells", cells.len()));
    };
    let wrong = |what: &str| format!("{id}: {what}");
    let is_alarm = match kind {
        "alarm" => true,
        "log" => false,
        _ => return Err(wrong(kind)),
    };
    let suppressible = match suppressible {
        "yes" => Some(true),
        "no" => Some(false),
        "" if !is_alarm => None,
        _ => return Err(wrong(suppressible)),
    };
    // Only alarms have levels from which they count.
    let from = |text: &str| match text {
        "none" => Ok(None),
        "" if !is_alarm => Ok(None),
        _ => Severity::parse(text).map(Some).ok_or_else(|| wrong(text)),
    };
    Ok(Known {
        id,
        is_alarm,
        severities: each(severities, Severity::parse).ok_or_else(|| wrong(severities))?,
        entity,
        types: each(types, AlarmType::parse).ok_or_else(|| wrong(types))?,
        probable_cause: cause_known(cause).ok_or_else(|| wrong(cause))?,
        affecting: match affecting {
            "yes" => Affecting::Always(true),
            "no" => Affecting::Always(false),
            _ => Affecting::Of(each(affecting, affected).ok_or_else(|| wrong(affecting))?),
        },
        suppressible,
        mgmt_affecting: from(mgmt)?,
        degrade_affecting: from(degrade)?,
        meaning,
    })
}

/// `a|b|c`, of which every part must be known.
fn each<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split('|').map(parse).collect()
}

/// `critical:True`.
fn affected(text: &str) -> Option<(Severity, bool)> {
    let (severity, affecting) = text.split_once(':')?;
    let affecting = match affecting {
        "True" => true,
        "False" => false,
        _ => return None,
    };
    Some((Severity::parse(severity)?, affecting))
}

/// None for an id the catalogue does not have: such an alarm is accepted and affects nothing.
pub fn known(id: &str) -> Option<&'static Known> {
    KNOWN.get(id)
}

/// Alarm ids, in order.
pub fn alarm_ids() -> Vec<&'static str> {
    let mut ids: Vec<_> = KNOWN.values().filter(|k| k.is_alarm).map(|k| k.id).collect();
    ids.sort_unstable();
    ids
}

/// Everything there is, in order.
pub fn all() -> Vec<&'static Known> {
    let mut all: Vec<_> = KNOWN.values().collect();
    all.sort_unstable_by_key(|k| k.id);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_catalogue_is_understood() {
        let wrong: Vec<String> = lines().filter_map(|line| parse(line).err()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!((all().len(), alarm_ids().len()), (331, 135));
        assert_eq!(lines().count(), 331, "no id stands twice");
    }

    #[test]
    fn the_catalogue_is_what_the_specification_counts() {
        let alarms: Vec<_> = all().into_iter().filter(|k| k.is_alarm).collect();
        assert_eq!(alarms.iter().filter(|k| k.suppressible == Some(true)).count(), 73);
        assert_eq!(alarms.iter().filter(|k| k.mgmt_affecting.is_some()).count(), 99);
        assert_eq!(alarms.iter().filter(|k| k.degrade_affecting.is_some()).count(), 25);
        let failed = known("700.001").unwrap();
        assert_eq!((failed.mgmt_affecting, failed.degrade_affecting), (Some(Severity::Warning), None));
        assert!(known("999.999").is_none());
    }

    #[test]
    fn service_may_be_affected_by_some_severities_only() {
        let mixed = all().into_iter().find(|k| matches!(k.affecting, Affecting::Of(_)) && k.severities.len() > 1).unwrap();
        assert!(mixed.service_affecting(Severity::Critical) && !mixed.service_affecting(Severity::Warning));
    }
}
