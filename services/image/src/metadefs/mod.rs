//! Metadata definitions: what properties of images, flavors, volumes and others mean and may be, by namespace.

mod items;
mod standard;

use std::collections::HashMap;

use base::{Context, Error, Kind, Result, Timestamp};
use events::Event;
use http_api::Query;
use policy::{Attr, Target};
use serde_json::{Map, Value, json};
use store::{Dir, Tx};

use crate::db::metadefs as db;
use crate::schema::metadefs as schema;
use crate::{Images, KIND};

const DEFAULT_LIMIT: u64 = 25;
const SORT_KEYS: [&str; 8] = ["namespace", "display_name", "visibility", "protected", "owner", "created_at", "updated_at", "id"];

#[derive(Clone, Debug)]
pub struct Namespace {
    pub id: String,
    /// The name in paths.
    pub namespace: String,
    pub display_name: Option<String>,
    pub description: Option<String>,
    pub visibility: String,
    pub protected: bool,
    pub owner: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub generation: i64,
}

/// What can be in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    Object,
    Property,
    Tag,
    /// An association with a type of resource.
    ResourceType,
}

impl ItemKind {
    const ALL: [ItemKind; 4] = [ItemKind::Object, ItemKind::Property, ItemKind::Tag, ItemKind::ResourceType];

    /// As in policy rules and notifications.
    pub fn as_str(self) -> &'static str {
        match self {
            ItemKind::Object => "object",
            ItemKind::Property => "property",
            ItemKind::Tag => "tag",
            ItemKind::ResourceType => "resource_type",
        }
    }
    pub fn parse(text: &str) -> Result<ItemKind> {
        ItemKind::ALL
            .into_iter()
            .find(|k| k.as_str() == text)
            .ok_or_else(|| Error::internal(format!("metadata definition of kind {text:?}")))
    }
}

/// A thing in a namespace; the body is all of it but the name and the times.
#[derive(Clone, Debug)]
pub struct Item {
    pub kind: ItemKind,
    pub name: String,
    pub body: Map<String, Value>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Item {
    /// From a body with a name in it.
    pub fn new(kind: ItemKind, mut body: Map<String, Value>, now: Timestamp) -> Item {
        let name = body.remove("name").and_then(|name| name.as_str().map(str::to_string)).unwrap_or_default();
        Item { kind, name, body, created_at: now, updated_at: now }
    }
}

/// A namespace with all that is in it.
pub struct Whole {
    pub namespace: Namespace,
    pub items: Vec<Item>,
}

/// A page of namespaces with their associations.
pub struct Page {
    pub namespaces: Vec<Whole>,
    pub more: bool,
}

impl Target for Namespace {
    fn attribute(&self, name: &str) -> Option<Attr<'_>> {
        match name {
            "project_id" | "owner" => Some(self.owner.as_deref().map_or(Attr::Null, Attr::Str)),
            "visibility" => Some(Attr::Str(&self.visibility)),
            _ => None,
        }
    }
}

fn not_found(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("Metadata definition namespace {name} was not found."))
}

fn protected(name: &str) -> Error {
    Error::forbidden(format!("Metadata definition namespace {name} is protected: neither it nor anything in it can be deleted."))
}

/// The namespace as it is in this transaction.
fn fetch_in(tx: &Tx, name: &str) -> Result<Namespace> {
    db::namespace_fetch(tx, name)?.ok_or_else(|| not_found(name))
}

fn record(tx: &Tx, ctx: &Context, kind: &str, namespace: &Namespace) -> Result<()> {
    let payload = json!({
        "namespace": namespace.namespace,
        "display_name": namespace.display_name,
        "description": namespace.description,
        "visibility": namespace.visibility,
        "protected": namespace.protected,
        "owner": namespace.owner,
        "created_at": namespace.created_at.iso(),
        "updated_at": namespace.updated_at.iso(),
        "deleted": kind.ends_with("delete"),
    });
    let project = namespace.owner.clone().unwrap_or_default();
    events::record(tx, &Event::new(kind, &namespace.namespace, ctx).project(project).payload(payload))?;
    Ok(())
}

/// The attributes of a namespace that a body gives; what it leaves out is as in a new one.
fn attributes(namespace: &mut Namespace, body: &Map<String, Value>, owner: Option<String>) {
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_string);
    namespace.namespace = text("namespace").unwrap_or_default();
    namespace.display_name = text("display_name");
    namespace.description = text("description");
    namespace.visibility = text("visibility").unwrap_or_else(|| "private".into());
    namespace.protected = body.get("protected").is_some_and(|p| *p == true);
    namespace.owner = text("owner").or(owner);
}

/// Everything that a namespace's body has in it.
fn items_of(body: &Map<String, Value>, now: Timestamp) -> Vec<Item> {
    let lists = [("resource_type_associations", ItemKind::ResourceType), ("objects", ItemKind::Object), ("tags", ItemKind::Tag)];
    let mut items = Vec::new();
    for (list, kind) in lists {
        let bodies = body.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
        items.extend(bodies.map(|each| Item::new(kind, each.clone(), now)));
    }
    for (name, each) in body.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let mut each = each.as_object().cloned().unwrap_or_default();
        each.remove("name");
        items.push(Item { kind: ItemKind::Property, name: name.clone(), body: each, created_at: now, updated_at: now });
    }
    items
}

impl Images {
    fn metadef_project<'a>(&self, ctx: &'a Context) -> [(&'static str, &'a str); 1] {
        [("project_id", ctx.project_id())]
    }

    /// The namespace, when the caller may see it; otherwise it does not exist.
    pub async fn namespace_show(&self, ctx: &Context, name: &str) -> Result<Namespace> {
        let found = self.core().store.read(|tx| db::namespace_fetch(tx, name)).await?;
        found.filter(|n| self.namespace_visible(ctx, n)).ok_or_else(|| not_found(name))
    }

    fn namespace_visible(&self, ctx: &Context, n: &Namespace) -> bool {
        let own = n.owner.as_deref().is_none_or(|owner| owner == ctx.project_id());
        (own || n.visibility == "public" || self.is_admin(ctx)) && self.core().policy.check(KIND, "get_metadef_namespace", ctx, n)
    }

    /// The namespace, when the caller may see it and `rule` lets him.
    async fn namespace_for(&self, ctx: &Context, name: &str, rule: &str) -> Result<Namespace> {
        let namespace = self.namespace_show(ctx, name).await?;
        self.core().authorize(KIND, rule, ctx, &namespace)?;
        Ok(namespace)
    }

    /// All of a namespace. Of `resource_type`, when given, the prefix stands before the names of properties.
    pub async fn namespace_whole(&self, ctx: &Context, name: &str, resource_type: Option<&str>) -> Result<Whole> {
        let namespace = self.namespace_show(ctx, name).await?;
        for rule in ["list_metadef_resource_types", "get_metadef_objects", "get_metadef_properties", "get_metadef_tags"] {
            self.core().authorize(KIND, rule, ctx, &namespace)?;
        }
        let mut items = self.core().store.read(|tx| db::item_list(tx, &namespace.id, None)).await?;
        let associated = items.iter().find(|i| i.kind == ItemKind::ResourceType && Some(i.name.as_str()) == resource_type);
        if let Some(prefix) = associated.and_then(|i| i.body.get("prefix")).and_then(Value::as_str).map(str::to_string) {
            items.iter_mut().for_each(|item| put_before(&prefix, item));
        }
        Ok(Whole { namespace, items })
    }

    pub async fn namespace_list(&self, ctx: &Context, query: &Query) -> Result<Page> {
        for rule in ["get_metadef_namespaces", "list_metadef_resource_types"] {
            self.core().authorize(KIND, rule, ctx, &self.metadef_project(ctx))?;
        }
        let max = self.core().config.int("api.max_limit");
        let limit = crate::listing::limit(query)?.unwrap_or(DEFAULT_LIMIT).min(max);
        let (key, dir) = sorting(query, &SORT_KEYS)?;
        let mut select = db::namespace_select();
        if !self.is_admin(ctx) {
            select = select.any(|or| or.eq("owner", ctx.project_id()).eq("visibility", "public").eq("owner", store::Value::Null));
        }
        match query.get("visibility").filter(|v| !v.is_empty()) {
            Some(visibility @ ("public" | "private")) => select = select.eq("visibility", visibility),
            Some(other) => return Err(Error::invalid(format!("Invalid visibility value: {other}"))),
            None => {}
        }
        if let Some(types) = query.get("resource_types") {
            let marks = vec!["?"; types.split(',').count()].join(", ");
            let associated = format!(
                "EXISTS (SELECT 1 FROM metadef_item i WHERE i.namespace_id = metadef_namespace.id AND i.kind = 'resource_type' AND i.name IN ({marks}))"
            );
            select = select.cond(&associated, types.split(',').map(store::Value::from));
        }
        let order: Vec<(&str, Dir)> = match key {
            "id" => vec![("id", dir)],
            "created_at" => vec![("created_at", dir), ("id", dir)],
            other => vec![(other, dir), ("created_at", dir), ("id", dir)],
        };
        select = select.order(&order);
        if let Some(marker) = query.get("marker").filter(|m| !m.is_empty()) {
            let last = self.namespace_show(ctx, marker).await?;
            select = select.after(order.iter().map(|(column, _)| last.column(column)).collect());
        }
        let read = self.core().store.read(|tx| {
            let mut namespaces = db::namespace_list(tx, select.limit(limit + 1))?;
            let more = namespaces.len() as u64 > limit;
            namespaces.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            let associations = db::association_list(tx, &namespaces)?;
            Ok((namespaces, associations, more))
        });
        let (mut namespaces, associations, more) = read.await?;
        namespaces.retain(|n| self.core().policy.check(KIND, "get_metadef_namespace", ctx, n));
        let mut by_id: HashMap<String, Vec<Item>> = HashMap::new();
        for (id, item) in associations {
            by_id.entry(id).or_default().push(item);
        }
        let whole = |namespace: Namespace| Whole { items: by_id.remove(&namespace.id).unwrap_or_default(), namespace };
        let namespaces: Vec<Whole> = namespaces.into_iter().map(whole).collect();
        Ok(Page { more: more && !namespaces.is_empty(), namespaces })
    }

    /// Makes a namespace and all that the body has in it, or nothing.
    pub async fn namespace_create(&self, ctx: &Context, body: Map<String, Value>) -> Result<Whole> {
        schema::check(&schema::namespace(), &body)?;
        let target = self.metadef_project(ctx);
        self.core().authorize(KIND, "add_metadef_namespace", ctx, &target)?;
        for (list, rule) in [
            ("resource_type_associations", "add_metadef_resource_type_association"),
            ("objects", "add_metadef_object"),
            ("properties", "add_metadef_property"),
            ("tags", "add_metadef_tag"),
        ] {
            if body.contains_key(list) {
                self.core().authorize(KIND, rule, ctx, &target)?;
            }
        }
        let whole = new_namespace(&body, Some(ctx.project_id().to_string()).filter(|p| !p.is_empty()))?;
        let (namespace, items, cause) = (whole.namespace.clone(), whole.items.clone(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            insert_in(tx, &namespace, &items)?;
            record(tx, &cause, "metadef_namespace.create", &namespace)
        });
        written.await.map_err(|error| match error.kind() {
            Kind::Exists => {
                let name = &whole.namespace.namespace;
                Error::conflict(format!("Metadata definition namespace {name} exists already, or something is twice in it."))
                    .caused_by(error)
            }
            _ => error,
        })?;
        Ok(whole)
    }

    pub async fn namespace_update(&self, ctx: &Context, name: &str, body: Map<String, Value>) -> Result<Namespace> {
        schema::check(&schema::namespace(), &body)?;
        let mut namespace = self.namespace_for(ctx, name, "modify_metadef_namespace").await?;
        attributes(&mut namespace, &body, Some(ctx.project_id().to_string()).filter(|p| !p.is_empty()));
        named("namespace", &namespace.namespace)?;
        namespace.updated_at = Timestamp::now();
        let (stored, old, cause) = (namespace.clone(), name.to_string(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            if fetch_in(tx, &old)?.id != stored.id {
                return Err(not_found(&old));
            }
            db::namespace_update(tx, &stored)?;
            record(tx, &cause, "metadef_namespace.update", &stored)
        });
        written.await.map_err(|error| match error.kind() {
            Kind::Exists => {
                Error::conflict(format!("Metadata definition namespace {} exists already.", namespace.namespace)).caused_by(error)
            }
            _ => error,
        })?;
        Ok(namespace)
    }

    pub async fn namespace_delete(&self, ctx: &Context, name: &str) -> Result<()> {
        self.namespace_for(ctx, name, "delete_metadef_namespace").await?;
        let (name, cause) = (name.to_string(), ctx.clone());
        let written = self.core().store.write(move |tx| {
            let namespace = fetch_in(tx, &name)?;
            if namespace.protected {
                return Err(protected(&name));
            }
            db::namespace_delete(tx, &namespace.id)?;
            record(tx, &cause, "metadef_namespace.delete", &namespace)
        });
        written.await
    }

    /// Name and times of every type of resource.
    pub async fn resource_type_list(&self, ctx: &Context) -> Result<Vec<(String, Timestamp, Timestamp)>> {
        self.core().authorize(KIND, "list_metadef_resource_types", ctx, &self.metadef_project(ctx))?;
        self.core().store.read(db::resource_type_list).await
    }
}

impl Namespace {
    fn column(&self, name: &str) -> store::Value {
        match name {
            "namespace" => self.namespace.as_str().into(),
            "display_name" => self.display_name.clone().into(),
            "visibility" => self.visibility.as_str().into(),
            "protected" => self.protected.into(),
            "owner" => self.owner.clone().into(),
            "created_at" => self.created_at.micros().into(),
            "updated_at" => self.updated_at.micros().into(),
            _ => self.id.as_str().into(),
        }
    }
}

/// A namespace from a body that fits the schema.
fn new_namespace(body: &Map<String, Value>, owner: Option<String>) -> Result<Whole> {
    let now = Timestamp::now();
    let mut namespace = Namespace {
        id: base::id::uuid(),
        namespace: String::new(),
        display_name: None,
        description: None,
        visibility: String::new(),
        protected: false,
        owner: None,
        created_at: now,
        updated_at: now,
        generation: 1,
    };
    attributes(&mut namespace, body, owner);
    named("namespace", &namespace.namespace)?;
    let items = items_of(body, now);
    items.iter().try_for_each(|item| named(item.kind.as_str(), &item.name))?;
    Ok(Whole { namespace, items })
}

fn insert_in(tx: &Tx, namespace: &Namespace, items: &[Item]) -> Result<()> {
    db::namespace_insert(tx, namespace)?;
    items.iter().try_for_each(|item| db::item_insert(tx, &namespace.id, item))
}

/// A name stands in a path, so there must be one.
fn named(what: &str, name: &str) -> Result<()> {
    match name.chars().count() {
        1..=80 => Ok(()),
        _ => Err(Error::invalid(format!("The name of a metadata definition ({what}) must have from 1 to 80 characters."))),
    }
}

/// Puts the prefix of a resource type before the names of properties.
fn put_before(prefix: &str, item: &mut Item) {
    let longer = |name: &str| format!("{prefix}{name}");
    match item.kind {
        ItemKind::Property => item.name = longer(&item.name),
        ItemKind::Object => {
            if let Some(Value::Object(properties)) = item.body.get_mut("properties") {
                *properties = std::mem::take(properties).into_iter().map(|(name, value)| (longer(&name), value)).collect();
            }
            if let Some(Value::Array(required)) = item.body.get_mut("required") {
                required.iter_mut().for_each(|name| *name = Value::from(longer(name.as_str().unwrap_or_default())));
            }
        }
        ItemKind::Tag | ItemKind::ResourceType => {}
    }
}

/// `sort_key` and `sort_dir` of a list of definitions: newest first unless said otherwise.
fn sorting(query: &Query, keys: &[&'static str]) -> Result<(&'static str, Dir)> {
    let wanted = query.get("sort_key").unwrap_or("created_at");
    let key = keys.iter().copied().find(|k| *k == wanted);
    let key =
        key.ok_or_else(|| Error::invalid(format!("Invalid sort key: {wanted}. It must be one of the following: {}.", keys.join(", "))))?;
    match query.get("sort_dir").unwrap_or("desc") {
        "asc" => Ok((key, Dir::Asc)),
        "desc" => Ok((key, Dir::Desc)),
        other => Err(Error::invalid(format!("Invalid sort direction: {other}"))),
    }
}
