//! The shapes of REST v1: what the stock client sends, and what it reads.

use fault::{Alarm, Severity};
use serde_json::{Value, json};

use super::{World, failed, world};

const SHORT: &[&str] = &[
    "uuid",
    "alarm_id",
    "entity_instance_id",
    "severity",
    "timestamp",
    "reason_text",
    "suppression_status",
    "mgmt_affecting",
    "degrade_affecting",
];
const MORE: &[&str] =
    &["alarm_state", "entity_type_id", "alarm_type", "probable_cause", "proposed_repair_action", "service_affecting", "suppression"];
const EVENT: &[&str] =
    &["uuid", "event_log_id", "state", "entity_instance_id", "severity", "timestamp", "reason_text", "suppression_status"];
const EVENT_MORE: &[&str] =
    &["entity_type_id", "event_log_type", "probable_cause", "proposed_repair_action", "service_affecting", "suppression"];

fn keys(record: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = record.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn sorted(lists: &[&[&'static str]]) -> Vec<&'static str> {
    let mut all = lists.concat();
    all.sort_unstable();
    all
}

/// What a refusal says.
async fn refused(w: &World, line: &str, body: Value) -> (u16, String) {
    let (status, answer) = w.bench.call("admin", line, body).await;
    let fault: Value = serde_json::from_str(answer["error_message"].as_str().unwrap_or_default()).unwrap_or_default();
    assert_eq!(keys(&fault), ["debuginfo", "faultcode", "faultstring"], "{line}: {answer}");
    (status, fault["faultstring"].as_str().unwrap().to_string())
}

#[tokio::test]
async fn records_have_the_fields_their_readers_expect() {
    let w = world().await;
    let uuid = w.set(failed("i1")).await;
    for base in ["/v1", ""] {
        let short = w.get(&format!("{base}/alarms")).await;
        assert_eq!(keys(&short["alarms"][0]), sorted(&[SHORT]));
        for whole in [format!("{base}/alarms/detail"), format!("{base}/alarms?expand=True")] {
            assert_eq!(keys(&w.get(&whole).await["alarms"][0]), sorted(&[SHORT, MORE]), "{whole}");
        }
        let whole = w.get(&format!("{base}/alarms/{uuid}")).await;
        assert_eq!(keys(&whole), sorted(&[SHORT, MORE]));
        assert!(whole["service_affecting"].is_boolean() && whole["suppression"].is_boolean(), "{whole}");
        let stamp = whole["timestamp"].as_str().unwrap();
        assert!(stamp.len() == 26 && &stamp[10..11] == "T" && &stamp[19..20] == ".", "{stamp}");
        let events = w.get(&format!("{base}/event_log")).await;
        assert_eq!(keys(&events["event_log"][0]), sorted(&[EVENT]));
        let event = events["event_log"][0]["uuid"].as_str().unwrap();
        assert_eq!(keys(&w.get(&format!("{base}/event_log/{event}")).await), sorted(&[EVENT, EVENT_MORE]));
        assert_eq!(keys(&w.get(&format!("{base}/event_log/detail")).await["event_log"][0]), sorted(&[EVENT, EVENT_MORE]));
        let list = w.get(&format!("{base}/event_suppression")).await;
        assert_eq!(keys(&list["event_suppression"][0]), ["alarm_id", "description", "links", "suppression_status", "uuid"]);
    }
    let (status, root) = w.bench.call("", "GET /", Value::Null).await;
    assert_eq!((status, &root["default_version"]["id"], &root["versions"][0]["id"]), (200, &json!("v1"), &json!("v1")));
    let (_, v1) = w.bench.call("", "GET /v1", Value::Null).await;
    assert_eq!(keys(&v1), ["alarms", "event_log", "event_suppression", "id", "links", "media_types"]);
    assert_eq!(v1["media_types"][0]["type"], "application/vnd.openstack.fm.v1+json");
}

#[tokio::test]
async fn the_stock_clients_calls_are_answered() {
    let w = world().await;
    let uuid = w.set(failed("i1")).await;
    w.set(Alarm::known("100.101", "host=a".into(), Severity::Major, "hot".into(), "")).await;
    // fm alarm-list, with -q, --include_suppress; event-list with -l, --alarms, --logs
    let q = |field: &str, op: &str, value: &str, kind: &str| format!("q.field={field}&q.op={op}&q.type={kind}&q.value={value}");
    for (path, count) in [
        ("/v1/alarms".to_string(), 2),
        ("/v1/alarms?include_suppress=True".into(), 2),
        (format!("/v1/alarms?{}", q("severity", "eq", "critical", "")), 1),
        (format!("/v1/alarms?{}&include_suppress=True", q("alarm_id", "eq", "100.101", "string")), 1),
        // Two conditions, as the client sorts them: all fields, then all operators, types and values.
        ("/v1/alarms?q.field=severity&q.field=alarm_id&q.op=eq&q.op=eq&q.type=&q.type=&q.value=major&q.value=700.001".into(), 0),
        ("/v1/event_log".into(), 2),
        ("/v1/event_log?limit=1".into(), 1),
        ("/v1/event_log?alarms=True".into(), 2),
        ("/v1/event_log?logs=True".into(), 0),
        (format!("/v1/event_log?{}&limit=5", q("event_log_id", "eq", "100.101", "")), 1),
        (format!("/v1/event_log?{}", q("start", "eq", "20160131+10%3A23%3A45", "")), 2),
        (format!("/v1/event_log?{}", q("end", "eq", "20171225", "datetime")), 0),
        ("/v1/event_suppression".into(), 135),
        (format!("/v1/event_suppression?{}", q("suppression_status", "eq", "suppressed", "string")), 0),
    ] {
        assert_eq!(w.column(&path, "uuid").await.len(), count, "{path}");
    }
    assert_eq!(w.get("/v1/alarms/summary?include_suppress=True").await["status"], "critical");
    // fm event-suppress --alarm_id 100.101,700.001: the body grows with each id.
    let replace = |value: &str| json!({"path": "/suppression_status", "value": value, "op": "replace"});
    let list = w.get("/v1/event_suppression").await;
    let id = |alarm: &str| {
        let found = list["event_suppression"].as_array().unwrap().iter().find(|s| s["alarm_id"] == alarm).unwrap();
        format!("PATCH /v1/event_suppression/{}", found["uuid"].as_str().unwrap())
    };
    for (n, alarm) in ["100.101", "700.001"].into_iter().enumerate() {
        let (status, changed) = w.bench.call("admin", &id(alarm), Value::Array(vec![replace("suppressed"); n + 1])).await;
        assert_eq!((status, &changed["suppression_status"], &changed["alarm_id"]), (200, &json!("suppressed"), &json!(alarm)));
    }
    assert!(w.column("/v1/alarms", "uuid").await.is_empty() && w.column("/v1/event_log", "uuid").await.is_empty());
    assert_eq!(w.get("/v1/alarms/summary").await["status"], "OK");
    assert_eq!(w.column("/v1/alarms?include_suppress=True", "suppression_status").await, ["suppressed", "suppressed"]);
    assert_eq!(w.bench.call("admin", &id("700.001"), json!([replace("unsuppressed")])).await.0, 200);
    assert_eq!(w.column("/v1/alarms", "uuid").await, [uuid.as_str()]);
    assert_eq!(w.bench.call("admin", &format!("DELETE /v1/alarms/{uuid}"), Value::Null).await.0, 204);
}

#[tokio::test]
async fn a_long_list_is_paged_to_its_end_with_its_filter() {
    let w = world().await;
    let faults = w.faults.clone();
    w.core
        .store
        .write(move |tx| {
            (0..2500).try_for_each(|i| {
                let severity = [Severity::Critical, Severity::Major, Severity::Minor, Severity::Warning][i % 4];
                let alarm = Alarm::known("200.006", format!("host=h{i}.process=p"), severity, "x".into(), "");
                faults.alarm_set_in(tx, &alarm).map(drop)
            })
        })
        .await
        .unwrap();
    for (first, pages, count) in [
        ("/v1/alarms", 2, 2500),
        ("/v1/alarms?limit=5000", 2, 2500),
        ("/v1/alarms?limit=300&q.field=severity&q.value=major", 3, 625),
        ("/v1/alarms?limit=300&q.field=severity&q.op=ge&q.value=minor&sort_key=timestamp&sort_dir=desc", 7, 1875),
        ("/v1/event_log?limit=1000&sort_dir=asc", 3, 2500),
    ] {
        let (mut path, mut seen, mut turned) = (first.to_string(), Vec::new(), 0);
        loop {
            let body = w.get(&path).await;
            turned += 1;
            let items = body.as_object().unwrap().values().find_map(Value::as_array).unwrap();
            seen.extend(items.iter().map(|item| item["uuid"].as_str().unwrap().to_string()));
            match body["next"].as_str() {
                Some(next) => path = next.strip_prefix("http://test").unwrap().to_string(),
                None => break,
            }
        }
        let different: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!((turned, seen.len(), different.len()), (pages, count, count), "{first}");
    }
}

#[tokio::test]
async fn the_order_is_by_severity_unless_another_is_asked_for() {
    let w = world().await;
    for (entity, severity) in
        [("b", Severity::Minor), ("c", Severity::Critical), ("a", Severity::Warning), ("d", Severity::Major), ("e", Severity::Minor)]
    {
        w.set(Alarm::known("200.006", format!("host={entity}"), severity, "x".into(), "")).await;
    }
    for (path, order) in [
        ("/v1/alarms", "c d b e a"),
        ("/v1/alarms?sort_dir=desc", "a e b d c"),
        ("/v1/alarms?sort_key=id", "b c a d e"),
        ("/v1/alarms?sort_key=severity,entity_instance_id&sort_dir=asc", "a b e d c"),
        ("/v1/alarms?sort_key=timestamp&sort_dir=desc", "e d a c b"),
        ("/v1/event_log", "e d a c b"),
        ("/v1/event_log?sort_dir=asc", "b c a d e"),
    ] {
        let got = w.column(path, "entity_instance_id").await;
        assert_eq!(got.iter().map(|e| &e[5..]).collect::<Vec<_>>().join(" "), order, "{path}");
    }
}

#[tokio::test]
async fn operators_compare() {
    let w = world().await;
    for (i, severity) in [Severity::Warning, Severity::Minor, Severity::Major, Severity::Critical].into_iter().enumerate() {
        w.set(Alarm::known("200.006", format!("host=h%_{i}"), severity, "x".into(), "")).await;
    }
    for (op, count) in [("eq", 1), ("ne", 3), ("lt", 1), ("le", 2), ("gt", 2), ("ge", 3)] {
        let path = format!("/v1/alarms?q.field=severity&q.op={op}&q.value=minor");
        assert_eq!(w.column(&path, "uuid").await.len(), count, "{path}");
    }
    assert_eq!(w.column("/v1/alarms?q.field=entity_instance_id&q.value=h%25_2", "uuid").await.len(), 1, "no wildcards");
    assert_eq!(w.column("/v1/alarms?q.field=entity_instance_id&q.value=h%25%25", "uuid").await.len(), 0);
    let described = fault::catalogue::known("100.101").unwrap().description().replace('%', "%25").replace(' ', "+");
    let path = format!("/v1/event_suppression?q.field=description&q.value={described}");
    assert_eq!(w.column(&path, "alarm_id").await, ["100.101"]);
    // Bounds in time are inclusive.
    let at = w.column("/v1/event_log", "timestamp").await[0].clone();
    for (field, count) in [("start", 1), ("end", 4)] {
        assert_eq!(w.column(&format!("/v1/event_log?q.field={field}&q.value={at}"), "uuid").await.len(), count, "{field}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_the_services_own_words() {
    let w = world().await;
    for (line, says) in [
        ("GET /v1/event_log?q.field=start&q.value=notadate", "Invalid date 'notadate' specified"),
        ("GET /v1/event_log?q.field=start&q.op=lt&q.value=20200101", "lt"),
        ("GET /v1/alarms?q.field=colour&q.value=red", "colour"),
        ("GET /v1/alarms?q.field=severity", "q.value"),
        ("GET /v1/alarms?q.field=severity&q.op=like&q.value=major", "like"),
        ("GET /v1/alarms?q.field=alarm_id&q.type=integer&q.value=x", "integer"),
        ("GET /v1/alarms?q.field=alarm_id&q.type=blob&q.value=x", "blob"),
        ("GET /v1/alarms?sort_key=colour", "colour"),
        ("GET /v1/alarms?sort_dir=up", "up"),
        ("GET /v1/alarms?limit=-1", "limit"),
        ("GET /v1/alarms?limit=many", "limit"),
        ("GET /v1/alarms?marker=nobody", "nobody"),
        ("GET /v1/alarms?include_suppress=perhaps", "include_suppress"),
        ("GET /v1/event_suppression/nobody", "nobody"),
    ] {
        let (status, text) = refused(&w, line, Value::Null).await;
        assert!(status == 400 && text.contains(says), "{line}: {status} {text}");
    }
    for line in ["GET /v1/alarms/nobody", "DELETE /v1/alarms/nobody"] {
        assert_eq!(refused(&w, line, Value::Null).await, (404, "Alarm not found: nobody".into()), "{line}");
    }
    assert_eq!(refused(&w, "GET /v1/event_log/nobody", Value::Null).await.0, 404);
    let uuid = w.column("/v1/event_suppression", "uuid").await[0].clone();
    for body in [
        json!([]),
        json!([{"path": "/description", "value": "suppressed", "op": "replace"}]),
        json!([{"path": "/suppression_status", "value": "gone", "op": "replace"}]),
        json!([{"path": "/suppression_status", "value": "suppressed", "op": "remove"}]),
        json!([{"path": "/suppression_status", "op": "replace"}]),
        json!({"suppression_status": "suppressed"}),
    ] {
        assert_eq!(refused(&w, &format!("PATCH /v1/event_suppression/{uuid}"), body.clone()).await.0, 400, "{body}");
    }
}

/// A record as a client sends it.
fn record(state: &str) -> Value {
    json!({"alarm_id": "100.101", "alarm_state": state, "entity_type_id": "host", "entity_instance_id": "host=a", "severity": "major",
        "reason_text": "hot", "alarm_type": "operational-violation", "probable_cause": "threshold-crossed", "service_affecting": "False",
        "suppression": true})
}

fn uuid_in(answer: &Value) -> String {
    let inner: Value = serde_json::from_str(answer.as_str().unwrap()).unwrap();
    inner["uuid"].as_str().unwrap().to_string()
}

#[tokio::test]
async fn records_are_set_changed_and_cleared_by_every_way() {
    let w = world().await;
    let post = async |body: Value| w.bench.call("admin", "POST /v1/alarms", body).await;
    let wanted = "11111111-2222-4333-8444-555555555555";
    let mut first = record("set");
    first["uuid"] = json!(wanted);
    assert_eq!(uuid_in(&post(first.clone()).await.1), wanted, "a client's uuid is taken");
    first["entity_instance_id"] = json!("host=b");
    assert_ne!(uuid_in(&post(first).await.1), wanted, "but not twice");
    // Changed by the row's number: the same alarm, another severity; what is kept stays.
    let mut worse = record("set");
    worse["severity"] = json!("critical");
    assert_eq!(uuid_in(&w.bench.call("admin", "PUT /v1/alarms/1", worse.clone()).await.1), wanted);
    worse["keep_existing_alarm"] = json!(true);
    worse["severity"] = json!("warning");
    assert_eq!(uuid_in(&post(worse.clone()).await.1), wanted);
    assert_eq!(w.get(&format!("/v1/alarms/{wanted}")).await["severity"], "critical");
    worse["entity_instance_id"] = json!("host=z");
    assert_eq!(refused(&w, "PUT /v1/alarms/1", worse).await.0, 400);
    assert_eq!(refused(&w, "PUT /v1/alarms/77", record("set")).await.0, 404);
    // Messages are logs; clearing goes by uuid, or by id and entity, and says when there is nothing.
    assert_eq!(post(record("msg")).await.0, 200);
    let mut by_uuid = record("clear");
    by_uuid["uuid"] = json!(wanted);
    assert_eq!(uuid_in(&post(by_uuid.clone()).await.1), wanted);
    assert_eq!(refused(&w, "POST /v1/alarms", by_uuid).await.0, 404);
    let mut by_key = record("clear");
    by_key["entity_instance_id"] = json!("host=b");
    assert_eq!(post(by_key.clone()).await.0, 200);
    assert_eq!(refused(&w, "POST /v1/alarms", by_key).await.0, 404);
    assert_eq!(w.states().await, ["clear", "clear", "log", "set", "set", "set"]);
    let clear = &w.get("/v1/event_log?limit=2").await["event_log"][1];
    assert_eq!((&clear["severity"], &clear["reason_text"]), (&json!("critical"), &json!("hot")), "a clear shows what was last");
    for missing in ["alarm_id", "alarm_state", "entity_instance_id", "severity", "alarm_type", "probable_cause"] {
        let mut body = record("set");
        body.as_object_mut().unwrap().remove(missing);
        let (status, text) = refused(&w, "POST /v1/alarms", body).await;
        assert!(status == 400 && text.contains(missing), "{missing}: {status} {text}");
    }
    // What comes by REST goes the way of everything else: to the outbox.
    assert_eq!(w.outbox().await.len(), 6);
}

#[tokio::test]
async fn long_texts_and_unknown_ids_are_taken() {
    let w = world().await;
    let mut long = record("set");
    long["alarm_id"] = json!("999.999");
    long["reason_text"] = json!("x".repeat(3000));
    assert_eq!(w.bench.call("admin", "POST /v1/alarms", long).await.0, 200);
    assert_eq!(w.column("/v1/alarms", "reason_text").await[0].len(), 3000);
    assert_eq!(w.column("/v1/event_log", "suppression_status").await, ["None"]);
}
