//! `/v3/projects` and the tags of projects.

use base::{Error, Result};
use http_api::{Request, Response, response};
use serde_json::{Value, json};
use store::Tx;

use super::{R, answer, default_domain, max, more, nothing, own_domain, wanted};
use crate::limits::limits_of_in;
use crate::list::{Ask, Attribute, Form, collection, is_set};
use crate::projects::{
    Project, ProjectChange, ProjectList, TagFilter, parents_as_ids, project_fetch_in, project_get_in, project_list_in, project_parents_in,
    project_subtree_in, subtree_as_ids,
};
use crate::{Identity, fault, grants, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/projects", index)
        .post("/v3/projects", create)
        .get("/v3/projects/{project_id}", show)
        .patch("/v3/projects/{project_id}", update)
        .delete("/v3/projects/{project_id}", delete)
        .get("/v3/projects/{project_id}/tags", index_tags)
        .put("/v3/projects/{project_id}/tags", update_tags)
        .delete("/v3/projects/{project_id}/tags", delete_tags)
        .get("/v3/projects/{project_id}/tags/{value}", show_tag)
        .put("/v3/projects/{project_id}/tags/{value}", create_tag)
        .delete("/v3/projects/{project_id}/tags/{value}", delete_tag)
}

const ATTRIBUTES: &[Attribute] = &[
    ("name", "name", Form::Text),
    ("domain_id", "domain_id", Form::Text),
    ("parent_id", "parent_id", Form::Text),
    ("enabled", "enabled", Form::Flag),
    ("is_domain", "is_domain", Form::Flag),
];

async fn target(identity: &Identity, id: &str) -> Result<Value> {
    let found = identity.0.store.read(|tx| project_fetch_in(tx, id)).await?;
    let inner = found.map_or_else(|| json!({}), |project| json!({ "project": project.target() }));
    Ok(json!({ "project_id": id, "target": inner }))
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let within = req.ctx.domain_id();
    identity.allow("list_projects", &req.ctx, &own_domain(&req.ctx, |domain| json!({ "domain_id": domain })))?;
    let is_domain = if req.query.has("is_domain") { None } else { Some(false) };
    let list = ProjectList { ask: &ask, tags: TagFilter::read(&req.query), is_domain, within, only: None };
    let (projects, rest) = identity.0.store.read(|tx| project_list_in(tx, &list)).await?;
    let views = projects.iter().map(|project| project.view(&req)).collect();
    answer(200, &collection(&req, "projects", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let map = wire::member(&req, "project")?;
    let target = wanted("project", &map);
    let mut change = ProjectChange::read(map, "project")?;
    if change.name.is_none() {
        return Err(fault::field("project", "'name' is a required property"));
    }
    identity.allow("create_project", &req.ctx, &target)?;
    if !change.is_domain.unwrap_or(false) && change.domain_id.is_none() {
        change.domain_id = Some(default_domain(&req.ctx));
    }
    let project = identity.project_create(&req.ctx, base::id::hex(), change).await?;
    answer(201, &json!({ "project": project.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("project_id");
    identity.allow("get_project", &req.ctx, &target(&identity, id).await?)?;
    let view = identity
        .0
        .store
        .read(|tx| {
            let project = project_get_in(tx, id)?;
            let mut view = json!(project.view(&req));
            relatives(tx, &req, &project, &mut view)?;
            Ok(view)
        })
        .await?;
    answer(200, &json!({ "project": view }))
}

/// Adds the projects above and below, as far as they are asked for.
fn relatives(tx: &Tx, req: &Request, project: &Project, view: &mut Value) -> Result<()> {
    for (list, ids) in [("parents_as_list", "parents_as_ids"), ("subtree_as_list", "subtree_as_ids")] {
        if is_set(&req.query, list) && is_set(&req.query, ids) {
            return Err(Error::invalid(format!("Cannot use {list} and {ids} query params at the same time.")));
        }
    }
    // In lists the caller sees only projects that are open to them.
    let visible = |projects: Vec<Project>| -> Result<Value> {
        let reach = grants::reach_in(tx, &req.ctx.user_id, false)?;
        let mut views = Vec::new();
        for project in projects.iter().filter(|p| reach.binary_search(&p.id).is_ok()) {
            let mut view = json!(project.view(req));
            if is_set(&req.query, "include_limits") {
                view["limits"] = limits_of_in(tx, &project.id)?.iter().map(|limit| limit.view(req)).collect();
            }
            views.push(json!({ "project": view }));
        }
        Ok(Value::Array(views))
    };
    if is_set(&req.query, "parents_as_list") {
        view["parents"] = visible(project_parents_in(tx, project)?)?;
    } else if is_set(&req.query, "parents_as_ids") {
        let mut parents = project_parents_in(tx, project)?;
        parents.dedup_by(|a, b| a.id == b.id);
        view["parents"] = parents_as_ids(&parents);
    }
    if is_set(&req.query, "subtree_as_list") {
        view["subtree"] = visible(project_subtree_in(tx, &project.id)?)?;
    } else if is_set(&req.query, "subtree_as_ids") {
        view["subtree"] = subtree_as_ids(&project.id, &project_subtree_in(tx, &project.id)?);
    }
    Ok(())
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("project_id");
    let mut map = wire::member(&req, "project")?;
    wire::Take { map: &mut map, what: "project" }.same_id(id)?;
    let change = ProjectChange::read(map, "project")?;
    identity.allow("update_project", &req.ctx, &target(&identity, id).await?)?;
    let project = identity.project_update(&req.ctx, id, change, false).await?;
    answer(200, &json!({ "project": project.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("project_id");
    identity.allow("delete_project", &req.ctx, &target(&identity, id).await?)?;
    identity.project_delete(&req.ctx, id).await?;
    nothing()
}

fn tags_answer(req: &Request, tags: Vec<String>) -> Result<Response> {
    answer(200, &json!({ "links": { "self": format!("{}{}", req.root_url, req.path) }, "tags": tags }))
}

async fn index_tags(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("project_id");
    identity.allow("list_project_tags", &req.ctx, &target(&identity, id).await?)?;
    let project = identity.0.store.read(|tx| project_get_in(tx, id)).await?;
    tags_answer(&req, project.tags)
}

async fn update_tags(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("project_id");
    let mut body = wire::body(&req)?;
    let tags = match body.remove("tags") {
        Some(Value::Array(items)) => wire::tag_list(items)?,
        Some(_) => return Err(fault::field("tags", "it is not of type 'array'")),
        None => return Err(fault::field("tags", "'tags' is a required property")),
    };
    identity.allow("update_project_tags", &req.ctx, &target(&identity, id).await?)?;
    let tags = identity.tags_replace(&req.ctx, id, tags).await?;
    tags_answer(&req, tags)
}

async fn delete_tags(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("project_id");
    identity.allow("delete_project_tags", &req.ctx, &target(&identity, id).await?)?;
    identity.tags_replace(&req.ctx, id, Vec::new()).await?;
    nothing()
}

async fn show_tag(identity: Identity, req: Request) -> Result<Response> {
    let (id, tag) = (req.param("project_id"), req.param("value"));
    identity.allow("get_project_tag", &req.ctx, &target(&identity, id).await?)?;
    let project = identity.0.store.read(|tx| project_get_in(tx, id)).await?;
    if project.tags.iter().any(|t| t == tag) { nothing() } else { Err(fault::not_found("project tag", tag)) }
}

async fn create_tag(identity: Identity, req: Request) -> Result<Response> {
    let (id, tag) = (req.param("project_id"), req.param("value"));
    identity.allow("create_project_tag", &req.ctx, &target(&identity, id).await?)?;
    identity.tag_set(&req.ctx, id, tag, true).await?;
    let mut created = http_api::empty(201)?;
    response::set_header(&mut created, "location", &format!("{}{}", req.root_url, req.path));
    Ok(created)
}

async fn delete_tag(identity: Identity, req: Request) -> Result<Response> {
    let (id, tag) = (req.param("project_id"), req.param("value"));
    identity.allow("delete_project_tag", &req.ctx, &target(&identity, id).await?)?;
    identity.tag_set(&req.ctx, id, tag, false).await?;
    nothing()
}
