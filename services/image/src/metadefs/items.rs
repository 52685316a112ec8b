//! What is in a namespace: objects, properties, tags, associations with types of resources.

use base::{Context, Error, Kind, Result, Timestamp};
use events::Event;
use http_api::Query;
use serde_json::{Map, Value, json};
use store::Tx;

use super::{Item, ItemKind, Namespace, fetch_in, named, protected, sorting};
use crate::db::metadefs as db;
use crate::schema::metadefs as schema;
use crate::{Images, KIND};

const SORT_KEYS: [&str; 3] = ["created_at", "updated_at", "name"];

/// The rules of one kind, under upstream's names.
struct Rules {
    add: &'static str,
    get: &'static str,
    list: &'static str,
    modify: &'static str,
    remove: &'static str,
}

fn rules(kind: ItemKind) -> Rules {
    match kind {
        ItemKind::Object => Rules {
            add: "add_metadef_object",
            get: "get_metadef_object",
            list: "get_metadef_objects",
            modify: "modify_metadef_object",
            remove: "delete_metadef_object",
        },
        ItemKind::Property => Rules {
            add: "add_metadef_property",
            get: "get_metadef_property",
            list: "get_metadef_properties",
            modify: "modify_metadef_property",
            remove: "remove_metadef_property",
        },
        ItemKind::Tag => Rules {
            add: "add_metadef_tag",
            get: "get_metadef_tag",
            list: "get_metadef_tags",
            modify: "modify_metadef_tag",
            remove: "delete_metadef_tag",
        },
        // An association is made and removed, never changed.
        ItemKind::ResourceType => Rules {
            add: "add_metadef_resource_type_association",
            get: "get_metadef_resource_type",
            list: "list_metadef_resource_types",
            modify: "add_metadef_resource_type_association",
            remove: "remove_metadef_resource_type_association",
        },
    }
}

fn document(kind: ItemKind) -> Value {
    match kind {
        ItemKind::Object => schema::object(),
        ItemKind::Property => schema::property(),
        ItemKind::Tag => schema::tag(),
        ItemKind::ResourceType => schema::resource_type(),
    }
}

fn not_found(kind: ItemKind, name: &str, namespace: &str) -> Error {
    Error::new(Kind::NotFound, format!("The metadata definition {} {name} was not found in namespace {namespace}.", kind.as_str()))
}

fn exists(kind: ItemKind, name: &str, namespace: &str) -> Error {
    Error::conflict(format!("A metadata definition {} {name} exists already in namespace {namespace}.", kind.as_str()))
}

/// The event of a change in a namespace, which counts as one of the namespace.
fn record(tx: &Tx, ctx: &Context, verb: &str, namespace: &Namespace, item: &Item) -> Result<()> {
    db::namespace_touch(tx, &namespace.id)?;
    let payload = json!({"namespace": namespace.namespace, "name": item.name, "body": item.body, "deleted": verb == "delete"});
    let kind = format!("metadef_{}.{verb}", item.kind.as_str());
    let project = namespace.owner.clone().unwrap_or_default();
    events::record(tx, &Event::new(&kind, &item.name, ctx).project(project).payload(payload))?;
    Ok(())
}

impl Images {
    pub async fn item_list(&self, ctx: &Context, namespace: &str, kind: ItemKind, query: &Query) -> Result<Vec<Item>> {
        let namespace = self.namespace_for(ctx, namespace, rules(kind).list).await?;
        if !self.core().policy.check(KIND, rules(kind).get, ctx, &namespace) {
            return Ok(Vec::new());
        }
        let paged = matches!(kind, ItemKind::Object | ItemKind::Tag);
        if !paged {
            return self.core().store.read(|tx| db::item_list(tx, &namespace.id, Some(kind))).await;
        }
        match query.get("visibility") {
            None | Some("" | "public" | "private" | "shared") => {}
            Some(other) => return Err(Error::invalid(format!("Invalid visibility value: {other}"))),
        }
        let limit = match crate::listing::limit(query)? {
            Some(0) if kind == ItemKind::Object => return Err(Error::invalid("limit param must be positive")),
            limit => limit,
        };
        let order = sorting(query, &SORT_KEYS)?;
        let marker = query.get("marker").filter(|m| !m.is_empty());
        self.core().store.read(|tx| db::item_page(tx, &namespace.id, kind, order, marker, limit)).await
    }

    pub async fn item_show(&self, ctx: &Context, namespace: &str, kind: ItemKind, name: &str) -> Result<Item> {
        let found = self.namespace_for(ctx, namespace, rules(kind).get).await?;
        let item = self.core().store.read(|tx| db::item_fetch(tx, &found.id, kind, name)).await?;
        item.ok_or_else(|| not_found(kind, name, namespace))
    }

    /// A property under the name it has at a type of resource, whose prefix is taken off.
    pub async fn property_of(&self, ctx: &Context, namespace: &str, resource_type: &str, name: &str) -> Result<Item> {
        let found = self.namespace_for(ctx, namespace, "get_metadef_property").await?;
        self.core().authorize(KIND, "get_metadef_resource_type", ctx, &found)?;
        let association = self.core().store.read(|tx| db::item_fetch(tx, &found.id, ItemKind::ResourceType, resource_type)).await?;
        let association = association.ok_or_else(|| not_found(ItemKind::ResourceType, resource_type, namespace))?;
        let prefix = association.body.get("prefix").and_then(Value::as_str).unwrap_or_default();
        match name.strip_prefix(prefix).filter(|_| !prefix.is_empty()) {
            Some(own) => self.item_show(ctx, namespace, ItemKind::Property, own).await,
            None => {
                let text = format!("Property {name} does not begin with '{prefix}', the prefix of resource type {resource_type}.");
                Err(Error::new(Kind::NotFound, text))
            }
        }
    }

    pub async fn item_create(&self, ctx: &Context, namespace: &str, kind: ItemKind, body: Map<String, Value>) -> Result<Item> {
        schema::check(&document(kind), &body)?;
        self.namespace_for(ctx, namespace, rules(kind).add).await?;
        let item = Item::new(kind, body, Timestamp::now());
        named(kind.as_str(), &item.name)?;
        let (stored, owner, cause) = (item.clone(), namespace.to_string(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            let namespace = fetch_in(tx, &owner)?;
            db::item_insert(tx, &namespace.id, &stored)?;
            record(tx, &cause, "create", &namespace, &stored)
        });
        written.await.map_err(|error| match error.kind() {
            Kind::Exists => exists(kind, &item.name, namespace).caused_by(error),
            _ => error,
        })?;
        Ok(item)
    }

    /// Gives an item this body and its name, which may be another.
    pub async fn item_update(&self, ctx: &Context, namespace: &str, kind: ItemKind, name: &str, body: Map<String, Value>) -> Result<Item> {
        schema::check(&document(kind), &body)?;
        self.namespace_for(ctx, namespace, rules(kind).modify).await?;
        let mut item = Item::new(kind, body, Timestamp::now());
        named(kind.as_str(), &item.name)?;
        item.created_at = self.item_show(ctx, namespace, kind, name).await?.created_at;
        let (stored, owner, old, cause) = (item.clone(), namespace.to_string(), name.to_string(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            let namespace = fetch_in(tx, &owner)?;
            if !db::item_update(tx, &namespace.id, &old, &stored)? {
                return Err(not_found(kind, &old, &owner));
            }
            record(tx, &cause, "update", &namespace, &stored)
        });
        written.await.map_err(|error| match error.kind() {
            Kind::Exists => exists(kind, &item.name, namespace).caused_by(error),
            _ => error,
        })?;
        Ok(item)
    }

    pub async fn item_delete(&self, ctx: &Context, namespace: &str, kind: ItemKind, name: &str) -> Result<()> {
        self.namespace_for(ctx, namespace, rules(kind).remove).await?;
        let (owner, name, cause) = (namespace.to_string(), name.to_string(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            let namespace = fetch_in(tx, &owner)?;
            let item = db::item_fetch(tx, &namespace.id, kind, &name)?.ok_or_else(|| not_found(kind, &name, &owner))?;
            if namespace.protected {
                return Err(protected(&owner));
            }
            db::item_delete(tx, &namespace.id, kind, &name)?;
            record(tx, &cause, "delete", &namespace, &item)
        });
        written.await
    }

    /// Removes everything of one kind.
    pub async fn items_delete(&self, ctx: &Context, namespace: &str, kind: ItemKind) -> Result<()> {
        if kind == ItemKind::Tag {
            self.namespace_for(ctx, namespace, "delete_metadef_tags").await?;
        }
        self.namespace_for(ctx, namespace, "delete_metadef_namespace").await?;
        let (owner, cause) = (namespace.to_string(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            let namespace = fetch_in(tx, &owner)?;
            if namespace.protected {
                return Err(protected(&owner));
            }
            for item in db::item_list(tx, &namespace.id, Some(kind))? {
                record(tx, &cause, "delete", &namespace, &item)?;
            }
            db::items_delete(tx, &namespace.id, kind)
        });
        written.await
    }

    /// Makes several tags: beside those that are there, or instead of them.
    pub async fn tags_create(&self, ctx: &Context, namespace: &str, body: Map<String, Value>, beside: bool) -> Result<Vec<Item>> {
        schema::check(&schema::tag_list(), &body)?;
        self.namespace_for(ctx, namespace, "add_metadef_tags").await?;
        let now = Timestamp::now();
        let bodies = body.get("tags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
        let tags: Vec<Item> = bodies.map(|tag| Item::new(ItemKind::Tag, tag.clone(), now)).collect();
        tags.iter().try_for_each(|tag| named("tag", &tag.name))?;
        let (stored, owner, cause) = (tags.clone(), namespace.to_string(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            let namespace = fetch_in(tx, &owner)?;
            if !beside {
                db::items_delete(tx, &namespace.id, ItemKind::Tag)?;
            }
            for tag in &stored {
                db::item_insert(tx, &namespace.id, tag)?;
                record(tx, &cause, "create", &namespace, tag)?;
            }
            Ok(())
        });
        written.await.map_err(|error| match error.kind() {
            Kind::Exists => Error::conflict(format!("One of the tags exists already in namespace {namespace}.")).caused_by(error),
            _ => error,
        })?;
        Ok(tags)
    }
}
