//! Trusts: a user lets another act on a project with some of the own roles, under the own name or not, and perhaps lets
//! that one hand the trust on.

use std::collections::HashSet;

use base::{Context, Error, Kind, Result, Timestamp};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::list::Ask;
use crate::projects::{Project, project_fetch_in, project_get_in};
use crate::roles::{self, RoleRef, role_ids_of_user_in};
use crate::token::payload::Target;
use crate::users::{User, user_fetch_in, user_get_in};
use crate::wire::{self, Object};
use crate::{Identity, fault, note};

/// How often a trust can be handed on; upstream's default.
const MAX_REDELEGATIONS: i64 = 3;

#[derive(Clone, Debug)]
pub struct Trust {
    pub id: String,
    pub trustor_user_id: String,
    pub trustee_user_id: String,
    pub project_id: Option<String>,
    pub impersonation: bool,
    pub expires_at: Option<Timestamp>,
    /// None: without end.
    pub remaining_uses: Option<i64>,
    /// The trust that was handed on.
    pub redelegated_trust_id: Option<String>,
    pub redelegation_count: i64,
    pub extra: Object,
    /// Ids, also of roles that are gone: a trust gives all of its roles or none.
    pub roles: Vec<String>,
}

const COLUMNS: &str = "id, trustor_user_id, trustee_user_id, project_id, impersonation, expires_at, remaining_uses, redelegated_trust_id, redelegation_count, extra";

/// Without its roles.
fn map(row: &Row) -> Result<Trust> {
    Ok(Trust {
        id: row.text(0)?,
        trustor_user_id: row.text(1)?,
        trustee_user_id: row.text(2)?,
        project_id: row.opt_text(3)?,
        impersonation: row.flag(4)?,
        expires_at: row.opt_time(5)?,
        remaining_uses: row.opt_int(6)?,
        redelegated_trust_id: row.opt_text(7)?,
        redelegation_count: row.int(8)?,
        extra: row.json(9)?,
        roles: Vec::new(),
    })
}

impl Trust {
    /// As lists show it.
    pub fn view(&self, req: &Request) -> Object {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("trustor_user_id".into(), json!(self.trustor_user_id));
        view.insert("trustee_user_id".into(), json!(self.trustee_user_id));
        view.insert("project_id".into(), json!(self.project_id));
        view.insert("impersonation".into(), json!(self.impersonation));
        view.insert("expires_at".into(), json!(self.expires_at.map(Timestamp::iso_micros_z)));
        view.insert("remaining_uses".into(), json!(self.remaining_uses));
        view.insert("redelegated_trust_id".into(), json!(self.redelegated_trust_id));
        view.insert("redelegation_count".into(), json!(self.redelegation_count));
        view.insert("deleted_at".into(), Value::Null);
        view.insert("links".into(), json!({ "self": self.link(req) }));
        view
    }

    /// As it is shown alone.
    pub fn whole_view(&self, req: &Request, roles: &[roles::Role]) -> Value {
        let mut view = self.view(req);
        view.insert("roles".into(), roles.iter().map(|role| role.view(req)).collect());
        view.insert("roles_links".into(), self.roles_links(req));
        Value::Object(view)
    }

    fn link(&self, req: &Request) -> String {
        format!("{}/v3/OS-TRUST/trusts/{}", req.base_url, self.id)
    }

    pub fn roles_links(&self, req: &Request) -> Value {
        json!({ "self": format!("{}/roles", self.link(req)), "next": null, "previous": null })
    }

    /// What policies may ask about it.
    pub fn target(&self) -> Value {
        target(&self.trustor_user_id, &self.trustee_user_id)
    }

    fn has_ended(&self) -> bool {
        self.expires_at.is_some_and(|end| Timestamp::now() >= end)
    }

    pub fn is_used_up(&self) -> bool {
        self.remaining_uses.is_some_and(|uses| uses <= 0)
    }
}

pub fn target(trustor_user_id: &str, trustee_user_id: &str) -> Value {
    json!({ "target": { "trust": { "trustor_user_id": trustor_user_id, "trustee_user_id": trustee_user_id } } })
}

/// The trust, unless its time is over.
pub fn trust_get_in(tx: &Tx, id: &str) -> Result<Trust> {
    let found = tx.query_opt(&format!("SELECT {COLUMNS} FROM trust WHERE id = ?1"), params![id], map)?;
    let mut trust = found.filter(|trust| !trust.has_ended()).ok_or_else(|| fault::not_found("trust", id))?;
    trust.roles = tx.query("SELECT role_id FROM trust_role WHERE trust_id = ?1 ORDER BY role_id", params![id], |row| row.text(0))?;
    Ok(trust)
}

/// The trust itself, the one it was handed on from, and so on to the first.
fn chain_in(tx: &Tx, id: &str) -> Result<Vec<Trust>> {
    let mut chain = vec![trust_get_in(tx, id)?];
    while let Some(parent) = chain.last().and_then(|trust| trust.redelegated_trust_id.clone()) {
        chain.push(trust_get_in(tx, &parent)?);
    }
    Ok(chain)
}

/// A trust with uses left whose chain holds.
pub fn trust_usable_in(tx: &Tx, id: &str) -> Result<Trust> {
    let mut chain = chain_in(tx, id)?;
    for parent in &chain[1..] {
        if !user_fetch_in(tx, &parent.trustee_user_id)?.is_some_and(|user| user.enabled) {
            return Err(Error::forbidden("A user through whom the trust was handed on is disabled or gone."));
        }
    }
    let trust = chain.swap_remove(0);
    if trust.is_used_up() { Err(fault::not_found("trust", id)) } else { Ok(trust) }
}

/// What a trust amounts to now.
pub struct Delegation {
    pub trust: Trust,
    pub trustor: User,
    pub trustee: User,
    pub project: Project,
    /// Of the whole cloud, implied ones included.
    pub roles: Vec<RoleRef>,
    /// Everybody in the chain: what revokes the tokens of one of them revokes the trust's.
    pub people: Vec<User>,
}

/// `NotFound` or `Forbidden` when any part of the chain does not hold any more. Uses are not looked at: the last one's token
/// is as good as the others'.
pub fn delegation_in(tx: &Tx, id: &str) -> Result<Delegation> {
    let mut chain = chain_in(tx, id)?;
    let mut people = Vec::new();
    for trust in &chain {
        for user_id in [&trust.trustee_user_id, &trust.trustor_user_id] {
            let user = user_get_in(tx, user_id)?;
            let domain = project_fetch_in(tx, &user.domain_id)?;
            if !user.enabled || !domain.is_some_and(|domain| domain.enabled) {
                return Err(Error::forbidden("A user of the trust is disabled."));
            }
            people.push(user);
        }
    }
    let (trustee, trustor) = (people[0].clone(), people[1].clone());
    let first = people[people.len() - 1].id.clone();
    let trust = chain.swap_remove(0);
    let project_id = trust.project_id.as_deref().ok_or_else(|| fault::not_found("project", ""))?;
    let project = project_get_in(tx, project_id)?;
    let has = role_ids_of_user_in(tx, &first, &Target::Project(project.id.clone()), Some(&project))?;
    let given = roles::close(trust.roles.iter().cloned(), &roles::implications_in(tx)?);
    if !given.is_subset(&has) {
        return Err(Error::forbidden("The trustor no longer has the roles of the trust."));
    }
    let roles = roles::role_refs_in(tx, &given)?;
    Ok(Delegation { trust, trustor, trustee, project, roles, people })
}

/// A role as a request names it.
pub enum RoleName {
    Id(String),
    Name(String),
}

/// What a request for a new trust wants.
pub struct TrustWanted {
    pub trustor_user_id: String,
    pub trustee_user_id: String,
    project_id: Option<String>,
    impersonation: bool,
    expires_at: Option<String>,
    remaining_uses: Option<i64>,
    allow_redelegation: bool,
    redelegation_count: Option<i64>,
    redelegated_trust_id: Option<String>,
    roles: Vec<RoleName>,
    extra: Object,
}

impl TrustWanted {
    pub fn read(mut map: Object) -> Result<TrustWanted> {
        let required = |name: &str| fault::field("trust", format!("'{name}' is a required property"));
        if map.get("allow_redelegation").is_some_and(Value::is_null) {
            map.remove("allow_redelegation");
        }
        let roles = roles_wanted("trust", map.remove("roles"))?;
        let remaining_uses = integer(&mut map, "remaining_uses", 1)?;
        let redelegation_count = integer(&mut map, "redelegation_count", 0)?;
        let mut take = wire::Take { map: &mut map, what: "trust" };
        let wanted = TrustWanted {
            trustor_user_id: take.text("trustor_user_id", 64)?.ok_or_else(|| required("trustor_user_id"))?,
            trustee_user_id: take.text("trustee_user_id", 64)?.ok_or_else(|| required("trustee_user_id"))?,
            project_id: take.nullable_text("project_id", 64)?.flatten().filter(|id| !id.is_empty()),
            impersonation: take.strict_flag("impersonation")?.ok_or_else(|| required("impersonation"))?,
            expires_at: take.nullable_text("expires_at", 255)?.flatten(),
            remaining_uses,
            allow_redelegation: take.strict_flag("allow_redelegation")?.unwrap_or(false),
            redelegation_count,
            redelegated_trust_id: take.nullable_text("redelegated_trust_id", 64)?.flatten(),
            roles,
            extra: Object::new(),
        };
        for own in ["id", "links", "roles_links", "deleted_at"] {
            map.remove(own);
        }
        Ok(TrustWanted { extra: map, ..wanted })
    }
}

fn integer(map: &mut Object, key: &str, min: i64) -> Result<Option<i64>> {
    let path = format!("trust/{key}");
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => match number.as_i64() {
            Some(n) if n >= min && n <= i64::from(i32::MAX) => Ok(Some(n)),
            Some(n) => Err(fault::field(&path, format!("{n} is not between {min} and {}", i32::MAX))),
            None => Err(fault::field(&path, format!("{number} is not of type 'integer', 'null'"))),
        },
        Some(other) => Err(fault::field(&path, format!("{other} is not of type 'integer', 'null'"))),
    }
}

pub fn roles_wanted(what: &str, roles: Option<Value>) -> Result<Vec<RoleName>> {
    let wrong =
        |found: &Value| fault::field(&format!("{what}/roles"), format!("{found} is not an array of objects with either 'id' or 'name'"));
    let items = match roles {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(&other)),
    };
    items
        .iter()
        .map(|item| {
            let role = item.as_object().filter(|role| role.len() == 1).ok_or_else(|| wrong(item))?;
            match (role.get("id"), role.get("name")) {
                (Some(Value::String(id)), None) if wire::is_id(id) => Ok(RoleName::Id(id.clone())),
                (None, Some(Value::String(name))) if !name.is_empty() && !name.contains('\0') => Ok(RoleName::Name(name.clone())),
                _ => Err(wrong(item)),
            }
        })
        .collect()
}

/// The ids of the roles, each once.
pub fn resolved_in(tx: &Tx, names: &[RoleName]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for name in names {
        let id = match name {
            RoleName::Id(id) => id.clone(),
            RoleName::Name(name) => {
                let mut found = tx.query("SELECT id FROM identity_role WHERE name = ?1", params![name], |row| row.text(0))?;
                match (found.pop(), found.pop()) {
                    (Some(id), None) => id,
                    (None, _) => return Err(fault::not_found("role", name)),
                    _ => return Err(Error::invalid(format!("The role name '{name}' is ambiguous. Use the role's id."))),
                }
            }
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn parse_end(text: &str) -> Result<Timestamp> {
    let end = Timestamp::parse(text).ok_or_else(|| fault::field("trust/expires_at", format!("'{text}' is not a time in ISO 8601")))?;
    if end <= Timestamp::now() {
        return Err(fault::field("trust/expires_at", format!("'{text}' is in the past")));
    }
    Ok(end)
}

/// How often the new trust may be handed on itself.
fn depth(wanted: &TrustWanted, parent: Option<&Trust>) -> Result<i64> {
    if !wanted.allow_redelegation || wanted.redelegation_count == Some(0) {
        return Ok(0);
    }
    if let Some(count) = wanted.redelegation_count.filter(|count| *count > MAX_REDELEGATIONS) {
        return Err(Error::forbidden(format!("A redelegation_count of {count} is more than the {MAX_REDELEGATIONS} that are allowed.")));
    }
    if wanted.remaining_uses.is_some() {
        return Err(Error::invalid("remaining_uses must not be set when redelegation is allowed."));
    }
    let Some(parent) = parent else { return Ok(wanted.redelegation_count.unwrap_or(MAX_REDELEGATIONS)) };
    let left = parent.redelegation_count - 1;
    if wanted.redelegation_count.is_some_and(|count| count != left) {
        return Err(Error::forbidden("The redelegation_count of a trust that is handed on cannot be chosen. Leave it out."));
    }
    Ok(left)
}

/// A trust that is handed on gives nothing that any of those before it does not give.
fn check_against(trust: &mut Trust, before: &Trust) -> Result<()> {
    if !(1..=MAX_REDELEGATIONS).contains(&before.redelegation_count) {
        return Err(Error::forbidden(format!("The trust {} cannot be handed on.", before.id)));
    }
    if trust.remaining_uses.is_some() {
        return Err(Error::forbidden("remaining_uses must not be set when a trust is handed on."));
    }
    match (trust.expires_at, before.expires_at) {
        (Some(end), Some(limit)) if end > limit => {
            return Err(Error::forbidden("The trust would last longer than the one that is handed on."));
        }
        (None, limit) => trust.expires_at = limit,
        _ => {}
    }
    if !trust.roles.iter().all(|role| before.roles.contains(role)) {
        return Err(Error::forbidden("Some of the roles are not in the trust that is handed on."));
    }
    if trust.project_id != before.project_id {
        return Err(Error::forbidden("The trust that is handed on is for another project."));
    }
    if trust.impersonation && !before.impersonation {
        return Err(Error::forbidden(format!("Impersonation is not allowed: the trust {} does not give it.", before.id)));
    }
    Ok(())
}

fn insert_in(tx: &Tx, trust: &Trust) -> Result<()> {
    let inserted = tx.attempt(|tx| {
        tx.execute(
            &format!("INSERT INTO trust ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"),
            params![
                &trust.id,
                &trust.trustor_user_id,
                &trust.trustee_user_id,
                &trust.project_id,
                trust.impersonation,
                trust.expires_at,
                trust.remaining_uses,
                &trust.redelegated_trust_id,
                trust.redelegation_count,
                store::Value::json(&trust.extra)?
            ],
        )
    });
    inserted.map_err(|e| if e.is(Kind::Exists) { fault::duplicate("trust", "Duplicate entry") } else { e })?;
    for role in &trust.roles {
        tx.execute("INSERT INTO trust_role (trust_id, role_id) VALUES (?1, ?2)", params![&trust.id, role])?;
    }
    Ok(())
}

/// Removes the trusts and all that were handed on from them; the ids of all.
fn remove_in(tx: &Tx, mut open: Vec<String>) -> Result<Vec<String>> {
    let mut gone: Vec<String> = Vec::new();
    while let Some(id) = open.pop() {
        open.extend(tx.query("SELECT id FROM trust WHERE redelegated_trust_id = ?1", params![&id], |row| row.text(0))?);
        tx.execute("DELETE FROM trust_role WHERE trust_id = ?1", params![&id])?;
        tx.execute("DELETE FROM trust WHERE id = ?1", params![&id])?;
        gone.push(id);
    }
    Ok(gone)
}

/// Those that a user gave or got, or that are for a project, when that goes.
pub fn trusts_remove_in(tx: &Tx, user_id: Option<&str>, project_id: Option<&str>) -> Result<()> {
    let sql = "SELECT id FROM trust WHERE trustor_user_id = ?1 OR trustee_user_id = ?1 OR project_id = ?2";
    remove_in(tx, tx.query(sql, params![user_id, project_id], |row| row.text(0))?).map(|_| ())
}

/// Forgets those whose time is over.
pub fn trusts_prune_in(tx: &Tx) -> Result<u64> {
    let now = Timestamp::now();
    tx.execute("DELETE FROM trust_role WHERE trust_id IN (SELECT id FROM trust WHERE expires_at < ?1)", params![now])?;
    tx.execute("DELETE FROM trust WHERE expires_at < ?1", params![now])
}

impl Identity {
    pub(crate) async fn trust_list(&self, ask: &Ask) -> Result<(Vec<Trust>, bool)> {
        let select = Select::new(format!("SELECT {COLUMNS} FROM trust"));
        self.0.store.read(|tx| ask.fetch(tx, select, "trust", map)).await
    }

    /// `by`: the trust of the caller's token, which is then handed on.
    pub(crate) async fn trust_create(&self, ctx: &Context, wanted: TrustWanted, by: Option<String>) -> Result<(Trust, Vec<roles::Role>)> {
        if wanted.project_id.is_some() && wanted.roles.is_empty() {
            return Err(fault::forbidden_action("a trust for a project needs at least one role"));
        }
        if ctx.user_id != wanted.trustor_user_id {
            return Err(fault::forbidden_action("the trustor must be the caller"));
        }
        if wanted.redelegated_trust_id.is_some() && wanted.redelegated_trust_id != by {
            return Err(fault::forbidden_action("only the trust of the caller's token can be handed on"));
        }
        let ctx = ctx.clone();
        self.add(move |tx| {
            user_get_in(tx, &wanted.trustee_user_id)?;
            let roles = resolved_in(tx, &wanted.roles)?;
            let before = by.as_deref().map(|id| chain_in(tx, id)).transpose()?.unwrap_or_default();
            // Who hands on what is not in the own name says so; the roles are then those of the first trustor.
            let owner = match before.last().filter(|_| wanted.redelegated_trust_id.is_some()) {
                Some(first) => first.trustor_user_id.clone(),
                None => wanted.trustor_user_id.clone(),
            };
            let has = match &wanted.project_id {
                Some(id) => {
                    let project = project_get_in(tx, id)?;
                    role_ids_of_user_in(tx, &owner, &Target::Project(id.clone()), Some(&project))?
                }
                None => HashSet::new(),
            };
            if let Some(missing) = roles.iter().find(|role| !has.contains(*role)) {
                return Err(fault::not_found("role", missing));
            }
            let expires_at = wanted.expires_at.as_deref().map(parse_end).transpose()?;
            let redelegation_count = depth(&wanted, before.first())?;
            let mut trust = Trust {
                id: base::id::hex(),
                trustor_user_id: wanted.trustor_user_id,
                trustee_user_id: wanted.trustee_user_id,
                project_id: wanted.project_id,
                impersonation: wanted.impersonation,
                expires_at,
                remaining_uses: wanted.remaining_uses,
                redelegated_trust_id: by,
                redelegation_count,
                extra: wanted.extra,
                roles,
            };
            for earlier in &before {
                check_against(&mut trust, earlier)?;
            }
            insert_in(tx, &trust)?;
            note(tx, &ctx, "OS-TRUST:trust.created", &trust.id)?;
            let roles = roles::roles_by_ids_in(tx, &trust.roles)?;
            Ok((trust, roles))
        })
        .await
    }

    pub(crate) async fn trust_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            trust_get_in(tx, &id)?;
            for gone in remove_in(tx, vec![id])? {
                note(tx, &ctx, "OS-TRUST:trust.deleted", &gone)?;
            }
            Ok(())
        })
        .await
    }

    /// Counts one use. Of two who want the last one, one hears that there is none.
    pub(crate) async fn trust_use(&self, id: &str) -> Result<()> {
        let id = id.to_string();
        self.add(move |tx| {
            let sql =
                "UPDATE trust SET remaining_uses = remaining_uses - 1 WHERE id = ?1 AND (remaining_uses IS NULL OR remaining_uses > 0)";
            if tx.execute(sql, params![&id])? == 0 { Err(fault::unauthorized()) } else { Ok(()) }
        })
        .await
    }
}
