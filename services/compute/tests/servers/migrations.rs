//! `/os-migrations`, and what can be done about a live migration in each of its states.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{PATIENCE, World};

const AUTO: &str = "2.104";

async fn live(w: &World, id: &str, body: Value, version: &str) -> testing::Answer {
    w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"os-migrateLive": body})), version).await
}

async fn on_first(w: &World) -> String {
    let body = w.body(json!({"availability_zone": "nova:host-0"}));
    let id = w.call(&w.admin, "POST", "/servers", Some(body), "2.1").await.expect(202)["server"]["id"].as_str().unwrap().to_string();
    settled(w, &id).await;
    id
}

/// The host on which it is active, without a task.
async fn settled(w: &World, id: &str) -> String {
    let fits = |a: &testing::Answer| a.json()["server"]["status"] == "ACTIVE" && a.json()["server"]["OS-EXT-STS:task_state"].is_null();
    let shown = w.cloud.until(&w.admin, &format!("/compute/v2.1/servers/{id}"), PATIENCE, fits).await.json();
    shown["server"]["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_string()
}

/// The numbers of the migrations that a query finds, the newest first.
async fn numbers(w: &World, query: &str, version: &str) -> Vec<i64> {
    let all = w.call(&w.admin, "GET", &format!("/os-migrations?{query}"), None, version).await.expect(200);
    all["migrations"].as_array().unwrap().iter().map(|m| m["id"].as_i64().unwrap()).collect()
}

/// The status of a migration, once it is another than `before`.
async fn status_after(w: &World, number: usize, before: &[&str]) -> String {
    let started = Instant::now();
    loop {
        let all = w.call(&w.admin, "GET", "/os-migrations", None, "2.59").await.expect(200);
        let one = all["migrations"].as_array().unwrap().iter().find(|m| m["id"] == number).cloned().unwrap_or_default();
        if let Some(status) = one["status"].as_str().filter(|status| !before.contains(status)) {
            return status.to_string();
        }
        assert!(started.elapsed() < PATIENCE, "{all}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_migration_is_aborted_in_the_states_that_its_microversion_names() {
    let w = World::with_hosts(2).await;
    let id = on_first(&w).await;
    let of = format!("/servers/{id}/migrations/1");
    let abort = async |version: &str| w.call(&w.admin, "DELETE", &of, None, version).await;
    assert_eq!(abort("2.65").await.status, 409, "it does not move");
    // The process that is to wait for it takes its time.
    w.cloud.hosts[1].hypervisor.trouble(|t| t.delay = Duration::from_secs(5));
    assert_eq!(live(&w, &id, json!({"host": null, "block_migration": "auto"}), AUTO).await.status, 202);
    assert_eq!(status_after(&w, 1, &["accepted"]).await, "preparing");
    let put = async |status: &'static str| {
        w.cloud
            .controller
            .core
            .store
            .write(move |tx| tx.execute("UPDATE server_migration SET status = ?1", store::params![status]))
            .await
            .unwrap()
    };
    for (status, version, expected) in [
        ("preparing", "2.64", 400),
        ("queued", "2.24", 400),
        ("accepted", "2.64", 400),
        ("accepted", "2.65", 400),
        ("post-migrating", "2.104", 400),
    ] {
        put(status).await;
        let answer = abort(version).await;
        assert_eq!(answer.status, expected, "{status} {version}");
        let why =
            format!("Migration 1 state of instance {id} is {status}. Cannot abort live migration while the migration is in this state.");
        assert!(answer.text().contains(&why), "{}", answer.text());
        let listed = w.call(&w.admin, "GET", &format!("/servers/{id}/migrations"), None, "2.23").await.expect(200);
        assert_eq!(listed["migrations"].as_array().unwrap().len(), usize::from(status != "accepted"), "{status}");
    }
    put("preparing").await;
    let force = Some(json!({"force_complete": null}));
    let forced = w.call(&w.admin, "POST", &format!("{of}/action"), force.clone(), "2.22").await;
    assert_eq!(forced.status, 400, "{}", forced.text());
    assert!(forced.text().contains("is preparing. Cannot force complete while"), "{}", forced.text());
    for (path, version, expected) in
        [(of.replace("/1", "/2"), "2.65", 404), (of.replace("/1", "/x"), "2.65", 404), (of.clone(), "2.23", 404)]
    {
        assert_eq!(w.call(&w.admin, "DELETE", &path, None, version).await.status, expected, "{path} {version}");
    }
    assert_eq!(w.call(&w.tenant, "DELETE", &of, None, "2.65").await.status, 404, "another project's");
    assert_eq!(abort("2.65").await.status, 202);
    assert_eq!(settled(&w, &id).await, "host-0");
    assert_eq!(status_after(&w, 1, &["preparing"]).await, "cancelled");
    assert_eq!(w.call(&w.admin, "POST", &format!("{of}/action"), force, "2.22").await.status, 409, "it is over");
    w.cloud.hosts[1].hypervisor.trouble(|t| t.delay = Duration::ZERO);
    assert_eq!(live(&w, &id, json!({"host": null, "block_migration": "auto"}), AUTO).await.status, 202);
    assert_eq!(settled(&w, &id).await, "host-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_named_is_checked_by_the_scheduler_unless_it_is_forced() {
    let w = World::with_hosts(2).await;
    let id = on_first(&w).await;
    // Nothing new is placed there.
    let service = async |host: &str, status: &str| {
        let all = w.call(&w.admin, "GET", &format!("/os-services?host={host}&binary=nova-compute"), None, "2.53").await.expect(200);
        let path = format!("/os-services/{}", all["services"][0]["id"].as_str().unwrap());
        w.call(&w.admin, "PUT", &path, Some(json!({"status": status})), "2.53").await.expect(200);
    };
    for host in ["host-0", "host-1"] {
        service(host, "disabled").await;
    }
    let there = |force: Option<bool>| {
        let mut body = json!({"host": "host-1", "block_migration": "auto"});
        if let Some(force) = force {
            body["force"] = json!(force);
        }
        body
    };
    // Before 2.34 what can be known is told at once, afterwards the migration fails.
    for (body, version) in [(there(None), "2.30"), (there(Some(false)), "2.30")] {
        let refused = live(&w, &id, body.clone(), version).await;
        assert_eq!(
            (refused.status, refused.text().contains("No valid host was found")),
            (400, true),
            "{body} {version} {}",
            refused.text()
        );
    }
    for (number, (body, version)) in [(there(Some(false)), "2.67"), (there(None), "2.68"), (there(None), AUTO)].into_iter().enumerate() {
        assert_eq!(live(&w, &id, body.clone(), version).await.status, 202, "{body} {version}");
        assert_eq!(settled(&w, &id).await, "host-0", "{body} {version}");
        assert_eq!(status_after(&w, number + 1, &["accepted"]).await, "error");
    }
    for (body, version) in [
        (there(Some(true)), "2.29"),
        (there(Some(true)), "2.68"),
        (json!({"host": null, "block_migration": "auto", "force": true}), "2.30"),
    ] {
        assert_eq!(live(&w, &id, body.clone(), version).await.status, 400, "{body} {version}");
    }
    // Past the filters: by the word for it, and before there was one.
    let back = |version: &str| match version {
        "2.1" => json!({"host": "host-0", "block_migration": true, "disk_over_commit": false}),
        _ => json!({"host": "host-0", "block_migration": "auto"}),
    };
    for (body, version, old) in [(there(Some(true)), "2.30", "2.1"), (there(Some(true)), "2.67", "2.29")] {
        assert_eq!(live(&w, &id, body.clone(), version).await.status, 202, "{body} {version}");
        assert_eq!(settled(&w, &id).await, "host-1", "{body} {version}");
        assert_eq!(live(&w, &id, back(old), old).await.status, 202, "{old}");
        assert_eq!(settled(&w, &id).await, "host-0", "{old}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_are_found_by_what_they_are_and_when_they_were() {
    let w = World::with_hosts(2).await;
    let id = on_first(&w).await;
    assert_eq!(live(&w, &id, json!({"host": null, "block_migration": "auto"}), AUTO).await.status, 202);
    assert_eq!(settled(&w, &id).await, "host-1");
    let other = on_first(&w).await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.restless = true);
    assert_eq!(live(&w, &other, json!({"host": null, "block_migration": "auto"}), AUTO).await.status, 202);
    assert_eq!(status_after(&w, 2, &["accepted", "preparing"]).await, "running");
    let migrate = Some(json!({"migrate": null}));
    assert_eq!(w.call(&w.admin, "POST", &format!("/servers/{id}/action"), migrate, "2.1").await.status, 202);
    assert_eq!(status_after(&w, 3, &["accepted", "pre-migrating", "migrating", "post-migrating"]).await, "finished");
    let all = w.call(&w.admin, "GET", "/os-migrations", None, "2.80").await.expect(200)["migrations"].clone();
    let one = |number: i64| all.as_array().unwrap().iter().find(|m| m["id"] == number).unwrap().clone();
    let (user, project) = (one(1)["user_id"].as_str().unwrap().to_string(), one(1)["project_id"].as_str().unwrap().to_string());
    // The first ended before the third began.
    let between = one(3)["created_at"].as_str().unwrap().to_string();
    for (query, version, expected) in [
        (String::new(), "2.1", vec![3, 2, 1]),
        ("migration_type=live-migration".into(), "2.1", vec![2, 1]),
        ("migration_type=evacuation".into(), "2.1", vec![]),
        ("source_compute=host-0".into(), "2.1", vec![2, 1]),
        ("source_compute=host-1".into(), "2.1", vec![3]),
        ("host=host-1".into(), "2.1", vec![3, 2, 1]),
        ("host=host-2".into(), "2.1", vec![]),
        (format!("instance_uuid={id}"), "2.1", vec![3, 1]),
        (format!("instance_uuid={id}&status=completed"), "2.1", vec![1]),
        ("status=running".into(), "2.1", vec![2]),
        ("hidden=0".into(), "2.1", vec![3, 2, 1]),
        ("hidden=1".into(), "2.1", vec![]),
        ("hidden=true".into(), "2.59", vec![]),
        // Before there was such a filter it was ignored.
        ("changes-since=2999-01-01T00:00:00".into(), "2.58", vec![3, 2, 1]),
        ("changes-since=2999-01-01T00:00:00".into(), "2.59", vec![]),
        (format!("changes-since={between}&instance_uuid={id}"), "2.59", vec![3]),
        (format!("changes-before={between}&instance_uuid={id}"), "2.58", vec![3, 1]),
        (format!("changes-before={between}&instance_uuid={id}"), "2.66", vec![1]),
        (format!("changes-since=2001-01-01T00:00:00&changes-before={between}&instance_uuid={id}"), "2.66", vec![1]),
        ("user_id=nobody".into(), "2.58", vec![3, 2, 1]),
        ("user_id=nobody".into(), "2.80", vec![]),
        (format!("user_id={user}&project_id={project}"), "2.80", vec![3, 2, 1]),
        ("project_id=nobody".into(), "2.80", vec![]),
        ("limit=1".into(), "2.59", vec![3]),
        (format!("limit=1&marker={}", one(3)["uuid"].as_str().unwrap()), "2.59", vec![2]),
    ] {
        assert_eq!(numbers(&w, &query, version).await, expected, "{query} {version}");
    }
    for (query, version) in [
        ("changes-since=yesterday", "2.59"),
        ("changes-before=2030-01-01T00:00:00", "2.65"),
        ("changes-since=2030-01-02T00:00:00&changes-before=2030-01-01T00:00:00", "2.66"),
        ("user_id=x", "2.79"),
        ("project_id=x", "2.59"),
        ("marker=x", "2.59"),
        ("limit=-1", "2.59"),
        ("colour=red", "2.59"),
    ] {
        let answer = w.call(&w.admin, "GET", &format!("/os-migrations?{query}"), None, version).await;
        assert_eq!(answer.status, 400, "{query} {version} {}", answer.text());
    }
    assert_eq!(w.call(&w.tenant, "GET", "/os-migrations", None, "2.104").await.status, 403);
    // What each microversion shows.
    for (version, has) in [
        ("2.22", [false, false, false, false]),
        ("2.23", [true, true, false, false]),
        ("2.59", [true, true, true, false]),
        (AUTO, [true; 4]),
    ] {
        let all = w.call(&w.admin, "GET", "/os-migrations?status=running", None, version).await.expect(200);
        let shown = ["migration_type", "links", "uuid", "user_id"].map(|key| all["migrations"][0].get(key).is_some());
        assert_eq!(shown, has, "{version} {all}");
    }
    let linked = w.call(&w.admin, "GET", "/os-migrations", None, "2.23").await.expect(200)["migrations"].clone();
    let linked: Vec<bool> = linked.as_array().unwrap().iter().map(|m| m.get("links").is_some()).collect();
    assert_eq!(linked, [false, true, false], "only one that can be looked at");
    let all = w.call(&w.admin, "GET", "/os-migrations?status=running", None, "2.23").await.expect(200);
    assert!(all["migrations"][0]["links"][0]["href"].as_str().unwrap().ends_with(&format!("/v2.1/servers/{other}/migrations/2")), "{all}");
}

/// What is to be undone or let go of is written down with the word: who dies after it changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_move_is_cleared_up_whoever_is_away() {
    let mut w = World::with_hosts(2).await;
    let id = on_first(&w).await;
    let move_it = Some(json!({"migrate": null}));
    assert_eq!(w.call(&w.admin, "POST", &format!("/servers/{id}/action"), move_it, "2.1").await.status, 202);
    let path = format!("/compute/v2.1/servers/{id}");
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["server"]["status"] == "VERIFY_RESIZE").await;
    w.cloud.hosts[0].vanish().await;
    assert_eq!(w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"confirmResize": null})), "2.1").await.status, 204);
    let first = w.cloud.hosts[0].hypervisor.clone();
    assert_eq!(first.disks(&id), ["root"], "its host has not heard of it");
    // The controller dies too, and all come back.
    let World { cloud, admin, tenant, image, network } = w;
    let w = World { cloud: cloud.crash().await, admin, tenant, image, network };
    let started = Instant::now();
    while !first.traces().is_empty() {
        assert!(started.elapsed() < PATIENCE, "the old host never lets go");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(settled(&w, &id).await, "host-1");
    assert_eq!(w.cloud.hosts[1].hypervisor.running(), std::slice::from_ref(&id));
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), std::slice::from_ref(&id));
    assert_eq!(status_after(&w, 1, &[]).await, "confirmed");
    // A second word comes too late.
    assert_eq!(w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"confirmResize": null})), "2.1").await.status, 409);
}
