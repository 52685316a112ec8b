//! Usage reports, what old versions had, and small things below servers.

use serde_json::{Value, json};

use crate::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_the_hours_of_those_that_ran() {
    let w = World::new().await;
    let (kept, gone) = (w.active(json!({"name": "kept"})).await, w.active(json!({"name": "gone"})).await);
    w.delete(&format!("/servers/{gone}"), "2.1").await;
    w.gone(&gone).await;
    // As if both had begun four hours ago, and one ended three hours ago.
    let now = base::Timestamp::now();
    let hours = |n: i64| base::Timestamp(now.0 - n * 3_600_000_000);
    let (started, ended, id) = (hours(4), hours(3), gone.clone());
    w.cloud
        .controller
        .core
        .store
        .write(move |tx| {
            tx.execute("UPDATE server SET launched_at = ?1", &[started.into()])?;
            tx.execute("UPDATE server SET terminated_at = ?1 WHERE id = ?2", &[ended.into(), id.into()]).map(drop)
        })
        .await
        .unwrap();
    let project = &w.tenant.project_id;
    let at = format!("/os-simple-tenant-usage/{project}");
    let span = |from: i64, to: i64| format!("start={}&end={}", hours(from).iso_micros(), hours(to).iso_micros());
    let near = |value: &Value, wanted: f64| assert!((value.as_f64().unwrap() - wanted).abs() < 0.01, "{value} is not {wanted}");
    let whole = w.get(&format!("{at}?{}", span(10, 0)), "2.1").await.expect(200)["tenant_usage"].clone();
    near(&whole["total_hours"], 5.0);
    near(&whole["total_vcpus_usage"], 5.0);
    near(&whole["total_memory_mb_usage"], 5.0 * 64.0);
    near(&whole["total_local_gb_usage"], 5.0);
    assert_eq!(whole["tenant_id"], json!(project));
    let rows = whole["server_usages"].as_array().unwrap();
    assert_eq!((&rows[0]["instance_id"], &rows[0]["state"], &rows[0]["ended_at"]), (&json!(kept), &json!("active"), &Value::Null));
    assert_eq!((&rows[1]["instance_id"], &rows[1]["state"], &rows[1]["uptime"]), (&json!(gone), &json!("terminated"), &json!(3600)));
    // One hour in the middle, in which only one ran.
    let part = w.get(&format!("{at}?{}", span(2, 1)), "2.1").await.expect(200)["tenant_usage"].clone();
    near(&part["total_hours"], 1.0);
    assert_eq!(part["server_usages"].as_array().unwrap().len(), 1);
    assert_eq!(w.get(&format!("{at}?{}", span(9, 8)), "2.1").await.expect(200)["tenant_usage"], json!({}));

    let page = w.get(&format!("{at}?limit=1&{}", span(10, 0)), "2.40").await.expect(200);
    assert_eq!(page["tenant_usage"]["server_usages"][0]["instance_id"], json!(kept));
    let next = page["tenant_usage_links"][0]["href"].as_str().unwrap().split("/compute/v2.1").nth(1).unwrap().to_string();
    let second = w.get(&next, "2.40").await.expect(200);
    assert_eq!(second["tenant_usage"]["server_usages"][0]["instance_id"], json!(gone));
    let all = |query: String, version: &'static str| {
        let w = &w;
        async move { w.call(&w.admin, "GET", &format!("/os-simple-tenant-usage{query}"), None, version).await }
    };
    let sums = all(format!("?{}", span(10, 0)), "2.1").await.expect(200)["tenant_usages"].clone();
    near(&sums[0]["total_hours"], 5.0);
    assert!(sums[0].get("server_usages").is_none());
    let detailed = all(format!("?detailed=1&{}", span(10, 0)), "2.1").await.expect(200);
    assert_eq!(detailed["tenant_usages"][0]["server_usages"].as_array().unwrap().len(), 2);
    for (query, version, status) in [
        ("?start=tomorrow", "2.1", 400),
        ("?start=2030-01-01T00:00:00&end=2020-01-01T00:00:00", "2.1", 400),
        ("?limit=1", "2.39", 200),
        ("?limit=-1", "2.40", 400),
        ("?marker=11111111-2222-4333-8444-555555555555", "2.40", 400),
        ("?x=1", "2.74", 200),
        ("?x=1", "2.75", 400),
        ("", "2.75", 200),
    ] {
        assert_eq!(all(query.to_string(), version).await.status, status, "{query} {version}");
        assert_eq!(w.get(&format!("{at}{query}"), version).await.status, status, "{query} {version}");
    }
    assert_eq!(w.get("/os-simple-tenant-usage", "2.1").await.status, 403);
    let stranger = w.cloud.tenant("stranger", "member").await;
    assert_eq!(w.call(&stranger, "GET", &at, None, "2.1").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_keep_what_they_had() {
    let w = World::new().await;
    w.active(json!({})).await;
    let admin = |method: &'static str, path: &'static str, body: Option<Value>, version: &'static str| {
        let w = &w;
        async move { w.call(&w.admin, method, path, body, version).await }
    };
    let hosts = admin("GET", "/os-hosts", None, "2.42").await.expect(200);
    assert_eq!(hosts["hosts"], json!([{"host_name": "host-0", "service": "compute", "zone": "nova"}]));
    let shown = admin("GET", "/os-hosts/host-0", None, "2.1").await.expect(200)["host"].clone();
    let rows: Vec<&Value> = shown.as_array().unwrap().iter().map(|r| &r["resource"]["project"]).collect();
    assert_eq!(rows, ["(total)", "(used_now)", "(used_max)", w.tenant.project_id.as_str()]);
    assert_eq!((&shown[3]["resource"]["cpu"], &shown[3]["resource"]["memory_mb"]), (&json!(1), &json!(64)));
    for (method, path, body, version, status) in [
        ("GET", "/os-hosts", None, "2.43", 404),
        ("GET", "/os-hosts/none", None, "2.1", 404),
        ("GET", "/os-hosts/host-0/reboot", None, "2.1", 501),
        ("GET", "/os-hosts/none/startup", None, "2.1", 404),
        ("PUT", "/os-hosts/host-0", Some(json!({"status": "enable"})), "2.1", 501),
        ("PUT", "/os-hosts/host-0", Some(json!({"status": "on"})), "2.1", 400),
        ("PUT", "/os-hosts/host-0", Some(json!({})), "2.1", 400),
        ("GET", "/os-fping", None, "2.1", 410),
        ("GET", "/os-cells/detail", None, "2.104", 410),
        ("POST", "/os-certificates", Some(json!({})), "2.1", 410),
        ("GET", "/os-networks", None, "2.36", 404),
        ("POST", "/os-networks", Some(json!({})), "2.1", 410),
        ("DELETE", "/os-tenant-networks/none", None, "2.1", 410),
        ("GET", "/extensions/os-consoles", None, "2.1", 200),
        ("GET", "/extensions/none", None, "2.1", 404),
        ("GET", "/extensions?x=1", None, "2.102", 400),
        ("GET", "/os-instance_usage_audit_log/yesterday", None, "2.1", 400),
        ("GET", "/os-instance_usage_audit_log/2026-02-03T10:00:00", None, "2.1", 400),
    ] {
        let answer = admin(method, path, body, version).await;
        assert_eq!(answer.status, status, "{method} {path} {version}: {}", answer.text());
    }
    assert_eq!(w.get("/os-hosts", "2.1").await.status, 403);
    let extensions = w.get("/extensions", "2.1").await.expect(200);
    assert!(extensions["extensions"].as_array().unwrap().iter().any(|e| e["alias"] == "os-hypervisors"));
    let audit = admin("GET", "/os-instance_usage_audit_log/2026-02-03%2010:00:00", None, "2.1").await.expect(200);
    let audit = &audit["instance_usage_audit_log"];
    assert_eq!((&audit["period_beginning"], &audit["period_ending"]), (&json!("2026-01-01 00:00:00"), &json!("2026-02-01 00:00:00")));
    assert_eq!((&audit["hosts_not_run"], &audit["overall_status"]), (&json!(["host-0"]), &json!("0 of 1 hosts done. 0 errors.")));
    admin("GET", "/os-instance_usage_audit_log", None, "2.1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_things_below_servers() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let at = |what: &str| format!("/servers/{id}/{what}");
    assert_eq!(w.get(&at("topology"), "2.77").await.status, 404);
    assert_eq!(w.get(&at("topology"), "2.78").await.expect(200), json!({"nodes": [], "pagesize_kb": null}));
    assert_eq!(w.get(&at("os-server-password"), "2.1").await.expect(200), json!({"password": ""}));
    assert_eq!(w.delete(&at("os-server-password"), "2.1").await.status, 204);
    // The guest posts one, once, until it is cleared.
    let path = format!("/compute/v2.1{}", at("os-server-password"));
    let wire = &w.cloud.hosts[0].wire;
    for password in ["cipher", "another"] {
        wire.password_post(&id, password).unwrap();
        w.cloud.until(&w.tenant, &path, PATIENCE, |a| a.json()["password"] == password).await;
        let told = std::time::Instant::now();
        while wire.metadata(&id).is_none_or(|m| m.password != password) {
            assert!(told.elapsed() < PATIENCE, "the guest cannot read its password");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(w.get(&at("os-server-password"), "2.1").await.expect(200), json!({"password": password}));
        assert_eq!(w.delete(&at("os-server-password"), "2.1").await.status, 204);
        assert_eq!(w.get(&at("os-server-password"), "2.1").await.expect(200), json!({"password": ""}));
    }
    let stranger = w.cloud.tenant("stranger", "member").await;
    for (method, what) in [("GET", "topology"), ("GET", "os-server-password"), ("DELETE", "os-server-password")] {
        assert_eq!(w.call(&stranger, method, &at(what), None, "2.78").await.status, 404, "{method} {what}");
    }

    let service = w.cloud.tenant("other", "service").await;
    let none = "11111111-2222-4333-8444-555555555555";
    for (event, version, status) in [
        (json!({"name": "network-changed", "server_uuid": id}), "2.1", 200),
        (json!({"name": "network-vif-plugged", "server_uuid": id, "status": "in-progress", "tag": "t"}), "2.1", 200),
        (json!({"name": "network-changed", "server_uuid": none}), "2.1", 207),
        (json!({"name": "volume-extended", "server_uuid": id, "tag": "v"}), "2.50", 400),
        (json!({"name": "volume-extended", "server_uuid": id, "tag": "v"}), "2.51", 200),
        (json!({"name": "volume-extended", "server_uuid": id}), "2.51", 207),
        (json!({"name": "volume-reimaged", "server_uuid": id}), "2.92", 400),
        (json!({"name": "volume-reimaged", "server_uuid": id}), "2.93", 200),
        (json!({"name": "network-changed"}), "2.1", 400),
        (json!({"name": "network-changed", "server_uuid": "x"}), "2.1", 400),
        (json!({"name": "network-changed", "server_uuid": id, "status": "odd"}), "2.1", 400),
        (json!({"name": "network-changed", "server_uuid": id, "x": 1}), "2.1", 400),
    ] {
        let answer = w.call(&service, "POST", "/os-server-external-events", Some(json!({"events": [event]})), version).await;
        assert_eq!(answer.status, status, "{event} {version}: {}", answer.text());
        if status == 207 {
            assert_eq!(answer.json()["events"][0]["status"], "failed");
        }
    }
    let body = json!({"events": []});
    assert_eq!(w.call(&service, "POST", "/os-server-external-events", Some(body.clone()), "2.1").await.status, 400);
    assert_eq!(w.post("/os-server-external-events", body, "2.1").await.status, 403);
}
