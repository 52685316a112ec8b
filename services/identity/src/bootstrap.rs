//! What every cloud starts with, and the catalogue of this one.

use std::collections::HashMap;

use base::{Context, Error, Result};
use serde_json::{Value, json};
use store::{Tx, params};

use crate::catalogue::{self, Endpoint, INTERFACES, Region, Service};
use crate::grants::{Actor, Grant, On, grant_insert_in};
use crate::projects::{self, Project};
use crate::roles::{self, Role};
use crate::users::{self, Account, User};
use crate::wire::Object;
use crate::{Identity, note};

/// A service of this cloud, as the catalogue shows it.
#[derive(Clone, Debug)]
pub struct CatalogueEntry {
    /// Service type: `compute`.
    pub kind: String,
    /// `nova`
    pub name: String,
    pub description: String,
    /// The whole URL; may contain `{project_id}`.
    pub url_template: String,
}

pub const DEFAULT_DOMAIN: &str = "default";
/// Each implies the next.
const LADDER: [&str; 4] = ["admin", "manager", "member", "reader"];
const OTHER_ROLES: [&str; 1] = ["service"];

fn object(value: Value) -> Object {
    match value {
        Value::Object(map) => map,
        _ => Object::new(),
    }
}

impl Identity {
    /// Makes what a new cloud needs: the default domain, the projects `admin` and `service`, the roles, the user `admin`,
    /// the region. What is there stays as it is, the password too.
    pub async fn bootstrap(&self, admin_password: &str) -> Result<()> {
        let region = self.0.config.text("region").to_string();
        let (admin, ready) = self
            .0
            .store
            .read(|tx| {
                let admin = users::user_by_name_in(tx, "admin", DEFAULT_DOMAIN)?.is_some();
                Ok((admin, admin && is_whole(tx, &region)?))
            })
            .await?;
        if ready {
            return Ok(());
        }
        let hash = if admin { None } else { Some(self.0.hasher.hash(admin_password.to_string()).await?) };
        self.change(move |tx| bootstrap_in(tx, hash, &region)).await
    }

    /// Brings the catalogue in line with the services of this program. Services of others in it stay.
    pub async fn catalogue_set(&self, entries: Vec<CatalogueEntry>) -> Result<()> {
        let region = self.0.config.text("region").to_string();
        let (wanted, there) = (entries.clone(), region.clone());
        if self.0.store.read(|tx| is_in_line(tx, &wanted, &there)).await? {
            return Ok(());
        }
        self.change(move |tx| {
            if catalogue::region_fetch_in(tx, &region)?.is_none() {
                let fresh = Region { id: region.clone(), parent_region_id: None, description: String::new(), extra: Object::new() };
                catalogue::region_insert_in(tx, &fresh)?;
            }
            for entry in &entries {
                entry_set_in(tx, entry, &region)?;
            }
            Ok(())
        })
        .await
    }
}

/// Of the roles of no domain, by name.
pub fn role_ids(tx: &Tx) -> Result<HashMap<String, String>> {
    let rows = tx.query("SELECT name, id FROM identity_role WHERE domain_id = ''", params![], |row| Ok((row.text(0)?, row.text(1)?)))?;
    Ok(rows.into_iter().collect())
}

fn is_whole(tx: &Tx, region: &str) -> Result<bool> {
    let roles = role_ids(tx)?;
    let has_roles = LADDER.iter().chain(&OTHER_ROLES).all(|name| roles.contains_key(*name));
    let projects = ["admin", "service"]
        .iter()
        .try_fold(true, |all, name| -> Result<bool> { Ok(all && projects::project_by_name_in(tx, name, DEFAULT_DOMAIN)?.is_some()) })?;
    Ok(has_roles && projects && catalogue::region_fetch_in(tx, region)?.is_some())
}

/// What is not there; the user `admin` only with the hash of a password.
pub fn bootstrap_in(tx: &Tx, admin_hash: Option<String>, region: &str) -> Result<()> {
    let ctx = Context::system("bootstrap");
    if projects::project_fetch_in(tx, DEFAULT_DOMAIN)?.is_none() {
        let domain = project(DEFAULT_DOMAIN.into(), "Default", "", "The default domain.");
        projects::project_insert_in(tx, &domain)?;
        note(tx, &ctx, "domain.created", DEFAULT_DOMAIN)?;
    }
    for (name, description) in [("admin", "The cloud's administrators."), ("service", "The cloud's own services.")] {
        if projects::project_by_name_in(tx, name, DEFAULT_DOMAIN)?.is_none() {
            let new = project(base::id::hex(), name, DEFAULT_DOMAIN, description);
            projects::project_insert_in(tx, &new)?;
            note(tx, &ctx, "project.created", &new.id)?;
        }
    }
    let mut roles = role_ids(tx)?;
    for name in LADDER.iter().chain(&OTHER_ROLES) {
        if !roles.contains_key(*name) {
            let role = Role {
                id: base::id::hex(),
                name: name.to_string(),
                domain_id: String::new(),
                description: None,
                options: object(json!({ "immutable": true })),
                extra: Object::new(),
            };
            roles::role_insert_in(tx, &role)?;
            note(tx, &ctx, "role.created", &role.id)?;
            roles.insert(role.name, role.id);
        }
    }
    let role = |name: &str| roles.get(name).cloned().ok_or_else(|| Error::internal(format!("no role {name}")));
    for pair in LADDER.windows(2) {
        roles::imply_in(tx, &role(pair[0])?, &role(pair[1])?)?;
    }
    if let Some(hash) = admin_hash
        && users::user_by_name_in(tx, "admin", DEFAULT_DOMAIN)?.is_none()
    {
        let admin = User {
            id: base::id::hex(),
            name: "admin".into(),
            domain_id: DEFAULT_DOMAIN.into(),
            enabled: true,
            default_project_id: None,
            password_hash: Some(hash),
            options: Object::new(),
            extra: Object::new(),
            account: Account::default(),
        };
        users::user_insert_in(tx, &admin)?;
        note(tx, &ctx, "user.created", &admin.id)?;
        let project = projects::project_by_name_in(tx, "admin", DEFAULT_DOMAIN)?.ok_or_else(|| Error::internal("no project admin"))?;
        for on in [On::Project(project.id), On::System] {
            grant_insert_in(tx, &Grant { actor: Actor::User(admin.id.clone()), on, role_id: role("admin")?, inherited: false })?;
        }
    }
    if catalogue::region_fetch_in(tx, region)?.is_none() {
        let fresh = Region { id: region.into(), parent_region_id: None, description: String::new(), extra: Object::new() };
        catalogue::region_insert_in(tx, &fresh)?;
    }
    Ok(())
}

/// A domain when `domain_id` is empty.
fn project(id: String, name: &str, domain_id: &str, description: &str) -> Project {
    Project {
        id,
        name: name.into(),
        domain_id: domain_id.into(),
        parent_id: domain_id.into(),
        is_domain: domain_id.is_empty(),
        enabled: true,
        description: Some(description.into()),
        options: Object::new(),
        extra: Object::new(),
        tags: Vec::new(),
    }
}

fn stored_url(entry: &CatalogueEntry) -> String {
    entry.url_template.replace("{project_id}", "%(project_id)s")
}

fn service_id(tx: &Tx, entry: &CatalogueEntry) -> Result<Option<String>> {
    tx.query_opt(
        "SELECT id FROM catalogue_service WHERE type = ?1 AND name = ?2 ORDER BY id LIMIT 1",
        params![&entry.kind, &entry.name],
        |row| row.text(0),
    )
}

fn stored_urls(tx: &Tx, service_id: &str, region: &str) -> Result<HashMap<String, (String, String)>> {
    let rows = tx.query(
        "SELECT interface, id, url FROM catalogue_endpoint WHERE service_id = ?1 AND region_id = ?2",
        params![service_id, region],
        |row| Ok((row.text(0)?, (row.text(1)?, row.text(2)?))),
    )?;
    Ok(rows.into_iter().collect())
}

fn is_in_line(tx: &Tx, entries: &[CatalogueEntry], region: &str) -> Result<bool> {
    for entry in entries {
        let Some(id) = service_id(tx, entry)? else { return Ok(false) };
        let urls = stored_urls(tx, &id, region)?;
        let wanted = stored_url(entry);
        if INTERFACES.iter().any(|interface| urls.get(*interface).is_none_or(|(_, url)| *url != wanted)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn entry_set_in(tx: &Tx, entry: &CatalogueEntry, region: &str) -> Result<()> {
    let ctx = Context::system("bootstrap");
    let id = match service_id(tx, entry)? {
        Some(id) => id,
        None => {
            let service = Service {
                id: base::id::hex(),
                kind: entry.kind.clone(),
                name: entry.name.clone(),
                enabled: true,
                extra: object(json!({ "description": entry.description })),
            };
            catalogue::service_insert_in(tx, &service)?;
            note(tx, &ctx, "service.created", &service.id)?;
            service.id
        }
    };
    let urls = stored_urls(tx, &id, region)?;
    let wanted = stored_url(entry);
    for interface in INTERFACES {
        match urls.get(interface) {
            Some((_, url)) if *url == wanted => {}
            Some((endpoint, _)) => {
                tx.execute("UPDATE catalogue_endpoint SET url = ?2 WHERE id = ?1", params![endpoint, &wanted])?;
                note(tx, &ctx, "endpoint.updated", endpoint)?;
            }
            None => {
                let endpoint = Endpoint {
                    id: base::id::hex(),
                    service_id: id.clone(),
                    interface: interface.into(),
                    region_id: Some(region.into()),
                    url: wanted.clone(),
                    enabled: true,
                    extra: Object::new(),
                };
                catalogue::endpoint_insert_in(tx, &endpoint)?;
                note(tx, &ctx, "endpoint.created", &endpoint.id)?;
            }
        }
    }
    Ok(())
}
