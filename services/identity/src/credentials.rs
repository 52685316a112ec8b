//! Credentials: small secrets of users, sealed at rest.

use base::{Context, Error, Kind, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::list::Ask;
use crate::token::cache::Live;
use crate::token::ring::Ring;
use crate::wire::{self, Object};
use crate::{Identity, fault, note};

#[derive(Clone, Debug)]
pub struct Credential {
    pub id: String,
    pub user_id: String,
    pub project_id: Option<String>,
    pub kind: String,
    pub blob: String,
    pub extra: Object,
}

const COLUMNS: &str = "id, user_id, project_id, type, sealed, extra";

fn map(keys: &Ring, row: &Row) -> Result<Credential> {
    let lost = || Error::internal("no key in keys/credential opens a stored credential");
    let blob = keys.open_text(&row.text(4)?).ok_or_else(lost)?;
    Ok(Credential {
        id: row.text(0)?,
        user_id: row.text(1)?,
        project_id: row.opt_text(2)?,
        kind: row.text(3)?,
        blob: String::from_utf8(blob).map_err(|_| lost())?,
        extra: row.json(5)?,
    })
}

impl Credential {
    pub fn view(&self, req: &Request) -> Value {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("user_id".into(), json!(self.user_id));
        view.insert("project_id".into(), json!(self.project_id));
        view.insert("type".into(), json!(self.kind));
        view.insert("blob".into(), json!(self.blob));
        view.insert("links".into(), json!({ "self": format!("{}/v3/credentials/{}", req.base_url, self.id) }));
        Value::Object(view)
    }

    /// What policies may ask about it.
    pub fn target(&self) -> Value {
        json!({ "target": { "credential": { "id": self.id, "user_id": self.user_id, "project_id": self.project_id, "type": self.kind } } })
    }

    /// What an EC2 credential gives is later no more than the delegation it was made by.
    pub fn bind(&mut self, live: &Live) -> Result<()> {
        let by = [("trust_id", live.trust_id()), ("app_cred_id", live.credential_id()), ("access_token_id", live.access_token_id())];
        for (name, id) in by.into_iter().filter_map(|(name, id)| Some((name, id?))) {
            if self.is_ec2() {
                let mut blob = ec2_blob(&self.blob)?;
                blob.insert(name.into(), json!(id));
                self.blob = Value::Object(blob).to_string();
            }
        }
        Ok(())
    }

    pub fn is_ec2(&self) -> bool {
        self.kind.eq_ignore_ascii_case("ec2")
    }
}

/// The blob of an EC2 credential is a JSON object with an access key.
fn ec2_blob(blob: &str) -> Result<Object> {
    let parsed: Value = serde_json::from_str(blob).map_err(|_| Error::invalid("Invalid blob in credential"))?;
    match parsed {
        Value::Object(map) if map.get("access").is_some_and(Value::is_string) => Ok(map),
        Value::Object(map) if !map.is_empty() => Err(fault::expecting("access", "credential")),
        _ => Err(fault::expecting("blob", "credential")),
    }
}

/// What a request wants to set.
pub struct CredentialChange {
    pub user_id: Option<String>,
    pub project_id: Option<Option<String>>,
    pub kind: Option<String>,
    pub blob: Option<String>,
    pub extra: Object,
}

impl CredentialChange {
    pub fn read(mut map: Object) -> Result<CredentialChange> {
        let mut take = wire::Take { map: &mut map, what: "credential" };
        let (user_id, project_id) = (take.text("user_id", 64)?, take.nullable_text("project_id", 64)?);
        let (kind, blob) = (take.text("type", 255)?, take.text("blob", usize::MAX)?);
        map.remove("links");
        Ok(CredentialChange { user_id, project_id, kind, blob, extra: map })
    }

    /// All that a new credential needs; its id is the hash of an EC2 access key, else random.
    pub fn whole(self) -> Result<Credential> {
        let required = |name: &str| fault::field("credential", format!("'{name}' is a required property"));
        let mut extra = self.extra;
        extra.remove("id");
        let mut credential = Credential {
            id: base::id::hex(),
            user_id: self.user_id.ok_or_else(|| required("user_id"))?,
            project_id: self.project_id.flatten(),
            kind: self.kind.ok_or_else(|| required("type"))?,
            blob: self.blob.ok_or_else(|| required("blob"))?,
            extra,
        };
        if credential.is_ec2() {
            if credential.project_id.is_none() {
                return Err(required("project_id"));
            }
            let blob = ec2_blob(&credential.blob)?;
            let access = blob.get("access").and_then(Value::as_str).unwrap_or_default();
            credential.id = id_of_access_key(access);
        }
        Ok(credential)
    }

    /// The credential as it would be; what binds an EC2 credential to a delegation cannot change.
    pub fn applied(self, mut credential: Credential) -> Result<Credential> {
        let before = credential.clone();
        if let Some(user_id) = self.user_id {
            credential.user_id = user_id;
        }
        if let Some(project_id) = self.project_id {
            credential.project_id = project_id;
        }
        if let Some(kind) = self.kind {
            credential.kind = kind;
        }
        if let Some(blob) = self.blob {
            credential.blob = blob;
        }
        credential.extra.extend(self.extra);
        if credential.is_ec2() && credential.project_id.is_none() {
            return Err(fault::expecting("project_id", "credential"));
        }
        if credential.is_ec2() || before.is_ec2() {
            let new = ec2_blob(&credential.blob)?;
            let old = if before.is_ec2() { ec2_blob(&before.blob)? } else { Object::new() };
            for key in ["trust_id", "app_cred_id", "access_token_id", "access_id"] {
                if old.get(key) != new.get(key) {
                    return Err(Error::invalid(format!("{key} can not be updated for credential")));
                }
            }
        }
        Ok(credential)
    }
}

/// Keys are not told apart by anything but their hash, which tells nothing about them.
pub fn id_of_access_key(access: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(access.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Identity {
    pub(crate) async fn credential_fetch(&self, id: &str) -> Result<Option<Credential>> {
        let keys = &self.0.credential_keys;
        let sql = format!("SELECT {COLUMNS} FROM credential WHERE id = ?1");
        self.0.store.read(|tx| tx.query_opt(&sql, params![id], |row| map(keys, row))).await
    }

    pub(crate) async fn credential_list(&self, ask: &Ask, user_id: Option<&str>) -> Result<(Vec<Credential>, bool)> {
        let keys = &self.0.credential_keys;
        let select = Select::new(format!("SELECT {COLUMNS} FROM credential")).opt_eq("user_id", user_id);
        self.0.store.read(|tx| ask.fetch(tx, select, "credential", |row| map(keys, row))).await
    }

    /// All EC2 credentials of a user.
    pub(crate) async fn credential_list_ec2(&self, user_id: &str) -> Result<Vec<Credential>> {
        let keys = &self.0.credential_keys;
        let sql = format!("SELECT {COLUMNS} FROM credential WHERE user_id = ?1 AND LOWER(type) = 'ec2' ORDER BY id");
        self.0.store.read(|tx| tx.query(&sql, params![user_id], |row| map(keys, row))).await
    }

    pub(crate) async fn credential_create(&self, ctx: &Context, credential: Credential) -> Result<Credential> {
        let (ctx, sealed) = (ctx.clone(), self.0.credential_keys.seal_text(credential.blob.as_bytes()));
        self.add(move |tx| {
            let inserted = tx.attempt(|tx| {
                tx.execute(
                    &format!("INSERT INTO credential ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
                    params![
                        &credential.id,
                        &credential.user_id,
                        &credential.project_id,
                        &credential.kind,
                        sealed,
                        store::Value::json(&credential.extra)?
                    ],
                )
            });
            let taken = |e: Error| if e.is(Kind::Exists) { fault::duplicate("credential", "Duplicate entry") } else { e };
            inserted.map_err(taken)?;
            note(tx, &ctx, "credential.created", &credential.id)?;
            Ok(credential)
        })
        .await
    }

    pub(crate) async fn credential_store(&self, ctx: &Context, credential: Credential) -> Result<Credential> {
        let (ctx, sealed) = (ctx.clone(), self.0.credential_keys.seal_text(credential.blob.as_bytes()));
        self.add(move |tx| {
            let stored = tx.execute(
                "UPDATE credential SET user_id = ?2, project_id = ?3, type = ?4, sealed = ?5, extra = ?6 WHERE id = ?1",
                params![
                    &credential.id,
                    &credential.user_id,
                    &credential.project_id,
                    &credential.kind,
                    sealed,
                    store::Value::json(&credential.extra)?
                ],
            )?;
            if stored == 0 {
                return Err(fault::not_found("credential", &credential.id));
            }
            note(tx, &ctx, "credential.updated", &credential.id)?;
            Ok(credential)
        })
        .await
    }

    pub(crate) async fn credential_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            if tx.execute("DELETE FROM credential WHERE id = ?1", params![&id])? == 0 {
                return Err(fault::not_found("credential", &id));
            }
            tx.execute("DELETE FROM totp_use WHERE credential_id = ?1", params![&id])?;
            note(tx, &ctx, "credential.deleted", &id)
        })
        .await
    }
}

/// Those of a user that are of one type.
pub fn credentials_of_in(tx: &Tx, keys: &Ring, user_id: &str, kind: &str) -> Result<Vec<Credential>> {
    let sql = format!("SELECT {COLUMNS} FROM credential WHERE user_id = ?1 AND type = ?2 ORDER BY id");
    tx.query(&sql, params![user_id, kind], |row| map(keys, row))
}

/// Those of a user, or of a project, that goes.
pub fn credentials_remove_in(tx: &Tx, user_id: Option<&str>, project_id: Option<&str>) -> Result<()> {
    let uses = "DELETE FROM totp_use WHERE credential_id IN (SELECT id FROM credential WHERE user_id = ?1 OR project_id = ?2)";
    tx.execute(uses, params![user_id, project_id])?;
    tx.execute("DELETE FROM credential WHERE user_id = ?1 OR project_id = ?2", params![user_id, project_id])?;
    Ok(())
}
