//! `/os-keypairs` (compute API reference, "Keypairs").

use base::{Context, Error, Kind, Result, Timestamp};
use http_api::{Page, Request, Response, Routes, Version, empty, json};
use serde_json::{Value, json};
use store::{Dir, Select, params};

use crate::Compute;
use crate::fields::{self, Fields};
use crate::keypairs::{KEYPAIR_COLUMNS, Keypair, keypair_fetch_in, keypair_row};
use crate::{quotas, ssh};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes.get("/os-keypairs", index).post("/os-keypairs", create).get("/os-keypairs/{name}", show).delete("/os-keypairs/{name}", delete)
}

/// Keys have a type and creation answers 201; deletion 204.
const WITH_TYPE: Version = Version::new(2, 2);
/// Administrators may act for a user.
const WITH_USER: Version = Version::new(2, 10);
const WITH_PAGING: Version = Version::new(2, 35);
/// Unknown query parameters are refused.
const STRICT: Version = Version::new(2, 75);
/// Keys are no longer made here, and names may hold `@` and `.`.
const IMPORT_ONLY: Version = Version::new(2, 92);

fn missing(user: &str, name: &str) -> Error {
    Error::new(Kind::NotFound, format!("Keypair {name} not found for user {user}"))
}

/// Whose keys are meant: the caller's, or from 2.10 those of `user_id`.
fn owner(req: &Request) -> String {
    match req.query.get("user_id").filter(|_| req.version >= WITH_USER) {
        Some(user) => user.to_string(),
        None => req.ctx.user_id.clone(),
    }
}

fn authorize(compute: &Compute, rule: &str, ctx: &Context, user: &str) -> Result<()> {
    compute.core.authorize("compute", rule, ctx, &[("user_id", user)])
}

fn query_check(req: &Request, allowed: &[&str]) -> Result<()> {
    match req.query.0.iter().find(|(name, _)| req.version >= STRICT && !allowed.contains(&name.as_str())) {
        Some((name, _)) => Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)"))),
        None => Ok(()),
    }
}

fn short_view(key: &Keypair, version: Version) -> Value {
    let mut view = json!({"name": key.name, "public_key": key.public_key, "fingerprint": key.fingerprint});
    if version >= WITH_TYPE {
        view["type"] = json!(key.kind);
    }
    view
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    let paging = req.version >= WITH_PAGING;
    let allowed: &[&str] = if paging { &["user_id", "limit", "marker"] } else { &["user_id"] };
    query_check(&req, allowed)?;
    let user = owner(&req);
    authorize(&compute, "os_compute_api:os-keypairs:index", &req.ctx, &user)?;
    let max = compute.core.config.int("api.max_limit");
    let page =
        if paging { Page::from_query(&req.query, max, &[])? } else { Page { limit: None, marker: None, sort: Vec::new(), reverse: false } };
    let keys = compute
        .core
        .store
        .read(|tx| {
            let mut select =
                Select::new(format!("SELECT {KEYPAIR_COLUMNS} FROM keypair")).eq("user_id", user.as_str()).order(&[("name", Dir::Asc)]);
            if let Some(marker) = &page.marker {
                keypair_fetch_in(tx, &user, marker)?.ok_or_else(|| Error::invalid(format!("marker [{marker}] not found")))?;
                select = select.after(vec![marker.as_str().into()]);
            }
            select.limit(page.fetch_limit(max)).fetch(tx, keypair_row)
        })
        .await?;
    let mut body = json!({"keypairs": keys.iter().map(|k| json!({"keypair": short_view(k, req.version)})).collect::<Vec<_>>()});
    if let (Some(limit), Some(last)) = (page.limit, keys.last()) {
        if keys.len() as u64 == limit {
            body["keypairs_links"] = json!([{"rel": "next", "href": http_api::page::link_with_marker(&req, &last.name, None)}]);
        }
    }
    json(200, &body)
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    query_check(&req, &["user_id"])?;
    let (user, name) = (owner(&req), req.param("name"));
    authorize(&compute, "os_compute_api:os-keypairs:show", &req.ctx, &user)?;
    let key = compute.core.store.read(|tx| keypair_fetch_in(tx, &user, name)?.ok_or_else(|| missing(&user, name))).await?;
    let mut view = short_view(&key, req.version);
    view["user_id"] = json!(key.user_id);
    view["id"] = json!(key.number);
    view["created_at"] = json!(key.created_at.iso_micros());
    view["deleted"] = json!(false);
    view["deleted_at"] = Value::Null;
    view["updated_at"] = Value::Null;
    json(200, &json!({"keypair": view}))
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let version = req.version;
    let (name, public_key, kind, user) = root.need("keypair", |f| {
        let mut of = Fields::of(f)?;
        let extra = if version >= IMPORT_ONLY { "@.-_ " } else { "-_ " };
        let name = of.need("name", |f| {
            let name = fields::name(f)?;
            let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c));
            if fits { Ok(name) } else { Err(f.wrong("Keypair name contains unsafe characters")) }
        })?;
        let key = if version >= IMPORT_ONLY {
            Some(of.need("public_key", fields::text(1, 16384))?)
        } else {
            of.take("public_key", fields::text(0, 16384))?
        };
        let kind = of.take_if(version >= WITH_TYPE, "type", fields::one_of(&["ssh", "x509"]))?.unwrap_or("ssh");
        let user = of.take_if(version >= WITH_USER, "user_id", fields::text(1, 255))?;
        of.finish()?;
        Ok((name, key, kind, user))
    })?;
    root.finish()?;
    let user = user.unwrap_or_else(|| req.ctx.user_id.clone());
    authorize(&compute, "os_compute_api:os-keypairs:create", &req.ctx, &user)?;
    let (public_key, fingerprint, private_key) = match (public_key, kind) {
        (Some(key), "ssh") => {
            let fingerprint = ssh::fingerprint(&key)?;
            (key, fingerprint, None)
        }
        (None, "ssh") => {
            let made = tokio::task::spawn_blocking(ssh::generate).await.map_err(|e| Error::internal("making a key").caused_by(e))??;
            (made.public, made.fingerprint, Some(made.private))
        }
        _ => return Err(Error::invalid("Invalid input for field/attribute type. Keys of type x509 are not supported by this cloud.")),
    };
    let mut key =
        Keypair { user_id: user.clone(), name, number: 0, kind: kind.into(), fingerprint, public_key, created_at: Timestamp::now() };
    let stored = key.clone();
    let project = req.ctx.project_id().to_string();
    key.number = compute
        .core
        .store
        .write(move |tx| {
            tx.lock(&format!("compute/keypairs/{}", stored.user_id))?;
            let limit = quotas::limit_in(tx, &project, "key_pairs")?;
            let used = tx.query_one("SELECT COUNT(*) FROM keypair WHERE user_id = ?1", params![&stored.user_id], |row| row.int(0))?;
            if keypair_fetch_in(tx, &stored.user_id, &stored.name)?.is_some() {
                return Err(Error::exists(format!("Key pair '{}' already exists.", stored.name)));
            }
            if limit >= 0 && used >= limit {
                return Err(Error::quota("Quota exceeded, too many key pairs."));
            }
            tx.lock("compute/keypair-number")?;
            let number = tx.query_one("SELECT COALESCE(MAX(number), 0) + 1 FROM keypair", params![], |row| row.int(0))?;
            tx.execute(
                "INSERT INTO keypair (user_id, name, number, type, fingerprint, public_key, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![&stored.user_id, &stored.name, number, &stored.kind, &stored.fingerprint, &stored.public_key, stored.created_at],
            )?;
            Ok(number)
        })
        .await?;
    let mut view = short_view(&key, version);
    view["user_id"] = json!(key.user_id);
    if let Some(private) = private_key {
        view["private_key"] = json!(private);
    }
    json(if version >= WITH_TYPE { 201 } else { 200 }, &json!({"keypair": view}))
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    query_check(&req, &["user_id"])?;
    let (user, name) = (owner(&req), req.param("name").to_string());
    authorize(&compute, "os_compute_api:os-keypairs:delete", &req.ctx, &user)?;
    compute
        .core
        .store
        .write(move |tx| match tx.execute("DELETE FROM keypair WHERE user_id = ?1 AND name = ?2", params![&user, &name])? {
            0 => Err(missing(&user, &name)),
            _ => Ok(()),
        })
        .await?;
    empty(if req.version >= WITH_TYPE { 204 } else { 202 })
}
