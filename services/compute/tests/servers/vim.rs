//! What the infrastructure manager tells of servers and hosts besides their states (VIM specification, section 5).

use base::Context;
use serde_json::{Value, json};
use testing::Answer;

use crate::world::{PATIENCE, World};

async fn log(w: &World) -> Vec<Value> {
    let log = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=1000").await.expect(200);
    let mut all = log["event_log"].as_array().unwrap().clone();
    // What is told at once is in the order of its numbers.
    all.sort_by_key(|entry| ["timestamp", "event_log_id"].map(|key| entry[key].as_str().unwrap().to_string()));
    all
}

/// Texts of the logs of an entity with these ids, the oldest first.
async fn told(w: &World, entity: &str, ids: &[String]) -> Vec<String> {
    let of = |entry: &Value| {
        entry["entity_instance_id"].as_str().unwrap().ends_with(entity) && ids.iter().any(|id| entry["event_log_id"] == id.as_str())
    };
    log(w).await.into_iter().filter(of).map(|entry| entry["reason_text"].as_str().unwrap().to_string()).collect()
}

/// VIM specification, acceptance 11 (its alarms: `conditions`) and 12.
#[tokio::test(flavor = "multi_thread")]
async fn each_action_is_logged_as_it_is_issued_begun_and_over() {
    let w = World::with_hosts(2).await;
    let larger = json!({"flavor": {"id": "2", "name": "larger", "ram": 128, "vcpus": 1, "disk": 1}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", larger).await.expect(200);
    let id = w.active(json!({})).await;
    // Each three logs, in their order, with who has issued it.
    let expect = async |first: u32, action: &str, who: &str| {
        let ids = [first, first + 1, first + 5].map(|n| format!("700.{n}"));
        let done = async || told(&w, &id, &ids).await;
        let began = std::time::Instant::now();
        while done().await.len() % 3 != 0 || done().await.is_empty() {
            assert!(began.elapsed() < PATIENCE, "{action}: {:?}", done().await);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let all = done().await;
        let last = &all[all.len() - 3..];
        let begins = [
            format!("{action} issued by {who} against instance vm owned by tenant"),
            format!("{action} in progress for instance vm"),
            format!("{action} complete for instance vm"),
        ];
        for (text, begin) in last.iter().zip(begins) {
            assert!(text.starts_with(&begin), "{last:?}");
        }
    };
    expect(103, "Create", "tenant").await;
    let (rebuild, resize) = (json!({"rebuild": {"imageRef": w.image}}), json!({"resize": {"flavorRef": "2"}}));
    let (confirm, revert) = (json!({"confirmResize": null}), json!({"revertResize": null}));
    let live = json!({"os-migrateLive": {"host": null, "block_migration": "auto"}});
    for (body, status, first, action) in [
        (json!({"pause": null}), "PAUSED", 115, "Pause"),
        (json!({"unpause": null}), "ACTIVE", 121, "Unpause"),
        (json!({"suspend": null}), "SUSPENDED", 127, "Suspend"),
        (json!({"resume": null}), "ACTIVE", 133, "Resume"),
        (json!({"os-stop": null}), "SHUTOFF", 145, "Stop"),
        (json!({"os-start": null}), "ACTIVE", 139, "Start"),
        (json!({"reboot": {"type": "HARD"}}), "ACTIVE", 181, "Reboot"),
        (rebuild, "ACTIVE", 187, "Rebuild"),
        (live, "ACTIVE", 151, "Live-Migrate"),
        (resize.clone(), "VERIFY_RESIZE", 193, "Resize"),
        (revert.clone(), "ACTIVE", 205, "Resize-Revert"),
        (resize, "VERIFY_RESIZE", 193, "Resize"),
        (confirm.clone(), "ACTIVE", 199, "Resize-Confirm"),
        (json!({"migrate": null}), "VERIFY_RESIZE", 157, "Cold-Migrate"),
        (revert, "ACTIVE", 169, "Cold-Migrate-Revert"),
        (json!({"migrate": null}), "VERIFY_RESIZE", 157, "Cold-Migrate"),
        (confirm, "ACTIVE", 163, "Cold-Migrate-Confirm"),
    ] {
        let answer = w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(body.clone()), "2.104").await;
        assert!(answer.status < 300, "{body}: {}", answer.text());
        w.wait(&id, status).await;
        expect(first, action, "tenant").await;
    }

    // The system's own migration: it needs nobody to confirm it.
    let compute = &w.cloud.controller.compute;
    let (ctx, since) = (Context::system("req-1"), base::Timestamp::now());
    let from = compute.server_for(&ctx, &id, "os_compute_api:servers:show").await.unwrap().host_id.unwrap();
    compute.server_migrate(&ctx, &id, None).await.unwrap();
    let began = std::time::Instant::now();
    while !compute.depart(&ctx, &id, &from, since, true).await.unwrap() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_ne!(compute.server_for(&ctx, &id, "os_compute_api:servers:show").await.unwrap().host_id.unwrap(), from);
    w.wait(&id, "ACTIVE").await;
    expect(157, "Cold-Migrate", "the system").await;
    expect(163, "Cold-Migrate-Confirm", "the system").await;

    // Another name, and the same again.
    for name in ["other", "other"] {
        w.put(&format!("/servers/{id}"), json!({"server": {"name": name}}), "2.1").await.expect(200);
    }
    let renamed = told(&w, &id, &["700.214".into()]).await;
    assert!(
        renamed.len() == 1
            && renamed[0].starts_with("Instance vm owned by tenant on host host-")
            && renamed[0].ends_with(" is now named other"),
        "{renamed:?}"
    );
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    let deleted = told(&w, &id, &[109, 110, 114].map(|n| format!("700.{n}"))).await;
    assert!(deleted.len() == 3 && deleted[0].starts_with("Delete issued by tenant against instance other"), "{deleted:?}");
    w.clean().await;
}

/// VIM specification, acceptance 8: what is told of a host's compute service is all that comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_compute_service_that_is_disabled_or_fails_is_told_of_and_no_server_is_touched() {
    let mut w = World::with_hosts(2).await;
    // On the first of equal hosts.
    let id = w.active(json!({})).await;
    let services = ["270.101", "270.102", "270.103"].map(String::from);
    let all = async |w: &World| told(w, "host=host-0.services=compute", &services).await;
    assert_eq!(all(&w).await.last().map(String::as_str), Some("Compute services of host host-0 are enabled"));
    let before = all(&w).await.len();
    let body = json!({"host": "host-0", "binary": "nova-compute", "disabled_reason": "a trial"});
    for _ in 0..2 {
        w.cloud.put(&w.admin, "/compute/v2.1/os-services/disable-log-reason", body.clone()).await.expect(200);
    }
    assert_eq!(all(&w).await[before..], ["Compute services of host host-0 are disabled, reason a trial"]);
    let enable = json!({"host": "host-0", "binary": "nova-compute"});
    w.cloud.put(&w.admin, "/compute/v2.1/os-services/enable", enable).await.expect(200);
    let down = json!({"host": "host-0", "binary": "nova-compute", "forced_down": true});
    let forced = w.call(&w.admin, "PUT", "/os-services/force-down", Some(down), "2.11").await;
    assert_eq!(forced.status, 200, "{}", forced.text());
    let now = all(&w).await;
    let texts = ["Compute services of host host-0 are enabled", "Compute services of host host-0 are failed, reason it was forced down"];
    assert_eq!(now[before + 1..], texts);
    let list = w.cloud.get(&w.admin, "/compute/v2.1/os-hypervisors/detail?hypervisor_hostname_pattern=host-0").await.expect(200);
    assert_eq!(list["hypervisors"][0]["state"], "down");
    let hypervisor = log(&w).await.into_iter().rfind(|e| e["event_log_id"] == "275.001").unwrap();
    assert_eq!(hypervisor["reason_text"], "Hypervisor of host host-0 is enabled and down");
    assert!(hypervisor["entity_instance_id"].as_str().unwrap().starts_with("host=host-0.hypervisor="), "{hypervisor}");
    assert_eq!(w.wait(&id, "ACTIVE").await["status"], "ACTIVE");
    let shown = w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200);
    assert_eq!(shown["server"]["OS-EXT-SRV-ATTR:host"], "host-0");
    assert_eq!(w.cloud.get(&w.admin, "/fault/v1/alarms").await.expect(200)["alarms"], json!([]));
    assert_eq!(w.cloud.hosts[0].hypervisor.starts(), 1);

    // A controller that starts again has nothing new to tell; a host that goes and comes has.
    let up = json!({"host": "host-0", "binary": "nova-compute", "forced_down": false});
    let forced = w.call(&w.admin, "PUT", "/os-services/force-down", Some(up), "2.11").await;
    assert_eq!(forced.status, 200, "{}", forced.text());
    let before = all(&w).await;
    let World { cloud, admin, tenant, image, network } = w;
    w = World { cloud: cloud.crash().await, admin, tenant, image, network };
    let both = |a: &Answer| a.json()["services"].as_array().unwrap().iter().filter(|s| s["state"] == "up").count() == 2;
    w.cloud.until(&w.admin, "/compute/v2.1/os-services?binary=nova-compute", PATIENCE, both).await;
    // The one that ended may just have seen the session end with it.
    let new = all(&w).await[before.len()..].to_vec();
    let seen =
        ["Compute services of host host-0 are failed, reason the host has no session", "Compute services of host host-0 are enabled"];
    assert!(new.is_empty() || new == seen, "{new:?}");
    w.cloud.hosts[0].vanish().await;
    w.cloud.until(&w.admin, "/compute/v2.1/os-services?host=host-0", PATIENCE, |a| a.json()["services"][0]["state"] == "down").await;
    assert_eq!(
        all(&w).await.last().map(String::as_str),
        Some("Compute services of host host-0 are failed, reason the host has no session")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_policy_was_broken_by_force_has_its_alarm_until_it_holds_again() {
    let w = World::with_hosts(2).await;
    let group = json!({"server_group": {"name": "apart", "policy": "anti-affinity"}});
    let group = w.post("/os-server-groups", group, "2.64").await.expect(200)["server_group"]["id"].as_str().unwrap().to_string();
    let mut body = w.body(json!({}));
    body["os:scheduler_hints"] = json!({ "group": group });
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = w.post("/servers", body.clone(), "2.64").await.expect(202)["server"]["id"].as_str().unwrap().to_string();
        w.wait(&id, "ACTIVE").await;
        ids.push(id);
    }
    let host = async || {
        let shown = w.call(&w.admin, "GET", &format!("/servers/{}", ids[0]), None, "2.1").await.expect(200);
        shown["server"]["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_string()
    };
    let alarms = |a: &Answer| {
        let all = a.json()["alarms"].as_array().unwrap().clone();
        all.into_iter().filter(|a| a["alarm_id"] == "700.017").collect::<Vec<_>>()
    };
    let migrate = async |to: &str| {
        let body = json!({"os-migrateLive": {"host": to, "block_migration": "auto", "force": true}});
        let answer = w.call(&w.admin, "POST", &format!("/servers/{}/action", ids[0]), Some(body), "2.30").await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        w.wait(&ids[0], "ACTIVE").await;
        assert_eq!(host().await, to);
    };
    let first = host().await;
    let second = if first == "host-0" { "host-1" } else { "host-0" };
    migrate(second).await;
    let shown = w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, |a| alarms(a).len() == 1).await;
    let alarm = alarms(&shown).remove(0);
    assert_eq!((&alarm["entity_instance_id"], &alarm["severity"]), (&json!(format!("server-group={group}")), &json!("minor")));
    assert_eq!(alarm["reason_text"], "Server group apart violates its policy anti-affinity: more than 1 of its members are on one host");
    migrate(&first).await;
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, |a| alarms(a).is_empty()).await;
    // Nor has a group that is gone.
    migrate(second).await;
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, |a| alarms(a).len() == 1).await;
    assert_eq!(w.delete(&format!("/os-server-groups/{group}"), "2.64").await.status, 204);
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, |a| alarms(a).is_empty()).await;
}
