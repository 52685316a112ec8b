//! Groups of a claim: other providers of the host's tree give something too.

use placement::{Child, Group, Inventory, Placement, Requirements};
use serde_json::{Value, json};

use crate::{A, B, LATEST, bench, claim, one_vcpu};

const EGRESS: &str = "NET_BW_EGR_KILOBIT_PER_SEC";
const PACKETS: &str = "NET_PACKET_RATE_KILOPACKET_PER_SEC";
const CLAIMANTS: usize = 16;

fn consumer(n: usize) -> String {
    format!("cccccccc-0000-4000-8000-0000000000{n:02x}")
}

fn wire(name: &str, kilobits: u64) -> Child {
    let traits = vec![format!("CUSTOM_PHYSNET_{}", name.to_uppercase()), "CUSTOM_VNIC_TYPE_NORMAL".into()];
    Child { name: name.into(), inventories: vec![Inventory::of(EGRESS, kilobits, 1.0)], traits, children: Vec::new() }
}

fn group(kilobits: u64, physnet: Option<&str>) -> Group {
    let required = physnet.map(|name| format!("CUSTOM_PHYSNET_{name}")).into_iter().chain(["CUSTOM_VNIC_TYPE_NORMAL".into()]);
    Group { resources: vec![(EGRESS.into(), kilobits)], required: required.collect() }
}

async fn host(placement: &Placement, uuid: &str, name: &str, wires: &[Child]) {
    placement.provider_sync(uuid, name, &[Inventory::of("VCPU", 100, 1.0)], &[], &[]).await.unwrap();
    placement.children_sync(uuid, name, wires).await.unwrap();
}

async fn taken(placement: &Placement, consumer: &str, groups: &[Group]) -> base::Result<Vec<String>> {
    let (writer, consumer, groups) = (placement.clone(), consumer.to_string(), groups.to_vec());
    placement.core_store().write(move |tx| writer.claim_in(tx, &claim(&consumer, &one_vcpu(), &groups))).await
}

async fn found(placement: &Placement, groups: &[Group]) -> Vec<String> {
    let wanted = Requirements { resources: one_vcpu(), groups: groups.to_vec(), ..Requirements::default() };
    placement.candidates(&wanted, 10).await.unwrap().into_iter().map(|c| c.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_kilobits_go_to_as_many_as_they_suffice_for() {
    let (bench, placement, _home) = bench().await;
    host(&placement, A, "a", &[wire("public", 5900)]).await;
    let claims: Vec<_> = (0..CLAIMANTS)
        .map(|n| {
            let placement = placement.clone();
            tokio::spawn(async move { taken(&placement, &consumer(n), &[group(1000, Some("PUBLIC"))]).await })
        })
        .collect();
    let mut won = 0;
    for claim in claims {
        match claim.await.unwrap() {
            Ok(given) => won += given.len(),
            Err(error) => assert!(error.is(base::Kind::NoCapacity), "{error:?}"),
        }
    }
    assert_eq!((won, placement.consumers().await.unwrap().len()), (5, 5), "who gets no bandwidth gets no processor either");
    assert!(found(&placement, &[group(1000, None)]).await.is_empty());
    assert_eq!(found(&placement, &[group(900, None)]).await, ["a"]);
    let line = format!("GET /allocation_candidates?resources=VCPU:1&resources1={EGRESS}:900&required1=CUSTOM_PHYSNET_PUBLIC {LATEST}");
    let (status, body) = bench.call("admin", &line, Value::Null).await;
    assert_eq!((status, body["allocation_requests"].as_array().map(Vec::len)), (200, Some(1)), "{body}");
    let (_, usage) = bench.call("admin", &format!("GET /usages?project_id=p {LATEST}"), Value::Null).await;
    assert_eq!(usage["usages"]["INSTANCE"][EGRESS], json!(5000), "{usage}");
}

#[tokio::test]
async fn only_trees_with_room_for_every_group_are_found() {
    let (_bench, placement, _home) = bench().await;
    host(&placement, A, "a", &[wire("one", 1000)]).await;
    host(&placement, B, "b", &[wire("one", 1000), wire("two", 3000)]).await;
    assert_eq!(found(&placement, &[group(1000, None)]).await, ["a", "b"]);
    assert_eq!(found(&placement, &[group(1000, Some("TWO"))]).await, ["b"]);
    assert_eq!(found(&placement, &[group(600, None), group(600, None)]).await, ["b"]);
    assert!(found(&placement, &[group(3001, None)]).await.is_empty());
    assert!(found(&placement, &[group(1, Some("THREE"))]).await.is_empty());
    // The first could take what only the third can take: it is not asked to insist.
    assert_eq!(found(&placement, &[group(1000, None), group(2000, None), group(1000, Some("ONE"))]).await, ["b"]);
    let only = Requirements { in_providers: Some(vec![A.into()]), groups: vec![group(3000, None)], ..Requirements::default() };
    assert!(placement.candidates(&only, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_claim_keeps_what_it_has_and_gives_back_the_rest() {
    let (_bench, placement, _home) = bench().await;
    host(&placement, A, "a", &[wire("one", 1000), wire("two", 1000)]).await;
    let first = taken(&placement, &consumer(0), &[group(700, Some("TWO"))]).await.unwrap();
    assert_eq!(taken(&placement, &consumer(0), &[group(600, None)]).await.unwrap(), first, "where it is, not where it would be new");
    taken(&placement, &consumer(1), &[group(400, Some("TWO"))]).await.unwrap();
    // There is less by now than is used: nobody gets more, and nobody loses what it has.
    host(&placement, A, "a", &[wire("one", 1000), wire("two", 500)]).await;
    assert_eq!(taken(&placement, &consumer(0), &[group(600, Some("TWO"))]).await.unwrap(), first);
    assert!(taken(&placement, &consumer(0), &[group(601, Some("TWO"))]).await.unwrap_err().is(base::Kind::NoCapacity));
    assert!(taken(&placement, &consumer(2), &[group(1, Some("TWO"))]).await.is_err());
    // Without any it has none.
    taken(&placement, &consumer(0), &[]).await.unwrap();
    taken(&placement, &consumer(2), &[group(100, Some("TWO"))]).await.unwrap();
}

#[tokio::test]
async fn what_is_handed_over_is_not_asked_for_anew() {
    let (_bench, placement, _home) = bench().await;
    host(&placement, A, "a", &[wire("one", 1000)]).await;
    host(&placement, B, "b", &[wire("one", 1000)]).await;
    taken(&placement, &consumer(0), &[group(700, None)]).await.unwrap();
    // There is less by now than is used.
    placement.provider_sync(A, "a", &[Inventory { total: 1, reserved: 1, ..Inventory::of("VCPU", 1, 1.0) }], &[], &[]).await.unwrap();
    placement.children_sync(A, "a", &[wire("one", 500)]).await.unwrap();
    let hand = async |from: usize, to: usize, provider: Option<&'static str>| {
        let here = placement.clone();
        let moved = move |tx: &store::Tx| here.hand_over_in(tx, &consumer(from), &consumer(to), provider);
        placement.core_store().write(moved).await.unwrap();
    };
    let has = async |n: usize| {
        let here = placement.clone();
        let held = placement.core_store().read(move |tx| here.held_in(tx, &consumer(n))).await.unwrap();
        let mut held: Vec<(bool, String, u64)> = held.into_iter().map(|((by, class), used)| (by == A || by == B, class, used)).collect();
        held.sort();
        held
    };
    let whole = [(false, EGRESS.to_string(), 700), (true, "VCPU".to_string(), 1)];
    hand(0, 1, None).await;
    assert_eq!((has(0).await, has(1).await.as_slice()), (vec![], whole.as_slice()));
    assert_eq!(placement.consumers().await.unwrap(), [consumer(1)]);
    assert!(taken(&placement, &consumer(0), &[]).await.unwrap_err().is(base::Kind::NoCapacity), "it is a newcomer there");
    // It comes back, in place of what its owner has elsewhere, and twice is as once.
    let here = placement.clone();
    let elsewhere = move |tx: &store::Tx| {
        let (consumer, groups) = (consumer(0), [group(300, None)]);
        here.claim_in(tx, &placement::Claim { provider: B, ..claim(&consumer, &one_vcpu(), &groups) })
    };
    placement.core_store().write(elsewhere).await.unwrap();
    hand(1, 0, None).await;
    hand(1, 0, None).await;
    assert_eq!((has(0).await.as_slice(), has(1).await), (whole.as_slice(), vec![]));
    // What is below can stay with whom it is.
    hand(0, 1, Some(A)).await;
    assert_eq!((has(0).await.as_slice(), has(1).await.as_slice()), (&whole[..1], &whole[1..]));
    hand(1, 0, Some(A)).await;
    assert_eq!((has(0).await.as_slice(), has(1).await), (whole.as_slice(), vec![]));
    let here = placement.clone();
    let within = move |tx: &store::Tx| {
        let holds = |kilobits, name| here.holds_in(tx, &claim(&consumer(0), &one_vcpu(), &[group(kilobits, name)]));
        Ok((holds(700, Some("ONE"))?, holds(701, None)?, holds(1, Some("TWO"))?))
    };
    assert_eq!(placement.core_store().read(within).await.unwrap(), (true, false, false));
}

#[tokio::test]
async fn a_provider_below_goes_when_nothing_is_used_of_it() {
    let (bench, placement, _home) = bench().await;
    host(&placement, A, "a", &[wire("one", 1000), wire("two", 1000)]).await;
    taken(&placement, &consumer(0), &[group(700, Some("TWO"))]).await.unwrap();
    let names = async || {
        let (_, body) = bench.call("admin", &format!("GET /resource_providers?in_tree={A} {LATEST}"), Value::Null).await;
        let list = body["resource_providers"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> = list.iter().filter_map(|p| p["name"].as_str().map(str::to_string)).collect();
        names.sort();
        names
    };
    assert_eq!(names().await, ["a", "a:one", "a:two"]);
    host(&placement, A, "b", &[wire("one", 1000), wire("two", 1000)]).await;
    assert_eq!(names().await, ["b", "b:one", "b:two"], "they are called after their host");
    host(&placement, A, "a", &[wire("one", 1000), wire("two", 1000)]).await;
    let forget = {
        let here = placement.clone();
        move |tx: &store::Tx| here.provider_forget_in(tx, A)
    };
    assert!(placement.core_store().write(forget.clone()).await.unwrap_err().is(base::Kind::Conflict));
    placement.children_sync(A, "a", &[]).await.unwrap();
    assert_eq!(names().await, ["a", "a:two"]);
    assert!(taken(&placement, &consumer(1), &[group(1, None)]).await.is_err(), "it is there for who has it only");
    let here = placement.clone();
    placement.core_store().write(move |tx| here.release_in(tx, &consumer(0))).await.unwrap();
    placement.children_sync(A, "a", &[]).await.unwrap();
    assert_eq!(names().await, ["a"]);
    placement.core_store().write(forget).await.unwrap();
    assert!(names().await.is_empty());
}

#[tokio::test]
async fn providers_below_others_give_together_and_go_leaves_first() {
    let (bench, placement, _home) = bench().await;
    // The wires were there before what is above them now.
    host(&placement, A, "a", &[wire("one", 1000)]).await;
    taken(&placement, &consumer(0), &[group(400, None)]).await.unwrap();
    let switch = |wires: &[Child]| {
        let inventories = vec![Inventory::of(PACKETS, 10, 1.0)];
        Child { name: "switch".into(), inventories, traits: vec!["CUSTOM_VNIC_TYPE_NORMAL".into()], children: wires.to_vec() }
    };
    let tree = async || {
        let (_, body) = bench.call("admin", &format!("GET /resource_providers?in_tree={A} {LATEST}"), Value::Null).await;
        let list = body["resource_providers"].as_array().cloned().unwrap_or_default();
        let name = |uuid: &Value| list.iter().find(|p| p["uuid"] == *uuid).map(|p| p["name"].as_str().unwrap_or_default().to_string());
        let above = list.iter().map(|p| (p["name"].as_str().unwrap_or_default().to_string(), name(&p["parent_provider_uuid"])));
        above.collect::<std::collections::BTreeMap<_, _>>()
    };
    let seen = |pairs: &[(&str, Option<&str>)]| pairs.iter().map(|(name, above)| (name.to_string(), above.map(str::to_string))).collect();
    host(&placement, A, "a", &[switch(&[wire("one", 1000)])]).await;
    assert_eq!(tree().await, seen(&[("a", None), ("a:one", Some("a:switch")), ("a:switch", Some("a"))]));
    let packets = Group { resources: vec![(PACKETS.into(), 3)], required: vec!["CUSTOM_VNIC_TYPE_NORMAL".into()] };
    let given = taken(&placement, &consumer(0), &[group(400, None), packets]).await.unwrap();
    assert_ne!(given[0], given[1]);
    let query = format!("resources=VCPU:1&resources_B={EGRESS}:600&resources_P={PACKETS}:7&same_subtree=_B,_P&group_policy=none");
    let (status, body) = bench.call("admin", &format!("GET /allocation_candidates?{query} {LATEST}"), Value::Null).await;
    assert_eq!((status, body["allocation_requests"].as_array().map(Vec::len)), (200, Some(1)), "{body}");
    let query = query.replace(":7", ":8");
    let (_, body) = bench.call("admin", &format!("GET /allocation_candidates?{query} {LATEST}"), Value::Null).await;
    assert_eq!(body["allocation_requests"], json!([]));

    host(&placement, A, "b", &[switch(&[wire("one", 1000)])]).await;
    assert_eq!(tree().await, seen(&[("b", None), ("b:one", Some("b:switch")), ("b:switch", Some("b"))]));
    // What is used below it keeps the one above.
    taken(&placement, &consumer(0), &[group(400, None)]).await.unwrap();
    placement.children_sync(A, "b", &[]).await.unwrap();
    assert_eq!(tree().await.len(), 3);
    taken(&placement, &consumer(0), &[]).await.unwrap();
    placement.children_sync(A, "b", &[]).await.unwrap();
    assert_eq!(tree().await, seen(&[("b", None)]));
}
