//! OAuth 1.0a (`OS-OAUTH1`): a user lets a consumer, which is a program that the cloud knows by a key, act on a project with some of the
//! own roles. The consumer asks for a request token, the user authorizes it, and the consumer gets an access token for it, by which it
//! gets tokens.

pub mod signature;

use std::time::Duration;

use base::{Context, Error, Result, Timestamp};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::list::Ask;
use crate::projects::{Project, project_get_in};
use crate::roles::{self, RoleRef, role_ids_of_user_in};
use crate::token::payload::Target;
use crate::token::ring::Ring;
use crate::trusts::{RoleName, resolved_in};
use crate::wire::{self, Object};
use crate::{Identity, fault, note};

use signature::{SignedRequest, WINDOW};

/// keystone's `oauth1.request_token_duration` and `oauth1.access_token_duration`.
const REQUEST_LASTS: Duration = Duration::from_secs(8 * 3600);
const ACCESS_LASTS: Duration = Duration::from_secs(24 * 3600);

pub struct Consumer {
    pub id: String,
    pub description: Option<String>,
    pub secret: String,
    pub extra: Object,
}

struct RequestToken {
    id: String,
    consumer_id: String,
    project_id: String,
    secret: String,
    expires_at: Timestamp,
    verifier: Option<String>,
    user_id: Option<String>,
    roles: Option<Vec<String>>,
}

#[derive(Clone)]
pub struct AccessToken {
    pub id: String,
    pub consumer_id: String,
    pub project_id: String,
    secret: String,
    pub expires_at: Timestamp,
    pub user_id: String,
    /// Ids, as they were authorized.
    pub roles: Vec<String>,
}

const CONSUMER: &str = "id, description, sealed, extra";
const REQUEST: &str = "id, consumer_id, project_id, sealed, expires_at, verifier, user_id, roles";
const ACCESS: &str = "id, consumer_id, project_id, sealed, expires_at, user_id, roles";

fn open(keys: &Ring, sealed: &str) -> Result<String> {
    let opened = keys.open_text(sealed).and_then(|bytes| String::from_utf8(bytes).ok());
    opened.ok_or_else(|| Error::internal("no key in keys/credential opens a stored secret"))
}

fn consumer(keys: &Ring, row: &Row) -> Result<Consumer> {
    Ok(Consumer { id: row.text(0)?, description: row.opt_text(1)?, secret: open(keys, &row.text(2)?)?, extra: row.json(3)? })
}

fn request_token(keys: &Ring, row: &Row) -> Result<RequestToken> {
    let roles = row.opt_text(7)?.map(|text| serde_json::from_str(&text)).transpose();
    Ok(RequestToken {
        id: row.text(0)?,
        consumer_id: row.text(1)?,
        project_id: row.text(2)?,
        secret: open(keys, &row.text(3)?)?,
        expires_at: row.time(4)?,
        verifier: row.opt_text(5)?,
        user_id: row.opt_text(6)?,
        roles: roles.map_err(|e| Error::internal("the roles of a request token").caused_by(e))?,
    })
}

fn access_token(keys: &Ring, row: &Row) -> Result<AccessToken> {
    Ok(AccessToken {
        id: row.text(0)?,
        consumer_id: row.text(1)?,
        project_id: row.text(2)?,
        secret: open(keys, &row.text(3)?)?,
        expires_at: row.time(4)?,
        user_id: row.text(5)?,
        roles: row.json(6)?,
    })
}

impl Consumer {
    /// With its secret only when it is new.
    pub fn view(&self, req: &Request, with_secret: bool) -> Value {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("description".into(), json!(self.description));
        if with_secret {
            view.insert("secret".into(), json!(self.secret));
        }
        view.insert("links".into(), json!({ "self": format!("{}/v3/OS-OAUTH1/consumers/{}", req.base_url, self.id) }));
        Value::Object(view)
    }
}

impl AccessToken {
    pub fn view(&self, req: &Request) -> Value {
        let link = format!("{}/v3/users/{}/OS-OAUTH1/access_tokens/{}", req.base_url, self.user_id, self.id);
        json!({
            "id": self.id,
            "consumer_id": self.consumer_id,
            "project_id": self.project_id,
            "authorizing_user_id": self.user_id,
            "expires_at": self.expires_at.iso_micros_z(),
            "links": { "self": link, "roles": format!("{link}/roles") },
        })
    }

    pub fn has_ended(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }

    /// Implied ones included; `Unauthenticated` when the user has lost one.
    pub fn roles_in(&self, tx: &Tx, project: &Project) -> Result<Vec<RoleRef>> {
        let has = role_ids_of_user_in(tx, &self.user_id, &Target::Project(project.id.clone()), Some(project))?;
        let given = roles::close(self.roles.iter().cloned(), &roles::implications_in(tx)?);
        if !given.is_subset(&has) {
            return Err(fault::unauthorized());
        }
        roles::role_refs_in(tx, &given)
    }
}

fn consumer_in(tx: &Tx, keys: &Ring, id: &str) -> Result<Option<Consumer>> {
    tx.query_opt(&format!("SELECT {CONSUMER} FROM oauth1_consumer WHERE id = ?1"), params![id], |row| consumer(keys, row))
}

fn request_token_in(tx: &Tx, keys: &Ring, id: &str) -> Result<Option<RequestToken>> {
    tx.query_opt(&format!("SELECT {REQUEST} FROM oauth1_request_token WHERE id = ?1"), params![id], |row| request_token(keys, row))
}

pub fn access_token_in(tx: &Tx, keys: &Ring, id: &str) -> Result<Option<AccessToken>> {
    tx.query_opt(&format!("SELECT {ACCESS} FROM oauth1_access_token WHERE id = ?1"), params![id], |row| access_token(keys, row))
}

/// Those of a user, a project, or a consumer that goes.
pub fn tokens_remove_in(tx: &Tx, user_id: Option<&str>, project_id: Option<&str>, consumer_id: Option<&str>) -> Result<()> {
    for table in ["oauth1_request_token", "oauth1_access_token"] {
        let sql = format!("DELETE FROM {table} WHERE user_id = ?1 OR project_id = ?2 OR consumer_id = ?3");
        tx.execute(&sql, params![user_id, project_id, consumer_id])?;
    }
    Ok(())
}

/// Forgets what is over.
pub fn prune_in(tx: &Tx) -> Result<()> {
    let now = Timestamp::now();
    for table in ["oauth1_request_token", "oauth1_access_token"] {
        tx.execute(&format!("DELETE FROM {table} WHERE expires_at < ?1"), params![now])?;
    }
    // Of an older time no signature counts.
    tx.execute("DELETE FROM oauth1_nonce WHERE signed_at < ?1", params![now.micros() / 1_000_000 - 2 * WINDOW])?;
    Ok(())
}

/// What a request wants of a consumer.
pub struct ConsumerWanted {
    pub description: Option<Option<String>>,
    pub extra: Object,
}

impl ConsumerWanted {
    pub fn read(mut map: Object) -> Result<ConsumerWanted> {
        let description = wire::Take { map: &mut map, what: "consumer" }.nullable_text("description", 64)?;
        for own in ["id", "links"] {
            map.remove(own);
        }
        Ok(ConsumerWanted { description, extra: map })
    }
}

/// A signature counts once.
fn once_in(tx: &Tx, consumer_id: &str, token_id: &str, moment: (i64, &str)) -> Result<()> {
    let new = tx.execute(
        "INSERT INTO oauth1_nonce (consumer_id, token_id, nonce, signed_at) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (consumer_id, token_id, nonce, signed_at) DO NOTHING",
        params![consumer_id, token_id, moment.1, moment.0],
    )?;
    if new == 0 { Err(Error::unauthenticated("The signature was used before")) } else { Ok(()) }
}

/// Eight letters and digits, for people to carry over.
fn verifier() -> Result<String> {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut out = String::new();
    while out.len() < 8 {
        let mut byte = [0];
        getrandom::fill(&mut byte).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
        // Bytes beyond the last whole multiple would favour the first letters.
        if usize::from(byte[0]) < 256 / LETTERS.len() * LETTERS.len() {
            out.push(char::from(LETTERS[usize::from(byte[0]) % LETTERS.len()]));
        }
    }
    Ok(out)
}

impl Identity {
    fn secret_keys(&self) -> &Ring {
        &self.0.credential_keys
    }

    pub(crate) async fn consumer_list(&self, ask: &Ask) -> Result<(Vec<Consumer>, bool)> {
        let keys = self.secret_keys();
        let select = Select::new(format!("SELECT {CONSUMER} FROM oauth1_consumer"));
        self.0.store.read(|tx| ask.fetch(tx, select, "oauth1_consumer", |row| consumer(keys, row))).await
    }

    pub(crate) async fn consumer_fetch(&self, id: &str) -> Result<Consumer> {
        let found = self.0.store.read(|tx| consumer_in(tx, self.secret_keys(), id)).await?;
        found.ok_or_else(|| fault::not_found("consumer", id))
    }

    pub(crate) async fn consumer_create(&self, ctx: &Context, wanted: ConsumerWanted) -> Result<Consumer> {
        let new = Consumer { id: base::id::hex(), description: wanted.description.flatten(), secret: base::id::hex(), extra: wanted.extra };
        let (ctx, sealed) = (ctx.clone(), self.secret_keys().seal_text(new.secret.as_bytes()));
        self.add(move |tx| {
            tx.execute(
                &format!("INSERT INTO oauth1_consumer ({CONSUMER}) VALUES (?1, ?2, ?3, ?4)"),
                params![&new.id, &new.description, sealed, store::Value::json(&new.extra)?],
            )?;
            note(tx, &ctx, "OS-OAUTH1:consumer.created", &new.id)?;
            Ok(new)
        })
        .await
    }

    pub(crate) async fn consumer_update(&self, ctx: &Context, id: &str, wanted: ConsumerWanted) -> Result<Consumer> {
        let mut changed = self.consumer_fetch(id).await?;
        if let Some(description) = wanted.description {
            changed.description = description;
        }
        changed.extra.extend(wanted.extra);
        let ctx = ctx.clone();
        self.add(move |tx| {
            let stored = tx.execute(
                "UPDATE oauth1_consumer SET description = ?2, extra = ?3 WHERE id = ?1",
                params![&changed.id, &changed.description, store::Value::json(&changed.extra)?],
            )?;
            if stored == 0 {
                return Err(fault::not_found("consumer", &changed.id));
            }
            note(tx, &ctx, "OS-OAUTH1:consumer.updated", &changed.id)?;
            Ok(changed)
        })
        .await
    }

    /// With all that it was let do.
    pub(crate) async fn consumer_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            if tx.execute("DELETE FROM oauth1_consumer WHERE id = ?1", params![&id])? == 0 {
                return Err(fault::not_found("consumer", &id));
            }
            tokens_remove_in(tx, None, None, Some(&id))?;
            note(tx, &ctx, "OS-OAUTH1:consumer.deleted", &id)
        })
        .await
    }

    /// A new request token and its secret and end, for who signed.
    pub(crate) async fn request_token_create(
        &self,
        ctx: &Context,
        signed: &SignedRequest,
        project_id: &str,
    ) -> Result<(String, String, Timestamp)> {
        let id = signed.field("consumer_key")?;
        let consumer = self.consumer_fetch(id).await?;
        self.0.store.read(|tx| project_get_in(tx, project_id)).await?;
        signed.check(&consumer.secret, "")?;
        let now = Timestamp::now();
        let (at, nonce) = signed.moment(now)?;
        let (ctx, nonce, project_id, consumer_id) = (ctx.clone(), nonce.to_string(), project_id.to_string(), consumer.id);
        let (id, secret, end) = (base::id::hex(), base::id::hex(), now.plus(REQUEST_LASTS));
        let sealed = self.secret_keys().seal_text(secret.as_bytes());
        self.add(move |tx| {
            once_in(tx, &consumer_id, "", (at, &nonce))?;
            tx.execute(
                "INSERT INTO oauth1_request_token (id, consumer_id, project_id, sealed, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![&id, &consumer_id, &project_id, sealed, end],
            )?;
            note(tx, &ctx, "OS-OAUTH1:request_token.created", &id)?;
            Ok((id, secret, end))
        })
        .await
    }

    /// The word by which the consumer shows that the user agreed.
    pub(crate) async fn request_token_authorize(&self, ctx: &Context, id: &str, wanted: Vec<RoleName>) -> Result<String> {
        let (identity, id, user_id, word) = (self.clone(), id.to_string(), ctx.user_id.clone(), verifier()?);
        self.add(move |tx| {
            let missing = || fault::not_found("request token", &id);
            let found = request_token_in(tx, identity.secret_keys(), &id)?.ok_or_else(missing)?;
            if Timestamp::now() >= found.expires_at {
                return Err(Error::unauthenticated("Request token is expired"));
            }
            let project = project_get_in(tx, &found.project_id)?;
            let roles = resolved_in(tx, &wanted)?;
            let has = role_ids_of_user_in(tx, &user_id, &Target::Project(project.id.clone()), Some(&project))?;
            if !roles.iter().all(|role| has.contains(role)) {
                return Err(Error::unauthenticated("authorizing user does not have role required"));
            }
            tx.execute(
                "UPDATE oauth1_request_token SET verifier = ?2, user_id = ?3, roles = ?4 WHERE id = ?1",
                params![&id, &word, &user_id, store::Value::json(&roles)?],
            )?;
            Ok(word)
        })
        .await
    }

    /// The access token for a request token that was authorized, which is gone then.
    pub(crate) async fn access_token_create(&self, ctx: &Context, signed: &SignedRequest) -> Result<(String, String, Timestamp)> {
        let (consumer_id, token_id) = (signed.field("consumer_key")?, signed.field("token")?);
        let word = signed.field("verifier")?;
        let keys = self.secret_keys();
        let found = self.0.store.read(|tx| Ok((consumer_in(tx, keys, consumer_id)?, request_token_in(tx, keys, token_id)?))).await?;
        let (Some(consumer), Some(token)) = found else { return Err(Error::unauthenticated("Invalid signature")) };
        if token.consumer_id != consumer.id {
            return Err(Error::unauthenticated("Provided consumer key does not match stored consumer key."));
        }
        signed.check(&consumer.secret, &token.secret)?;
        let now = Timestamp::now();
        if now >= token.expires_at {
            return Err(Error::unauthenticated("Request token is expired"));
        }
        let (Some(verifier), Some(user_id), Some(roles)) = (token.verifier, token.user_id, token.roles) else {
            return Err(Error::unauthenticated("Request Token does not have an authorizing user id."));
        };
        if verifier != word {
            return Err(Error::unauthenticated("Provided verifier does not match stored verifier"));
        }
        signed.moment(now)?;
        let (ctx, id, secret, end) = (ctx.clone(), base::id::hex(), base::id::hex(), now.plus(ACCESS_LASTS));
        let sealed = keys.seal_text(secret.as_bytes());
        self.add(move |tx| {
            // It is used once: of two who come at the same time one hears so.
            if tx.execute("DELETE FROM oauth1_request_token WHERE id = ?1 AND verifier = ?2", params![&token.id, &verifier])? == 0 {
                return Err(Error::unauthenticated("Invalid signature"));
            }
            tx.execute(
                &format!("INSERT INTO oauth1_access_token ({ACCESS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"),
                params![&id, &token.consumer_id, &token.project_id, sealed, end, &user_id, store::Value::json(&roles)?],
            )?;
            note(tx, &ctx, "OS-OAUTH1:access_token.created", &id)?;
            Ok((id, secret, end))
        })
        .await
    }

    /// The access token that a request for a token is signed with.
    pub(crate) async fn access_token_proven(&self, signed: &SignedRequest) -> Result<AccessToken> {
        let (consumer_id, token_id) = (signed.field("consumer_key")?, signed.field("token")?);
        let keys = self.secret_keys();
        let found = self.0.store.read(|tx| Ok((consumer_in(tx, keys, consumer_id)?, access_token_in(tx, keys, token_id)?))).await?;
        let (Some(consumer), Some(token)) = found else { return Err(fault::unauthorized()) };
        if token.consumer_id != consumer.id {
            return Err(fault::unauthorized());
        }
        signed.check(&consumer.secret, &token.secret)?;
        let now = Timestamp::now();
        if token.has_ended(now) {
            return Err(Error::unauthenticated("Access token is expired"));
        }
        let (at, nonce) = signed.moment(now)?;
        let (consumer_id, token_id, nonce) = (consumer.id, token.id.clone(), nonce.to_string());
        self.add(move |tx| once_in(tx, &consumer_id, &token_id, (at, &nonce))).await?;
        Ok(token)
    }

    pub(crate) async fn access_token_list(&self, ask: &Ask, user_id: &str) -> Result<(Vec<AccessToken>, bool)> {
        let keys = self.secret_keys();
        let select = Select::new(format!("SELECT {ACCESS} FROM oauth1_access_token")).eq("user_id", user_id);
        self.0.store.read(|tx| ask.fetch(tx, select, "oauth1_access_token", |row| access_token(keys, row))).await
    }

    /// The access token of this user.
    pub(crate) async fn access_token_fetch(&self, user_id: &str, id: &str) -> Result<AccessToken> {
        let found = self.0.store.read(|tx| access_token_in(tx, self.secret_keys(), id)).await?;
        found.filter(|token| token.user_id == user_id).ok_or_else(|| fault::not_found("access token", id))
    }

    pub(crate) async fn access_token_delete(&self, ctx: &Context, user_id: &str, id: &str) -> Result<()> {
        let (ctx, user_id, id) = (ctx.clone(), user_id.to_string(), id.to_string());
        self.change(move |tx| {
            if tx.execute("DELETE FROM oauth1_access_token WHERE id = ?1 AND user_id = ?2", params![&id, &user_id])? == 0 {
                return Err(fault::not_found("access token", &id));
            }
            note(tx, &ctx, "OS-OAUTH1:access_token.deleted", &id)
        })
        .await
    }
}
