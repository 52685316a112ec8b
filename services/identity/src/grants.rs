//! Who has which role where: grants as they are stored, and the effective assignments that follow from them.

use std::collections::{HashMap, HashSet};

use base::{Context, Error, Kind, Result};
use store::{Row, Select, Tx, params};

use crate::application_credentials::{Of, recheck_in};
use crate::groups::GROUPS_OF_USER;
use crate::projects::{domain_get_in, project_fetch_in, project_get_in, project_parents_in, project_subtree_in};
use crate::roles::{implications_in, role_get_in};
use crate::{Identity, fault, groups, note, users};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    User(String),
    Group(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum On {
    Project(String),
    Domain(String),
    System,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    pub actor: Actor,
    pub on: On,
    pub role_id: String,
    /// Holds for the projects below the target instead of for the target.
    pub inherited: bool,
}

impl Actor {
    /// As it is stored, and as it is called.
    pub fn columns(&self) -> (&'static str, &str) {
        match self {
            Actor::User(id) => ("user", id),
            Actor::Group(id) => ("group", id),
        }
    }
}
impl On {
    /// As it is stored, and as it is called.
    pub fn columns(&self) -> (&'static str, &str) {
        match self {
            On::Project(id) => ("project", id),
            On::Domain(id) => ("domain", id),
            On::System => ("system", "system"),
        }
    }
}

const COLUMNS: &str = "actor_kind, actor_id, target_kind, target_id, role_id, inherited";

fn map(row: &Row) -> Result<Grant> {
    let actor = match row.text(0)?.as_str() {
        "group" => Actor::Group(row.text(1)?),
        _ => Actor::User(row.text(1)?),
    };
    let on = match row.text(2)?.as_str() {
        "project" => On::Project(row.text(3)?),
        "domain" => On::Domain(row.text(3)?),
        _ => On::System,
    };
    Ok(Grant { actor, on, role_id: row.text(4)?, inherited: row.flag(5)? })
}

pub fn grant_insert_in(tx: &Tx, grant: &Grant) -> Result<()> {
    let ((actor_kind, actor), (target_kind, target)) = (grant.actor.columns(), grant.on.columns());
    tx.execute(
        &format!("INSERT INTO assignment ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT ({COLUMNS}) DO NOTHING"),
        params![actor_kind, actor, target_kind, target, &grant.role_id, grant.inherited],
    )?;
    Ok(())
}

pub fn grant_exists_in(tx: &Tx, grant: &Grant) -> Result<bool> {
    let ((actor_kind, actor), (target_kind, target)) = (grant.actor.columns(), grant.on.columns());
    let found = tx.query_opt(
        "SELECT 1 FROM assignment WHERE actor_kind = ?1 AND actor_id = ?2 AND target_kind = ?3 AND target_id = ?4 AND role_id = ?5 AND inherited = ?6",
        params![actor_kind, actor, target_kind, target, &grant.role_id, grant.inherited],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

pub fn grant_remove_in(tx: &Tx, grant: &Grant) -> Result<bool> {
    let ((actor_kind, actor), (target_kind, target)) = (grant.actor.columns(), grant.on.columns());
    let removed = tx.execute(
        "DELETE FROM assignment WHERE actor_kind = ?1 AND actor_id = ?2 AND target_kind = ?3 AND target_id = ?4 AND role_id = ?5 AND inherited = ?6",
        params![actor_kind, actor, target_kind, target, &grant.role_id, grant.inherited],
    )?;
    Ok(removed > 0)
}

/// Those of a user alone on projects alone, not inherited.
pub fn grants_on_projects_in(tx: &Tx, user_id: &str) -> Result<Vec<Grant>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM assignment WHERE actor_kind = 'user' AND actor_id = ?1 AND target_kind = 'project' AND inherited = 0"
    );
    tx.query(&sql, params![user_id], map)
}

/// Roles granted directly.
pub fn granted_roles_in(tx: &Tx, actor: &Actor, on: &On, inherited: bool) -> Result<Vec<String>> {
    let ((actor_kind, actor), (target_kind, target)) = (actor.columns(), on.columns());
    tx.query(
        "SELECT role_id FROM assignment WHERE actor_kind = ?1 AND actor_id = ?2 AND target_kind = ?3 AND target_id = ?4 AND inherited = ?5",
        params![actor_kind, actor, target_kind, target, inherited],
        |row| row.text(0),
    )
}

pub fn no_grant(grant: &Grant) -> Error {
    let ((_, actor), (_, target)) = (grant.actor.columns(), grant.on.columns());
    Error::new(
        Kind::NotFound,
        format!(
            "Could not find role assignment with role: {}, user or group: {actor}, project, domain, or system: {target}.",
            grant.role_id
        ),
    )
}

/// Of the group `?1`.
const MEMBERS: &str = "SELECT user_id FROM membership WHERE group_id = ?1 \
    UNION SELECT user_id FROM expiring_membership WHERE group_id = ?1 ORDER BY user_id";

impl Identity {
    pub(crate) async fn grant_create(&self, ctx: &Context, grant: Grant) -> Result<()> {
        let ctx = ctx.clone();
        self.change(move |tx| {
            let role = role_get_in(tx, &grant.role_id)?;
            match &grant.actor {
                Actor::User(id) => users::user_get_in(tx, id).map(|_| ())?,
                Actor::Group(id) => groups::group_get_in(tx, id).map(|_| ())?,
            }
            match &grant.on {
                On::Project(id) => {
                    let project = project_get_in(tx, id)?;
                    if !role.domain_id.is_empty() && role.domain_id != project.domain_id {
                        return Err(Error::forbidden(format!(
                            "Project {id} must be in the same domain as the role {} being assigned.",
                            role.id
                        )));
                    }
                }
                On::Domain(id) => domain_get_in(tx, id).map(|_| ())?,
                On::System if !role.domain_id.is_empty() => {
                    return Err(Error::invalid(format!(
                        "Role {} is a domain-specific role. Unable to use a domain-specific role in a system assignment.",
                        role.id
                    )));
                }
                On::System => {}
            }
            grant_insert_in(tx, &grant)?;
            note(tx, &ctx, "role_assignment.created", &grant.role_id)
        })
        .await
    }

    pub(crate) async fn grant_delete(&self, ctx: &Context, grant: Grant) -> Result<()> {
        let ctx = ctx.clone();
        self.change(move |tx| {
            role_get_in(tx, &grant.role_id)?;
            if !grant_remove_in(tx, &grant)? {
                return Err(no_grant(&grant));
            }
            match &grant.actor {
                Actor::User(id) => recheck_in(tx, Of::User(id))?,
                Actor::Group(id) => recheck_in(tx, Of::Group(id))?,
            }
            note(tx, &ctx, "role_assignment.deleted", &grant.role_id)
        })
        .await
    }
}

/// What a list of assignments is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub role_id: Option<String>,
    pub user_id: Option<String>,
    pub group_id: Option<String>,
    pub project_id: Option<String>,
    pub domain_id: Option<String>,
    pub system: bool,
    pub inherited: Option<bool>,
    /// With the projects below `project_id`.
    pub subtree: bool,
}

/// An assignment, and through what it came about when it is not a grant itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Assignment {
    pub grant: Grant,
    pub via_group: Option<String>,
    /// Inherited from this project or domain.
    pub via: Option<On>,
    /// Implied by this role.
    pub via_role: Option<String>,
}

impl Assignment {
    fn direct(grant: Grant) -> Assignment {
        Assignment { grant, via_group: None, via: None, via_role: None }
    }
}

/// The projects that `wanted.project_id` means.
fn projects_of_interest(tx: &Tx, wanted: &Wanted) -> Result<Option<Vec<String>>> {
    let Some(id) = &wanted.project_id else { return Ok(None) };
    let mut ids = vec![id.clone()];
    if wanted.subtree {
        ids.extend(project_subtree_in(tx, id)?.into_iter().map(|p| p.id));
    }
    Ok(Some(ids))
}

/// The grants as stored.
pub fn direct_in(tx: &Tx, wanted: &Wanted) -> Result<Vec<Assignment>> {
    let mut select = Select::new(format!("SELECT {COLUMNS} FROM assignment")).opt_eq("role_id", wanted.role_id.as_deref());
    if let Some(user) = &wanted.user_id {
        select = select.eq("actor_kind", "user").eq("actor_id", user);
    }
    if let Some(group) = &wanted.group_id {
        select = select.eq("actor_kind", "group").eq("actor_id", group);
    }
    if let Some(projects) = projects_of_interest(tx, wanted)? {
        select = select.eq("target_kind", "project").in_list("target_id", projects);
    }
    if let Some(domain) = &wanted.domain_id {
        select = select.eq("target_kind", "domain").eq("target_id", domain);
    }
    if wanted.system {
        select = select.eq("target_kind", "system");
    }
    // Grants on the system are never inherited; upstream lists them whatever is asked of inheritance.
    if let Some(inherited) = wanted.inherited.filter(|_| !wanted.system) {
        select = select.any(|or| or.eq("inherited", inherited).eq("target_kind", "system"));
    }
    Ok(sorted(select).fetch(tx, map)?.into_iter().map(Assignment::direct).collect())
}

fn sorted(select: Select) -> Select {
    use store::Dir::Asc;
    select.order(&[("target_kind", Asc), ("target_id", Asc), ("actor_kind", Asc), ("actor_id", Asc), ("role_id", Asc), ("inherited", Asc)])
}

/// What the grants amount to: groups resolved to their members, inheritance to projects, implications followed.
/// Roles of domains only serve to imply and are left out.
pub fn effective_in(tx: &Tx, wanted: &Wanted) -> Result<Vec<Assignment>> {
    if wanted.group_id.is_some() || (wanted.domain_id.is_some() && wanted.inherited == Some(true)) {
        return Ok(Vec::new());
    }
    let inherited = if wanted.domain_id.is_some() { Some(false) } else { wanted.inherited };
    let projects = projects_of_interest(tx, wanted)?;
    let actors = match &wanted.user_id {
        None => None,
        Some(user) => {
            let groups = tx.query(GROUPS_OF_USER, params![user], |row| row.text(0))?;
            Some((user.clone(), groups))
        }
    };
    let by_actor = |select: Select| match &actors {
        None => select,
        Some((user, groups)) => {
            let groups = groups.clone();
            select.any(|or| {
                let or = or.cond("actor_kind = 'user' AND actor_id = ?", [store::Value::from(user)]);
                groups.iter().fold(or, |or, group| or.cond("actor_kind = 'group' AND actor_id = ?", [store::Value::from(group)]))
            })
        }
    };
    let mut grants: Vec<Grant> = Vec::new();
    if inherited != Some(true) {
        let mut select = Select::new(format!("SELECT {COLUMNS} FROM assignment")).eq("inherited", false).ne("target_kind", "system");
        if let Some(projects) = &projects {
            select = select.eq("target_kind", "project").in_list("target_id", projects.iter().map(String::as_str));
        }
        if let Some(domain) = &wanted.domain_id {
            select = select.eq("target_kind", "domain").eq("target_id", domain);
        }
        grants.extend(sorted(by_actor(select)).fetch(tx, map)?);
    }
    if inherited != Some(false) {
        let mut select = Select::new(format!("SELECT {COLUMNS} FROM assignment")).eq("inherited", true);
        if let Some(id) = &wanted.project_id {
            let project = project_get_in(tx, id)?;
            let mut sources: Vec<String> = project_parents_in(tx, &project)?.into_iter().map(|p| p.id).collect();
            if wanted.subtree {
                sources.extend(projects.iter().flatten().cloned());
            }
            select = select.any(|or| {
                let or = or.cond("target_kind = 'domain' AND target_id = ?", [store::Value::from(&project.domain_id)]);
                sources.iter().fold(or, |or, source| or.cond("target_kind = 'project' AND target_id = ?", [store::Value::from(source)]))
            });
        }
        grants.extend(sorted(by_actor(select)).fetch(tx, map)?);
    }
    let mut spread = Spread { tx, members: HashMap::new(), below: HashMap::new(), user: wanted.user_id.clone(), projects };
    let mut assignments = Vec::new();
    for grant in grants {
        spread.expand(grant, &mut assignments)?;
    }
    let mut assignments = with_implied(assignments, &implications_in(tx)?);
    let global: HashMap<String, bool> = tx
        .query("SELECT id, domain_id FROM identity_role", params![], |row| Ok((row.text(0)?, row.text(1)?.is_empty())))?
        .into_iter()
        .collect();
    assignments.retain(|a| global.get(&a.grant.role_id) == Some(&true));
    if let Some(role) = &wanted.role_id {
        assignments.retain(|a| a.grant.role_id == *role);
    }
    Ok(assignments)
}

/// Resolves groups and inheritance, remembering what it looked up.
struct Spread<'a> {
    tx: &'a Tx,
    members: HashMap<String, Vec<String>>,
    below: HashMap<On, Vec<String>>,
    user: Option<String>,
    projects: Option<Vec<String>>,
}

impl Spread<'_> {
    fn expand(&mut self, grant: Grant, out: &mut Vec<Assignment>) -> Result<()> {
        let mut at: Vec<Assignment> = Vec::new();
        if grant.inherited {
            let below = self.projects_below(&grant.on)?;
            for project in below {
                let there = Grant { on: On::Project(project), inherited: false, ..grant.clone() };
                at.push(Assignment { via: Some(grant.on.clone()), ..Assignment::direct(there) });
            }
        } else {
            at.push(Assignment::direct(grant));
        }
        for assignment in at {
            let Actor::Group(group) = assignment.grant.actor.clone() else {
                out.push(assignment);
                continue;
            };
            for user in self.members_of(&group)? {
                let grant = Grant { actor: Actor::User(user), ..assignment.grant.clone() };
                out.push(Assignment { grant, via_group: Some(group.clone()), ..assignment.clone() });
            }
        }
        Ok(())
    }

    fn members_of(&mut self, group: &str) -> Result<Vec<String>> {
        if let Some(user) = &self.user {
            return Ok(vec![user.clone()]);
        }
        if !self.members.contains_key(group) {
            let found = self.tx.query(MEMBERS, params![group], |row| row.text(0))?;
            self.members.insert(group.to_string(), found);
        }
        Ok(self.members.get(group).cloned().unwrap_or_default())
    }

    /// The projects an inherited grant reaches, of those that are asked for.
    fn projects_below(&mut self, on: &On) -> Result<Vec<String>> {
        if !self.below.contains_key(on) {
            let mut below = match on {
                On::Project(id) => project_subtree_in(self.tx, id)?.into_iter().map(|p| p.id).collect(),
                On::Domain(id) => {
                    self.tx.query("SELECT id FROM project WHERE domain_id = ?1 ORDER BY id", params![id], |row| row.text(0))?
                }
                On::System => Vec::new(),
            };
            if let Some(projects) = &self.projects {
                below.retain(|id| projects.contains(id));
            }
            self.below.insert(on.clone(), below);
        }
        Ok(self.below.get(on).cloned().unwrap_or_default())
    }
}

fn with_implied(mut all: Vec<Assignment>, implications: &[(String, String)]) -> Vec<Assignment> {
    let mut of: HashMap<&str, Vec<&String>> = HashMap::new();
    for (prior, implied) in implications {
        of.entry(prior).or_default().push(implied);
    }
    let mut open: Vec<Assignment> = all.iter().filter(|a| of.contains_key(a.grant.role_id.as_str())).cloned().collect();
    let mut seen = HashSet::new();
    while let Some(next) = open.pop() {
        for implied in of.get(next.grant.role_id.as_str()).into_iter().flatten() {
            let grant = Grant { role_id: implied.to_string(), ..next.grant.clone() };
            let follows = Assignment { grant, via_role: Some(next.grant.role_id.clone()), ..next.clone() };
            if seen.insert(follows.clone()) {
                all.push(follows.clone());
                open.push(follows);
            }
        }
    }
    all
}

/// The projects, or else the domains, on which a user has any role.
pub fn reach_in(tx: &Tx, user_id: &str, domains: bool) -> Result<Vec<String>> {
    let wanted = Wanted { user_id: Some(user_id.to_string()), ..Wanted::default() };
    let mut ids: Vec<String> = effective_in(tx, &wanted)?
        .into_iter()
        .filter_map(|a| match a.grant.on {
            On::Project(id) if !domains => Some(id),
            On::Domain(id) if domains => Some(id),
            _ => None,
        })
        .collect();
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Whether a user has a role on the system, itself or by a group.
pub fn reaches_system_in(tx: &Tx, user_id: &str) -> Result<bool> {
    let found = tx.query_opt(
        &format!(
            "SELECT 1 FROM assignment WHERE target_kind = 'system' AND ((actor_kind = 'user' AND actor_id = ?1) \
             OR (actor_kind = 'group' AND actor_id IN ({GROUPS_OF_USER}))) LIMIT 1"
        ),
        params![user_id],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// The domain that a target lies in; none for the system.
pub fn domain_of_in(tx: &Tx, on: &On) -> Result<Option<String>> {
    Ok(match on {
        On::System => None,
        On::Domain(id) => Some(id.clone()),
        On::Project(id) => project_fetch_in(tx, id)?.map(|p| if p.is_domain { p.id } else { p.domain_id }),
    })
}

/// Upstream's word for a missing target or actor of a path.
pub fn actor_exists_in(tx: &Tx, actor: &Actor) -> Result<()> {
    match actor {
        Actor::User(id) => users::user_fetch_in(tx, id)?.map(|_| ()).ok_or_else(|| fault::not_found("user", id)),
        Actor::Group(id) => groups::group_fetch_in(tx, id)?.map(|_| ()).ok_or_else(|| fault::not_found("group", id)),
    }
}
