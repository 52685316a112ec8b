//! `POST /v3/auth/tokens`: who it is, for what, and a token that says so.

use std::sync::Arc;
use std::time::Duration;

use base::{Error, Kind, Result, Timestamp};
use serde_json::{Map, Value};
use store::Tx;

use super::cache::Live;
use super::payload::{METHODS, Payload, Target};
use crate::projects::{self, project_fetch_in};
use crate::roles::roles_of_user_in;
use crate::users::User;
use crate::{Identity, fault, trusts, users};

/// What the methods have proved so far.
#[derive(Default)]
struct Proof {
    user_id: Option<String>,
    methods: u8,
    expires_at: Option<Timestamp>,
    parent_audit_id: Option<[u8; 16]>,
}

impl Proof {
    /// All methods of one request must be about one user.
    fn is(&mut self, user_id: String) -> Result<()> {
        match &self.user_id {
            Some(known) if *known != user_id => Err(fault::unauthorized()),
            _ => {
                self.user_id = Some(user_id);
                Ok(())
            }
        }
    }
}

/// The scope a request asks for.
enum Wanted {
    Default,
    Unscoped,
    Project(Lookup),
    Domain(Named),
    System,
    Trust(String),
}

/// A thing by id or by name.
#[derive(Clone)]
pub(crate) enum Named {
    Id(String),
    Name(String),
}

enum Lookup {
    Id(String),
    Name { name: String, domain: Named },
}

impl Identity {
    /// Checks `auth` (the value below that key) and makes a token.
    pub(crate) async fn token_issue(&self, auth: &Map<String, Value>) -> Result<(String, Arc<Live>)> {
        let identity = object(auth, "identity", "auth")?;
        let methods = method_names(identity)?;
        let wanted = wanted_scope(auth)?;
        let mut proof = Proof::default();
        for method in &methods {
            match *method {
                "password" => self.prove_by_password(identity, &mut proof).await?,
                "token" => self.prove_by_token(identity, &mut proof).await?,
                _ => return Err(fault::unauthorized()),
            }
        }
        let user_id = proof.user_id.take().ok_or_else(fault::unauthorized)?;
        let now = Timestamp::now();
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
        let generation = self.0.cache.generation();
        let live = self
            .0
            .store
            .read(|tx| {
                let user = users::user_fetch_in(tx, &user_id)?.ok_or_else(fault::unauthorized)?;
                check_method_rules(&user, proof.methods)?;
                let target = settle(tx, &user, wanted)?;
                let expires_at = proof.expires_at.unwrap_or_else(|| now.plus(self.token_lifetime()));
                let payload = Payload {
                    user_id: user_id.clone(),
                    methods: proof.methods,
                    expires_at: end_of(tx, &target)?.map_or(expires_at, |end| end.min(expires_at)),
                    target,
                    issued_at: now,
                    audit_id: random,
                    parent_audit_id: proof.parent_audit_id,
                };
                self.live_in(tx, payload, generation)
            })
            .await?;
        if let Some(trust) = live.trust_id() {
            self.trust_use(trust).await?;
        }
        let token = self.keys().seal(&live.payload.encode());
        let live = Arc::new(live);
        self.0.cache.put(&token, live.clone());
        Ok((token, live))
    }

    async fn prove_by_password(&self, identity: &Map<String, Value>, proof: &mut Proof) -> Result<()> {
        let user = object(object(identity, "password", "identity")?, "user", "password")?;
        let password = text(user, "password", "user")?.ok_or_else(|| fault::expecting("password", "user"))?;
        let id = text(user, "id", "user")?;
        let name = text(user, "name", "user")?;
        let by = match (id, name) {
            (_, Some(name)) => {
                let domain = named(object(user, "domain", "user")?, "domain")?;
                Lookup::Name { name, domain }
            }
            (Some(id), None) => Lookup::Id(id),
            (None, None) => return Err(fault::expecting("id or name", "user")),
        };
        let found = self.0.store.read(|tx| find_user(tx, &by)).await?;
        let stored = found.as_ref().and_then(|user| user.password_hash.clone());
        let matches = self.0.hasher.verify(password, stored).await?;
        let user = found.filter(|_| matches).ok_or_else(fault::unauthorized)?;
        proof.methods |= bit("password");
        proof.is(user.id)
    }

    async fn prove_by_token(&self, identity: &Map<String, Value>, proof: &mut Proof) -> Result<()> {
        let token = text(object(identity, "token", "identity")?, "id", "token")?.ok_or_else(|| fault::expecting("id", "token"))?;
        let live = self.token_live(&token, Duration::ZERO).await?;
        // Else whoever holds one could keep what was lent for as long as tokens last.
        if live.trust_id().is_some() {
            return Err(fault::forbidden_action("a token of a trust gives no other token; ask for one with the trust as its scope"));
        }
        proof.methods |= bit("token") | live.payload.methods;
        // A token from a token lives no longer and stays in its chain.
        proof.expires_at = Some(live.payload.expires_at);
        proof.parent_audit_id = Some(live.payload.parent_audit_id.unwrap_or(live.payload.audit_id));
        proof.is(live.payload.user_id.clone())
    }
}

fn bit(method: &str) -> u8 {
    METHODS.iter().find(|(name, _)| *name == method).map_or(0, |(_, bit)| *bit)
}

/// A user with rules for several methods must have met one of them.
fn check_method_rules(user: &User, used: u8) -> Result<()> {
    let rules = user.options.get("multi_factor_auth_rules").and_then(Value::as_array);
    let on = user.options.get("multi_factor_auth_enabled").and_then(Value::as_bool).unwrap_or(false);
    let (true, Some(rules)) = (on, rules) else { return Ok(()) };
    let mut known = rules.iter().filter_map(Value::as_array).filter_map(|rule| {
        let bits: Option<Vec<u8>> = rule.iter().map(|method| method.as_str().map(bit).filter(|bit| *bit != 0)).collect();
        bits.map(|bits| bits.iter().fold(0, |all, bit| all | bit))
    });
    // Rules that name only methods which are not served bind nobody, as upstream.
    let mut any = false;
    if known.any(|rule| {
        any = true;
        used & rule == rule
    }) || !any
    {
        return Ok(());
    }
    Err(fault::unauthorized())
}

/// The scope that the request asked for or that the user's default project gives.
fn settle(tx: &Tx, user: &User, wanted: Wanted) -> Result<Target> {
    Ok(match wanted {
        Wanted::Unscoped => Target::Unscoped,
        Wanted::System => Target::System,
        Wanted::Domain(domain) => Target::Domain(find_domain(tx, &domain)?),
        Wanted::Project(Lookup::Id(id)) => {
            let project = project_fetch_in(tx, &id)?.filter(|p| !p.is_domain).ok_or_else(fault::unauthorized)?;
            Target::Project(project.id)
        }
        Wanted::Project(Lookup::Name { name, domain }) => {
            let domain_id = find_domain(tx, &domain)?;
            Target::Project(projects::project_by_name_in(tx, &name, &domain_id)?.ok_or_else(fault::unauthorized)?.id)
        }
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
    trusts::delegation_in(tx, &id).map_err(gone)?;
    Ok(Target::Trust(id))
}

/// When what the token stands for ends by itself.
fn end_of(tx: &Tx, target: &Target) -> Result<Option<Timestamp>> {
    match target {
        Target::Trust(id) => Ok(trusts::trust_get_in(tx, id)?.expires_at),
        _ => Ok(None),
    }
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

fn find_user(tx: &Tx, by: &Lookup) -> Result<Option<User>> {
    match by {
        Lookup::Id(id) => users::user_fetch_in(tx, id),
        Lookup::Name { name, domain } => {
            let domain_id = match domain {
                Named::Id(id) => id.clone(),
                Named::Name(name) => match projects::project_by_name_in(tx, name, "")? {
                    Some(domain) => domain.id,
                    None => return Ok(None),
                },
            };
            users::user_by_name_in(tx, name, &domain_id)
        }
    }
}

fn find_domain(tx: &Tx, domain: &Named) -> Result<String> {
    let found = match domain {
        Named::Id(id) => project_fetch_in(tx, id)?,
        Named::Name(name) => projects::project_by_name_in(tx, name, "")?,
    };
    found.filter(|d| d.is_domain && d.enabled).map(|d| d.id).ok_or_else(fault::unauthorized)
}

fn method_names(identity: &Map<String, Value>) -> Result<Vec<&str>> {
    let wrong = || fault::field("identity/methods", "it is not of type 'array' of 'string'");
    let list = identity.get("methods").ok_or_else(|| fault::field("identity", "'methods' is a required property"))?;
    let mut methods: Vec<&str> = Vec::new();
    for method in list.as_array().ok_or_else(wrong)? {
        let method = method.as_str().ok_or_else(wrong)?;
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    for method in &methods {
        if !identity.contains_key(*method) {
            return Err(fault::expecting(method, "identity"));
        }
    }
    Ok(methods)
}

fn wanted_scope(auth: &Map<String, Value>) -> Result<Wanted> {
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

/// A name wins over an id, as upstream.
fn named(map: &Map<String, Value>, path: &str) -> Result<Named> {
    match (text(map, "name", path)?, text(map, "id", path)?) {
        (Some(name), _) => Ok(Named::Name(name)),
        (None, Some(id)) => Ok(Named::Id(id)),
        (None, None) => Err(fault::field(path, "id or name must be present.")),
    }
}

fn object<'a>(map: &'a Map<String, Value>, key: &str, inside: &str) -> Result<&'a Map<String, Value>> {
    match map.get(key) {
        Some(Value::Object(inner)) => Ok(inner),
        Some(_) => Err(fault::field(&format!("{inside}/{key}"), "it is not of type 'object'")),
        None => Err(fault::expecting(key, inside)),
    }
}

fn text(map: &Map<String, Value>, key: &str, inside: &str) -> Result<Option<String>> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(fault::field(&format!("{inside}/{key}"), "it is not of type 'string'")),
    }
}
