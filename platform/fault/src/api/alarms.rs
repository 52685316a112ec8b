//! `/v1/alarms`.

use base::{Error, Result, Timestamp};
use http_api::request::from_value;
use http_api::{Page, Request, Response, empty, json};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use store::{Dir, Row, Select, Tx, params};

use super::{PAGE, Sorting, listed, marker, truth};
use crate::alarm::{Alarm, AlarmType, Severity, cause_known};
use crate::engine::{Clearing, Setting, Which, alarms_in};
use crate::query::{Field, conditions};
use crate::suppression::hidden_until;
use crate::{Faults, catalogue};

/// Those that are not masked.
fn rows() -> Select {
    let hidden = hidden_until("a.alarm_id", "a.entity_instance_id", "1 = 1");
    let sql = format!(
        "SELECT uuid, alarm_id, entity_type_id, entity_instance_id, raised_at, severity, alarm_type, probable_cause, reason_text,
         proposed_repair_action, service_affecting, suppression, hidden_until FROM (SELECT a.*, {hidden} AS hidden_until FROM alarm a) shown"
    );
    Select::new(sql).eq("masked", 0i64)
}

const FIELDS: &[(&str, Field)] = &[
    ("uuid", Field::Text("uuid")),
    ("alarm_id", Field::Text("alarm_id")),
    ("entity_type_id", Field::Text("entity_type_id")),
    ("entity_instance_id", Field::Text("entity_instance_id")),
    ("severity", Field::Severity("severity")),
    ("alarm_type", Field::Text("alarm_type")),
];

const SORT: Sorting = Sorting {
    default: &[("severity", Dir::Desc), ("entity_instance_id", Dir::Asc), ("id", Dir::Asc)],
    forward: "asc",
    keys: &[
        ("id", "id"),
        ("uuid", "uuid"),
        ("alarm_id", "alarm_id"),
        ("entity_type_id", "entity_type_id"),
        ("entity_instance_id", "entity_instance_id"),
        ("severity", "severity"),
        ("alarm_type", "alarm_type"),
        ("timestamp", "raised_at"),
    ],
};

struct Shown {
    severity: Severity,
    short: Json,
    more: Json,
}

fn shown(row: &Row, now: Timestamp) -> Result<Shown> {
    let severity = Severity::from_number(row.int(5)?);
    let id = row.text(1)?;
    let known = catalogue::known(&id);
    let affects = |from: Option<Severity>| truth(from.is_some_and(|from| severity >= from));
    let short = json!({
        "uuid": row.text(0)?,
        "alarm_id": id,
        "entity_instance_id": row.text(3)?,
        "severity": severity.word(),
        "timestamp": row.time(4)?.iso_micros(),
        "reason_text": row.text(8)?,
        "suppression_status": if row.time(12)? > now { "suppressed" } else { "unsuppressed" },
        "mgmt_affecting": affects(known.and_then(|k| k.mgmt_affecting)),
        "degrade_affecting": affects(known.and_then(|k| k.degrade_affecting)),
    });
    let more = json!({
        "alarm_state": "set",
        "entity_type_id": row.text(2)?,
        "alarm_type": row.text(6)?,
        "probable_cause": row.text(7)?,
        "proposed_repair_action": row.text(9)?,
        "service_affecting": row.flag(10)?,
        "suppression": row.flag(11)?,
    });
    Ok(Shown { severity, short, more })
}

fn full(shown: Shown) -> Json {
    let mut record = shown.short;
    if let (Json::Object(record), Json::Object(more)) = (&mut record, shown.more) {
        record.extend(more);
    }
    record
}

pub async fn index(faults: Faults, req: Request) -> Result<Response> {
    list(faults, req, false).await
}

pub async fn detail(faults: Faults, req: Request) -> Result<Response> {
    list(faults, req, true).await
}

async fn list(faults: Faults, req: Request, detailed: bool) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:alarms:get", &req.ctx, &())?;
    let page = Page::from_query(&req.query, PAGE, &[])?;
    let order = SORT.order(&page, &req.query)?;
    let expand = detailed || req.query.flag("expand")?.unwrap_or(false);
    let (suppressed, now) = (req.query.flag("include_suppress")?.unwrap_or(false), Timestamp::now());
    let rows = faults
        .core
        .store
        .read(|tx| {
            let mut select = conditions(rows(), &req.query, FIELDS)?.order(&order).limit(page.fetch_limit(PAGE));
            if !suppressed {
                select = select.le("hidden_until", now);
            }
            if let Some(uuid) = &page.marker {
                select = select.after(marker(tx, "alarm", uuid, &order)?);
            }
            select.fetch(tx, |row| shown(row, now))
        })
        .await?;
    let items = rows.into_iter().map(|r| if expand { full(r) } else { r.short }).collect();
    listed(&req, "alarms", items, &page)
}

pub async fn summary(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:alarms:get", &req.ctx, &())?;
    let (suppressed, now) = (req.query.flag("include_suppress")?.unwrap_or(false), Timestamp::now());
    let rows = faults
        .core
        .store
        .read(|tx| {
            let select = rows();
            if suppressed { select } else { select.le("hidden_until", now) }.fetch(tx, |row| shown(row, now))
        })
        .await?;
    let count = |severity| rows.iter().filter(|r| r.severity == severity).count();
    let (critical, major, minor) = (count(Severity::Critical), count(Severity::Major), count(Severity::Minor));
    let status = match (critical, major + minor) {
        (0, 0) => "OK",
        (0, _) => "degraded",
        _ => "critical",
    };
    json(200, &json!({"critical": critical, "major": major, "minor": minor, "warnings": count(Severity::Warning), "status": status}))
}

pub async fn show(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:alarms:get", &req.ctx, &())?;
    let (uuid, now) = (req.param("id"), Timestamp::now());
    let found = faults.core.store.read(|tx| Ok(rows().eq("uuid", uuid).fetch(tx, |row| shown(row, now))?.pop())).await?;
    json(200, &full(found.ok_or_else(|| missing(uuid))?))
}

/// A record as clients send it.
#[derive(Deserialize)]
struct Record {
    alarm_id: Option<String>,
    alarm_state: Option<String>,
    entity_type_id: Option<String>,
    entity_instance_id: Option<String>,
    severity: Option<String>,
    reason_text: Option<String>,
    alarm_type: Option<String>,
    probable_cause: Option<String>,
    proposed_repair_action: Option<String>,
    #[serde(default, deserialize_with = "flag")]
    service_affecting: bool,
    #[serde(default, deserialize_with = "flag")]
    suppression: bool,
    #[serde(default, deserialize_with = "flag")]
    inhibit_alarms: bool,
    #[serde(default, deserialize_with = "flag")]
    keep_existing_alarm: bool,
    timestamp: Option<String>,
    uuid: Option<String>,
}

/// Booleans arrive as such or as `"True"`.
fn flag<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match Json::deserialize(from)? {
        Json::Bool(value) => Ok(value),
        Json::Null => Ok(false),
        Json::String(text) => http_api::query::parse_bool(&text).ok_or_else(|| serde::de::Error::custom(format!("'{text}' is no boolean"))),
        other => Err(serde::de::Error::custom(format!("{other} is no boolean"))),
    }
}

impl Record {
    fn alarm(&self) -> Result<Alarm> {
        let need =
            |value: &Option<String>, name: &str| value.clone().ok_or_else(|| Error::invalid(format!("'{name}' is a required field")));
        let (severity, kind, cause) =
            (need(&self.severity, "severity")?, need(&self.alarm_type, "alarm_type")?, need(&self.probable_cause, "probable_cause")?);
        let probable_cause = cause_known(&cause).ok_or_else(|| Error::invalid(format!("Unknown probable_cause '{cause}'")))?;
        let timestamp = match self.timestamp.as_deref() {
            None | Some("") => None,
            Some(text) => Some(Timestamp::parse(text).ok_or_else(|| Error::invalid(format!("Invalid date '{text}' specified")))?),
        };
        Ok(Alarm {
            alarm_id: need(&self.alarm_id, "alarm_id")?,
            entity_type_id: self.entity_type_id.clone().unwrap_or_default(),
            entity_instance_id: need(&self.entity_instance_id, "entity_instance_id")?,
            severity: Severity::parse(&severity).ok_or_else(|| Error::invalid(format!("Unknown severity '{severity}'")))?,
            reason_text: self.reason_text.clone().unwrap_or_default(),
            alarm_type: AlarmType::parse(&kind).ok_or_else(|| Error::invalid(format!("Unknown alarm_type '{kind}'")))?,
            probable_cause,
            proposed_repair_action: self.proposed_repair_action.clone().unwrap_or_default(),
            service_affecting: self.service_affecting,
            suppression: self.suppression,
            inhibit_alarms: self.inhibit_alarms,
            timestamp,
        })
    }
}

pub async fn create(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:alarms:create", &req.ctx, &())?;
    let record: Record = from_value(Json::Object(req.object()?), "")?;
    let state = record.alarm_state.clone().ok_or_else(|| Error::invalid("'alarm_state' is a required field"))?;
    let writer = faults.clone();
    let uuid = match state.as_str() {
        "set" => {
            let (alarm, how) = (record.alarm()?, record.setting());
            faults.core.store.write(move |tx| writer.set_in(tx, alarm, &how)).await?
        }
        "log" | "msg" => {
            let alarm = record.alarm()?;
            faults.core.store.write(move |tx| writer.message_in(tx, alarm)).await?;
            record.uuid.filter(|uuid| !uuid.is_empty()).unwrap_or_else(base::id::uuid)
        }
        "clear" => faults.core.store.write(move |tx| writer.clear_record_in(tx, &record)).await?,
        other => return Err(Error::invalid(format!("Unknown alarm_state '{other}'"))),
    };
    json(200, &json!({ "uuid": uuid }).to_string())
}

impl Record {
    fn setting(&self) -> Setting {
        Setting { uuid: self.uuid.clone().unwrap_or_default(), keep_existing: self.keep_existing_alarm }
    }
}

impl Faults {
    /// Clears by uuid, else by id and entity.
    fn clear_record_in(&self, tx: &Tx, record: &Record) -> Result<String> {
        let (id, entity) = (record.alarm_id.as_deref().unwrap_or_default(), record.entity_instance_id.as_deref().unwrap_or_default());
        let (which, name) = match record.uuid.as_deref().filter(|u| !u.is_empty()) {
            Some(uuid) => (Which::Uuid(uuid), uuid.to_string()),
            None => (Which::Key(id, entity), format!("{id} {entity}")),
        };
        let found = alarms_in(tx, which)?.pop().ok_or_else(|| missing(&name))?;
        self.clear_in(tx, Which::Uuid(&found.uuid))?;
        Ok(found.uuid)
    }
}

/// The path names the row by its number or its uuid.
pub async fn update(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:alarms:modify", &req.ctx, &())?;
    let record: Record = from_value(Json::Object(req.object()?), "")?;
    let alarm = record.alarm()?;
    let (row, id) = (req.param("id").parse::<i64>().unwrap_or(-1), req.param("id").to_string());
    let writer = faults.clone();
    let uuid = faults
        .core
        .store
        .write(move |tx| {
            let key =
                tx.query_opt("SELECT alarm_id, entity_instance_id FROM alarm WHERE id = ?1 OR uuid = ?2", params![row, id], |row| {
                    Ok((row.text(0)?, row.text(1)?))
                })?;
            let key = key.ok_or_else(|| missing(&id))?;
            if key != (alarm.alarm_id.clone(), alarm.entity_instance_id.clone()) {
                return Err(Error::invalid("alarm_id and entity_instance_id cannot be changed"));
            }
            writer.set_in(tx, alarm, &Setting::default())
        })
        .await?;
    json(200, &json!({ "uuid": uuid }).to_string())
}

pub async fn delete(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:alarms:delete", &req.ctx, &())?;
    let (uuid, writer) = (req.param("id").to_string(), faults.clone());
    let cleared = move |tx: &Tx| match writer.take_in(tx, Which::Uuid(&uuid), Clearing::Final)? {
        0 => Err(missing(&uuid)),
        _ => Ok(()),
    };
    faults.core.store.write(cleared).await?;
    empty(204)
}

fn missing(uuid: &str) -> Error {
    Error::new(base::Kind::NotFound, format!("Alarm not found: {uuid}"))
}
