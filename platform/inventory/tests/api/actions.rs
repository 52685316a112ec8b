//! What is done to hosts' machines, by their agents and by BMCs (`ipmi_sim`).

use async_trait::async_trait;
use base::Context;
use bmc::testing::{PASSWORD, Simulator, USERNAME};
use inventory::{Act, BmcChange, Host, HostAct, Inventory, UNREACHABLE};
use serde_json::{Value, json};
use std::sync::Arc;
use task::testing::{Fixture, four_runs};
use task::{Engine, Operation};
use testing::{Answer, Cloud, Token};

use super::{PATIENCE, act, fault};

/// A cloud of two workers that are played.
pub(super) async fn site(settings: &[(&'static str, &str)]) -> (Cloud, Token) {
    let workers = [("hosts.listen", "127.0.0.1:5001"), ("host.simulated", "true")];
    let cloud = Cloud::with_settings(2, &[&workers, settings].concat()).await;
    let admin = cloud.admin().await;
    let both = |a: &Answer| a.json()["ihosts"].as_array().unwrap().iter().filter(|h| h["availability"] == "available").count() == 2;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, both).await;
    (cloud, admin)
}

/// The host that things are done to.
const NAME: &str = "host-1";

pub(super) async fn host(cloud: &Cloud) -> Host {
    let this = cloud.controller.inventory.clone();
    let hosts = cloud.controller.core.store.read(|tx| this.hosts_in(tx)).await.unwrap();
    hosts.into_iter().find(|h| h.hostname == NAME).unwrap()
}

pub(super) async fn path(cloud: &Cloud) -> String {
    format!("/inventory/v1/ihosts/{}", host(cloud).await.uuid)
}

pub(super) async fn change(cloud: &Cloud, admin: &Token, values: Value) -> Answer {
    let replace = |(name, value): (&String, &Value)| json!({"op": "replace", "path": format!("/{name}"), "value": value});
    let changes: Vec<Value> = values.as_object().unwrap().iter().map(replace).collect();
    cloud.request("PATCH", &path(cloud).await).token(admin).json(&json!(changes)).send().await
}

pub(super) fn of(simulator: &Simulator) -> Value {
    json!({"bm_type": "ipmi", "bm_ip": simulator.access().address.to_string(), "bm_username": USERNAME, "bm_password": PASSWORD})
}

async fn done(cloud: &Cloud, admin: &Token) -> Value {
    cloud.until(admin, &path(cloud).await, PATIENCE, |a| a.json()["task"] == "").await.json()
}

/// The machine boots: what ran on it is gone, and its agent comes anew.
pub(super) async fn boots(cloud: &mut Cloud) {
    cloud.hosts[1].vanish().await;
    cloud.hosts[1].hypervisor.power_cut();
    // Or what is looked at next may still be the session that was.
    let began = std::time::Instant::now();
    while host(cloud).await.connected {
        assert!(began.elapsed() < PATIENCE, "its session does not end");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    cloud.host_return(1).await;
}

#[tokio::test]
async fn what_is_known_of_a_bmc_is_kept_and_its_password_never_shown() {
    let (cloud, admin) = site(&[]).await;
    let id = host(&cloud).await.uuid;
    for (values, word) in [
        (json!({"bm_type": "dynamic"}), "bm_ip"),
        (json!({"bm_type": "smoke"}), "bm_type"),
        (json!({"bm_type": "ipmi", "bm_ip": "nowhere", "bm_username": "a", "bm_password": "b"}), "bm_ip"),
        (json!({"bm_type": "ipmi", "bm_ip": "10.0.0.5", "bm_username": "a"}), "bm_password"),
        (json!({"bm_type": "ipmi", "bm_ip": "10.0.0.5", "bm_username": "a\n", "bm_password": "b"}), "bm_username"),
        (json!({"bm_type": "ipmi", "bm_ip": "10.0.0.5", "bm_username": "a", "bm_password": "b".repeat(21)}), "bm_password"),
        (json!({"bm_ip": 7}), "bm_ip"),
        (json!({"personality": "controller"}), "personality"),
        (json!({"bm_type": "none", "action": "lock"}), "one action"),
    ] {
        let answer = change(&cloud, &admin, values.clone()).await;
        assert!(answer.status == 400 && fault(&answer).contains(word), "{values}: {}", answer.text());
    }
    let secret = "only-the-bmc-knows";
    let given = json!({"bm_type": "bmc", "bm_ip": "10.0.0.5", "bm_username": "root", "bm_password": secret});
    let answer = change(&cloud, &admin, given).await;
    let shown = answer.expect(200);
    assert_eq!((&shown["bm_type"], &shown["bm_ip"], &shown["bm_username"]), (&json!("dynamic"), &json!("10.0.0.5"), &json!("root")));
    assert!(shown.get("bm_password").is_none() && !shown.to_string().contains(secret), "{shown}");
    let kept = host(&cloud).await;
    assert!(!format!("{kept:?}").contains(secret));
    let access = cloud.controller.inventory.bmc_of(&kept).unwrap().unwrap().access().clone();
    assert_eq!((access.password.as_str(), access.protocol), (secret, None));
    // Of two hosts each has its own.
    let other = json!({"hostname": "edge-9", "personality": "worker", "bm_type": "ipmi", "bm_ip": "10.0.0.5", "bm_username": "a", "bm_password": "b"});
    let answer = cloud.post(&admin, "/inventory/v1/ihosts", other).await;
    assert!(answer.status == 409 && fault(&answer).contains(NAME), "{}", answer.text());

    // A BMC that is silent again and again is told of, and no longer when it answers.
    let (store, inventory) = (cloud.controller.core.store.clone(), cloud.controller.inventory.clone());
    let seen = async |seen: std::result::Result<bmc::Power, (u32, String)>| {
        let (inventory, id) = (inventory.clone(), id.clone());
        store.write(move |tx| inventory.host_power_seen_in(tx, &id, seen)).await.unwrap();
        let alarms = cloud.get(&admin, "/fault/v1/alarms").await.expect(200);
        let ids: Vec<String> = alarms["alarms"].as_array().unwrap().iter().map(|a| a["alarm_id"].as_str().unwrap().into()).collect();
        ids
    };
    assert!(seen(Err((UNREACHABLE - 1, "silent".into()))).await.is_empty());
    assert_eq!(seen(Err((UNREACHABLE, "silent".into()))).await, ["200.010"]);
    assert!(seen(Ok(bmc::Power::On)).await.is_empty());

    let cleared = change(&cloud, &admin, json!({"bm_type": "none"})).await.expect(200);
    assert_eq!((&cleared["bm_type"], &cleared["bm_ip"]), (&json!("none"), &json!("")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_machine_is_switched_off_and_on_and_reset() {
    let (mut cloud, admin) = site(&[]).await;
    let simulator = Simulator::start();
    let id = host(&cloud).await.uuid;
    for (action, why) in [("reset", "unlocked"), ("power-off", "unlocked"), ("swact", "no controller")] {
        let answer = act(&cloud, &admin, &id, action).await;
        assert!(answer.status == 400 && fault(&answer).contains(why), "{action}: {}", answer.text());
    }
    act(&cloud, &admin, &id, "lock").await.expect(200);
    for action in ["reset", "power-on", "power-off"] {
        let answer = act(&cloud, &admin, &id, action).await;
        assert!(answer.status == 400 && fault(&answer).contains("not provisioned"), "{action}: {}", answer.text());
    }
    change(&cloud, &admin, of(&simulator)).await.expect(200);

    // Off. (Here nothing of the machine goes with its power; so it goes before.)
    cloud.hosts[1].vanish().await;
    let begun = act(&cloud, &admin, &id, "power-off").await.expect(200);
    assert_eq!((&begun["task"], &begun["action"]), (&json!("Powering-off"), &json!("power-off")));
    let again = act(&cloud, &admin, &id, "power-on").await;
    assert!(again.status == 400 && fault(&again).contains("in progress"), "{}", again.text());
    let off = done(&cloud, &admin).await;
    assert!(!simulator.is_on());
    assert_eq!((&off["availability"], &off["vim_progress_status"]), (&json!("power-off"), &json!("")));
    let unlocked = act(&cloud, &admin, &id, "unlock").await;
    assert!(unlocked.status == 400 && fault(&unlocked).contains("power-off"), "{}", unlocked.text());
    let reset = act(&cloud, &admin, &id, "reset").await;
    assert!(reset.status == 400 && fault(&reset).contains("powered off"), "{}", reset.text());

    // On: done when its host is there again.
    act(&cloud, &admin, &id, "power-on").await.expect(200);
    let began = std::time::Instant::now();
    while !simulator.is_on() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(cloud.get(&admin, &path(&cloud).await).await.expect(200)["task"], "Powering-on");
    boots(&mut cloud).await;
    done(&cloud, &admin).await;
    let online = |a: &Answer| a.json()["availability"] == "online";
    cloud.until(&admin, &path(&cloud).await, PATIENCE, online).await;

    // Reset; the controller dies meanwhile, and the machine is reset once all the same.
    act(&cloud, &admin, &id, "reset").await.expect(200);
    let began = std::time::Instant::now();
    while !simulator.told().contains(&"reset 1".to_string()) {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    cloud.hosts[1].hypervisor.power_cut();
    let cloud = cloud.crash().await;
    let back = done(&cloud, &admin).await;
    assert_eq!(back["vim_progress_status"], "");
    cloud.until(&admin, &path(&cloud).await, PATIENCE, online).await;
    assert!(simulator.told().iter().filter(|told| *told == "reset 1").count() <= 2, "{:?}", simulator.told());
    let log = cloud.get(&admin, "/fault/v1/event_log").await.expect(200).to_string();
    for word in ["command=reset", "command=power-off", "command=power-on"] {
        assert!(log.contains(word), "{word}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_reboots_itself_and_one_that_does_not_come_back_is_told_of() {
    let (mut cloud, admin) = site(&[("maintenance.boot_seconds", "2"), ("maintenance.action_seconds", "2")]).await;
    let id = host(&cloud).await.uuid;
    act(&cloud, &admin, &id, "lock").await.expect(200);
    // Nobody has said how.
    act(&cloud, &admin, &id, "reboot").await.expect(200);
    let refused = done(&cloud, &admin).await;
    assert!(refused["vim_progress_status"].as_str().unwrap().contains("does not know how"), "{refused}");

    let mark = cloud.home().join("rebooted");
    cloud.hosts[1].settings.push(("host.reboot_command", format!("touch {}", mark.display())));
    boots(&mut cloud).await;
    cloud.until(&admin, &path(&cloud).await, PATIENCE, |a| a.json()["availability"] == "online").await;
    let begun = act(&cloud, &admin, &id, "reboot").await.expect(200);
    assert_eq!((&begun["task"], &begun["action"]), (&json!("Reboot Request"), &json!("reboot")));
    let began = std::time::Instant::now();
    while !mark.exists() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    cloud.until(&admin, &path(&cloud).await, PATIENCE, |a| a.json()["task"] == "Rebooting").await;
    // Its agent goes, and it never comes back.
    cloud.hosts[1].vanish().await;
    let booting = |a: &Answer| a.json()["task"] == "Booting" && a.json()["action"] == "reboot";
    cloud.until(&admin, &path(&cloud).await, PATIENCE, booting).await;
    let failed = done(&cloud, &admin).await;
    assert!(failed["vim_progress_status"].as_str().unwrap().contains("has not come back within 2 s"), "{failed}");
    assert_eq!(failed["administrative"], "locked");

    // A BMC that does not answer: the same, and another may be begun.
    let simulator = Simulator::start();
    change(&cloud, &admin, of(&simulator)).await.expect(200);
    drop(simulator);
    act(&cloud, &admin, &id, "power-off").await.expect(200);
    let failed = done(&cloud, &admin).await;
    assert!(failed["vim_progress_status"].as_str().unwrap().starts_with("power-off of host host-1 failed"), "{failed}");
}

/// A cloud whose own engine is dead, so that the run's engine works, and a host that is locked and has a BMC.
struct World {
    cloud: Cloud,
    simulator: Simulator,
    inventory: Inventory,
}

impl World {
    async fn new() -> World {
        let (mut cloud, admin) = site(&[]).await;
        let simulator = Simulator::start();
        let id = host(&cloud).await.uuid;
        act(&cloud, &admin, &id, "lock").await.expect(200);
        let inventory = cloud.controller.inventory.clone();
        let (this, access, at) = (inventory.clone(), simulator.access(), host(&cloud).await);
        let change = BmcChange {
            kind: Some("ipmi".into()),
            ip: Some(access.address.to_string()),
            username: Some(access.username),
            password: Some(access.password),
        };
        cloud.controller.core.store.write(move |tx| this.host_bmc_change_in(tx, at, change)).await.unwrap();
        cloud.hosts[1].vanish().await;
        cloud.controller.core.tasks.kill().await;
        World { cloud, simulator, inventory }
    }
}

#[async_trait]
impl Fixture for World {
    fn store(&self) -> store::Store {
        self.cloud.controller.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        Arc::new(HostAct(self.inventory.clone()))
    }
    async fn submit(&self, _: &Engine) -> base::Result<String> {
        let (this, host) = (self.inventory.clone(), host(&self.cloud).await);
        let id = host.uuid.clone();
        self.store().write(move |tx| this.host_act_begin_in(tx, &Context::system("req-1"), host, Act::PowerOff)).await?;
        let filter = task::Filter { resource_id: Some(id), ..Default::default() };
        Ok(self.cloud.controller.core.tasks.list(&filter).await?.remove(0).id)
    }
    async fn check_done(&self) {
        let host = host(&self.cloud).await;
        assert_eq!((host.task.as_str(), host.progress.as_str(), host.powered_off), ("", "", true));
        assert!(!self.simulator.is_on());
    }
    async fn check_undone(&self) {
        let host = host(&self.cloud).await;
        assert!(host.task.is_empty() && host.progress.contains("failed"), "{host:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_survives_what_operations_survive() {
    four_runs(World::new).await;
}
