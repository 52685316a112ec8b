//! JSON home (draft-nottingham-json-home): the relation of each path that is served, for clients that look paths up.

use http_api::{Request, RouteInfo};
use serde_json::{Map, Value, json};

const BASE: &str = "https://docs.openstack.org/api/openstack-identity/3/";
const RELATIONS: &str = include_str!("json_home.tsv");

/// The document of the paths that are served, with `prefix` before each. What is in the table and not served is not in it.
pub fn document(routes: &[RouteInfo], prefix: &str) -> Value {
    let served: Vec<String> = routes.iter().filter_map(|route| route.path.strip_prefix("/v3")).map(shape).collect();
    let mut resources = Map::new();
    for line in RELATIONS.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [path, relation, status, variables @ ..] = &columns[..] else { continue };
        if !served.contains(&shape(path)) {
            continue;
        }
        let href = format!("{prefix}{path}");
        let names: Vec<&str> = path.split('/').filter_map(variable).collect();
        let mut resource = if names.is_empty() {
            json!({ "href": href })
        } else {
            let relations = variables.iter().flat_map(|text| text.split(' ')).map(|relation| json!(format!("{BASE}{relation}")));
            let variables: Map<String, Value> = names.into_iter().map(str::to_string).zip(relations).collect();
            json!({ "href-template": href, "href-vars": variables })
        };
        if *status != "stable" {
            resource["hints"] = json!({ "status": status });
        }
        resources.insert(format!("{BASE}{relation}"), resource);
    }
    json!({ "resources": resources })
}

fn variable(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// The path without the names of its variables, which routes and table need not share.
fn shape(path: &str) -> String {
    path.split('/').map(|segment| if variable(segment).is_some() { "{}" } else { segment }).collect::<Vec<_>>().join("/")
}

/// Whether the client wants this document rather than plain JSON: what it accepts says so by name or by weight.
pub fn is_wanted(req: &Request) -> bool {
    prefers_home(req.header("accept").unwrap_or_default())
}

fn prefers_home(accepted: &str) -> bool {
    let home = weight(accepted, "application/json-home");
    home.0 > 0 && home > weight(accepted, "application/json")
}

/// How much a type is liked, in thousandths, and how well it fits what was said of it: the range that fits it best counts
/// (RFC 9110, 12.5.1).
fn weight(accepted: &str, kind: &str) -> (u32, u8) {
    let mut best = (0, 0);
    for range in accepted.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let fit = match parts.next().unwrap_or_default() {
            name if name.eq_ignore_ascii_case(kind) => 3,
            "application/*" => 2,
            "*/*" => 1,
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok());
        let quality = (quality.unwrap_or(0.0).clamp(0.0, 1.0) * 1000.0) as u32;
        best = best.max((fit, quality));
    }
    (best.1, best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_liked_type_is_given() {
        for (accepted, home) in [
            ("", false),
            ("*/*", false),
            ("application/json", false),
            ("application/json-home", true),
            ("application/*", false),
            ("application/json-home, */*", true),
            ("application/json-home;q=0.9, application/json;q=0.5", true),
            ("application/json-home;q=0.2, application/json", false),
            ("application/json;q=0, application/*", true),
            ("application/json-home;q=x", false),
        ] {
            assert_eq!(prefers_home(accepted), home, "{accepted}");
        }
    }

    #[test]
    fn every_line_of_the_table_is_whole() {
        for line in RELATIONS.lines().filter(|line| !line.starts_with('#')) {
            let columns: Vec<&str> = line.split('\t').collect();
            let variables = columns[0].split('/').filter_map(variable).count();
            let given = columns.get(3).map_or(0, |text| text.split(' ').count());
            assert!(columns.len() >= 3 && variables == given, "{line}");
        }
    }
}
