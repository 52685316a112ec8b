//! Which endpoints the catalogue of a project shows: those given to it one by one and those of its endpoint groups. A project with
//! neither sees all.

use std::collections::HashSet;

use base::{Context, Error, Kind, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::catalogue::{Endpoint, INTERFACES, endpoint_get_in, endpoints_all_in};
use crate::list::Ask;
use crate::projects::{Project, project_get_in, projects_by_ids_in};
use crate::wire::{self, Object};
use crate::{Identity, fault, note};

/// Endpoints that have all of some attributes.
#[derive(Clone, Debug)]
pub struct EndpointGroup {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub filters: Object,
}

const COLUMNS: &str = "id, name, description, filters";

fn map(row: &Row) -> Result<EndpointGroup> {
    Ok(EndpointGroup { id: row.text(0)?, name: row.text(1)?, description: row.opt_text(2)?, filters: row.json(3)? })
}

impl EndpointGroup {
    pub fn view(&self, req: &Request) -> Value {
        json!({ "id": self.id, "name": self.name, "description": self.description, "filters": self.filters,
            "links": { "self": format!("{}/v3/OS-EP-FILTER/endpoint_groups/{}", req.base_url, self.id) } })
    }
}

/// Whether an endpoint has all that the filters of a group ask for.
fn matches(filters: &Object, endpoint: &Endpoint) -> bool {
    filters.iter().all(|(name, wanted)| match name.as_str() {
        "service_id" => wanted.as_str() == Some(&endpoint.service_id),
        "interface" => wanted.as_str() == Some(&endpoint.interface),
        "region_id" => wanted.as_str() == endpoint.region_id.as_deref(),
        _ => false,
    })
}

/// What a request wants to set.
pub struct EndpointGroupChange {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub filters: Option<Object>,
}

impl EndpointGroupChange {
    pub fn read(mut map: Object) -> Result<EndpointGroupChange> {
        let filters = match map.remove("filters") {
            None => None,
            Some(Value::Object(filters)) => Some(filters),
            Some(other) => return Err(fault::field("endpoint_group/filters", format!("{other} is not of type 'object'"))),
        };
        for (name, value) in filters.iter().flatten() {
            let path = format!("endpoint_group/filters/{name}");
            match (name.as_str(), value) {
                ("interface", Value::String(text)) if INTERFACES.contains(&text.as_str()) => {}
                ("interface", other) => return Err(fault::field(&path, format!("{other} is not one of ['admin', 'internal', 'public']"))),
                ("service_id", Value::String(_)) | ("region_id", Value::String(_) | Value::Null) => {}
                ("service_id" | "region_id", other) => return Err(fault::field(&path, format!("{other} is not of type 'string'"))),
                _ => return Err(fault::expecting("service_id or region_id or interface", "endpoint_group")),
            }
        }
        let mut take = wire::Take { map: &mut map, what: "endpoint_group" };
        let change =
            EndpointGroupChange { name: take.name("name", 255)?, description: take.nullable_text("description", 65_535)?, filters };
        take.nothing_else()?;
        Ok(change)
    }

    pub fn whole(self) -> Result<EndpointGroup> {
        let name = self.name.ok_or_else(|| fault::field("endpoint_group", "'name' is a required property"))?;
        let filters = self.filters.filter(|filters| !filters.is_empty());
        Ok(EndpointGroup {
            id: base::id::hex(),
            name,
            description: self.description.flatten(),
            filters: filters.ok_or_else(|| Error::invalid("filters field is required and cannot be empty"))?,
        })
    }
}

pub fn group_get_in(tx: &Tx, id: &str) -> Result<EndpointGroup> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM endpoint_group WHERE id = ?1"), params![id], map)?
        .ok_or_else(|| fault::not_found("Endpoint Group", id))
}

pub fn group_list_in(tx: &Tx, ask: &Ask) -> Result<(Vec<EndpointGroup>, bool)> {
    ask.fetch(tx, Select::new(format!("SELECT {COLUMNS} FROM endpoint_group")), "endpoint_group", map)
}

pub fn groups_of_project_in(tx: &Tx, project_id: &str) -> Result<Vec<EndpointGroup>> {
    project_get_in(tx, project_id)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM endpoint_group WHERE id IN (SELECT endpoint_group_id FROM project_endpoint_group WHERE project_id = ?1) \
         ORDER BY id"
    );
    tx.query(&sql, params![project_id], map)
}

pub fn endpoints_of_group_in(tx: &Tx, id: &str) -> Result<Vec<Endpoint>> {
    let filters = group_get_in(tx, id)?.filters;
    Ok(endpoints_all_in(tx)?.into_iter().filter(|endpoint| matches(&filters, endpoint)).collect())
}

pub fn projects_of_group_in(tx: &Tx, id: &str) -> Result<Vec<Project>> {
    group_get_in(tx, id)?;
    let sql = "SELECT project_id FROM project_endpoint_group WHERE endpoint_group_id = ?1";
    projects_by_ids_in(tx, &tx.query(sql, params![id], |row| row.text(0))?)
}

pub fn projects_of_endpoint_in(tx: &Tx, id: &str) -> Result<Vec<Project>> {
    endpoint_get_in(tx, id)?;
    let ids = tx.query("SELECT project_id FROM project_endpoint WHERE endpoint_id = ?1", params![id], |row| row.text(0))?;
    projects_by_ids_in(tx, &ids)
}

/// The endpoints that were chosen for a project. None: all are to be seen.
pub fn endpoints_of_project_in(tx: &Tx, project_id: &str) -> Result<Vec<Endpoint>> {
    let rows = tx.query(
        "SELECT endpoint_id, '' FROM project_endpoint WHERE project_id = ?1 \
         UNION ALL SELECT '', filters FROM endpoint_group JOIN project_endpoint_group ON endpoint_group_id = id WHERE project_id = ?1",
        params![project_id],
        |row| Ok((row.text(0)?, if row.text(1)?.is_empty() { None } else { Some(row.json::<Object>(1)?) })),
    )?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: HashSet<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
    let chosen = |endpoint: &Endpoint| {
        ids.contains(endpoint.id.as_str()) || rows.iter().any(|(_, filters)| filters.as_ref().is_some_and(|f| matches(f, endpoint)))
    };
    Ok(endpoints_all_in(tx)?.into_iter().filter(chosen).collect())
}

pub fn endpoint_of_project_check_in(tx: &Tx, project_id: &str, endpoint_id: &str) -> Result<()> {
    endpoint_get_in(tx, endpoint_id)?;
    project_get_in(tx, project_id)?;
    let sql = "SELECT 1 FROM project_endpoint WHERE project_id = ?1 AND endpoint_id = ?2";
    tx.query_opt(sql, params![project_id, endpoint_id], |_| Ok(()))?.ok_or_else(|| not_in_project(project_id, endpoint_id))
}

fn not_in_project(project_id: &str, endpoint_id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Endpoint {endpoint_id} not found in project {project_id}"))
}

pub fn group_of_project_check_in(tx: &Tx, project_id: &str, group_id: &str) -> Result<()> {
    project_get_in(tx, project_id)?;
    group_get_in(tx, group_id)?;
    let sql = "SELECT 1 FROM project_endpoint_group WHERE project_id = ?1 AND endpoint_group_id = ?2";
    tx.query_opt(sql, params![project_id, group_id], |_| Ok(()))?.ok_or_else(no_association)
}

fn no_association() -> Error {
    Error::new(Kind::NotFound, "Endpoint Group Project Association not found")
}

/// What was chosen for a project, or an endpoint, that goes.
pub fn choices_remove_in(tx: &Tx, project_id: Option<&str>, endpoint_id: Option<&str>) -> Result<()> {
    tx.execute("DELETE FROM project_endpoint WHERE project_id = ?1 OR endpoint_id = ?2", params![project_id, endpoint_id])?;
    tx.execute("DELETE FROM project_endpoint_group WHERE project_id = ?1", params![project_id])?;
    Ok(())
}

fn taken(error: Error, kind: &str) -> Error {
    if error.is(Kind::Exists) { fault::duplicate(kind, "Duplicate entry") } else { error }
}

impl Identity {
    /// Whether a project for which no endpoint was chosen sees all of them.
    pub(crate) fn whole_catalogue(&self) -> bool {
        self.0.config.flag("endpoint_filter.return_all_endpoints_if_no_filter")
    }

    pub(crate) async fn endpoint_group_create(&self, ctx: &Context, group: EndpointGroup) -> Result<EndpointGroup> {
        let ctx = ctx.clone();
        self.add(move |tx| {
            tx.execute(
                &format!("INSERT INTO endpoint_group ({COLUMNS}) VALUES (?1, ?2, ?3, ?4)"),
                params![&group.id, &group.name, &group.description, store::Value::json(&group.filters)?],
            )?;
            note(tx, &ctx, "endpoint_group.created", &group.id)?;
            Ok(group)
        })
        .await
    }

    pub(crate) async fn endpoint_group_update(&self, ctx: &Context, id: &str, change: EndpointGroupChange) -> Result<EndpointGroup> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            let mut group = group_get_in(tx, &id)?;
            group.name = change.name.unwrap_or(group.name);
            group.description = change.description.unwrap_or(group.description);
            group.filters = change.filters.unwrap_or(group.filters);
            tx.execute(
                "UPDATE endpoint_group SET name = ?2, description = ?3, filters = ?4 WHERE id = ?1",
                params![&id, &group.name, &group.description, store::Value::json(&group.filters)?],
            )?;
            note(tx, &ctx, "endpoint_group.updated", &id)?;
            Ok(group)
        })
        .await
    }

    pub(crate) async fn endpoint_group_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            group_get_in(tx, &id)?;
            tx.execute("DELETE FROM project_endpoint_group WHERE endpoint_group_id = ?1", params![&id])?;
            tx.execute("DELETE FROM endpoint_group WHERE id = ?1", params![&id])?;
            note(tx, &ctx, "endpoint_group.deleted", &id)
        })
        .await
    }

    pub(crate) async fn project_endpoint_add(&self, ctx: &Context, project_id: &str, endpoint_id: &str) -> Result<()> {
        let (ctx, project, endpoint) = (ctx.clone(), project_id.to_string(), endpoint_id.to_string());
        self.change(move |tx| {
            endpoint_get_in(tx, &endpoint)?;
            project_get_in(tx, &project)?;
            let sql = "INSERT INTO project_endpoint (project_id, endpoint_id) VALUES (?1, ?2)";
            tx.attempt(|tx| tx.execute(sql, params![&project, &endpoint])).map_err(|e| taken(e, "project_endpoint"))?;
            note(tx, &ctx, "project.updated", &project)
        })
        .await
    }

    pub(crate) async fn project_endpoint_remove(&self, ctx: &Context, project_id: &str, endpoint_id: &str) -> Result<()> {
        let (ctx, project, endpoint) = (ctx.clone(), project_id.to_string(), endpoint_id.to_string());
        self.change(move |tx| {
            let sql = "DELETE FROM project_endpoint WHERE project_id = ?1 AND endpoint_id = ?2";
            if tx.execute(sql, params![&project, &endpoint])? == 0 {
                return Err(not_in_project(&project, &endpoint));
            }
            note(tx, &ctx, "project.updated", &project)
        })
        .await
    }

    pub(crate) async fn project_endpoint_group_add(&self, ctx: &Context, project_id: &str, group_id: &str) -> Result<()> {
        let (ctx, project, group) = (ctx.clone(), project_id.to_string(), group_id.to_string());
        self.change(move |tx| {
            project_get_in(tx, &project)?;
            group_get_in(tx, &group)?;
            let sql = "INSERT INTO project_endpoint_group (project_id, endpoint_group_id) VALUES (?1, ?2)";
            tx.attempt(|tx| tx.execute(sql, params![&project, &group])).map_err(|e| taken(e, "project_endpoint_group"))?;
            note(tx, &ctx, "project.updated", &project)
        })
        .await
    }

    pub(crate) async fn project_endpoint_group_remove(&self, ctx: &Context, project_id: &str, group_id: &str) -> Result<()> {
        let (ctx, project, group) = (ctx.clone(), project_id.to_string(), group_id.to_string());
        self.change(move |tx| {
            project_get_in(tx, &project)?;
            group_get_in(tx, &group)?;
            let sql = "DELETE FROM project_endpoint_group WHERE project_id = ?1 AND endpoint_group_id = ?2";
            if tx.execute(sql, params![&project, &group])? == 0 {
                return Err(no_association());
            }
            note(tx, &ctx, "project.updated", &project)
        })
        .await
    }
}
