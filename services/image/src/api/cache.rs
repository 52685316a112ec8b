//! `/v2/cache`.

use base::{Error, Result};
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json as object};

use crate::Images;
use crate::cache::Part;

/// Seconds since 1970, with a fraction.
#[allow(clippy::cast_precision_loss)]
fn seconds(at: base::Timestamp) -> f64 {
    at.micros() as f64 / 1e6
}

pub async fn index(images: Images, req: Request) -> Result<Response> {
    let entries = images.cache_list(&req.ctx).await?;
    let (cached, queued): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.cached);
    let cached = cached.iter().map(|entry| {
        object!({
            "image_id": entry.image_id,
            "hits": entry.hits,
            "last_accessed": seconds(entry.last_accessed),
            "last_modified": seconds(entry.last_modified),
            "size": entry.size,
        })
    });
    let queued: Vec<&str> = queued.iter().map(|entry| entry.image_id.as_str()).collect();
    json(200, &object!({"cached_images": cached.collect::<Vec<Value>>(), "queued_images": queued}))
}

pub async fn clear(images: Images, req: Request) -> Result<Response> {
    let part = match req.header("x-image-cache-clear-target").unwrap_or_default().to_ascii_lowercase().as_str() {
        "" => Part::All,
        "cache" => Part::Cached,
        "queue" => Part::Queued,
        _ => return Err(Error::invalid("If provided 'x-image-cache-clear-target' must be 'cache', 'queue' or empty string.")),
    };
    images.cache_clear(&req.ctx, part).await?;
    empty(204)
}

pub async fn queue(images: Images, req: Request) -> Result<Response> {
    images.cache_queue(&req.ctx, req.param("image_id")).await?;
    empty(202)
}

pub async fn delete(images: Images, req: Request) -> Result<Response> {
    images.cache_delete(&req.ctx, req.param("image_id")).await?;
    empty(204)
}

/// Nothing is asked for by a body, but one that is sent has to be one.
fn no_body(req: &Request) -> Result<()> {
    if req.body.is_empty() { Ok(()) } else { req.json::<Value>().map(drop) }
}

pub async fn clean(images: Images, req: Request) -> Result<Response> {
    no_body(&req)?;
    images.cache_clean(&req.ctx).await?;
    empty(200)
}

pub async fn prune(images: Images, req: Request) -> Result<Response> {
    no_body(&req)?;
    let (files, bytes) = images.cache_prune(&req.ctx).await?;
    json(200, &object!({"total_files_pruned": files, "total_bytes_pruned": bytes}))
}

pub async fn nodes(images: Images, req: Request) -> Result<Response> {
    json(200, &images.cache_nodes(&req.ctx, req.param("image_id")).await?)
}
