//! Each rule keeps out who is not let in.

use serde_json::Value;

use crate::{A, LATEST, bench};

/// For each rule a request that it guards.
const GUARDED: &[(&str, &str)] = &[
    ("placement:resource_providers:list", "GET /resource_providers"),
    ("placement:resource_providers:create", "POST /resource_providers"),
    ("placement:resource_providers:show", "GET /resource_providers/{A}"),
    ("placement:resource_providers:update", "PUT /resource_providers/{A}"),
    ("placement:resource_providers:delete", "DELETE /resource_providers/{A}"),
    ("placement:resource_providers:inventories:list", "GET /resource_providers/{A}/inventories"),
    ("placement:resource_providers:inventories:create", "POST /resource_providers/{A}/inventories"),
    ("placement:resource_providers:inventories:show", "GET /resource_providers/{A}/inventories/VCPU"),
    ("placement:resource_providers:inventories:update", "PUT /resource_providers/{A}/inventories"),
    ("placement:resource_providers:inventories:update", "PUT /resource_providers/{A}/inventories/VCPU"),
    ("placement:resource_providers:inventories:delete", "DELETE /resource_providers/{A}/inventories"),
    ("placement:resource_providers:inventories:delete", "DELETE /resource_providers/{A}/inventories/VCPU"),
    ("placement:resource_providers:aggregates:list", "GET /resource_providers/{A}/aggregates"),
    ("placement:resource_providers:aggregates:update", "PUT /resource_providers/{A}/aggregates"),
    ("placement:resource_providers:traits:list", "GET /resource_providers/{A}/traits"),
    ("placement:resource_providers:traits:update", "PUT /resource_providers/{A}/traits"),
    ("placement:resource_providers:traits:delete", "DELETE /resource_providers/{A}/traits"),
    ("placement:resource_providers:usages", "GET /resource_providers/{A}/usages"),
    ("placement:resource_providers:allocations:list", "GET /resource_providers/{A}/allocations"),
    ("placement:resource_classes:list", "GET /resource_classes"),
    ("placement:resource_classes:create", "POST /resource_classes"),
    ("placement:resource_classes:show", "GET /resource_classes/VCPU"),
    ("placement:resource_classes:update", "PUT /resource_classes/CUSTOM_X"),
    ("placement:resource_classes:delete", "DELETE /resource_classes/CUSTOM_X"),
    ("placement:traits:list", "GET /traits"),
    ("placement:traits:show", "GET /traits/HW_CPU_X86_AVX"),
    ("placement:traits:update", "PUT /traits/CUSTOM_X"),
    ("placement:traits:delete", "DELETE /traits/CUSTOM_X"),
    ("placement:allocations:manage", "POST /allocations"),
    ("placement:allocations:list", "GET /allocations/{A}"),
    ("placement:allocations:update", "PUT /allocations/{A}"),
    ("placement:allocations:delete", "DELETE /allocations/{A}"),
    ("placement:allocation_candidates:list", "GET /allocation_candidates?resources=VCPU:1"),
    ("placement:reshaper:reshape", "POST /reshaper"),
];

#[tokio::test]
async fn members_and_readers_stay_out_and_the_administrator_gets_in() {
    let (bench, _, _home) = bench().await;
    for (rule, line) in GUARDED {
        let line = format!("{} {LATEST}", line.replace("{A}", A));
        assert_eq!(bench.call("", &line, Value::Null).await.0, 401, "{line}");
        for token in ["member", "reader", "other"] {
            assert_eq!(bench.call(token, &line, Value::Null).await.0, 403, "{rule}: {token} {line}");
        }
        // Past the rule: what is asked for may be missing or badly said.
        let (status, answer) = bench.call("admin", &line, Value::Null).await;
        assert!(![401, 403, 405, 500].contains(&status), "{rule}: {line}: {status} {answer}");
    }
    for (token, status) in [("admin", 200), ("member", 200), ("reader", 200), ("other", 403)] {
        assert_eq!(bench.call(token, &format!("GET /usages?project_id=p1 {LATEST}"), Value::Null).await.0, status, "{token}");
    }
}

/// Names and check strings are upstream's.
#[test]
fn every_rule_is_upstreams_and_is_tried() {
    for rule in placement::RULES.iter().filter(|r| r.name.starts_with("placement:")) {
        if rule.name == "placement:usages" {
            assert_eq!(rule.default, "rule:admin_or_project_reader_or_service_api");
            continue;
        }
        assert_eq!(rule.default, "rule:admin_or_service_api", "{}", rule.name);
        assert!(GUARDED.iter().any(|(name, _)| *name == rule.name), "{} is not tried", rule.name);
    }
    assert!(GUARDED.iter().all(|(name, _)| placement::RULES.iter().any(|r| r.name == *name)));
}
