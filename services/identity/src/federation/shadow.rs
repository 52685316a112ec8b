//! The users behind assertions: those that are made for the occasion and stay, and those that were here before.

use base::{Context, Error, Kind, Result, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, json};
use sha2::Digest;
use store::{Tx, params};

use super::mapping::{Assertion, DomainRef, Mapped, MappedProject, apply};
use super::mappings::mapping_get_in;
use super::oidc::claims::REMOTE_USER;
use super::protocols::protocol_get_in;
use super::providers::{Provider, provider_get_in};
use super::rules::{Rules, Version};
use crate::application_credentials::{Of, recheck_in};
use crate::grants::{self, Actor, Grant, On};
use crate::groups::{group_by_name_in, group_fetch_in};
use crate::projects::{self, Project, project_fetch_in};
use crate::token::payload::Via;
use crate::users::{self, user_fetch_in, user_remove_in};
use crate::wire::Object;
use crate::{fault, note};

/// What Python's `quote` leaves as it is.
const UNQUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~').remove(b'/');

/// Who came, and by what.
pub struct Arrival {
    pub user_id: String,
    /// None: a local user, whose token says nothing of it.
    pub via: Option<Via>,
    /// Tokens that are known may have other roles now.
    pub changed: bool,
}

/// Times that a login needs.
#[derive(Clone, Copy)]
pub struct Times {
    /// When the token of this login ends at the latest.
    pub token_end: Timestamp,
    /// In minutes, of providers that have none of their own.
    pub authorization_ttl: u64,
}

/// Lets in whom an identity provider vouches for. `issuer`: who made the assertion. `Unauthenticated` or `Forbidden` when it is nobody.
pub fn arrive_in(tx: &Tx, idp_id: &str, protocol_id: &str, issuer: &str, assertion: &Assertion, times: Times) -> Result<Arrival> {
    let (provider, mapped) = mapped_in(tx, idp_id, protocol_id, issuer, assertion)?;
    if mapped.user.is_local {
        return Ok(Arrival { user_id: local_user_in(tx, idp_id, &mapped)?, via: None, changed: false });
    }
    let (user_id, group_ids, changed) = shadow_in(tx, &provider, protocol_id, &mapped, times)?;
    let via = Via::Federation { idp_id: idp_id.into(), protocol_id: protocol_id.into(), group_ids };
    Ok(Arrival { user_id, via: Some(via), changed })
}

/// Who comes for one request, and leaves no trace.
pub enum Visitor {
    /// The id of a user of this cloud's own.
    Local(String),
    /// Somebody who is what these groups are.
    Groups { name: String, ids: Vec<String> },
}

/// As [`arrive_in`] without anything being made of it.
pub fn visit_in(tx: &Tx, idp_id: &str, protocol_id: &str, issuer: &str, assertion: &Assertion) -> Result<Visitor> {
    // Who asks with a certificate hears no more than that it did not work.
    let gone = |e: Error| if e.is(Kind::NotFound) || e.is(Kind::Forbidden) { refuse(idp_id, e.message()) } else { e };
    let (_, mapped) = mapped_in(tx, idp_id, protocol_id, issuer, assertion).map_err(gone)?;
    if mapped.user.is_local {
        return local_user_in(tx, idp_id, &mapped).map(Visitor::Local);
    }
    Ok(Visitor::Groups { ids: group_ids_in(tx, idp_id, &mapped)?, name: mapped.user.name.unwrap_or_default() })
}

/// What the mapping makes of an assertion of a provider that is believed.
fn mapped_in(tx: &Tx, idp_id: &str, protocol_id: &str, issuer: &str, assertion: &Assertion) -> Result<(Provider, Mapped)> {
    let provider = provider_get_in(tx, idp_id)?;
    if !provider.enabled {
        return Err(Error::forbidden(format!("Identity Provider {idp_id} is disabled")));
    }
    let protocol = protocol_get_in(tx, idp_id, protocol_id)?;
    if !provider.remote_ids.is_empty() && !provider.remote_ids.iter().any(|id| id == issuer) {
        return Err(Error::forbidden("Incoming identity provider identifier not included among the accepted identifiers."));
    }
    let mapping = mapping_get_in(tx, &protocol.mapping_id)?;
    let rules = Rules::read(&mapping.rules, Version::read(Some(&mapping.schema_version))?)?;
    let mut mapped = apply(&rules, assertion, &mut |_| {}).map_err(|e| refuse(idp_id, &e.to_string()))?;
    if mapped.user.name.is_none() {
        let remote = assertion.get(REMOTE_USER).and_then(|values| values.first()).filter(|name| !name.is_empty()).cloned();
        mapped.user.name = remote.or_else(|| mapped.user.id.clone());
    }
    Ok((provider, mapped))
}

/// Why is for the log alone.
fn refuse(idp_id: &str, problem: &str) -> Error {
    tracing::info!(identity_provider = idp_id, "an assertion lets nobody in: {problem}");
    fault::unauthorized()
}

/// By id, or by name in a domain that the rules name.
fn local_user_in(tx: &Tx, idp_id: &str, mapped: &Mapped) -> Result<String> {
    let found = match (&mapped.user.id, &mapped.user.name, &mapped.user.domain) {
        (Some(id), ..) => user_fetch_in(tx, id)?,
        (None, Some(name), Some(domain)) => users::user_by_name_in(tx, name, &domain_in(tx, idp_id, domain)?)?,
        _ => None,
    };
    Ok(found.ok_or_else(|| refuse(idp_id, "there is no such local user"))?.id)
}

fn domain_in(tx: &Tx, idp_id: &str, domain: &DomainRef) -> Result<String> {
    let found = match domain {
        DomainRef::Id(id) => project_fetch_in(tx, id)?,
        DomainRef::Name(name) => projects::project_by_name_in(tx, name, "")?,
    };
    Ok(found.filter(|domain| domain.is_domain).ok_or_else(|| refuse(idp_id, "there is no such domain"))?.id)
}

fn shadow_in(tx: &Tx, provider: &Provider, protocol_id: &str, mapped: &Mapped, times: Times) -> Result<(String, Vec<String>, bool)> {
    let name = mapped.user.name.as_deref().filter(|name| name.chars().count() <= 255 && !name.contains('\0'));
    let name = name.ok_or_else(|| refuse(&provider.id, "it names no user"))?;
    let unique_id = utf8_percent_encode(mapped.user.id.as_deref().unwrap_or(name), UNQUOTED).to_string();
    let domain_id = match &mapped.user.domain {
        Some(domain) => domain_in(tx, &provider.id, domain)?,
        None => provider.domain_id.clone(),
    };
    let ctx = Context::default();
    let (user_id, is_new) = user_in(tx, &ctx, &provider.id, protocol_id, &unique_id, &domain_id, name, mapped.user.email.as_deref())?;
    let group_ids = group_ids_in(tx, &provider.id, mapped)?;
    let mut changed = memberships_in(tx, provider, &user_id, &group_ids, times)?;
    changed |= projects_in(tx, &ctx, provider, &user_id, &domain_id, mapped)?;
    Ok((user_id, group_ids, changed && !is_new))
}

/// The user whom the provider knows by `unique_id`: with the id that upstream would give.
#[allow(clippy::too_many_arguments)]
fn user_in(
    tx: &Tx,
    ctx: &Context,
    idp_id: &str,
    protocol_id: &str,
    unique_id: &str,
    domain_id: &str,
    name: &str,
    email: Option<&str>,
) -> Result<(String, bool)> {
    let now = Timestamp::now();
    let known = tx.query_opt(
        "SELECT user_id FROM federated_user WHERE idp_id = ?1 AND protocol_id = ?2 AND unique_id = ?3",
        params![idp_id, protocol_id, unique_id],
        |row| row.text(0),
    )?;
    if let Some(user) = known.map(|id| user_fetch_in(tx, &id)).transpose()?.flatten() {
        let mut extra = user.extra.clone();
        if let Some(email) = email {
            extra.insert("email".into(), json!(email));
        }
        // A local user who was linked keeps the own name.
        tx.execute("UPDATE identity_user SET name = ?2 WHERE id = ?1 AND is_shadow = 1", params![&user.id, name])?;
        tx.execute(
            "UPDATE identity_user SET extra = ?2, last_active_at = ?3 WHERE id = ?1",
            params![&user.id, store::Value::json(&extra)?, now],
        )?;
        return Ok((user.id, false));
    }
    let id = public_id(domain_id, unique_id);
    // Another provider of the same domain knows somebody by this id: nobody takes over anybody.
    if user_fetch_in(tx, &id)?.is_some() {
        return Err(Error::conflict(format!("Conflict occurred attempting to store federated_user - Duplicate entry: {unique_id}.")));
    }
    let mut extra = Map::new();
    if let Some(email) = email {
        extra.insert("email".into(), json!(email));
    }
    tx.execute(
        "INSERT INTO identity_user (id, name, domain_id, enabled, options, extra, is_shadow, created_at, last_active_at) \
         VALUES (?1, ?2, ?3, 1, ?4, ?5, 1, ?6, ?6)",
        params![&id, name, domain_id, store::Value::json(&Object::new())?, store::Value::json(&extra)?, now],
    )?;
    tx.execute(
        "INSERT INTO federated_user (idp_id, protocol_id, unique_id, user_id) VALUES (?1, ?2, ?3, ?4)",
        params![idp_id, protocol_id, unique_id, &id],
    )?;
    note(tx, ctx, "user.created", &id)?;
    Ok((id, true))
}

/// Upstream's way from a name elsewhere to an id here.
pub fn public_id(domain_id: &str, unique_id: &str) -> String {
    let digest = sha2::Sha256::digest(format!("{domain_id}user{unique_id}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Groups by name that are not there are passed over, as upstream; those by id must be there.
fn group_ids_in(tx: &Tx, idp_id: &str, mapped: &Mapped) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for id in &mapped.group_ids {
        if group_fetch_in(tx, id)?.is_none() {
            return Err(refuse(idp_id, &format!("there is no group {id}")));
        }
        ids.push(id.clone());
    }
    for group in &mapped.groups {
        let domain_id = domain_in(tx, idp_id, &group.domain)?;
        match group_by_name_in(tx, &group.name, &domain_id)? {
            Some(found) => ids.push(found.id),
            None => tracing::debug!(identity_provider = idp_id, "there is no group '{}'", group.name),
        }
    }
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Makes the memberships by this provider what it says now; tells whether any is new or gone.
fn memberships_in(tx: &Tx, provider: &Provider, user_id: &str, group_ids: &[String], times: Times) -> Result<bool> {
    let minutes = provider.authorization_ttl.map_or(times.authorization_ttl, |minutes| minutes.unsigned_abs());
    let granted = Timestamp::now().plus(std::time::Duration::from_secs(minutes.saturating_mul(60)));
    let end = granted.max(times.token_end);
    let mut before = tx.query(
        "SELECT group_id FROM expiring_membership WHERE user_id = ?1 AND idp_id = ?2 ORDER BY group_id",
        params![user_id, &provider.id],
        |row| row.text(0),
    )?;
    tx.execute("DELETE FROM expiring_membership WHERE user_id = ?1 AND idp_id = ?2", params![user_id, &provider.id])?;
    for group in group_ids {
        tx.execute(
            "INSERT INTO expiring_membership (user_id, group_id, idp_id, expires_at) VALUES (?1, ?2, ?3, ?4)",
            params![user_id, group, &provider.id, end],
        )?;
    }
    before.sort();
    Ok(before != group_ids)
}

/// Projects that the rules name are made when they are not there, and the user gets the roles on them.
fn projects_in(tx: &Tx, ctx: &Context, provider: &Provider, user_id: &str, user_domain: &str, mapped: &Mapped) -> Result<bool> {
    if mapped.projects.is_empty() && !mapped.projects_are_all {
        return Ok(false);
    }
    let actor = Actor::User(user_id.to_string());
    let mut wanted = Vec::new();
    for project in &mapped.projects {
        let roles = role_ids_in(tx, provider, user_domain, project)?;
        let project_id = project_in(tx, ctx, provider, project)?;
        let on = On::Project(project_id);
        wanted.extend(roles.into_iter().map(|role_id| Grant { actor: actor.clone(), on: on.clone(), role_id, inherited: false }));
    }
    let mut changed = false;
    for grant in &wanted {
        if !grants::grant_exists_in(tx, grant)? {
            grants::grant_insert_in(tx, grant)?;
            note(tx, ctx, "role_assignment.created", &grant.role_id)?;
            changed = true;
        }
    }
    if mapped.projects_are_all {
        for grant in grants::grants_on_projects_in(tx, user_id)? {
            if !wanted.contains(&grant) {
                grants::grant_remove_in(tx, &grant)?;
                note(tx, ctx, "role_assignment.deleted", &grant.role_id)?;
                changed = true;
            }
        }
        recheck_in(tx, Of::User(user_id))?;
    }
    Ok(changed)
}

/// All must be there: nothing is made of a mapping that is half wrong.
fn role_ids_in(tx: &Tx, provider: &Provider, user_domain: &str, project: &MappedProject) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for name in &project.roles {
        let sql = "SELECT id FROM identity_role WHERE name = ?1 AND (domain_id = '' OR domain_id = ?2) ORDER BY domain_id LIMIT 1";
        let found = tx.query_opt(sql, params![name, user_domain], |row| row.text(0))?;
        ids.push(found.ok_or_else(|| refuse(&provider.id, &format!("there is no role '{name}'")))?);
    }
    Ok(ids)
}

fn project_in(tx: &Tx, ctx: &Context, provider: &Provider, wanted: &MappedProject) -> Result<String> {
    let domain_id = match &wanted.domain {
        Some(domain) => domain_in(tx, &provider.id, domain)?,
        None => provider.domain_id.clone(),
    };
    if let Some(project) = projects::project_by_name_in(tx, &wanted.name, &domain_id)? {
        return Ok(project.id);
    }
    if wanted.name.trim().is_empty() || wanted.name.chars().count() > 64 || wanted.name.contains('\0') {
        return Err(refuse(&provider.id, &format!("'{}' is no name for a project", wanted.name)));
    }
    let project = Project {
        id: base::id::hex(),
        name: wanted.name.clone(),
        parent_id: domain_id.clone(),
        domain_id,
        is_domain: false,
        enabled: true,
        description: Some(String::new()),
        options: Object::new(),
        extra: Object::new(),
        tags: Vec::new(),
    };
    projects::project_insert_in(tx, &project)?;
    note(tx, ctx, "project.created", &project.id)?;
    Ok(project.id)
}

/// Whether whom a token stands for may still come by this way.
pub fn check_way_in(tx: &Tx, idp_id: &str, protocol_id: &str) -> Result<()> {
    let enabled = provider_get_in(tx, idp_id).map(|provider| provider.enabled);
    match (enabled, protocol_get_in(tx, idp_id, protocol_id)) {
        (Ok(true), Ok(_)) => Ok(()),
        (Err(e), _) | (_, Err(e)) if !e.is(base::Kind::NotFound) => Err(e),
        _ => Err(fault::unauthorized()),
    }
}

/// Forgets what a provider (or one of its protocols) said about users; those who had no other life here go.
pub fn users_remove_in(tx: &Tx, ctx: &Context, idp_id: &str, protocol_id: Option<&str>) -> Result<()> {
    let sql = "SELECT DISTINCT user_id FROM federated_user WHERE idp_id = ?1 AND (?2 = '' OR protocol_id = ?2)";
    let users = tx.query(sql, params![idp_id, protocol_id.unwrap_or_default()], |row| row.text(0))?;
    tx.execute(
        "DELETE FROM federated_user WHERE idp_id = ?1 AND (?2 = '' OR protocol_id = ?2)",
        params![idp_id, protocol_id.unwrap_or_default()],
    )?;
    if protocol_id.is_none() {
        tx.execute("DELETE FROM expiring_membership WHERE idp_id = ?1", params![idp_id])?;
    }
    for user in users {
        let sql = "SELECT 1 FROM identity_user WHERE id = ?1 AND is_shadow = 1 AND id NOT IN (SELECT user_id FROM federated_user)";
        if tx.query_opt(sql, params![&user], |_| Ok(()))?.is_some() {
            user_remove_in(tx, &user)?;
            note(tx, ctx, "user.deleted", &user)?;
        }
    }
    Ok(())
}

/// Memberships whose time is over; how many there were.
pub fn memberships_prune_in(tx: &Tx) -> Result<u64> {
    tx.execute("DELETE FROM expiring_membership WHERE expires_at < ?1", params![Timestamp::now()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_upstreams() {
        // sha256 of "default" "user" "bob", as `generate_public_ID` makes it.
        assert_eq!(public_id("default", "bob"), "9238b942d077e3178bb06a7ce8bef6aec1f389aabb9e0f957ebaeb3c4be733f8");
        assert_eq!(utf8_percent_encode("a b@c/d~e+é", UNQUOTED).to_string(), "a%20b%40c/d~e%2B%C3%A9");
    }
}
