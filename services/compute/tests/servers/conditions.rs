//! Each state of a server besides running has its alarm, as long as it lasts and no longer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testing::Answer;

use crate::world::{PATIENCE, World};

/// Longer than any test: what is begun goes on when this is taken back.
const NEVER: Duration = Duration::from_secs(3600);

fn alarms_of(answer: &Answer, id: &str) -> Vec<String> {
    let of = |a: &&Value| a["entity_instance_id"].as_str().unwrap().ends_with(&format!(".instance={id}"));
    answer.json()["alarms"].as_array().unwrap().iter().filter(of).map(|a| a["alarm_id"].as_str().unwrap().to_string()).collect()
}

/// Waits until a server has this alarm and no other; none: until it has no alarm.
async fn has(w: &World, id: &str, alarm: Option<&str>) {
    // One of them comes after ten seconds only.
    w.cloud.until(&w.admin, "/fault/v1/alarms", 3 * PATIENCE, |a| alarms_of(a, id) == alarm.as_slice()).await;
}

async fn act(w: &World, id: &str, body: &Value) {
    let answer = w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(body.clone()), "2.104").await;
    assert!(answer.status < 300, "{body}: {} {}", answer.status, answer.text());
}

fn slow(w: &World, delay: Duration) {
    w.cloud.hosts.iter().for_each(|host| host.hypervisor.trouble(|t| t.delay = delay));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_the_alarm_of_what_it_is() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    has(&w, &id, None).await;
    for (there, back, alarm, status, what, repair) in [
        (json!({"os-stop": null}), json!({"os-start": null}), "700.004", "SHUTOFF", "stopped", "Start the instance"),
        (json!({"suspend": null}), json!({"resume": null}), "700.003", "SUSPENDED", "suspended", "Resume the instance"),
    ] {
        act(&w, &id, &there).await;
        w.wait(&id, status).await;
        has(&w, &id, Some(alarm)).await;
        let shown = w.cloud.get(&w.admin, "/fault/v1/alarms/detail").await.expect(200)["alarms"][0].clone();
        let facts =
            ["severity", "alarm_type", "probable_cause", "reason_text", "proposed_repair_action"].map(|key| shown[key].as_str().unwrap());
        let text = format!("Instance vm owned by tenant is {what} on host host-0");
        assert_eq!(facts, ["critical", "processing-error", "procedural-error", &text, repair]);
        assert_eq!(shown["entity_type_id"], "tenant.instance");
        act(&w, &id, &back).await;
        has(&w, &id, None).await;
    }
    // One that is paused for a moment only has none.
    let paused = Instant::now();
    act(&w, &id, &json!({"pause": null})).await;
    has(&w, &id, Some("700.002")).await;
    assert!(paused.elapsed() >= Duration::from_secs(10), "{:?}", paused.elapsed());
    act(&w, &id, &json!({"unpause": null})).await;
    has(&w, &id, None).await;
    // One that its host has stopped says why.
    w.cloud.hosts[0].hypervisor.disks_fail(Some("disk root could not be written: No space left on device"));
    w.wait(&id, "PAUSED").await;
    has(&w, &id, Some("700.002")).await;
    let shown = w.cloud.get(&w.admin, "/fault/v1/alarms/detail").await.expect(200)["alarms"][0]["reason_text"].clone();
    let text = "Instance vm owned by tenant is paused on host host-0: stopped: disk root could not be written: No space left on device";
    assert_eq!(shown, text);
    w.cloud.hosts[0].hypervisor.disks_fail(None);
    w.wait(&id, "ACTIVE").await;
    has(&w, &id, None).await;
    // What fails has that alarm, and what ends has none.
    act(&w, &id, &json!({"os-stop": null})).await;
    has(&w, &id, Some("700.004")).await;
    let log = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=1000").await.text();
    assert!(!log.contains("700.001"), "{log}");
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    assert_eq!(w.cloud.get(&w.admin, "/fault/v1/alarms").await.expect(200)["alarms"], json!([]), "it is cleared with the server");
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_with_a_server_is_an_alarm_until_it_is_done() {
    let mut w = World::with_hosts(2).await;
    for (id, ram) in [("small", 64), ("large", 128)] {
        let flavor = json!({"flavor": {"id": id, "name": id, "ram": ram, "vcpus": 1, "disk": 1}});
        w.cloud.post(&w.admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    }
    let rebuild = json!({"rebuild": {"imageRef": w.image}});
    let (confirm, revert) = (json!({"confirmResize": null}), json!({"revertResize": null}));
    let resize = |to: &str| json!({"resize": {"flavorRef": to}});
    // While it is done; and what is left to confirm or revert, with the same of that.
    for (body, alarm, left) in [
        (json!({"reboot": {"type": "HARD"}}), "700.005", None),
        (rebuild, "700.006", None),
        (json!({"migrate": null}), "700.009", Some(("700.010", &revert, Some("700.011")))),
        (json!({"migrate": null}), "700.009", Some(("700.010", &confirm, None))),
        (resize("large"), "700.012", Some(("700.013", &revert, Some("700.014")))),
        (resize("large"), "700.012", Some(("700.013", &confirm, None))),
    ] {
        let id = w.active(json!({"flavorRef": "small"})).await;
        slow(&w, NEVER);
        act(&w, &id, &body).await;
        has(&w, &id, Some(alarm)).await;
        slow(&w, Duration::ZERO);
        let Some((waits, then, meanwhile)) = left else {
            w.wait(&id, "ACTIVE").await;
            has(&w, &id, None).await;
            continue;
        };
        w.wait(&id, "VERIFY_RESIZE").await;
        has(&w, &id, Some(waits)).await;
        slow(&w, NEVER);
        act(&w, &id, then).await;
        has(&w, &id, meanwhile).await;
        slow(&w, Duration::ZERO);
        w.wait(&id, "ACTIVE").await;
        has(&w, &id, None).await;
    }
    // One is put on another host because its own is lost.
    let id = w.active(json!({})).await;
    let from = w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200);
    let from: usize = from["server"]["OS-EXT-SRV-ATTR:host"].as_str().unwrap().trim_start_matches("host-").parse().unwrap();
    slow(&w, NEVER);
    w.cloud.hosts[from].vanish().await;
    let down = |a: &Answer| a.json()["services"].as_array().unwrap().iter().any(|s| s["state"] == "down");
    w.cloud.until(&w.admin, "/compute/v2.1/os-services", PATIENCE, down).await;
    // In later versions it stays off there.
    let evacuate = w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"evacuate": {}})), "2.94").await;
    assert_eq!(evacuate.status, 200, "{}", evacuate.text());
    has(&w, &id, Some("700.007")).await;
    slow(&w, Duration::ZERO);
    w.wait(&id, "ACTIVE").await;
    has(&w, &id, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_put_right_after_a_crash() {
    let mut w = World::new().await;
    let (id, other) = (w.active(json!({})).await, w.active(json!({"name": "other"})).await);
    act(&w, &id, &json!({"os-stop": null})).await;
    has(&w, &id, Some("700.004")).await;
    // What a controller that ended in between may leave: an alarm that is none any more, one that is missing, one of nobody.
    let (compute, project) = (w.cloud.controller.compute.clone(), w.tenant.project_id.clone());
    let (stopped, running) = (id.clone(), other.clone());
    compute
        .core
        .store
        .clone()
        .write(move |tx| {
            let set = |alarm: &str, id: &str| {
                let alarm = fault::Alarm::of_instance(alarm, &project, id, fault::Severity::Critical, "left over".into(), "");
                compute.faults.alarm_set_in(tx, &alarm).map(drop)
            };
            compute.faults.alarm_clear_in(tx, "700.004", &fault::instance_entity(&project, &stopped))?;
            set("700.009", &stopped)?;
            set("700.005", &running)?;
            set("700.012", "11111111-2222-3333-4444-555555555555")
        })
        .await
        .unwrap();
    let World { cloud, admin, tenant, image, network } = w;
    w = World { cloud: cloud.crash().await, admin, tenant, image, network };
    has(&w, &id, Some("700.004")).await;
    has(&w, &other, None).await;
    has(&w, "11111111-2222-3333-4444-555555555555", None).await;
}
