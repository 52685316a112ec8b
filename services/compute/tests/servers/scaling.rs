//! Servers that do with more and fewer vCPUs while they run.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use host::simulated::Scales;
use serde_json::{Value, json};
use testing::Answer;

use crate::dedicated::{claimed, flavor, processors, world};
use crate::world::{PATIENCE, World};

const SPECS: [(&str, &str); 2] = [("hw:cpu_policy", "dedicated"), ("hw:wrs:min_vcpus", "2")];

/// A cloud with a flavor of two to four vCPUs.
async fn scalable(hosts: usize, dedicated: &str) -> World {
    let w = world(hosts, dedicated).await;
    flavor(&w, "elastic", 4, json!(std::collections::BTreeMap::from(SPECS))).await;
    w
}

/// Its guest takes it so from now on.
fn scales(w: &World, id: &str, how: Scales) {
    w.cloud.hosts.iter().for_each(|host| host.hypervisor.members().scales(id, how.clone()));
}

async fn scale(w: &World, id: &str, direction: &str) -> Answer {
    w.act(id, json!({"wrs-res:scale": {"resource": "cpu", "direction": direction}})).await
}

async fn vcpus(w: &World, id: &str) -> Value {
    w.get(&format!("/servers/{id}"), "2.104").await.expect(200)["server"]["wrs-res:vcpus"].clone()
}

/// A refusal's status and text.
fn refused(answer: &Answer) -> (u16, String) {
    let text = answer.json().as_object().unwrap().values().next().unwrap()["message"].as_str().unwrap().to_string();
    (answer.status, text)
}

fn offline(w: &World, id: &str) -> Option<String> {
    let metadata = w.cloud.hosts.iter().rev().find_map(|host| host.wire.metadata(id)).unwrap();
    metadata.ec2.get("offline_cpuset").cloned()
}

/// What the newest scaling's event says: its result, and the remark with it.
async fn event(w: &World, id: &str) -> (Value, Value) {
    let path = format!("/servers/{id}/os-instance-actions");
    let listed = w.call(&w.admin, "GET", &path, None, "2.104").await.expect(200);
    let action = listed["instanceActions"].as_array().unwrap().iter().find(|a| a["action"] == "scale").unwrap()["request_id"].clone();
    let shown = w.call(&w.admin, "GET", &format!("{path}/{}", action.as_str().unwrap()), None, "2.104").await.expect(200);
    let event = &shown["instanceAction"]["events"][0];
    assert_eq!(event["event"], "compute_scale_instance");
    (event["result"].clone(), event["details"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_down_to_its_minimum_and_up_to_its_maximum() {
    let w = scalable(1, "2-5").await;
    let id = w.active(json!({"flavorRef": "elastic"})).await;
    assert_eq!((vcpus(&w, &id).await, offline(&w, &id).as_deref()), (json!([2, 4, 4]), Some("set([])")));
    let all = processors(&w, &id);
    let full = format!("Instance {id} cannot be scaled: it is at its maximum of 4 vcpus.");
    assert_eq!(refused(&scale(&w, &id, "up").await), (400, full));
    // The guest chooses which one.
    scales(&w, &id, Scales::Does(Some(2)));
    assert_eq!(scale(&w, &id, "down").await.status, 202);
    assert_eq!((vcpus(&w, &id).await, claimed(&w, &id).await), (json!([2, 3, 4]), json!([3, null])));
    assert_eq!(processors(&w, &id), [all[0], all[1], all[0], all[3]]);
    assert_eq!((offline(&w, &id).as_deref(), event(&w, &id).await), (Some("set([2])"), (json!("Success"), Value::Null)));
    assert_eq!(w.cloud.hosts[0].wire.metadata(&id).unwrap().meta_data["dedicated_cpus"], json!([0, 1, 3]));
    // What it gave back is another's.
    flavor(&w, "one", 1, json!({"hw:cpu_policy": "dedicated"})).await;
    let other = w.active(json!({"flavorRef": "one"})).await;
    assert_eq!(processors(&w, &other), [all[2]]);
    let answer = scale(&w, &id, "up").await;
    assert_eq!(refused(&answer), (409, "The host has no processor free for the instance.".into()));
    assert_eq!((vcpus(&w, &id).await, event(&w, &id).await.0), (json!([2, 3, 4]), json!("Error")));
    scales(&w, &id, Scales::Does(None));
    assert_eq!(scale(&w, &id, "down").await.status, 202);
    assert_eq!((vcpus(&w, &id).await, offline(&w, &id).as_deref()), (json!([2, 2, 4]), Some("set([2, 3])")));
    let answer = scale(&w, &id, "down").await;
    assert_eq!(refused(&answer), (400, format!("Instance {id} cannot be scaled: it is at its minimum of 2 vcpus.")));
    // Up again: the lowest first, and the guest hears what it has then.
    assert_eq!(scale(&w, &id, "up").await.status, 202);
    let heard = w.cloud.hosts[0].hypervisor.members().heard(&id).pop().unwrap();
    assert_eq!((&heard["direction"], &heard["online_cpu"], &heard["online_cpus"]), (&json!("up"), &json!(2), &json!([0, 1, 2])), "{heard}");
    assert_eq!(w.delete(&format!("/servers/{other}"), "2.1").await.status, 204);
    w.gone(&other).await;
    // What the guest makes of it does not matter: it has it.
    scales(&w, &id, Scales::Refuses("not now".into()));
    assert_eq!(scale(&w, &id, "up").await.status, 202);
    assert_eq!((vcpus(&w, &id).await, claimed(&w, &id).await), (json!([2, 4, 4]), json!([4, null])));
    let (result, remark) = event(&w, &id).await;
    assert_eq!((result, remark.as_str().unwrap()), (json!("Success"), "vCPU 3 was given by the host: the guest could not use it: not now"));
    assert_eq!(processors(&w, &id).into_iter().collect::<BTreeSet<_>>(), (2..6).collect());
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_answer_is_not_waited_for_for_long() {
    let w = scalable(1, "2-5").await;
    let id = w.active(json!({"flavorRef": "elastic"})).await;
    let asked = Instant::now();
    assert_eq!(scale(&w, &id, "down").await.status, 202);
    assert!((Duration::from_secs(9)..Duration::from_secs(20)).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    assert_eq!(offline(&w, &id).as_deref(), Some("set([3])"));
    let remark = "vCPU 3 was taken by the host: the guest does not answer";
    assert_eq!(event(&w, &id).await, (json!("Success"), json!(remark)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_scaled_is_left_as_it_is() {
    let w = scalable(1, "2-7").await;
    let (id, plain) = (w.active(json!({"flavorRef": "elastic"})).await, w.active(json!({})).await);
    assert_eq!((vcpus(&w, &plain).await, offline(&w, &plain)), (Value::Null, None));
    let (status, why) = refused(&scale(&w, &plain, "down").await);
    assert!(status == 400 && why.contains("has no hw:wrs:min_vcpus"), "{why}");
    for body in
        [json!({"resource": "memory", "direction": "up"}), json!({"resource": "cpu"}), json!({"resource": "cpu", "direction": "left"})]
    {
        assert_eq!(w.act(&id, json!({"wrs-res:scale": body})).await.status, 400);
    }
    // The guest says no, or lets go of what it cannot.
    scales(&w, &id, Scales::Refuses("all are busy".into()));
    let answer = scale(&w, &id, "down").await;
    assert_eq!(refused(&answer), (400, "The guest could not let go of a vCPU: all are busy".into()));
    for wrong in [0, 9] {
        scales(&w, &id, Scales::Does(Some(wrong)));
        assert_eq!(scale(&w, &id, "down").await.status, 400, "{wrong}");
    }
    assert_eq!((vcpus(&w, &id).await, claimed(&w, &id).await), (json!([2, 4, 4]), json!([4, null])));
    // One thing at a time, in the right state, and by those who may.
    w.cloud.hosts[0].hypervisor.trouble(|t| t.delay = Duration::from_millis(300));
    assert_eq!(w.act(&id, json!({"reboot": {"type": "HARD"}})).await.status, 202);
    assert_eq!(scale(&w, &id, "down").await.status, 409);
    w.cloud.hosts[0].hypervisor.trouble(|t| t.delay = Duration::ZERO);
    w.wait(&id, "ACTIVE").await;
    assert_eq!(w.act(&id, json!({"pause": null})).await.status, 202);
    w.wait(&id, "PAUSED").await;
    assert_eq!(scale(&w, &id, "down").await.status, 409);
    assert_eq!(w.act(&id, json!({"unpause": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    let (user, project) = ("/identity/v3/users", &w.tenant.project_id);
    let looker = json!({"user": {"name": "looker", "domain_id": "default", "password": "a password"}});
    let looker = w.cloud.post(&w.admin, user, looker).await.expect(201)["user"]["id"].as_str().unwrap().to_string();
    let role = w.cloud.get(&w.admin, "/identity/v3/roles?name=reader").await.expect(200)["roles"][0]["id"].as_str().unwrap().to_string();
    let path = format!("/identity/v3/projects/{project}/users/{looker}/roles/{role}");
    assert_eq!(w.cloud.put(&w.admin, &path, Value::Null).await.status, 204);
    let looker = w.cloud.login("looker", "a password", "tenant").await;
    let body = json!({"wrs-res:scale": {"resource": "cpu", "direction": "down"}});
    assert_eq!(w.call(&looker, "POST", &format!("/servers/{id}/action"), Some(body), "2.1").await.status, 403);
    // More than the quota has room for.
    scales(&w, &id, Scales::Does(None));
    assert_eq!(scale(&w, &id, "down").await.status, 202);
    let quota = json!({"quota_set": {"cores": 4}});
    w.call(&w.admin, "PUT", &format!("/os-quota-sets/{project}"), Some(quota), "2.1").await.expect(200);
    let answer = scale(&w, &id, "up").await;
    assert_eq!(refused(&answer), (400, "Quota exceeded for cores: Requested 1, but already used 4 of 4 cores".into()));
    // A flavor that says what cannot be.
    for (id, vcpus, specs) in [
        ("low", 1, json!({"hw:cpu_policy": "dedicated", "hw:wrs:min_vcpus": "2"})),
        ("shared", 2, json!({"hw:wrs:min_vcpus": "1"})),
        ("zero", 2, json!({"hw:cpu_policy": "dedicated", "wrs:min_vcpus": "0"})),
    ] {
        flavor(&w, id, vcpus, specs).await;
        assert_eq!(w.post("/servers", w.body(json!({"flavorRef": id})), "2.104").await.status, 400, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_scaled_through_whatever_leaves_it_what_it_is() {
    let mut w = scalable(2, "2-9").await;
    let id = w.active(json!({"flavorRef": "elastic"})).await;
    scales(&w, &id, Scales::Does(None));
    for _ in 0..2 {
        assert_eq!(scale(&w, &id, "down").await.status, 202);
    }
    let scaled = async |w: &World| {
        w.wait(&id, "ACTIVE").await;
        assert_eq!((vcpus(w, &id).await, claimed(w, &id).await), (json!([2, 2, 4]), json!([2, null])));
        let cpus = processors(w, &id);
        assert_eq!((cpus.len(), &cpus[2..]), (4, &[cpus[0], cpus[0]][..]), "{cpus:?}");
        assert_ne!(cpus[0], cpus[1]);
        assert_eq!(offline(w, &id).as_deref(), Some("set([2, 3])"));
    };
    let admin = async |w: &World, body: Value| {
        let answer = w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(body), "2.104").await;
        assert!(answer.status < 300, "{}", answer.text());
    };
    scaled(&w).await;
    for (body, status) in [
        (json!({"os-stop": null}), "SHUTOFF"),
        (json!({"os-start": null}), "ACTIVE"),
        (json!({"pause": null}), "PAUSED"),
        (json!({"unpause": null}), "ACTIVE"),
        (json!({"reboot": {"type": "HARD"}}), "ACTIVE"),
        (json!({"os-migrateLive": {"host": null, "block_migration": "auto"}}), "ACTIVE"),
    ] {
        admin(&w, body.clone()).await;
        w.wait(&id, status).await;
        if status == "ACTIVE" {
            scaled(&w).await;
        }
    }
    admin(&w, json!({"rebuild": {"imageRef": w.image}})).await;
    scaled(&w).await;
    // It dies, and is started by its host.
    let on = w.cloud.hosts.iter().position(|host| host.hypervisor.running().contains(&id)).unwrap();
    let starts = w.cloud.hosts[on].hypervisor.starts();
    assert!(w.cloud.hosts[on].hypervisor.kill(&id, "killed"));
    let started = Instant::now();
    while w.cloud.hosts[on].hypervisor.starts() == starts {
        assert!(started.elapsed() < PATIENCE, "it is never started again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scaled(&w).await;
    // Its host is lost.
    w.cloud.hosts[on].vanish().await;
    w.cloud.hosts[on].hypervisor.power_cut();
    let name = format!("host-{on}");
    let down = |a: &Answer| a.json()["services"].as_array().unwrap().iter().any(|s| s["host"] == name.as_str() && s["state"] == "down");
    w.cloud.until(&w.admin, "/compute/v2.1/os-services", PATIENCE, down).await;
    admin(&w, json!({"evacuate": {}})).await;
    let other = 1 - on;
    let path = format!("/compute/v2.1/servers/{id}");
    let evacuated = |a: &Answer| {
        a.json()["server"]["OS-EXT-SRV-ATTR:host"] == format!("host-{other}") && a.json()["server"]["OS-EXT-STS:task_state"].is_null()
    };
    w.cloud.until(&w.admin, &path, PATIENCE, evacuated).await;
    if w.get(&format!("/servers/{id}"), "2.1").await.expect(200)["server"]["status"] == "SHUTOFF" {
        admin(&w, json!({"os-start": null})).await;
    }
    scaled(&w).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_or_a_resize_gives_it_all_it_can_have() {
    let w = scalable(2, "2-9").await;
    let id = w.active(json!({"flavorRef": "elastic"})).await;
    scales(&w, &id, Scales::Does(None));
    for _ in 0..2 {
        assert_eq!(scale(&w, &id, "down").await.status, 202);
    }
    // Going back takes that again.
    for (end, settled) in [("revertResize", json!([2, 2, 4])), ("confirmResize", json!([2, 4, 4]))] {
        let body = Some(json!({"migrate": {"host": null}}));
        assert_eq!(w.call(&w.admin, "POST", &format!("/servers/{id}/action"), body, "2.104").await.status, 202);
        w.wait(&id, "VERIFY_RESIZE").await;
        assert_eq!((vcpus(&w, &id).await, claimed(&w, &id).await), (json!([2, 4, 4]), json!([4, null])));
        assert_eq!(processors(&w, &id).into_iter().collect::<BTreeSet<_>>().len(), 4);
        let ended = w.act(&id, json!({ end: null })).await;
        assert!(ended.status < 300, "{}", ended.text());
        w.wait(&id, "ACTIVE").await;
        assert_eq!(vcpus(&w, &id).await, settled, "{end}");
    }
    assert_eq!(scale(&w, &id, "down").await.status, 202);
    flavor(&w, "larger", 5, json!(std::collections::BTreeMap::from(SPECS))).await;
    assert_eq!(w.act(&id, json!({"resize": {"flavorRef": "larger"}})).await.status, 202);
    w.wait(&id, "VERIFY_RESIZE").await;
    assert_eq!(vcpus(&w, &id).await, json!([2, 5, 5]));
    assert_eq!(w.act(&id, json!({"revertResize": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!((vcpus(&w, &id).await, claimed(&w, &id).await), (json!([2, 3, 4]), json!([3, null])));
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}
