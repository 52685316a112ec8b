//! Users: storage and rules.

use std::net::IpAddr;
use std::time::Duration;

use base::{Context, Error, Kind, Result, Timestamp};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::federation::links::{self, Link, federated_in, links_replace_in};
use crate::list::Ask;
use crate::password_rules::PasswordRules;
use crate::token::validate::{USER, revoke_in};
use crate::wire::{Object, OptionForm};
use crate::{Identity, application_credentials, credentials, fault, ldap, note, oauth1, projects, trusts, wire};

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
    pub account: Account,
}

/// What the rules for passwords look at.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub created_at: Option<Timestamp>,
    /// By the day.
    pub last_active_at: Option<Timestamp>,
    pub password_created_at: Option<Timestamp>,
    pub password_expires_at: Option<Timestamp>,
    /// Whether the user chose the password.
    pub password_by_self: bool,
    /// Logins that failed since the last good one.
    pub failed_count: u64,
    pub failed_at: Option<Timestamp>,
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

const COLUMNS: &str = "id, name, domain_id, enabled, default_project_id, password_hash, options, extra, created_at, last_active_at, \
     password_created_at, password_expires_at, password_by_self, failed_count, failed_at";

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
        account: Account {
            created_at: row.opt_time(8)?,
            last_active_at: row.opt_time(9)?,
            password_created_at: row.opt_time(10)?,
            password_expires_at: row.opt_time(11)?,
            password_by_self: row.flag(12)?,
            failed_count: row.count(13)?,
            failed_at: row.opt_time(14)?,
        },
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
        view.insert("password_expires_at".into(), self.password_expires_at());
        view.insert("options".into(), json!(self.options));
        view.insert("links".into(), json!({ "self": format!("{}/v3/users/{}", req.base_url, self.id) }));
        Value::Object(view)
    }

    /// As [`User::view`], with how others know the user.
    pub fn view_with(&self, req: &Request, federated: Vec<Value>) -> Value {
        let mut view = self.view(req);
        if !federated.is_empty() {
            view["federated"] = Value::Array(federated);
        }
        view
    }

    /// As users and tokens show it.
    pub fn password_expires_at(&self) -> Value {
        self.account.password_expires_at.map_or(Value::Null, |end| json!(end.iso_micros()))
    }

    /// The password that holds from now on; none: no login by password.
    fn password_set(&mut self, rules: &PasswordRules, hash: Option<String>, by_self: bool) {
        let now = Timestamp::now();
        self.account.password_expires_at = if hash.is_some() { rules.expiry(self, now, by_self) } else { None };
        self.account.password_created_at = Some(now);
        self.account.password_by_self = by_self;
        self.password_hash = hash;
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
    tx.query_opt(
        &format!("SELECT {COLUMNS} FROM identity_user WHERE domain_id = ?1 AND name = ?2 AND is_shadow = 0"),
        params![domain_id, name],
        map,
    )
}

/// `known`: only those whom others know so, as conditions on `federated_user`.
pub fn user_list_in(
    tx: &Tx,
    ask: &Ask,
    domain_id: Option<&str>,
    expiry: Option<&ExpiryFilter>,
    known: &[(&str, &str)],
) -> Result<(Vec<User>, bool)> {
    let mut select = Select::new(format!("SELECT {COLUMNS} FROM identity_user")).opt_eq("domain_id", domain_id);
    if let Some(ExpiryFilter { operator, time }) = expiry {
        select = select.cond(&format!("password_expires_at {operator} ?"), [store::Value::from(*time)]);
    }
    if !known.is_empty() {
        // The columns' names come from code.
        let conditions: Vec<String> = known.iter().map(|(column, _)| format!("{column} = ?")).collect();
        let condition = format!("id IN (SELECT user_id FROM federated_user WHERE {})", conditions.join(" AND "));
        select = select.cond(&condition, known.iter().map(|(_, value)| store::Value::from(*value)));
    }
    ask.fetch(tx, select, "identity_user", map)
}

/// Those who were put into it, and those whom an identity provider told of.
pub fn users_of_group_in(tx: &Tx, group_id: &str, expiry: Option<&ExpiryFilter>) -> Result<Vec<User>> {
    let select = Select::new(format!("SELECT {COLUMNS} FROM identity_user")).cond(
        "id IN (SELECT user_id FROM membership WHERE group_id = ? UNION ALL SELECT user_id FROM expiring_membership WHERE group_id = ?)",
        [store::Value::from(group_id), store::Value::from(group_id)],
    );
    let select = match expiry {
        Some(ExpiryFilter { operator, time }) => select.cond(&format!("password_expires_at {operator} ?"), [store::Value::from(*time)]),
        None => select,
    };
    select.order(&[("id", store::Dir::Asc)]).fetch(tx, map)
}

/// Users whose password ends before, at or after a time. One that never ends is none of them.
pub struct ExpiryFilter {
    operator: &'static str,
    time: Timestamp,
}

impl ExpiryFilter {
    /// `lt:2016-12-08T22:02:00Z`, or a time alone.
    pub fn read(text: &str) -> Result<ExpiryFilter> {
        let (operator, time) = match text.split_once(':') {
            Some((operator, time)) if matches!(operator.len(), 2 | 3) => (operator, time),
            _ => ("eq", text),
        };
        let known = [("lt", "<"), ("lte", "<="), ("gt", ">"), ("gte", ">="), ("eq", "="), ("neq", "<>")];
        let operator = known.iter().find(|(name, _)| *name == operator).map(|(_, sign)| *sign).ok_or_else(|| {
            Error::invalid(format!(
                "The given operator {operator} is not valid. It must be one of the following: 'eq', 'neq', 'lt', 'lte', 'gt', or 'gte'."
            ))
        })?;
        let time = Timestamp::parse(time).ok_or_else(|| {
            Error::invalid(
                "Timestamp not in expected format. The server could not comply with the request since it is either malformed or otherwise \
                 incorrect. The client is assumed to be in error.",
            )
        })?;
        Ok(ExpiryFilter { operator, time })
    }
}

/// A login that failed. Without a user nothing is written, after the same way through the store.
fn failure_note_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("UPDATE identity_user SET failed_count = failed_count + 1, failed_at = ?2 WHERE id = ?1", params![id, Timestamp::now()])?;
    Ok(())
}

/// A login that did not.
fn success_note_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute(
        "UPDATE identity_user SET failed_count = 0, failed_at = NULL, last_active_at = ?2 WHERE id = ?1",
        params![id, Timestamp::now()],
    )?;
    Ok(())
}

/// Disables who was not seen for longer than the rules allow.
fn inactive_disable_in(tx: &Tx, ctx: &Context, rules: &PasswordRules, lifetime: Duration) -> Result<usize> {
    let now = Timestamp::now();
    let users = tx.query(&format!("SELECT {COLUMNS} FROM identity_user WHERE enabled = 1"), params![], map)?;
    let gone: Vec<User> = users.into_iter().filter(|user| rules.is_inactive(user, now)).collect();
    for user in &gone {
        tx.execute("UPDATE identity_user SET enabled = 0 WHERE id = ?1", params![&user.id])?;
        application_credentials::remove_of_user_in(tx, &user.id)?;
        revoke_in(tx, USER, &user.id, lifetime)?;
        note(tx, ctx, "user.disabled", &user.id)?;
    }
    Ok(gone.len())
}

/// Keeps a password that ends for as long as it may not come back: with the new one there are `unique` of them.
fn password_retire_in(tx: &Tx, user: &User, unique: usize) -> Result<()> {
    if let Some(hash) = user.password_hash.as_ref().filter(|_| unique > 1) {
        tx.execute(
            "INSERT INTO password_history (user_id, ended_at, password_hash) VALUES (?1, ?2, ?3)",
            params![&user.id, Timestamp::now(), hash],
        )?;
    }
    let keep = i64::try_from(unique.saturating_sub(1)).unwrap_or(i64::MAX);
    tx.execute(
        "DELETE FROM password_history WHERE user_id = ?1 AND ended_at NOT IN \
         (SELECT ended_at FROM password_history WHERE user_id = ?1 ORDER BY ended_at DESC LIMIT ?2)",
        params![&user.id, keep],
    )?;
    Ok(())
}

/// Lets a user in again, by the new password alone.
pub fn user_reset_in(tx: &Tx, rules: &PasswordRules, mut user: User, hash: Option<String>) -> Result<()> {
    password_retire_in(tx, &user, rules.unique_last_password_count)?;
    user.enabled = true;
    user.options.retain(|name, _| !name.starts_with("multi_factor_auth_"));
    user.account = Account { failed_count: 0, failed_at: None, last_active_at: Some(Timestamp::now()), ..user.account };
    user.password_set(rules, hash, true);
    user_store_in(tx, &user)
}

/// Latest first.
fn password_history_in(tx: &Tx, id: &str) -> Result<Vec<String>> {
    tx.query("SELECT password_hash FROM password_history WHERE user_id = ?1 ORDER BY ended_at DESC", params![id], |row| row.text(0))
}

pub fn user_insert_in(tx: &Tx, user: &User) -> Result<()> {
    let inserted = tx.attempt(|tx| {
        tx.execute(
            &format!("INSERT INTO identity_user ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"),
            params![
                &user.id,
                &user.name,
                &user.domain_id,
                user.enabled,
                &user.default_project_id,
                &user.password_hash,
                store::Value::json(&user.options)?,
                store::Value::json(&user.extra)?,
                user.account.created_at.unwrap_or_else(Timestamp::now),
                user.account.last_active_at,
                user.account.password_created_at,
                user.account.password_expires_at,
                user.account.password_by_self,
                i64::try_from(user.account.failed_count).unwrap_or(i64::MAX),
                user.account.failed_at
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
            "UPDATE identity_user SET name = ?2, enabled = ?3, default_project_id = ?4, password_hash = ?5, options = ?6, extra = ?7, \
             last_active_at = ?8, password_created_at = ?9, password_expires_at = ?10, password_by_self = ?11, failed_count = ?12, failed_at = ?13 \
             WHERE id = ?1",
            params![
                &user.id,
                &user.name,
                user.enabled,
                &user.default_project_id,
                &user.password_hash,
                store::Value::json(&user.options)?,
                store::Value::json(&user.extra)?,
                user.account.last_active_at,
                user.account.password_created_at,
                user.account.password_expires_at,
                user.account.password_by_self,
                i64::try_from(user.account.failed_count).unwrap_or(i64::MAX),
                user.account.failed_at
            ],
        )
    });
    updated.map(|_| ()).map_err(|e| taken(e, &user.name))
}

/// Removes the user and all that names it.
pub fn user_remove_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM assignment WHERE actor_kind = 'user' AND actor_id = ?1", params![id])?;
    tx.execute("DELETE FROM membership WHERE user_id = ?1", params![id])?;
    tx.execute("DELETE FROM expiring_membership WHERE user_id = ?1", params![id])?;
    tx.execute("DELETE FROM federated_user WHERE user_id = ?1", params![id])?;
    credentials::credentials_remove_in(tx, Some(id), None)?;
    trusts::trusts_remove_in(tx, Some(id), None)?;
    oauth1::tokens_remove_in(tx, Some(id), None, None)?;
    application_credentials::remove_of_user_in(tx, id)?;
    tx.execute("DELETE FROM password_history WHERE user_id = ?1", params![id])?;
    ldap::forget_in(tx, id)?;
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
    /// By what names others know the user; empty: as before.
    pub federated: Vec<Link>,
    /// Whether the caller may speak for identity providers of any domain, and not only for those of the user's.
    pub links_anywhere: bool,
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
            federated: Vec::new(),
            links_anywhere: false,
            extra: Object::new(),
        };
        let federated = map.remove("federated").map(|value| links::read(&value)).transpose()?.unwrap_or_default();
        if change.password.as_ref().is_some_and(|p| p.as_ref().is_some_and(|p| p.len() > 4096)) {
            return Err(Error::forbidden("The password length must be less than or equal to 4096."));
        }
        for own in ["links", "password_expires_at"] {
            map.remove(own);
        }
        Ok(UserChange { extra: map, federated, ..change })
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
    /// The hash of a new password that is strong enough.
    async fn password_hash(&self, password: Option<String>) -> Result<Option<String>> {
        self.0.password_rules.check_strength(password.as_deref().unwrap_or_default())?;
        match password {
            Some(password) => Ok(Some(self.0.hasher.hash(password).await?)),
            None => Ok(None),
        }
    }

    /// The user, and how others know it.
    pub(crate) async fn user_create(&self, ctx: &Context, domain_id: String, change: UserChange) -> Result<(User, Vec<Value>)> {
        let name = change.name.ok_or_else(|| fault::field("user", "'name' is a required property"))?;
        let password_hash = match change.password {
            Some(password) => self.password_hash(password).await?,
            None => None,
        };
        let mut extra = change.extra;
        extra.remove("id");
        let mut options = Object::new();
        wire::merge(&mut options, change.options.unwrap_or_default());
        let mut user = User {
            id: base::id::hex(),
            name,
            domain_id,
            enabled: change.enabled.unwrap_or(true),
            default_project_id: change.default_project_id.flatten(),
            password_hash: None,
            options,
            extra,
            account: Account { created_at: Some(Timestamp::now()), ..Account::default() },
        };
        if password_hash.is_some() {
            user.password_set(&self.0.password_rules, password_hash, false);
        }
        let ctx = ctx.clone();
        self.add(move |tx| {
            projects::domain_get_in(tx, &user.domain_id)?;
            check_default_project(tx, user.default_project_id.as_deref())?;
            user_insert_in(tx, &user)?;
            let only_of = (!change.links_anywhere).then_some(user.domain_id.as_str());
            links_replace_in(tx, &user.id, &change.federated, only_of)?;
            note(tx, &ctx, "user.created", &user.id)?;
            let federated = federated_in(tx, &user.id)?;
            Ok((user, federated))
        })
        .await
    }

    /// The user, and how others know it.
    pub(crate) async fn user_update(&self, ctx: &Context, id: &str, change: UserChange) -> Result<(User, Vec<Value>)> {
        let password_hash = match change.password {
            Some(password) => Some(self.password_hash(password).await?),
            None => None,
        };
        let (ctx, id, lifetime, identity) = (ctx.clone(), id.to_string(), self.token_lifetime(), self.clone());
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
            if change.enabled == Some(true) {
                // Whoever enables an account forgives what locked it.
                user.account = Account { failed_count: 0, failed_at: None, last_active_at: Some(Timestamp::now()), ..user.account };
            }
            if disabled || password_hash.is_some() {
                revoke_in(tx, USER, &id, lifetime)?;
            }
            if let Some(hash) = password_hash {
                let rules = &identity.0.password_rules;
                password_retire_in(tx, &user, rules.unique_last_password_count)?;
                user.password_set(rules, hash, false);
            }
            user_store_in(tx, &user)?;
            if !change.federated.is_empty() {
                let only_of = (!change.links_anywhere).then_some(user.domain_id.as_str());
                links_replace_in(tx, &id, &change.federated, only_of)?;
            }
            note(tx, &ctx, "user.updated", &id)?;
            if disabled {
                note(tx, &ctx, "user.disabled", &id)?;
            }
            let federated = federated_in(tx, &id)?;
            Ok((user, federated))
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

    /// The user whom a password is of. Why it is of nobody is not told, and takes the same work whatever the reason: not even that an
    /// account is locked can be seen from outside (CVE-2021-38155). `from`: the address, where it is known.
    pub(crate) async fn password_check(&self, found: Option<User>, asked: &str, password: String, from: Option<IpAddr>) -> Result<User> {
        let rules = &self.0.password_rules;
        self.0.attempts.check(from, asked)?;
        let stored = found.as_ref().and_then(|user| user.password_hash.clone());
        let matches = self.0.hasher.verify(password, stored).await?;
        let now = Timestamp::now();
        let locked = found.as_ref().is_some_and(|user| rules.is_locked(user, now));
        if !matches || locked {
            self.0.attempts.failed(from, asked);
            // A locked account does not count on: else whoever knows its name could keep it locked.
            let counted = found.filter(|user| !locked && rules.counts_failures(user)).map(|user| user.id).unwrap_or_default();
            if rules.counts() {
                self.add(move |tx| failure_note_in(tx, &counted)).await?;
            }
            return Err(fault::unauthorized());
        }
        let user = found.filter(|user| user.enabled && !rules.is_inactive(user, now)).ok_or_else(fault::unauthorized)?;
        if user.account.failed_count > 0 || rules.is_new_day(&user, now) {
            let id = user.id.clone();
            self.add(move |tx| success_note_in(tx, &id)).await?;
        }
        Ok(user)
    }

    /// Disables who was not seen for too long, where there is a rule for that.
    pub async fn inactive_users_disable(&self) -> Result<()> {
        let (identity, ctx) = (self.clone(), Context::system("identity"));
        if !self.0.password_rules.minds_inactivity() {
            return Ok(());
        }
        let disable = move |tx: &Tx| inactive_disable_in(tx, &ctx, &identity.0.password_rules, identity.token_lifetime());
        let count = self.change(disable).await?;
        if count > 0 {
            tracing::info!("{count} users were not seen for too long and are disabled");
        }
        Ok(())
    }

    /// The user's own change: whoever knows the old password may, without a token, also when it has ended.
    pub(crate) async fn password_change(&self, ctx: &Context, id: &str, original: String, new: String, from: Option<IpAddr>) -> Result<()> {
        let rules = &self.0.password_rules;
        let (found, history) = self.0.store.read(|tx| Ok((user_fetch_in(tx, id)?, password_history_in(tx, id)?))).await?;
        let user = self.password_check(found, id, original, from).await?;
        if user.has("lock_password") {
            return Err(Error::invalid("This user's password is changed by an administrator only (lock_password)."));
        }
        rules.check_strength(&new)?;
        rules.check_age(&user, Timestamp::now())?;
        let before = user.password_hash.iter().chain(&history);
        for hash in before.take(rules.unique_last_password_count) {
            if self.0.hasher.verify(new.clone(), Some(hash.clone())).await? {
                return Err(rules.repeated());
            }
        }
        let hash = self.0.hasher.hash(new).await?;
        let (ctx, id, lifetime, identity, stored) = (ctx.clone(), id.to_string(), self.token_lifetime(), self.clone(), user.password_hash);
        self.change(move |tx| {
            let mut user = user_get_in(tx, &id)?;
            if user.password_hash != stored {
                return Err(Error::conflict("The password was changed by somebody else at the same time."));
            }
            let rules = &identity.0.password_rules;
            password_retire_in(tx, &user, rules.unique_last_password_count)?;
            user.password_set(rules, Some(hash), true);
            user_store_in(tx, &user)?;
            revoke_in(tx, USER, &id, lifetime)?;
            note(tx, &ctx, "user.updated", &id)
        })
        .await
    }
}
