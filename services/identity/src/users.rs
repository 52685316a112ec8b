//! Users: storage and rules.

use base::{Context, Error, Kind, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::list::Ask;
use crate::token::validate::{USER, revoke_in};
use crate::wire::{Object, OptionForm};
use crate::{Identity, application_credentials, credentials, fault, note, projects, trusts, wire};

#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub name: String,
    pub domain_id: String,
    pub enabled: bool,
    pub default_project_id: Option<String>,
    pub password_hash: Option<String>,
    pub options: Object,
    pub extra: Object,
}

pub const OPTIONS: &[(&str, OptionForm)] = &[
    ("ignore_change_password_upon_first_use", OptionForm::Flag),
    ("ignore_password_expiry", OptionForm::Flag),
    ("ignore_lockout_failure_attempts", OptionForm::Flag),
    ("ignore_user_inactivity", OptionForm::Flag),
    ("lock_password", OptionForm::Flag),
    ("multi_factor_auth_enabled", OptionForm::Flag),
    ("multi_factor_auth_rules", OptionForm::Rules),
];

const COLUMNS: &str = "id, name, domain_id, enabled, default_project_id, password_hash, options, extra";

fn map(row: &Row) -> Result<User> {
    Ok(User {
        id: row.text(0)?,
        name: row.text(1)?,
        domain_id: row.text(2)?,
        enabled: row.flag(3)?,
        default_project_id: row.opt_text(4)?,
        password_hash: row.opt_text(5)?,
        options: row.json(6)?,
        extra: row.json(7)?,
    })
}

impl User {
    /// As the API shows it.
    pub fn view(&self, req: &Request) -> Value {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("name".into(), json!(self.name));
        view.insert("domain_id".into(), json!(self.domain_id));
        view.insert("enabled".into(), json!(self.enabled));
        if let Some(project) = &self.default_project_id {
            view.insert("default_project_id".into(), json!(project));
        }
        view.insert("password_expires_at".into(), Value::Null);
        view.insert("options".into(), json!(self.options));
        view.insert("links".into(), json!({ "self": format!("{}/v3/users/{}", req.base_url, self.id) }));
        Value::Object(view)
    }

    /// What policies may ask about a user.
    pub fn target(&self) -> Value {
        json!({ "id": self.id, "name": self.name, "domain_id": self.domain_id, "enabled": self.enabled })
    }
}

pub fn user_fetch_in(tx: &Tx, id: &str) -> Result<Option<User>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM identity_user WHERE id = ?1"), params![id], map)
}

pub fn user_get_in(tx: &Tx, id: &str) -> Result<User> {
    user_fetch_in(tx, id)?.ok_or_else(|| fault::not_found("user", id))
}

pub fn user_by_name_in(tx: &Tx, name: &str, domain_id: &str) -> Result<Option<User>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM identity_user WHERE domain_id = ?1 AND name = ?2"), params![domain_id, name], map)
}

pub fn user_list_in(tx: &Tx, ask: &Ask, domain_id: Option<&str>) -> Result<(Vec<User>, bool)> {
    let select = Select::new(format!("SELECT {COLUMNS} FROM identity_user")).opt_eq("domain_id", domain_id);
    ask.fetch(tx, select, "identity_user", map)
}

pub fn users_of_group_in(tx: &Tx, group_id: &str) -> Result<Vec<User>> {
    let sql = format!("SELECT {COLUMNS} FROM identity_user WHERE id IN (SELECT user_id FROM membership WHERE group_id = ?1) ORDER BY id");
    tx.query(&sql, params![group_id], map)
}

pub fn user_insert_in(tx: &Tx, user: &User) -> Result<()> {
    let inserted = tx.attempt(|tx| {
        tx.execute(
            &format!("INSERT INTO identity_user ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
            params![
                &user.id,
                &user.name,
                &user.domain_id,
                user.enabled,
                &user.default_project_id,
                &user.password_hash,
                store::Value::json(&user.options)?,
                store::Value::json(&user.extra)?
            ],
        )
    });
    inserted.map(|_| ()).map_err(|e| taken(e, &user.name))
}

fn taken(error: Error, name: &str) -> Error {
    if error.is(Kind::Exists) { fault::duplicate("user", format!("Duplicate entry found with name {name}")) } else { error }
}

fn user_store_in(tx: &Tx, user: &User) -> Result<()> {
    let updated = tx.attempt(|tx| {
        tx.execute(
            "UPDATE identity_user SET name = ?2, enabled = ?3, default_project_id = ?4, password_hash = ?5, options = ?6, extra = ?7 WHERE id = ?1",
            params![
                &user.id,
                &user.name,
                user.enabled,
                &user.default_project_id,
                &user.password_hash,
                store::Value::json(&user.options)?,
                store::Value::json(&user.extra)?
            ],
        )
    });
    updated.map(|_| ()).map_err(|e| taken(e, &user.name))
}

/// Removes the user and all that names it.
pub fn user_remove_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM assignment WHERE actor_kind = 'user' AND actor_id = ?1", params![id])?;
    tx.execute("DELETE FROM membership WHERE user_id = ?1", params![id])?;
    credentials::credentials_remove_in(tx, Some(id), None)?;
    trusts::trusts_remove_in(tx, Some(id), None)?;
    application_credentials::remove_of_user_in(tx, id)?;
    tx.execute("DELETE FROM identity_user WHERE id = ?1", params![id])?;
    Ok(())
}

/// What a request wants to set; the password already hashed.
#[derive(Debug, Default)]
pub struct UserChange {
    pub name: Option<String>,
    pub domain_id: Option<String>,
    pub enabled: Option<bool>,
    pub default_project_id: Option<Option<String>>,
    pub password: Option<Option<String>>,
    pub options: Option<Object>,
    pub extra: Object,
}

impl UserChange {
    pub fn read(mut map: Object) -> Result<UserChange> {
        let mut take = wire::Take { map: &mut map, what: "user" };
        let change = UserChange {
            name: take.name("name", 255)?,
            domain_id: take.id("domain_id")?,
            enabled: take.flag("enabled")?,
            default_project_id: take.nullable_text("default_project_id", 64)?,
            password: take.nullable_text("password", usize::MAX)?,
            options: take.options(OPTIONS)?,
            extra: Object::new(),
        };
        if let Some(federated) = map.remove("federated")
            && federated.as_array().is_none_or(|list| !list.is_empty())
        {
            return Err(fault::field("user/federated", "federation is not set up"));
        }
        if change.password.as_ref().is_some_and(|p| p.as_ref().is_some_and(|p| p.len() > 4096)) {
            return Err(Error::forbidden("The password length must be less than or equal to 4096."));
        }
        for own in ["links", "password_expires_at"] {
            map.remove(own);
        }
        Ok(UserChange { extra: map, ..change })
    }
}

fn check_default_project(tx: &Tx, id: Option<&str>) -> Result<()> {
    let Some(id) = id else { return Ok(()) };
    if projects::project_fetch_in(tx, id)?.is_some_and(|project| project.is_domain) {
        return Err(Error::invalid(format!("User's default project ID cannot be a domain ID: {id}")));
    }
    Ok(())
}

impl Identity {
    pub(crate) async fn user_create(&self, ctx: &Context, domain_id: String, change: UserChange) -> Result<User> {
        let name = change.name.ok_or_else(|| fault::field("user", "'name' is a required property"))?;
        let password_hash = match change.password.flatten() {
            Some(password) => Some(self.0.hasher.hash(password).await?),
            None => None,
        };
        let mut extra = change.extra;
        extra.remove("id");
        let mut options = Object::new();
        wire::merge(&mut options, change.options.unwrap_or_default());
        let user = User {
            id: base::id::hex(),
            name,
            domain_id,
            enabled: change.enabled.unwrap_or(true),
            default_project_id: change.default_project_id.flatten(),
            password_hash,
            options,
            extra,
        };
        let ctx = ctx.clone();
        self.add(move |tx| {
            projects::domain_get_in(tx, &user.domain_id)?;
            check_default_project(tx, user.default_project_id.as_deref())?;
            user_insert_in(tx, &user)?;
            note(tx, &ctx, "user.created", &user.id)?;
            Ok(user)
        })
        .await
    }

    pub(crate) async fn user_update(&self, ctx: &Context, id: &str, change: UserChange) -> Result<User> {
        let password_hash = match &change.password {
            Some(Some(password)) => Some(Some(self.0.hasher.hash(password.clone()).await?)),
            Some(None) => Some(None),
            None => None,
        };
        let (ctx, id, lifetime) = (ctx.clone(), id.to_string(), self.token_lifetime());
        self.change(move |tx| {
            let mut user = user_get_in(tx, &id)?;
            if change.domain_id.is_some_and(|domain| domain != user.domain_id) {
                return Err(Error::invalid("Cannot change Domain ID"));
            }
            if let Some(project) = change.default_project_id {
                check_default_project(tx, project.as_deref())?;
                user.default_project_id = project;
            }
            if let Some(name) = change.name {
                user.name = name;
            }
            let was_enabled = user.enabled;
            user.enabled = change.enabled.unwrap_or(user.enabled);
            if let Some(options) = change.options {
                wire::merge(&mut user.options, options);
            }
            user.extra.extend(change.extra);
            let disabled = was_enabled && !user.enabled;
            if disabled {
                application_credentials::remove_of_user_in(tx, &id)?;
            }
            if let Some(hash) = &password_hash {
                user.password_hash.clone_from(hash);
            }
            if disabled || password_hash.is_some() {
                revoke_in(tx, USER, &id, lifetime)?;
            }
            user_store_in(tx, &user)?;
            note(tx, &ctx, "user.updated", &id)?;
            if disabled {
                note(tx, &ctx, "user.disabled", &id)?;
            }
            Ok(user)
        })
        .await
    }

    pub(crate) async fn user_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            user_get_in(tx, &id)?;
            user_remove_in(tx, &id)?;
            note(tx, &ctx, "user.deleted", &id)
        })
        .await
    }

    /// The user's own change: whoever knows the old password may, without a token.
    pub(crate) async fn password_change(&self, ctx: &Context, id: &str, original: String, new: String) -> Result<()> {
        let found = self.0.store.read(|tx| user_fetch_in(tx, id)).await?;
        let stored = found.as_ref().and_then(|user| user.password_hash.clone());
        let user = found.filter(|user| user.enabled);
        let right = self.0.hasher.verify(original, stored.clone()).await?;
        let user = user.filter(|_| right).ok_or_else(fault::unauthorized)?;
        if user.options.get("lock_password").and_then(Value::as_bool) == Some(true) {
            return Err(Error::invalid(
                "You cannot change your password at this time due to password policy disallowing password changes. \
                 Please contact your administrator to reset your password.",
            ));
        }
        let hash = self.0.hasher.hash(new).await?;
        let (ctx, id, lifetime) = (ctx.clone(), id.to_string(), self.token_lifetime());
        self.change(move |tx| {
            let changed =
                tx.execute("UPDATE identity_user SET password_hash = ?2 WHERE id = ?1 AND password_hash = ?3", params![&id, hash, stored])?;
            if changed == 0 {
                return Err(Error::conflict("The password was changed by somebody else at the same time."));
            }
            revoke_in(tx, USER, &id, lifetime)?;
            note(tx, &ctx, "user.updated", &id)
        })
        .await
    }
}
