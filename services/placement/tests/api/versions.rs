//! Each microversion's own behaviour: the same request just before it and with it. Source: the version history of upstream.

use http_api::response::Response;
use serde_json::{Value, json};
use service::testing::Bench;

use crate::{A, AGG, B, C, LATEST, allocation, bench, provider};

const D: &str = "aaaaaaaa-0000-4000-8000-000000000004";
const OTHER: &str = "cccccccc-0000-4000-8000-000000000002";

async fn ask(bench: &Bench, minor: u16, line: &str, body: &Value) -> Response {
    let kind = if body.is_null() { "" } else { " content-type=application/json" };
    let text = if body.is_null() { String::new() } else { body.to_string() };
    bench.response("admin", &format!("{line} openstack-api-version=placement+1.{minor}{kind}"), text).await
}

async fn value(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// A: a root in an aggregate with a trait and three classes; B: below it, with a class of its own; D: a root with nothing.
async fn world(bench: &Bench) {
    provider(bench, A, "a", None, 8).await;
    provider(bench, B, "b", Some(A), 0).await;
    provider(bench, D, "d", None, 0).await;
    for (line, body, status) in [
        ("PUT /resource_classes/CUSTOM_GPU".to_string(), Value::Null, 201),
        (format!("POST /resource_providers/{B}/inventories"), json!({"resource_class": "CUSTOM_GPU", "total": 2}), 201),
        (format!("PUT /resource_providers/{A}/traits"), json!({"traits": ["HW_CPU_X86_AVX2"], "resource_provider_generation": 1}), 200),
        (format!("PUT /resource_providers/{A}/aggregates"), json!({"aggregates": [AGG], "resource_provider_generation": 2}), 200),
        (format!("PUT /allocations/{C}"), allocation(Value::Null, A, 1), 204),
    ] {
        let (found, answer) = bench.call("admin", &format!("{line} {LATEST}"), body).await;
        assert_eq!(found, status, "{line}: {answer}");
    }
}

/// A request that is answered otherwise from a version on.
#[tokio::test]
async fn statuses_change_with_versions() {
    let (bench, _, _home) = bench().await;
    world(&bench).await;
    let old_list = json!({"allocations": [{"resource_provider": {"uuid": A}, "resources": {"VCPU": 1}}]});
    let mut owned_list = old_list.clone();
    (owned_list["project_id"], owned_list["user_id"]) = (json!("p"), json!("u"));
    let owned = json!({"allocations": {A: {"resources": {"VCPU": 1}}}, "project_id": "p", "user_id": "u"});
    let mut seen = owned.clone();
    seen["consumer_generation"] = json!(null);
    let mut mapped = seen.clone();
    mapped["mappings"] = json!({"": [A]});
    let full = json!({"resource_provider_generation": 1, "inventories": {"VCPU": {"total": 1, "reserved": 1}}});
    let avx = "HW_CPU_X86_AVX2";
    let nothing = Value::Null;
    for (minor, line, body, before, since) in [
        (1, format!("GET /resource_providers/{A}/aggregates"), &nothing, 404, 200),
        (2, "GET /resource_classes".into(), &nothing, 404, 200),
        (3, format!("GET /resource_providers?member_of=in:{AGG}"), &nothing, 400, 200),
        (4, "GET /resource_providers?resources=VCPU:1".into(), &nothing, 400, 200),
        (5, format!("DELETE /resource_providers/{D}/inventories"), &nothing, 405, 204),
        (6, "GET /traits".into(), &nothing, 404, 200),
        (6, format!("GET /resource_providers/{A}/traits"), &nothing, 404, 200),
        (7, "PUT /resource_classes/CUSTOM_NEW".into(), &nothing, 415, 201),
        (8, format!("PUT /allocations/{OTHER}"), &old_list, 204, 400),
        (9, "GET /usages?project_id=p1".into(), &nothing, 404, 200),
        (10, "GET /allocation_candidates?resources=VCPU:1".into(), &nothing, 404, 200),
        (12, format!("PUT /allocations/{OTHER}"), &owned_list, 204, 400),
        (13, "POST /allocations".into(), &json!({OTHER: owned}), 404, 204),
        (14, format!("GET /resource_providers?in_tree={A}"), &nothing, 400, 200),
        (16, "GET /allocation_candidates?resources=VCPU:1&limit=1".into(), &nothing, 400, 200),
        (17, format!("GET /allocation_candidates?resources=VCPU:1&required={avx}"), &nothing, 400, 200),
        (18, format!("GET /resource_providers?required={avx}"), &nothing, 400, 200),
        (19, format!("PUT /resource_providers/{D}/aggregates"), &json!([AGG]), 200, 400),
        (20, "POST /resource_providers".into(), &json!({"name": "n"}), 201, 409),
        (21, format!("GET /allocation_candidates?resources=VCPU:1&member_of={AGG}"), &nothing, 400, 200),
        (22, format!("GET /allocation_candidates?resources=VCPU:1&required=!{avx}"), &nothing, 400, 200),
        (22, format!("GET /resource_providers?required=!{avx}"), &nothing, 400, 200),
        (24, format!("GET /resource_providers?member_of={AGG}&member_of={AGG}"), &nothing, 400, 200),
        (25, "GET /allocation_candidates?resources1=VCPU:1".into(), &nothing, 400, 200),
        (26, format!("PUT /resource_providers/{D}/inventories"), &full, 400, 200),
        (28, format!("PUT /allocations/{OTHER}"), &owned, 204, 400),
        (30, "POST /reshaper".into(), &json!({"inventories": {}, "allocations": {}}), 404, 400),
        (31, format!("GET /allocation_candidates?resources=VCPU:1&in_tree={A}"), &nothing, 400, 200),
        (32, format!("GET /allocation_candidates?resources=VCPU:1&member_of=!{AGG}"), &nothing, 400, 200),
        (32, format!("GET /resource_providers?member_of=!in:{AGG}"), &nothing, 400, 200),
        (33, "GET /allocation_candidates?resources_COMPUTE=VCPU:1".into(), &nothing, 400, 200),
        (34, format!("PUT /allocations/{D}"), &mapped, 400, 204),
        (35, format!("GET /allocation_candidates?resources=VCPU:1&root_required={avx}"), &nothing, 400, 200),
        (
            36,
            format!("GET /allocation_candidates?resources1=VCPU:1&required2={avx}&group_policy=none&same_subtree=1,2"),
            &nothing,
            400,
            200,
        ),
        (37, format!("PUT /resource_providers/{B}"), &json!({"name": "b", "parent_provider_uuid": null}), 400, 200),
        (38, "GET /usages?project_id=p1&consumer_type=all".into(), &nothing, 400, 200),
        (38, format!("PUT /allocations/{AGG}"), &seen, 204, 400),
        (39, format!("GET /allocation_candidates?resources=VCPU:1&required=in:{avx}"), &nothing, 400, 200),
        (39, format!("GET /resource_providers?required=in:{avx}"), &nothing, 400, 200),
    ] {
        for (minor, status) in [(minor - 1, before), (minor, since)] {
            let (found, answer) = value(ask(&bench, minor, &line, body).await).await;
            assert_eq!(found, status, "{line} with 1.{minor}: {answer}");
        }
    }
}

/// Part of an answer that comes with a version.
#[tokio::test]
async fn answers_grow_with_versions() {
    let (bench, _, _home) = bench().await;
    world(&bench).await;
    let candidates = "GET /allocation_candidates?resources=VCPU:1";
    for (minor, line, pointer) in [
        (1, format!("GET /resource_providers/{A}"), "/links/3".to_string()),
        (6, format!("GET /resource_providers/{A}"), "/links/4".into()),
        (11, format!("GET /resource_providers/{A}"), "/links/5".into()),
        (12, candidates.into(), format!("/allocation_requests/0/allocations/{A}")),
        (12, format!("GET /allocations/{C}"), "/project_id".into()),
        (14, format!("GET /resource_providers/{B}"), "/root_provider_uuid".into()),
        (17, candidates.into(), format!("/provider_summaries/{A}/traits")),
        (19, format!("GET /resource_providers/{A}/aggregates"), "/resource_provider_generation".into()),
        (23, "GET /resource_providers/none".into(), "/errors/0/code".into()),
        (27, candidates.into(), format!("/provider_summaries/{A}/resources/MEMORY_MB")),
        (28, format!("GET /allocations/{C}"), "/consumer_generation".into()),
        (28, format!("GET /resource_providers/{A}/allocations"), format!("/allocations/{C}/consumer_generation")),
        (29, "GET /allocation_candidates?resources=VCPU:1,CUSTOM_GPU:1".into(), "/allocation_requests/0".into()),
        (29, candidates.into(), format!("/provider_summaries/{A}/root_provider_uuid")),
        (34, candidates.into(), "/allocation_requests/0/mappings/".into()),
        (38, format!("GET /allocations/{C}"), "/consumer_type".into()),
        (38, "GET /usages?project_id=p1".into(), "/usages/INSTANCE/consumer_count".into()),
    ] {
        for (minor, there) in [(minor - 1, false), (minor, true)] {
            let (_, answer) = value(ask(&bench, minor, &line, &Value::Null).await).await;
            assert_eq!(answer.pointer(&pointer).is_some(), there, "{line} {pointer} with 1.{minor}: {answer}");
        }
    }
}

/// From 1.15 on answers say when the thing changed, and that they are not to be kept.
#[tokio::test]
async fn answers_have_a_date() {
    let (bench, _, _home) = bench().await;
    world(&bench).await;
    for path in [
        "/resource_providers".to_string(),
        format!("/resource_providers/{A}"),
        format!("/resource_providers/{A}/inventories"),
        format!("/resource_providers/{A}/inventories/VCPU"),
        format!("/resource_providers/{A}/usages"),
        format!("/resource_providers/{A}/aggregates"),
        format!("/resource_providers/{A}/allocations"),
        format!("/resource_providers/{A}/traits"),
        "/resource_classes".into(),
        "/resource_classes/VCPU".into(),
        "/traits".into(),
        "/traits/HW_CPU_X86_AVX2".into(),
        format!("/allocations/{C}"),
        "/allocation_candidates?resources=VCPU:1".into(),
        "/usages?project_id=p1".into(),
    ] {
        for (minor, there) in [(14, false), (15, true)] {
            let response = ask(&bench, minor, &format!("GET {path}"), &Value::Null).await;
            assert!(response.status().is_success(), "{path}");
            assert_eq!(response.headers().contains_key("last-modified"), there, "{path} with 1.{minor}");
            assert_eq!(response.headers().get("cache-control").is_some_and(|v| v == "no-cache"), there, "{path} with 1.{minor}");
        }
    }
}

#[tokio::test]
async fn only_json_is_taken_and_given() {
    let (bench, _, _home) = bench().await;
    let body = json!({"name": "x"}).to_string();
    for (line, body, status) in [
        ("POST /resource_providers content-type=text/plain", body.as_str(), 415),
        ("POST /resource_providers", body.as_str(), 400),
        ("POST /resource_providers", "", 415),
        ("POST /resource_providers content-type=application/json", "{", 400),
        ("GET /resource_providers accept=text/html", "", 406),
        ("GET /resource_providers accept=application/json;q=0", "", 406),
        ("GET /resource_providers accept=text/html,*/*;q=0.1", "", 200),
        ("GET /resource_providers accept=application/*", "", 200),
        ("PATCH /resource_providers", "", 405),
        ("GET /resource_providers openstack-api-version=placement+1.40", "", 406),
        ("GET /resource_providers openstack-api-version=placement+1.x", "", 400),
    ] {
        assert_eq!(bench.response("admin", line, body.into()).await.status().as_u16(), status, "{line}");
    }
}
