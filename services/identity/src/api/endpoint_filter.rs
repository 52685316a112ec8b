//! `/v3/OS-EP-FILTER`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::endpoint_filter::*;
use crate::list::{Ask, Attribute, Form, collection};
use crate::projects::project_get_in;
use crate::{Identity, wire};

const GROUPS: &str = "/v3/OS-EP-FILTER/endpoint_groups";
const GROUP: &str = "/v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}";
const GROUP_OF_PROJECT: &str = "/v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects/{project_id}";
const ENDPOINT_OF_PROJECT: &str = "/v3/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}";

pub fn routes(routes: R) -> R {
    routes
        .get(GROUPS, index)
        .post(GROUPS, create)
        .get(GROUP, show)
        .patch(GROUP, update)
        .delete(GROUP, delete)
        .get("/v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/endpoints", index_endpoints)
        .get("/v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects", index_projects)
        .get(GROUP_OF_PROJECT, show_in_project)
        .put(GROUP_OF_PROJECT, add_to_project)
        .delete(GROUP_OF_PROJECT, remove_from_project)
        .get("/v3/OS-EP-FILTER/projects/{project_id}/endpoint_groups", index_of_project)
        .get("/v3/OS-EP-FILTER/projects/{project_id}/endpoints", index_project_endpoints)
        .get("/v3/OS-EP-FILTER/endpoints/{endpoint_id}/projects", index_endpoint_projects)
        .get(ENDPOINT_OF_PROJECT, check_endpoint)
        .put(ENDPOINT_OF_PROJECT, add_endpoint)
        .delete(ENDPOINT_OF_PROJECT, remove_endpoint)
}

const ATTRIBUTES: &[Attribute] = &[("name", "name", Form::Text)];

async fn index(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_endpoint_groups", &req.ctx, &Value::Null)?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let (groups, rest) = identity.0.store.read(|tx| group_list_in(tx, &ask)).await?;
    let views = groups.iter().map(|group| group.view(&req)).collect();
    answer(200, &collection(&req, "endpoint_groups", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_endpoint_group", &req.ctx, &Value::Null)?;
    let group = EndpointGroupChange::read(wire::member(&req, "endpoint_group")?)?.whole()?;
    let group = identity.endpoint_group_create(&req.ctx, group).await?;
    answer(201, &json!({ "endpoint_group": group.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_endpoint_group", &req.ctx, &Value::Null)?;
    let group = identity.0.store.read(|tx| group_get_in(tx, req.param("endpoint_group_id"))).await?;
    answer(200, &json!({ "endpoint_group": group.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_endpoint_group", &req.ctx, &Value::Null)?;
    let map = wire::member(&req, "endpoint_group")?;
    wire::not_empty(&map, "endpoint_group")?;
    let change = EndpointGroupChange::read(map)?;
    let group = identity.endpoint_group_update(&req.ctx, req.param("endpoint_group_id"), change).await?;
    answer(200, &json!({ "endpoint_group": group.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_endpoint_group", &req.ctx, &Value::Null)?;
    identity.endpoint_group_delete(&req.ctx, req.param("endpoint_group_id")).await?;
    nothing()
}

async fn index_endpoints(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_endpoints_associated_with_endpoint_group", &req.ctx, &Value::Null)?;
    let endpoints = identity.0.store.read(|tx| endpoints_of_group_in(tx, req.param("endpoint_group_id"))).await?;
    answer(200, &collection(&req, "endpoints", endpoints.iter().map(|endpoint| endpoint.view(&req)).collect(), None))
}

async fn index_projects(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_projects_associated_with_endpoint_group", &req.ctx, &Value::Null)?;
    let projects = identity.0.store.read(|tx| projects_of_group_in(tx, req.param("endpoint_group_id"))).await?;
    answer(200, &collection(&req, "projects", projects.iter().map(|project| project.view(&req)).collect(), None))
}

async fn show_in_project(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_endpoint_group_in_project", &req.ctx, &Value::Null)?;
    let (project, group) = (req.param("project_id"), req.param("endpoint_group_id"));
    identity.0.store.read(|tx| group_of_project_check_in(tx, project, group)).await?;
    let own = format!("{}/v3/OS-EP-FILTER/endpoint_groups/{group}/projects/{project}", req.base_url);
    let view = json!({ "endpoint_group_id": group, "project_id": project, "links": { "self": own } });
    answer(200, &json!({ "project_endpoint_group": view }))
}

async fn add_to_project(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("add_endpoint_group_to_project", &req.ctx, &Value::Null)?;
    identity.project_endpoint_group_add(&req.ctx, req.param("project_id"), req.param("endpoint_group_id")).await?;
    nothing()
}

async fn remove_from_project(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("remove_endpoint_group_from_project", &req.ctx, &Value::Null)?;
    identity.project_endpoint_group_remove(&req.ctx, req.param("project_id"), req.param("endpoint_group_id")).await?;
    nothing()
}

async fn index_of_project(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_endpoint_groups_for_project", &req.ctx, &Value::Null)?;
    let groups = identity.0.store.read(|tx| groups_of_project_in(tx, req.param("project_id"))).await?;
    answer(200, &collection(&req, "endpoint_groups", groups.iter().map(|group| group.view(&req)).collect(), None))
}

async fn index_project_endpoints(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_endpoints_for_project", &req.ctx, &Value::Null)?;
    let id = req.param("project_id");
    let endpoints = identity
        .0
        .store
        .read(|tx| {
            project_get_in(tx, id)?;
            endpoints_of_project_in(tx, id)
        })
        .await?;
    answer(200, &collection(&req, "endpoints", endpoints.iter().map(|endpoint| endpoint.view(&req)).collect(), None))
}

async fn index_endpoint_projects(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_projects_for_endpoint", &req.ctx, &Value::Null)?;
    let projects = identity.0.store.read(|tx| projects_of_endpoint_in(tx, req.param("endpoint_id"))).await?;
    answer(200, &collection(&req, "projects", projects.iter().map(|project| project.view(&req)).collect(), None))
}

async fn check_endpoint(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("check_endpoint_in_project", &req.ctx, &Value::Null)?;
    identity.0.store.read(|tx| endpoint_of_project_check_in(tx, req.param("project_id"), req.param("endpoint_id"))).await?;
    nothing()
}

async fn add_endpoint(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("add_endpoint_to_project", &req.ctx, &Value::Null)?;
    identity.project_endpoint_add(&req.ctx, req.param("project_id"), req.param("endpoint_id")).await?;
    nothing()
}

async fn remove_endpoint(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("remove_endpoint_from_project", &req.ctx, &Value::Null)?;
    identity.project_endpoint_remove(&req.ctx, req.param("project_id"), req.param("endpoint_id")).await?;
    nothing()
}
