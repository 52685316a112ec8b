//! Servers that come to another host.

use std::time::Instant;

use serde_json::{Value, json};
use testing::Answer;

use crate::world::{PATIENCE, World};

async fn until(what: &str, fits: impl Fn() -> bool) {
    let started = Instant::now();
    while !fits() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn message(answer: &Answer) -> String {
    answer.json().as_object().unwrap().values().next().unwrap()["message"].as_str().unwrap().to_string()
}

pub async fn evacuate(w: &World, id: &str, body: Value, version: &str) -> Answer {
    w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"evacuate": body})), version).await
}

/// The host is lost, and its service down.
pub async fn lose(w: &mut World, number: usize) {
    w.cloud.hosts[number].vanish().await;
    let name = format!("host-{number}");
    let down = |a: &Answer| a.json()["services"].as_array().unwrap().iter().any(|s| s["host"] == name.as_str() && s["state"] == "down");
    w.cloud.until(&w.admin, "/compute/v2.1/os-services", PATIENCE, down).await;
}

pub async fn host_of(w: &World, id: &str) -> Value {
    w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200)["server"]["OS-EXT-SRV-ATTR:host"].clone()
}

async fn migrations(w: &World, id: &str) -> Vec<(String, String, String)> {
    let all = w.call(&w.admin, "GET", &format!("/os-migrations?instance_uuid={id}"), None, "2.59").await.expect(200);
    let text = |m: &Value, name: &str| m[name].as_str().unwrap_or_default().to_string();
    let all = all["migrations"].as_array().unwrap();
    all.iter().map(|m| (text(m, "migration_type"), text(m, "status"), text(m, "dest_compute"))).collect()
}

/// A running server on this host.
pub async fn on(w: &World, host: &str) -> String {
    with(w, host, json!({})).await
}

async fn with(w: &World, host: &str, mut extra: Value) -> String {
    extra["availability_zone"] = json!(format!("nova:{host}"));
    let id = w.call(&w.admin, "POST", "/servers", Some(w.body(extra)), "2.1").await;
    let id = id.expect(202)["server"]["id"].as_str().unwrap().to_string();
    let path = format!("/compute/v2.1/servers/{id}");
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["server"]["status"] == "ACTIVE").await;
    id
}

pub async fn settled(w: &World, id: &str, status: &str) -> Value {
    let path = format!("/compute/v2.1/servers/{id}");
    let fits = |a: &Answer| a.json()["server"]["status"] == status && a.json()["server"]["OS-EXT-STS:task_state"].is_null();
    w.cloud.until(&w.admin, &path, PATIENCE, fits).await.json()["server"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_a_lost_host_runs_elsewhere_and_never_twice() {
    let mut w = World::with_hosts(3).await;
    let id = on(&w, "host-0").await;
    let before = settled(&w, &id, "ACTIVE").await;
    // What is refused, in upstream's order, each version with its own body.
    for (body, version, status, part) in [
        (json!({}), "2.13", 400, "onSharedStorage"),
        (json!({"onSharedStorage": "maybe"}), "2.13", 400, "boolean"),
        (json!({"onSharedStorage": false}), "2.14", 400, "Additional properties"),
        (json!({"force": true, "host": "host-1"}), "2.28", 400, "Additional properties"),
        (json!({"force": true}), "2.29", 400, "non-provided destination"),
        (json!({"force": true, "host": "host-1"}), "2.68", 400, "Additional properties"),
        (json!({"onSharedStorage": true, "adminPass": "x"}), "2.13", 400, "existing disk"),
        (json!({"host": "nowhere"}), "2.14", 404, "Compute host nowhere not found."),
        (json!({"host": "not a host"}), "2.14", 400, "host"),
        (json!({"host": "host-0"}), "2.14", 400, "can't be the same one"),
        (json!({}), "2.95", 400, "Compute service of host-0 is still in use."),
    ] {
        let answer = evacuate(&w, &id, body.clone(), version).await;
        assert_eq!(answer.status, status, "{body} {version} {}", answer.text());
        assert!(message(&answer).contains(part), "{body} {version} {}", answer.text());
    }
    let own = w.active(json!({})).await;
    assert_eq!(w.act(&own, json!({"evacuate": {}})).await.status, 403);
    assert_eq!(w.delete(&format!("/servers/{own}"), "2.1").await.status, 204);
    w.gone(&own).await;
    lose(&mut w, 0).await;
    // The machine is only cut off: its guest goes on there, until it hears.
    assert_eq!(w.cloud.hosts[0].hypervisor.running(), std::slice::from_ref(&id));
    let answer = evacuate(&w, &id, json!({"host": "host-2", "adminPass": "secret"}), "2.94").await;
    assert_eq!((answer.status, answer.text()), (200, String::new()));
    let after = settled(&w, &id, "ACTIVE").await;
    assert_eq!((&after["addresses"], host_of(&w, &id).await), (&before["addresses"], json!("host-2")));
    assert_eq!(w.cloud.hosts[2].hypervisor.running(), std::slice::from_ref(&id));
    let ports = w.cloud.get(&w.admin, &format!("/network/v2.0/ports?device_id={id}")).await.expect(200);
    assert_eq!(ports["ports"][0]["binding:host_id"], "host-2");
    assert_eq!(migrations(&w, &id).await, [("evacuation".into(), "done".into(), "host-2".into())]);
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap().len(), 2);
    let actions = w.call(&w.admin, "GET", &format!("/servers/{id}/os-instance-actions"), None, "2.1").await.expect(200);
    assert_eq!(actions["instanceActions"][0]["action"], "evacuate");
    let events = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=50").await;
    assert_eq!(events.status, 200);
    assert!(events.text().contains("700.175") && events.text().contains("700.180"), "{}", events.text());
    // Back again, it lets go of the guest, and says so.
    w.cloud.host_return(0).await;
    until("the guest is gone from the first host", || w.cloud.hosts[0].hypervisor.traces().is_empty()).await;
    let path = format!("/compute/v2.1/os-migrations?instance_uuid={id}");
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["migrations"][0]["status"] == "completed").await;
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), std::slice::from_ref(&id));
    assert_eq!(w.cloud.hosts[2].hypervisor.running(), std::slice::from_ref(&id));
    settled(&w, &id, "ACTIVE").await;
    // And home: on a new disk, whatever lies there.
    lose(&mut w, 2).await;
    assert_eq!(
        evacuate(&w, &id, json!({"host": "host-0", "onSharedStorage": false}), "2.13").await.expect(200)["adminPass"]
            .as_str()
            .unwrap()
            .len(),
        12
    );
    settled(&w, &id, "ACTIVE").await;
    assert_eq!(w.cloud.hosts[0].hypervisor.running(), std::slice::from_ref(&id));
    assert_eq!(w.call(&w.admin, "DELETE", &format!("/servers/{id}"), None, "2.1").await.status, 204);
    w.cloud.until(&w.admin, &format!("/compute/v2.1/servers/{id}"), PATIENCE, |a| a.status == 404).await;
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), Vec::<String>::new());
    w.cloud.host_return(2).await;
    until("nothing is left", || w.cloud.hosts.iter().all(|h| h.hypervisor.traces().is_empty())).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuated_server_keeps_its_state_or_stays_off() {
    let mut w = World::with_hosts(2).await;
    let (off, on_, last) = (on(&w, "host-0").await, on(&w, "host-0").await, on(&w, "host-0").await);
    let path = |id: &str| format!("/servers/{id}/action");
    assert_eq!(w.call(&w.admin, "POST", &path(&off), Some(json!({"os-stop": null})), "2.1").await.status, 202);
    settled(&w, &off, "SHUTOFF").await;
    assert_eq!(w.call(&w.admin, "POST", &path(&last), Some(json!({"pause": null})), "2.1").await.status, 202);
    settled(&w, &last, "PAUSED").await;
    lose(&mut w, 0).await;
    let answer = evacuate(&w, &last, json!({}), "2.95").await;
    assert_eq!((answer.status, message(&answer).contains("Cannot 'evacuate' instance")), (409, true), "{}", answer.text());
    assert_eq!(evacuate(&w, &off, json!({}), "2.94").await.status, 200);
    assert_eq!(evacuate(&w, &on_, json!({}), "2.95").await.status, 200);
    for id in [&off, &on_] {
        let shown = settled(&w, id, "SHUTOFF").await;
        assert_eq!((&shown["OS-EXT-STS:power_state"], host_of(&w, id).await), (&json!(4), json!("host-1")));
    }
    let machine = w.cloud.hosts[1].hypervisor.clone();
    assert_eq!((machine.running(), machine.disks(&off).len()), (vec![], 1));
    for id in [&off, &on_] {
        assert_eq!(w.call(&w.admin, "POST", &path(id), Some(json!({"os-start": null})), "2.1").await.status, 202);
        settled(&w, id, "ACTIVE").await;
    }
    assert_eq!(machine.running().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuation_without_a_host_fails_and_the_host_that_returns_has_its_server() {
    let mut w = World::with_hosts(2).await;
    let id = on(&w, "host-0").await;
    // One that a volume keeps is told at once.
    let disk = json!({"boot_index": 0, "uuid": w.image, "source_type": "image", "destination_type": "local"});
    let blank = json!({"boot_index": -1, "source_type": "blank", "destination_type": "volume", "volume_size": 1});
    let bound = with(&w, "host-0", json!({"block_device_mapping_v2": [disk, blank]})).await;
    let volumes = w.call(&w.admin, "GET", &format!("/servers/{bound}/os-volume_attachments"), None, "2.1").await.expect(200);
    let volume = volumes["volumeAttachments"][0]["volumeId"].as_str().unwrap().to_string();
    let machine = w.cloud.hosts[1].hypervisor.clone();
    machine.trouble(|t| t.starts_fail.extend(["no luck".to_string(), "no luck".into(), "no luck".into()]));
    lose(&mut w, 0).await;
    let answer = evacuate(&w, &bound, json!({}), "2.95").await;
    assert_eq!((answer.status, message(&answer).contains(&volume)), (409, true), "{}", answer.text());
    for (body, why) in
        [(json!({}), "No valid host was found."), (json!({"host": "host-1", "force": true}), "Host host-1 could not start it: no luck")]
    {
        assert_eq!(evacuate(&w, &id, body, "2.29").await.status, 200);
        let shown = settled(&w, &id, "ERROR").await;
        assert!(shown["fault"]["message"].as_str().unwrap().contains(why), "{shown}");
        assert_eq!(host_of(&w, &id).await, "host-0");
        until("nothing is left on the second host", || machine.traces().is_empty()).await;
    }
    let statuses: Vec<String> = migrations(&w, &id).await.into_iter().map(|m| m.1).collect();
    assert_eq!(statuses, ["failed", "error"]);
    let alarms = w.cloud.get(&w.admin, "/fault/v1/alarms").await.text();
    assert!(alarms.contains("700.001") && alarms.contains(&format!("instance={id}")), "{alarms}");
    w.cloud.host_return(0).await;
    settled(&w, &id, "ACTIVE").await;
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, |a| !a.text().contains("700.001")).await;
    assert!(w.cloud.hosts[0].hypervisor.running().contains(&id));
    assert_eq!(w.claimants().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_only_said_to_be_down_lets_go_before_another_begins() {
    let w = World::with_hosts(2).await;
    let id = on(&w, "host-0").await;
    let services = w.cloud.get(&w.admin, "/compute/v2.1/os-services").await.expect(200);
    assert_eq!(services["services"].as_array().unwrap().len(), 2);
    let down = json!({"host": "host-0", "binary": "nova-compute", "forced_down": true});
    assert_eq!(w.call(&w.admin, "PUT", "/os-services/force-down", Some(down), "2.11").await.status, 200);
    assert_eq!(evacuate(&w, &id, json!({}), "2.94").await.status, 200);
    settled(&w, &id, "ACTIVE").await;
    assert_eq!((w.cloud.hosts[0].hypervisor.traces(), w.cloud.hosts[1].hypervisor.running()), (vec![], vec![id.clone()]));
    let path = format!("/compute/v2.1/os-migrations?instance_uuid={id}");
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["migrations"][0]["status"] == "completed").await;
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_a_host_are_listed_in_the_order_of_their_recovery() {
    let w = World::with_hosts(1).await;
    let big = json!({"flavor": {"id": "2", "name": "m1.big", "ram": 128, "vcpus": 2, "disk": 2}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", big).await.expect(200);
    let held = json!({"flavor": {"id": "3", "name": "m1.held", "ram": 64, "vcpus": 1, "disk": 1}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", held).await.expect(200);
    let specs = json!({"extra_specs": {"sw:wrs:auto_recovery": "false"}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors/3/os-extra_specs", specs).await.expect(200);
    let small = w.active(json!({"name": "small"})).await;
    let large = w.active(json!({"name": "large", "flavorRef": "2"})).await;
    let first = w.active(json!({"name": "first", "metadata": {"sw:wrs:recovery_priority": "1"}})).await;
    let kept = w.active(json!({"name": "kept", "flavorRef": "3", "metadata": {"sw:wrs:recovery_priority": "99"}})).await;
    assert_eq!(w.act(&kept, json!({"suspend": null})).await.status, 202);
    w.wait(&kept, "SUSPENDED").await;
    let compute = w.cloud.controller.compute.clone();
    let host = w.cloud.controller.core.hosts.sessions().connected()[0].id.clone();
    assert!(compute.documents_told(&host) && !compute.documents_told("another"));
    let all = compute.core.store.read(|tx| compute.stranded_in(tx, &host)).await.unwrap();
    let ids: Vec<&str> = all.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, [&first, &large, &small, &kept]);
    let facts: Vec<(u8, bool, bool)> = all.iter().map(|s| (s.priority, s.auto_recovery, s.obstacle.is_none())).collect();
    assert_eq!(facts, [(1, true, true), (10, true, true), (10, true, true), (10, false, false)]);
    assert_eq!((all[1].vcpus, all[1].memory_mb, all[1].disk_gb), (2, 128, 2));
}

async fn act(w: &World, id: &str, body: Value, version: &str) -> Answer {
    w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(body), version).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_migrated_with_its_disk_and_confirmed_or_taken_back() {
    let w = World::with_hosts(3).await;
    let id = on(&w, "host-0").await;
    let before = settled(&w, &id, "ACTIVE").await;
    let machines: Vec<_> = w.cloud.hosts.iter().map(|h| h.hypervisor.clone()).collect();
    for (round, confirmed) in [(1, false), (2, true)] {
        assert_eq!(act(&w, &id, json!({"migrate": {"host": "host-2"}}), "2.56").await.status, 202);
        let shown = settled(&w, &id, "VERIFY_RESIZE").await;
        assert_eq!((&shown["OS-EXT-STS:power_state"], &shown["flavor"]["id"]), (&json!(1), &json!("1")));
        assert_eq!((host_of(&w, &id).await, &shown["addresses"]), (json!("host-2"), &before["addresses"]));
        assert_eq!((machines[0].running(), machines[2].running()), (vec![], vec![id.clone()]));
        assert_eq!((machines[2].came(&id).len(), machines[0].disks(&id)), (round, vec!["root".to_string()]));
        let ports = w.cloud.get(&w.admin, &format!("/network/v2.0/ports?device_id={id}")).await.expect(200);
        assert_eq!(ports["ports"][0]["binding:host_id"], "host-2");
        assert_eq!(migrations(&w, &id).await[0], ("migration".into(), "finished".into(), "host-2".into()));
        assert_eq!(w.cloud.controller.placement.consumers().await.unwrap().len(), 2);
        let answer = act(&w, &id, json!({"migrate": null}), "2.1").await;
        assert_eq!((answer.status, message(&answer).contains("vm_state resized")), (409, true), "{}", answer.text());
        if confirmed {
            assert_eq!(act(&w, &id, json!({"confirmResize": null}), "2.1").await.status, 204);
            settled(&w, &id, "ACTIVE").await;
            until("the old host lets go", || machines[0].traces().is_empty()).await;
            assert_eq!(machines[2].running(), std::slice::from_ref(&id));
        } else {
            assert_eq!(act(&w, &id, json!({"revertResize": null}), "2.1").await.status, 202);
            settled(&w, &id, "ACTIVE").await;
            until("the new host lets go", || machines[2].traces().is_empty()).await;
            assert_eq!((host_of(&w, &id).await, machines[0].running()), (json!("host-0"), vec![id.clone()]));
            assert_eq!(machines[0].disks(&id), ["root"]);
        }
        let status = if confirmed { "confirmed" } else { "reverted" };
        assert_eq!(migrations(&w, &id).await[0].1, status);
        assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), std::slice::from_ref(&id));
    }
    let actions = w.call(&w.admin, "GET", &format!("/servers/{id}/os-instance-actions"), None, "2.1").await.expect(200);
    let names: Vec<&str> = actions["instanceActions"].as_array().unwrap().iter().map(|a| a["action"].as_str().unwrap()).collect();
    assert_eq!(names, ["confirmResize", "migrate", "revertResize", "migrate", "create"]);
    // A stopped one stays off, wherever the scheduler puts it; deleted before it was confirmed, it is gone from both.
    assert_eq!(act(&w, &id, json!({"os-stop": null}), "2.1").await.status, 202);
    settled(&w, &id, "SHUTOFF").await;
    assert_eq!(act(&w, &id, json!({"migrate": null}), "2.55").await.status, 202);
    let shown = settled(&w, &id, "VERIFY_RESIZE").await;
    assert_eq!((&shown["OS-EXT-STS:power_state"], machines.iter().all(|m| m.running().is_empty())), (&json!(4), true));
    assert_ne!(host_of(&w, &id).await, "host-2");
    assert_eq!(w.call(&w.admin, "DELETE", &format!("/servers/{id}"), None, "2.1").await.status, 204);
    w.cloud.until(&w.admin, &format!("/compute/v2.1/servers/{id}"), PATIENCE, |a| a.status == 404).await;
    until("nothing is left", || machines.iter().all(|m| m.traces().is_empty())).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_goes_where_there_is_room() {
    let w = World::with_hosts(2).await;
    let id = on(&w, "host-0").await;
    // A neighbour takes most of the first host.
    let host = w.cloud.get(&w.admin, "/compute/v2.1/os-hypervisors/detail").await.expect(200)["hypervisors"][0].clone();
    let free = host["local_gb"].as_u64().unwrap();
    let half = json!({"flavor": {"id": "half", "name": "half", "ram": 64, "vcpus": 1, "disk": free / 3 * 2}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", half).await.expect(200);
    with(&w, "host-0", json!({"flavorRef": "half"})).await;
    assert_eq!(act(&w, &id, json!({"resize": {"flavorRef": "half"}}), "2.1").await.status, 202);
    let shown = settled(&w, &id, "VERIFY_RESIZE").await;
    assert_eq!((host_of(&w, &id).await, &shown["flavor"]["id"]), (json!("host-1"), &json!("half")));
    assert_eq!(migrations(&w, &id).await[0], ("resize".into(), "finished".into(), "host-1".into()));
    let (first, second) = (w.cloud.hosts[0].hypervisor.clone(), w.cloud.hosts[1].hypervisor.clone());
    assert_eq!((second.came(&id), second.running()), (vec!["root".to_string()], vec![id.clone()]));
    assert_eq!(act(&w, &id, json!({"revertResize": null}), "2.1").await.status, 202);
    let shown = settled(&w, &id, "ACTIVE").await;
    assert_eq!((host_of(&w, &id).await, &shown["flavor"]["id"]), (json!("host-0"), &json!("1")));
    until("the second host lets go", || second.traces().is_empty()).await;
    assert!(first.running().contains(&id));
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_leaves_the_server_where_it_runs() {
    let mut w = World::with_hosts(2).await;
    let id = on(&w, "host-0").await;
    let (first, second) = (w.cloud.hosts[0].hypervisor.clone(), w.cloud.hosts[1].hypervisor.clone());
    second.trouble(|t| t.full = true);
    for why in ["no space left", "no luck"] {
        assert_eq!(act(&w, &id, json!({"migrate": null}), "2.1").await.status, 202);
        settled(&w, &id, "ACTIVE").await;
        until("it runs where it was", || first.running() == [id.clone()] && second.traces().is_empty()).await;
        let actions = w.call(&w.admin, "GET", &format!("/servers/{id}/os-instance-actions"), None, "2.1").await.expect(200);
        let request = actions["instanceActions"][0]["request_id"].as_str().unwrap();
        let action = w.call(&w.admin, "GET", &format!("/servers/{id}/os-instance-actions/{request}"), None, "2.84").await.expect(200);
        assert_eq!(action["instanceAction"]["message"], "Error");
        assert!(action["instanceAction"]["events"][0]["details"].as_str().unwrap().contains(why), "{action}");
        assert_eq!((host_of(&w, &id).await, &migrations(&w, &id).await[0].1), (json!("host-0"), &"error".to_string()));
        second.trouble(|t| (t.full, t.starts_fail) = (false, ["no luck".to_string()].into()));
    }
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), std::slice::from_ref(&id));
    // A host that is away moves nothing.
    lose(&mut w, 0).await;
    let answer = act(&w, &id, json!({"migrate": null}), "2.1").await;
    assert_eq!((answer.status, message(&answer)), (409, "The service is unavailable at this time.".to_string()));
}
