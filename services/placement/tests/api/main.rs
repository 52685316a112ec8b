//! The placement API, as a client sees it.
#![allow(clippy::unwrap_used)]

mod crowds;
mod groups;
mod holdings;
mod reshaper;
mod rules;
mod versions;

use placement::{Inventory, MIGRATIONS, Placement, RULES, Requirements};
use proptest::prelude::*;
use serde_json::{Value, json};
use service::testing::{Bench, core};

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "aaaaaaaa-0000-4000-8000-000000000002";
const C: &str = "cccccccc-0000-4000-8000-000000000001";
const AGG: &str = "dddddddd-0000-4000-8000-000000000001";
const LATEST: &str = "openstack-api-version=placement+1.39 content-type=application/json";

async fn bench() -> (Bench, Placement, tempfile::TempDir) {
    let (core, home) = core("placement", RULES).await;
    core.store.migrate("placement", MIGRATIONS).await.unwrap();
    let placement = Placement::new(core).await.unwrap();
    (Bench::new(placement.service().unwrap()), placement, home)
}

async fn provider(bench: &Bench, uuid: &str, name: &str, parent: Option<&str>, vcpus: u64) {
    let body = json!({"name": name, "uuid": uuid, "parent_provider_uuid": parent});
    assert_eq!(bench.call("admin", &format!("POST /resource_providers {LATEST}"), body).await.0, 200);
    if vcpus > 0 {
        let body = json!({"resource_provider_generation": 0, "inventories": {"VCPU": {"total": vcpus}, "MEMORY_MB": {"total": 1000, "max_unit": 600}}});
        assert_eq!(bench.call("admin", &format!("PUT /resource_providers/{uuid}/inventories {LATEST}"), body).await.0, 200);
    }
}

fn allocation(generation: Value, provider: &str, vcpus: u64) -> Value {
    json!({"allocations": {provider: {"resources": {"VCPU": vcpus}}}, "project_id": "p1", "user_id": "u1", "consumer_generation": generation, "consumer_type": "INSTANCE"})
}

#[tokio::test]
async fn providers_are_made_renamed_moved_and_deleted() {
    let (bench, _, _home) = bench().await;
    provider(&bench, A, "top", None, 0).await;
    provider(&bench, B, "below", Some(A), 0).await;
    let (status, body) = bench.call("admin", &format!("GET /resource_providers/{B} {LATEST}"), Value::Null).await;
    assert_eq!((status, &body["root_provider_uuid"], &body["parent_provider_uuid"]), (200, &json!(A), &json!(A)));
    let (_, old) = bench.call("admin", &format!("GET /resource_providers/{B}"), Value::Null).await;
    assert!(old.get("root_provider_uuid").is_none() && old["links"].as_array().unwrap().len() == 3, "{old}");
    for (line, body, status, code) in [
        ("POST /resource_providers", json!({"name": "top"}), 409, "placement.duplicate_name"),
        ("POST /resource_providers", json!({"name": ""}), 400, "placement.undefined_code"),
        ("POST /resource_providers", json!({"nome": "x"}), 400, "placement.undefined_code"),
        ("POST /resource_providers", json!({"name": "x", "uuid": "no"}), 400, "placement.undefined_code"),
        (&format!("DELETE /resource_providers/{A}"), Value::Null, 409, "placement.resource_provider.cannot_delete_parent"),
        (&format!("PUT /resource_providers/{A}"), json!({"name": "top", "parent_provider_uuid": B}), 400, "placement.undefined_code"),
        ("GET /resource_providers/nope", Value::Null, 404, "placement.undefined_code"),
    ] {
        let (found, answer) = bench.call("admin", &format!("{line} {LATEST}"), body).await;
        assert_eq!((found, &answer["errors"][0]["code"]), (status, &json!(code)), "{line}: {answer}");
    }
    let (_, tree) = bench.call("admin", &format!("GET /resource_providers?in_tree={B} {LATEST}"), Value::Null).await;
    assert_eq!(tree["resource_providers"].as_array().unwrap().len(), 2);
    let moved =
        bench.call("admin", &format!("PUT /resource_providers/{B} {LATEST}"), json!({"name": "free", "parent_provider_uuid": null})).await;
    assert_eq!(moved.1["root_provider_uuid"], B);
    assert_eq!(bench.call("admin", &format!("DELETE /resource_providers/{A} {LATEST}"), Value::Null).await.0, 204);
}

#[tokio::test]
async fn a_stale_generation_is_a_conflict_and_use_cannot_be_pulled_away() {
    let (bench, _, _home) = bench().await;
    provider(&bench, A, "a", None, 4).await;
    let stale = json!({"resource_provider_generation": 0, "inventories": {}});
    let (status, body) = bench.call("admin", &format!("PUT /resource_providers/{A}/inventories {LATEST}"), stale).await;
    assert_eq!((status, &body["errors"][0]["code"]), (409, &json!("placement.concurrent_update")));
    assert_eq!(bench.call("admin", &format!("PUT /allocations/{C} {LATEST}"), allocation(Value::Null, A, 4)).await.0, 204);
    for (line, status) in
        [(format!("DELETE /resource_providers/{A}/inventories/VCPU"), 409), (format!("DELETE /resource_providers/{A}"), 409)]
    {
        assert_eq!(bench.call("admin", &format!("{line} {LATEST}"), Value::Null).await.0, status, "{line}");
    }
    assert_eq!(bench.call("admin", &format!("DELETE /resource_providers/{A}/inventories/MEMORY_MB {LATEST}"), Value::Null).await.0, 204);
}

#[tokio::test]
async fn allocations_fit_or_nothing_changes() {
    let (bench, placement, _home) = bench().await;
    provider(&bench, A, "a", None, 4).await;
    provider(&bench, B, "b", None, 2).await;
    let put = |body: Value| {
        bench.call(
            "admin",
            "PUT /allocations/cccccccc-0000-4000-8000-000000000001 openstack-api-version=placement+1.39 content-type=application/json",
            body,
        )
    };
    assert_eq!(put(allocation(json!(3), A, 1)).await.0, 409, "a generation for a consumer that is not there");
    assert_eq!(put(allocation(Value::Null, A, 5)).await.0, 409, "more than there is");
    assert_eq!(put(allocation(Value::Null, C, 1)).await.0, 400, "an unknown provider");
    assert_eq!(put(allocation(Value::Null, A, 0)).await.0, 400);
    assert_eq!(placement.consumers().await.unwrap(), Vec::<String>::new(), "nothing is left of refused requests");
    assert_eq!(put(allocation(Value::Null, A, 4)).await.0, 204);
    assert_eq!(put(allocation(json!(1), B, 2)).await.0, 204, "moved to another provider");
    let (_, body) = bench.call("admin", &format!("GET /allocations/{C} {LATEST}"), Value::Null).await;
    assert_eq!((&body["consumer_generation"], &body["allocations"][B]["resources"]), (&json!(2), &json!({"VCPU": 2})), "{body}");
    let (_, usage) = bench.call("admin", &format!("GET /usages?project_id=p1 {LATEST}"), Value::Null).await;
    assert_eq!(usage["usages"], json!({"INSTANCE": {"VCPU": 2, "consumer_count": 1}}));
    // Two consumers in one request: the second does not fit, so the first keeps what it had.
    let other = "cccccccc-0000-4000-8000-000000000002";
    let both = json!({C: allocation(json!(2), A, 1), other: allocation(Value::Null, B, 3)});
    assert_eq!(bench.call("admin", &format!("POST /allocations {LATEST}"), both).await.0, 409);
    let (_, body) = bench.call("admin", &format!("GET /allocations/{C} {LATEST}"), Value::Null).await;
    assert_eq!(body["allocations"][B]["resources"], json!({"VCPU": 2}));
    assert_eq!(bench.call("admin", &format!("DELETE /allocations/{C} {LATEST}"), Value::Null).await.0, 204);
    assert_eq!(bench.call("admin", &format!("DELETE /allocations/{C} {LATEST}"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn candidates_honour_room_traits_aggregates_and_groups() {
    let (bench, _, _home) = bench().await;
    provider(&bench, A, "a", None, 4).await;
    provider(&bench, B, "b", None, 8).await;
    let traits = json!({"traits": ["HW_CPU_X86_AVX2"], "resource_provider_generation": 1});
    assert_eq!(bench.call("admin", &format!("PUT /resource_providers/{B}/traits {LATEST}"), traits).await.0, 200);
    let aggregates = json!({"aggregates": [AGG], "resource_provider_generation": 1});
    assert_eq!(bench.call("admin", &format!("PUT /resource_providers/{A}/aggregates {LATEST}"), aggregates).await.0, 200);
    for (query, found) in [
        ("resources=VCPU:1", 2),
        ("resources=VCPU:5", 1),
        ("resources=VCPU:9", 0),
        ("resources=MEMORY_MB:601", 0),
        ("resources=VCPU:1&required=HW_CPU_X86_AVX2", 1),
        ("resources=VCPU:1&required=!HW_CPU_X86_AVX2", 1),
        ("resources=VCPU:1&required=in:HW_CPU_X86_AVX2,HW_CPU_X86_AVX", 1),
        (&format!("resources=VCPU:1&member_of={AGG}"), 1),
        (&format!("resources=VCPU:1&member_of=!{AGG}"), 1),
        ("resources=VCPU:1&limit=1", 1),
        ("resources1=VCPU:3&resources2=VCPU:3&group_policy=none", 1),
        ("resources1=VCPU:1&resources2=VCPU:1&group_policy=isolate", 0),
    ] {
        let (status, body) = bench.call("admin", &format!("GET /allocation_candidates?{query} {LATEST}"), Value::Null).await;
        assert_eq!((status, body["allocation_requests"].as_array().map(Vec::len)), (200, Some(found)), "{query}: {body}");
    }
    for query in [
        "",
        "resources=VCPU",
        "resources=NOPE:1",
        "resources=VCPU:0",
        "resources=VCPU:1&required=NOPE",
        "resources=VCPU:1&member_of=x",
        "resources=VCPU:1&what=1",
        "resources1=VCPU:1&resources2=VCPU:1",
    ] {
        let (status, body) = bench.call("admin", &format!("GET /allocation_candidates?{query} {LATEST}"), Value::Null).await;
        assert_eq!(status, 400, "{query}: {body}");
    }
}

#[tokio::test]
async fn a_tree_serves_a_request_together() {
    let (bench, _, _home) = bench().await;
    provider(&bench, A, "host", None, 4).await;
    provider(&bench, B, "device", Some(A), 0).await;
    assert_eq!(bench.call("admin", &format!("PUT /resource_classes/CUSTOM_GPU {LATEST}"), Value::Null).await.0, 201);
    let gpu = json!({"resource_provider_generation": 0, "inventories": {"CUSTOM_GPU": {"total": 1}}});
    assert_eq!(bench.call("admin", &format!("PUT /resource_providers/{B}/inventories {LATEST}"), gpu).await.0, 200);
    let (_, body) = bench.call("admin", &format!("GET /allocation_candidates?resources=VCPU:1,CUSTOM_GPU:1 {LATEST}"), Value::Null).await;
    let only = &body["allocation_requests"][0];
    assert_eq!(only["allocations"], json!({A: {"resources": {"VCPU": 1}}, B: {"resources": {"CUSTOM_GPU": 1}}}), "{body}");
    let (_, body) = bench.call("admin", &format!("GET /allocation_candidates?resources_cpu=VCPU:1&resources_gpu=CUSTOM_GPU:1&group_policy=none&same_subtree=_cpu,_gpu {LATEST}"), Value::Null).await;
    assert_eq!(body["allocation_requests"][0]["mappings"], json!({"_cpu": [A], "_gpu": [B]}), "{body}");
}

#[tokio::test]
async fn versions_without_a_resource_do_not_have_it() {
    let (bench, _, _home) = bench().await;
    for (line, version, status) in [
        ("GET /traits", "1.5", 404),
        ("GET /traits", "1.6", 200),
        ("GET /resource_classes", "1.1", 404),
        ("GET /allocation_candidates?resources=VCPU:1", "1.9", 404),
        ("GET /usages?project_id=p1", "1.8", 404),
        ("GET /resource_providers?required=HW_CPU_X86_AVX2", "1.17", 400),
        ("GET /resource_providers", "1.40", 406),
    ] {
        let (found, body) = bench.call("admin", &format!("{line} openstack-api-version=placement+{version}"), Value::Null).await;
        assert_eq!(found, status, "{line} {version}: {body}");
    }
}

#[tokio::test]
async fn only_administrators_and_services_come_in() {
    let (bench, _, _home) = bench().await;
    for line in [
        "GET /resource_providers",
        "GET /traits",
        "GET /allocation_candidates?resources=VCPU:1",
        "POST /resource_providers",
        &format!("DELETE /allocations/{C}"),
    ] {
        assert_eq!(bench.call("", &format!("{line} {LATEST}"), Value::Null).await.0, 401, "{line}");
        assert_eq!(bench.call("member", &format!("{line} {LATEST}"), Value::Null).await.0, 403, "{line}");
    }
    assert_eq!(bench.call("reader", &format!("GET /usages?project_id=p1 {LATEST}"), Value::Null).await.0, 200);
    assert_eq!(bench.call("reader", &format!("GET /usages?project_id=p2 {LATEST}"), Value::Null).await.0, 403);
}

fn one_vcpu() -> Vec<(String, u64)> {
    vec![("VCPU".into(), 1)]
}

fn claim<'a>(consumer: &'a str, resources: &'a [(String, u64)], groups: &'a [placement::Group]) -> placement::Claim<'a> {
    placement::Claim { consumer, kind: "INSTANCE", project_id: "p", user_id: "u", provider: A, resources, groups }
}

#[tokio::test]
async fn claims_never_exceed_what_there_is() {
    let (_bench, placement, _home) = bench().await;
    placement.provider_sync(A, "a", &[Inventory::of("VCPU", 3, 1.0)], &[], &[]).await.unwrap();
    let claims: Vec<_> = (0..8)
        .map(|i| {
            let placement = placement.clone();
            tokio::spawn(async move {
                let writer = placement.clone();
                let consumer = format!("cccccccc-0000-4000-8000-00000000000{i}");
                placement.core_store().write(move |tx| writer.claim_in(tx, &claim(&consumer, &one_vcpu(), &[]))).await.is_ok()
            })
        })
        .collect();
    let mut won = 0;
    for claim in claims {
        won += usize::from(claim.await.unwrap());
    }
    assert_eq!((won, placement.consumers().await.unwrap().len()), (3, 3));
    let wanted = Requirements { resources: vec![("VCPU".into(), 1)], ..Requirements::default() };
    assert!(placement.candidates(&wanted, 10).await.unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the parameters say, the answer is a list or a clear refusal.
    #[test]
    fn no_query_is_a_fault_of_ours(name in "(resources|required|member_of|in_tree|limit|group_policy|root_required|same_subtree)(_?[A-Z0-9]{0,3})", value in "[!A-Z_0-9:,in-]{0,40}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (bench, _, _home) = bench().await;
            let (status, body) = bench.call("admin", &format!("GET /allocation_candidates?resources=VCPU:1&{name}={value} {LATEST}"), Value::Null).await;
            assert!(status == 200 || status == 400, "{name}={value}: {status} {body}");
        });
    }
}
