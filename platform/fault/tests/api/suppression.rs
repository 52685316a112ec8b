//! Suppression by entity: what a pattern covers, where it has its effect, and how it ends.

use std::time::Duration;

use base::Timestamp;
use fault::{Alarm, Severity};
use serde_json::{Value, json};

use super::{World, until, world, world_with};

fn died(entity: &str) -> Alarm {
    Alarm::known("200.006", entity.into(), Severity::Major, "died".into(), "")
}

async fn suppress(w: &World, body: Value) -> String {
    let (status, made) = w.bench.call("admin", "POST /v1/entity_suppression", body.clone()).await;
    assert_eq!(status, 201, "{body}: {made}");
    made["uuid"].as_str().unwrap().to_string()
}

async fn end(w: &World, uuid: &str) {
    assert_eq!(w.bench.call("admin", &format!("DELETE /v1/entity_suppression/{uuid}"), Value::Null).await.0, 204);
}

async fn seen(w: &World) -> Vec<String> {
    let mut seen = w.column("/v1/alarms", "entity_instance_id").await;
    seen.sort();
    seen
}

#[tokio::test]
async fn a_pattern_covers_whole_parts_and_its_characters_mean_themselves() {
    let w = world().await;
    let all =
        ["host=c-1", "host=c-1.process=p", "host=c-1,command=x", "host=c-10", "host=C-1", "host=c_1", "host=cx1", "host=c%1", "host=c1"];
    for entity in all {
        w.set(died(entity)).await;
    }
    for (pattern, hides) in [
        ("host=c-1", &["host=c-1", "host=c-1.process=p", "host=c-1,command=x"][..]),
        ("host=c_1", &["host=c_1"]),
        ("host=c%1", &["host=c%1"]),
        ("host=%", &[]),
        ("host=c-?", &[]),
        ("host=c-*", &["host=c-1", "host=c-1.process=p", "host=c-1,command=x", "host=c-10"]),
        ("host=c*1", &["host=c-1", "host=c-1.process=p", "host=c-1,command=x", "host=c_1", "host=cx1", "host=c%1", "host=c1"]),
        ("*process=p", &["host=c-1.process=p"]),
        ("process=p", &[]),
    ] {
        let uuid = suppress(&w, json!({ "entity_pattern": pattern })).await;
        let mut expected: Vec<&str> = all.into_iter().filter(|entity| !hides.contains(entity)).collect();
        expected.sort_unstable();
        assert_eq!(seen(&w).await, expected, "{pattern}");
        end(&w, &uuid).await;
    }
    assert_eq!(seen(&w).await.len(), all.len());
}

#[tokio::test]
async fn what_is_suppressed_is_hidden_at_once_and_through_restarts_and_comes_back() {
    let mut w = world().await;
    w.set(died("host=a.process=p")).await;
    w.set(Alarm { severity: Severity::Critical, ..Alarm::known("100.101", "host=a".into(), Severity::Major, "hot".into(), "") }).await;
    let uuid = suppress(&w, json!({"entity_pattern": "host=a", "alarm_id": "200.006"})).await;
    assert_eq!(seen(&w).await, ["host=a"], "the other id stays");
    assert_eq!(w.column("/v1/event_log", "event_log_id").await, ["100.101"]);
    assert_eq!(w.get("/v1/alarms/summary").await, json!({"critical": 1, "major": 0, "minor": 0, "warnings": 0, "status": "critical"}));
    assert_eq!(w.get("/v1/alarms/summary?include_suppress=true").await["major"], 1);
    let hidden = w.get("/v1/alarms?include_suppress=true&q.field=alarm_id&q.value=200.006").await;
    assert_eq!(hidden["alarms"][0]["suppression_status"], "suppressed");
    let shown = w.get(&format!("/v1/alarms/{}", hidden["alarms"][0]["uuid"].as_str().unwrap())).await;
    assert_eq!(shown["suppression_status"], "suppressed");
    w.faults = fault::Faults::new(w.core.clone()).await.unwrap();
    assert_eq!(seen(&w).await, ["host=a"]);
    // What happens meanwhile is written, and those who send traps are told; logs are not hidden.
    w.set(died("host=a.process=q")).await;
    w.set(died("host=b.process=q")).await;
    let faults = w.faults.clone();
    w.core.store.write(move |tx| faults.log_in(tx, &died("host=a.process=p"))).await.unwrap();
    let statuses: Vec<Value> = w.outbox().await.into_iter().map(|(_, payload)| payload["suppression_status"].clone()).collect();
    assert_eq!(statuses, ["unsuppressed", "unsuppressed", "suppressed", "unsuppressed", "unsuppressed"]);
    assert_eq!(w.column("/v1/event_log", "state").await, ["log", "set", "set"]);
    let listed = w.column("/v1/event_log?include_suppress=true", "suppression_status").await;
    assert_eq!(listed, ["unsuppressed", "unsuppressed", "suppressed", "unsuppressed", "suppressed"]);
    end(&w, &uuid).await;
    assert_eq!(seen(&w).await.len(), 4);
    assert_eq!(w.column("/v1/event_log", "state").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_comes_by_itself() {
    let w = world().await;
    w.core.tasks.start().await.unwrap();
    w.set(died("host=a.process=p")).await;
    let shows = |line: &str| w.core.metrics.render().unwrap().lines().any(|l| l == line);
    let at = Timestamp::now().plus(Duration::from_secs(5));
    suppress(&w, json!({"entity_pattern": "host=a", "expires_at": at.iso_micros()})).await;
    until(async || shows("sturnus_fault_alarms_hidden{reason=\"suppressed\"} 1")).await;
    assert!(seen(&w).await.is_empty() || Timestamp::now() >= at);
    until(async || !seen(&w).await.is_empty()).await;
    assert!(Timestamp::now() >= at, "not before its time");
    assert_eq!(w.get("/v1/entity_suppression").await["entity_suppression"], json!([]));
    // The gauge hears of it too, and the row goes.
    until(async || shows("sturnus_fault_alarms_hidden{reason=\"suppressed\"} 0") && shows("sturnus_fault_alarms{severity=\"major\"} 1"))
        .await;
    let rows = "SELECT COUNT(*) FROM entity_suppression";
    until(async || w.core.store.read(|tx| tx.query_one(rows, &[], |row| row.int(0))).await.unwrap() == 0).await;
    w.core.tasks.stop().await;
}

#[tokio::test]
async fn a_suppression_says_whose_it_is_why_and_until_when_and_is_listed_as_others_are() {
    let w = world().await;
    let mut uuids = Vec::new();
    for n in 0..5 {
        let body = json!({"entity_pattern": format!("host=h{n}"), "comment": format!("ticket {n}"), "expires_at": "2099-01-01T00:00:00"});
        uuids.push(suppress(&w, body).await);
    }
    let path = format!("/v1/entity_suppression/{}", uuids[0]);
    let one = w.get(&path).await;
    let links = json!([{"href": format!("http://test/v1/entity_suppression/{}", uuids[0]), "rel": "self"},
        {"href": format!("http://test/entity_suppression/{}", uuids[0]), "rel": "bookmark"}]);
    assert_eq!(
        one,
        json!({"uuid": uuids[0], "alarm_id": null, "entity_pattern": "host=h0", "owner": "admin", "comment": "ticket 0",
            "created_at": one["created_at"], "expires_at": "2099-01-01T00:00:00.000000", "links": links})
    );
    let replace = |path: &str, value: Value| json!([{"op": "replace", "path": path, "value": value}]);
    let patch = format!("PATCH {path}");
    let (status, changed) = w.bench.call("admin", &patch, replace("/comment", json!("done soon"))).await;
    assert_eq!((status, &changed["comment"], &changed["expires_at"]), (200, &json!("done soon"), &one["expires_at"]));
    let (status, changed) = w.bench.call("admin", &patch, replace("/expires_at", Value::Null)).await;
    assert_eq!((status, &changed["comment"], &changed["expires_at"]), (200, &json!("done soon"), &Value::Null));
    // Pages and filters.
    let page = w.get("/v1/entity_suppression?limit=2&sort_key=entity_pattern&sort_dir=desc").await;
    let next = page["next"].as_str().unwrap().strip_prefix("http://test").unwrap().to_string();
    assert_eq!(w.column(&next, "entity_pattern").await, ["host=h2", "host=h1"]);
    assert_eq!(w.column("/v1/entity_suppression?q.field=comment&q.value=ticket", "uuid").await, uuids[1..]);
    assert_eq!(w.column("/v1/entity_suppression?q.field=entity_pattern&q.value=host%3Dh3", "uuid").await, uuids[3..4]);
    assert_eq!(w.column("/v1/entity_suppression?q.field=owner&q.op=ne&q.value=admin", "uuid").await.len(), 0);
    for bad in ["q.field=colour&q.value=red", "sort_key=colour", "marker=nobody", "limit=-1"] {
        assert_eq!(w.bench.call("admin", &format!("GET /v1/entity_suppression?{bad}"), Value::Null).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_name() {
    let w = world().await;
    let uuid = suppress(&w, json!({"entity_pattern": "*", "alarm_id": "200.006"})).await;
    let fault = async |line: &str, body: Value| {
        let (status, answer) = w.bench.call("admin", line, body).await;
        let fault: Value = serde_json::from_str(answer["error_message"].as_str().unwrap()).unwrap();
        (status, fault["faultstring"].as_str().unwrap().to_string())
    };
    for (body, status, says) in [
        (json!({}), 400, "entity_pattern"),
        (json!({"entity_pattern": ""}), 400, "entity_pattern"),
        (json!({"entity_pattern": "x".repeat(256)}), 400, "entity_pattern"),
        (json!({"entity_pattern": "**"}), 400, "every alarm"),
        (json!({"entity_pattern": "host=a", "alarm_id": "1.2"}), 400, "alarm_id"),
        (json!({"entity_pattern": "host=a", "alarm_id": "200.022"}), 400, "alarm_id"),
        (json!({"entity_pattern": "host=a", "comment": "x".repeat(1001)}), 400, "comment"),
        (json!({"entity_pattern": "host=a", "comment": 7}), 400, "comment"),
        (json!({"entity_pattern": "host=a", "expires_at": "soon"}), 400, "Invalid date 'soon'"),
        (json!({"entity_pattern": "host=a", "expires_at": "2001-01-01"}), 400, "expires_at"),
        (json!({"entity_pattern": "host=a", "owner": "somebody"}), 400, "owner"),
        (json!({"entity_pattern": "*", "alarm_id": "200.006"}), 409, uuid.as_str()),
    ] {
        let (got, text) = fault("POST /v1/entity_suppression", body.clone()).await;
        assert!(got == status && text.contains(says), "{body}: {got} {text}");
    }
    for body in [
        json!([]),
        json!([{"path": "/owner", "value": "x", "op": "replace"}]),
        json!([{"path": "/comment", "value": null, "op": "replace"}]),
        json!([{"path": "/comment", "value": "x", "op": "remove"}]),
        json!([{"path": "/expires_at", "op": "replace"}]),
        json!([{"path": "/expires_at", "value": "2001-01-01", "op": "replace"}]),
    ] {
        assert_eq!(fault(&format!("PATCH /v1/entity_suppression/{uuid}"), body.clone()).await.0, 400, "{body}");
    }
    let comment = json!([{"path": "/comment", "value": "x", "op": "replace"}]);
    for (line, body) in [("GET", Value::Null), ("PATCH", comment), ("DELETE", Value::Null)] {
        let (status, text) = fault(&format!("{line} /v1/entity_suppression/nobody"), body).await;
        assert_eq!((status, text.as_str()), (404, "Entity suppression not found: nobody"), "{line}");
    }
}

#[tokio::test]
async fn there_are_no_more_than_lists_can_bear() {
    let w = world_with(&[]).await;
    w.core
        .store
        .write(|tx| {
            (0..1000i64).try_for_each(|n| {
                let sql = "INSERT INTO entity_suppression (id, uuid, alarm_id, entity_pattern, likeness, owner, comment, created_at)
                     VALUES (?1, ?2, '', ?2, ?2, 'x', '', 0)";
                tx.execute(sql, store::params![n, format!("host=h{n}")]).map(drop)
            })
        })
        .await
        .unwrap();
    let (status, answer) = w.bench.call("admin", "POST /v1/entity_suppression", json!({"entity_pattern": "host=x"})).await;
    assert!(status == 409 && answer.to_string().contains("1000"), "{answer}");
}
