//! The catalogue of known alarms and logs, from `catalogue.tsv`.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::alarm::Severity;

/// What is known of an id beforehand.
pub struct Known {
    pub is_alarm: bool,
    /// The lowest severity that counts; none: it never does.
    pub mgmt_affecting: Option<Severity>,
    pub degrade_affecting: Option<Severity>,
    pub meaning: &'static str,
}

static KNOWN: LazyLock<HashMap<&'static str, Known>> = LazyLock::new(|| {
    include_str!("../catalogue.tsv")
        .lines()
        .skip(1)
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let known = Known {
                is_alarm: *cells.get(1)? == "alarm",
                mgmt_affecting: Severity::parse(cells.get(8)?),
                degrade_affecting: Severity::parse(cells.get(9)?),
                meaning: cells.get(11)?,
            };
            Some((cells[0], known))
        })
        .collect()
});

/// None for an id the catalogue does not have: such an alarm is accepted and affects nothing.
pub fn known(id: &str) -> Option<&'static Known> {
    KNOWN.get(id)
}

/// Alarm ids, in order.
pub fn alarm_ids() -> Vec<&'static str> {
    let mut ids: Vec<_> = KNOWN.iter().filter(|(_, k)| k.is_alarm).map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_whole() {
        assert_eq!(alarm_ids().len(), 135);
        let failed = known("700.001").unwrap();
        assert_eq!((failed.mgmt_affecting, failed.degrade_affecting), (Some(Severity::Warning), None));
        assert!(known("999.999").is_none());
    }
}
