//! Guests of a host that is lost: nothing is started elsewhere before the host is fenced, then those that may be, in order.

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Cloud, Token};

use crate::servers::ready;

const SOON: Duration = Duration::from_secs(60);

pub async fn server(cloud: &Cloud, admin: &Token, body: &Value, name: &str, metadata: Value) -> String {
    // Its host may just be on its way into the store.
    let known = |a: &testing::Answer| a.json()["services"].as_array().is_some_and(|all| !all.is_empty());
    cloud.until(admin, "/compute/v2.1/os-services?host=host-0", SOON, known).await;
    let mut body = body.clone();
    body["server"]["name"] = json!(name);
    body["server"]["metadata"] = metadata;
    body["server"]["availability_zone"] = json!("nova:host-0");
    let id = cloud.post(admin, "/compute/v2.1/servers", body).await.expect(202)["server"]["id"].as_str().unwrap().to_string();
    cloud.until(admin, &format!("/compute/v2.1/servers/{id}"), SOON, |a| a.json()["server"]["status"] == "ACTIVE").await;
    id
}

async fn host_of(cloud: &Cloud, admin: &Token, id: &str) -> Value {
    let server = cloud.get(admin, &format!("/compute/v2.1/servers/{id}")).await.expect(200);
    server["server"]["OS-EXT-SRV-ATTR:host"].clone()
}

pub async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !look().await {
        assert!(started.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_a_fenced_host_run_elsewhere_in_their_order() {
    let mut cloud = Cloud::with_hosts(2).await;
    let admin = cloud.admin().await;
    let body = ready(&cloud, &admin).await;
    let last = server(&cloud, &admin, &body, "last", json!({})).await;
    let first = server(&cloud, &admin, &body, "first", json!({"sw:wrs:recovery_priority": "1"})).await;
    let second = server(&cloud, &admin, &body, "second", json!({"sw:wrs:recovery_priority": "5"})).await;
    let stays = server(&cloud, &admin, &body, "stays", json!({"HA_Enabled": "False"})).await;
    let host = cloud.controller.inventory.clone();
    let (store, compute) = (cloud.controller.core.store.clone(), cloud.controller.compute.clone());
    let id = store.read(|tx| host.hosts_in(tx)).await.unwrap().into_iter().find(|h| h.hostname == "host-0").unwrap().uuid;
    // The host confirms which guests end with its lease; the one that stays is none of them.
    let leased = async || {
        let stranded = store.read(|tx| compute.stranded_in(tx, &id)).await.unwrap();
        stranded.into_iter().filter(|s| s.leased).map(|s| s.name).collect::<Vec<_>>()
    };
    eventually("the host confirms", async || leased().await == ["first", "second", "last"]).await;

    cloud.hosts[0].vanish().await;
    let (lost, this) = (id.clone(), host.clone());
    store.write(move |tx| this.host_health_in(tx, &lost, inventory::Health::Lost)).await.unwrap();
    let shown = cloud.get(&admin, &format!("/inventory/v1/ihosts/{id}")).await.expect(200);
    assert_eq!((&shown["operational"], &shown["administrative"]), (&json!("disabled"), &json!("unlocked")));
    let alarms = cloud.get(&admin, "/fault/v1/alarms?include_suppress=True").await.expect(200);
    assert!(alarms["alarms"].as_array().unwrap().iter().any(|a| a["alarm_id"] == "200.005" && a["severity"] == "critical"), "{alarms}");
    // Lost is not fenced: the reconciler runs each second, and does nothing.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(host_of(&cloud, &admin, &first).await, "host-0");

    let (lost, this, engine) = (id.clone(), host.clone(), compute.clone());
    store
        .write(move |tx| {
            this.host_fence_in(tx, &lost)?;
            engine.host_failed_in(tx, &lost)
        })
        .await
        .unwrap();
    for id in [&first, &second, &last] {
        eventually("a guest runs elsewhere", async || host_of(&cloud, &admin, id).await == "host-1").await;
        cloud.until(&admin, &format!("/compute/v2.1/servers/{id}"), SOON, |a| a.json()["server"]["status"] == "ACTIVE").await;
    }
    assert_eq!(host_of(&cloud, &admin, &stays).await, "host-0");
    let moves = cloud.get(&admin, "/compute/v2.1/os-migrations?migration_type=evacuation").await.expect(200);
    let mut moves: Vec<(i64, Value)> =
        moves["migrations"].as_array().unwrap().iter().map(|m| (m["id"].as_i64().unwrap(), m["instance_uuid"].clone())).collect();
    moves.sort_by_key(|(number, _)| *number);
    assert_eq!(moves.into_iter().map(|(_, id)| id).collect::<Vec<_>>(), [json!(first), json!(second), json!(last)]);
    let of_the_one = |answer: &Value| {
        let alarms: Vec<String> = answer["alarms"].as_array().unwrap().iter().map(|a| a["entity_instance_id"].to_string()).collect();
        (alarms.iter().filter(|e| e.contains("instance=")).count(), alarms.iter().any(|e| e.contains(&stays)))
    };
    let alarms = cloud.get(&admin, "/fault/v1/alarms").await.expect(200);
    assert_eq!(of_the_one(&alarms), (1, true), "{alarms}");

    // Back again, the host hears first of all what it must not have; before it has said that this is gone it is not clear.
    let at = id.clone();
    assert!(!store.read(|tx| compute.host_is_clear_in(tx, &at)).await.unwrap());
    cloud.host_return(0).await;
    eventually("the host is clear", async || store.read(|tx| compute.host_is_clear_in(tx, &id)).await.unwrap()).await;
    assert_eq!(cloud.hosts[0].hypervisor.running(), vec![stays.clone()]);
    let (back, this, engine) = (id.clone(), host.clone(), compute.clone());
    store
        .write(move |tx| {
            this.host_health_in(tx, &back, inventory::Health::Well)?;
            this.host_admit_in(tx, &back)?;
            engine.host_recovered_in(tx, &back)
        })
        .await
        .unwrap();
    cloud.until(&admin, "/fault/v1/alarms", SOON, |a| a.json()["alarms"] == json!([])).await;
    cloud.until(&admin, &format!("/inventory/v1/ihosts/{id}"), SOON, |a| a.json()["availability"] == "available").await;
}

/// A host that was locked by force gets no right to have guests as long as one of them still waits for its next try elsewhere: it is to have
/// none. Unlocked, it has them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_locked_by_force_does_not_run_the_guest_that_waits_for_another() {
    let cloud = Cloud::with_settings(2, &[("hosts.listen", "127.0.0.1:5001"), ("host.simulated", "true")]).await;
    let admin = cloud.admin().await;
    let body = ready(&cloud, &admin).await;
    let guest = server(&cloud, &admin, &body, "guest", json!({})).await;
    let (store, inventory, compute) =
        (cloud.controller.core.store.clone(), cloud.controller.inventory.clone(), cloud.controller.compute.clone());
    let hosts = store.read(|tx| inventory.hosts_in(tx)).await.unwrap();
    let id = |name: &str| hosts.iter().find(|h| h.hostname == name).unwrap().uuid.clone();
    let (here, there) = (id("host-0"), id("host-1"));
    eventually("the host confirms", async || store.read(|tx| compute.stranded_in(tx, &here)).await.unwrap().iter().all(|s| s.leased)).await;
    // There is no other place for it.
    let other = json!({"host": "host-1", "binary": "nova-compute"});
    cloud.put(&admin, "/compute/v2.1/os-services/disable", other.clone()).await.expect(200);
    let (this, one, two) = (inventory.clone(), here.clone(), there.clone());
    store
        .write(move |tx| {
            this.host_leased_in(tx, &one)?;
            this.host_leased_in(tx, &two)?;
            this.host_force_lock_in(tx, &one)
        })
        .await
        .unwrap();
    let (this, engine, one) = (inventory.clone(), compute.clone(), here.clone());
    store
        .write(move |tx| {
            this.host_fence_in(tx, &one)?;
            engine.host_failed_in(tx, &one)
        })
        .await
        .unwrap();
    let (engine, of) = (compute.clone(), guest.clone());
    let tried = async || store.read(|tx| engine.evacuations_since_in(tx, &of, SOON * 10)).await.unwrap().len();
    eventually("it is tried once", async || tried().await == 1).await;
    let (engine, one) = (compute.clone(), here.clone());
    eventually("that fails", async || store.read(|tx| engine.host_is_clear_in(tx, &one)).await.unwrap()).await;
    let maintenance = cloud.controller.maintenance.clone();
    let admitted = async || {
        let (this, one) = (maintenance.clone(), here.clone());
        store.write(move |tx| this.admit_in(tx, &one)).await.unwrap()
    };
    assert!(!admitted().await, "it would run the guest");
    let path = format!("/inventory/v1/ihosts/{here}");
    let shown = cloud.until(&admin, &path, SOON, |a| a.json()["administrative"] == "locked").await.json();
    assert_eq!(shown["operational"], "disabled");

    // There is one now, and somebody does not wait.
    cloud.put(&admin, "/compute/v2.1/os-services/enable", other).await.expect(200);
    let evacuate = json!({"evacuate": {"host": "host-1"}});
    let path = format!("/compute/v2.1/servers/{guest}/action");
    let answer = cloud.request("POST", &path).token(&admin).header("openstack-api-version", "compute 2.29").json(&evacuate).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("it is elsewhere", async || host_of(&cloud, &admin, &guest).await == "host-1").await;
    cloud.until(&admin, &format!("/compute/v2.1/servers/{guest}"), SOON, |a| a.json()["server"]["status"] == "ACTIVE").await;
    eventually("the host is admitted", async || admitted().await).await;
    eventually("it has let go", async || cloud.hosts[0].hypervisor.running().is_empty()).await;
    assert_eq!(cloud.hosts[1].hypervisor.running(), [guest]);
}

/// VIM specification, acceptance 10: the whole site was without power. Nothing is evacuated while its hosts are waited for; guests are
/// started where they were.
#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_of_the_whole_site_its_hosts_are_waited_for() {
    // However long this machine is up, that is short; and few hosts are waited for as long.
    let long = "99999999999";
    let settings = [("host.simulated", "true"), ("maintenance.outage_seconds", long), ("maintenance.outage_small_seconds", long)];
    let mut cloud = Cloud::with_settings(2, &settings).await;
    let admin = cloud.admin().await;
    let body = ready(&cloud, &admin).await;
    let guest = server(&cloud, &admin, &body, "guest", json!({})).await;
    let inventory = cloud.controller.inventory.clone();
    let store = cloud.controller.core.store.clone();
    let id = store.read(|tx| inventory.hosts_in(tx)).await.unwrap().into_iter().find(|h| h.hostname == "host-0").unwrap().uuid;
    let (this, compute, at) = (inventory.clone(), cloud.controller.compute.clone(), id.clone());
    eventually("the host confirms", async || store.read(|tx| compute.stranded_in(tx, &at)).await.unwrap().iter().all(|s| s.leased)).await;
    // The power goes; when the controller is back its machine is in another boot, and this host is not there yet.
    cloud.hosts[0].vanish().await;
    cloud.hosts[0].hypervisor.power_cut();
    let path = format!("/inventory/v1/ihosts/{id}");
    cloud.until(&admin, &path, SOON, |a| a.json()["availability"] == "offline").await;
    let earlier = inventory::Site { boot: "an earlier one".into(), outage: None };
    store.write(move |tx| this.site_put_in(tx, &earlier)).await.unwrap();
    let alarms = |answer: &testing::Answer, id: &str| answer.json()["alarms"].as_array().unwrap().iter().any(|a| a["alarm_id"] == id);
    cloud.until(&admin, "/fault/v1/alarms", SOON, |a| alarms(a, "700.016")).await;
    // It is taken for lost, and not evacuated.
    let (this, compute, lost) = (cloud.controller.inventory.clone(), cloud.controller.compute.clone(), id.clone());
    store
        .write(move |tx| {
            this.host_health_in(tx, &lost, inventory::Health::Lost)?;
            this.host_fence_in(tx, &lost)?;
            compute.host_failed_in(tx, &lost)
        })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(alarms(&cloud.get(&admin, "/fault/v1/alarms").await, "700.016"));
    assert_eq!(host_of(&cloud, &admin, &guest).await, "host-0");
    assert!(cloud.hosts[1].hypervisor.running().is_empty());
    // Now it comes too.
    cloud.host_return(0).await;
    let (this, compute, back) = (cloud.controller.inventory.clone(), cloud.controller.compute.clone(), id.clone());
    store
        .write(move |tx| {
            this.host_health_in(tx, &back, inventory::Health::Well)?;
            this.host_admit_in(tx, &back)?;
            compute.host_recovered_in(tx, &back)
        })
        .await
        .unwrap();
    cloud.until(&admin, "/fault/v1/alarms", SOON, |a| !alarms(a, "700.016")).await;
    eventually("the guest runs where it was", async || cloud.hosts[0].hypervisor.running() == vec![guest.clone()]).await;
    assert_eq!(host_of(&cloud, &admin, &guest).await, "host-0");
    let log = cloud.get(&admin, "/fault/v1/event_log?limit=1000").await.expect(200).to_string();
    assert!(log.contains("700.216") && log.contains("700.217"), "{log}");
}

/// VIM specification, section 3: a cap. Who finds no other host is tried five times within an hour, and then left with an alarm that says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_has_no_other_place_is_given_up_after_five_tries() {
    let mut cloud = Cloud::with_hosts(2).await;
    let admin = cloud.admin().await;
    let body = ready(&cloud, &admin).await;
    let guest = server(&cloud, &admin, &body, "guest", json!({})).await;
    let (store, inventory, compute) =
        (cloud.controller.core.store.clone(), cloud.controller.inventory.clone(), cloud.controller.compute.clone());
    let id = store.read(|tx| inventory.hosts_in(tx)).await.unwrap().into_iter().find(|h| h.hostname == "host-0").unwrap().uuid;
    eventually("the host confirms", async || store.read(|tx| compute.stranded_in(tx, &id)).await.unwrap().iter().all(|s| s.leased)).await;
    let other = json!({"host": "host-1", "binary": "nova-compute"});
    cloud.put(&admin, "/compute/v2.1/os-services/disable", other).await.expect(200);
    cloud.hosts[0].vanish().await;
    let (this, engine, lost) = (inventory.clone(), compute.clone(), id.clone());
    store
        .write(move |tx| {
            this.host_health_in(tx, &lost, inventory::Health::Lost)?;
            this.host_fence_in(tx, &lost)?;
            engine.host_failed_in(tx, &lost)
        })
        .await
        .unwrap();
    let tries = async || store.read(|tx| compute.evacuations_since_in(tx, &guest, Duration::from_secs(3600))).await.unwrap().len();
    let running = async || store.read(|tx| compute.evacuations_running_in(tx)).await.unwrap();
    let alarm = |a: &testing::Answer| {
        let all = a.json()["alarms"].as_array().unwrap().clone();
        all.into_iter().find(|a| a["entity_instance_id"].as_str().unwrap().contains(&guest)).map(|a| a["reason_text"].to_string())
    };
    for number in 1..=5 {
        eventually("it is tried", async || tries().await == number && running().await == 0).await;
        let text = alarm(&cloud.get(&admin, "/fault/v1/alarms").await);
        assert!(number == 5 || text.is_some_and(|text| !text.contains("exhausted")), "after {number} tries");
        // Ten minutes pass, more than any pause, as the records of the tries have it.
        let age = |tx: &store::Tx| tx.execute("UPDATE server_migration SET created_at = created_at - 600000000", &[]).map(drop);
        store.write(age).await.unwrap();
    }
    cloud.until(&admin, "/fault/v1/alarms", SOON, |a| alarm(a).is_some_and(|text| text.contains("recovery exhausted"))).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(tries().await, 5, "it is left alone");
    assert_eq!(host_of(&cloud, &admin, &guest).await, "host-0");
}

/// The names of the actions of a server since its creation, the oldest first.
async fn actions(cloud: &Cloud, admin: &Token, id: &str) -> Vec<String> {
    let all = cloud.get(admin, &format!("/compute/v2.1/servers/{id}/os-instance-actions")).await.expect(200);
    let all = all["instanceActions"].as_array().unwrap().iter().rev();
    all.map(|a| a["action"].as_str().unwrap().to_string()).skip(1).collect()
}

/// VIM specification, acceptance 1 and 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_its_host_gives_up_is_started_anew_then_made_anew_and_then_left() {
    let settings = [("recovery.attempts", "1"), ("recovery.hold_seconds", "0"), ("recovery.rebuild", "true")];
    let cloud = Cloud::with_settings(1, &settings).await;
    let admin = cloud.admin().await;
    let body = ready(&cloud, &admin).await;
    let guest = server(&cloud, &admin, &body, "guest", json!({})).await;
    let flavor = json!({"flavor": {"id": "left", "name": "left", "vcpus": 1, "ram": 128, "disk": 1}});
    cloud.post(&admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    let specs = json!({"extra_specs": {"sw:wrs:auto_recovery": "false"}});
    cloud.post(&admin, "/compute/v2.1/flavors/left/os-extra_specs", specs).await.expect(200);
    let mut other = body.clone();
    other["server"]["flavorRef"] = json!("left");
    let left = server(&cloud, &admin, &other, "left", json!({})).await;
    let machine = cloud.hosts[0].hypervisor.clone();
    let is = async |id: &str, status: &str| {
        cloud.until(&admin, &format!("/compute/v2.1/servers/{id}"), SOON, |a| a.json()["server"]["status"] == status).await;
    };
    assert!(machine.kill(&left, "killed by SIGKILL"));
    is(&left, "ERROR").await;

    // The host cannot start it again, and the first new start can.
    machine.trouble(|t| t.starts_fail.extend(["no luck".to_string(), "no luck".into()]));
    assert!(machine.kill(&guest, "killed by SIGKILL"));
    let reboots = async |times: usize| actions(&cloud, &admin, &guest).await.iter().filter(|a| *a == "reboot").count() >= times;
    eventually("it is started anew", async || reboots(1).await).await;
    machine.trouble(|t| t.starts_fail.clear());
    is(&guest, "ACTIVE").await;
    let of_guest = |answer: &testing::Answer| {
        let all = answer.json()["alarms"].as_array().unwrap().clone();
        all.into_iter().find(|a| a["entity_instance_id"].as_str().unwrap().contains(&guest)).map(|a| a["reason_text"].to_string())
    };
    cloud.until(&admin, "/fault/v1/alarms", SOON, |a| of_guest(a).is_none()).await;

    // It never starts again: five tries in all, each second one from its image.
    machine.trouble(|t| t.starts_fail.extend((0..1000).map(|_| "no luck".to_string())));
    assert!(machine.kill(&guest, "killed by SIGKILL"));
    let exhausted = |a: &testing::Answer| of_guest(a).is_some_and(|text| text.contains("recovery exhausted") && text.contains("no luck"));
    cloud.until(&admin, "/fault/v1/alarms", SOON, exhausted).await;
    let tried = actions(&cloud, &admin, &guest).await;
    assert!(tried.len() == 5 && tried.windows(2).any(|two| two == ["reboot", "rebuild"]), "{tried:?}");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(actions(&cloud, &admin, &guest).await, tried);
    assert_eq!(actions(&cloud, &admin, &left).await, Vec::<String>::new(), "its flavor says that it stays");

    // Somebody who has seen to it starts it.
    machine.trouble(|t| t.starts_fail.clear());
    let reboot = json!({"reboot": {"type": "HARD"}});
    assert_eq!(cloud.post(&admin, &format!("/compute/v2.1/servers/{guest}/action"), reboot).await.status, 202);
    is(&guest, "ACTIVE").await;
    cloud.until(&admin, "/fault/v1/alarms", SOON, |a| of_guest(a).is_none()).await;
}

/// The machine of either end is lost while a guest is on its way, and the controller's process dies with it. It is in one place in the end: where
/// it was, not booted again, when the other end is lost; elsewhere, when its own is.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_lost_with_the_controller_while_a_guest_moves_leaves_it_in_one_place() {
    for victim in ["host-0", "host-1"] {
        let mut cloud = Cloud::with_settings(3, &[("hosts.listen", "127.0.0.1:5001"), ("host.simulated", "true")]).await;
        let admin = cloud.admin().await;
        let body = ready(&cloud, &admin).await;
        let guest = server(&cloud, &admin, &body, "guest", json!({})).await;
        let id = {
            let inventory = cloud.controller.inventory.clone();
            let hosts = cloud.controller.core.store.read(|tx| inventory.hosts_in(tx)).await.unwrap();
            move |name: &str| hosts.iter().find(|h| h.hostname == name).unwrap().uuid.clone()
        };
        let (compute, at) = (cloud.controller.compute.clone(), id("host-0"));
        let store = cloud.controller.core.store.clone();
        eventually("the host confirms", async || store.read(|tx| compute.stranded_in(tx, &at)).await.unwrap().iter().all(|s| s.leased))
            .await;
        drop((store, compute));
        // It does not settle, so it is on its way until something happens.
        cloud.hosts[0].hypervisor.trouble(|t| t.restless = true);
        let path = format!("/compute/v2.1/servers/{guest}/action");
        let moves = json!({"os-migrateLive": {"host": "host-1", "block_migration": "auto"}});
        let answer = cloud.request("POST", &path).token(&admin).header("openstack-api-version", "compute 2.30").json(&moves).send().await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let under_way = async || {
            let path = format!("/compute/v2.1/servers/{guest}/migrations");
            let all = cloud.request("GET", &path).token(&admin).header("openstack-api-version", "compute 2.80").send().await.expect(200);
            all["migrations"].as_array().unwrap().iter().any(|m| m["status"] == "running")
        };
        eventually("it is on its way", under_way).await;

        let number = usize::from(victim == "host-1");
        let mut gone = cloud.hosts.remove(number);
        gone.vanish().await;
        gone.hypervisor.power_cut();
        let mut cloud = cloud.crash().await;
        let (this, compute, lost) = (cloud.controller.inventory.clone(), cloud.controller.compute.clone(), id(victim));
        cloud
            .controller
            .core
            .store
            .write(move |tx| {
                this.host_health_in(tx, &lost, inventory::Health::Lost)?;
                this.host_fence_in(tx, &lost)?;
                compute.host_failed_in(tx, &lost)
            })
            .await
            .unwrap();
        let settled = |a: &testing::Answer| {
            let server = a.json()["server"].clone();
            server["status"] == "ACTIVE" && server["OS-EXT-STS:task_state"].is_null() && server["OS-EXT-SRV-ATTR:host"] != victim
        };
        let shown = cloud.until(&admin, &format!("/compute/v2.1/servers/{guest}"), SOON * 3, settled).await.json();
        let place = shown["server"]["OS-EXT-SRV-ATTR:host"].clone();
        let running = |cloud: &Cloud| cloud.hosts.iter().map(|h| h.hypervisor.running().len()).sum::<usize>();
        eventually("it runs in one place", async || running(&cloud) == 1).await;
        if victim == "host-1" {
            assert_eq!((&place, cloud.hosts[0].hypervisor.starts()), (&json!("host-0"), 1), "it was not booted again");
        }
        // The machine is back, and has nothing of it.
        cloud.hosts.push(gone);
        cloud.host_return(2).await;
        let (compute, back) = (cloud.controller.compute.clone(), id(victim));
        let store = cloud.controller.core.store.clone();
        eventually("it is clear", async || store.read(|tx| compute.host_is_clear_in(tx, &back)).await.unwrap()).await;
        assert_eq!((running(&cloud), cloud.hosts[2].hypervisor.running().len()), (1, 0));
        assert_eq!(host_of(&cloud, &admin, &guest).await, place);
    }
}
