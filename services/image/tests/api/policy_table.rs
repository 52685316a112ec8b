//! Our rules are upstream's: compared with a transcription of its documented defaults.

use std::collections::{BTreeSet, HashMap};

use crate::world::World;

const UPSTREAM: &str = include_str!("../data/rules.tsv");

/// Upstream never asks it.
const UNUSED: [&str; 1] = ["modify_task"];

fn shape(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
}

pub async fn rules_are_upstreams(world: World) {
    let upstream: HashMap<&str, Vec<&str>> = UPSTREAM
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut columns: Vec<&str> = line.split('\t').collect();
            columns.resize(4, "");
            (columns[0], columns[1..].to_vec())
        })
        .collect();
    assert!(upstream.len() > 60, "{}", upstream.len());
    let ours: HashMap<&str, &policy::Rule> = image::RULES.iter().map(|rule| (rule.name, rule)).collect();
    for (name, rule) in &ours {
        let theirs = upstream.get(name).unwrap_or_else(|| panic!("{name} is no rule of upstream's"));
        assert_eq!(rule.default, theirs[0], "{name}");
        let scopes: Vec<&str> = rule.scopes.iter().map(|scope| scope.as_str()).collect();
        assert_eq!(scopes.join(" "), theirs[1], "{name}");
    }
    // A rule of upstream's that we do not have guards nothing that we serve.
    let served: BTreeSet<(&str, String)> = world.app.routes().iter().map(|route| (route.method, shape(&route.path))).collect();
    assert!(served.contains(&("GET", "/v2/images/{}".to_string())), "{served:?}");
    for (name, columns) in upstream.iter().filter(|(name, _)| !ours.contains_key(*name) && !UNUSED.contains(name)) {
        for operation in columns[2].split(", ").filter(|operation| !operation.is_empty()) {
            let (method, path) = operation.split_once(' ').unwrap();
            assert!(!served.contains(&(method, shape(path))), "{operation} is served without {name}");
        }
    }
}
