//! Application credentials: a name and a secret with which a program acts for a user on one project, with some of the user's roles and
//! perhaps for some requests only.

pub mod access;
pub mod secret;

use std::collections::HashSet;

use base::{Context, Error, Kind, Result, Timestamp};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::list::Ask;
use crate::projects::{Project, project_fetch_in};
use crate::roles::{self, RoleRef, role_ids_of_user_in};
use crate::token::cache::Live;
use crate::token::payload::Target;
use crate::trusts::{RoleName, resolved_in, roles_wanted};
use crate::wire::{self, Object};
use crate::{Identity, fault, note};

use access::{AccessRule, RuleWanted};

#[derive(Clone, Debug)]
pub struct ApplicationCredential {
    pub id: String,
    pub user_id: String,
    pub project_id: String,
    pub name: String,
    pub description: Option<String>,
    /// A hash.
    pub secret: String,
    pub expires_at: Option<Timestamp>,
    /// Whether it may be used to make more credentials.
    pub unrestricted: bool,
    /// Ids.
    pub roles: Vec<String>,
    /// Empty: every request is allowed.
    pub rules: Vec<AccessRule>,
}

const COLUMNS: &str = "id, user_id, project_id, name, description, secret, expires_at, unrestricted";

/// Without roles and rules.
fn map(row: &Row) -> Result<ApplicationCredential> {
    Ok(ApplicationCredential {
        id: row.text(0)?,
        user_id: row.text(1)?,
        project_id: row.text(2)?,
        name: row.text(3)?,
        description: row.opt_text(4)?,
        secret: row.text(5)?,
        expires_at: row.opt_time(6)?,
        unrestricted: row.flag(7)?,
        roles: Vec::new(),
        rules: Vec::new(),
    })
}

impl ApplicationCredential {
    /// As the API shows it; its secret is shown once, by whoever makes it.
    pub fn view(&self, req: &Request, roles: &[roles::Role]) -> Object {
        let role = |role: &roles::Role| {
            let domain = Some(&role.domain_id).filter(|id| !id.is_empty());
            json!({ "id": role.id, "name": role.name, "domain_id": domain, "description": role.description, "options": role.options })
        };
        let roles: Vec<Value> = roles.iter().filter(|role| self.roles.contains(&role.id)).map(role).collect();
        let mut view = Object::new();
        view.insert("id".into(), json!(self.id));
        view.insert("name".into(), json!(self.name));
        view.insert("description".into(), json!(self.description));
        view.insert("user_id".into(), json!(self.user_id));
        view.insert("project_id".into(), json!(self.project_id));
        view.insert("system".into(), Value::Null);
        view.insert("expires_at".into(), json!(self.expires_at.map(Timestamp::iso_micros)));
        view.insert("unrestricted".into(), json!(self.unrestricted));
        view.insert("roles".into(), json!(roles));
        if !self.rules.is_empty() {
            view.insert("access_rules".into(), self.rules.iter().map(AccessRule::view).collect());
        }
        let link = format!("{}/v3/users/{}/application_credentials/{}", req.base_url, self.user_id, self.id);
        view.insert("links".into(), json!({ "self": link }));
        view
    }

    fn has_ended(&self) -> bool {
        self.expires_at.is_some_and(|end| Timestamp::now() >= end)
    }
}

/// Ended ones too: until they are forgotten their owner sees them.
pub fn credential_fetch_in(tx: &Tx, id: &str) -> Result<Option<ApplicationCredential>> {
    let found = tx.query_opt(&format!("SELECT {COLUMNS} FROM application_credential WHERE id = ?1"), params![id], map)?;
    found.map(|credential| complete_in(tx, credential)).transpose()
}

pub fn credential_by_name_in(tx: &Tx, user_id: &str, name: &str) -> Result<Option<ApplicationCredential>> {
    let sql = format!("SELECT {COLUMNS} FROM application_credential WHERE user_id = ?1 AND name = ?2");
    tx.query_opt(&sql, params![user_id, name], map)?.map(|credential| complete_in(tx, credential)).transpose()
}

/// One whose time is not over.
pub fn credential_usable_in(tx: &Tx, id: &str) -> Result<Option<ApplicationCredential>> {
    Ok(credential_fetch_in(tx, id)?.filter(|credential| !credential.has_ended()))
}

fn complete_in(tx: &Tx, mut credential: ApplicationCredential) -> Result<ApplicationCredential> {
    let sql = "SELECT role_id FROM application_credential_role WHERE application_credential_id = ?1 ORDER BY role_id";
    credential.roles = tx.query(sql, params![&credential.id], |row| row.text(0))?;
    let sql = format!(
        "SELECT {} FROM access_rule WHERE id IN (SELECT access_rule_id FROM application_credential_access_rule WHERE application_credential_id = ?1) \
         ORDER BY id",
        access::COLUMNS
    );
    credential.rules = tx.query(&sql, params![&credential.id], access::map)?;
    Ok(credential)
}

/// The roles that a credential gives now: those of its that the user still has.
pub fn roles_of_credential_in(tx: &Tx, credential: &ApplicationCredential, project: &Project) -> Result<Vec<RoleRef>> {
    let has = role_ids_of_user_in(tx, &credential.user_id, &Target::Project(project.id.clone()), Some(project))?;
    let given: HashSet<String> = credential.roles.iter().filter(|role| has.contains(*role)).cloned().collect();
    roles::role_refs_in(tx, &given)
}

/// What a request for a new credential wants.
pub struct CredentialWanted {
    name: String,
    description: Option<String>,
    secret: Option<String>,
    expires_at: Option<Timestamp>,
    unrestricted: bool,
    roles: Vec<RoleName>,
    rules: Vec<RuleWanted>,
}

impl CredentialWanted {
    pub fn read(mut map: Object) -> Result<CredentialWanted> {
        const WHAT: &str = "application_credential";
        let roles = roles_wanted(WHAT, map.remove("roles"))?;
        let rules = map.remove("access_rules").map_or_else(|| Ok(Vec::new()), access::read)?;
        let mut take = wire::Take { map: &mut map, what: WHAT };
        let name = take.name("name", 255)?.ok_or_else(|| fault::field(WHAT, "'name' is a required property"))?;
        let description = take.nullable_text("description", 65535)?.flatten();
        let secret = take.nullable_text("secret", 4096)?.flatten().filter(|secret| !secret.is_empty());
        let expires_at = take.nullable_text("expires_at", 255)?.flatten().map(|text| parse_end(&text)).transpose()?;
        let unrestricted = match take.map.remove("unrestricted") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => flag,
            Some(other) => {
                return Err(fault::field("application_credential/unrestricted", format!("{other} is not of type 'boolean', 'null'")));
            }
        };
        // The project is the token's; upstream lets a request say it, and does not look.
        take.text("project_id", 64)?;
        take.text("id", 64)?;
        if take.nullable_text("system", 64)?.flatten().is_some() {
            return Err(fault::field("application_credential/system", "application credentials are for projects"));
        }
        if let Some(other) = map.keys().next() {
            return Err(fault::field(WHAT, format!("Additional properties are not allowed ('{other}' was unexpected)")));
        }
        Ok(CredentialWanted { name, description, secret, expires_at, unrestricted, roles, rules })
    }
}

fn parse_end(text: &str) -> Result<Timestamp> {
    let at = "application_credential/expires_at";
    let end = Timestamp::parse(text).ok_or_else(|| fault::field(at, format!("'{text}' is not a time in ISO 8601")))?;
    if end <= Timestamp::now() {
        return Err(fault::field(at, format!("'{text}' is in the past")));
    }
    Ok(end)
}

fn unassigned() -> Error {
    Error::invalid("Invalid application credential: Cannot create an application credential with unassigned role")
}

impl Identity {
    /// By the caller, whose token is `live`: a credential for the token's project, with no role that the token does not have. Also the
    /// secret, which nobody can look up later.
    pub(crate) async fn application_credential_create(
        &self,
        ctx: &Context,
        live: &Live,
        wanted: CredentialWanted,
    ) -> Result<(ApplicationCredential, Vec<roles::Role>, String)> {
        let (shown, hash) = match wanted.secret {
            Some(chosen) => (chosen.clone(), self.0.hasher.hash(chosen).await?),
            None => {
                let made = secret::generate()?;
                let hash = secret::plain_hash(&made);
                (made, hash)
            }
        };
        let mut credential = ApplicationCredential {
            id: base::id::hex(),
            user_id: ctx.user_id.clone(),
            project_id: ctx.project_id().to_string(),
            name: wanted.name,
            description: wanted.description,
            secret: hash,
            expires_at: wanted.expires_at,
            unrestricted: wanted.unrestricted,
            roles: Vec::new(),
            rules: Vec::new(),
        };
        let (ctx, held) = (ctx.clone(), live.role_ids.clone());
        let made = self.add(move |tx| {
            let asked = resolved_in(tx, &wanted.roles)?;
            let roles = if asked.is_empty() { held.iter().cloned().collect() } else { roles::close(asked, &roles::implications_in(tx)?) };
            // The token may be older than a change: what counts is what the user has by now, too.
            let project =
                project_fetch_in(tx, &credential.project_id)?.ok_or_else(|| fault::not_found("project", &credential.project_id))?;
            let has = role_ids_of_user_in(tx, &credential.user_id, &Target::Project(project.id.clone()), Some(&project))?;
            if roles.is_empty() || !roles.iter().all(|role| held.contains(role) && has.contains(role)) {
                return Err(unassigned());
            }
            credential.roles = roles.into_iter().collect();
            credential.roles.sort();
            credential.rules = access::settle_in(tx, &credential.user_id, &wanted.rules)?;
            insert_in(tx, &credential)?;
            note(tx, &ctx, "application_credential.created", &credential.id)?;
            let roles = roles::roles_by_ids_in(tx, &credential.roles)?;
            Ok((credential, roles))
        });
        let (credential, roles) = made.await?;
        Ok((credential, roles, shown))
    }

    pub(crate) async fn application_credential_list(
        &self,
        ask: &Ask,
        user_id: &str,
    ) -> Result<(Vec<ApplicationCredential>, Vec<roles::Role>, bool)> {
        let select = Select::new(format!("SELECT {COLUMNS} FROM application_credential")).eq("user_id", user_id);
        self.0
            .store
            .read(|tx| {
                let (found, more) = ask.fetch(tx, select, "application_credential", map)?;
                let found: Vec<_> = found.into_iter().map(|credential| complete_in(tx, credential)).collect::<Result<_>>()?;
                let ids: HashSet<&String> = found.iter().flat_map(|credential| &credential.roles).collect();
                let roles = roles::roles_by_ids_in(tx, &ids.into_iter().cloned().collect::<Vec<_>>())?;
                Ok((found, roles, more))
            })
            .await
    }

    pub(crate) async fn application_credential_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            if !remove_in(tx, &id)? {
                return Err(not_found(&id));
            }
            note(tx, &ctx, "application_credential.deleted", &id)
        })
        .await
    }

    pub(crate) async fn access_rule_list(&self, ask: &Ask, user_id: &str) -> Result<(Vec<AccessRule>, bool)> {
        let select = Select::new(format!("SELECT {} FROM access_rule", access::COLUMNS)).eq("user_id", user_id);
        self.0.store.read(|tx| ask.fetch(tx, select, "access_rule", access::map)).await
    }

    pub(crate) async fn access_rule_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            let sql = "SELECT 1 FROM application_credential_access_rule WHERE access_rule_id = ?1 LIMIT 1";
            if tx.query_opt(sql, params![&id], |_| Ok(()))?.is_some() {
                return Err(Error::forbidden("May not delete access rule in use"));
            }
            if tx.execute("DELETE FROM access_rule WHERE id = ?1", params![&id])? == 0 {
                return Err(access::not_found(&id));
            }
            note(tx, &ctx, "access_rule.deleted", &id)
        })
        .await
    }
}

pub fn not_found(id: &str) -> Error {
    fault::not_found("Application Credential", id)
}

fn insert_in(tx: &Tx, credential: &ApplicationCredential) -> Result<()> {
    let inserted = tx.attempt(|tx| {
        tx.execute(
            &format!("INSERT INTO application_credential ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
            params![
                &credential.id,
                &credential.user_id,
                &credential.project_id,
                &credential.name,
                &credential.description,
                &credential.secret,
                credential.expires_at,
                credential.unrestricted
            ],
        )
    });
    let taken = |e: Error| if e.is(Kind::Exists) { fault::duplicate("application_credential", "Duplicate entry") } else { e };
    inserted.map_err(taken)?;
    for role in &credential.roles {
        let sql = "INSERT INTO application_credential_role (application_credential_id, role_id) VALUES (?1, ?2)";
        tx.execute(sql, params![&credential.id, role])?;
    }
    for rule in &credential.rules {
        let sql = "INSERT INTO application_credential_access_rule (application_credential_id, access_rule_id) VALUES (?1, ?2)";
        tx.execute(sql, params![&credential.id, &rule.id])?;
    }
    Ok(())
}

/// Whether it was there. Its access rules stay with their user.
fn remove_in(tx: &Tx, id: &str) -> Result<bool> {
    tx.execute("DELETE FROM application_credential_role WHERE application_credential_id = ?1", params![id])?;
    tx.execute("DELETE FROM application_credential_access_rule WHERE application_credential_id = ?1", params![id])?;
    Ok(tx.execute("DELETE FROM application_credential WHERE id = ?1", params![id])? > 0)
}

fn remove_where_in(tx: &Tx, condition: &str, value: impl Into<store::Value>) -> Result<()> {
    let ids = tx.query(&format!("SELECT id FROM application_credential WHERE {condition}"), &[value.into()], |row| row.text(0))?;
    for id in ids {
        remove_in(tx, &id)?;
    }
    Ok(())
}

/// All of a user who goes, or is disabled, with the access rules.
pub fn remove_of_user_in(tx: &Tx, user_id: &str) -> Result<()> {
    remove_where_in(tx, "user_id = ?1", user_id)?;
    tx.execute("DELETE FROM access_rule WHERE user_id = ?1", params![user_id])?;
    Ok(())
}

/// Those for a project that goes.
pub fn remove_of_project_in(tx: &Tx, project_id: &str) -> Result<()> {
    remove_where_in(tx, "project_id = ?1", project_id)
}

/// Forgets those whose time is over.
pub fn prune_in(tx: &Tx) -> Result<()> {
    remove_where_in(tx, "expires_at < ?1", Timestamp::now())
}

/// Whose credentials may have lost what they stand on.
pub enum Of<'a> {
    User(&'a str),
    Group(&'a str),
    Role(&'a str),
}

/// Removes those that carry a role which their user has no longer, as upstream: who gets it back makes a new one.
pub fn recheck_in(tx: &Tx, of: Of) -> Result<()> {
    let (condition, value) = match of {
        Of::User(id) => ("user_id = ?1", id),
        Of::Group(id) => ("user_id IN (SELECT user_id FROM membership WHERE group_id = ?1)", id),
        Of::Role(id) => ("id IN (SELECT application_credential_id FROM application_credential_role WHERE role_id = ?1)", id),
    };
    let sql = format!("SELECT {COLUMNS} FROM application_credential WHERE {condition} ORDER BY id");
    for credential in tx.query(&sql, params![value], map)? {
        let credential = complete_in(tx, credential)?;
        let project = project_fetch_in(tx, &credential.project_id)?;
        let target = Target::Project(credential.project_id.clone());
        let has = role_ids_of_user_in(tx, &credential.user_id, &target, project.as_ref())?;
        if !credential.roles.iter().all(|role| has.contains(role)) {
            remove_in(tx, &credential.id)?;
        }
    }
    Ok(())
}
