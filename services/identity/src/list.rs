//! Lists: filters (exact, and inexact as `name__icontains`), keyset paging, and the collection around the items.

use base::{Error, Result};
use http_api::{Query, Request};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};
use store::{Dir, Row, Select, Tx, escape_like, params};

use crate::{fault, wire};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Match {
    Equal,
    Contains,
    Starts,
    Ends,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    Text,
    Flag,
}

/// An attribute that can be filtered by: its name on the wire, its column, its form.
pub type Attribute = (&'static str, &'static str, Form);

#[derive(Clone, Debug)]
struct Filter {
    attribute: Attribute,
    how: Match,
    any_case: bool,
    value: String,
    flag: bool,
}

/// What a list request asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    filters: Vec<Filter>,
    pub limit: Option<u64>,
    marker: Option<String>,
    sort: Option<(&'static str, Dir)>,
}

impl Ask {
    /// Reads the filters of `attributes` and the page; every other parameter is left alone, as upstream does.
    pub fn read(query: &Query, attributes: &[Attribute], max: u64) -> Result<Ask> {
        let mut filters = Vec::new();
        for (key, value) in &query.0 {
            let (name, comparator) = key.split_once("__").unwrap_or((key, ""));
            let Some(attribute) = attributes.iter().find(|(known, ..)| *known == name) else { continue };
            let any_case = comparator.starts_with('i');
            let how = match comparator.strip_prefix('i').unwrap_or(comparator) {
                "" => Match::Equal,
                "contains" => Match::Contains,
                "startswith" => Match::Starts,
                "endswith" => Match::Ends,
                _ => continue,
            };
            let flag = match attribute.2 {
                Form::Flag if how != Match::Equal => continue,
                // A bare `?enabled` asks for those that are.
                Form::Flag if value.is_empty() => true,
                Form::Flag => wire::boolean_word(value)
                    .ok_or_else(|| fault::field(name, format!("'{value}' is not one of the words for a boolean")))?,
                Form::Text => false,
            };
            filters.push(Filter { attribute: *attribute, how, any_case, value: value.clone(), flag });
        }
        let limit = match query.get("limit") {
            None | Some("") => None,
            Some(text) => {
                let asked: u64 = text.parse().map_err(|_| fault::field("limit", format!("'{text}' is not a non-negative integer")))?;
                Some(asked.min(max)).filter(|n| *n > 0)
            }
        };
        let sort = match query.get("sort_key") {
            None | Some("") => None,
            Some(key) => {
                let known = attributes.iter().find(|(name, ..)| *name == key);
                let column = if key == "id" {
                    "id"
                } else {
                    known.ok_or_else(|| fault::field("sort_key", format!("'{key}' is no attribute to sort by")))?.1
                };
                let dir = match query.get("sort_dir") {
                    None | Some("asc") => Dir::Asc,
                    Some("desc") => Dir::Desc,
                    Some(other) => return Err(fault::field("sort_dir", format!("'{other}' is not one of ['asc', 'desc']"))),
                };
                Some((column, dir))
            }
        };
        Ok(Ask { filters, limit, marker: query.get("marker").filter(|m| !m.is_empty()).map(str::to_string), sort })
    }

    /// The rows of `table` that match, and whether there are more.
    pub fn fetch<T>(&self, tx: &Tx, mut select: Select, table: &str, map: impl FnMut(&Row) -> Result<T>) -> Result<(Vec<T>, bool)> {
        for filter in &self.filters {
            select = filter.apply(select);
        }
        let (column, dir) = self.sort.unwrap_or(("id", Dir::Asc));
        let order: &[(&str, Dir)] = if column == "id" { &[("id", dir)] } else { &[(column, dir), ("id", Dir::Asc)] };
        select = select.order(order);
        if let Some(marker) = &self.marker {
            // The table's and the column's names come from code.
            let at = tx
                .query_opt(&format!("SELECT id, {column} FROM {table} WHERE id = ?1"), params![marker], |row| {
                    Ok([row.value(0)?, row.value(1)?])
                })?
                .ok_or_else(|| Error::new(base::Kind::NotFound, format!("Marker {marker} could not be found.")))?;
            let [id, value] = at;
            select = select.after(if column == "id" { vec![id] } else { vec![value, id] });
        }
        if let Some(limit) = self.limit {
            select = select.limit(limit + 1);
        }
        let mut rows = select.fetch(tx, map)?;
        let more = self.limit.is_some_and(|limit| rows.len() as u64 > limit);
        if let (true, Some(limit)) = (more, self.limit) {
            rows.truncate(limit as usize);
        }
        Ok((rows, more))
    }

    /// The same filters on items that are already there, as JSON.
    pub fn keep(&self, items: Vec<Value>) -> (Vec<Value>, bool) {
        let mut kept: Vec<Value> = items.into_iter().filter(|item| self.filters.iter().all(|f| f.admits(item))).collect();
        let more = self.limit.is_some_and(|limit| kept.len() as u64 > limit);
        if let (true, Some(limit)) = (more, self.limit) {
            kept.truncate(limit as usize);
        }
        (kept, more)
    }
}

impl Filter {
    fn apply(&self, select: Select) -> Select {
        let (_, column, form) = self.attribute;
        if form == Form::Flag {
            return select.eq(column, self.flag);
        }
        let literal = escape_like(&self.value);
        let pattern = match self.how {
            Match::Equal => return if self.any_case { select } else { select.eq(column, self.value.as_str()) },
            Match::Contains => format!("%{literal}%"),
            Match::Starts => format!("{literal}%"),
            Match::Ends => format!("%{literal}"),
        };
        if self.any_case { select.like(&format!("LOWER({column})"), pattern.to_lowercase()) } else { select.like(column, pattern) }
    }

    fn admits(&self, item: &Value) -> bool {
        let (name, _, form) = self.attribute;
        if form == Form::Flag {
            return item[name].as_bool() == Some(self.flag);
        }
        let Some(text) = item[name].as_str() else { return false };
        let (text, value) =
            if self.any_case { (text.to_lowercase(), self.value.to_lowercase()) } else { (text.to_string(), self.value.clone()) };
        match self.how {
            Match::Equal => text == value,
            Match::Contains => text.contains(&value),
            Match::Starts => text.starts_with(&value),
            Match::Ends => text.ends_with(&value),
        }
    }
}

/// What can stand in a list: it has an id to go on after.
pub trait Item: Serialize {
    fn id(&self) -> Option<&str>;
}

impl Item for Value {
    fn id(&self) -> Option<&str> {
        self["id"].as_str()
    }
}

/// A list as the API shows it. The items are written straight into the answer: there may be ten thousand.
pub struct Collection<T> {
    key: &'static str,
    items: Vec<T>,
    links: Value,
    truncated: bool,
}

impl<T: Serialize> Serialize for Collection<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut whole = serializer.serialize_map(None)?;
        whole.serialize_entry(self.key, &self.items)?;
        whole.serialize_entry("links", &self.links)?;
        if self.truncated {
            whole.serialize_entry("truncated", &true)?;
        }
        whole.end()
    }
}

/// `{"users": [...], "links": {...}}`; when there are more, a link to them.
pub fn collection<T: Item>(req: &Request, key: &'static str, items: Vec<T>, more: Option<u64>) -> Collection<T> {
    let own = format!("{}{}", req.root_url, req.path);
    let encoded = req.query.encode();
    let own_with_query = if encoded.is_empty() { own.clone() } else { format!("{own}?{encoded}") };
    let next = match (more, items.last().and_then(Item::id)) {
        (Some(limit), Some(last)) => {
            let mut pairs: Vec<(String, String)> = req.query.0.iter().filter(|(k, _)| k != "marker" && k != "limit").cloned().collect();
            pairs.push(("marker".into(), last.into()));
            pairs.push(("limit".into(), limit.to_string()));
            Value::String(format!("{own}?{}", Query(pairs).encode()))
        }
        _ => Value::Null,
    };
    Collection { key, items, links: json!({ "next": next, "self": own_with_query, "previous": null }), truncated: more.is_some() }
}

/// Whether a parameter that needs no value is set: `0` alone means no.
pub fn is_set(query: &Query, name: &str) -> bool {
    query.get(name).is_some_and(|value| value != "0")
}
