//! Whatever is written, the index shows what the store holds.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use service::testing::{Bench, core};

use super::*;
use crate::{Inventory, Placement, RULES};

const LATEST: &str = "openstack-api-version=placement+1.39 content-type=application/json";

fn uuid(n: u8) -> String {
    format!("00000000-0000-4000-8000-0000000000{n:02x}")
}

/// One write, made of a few small numbers.
type Write = (u8, u8, u8, u8);

async fn perform(bench: &Bench, placement: &Placement, (what, a, b, c): Write) {
    let (one, other) = (uuid(a % 6), uuid(b % 6));
    let call = async |line: String, body: Value| bench.call("admin", &format!("{line} {LATEST}"), body).await;
    let (_, shown) = call(format!("GET /resource_providers/{one}"), Value::Null).await;
    let generation = &shown["generation"];
    let class = if c % 2 == 0 { "VCPU" } else { "CUSTOM_X" };
    let status = match what % 13 {
        0 | 1 => {
            let parent = if c % 3 == 0 { Value::Null } else { json!(other) };
            call("POST /resource_providers".into(), json!({"name": format!("p{}", a % 6), "uuid": one, "parent_provider_uuid": parent}))
                .await
                .0
        }
        2 => {
            let parent = if c % 3 == 0 { Value::Null } else { json!(other) };
            call(format!("PUT /resource_providers/{one}"), json!({"name": format!("p{}", a % 6), "parent_provider_uuid": parent})).await.0
        }
        3 | 4 => {
            let body =
                json!({"resource_provider_generation": generation, "inventories": {class: {"total": 1 + u32::from(b), "max_unit": 8}}});
            call(format!("PUT /resource_providers/{one}/inventories"), body).await.0
        }
        5 => {
            let traits = if c % 3 == 0 { vec![SHARING] } else { vec!["HW_CPU_X86_AVX", "HW_CPU_X86_SSE"] };
            call(format!("PUT /resource_providers/{one}/traits"), json!({"resource_provider_generation": generation, "traits": traits}))
                .await
                .0
        }
        6 => {
            let body = json!({"resource_provider_generation": generation, "aggregates": [uuid(100 + b % 2)]});
            call(format!("PUT /resource_providers/{one}/aggregates"), body).await.0
        }
        7 | 8 => {
            let (consumer, amount) = (uuid(200 + b % 4), 1 + c % 3);
            let (_, held) = call(format!("GET /allocations/{consumer}"), Value::Null).await;
            let body = json!({"allocations": {one: {"resources": {class: amount}}}, "project_id": "p", "user_id": "u",
                              "consumer_generation": held["consumer_generation"], "consumer_type": "INSTANCE"});
            call(format!("PUT /allocations/{consumer}"), body).await.0
        }
        9 => call(format!("DELETE /allocations/{}", uuid(200 + b % 4)), Value::Null).await.0,
        10 => call(format!("DELETE /resource_providers/{one}"), Value::Null).await.0,
        11 => {
            let here = placement.clone();
            let claim = move |tx: &store::Tx| claim_in(&here, tx, &uuid(200 + b % 4), &one, u64::from(1 + c % 3));
            return drop(placement.core.store.write(claim).await);
        }
        _ => {
            let inventories = [Inventory::of("VCPU", u64::from(b), 2.0)];
            return drop(placement.provider_sync(&one, &format!("p{}", a % 6), &inventories, &[], &[]).await);
        }
    };
    assert!(status < 500, "{what} {a} {b} {c}: {status}");
}

async fn rebuilt(placement: &Placement) -> Index {
    let whole = |tx: &store::Tx| Ok(News { version: 0, all: true, providers: providers_in(tx, None)?, gone: Vec::new() });
    let mut index = Index::default();
    index.apply(placement.core.store.read(whole).await.unwrap());
    index
}

async fn writes_are_followed(writes: Vec<Write>) {
    let (core, _home) = core("placement", RULES).await;
    let placement = Placement::new(core).await.unwrap();
    let bench = Bench::new(placement.service().unwrap());
    bench.call("admin", &format!("PUT /resource_classes/CUSTOM_X {LATEST}"), Value::Null).await;
    for (at, write) in writes.into_iter().enumerate() {
        perform(&bench, &placement, write).await;
        if at % 3 == 0 {
            placement.index.catch_up(&placement.core.store).await.unwrap();
            let fresh = rebuilt(&placement).await;
            assert_eq!(placement.index.get().told(), fresh.told(), "after write {at}: {write:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_index_shows_what_the_store_holds(writes in vec(any::<Write>(), 40..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(writes_are_followed(writes));
    }
}

fn claim_in(placement: &Placement, tx: &store::Tx, consumer: &str, provider: &str, vcpus: u64) -> base::Result<Vec<String>> {
    let resources = [("VCPU".to_string(), vcpus)];
    let claim = crate::Claim { consumer, kind: "INSTANCE", project_id: "p", user_id: "u", provider, resources: &resources, groups: &[] };
    placement.claim_in(tx, &claim)
}

/// A search in a transaction sees what that transaction has written, and nobody else does.
#[tokio::test]
async fn a_transaction_sees_its_own_claims() {
    let (core, _home) = core("placement", RULES).await;
    let placement = Placement::new(core).await.unwrap();
    placement.provider_sync(&uuid(1), "a", &[Inventory::of("VCPU", 2, 1.0)], &[], &[]).await.unwrap();
    let wanted = crate::Requirements { resources: vec![("VCPU".into(), 2)], ..Default::default() };
    assert_eq!(placement.candidates(&wanted, 10).await.unwrap().len(), 1);
    let here = (placement.clone(), wanted.clone());
    let refused = move |tx: &store::Tx| -> base::Result<()> {
        claim_in(&here.0, tx, &uuid(200), &uuid(1), 1)?;
        assert!(here.0.candidates_in(tx, &here.1, 10)?.is_empty(), "its own claim");
        Err(base::Error::invalid("taken back"))
    };
    assert!(placement.core.store.write(refused).await.is_err());
    assert_eq!(placement.candidates(&wanted, 10).await.unwrap().len(), 1, "nothing of it is left");
}
