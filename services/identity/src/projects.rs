//! Projects and domains: one tree, its storage and its rules. A domain is a root of it.

use std::collections::{BTreeMap, HashMap};

use base::{Context, Error, Kind, Result};
use http_api::Request;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use store::{Row, Select, Tx, params};

use crate::list::{Ask, Item};
use crate::token::validate::{DOMAIN, PROJECT, revoke_in};
use crate::wire::{IMMUTABLE, Object};
use crate::{Identity, credentials, domain_config, endpoint_filter, fault, limits, note, oauth1, trusts, wire};

#[derive(Clone, Debug)]
pub struct Project {
    pub id: String,
    pub name: String,
    /// Empty for a domain.
    pub domain_id: String,
    /// Empty for a domain.
    pub parent_id: String,
    pub is_domain: bool,
    pub enabled: bool,
    pub description: Option<String>,
    pub options: Object,
    pub extra: Object,
    pub tags: Vec<String>,
}

const COLUMNS: &str = "id, name, domain_id, parent_id, is_domain, enabled, description, options, extra";

fn map(row: &Row) -> Result<Project> {
    Ok(Project {
        id: row.text(0)?,
        name: row.text(1)?,
        domain_id: row.text(2)?,
        parent_id: row.text(3)?,
        is_domain: row.flag(4)?,
        enabled: row.flag(5)?,
        description: row.opt_text(6)?,
        options: row.json(7)?,
        extra: row.json(8)?,
        tags: Vec::new(),
    })
}

impl Project {
    pub fn is_immutable(&self) -> bool {
        self.options.get("immutable").and_then(Value::as_bool) == Some(true)
    }

    /// As a project.
    pub fn view<'a>(&'a self, req: &'a Request) -> View<'a> {
        View { project: self, base_url: &req.base_url, as_domain: false }
    }

    /// As a domain.
    pub fn domain_view<'a>(&'a self, req: &'a Request) -> View<'a> {
        View { project: self, base_url: &req.base_url, as_domain: true }
    }

    /// What policies may ask about it.
    pub fn target(&self) -> Value {
        let domain = if self.is_domain { Value::Null } else { json!(self.domain_id) };
        json!({ "id": self.id, "name": self.name, "domain_id": domain, "enabled": self.enabled })
    }
}

/// A project or domain as the API shows it.
pub struct View<'a> {
    project: &'a Project,
    base_url: &'a str,
    as_domain: bool,
}

impl Item for View<'_> {
    fn id(&self) -> Option<&str> {
        Some(&self.project.id)
    }
}

impl Serialize for View<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        const OWN: [&str; 10] = ["id", "name", "description", "enabled", "tags", "options", "domain_id", "parent_id", "is_domain", "links"];
        let project = self.project;
        fn or_null(id: &str) -> Option<&str> {
            Some(id).filter(|id| !id.is_empty())
        }
        let mut view = serializer.serialize_map(None)?;
        // What users have added says nothing about what is ours.
        for (name, value) in project.extra.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
            view.serialize_entry(name, value)?;
        }
        view.serialize_entry("id", &project.id)?;
        view.serialize_entry("name", &project.name)?;
        view.serialize_entry("description", &project.description)?;
        view.serialize_entry("enabled", &project.enabled)?;
        view.serialize_entry("tags", &project.tags)?;
        view.serialize_entry("options", &project.options)?;
        let kind = if self.as_domain {
            "domains"
        } else {
            view.serialize_entry("domain_id", &or_null(&project.domain_id))?;
            view.serialize_entry("parent_id", &or_null(&project.parent_id))?;
            view.serialize_entry("is_domain", &project.is_domain)?;
            "projects"
        };
        view.serialize_entry("links", &BTreeMap::from([("self", format!("{}/v3/{kind}/{}", self.base_url, project.id))]))?;
        view.end()
    }
}

/// Without its tags.
pub fn project_fetch_in(tx: &Tx, id: &str) -> Result<Option<Project>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM project WHERE id = ?1"), params![id], map)
}

pub fn project_get_in(tx: &Tx, id: &str) -> Result<Project> {
    let mut project = project_fetch_in(tx, id)?.ok_or_else(|| fault::not_found("project", id))?;
    project.tags = tags_in(tx, id)?;
    Ok(project)
}

pub fn domain_get_in(tx: &Tx, id: &str) -> Result<Project> {
    let mut domain = project_fetch_in(tx, id)?.filter(|d| d.is_domain).ok_or_else(|| fault::not_found("domain", id))?;
    domain.tags = tags_in(tx, id)?;
    Ok(domain)
}

/// A domain's `domain_id` is empty.
pub fn project_by_name_in(tx: &Tx, name: &str, domain_id: &str) -> Result<Option<Project>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM project WHERE domain_id = ?1 AND name = ?2"), params![domain_id, name], map)
}

pub fn tags_in(tx: &Tx, id: &str) -> Result<Vec<String>> {
    tx.query("SELECT name FROM project_tag WHERE project_id = ?1 ORDER BY name", params![id], |row| row.text(0))
}

/// One query for the tags of all.
pub fn with_tags_in(tx: &Tx, mut projects: Vec<Project>) -> Result<Vec<Project>> {
    let mut tags: HashMap<String, Vec<String>> = HashMap::new();
    for chunk in projects.chunks(500) {
        let rows = Select::new("SELECT project_id, name FROM project_tag")
            .in_list("project_id", chunk.iter().map(|p| p.id.as_str()))
            .order(&[("name", store::Dir::Asc)])
            .fetch(tx, |row| Ok((row.text(0)?, row.text(1)?)))?;
        for (id, tag) in rows {
            tags.entry(id).or_default().push(tag);
        }
    }
    for project in &mut projects {
        project.tags = tags.remove(&project.id).unwrap_or_default();
    }
    Ok(projects)
}

/// Filters on tags, each a comma-separated list.
#[derive(Clone, Debug, Default)]
pub struct TagFilter {
    pub all: Vec<String>,
    pub any: Vec<String>,
    pub not_all: Vec<String>,
    pub not_any: Vec<String>,
}

impl TagFilter {
    pub fn read(query: &http_api::Query) -> TagFilter {
        let list = |name: &str| -> Vec<String> {
            query.get(name).map(|text| text.split(',').filter(|t| !t.is_empty()).map(str::to_string).collect()).unwrap_or_default()
        };
        TagFilter { all: list("tags"), any: list("tags-any"), not_all: list("not-tags"), not_any: list("not-tags-any") }
    }

    fn apply(&self, mut select: Select) -> Select {
        const HAS: &str = "id IN (SELECT project_id FROM project_tag WHERE name = ?)";
        let value = |tag: &String| store::Value::from(tag);
        for tag in &self.all {
            select = select.cond(HAS, [value(tag)]);
        }
        if !self.any.is_empty() {
            let text = vec![HAS; self.any.len()].join(" OR ");
            select = select.cond(&text, self.any.iter().map(value));
        }
        if !self.not_all.is_empty() {
            let text = format!("NOT ({})", vec![HAS; self.not_all.len()].join(" AND "));
            select = select.cond(&text, self.not_all.iter().map(value));
        }
        for tag in &self.not_any {
            select = select.cond(&format!("NOT {HAS}"), [value(tag)]);
        }
        select
    }
}

pub struct ProjectList<'a> {
    pub ask: &'a Ask,
    pub tags: TagFilter,
    pub is_domain: Option<bool>,
    /// Only those of a domain.
    pub within: Option<&'a str>,
    /// Only this one (the domain of a domain token).
    pub only: Option<&'a str>,
}

pub fn project_list_in(tx: &Tx, wanted: &ProjectList) -> Result<(Vec<Project>, bool)> {
    let select = Select::new(format!("SELECT {COLUMNS} FROM project"))
        .opt_eq("is_domain", wanted.is_domain)
        .opt_eq("domain_id", wanted.within)
        .opt_eq("id", wanted.only);
    let (projects, more) = wanted.ask.fetch(tx, wanted.tags.apply(select), "project", map)?;
    Ok((with_tags_in(tx, projects)?, more))
}

pub fn projects_by_ids_in(tx: &Tx, ids: &[String]) -> Result<Vec<Project>> {
    let mut projects = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(500) {
        projects
            .extend(Select::new(format!("SELECT {COLUMNS} FROM project")).in_list("id", chunk.iter().map(String::as_str)).fetch(tx, map)?);
    }
    projects.sort_by(|a, b| a.id.cmp(&b.id));
    with_tags_in(tx, projects)
}

/// From the parent up to the domain.
pub fn project_parents_in(tx: &Tx, project: &Project) -> Result<Vec<Project>> {
    let mut parents: Vec<Project> = Vec::new();
    let mut next = project.parent_id.clone();
    while !next.is_empty() {
        let Some(parent) = project_fetch_in(tx, &next)? else { break };
        next.clone_from(&parent.parent_id);
        parents.push(parent);
    }
    with_tags_in(tx, parents)
}

/// Everything below, parents before their children.
pub fn project_subtree_in(tx: &Tx, id: &str) -> Result<Vec<Project>> {
    let mut subtree: Vec<Project> = Vec::new();
    let mut level = vec![id.to_string()];
    while !level.is_empty() {
        let mut below = Vec::new();
        for chunk in level.chunks(500) {
            let select = Select::new(format!("SELECT {COLUMNS} FROM project")).in_list("parent_id", chunk.iter().map(String::as_str));
            below.extend(select.order(&[("id", store::Dir::Asc)]).fetch(tx, map)?);
        }
        level = below.iter().map(|p| p.id.clone()).collect();
        subtree.extend(below);
    }
    with_tags_in(tx, subtree)
}

/// `{parent: {grandparent: null}}`.
pub fn parents_as_ids(parents: &[Project]) -> Value {
    parents.iter().rev().fold(Value::Null, |inner, parent| {
        let mut outer = Map::new();
        outer.insert(parent.id.clone(), inner);
        Value::Object(outer)
    })
}

/// `{child: {grandchild: null}, child: null}`.
pub fn subtree_as_ids(root: &str, subtree: &[Project]) -> Value {
    let children: Map<String, Value> =
        subtree.iter().filter(|p| p.parent_id == root).map(|p| (p.id.clone(), subtree_as_ids(&p.id, subtree))).collect();
    if children.is_empty() { Value::Null } else { Value::Object(children) }
}

pub fn project_insert_in(tx: &Tx, project: &Project) -> Result<()> {
    let inserted = tx.attempt(|tx| {
        tx.execute(
            &format!("INSERT INTO project ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"),
            params![
                &project.id,
                &project.name,
                &project.domain_id,
                &project.parent_id,
                project.is_domain,
                project.enabled,
                &project.description,
                store::Value::json(&project.options)?,
                store::Value::json(&project.extra)?
            ],
        )
    });
    inserted.map_err(|e| taken(e, project))?;
    tags_replace_in(tx, &project.id, &project.tags)
}

fn taken(error: Error, project: &Project) -> Error {
    if !error.is(Kind::Exists) {
        return error;
    }
    let (name, id) = (&project.name, &project.id);
    fault::duplicate(
        "project",
        if project.is_domain {
            format!("it is not permitted to have two projects acting as domains with the same name: {name}")
        } else {
            format!(
                "it is not permitted to have two projects with either the same name or same id in the same domain: name is {name}, project id {id}"
            )
        },
    )
}

fn project_store_in(tx: &Tx, project: &Project) -> Result<()> {
    let updated = tx.attempt(|tx| {
        tx.execute(
            "UPDATE project SET name = ?2, enabled = ?3, description = ?4, options = ?5, extra = ?6 WHERE id = ?1",
            params![
                &project.id,
                &project.name,
                project.enabled,
                &project.description,
                store::Value::json(&project.options)?,
                store::Value::json(&project.extra)?
            ],
        )
    });
    updated.map(|_| ()).map_err(|e| taken(e, project))
}

fn tags_replace_in(tx: &Tx, id: &str, tags: &[String]) -> Result<()> {
    tx.execute("DELETE FROM project_tag WHERE project_id = ?1", params![id])?;
    for tag in tags {
        tx.execute("INSERT INTO project_tag (project_id, name) VALUES (?1, ?2)", params![id, tag])?;
    }
    Ok(())
}

/// Removes one project and all that names it.
fn project_remove_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM assignment WHERE target_kind IN ('project', 'domain') AND target_id = ?1", params![id])?;
    tx.execute("DELETE FROM project_tag WHERE project_id = ?1", params![id])?;
    credentials::credentials_remove_in(tx, None, Some(id))?;
    trusts::trusts_remove_in(tx, None, Some(id))?;
    oauth1::tokens_remove_in(tx, None, Some(id), None)?;
    limits::limits_remove_of_in(tx, id)?;
    domain_config::domain_config_remove_in(tx, id)?;
    crate::application_credentials::remove_of_project_in(tx, id)?;
    endpoint_filter::choices_remove_in(tx, Some(id), None)?;
    tx.execute("UPDATE identity_user SET default_project_id = NULL WHERE default_project_id = ?1", params![id])?;
    tx.execute("DELETE FROM project WHERE id = ?1", params![id])?;
    Ok(())
}

/// What a request wants to set.
#[derive(Debug, Default)]
pub struct ProjectChange {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub enabled: Option<bool>,
    pub domain_id: Option<String>,
    pub parent_id: Option<String>,
    pub is_domain: Option<bool>,
    pub tags: Option<Vec<String>>,
    pub options: Option<Object>,
    pub extra: Object,
}

impl ProjectChange {
    pub fn read(mut map: Object, what: &'static str) -> Result<ProjectChange> {
        let mut take = wire::Take { map: &mut map, what };
        let mut change = ProjectChange {
            name: take.name("name", 64)?,
            description: take.nullable_text("description", 65_535)?,
            enabled: take.flag("enabled")?,
            tags: take.tags("tags")?,
            options: take.options(IMMUTABLE)?,
            ..ProjectChange::default()
        };
        if what == "project" {
            change.domain_id = take.id("domain_id")?;
            change.parent_id = take.id("parent_id")?;
            change.is_domain = take.flag("is_domain")?;
        } else {
            for own in ["domain_id", "parent_id", "is_domain"] {
                map.remove(own);
            }
        }
        map.remove("links");
        change.extra = map;
        Ok(change)
    }

    /// Whether it does nothing but take the lock off.
    fn only_unlocks(&self) -> bool {
        let others = self.name.is_some()
            || self.description.is_some()
            || self.enabled.is_some()
            || self.domain_id.is_some()
            || self.parent_id.is_some()
            || self.tags.is_some()
            || !self.extra.is_empty();
        let unlocks = |options: &Object| options.len() == 1 && matches!(options.get("immutable"), Some(Value::Bool(false) | Value::Null));
        !others && self.options.as_ref().is_some_and(unlocks)
    }
}

/// `depth`: how deep the tree may be below a domain.
fn check_place(tx: &Tx, project: &Project, depth: usize) -> Result<()> {
    if project.is_domain {
        return if project.parent_id.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid("only root projects are allowed to act as domains."))
        };
    }
    let as_invalid = |e: Error| Error::invalid(e.message().to_string());
    let domain = domain_get_in(tx, &project.domain_id).map_err(as_invalid)?;
    let parent = project_get_in(tx, &project.parent_id).map_err(as_invalid)?;
    if parent.is_domain && parent.id != domain.id {
        return Err(Error::invalid(format!(
            "Cannot create project, the parent ({}) is acting as a domain, but this project's domain id ({}) does not match the parent's id.",
            parent.id, domain.id
        )));
    }
    if !parent.is_domain && parent.domain_id != domain.id {
        return Err(Error::invalid(format!(
            "Cannot create project, since it specifies its domain_id {}, but specifies a parent in a different domain ({}).",
            domain.id, parent.domain_id
        )));
    }
    let mut above = project_parents_in(tx, &parent)?;
    above.insert(0, parent);
    if let Some(disabled) = above.iter().find(|p| !p.enabled) {
        return Err(Error::invalid(format!("cannot create a project in a branch containing a disabled project: {}", disabled.id)));
    }
    if above.len() > depth {
        return Err(Error::forbidden(format!("Max hierarchy depth reached for {} branch.", project.parent_id)));
    }
    Ok(())
}

impl Identity {
    pub(crate) async fn project_create(&self, ctx: &Context, id: String, change: ProjectChange) -> Result<Project> {
        let is_domain = change.is_domain.unwrap_or(false);
        let domain_id = if is_domain { String::new() } else { change.domain_id.clone().unwrap_or_default() };
        let mut extra = change.extra;
        extra.remove("id");
        let mut options = Object::new();
        wire::merge(&mut options, change.options.unwrap_or_default());
        let mut tags = change.tags.unwrap_or_default();
        tags.sort();
        let project = Project {
            id,
            name: change.name.ok_or_else(|| fault::field("project", "'name' is a required property"))?,
            parent_id: change.parent_id.unwrap_or_else(|| domain_id.clone()),
            domain_id,
            is_domain,
            enabled: change.enabled.unwrap_or(true),
            description: change.description.unwrap_or_else(|| Some(String::new())),
            options,
            extra,
            tags,
        };
        let (ctx, depth) = (ctx.clone(), self.limit_model()?.depth());
        self.add(move |tx| {
            check_place(tx, &project, depth)?;
            project_insert_in(tx, &project)?;
            note(tx, &ctx, if is_domain { "domain.created" } else { "project.created" }, &project.id)?;
            Ok(project)
        })
        .await
    }

    /// `as_domain`: the request came in as one to a domain.
    pub(crate) async fn project_update(&self, ctx: &Context, id: &str, change: ProjectChange, as_domain: bool) -> Result<Project> {
        let (ctx, id, lifetime) = (ctx.clone(), id.to_string(), self.token_lifetime());
        self.change(move |tx| {
            let mut project = if as_domain { domain_get_in(tx, &id)? } else { project_get_in(tx, &id)? };
            let kind = if project.is_domain { "domain" } else { "project" };
            if project.is_immutable() && !change.only_unlocks() {
                return Err(fault::immutable("update", kind, &id));
            }
            if change.domain_id.is_some_and(|domain| domain != project.domain_id) {
                return Err(Error::invalid("Cannot change Domain ID"));
            }
            if change.parent_id.is_some_and(|parent| parent != project.parent_id) {
                return Err(Error::forbidden("Update of `parent_id` is not allowed."));
            }
            if change.is_domain.is_some_and(|is_domain| is_domain != project.is_domain) {
                return Err(Error::invalid("Update of `is_domain` is not allowed."));
            }
            let enabled = change.enabled.unwrap_or(project.enabled);
            if enabled && !project.enabled && project_parents_in(tx, &project)?.iter().any(|p| !p.enabled) {
                return Err(Error::forbidden(format!("Cannot enable project {id} since it has disabled parents")));
            }
            let disabled = project.enabled && !enabled;
            if disabled {
                if !project.is_domain && project_subtree_in(tx, &id)?.iter().any(|p| p.enabled) {
                    return Err(Error::forbidden(format!("Cannot disable project {id} since its subtree contains enabled projects.")));
                }
                revoke_in(tx, if project.is_domain { DOMAIN } else { PROJECT }, &id, lifetime)?;
            }
            project.enabled = enabled;
            if let Some(name) = change.name {
                project.name = name;
            }
            if let Some(description) = change.description {
                project.description = description;
            }
            if let Some(options) = change.options {
                wire::merge(&mut project.options, options);
            }
            project.extra.extend(change.extra);
            project_store_in(tx, &project)?;
            if let Some(mut tags) = change.tags {
                tags.sort();
                tags_replace_in(tx, &id, &tags)?;
                project.tags = tags;
            }
            note(tx, &ctx, &format!("{kind}.updated"), &id)?;
            if disabled {
                note(tx, &ctx, &format!("{kind}.disabled"), &id)?;
            }
            Ok(project)
        })
        .await
    }

    pub(crate) async fn project_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            let project = project_get_in(tx, &id)?;
            if project.is_domain {
                return domain_remove_in(tx, &ctx, &project);
            }
            if project.is_immutable() {
                return Err(fault::immutable("delete", "project", &id));
            }
            if tx.query_opt("SELECT 1 FROM project WHERE parent_id = ?1 LIMIT 1", params![&id], |_| Ok(()))?.is_some() {
                return Err(Error::forbidden(format!(
                    "Cannot delete the project {id} since it is not a leaf in the hierarchy. Use the cascade option if you want to delete a whole subtree."
                )));
            }
            project_remove_in(tx, &id)?;
            note(tx, &ctx, "project.deleted", &id)
        })
        .await
    }

    pub(crate) async fn domain_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            let domain = domain_get_in(tx, &id)?;
            domain_remove_in(tx, &ctx, &domain)
        })
        .await
    }

    pub(crate) async fn tags_replace(&self, ctx: &Context, id: &str, mut tags: Vec<String>) -> Result<Vec<String>> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            let project = project_get_in(tx, &id)?;
            if project.is_immutable() {
                return Err(fault::immutable("update", "project", &id));
            }
            tags.sort();
            tags_replace_in(tx, &id, &tags)?;
            note(tx, &ctx, "project.updated", &id)?;
            Ok(tags)
        })
        .await
    }

    /// Adds (`true`) or removes one tag.
    pub(crate) async fn tag_set(&self, ctx: &Context, id: &str, tag: &str, wanted: bool) -> Result<()> {
        let (ctx, id, tag) = (ctx.clone(), id.to_string(), tag.to_string());
        self.add(move |tx| {
            let mut tags = project_get_in(tx, &id)?.tags;
            match (wanted, tags.iter().position(|t| *t == tag)) {
                (true, Some(_)) => return Err(fault::field("tags", format!("'{tag}' is there twice: has non-unique elements"))),
                (true, None) => {
                    wire::check_tag(&tag)?;
                    tags.push(tag);
                    if tags.len() > 80 {
                        return Err(fault::field("tags", "more than 80 tags: is too long"));
                    }
                }
                (false, Some(at)) => {
                    tags.remove(at);
                }
                (false, None) => return Err(fault::not_found("project tag", &tag)),
            }
            tags_replace_in(tx, &id, &tags)?;
            note(tx, &ctx, "project.updated", &id)
        })
        .await
    }
}

fn domain_remove_in(tx: &Tx, ctx: &Context, domain: &Project) -> Result<()> {
    let id = &domain.id;
    if domain.is_immutable() {
        return Err(fault::immutable("delete", "domain", id));
    }
    if domain.enabled {
        return Err(Error::forbidden("Cannot delete a domain that is enabled, please disable it first."));
    }
    crate::federation::providers::providers_of_domain_remove_in(tx, ctx, id)?;
    for user in tx.query("SELECT id FROM identity_user WHERE domain_id = ?1", params![id], |row| row.text(0))? {
        crate::users::user_remove_in(tx, &user)?;
        note(tx, ctx, "user.deleted", &user)?;
    }
    for group in tx.query("SELECT id FROM identity_group WHERE domain_id = ?1", params![id], |row| row.text(0))? {
        crate::groups::group_remove_in(tx, &group)?;
        note(tx, ctx, "group.deleted", &group)?;
    }
    for project in project_subtree_in(tx, id)?.iter().rev() {
        project_remove_in(tx, &project.id)?;
        note(tx, ctx, "project.deleted", &project.id)?;
    }
    for role in tx.query("SELECT id FROM identity_role WHERE domain_id = ?1", params![id], |row| row.text(0))? {
        crate::roles::role_remove_in(tx, &role)?;
        note(tx, ctx, "role.deleted", &role)?;
    }
    project_remove_in(tx, id)?;
    note(tx, ctx, "domain.deleted", id)
}
