//! `/resource_providers`.

use std::collections::HashSet;

use base::{Error, Kind, Result, Timestamp};
use http_api::response::set_header;
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json};
use store::{Dir, Select, Tx, params};

use super::{PROVIDER, Provider, admit, authorize, dated, only, provider_in, provider_row, text_at, uuid_at, v, wrong};
use crate::filter::{self, Members, Traits};
use crate::search::{Group, Search, alone};
use crate::{Placement, change};

fn view(provider: &Provider, req: &Request) -> Value {
    let url = format!("{}/resource_providers/{}", path(req), provider.uuid);
    let mut rels = vec!["inventories", "usages"];
    if req.version >= v(1) {
        rels.push("aggregates");
    }
    if req.version >= v(6) {
        rels.push("traits");
    }
    if req.version >= v(11) {
        rels.push("allocations");
    }
    let mut links = vec![json!({"rel": "self", "href": url})];
    links.extend(rels.iter().map(|rel| json!({"rel": rel, "href": format!("{url}/{rel}")})));
    let mut view = json!({"uuid": provider.uuid, "name": provider.name, "generation": provider.generation, "links": links});
    if req.version >= v(14) {
        view["parent_provider_uuid"] = json!(provider.parent);
        view["root_provider_uuid"] = json!(provider.root);
    }
    view
}

/// The mount point, without host: links here are relative to it.
pub(super) fn path(req: &Request) -> &str {
    req.base_url.strip_prefix(&req.root_url).unwrap_or_default()
}

pub async fn index(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:list", &req)?;
    let known: &[&str] = match req.version.minor {
        0..=2 => &["name", "uuid"],
        3 => &["name", "uuid", "member_of"],
        4..=13 => &["name", "uuid", "member_of", "resources"],
        14..=17 => &["name", "uuid", "member_of", "resources", "in_tree"],
        _ => &["name", "uuid", "member_of", "resources", "in_tree", "required"],
    };
    filter::only_known(&req.query, known)?;
    let resources = req.query.get("resources").map(filter::resources).transpose()?.unwrap_or_default();
    let members = Members::parse(&req, "member_of")?;
    let traits = Traits::parse(&req, "required")?;
    let uuid = req.query.get("uuid").map(filter::uuid).transpose()?;
    let tree = req.query.get("in_tree").map(filter::uuid).transpose()?;
    let group = Group { resources, traits, members, in_tree: tree, ..Group::default() };
    let search = Search { groups: vec![group], ..Search::default() };
    placement.core.store.read(|tx| search.check_in(tx)).await?;
    let fitting = fitting(&placement, &req, search).await?;
    let providers = placement
        .core
        .store
        .read(|tx| {
            let select = Select::new(format!("SELECT {PROVIDER} FROM provider")).opt_eq("name", req.query.get("name")).opt_eq("uuid", uuid);
            let mut found = select.order(&[("name", Dir::Asc)]).fetch(tx, provider_row)?;
            found.retain(|p| fitting.as_ref().is_none_or(|fitting| fitting.contains(&p.uuid)));
            Ok(found)
        })
        .await?;
    let changed = providers.iter().map(|p| p.updated_at).max();
    let views: Vec<Value> = providers.iter().map(|p| view(p, &req)).collect();
    dated(&req, json(200, &json!({"resource_providers": views}))?, changed)
}

/// Those that meet the conditions, when there are any.
async fn fitting(placement: &Placement, req: &Request, search: Search) -> Result<Option<HashSet<String>>> {
    if !["resources", "member_of", "required", "in_tree"].iter().any(|name| req.query.has(name)) {
        return Ok(None);
    }
    placement.index.catch_up(&placement.core.store).await?;
    let index = placement.index.get();
    let found = search.groups.into_iter().flat_map(|group| alone(&index, group));
    Ok(Some(found.map(|number| index.node(number).uuid.to_string()).collect()))
}

pub async fn show(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:show", &req)?;
    let provider = placement.core.store.read(|tx| provider_in(tx, req.param("uuid"))).await?;
    dated(&req, json(200, &view(&provider, &req))?, Some(provider.updated_at))
}

/// Name and, from 1.14 on, parent.
fn body(req: &Request, with_uuid: bool) -> Result<(String, Option<String>, Option<Option<String>>)> {
    let object = req.object()?;
    let mut known = vec!["name"];
    if with_uuid {
        known.push("uuid");
    }
    if req.version >= v(14) {
        known.push("parent_provider_uuid");
    }
    only(&object, &known)?;
    let name = text_at(&object, "name")?;
    if name.is_empty() || name.chars().count() > 200 {
        return Err(wrong("name", "must have 1 to 200 characters"));
    }
    let uuid = object.contains_key("uuid").then(|| uuid_at(&object, "uuid")).transpose()?;
    let parent = match object.get("parent_provider_uuid") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(_) => Some(Some(uuid_at(&object, "parent_provider_uuid")?)),
    };
    Ok((name.to_string(), uuid, parent))
}

fn taken(name: &str) -> Error {
    Error::exists(format!("Conflicting resource provider name: {name} already exists.")).named("placement.duplicate_name")
}

fn parent_root_in(tx: &Tx, parent: &str) -> Result<String> {
    let found = tx.query_opt("SELECT root FROM provider WHERE uuid = ?1", params![parent], |r| r.text(0))?;
    found.ok_or_else(|| Error::invalid(format!("parent provider UUID {parent} does not exist.")))
}

pub async fn create(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:create", &req)?;
    let (name, uuid, parent) = body(&req, true)?;
    let uuid = uuid.unwrap_or_else(base::id::uuid);
    let parent = parent.flatten();
    if parent.as_deref() == Some(uuid.as_str()) {
        return Err(Error::invalid("parent provider UUID cannot be same as UUID."));
    }
    let provider = placement
        .core
        .store
        .write(move |tx| {
            let root = match &parent {
                Some(parent) => parent_root_in(tx, parent)?,
                None => uuid.clone(),
            };
            if tx.query_opt("SELECT 1 FROM provider WHERE name = ?1", params![&name], |r| r.int(0))?.is_some() {
                return Err(taken(&name));
            }
            let now = Timestamp::now();
            tx.execute(
                "INSERT INTO provider (uuid, name, generation, parent, root, created_at, updated_at) VALUES (?1, ?2, 0, ?3, ?4, ?5, ?5)",
                params![&uuid, &name, parent.clone(), &root, now],
            )
            .map_err(|e| {
                if e.is(Kind::Exists) {
                    Error::exists(format!("Conflicting resource provider {uuid} already exists.")).named("placement.duplicate_name")
                } else {
                    e
                }
            })?;
            change::note_in(tx, &uuid)?;
            Ok(Provider { uuid, name, generation: 0, parent, root, updated_at: now })
        })
        .await?;
    let mut response = if req.version >= v(20) { json(200, &view(&provider, &req))? } else { empty(201)? };
    set_header(&mut response, "location", &format!("{}/resource_providers/{}", req.base_url, provider.uuid));
    dated(&req, response, Some(provider.updated_at))
}

pub async fn update(placement: Placement, req: Request) -> Result<Response> {
    admit(&placement, "placement:resource_providers:update", &req)?;
    let (name, _, parent) = body(&req, false)?;
    let (uuid, version) = (req.param("uuid").to_string(), req.version);
    let provider = placement
        .core
        .store
        .write(move |tx| {
            let mut provider = provider_in(tx, &uuid)?;
            if tx.query_opt("SELECT 1 FROM provider WHERE name = ?1 AND uuid <> ?2", params![&name, &uuid], |r| r.int(0))?.is_some() {
                return Err(taken(&name));
            }
            if let Some(wanted) = parent.filter(|p| *p != provider.parent) {
                provider_move_in(tx, &mut provider, wanted, version >= v(37))?;
            }
            provider.name = name;
            provider.updated_at = Timestamp::now();
            tx.execute(
                "UPDATE provider SET name = ?2, updated_at = ?3 WHERE uuid = ?1",
                params![&provider.uuid, &provider.name, provider.updated_at],
            )?;
            Ok(provider)
        })
        .await?;
    dated(&req, json(200, &view(&provider, &req))?, Some(provider.updated_at))
}

/// Hangs a provider, with all below it, under another parent or makes it a root. Before 1.37 only a root could be moved.
fn provider_move_in(tx: &Tx, provider: &mut Provider, parent: Option<String>, free: bool) -> Result<()> {
    tx.lock("placement-trees")?;
    if provider.parent.is_some() && !free {
        let verb = if parent.is_none() { "un-parenting" } else { "re-parenting" };
        return Err(Error::invalid(format!("{verb} a provider is not currently allowed.")));
    }
    // Everything below the provider, itself included.
    let mut below = vec![provider.uuid.clone()];
    let mut next = 0;
    while next < below.len() {
        below.extend(tx.query("SELECT uuid FROM provider WHERE parent = ?1", params![&below[next]], |r| r.text(0))?);
        next += 1;
    }
    let root = match &parent {
        Some(parent) if below.contains(parent) => return Err(Error::invalid("creating loop in the provider tree is not allowed.")),
        Some(parent) => parent_root_in(tx, parent)?,
        None => provider.uuid.clone(),
    };
    tx.execute("UPDATE provider SET parent = ?2 WHERE uuid = ?1", params![&provider.uuid, parent.clone()])?;
    for uuid in &below {
        tx.execute("UPDATE provider SET root = ?2 WHERE uuid = ?1", params![uuid, &root])?;
        change::note_in(tx, uuid)?;
    }
    provider.parent = parent;
    provider.root = root;
    Ok(())
}

pub async fn delete(placement: Placement, req: Request) -> Result<Response> {
    authorize(&placement, "placement:resource_providers:delete", &req)?;
    let uuid = req.param("uuid").to_string();
    placement
        .core
        .store
        .write(move |tx| {
            provider_in(tx, &uuid)?;
            let exists = |sql: &str| -> Result<bool> { Ok(tx.query_opt(sql, params![&uuid], |r| r.int(0))?.is_some()) };
            if exists("SELECT 1 FROM allocation WHERE provider = ?1 LIMIT 1")? {
                let message = format!("Unable to delete resource provider {uuid}: Resource provider has allocations.");
                return Err(Error::conflict(message).named("placement.resource_provider.inuse"));
            }
            if exists("SELECT 1 FROM provider WHERE parent = ?1 LIMIT 1")? {
                let message = format!("Unable to delete parent resource provider {uuid}: It has child resource providers.");
                return Err(Error::conflict(message).named("placement.resource_provider.cannot_delete_parent"));
            }
            for table in ["inventory", "provider_trait", "provider_aggregate"] {
                tx.execute(&format!("DELETE FROM {table} WHERE provider = ?1"), params![&uuid])?;
            }
            tx.execute("DELETE FROM provider WHERE uuid = ?1", params![&uuid])?;
            change::note_in(tx, &uuid)
        })
        .await?;
    empty(204)
}
