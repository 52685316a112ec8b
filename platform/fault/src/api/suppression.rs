//! `/v1/event_suppression`: alarm ids that are kept out of lists.

use base::{Error, Result};
use http_api::{Page, Request, Response, json};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use store::{Dir, Row, Select, params};

use super::{PAGE, Sorting, listed, marker};
use crate::query::{Field, conditions};
use crate::{Faults, catalogue};

const ROWS: &str = "(SELECT uuid, alarm_id, suppressed, alarm_id AS id, CASE suppressed WHEN 1 THEN 'suppressed' ELSE 'unsuppressed' END AS status \
     FROM event_suppression WHERE obsolete = 0) shown";

fn rows() -> Select {
    Select::new(format!("SELECT uuid, alarm_id, suppressed FROM {ROWS}"))
}

const FIELDS: &[(&str, Field)] = &[
    ("uuid", Field::Exact("uuid")),
    ("alarm_id", Field::Exact("alarm_id")),
    ("description", Field::Description("alarm_id")),
    ("suppression_status", Field::Exact("status")),
];

const SORT: Sorting = Sorting {
    default: &[("id", Dir::Asc)],
    forward: "asc",
    keys: &[("id", "id"), ("uuid", "uuid"), ("alarm_id", "alarm_id"), ("suppression_status", "status")],
};

fn record(row: &Row, base_url: &str) -> Result<Json> {
    let (uuid, id) = (row.text(0)?, row.text(1)?);
    Ok(json!({
        "uuid": uuid,
        "alarm_id": id,
        "description": catalogue::known(&id).map(|k| k.description()),
        "suppression_status": if row.flag(2)? { "suppressed" } else { "unsuppressed" },
        "links": [{"href": format!("{base_url}/v1/event_suppression/{uuid}"), "rel": "self"}, {"href": format!("{base_url}/event_suppression/{uuid}"), "rel": "bookmark"}],
    }))
}

pub async fn index(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_suppression:get", &req.ctx, &())?;
    let page = Page::from_query(&req.query, PAGE, &[])?;
    let order = SORT.order(&page, &req.query)?;
    let items = faults
        .core
        .store
        .read(|tx| {
            let mut select = conditions(rows(), &req.query, FIELDS)?.order(&order).limit(page.fetch_limit(PAGE));
            if let Some(uuid) = &page.marker {
                select = select.after(marker(tx, ROWS, uuid, &order)?);
            }
            select.fetch(tx, |row| record(row, &req.base_url))
        })
        .await?;
    listed(&req, "event_suppression", items, &page)
}

async fn fetch(faults: &Faults, req: &Request) -> Result<Response> {
    let uuid = req.param("id");
    let found = faults.core.store.read(|tx| Ok(rows().eq("uuid", uuid).fetch(tx, |row| record(row, &req.base_url))?.pop())).await?;
    json(200, &found.ok_or_else(|| unknown(uuid))?)
}

pub async fn show(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_suppression:get", &req.ctx, &())?;
    fetch(&faults, &req).await
}

#[derive(Deserialize)]
struct Change {
    path: String,
    op: String,
    value: String,
}

/// The same change may be repeated in one body, as the `fm` client does.
pub async fn update(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_suppression:modify", &req.ctx, &())?;
    let changes: Vec<Change> = req.json()?;
    let mut wanted = None;
    for change in &changes {
        let known = change.op == "replace" && change.path.trim_start_matches('/') == "suppression_status";
        wanted = match (known, change.value.as_str()) {
            (true, "suppressed") => Some(true),
            (true, "unsuppressed") => Some(false),
            _ => {
                return Err(Error::invalid(format!(
                    "Only suppression_status can be replaced, by suppressed or unsuppressed; not {} {}",
                    change.path, change.value
                )));
            }
        };
    }
    let suppressed = wanted.ok_or_else(|| Error::invalid("The request changes nothing"))?;
    let uuid = req.param("id").to_string();
    let writer = faults.clone();
    faults
        .core
        .store
        .write(move |tx| {
            let sql = "UPDATE event_suppression SET suppressed = ?2 WHERE uuid = ?1";
            if tx.execute(sql, params![uuid, suppressed])? == 0 {
                return Err(unknown(&uuid));
            }
            writer.wake_in(tx);
            Ok(())
        })
        .await?;
    fetch(&faults, &req).await
}

/// The original answers 400 here.
fn unknown(uuid: &str) -> Error {
    Error::invalid(format!("Event suppression not found: {uuid}"))
}
