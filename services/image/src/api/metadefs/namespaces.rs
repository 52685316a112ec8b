//! `/v2/metadefs/namespaces` and `/v2/metadefs/resource_types`.

use base::Result;
use http_api::response::set_header;
use http_api::{Query, Request, Response, empty, json};
use serde_json::{Map, Value, json as object};

use super::{object as object_view, of_kind, plain, properties, stamp};
use crate::Images;
use crate::metadefs::{Item, ItemKind, Namespace};

/// Attributes without a value are left out, and so are kinds of which nothing is there.
fn view(namespace: &Namespace, items: &[Item]) -> Value {
    let mut view = Map::new();
    let texts = [
        ("namespace", Some(&namespace.namespace)),
        ("display_name", namespace.display_name.as_ref()),
        ("description", namespace.description.as_ref()),
        ("visibility", Some(&namespace.visibility)),
        ("owner", namespace.owner.as_ref()),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            view.insert(name.into(), text.as_str().into());
        }
    }
    view.insert("protected".into(), namespace.protected.into());
    stamp(&mut view, namespace.created_at, namespace.updated_at);
    view.insert("self".into(), format!("/v2/metadefs/namespaces/{}", namespace.namespace).into());
    view.insert("schema".into(), "/v2/schemas/metadefs/namespace".into());
    let has = |kind| of_kind(items, kind).next().is_some();
    if has(ItemKind::ResourceType) {
        view.insert("resource_type_associations".into(), of_kind(items, ItemKind::ResourceType).map(plain).collect());
    }
    if has(ItemKind::Property) {
        view.insert("properties".into(), properties(of_kind(items, ItemKind::Property)));
    }
    if has(ItemKind::Object) {
        let name = &namespace.namespace;
        view.insert("objects".into(), of_kind(items, ItemKind::Object).map(|item| object_view(name, item)).collect());
    }
    if has(ItemKind::Tag) {
        view.insert("tags".into(), of_kind(items, ItemKind::Tag).map(|tag| object!({ "name": tag.name })).collect());
    }
    Value::Object(view)
}

pub async fn index(images: Images, req: Request) -> Result<Response> {
    let page = images.namespace_list(&req.ctx, &req.query).await?;
    let others = Query(req.query.0.iter().filter(|(name, _)| name != "marker").cloned().collect());
    let first = others.encode();
    let mut body = object!({
        "namespaces": page.namespaces.iter().map(|whole| view(&whole.namespace, &whole.items)).collect::<Vec<_>>(),
        "first": if first.is_empty() { "/v2/metadefs/namespaces".to_string() } else { format!("/v2/metadefs/namespaces?{first}") },
        "schema": "/v2/schemas/metadefs/namespaces",
    });
    if let Some(last) = page.namespaces.last().filter(|_| page.more) {
        let mut next = others;
        next.0.push(("marker".into(), last.namespace.namespace.clone()));
        body["next"] = Value::from(format!("/v2/metadefs/namespaces?{}", next.encode()));
    }
    json(200, &body)
}

pub async fn create(images: Images, req: Request) -> Result<Response> {
    let whole = images.namespace_create(&req.ctx, req.object()?).await?;
    let mut response = json(201, &view(&whole.namespace, &whole.items))?;
    set_header(&mut response, "location", &format!("{}/v2/metadefs/namespaces/{}", req.base_url, whole.namespace.namespace));
    Ok(response)
}

pub async fn show(images: Images, req: Request) -> Result<Response> {
    let whole = images.namespace_whole(&req.ctx, req.param("namespace"), req.query.get("resource_type")).await?;
    json(200, &view(&whole.namespace, &whole.items))
}

pub async fn update(images: Images, req: Request) -> Result<Response> {
    let namespace = images.namespace_update(&req.ctx, req.param("namespace"), req.object()?).await?;
    json(200, &view(&namespace, &[]))
}

pub async fn delete(images: Images, req: Request) -> Result<Response> {
    images.namespace_delete(&req.ctx, req.param("namespace")).await?;
    empty(204)
}

pub async fn resource_types(images: Images, req: Request) -> Result<Response> {
    let types = images.resource_type_list(&req.ctx).await?;
    let types =
        types.iter().map(|(name, created, updated)| object!({"name": name, "created_at": created.iso(), "updated_at": updated.iso()}));
    json(200, &object!({ "resource_types": types.collect::<Vec<_>>() }))
}
