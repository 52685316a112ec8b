//! What is in a namespace.

use base::Result;
use http_api::query::parse_bool;
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json as object};

use super::{object as object_view, plain, properties};
use crate::Images;
use crate::metadefs::{Item, ItemKind};

fn namespace(req: &Request) -> &str {
    req.param("namespace")
}

pub async fn association_index(images: Images, req: Request) -> Result<Response> {
    let found = images.item_list(&req.ctx, namespace(&req), ItemKind::ResourceType, &req.query).await?;
    json(200, &object!({ "resource_type_associations": found.iter().map(plain).collect::<Vec<_>>() }))
}

pub async fn association_create(images: Images, req: Request) -> Result<Response> {
    json(201, &plain(&images.item_create(&req.ctx, namespace(&req), ItemKind::ResourceType, req.object()?).await?))
}

pub async fn association_delete(images: Images, req: Request) -> Result<Response> {
    images.item_delete(&req.ctx, namespace(&req), ItemKind::ResourceType, req.param("resource_type")).await?;
    empty(204)
}

pub async fn object_index(images: Images, req: Request) -> Result<Response> {
    let found = images.item_list(&req.ctx, namespace(&req), ItemKind::Object, &req.query).await?;
    let objects: Vec<Value> = found.iter().map(|item| object_view(namespace(&req), item)).collect();
    // Without the slash in front, as upstream.
    json(200, &object!({ "objects": objects, "schema": "v2/schemas/metadefs/objects" }))
}

pub async fn object_create(images: Images, req: Request) -> Result<Response> {
    let item = images.item_create(&req.ctx, namespace(&req), ItemKind::Object, req.object()?).await?;
    json(201, &object_view(namespace(&req), &item))
}

pub async fn object_show(images: Images, req: Request) -> Result<Response> {
    let item = images.item_show(&req.ctx, namespace(&req), ItemKind::Object, req.param("object_name")).await?;
    json(200, &object_view(namespace(&req), &item))
}

pub async fn object_update(images: Images, req: Request) -> Result<Response> {
    let item = images.item_update(&req.ctx, namespace(&req), ItemKind::Object, req.param("object_name"), req.object()?).await?;
    json(200, &object_view(namespace(&req), &item))
}

pub async fn object_delete(images: Images, req: Request) -> Result<Response> {
    images.item_delete(&req.ctx, namespace(&req), ItemKind::Object, req.param("object_name")).await?;
    empty(204)
}

pub async fn objects_delete(images: Images, req: Request) -> Result<Response> {
    images.items_delete(&req.ctx, namespace(&req), ItemKind::Object).await?;
    empty(204)
}

/// A property by itself has its name among its words, and no times.
fn property_view(item: &Item) -> Value {
    let mut view = item.body.clone();
    view.insert("name".into(), item.name.as_str().into());
    Value::Object(view)
}

pub async fn property_index(images: Images, req: Request) -> Result<Response> {
    let found = images.item_list(&req.ctx, namespace(&req), ItemKind::Property, &req.query).await?;
    json(200, &object!({ "properties": properties(found.iter()) }))
}

pub async fn property_create(images: Images, req: Request) -> Result<Response> {
    json(201, &property_view(&images.item_create(&req.ctx, namespace(&req), ItemKind::Property, req.object()?).await?))
}

pub async fn property_show(images: Images, req: Request) -> Result<Response> {
    let name = req.param("property_name");
    let item = match req.query.get("resource_type").filter(|t| !t.is_empty()) {
        Some(resource_type) => images.property_of(&req.ctx, namespace(&req), resource_type, name).await?,
        None => images.item_show(&req.ctx, namespace(&req), ItemKind::Property, name).await?,
    };
    json(200, &property_view(&item))
}

pub async fn property_update(images: Images, req: Request) -> Result<Response> {
    let item = images.item_update(&req.ctx, namespace(&req), ItemKind::Property, req.param("property_name"), req.object()?).await?;
    json(200, &property_view(&item))
}

pub async fn property_delete(images: Images, req: Request) -> Result<Response> {
    images.item_delete(&req.ctx, namespace(&req), ItemKind::Property, req.param("property_name")).await?;
    empty(204)
}

pub async fn properties_delete(images: Images, req: Request) -> Result<Response> {
    images.items_delete(&req.ctx, namespace(&req), ItemKind::Property).await?;
    empty(204)
}

fn names(tags: &[Item]) -> Value {
    object!({ "tags": tags.iter().map(|tag| object!({ "name": tag.name })).collect::<Vec<_>>() })
}

pub async fn tag_index(images: Images, req: Request) -> Result<Response> {
    json(200, &names(&images.item_list(&req.ctx, namespace(&req), ItemKind::Tag, &req.query).await?))
}

pub async fn tags_create(images: Images, req: Request) -> Result<Response> {
    let beside = req.header("x-openstack-append").and_then(parse_bool).unwrap_or(false);
    json(201, &names(&images.tags_create(&req.ctx, namespace(&req), req.object()?, beside).await?))
}

pub async fn tag_show(images: Images, req: Request) -> Result<Response> {
    json(200, &plain(&images.item_show(&req.ctx, namespace(&req), ItemKind::Tag, req.param("tag_name")).await?))
}

pub async fn tag_create(images: Images, req: Request) -> Result<Response> {
    let body = [("name".to_string(), Value::from(req.param("tag_name")))].into_iter().collect();
    json(201, &plain(&images.item_create(&req.ctx, namespace(&req), ItemKind::Tag, body).await?))
}

pub async fn tag_update(images: Images, req: Request) -> Result<Response> {
    json(200, &plain(&images.item_update(&req.ctx, namespace(&req), ItemKind::Tag, req.param("tag_name"), req.object()?).await?))
}

pub async fn tag_delete(images: Images, req: Request) -> Result<Response> {
    images.item_delete(&req.ctx, namespace(&req), ItemKind::Tag, req.param("tag_name")).await?;
    empty(204)
}

pub async fn tags_delete(images: Images, req: Request) -> Result<Response> {
    images.items_delete(&req.ctx, namespace(&req), ItemKind::Tag).await?;
    empty(204)
}
