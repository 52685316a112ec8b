//! The scope of a token: what a request asks for, and what that is.

use base::{Error, Kind, Result};
use serde_json::{Map, Value};
use store::Tx;

use super::form::{Lookup, Named, find_domain, named, object, text};
use crate::projects::{self, project_fetch_in};
use crate::roles::roles_of_user_in;
use crate::token::payload::Target;
use crate::users::User;
use crate::{fault, trusts};

/// The scope a request asks for.
pub(super) enum Wanted {
    Default,
    Unscoped,
    Project(Lookup),
    Domain(Named),
    System,
    Trust(String),
}

pub(super) fn wanted(auth: &Map<String, Value>) -> Result<Wanted> {
    let scope = match auth.get("scope") {
        None => return Ok(Wanted::Default),
        Some(Value::String(word)) if word == "unscoped" => return Ok(Wanted::Unscoped),
        Some(Value::Object(scope)) => scope,
        Some(Value::String(_)) => return Err(fault::expecting("system, project, domain, OS-TRUST:trust or unscoped", "scope")),
        Some(_) => return Err(fault::field("scope", "it is not of type 'object', 'string'")),
    };
    const KINDS: [&str; 5] = ["system", "project", "domain", "OS-TRUST:trust", "unscoped"];
    let mut kinds = KINDS.into_iter().filter(|kind| scope.contains_key(*kind));
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return Err(fault::expecting("system, project, domain, OS-TRUST:trust or unscoped", "scope"));
    };
    match kind {
        "unscoped" => Ok(Wanted::Unscoped),
        "system" => {
            object(scope, "system", "scope")?;
            Ok(Wanted::System)
        }
        "domain" => Ok(Wanted::Domain(named(object(scope, "domain", "scope")?, "scope/domain")?)),
        "project" => {
            let project = object(scope, "project", "scope")?;
            match named(project, "scope/project")? {
                Named::Id(id) => Ok(Wanted::Project(Lookup::Id(id))),
                Named::Name(name) => {
                    let domain = named(object(project, "domain", "project")?, "scope/project/domain")?;
                    Ok(Wanted::Project(Lookup::Name { name, domain }))
                }
            }
        }
        _ => {
            let id = text(object(scope, kind, "scope")?, "id", "scope/OS-TRUST:trust")?.filter(|id| !id.is_empty());
            Ok(Wanted::Trust(id.ok_or_else(|| fault::expecting("trust_id", "trust"))?))
        }
    }
}

/// The project or the domain that a request names; `Unauthenticated` when it is not there.
pub(super) fn place_in(tx: &Tx, wanted: Wanted) -> Result<Target> {
    Ok(match wanted {
        Wanted::Domain(domain) => Target::Domain(find_domain(tx, &domain)?),
        Wanted::Project(Lookup::Id(id)) => {
            let project = project_fetch_in(tx, &id)?.filter(|p| !p.is_domain).ok_or_else(fault::unauthorized)?;
            Target::Project(project.id)
        }
        Wanted::Project(Lookup::Name { name, domain }) => {
            let domain_id = find_domain(tx, &domain)?;
            Target::Project(projects::project_by_name_in(tx, &name, &domain_id)?.ok_or_else(fault::unauthorized)?.id)
        }
        _ => return Err(fault::unauthorized()),
    })
}

/// The scope that the request asked for or that the user's default project gives.
pub(super) fn settle(tx: &Tx, user: &User, wanted: Wanted) -> Result<Target> {
    Ok(match wanted {
        Wanted::Unscoped => Target::Unscoped,
        Wanted::System => Target::System,
        Wanted::Domain(_) | Wanted::Project(_) => place_in(tx, wanted)?,
        Wanted::Trust(id) => trust_target(tx, user, id)?,
        Wanted::Default => match &user.default_project_id {
            Some(id) => default_target(tx, user, id)?,
            None => Target::Unscoped,
        },
    })
}

/// Why a trust does not hold is told, but not whether there is one.
fn trust_target(tx: &Tx, user: &User, id: String) -> Result<Target> {
    let gone = |e: Error| if e.is(Kind::NotFound) { fault::unauthorized() } else { e };
    let trust = trusts::trust_usable_in(tx, &id).map_err(gone)?;
    if trust.trustee_user_id != user.id {
        return Err(Error::forbidden("User is not a trustee."));
    }
    // Who is disabled hears as little as with any other scope.
    if !user.enabled {
        return Err(fault::unauthorized());
    }
    let project_id = trusts::delegation_in(tx, &id).map_err(gone)?.project.id;
    Ok(Target::Trust { id, project_id })
}

/// A default project that is gone, disabled or closed to the user does not stop the login.
fn default_target(tx: &Tx, user: &User, project_id: &str) -> Result<Target> {
    let Some(project) = project_fetch_in(tx, project_id)?.filter(|p| p.enabled && !p.is_domain) else { return Ok(Target::Unscoped) };
    if !project_fetch_in(tx, &project.domain_id)?.is_some_and(|domain| domain.enabled) {
        return Ok(Target::Unscoped);
    }
    let target = Target::Project(project.id.clone());
    let roles = roles_of_user_in(tx, &user.id, &target, Some(&project))?;
    Ok(if roles.is_empty() { Target::Unscoped } else { target })
}
