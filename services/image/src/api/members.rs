//! `/v2/images/{image_id}/members`.

use base::{Error, Result};
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json as object};

use crate::Images;
use crate::model::Member;

const MAX_ID: usize = 255;

fn view(member: &Member) -> Value {
    object!({
        "member_id": member.member,
        "image_id": member.image_id,
        "status": member.status,
        "created_at": member.created_at.iso(),
        "updated_at": member.updated_at.iso(),
        "schema": "/v2/schemas/member",
    })
}

pub async fn index(images: Images, req: Request) -> Result<Response> {
    let members = images.member_list(&req.ctx, req.param("image_id")).await?;
    json(200, &object!({"members": members.iter().map(view).collect::<Vec<_>>(), "schema": "/v2/schemas/members"}))
}

pub async fn create(images: Images, req: Request) -> Result<Response> {
    let body = req.object()?;
    let member = match body.get("member") {
        None => return Err(Error::invalid("Member to be added not specified")),
        Some(Value::String(member)) if member.is_empty() => return Err(Error::invalid("Member can't be empty")),
        Some(Value::String(member)) if member.chars().count() > MAX_ID || member.contains('\0') => {
            return Err(Error::invalid(format!("Member can't be longer than {MAX_ID} characters or contain a NUL character")));
        }
        Some(Value::String(member)) => member,
        Some(_) => return Err(Error::invalid("Expected a member in the form: {\"member\": \"project_id\"}")),
    };
    json(200, &view(&images.member_create(&req.ctx, req.param("image_id"), member).await?))
}

pub async fn show(images: Images, req: Request) -> Result<Response> {
    json(200, &view(&images.member_show(&req.ctx, req.param("image_id"), req.param("member_id")).await?))
}

pub async fn update(images: Images, req: Request) -> Result<Response> {
    let body = req.object()?;
    let status = match body.get("status") {
        None => return Err(Error::invalid("Status not specified")),
        Some(Value::String(status)) => status,
        Some(_) => return Err(Error::invalid("Expected a status in the form: {\"status\": \"status\"}")),
    };
    json(200, &view(&images.member_update(&req.ctx, req.param("image_id"), req.param("member_id"), status).await?))
}

pub async fn delete(images: Images, req: Request) -> Result<Response> {
    images.member_delete(&req.ctx, req.param("image_id"), req.param("member_id")).await?;
    empty(204)
}
