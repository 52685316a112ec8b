//! Random bodies against every route that takes one: wrong types, wrong sizes, wrong nesting.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use testing::Cloud;

use crate::coverage::routes;

/// Attribute names that clients send somewhere; the rest of the world is covered by unknown ones.
const NAMES: &[&str] = &[
    "name",
    "id",
    "server",
    "flavor",
    "keypair",
    "network",
    "subnet",
    "port",
    "router",
    "floatingip",
    "security_group",
    "security_group_rule",
    "user",
    "project",
    "role",
    "domain",
    "group",
    "auth",
    "identity",
    "methods",
    "password",
    "token",
    "scope",
    "imageRef",
    "flavorRef",
    "networks",
    "metadata",
    "enabled",
    "description",
    "tags",
    "cidr",
    "ip_version",
    "fixed_ips",
    "network_id",
    "allocations",
    "resources",
    "inventories",
    "traits",
    "status",
    "reboot",
    "os-stop",
    "visibility",
    "disk_format",
    "quota",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(NAMES).prop_map(str::to_string), 1 => "\\PC{0,12}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        "\\PC{0,40}".prop_map(Value::from),
        Just(json!("11111111-2222-4333-8444-555555555555")),
        Just(json!("10.0.0.0/8")),
        Just(json!("x".repeat(70_000))),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((word(), inner), 0..5).prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
        ]
    })
}

#[test]
fn no_body_is_a_fault_of_ours() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (cloud, admin) = runtime.block_on(async {
        let cloud = Cloud::start().await;
        let admin = cloud.admin().await;
        (cloud, admin)
    });
    let targets: Vec<_> = routes(&cloud, &admin.project_id)
        .into_iter()
        .filter(|(method, path, _)| !matches!(*method, "GET" | "HEAD" | "DELETE") && !path.ends_with("/file"))
        .collect();
    let mut runner = TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
    let strategy = (prop::sample::select(targets), value());
    runner
        .run(&strategy, |((method, path, _), body)| {
            let answer = runtime.block_on(cloud.request(method, &path).token(&admin).json(&body).send());
            prop_assert!(answer.status < 500, "{method} {path} {body}: {} {}", answer.status, answer.text());
            Ok(())
        })
        .unwrap();
}
