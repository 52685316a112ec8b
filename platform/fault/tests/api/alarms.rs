//! Alarms over REST, as StarlingX's clients use them.

use fault::{Alarm, Severity, instance_entity};
use serde_json::{Value, json};

use super::{PROJECT, failed, world};

#[tokio::test]
async fn an_alarm_is_set_once_renewed_silently_and_cleared_with_its_log() {
    let w = world().await;
    let uuid = w.set(failed("i1")).await;
    assert_eq!(w.set(failed("i1")).await, uuid, "a repeat that changes nothing is the same alarm");
    let list = w.get("/v1/alarms").await;
    let alarm = &list["alarms"][0];
    assert_eq!(alarm["entity_instance_id"], "tenant=01234567-89ab-cdef-0123-456789abcdef.instance=i1");
    assert_eq!(
        (&alarm["severity"], &alarm["mgmt_affecting"], &alarm["degrade_affecting"]),
        (&json!("critical"), &json!("True"), &json!("False"))
    );
    let whole = w.get(&format!("/v1/alarms/{uuid}")).await;
    assert_eq!(
        (&whole["alarm_state"], &whole["alarm_type"], &whole["probable_cause"], &whole["service_affecting"]),
        (&json!("set"), &json!("processing-error"), &json!("software-error"), &json!(true))
    );
    assert_eq!(w.get("/v1/alarms/summary").await, json!({"critical": 1, "major": 0, "minor": 0, "warnings": 0, "status": "critical"}));
    assert!(w.clear("700.001", instance_entity(PROJECT, "i1")).await);
    assert!(!w.clear("700.001", instance_entity(PROJECT, "i1")).await, "absent is no error");
    assert_eq!(w.states().await, ["clear", "set"]);
    assert_eq!(w.get("/v1/alarms/summary").await["status"], "OK");
}

#[tokio::test]
async fn a_worse_severity_is_a_new_event_of_the_same_alarm() {
    let w = world().await;
    let mut alarm = failed("i1");
    alarm.severity = Severity::Minor;
    w.set(alarm).await;
    w.set(failed("i1")).await;
    assert_eq!(w.get("/v1/alarms").await["alarms"].as_array().unwrap().len(), 1);
    assert_eq!(w.states().await, ["set", "set"]);
}

#[tokio::test]
async fn an_inhibitor_masks_what_is_below_by_whole_parts() {
    let w = world().await;
    let at = |entity: &str, inhibit: bool| Alarm {
        alarm_id: "200.006".into(),
        entity_type_id: "host".into(),
        entity_instance_id: entity.into(),
        inhibit_alarms: inhibit,
        ..failed("x")
    };
    for entity in ["host=c-1.process=p", "host=c-10"] {
        w.set(at(entity, false)).await;
    }
    w.set(Alarm { alarm_id: "200.004".into(), ..at("host=c-1", true) }).await;
    let seen = |list: Value| {
        list["alarms"].as_array().unwrap().iter().map(|a| a["entity_instance_id"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(seen(w.get("/v1/alarms").await), ["host=c-1", "host=c-10"]);
    w.set(Alarm { reason_text: "again".into(), ..at("host=c-1.process=p", false) }).await;
    assert_eq!(w.get("/v1/alarms").await["alarms"].as_array().unwrap().len(), 2, "still masked while the inhibitor is there");
    assert!(w.clear("200.004", "host=c-1".into()).await);
    assert_eq!(seen(w.get("/v1/alarms").await), ["host=c-1.process=p", "host=c-10"]);
}

#[tokio::test]
async fn lists_are_filtered_sorted_paged_and_suppressed() {
    let w = world().await;
    for i in 0..5 {
        let severity = if i % 2 == 0 { Severity::Major } else { Severity::Minor };
        w.set(Alarm { severity, ..failed(&format!("i{i}")) }).await;
    }
    let page = w.get("/v1/alarms?limit=2").await;
    let next = page["next"].as_str().unwrap().strip_prefix("http://test").unwrap().to_string();
    let second = w.get(&next).await;
    assert_eq!(second["alarms"].as_array().unwrap().len(), 2);
    assert_ne!(page["alarms"][1]["uuid"], second["alarms"][0]["uuid"]);
    assert_eq!(w.get("/v1/alarms?q.field=severity&q.op=ge&q.value=major").await["alarms"].as_array().unwrap().len(), 3);
    assert_eq!(w.get("/v1/alarms?q.field=entity_instance_id&q.value=instance%3Di4").await["alarms"].as_array().unwrap().len(), 1);
    assert_eq!(w.get("/v1/event_log?alarms=true&q.field=start&q.value=2000-01-01").await["event_log"].as_array().unwrap().len(), 5);
    for bad in [
        "/v1/alarms?q.field=colour&q.value=red",
        "/v1/alarms?q.field=severity&q.value=red",
        "/v1/alarms?limit=-1",
        "/v1/alarms?sort_dir=up",
        "/v1/alarms?marker=x",
        "/v1/event_log?q.field=end&q.value=soon",
    ] {
        assert_eq!(w.bench.call("admin", &format!("GET {bad}"), Value::Null).await.0, 400, "{bad}");
    }
    let found = w.get("/v1/event_suppression?q.field=alarm_id&q.value=700.001").await;
    let uuid = found["event_suppression"][0]["uuid"].as_str().unwrap().to_string();
    let change = json!([{"path": "/suppression_status", "value": "suppressed", "op": "replace"}]);
    assert_eq!(w.bench.call("admin", &format!("PATCH /v1/event_suppression/{uuid}"), change).await.1["suppression_status"], "suppressed");
    assert_eq!(w.get("/v1/alarms").await["alarms"], json!([]));
    assert_eq!(w.get("/v1/alarms?include_suppress=true").await["alarms"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn clients_set_log_and_clear() {
    let w = world().await;
    let record = |state: &str| {
        json!({"alarm_id": "100.101", "alarm_state": state, "entity_type_id": "host", "entity_instance_id": "host=a", "severity": "major",
        "reason_text": "hot", "alarm_type": "operational-violation", "probable_cause": "threshold-crossed", "service_affecting": "False", "suppression": true})
    };
    let (status, body) = w.bench.call("admin", "POST /v1/alarms", record("set")).await;
    assert_eq!(status, 200);
    let uuid = serde_json::from_str::<Value>(body.as_str().unwrap()).unwrap()["uuid"].as_str().unwrap().to_string();
    assert_eq!(w.bench.call("admin", "POST /v1/alarms", record("log")).await.0, 200);
    assert_eq!(w.bench.call("admin", &format!("DELETE /v1/alarms/{uuid}"), Value::Null).await.0, 204);
    assert_eq!(w.bench.call("admin", &format!("DELETE /v1/alarms/{uuid}"), Value::Null).await.0, 404);
    assert_eq!(w.states().await, ["clear", "log", "set"]);
    for (key, value) in [
        ("severity", json!("purple")),
        ("alarm_type", json!("odd")),
        ("probable_cause", json!("bad luck")),
        ("alarm_id", json!("1.2")),
        ("alarm_state", json!("maybe")),
        ("service_affecting", json!(7)),
        ("timestamp", json!("noon")),
    ] {
        let mut bad = record("set");
        bad[key] = value;
        let (status, body) = w.bench.call("admin", "POST /v1/alarms", bad).await;
        let fault: Value = serde_json::from_str(body["error_message"].as_str().unwrap()).unwrap();
        assert_eq!((status, &fault["faultcode"]), (400, &json!("Client")), "{key}: {body}");
    }
}

#[tokio::test]
async fn readers_read_and_only_administrators_change() {
    let w = world().await;
    for line in ["GET /v1/alarms", "GET /v1/event_log", "GET /v1/event_suppression", "GET /v1/entity_suppression", "GET /v1/alarms/summary"]
    {
        assert_eq!(w.bench.call("", line, Value::Null).await.0, 401, "{line}");
        assert_eq!(w.bench.call("reader", line, Value::Null).await.0, 200, "{line}");
    }
    for line in [
        "POST /v1/alarms",
        "DELETE /v1/alarms/x",
        "PUT /v1/alarms/1",
        "PATCH /v1/event_suppression/x",
        "POST /v1/entity_suppression",
        "PATCH /v1/entity_suppression/x",
        "DELETE /v1/entity_suppression/x",
    ] {
        assert_eq!(w.bench.call("", line, json!({})).await.0, 401, "{line}");
        assert_eq!(w.bench.call("member", line, json!({})).await.0, 403, "{line}");
        assert_eq!(w.bench.call("reader", line, json!({})).await.0, 403, "{line}");
    }
}
