//! Tags of any resource.

use base::Result;
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json};

use super::{access, object_of, seen};
use crate::attr::Check;
use crate::row::{self, Resource};
use crate::{Network, fault};

const MAX_LENGTH: usize = 255;
const MAX_TAGS: usize = 50;

/// Tags out of a body: different, not too long, not too many, without commas.
pub fn check(value: &Value) -> Result<Vec<String>> {
    let checked = Check::Texts(MAX_LENGTH)
        .apply(value)
        .map_err(|reason| fault::bad("InvalidInput", format!("Invalid input for tags. Reason: {reason}.")))?;
    let tags: Vec<String> = crate::parsed(&checked)?;
    if let Some(tag) = tags.iter().find(|t| t.contains(',')) {
        return Err(fault::input(format!("a tag must not contain a comma: '{tag}'")));
    }
    if tags.len() > MAX_TAGS {
        return Err(fault::input(format!("a resource has at most {MAX_TAGS} tags")));
    }
    Ok(tags)
}

fn missing(tag: &str) -> base::Error {
    fault::missing("TagNotFound", format!("Tag {tag} could not be found."))
}

async fn tags_of<T: Resource>(net: &Network, req: &Request) -> Result<Vec<String>> {
    let ctx = &req.ctx;
    let read = |tx: &store::Tx| {
        let (item, object) = seen::<T>(net, tx, ctx, req.param("id"))?;
        access::require(net, ctx, &format!("get_{}:tags", T::KIND.singular), &object)?;
        Ok(item.common().tags.clone())
    };
    net.core().store.read(read).await
}

/// Changes the tags; the closure answers them as they shall be.
async fn change<T: Resource>(
    net: &Network,
    req: &Request,
    action: &str,
    f: impl FnOnce(Vec<String>) -> Result<Vec<String>> + Send + 'static,
) -> Result<Vec<String>> {
    let (handle, ctx, id) = (net.clone(), req.ctx.clone(), req.param("id").to_string());
    let rule = format!("{action}_{}:tags", T::KIND.singular);
    net.core()
        .store
        .write(move |tx| {
            let (mut item, object) = seen::<T>(&handle, tx, &ctx, &id)?;
            access::require(&handle, &ctx, &rule, &object)?;
            let tags = f(item.common().tags.clone())?;
            if tags != item.common().tags {
                item.common_mut().tags = check(&json!(tags))?;
                row::update(tx, &mut item)?;
                handle.recorded(tx, &ctx, &format!("{}.update.end", T::KIND.singular), &item)?;
            }
            Ok(item.common().tags.clone())
        })
        .await
}

fn given(req: &Request) -> Result<Vec<String>> {
    match object_of(req)?.get("tags") {
        Some(tags) => check(tags),
        None => Err(fault::input("Invalid tags body: tags is required")),
    }
}

pub async fn index<T: Resource>(net: Network, req: Request) -> Result<Response> {
    json(200, &json!({"tags": tags_of::<T>(&net, &req).await?}))
}

pub async fn show<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let tag = req.param("tag");
    if tags_of::<T>(&net, &req).await?.iter().any(|t| t == tag) { empty(204) } else { Err(missing(tag)) }
}

pub async fn replace<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let tags = given(&req)?;
    json(200, &json!({"tags": change::<T>(&net, &req, "update", |_| Ok(tags)).await?}))
}

fn with(mut tags: Vec<String>, more: Vec<String>) -> Vec<String> {
    for tag in more {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    tags
}

pub async fn add_several<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let more = given(&req)?;
    json(201, &json!({"tags": change::<T>(&net, &req, "create", |tags| Ok(with(tags, more))).await?}))
}

pub async fn add<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let more = check(&json!([req.param("tag")]))?;
    change::<T>(&net, &req, "update", |tags| Ok(with(tags, more))).await?;
    empty(201)
}

pub async fn clear<T: Resource>(net: Network, req: Request) -> Result<Response> {
    change::<T>(&net, &req, "delete", |_| Ok(Vec::new())).await?;
    empty(204)
}

pub async fn remove<T: Resource>(net: Network, req: Request) -> Result<Response> {
    let tag = req.param("tag").to_string();
    let without = move |mut tags: Vec<String>| {
        let at = tags.iter().position(|t| *t == tag).ok_or_else(|| missing(&tag))?;
        tags.remove(at);
        Ok(tags)
    };
    change::<T>(&net, &req, "delete", without).await?;
    empty(204)
}
