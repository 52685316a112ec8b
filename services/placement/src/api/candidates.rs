//! `/allocation_candidates`: where a request would fit.

use std::collections::BTreeMap;

use base::{Error, Result};
use http_api::{Request, Response, json};
use serde_json::{Map, Value, json};

use super::{authorize, dated, since, v};
use crate::Placement;
use crate::filter::{self, Members, Traits};
use crate::search::{Found, Group, Search, search_in};

/// Parameters that may carry a group's suffix.
const GROUPED: [&str; 4] = ["resources", "required", "member_of", "in_tree"];

pub async fn index(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(10))?;
    authorize(&placement, "placement:allocation_candidates:list", &req)?;
    let search = parse(&req)?;
    let found = placement.core.store.read(|tx| search_in(tx, &search)).await?;
    dated(&req, json(200, &view(&req, &found))?, None)
}

/// The suffix of a group's parameter: empty, a number, or from 1.33 on up to 64 letters, digits, `_` and `-`.
fn split<'a>(req: &Request, name: &'a str) -> Option<(&'static str, &'a str)> {
    let base = GROUPED.iter().find(|base| name.starts_with(**base))?;
    let suffix = &name[base.len()..];
    let fits = match suffix {
        "" => true,
        _ if req.version >= v(33) => suffix.len() <= 64 && suffix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
        _ if req.version >= v(25) => suffix.parse::<u32>().is_ok_and(|n| n > 0) && !suffix.starts_with('0'),
        _ => false,
    };
    fits.then_some((*base, suffix))
}

fn parse(req: &Request) -> Result<Search> {
    let minor = req.version.minor;
    let mut parts: BTreeMap<&str, BTreeMap<&'static str, Vec<&str>>> = BTreeMap::new();
    let mut search = Search::default();
    for (name, value) in &req.query.0 {
        let unknown =
            || Error::invalid(format!("Invalid query string parameters: Additional properties are not allowed ('{name}' was unexpected)"));
        match name.as_str() {
            "limit" if minor >= 16 => {
                let limit: usize = value.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                    Error::invalid(format!("Invalid query string parameters: limit: '{value}' is not a positive integer"))
                })?;
                search.limit = Some(limit);
            }
            "group_policy" if minor >= 25 => match value.as_str() {
                "none" => search.isolate = Some(false),
                "isolate" => search.isolate = Some(true),
                _ => return Err(Error::invalid(format!("Invalid query string parameters: '{value}' is not one of ['none', 'isolate']"))),
            },
            "root_required" if minor >= 35 => search.root = Traits::from_values(req.query.all("root_required"), req.version)?,
            "same_subtree" if minor >= 36 => search.subtrees.push(value.split(',').map(str::to_string).collect()),
            _ => {
                let (base, suffix) = split(req, name).ok_or_else(unknown)?;
                let since = match base {
                    "required" => 17,
                    "member_of" => 21,
                    "in_tree" => 31,
                    _ => 10,
                };
                if minor < since {
                    return Err(unknown());
                }
                parts.entry(suffix).or_default().entry(base).or_default().push(value);
            }
        }
    }
    for (suffix, values) in parts {
        let all = |name: &str| values.get(name).into_iter().flatten().copied();
        let resources = all("resources").next_back().map(filter::resources).transpose()?.unwrap_or_default();
        let group = Group {
            suffix: suffix.to_string(),
            resources,
            traits: Traits::from_values(all("required"), req.version)?,
            members: Members::from_values(all("member_of"), req.version)?,
            in_tree: all("in_tree").next_back().map(filter::uuid).transpose()?,
        };
        // From 1.36 on a group without resources may stand in a same_subtree.
        let bare = minor >= 36 && search.subtrees.iter().any(|s| s.iter().any(|g| g == suffix));
        if group.resources.is_empty() && !bare {
            return Err(Error::invalid(format!("All request groups must specify resources; group '{suffix}' has none.")));
        }
        search.groups.push(group);
    }
    if search.groups.iter().all(|g| g.resources.is_empty()) {
        return Err(Error::invalid("At least one request group (`resources` or `resources{$S}`) is required."));
    }
    if let Some(name) = search.subtrees.iter().flatten().find(|name| !search.groups.iter().any(|g| g.suffix == **name)) {
        return Err(Error::invalid(format!("Real suffixes should be specified in 'same_subtree': {name} is none.")));
    }
    if search.groups.iter().filter(|g| !g.suffix.is_empty()).count() > 1 && search.isolate.is_none() {
        return Err(Error::invalid("The \"group_policy\" parameter is required when specifying more than one \"resources{N}\" parameter."));
    }
    Ok(search)
}

fn view(req: &Request, found: &Found) -> Value {
    let minor = req.version.minor;
    let requests: Vec<Value> = found
        .candidates
        .iter()
        .map(|candidate| {
            if minor < 12 {
                let list: Vec<Value> =
                    candidate.amounts.iter().map(|(uuid, r)| json!({"resource_provider": {"uuid": uuid}, "resources": r})).collect();
                return json!({ "allocations": list });
            }
            let map: Map<String, Value> = candidate.amounts.iter().map(|(uuid, r)| (uuid.clone(), json!({ "resources": r }))).collect();
            let mut request = json!({ "allocations": map });
            if minor >= 34 {
                request["mappings"] = json!(candidate.mappings);
            }
            request
        })
        .collect();
    let summaries: Map<String, Value> = found
        .summaries
        .iter()
        .map(|summary| {
            let stock = summary.stock.iter().filter(|s| minor >= 27 || found.asked.contains(&s.inventory.class));
            let resources: Map<String, Value> =
                stock.map(|s| (s.inventory.class.clone(), json!({"capacity": s.inventory.capacity(), "used": s.used}))).collect();
            let mut view = json!({ "resources": resources });
            if minor >= 17 {
                view["traits"] = json!(summary.traits);
            }
            if minor >= 29 {
                view["parent_provider_uuid"] = json!(summary.parent);
                view["root_provider_uuid"] = json!(summary.root);
            }
            (summary.uuid.clone(), view)
        })
        .collect();
    json!({"allocation_requests": requests, "provider_summaries": summaries})
}
