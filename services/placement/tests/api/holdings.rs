//! What services promise of single providers, and the providers that they keep.

use std::collections::BTreeMap;

use placement::{Holding, Inventory, Placement, Requirements};
use serde_json::{Value, json};

use crate::{A, B, C, LATEST, bench};

const CLASS: &str = "CUSTOM_VOLUME_GB";
const CLAIMANTS: usize = 16;

async fn disk(placement: &Placement, uuid: &str, name: &str, above: Option<(&str, &str)>, total: u64) {
    let (this, uuid, name) = (placement.clone(), uuid.to_string(), name.to_string());
    let above = above.map(|(uuid, name)| (uuid.to_string(), name.to_string()));
    let keep = move |tx: &store::Tx| {
        this.provider_keep_in(tx, &uuid, &name, above.as_ref().map(|(uuid, name)| (uuid.as_str(), name.as_str())))?;
        let offered = |had: Option<Inventory>| Inventory { total, ..had.unwrap_or_else(|| Inventory::of(CLASS, total, 1.0)) };
        this.inventory_keep_in(tx, &uuid, CLASS, offered)
    };
    placement.core_store().write(keep).await.unwrap();
}

async fn hold(placement: &Placement, consumer: &str, project: &str, amounts: &[(&str, u64)], is_there: bool) -> base::Result<()> {
    let (this, consumer, project) = (placement.clone(), consumer.to_string(), project.to_string());
    let amounts: BTreeMap<String, u64> = amounts.iter().map(|(provider, amount)| (provider.to_string(), *amount)).collect();
    let give = move |tx: &store::Tx| {
        let (kind, class) = ("VOLUME", CLASS);
        let holding = Holding { consumer: &consumer, kind, project_id: &project, user_id: "u1", class, amounts: &amounts };
        if is_there { this.adopt_in(tx, &holding) } else { this.hold_in(tx, &holding) }
    };
    placement.core_store().write(give).await
}

/// What is used of each provider: as searches see it, which must be what the store says.
async fn used(placement: &Placement) -> Vec<u64> {
    let all = [A.to_string(), B.to_string()];
    // The index knows nothing yet, everything, or something older.
    let read = |tx: &store::Tx| placement.stocks_in(tx, CLASS, &all);
    let seen = placement.core_store().read(read).await.unwrap();
    let sql = "SELECT CAST(COALESCE(SUM(used), 0) AS BIGINT) FROM allocation WHERE provider = ?1";
    let mut sums = Vec::new();
    for uuid in &all {
        let sum = placement.core_store().read(|tx| tx.query_one(sql, store::params![uuid], |r| r.count(0))).await.unwrap();
        assert_eq!(seen.get(uuid).map_or(0, |stock| stock.used), sum);
        sums.push(sum);
    }
    sums
}

#[tokio::test]
async fn one_consumer_has_of_two_providers_what_fits_in_both() {
    let (bench, placement, _home) = bench().await;
    disk(&placement, A, "a", None, 10).await;
    disk(&placement, B, "b", None, 4).await;
    hold(&placement, C, "p1", &[(A, 3)], false).await.unwrap();
    assert_eq!(used(&placement).await, [3, 0]);
    placement.candidates(&Requirements::default(), 10).await.unwrap();
    hold(&placement, C, "p1", &[(A, 3), (B, 3)], false).await.unwrap();
    assert_eq!(used(&placement).await, [3, 3], "the index is older than this");
    let error = hold(&placement, C, "p1", &[(A, 5), (B, 5)], false).await.unwrap_err();
    assert!(error.is(base::Kind::NoCapacity), "{error:?}");
    assert_eq!(used(&placement).await, [3, 3], "nothing in part");
    // What it has it keeps where there has come to be less, and gets no more.
    disk(&placement, B, "b", None, 2).await;
    hold(&placement, C, "p2", &[(A, 4), (B, 3)], false).await.unwrap();
    assert!(hold(&placement, C, "p2", &[(B, 4)], false).await.is_err());
    let (_, shown) = bench.call("admin", &format!("GET /allocations/{C} {LATEST}"), Value::Null).await;
    assert_eq!((&shown["consumer_type"], &shown["project_id"], &shown["consumer_generation"]), (&json!("VOLUME"), &json!("p2"), &json!(3)));
    // The same again writes nothing.
    hold(&placement, C, "p2", &[(A, 4), (B, 3)], false).await.unwrap();
    assert_eq!(bench.call("admin", &format!("GET /allocations/{C} {LATEST}"), Value::Null).await.1, shown);
    // What is there is there.
    hold(&placement, C, "p2", &[(B, 40)], true).await.unwrap();
    assert_eq!(used(&placement).await, [0, 40]);
    hold(&placement, C, "p2", &[], false).await.unwrap();
    assert_eq!((used(&placement).await, placement.consumers().await.unwrap()), (vec![0, 0], vec![]));
    let nobody = "aaaaaaaa-0000-4000-8000-0000000000ff";
    assert!(hold(&placement, C, "p1", &[(nobody, 1)], false).await.unwrap_err().is(base::Kind::NoCapacity));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_of_it_goes_to_as_many_as_it_suffices_for() {
    let (_bench, placement, _home) = bench().await;
    disk(&placement, A, "a", None, 5).await;
    disk(&placement, B, "b", None, 100).await;
    let claims: Vec<_> = (0..CLAIMANTS)
        .map(|n| {
            let placement = placement.clone();
            let consumer = format!("cccccccc-0000-4000-8000-0000000000{n:02x}");
            tokio::spawn(async move { hold(&placement, &consumer, "p1", &[(A, 1), (B, 2)], false).await })
        })
        .collect();
    let mut won = 0;
    for claim in claims {
        match claim.await.unwrap() {
            Ok(()) => won += 1,
            Err(error) => assert!(error.is(base::Kind::NoCapacity), "{error:?}"),
        }
    }
    assert_eq!((won, used(&placement).await), (5, vec![5, 10]));
}

#[tokio::test]
async fn a_provider_that_is_kept_is_part_of_its_host_and_otherwise_its_administrators() {
    let (bench, placement, _home) = bench().await;
    // The host is not known yet.
    disk(&placement, B, "h@local#local", Some((A, "h")), 7).await;
    placement.provider_sync(A, "h", &[Inventory::of("VCPU", 2, 1.0)], &[], &[]).await.unwrap();
    placement.children_sync(A, "h", &[]).await.unwrap();
    let (_, shown) = bench.call("admin", &format!("GET /resource_providers/{B} {LATEST}"), Value::Null).await;
    assert_eq!((&shown["name"], &shown["parent_provider_uuid"]), (&json!("h@local#local"), &json!(A)));
    let (status, _) = bench.call("admin", &format!("GET /resource_classes/{CLASS} {LATEST}"), Value::Null).await;
    assert_eq!(status, 200);
    // Nothing new to say is nothing written.
    disk(&placement, B, "h@local#local", Some((A, "h")), 7).await;
    assert_eq!(bench.call("admin", &format!("GET /resource_providers/{B} {LATEST}"), Value::Null).await.1, shown);
    let change = json!({"resource_provider_generation": shown["generation"], "total": 7, "allocation_ratio": 3.0, "reserved": 1});
    assert_eq!(bench.call("admin", &format!("PUT /resource_providers/{B}/inventories/{CLASS} {LATEST}"), change).await.0, 200);
    disk(&placement, B, "renamed@local#local", Some((A, "h")), 9).await;
    let (_, held) = bench.call("admin", &format!("GET /resource_providers/{B}/inventories/{CLASS} {LATEST}"), Value::Null).await;
    assert_eq!((&held["total"], &held["allocation_ratio"], &held["reserved"]), (&json!(9), &json!(3.0), &json!(1)));
    let (_, shown) = bench.call("admin", &format!("GET /resource_providers/{B} {LATEST}"), Value::Null).await;
    assert_eq!(shown["name"], "renamed@local#local");
    // Another host that calls itself the same.
    let (other, its) = ("aaaaaaaa-0000-4000-8000-0000000000fe", "aaaaaaaa-0000-4000-8000-0000000000ff");
    for _ in 0..2 {
        disk(&placement, its, "renamed@local#local", Some((other, "h")), 9).await;
        for (uuid, name) in [(other, "h"), (its, "renamed@local#local")] {
            let (_, shown) = bench.call("admin", &format!("GET /resource_providers/{uuid} {LATEST}"), Value::Null).await;
            assert_eq!(shown["name"], format!("{name} ({uuid})"));
        }
    }
    // With the host it goes, but not with what is allocated of it.
    hold(&placement, C, "p1", &[(B, 1)], false).await.unwrap();
    let forget = async || {
        let this = placement.clone();
        placement.core_store().write(move |tx| this.provider_forget_in(tx, A)).await
    };
    assert!(forget().await.unwrap_err().is(base::Kind::Conflict));
    hold(&placement, C, "p1", &[], false).await.unwrap();
    forget().await.unwrap();
    assert_eq!(bench.call("admin", &format!("GET /resource_providers/{B} {LATEST}"), Value::Null).await.0, 404);
}
