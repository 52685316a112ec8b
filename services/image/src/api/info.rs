//! What clients ask before they ask for images: versions, schemas, import methods, stores.

use base::{Error, Result};
use http_api::{Request, Response, json};
use serde_json::{Map, Value, json as object};

use crate::imports::METHODS;
use crate::stores::Store;
use crate::{Images, KIND, schema};

/// The published minor versions, newest first.
const VERSIONS: [&str; 18] =
    ["2.18", "2.17", "2.16", "2.15", "2.14", "2.13", "2.12", "2.11", "2.10", "2.9", "2.8", "2.7", "2.6", "2.5", "2.4", "2.3", "2.2", "2.1"];
const OLDEST: &str = "2.0";

fn document(req: &Request) -> Value {
    let href = format!("{}/v2/", req.base_url);
    let newest = VERSIONS[0];
    let all = VERSIONS.into_iter().chain([OLDEST]).map(|version| {
        object!({
            "id": format!("v{version}"),
            "status": if version == newest { "CURRENT" } else { "SUPPORTED" },
            "links": [{"rel": "self", "href": href}],
        })
    });
    object!({ "versions": all.collect::<Vec<_>>() })
}

pub async fn versions(_: Images, req: Request) -> Result<Response> {
    json(200, &document(&req))
}

pub async fn versions_choice(_: Images, req: Request) -> Result<Response> {
    json(300, &document(&req))
}

pub async fn schema_image(_: Images, _: Request) -> Result<Response> {
    json(200, &schema::image())
}

pub async fn schema_images(_: Images, _: Request) -> Result<Response> {
    json(200, &schema::collection("images", schema::image()))
}

pub async fn schema_member(_: Images, _: Request) -> Result<Response> {
    json(200, &schema::member())
}

pub async fn schema_members(_: Images, _: Request) -> Result<Response> {
    json(200, &schema::collection("members", schema::member()))
}

/// The documents of metadata definitions, of one thing and of a list.
pub async fn schema_metadefs(_: Images, req: Request) -> Result<Response> {
    use schema::metadefs as documents;
    let document = match req.param("name") {
        "namespace" => documents::namespace(),
        "namespaces" => documents::collection("namespaces", documents::namespace()),
        "object" => documents::object(),
        "objects" => documents::collection("objects", documents::object()),
        "property" => documents::property(),
        "properties" => documents::properties(),
        "resource_type" => documents::resource_type(),
        "resource_types" => documents::collection("resource_type_associations", documents::resource_type()),
        "tag" => documents::tag(),
        "tags" => documents::collection("tags", documents::tag()),
        other => return Err(Error::not_found("Schema", other)),
    };
    json(200, &document)
}

pub async fn import(_: Images, _: Request) -> Result<Response> {
    json(200, &object!({"import-methods": {"description": "Import methods available.", "type": "array", "value": METHODS}}))
}

/// What everybody sees of a store.
fn store_view(images: &Images, store: &Store) -> Value {
    let mut view = object!({"id": store.id, "description": store.description});
    if store.id == images.stores().default() {
        view["default"] = "true".into();
    }
    if store.is_read_only() {
        view["read-only"] = "true".into();
    }
    view
}

pub async fn stores(images: Images, _: Request) -> Result<Response> {
    let stores: Vec<Value> = images.stores().all().iter().map(|store| store_view(&images, store)).collect();
    json(200, &object!({ "stores": stores }))
}

pub async fn stores_detail(images: Images, req: Request) -> Result<Response> {
    images.core().authorize(KIND, "stores_info_detail", &req.ctx, &())?;
    let detail = |store: &Store| {
        let mut view = store_view(&images, store);
        view["type"] = store.kind().into();
        view["weight"] = store.weight.into();
        view["properties"] = store.properties();
        view
    };
    json(200, &object!({ "stores": images.stores().all().iter().map(detail).collect::<Vec<_>>() }))
}

pub async fn usage(images: Images, req: Request) -> Result<Response> {
    let usage = images.usage(&req.ctx).await?;
    let usage: Map<String, Value> =
        usage.iter().map(|u| (u.resource.as_str().to_string(), object!({"usage": u.used, "limit": u.limit}))).collect();
    json(200, &object!({ "usage": usage }))
}
