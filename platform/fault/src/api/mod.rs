//! REST v1.

mod alarms;
mod event_log;
mod suppression;

use base::{Error, Result};
use http_api::{Api, FaultStyle, Page, Request, Response, Routes, SortDir, Table, json};
use serde_json::{Value as Json, json};
use store::{Dir, Value};

use crate::Faults;

/// Pages are never longer than this.
const PAGE: u64 = 2000;

pub fn routes(faults: Faults) -> Result<Table> {
    Routes::new(faults, Api { service: "fault", style: FaultStyle::Fault, versions: None, head: false, slash: true })
        .public("GET", "/", root)
        .public("GET", "/v1", version)
        .get("/v1/alarms", alarms::index)
        .post("/v1/alarms", alarms::create)
        .get("/v1/alarms/detail", alarms::detail)
        .get("/v1/alarms/summary", alarms::summary)
        .get("/v1/alarms/{id}", alarms::show)
        .put("/v1/alarms/{id}", alarms::update)
        .delete("/v1/alarms/{id}", alarms::delete)
        .get("/v1/event_log", event_log::index)
        .get("/v1/event_log/detail", event_log::detail)
        .get("/v1/event_log/{id}", event_log::show)
        .get("/v1/event_suppression", suppression::index)
        .get("/v1/event_suppression/{id}", suppression::show)
        .patch("/v1/event_suppression/{id}", suppression::update)
        .build()
}

async fn root(_: Faults, req: Request) -> Result<Response> {
    let v1 = json!({"id": "v1", "links": [{"href": format!("{}/v1/", req.base_url), "rel": "self"}]});
    json(
        200,
        &json!({"name": "Fault Management API", "description": "Alarms and events of this cloud", "versions": [v1], "default_version": v1}),
    )
}

async fn version(_: Faults, req: Request) -> Result<Response> {
    let links = |name: &str| json!([{"href": format!("{}/v1/{name}/", req.base_url), "rel": "self"}, {"href": format!("{}/{name}/", req.base_url), "rel": "bookmark"}]);
    let body = json!({
        "id": "v1",
        "media_types": [{"base": "application/json", "type": "application/vnd.openstack.fm.v1+json"}],
        "links": [{"href": format!("{}/v1/", req.base_url), "rel": "self"}],
        "alarms": links("alarms"), "event_log": links("event_log"), "event_suppression": links("event_suppression"),
    });
    json(200, &body)
}

/// The order of a list: the client's keys, or `default`; the row id decides ties.
fn order(page: &Page, default: &[(&'static str, Dir)], columns: &[(&'static str, &'static str)]) -> Result<Vec<(&'static str, Dir)>> {
    let mut order = Vec::new();
    for (key, dir) in &page.sort {
        let column = columns.iter().find(|(name, _)| name == key).map(|(_, column)| *column);
        let column = column.ok_or_else(|| Error::invalid(format!("Unknown sort key '{key}'")))?;
        order.push((column, if *dir == SortDir::Asc { Dir::Asc } else { Dir::Desc }));
    }
    if order.is_empty() {
        order.extend_from_slice(default);
    }
    if !order.iter().any(|(column, _)| *column == "id") {
        order.push(("id", Dir::Asc));
    }
    Ok(order)
}

/// Values of the order's columns in the row the marker names: where the next page begins.
fn marker(tx: &store::Tx, table: &str, uuid: &str, order: &[(&'static str, Dir)]) -> Result<Vec<Value>> {
    let columns: Vec<&str> = order.iter().map(|(column, _)| *column).collect();
    let sql = format!("SELECT {} FROM {table} WHERE uuid = ?1", columns.join(", "));
    let found = tx.query_opt(&sql, &[uuid.into()], |row| (0..columns.len()).map(|i| row.value(i)).collect::<Result<Vec<Value>>>())?;
    found.ok_or_else(|| Error::invalid(format!("Marker '{uuid}' could not be found")))
}

/// The body of a list, with a link to the next page when this one is full.
fn listed(req: &Request, key: &str, items: Vec<Json>, page: &Page) -> Result<Response> {
    let full = page.limit.is_some_and(|limit| limit > 0 && items.len() as u64 == limit);
    let last = items.last().and_then(|item| item["uuid"].as_str()).map(str::to_string);
    let mut body = json!({ key: items });
    if let (true, Some(last)) = (full, last) {
        body["next"] = json!(http_api::page::link_with_marker(req, &last, None));
    }
    json(200, &body)
}

fn truth(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}
