//! One row of any resource: columns for what is filtered, sorted and joined, and the whole as a document.

use base::{Context, error::Internal};
use base::{Error, Kind as ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value as Json;
use store::{Select, Tx, Value, params};

use crate::Network;
use crate::attr::{Kind, Object};

/// What every resource has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Common {
    pub id: String,
    pub name: String,
    pub project_id: String,
    pub description: String,
    pub revision_number: i64,
    pub created_at: String,
    pub updated_at: String,
    pub tags: Vec<String>,
}

impl Common {
    /// A new resource of `project`, named as `body` says.
    pub fn new(project: &str, body: &Object) -> Self {
        let text = |name: &str| body.get(name).and_then(Json::as_str).unwrap_or_default().to_string();
        let now = Timestamp::now().iso();
        Common {
            id: base::id::uuid(),
            name: text("name"),
            project_id: project.to_string(),
            description: text("description"),
            revision_number: 0,
            created_at: now.clone(),
            updated_at: now,
            tags: Vec::new(),
        }
    }
}

/// A kind of resource: how it is stored, seen and changed. The generic handlers do the rest.
pub trait Resource: Serialize + DeserializeOwned + Clone + Send + 'static {
    const KIND: &'static Kind;
    fn common(&self) -> &Common;
    fn common_mut(&mut self) -> &mut Common;

    /// Adds what lies in other rows to each object, and what policy rules ask of it, with one query for all.
    fn decorate(net: &Network, tx: &Tx, objects: &mut [Object]) -> Result<()>;
    /// Rows that anybody but an administrator may see at most.
    fn visible(select: Select, project: &str) -> Select {
        select.eq("project_id", project)
    }
    /// One of `KIND.filters`.
    fn narrow(select: Select, _name: &str, _values: &[String]) -> Result<Select> {
        Ok(select)
    }
    /// Whether what the new resource belongs to is there for the caller.
    fn parent(_net: &Network, _tx: &Tx, _ctx: &Context, _body: &Object) -> Result<()> {
        Ok(())
    }
    fn create_in(net: &Network, tx: &Tx, ctx: &Context, project: &str, body: &Object) -> Result<Self>;
    fn update_in(net: &Network, tx: &Tx, ctx: &Context, old: Self, change: &Object) -> Result<Self>;
    fn delete_in(net: &Network, tx: &Tx, ctx: &Context, old: Self) -> Result<()>;
    /// Brings in line what other rows repeat of a changed one.
    fn repeat(&self, _tx: &Tx) -> Result<()> {
        Ok(())
    }

    fn id(&self) -> &str {
        &self.common().id
    }
    fn project(&self) -> &str {
        &self.common().project_id
    }
}

/// The resource as an object, its wire names and internal ones (`_...`).
pub fn object(item: &impl Serialize) -> Result<Object> {
    match serde_json::to_value(item).internal("rendering a resource")? {
        Json::Object(map) => Ok(map),
        _ => Err(Error::internal("a resource is no object")),
    }
}

fn cell(value: Option<&Json>) -> Value {
    match value {
        None | Some(Json::Null) => Value::Null,
        Some(Json::Bool(b)) => Value::from(*b),
        Some(Json::Number(n)) => n.as_i64().map_or(Value::Null, Value::Int),
        Some(Json::String(text)) => Value::from(text),
        Some(other) => Value::from(other),
    }
}

fn cells(kind: &Kind, object: &Object) -> (Vec<String>, Vec<Value>) {
    kind.columns().map(|a| (a.column_name(), cell(object.get(a.name)))).unzip()
}

pub fn insert<T: Resource>(tx: &Tx, item: &T) -> Result<()> {
    let object = object(item)?;
    let (mut names, mut values) = cells(T::KIND, &object);
    names.push("doc".into());
    values.push(Value::from(Json::Object(object)));
    let marks: Vec<String> = (1..=values.len()).map(|n| format!("?{n}")).collect();
    tx.execute(&format!("INSERT INTO {} ({}) VALUES ({})", T::KIND.table, names.join(", "), marks.join(", ")), &values)?;
    Ok(())
}

/// Writes a changed resource as its next revision. `Conflict` when somebody else was faster.
pub fn update<T: Resource>(tx: &Tx, item: &mut T) -> Result<()> {
    let common = item.common_mut();
    let before = common.revision_number;
    common.revision_number += 1;
    common.updated_at = Timestamp::now().iso();
    let object = object(item)?;
    let (mut names, mut values) = cells(T::KIND, &object);
    names.push("doc".into());
    values.push(Value::from(Json::Object(object)));
    let sets: Vec<String> = names.iter().enumerate().map(|(i, name)| format!("{name} = ?{}", i + 1)).collect();
    let n = values.len();
    values.push(Value::from(item.id()));
    values.push(Value::from(before));
    let sql = format!("UPDATE {} SET {} WHERE id = ?{} AND revision_number = ?{}", T::KIND.table, sets.join(", "), n + 1, n + 2);
    if tx.execute(&sql, &values)? == 0 {
        let message = format!("{} {} was changed at the same time.", T::KIND.label, item.id());
        return Err(Error::new(ErrorKind::Conflict, message).named("RevisionNumberConstraintFailed"));
    }
    item.repeat(tx)
}

pub fn remove<T: Resource>(tx: &Tx, id: &str) -> Result<()> {
    tx.execute(&format!("DELETE FROM {} WHERE id = ?1", T::KIND.table), params![id])?;
    Ok(())
}

pub fn find<T: Resource>(tx: &Tx, id: &str) -> Result<Option<T>> {
    tx.query_opt(&format!("SELECT doc FROM {} WHERE id = ?1", T::KIND.table), params![id], |row| row.json(0))
}

/// As [`find`], for a resource that is changed next: two who change it take turns.
pub fn find_locked<T: Resource>(tx: &Tx, id: &str) -> Result<Option<T>> {
    tx.query_opt_locked(&format!("SELECT doc FROM {} WHERE id = ?1", T::KIND.table), params![id], |row| row.json(0))
}

/// As [`fetch`], for a resource that is changed next.
pub fn fetch_locked<T: Resource>(tx: &Tx, id: &str) -> Result<T> {
    find_locked(tx, id)?.ok_or_else(|| T::KIND.missing(id))
}

/// The resource, or its own `NotFound`.
pub fn fetch<T: Resource>(tx: &Tx, id: &str) -> Result<T> {
    find(tx, id)?.ok_or_else(|| T::KIND.missing(id))
}

/// All rows for which `condition` (SQL, numbered parameters) holds, oldest first.
pub fn list<T: Resource>(tx: &Tx, condition: &str, values: &[Value]) -> Result<Vec<T>> {
    tx.query(&format!("SELECT doc FROM {} WHERE {condition} ORDER BY created_at, id", T::KIND.table), values, |row| row.json(0))
}

/// All rows whose `column` is one of `values`, oldest first.
pub fn list_in<T: Resource>(tx: &Tx, column: &str, values: &[String]) -> Result<Vec<T>> {
    if values.is_empty() {
        return Ok(Vec::new());
    }
    Select::new(format!("SELECT doc FROM {}", T::KIND.table))
        .in_list(column, values.iter().map(String::as_str))
        .order(&[("created_at", store::Dir::Asc), ("id", store::Dir::Asc)])
        .fetch(tx, |row| row.json(0))
}
