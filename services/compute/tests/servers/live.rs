//! Servers that come to another host while they run.

use std::time::{Duration, Instant};

use host::hypervisor::RunState;
use host::simulated::SimulatedHypervisor;
use serde_json::{Value, json};
use testing::Answer;

use crate::world::{PATIENCE, World};

async fn until(what: &str, fits: impl Fn() -> bool) {
    let started = Instant::now();
    while !fits() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn migrate(w: &World, id: &str, body: Value, version: &str) -> Answer {
    w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"os-migrateLive": body})), version).await
}

/// A running server on the first host.
async fn first(w: &World, mut extra: Value) -> String {
    extra["availability_zone"] = json!("nova:host-0");
    let id = w.call(&w.admin, "POST", "/servers", Some(w.body(extra)), "2.1").await;
    let id = id.expect(202)["server"]["id"].as_str().unwrap().to_string();
    settled(w, &id, "ACTIVE").await;
    id
}

async fn settled(w: &World, id: &str, status: &str) -> Value {
    let path = format!("/compute/v2.1/servers/{id}");
    let fits = |a: &Answer| a.json()["server"]["status"] == status && a.json()["server"]["OS-EXT-STS:task_state"].is_null();
    w.cloud.until(&w.admin, &path, PATIENCE, fits).await.json()["server"].clone()
}

fn machines(w: &World) -> Vec<SimulatedHypervisor> {
    w.cloud.hosts.iter().map(|h| h.hypervisor.clone()).collect()
}

/// Type, status and destination, the newest first.
async fn migrations(w: &World, id: &str) -> Vec<(String, String, String)> {
    let all = w.call(&w.admin, "GET", &format!("/os-migrations?instance_uuid={id}"), None, "2.59").await.expect(200);
    let text = |m: &Value, name: &str| m[name].as_str().unwrap_or_default().to_string();
    all["migrations"].as_array().unwrap().iter().map(|m| (text(m, "migration_type"), text(m, "status"), text(m, "dest_compute"))).collect()
}

/// The migration that is under way, as soon as it is in this state.
async fn under_way(w: &World, id: &str, status: &str) -> Value {
    let path = format!("/servers/{id}/migrations");
    let started = Instant::now();
    loop {
        let all = w.call(&w.admin, "GET", &path, None, "2.80").await.expect(200);
        if let Some(one) = all["migrations"].as_array().unwrap().iter().find(|m| m["status"] == status) {
            return one.clone();
        }
        assert!(started.elapsed() < PATIENCE, "{all}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_goes_where_it_is_asked_to_or_where_there_is_room() {
    let w = World::with_hosts(3).await;
    let id = first(&w, json!({})).await;
    let before = settled(&w, &id, "ACTIVE").await;
    let machines = machines(&w);
    for (body, version, host) in [
        (json!({"host": "host-2", "block_migration": "auto", "force": false}), "2.30", 2),
        (json!({"host": "host-1", "block_migration": true, "disk_over_commit": false}), "2.1", 1),
        (json!({"host": "host-0", "block_migration": "auto"}), "2.104", 0),
    ] {
        let answer = migrate(&w, &id, body.clone(), version).await;
        assert_eq!((answer.status, answer.text()), (202, String::new()), "{body}");
        let shown = settled(&w, &id, "ACTIVE").await;
        assert_eq!(shown["OS-EXT-SRV-ATTR:host"], format!("host-{host}"), "{:?} {shown}", migrations(&w, &id).await);
        assert_eq!((&shown["addresses"], &shown["OS-EXT-STS:power_state"]), (&before["addresses"], &json!(1)));
        let ports = w.cloud.get(&w.admin, &format!("/network/v2.0/ports?device_id={id}")).await.expect(200);
        assert_eq!(ports["ports"][0]["binding:host_id"], format!("host-{host}"));
        w.cloud
            .until(&w.admin, &format!("/network/v2.0/ports?device_id={id}"), PATIENCE, |a| a.json()["ports"][0]["status"] == "ACTIVE")
            .await;
        assert_eq!(migrations(&w, &id).await[0], ("live-migration".into(), "completed".into(), format!("host-{host}")));
        assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), std::slice::from_ref(&id));
        until("it is in one place", || machines.iter().enumerate().all(|(n, m)| m.traces().is_empty() != (n == host))).await;
        assert_eq!(machines[host].state(&id), Some(RunState::Running));
        let list = w.call(&w.admin, "GET", &format!("/servers/{id}/migrations"), None, "2.80").await.expect(200);
        assert_eq!(list, json!({"migrations": []}), "only what is under way is listed");
    }
    let starts: Vec<u64> = machines.iter().map(|m| m.starts()).collect();
    assert_eq!(starts, [2, 1, 1], "one boot, and three processes that took it over");
    let actions = w.call(&w.admin, "GET", &format!("/servers/{id}/os-instance-actions"), None, "2.1").await.expect(200);
    assert_eq!(actions["instanceActions"][0]["action"], "live-migration");
    let request = actions["instanceActions"][0]["request_id"].as_str().unwrap();
    let action = w.call(&w.admin, "GET", &format!("/servers/{id}/os-instance-actions/{request}"), None, "2.1").await.expect(200);
    assert!(action["instanceAction"]["events"].as_array().unwrap().iter().all(|e| e["result"] == "Success"), "{action}");
    let log = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=100").await.text();
    assert!(log.contains("700.151") && log.contains("700.156") && log.contains("700.008") && !log.contains("700.155"), "{log}");
    assert!(!w.cloud.get(&w.admin, "/fault/v1/alarms").await.text().contains("700.008"));
    // A paused one arrives as it was.
    assert_eq!(w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"pause": null})), "2.1").await.status, 202);
    settled(&w, &id, "PAUSED").await;
    assert_eq!(migrate(&w, &id, json!({"host": "host-2", "block_migration": "auto"}), "2.104").await.status, 202);
    let shown = settled(&w, &id, "PAUSED").await;
    assert_eq!((&shown["OS-EXT-SRV-ATTR:host"], machines[2].state(&id)), (&json!("host-2"), Some(RunState::Paused)));
    assert_eq!(w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"unpause": null})), "2.1").await.status, 202);
    settled(&w, &id, "ACTIVE").await;
    assert_eq!(w.call(&w.admin, "DELETE", &format!("/servers/{id}"), None, "2.1").await.status, 204);
    w.cloud.until(&w.admin, &format!("/compute/v2.1/servers/{id}"), PATIENCE, |a| a.status == 404).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_settle_is_forced_or_stays() {
    let w = World::with_hosts(2).await;
    let id = first(&w, json!({})).await;
    let machines = machines(&w);
    machines[0].trouble(|t| t.restless = true);
    let of = format!("/servers/{id}/migrations");
    let body = json!({"host": null, "block_migration": "auto"});
    for (version, number) in [("2.24", 1), ("2.65", 2)] {
        assert_eq!(migrate(&w, &id, body.clone(), "2.34").await.status, 202);
        let shown = under_way(&w, &id, "running").await;
        assert_eq!((&shown["source_compute"], &shown["dest_compute"], &shown["id"]), (&json!("host-0"), &json!("host-1"), &json!(number)));
        let server = w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200);
        assert_eq!((&server["server"]["status"], &server["server"]["OS-EXT-STS:task_state"]), (&json!("MIGRATING"), &json!("migrating")));
        assert_eq!(w.cloud.controller.placement.consumers().await.unwrap().len(), 2);
        assert!(w.cloud.get(&w.admin, "/fault/v1/alarms").await.text().contains("700.008"));
        // Nothing else is done with it meanwhile.
        assert_eq!(migrate(&w, &id, body.clone(), "2.34").await.status, 409);
        let stop = w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"os-stop": null})), "2.1").await;
        assert_eq!(stop.status, 409);
        let started = Instant::now();
        loop {
            let one = w.call(&w.admin, "GET", &format!("{of}/{number}"), None, "2.23").await.expect(200)["migration"].clone();
            if one["memory_total_bytes"].as_u64().is_some_and(|n| n > 0) {
                assert!(one["disk_processed_bytes"].is_u64() && one["memory_remaining_bytes"].is_u64(), "{one}");
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{one}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(w.call(&w.admin, "DELETE", &format!("{of}/77"), None, version).await.status, 404);
        assert_eq!(w.call(&w.admin, "DELETE", &format!("{of}/{number}"), None, version).await.status, 202);
        let shown = settled(&w, &id, "ACTIVE").await;
        assert_eq!((&shown["OS-EXT-SRV-ATTR:host"], migrations(&w, &id).await[0].1.as_str()), (&json!("host-0"), "cancelled"));
        until("nothing is left on the other host", || machines[1].traces().is_empty()).await;
        assert_eq!((machines[0].state(&id), machines[0].starts()), (Some(RunState::Running), 1));
        assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), std::slice::from_ref(&id));
        assert_eq!(w.call(&w.admin, "DELETE", &format!("{of}/{number}"), None, version).await.status, 409, "it is over");
    }
    assert_eq!(migrate(&w, &id, body.clone(), "2.34").await.status, 202);
    under_way(&w, &id, "running").await;
    let force = Some(json!({"force_complete": null}));
    assert_eq!(w.call(&w.tenant, "POST", &format!("{of}/3/action"), force.clone(), "2.22").await.status, 404, "another project's");
    assert_eq!(w.call(&w.admin, "POST", &format!("{of}/3/action"), force.clone(), "2.22").await.status, 202);
    let shown = settled(&w, &id, "ACTIVE").await;
    assert_eq!((&shown["OS-EXT-SRV-ATTR:host"], migrations(&w, &id).await[0].1.as_str()), (&json!("host-1"), "completed"));
    until("it runs there", || machines[1].state(&id) == Some(RunState::Running) && machines[0].traces().is_empty()).await;
    let log = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=100").await.text();
    assert!(log.contains("700.154") && log.contains("700.156"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_nothing_leaves_the_server_where_it_was() {
    let w = World::with_hosts(2).await;
    let id = first(&w, json!({})).await;
    let machines = machines(&w);
    let body = json!({"host": null, "block_migration": "auto"});
    // It does not start there; the way breaks off; it does not survive its arrival.
    machines[1].trouble(|t| t.starts_fail.push_back("no luck".into()));
    for (round, why) in ["No valid host", "no route to host", "did not come to host host-1"].into_iter().enumerate() {
        match round {
            1 => machines[0].trouble(|t| t.no_way = true),
            2 => {
                machines[0].trouble(|t| t.no_way = false);
                machines[1].trouble(|t| t.arrivals_fail = 1);
            }
            _ => {}
        }
        assert_eq!(migrate(&w, &id, body.clone(), "2.34").await.status, 202);
        let shown = settled(&w, &id, "ACTIVE").await;
        assert_eq!((&shown["OS-EXT-SRV-ATTR:host"], migrations(&w, &id).await[0].1.as_str()), (&json!("host-0"), "error"));
        let actions = w.call(&w.admin, "GET", &format!("/servers/{id}/os-instance-actions"), None, "2.1").await.expect(200);
        let request = actions["instanceActions"][0]["request_id"].as_str().unwrap();
        let action = w.call(&w.admin, "GET", &format!("/servers/{id}/os-instance-actions/{request}"), None, "2.84").await.expect(200);
        assert!(action.to_string().contains(why), "{why}: {action}");
        until("nothing is left on the other host", || machines[1].traces().is_empty()).await;
        until("it runs", || machines[0].state(&id) == Some(RunState::Running)).await;
        assert_eq!(machines[0].starts(), 1, "it never stopped");
        assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), std::slice::from_ref(&id));
    }
    let log = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=100").await.text();
    assert!(log.contains("700.155"), "{log}");
    // And what is told at once.
    for (body, version, status, part) in [
        (json!({"host": "host-0", "block_migration": "auto"}), "2.34", 400, "current host"),
        (json!({"host": "nowhere", "block_migration": "auto"}), "2.34", 400, "could not be found"),
        (json!({"host": null, "block_migration": false, "disk_over_commit": false}), "2.1", 400, "shared storage"),
        (json!({"host": null, "block_migration": "auto", "disk_over_commit": false}), "2.25", 400, "Additional properties"),
        (json!({"host": "host-1", "block_migration": "auto", "force": true}), "2.68", 400, "Additional properties"),
    ] {
        let answer = migrate(&w, &id, body.clone(), version).await;
        assert_eq!(answer.status, status, "{body} {}", answer.text());
        assert!(answer.text().contains(part), "{body} {}", answer.text());
    }
    // It works all the same, and one that is deleted on its way is gone from both.
    machines[0].trouble(|t| t.restless = true);
    assert_eq!(migrate(&w, &id, body, "2.34").await.status, 202);
    under_way(&w, &id, "running").await;
    assert_eq!(w.call(&w.admin, "DELETE", &format!("/servers/{id}"), None, "2.1").await.status, 204);
    w.cloud.until(&w.admin, &format!("/compute/v2.1/servers/{id}"), PATIENCE, |a| a.status == 404).await;
    until("nothing is left", || machines.iter().all(|m| m.traces().is_empty())).await;
    w.clean().await;
}

/// VIM specification, acceptance 13: one that never settles has its time, and stays where it is.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_settle_in_its_time_stays() {
    let w = World::with_hosts(2).await;
    let id = first(&w, json!({"metadata": {"hw:wrs:live_migration_timeout": "120"}})).await;
    let machines = machines(&w);
    machines[0].trouble(|t| t.restless = true);
    assert_eq!(migrate(&w, &id, json!({"host": null, "block_migration": "auto"}), "2.34").await.status, 202);
    under_way(&w, &id, "running").await;
    // The time passes in the record of when it began.
    let store = w.cloud.controller.core.store.clone();
    let age = async |seconds: i64| {
        let (id, micros) = (id.clone(), seconds * 1_000_000);
        let sql = "UPDATE server_migration SET created_at = created_at - ?2 WHERE server_id = ?1";
        store.write(move |tx| tx.execute(sql, store::params![id, micros]).map(drop)).await.unwrap();
    };
    age(100).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    under_way(&w, &id, "running").await;
    age(20).await;
    let shown = settled(&w, &id, "ACTIVE").await;
    assert_eq!((&shown["OS-EXT-SRV-ATTR:host"], migrations(&w, &id).await[0].1.as_str()), (&json!("host-0"), "error"));
    until("nothing is left on the other host", || machines[1].traces().is_empty()).await;
    assert_eq!((machines[0].state(&id), machines[0].starts()), (Some(RunState::Running), 1));
    let log = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=1000").await.text();
    assert!(log.contains("700.155") && log.contains("did not settle within 120 seconds"), "{log}");
    assert!(!w.cloud.get(&w.admin, "/fault/v1/alarms").await.text().contains("700.008"));
}

/// A volume as its administrator sees it.
async fn volume(w: &World, id: &str) -> Value {
    w.cloud.get(&w.admin, &format!("/volume/v3/volumes/{id}")).await.expect(200)["volume"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_go_with_their_server() {
    let w = World::with_hosts(2).await;
    // One that was there before its server, and one that is made for it.
    let root = json!({"size": 1, "imageRef": w.image, "name": "root"});
    let root = w.cloud.post(&w.admin, "/volume/v3/volumes", json!({"volume": root})).await.expect(202)["volume"]["id"].clone();
    let path = format!("/volume/v3/volumes/{}", root.as_str().unwrap());
    let made = w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["volume"]["status"] == "available").await.json();
    assert_eq!(made["volume"]["os-vol-host-attr:host"], "host-0@local#local", "the first of equal ones");
    let root = json!({"boot_index": 0, "uuid": root, "source_type": "volume", "destination_type": "volume"});
    let data = json!({"boot_index": -1, "source_type": "blank", "destination_type": "volume", "volume_size": 2});
    let id = first(&w, json!({"block_device_mapping_v2": [root, data], "imageRef": ""})).await;
    let machines = machines(&w);
    let all = w.call(&w.admin, "GET", &format!("/servers/{id}/os-volume_attachments"), None, "2.1").await.expect(200)["volumeAttachments"]
        .clone();
    let volumes: Vec<String> = all.as_array().unwrap().iter().map(|a| a["volumeId"].as_str().unwrap().to_string()).collect();
    assert_eq!((volumes.len(), machines[0].layer_files().len()), (2, 2));

    // One with a snapshot, which goes along.
    let auto = json!({"host": null, "block_migration": "auto"});
    let body = json!({"snapshot": {"volume_id": volumes[1], "force": true}});
    let frozen = w.cloud.post(&w.admin, "/volume/v3/snapshots", body).await.expect(202)["snapshot"]["id"].as_str().unwrap().to_string();
    let snapshot = format!("/volume/v3/snapshots/{frozen}");
    w.cloud.until(&w.admin, &snapshot, PATIENCE, |a| a.json()["snapshot"]["status"] == "available").await;

    // While they are on their way nothing else is done with them; one that comes to nothing leaves them where they were.
    machines[0].trouble(|t| t.restless = true);
    assert_eq!(migrate(&w, &id, auto.clone(), "2.34").await.status, 202);
    let shown = under_way(&w, &id, "running").await;
    assert_eq!(volume(&w, &volumes[1]).await["os-vol-mig-status-attr:migstat"], "migrating");
    let body = json!({"snapshot": {"volume_id": volumes[1], "force": true}});
    assert_eq!(w.cloud.post(&w.admin, "/volume/v3/snapshots", body).await.status, 400);
    for source in [json!({"size": 2, "source_volid": volumes[1]}), json!({"size": 2, "snapshot_id": frozen})] {
        assert_eq!(w.cloud.post(&w.admin, "/volume/v3/volumes", json!({ "volume": source })).await.status, 400);
    }
    assert_eq!(w.cloud.request("DELETE", &snapshot).token(&w.admin).send().await.status, 400);
    assert_eq!(machines[1].plugged(&id).into_keys().collect::<Vec<_>>().len(), 2, "the process that waits has them");
    let path = format!("/servers/{id}/migrations/{}", shown["id"]);
    assert_eq!(w.call(&w.admin, "DELETE", &path, None, "2.65").await.status, 202);
    settled(&w, &id, "ACTIVE").await;
    until("nothing is left on the other host", || machines[1].traces().is_empty() && machines[1].layer_files().is_empty()).await;
    assert_eq!(
        (machines[0].plugged(&id).len(), volume(&w, &volumes[0]).await["os-vol-host-attr:host"].clone()),
        (2, json!("host-0@local#local"))
    );
    machines[0].trouble(|t| t.restless = false);

    // There and back: each time whole on one host, and gone from the other. A server without disks of its own needs no copying by name.
    for host in [1, 0] {
        let body = json!({"host": null, "block_migration": false, "disk_over_commit": false});
        assert_eq!(migrate(&w, &id, body, "2.1").await.status, 202);
        let shown = settled(&w, &id, "ACTIVE").await;
        assert_eq!(shown["OS-EXT-SRV-ATTR:host"], format!("host-{host}"), "{:?}", migrations(&w, &id).await);
        until("all of it is in one place", || machines[1 - host].layer_files().is_empty() && machines[1 - host].traces().is_empty()).await;
        assert_eq!((machines[host].plugged(&id).len(), machines[host].layer_files().len()), (2, 3), "with what the snapshot is in");
        for id in &volumes {
            let shown = volume(&w, id).await;
            let of = (&shown["os-vol-host-attr:host"], &shown["status"], &shown["attachments"][0]["host_name"]);
            assert_eq!(of, (&json!(format!("host-{host}@local#local")), &json!("in-use"), &json!(format!("host-{host}"))), "{shown}");
        }
    }
    // They are volumes like any others: copied, frozen, let go of, deleted.
    let body = json!({"volume": {"size": 2, "snapshot_id": frozen}});
    let copy = w.cloud.post(&w.admin, "/volume/v3/volumes", body).await.expect(202)["volume"]["id"].as_str().unwrap().to_string();
    w.cloud.until(&w.admin, &format!("/volume/v3/volumes/{copy}"), PATIENCE, |a| a.json()["volume"]["status"] == "available").await;
    assert_eq!(w.cloud.request("DELETE", &snapshot).token(&w.admin).send().await.status, 202);
    w.cloud.until(&w.admin, &snapshot, PATIENCE, |a| a.status == 404).await;
    let body = json!({"snapshot": {"volume_id": volumes[1], "force": true}});
    let snapshot = w.cloud.post(&w.admin, "/volume/v3/snapshots", body).await.expect(202)["snapshot"]["id"].clone();
    let snapshot = format!("/volume/v3/snapshots/{}", snapshot.as_str().unwrap());
    w.cloud.until(&w.admin, &snapshot, PATIENCE, |a| a.json()["snapshot"]["status"] == "available").await;
    assert_eq!(w.cloud.request("DELETE", &snapshot).token(&w.admin).send().await.status, 202);
    w.cloud.until(&w.admin, &snapshot, PATIENCE, |a| a.status == 404).await;
    assert_eq!(w.call(&w.admin, "DELETE", &format!("/servers/{id}"), None, "2.1").await.status, 204);
    w.cloud.until(&w.admin, &format!("/compute/v2.1/servers/{id}"), PATIENCE, |a| a.status == 404).await;
    for id in volumes.iter().chain([&copy]) {
        assert_eq!(w.cloud.request("DELETE", &format!("/volume/v3/volumes/{id}")).token(&w.admin).send().await.status, 202);
        w.cloud.until(&w.admin, &format!("/volume/v3/volumes/{id}"), PATIENCE, |a| a.status == 404).await;
    }
    until("nothing is left", || machines.iter().all(|m| m.traces().is_empty() && m.layer_files().is_empty())).await;
}

/// Wherever it ends after that, all of it is there and nothing is left elsewhere: on its way while it runs, and while it is off.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_with_their_server_whenever_the_controller_dies_on_its_way() {
    let mut w = World::with_hosts(2).await;
    let root = json!({"boot_index": 0, "uuid": w.image, "source_type": "image", "destination_type": "local"});
    let data = json!({"boot_index": -1, "source_type": "blank", "destination_type": "volume", "volume_size": 1});
    let id = first(&w, json!({"block_device_mapping_v2": [root, data]})).await;
    let machines = machines(&w);
    let path = format!("/compute/v2.1/servers/{id}");
    let all = w.call(&w.admin, "GET", &format!("/servers/{id}/os-volume_attachments"), None, "2.1").await.expect(200);
    let data = all["volumeAttachments"][0]["volumeId"].as_str().unwrap().to_string();
    let mut ended = Vec::new();
    let up = |a: &Answer| a.json()["services"].as_array().is_some_and(|all| all.len() == 2 && all.iter().all(|s| s["state"] == "up"));
    for (round, pause) in [0, 10, 30, 60, 120, 240, 480, 960].into_iter().enumerate() {
        w.cloud.until(&w.admin, "/compute/v2.1/os-services?binary=nova-compute", PATIENCE, up).await;
        let action = match round % 2 {
            0 => json!({"os-migrateLive": {"host": null, "block_migration": "auto"}}),
            _ => json!({"migrate": null}),
        };
        let answer = w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(action), "2.104").await;
        assert_eq!(answer.status, 202, "round {round}: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(pause)).await;
        w = World { cloud: w.cloud.crash().await, ..w };
        let over = |a: &Answer| {
            let server = &a.json()["server"];
            server["OS-EXT-STS:task_state"].is_null() && ["ACTIVE", "VERIFY_RESIZE"].iter().any(|status| server["status"] == *status)
        };
        // What a dead controller has begun may have to be waited for more than once.
        if w.cloud.until(&w.admin, &path, PATIENCE * 3, over).await.json()["server"]["status"] == "VERIFY_RESIZE" {
            let confirm = Some(json!({"confirmResize": null}));
            assert_eq!(w.call(&w.admin, "POST", &format!("/servers/{id}/action"), confirm, "2.1").await.status, 204);
        }
        let shown = settled(&w, &id, "ACTIVE").await;
        let host = usize::from(shown["OS-EXT-SRV-ATTR:host"] == "host-1");
        let other = &machines[1 - host];
        until("all of it is in one place", || other.traces().is_empty() && other.layer_files().is_empty()).await;
        until("it runs", || machines[host].state(&id) == Some(RunState::Running)).await;
        assert_eq!((machines[host].plugged(&id).len(), machines[host].layer_files().len()), (1, 1), "round {round}");
        let of = volume(&w, &data).await;
        let expected = (json!(format!("host-{host}@local#local")), json!("in-use"));
        assert_eq!((of["os-vol-host-attr:host"].clone(), of["status"].clone()), expected, "round {round}");
        assert_eq!(w.claimants().await, std::slice::from_ref(&id), "round {round}");
        ended.push(migrations(&w, &id).await[0].1.clone());
    }
    assert!(ended.iter().any(|status| status == "completed" || status == "confirmed"), "none got there: {ended:?}");
}
