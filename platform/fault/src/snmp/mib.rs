//! WRS-ALARM-MIB: what an agent shows, and the variables of its notifications.

use std::cmp::Ordering;

use base::{Result, Timestamp};
use serde_json::Value as Json;
use store::{Row, Tx, params};

use crate::HIERARCHICAL;
use crate::alarm::{AlarmType, Severity, cause_number};
use crate::suppression::hidden_until;

/// The module's objects.
const OBJECTS: [u32; 11] = [1, 3, 6, 1, 4, 1, 731, 1, 1, 1, 1];
const SYSTEM: [u32; 7] = [1, 3, 6, 1, 2, 1, 1];
/// Tables below the objects, and the last column of each. The first column, the index, cannot be read.
const ALARMS: (u32, u32) = (1, 12);
const EVENTS: (u32, u32) = (4, 13);
const FIRST: u32 = 2;

pub const UP_TIME: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 3, 0];
pub const TRAP_ID: [u32; 11] = [1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0];
pub const COLD_START: [u32; 10] = [1, 3, 6, 1, 6, 3, 1, 1, 5, 1];

pub type Oid = Vec<u32>;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(i64),
    Text(Vec<u8>),
    Oid(Oid),
    Ticks(u32),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Number(i64::from(flag))
    }
}

/// A row of either table: its index, and its cells from the second column.
struct Entry {
    index: u32,
    cells: Vec<Value>,
}

/// All there was at one moment.
pub struct View {
    scalars: Vec<(Oid, Value)>,
    alarms: Vec<Entry>,
    events: Vec<Entry>,
}

impl View {
    /// Alarms that are shown to an operator, and the event log. Rows are numbered as they are stored, so nothing moves under one
    /// who walks.
    pub fn read(tx: &Tx, name: &str) -> Result<View> {
        let now = Timestamp::now();
        let hidden = hidden_until("a.alarm_id", "a.entity_instance_id", "1 = 1");
        let shown = format!(
            "SELECT a.id, a.uuid, a.alarm_id, a.entity_instance_id, a.raised_at, a.severity, a.reason_text, a.alarm_type, a.probable_cause,
             a.proposed_repair_action, a.service_affecting, a.suppression FROM alarm a WHERE a.masked = 0 AND {hidden} <= ?1 ORDER BY a.id"
        );
        let alarms = tx.query(&shown, params![now], |row| entry(row, None))?;
        let hidden = hidden_until("e.event_log_id", "e.entity_instance_id", "e.state <> 'log'");
        let log = format!(
            "SELECT e.id, e.uuid, e.event_log_id, e.entity_instance_id, e.raised_at, e.severity, e.reason_text, e.event_log_type, e.probable_cause,
             e.proposed_repair_action, e.service_affecting, e.suppression, e.state FROM event_log e WHERE {hidden} <= ?1 ORDER BY e.id"
        );
        let events = tx.query(&log, params![now], |row| {
            let state = match row.text(12)?.as_str() {
                "clear" => 0,
                "set" => 1,
                _ => 3,
            };
            entry(row, Some(state))
        })?;
        let system = |number: u32, value: Value| ([&SYSTEM[..], &[number, 0]].concat(), value);
        let scalars = vec![
            system(1, "Sturnus fault management".into()),
            system(2, Value::Oid(OBJECTS[..10].to_vec())),
            system(3, Value::Ticks(0)),
            system(5, name.into()),
        ];
        Ok(View { scalars, alarms, events })
    }

    /// The only thing that changes without an event.
    pub fn up_since(&mut self, ticks: u32) {
        if let Some((_, value)) = self.scalars.iter_mut().find(|(oid, _)| oid[..] == UP_TIME) {
            *value = Value::Ticks(ticks);
        }
    }

    pub fn get(&self, oid: &[u32]) -> Option<Value> {
        if let Some((_, value)) = self.scalars.iter().find(|(known, _)| known == oid) {
            return Some(value.clone());
        }
        let [table, 1, column, index] = *oid.strip_prefix(&OBJECTS[..])? else { return None };
        let (rows, last) = match table {
            1 => (&self.alarms, ALARMS.1),
            4 => (&self.events, EVENTS.1),
            _ => return None,
        };
        let column = column.checked_sub(FIRST).filter(|_| column <= last)?;
        let at = rows.binary_search_by_key(&index, |row| row.index).ok()?;
        rows[at].cells.get(column as usize).cloned()
    }

    /// The first instance behind this one.
    pub fn next(&self, oid: &[u32]) -> Option<(Oid, Value)> {
        let scalar = self.scalars.iter().find(|(known, _)| known.as_slice() > oid).cloned();
        let table = |(number, last): (u32, u32), rows: &[Entry]| {
            let prefix = [&OBJECTS[..], &[number, 1]].concat();
            let (column, index) = behind(&prefix, oid)?;
            (column.max(FIRST)..=last).find_map(|at| {
                let from = index.filter(|_| at == column).map_or(0, |index| rows.partition_point(|row| row.index <= index));
                let row = rows.get(from)?;
                Some(([&prefix[..], &[at, row.index]].concat(), row.cells.get((at - FIRST) as usize)?.clone()))
            })
        };
        scalar.or_else(|| table(ALARMS, &self.alarms)).or_else(|| table(EVENTS, &self.events))
    }
}

/// From which column, and behind which row of it, a table goes on after `oid`; none when it lies before.
fn behind(prefix: &[u32], oid: &[u32]) -> Option<(u32, Option<u32>)> {
    if oid.len() < prefix.len() {
        return (oid <= prefix).then_some((0, None));
    }
    match oid[..prefix.len()].cmp(prefix) {
        Ordering::Less => Some((0, None)),
        Ordering::Greater => None,
        Ordering::Equal => match oid[prefix.len()..] {
            [] => Some((0, None)),
            [column] => Some((column, None)),
            [column, index, ..] => Some((column, Some(index))),
        },
    }
}

fn entry(row: &Row, state: Option<i64>) -> Result<Entry> {
    let mut cells = vec![Value::from(row.text(1)?.as_str()), row.text(2)?.as_str().into()];
    cells.extend(state.map(Value::Number));
    cells.extend([
        row.text(3)?.as_str().into(),
        date(&row.time(4)?.iso_micros()),
        Value::Number(row.int(5)?),
        row.text(6)?.as_str().into(),
        Value::Number(AlarmType::parse(&row.text(7)?).map_or(0, AlarmType::number).into()),
        Value::Number(cause_number(&row.text(8)?).into()),
        row.text(9)?.as_str().into(),
        row.flag(10)?.into(),
        row.flag(11)?.into(),
    ]);
    Ok(Entry { index: u32::try_from(row.int(0)?).unwrap_or(u32::MAX), cells })
}

/// DateAndTime: eleven octets, in UTC.
fn date(iso: &str) -> Value {
    let number = |at: std::ops::Range<usize>| iso.get(at).and_then(|text| text.parse::<u16>().ok()).unwrap_or(0);
    let byte = |at| u8::try_from(number(at)).unwrap_or(0);
    let mut octets = number(0..4).to_be_bytes().to_vec();
    octets.extend([byte(5..7), byte(8..10), byte(11..13), byte(14..16), byte(17..19), byte(20..21), b'+', 0, 0]);
    Value::Text(octets)
}

/// A notification's id and variables; none for an event that makes none.
pub fn notification(kind: &str, payload: &Json, prefix: &str) -> Option<(Oid, Vec<(Oid, Value)>)> {
    let text = |key: &str| payload[key].as_str().unwrap_or_default();
    let flag = |key: &str| Value::from(payload[key].as_bool().unwrap_or_default());
    let entity = || Value::from(format!("{prefix}{}", text("entity_instance_id")).as_str());
    let severity = Severity::parse(text("severity")).unwrap_or(Severity::None);
    let (number, table, variables) = match (kind, text("state")) {
        (HIERARCHICAL, _) => (99, ALARMS.0, vec![(4, entity()), (5, date(text("timestamp"))), (7, text("reason_text").into())]),
        _ if text("suppression_status") == "suppressed" || payload["hierarchical"] == true => return None,
        (_, "clear") => (
            9,
            ALARMS.0,
            vec![(3, text("event_log_id").into()), (4, entity()), (5, date(text("timestamp"))), (7, text("reason_text").into())],
        ),
        (_, state) => {
            let message = state != "set";
            // The columns of the event table are one further, for the state.
            let (table, shift) = if message { (EVENTS.0, 1) } else { (ALARMS.0, 0) };
            let number = match severity {
                _ if message => 5,
                Severity::Critical => 1,
                Severity::Major => 2,
                Severity::Minor => 3,
                Severity::Warning | Severity::None => 4,
            };
            let kind = AlarmType::parse(text("event_log_type")).map_or(0, AlarmType::number);
            let repair = if message { "N/A" } else { text("proposed_repair_action") };
            let variables = vec![
                (3, text("event_log_id").into()),
                (4 + shift, entity()),
                (5 + shift, date(text("timestamp"))),
                (6 + shift, Value::Number(severity as i64)),
                (7 + shift, text("reason_text").into()),
                (8 + shift, Value::Number(kind.into())),
                (9 + shift, Value::Number(cause_number(text("probable_cause")).into())),
                (10 + shift, repair.into()),
                (11 + shift, flag("service_affecting")),
                (12 + shift, if message { false.into() } else { flag("suppression") }),
            ];
            (number, table, variables)
        }
    };
    let column = |column: u32| [&OBJECTS[..], &[table, 1, column]].concat();
    let variables = variables.into_iter().map(|(at, value)| (column(at), value)).collect();
    Some(([&OBJECTS[..], &[0, number]].concat(), variables))
}

/// Hundredths of a second since `start`.
pub fn ticks(start: Timestamp) -> u32 {
    let hundredths = (Timestamp::now().micros() - start.micros()) / 10_000;
    u32::try_from(hundredths.rem_euclid(1 << 32)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(alarms: &[u32], events: &[u32]) -> View {
        let rows = |ids: &[u32], columns: u32| {
            let cells = |id: u32| (FIRST..=columns).map(|c| Value::Number(i64::from(id * 100 + c))).collect();
            ids.iter().map(|id| Entry { index: *id, cells: cells(*id) }).collect::<Vec<_>>()
        };
        View { scalars: vec![(UP_TIME.to_vec(), Value::Ticks(1))], alarms: rows(alarms, 12), events: rows(events, 13) }
    }

    #[test]
    fn a_walk_meets_everything_once_and_in_order() {
        let view = view(&[3, 7, 40], &[1, 2]);
        let (mut at, mut seen) = (vec![1, 3], Vec::new());
        while let Some((oid, value)) = view.next(&at) {
            assert!(oid > at, "{oid:?} after {at:?}");
            assert_eq!(view.get(&oid), Some(value));
            seen.push(oid.clone());
            at = oid;
        }
        assert_eq!(seen.len(), 1 + 3 * 11 + 2 * 12);
        assert_eq!(seen[1], [&OBJECTS[..], &[1, 1, 2, 3]].concat());
        assert_eq!(seen[4], [&OBJECTS[..], &[1, 1, 3, 3]].concat());
    }

    #[test]
    fn a_walk_goes_on_behind_what_is_gone() {
        let view = view(&[3, 40], &[]);
        let next = |tail: &[u32]| view.next(&[&OBJECTS[..], tail].concat()).map(|(oid, _)| oid[OBJECTS.len()..].to_vec());
        assert_eq!(next(&[1, 1, 5, 7]), Some(vec![1, 1, 5, 40]));
        assert_eq!(next(&[1, 1, 5, 40]), Some(vec![1, 1, 6, 3]));
        assert_eq!(next(&[1, 1, 5, 3, 9]), Some(vec![1, 1, 5, 40]));
        assert_eq!(next(&[1, 1, 1, 3]), Some(vec![1, 1, 2, 3]), "the index cannot be read");
        assert_eq!(next(&[1]), Some(vec![1, 1, 2, 3]));
        assert_eq!(next(&[2]), None);
        assert_eq!(next(&[1, 1, 12, 40]), None);
        assert_eq!(next(&[1, 1, 99]), None);
        assert_eq!(view.get(&[&OBJECTS[..], &[1, 1, 1, 3]].concat()), None);
        assert_eq!(view.get(&[&OBJECTS[..], &[1, 1, 13, 3]].concat()), None);
    }

    #[test]
    fn a_time_has_eleven_octets() {
        let octets = vec![7, 231, 11, 14, 22, 13, 20, 1, b'+', 0, 0];
        assert_eq!(date("2023-11-14T22:13:20.123456"), Value::Text(octets));
    }
}
