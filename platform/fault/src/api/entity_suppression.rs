//! `/v1/entity_suppression` (ours): entities whose alarms are kept out of lists, named by a pattern, by whom, why and until when.

use base::{Error, Kind, Result, Timestamp};
use http_api::request::from_value;
use http_api::{Page, Request, Response, empty, json};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use store::{Dir, Row, Select, Tx, params};

use super::{PAGE, Sorting, listed, marker};
use crate::alarm::alarm_id_check;
use crate::query::{Field, conditions, date};
use crate::suppression::likeness;
use crate::{Faults, catalogue};

/// Each is looked at for every row of a list.
const MOST: i64 = 1000;
/// Longest texts in characters.
const PATTERN: usize = 255;
const COMMENT: usize = 1000;

const SELECT: &str = "SELECT uuid, alarm_id, entity_pattern, owner, comment, created_at, expires_at FROM entity_suppression";

const FIELDS: &[(&str, Field)] = &[
    ("uuid", Field::Exact("uuid")),
    ("alarm_id", Field::Exact("alarm_id")),
    ("entity_pattern", Field::Exact("entity_pattern")),
    ("owner", Field::Exact("owner")),
    ("comment", Field::Text("comment")),
];

const SORT: Sorting = Sorting {
    default: &[("id", Dir::Asc)],
    forward: "asc",
    keys: &[
        ("id", "id"),
        ("uuid", "uuid"),
        ("alarm_id", "alarm_id"),
        ("entity_pattern", "entity_pattern"),
        ("owner", "owner"),
        ("created_at", "created_at"),
        ("expires_at", "expires_at"),
    ],
};

fn record(row: &Row, base_url: &str) -> Result<Json> {
    let (uuid, id) = (row.text(0)?, row.text(1)?);
    Ok(json!({
        "uuid": uuid,
        // None: those of every id.
        "alarm_id": Some(id).filter(|id| !id.is_empty()),
        "entity_pattern": row.text(2)?,
        "owner": row.text(3)?,
        "comment": row.text(4)?,
        "created_at": row.time(5)?.iso_micros(),
        "expires_at": row.opt_time(6)?.map(Timestamp::iso_micros),
        "links": [{"href": format!("{base_url}/v1/entity_suppression/{uuid}"), "rel": "self"}, {"href": format!("{base_url}/entity_suppression/{uuid}"), "rel": "bookmark"}],
    }))
}

/// Those that have not ended.
fn rows() -> Select {
    Select::new(SELECT).cond("expires_at IS NULL OR expires_at > ?", [Timestamp::now().into()])
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
                select = select.after(marker(tx, "entity_suppression", uuid, &order)?);
            }
            select.fetch(tx, |row| record(row, &req.base_url))
        })
        .await?;
    listed(&req, "entity_suppression", items, &page)
}

async fn fetch(faults: &Faults, req: &Request, uuid: &str, status: u16) -> Result<Response> {
    let found = faults.core.store.read(|tx| Ok(rows().eq("uuid", uuid).fetch(tx, |row| record(row, &req.base_url))?.pop())).await?;
    json(status, &found.ok_or_else(|| unknown(uuid))?)
}

pub async fn show(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_suppression:get", &req.ctx, &())?;
    fetch(&faults, &req, req.param("id"), 200).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    entity_pattern: Option<String>,
    alarm_id: Option<String>,
    comment: Option<String>,
    expires_at: Option<String>,
}

pub async fn create(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_suppression:modify", &req.ctx, &())?;
    let wanted: Wanted = from_value(Json::Object(req.object()?), "")?;
    let id = wanted.alarm_id.unwrap_or_default();
    let pattern = pattern(wanted.entity_pattern, &id)?;
    let comment = comment(wanted.comment.unwrap_or_default())?;
    let expires = wanted.expires_at.as_deref().map(end).transpose()?;
    // Who it was is not for the request to say.
    let owner = if req.ctx.user_name.is_empty() { req.ctx.user_id.clone() } else { req.ctx.user_name.clone() };
    let (uuid, now) = (base::id::uuid(), Timestamp::now());
    let (writer, made) = (faults.clone(), uuid.clone());
    let add = move |tx: &Tx| {
        tx.lock("fault-entity-suppression")?;
        tx.execute("DELETE FROM entity_suppression WHERE expires_at <= ?1", params![now])?;
        let same = "SELECT uuid FROM entity_suppression WHERE alarm_id = ?1 AND entity_pattern = ?2";
        if let Some(other) = tx.query_opt(same, params![id, pattern], |row| row.text(0))? {
            return Err(Error::conflict(format!("The alarms of entity_pattern '{pattern}' are suppressed already: {other}")));
        }
        if tx.query_one("SELECT COUNT(*) FROM entity_suppression", params![], |row| row.int(0))? >= MOST {
            return Err(Error::conflict(format!("There are {MOST} entity suppressions already, which is the most there can be")));
        }
        tx.execute(
            "INSERT INTO entity_suppression (id, uuid, alarm_id, entity_pattern, likeness, owner, comment, created_at, expires_at)
             VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM entity_suppression), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![made, id, pattern, likeness(&pattern), owner, comment, now, expires],
        )?;
        writer.wake_in(tx);
        Ok(())
    };
    faults.core.store.write(add).await?;
    fetch(&faults, &req, &uuid, 201).await
}

#[derive(Deserialize)]
struct Change {
    path: String,
    op: String,
    /// Null ends the end.
    value: Json,
}

/// Comment and end can be changed; who needs another pattern needs another suppression.
pub async fn update(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_suppression:modify", &req.ctx, &())?;
    let changes: Vec<Change> = req.json()?;
    let (mut text, mut ends) = (None, None);
    for change in &changes {
        match (change.op.as_str(), change.path.trim_start_matches('/'), &change.value) {
            ("replace", "comment", Json::String(value)) => text = Some(comment(value.clone())?),
            ("replace", "expires_at", Json::String(value)) => ends = Some(Some(end(value)?)),
            ("replace", "expires_at", Json::Null) => ends = Some(None),
            _ => {
                return Err(Error::invalid(format!(
                    "Only comment and expires_at can be replaced, by a text and by a time or null; not {} {}",
                    change.path, change.value
                )));
            }
        }
    }
    if text.is_none() && ends.is_none() {
        return Err(Error::invalid("The request changes nothing"));
    }
    let (uuid, now, writer) = (req.param("id").to_string(), Timestamp::now(), faults.clone());
    let change = move |tx: &Tx| {
        let there =
            "UPDATE entity_suppression SET comment = COALESCE(?2, comment) WHERE uuid = ?1 AND (expires_at IS NULL OR expires_at > ?3)";
        if tx.execute(there, params![uuid, text, now])? == 0 {
            return Err(unknown(&uuid));
        }
        if let Some(ends) = ends {
            tx.execute("UPDATE entity_suppression SET expires_at = ?2 WHERE uuid = ?1", params![uuid, ends])?;
        }
        writer.wake_in(tx);
        Ok(())
    };
    faults.core.store.write(change).await?;
    fetch(&faults, &req, req.param("id"), 200).await
}

pub async fn delete(faults: Faults, req: Request) -> Result<Response> {
    faults.core.authorize("fault", "fm_api:event_suppression:modify", &req.ctx, &())?;
    let (uuid, writer) = (req.param("id").to_string(), faults.clone());
    let remove = move |tx: &Tx| {
        if tx.execute("DELETE FROM entity_suppression WHERE uuid = ?1", params![uuid])? == 0 {
            return Err(unknown(&uuid));
        }
        writer.wake_in(tx);
        Ok(())
    };
    faults.core.store.write(remove).await?;
    empty(204)
}

fn pattern(wanted: Option<String>, id: &str) -> Result<String> {
    let pattern = wanted.ok_or_else(|| Error::invalid("'entity_pattern' is a required field"))?;
    if pattern.is_empty() || pattern.chars().count() > PATTERN {
        return Err(Error::invalid(format!("entity_pattern must have 1 to {PATTERN} characters")));
    }
    if !id.is_empty() {
        alarm_id_check(id)?;
        if catalogue::known(id).is_some_and(|known| !known.is_alarm) {
            return Err(Error::invalid(format!("alarm_id '{id}' is a log's: logs cannot be suppressed")));
        }
    } else if pattern.chars().all(|c| c == '*') {
        return Err(Error::invalid(format!(
            "entity_pattern '{pattern}' would hide every alarm: name an alarm_id, or a part of the entity"
        )));
    }
    Ok(pattern)
}

fn comment(text: String) -> Result<String> {
    match text.chars().count() {
        0..=COMMENT => Ok(text),
        _ => Err(Error::invalid(format!("comment must have at most {COMMENT} characters"))),
    }
}

/// When a suppression is to end: what has ended already is a mistake.
fn end(text: &str) -> Result<Timestamp> {
    let at = date(text)?;
    if at <= Timestamp::now() {
        return Err(Error::invalid(format!("expires_at '{text}' is in the past")));
    }
    Ok(at)
}

fn unknown(uuid: &str) -> Error {
    Error::new(Kind::NotFound, format!("Entity suppression not found: {uuid}"))
}
