//! REST v1.

mod alarms;
mod entity_suppression;
mod event_log;
mod stream;
mod suppression;

use base::{Error, Result};
use http_api::{Api, FaultStyle, Page, Query, Request, Response, Routes, SortDir, Table, json};
use serde_json::{Value as Json, json};
use store::{Dir, Value};

use crate::Faults;

/// Pages are never longer than this.
const PAGE: u64 = 2000;

pub fn routes(faults: Faults) -> Result<Table> {
    let routes = Routes::new(faults, Api { service: "fault", style: FaultStyle::Fault, versions: None, head: false, slash: true })
        .public("GET", "/", root)
        .public("GET", "/v1", version);
    // A path without a version means the first.
    resources(resources(routes.under("/v1")).under("")).build()
}

fn resources(routes: Routes<Faults>) -> Routes<Faults> {
    routes
        .get("/alarms", alarms::index)
        .post("/alarms", alarms::create)
        .get("/alarms/detail", alarms::detail)
        .get("/alarms/summary", alarms::summary)
        .get("/alarms/{id}", alarms::show)
        .put("/alarms/{id}", alarms::update)
        .delete("/alarms/{id}", alarms::delete)
        .get("/event_log", event_log::index)
        .get("/event_log/detail", event_log::detail)
        .get("/event_log/{id}", event_log::show)
        .get("/stream", stream::follow)
        .get("/event_suppression", suppression::index)
        .get("/event_suppression/{id}", suppression::show)
        .patch("/event_suppression/{id}", suppression::update)
        .get("/entity_suppression", entity_suppression::index)
        .post("/entity_suppression", entity_suppression::create)
        .get("/entity_suppression/{id}", entity_suppression::show)
        .patch("/entity_suppression/{id}", entity_suppression::update)
        .delete("/entity_suppression/{id}", entity_suppression::delete)
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

/// The columns of an order, and by what keys clients ask for it.
struct Sorting {
    default: &'static [(&'static str, Dir)],
    /// The direction the client means when it says the default order's own.
    forward: &'static str,
    keys: &'static [(&'static str, &'static str)],
}

impl Sorting {
    /// The client's keys, or the default order, turned round if that is wanted; the row id decides ties.
    fn order(&self, page: &Page, query: &Query) -> Result<Vec<(&'static str, Dir)>> {
        let mut order = Vec::new();
        for (keys, dir) in &page.sort {
            for key in keys.split(',') {
                let column = self.keys.iter().find(|(name, _)| *name == key).map(|(_, column)| *column);
                let column = column.ok_or_else(|| Error::invalid(format!("Unknown sort key '{key}'")))?;
                order.push((column, if *dir == SortDir::Asc { Dir::Asc } else { Dir::Desc }));
            }
        }
        if order.is_empty() {
            let turned = query.get("sort_dir").is_some_and(|dir| dir != self.forward);
            order.extend(self.default.iter().map(|(column, dir)| (*column, if turned { opposite(*dir) } else { *dir })));
        }
        if !order.iter().any(|(column, _)| *column == "id") {
            order.push(("id", Dir::Asc));
        }
        Ok(order)
    }
}

fn opposite(dir: Dir) -> Dir {
    if dir == Dir::Asc { Dir::Desc } else { Dir::Asc }
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
    let full = items.len() as u64 == page.fetch_limit(PAGE);
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
