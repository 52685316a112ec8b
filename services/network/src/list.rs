//! Lists: filters on every attribute, any sort order, pages in both directions.

use base::{Context, Result, Timestamp};
use http_api::{Page, Query, SortDir};
use serde_json::Value as Json;
use store::{Dir, Select, Tx, Value, params};

use crate::attr::{Attribute, Check, Kind, Object, flag, show};
use crate::row::Resource;
use crate::{Network, fault};

/// What a list request asks for.
pub struct Wanted {
    /// Attributes to show; empty: all.
    pub fields: Vec<String>,
    pub page: Page,
    filters: Vec<(String, Vec<String>)>,
}

const CONTROL: &[&str] = &["fields", "limit", "marker", "sort_key", "sort_dir", "page_reverse"];
const GENERAL: &[&str] = &["tags", "tags-any", "not-tags", "not-tags-any", "changed_since"];

impl Wanted {
    pub fn read(kind: &Kind, query: &Query) -> Result<Wanted> {
        let mut filters: Vec<(String, Vec<String>)> = Vec::new();
        let mut unknown = Vec::new();
        for (name, value) in query.0.iter().filter(|(name, _)| !CONTROL.contains(&name.as_str())) {
            let name = if name == "tenant_id" { "project_id" } else { name };
            if kind.attribute(name).is_none() && !GENERAL.contains(&name) && !kind.filters.contains(&name) {
                unknown.push(format!("'{name}'"));
                continue;
            }
            match filters.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => values.push(value.clone()),
                None => filters.push((name.to_string(), vec![value.clone()])),
            }
        }
        if !unknown.is_empty() {
            return Err(fault::request(format!("[{}] is invalid attribute for filtering", unknown.join(", "))));
        }
        let mut page = Page::from_query(query, 0, &[]).map_err(|e| fault::request(e.message()))?;
        for (key, _) in &mut page.sort {
            if key == "tenant_id" {
                *key = "project_id".into();
            }
            if kind.attribute(key).is_none() {
                return Err(fault::request(format!("['{key}'] is invalid attribute for sort key")));
            }
        }
        let fields = query.all("fields").filter(|f| !f.is_empty()).map(str::to_string).collect();
        Ok(Wanted { fields, page, filters })
    }
}

/// The rows of one page, undecorated.
pub fn rows<T: Resource>(net: &Network, tx: &Tx, ctx: &Context, wanted: &Wanted) -> Result<Vec<Object>> {
    let kind = T::KIND;
    let mut select = Select::new(format!("SELECT doc FROM {}", kind.table));
    if !net.sees_all(ctx) {
        select = T::visible(select, ctx.project_id());
    }
    let mut later: Vec<(&str, &[String], Option<&Attribute>)> = Vec::new();
    for (name, values) in &wanted.filters {
        if kind.filters.contains(&name.as_str()) {
            select = T::narrow(select, name, values)?;
            continue;
        }
        match kind.attribute(name) {
            Some(attribute) if attribute.column => {
                let cells = values.iter().map(|text| cell(attribute, text)).collect::<Result<Vec<_>>>()?;
                select = select.in_list(&attribute.column_name(), cells);
            }
            attribute => later.push((name, values, attribute)),
        }
    }
    let limit = wanted.page.fetch_limit(net.max_limit());
    let sorted_by_columns = wanted.page.sort.iter().all(|(key, _)| kind.attribute(key).is_some_and(|a| a.column));
    let backward = wanted.page.reverse;
    let mut rows = if later.is_empty() && sorted_by_columns {
        let mut order: Vec<(String, Dir)> = wanted
            .page
            .sort
            .iter()
            .filter_map(|(key, dir)| kind.attribute(key).map(|a| (a.column_name(), turned(*dir, backward))))
            .collect();
        if order.iter().all(|(column, _)| column != "id") {
            order.push(("id".into(), turned(SortDir::Asc, backward)));
        }
        let columns: Vec<(&str, Dir)> = order.iter().map(|(column, dir)| (column.as_str(), *dir)).collect();
        if let Some(marker) = &wanted.page.marker {
            let names: Vec<&str> = columns.iter().map(|(column, _)| *column).collect();
            let sql = format!("SELECT {} FROM {} WHERE id = ?1", names.join(", "), kind.table);
            let values =
                tx.query_opt(&sql, params![marker], |row| (0..names.len()).map(|i| row.value(i)).collect::<Result<Vec<Value>>>())?;
            select = select.after(values.ok_or_else(|| kind.missing(marker))?);
        }
        select.order(&columns).limit(limit).fetch(tx, |row| row.json::<Object>(0))?
    } else {
        let mut rows = select.fetch(tx, |row| row.json::<Object>(0))?;
        for (name, values, attribute) in later {
            rows = keep(rows, name, values, attribute)?;
        }
        rows.sort_by(|a, b| {
            let keys = wanted.page.sort.iter().map(|(key, dir)| (key.as_str(), *dir)).chain([("id", SortDir::Asc)]);
            keys.map(|(key, dir)| {
                let order = compare(a.get(key), b.get(key));
                if turned(dir, backward) == Dir::Asc { order } else { order.reverse() }
            })
            .find(|order| order.is_ne())
            .unwrap_or(std::cmp::Ordering::Equal)
        });
        if let Some(marker) = &wanted.page.marker {
            let at =
                rows.iter().position(|row| row.get("id").and_then(Json::as_str) == Some(marker)).ok_or_else(|| kind.missing(marker))?;
            rows.drain(..=at);
        }
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        rows
    };
    if backward {
        rows.reverse();
    }
    Ok(rows)
}

fn turned(dir: SortDir, backward: bool) -> Dir {
    if (dir == SortDir::Asc) != backward { Dir::Asc } else { Dir::Desc }
}

fn compare(a: Option<&Json>, b: Option<&Json>) -> std::cmp::Ordering {
    match (a, b) {
        (Some(Json::Number(a)), Some(Json::Number(b))) => a.as_i64().cmp(&b.as_i64()),
        (Some(Json::Bool(a)), Some(Json::Bool(b))) => a.cmp(b),
        (Some(a), Some(b)) => show(a).cmp(&show(b)),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

/// A filter's text as the column's value.
fn cell(attribute: &Attribute, text: &str) -> Result<Value> {
    let json = Json::String(text.to_string());
    Ok(match attribute.check {
        Check::Flag => {
            Value::from(flag(&json).ok_or_else(|| {
                fault::bad("InvalidInput", format!("Invalid input for operation: '{text}' cannot be converted to boolean."))
            })?)
        }
        Check::Int(..) | Check::IntOrNull(..) => match text.parse::<i64>() {
            Ok(n) => Value::Int(n),
            Err(_) => {
                let message = format!("Invalid input for operation: '{text}' is not an integer for {}.", attribute.name);
                return Err(fault::bad("InvalidInput", message));
            }
        },
        _ => Value::from(text),
    })
}

fn keep(rows: Vec<Object>, name: &str, values: &[String], attribute: Option<&Attribute>) -> Result<Vec<Object>> {
    let has_tags = |row: &Object, any: bool| {
        let tags: Vec<&str> =
            row.get("tags").and_then(Json::as_array).map(|l| l.iter().filter_map(Json::as_str).collect()).unwrap_or_default();
        let mut wanted = values.iter().flat_map(|v| v.split(','));
        if any { wanted.any(|tag| tags.contains(&tag)) } else { wanted.all(|tag| tags.contains(&tag)) }
    };
    if name == "changed_since" {
        let text = values.last().map(String::as_str).unwrap_or_default();
        let since = Timestamp::parse(text).ok_or_else(|| {
            fault::bad("InvalidInput", format!("Invalid input for operation: The input {text} for changed_since is not a valid time."))
        })?;
        let newer = |row: &Object| row.get("updated_at").and_then(Json::as_str).and_then(Timestamp::parse).is_some_and(|t| t >= since);
        return Ok(rows.into_iter().filter(newer).collect());
    }
    let boolean = match attribute.map(|a| a.check) {
        Some(Check::Flag) => {
            let parsed: Option<Vec<bool>> = values.iter().map(|v| flag(&Json::String(v.clone()))).collect();
            Some(parsed.ok_or_else(|| fault::bad("InvalidInput", format!("Invalid input for operation: {name} must be a boolean.")))?)
        }
        _ => None,
    };
    let fits = |row: &Object| match name {
        "tags" => has_tags(row, false),
        "tags-any" => has_tags(row, true),
        "not-tags" => !has_tags(row, false),
        "not-tags-any" => !has_tags(row, true),
        _ => match (row.get(name), &boolean) {
            (Some(Json::Bool(b)), Some(wanted)) => wanted.contains(b),
            (Some(Json::Array(list)), _) => list.iter().any(|item| values.contains(&show(item))),
            (None | Some(Json::Null), _) => values.iter().any(|v| v.is_empty() || v == "None" || v == "null"),
            (Some(value), _) => values.contains(&show(value)),
        },
    };
    Ok(rows.into_iter().filter(fits).collect())
}
