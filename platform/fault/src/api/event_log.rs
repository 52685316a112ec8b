//! `/v1/event_log`.

use base::{Error, Result, Timestamp};
use http_api::{Page, Request, Response, json};
use serde_json::{Value as Json, json};
use store::{Dir, Row, Select};

use super::{PAGE, Sorting, listed, marker};
use crate::alarm::Severity;
use crate::query::{Field, conditions};
use crate::suppression::hidden_until;
use crate::{Faults, catalogue};

fn rows() -> Select {
    let hidden = hidden_until("e.event_log_id", "e.entity_instance_id", "e.state <> 'log'");
    Select::new(format!(
        "SELECT uuid, event_log_id, state, entity_type_id, entity_instance_id, raised_at, severity, event_log_type, probable_cause, reason_text,
         proposed_repair_action, service_affecting, suppression, hidden_until FROM (SELECT e.*, {hidden} AS hidden_until FROM event_log e) shown"
    ))
}

const FIELDS: &[(&str, Field)] = &[
    ("uuid", Field::Exact("uuid")),
    ("event_log_id", Field::Text("event_log_id")),
    ("entity_type_id", Field::Text("entity_type_id")),
    ("entity_instance_id", Field::Text("entity_instance_id")),
    ("severity", Field::Severity("severity")),
    ("event_log_type", Field::Exact("event_log_type")),
    ("start", Field::Start("raised_at")),
    ("end", Field::End("raised_at")),
];

const SORT: Sorting = Sorting {
    default: &[("raised_at", Dir::Desc), ("id", Dir::Desc)],
    forward: "desc",
    keys: &[
        ("id", "id"),
        ("uuid", "uuid"),
        ("event_log_id", "event_log_id"),
        ("state", "state"),
        ("entity_type_id", "entity_type_id"),
        ("entity_instance_id", "entity_instance_id"),
        ("severity", "severity"),
        ("event_log_type", "event_log_type"),
        ("timestamp", "raised_at"),
    ],
};

fn record(row: &Row, whole: bool, now: Timestamp) -> Result<Json> {
    let id = row.text(1)?;
    let status = match catalogue::known(&id) {
        _ if row.time(13)? > now => "suppressed",
        Some(known) if known.is_alarm => "unsuppressed",
        _ => "None",
    };
    let mut record = json!({
        "uuid": row.text(0)?,
        "event_log_id": id,
        "state": row.text(2)?,
        "entity_instance_id": row.text(4)?,
        "severity": Severity::from_number(row.int(6)?).word(),
        "timestamp": row.time(5)?.iso_micros(),
        "reason_text": row.text(9)?,
        "suppression_status": status,
    });
    if whole {
        record["entity_type_id"] = json!(row.text(3)?);
        record["event_log_type"] = json!(row.text(7)?);
        record["probable_cause"] = json!(row.text(8)?);
        record["proposed_repair_action"] = json!(row.text(10)?);
        record["service_affecting"] = json!(row.flag(11)?);
        record["suppression"] = json!(row.flag(12)?);
    }
    Ok(record)
}

pub async fn index(faults: Faults, req: Request) -> Result<Response> {
    list(faults, req, false).await
}

pub async fn detail(faults: Faults, req: Request) -> Result<Response> {
    list(faults, req, true).await
}

async fn list(faults: Faults, req: Request, detailed: bool) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_log:get", &req.ctx, &())?;
    let page = Page::from_query(&req.query, PAGE, &[])?;
    let order = SORT.order(&page, &req.query)?;
    let whole = detailed || req.query.flag("expand")?.unwrap_or(false);
    let (suppressed, now) = (req.query.flag("include_suppress")?.unwrap_or(false), Timestamp::now());
    let (alarms, logs) = (req.query.flag("alarms")?.unwrap_or(false), req.query.flag("logs")?.unwrap_or(false));
    let items = faults
        .core
        .store
        .read(|tx| {
            let mut select = conditions(rows(), &req.query, FIELDS)?.order(&order).limit(page.fetch_limit(PAGE));
            select = match (alarms, logs) {
                (true, false) => select.in_list("state", ["set", "clear"]),
                (false, true) => select.eq("state", "log"),
                _ => select,
            };
            if !suppressed {
                select = select.le("hidden_until", now);
            }
            if let Some(uuid) = &page.marker {
                select = select.after(marker(tx, "event_log", uuid, &order)?);
            }
            select.fetch(tx, |row| record(row, whole, now))
        })
        .await?;
    listed(&req, "event_log", items, &page)
}

pub async fn show(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_log:get", &req.ctx, &())?;
    let (uuid, now) = (req.param("id"), Timestamp::now());
    let found = faults.core.store.read(|tx| Ok(rows().eq("uuid", uuid).fetch(tx, |row| record(row, true, now))?.pop())).await?;
    json(200, &found.ok_or_else(|| Error::new(base::Kind::NotFound, format!("Event log not found: {uuid}")))?)
}
