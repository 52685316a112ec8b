//! JSON home: what is served, and nothing else, by its relation.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cloud::*;

/// Paths to which upstream gives no relation of their own, and one that it has not.
const WITHOUT: [&str; 6] = [
    // Their relations lead to the same below /auth.
    "/v3/OS-FEDERATION/domains",
    "/v3/OS-FEDERATION/identity_providers/{}/protocols/{}/metadata",
    "/v3/OS-FEDERATION/projects",
    "/v3/OS-INHERIT/projects/{}/groups/{}/roles/inherited_to_projects",
    "/v3/OS-INHERIT/projects/{}/users/{}/roles/inherited_to_projects",
    "/v3/projects/{}/tags",
];

fn shape(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
}

async fn home(cloud: &Cloud, path: &str) -> Value {
    let answer = cloud.send("GET", path, &[("accept", "application/json-home")], Vec::new()).await;
    assert_eq!(answer.headers["content-type"], "application/json-home");
    answer.is(200)["resources"].clone()
}

pub async fn every_path_has_its_relation(cloud: Cloud) {
    let (root, v3) = (home(&cloud, "/").await, home(&cloud, "/v3").await);
    assert_eq!(home(&cloud, "/identity/v3").await, v3);
    let base = "https://docs.openstack.org/api/openstack-identity/3";
    assert_eq!(v3[format!("{base}/rel/users")], json!({ "href": "/users" }));
    assert_eq!(root[format!("{base}/rel/users")], json!({ "href": "/v3/users" }));
    let trust = json!({ "href-template": "/OS-TRUST/trusts/{trust_id}/roles/{role_id}",
        "href-vars": { "trust_id": format!("{base}/ext/OS-TRUST/1.0/param/trust_id"), "role_id": format!("{base}/param/role_id") } });
    assert_eq!(v3[format!("{base}/ext/OS-TRUST/1.0/rel/trust_role")], trust);
    let limit = json!({ "href-template": "/limits/{limit_id}", "href-vars": { "limit_id": format!("{base}/param/limit_id") },
        "hints": { "status": "experimental" } });
    assert_eq!(v3[format!("{base}/rel/limit")], limit);

    let hrefs = |home: &Value| -> BTreeSet<String> {
        let href = |resource: &Value| resource["href"].as_str().or(resource["href-template"].as_str()).map(shape).unwrap();
        home.as_object().unwrap().values().map(href).collect()
    };
    let served: BTreeSet<String> =
        cloud.app.routes().iter().map(|route| shape(&route.path)).filter(|path| path.starts_with("/v3/")).collect();
    let named = hrefs(&root);
    assert_eq!(named.difference(&served).collect::<Vec<_>>(), Vec::<&String>::new(), "what is not served");
    assert_eq!(served.difference(&named).collect::<Vec<_>>(), WITHOUT, "what has no relation");
    let upstream = include_str!("../../src/api/json_home.tsv").lines().filter(|line| !line.starts_with('#'));
    let upstream: Vec<String> = upstream.filter_map(|line| line.split('\t').nth(1)).map(|relation| format!("{base}/{relation}")).collect();
    assert!(upstream.len() > 100);
    for relation in upstream {
        assert!(v3.get(&relation).is_some(), "{relation} is upstream's and not served");
    }
    // Without that wish the answer is as ever.
    assert_eq!(cloud.get("", "/v3").await.is(200)["version"]["id"], "v3.14");
    assert_eq!(cloud.send("GET", "/v3", &[("accept", "*/*")], Vec::new()).await.is(200)["version"]["id"], "v3.14");
}
