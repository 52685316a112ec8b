//! What setting, clearing and masking do, whoever asks.

use fault::{Alarm, Severity, Which, catalogue};

use super::{failed, world, world_with};

/// An alarm of a host that hierarchy may mask.
fn at(id: &str, entity: &str) -> Alarm {
    Alarm::known(id, entity.into(), Severity::Major, "it is so".into(), "mend it")
}

#[tokio::test]
async fn an_alarm_keeps_its_uuid_as_long_as_it_is_set() {
    let w = world().await;
    let first = w.set(Alarm { severity: Severity::Minor, ..failed("i1") }).await;
    let before = w.get("/v1/alarms").await["alarms"][0].clone();
    assert_eq!(w.set(failed("i1")).await, first);
    let after = w.get("/v1/alarms").await["alarms"].clone();
    assert_eq!((after.as_array().unwrap().len(), &after[0]["severity"]), (1, &"critical".into()));
    assert!(after[0]["timestamp"].as_str() > before["timestamp"].as_str());
    assert_eq!(w.states().await, ["set", "set"]);
    let entity = failed("i1").entity_instance_id;
    assert!(w.clear("700.001", entity).await);
    let events = w.column("/v1/event_log", "uuid").await;
    let different: std::collections::BTreeSet<_> = events.iter().chain([&first]).collect();
    assert_eq!(different.len(), 4, "three events and the alarm have uuids of their own");
    assert_ne!(w.set(failed("i1")).await, first, "another alarm");
}

#[tokio::test]
async fn what_is_to_be_kept_is_not_touched() {
    let w = world().await;
    let uuid = w.set(failed("i1")).await;
    let before = w.get("/v1/alarms").await;
    let faults = w.faults.clone();
    let again = Alarm { severity: Severity::Warning, reason_text: "else".into(), ..failed("i1") };
    let kept = w.core.store.write(move |tx| faults.alarm_keep_in(tx, &again)).await.unwrap();
    assert_eq!((kept, w.get("/v1/alarms").await, w.states().await), (uuid, before, vec!["set".to_string()]));
    let faults = w.faults.clone();
    w.core.store.write(move |tx| faults.alarm_keep_in(tx, &failed("i2"))).await.unwrap();
    assert_eq!(w.states().await.len(), 2, "what is not there is set");
}

#[tokio::test]
async fn clearing_a_tree_ends_at_the_parts_of_names() {
    let w = world().await;
    for entity in ["host=c-1", "host=c-1.port=eth0", "host=c-10", "host=c_1", "host=cx1"] {
        w.set(at("200.006", entity)).await;
    }
    let clear = |entity: &'static str| {
        let faults = w.faults.clone();
        w.core.store.write(move |tx| faults.alarms_clear_under_in(tx, entity))
    };
    assert_eq!(clear("host=c-1").await.unwrap(), 2);
    assert_eq!(clear("host=c_1").await.unwrap(), 1, "the underscore stands for itself");
    assert_eq!(clear("host=%").await.unwrap(), 0);
    assert_eq!(w.column("/v1/alarms", "entity_instance_id").await, ["host=c-10", "host=cx1"]);
    let outbox = w.outbox().await;
    let kinds: Vec<&str> = outbox.iter().map(|(kind, _)| kind.as_str()).skip(5).collect();
    assert_eq!(kinds.iter().filter(|k| **k == "fault.clear").count(), 3, "a clear of each alarm: {kinds:?}");
    let trees: Vec<_> =
        outbox.iter().filter(|(kind, _)| kind == fault::HIERARCHICAL).map(|(_, p)| p["entity_instance_id"].clone()).collect();
    assert_eq!(trees, ["host=c-1", "host=c_1"]);
}

#[tokio::test]
async fn masking_goes_by_the_parts_of_names_and_spares_what_may_not_be_masked() {
    let w = world().await;
    for entity in ["host=c-1.process=a", "host=c-10.process=a", "host=c%1.process=a"] {
        w.set(at("200.006", entity)).await;
    }
    // The catalogue says of this one that it cannot be masked.
    w.set(at("200.001", "host=c-1")).await;
    let inhibitor = Alarm { inhibit_alarms: true, ..at("200.004", "host=c-1") };
    w.set(inhibitor.clone()).await;
    let mut seen = w.column("/v1/alarms", "entity_instance_id").await;
    seen.sort();
    assert_eq!(seen, ["host=c%1.process=a", "host=c-1", "host=c-1", "host=c-10.process=a"]);
    assert_eq!(w.get("/v1/alarms/summary").await["major"], 4);
    let faults = w.faults.clone();
    let hidden = w.core.store.read(|tx| faults.alarms_in(tx, Which::Entity("host=c-1.process=a"))).await.unwrap();
    assert!(hidden[0].masked);
    let show = format!("GET /v1/alarms/{}", hidden[0].uuid);
    assert_eq!(w.bench.call("admin", &show, serde_json::Value::Null).await.0, 404);
    // It goes on to be logged, and stays masked however it changes.
    w.set(Alarm { severity: Severity::Critical, ..at("200.006", "host=c-1.process=a") }).await;
    assert_eq!(w.get("/v1/alarms/summary").await["critical"], 0);
    assert_eq!(w.states().await.len(), 6);
    // The inhibitor itself no longer inhibits: what it hid is back.
    w.set(Alarm { inhibit_alarms: false, ..inhibitor }).await;
    assert_eq!(w.get("/v1/alarms/summary").await["critical"], 1);
}

#[tokio::test]
async fn flags_of_effect_come_from_the_catalogue_by_severity() {
    let w = world().await;
    for (id, severity, mgmt, degrade) in [
        ("100.101", Severity::Major, "True", "False"),
        ("100.101", Severity::Critical, "True", "True"),
        ("100.101", Severity::Minor, "False", "False"),
        ("100.102", Severity::Critical, "False", "False"),
        ("999.123", Severity::Critical, "False", "False"),
    ] {
        w.set(Alarm { severity, ..at(id, "host=x") }).await;
        let list = w.get(&format!("/v1/alarms?q.field=alarm_id&q.value={id}")).await;
        let alarm = &list["alarms"][0];
        assert_eq!((&alarm["mgmt_affecting"], &alarm["degrade_affecting"]), (&mgmt.into(), &degrade.into()), "{id} {severity:?}");
    }
}

#[tokio::test]
async fn all_of_the_catalogue_can_be_raised() {
    let w = world().await;
    let faults = w.faults.clone();
    w.core
        .store
        .write(move |tx| {
            for known in catalogue::all() {
                let entry = Alarm::known(known.id, "host=x".into(), known.severity(), known.meaning.into(), "");
                match known.is_alarm {
                    true => faults.alarm_set_in(tx, &entry).map(drop)?,
                    false => faults.log_in(tx, &entry)?,
                }
            }
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(w.get("/v1/alarms?limit=2000").await["alarms"].as_array().unwrap().len(), 135);
    assert_eq!(w.get("/v1/event_log?logs=true").await["event_log"].as_array().unwrap().len(), 196);
    let ids = w.column("/v1/event_suppression", "alarm_id").await;
    assert_eq!(ids, catalogue::alarm_ids());
    let faults = w.faults.clone();
    assert_eq!(w.core.store.write(move |tx| faults.alarms_clear_under_in(tx, "host=x")).await.unwrap(), 135);
    assert_eq!(w.get("/v1/alarms").await["alarms"], serde_json::json!([]));
}

#[tokio::test]
async fn the_event_log_keeps_its_size() {
    let w = world_with(&[("fault.event_log_size", "40")]).await;
    let faults = w.faults.clone();
    w.core
        .store
        .write(move |tx| (0..41).try_for_each(|i| faults.log_in(tx, &Alarm { reason_text: format!("log {i}"), ..failed("i") })))
        .await
        .unwrap();
    let texts = w.column("/v1/event_log?sort_key=timestamp&sort_dir=asc", "reason_text").await;
    assert_eq!((texts.len(), texts.contains(&"log 0".to_string()), texts.contains(&"log 40".to_string())), (40, false, true));
}

#[tokio::test]
async fn nothing_is_left_of_what_was_taken_back() {
    let w = world().await;
    let faults = w.faults.clone();
    let outcome = w.core.store.write(move |tx| {
        faults.alarm_set_in(tx, &failed("i1"))?;
        Err::<(), _>(base::Error::invalid("and then it went wrong"))
    });
    outcome.await.unwrap_err();
    assert!(w.column("/v1/alarms", "uuid").await.is_empty() && w.states().await.is_empty() && w.outbox().await.is_empty());
}

#[tokio::test]
async fn suppression_outlives_a_restart_and_an_old_id_of_the_catalogue_goes() {
    let w = world().await;
    w.core
        .store
        .write(|tx| {
            tx.execute("UPDATE event_suppression SET suppressed = 1 WHERE alarm_id = '100.101'", &[])?;
            for id in ["999.001", "999.002"] {
                let row = store::params![id, format!("uuid-{id}")];
                tx.execute("INSERT INTO event_suppression (alarm_id, uuid, suppressed) VALUES (?1, ?2, 1)", row)?;
            }
            Ok(())
        })
        .await
        .unwrap();
    w.set(at("999.002", "host=x")).await;
    let again = fault::Faults::new(w.core.clone()).await.unwrap();
    drop(again);
    let list = w.get("/v1/event_suppression").await;
    let suppressed: Vec<_> =
        list["event_suppression"].as_array().unwrap().iter().filter(|s| s["suppression_status"] == "suppressed").collect();
    assert_eq!((suppressed.len(), &suppressed[0]["alarm_id"]), (1, &"100.101".into()));
    assert_eq!(list["event_suppression"].as_array().unwrap().len(), 135, "an id that is no more is not shown");
    assert_eq!(w.column("/v1/alarms", "alarm_id").await, ["999.002"], "and does not hide what is set");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_too_old_go() {
    let w = world_with(&[("fault.event_log_days", "2")]).await;
    let now = base::Timestamp::now().micros();
    for (days, text) in [(3, "old"), (1, "new")] {
        let faults = w.faults.clone();
        let timestamp = Some(base::Timestamp(now - days * 24 * 3_600_000_000));
        let entry = Alarm { reason_text: text.into(), timestamp, ..failed("i") };
        w.core.store.write(move |tx| faults.log_in(tx, &entry)).await.unwrap();
    }
    w.core.tasks.start().await.unwrap();
    super::until(async || w.column("/v1/event_log", "reason_text").await == ["new"]).await;
    w.core.tasks.stop().await;
}
