//! Inventories that move with what is allocated of them.

use serde_json::{Value, json};
use service::testing::Bench;

use crate::{A, B, C, LATEST, allocation, bench, provider};

async fn generation(bench: &Bench, uuid: &str) -> Value {
    bench.call("admin", &format!("GET /resource_providers/{uuid} {LATEST}"), Value::Null).await.1["generation"].clone()
}

async fn shape(bench: &Bench, parent: Value, child: Value, allocations: Value) -> Value {
    let (a, b) = (generation(bench, A).await, generation(bench, B).await);
    json!({
        "inventories": {
            A: {"resource_provider_generation": a, "inventories": parent},
            B: {"resource_provider_generation": b, "inventories": child},
        },
        "allocations": allocations,
    })
}

/// What A and B have, and what C holds of whom.
async fn state(bench: &Bench) -> Value {
    let get = async |path: String| bench.call("admin", &format!("GET {path} {LATEST}"), Value::Null).await.1;
    json!([
        get(format!("/resource_providers/{A}/inventories")).await,
        get(format!("/resource_providers/{B}/inventories")).await,
        get(format!("/allocations/{C}")).await,
    ])
}

#[tokio::test]
async fn an_inventory_moves_to_a_child_with_its_allocations() {
    let (bench, placement, _home) = bench().await;
    provider(&bench, A, "a", None, 8).await;
    provider(&bench, B, "b", Some(A), 0).await;
    assert_eq!(bench.call("admin", &format!("PUT /allocations/{C} {LATEST}"), allocation(Value::Null, A, 5)).await.0, 204);
    let moved = json!({C: allocation(json!(1), B, 5)});
    let body = shape(&bench, json!({"MEMORY_MB": {"total": 1000}}), json!({"VCPU": {"total": 8}}), moved).await;
    let (status, answer) = bench.call("admin", &format!("POST /reshaper {LATEST}"), body).await;
    assert_eq!(status, 204, "{answer}");
    let now = state(&bench).await;
    assert!(now[0]["inventories"].get("VCPU").is_none(), "{now}");
    assert_eq!(
        (&now[1]["inventories"]["VCPU"]["total"], &now[2]["allocations"][B]["resources"]),
        (&json!(8), &json!({"VCPU": 5})),
        "{now}"
    );
    // And placement finds it there.
    let wanted = placement::Requirements { resources: vec![("VCPU".into(), 3)], ..Default::default() };
    let found = placement.candidates(&wanted, 10).await.unwrap();
    assert_eq!(found.iter().map(|c| c.provider.as_str()).collect::<Vec<_>>(), [B]);
}

#[tokio::test]
async fn a_shape_that_does_not_fit_changes_nothing() {
    let (bench, _, _home) = bench().await;
    provider(&bench, A, "a", None, 8).await;
    provider(&bench, B, "b", Some(A), 0).await;
    assert_eq!(bench.call("admin", &format!("PUT /allocations/{C} {LATEST}"), allocation(Value::Null, A, 5)).await.0, 204);
    let before = state(&bench).await;
    let (memory, vcpus) = (json!({"MEMORY_MB": {"total": 1000}}), json!({"VCPU": {"total": 8}}));
    let moved = |generation: i64, of: &str, amount: u64| json!({C: allocation(json!(generation), of, amount)});
    let nobody = "aaaaaaaa-0000-4000-8000-00000000000f";
    let mut stale = shape(&bench, memory.clone(), vcpus.clone(), moved(1, B, 5)).await;
    stale["inventories"][A]["resource_provider_generation"] = json!(0);
    let unknown = json!({"inventories": {nobody: {"resource_provider_generation": 0, "inventories": {}}}, "allocations": {}});
    for (why, body, status, code) in [
        ("VCPU of A is in use", shape(&bench, memory.clone(), vcpus.clone(), json!({})).await, 409, "placement.inventory.inuse"),
        ("too much", shape(&bench, memory.clone(), vcpus.clone(), moved(1, B, 9)).await, 409, "placement.undefined_code"),
        ("an old consumer", shape(&bench, memory.clone(), vcpus.clone(), moved(7, B, 5)).await, 409, "placement.concurrent_update"),
        ("an old provider", stale, 409, "placement.concurrent_update"),
        ("no provider", unknown, 400, "placement.resource_provider.not_found"),
        ("no class", shape(&bench, memory.clone(), json!({"CUSTOM_NONE": {"total": 1}}), json!({})).await, 400, "placement.undefined_code"),
        ("no inventories", json!({"inventories": {}, "allocations": {}}), 400, "placement.undefined_code"),
        (
            "no allocations",
            json!({"inventories": {A: {"resource_provider_generation": 0, "inventories": {}}}}),
            400,
            "placement.undefined_code",
        ),
    ] {
        let (found, answer) = bench.call("admin", &format!("POST /reshaper {LATEST}"), body).await;
        assert_eq!((found, &answer["errors"][0]["code"]), (status, &json!(code)), "{why}: {answer}");
        assert_eq!(state(&bench).await, before, "{why}");
    }
}
