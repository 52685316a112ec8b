//! `/images` before 2.36 and the images' metadata until 2.38: the image service's images.

use std::collections::BTreeMap;

use base::{Error, Kind, Result};
use http_api::query::{self, parse_bool};
use http_api::{Query, Request, Response, Routes, Version, empty, json};
use image::Image;
use serde_json::{Map, Value, json};

use super::proxies::{self, missing};
use super::server_view::Links;
use crate::fields::{self, Field, Fields};
use crate::{Compute, quotas};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/images", index)
        .get("/images/detail", detail)
        .get("/images/{id}", show)
        .delete("/images/{id}", delete)
        .get("/images/{id}/metadata", metadata_index)
        .post("/images/{id}/metadata", metadata_create)
        .put("/images/{id}/metadata", metadata_replace)
        .get("/images/{id}/metadata/{key}", metadata_show)
        .put("/images/{id}/metadata/{key}", metadata_update)
        .delete("/images/{id}/metadata/{key}", metadata_delete)
}

/// The last version with metadata of images; they stayed longer than the images.
const LAST_METADATA: Version = Version::new(2, 38);
/// How many images are read at once.
const PAGE: usize = 500;

fn links(req: &Request, id: &str) -> Value {
    let mut links = Links::new(req).of("images", id);
    let alternate = format!("{}/image/v2/images/{id}", req.root_url);
    if let Some(list) = links.as_array_mut() {
        list.push(json!({"rel": "alternate", "type": "application/vnd.openstack.image", "href": alternate}));
    }
    links
}

/// Status and progress, in compute's words.
fn progress(image: &Image) -> (&'static str, u8) {
    match image.status.as_str() {
        "active" => ("ACTIVE", 100),
        "queued" => ("SAVING", 25),
        "saving" => ("SAVING", 50),
        _ => ("UNKNOWN", 0),
    }
}

/// The custom properties. Two of them are documents, which compute shows as such.
fn metadata(image: &Image) -> Map<String, Value> {
    let value = |name: &str, text: &str| match name {
        "block_device_mapping" | "mappings" => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        _ => json!(text),
    };
    image.properties.iter().map(|(name, text)| (name.clone(), value(name, text))).collect()
}

fn view(req: &Request, image: &Image) -> Value {
    let (status, progress) = progress(image);
    let mut view = json!({
        "id": image.id,
        "name": image.name,
        "minRam": image.min_ram,
        "minDisk": image.min_disk,
        "metadata": metadata(image),
        "created": image.created_at.iso(),
        "updated": image.updated_at.iso(),
        "status": status,
        "progress": progress,
        "OS-EXT-IMG-SIZE:size": image.size.unwrap_or(0),
        "links": links(req, &image.id),
    });
    if let Some(server) = image.properties.get("instance_uuid") {
        view["server"] = json!({"id": server, "links": Links::new(req).of("servers", server)});
    }
    if let Some(auto) = image.properties.get("auto_disk_config") {
        view["OS-DCF:diskConfig"] = json!(if parse_bool(auto) == Some(true) { "AUTO" } else { "MANUAL" });
    }
    view
}

fn brief(req: &Request, image: &Image) -> Value {
    json!({"id": image.id, "name": image.name, "links": links(req, &image.id)})
}

/// The image service's filter for one of compute's; none for what is not looked at.
fn filter(name: &str, value: &str) -> Option<(String, String)> {
    let (name, value) = match name {
        "name" => ("name", value.to_string()),
        "status" => ("status", value.to_lowercase()),
        "changes-since" => ("updated_at", format!("gte:{value}")),
        // A server may be named by its address.
        "server" => ("instance_uuid", value.rsplit('/').next().unwrap_or_default().to_string()),
        "type" => ("image_type", value.to_string()),
        "minRam" => ("min_ram", value.to_string()),
        "minDisk" => ("min_disk", value.to_string()),
        _ => (name.strip_prefix("property-")?, value.to_string()),
    };
    Some((name.to_string(), value))
}

/// A count from 1 on in the query.
fn positive(req: &Request, name: &str) -> Result<Option<usize>> {
    match proxies::count(req, name)? {
        Some(0) => Err(Error::invalid(format!("Invalid input for query parameters {name}. Value: 0. 0 is less than the minimum of 1"))),
        count => Ok(count),
    }
}

/// The images that a list asks for, newest first: all of them, when it names no limit.
async fn found(compute: &Compute, req: &Request) -> Result<Vec<Image>> {
    let limit = positive(req, "limit")?.unwrap_or(usize::MAX);
    let page = positive(req, "page_size")?.unwrap_or(PAGE).min(limit);
    positive(req, "offset")?;
    let mut filters: Vec<(String, String)> = Vec::new();
    for (name, value) in &req.query.0 {
        filters.extend(filter(name, value));
    }
    let mut marker = req.query.get("marker").map(str::to_string);
    let mut images: Vec<Image> = Vec::new();
    loop {
        let mut asked = filters.clone();
        asked.push(("limit".into(), page.min(limit - images.len()).to_string()));
        asked.extend(marker.take().map(|id| ("marker".to_string(), id)));
        let part = compute.images.image_list(&req.ctx, &Query(asked)).await?;
        images.extend(part.images);
        match images.last().filter(|_| part.more && images.len() < limit) {
            Some(last) => marker = Some(last.id.clone()),
            None => return Ok(images),
        }
    }
}

fn answer(compute: &Compute, req: &Request, images: &[Image], path: &str, show: fn(&Request, &Image) -> Value) -> Result<Response> {
    let mut body = json!({"images": images.iter().map(|image| show(req, image)).collect::<Vec<_>>()});
    let full = proxies::slice(compute, req)?.1;
    if let Some(last) = images.last().filter(|_| images.len() == full) {
        let mut pairs: Vec<(String, String)> = req.query.0.iter().filter(|(k, _)| k != "marker").cloned().collect();
        pairs.push(("marker".into(), last.id.clone()));
        let href = format!("{}?{}", Links::new(req).own(path), query::Query(pairs).encode());
        body["images_links"] = json!([{"rel": "next", "href": href}]);
    }
    json(200, &body)
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    proxies::there(&req)?;
    answer(&compute, &req, &found(&compute, &req).await?, "images", brief)
}

async fn detail(compute: Compute, req: Request) -> Result<Response> {
    proxies::there(&req)?;
    answer(&compute, &req, &found(&compute, &req).await?, "images/detail", view)
}

/// The image of the path.
async fn image(compute: &Compute, req: &Request) -> Result<Image> {
    compute.images.image_show(&req.ctx, req.param("id")).await.map_err(told)
}

fn told(error: Error) -> Error {
    if error.is(Kind::NotFound) { missing("Image not found.") } else { error }
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    proxies::there(&req)?;
    json(200, &json!({"image": view(&req, &image(&compute, &req).await?)}))
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    proxies::there(&req)?;
    compute.images.image_delete(&req.ctx, req.param("id")).await.map_err(|error| match error.kind() {
        Kind::Forbidden => Error::forbidden("You are not allowed to delete the image."),
        _ => told(error),
    })?;
    empty(204)
}

fn metadata_there(req: &Request) -> Result<()> {
    if req.version > LAST_METADATA { Err(missing("The resource could not be found.")) } else { Ok(()) }
}

async fn metadata_index(compute: Compute, req: Request) -> Result<Response> {
    metadata_there(&req)?;
    json(200, &json!({"metadata": metadata(&image(&compute, &req).await?)}))
}

async fn metadata_show(compute: Compute, req: Request) -> Result<Response> {
    metadata_there(&req)?;
    let mut metadata = metadata(&image(&compute, &req).await?);
    let key = req.param("key");
    let value = metadata.remove(key).ok_or_else(|| missing("The resource could not be found."))?;
    json(200, &json!({"meta": {key: value}}))
}

fn metadata_body(req: &Request, name: &str, read: fn(Field) -> Result<BTreeMap<String, String>>) -> Result<BTreeMap<String, String>> {
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let metadata = root.need(name, read)?;
    root.finish()?;
    Ok(metadata)
}

/// Gives the image these properties and no others, if the caller's quota has room for them.
async fn metadata_store(compute: &Compute, req: &Request, properties: BTreeMap<String, String>) -> Result<Image> {
    let project = req.ctx.project_id();
    let limit = compute.core.store.read(|tx| quotas::limit_in(tx, project, "metadata_items")).await?;
    if limit >= 0 && properties.len() as i64 > limit {
        return Err(Error::forbidden("Image metadata limit exceeded"));
    }
    compute.images.properties_replace(&req.ctx, req.param("id"), properties).await.map_err(told)
}

async fn metadata_create(compute: Compute, req: Request) -> Result<Response> {
    metadata_there(&req)?;
    let more = metadata_body(&req, "metadata", fields::metadata)?;
    let mut properties = image(&compute, &req).await?.properties;
    properties.extend(more);
    json(200, &json!({"metadata": metadata(&metadata_store(&compute, &req, properties).await?)}))
}

async fn metadata_replace(compute: Compute, req: Request) -> Result<Response> {
    metadata_there(&req)?;
    let properties = metadata_body(&req, "metadata", fields::metadata)?;
    json(200, &json!({"metadata": metadata(&metadata_store(&compute, &req, properties).await?)}))
}

async fn metadata_update(compute: Compute, req: Request) -> Result<Response> {
    metadata_there(&req)?;
    let one = |field: Field| match field.value.as_object().map(Map::len) {
        Some(0) => Err(field.wrong("it does not have enough properties")),
        Some(2..) => Err(field.wrong("it has too many properties")),
        _ => fields::metadata(field),
    };
    let mut meta = metadata_body(&req, "meta", one)?;
    let key = req.param("key");
    let value = meta.remove(key).ok_or_else(|| Error::invalid("Request body and URI mismatch"))?;
    let mut properties = image(&compute, &req).await?.properties;
    properties.insert(key.to_string(), value.clone());
    metadata_store(&compute, &req, properties).await?;
    json(200, &json!({"meta": {key: value}}))
}

async fn metadata_delete(compute: Compute, req: Request) -> Result<Response> {
    metadata_there(&req)?;
    let mut properties = image(&compute, &req).await?.properties;
    properties.remove(req.param("key")).ok_or_else(|| missing("Invalid metadata key"))?;
    compute.images.properties_replace(&req.ctx, req.param("id"), properties).await.map_err(told)?;
    empty(204)
}
