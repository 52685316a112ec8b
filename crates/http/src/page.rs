//! Paging: what a list request asks for, and the links of its answer.

use base::{Error, Result};

use crate::query::Query;
use crate::request::Request;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortDir {
    Asc,
    Desc,
}

/// `limit`, `marker`, `sort_key`/`sort_dir` (repeated, or `sort=key:dir,...`) and `page_reverse`.
#[derive(Clone, Debug)]
pub struct Page {
    /// What the client asked for, cut to the greatest allowed; none: no limit asked.
    pub limit: Option<u64>,
    pub marker: Option<String>,
    pub sort: Vec<(String, SortDir)>,
    pub reverse: bool,
}

impl Page {
    /// Reads the page parameters. `max` cuts the limit (0: none), `allowed` names the sort keys (empty: any).
    pub fn from_query(query: &Query, max: u64, allowed: &[&str]) -> Result<Page> {
        let limit = match query.get("limit") {
            None => None,
            Some(text) => {
                let n: i64 = text.parse().map_err(|_| Error::invalid(format!("limit param must be an integer, not '{text}'")))?;
                let n = u64::try_from(n).map_err(|_| Error::invalid("limit param must be positive"))?;
                Some(if max > 0 { n.min(max) } else { n })
            }
        };
        let mut sort = Vec::new();
        let dirs: Vec<&str> = query.all("sort_dir").collect();
        for (i, key) in query.all("sort_key").enumerate() {
            sort.push((key.to_string(), parse_dir(dirs.get(i).copied().unwrap_or("asc"))?));
        }
        for dir in &dirs {
            parse_dir(dir)?;
        }
        for part in query.all("sort").flat_map(|s| s.split(',')).filter(|p| !p.is_empty()) {
            let (key, dir) = part.split_once(':').unwrap_or((part, "asc"));
            sort.push((key.to_string(), parse_dir(dir)?));
        }
        if let Some((key, _)) = sort.iter().find(|(key, _)| !allowed.is_empty() && !allowed.contains(&key.as_str())) {
            return Err(Error::invalid(format!("Sort key '{key}' is not supported.")));
        }
        let reverse = query.flag("page_reverse")?.unwrap_or(false);
        Ok(Page { limit, marker: query.get("marker").filter(|m| !m.is_empty()).map(str::to_string), sort, reverse })
    }

    /// How many rows to fetch at most.
    pub fn fetch_limit(&self, max: u64) -> u64 {
        match self.limit {
            Some(n) if n > 0 => n.min(max),
            _ => max,
        }
    }
}

fn parse_dir(text: &str) -> Result<SortDir> {
    match text {
        "asc" => Ok(SortDir::Asc),
        "desc" => Ok(SortDir::Desc),
        _ => Err(Error::invalid(format!("Unknown sort direction '{text}', must be one of asc, desc"))),
    }
}

/// The URL of this list with another marker: the `next` link.
pub fn link_with_marker(req: &Request, marker: &str, reverse: Option<bool>) -> String {
    let mut pairs: Vec<(String, String)> =
        req.query.0.iter().filter(|(k, _)| k != "marker" && (k != "page_reverse" || reverse.is_none())).cloned().collect();
    pairs.push(("marker".into(), marker.into()));
    if let Some(reverse) = reverse {
        pairs.push(("page_reverse".into(), if reverse { "True" } else { "False" }.into()));
    }
    format!("{}{}?{}", req.root_url, req.path, Query(pairs).encode())
}
