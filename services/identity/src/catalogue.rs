//! The catalogue: regions, services, endpoints, and the document of them that tokens carry.

use std::collections::{HashMap, HashSet};

use base::{Context, Error, Kind, Result};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::list::Ask;
use crate::wire::Object;
use crate::{Identity, endpoint_filter, endpoint_policy, fault, limits, note};

#[derive(Clone, Debug)]
pub struct Region {
    pub id: String,
    pub parent_region_id: Option<String>,
    pub description: String,
    pub extra: Object,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub id: String,
    pub kind: String,
    pub name: String,
    pub enabled: bool,
    pub extra: Object,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub id: String,
    pub service_id: String,
    pub interface: String,
    pub region_id: Option<String>,
    pub url: String,
    pub enabled: bool,
    pub extra: Object,
}

pub const INTERFACES: [&str; 3] = ["public", "internal", "admin"];

const REGION: &str = "id, parent_region_id, description, extra";
const SERVICE: &str = "id, type, name, enabled, extra";
const ENDPOINT: &str = "id, service_id, interface, region_id, url, enabled, extra";

fn region_map(row: &Row) -> Result<Region> {
    Ok(Region { id: row.text(0)?, parent_region_id: row.opt_text(1)?, description: row.text(2)?, extra: row.json(3)? })
}
fn service_map(row: &Row) -> Result<Service> {
    Ok(Service { id: row.text(0)?, kind: row.text(1)?, name: row.text(2)?, enabled: row.flag(3)?, extra: row.json(4)? })
}
fn endpoint_map(row: &Row) -> Result<Endpoint> {
    Ok(Endpoint {
        id: row.text(0)?,
        service_id: row.text(1)?,
        interface: row.text(2)?,
        region_id: row.opt_text(3)?,
        url: row.text(4)?,
        enabled: row.flag(5)?,
        extra: row.json(6)?,
    })
}

fn links(req: &Request, collection: &str, id: &str) -> Value {
    json!({ "self": format!("{}/v3/{collection}/{}", req.base_url, http_api::query::encode(id)) })
}

impl Region {
    pub fn view(&self, req: &Request) -> Value {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("parent_region_id".into(), json!(self.parent_region_id));
        view.insert("description".into(), json!(self.description));
        view.insert("links".into(), links(req, "regions", &self.id));
        Value::Object(view)
    }
}
impl Service {
    pub fn view(&self, req: &Request) -> Value {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("type".into(), json!(self.kind));
        view.insert("name".into(), json!(self.name));
        view.insert("enabled".into(), json!(self.enabled));
        view.insert("links".into(), links(req, "services", &self.id));
        Value::Object(view)
    }
}
impl Endpoint {
    pub fn view(&self, req: &Request) -> Value {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("service_id".into(), json!(self.service_id));
        view.insert("interface".into(), json!(self.interface));
        view.insert("region_id".into(), json!(self.region_id));
        view.insert("region".into(), json!(self.region_id));
        view.insert("url".into(), json!(self.url));
        view.insert("enabled".into(), json!(self.enabled));
        view.insert("links".into(), links(req, "endpoints", &self.id));
        Value::Object(view)
    }
}

pub fn region_fetch_in(tx: &Tx, id: &str) -> Result<Option<Region>> {
    tx.query_opt(&format!("SELECT {REGION} FROM region WHERE id = ?1"), params![id], region_map)
}
pub fn region_get_in(tx: &Tx, id: &str) -> Result<Region> {
    region_fetch_in(tx, id)?.ok_or_else(|| fault::not_found("region", id))
}
pub fn region_list_in(tx: &Tx, ask: &Ask) -> Result<(Vec<Region>, bool)> {
    ask.fetch(tx, Select::new(format!("SELECT {REGION} FROM region")), "region", region_map)
}
pub fn service_get_in(tx: &Tx, id: &str) -> Result<Service> {
    let found = tx.query_opt(&format!("SELECT {SERVICE} FROM catalogue_service WHERE id = ?1"), params![id], service_map)?;
    found.ok_or_else(|| fault::not_found("service", id))
}
pub fn service_list_in(tx: &Tx, ask: &Ask) -> Result<(Vec<Service>, bool)> {
    ask.fetch(tx, Select::new(format!("SELECT {SERVICE} FROM catalogue_service")), "catalogue_service", service_map)
}
pub fn endpoint_get_in(tx: &Tx, id: &str) -> Result<Endpoint> {
    let found = tx.query_opt(&format!("SELECT {ENDPOINT} FROM catalogue_endpoint WHERE id = ?1"), params![id], endpoint_map)?;
    found.ok_or_else(|| fault::not_found("endpoint", id))
}
pub fn endpoint_list_in(tx: &Tx, ask: &Ask) -> Result<(Vec<Endpoint>, bool)> {
    ask.fetch(tx, Select::new(format!("SELECT {ENDPOINT} FROM catalogue_endpoint")), "catalogue_endpoint", endpoint_map)
}

pub fn endpoints_all_in(tx: &Tx) -> Result<Vec<Endpoint>> {
    tx.query(&format!("SELECT {ENDPOINT} FROM catalogue_endpoint ORDER BY id"), params![], endpoint_map)
}

/// One endpoint, and what was said of it.
fn endpoint_remove_in(tx: &Tx, id: &str) -> Result<()> {
    endpoint_filter::choices_remove_in(tx, None, Some(id))?;
    endpoint_policy::associations_remove_in(tx, "endpoint_id", id)?;
    tx.execute("DELETE FROM catalogue_endpoint WHERE id = ?1", params![id])?;
    Ok(())
}

/// The catalogue as a token shows it. An endpoint whose URL needs a project is left out where there is none.
/// Where endpoints were chosen for the project, only they are in it, and no service without one; where none were, all of them
/// are, or with `!all` nothing is.
pub fn document_in(tx: &Tx, user_id: &str, project_id: Option<&str>, all: bool) -> Result<Value> {
    let chosen = project_id.map_or(Ok(Vec::new()), |id| endpoint_filter::endpoints_of_project_in(tx, id))?;
    if chosen.is_empty() && !all {
        return Ok(json!([]));
    }
    let chosen: HashSet<String> = chosen.into_iter().map(|endpoint| endpoint.id).collect();
    let services =
        tx.query(&format!("SELECT {SERVICE} FROM catalogue_service WHERE enabled = 1 ORDER BY type, id"), params![], service_map)?;
    let mut endpoints: HashMap<String, Vec<Value>> = HashMap::new();
    let sql = format!("SELECT {ENDPOINT} FROM catalogue_endpoint WHERE enabled = 1 ORDER BY region_id, interface, id");
    for endpoint in tx.query(&sql, params![], endpoint_map)? {
        if !chosen.is_empty() && !chosen.contains(&endpoint.id) {
            continue;
        }
        let Some(url) = fill(&endpoint.url, user_id, project_id) else { continue };
        endpoints.entry(endpoint.service_id).or_default().push(json!({
            "id": endpoint.id, "interface": endpoint.interface, "region_id": endpoint.region_id, "url": url, "region": endpoint.region_id,
        }));
    }
    let document = services.into_iter().filter_map(|service| {
        let of_it = endpoints.remove(&service.id).unwrap_or_default();
        let shown = chosen.is_empty() || !of_it.is_empty();
        shown.then(|| json!({ "endpoints": of_it, "id": service.id, "type": service.kind, "name": service.name }))
    });
    Ok(document.collect())
}

/// The public endpoint of a type of service in a region; one in any region where that has none.
fn url_in(tx: &Tx, kind: &str, region: &str) -> Result<Option<String>> {
    let sql = "SELECT e.url FROM catalogue_endpoint e JOIN catalogue_service s ON s.id = e.service_id \
               WHERE s.type = ?1 AND s.enabled = 1 AND e.enabled = 1 AND e.interface = 'public' \
               ORDER BY CASE WHEN e.region_id = ?2 THEN 0 ELSE 1 END, e.id";
    let urls = tx.query(sql, params![kind, region], |row| row.text(0))?;
    Ok(urls.iter().find_map(|url| fill(url, "", None)))
}

impl Identity {
    /// Where a service of this type is, of this cloud or another's; none when the catalogue has none, or only one that lies at
    /// a project's own address.
    pub async fn service_url(&self, kind: &str) -> Result<Option<String>> {
        let region = self.0.config.text("region").to_string();
        self.0.store.read(|tx| url_in(tx, kind, &region)).await
    }
}

/// Replaces `%(project_id)s` and its kin; `None` when a value is missing or the template is broken.
pub fn fill(template: &str, user_id: &str, project_id: Option<&str>) -> Option<String> {
    let template = template.replace("$(", "%(");
    let mut url = String::with_capacity(template.len() + 32);
    let mut rest = template.as_str();
    while let Some(at) = rest.find("%(") {
        url.push_str(&rest[..at]);
        let (name, after) = rest[at + 2..].split_once(")s")?;
        url.push_str(match name {
            "project_id" | "tenant_id" => project_id?,
            "user_id" => user_id,
            _ => return None,
        });
        rest = after;
    }
    url.push_str(rest);
    Some(url)
}

/// Whether an endpoint may have this URL.
pub fn check_url(url: &str) -> Result<()> {
    let scheme = url.split_once(':').map(|(scheme, rest)| {
        !scheme.is_empty() && !rest.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
    });
    if scheme != Some(true) || url.len() > 225 {
        return Err(fault::field("endpoint/url", format!("'{url}' does not match '^[a-zA-Z0-9+.-]+:.+' or is too long")));
    }
    if fill(url, "u", Some("p")).is_none() {
        return Err(Error::invalid(format!("Cannot create an endpoint with an invalid URL: {url}.")));
    }
    Ok(())
}

/// A region's row, also made for an endpoint that names a new one.
pub fn region_insert_in(tx: &Tx, region: &Region) -> Result<()> {
    let inserted = tx.attempt(|tx| {
        tx.execute(
            &format!("INSERT INTO region ({REGION}) VALUES (?1, ?2, ?3, ?4)"),
            params![&region.id, &region.parent_region_id, &region.description, store::Value::json(&region.extra)?],
        )
    });
    inserted
        .map(|_| ())
        .map_err(|e| if e.is(Kind::Exists) { fault::duplicate("region", format!("Duplicate ID, {}.", region.id)) } else { e })
}

fn check_parents(tx: &Tx, region: &Region) -> Result<()> {
    let mut next = region.parent_region_id.clone();
    while let Some(id) = next {
        if id == region.id {
            let parent = region.parent_region_id.as_deref().unwrap_or_default();
            return Err(Error::invalid(format!("The specified parent region {parent} would create a circular region hierarchy.")));
        }
        next = region_get_in(tx, &id)?.parent_region_id;
    }
    Ok(())
}

pub fn service_insert_in(tx: &Tx, service: &Service) -> Result<()> {
    tx.execute(
        &format!("INSERT INTO catalogue_service ({SERVICE}) VALUES (?1, ?2, ?3, ?4, ?5)"),
        params![&service.id, &service.kind, &service.name, service.enabled, store::Value::json(&service.extra)?],
    )?;
    Ok(())
}

pub fn endpoint_insert_in(tx: &Tx, endpoint: &Endpoint) -> Result<()> {
    tx.execute(
        &format!("INSERT INTO catalogue_endpoint ({ENDPOINT}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"),
        params![
            &endpoint.id,
            &endpoint.service_id,
            &endpoint.interface,
            &endpoint.region_id,
            &endpoint.url,
            endpoint.enabled,
            store::Value::json(&endpoint.extra)?
        ],
    )?;
    Ok(())
}

fn check_references(tx: &Tx, endpoint: &Endpoint, make_region: bool) -> Result<()> {
    if let Some(region) = &endpoint.region_id
        && region_fetch_in(tx, region)?.is_none()
    {
        if !make_region {
            return Err(fault::expecting("endpoint region_id", "region table"));
        }
        let fresh = Region { id: region.clone(), parent_region_id: None, description: String::new(), extra: Object::new() };
        region_insert_in(tx, &fresh)?;
    }
    service_get_in(tx, &endpoint.service_id)
        .map_err(|e| if e.is(Kind::NotFound) { fault::expecting("endpoint service_id", "service table") } else { e })?;
    Ok(())
}

impl Identity {
    pub(crate) async fn region_create(&self, ctx: &Context, region: Region) -> Result<Region> {
        let ctx = ctx.clone();
        self.add(move |tx| {
            check_parents(tx, &region)?;
            region_insert_in(tx, &region)?;
            note(tx, &ctx, "region.created", &region.id)?;
            Ok(region)
        })
        .await
    }

    pub(crate) async fn region_update(&self, ctx: &Context, id: &str, change: impl FnOnce(&mut Region) + Send + 'static) -> Result<Region> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            let mut region = region_get_in(tx, &id)?;
            change(&mut region);
            check_parents(tx, &region)?;
            tx.execute(
                "UPDATE region SET parent_region_id = ?2, description = ?3, extra = ?4 WHERE id = ?1",
                params![&id, &region.parent_region_id, &region.description, store::Value::json(&region.extra)?],
            )?;
            note(tx, &ctx, "region.updated", &id)?;
            Ok(region)
        })
        .await
    }

    /// Takes the regions below with it, unless one of them has endpoints.
    pub(crate) async fn region_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            region_get_in(tx, &id)?;
            let mut tree = vec![id.clone()];
            let mut at = 0;
            while let Some(parent) = tree.get(at).cloned() {
                tree.extend(tx.query("SELECT id FROM region WHERE parent_region_id = ?1", params![&parent], |row| row.text(0))?);
                at += 1;
            }
            for region in &tree {
                if tx.query_opt("SELECT 1 FROM catalogue_endpoint WHERE region_id = ?1 LIMIT 1", params![region], |_| Ok(()))?.is_some() {
                    return Err(Error::forbidden(format!(
                        "Unable to delete region {id} because it or its child regions have associated endpoints."
                    )));
                }
            }
            for region in &tree {
                limits::limits_remove_about_in(tx, None, Some(region))?;
                endpoint_policy::associations_remove_in(tx, "region_id", region)?;
                tx.execute("DELETE FROM region WHERE id = ?1", params![region])?;
                note(tx, &ctx, "region.deleted", region)?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn service_create(&self, ctx: &Context, service: Service) -> Result<Service> {
        let ctx = ctx.clone();
        self.change(move |tx| {
            service_insert_in(tx, &service)?;
            note(tx, &ctx, "service.created", &service.id)?;
            Ok(service)
        })
        .await
    }

    pub(crate) async fn service_update(
        &self,
        ctx: &Context,
        id: &str,
        change: impl FnOnce(&mut Service) + Send + 'static,
    ) -> Result<Service> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            let mut service = service_get_in(tx, &id)?;
            change(&mut service);
            tx.execute(
                "UPDATE catalogue_service SET type = ?2, name = ?3, enabled = ?4, extra = ?5 WHERE id = ?1",
                params![&id, &service.kind, &service.name, service.enabled, store::Value::json(&service.extra)?],
            )?;
            note(tx, &ctx, "service.updated", &id)?;
            Ok(service)
        })
        .await
    }

    pub(crate) async fn service_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            service_get_in(tx, &id)?;
            for endpoint in endpoints_all_in(tx)?.iter().filter(|endpoint| endpoint.service_id == id) {
                endpoint_remove_in(tx, &endpoint.id)?;
            }
            endpoint_policy::associations_remove_in(tx, "service_id", &id)?;
            limits::limits_remove_about_in(tx, Some(&id), None)?;
            tx.execute("DELETE FROM catalogue_service WHERE id = ?1", params![&id])?;
            note(tx, &ctx, "service.deleted", &id)
        })
        .await
    }

    /// `make_region`: the old way to name a region makes it when it is new.
    pub(crate) async fn endpoint_create(&self, ctx: &Context, endpoint: Endpoint, make_region: bool) -> Result<Endpoint> {
        let ctx = ctx.clone();
        self.change(move |tx| {
            check_references(tx, &endpoint, make_region)?;
            endpoint_insert_in(tx, &endpoint)?;
            note(tx, &ctx, "endpoint.created", &endpoint.id)?;
            Ok(endpoint)
        })
        .await
    }

    pub(crate) async fn endpoint_update(
        &self,
        ctx: &Context,
        id: &str,
        make_region: bool,
        change: impl FnOnce(&mut Endpoint) + Send + 'static,
    ) -> Result<Endpoint> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            let mut endpoint = endpoint_get_in(tx, &id)?;
            change(&mut endpoint);
            check_references(tx, &endpoint, make_region)?;
            tx.execute(
                "UPDATE catalogue_endpoint SET service_id = ?2, interface = ?3, region_id = ?4, url = ?5, enabled = ?6, extra = ?7 WHERE id = ?1",
                params![
                    &id,
                    &endpoint.service_id,
                    &endpoint.interface,
                    &endpoint.region_id,
                    &endpoint.url,
                    endpoint.enabled,
                    store::Value::json(&endpoint.extra)?
                ],
            )?;
            note(tx, &ctx, "endpoint.updated", &id)?;
            Ok(endpoint)
        })
        .await
    }

    pub(crate) async fn endpoint_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.change(move |tx| {
            endpoint_get_in(tx, &id)?;
            endpoint_remove_in(tx, &id)?;
            note(tx, &ctx, "endpoint.deleted", &id)
        })
        .await
    }
}

impl Identity {
    /// Where a type of service is in a region; none when the catalogue has none there, or only one that lies at a project's own address.
    pub fn endpoint_in(&self, tx: &Tx, service_type: &str, interface: &str, region: &str) -> Result<Option<String>> {
        let sql = "SELECT e.url FROM catalogue_endpoint e JOIN catalogue_service s ON s.id = e.service_id \
                   WHERE s.type = ?1 AND e.interface = ?2 AND e.region_id = ?3 AND s.enabled = 1 AND e.enabled = 1 ORDER BY e.id";
        let urls = tx.query(sql, params![service_type, interface, region], |row| row.text(0))?;
        Ok(urls.iter().find_map(|url| fill(url, "", None)))
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn fills_urls_or_leaves_them_out() {
        assert_eq!(fill("http://h/v1/%(project_id)s", "u", Some("p")).as_deref(), Some("http://h/v1/p"));
        assert_eq!(fill("http://h/v1/$(tenant_id)s/x", "u", Some("p")).as_deref(), Some("http://h/v1/p/x"));
        assert_eq!(fill("http://h/%(user_id)s", "u", None).as_deref(), Some("http://h/u"));
        assert_eq!(fill("http://h/%(project_id)s", "u", None), None);
        assert_eq!(fill("http://h/%(what)s", "u", Some("p")), None);
        assert_eq!(fill("http://h/%(project_id)", "u", Some("p")), None);
    }
}
