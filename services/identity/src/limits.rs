//! Unified limits: what projects and domains may use of the services' resources. They are kept here and enforced by the services.
//!
//! A registered limit is the default for everybody; a limit overrides it for one project or domain. -1: as much as one likes, for who enforces it.

use base::{Config, Context, Error, Kind, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::list::Ask;
use crate::{Identity, catalogue, fault, note, projects};

/// How the limits of domains and of their projects bind each other: `unified_limit.enforcement_model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    Flat,
    StrictTwoLevel,
}

impl Model {
    pub fn of(config: &Config) -> Result<Model> {
        match config.text("unified_limit.enforcement_model") {
            "flat" => Ok(Model::Flat),
            "strict_two_level" => Ok(Model::StrictTwoLevel),
            other => Err(Error::invalid(format!("unified_limit.enforcement_model: `{other}` is neither flat nor strict_two_level"))),
        }
    }

    /// How deep projects may lie below their domain.
    pub fn depth(self) -> usize {
        match self {
            Model::Flat => 5,
            Model::StrictTwoLevel => 1,
        }
    }

    pub fn view(self) -> Value {
        match self {
            Model::Flat => json!({ "name": "flat", "description": "Limits of projects and of domains do not bind each other." }),
            Model::StrictTwoLevel => json!({ "name": "strict_two_level",
                "description": "Projects lie directly below their domain, and none of them may have more than the domain." }),
        }
    }

    /// A tree that is deeper than the model allows cannot be served by it.
    pub fn check_tree_in(self, tx: &Tx) -> Result<()> {
        if self == Model::Flat {
            return Ok(());
        }
        let deep = "SELECT id FROM project WHERE is_domain = 0 AND parent_id <> domain_id ORDER BY id LIMIT 1";
        match tx.query_opt(deep, params![], |row| row.text(0))? {
            Some(id) => Err(Error::invalid(format!(
                "unified_limit.enforcement_model: strict_two_level allows no project below another one, but project {id} is"
            ))),
            None => Ok(()),
        }
    }
}

/// What a limit is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub service_id: String,
    /// Empty: of no region.
    pub region_id: String,
    pub resource_name: String,
}

#[derive(Clone, Debug)]
pub struct RegisteredLimit {
    pub id: String,
    pub about: About,
    pub default_limit: i64,
    pub description: Option<String>,
}

/// Whom a limit is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Project(String),
    Domain(String),
}

#[derive(Clone, Debug)]
pub struct Limit {
    pub id: String,
    pub holder: Holder,
    pub about: About,
    pub resource_limit: i64,
    pub description: Option<String>,
}

const REGISTERED: &str = "id, service_id, region_id, resource_name, default_limit, description";
const LIMIT: &str = "id, project_id, domain_id, service_id, region_id, resource_name, resource_limit, description";
const SAME: &str = "service_id = ?1 AND region_id = ?2 AND resource_name = ?3";

fn about(row: &Row, at: usize) -> Result<About> {
    Ok(About { service_id: row.text(at)?, region_id: row.text(at + 1)?, resource_name: row.text(at + 2)? })
}

fn registered_map(row: &Row) -> Result<RegisteredLimit> {
    Ok(RegisteredLimit { id: row.text(0)?, about: about(row, 1)?, default_limit: row.int(4)?, description: row.opt_text(5)? })
}

fn limit_map(row: &Row) -> Result<Limit> {
    let (project, domain) = (row.text(1)?, row.text(2)?);
    let holder = if project.is_empty() { Holder::Domain(domain) } else { Holder::Project(project) };
    Ok(Limit { id: row.text(0)?, holder, about: about(row, 3)?, resource_limit: row.int(6)?, description: row.opt_text(7)? })
}

impl About {
    fn region(&self) -> Value {
        if self.region_id.is_empty() { Value::Null } else { json!(self.region_id) }
    }

    /// The service and the region must be there.
    fn check_in(&self, tx: &Tx, target: &str) -> Result<()> {
        let missing = |name: &'static str| move |e: Error| if e.is(Kind::NotFound) { fault::expecting(name, target) } else { e };
        catalogue::service_get_in(tx, &self.service_id).map_err(missing("service_id"))?;
        if !self.region_id.is_empty() {
            catalogue::region_get_in(tx, &self.region_id).map_err(missing("region_id"))?;
        }
        Ok(())
    }
}

impl RegisteredLimit {
    pub fn view(&self, req: &Request) -> Value {
        json!({ "id": self.id, "service_id": self.about.service_id, "region_id": self.about.region(),
            "resource_name": self.about.resource_name, "default_limit": self.default_limit, "description": self.description,
            "links": { "self": format!("{}/v3/registered_limits/{}", req.base_url, self.id) } })
    }
}

impl Holder {
    fn columns(&self) -> (&str, &str) {
        match self {
            Holder::Project(id) => (id, ""),
            Holder::Domain(id) => ("", id),
        }
    }
}

impl Limit {
    pub fn view(&self, req: &Request) -> Value {
        let (project, domain) = match &self.holder {
            Holder::Project(id) => (json!(id), Value::Null),
            Holder::Domain(id) => (Value::Null, json!(id)),
        };
        json!({ "id": self.id, "project_id": project, "domain_id": domain, "service_id": self.about.service_id,
            "region_id": self.about.region(), "resource_name": self.about.resource_name, "resource_limit": self.resource_limit,
            "description": self.description, "links": { "self": format!("{}/v3/limits/{}", req.base_url, self.id) } })
    }

    /// What policies may ask about it.
    pub fn target_in(&self, tx: &Tx) -> Result<Value> {
        let limit = match &self.holder {
            Holder::Domain(id) => json!({ "domain_id": id, "domain": { "id": id } }),
            Holder::Project(id) => match projects::project_fetch_in(tx, id)? {
                Some(project) => json!({ "project_id": id, "project": { "id": id, "domain_id": project.domain_id } }),
                None => json!({ "project_id": id }),
            },
        };
        Ok(json!({ "target": { "limit": limit } }))
    }
}

pub fn registered_get_in(tx: &Tx, id: &str) -> Result<RegisteredLimit> {
    tx.query_opt(&format!("SELECT {REGISTERED} FROM registered_limit WHERE id = ?1"), params![id], registered_map)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("Could not find registered limit for {id}.")))
}

pub fn registered_list_in(tx: &Tx, ask: &Ask) -> Result<(Vec<RegisteredLimit>, bool)> {
    ask.fetch(tx, Select::new(format!("SELECT {REGISTERED} FROM registered_limit")), "registered_limit", registered_map)
}

pub fn limit_get_in(tx: &Tx, id: &str) -> Result<Limit> {
    tx.query_opt(&format!("SELECT {LIMIT} FROM unified_limit WHERE id = ?1"), params![id], limit_map)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("Could not find limit for {id}.")))
}

/// Whose limits a caller sees.
pub enum Seen<'a> {
    All,
    /// Of a domain and its projects.
    Domain(&'a str),
    Project(&'a str),
}

pub fn limit_list_in(tx: &Tx, ask: &Ask, seen: &Seen) -> Result<(Vec<Limit>, bool)> {
    let select = Select::new(format!("SELECT {LIMIT} FROM unified_limit"));
    let select = match *seen {
        Seen::All => select,
        Seen::Project(id) => select.eq("project_id", id),
        Seen::Domain(id) => select.cond(
            "(domain_id = ? OR project_id IN (SELECT id FROM project WHERE domain_id = ?))",
            [store::Value::from(id), store::Value::from(id)],
        ),
    };
    ask.fetch(tx, select, "unified_limit", limit_map)
}

/// Those of one project.
pub fn limits_of_in(tx: &Tx, project_id: &str) -> Result<Vec<Limit>> {
    tx.query(&format!("SELECT {LIMIT} FROM unified_limit WHERE project_id = ?1 ORDER BY id"), params![project_id], limit_map)
}

/// The limits of a project or a domain that goes.
pub fn limits_remove_of_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM unified_limit WHERE project_id = ?1 OR domain_id = ?1", params![id])?;
    Ok(())
}

/// All that is about a service, or about a region, that goes.
pub fn limits_remove_about_in(tx: &Tx, service_id: Option<&str>, region_id: Option<&str>) -> Result<()> {
    for table in ["unified_limit", "registered_limit"] {
        tx.execute(&format!("DELETE FROM {table} WHERE service_id = ?1 OR region_id = ?2"), params![service_id, region_id])?;
    }
    Ok(())
}

fn registered_taken(error: Error) -> Error {
    if error.is(Kind::Exists) { fault::duplicate("registered_limit", "Duplicate entry") } else { error }
}

fn check_unused_in(tx: &Tx, id: &str) -> Result<()> {
    match tx.query_opt("SELECT 1 FROM unified_limit WHERE registered_limit_id = ?1 LIMIT 1", params![id], |_| Ok(()))? {
        None => Ok(()),
        Some(()) => Err(Error::forbidden(format!(
            "Unable to update or delete registered limit {id} because there are project limits associated with it."
        ))),
    }
}

fn limit_insert_in(tx: &Tx, limit: &Limit) -> Result<()> {
    let registered = registered_of_in(tx, &limit.about)?
        .ok_or_else(|| Error::forbidden("Unable to create a limit that has no corresponding registered limit."))?;
    let (project, domain) = limit.holder.columns();
    let About { service_id, region_id, resource_name } = &limit.about;
    let inserted = tx.attempt(|tx| {
        tx.execute(
            &format!("INSERT INTO unified_limit ({LIMIT}, registered_limit_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"),
            params![
                &limit.id,
                project,
                domain,
                service_id,
                region_id,
                resource_name,
                limit.resource_limit,
                &limit.description,
                &registered.id
            ],
        )
    });
    inserted.map(|_| ()).map_err(|e| if e.is(Kind::Exists) { fault::duplicate("limit", "Duplicate entry") } else { e })
}

fn registered_of_in(tx: &Tx, about: &About) -> Result<Option<RegisteredLimit>> {
    let About { service_id, region_id, resource_name } = about;
    let sql = format!("SELECT {REGISTERED} FROM registered_limit WHERE {SAME}");
    tx.query_opt(&sql, params![service_id, region_id, resource_name], registered_map)
}

/// No project may have more than its domain. A domain without a limit has the registered one; a project without one is not looked at. Numbers are
/// compared as they are, as upstream: -1 is the least.
fn check_levels_in(tx: &Tx, limit: &Limit) -> Result<()> {
    let About { service_id, region_id, resource_name } = &limit.about;
    let values = |tail: &str, id: &str| {
        let sql = format!("SELECT resource_limit FROM unified_limit WHERE {SAME} AND {tail}");
        tx.query(&sql, params![service_id, region_id, resource_name, id], |row| row.int(0))
    };
    let holds = match &limit.holder {
        Holder::Project(id) => {
            let domain = projects::project_get_in(tx, id)?.domain_id;
            let of_domain = values("domain_id = ?4", &domain)?.first().copied();
            let allowed = of_domain.or(registered_of_in(tx, &limit.about)?.map(|registered| registered.default_limit));
            allowed.is_none_or(|allowed| limit.resource_limit <= allowed)
        }
        Holder::Domain(id) => {
            let of_projects = values("project_id IN (SELECT id FROM project WHERE domain_id = ?4)", id)?;
            of_projects.iter().all(|wanted| *wanted <= limit.resource_limit)
        }
    };
    if holds {
        return Ok(());
    }
    let (level, id) = match &limit.holder {
        Holder::Project(id) => ("project_id", id),
        Holder::Domain(id) => ("domain_id", id),
    };
    let region = if region_id.is_empty() { "None" } else { region_id };
    Err(Error::forbidden(format!(
        "Invalid resource limit: The resource limit ({level}: {id}, resource_name: {resource_name}, resource_limit: {}, service_id: {service_id}, \
         region_id: {region}) doesn't satisfy current hierarchy model..",
        limit.resource_limit
    )))
}

/// The project or domain must be there; a domain may be named as a project.
fn settle_in(tx: &Tx, holder: Holder) -> Result<Holder> {
    let (name, id) = match &holder {
        Holder::Project(id) => ("project_id", id),
        Holder::Domain(id) => ("domain_id", id),
    };
    let found = projects::project_fetch_in(tx, id)?.ok_or_else(|| fault::expecting(name, "limit"))?;
    match holder {
        Holder::Project(id) if found.is_domain => Ok(Holder::Domain(id)),
        Holder::Domain(_) if !found.is_domain => Err(fault::expecting("domain_id", "limit")),
        other => Ok(other),
    }
}

impl Identity {
    /// How much a project may have of a resource of a type of service: its own limit, or the default for everybody; none where
    /// nobody has registered the resource, -1: as much as it likes. For the transaction of the service that gives it.
    pub fn limit_in(&self, tx: &Tx, service_type: &str, project_id: &str, resource: &str) -> Result<Option<i64>> {
        // What is registered for this region goes before what is for all of them.
        let sql = "SELECT COALESCE(l.resource_limit, r.default_limit) FROM registered_limit r \
                   JOIN catalogue_service s ON s.id = r.service_id \
                   LEFT JOIN unified_limit l ON l.registered_limit_id = r.id AND l.project_id = ?2 \
                   WHERE s.type = ?1 AND r.resource_name = ?3 AND r.region_id IN ('', ?4) ORDER BY r.region_id DESC LIMIT 1";
        tx.query_opt(sql, params![service_type, project_id, resource, self.0.config.text("region")], |row| row.int(0))
    }
}

impl Identity {
    /// All of them or none.
    pub(crate) async fn registered_limits_create(&self, ctx: &Context, limits: Vec<RegisteredLimit>) -> Result<Vec<RegisteredLimit>> {
        let ctx = ctx.clone();
        self.add(move |tx| {
            for limit in &limits {
                let About { service_id, region_id, resource_name } = &limit.about;
                limit.about.check_in(tx, "registered_limit")?;
                let inserted = tx.attempt(|tx| {
                    tx.execute(
                        &format!("INSERT INTO registered_limit ({REGISTERED}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
                        params![&limit.id, service_id, region_id, resource_name, limit.default_limit, &limit.description],
                    )
                });
                inserted.map_err(registered_taken)?;
                note(tx, &ctx, "registered_limit.created", &limit.id)?;
            }
            Ok(limits)
        })
        .await
    }

    /// Not while there are limits of it.
    pub(crate) async fn registered_limit_update(
        &self,
        ctx: &Context,
        id: &str,
        change: impl FnOnce(&mut RegisteredLimit) + Send + 'static,
    ) -> Result<RegisteredLimit> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            let mut limit = registered_get_in(tx, &id)?;
            check_unused_in(tx, &id)?;
            change(&mut limit);
            limit.about.check_in(tx, "registered_limit")?;
            let About { service_id, region_id, resource_name } = &limit.about;
            let updated = tx.attempt(|tx| {
                tx.execute(
                    "UPDATE registered_limit SET service_id = ?2, region_id = ?3, resource_name = ?4, default_limit = ?5, description = ?6 \
                     WHERE id = ?1",
                    params![&id, service_id, region_id, resource_name, limit.default_limit, &limit.description],
                )
            });
            updated.map_err(registered_taken)?;
            note(tx, &ctx, "registered_limit.updated", &id)?;
            Ok(limit)
        })
        .await
    }

    pub(crate) async fn registered_limit_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            registered_get_in(tx, &id)?;
            check_unused_in(tx, &id)?;
            tx.execute("DELETE FROM registered_limit WHERE id = ?1", params![&id])?;
            note(tx, &ctx, "registered_limit.deleted", &id)
        })
        .await
    }

    /// All of them or none. Those of one request may stand on each other, so they are checked when all are there.
    pub(crate) async fn limits_create(&self, ctx: &Context, mut limits: Vec<Limit>) -> Result<Vec<Limit>> {
        let (ctx, model) = (ctx.clone(), self.limit_model()?);
        self.add(move |tx| {
            for limit in &mut limits {
                limit.about.check_in(tx, "limit")?;
                limit.holder = settle_in(tx, limit.holder.clone())?;
                limit_insert_in(tx, limit)?;
                note(tx, &ctx, "limit.created", &limit.id)?;
            }
            if model == Model::StrictTwoLevel {
                limits.iter().try_for_each(|limit| check_levels_in(tx, limit))?;
            }
            Ok(limits)
        })
        .await
    }

    pub(crate) async fn limit_update(&self, ctx: &Context, id: &str, change: impl FnOnce(&mut Limit) + Send + 'static) -> Result<Limit> {
        let (ctx, id, model) = (ctx.clone(), id.to_string(), self.limit_model()?);
        self.add(move |tx| {
            let mut limit = limit_get_in(tx, &id)?;
            change(&mut limit);
            if model == Model::StrictTwoLevel {
                check_levels_in(tx, &limit)?;
            }
            tx.execute(
                "UPDATE unified_limit SET resource_limit = ?2, description = ?3 WHERE id = ?1",
                params![&id, limit.resource_limit, &limit.description],
            )?;
            note(tx, &ctx, "limit.updated", &id)?;
            Ok(limit)
        })
        .await
    }

    pub(crate) async fn limit_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            if tx.execute("DELETE FROM unified_limit WHERE id = ?1", params![&id])? == 0 {
                return limit_get_in(tx, &id).map(|_| ());
            }
            note(tx, &ctx, "limit.deleted", &id)
        })
        .await
    }

    pub(crate) fn limit_model(&self) -> Result<Model> {
        Model::of(&self.0.config)
    }
}
