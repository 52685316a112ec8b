//! `/v3/users/{user_id}/credentials/OS-EC2`, `/v3/ec2tokens` and `/v3/s3tokens`.

use base::{Error, Result};
use http_api::{Request, Response, response};
use serde_json::{Value, json};

use super::credentials::{check_scope, free_token};
use super::{R, answer, nothing, rendered};
use crate::credentials::{Credential, id_of_access_key};
use crate::ec2::{Signed, fresh, view};
use crate::list::collection;
use crate::users::user_get_in;
use crate::wire::{self, Object};
use crate::{Identity, fault};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/users/{user_id}/credentials/OS-EC2", index)
        .post("/v3/users/{user_id}/credentials/OS-EC2", create)
        .get("/v3/users/{user_id}/credentials/OS-EC2/{credential_id}", show)
        .delete("/v3/users/{user_id}/credentials/OS-EC2/{credential_id}", delete)
        .post("/v3/ec2tokens", ec2tokens)
        .post("/v3/s3tokens", s3tokens)
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let user = req.param("user_id");
    identity.allow("ec2_list_credentials", &req.ctx, &json!({ "user_id": user }))?;
    identity.0.store.read(|tx| user_get_in(tx, user)).await?;
    let live = identity.caller(&req).await?;
    let found = identity.credential_list_ec2(user).await?;
    let views = found.iter().filter(|c| check_scope(&req, &live, c).is_ok()).map(|c| view(c, &req)).collect();
    answer(200, &collection(&req, "credentials", views, None))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let user = req.param("user_id");
    identity.allow("ec2_create_credential", &req.ctx, &json!({ "user_id": user, "target": { "credential": { "user_id": user } } }))?;
    let mut body = wire::body(&req)?;
    let project = wire::Take { map: &mut body, what: "credential" }.text("tenant_id", 64)?;
    let mut credential = fresh(user, &project.ok_or_else(|| fault::field("tenant_id", "'tenant_id' is a required property"))?);
    let live = free_token(&identity, &req).await?;
    check_scope(&req, &live, &credential)?;
    credential.bind(&live)?;
    let credential = identity.ec2_create(&req.ctx, credential).await?;
    answer(201, &json!({ "credential": view(&credential, &req) }))
}

/// The credential of the path, when the caller may; as upstream the access key alone names it, and the user of the path has to be there.
/// That there is none everybody hears: nobody guesses the others.
async fn guarded(identity: &Identity, req: &Request, rule: &str) -> Result<Credential> {
    let (user, access) = (req.param("user_id"), req.param("credential_id"));
    let missing = || fault::not_found("credential", access);
    let credential = identity.credential_fetch(&id_of_access_key(access)).await?.filter(Credential::is_ec2).ok_or_else(missing)?;
    identity.allow(rule, &req.ctx, &credential.target())?;
    identity.0.store.read(|tx| user_get_in(tx, user)).await?;
    check_scope(req, &*identity.caller(req).await?, &credential)?;
    Ok(credential)
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let credential = guarded(&identity, &req, "ec2_get_credential").await?;
    answer(200, &json!({ "credential": view(&credential, &req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let credential = guarded(&identity, &req, "ec2_delete_credential").await?;
    free_token(&identity, &req).await?;
    identity.credential_delete(&req.ctx, &credential.id).await?;
    nothing()
}

/// What was signed: clients call it by three names.
fn signed(req: &Request) -> Result<Object> {
    let mut body = wire::body(req)?;
    if body.is_empty() {
        return Err(Error::invalid("request must include a request body"));
    }
    let names = ["credentials", "credential", "ec2Credentials"];
    match names.into_iter().find_map(|name| body.remove(name).filter(|value| !value.is_null())) {
        None => Ok(Object::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(fault::field("credentials", "it is not of type 'object'")),
    }
}

async fn ec2tokens(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("ec2tokens_validate", &req.ctx, &Value::Null)?;
    let (token, live) = identity.ec2_token(&signed(&req)?, Signed::Ec2, req.address).await?;
    let mut response = rendered(200, live.rendered(true));
    response::set_header(&mut response, "x-subject-token", &token);
    Ok(response)
}

/// The one who asks learns who signed, but gets no token to act as them.
async fn s3tokens(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("s3tokens_validate", &req.ctx, &Value::Null)?;
    let (_, live) = identity.ec2_token(&signed(&req)?, Signed::S3, req.address).await?;
    Ok(rendered(200, live.rendered(true)))
}
