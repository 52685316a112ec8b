//! What the lists share: paging, sorting, filters, links.

use base::{Error, Result, Timestamp};
use http_api::query::parse_bool;
use http_api::{Page, Query, Request, SortDir, Version};
use serde_json::{Value, json};
use store::{Dir, Select};

pub struct Wanted {
    pub page: Page,
    pub offset: u64,
    pub all_tenants: bool,
    pub with_count: bool,
    /// Everything else of the query string.
    pub filters: Vec<(String, String)>,
}

const PAGING: &[&str] =
    &["limit", "marker", "offset", "sort", "sort_key", "sort_dir", "all_tenants", "with_count", "project_id", "cascade"];

impl Wanted {
    pub fn read(req: &Request, max: u64) -> Result<Wanted> {
        let page = Page::from_query(&req.query, max, &[])?;
        let offset = match req.query.get("offset") {
            None => 0,
            Some(text) => match text.parse::<i64>().ok().and_then(|n| u64::try_from(n).ok()).filter(|n| *n <= i32::MAX as u64) {
                Some(n) => n,
                None => return Err(Error::invalid("offset param must be a non-negative integer")),
            },
        };
        let all = req.query.get("all_tenants").map(|v| parse_bool(v).unwrap_or(!v.is_empty())).unwrap_or(false);
        let mut filters: Vec<(String, String)> = req.query.0.iter().filter(|(k, _)| !PAGING.contains(&k.as_str())).cloned().collect();
        if let Some(project) = req.query.get("project_id").filter(|_| req.ctx.is_admin()) {
            filters.push(("project_id".into(), project.into()));
        }
        Ok(Wanted {
            page,
            offset,
            all_tenants: all && req.ctx.is_admin(),
            with_count: req.version >= Version::new(3, 45) && req.query.flag("with_count")?.unwrap_or(false),
            filters,
        })
    }

    /// Whose things are listed; none: everybody's.
    pub fn project<'a>(&'a self, req: &'a Request) -> Option<&'a str> {
        match self.filter("project_id") {
            Some(project) if self.all_tenants => Some(project),
            _ if self.all_tenants => None,
            _ => Some(req.ctx.project_id()),
        }
    }

    pub fn filter(&self, name: &str) -> Option<&str> {
        self.filters.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Filters that tenants may not use are an error from 3.31 on, and ignored before.
    pub fn check(&mut self, req: &Request, known: &[&str]) -> Result<()> {
        if req.ctx.is_admin() {
            return Ok(());
        }
        let plain = |k: &str| k.strip_suffix('~').unwrap_or(k).to_string();
        let unknown: Vec<String> = self.filters.iter().map(|(k, _)| plain(k)).filter(|k| !known.contains(&k.as_str())).collect();
        if !unknown.is_empty() && req.version >= Version::new(3, 31) {
            return Err(Error::invalid(format!(
                "Invalid input received: Invalid filters {} are found in query options.",
                unknown.join(",")
            )));
        }
        self.filters.retain(|(k, _)| known.contains(&plain(k).as_str()));
        Ok(())
    }

    /// The order as columns; the id makes it total.
    pub fn order(&self, columns: &[(&str, &'static str)], id: &'static str) -> Result<Vec<(&'static str, Dir)>> {
        let mut order = Vec::new();
        for (key, dir) in &self.page.sort {
            let column = columns.iter().find(|(name, _)| name == key).map(|(_, column)| *column);
            let column = column.ok_or_else(|| Error::invalid(format!("Invalid input received: Sort key supplied is invalid: {key}")))?;
            order.push((column, if *dir == SortDir::Asc { Dir::Asc } else { Dir::Desc }));
        }
        let last = order.last().map_or(Dir::Desc, |(_, dir)| *dir);
        if order.is_empty() {
            let created = columns.iter().find(|(name, _)| *name == "created_at").map_or(id, |(_, column)| *column);
            order.push((created, Dir::Desc));
        }
        if !order.iter().any(|(column, _)| *column == id) {
            order.push((id, last));
        }
        Ok(order)
    }

    /// `created_at=gt:TIME,lt:TIME` and the like.
    pub fn times(&self, mut select: Select, name: &str, column: &str) -> Result<Select> {
        let Some(text) = self.filter(name) else { return Ok(select) };
        for part in text.split(',') {
            let (operator, time) = part.split_once(':').ok_or_else(|| Error::invalid(format!("Invalid {name} value")))?;
            let at = Timestamp::parse(time).ok_or_else(|| Error::invalid(format!("Invalid {time} value")))?;
            select = match operator {
                "gt" => select.gt(column, at),
                "gte" => select.ge(column, at),
                "eq" => select.eq(column, at),
                "neq" => select.ne(column, at),
                "lt" => select.lt(column, at),
                "lte" => select.le(column, at),
                _ => return Err(Error::invalid(format!("Invalid {name} operator"))),
            };
        }
        Ok(select)
    }
}

/// Links of one thing.
pub fn links(req: &Request, path: &str) -> Value {
    let project = req.ctx.project_id();
    json!([
        {"rel": "self", "href": format!("{}/v3/{project}/{path}", req.base_url)},
        {"rel": "bookmark", "href": format!("{}/{project}/{path}", req.base_url)},
    ])
}

/// The link to the next page.
pub fn next(req: &Request, path: &str, marker: &str) -> Value {
    let mut pairs: Vec<(String, String)> = req.query.0.iter().filter(|(k, _)| k != "marker" && k != "offset").cloned().collect();
    pairs.push(("marker".into(), marker.into()));
    let href = format!("{}/v3/{}/{path}?{}", req.base_url, req.ctx.project_id(), Query(pairs).encode());
    json!([{"rel": "next", "href": href}])
}

/// `{'a': 'b'}` as Python prints it, or JSON.
pub fn dict(text: &str) -> Result<Vec<(String, String)>> {
    let bad = || Error::invalid(format!("Invalid filter value: {text}"));
    let json = text.replace("u'", "'").replace('\'', "\"");
    let map: serde_json::Map<String, Value> = serde_json::from_str(&json).map_err(|_| bad())?;
    Ok(map.into_iter().map(|(k, v)| (k, v.as_str().map_or_else(|| v.to_string(), str::to_string))).collect())
}
