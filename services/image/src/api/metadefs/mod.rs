//! `/v2/metadefs`.

mod items;
mod namespaces;

use base::Timestamp;
use http_api::Routes;
use serde_json::{Map, Value};

use crate::Images;
use crate::metadefs::{Item, ItemKind};

pub fn routes(routes: Routes<Images>) -> Routes<Images> {
    routes
        .get("/v2/metadefs/resource_types", namespaces::resource_types)
        .get("/v2/metadefs/namespaces", namespaces::index)
        .post("/v2/metadefs/namespaces", namespaces::create)
        .get("/v2/metadefs/namespaces/{namespace}", namespaces::show)
        .put("/v2/metadefs/namespaces/{namespace}", namespaces::update)
        .delete("/v2/metadefs/namespaces/{namespace}", namespaces::delete)
        .get("/v2/metadefs/namespaces/{namespace}/resource_types", items::association_index)
        .post("/v2/metadefs/namespaces/{namespace}/resource_types", items::association_create)
        .delete("/v2/metadefs/namespaces/{namespace}/resource_types/{resource_type}", items::association_delete)
        .get("/v2/metadefs/namespaces/{namespace}/objects", items::object_index)
        .post("/v2/metadefs/namespaces/{namespace}/objects", items::object_create)
        .delete("/v2/metadefs/namespaces/{namespace}/objects", items::objects_delete)
        .get("/v2/metadefs/namespaces/{namespace}/objects/{object_name}", items::object_show)
        .put("/v2/metadefs/namespaces/{namespace}/objects/{object_name}", items::object_update)
        .delete("/v2/metadefs/namespaces/{namespace}/objects/{object_name}", items::object_delete)
        .get("/v2/metadefs/namespaces/{namespace}/properties", items::property_index)
        .post("/v2/metadefs/namespaces/{namespace}/properties", items::property_create)
        .delete("/v2/metadefs/namespaces/{namespace}/properties", items::properties_delete)
        .get("/v2/metadefs/namespaces/{namespace}/properties/{property_name}", items::property_show)
        .put("/v2/metadefs/namespaces/{namespace}/properties/{property_name}", items::property_update)
        .delete("/v2/metadefs/namespaces/{namespace}/properties/{property_name}", items::property_delete)
        .get("/v2/metadefs/namespaces/{namespace}/tags", items::tag_index)
        .post("/v2/metadefs/namespaces/{namespace}/tags", items::tags_create)
        .delete("/v2/metadefs/namespaces/{namespace}/tags", items::tags_delete)
        .get("/v2/metadefs/namespaces/{namespace}/tags/{tag_name}", items::tag_show)
        .post("/v2/metadefs/namespaces/{namespace}/tags/{tag_name}", items::tag_create)
        .put("/v2/metadefs/namespaces/{namespace}/tags/{tag_name}", items::tag_update)
        .delete("/v2/metadefs/namespaces/{namespace}/tags/{tag_name}", items::tag_delete)
}

fn stamp(view: &mut Map<String, Value>, created: Timestamp, updated: Timestamp) {
    view.insert("created_at".into(), created.iso().into());
    view.insert("updated_at".into(), updated.iso().into());
}

/// An object with its links.
fn object(namespace: &str, item: &Item) -> Value {
    let mut view = item.body.clone();
    view.insert("name".into(), item.name.as_str().into());
    stamp(&mut view, item.created_at, item.updated_at);
    view.insert("self".into(), format!("/v2/metadefs/namespaces/{namespace}/objects/{}", item.name).into());
    view.insert("schema".into(), "/v2/schemas/metadefs/object".into());
    Value::Object(view)
}

/// A tag or an association by itself.
fn plain(item: &Item) -> Value {
    let mut view = item.body.clone();
    view.insert("name".into(), item.name.as_str().into());
    stamp(&mut view, item.created_at, item.updated_at);
    Value::Object(view)
}

/// Properties by name.
fn properties<'a>(items: impl Iterator<Item = &'a Item>) -> Value {
    Value::Object(items.map(|item| (item.name.clone(), Value::Object(item.body.clone()))).collect())
}

fn of_kind(items: &[Item], kind: ItemKind) -> impl Iterator<Item = &Item> {
    items.iter().filter(move |item| item.kind == kind)
}
