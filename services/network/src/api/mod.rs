//! Routes, and the five handlers that every resource shares.

mod access;
mod agents;
mod extensions;
mod misc;
mod qos;
mod quotas;
mod routers;
mod tags;

pub use access::allowed;

use base::{Context, Error, Kind as ErrorKind, Result};
use http_api::{Api, FaultStyle, Request, Response, Routes, Table, empty, json};
use serde_json::{Value, json};
use store::Tx;

use crate::attr::{self, Kind, Object};
use crate::floatingips::FloatingIp;
use crate::list::{self, Wanted};
use crate::networks::Net;
use crate::ports::Port;
use crate::qos::QosPolicy;
use crate::routers::Router;
use crate::row::{self, Resource};
use crate::security_groups::{self, SecurityGroup};
use crate::security_rules::Rule;
use crate::subnets::Subnet;
use crate::{Network, fault};

pub fn routes(net: Network) -> Result<Table> {
    let api = Api { service: "network", style: FaultStyle::Network, versions: None, head: true, slash: true };
    let routes = Routes::new(net, api).public("GET", "/", misc::versions).public("GET", "/v2.0", misc::resources).under("/v2.0");
    let routes = resource::<Net>(routes, "/networks");
    let routes = resource::<Subnet>(routes, "/subnets");
    let routes = resource::<Port>(routes, "/ports");
    let routes = resource::<Router>(routes, "/routers");
    let routes = resource::<FloatingIp>(routes, "/floatingips");
    let routes = resource::<SecurityGroup>(routes, "/security-groups");
    let routes = resource::<QosPolicy>(routes, "/qos/policies");
    let routes = qos::rules(routes);
    routes
        .get("/security-group-rules", index::<Rule>)
        .post("/security-group-rules", create::<Rule>)
        .get("/security-group-rules/{id}", show::<Rule>)
        .delete("/security-group-rules/{id}", delete::<Rule>)
        .put("/routers/{id}/add_router_interface", routers::action_add_router_interface)
        .put("/routers/{id}/remove_router_interface", routers::action_remove_router_interface)
        .put("/routers/{id}/add_extraroutes", routers::action_add_extraroutes)
        .put("/routers/{id}/remove_extraroutes", routers::action_remove_extraroutes)
        .get("/quotas", quotas::index)
        .get("/quotas/tenant", quotas::whose)
        .get("/quotas/project", quotas::whose)
        .get("/quotas/{project}", quotas::show)
        .put("/quotas/{project}", quotas::update)
        .delete("/quotas/{project}", quotas::delete)
        .get("/quotas/{project}/default", quotas::default)
        .get("/quotas/{project}/details", quotas::details)
        .get("/quotas/{project}/details.json", quotas::details)
        .get("/extensions", extensions::index)
        .get("/extensions/{alias}", extensions::show)
        .get("/availability_zones", misc::availability_zones)
        .get("/agents", agents::index)
        .get("/agents/{id}", agents::show)
        .put("/agents/{id}", agents::update)
        .delete("/agents/{id}", agents::delete)
        .get("/agents/{id}/l3-routers", agents::routers)
        .get("/agents/{id}/dhcp-networks", agents::networks)
        .get("/routers/{id}/l3-agents", agents::of_router)
        .get("/networks/{id}/dhcp-agents", agents::of_network)
        .get("/network-ip-availabilities", misc::availabilities)
        .get("/network-ip-availabilities/{id}", misc::availability)
        .get("/service-providers", misc::service_providers)
        .get("/qos/rule-types", qos::types)
        .get("/qos/rule-types/{name}", qos::type_show)
        .build()
}

fn resource<T: Resource>(routes: Routes<Network>, path: &str) -> Routes<Network> {
    let (one, tags, tag) = (format!("{path}/{{id}}"), format!("{path}/{{id}}/tags"), format!("{path}/{{id}}/tags/{{tag}}"));
    routes
        .get(path, index::<T>)
        .post(path, create::<T>)
        .get(&one, show::<T>)
        .put(&one, update::<T>)
        .delete(&one, delete::<T>)
        .get(&tags, tags::index::<T>)
        .put(&tags, tags::replace::<T>)
        .post(&tags, tags::add_several::<T>)
        .delete(&tags, tags::clear::<T>)
        .get(&tag, tags::show::<T>)
        .put(&tag, tags::add::<T>)
        .delete(&tag, tags::remove::<T>)
}

/// Takes away what clients never see and adds the older name of the project.
pub fn finish(kind: &Kind, object: &mut Object) {
    object.retain(|name, _| !name.starts_with('_') && !kind.policy_only.contains(&name.as_str()));
    if let Some(project) = object.get("project_id").cloned() {
        object.insert("tenant_id".into(), project);
    }
}

/// Only the wanted attributes; an empty list wants all.
fn project_fields(object: &mut Object, fields: &[String]) {
    if !fields.is_empty() {
        object.retain(|name, _| fields.iter().any(|f| f == name));
    }
}

/// A decorated object as this caller may see it.
pub fn view(net: &Network, ctx: &Context, kind: &Kind, object: Object, fields: &[String]) -> Object {
    seen_as(net, ctx, kind, &access::Sight::of(net, ctx, kind), object, fields)
}

fn seen_as(net: &Network, ctx: &Context, kind: &Kind, sight: &access::Sight, mut object: Object, fields: &[String]) -> Object {
    sight.hide(net, ctx, &mut object);
    finish(kind, &mut object);
    project_fields(&mut object, fields);
    object
}

/// The resource with what other rows add to it.
fn decorated<T: Resource>(net: &Network, tx: &Tx, item: &T) -> Result<Object> {
    let mut one = [row::object(item)?];
    T::decorate(net, tx, &mut one)?;
    let [object] = one;
    Ok(object)
}

/// The resource and its object, when the caller may know of it.
pub fn seen<T: Resource>(net: &Network, tx: &Tx, ctx: &Context, id: &str) -> Result<(T, Object)> {
    let item = row::fetch_locked::<T>(tx, id)?;
    let object = decorated(net, tx, &item)?;
    if access::allowed(net, ctx, &format!("get_{}", T::KIND.singular), &object) { Ok((item, object)) } else { Err(T::KIND.missing(id)) }
}

/// A page as this caller may see it.
pub struct Page {
    pub items: Vec<Object>,
    /// How many rows were looked at, and which were the first and the last.
    count: u64,
    ends: (Option<String>, Option<String>),
}

pub fn page<T: Resource>(net: &Network, tx: &Tx, ctx: &Context, wanted: &Wanted) -> Result<Page> {
    let kind = T::KIND;
    let rule = format!("get_{}", kind.singular);
    let mut rows = list::rows::<T>(net, tx, ctx, wanted)?;
    let id = |row: Option<&Object>| row.and_then(|r| r.get("id")).and_then(Value::as_str).map(str::to_string);
    let ends = (id(rows.first()), id(rows.last()));
    let count = rows.len() as u64;
    T::decorate(net, tx, &mut rows)?;
    let settled = net.core().policy.settled("network", &rule, ctx);
    let sight = access::Sight::of(net, ctx, kind);
    let rows = rows.into_iter().filter(|row| settled.unwrap_or_else(|| access::allowed(net, ctx, &rule, row)));
    Ok(Page { items: rows.map(|row| seen_as(net, ctx, kind, &sight, row, &wanted.fields)).collect(), count, ends })
}

pub async fn index<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let kind = T::KIND;
    let wanted = Wanted::read(kind, &req.query)?;
    if kind.singular == "security_group" && !req.ctx.project_id().is_empty() {
        default_group(&net, &req.ctx).await?;
    }
    let ctx = &req.ctx;
    let Page { items, count, ends } = net.core().store.read(|tx| page::<T>(&net, tx, ctx, &wanted)).await?;
    let mut body = Object::new();
    body.insert(kind.plural.into(), json!(items));
    let limit = wanted.page.fetch_limit(net.max_limit());
    let asked = wanted.page.limit.is_some_and(|n| n > 0);
    let full = count >= limit;
    let mut links = Vec::new();
    if full || asked && wanted.page.reverse {
        links.push(json!({"rel": "next", "href": link(&req, ends.1.as_deref(), false)}));
    }
    if asked && (full || !wanted.page.reverse) {
        links.push(json!({"rel": "previous", "href": link(&req, ends.0.as_deref(), true)}));
    }
    if !links.is_empty() {
        body.insert(format!("{}_links", kind.plural), json!(links));
    }
    json(200, &body)
}

/// The URL of the page behind or before a marker; without one, of the first or the last.
fn link(req: &Request, marker: Option<&str>, reverse: bool) -> String {
    let mut pairs: Vec<(String, String)> = req.query.0.iter().filter(|(k, _)| k != "marker" && k != "page_reverse").cloned().collect();
    pairs.extend(marker.map(|m| ("marker".to_string(), m.to_string())));
    if reverse {
        pairs.push(("page_reverse".into(), "True".into()));
    }
    format!("{}{}?{}", req.root_url, req.path, http_api::Query(pairs).encode())
}

/// A project's list of groups always has the default one.
pub async fn default_group(net: &Network, ctx: &Context) -> Result<()> {
    let known = net.core().store.read(|tx| crate::db::security_groups::default_id(tx, ctx.project_id())).await?;
    if known.is_none() {
        let (handle, ctx) = (net.clone(), ctx.clone());
        net.core().store.write(move |tx| security_groups::default_id(&handle, tx, &ctx, ctx.project_id()).map(|_| ())).await?;
    }
    Ok(())
}

pub async fn show<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let fields: Vec<String> = req.query.all("fields").filter(|f| !f.is_empty()).map(str::to_string).collect();
    let ctx = &req.ctx;
    let (_, object) = net.core().store.read(|tx| seen::<T>(&net, tx, ctx, req.param("id"))).await?;
    json(200, &json!({T::KIND.singular: view(&net, ctx, T::KIND, object, &fields)}))
}

/// The objects of a create request, and whether it was for several.
fn bodies(kind: &Kind, req: &Request) -> Result<(Vec<Object>, bool)> {
    let mut body = object_of(req)?;
    if let Some(one) = body.remove(kind.singular) {
        return match one {
            Value::Object(map) => Ok((vec![map], false)),
            _ => Err(fault::request(format!("Invalid input for {}: a dictionary is required", kind.singular))),
        };
    }
    match body.remove(kind.plural) {
        Some(Value::Array(items)) if !items.is_empty() => {
            let items = items.into_iter().map(|item| match item {
                // An entry may be wrapped once more.
                Value::Object(mut map) => match map.remove(kind.singular) {
                    Some(Value::Object(inner)) => Ok(inner),
                    _ => Ok(map),
                },
                _ => Err(fault::request(format!("Invalid input for {}: a list of dictionaries is required", kind.plural))),
            });
            Ok((items.collect::<Result<_>>()?, true))
        }
        Some(_) => Err(fault::request("Resources required")),
        None => Err(fault::request(format!("Unable to find '{}' in request body", kind.singular))),
    }
}

fn object_of(req: &Request) -> Result<Object> {
    req.object().map_err(|e| if e.is(ErrorKind::Invalid) { fault::request(e.message()) } else { e })
}

/// The object of an update request.
fn body_of(kind: &Kind, req: &Request) -> Result<Object> {
    match object_of(req)?.remove(kind.singular) {
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(fault::request(format!("Invalid input for {}: a dictionary is required", kind.singular))),
        None => Err(fault::request(format!("Unable to find '{}' in request body", kind.singular))),
    }
}

pub async fn create<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let kind = T::KIND;
    let (items, several) = bodies(kind, &req)?;
    let (handle, ctx) = (net.clone(), req.ctx.clone());
    let mut made = net
        .core()
        .store
        .write(move |tx| items.iter().map(|body| create_one::<T>(&handle, tx, &ctx, body)).collect::<Result<Vec<Object>>>())
        .await?;
    if several {
        return json(201, &json!({kind.plural: made}));
    }
    json(201, &json!({kind.singular: made.pop()}))
}

pub fn create_one<T: Resource>(net: &Network, tx: &Tx, ctx: &Context, body: &Object) -> Result<Object> {
    let kind = T::KIND;
    let project = attr::project_of(ctx, body)?;
    let mut tags = None;
    if let Some(given) = body.get("tags") {
        if kind.singular != "port" {
            return Err(fault::request("Attribute 'tags' not allowed in POST"));
        }
        tags = Some(tags::check(given)?);
    }
    let checked = attr::for_create(kind, body)?;
    T::parent(net, tx, ctx, &checked)?;
    let mut target = checked.clone();
    target.insert("project_id".into(), json!(project));
    target.insert("tenant_id".into(), json!(project));
    let mut one = [target];
    T::decorate(net, tx, &mut one)?;
    let [target] = one;
    access::write(net, ctx, kind, "create", &target, &attr::explicit(kind, body))?;
    crate::quotas::check(tx, kind, &project)?;
    let mut item = T::create_in(net, tx, ctx, &project, &checked)?;
    if let Some(tags) = tags {
        item.common_mut().tags = tags;
        row::update(tx, &mut item)?;
    }
    net.recorded(tx, ctx, &format!("{}.create.end", kind.singular), &item)?;
    Ok(view(net, ctx, kind, decorated(net, tx, &item)?, &[]))
}

/// The revision a conditional request insists on.
fn revision(req: &Request) -> Result<Option<i64>> {
    let Some(text) = req.header("if-match") else { return Ok(None) };
    let wrong = || fault::input(format!("Couldn't parse If-Match revision_number: {text}"));
    let number = text.trim().trim_matches('"').strip_prefix("revision_number=").ok_or_else(wrong)?;
    number.parse().map(Some).map_err(|_| wrong())
}

fn revision_fits<T: Resource>(item: &T, wanted: Option<i64>) -> Result<()> {
    let have = item.common().revision_number;
    match wanted.filter(|n| *n != have) {
        Some(n) => {
            let message = format!("Constrained to {n}, but current revision is {have}");
            Err(Error::new(ErrorKind::PreconditionFailed, message).named("RevisionNumberConstraintFailed"))
        }
        None => Ok(()),
    }
}

pub async fn update<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let kind = T::KIND;
    let body = body_of(kind, &req)?;
    let wanted = revision(&req)?;
    let (handle, ctx, id) = (net.clone(), req.ctx.clone(), req.param("id").to_string());
    let object = net.core().store.write(move |tx| update_one::<T>(&handle, tx, &ctx, &id, &body, wanted)).await?;
    json(200, &json!({kind.singular: object}))
}

/// Changes a resource, if it is at the `wanted` revision, and answers what the caller may see of it.
pub fn update_one<T: Resource>(net: &Network, tx: &Tx, ctx: &Context, id: &str, body: &Object, wanted: Option<i64>) -> Result<Object> {
    let kind = T::KIND;
    let (item, mut target) = seen::<T>(net, tx, ctx, id)?;
    let change = attr::for_update(kind, body)?;
    target.extend(change.clone());
    access::write(net, ctx, kind, "update", &target, &body.iter().collect::<Vec<_>>())?;
    revision_fits(&item, wanted)?;
    let item = T::update_in(net, tx, ctx, item, &change)?;
    net.recorded(tx, ctx, &format!("{}.update.end", kind.singular), &item)?;
    Ok(view(net, ctx, kind, decorated(net, tx, &item)?, &[]))
}

pub async fn delete<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let wanted = revision(&req)?;
    let (handle, ctx, id) = (net.clone(), req.ctx.clone(), req.param("id").to_string());
    net.core().store.write(move |tx| delete_one::<T>(&handle, tx, &ctx, &id, wanted)).await?;
    empty(204)
}

pub fn delete_one<T: Resource>(net: &Network, tx: &Tx, ctx: &Context, id: &str, wanted: Option<i64>) -> Result<()> {
    let (item, target) = seen::<T>(net, tx, ctx, id)?;
    access::write(net, ctx, T::KIND, "delete", &target, &[])?;
    revision_fits(&item, wanted)?;
    // Ports tell of their end themselves: they also end with other things.
    if T::KIND.singular != "port" {
        net.recorded(tx, ctx, &format!("{}.delete.end", T::KIND.singular), &item)?;
    }
    T::delete_in(net, tx, ctx, item)
}
