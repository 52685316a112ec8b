//! Alarms that come and go too often.

use fault::{Alarm, Severity, Which};
use serde_json::Value;

use super::{World, failed, instance, until, world, world_with};

const KEYS: [(&str, &str); 3] = [("fault.flap_count", "3"), ("fault.flap_seconds", "3600"), ("fault.flap_quiet", "3600")];

/// Set and cleared so often.
async fn flap(w: &World, times: usize) {
    for _ in 0..times {
        w.set(failed("i1")).await;
        assert!(w.clear("700.001", instance("i1")).await, "who clears is told that it was set");
    }
}

async fn is_set(w: &World) -> bool {
    let faults = w.faults.clone();
    w.core.store.read(|tx| faults.alarm_is_set_in(tx, "700.001", &instance("i1"))).await.unwrap()
}

/// As if what is held had not changed for an hour and more; then the process that releases runs.
async fn quiet(w: &World) {
    w.core.store.write(|tx| tx.execute("UPDATE alarm SET held_at = held_at - 3601000000 WHERE held_at IS NOT NULL", &[])).await.unwrap();
    w.core.tasks.start().await.unwrap();
    let held = "SELECT COUNT(*) FROM alarm WHERE held_at IS NOT NULL";
    until(async || w.core.store.read(|tx| tx.query_one(held, &[], |row| row.int(0))).await.unwrap() == 0).await;
    w.core.tasks.stop().await;
}

fn texts(list: &Value) -> Vec<String> {
    list["event_log"].as_array().unwrap().iter().map(|event| event["reason_text"].as_str().unwrap().to_string()).collect()
}

#[tokio::test]
async fn nothing_is_held_unless_that_is_wanted() {
    let w = world().await;
    flap(&w, 40).await;
    assert_eq!((w.column("/v1/alarms", "uuid").await.len(), w.states().await.len()), (0, 80));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_too_often_is_held_told_of_once_and_released_when_it_is_quiet() {
    let w = world_with(&KEYS).await;
    flap(&w, 3).await;
    assert!(w.column("/v1/alarms", "uuid").await.is_empty(), "three times are allowed");
    flap(&w, 1).await;
    assert_eq!(w.states().await, ["set", "set", "clear", "set", "clear", "set", "clear", "set"]);
    let said = texts(&w.get("/v1/event_log?limit=1").await).remove(0);
    assert_eq!(said, "Cleared more than 3 times in 3600 seconds: held set until nothing changes for 3600 seconds. Instance i1 has failed");
    let alarm = w.get("/v1/alarms").await["alarms"][0].clone();
    assert_eq!((&alarm["reason_text"], &alarm["severity"]), (&"Instance i1 has failed".into(), &"critical".into()), "the row is exact");
    // Who sets and clears sees how it really is.
    assert!(!is_set(&w).await && !w.clear("700.001", instance("i1")).await);
    let faults = w.faults.clone();
    assert!(w.core.store.read(|tx| faults.alarms_in(tx, Which::Id("700.001"))).await.unwrap().is_empty());
    flap(&w, 20).await;
    assert_eq!(w.set(failed("i1")).await, alarm["uuid"].as_str().unwrap(), "it is the same alarm all the time");
    assert!(is_set(&w).await && w.clear("700.001", instance("i1")).await);
    assert_eq!((w.states().await.len(), w.outbox().await.len()), (8, 8), "nobody hears of it");
    quiet(&w).await;
    assert_eq!((w.column("/v1/alarms", "uuid").await.len(), w.states().await[0].as_str()), (0, "clear"));
    assert_eq!(texts(&w.get("/v1/event_log?limit=1").await), ["Instance i1 has failed"]);
    // It begins anew.
    flap(&w, 3).await;
    assert!(w.column("/v1/alarms", "uuid").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_when_it_is_released_stays_as_it_was_set_last() {
    let mut w = world_with(&KEYS).await;
    let minor = |text: &str| Alarm { severity: Severity::Minor, reason_text: text.into(), ..failed("i1") };
    for _ in 0..4 {
        w.set(minor("a little")).await;
        w.clear("700.001", instance("i1")).await;
    }
    w.set(minor("a little more")).await;
    assert_eq!(w.states().await.len(), 8);
    // Worse than ever is told at once, and once.
    for _ in 0..3 {
        w.set(failed("i1")).await;
        w.clear("700.001", instance("i1")).await;
    }
    assert_eq!((w.states().await.len(), texts(&w.get("/v1/event_log?limit=1").await)), (9, vec!["Instance i1 has failed".to_string()]));
    // What is to be kept is set, if it was only held.
    let faults = w.faults.clone();
    w.core.store.write(move |tx| faults.alarm_keep_in(tx, &minor("at last"))).await.unwrap();
    let alarm = w.get("/v1/alarms").await["alarms"][0].clone();
    assert_eq!((&alarm["reason_text"], &alarm["severity"]), (&"at last".into(), &"minor".into()));
    // A restart changes nothing of it.
    w.core.tasks = task::Engine::new(w.core.store.clone(), "next");
    w.faults = fault::Faults::new(w.core.clone()).await.unwrap();
    assert!(is_set(&w).await);
    quiet(&w).await;
    assert_eq!(w.get("/v1/alarms").await["alarms"][0]["uuid"], alarm["uuid"]);
    assert_eq!((w.states().await.len(), texts(&w.get("/v1/event_log?limit=1").await)), (10, vec!["at last".to_string()]));
    assert!(w.clear("700.001", instance("i1")).await, "and is cleared as ever");
    assert!(w.column("/v1/alarms", "uuid").await.is_empty());
}

#[tokio::test]
async fn who_deletes_an_alarm_or_clears_a_tree_means_it() {
    let w = world_with(&KEYS).await;
    flap(&w, 4).await;
    let uuid = w.column("/v1/alarms", "uuid").await.remove(0);
    assert_eq!(w.bench.call("admin", &format!("DELETE /v1/alarms/{uuid}"), Value::Null).await.0, 204);
    assert_eq!((w.column("/v1/alarms", "uuid").await.len(), w.states().await[0].as_str()), (0, "clear"));
    flap(&w, 4).await;
    assert_eq!(w.column("/v1/alarms", "uuid").await.len(), 1);
    let faults = w.faults.clone();
    assert_eq!(w.core.store.write(move |tx| faults.alarms_clear_under_in(tx, &instance("i1"))).await.unwrap(), 1);
    assert!(w.column("/v1/alarms", "uuid").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_held_where_damping_is_switched_off() {
    let mut w = world_with(&KEYS).await;
    flap(&w, 4).await;
    let mut changed = (*w.core.config).clone();
    changed.set("fault.flap_count", "0");
    w.core.config = changed.into();
    w.core.tasks = task::Engine::new(w.core.store.clone(), "next");
    w.faults = fault::Faults::new(w.core.clone()).await.unwrap();
    w.core.tasks.start().await.unwrap();
    until(async || w.column("/v1/alarms", "uuid").await.is_empty()).await;
    assert_eq!(w.states().await[0], "clear");
    w.core.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_often_counts_and_others_are_not_touched() {
    let w = world_with(&KEYS).await;
    flap(&w, 3).await;
    // An hour later.
    let aged = w.core.store.read(|tx| tx.query_one("SELECT clears FROM alarm_flap", &[], |row| row.json::<Vec<i64>>(0))).await.unwrap();
    let aged: Vec<i64> = aged.into_iter().map(|at| at - 3_601_000_000).collect();
    let older = move |tx: &store::Tx| tx.execute("UPDATE alarm_flap SET clears = ?1", &[store::Value::json(&aged)?]);
    w.core.store.write(older).await.unwrap();
    flap(&w, 3).await;
    for n in 0..9 {
        w.set(failed(&format!("x{n}"))).await;
        assert!(w.clear("700.001", instance(&format!("x{n}"))).await);
    }
    assert!(w.column("/v1/alarms", "uuid").await.is_empty(), "many alarms once each are no flapping");
    w.core.store.write(|tx| tx.execute("UPDATE alarm_flap SET changed_at = 1", &[])).await.unwrap();
    w.core.tasks.start().await.unwrap();
    let counted = "SELECT COUNT(*) FROM alarm_flap";
    until(async || w.core.store.read(|tx| tx.query_one(counted, &[], |row| row.int(0))).await.unwrap() == 0).await;
    w.core.tasks.stop().await;
}
