//! Namespaces of metadata definitions and what is in them.

use base::{Error, Kind, Result, Timestamp};
use serde_json::{Map, Value};
use store::{Dir, Row, Select, Tx, params};

use crate::metadefs::{Item, ItemKind, Namespace};

const NAMESPACE: &str = "SELECT id, namespace, display_name, description, visibility, protected, owner, created_at, updated_at, generation \
     FROM metadef_namespace";
const ITEM: &str = "SELECT kind, name, body, created_at, updated_at, namespace_id FROM metadef_item";

fn namespace_read(row: &Row) -> Result<Namespace> {
    Ok(Namespace {
        id: row.text(0)?,
        namespace: row.text(1)?,
        display_name: row.opt_text(2)?,
        description: row.opt_text(3)?,
        visibility: row.text(4)?,
        protected: row.flag(5)?,
        owner: row.opt_text(6)?,
        created_at: row.time(7)?,
        updated_at: row.time(8)?,
        generation: row.int(9)?,
    })
}

fn item_read(row: &Row) -> Result<Item> {
    let body: Map<String, Value> = match serde_json::from_str(&row.text(2)?) {
        Ok(Value::Object(body)) => body,
        _ => return Err(Error::internal("the body of a metadata definition")),
    };
    Ok(Item { kind: ItemKind::parse(&row.text(0)?)?, name: row.text(1)?, body, created_at: row.time(3)?, updated_at: row.time(4)? })
}

pub fn namespace_select() -> Select {
    Select::new(NAMESPACE)
}

pub fn namespace_list(tx: &Tx, select: Select) -> Result<Vec<Namespace>> {
    select.fetch(tx, namespace_read)
}

pub fn namespace_fetch(tx: &Tx, name: &str) -> Result<Option<Namespace>> {
    Ok(namespace_select().eq("namespace", name).limit(1).fetch(tx, namespace_read)?.pop())
}

pub fn namespace_insert(tx: &Tx, n: &Namespace) -> Result<()> {
    tx.execute(
        "INSERT INTO metadef_namespace (id, namespace, display_name, description, visibility, protected, owner, created_at, updated_at, \
         generation) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            n.id,
            n.namespace,
            &n.display_name,
            &n.description,
            n.visibility,
            n.protected,
            &n.owner,
            n.created_at,
            n.updated_at,
            n.generation
        ],
    )?;
    Ok(())
}

/// Writes all attributes, the name too.
pub fn namespace_update(tx: &Tx, n: &Namespace) -> Result<()> {
    tx.execute(
        "UPDATE metadef_namespace SET namespace = ?2, display_name = ?3, description = ?4, visibility = ?5, protected = ?6, owner = ?7, \
         updated_at = ?8, generation = generation + 1 WHERE id = ?1",
        params![n.id, n.namespace, &n.display_name, &n.description, n.visibility, n.protected, &n.owner, n.updated_at],
    )?;
    Ok(())
}

/// Something in the namespace has changed.
pub fn namespace_touch(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("UPDATE metadef_namespace SET generation = generation + 1 WHERE id = ?1", params![id])?;
    Ok(())
}

pub fn namespace_delete(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM metadef_item WHERE namespace_id = ?1", params![id])?;
    tx.execute("DELETE FROM metadef_namespace WHERE id = ?1", params![id])?;
    Ok(())
}

pub fn item_insert(tx: &Tx, namespace_id: &str, item: &Item) -> Result<()> {
    tx.execute(
        "INSERT INTO metadef_item (namespace_id, kind, name, body, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            namespace_id,
            item.kind.as_str(),
            item.name,
            Value::Object(item.body.clone()).to_string(),
            item.created_at,
            item.updated_at
        ],
    )?;
    if item.kind == ItemKind::ResourceType {
        tx.execute(
            "INSERT INTO metadef_resource_type (name, created_at, updated_at) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING",
            params![item.name, item.created_at, item.updated_at],
        )?;
    }
    Ok(())
}

pub fn item_fetch(tx: &Tx, namespace_id: &str, kind: ItemKind, name: &str) -> Result<Option<Item>> {
    let select = Select::new(ITEM).eq("namespace_id", namespace_id).eq("kind", kind.as_str()).eq("name", name);
    Ok(select.limit(1).fetch(tx, item_read)?.pop())
}

/// Everything of one kind, or of all, oldest first.
pub fn item_list(tx: &Tx, namespace_id: &str, kind: Option<ItemKind>) -> Result<Vec<Item>> {
    let order = [("created_at", Dir::Asc), ("kind", Dir::Asc), ("name", Dir::Asc)];
    Select::new(ITEM).eq("namespace_id", namespace_id).opt_eq("kind", kind.map(ItemKind::as_str)).order(&order).fetch(tx, item_read)
}

/// A page of one kind: in order of `key`, from behind `marker`, which must be there.
pub fn item_page(
    tx: &Tx,
    namespace_id: &str,
    kind: ItemKind,
    (key, dir): (&str, Dir),
    marker: Option<&str>,
    limit: Option<u64>,
) -> Result<Vec<Item>> {
    let mut select = Select::new(ITEM).eq("namespace_id", namespace_id).eq("kind", kind.as_str());
    let order: Vec<(&str, Dir)> = if key == "name" { vec![("name", dir)] } else { vec![(key, dir), ("name", dir)] };
    select = select.order(&order);
    if let Some(marker) = marker {
        let found = item_fetch(tx, namespace_id, kind, marker)?;
        let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("The marker {marker} was not found.")))?;
        let mut values: Vec<store::Value> = Vec::new();
        match key {
            "created_at" => values.push(found.created_at.micros().into()),
            "updated_at" => values.push(found.updated_at.micros().into()),
            _ => {}
        }
        values.push(found.name.into());
        select = select.after(values);
    }
    if let Some(limit) = limit {
        select = select.limit(limit);
    }
    select.fetch(tx, item_read)
}

/// Names of the associations of several namespaces, with the namespace's id.
pub fn association_list(tx: &Tx, namespaces: &[Namespace]) -> Result<Vec<(String, Item)>> {
    let ids = namespaces.iter().map(|n| n.id.clone());
    let select = Select::new(ITEM).eq("kind", ItemKind::ResourceType.as_str()).in_list("namespace_id", ids);
    select.order(&[("created_at", Dir::Asc), ("name", Dir::Asc)]).fetch(tx, |row| Ok((row.text(5)?, item_read(row)?)))
}

/// Writes an item under another or the same name; false when it is not there.
pub fn item_update(tx: &Tx, namespace_id: &str, name: &str, item: &Item) -> Result<bool> {
    let changed = tx.execute(
        "UPDATE metadef_item SET name = ?4, body = ?5, updated_at = ?6 WHERE namespace_id = ?1 AND kind = ?2 AND name = ?3",
        params![namespace_id, item.kind.as_str(), name, item.name, Value::Object(item.body.clone()).to_string(), item.updated_at],
    )?;
    Ok(changed > 0)
}

/// False when it is not there.
pub fn item_delete(tx: &Tx, namespace_id: &str, kind: ItemKind, name: &str) -> Result<bool> {
    let gone = tx.execute(
        "DELETE FROM metadef_item WHERE namespace_id = ?1 AND kind = ?2 AND name = ?3",
        params![namespace_id, kind.as_str(), name],
    )?;
    Ok(gone > 0)
}

pub fn items_delete(tx: &Tx, namespace_id: &str, kind: ItemKind) -> Result<()> {
    tx.execute("DELETE FROM metadef_item WHERE namespace_id = ?1 AND kind = ?2", params![namespace_id, kind.as_str()])?;
    Ok(())
}

/// Names and times of all types of resources.
pub fn resource_type_list(tx: &Tx) -> Result<Vec<(String, Timestamp, Timestamp)>> {
    let select = Select::new("SELECT name, created_at, updated_at FROM metadef_resource_type").order(&[("name", Dir::Asc)]);
    select.fetch(tx, |row| Ok((row.text(0)?, row.time(1)?, row.time(2)?)))
}

/// What has been loaded as this standard namespace.
pub fn standard_fetch(tx: &Tx, namespace: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT digest FROM metadef_standard WHERE namespace = ?1", params![namespace], |row| row.text(0))
}

pub fn standard_store(tx: &Tx, namespace: &str, digest: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO metadef_standard (namespace, digest) VALUES (?1, ?2) ON CONFLICT (namespace) DO UPDATE SET digest = excluded.digest",
        params![namespace, digest],
    )?;
    Ok(())
}
