//! Roles, which of them imply which, and the roles a user has on a target.

use std::collections::{HashMap, HashSet};

use base::{Context, Error, Kind, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::application_credentials::{Of, recheck_in};
use crate::list::Ask;
use crate::projects::Project;
use crate::token::payload::Target;
use crate::wire::{IMMUTABLE, Object};
use crate::{Identity, fault, note, projects, wire};

#[derive(Clone, Debug)]
pub struct Role {
    pub id: String,
    pub name: String,
    /// Empty for a role of the whole cloud.
    pub domain_id: String,
    pub description: Option<String>,
    pub options: Object,
    pub extra: Object,
}

/// A role in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    pub id: String,
    pub name: String,
}

const COLUMNS: &str = "id, name, domain_id, description, options, extra";

fn map(row: &Row) -> Result<Role> {
    Ok(Role {
        id: row.text(0)?,
        name: row.text(1)?,
        domain_id: row.text(2)?,
        description: row.opt_text(3)?,
        options: row.json(4)?,
        extra: row.json(5)?,
    })
}

impl Role {
    pub fn is_immutable(&self) -> bool {
        self.options.get("immutable").and_then(Value::as_bool) == Some(true)
    }

    pub fn domain(&self) -> Value {
        if self.domain_id.is_empty() { Value::Null } else { json!(self.domain_id) }
    }

    pub fn view(&self, req: &Request) -> Value {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("name".into(), json!(self.name));
        view.insert("domain_id".into(), self.domain());
        view.insert("description".into(), json!(self.description));
        view.insert("options".into(), json!(self.options));
        view.insert("links".into(), self.links(req));
        Value::Object(view)
    }

    fn links(&self, req: &Request) -> Value {
        json!({ "self": format!("{}/v3/roles/{}", req.base_url, self.id) })
    }

    /// As part of an inference.
    pub fn short(&self, req: &Request) -> Value {
        json!({ "id": self.id, "name": self.name, "links": self.links(req) })
    }

    pub fn target(&self) -> Value {
        json!({ "id": self.id, "name": self.name, "domain_id": self.domain() })
    }
}

pub fn role_fetch_in(tx: &Tx, id: &str) -> Result<Option<Role>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM identity_role WHERE id = ?1"), params![id], map)
}

pub fn role_get_in(tx: &Tx, id: &str) -> Result<Role> {
    role_fetch_in(tx, id)?.ok_or_else(|| fault::not_found("role", id))
}

pub fn role_list_in(tx: &Tx, ask: &Ask, domain_id: &str) -> Result<(Vec<Role>, bool)> {
    ask.fetch(tx, Select::new(format!("SELECT {COLUMNS} FROM identity_role")).eq("domain_id", domain_id), "identity_role", map)
}

pub fn roles_by_ids_in(tx: &Tx, ids: &[String]) -> Result<Vec<Role>> {
    let mut roles = Vec::new();
    for chunk in ids.chunks(500) {
        let select = Select::new(format!("SELECT {COLUMNS} FROM identity_role")).in_list("id", chunk.iter().map(String::as_str));
        roles.extend(select.order(&[("name", store::Dir::Asc), ("id", store::Dir::Asc)]).fetch(tx, map)?);
    }
    Ok(roles)
}

pub fn roles_all_in(tx: &Tx) -> Result<HashMap<String, Role>> {
    let roles = tx.query(&format!("SELECT {COLUMNS} FROM identity_role"), params![], map)?;
    Ok(roles.into_iter().map(|role| (role.id.clone(), role)).collect())
}

pub fn role_remove_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM assignment WHERE role_id = ?1", params![id])?;
    tx.execute("DELETE FROM implied_role WHERE prior_id = ?1 OR implied_id = ?1", params![id])?;
    tx.execute("DELETE FROM identity_role WHERE id = ?1", params![id])?;
    recheck_in(tx, Of::Role(id))
}

/// `(prior, implied)` of every inference.
pub fn implications_in(tx: &Tx) -> Result<Vec<(String, String)>> {
    tx.query("SELECT prior_id, implied_id FROM implied_role ORDER BY prior_id, implied_id", params![], |row| {
        Ok((row.text(0)?, row.text(1)?))
    })
}

/// The roles and all that they imply, directly or not.
pub fn close(roles: impl IntoIterator<Item = String>, implications: &[(String, String)]) -> HashSet<String> {
    let mut closed: HashSet<String> = HashSet::new();
    let mut open: Vec<String> = roles.into_iter().collect();
    while let Some(role) = open.pop() {
        if closed.contains(&role) {
            continue;
        }
        open.extend(implications.iter().filter(|(prior, _)| *prior == role).map(|(_, implied)| implied.clone()));
        closed.insert(role);
    }
    closed
}

const THE_USER: &str = "((actor_kind = 'user' AND actor_id = ?1) OR (actor_kind = 'group' AND actor_id IN (\
    SELECT group_id FROM membership WHERE user_id = ?1 UNION ALL SELECT group_id FROM expiring_membership WHERE user_id = ?1)))";

const THE_GROUP: &str = "(actor_kind = 'group' AND actor_id = ?1)";

/// The roles of the whole cloud that a user has on a target: assigned to the user or to a group, there or inherited, or
/// implied by such a role. Sorted by name.
pub fn roles_of_user_in(tx: &Tx, user_id: &str, target: &Target, project: Option<&Project>) -> Result<Vec<RoleRef>> {
    role_refs_in(tx, &role_ids_of_user_in(tx, user_id, target, project)?)
}

/// As [`roles_of_user_in`], of who is in these groups and nobody otherwise; for a project or a domain.
pub fn roles_of_groups_in(tx: &Tx, group_ids: &[String], target: &Target, project: Option<&Project>) -> Result<Vec<RoleRef>> {
    let mut ids = HashSet::new();
    for group in group_ids {
        ids.extend(role_ids_in(tx, THE_GROUP, group, target, project)?);
    }
    role_refs_in(tx, &ids)
}

/// Those of the whole cloud among the roles, sorted by name.
pub fn role_refs_in(tx: &Tx, ids: &HashSet<String>) -> Result<Vec<RoleRef>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Select::new("SELECT id, name FROM identity_role")
        .in_list("id", ids.iter().map(String::as_str))
        .eq("domain_id", "")
        .order(&[("name", store::Dir::Asc)])
        .fetch(tx, |row| Ok(RoleRef { id: row.text(0)?, name: row.text(1)? }))
}

/// As [`roles_of_user_in`], with the roles of domains.
pub fn role_ids_of_user_in(tx: &Tx, user_id: &str, target: &Target, project: Option<&Project>) -> Result<HashSet<String>> {
    role_ids_in(tx, THE_USER, user_id, target, project)
}

/// `who`: the condition by which an assignment is that of `actor`.
fn role_ids_in(tx: &Tx, who: &str, actor: &str, target: &Target, project: Option<&Project>) -> Result<HashSet<String>> {
    let text = |row: &Row| row.text(0);
    let assigned = match target {
        // What a trust gives stands in the trust.
        Target::Unscoped | Target::Trust { .. } => return Ok(HashSet::new()),
        Target::System => {
            tx.query(&format!("SELECT DISTINCT role_id FROM assignment WHERE {who} AND target_kind = 'system'"), params![actor], text)?
        }
        Target::Domain(id) => tx.query(
            &format!("SELECT DISTINCT role_id FROM assignment WHERE {who} AND target_kind = 'domain' AND target_id = ?2 AND inherited = 0"),
            params![actor, id],
            text,
        )?,
        Target::Project(id) => {
            let domain_id = project.map_or("", |p| p.domain_id.as_str());
            tx.query(
                &format!(
                    "WITH RECURSIVE above (id, parent_id) AS ( \
                       SELECT id, parent_id FROM project WHERE id = ?2 \
                       UNION ALL SELECT p.id, p.parent_id FROM project p JOIN above ON p.id = above.parent_id) \
                     SELECT DISTINCT role_id FROM assignment WHERE {who} AND ( \
                       (target_kind = 'project' AND target_id = ?2 AND inherited = 0) \
                       OR (inherited = 1 AND target_kind = 'domain' AND target_id = ?3) \
                       OR (inherited = 1 AND target_kind = 'project' AND target_id IN (SELECT id FROM above WHERE id <> ?2)))"
                ),
                params![actor, id, domain_id],
                text,
            )?
        }
    };
    if assigned.is_empty() {
        return Ok(HashSet::new());
    }
    Ok(close(assigned, &implications_in(tx)?))
}

/// What a request wants to set.
pub struct RoleChange {
    pub name: Option<String>,
    pub domain_id: Option<String>,
    pub description: Option<Option<String>>,
    pub options: Option<Object>,
    pub extra: Object,
}

impl RoleChange {
    pub fn read(mut map: Object) -> Result<RoleChange> {
        let mut take = wire::Take { map: &mut map, what: "role" };
        let (name, domain_id) = (take.name("name", 255)?, take.id("domain_id")?);
        let (description, options) = (take.nullable_text("description", 65_535)?, take.options(IMMUTABLE)?);
        map.remove("links");
        Ok(RoleChange { name, domain_id, description, options, extra: map })
    }

    fn only_unlocks(&self) -> bool {
        let others = self.name.is_some() || self.domain_id.is_some() || self.description.is_some() || !self.extra.is_empty();
        let unlocks = |options: &Object| options.len() == 1 && matches!(options.get("immutable"), Some(Value::Bool(false) | Value::Null));
        !others && self.options.as_ref().is_some_and(unlocks)
    }
}

fn taken(error: Error, name: &str) -> Error {
    if error.is(Kind::Exists) { fault::duplicate("role", format!("Duplicate entry found with name {name}")) } else { error }
}

pub fn role_insert_in(tx: &Tx, role: &Role) -> Result<()> {
    let inserted = tx.attempt(|tx| {
        tx.execute(
            &format!("INSERT INTO identity_role ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
            params![
                &role.id,
                &role.name,
                &role.domain_id,
                &role.description,
                store::Value::json(&role.options)?,
                store::Value::json(&role.extra)?
            ],
        )
    });
    inserted.map(|_| ()).map_err(|e| taken(e, &role.name))
}

pub fn imply_in(tx: &Tx, prior: &str, implied: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO implied_role (prior_id, implied_id) VALUES (?1, ?2) ON CONFLICT (prior_id, implied_id) DO NOTHING",
        params![prior, implied],
    )?;
    Ok(())
}

impl Identity {
    pub(crate) async fn role_create(&self, ctx: &Context, change: RoleChange) -> Result<Role> {
        let mut extra = change.extra;
        extra.remove("id");
        let mut options = Object::new();
        wire::merge(&mut options, change.options.unwrap_or_default());
        let role = Role {
            id: base::id::hex(),
            name: change.name.ok_or_else(|| fault::field("role", "'name' is a required property"))?,
            domain_id: change.domain_id.unwrap_or_default(),
            description: change.description.flatten(),
            options,
            extra,
        };
        let ctx = ctx.clone();
        self.add(move |tx| {
            if !role.domain_id.is_empty() {
                projects::domain_get_in(tx, &role.domain_id)?;
            }
            role_insert_in(tx, &role)?;
            note(tx, &ctx, "role.created", &role.id)?;
            Ok(role)
        })
        .await
    }

    pub(crate) async fn role_update(&self, ctx: &Context, id: &str, change: RoleChange) -> Result<Role> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            let mut role = role_get_in(tx, &id)?;
            if role.is_immutable() && !change.only_unlocks() {
                return Err(fault::immutable("update", "role", &id));
            }
            if change.domain_id.is_some_and(|domain| domain != role.domain_id) {
                return Err(Error::invalid("Update of `domain_id` is not allowed."));
            }
            if let Some(name) = change.name {
                role.name = name;
            }
            if let Some(description) = change.description {
                role.description = description;
            }
            if let Some(options) = change.options {
                wire::merge(&mut role.options, options);
            }
            role.extra.extend(change.extra);
            let updated = tx.attempt(|tx| {
                tx.execute(
                    "UPDATE identity_role SET name = ?2, description = ?3, options = ?4, extra = ?5 WHERE id = ?1",
                    params![&id, &role.name, &role.description, store::Value::json(&role.options)?, store::Value::json(&role.extra)?],
                )
            });
            updated.map_err(|e| taken(e, &role.name))?;
            note(tx, &ctx, "role.updated", &id)?;
            Ok(role)
        })
        .await
    }

    pub(crate) async fn role_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            if role_get_in(tx, &id)?.is_immutable() {
                return Err(fault::immutable("delete", "role", &id));
            }
            role_remove_in(tx, &id)?;
            note(tx, &ctx, "role.deleted", &id)
        })
        .await
    }

    pub(crate) async fn implication_create(&self, ctx: &Context, prior: &str, implied: &str) -> Result<()> {
        let (ctx, prior, implied) = (ctx.clone(), prior.to_string(), implied.to_string());
        self.change(move |tx| {
            let by = role_get_in(tx, &prior)?;
            let role = role_get_in(tx, &implied)?;
            // Nobody becomes administrator by implication, and a role of the whole cloud gives none of one domain.
            if by.domain_id.is_empty() && !role.domain_id.is_empty() {
                return Err(Error::forbidden("Global role cannot imply a domain-specific role"));
            }
            if role.name == "admin" {
                return Err(Error::forbidden(format!("{implied} cannot be an implied roles.")));
            }
            imply_in(tx, &prior, &implied)?;
            note(tx, &ctx, "role.updated", &prior)
        })
        .await
    }

    pub(crate) async fn implication_delete(&self, ctx: &Context, prior: &str, implied: &str) -> Result<()> {
        let (ctx, prior, implied) = (ctx.clone(), prior.to_string(), implied.to_string());
        self.change(move |tx| {
            let removed = tx.execute("DELETE FROM implied_role WHERE prior_id = ?1 AND implied_id = ?2", params![&prior, &implied])?;
            if removed == 0 {
                return Err(no_implication(&prior, &implied));
            }
            for role in close([implied.clone()], &implications_in(tx)?) {
                recheck_in(tx, Of::Role(&role))?;
            }
            note(tx, &ctx, "role.updated", &prior)
        })
        .await
    }
}

pub fn no_implication(prior: &str, implied: &str) -> Error {
    Error::new(Kind::NotFound, format!("{prior} does not imply {implied}."))
}
