//! Our rules are upstream's: compared with a transcription of its documented defaults.

use std::collections::{BTreeSet, HashMap};

use crate::cloud::*;

const UPSTREAM: &str = include_str!("../data/rules.tsv");

/// Documented, and asked by upstream nowhere: the first two for what is also documented for `get_auth_projects` and `get_auth_domains`, the
/// last for what it answers to nobody any more.
const UNASKED: [&str; 3] = ["identity:list_projects_for_user", "identity:list_domains_for_user", "identity:revocation_list"];

fn shape(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
}

pub async fn rules_are_upstreams(cloud: Cloud) {
    let upstream: HashMap<&str, Vec<&str>> = UPSTREAM
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut columns: Vec<&str> = line.split('\t').collect();
            columns.resize(4, "");
            (columns[0], columns[1..].to_vec())
        })
        .collect();
    assert!(upstream.len() > 200, "{}", upstream.len());
    let ours: HashMap<&str, &policy::Rule> = identity::RULES.iter().map(|rule| (rule.name, rule)).collect();
    for (name, rule) in &ours {
        let theirs = upstream.get(name).unwrap_or_else(|| panic!("{name} is no rule of upstream's"));
        assert_eq!(rule.default, theirs[0], "{name}");
        let scopes: Vec<&str> = rule.scopes.iter().map(|scope| scope.as_str()).collect();
        assert_eq!(scopes.join(" "), theirs[1], "{name}");
    }
    // A rule of upstream's that we do not have guards nothing that we serve.
    let served: BTreeSet<(&str, String)> = cloud.app.routes().iter().map(|route| (route.method, shape(&route.path))).collect();
    for (name, columns) in upstream.iter().filter(|(name, _)| !ours.contains_key(*name) && !UNASKED.contains(name)) {
        for operation in columns[2].split(", ").filter(|operation| !operation.is_empty()) {
            let (method, path) = operation.split_once(' ').unwrap();
            let path = path.split('?').next().unwrap();
            assert!(!served.contains(&(method, shape(path))), "{operation} is served without {name}");
        }
    }
}
