//! `/v2/tasks` and `/v2/images/{image_id}/tasks`.

use base::Result;
use http_api::response::set_header;
use http_api::{Query, Request, Response, json};
use serde_json::{Value, json as object};

use crate::tasks::Task;
use crate::{Images, schema};

/// What lists show of a task.
fn part(task: &Task) -> Value {
    object!({
        "id": task.id,
        "type": task.kind,
        "status": task.status,
        "owner": task.owner,
        "image_id": task.image_id,
        "user_id": task.user_id,
        "request_id": task.request_id,
        "expires_at": task.expires_at.map(|at| at.iso()),
        "created_at": task.created_at.iso(),
        "updated_at": task.updated_at.iso(),
        "self": format!("/v2/tasks/{}", task.id),
        "schema": "/v2/schemas/task",
    })
}

fn view(task: &Task) -> Value {
    let mut view = part(task);
    view["input"] = task.input.clone();
    view["result"] = task.result.clone().unwrap_or_default();
    view["message"] = task.message.as_str().into();
    view
}

/// A task beside its image: as the record has it, without links.
fn record(task: &Task) -> Value {
    let mut record = view(task);
    record["deleted"] = false.into();
    record["deleted_at"] = Value::Null;
    if let Some(record) = record.as_object_mut() {
        record.remove("self");
        record.remove("schema");
    }
    record
}

pub async fn index(images: Images, req: Request) -> Result<Response> {
    let page = images.task_list(&req.ctx, &req.query).await?;
    let others = Query(req.query.0.iter().filter(|(name, _)| name != "marker").cloned().collect());
    let first = others.encode();
    let mut body = object!({
        "tasks": page.tasks.iter().map(part).collect::<Vec<_>>(),
        "first": if first.is_empty() { "/v2/tasks".to_string() } else { format!("/v2/tasks?{first}") },
        "schema": "/v2/schemas/tasks",
    });
    if let Some(last) = page.tasks.last().filter(|_| page.more) {
        let mut next = others;
        next.0.push(("marker".into(), last.id.clone()));
        body["next"] = Value::from(format!("/v2/tasks?{}", next.encode()));
    }
    json(200, &body)
}

pub async fn create(images: Images, req: Request) -> Result<Response> {
    let task = images.task_create(&req.ctx, req.token.as_deref(), req.object()?).await?;
    let mut response = json(201, &view(&task))?;
    set_header(&mut response, "location", &format!("{}/v2/tasks/{}", req.base_url, task.id));
    Ok(response)
}

pub async fn show(images: Images, req: Request) -> Result<Response> {
    json(200, &view(&images.task_show(&req.ctx, req.param("task_id")).await?))
}

pub async fn delete(images: Images, req: Request) -> Result<Response> {
    images.task_delete(&req.ctx)?;
    http_api::empty(204)
}

pub async fn of_image(images: Images, req: Request) -> Result<Response> {
    let tasks = images.image_tasks(&req.ctx, req.param("image_id")).await?;
    json(200, &object!({ "tasks": tasks.iter().map(record).collect::<Vec<_>>() }))
}

pub async fn schema(_: Images, _: Request) -> Result<Response> {
    json(200, &schema::task())
}

pub async fn schemas(_: Images, _: Request) -> Result<Response> {
    let mut item = schema::task();
    if let Some(properties) = item["properties"].as_object_mut() {
        properties.retain(|name, _| !matches!(name.as_str(), "input" | "result" | "message"));
    }
    json(200, &schema::collection("tasks", item))
}
