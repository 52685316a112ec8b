//! How a host gets into service: its tests, its services, and what becomes of one that does not get through.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base::Context;
use inventory::{Enabling, Host, HostEnable, HostLock, Inventory};
use serde_json::{Value, json};
use task::testing::{Fixture, four_runs};
use task::{Engine, Operation};
use testing::{Answer, Cloud, Token};

use super::{PATIENCE, act, fault};

const NAME: &str = "host-1";

pub fn script(directory: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(directory).unwrap();
    // Whole before it has its name: somebody may be about to run it.
    let (part, path) = (directory.join(".part"), directory.join(name));
    std::fs::write(&part, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&part, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(part, path).unwrap();
}

/// A cloud of two workers that are played; the second has directories of tests and of services.
async fn site(settings: &[(&'static str, &str)]) -> (Cloud, Token, PathBuf) {
    let workers = [
        ("hosts.listen", "127.0.0.1:5001"),
        ("host.simulated", "true"),
        ("maintenance.retry_seconds", "0"),
        ("maintenance.in_service_seconds", "0"),
    ];
    let mut cloud = Cloud::with_settings(2, &[&workers, settings].concat()).await;
    let admin = cloud.admin().await;
    let both = |a: &Answer| a.json()["ihosts"].as_array().unwrap().iter().filter(|h| h["availability"] == "available").count() == 2;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, both).await;
    let home = cloud.home().to_path_buf();
    for (key, name) in [("host.tests", "tests"), ("host.services", "services")] {
        cloud.hosts[1].settings.push((key, home.join(name).display().to_string()));
    }
    cloud.hosts[1].vanish().await;
    // Or what is looked at next may still be the session that was.
    until(&cloud, &admin, |h| h["availability"] == "offline").await;
    cloud.host_return(1).await;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, both).await;
    (cloud, admin, home)
}

async fn host(cloud: &Cloud) -> Host {
    let this = cloud.controller.inventory.clone();
    let hosts = cloud.controller.core.store.read(|tx| this.hosts_in(tx)).await.unwrap();
    hosts.into_iter().find(|h| h.hostname == NAME).unwrap()
}

async fn until(cloud: &Cloud, admin: &Token, fits: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/inventory/v1/ihosts/{}", host(cloud).await.uuid);
    cloud.until(admin, &path, PATIENCE, |a| fits(&a.json())).await.json()
}

async fn alarms(cloud: &Cloud, admin: &Token) -> Vec<(String, String)> {
    let all = cloud.get(admin, "/fault/v1/alarms").await.expect(200);
    let text = |alarm: &Value, key: &str| alarm[key].as_str().unwrap().to_string();
    all["alarms"].as_array().unwrap().iter().map(|a| (text(a, "alarm_id"), text(a, "reason_text"))).collect()
}

async fn service(cloud: &Cloud, admin: &Token) -> Value {
    cloud.get(admin, &format!("/compute/v2.1/os-services?host={NAME}")).await.expect(200)["services"][0]["status"].clone()
}

pub fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// Maintenance specification, acceptance 14 and 16.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_its_tests_is_tried_three_times_and_then_left_until_it_is_locked() {
    let (cloud, admin, home) = site(&[]).await;
    let (tests, services, ran) = (home.join("tests"), home.join("services"), home.join("ran"));
    let id = host(&cloud).await.uuid;
    act(&cloud, &admin, &id, "lock").await.expect(200);
    assert_eq!(alarms(&cloud, &admin).await[0].0, "200.001");

    // It stays in test as long as its tests take, and takes nothing meanwhile.
    let go = home.join("go");
    script(&tests, "disk", &format!("until [ -e {} ]; do sleep 0.01; done", go.display()));
    let begun = act(&cloud, &admin, &id, "unlock").await.expect(200);
    let states = |host: &Value| ["administrative", "operational", "availability", "task", "action"].map(|key| host[key].clone());
    assert_eq!(states(&begun), ["unlocked", "disabled", "intest", "Testing", "unlock"].map(Value::from));
    assert_eq!((alarms(&cloud, &admin).await, service(&cloud, &admin).await), (vec![], json!("disabled")));
    let again = act(&cloud, &admin, &id, "lock").await;
    assert!(again.status == 400 && fault(&again).contains("in progress (Testing)"), "{}", again.text());
    // Also when the controller dies meanwhile.
    let cloud = cloud.crash().await;
    std::fs::write(&go, "").unwrap();
    let through = until(&cloud, &admin, |h| h["availability"] == "available").await;
    assert_eq!(states(&through), ["unlocked", "enabled", "available", "", "none"].map(Value::from));
    assert_eq!((alarms(&cloud, &admin).await, service(&cloud, &admin).await), (vec![], json!("enabled")));

    // One that fails: three tries, then no more.
    act(&cloud, &admin, &id, "lock").await.expect(200);
    script(&tests, "disk", &format!("echo >> {}; echo sda has bad blocks >&2; exit 1", ran.display()));
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    let held = "In-Test Failure, threshold reached, Lock/Unlock to retry";
    let failed = until(&cloud, &admin, |h| h["task"] == held).await;
    assert_eq!(states(&failed)[..3], ["unlocked", "disabled", "failed"].map(Value::from));
    assert_eq!(failed["mtce_info"], "In-Test=3");
    assert!(failed["vim_progress_status"].as_str().unwrap().contains("disk: exit status 1: sda has bad blocks"), "{failed}");
    let told = alarms(&cloud, &admin).await;
    assert!(told.len() == 1 && told[0].0 == "200.004" && told[0].1.contains("sda has bad blocks"), "{told:?}");
    assert_eq!((lines(&ran), service(&cloud, &admin).await), (3, json!("disabled")));
    // The next controller knows it.
    let cloud = cloud.crash().await;
    until(&cloud, &admin, |h| h["task"] == held && h["availability"] == "failed").await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(lines(&ran), 3);

    // Locked and unlocked, it has its budget again; a configuration that cannot be used is told of otherwise.
    act(&cloud, &admin, &id, "lock").await.expect(200);
    assert_eq!(alarms(&cloud, &admin).await.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["200.001"]);
    std::fs::remove_dir_all(&tests).unwrap();
    std::fs::write(&tests, "no directory").unwrap();
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    until(&cloud, &admin, |h| h["task"] == "Configuration Failure, threshold reached, Lock/Unlock to retry").await;
    assert_eq!(alarms(&cloud, &admin).await[0].0, "200.011");

    // A service that does not start, and does after all when it is tried again.
    std::fs::remove_file(&tests).unwrap();
    let tried = home.join("tried");
    script(&services, "vswitch", &format!("[ $1 = start ] || exit 9; echo >> {0}; [ $(wc -l < {0}) = 2 ]", tried.display()));
    act(&cloud, &admin, &id, "lock").await.expect(200);
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    until(&cloud, &admin, |h| h["availability"] == "available").await;
    assert_eq!((lines(&tried), alarms(&cloud, &admin).await), (2, vec![]));
    let log = cloud.get(&admin, "/fault/v1/event_log?limit=1000").await.expect(200).to_string();
    for word in ["state=disabled", "state=enabled", "a service could not be started"] {
        assert!(log.contains(word), "{word}: {log}");
    }
}

/// Maintenance specification, acceptance 9: a machine that rebooted by itself goes through its tests.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_rebooted_by_itself_is_tested_before_it_takes_anything() {
    let (mut cloud, admin, home) = site(&[]).await;
    let go = home.join("go");
    script(&home.join("tests"), "disk", &format!("until [ -e {} ]; do sleep 0.01; done", go.display()));
    let disable = json!({"host": NAME, "binary": "nova-compute", "disabled_reason": "mine"});
    cloud.put(&admin, "/compute/v2.1/os-services/disable-log-reason", disable).await.expect(200);
    cloud.hosts[1].vanish().await;
    cloud.hosts[1].hypervisor.power_cut();
    cloud.host_return(1).await;
    until(&cloud, &admin, |h| h["availability"] == "intest" && h["task"] == "Testing").await;
    let told = alarms(&cloud, &admin).await;
    assert!(told.len() == 1 && told[0].0 == "200.004" && told[0].1.contains("rebooted by itself"), "{told:?}");
    std::fs::write(&go, "").unwrap();
    until(&cloud, &admin, |h| h["availability"] == "available").await;
    assert_eq!(alarms(&cloud, &admin).await, []);
    assert_eq!(service(&cloud, &admin).await, "disabled", "what an operator has taken out of service stays so");
    // An agent that is started again is no reboot.
    std::fs::remove_file(&go).unwrap();
    cloud.hosts[1].vanish().await;
    until(&cloud, &admin, |h| h["availability"] == "offline").await;
    cloud.host_return(1).await;
    until(&cloud, &admin, |h| h["availability"] == "available").await;
}

/// What was started when the host came into service is stopped when it leaves it. One that does not stop is told of and keeps nobody
/// from locking.
#[tokio::test(flavor = "multi_thread")]
async fn services_that_were_started_are_stopped_by_a_lock() {
    let (mut cloud, admin, home) = site(&[("maintenance.services_seconds", "3")]).await;
    let (services, heard, go) = (home.join("services"), home.join("heard"), home.join("go"));
    let id = host(&cloud).await.uuid;
    let told = || std::fs::read_to_string(&heard).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let states = |host: &Value| ["administrative", "availability", "task"].map(|key| host[key].clone());
    script(&services, "vswitch", &format!("echo $1 >> {}", heard.display()));
    // Nothing was started yet: there is nothing to stop.
    act(&cloud, &admin, &id, "lock").await.expect(200);
    assert_eq!(told(), "");
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    until(&cloud, &admin, |h| h["availability"] == "available").await;
    assert_eq!(told(), "start");

    // It is locked when they have stopped, also when the controller dies meanwhile.
    script(
        &services,
        "vswitch",
        &format!("echo $1 >> {}; [ $1 = start ] || until [ -e {} ]; do sleep 0.01; done", heard.display(), go.display()),
    );
    let begun = act(&cloud, &admin, &id, "lock").await.expect(200);
    assert_eq!(states(&begun), ["unlocked", "available", "Disabling Services"].map(Value::from));
    assert_eq!(service(&cloud, &admin).await, "disabled", "it takes nothing new meanwhile");
    cloud = cloud.crash().await;
    let locked = until(&cloud, &admin, |h| h["administrative"] == "locked").await;
    assert_eq!(states(&locked), ["locked", "online", ""].map(Value::from));
    assert!(told().starts_with("start stop"), "{}", told());
    // This one was not over in its time.
    let why = locked["vim_progress_status"].as_str().unwrap();
    assert!(why.contains("not all of its services were stopped") && why.contains("vswitch: not over within 3 s"), "{why}");

    // Unlocked while they are being stopped, it goes its way into service again, and has them started.
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    until(&cloud, &admin, |h| h["availability"] == "available" && h["vim_progress_status"] == "").await;
    let before = told();
    act(&cloud, &admin, &id, "lock").await.expect(200);
    let began = std::time::Instant::now();
    while !told()[before.len()..].contains("stop") {
        assert!(began.elapsed() < PATIENCE, "{}", told());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let shown = act(&cloud, &admin, &id, "unlock").await.expect(200);
    // What is being stopped is not started beside that.
    assert_eq!(states(&shown), ["unlocked", "available", "Disabling Services"].map(Value::from));
    assert!(shown["vim_progress_status"].as_str().unwrap().contains("was dropped"), "{shown}");
    std::fs::write(&go, "").unwrap();
    until(&cloud, &admin, |h| h["availability"] == "available" && h["task"] == "").await;
    assert!(told()[before.len()..].ends_with("stop start"), "{}", told());
    assert_eq!(service(&cloud, &admin).await, "enabled");
    act(&cloud, &admin, &id, "lock").await.expect(200);
    until(&cloud, &admin, |h| h["administrative"] == "locked").await;

    // One that fails.
    script(&services, "vswitch", &format!("echo $1 >> {}; [ $1 = start ] || {{ echo it is in use >&2; exit 4; }}", heard.display()));
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    until(&cloud, &admin, |h| h["availability"] == "available" && h["vim_progress_status"] == "").await;
    act(&cloud, &admin, &id, "lock").await.expect(200);
    let locked = until(&cloud, &admin, |h| h["administrative"] == "locked").await;
    assert!(locked["vim_progress_status"].as_str().unwrap().contains("vswitch: exit status 4: it is in use"), "{locked}");

    // A host that is not there has nobody to stop them.
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    until(&cloud, &admin, |h| h["availability"] == "available").await;
    let before = told();
    cloud.hosts[1].vanish().await;
    until(&cloud, &admin, |h| h["availability"] == "offline").await;
    act(&cloud, &admin, &id, "lock").await.expect(200);
    let locked = until(&cloud, &admin, |h| h["administrative"] == "locked").await;
    assert!(locked["vim_progress_status"].as_str().unwrap().contains("it cannot be asked"), "{locked}");
    assert_eq!(told(), before);
}

/// A cloud whose own engine is dead, so that the run's engine works, and a host that is locked.
struct World {
    cloud: Cloud,
    inventory: Inventory,
}

impl World {
    async fn new() -> World {
        let (cloud, admin, home) = site(&[]).await;
        script(&home.join("tests"), "one", "true");
        act(&cloud, &admin, &host(&cloud).await.uuid, "lock").await.expect(200);
        let inventory = cloud.controller.inventory.clone();
        cloud.controller.core.tasks.kill().await;
        World { cloud, inventory }
    }
}

#[async_trait]
impl Fixture for World {
    fn store(&self) -> store::Store {
        self.cloud.controller.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        Arc::new(HostEnable(self.inventory.clone()))
    }
    async fn submit(&self, _: &Engine) -> base::Result<String> {
        let (this, host) = (self.inventory.clone(), host(&self.cloud).await);
        let id = host.uuid.clone();
        self.store().write(move |tx| this.host_unlock_in(tx, &Context::system("req-1"), host, false)).await?;
        let filter = task::Filter { resource_id: Some(id), ..Default::default() };
        Ok(self.cloud.controller.core.tasks.list(&filter).await?.remove(0).id)
    }
    async fn check_done(&self) {
        let host = host(&self.cloud).await;
        assert_eq!((host.task.as_str(), host.availability(), host.upkeep.enabling), ("", "available", Enabling::Done));
    }
    async fn check_undone(&self) {
        let host = host(&self.cloud).await;
        assert_eq!((host.task.as_str(), host.availability(), host.upkeep.enabling), ("", "failed", Enabling::Failed));
        assert!(host.progress.contains("could not be put into service"), "{host:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_into_service_survives_what_operations_survive() {
    four_runs(World::new).await;
}

/// The same with a host in service, which has started something that a lock stops.
struct Locking {
    world: World,
    admin: Token,
}

impl Locking {
    async fn new() -> Locking {
        let (cloud, admin, home) = site(&[]).await;
        script(&home.join("services"), "one", "true");
        let id = host(&cloud).await.uuid;
        for action in ["lock", "unlock"] {
            act(&cloud, &admin, &id, action).await.expect(200);
        }
        until(&cloud, &admin, |h| h["availability"] == "available").await;
        let inventory = cloud.controller.inventory.clone();
        cloud.controller.core.tasks.kill().await;
        Locking { world: World { cloud, inventory }, admin }
    }
}

#[async_trait]
impl Fixture for Locking {
    fn store(&self) -> store::Store {
        self.world.store()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        Arc::new(HostLock(self.world.inventory.clone()))
    }
    async fn submit(&self, _: &Engine) -> base::Result<String> {
        let id = host(&self.world.cloud).await.uuid;
        act(&self.world.cloud, &self.admin, &id, "lock").await.expect(200);
        let filter = task::Filter { resource_id: Some(id), ..Default::default() };
        Ok(self.world.cloud.controller.core.tasks.list(&filter).await?.remove(0).id)
    }
    async fn check_done(&self) {
        let host = host(&self.world.cloud).await;
        assert_eq!((host.task.as_str(), host.locked, host.upkeep.services, host.upkeep.stopping), ("", true, false, false));
        assert_eq!(host.progress, "");
    }
    async fn check_undone(&self) {
        let host = host(&self.world.cloud).await;
        assert_eq!((host.task.as_str(), host.locked, host.upkeep.services, host.upkeep.stopping), ("", false, true, false));
        assert!(host.progress.contains("failed because"), "{host:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_survives_what_operations_survive() {
    four_runs(Locking::new).await;
}

async fn health(cloud: &Cloud, health: inventory::Health) {
    let (this, id) = (cloud.controller.inventory.clone(), host(cloud).await.uuid);
    cloud.controller.core.store.write(move |tx| this.host_health_in(tx, &id, health)).await.unwrap();
}

/// Maintenance specification, acceptance 8 and "at most 5 graceful tries in a row".
#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_heartbeat_comes_and_goes_is_taken_out_of_service() {
    use inventory::Health::{Lost, Well};
    let settings = [("maintenance.heartbeat_retry_seconds", "3600")];
    let (cloud, admin, home) = site(&settings).await;
    let ran = home.join("ran");
    script(&home.join("tests"), "one", &format!("echo >> {}", ran.display()));
    for _ in 0..5 {
        health(&cloud, Lost).await;
        until(&cloud, &admin, |h| h["availability"] == "failed" && h["operational"] == "disabled").await;
        health(&cloud, Well).await;
        // Back with no test and no reset: it never rebooted.
        until(&cloud, &admin, |h| h["availability"] == "available" && h["task"] == "").await;
    }
    assert_eq!(lines(&ran), 0);
    health(&cloud, Lost).await;
    health(&cloud, Well).await;
    let shown = until(&cloud, &admin, |h| h["availability"] == "failed").await;
    assert_eq!(shown["task"], "Heartbeat Failure, retry pending");
    let told = alarms(&cloud, &admin).await;
    assert!(told.len() == 1 && told[0].0 == "200.004" && told[0].1.contains("lost 6 times in a row"), "{told:?}");
    assert_eq!(service(&cloud, &admin).await, "disabled");
    let id = host(&cloud).await.uuid;
    for action in ["lock", "unlock"] {
        act(&cloud, &admin, &id, action).await.expect(200);
    }
    until(&cloud, &admin, |h| h["availability"] == "available").await;
    assert_eq!((lines(&ran), host(&cloud).await.upkeep.losses), (1, 0));
}

/// Maintenance specification, acceptance 12.
#[tokio::test(flavor = "multi_thread")]
async fn while_most_of_the_site_is_silent_hosts_are_waited_for() {
    let (cloud, admin, _) = site(&[]).await;
    let cut_off = async |cut_off| {
        let this = cloud.controller.inventory.clone();
        cloud.controller.core.store.write(move |tx| this.site_cut_off_in(tx, cut_off)).await.unwrap();
    };
    cut_off(true).await;
    health(&cloud, inventory::Health::Lost).await;
    let states = |host: &Value| ["operational", "availability", "task"].map(|key| host[key].clone());
    let wait = ["enabled", "degraded", "Graceful Recovery Wait"].map(Value::from);
    assert_eq!(states(&until(&cloud, &admin, |_| true).await), wait);
    let log = cloud.get(&admin, "/fault/v1/event_log?limit=1000").await.expect(200).to_string();
    assert!(log.contains("mnfa_enter") && !log.contains("status=failed"), "{log}");
    assert!(alarms(&cloud, &admin).await[0].1.contains("nothing is recovered elsewhere"));
    // The others are back, this one is not.
    cut_off(false).await;
    assert_eq!(states(&until(&cloud, &admin, |_| true).await)[..2], ["disabled", "failed"].map(Value::from));
    health(&cloud, inventory::Health::Well).await;
    until(&cloud, &admin, |h| h["availability"] == "available" && h["task"] == "").await;
    assert_eq!(alarms(&cloud, &admin).await, []);
}

/// Maintenance specification, section 2: unhealthy in three audits, and it is enabled anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_its_tests_in_service_is_degraded_and_then_goes_its_way_anew() {
    let (cloud, admin, home) = site(&[("maintenance.in_service_seconds", "1")]).await;
    let bad = home.join("bad");
    script(&home.join("tests"), "disk", &format!("[ ! -e {} ] || {{ echo sda is slow >&2; exit 1; }}", bad.display()));
    std::fs::write(&bad, "").unwrap();
    let degraded = until(&cloud, &admin, |h| h["availability"] == "degraded").await;
    assert_eq!((&degraded["operational"], &degraded["task"]), (&json!("enabled"), &json!("")));
    let why = degraded["vim_progress_status"].as_str().unwrap();
    assert!(why.contains("its tests failed in service") && why.contains("sda is slow"), "{why}");
    assert_eq!(service(&cloud, &admin).await, "enabled", "it takes what is placed there");
    std::fs::remove_file(&bad).unwrap();
    let well = until(&cloud, &admin, |h| h["availability"] == "available" && h["vim_progress_status"] == "").await;
    assert_eq!(well["operational"], "enabled");
    assert_eq!(alarms(&cloud, &admin).await, []);
    // It stays so.
    std::fs::write(&bad, "").unwrap();
    until(&cloud, &admin, |h| h["task"] == "In-Test Failure, threshold reached, Lock/Unlock to retry").await;
    assert_eq!((service(&cloud, &admin).await, alarms(&cloud, &admin).await[0].0.as_str()), (json!("disabled"), "200.004"));
    let log = cloud.get(&admin, "/fault/v1/event_log?limit=1000").await.expect(200).to_string();
    assert!(log.contains("state=disabled"), "{log}");
}

/// Maintenance specification, section 12: out-of-service tests, each 300 s. They put nobody back into service.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_host_that_is_left_out_of_service_an_operator_reads_how_it_is() {
    let (cloud, admin, home) = site(&[("maintenance.out_of_service_seconds", "1")]).await;
    let tests = home.join("tests");
    let id = host(&cloud).await.uuid;
    act(&cloud, &admin, &id, "lock").await.expect(200);
    script(&tests, "disk", "echo sda has bad blocks >&2; exit 1");
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    let held = "In-Test Failure, threshold reached, Lock/Unlock to retry";
    until(&cloud, &admin, |h| h["task"] == held).await;
    assert!(host(&cloud).await.upkeep.unlocking);
    let says = |word: &'static str| move |h: &Value| h["task"] == held && h["vim_progress_status"].as_str().unwrap().contains(word);
    script(&tests, "disk", "echo sda is gone >&2; exit 1");
    until(&cloud, &admin, says("out of service, and its tests fail: disk: exit status 1: sda is gone")).await;
    let told = alarms(&cloud, &admin).await;
    assert!(told.len() == 1 && told[0].0 == "200.004" && told[0].1.contains("sda is gone"), "{told:?}");
    script(&tests, "disk", "true");
    let shown = until(&cloud, &admin, says("its tests succeed: lock and unlock it")).await;
    assert_eq!((&shown["availability"], service(&cloud, &admin).await), (&json!("failed"), json!("disabled")));
    assert_eq!(alarms(&cloud, &admin).await.len(), 1);
    for action in ["lock", "unlock"] {
        act(&cloud, &admin, &id, action).await.expect(200);
    }
    until(&cloud, &admin, |h| h["availability"] == "available" && h["vim_progress_status"] == "").await;
    assert!(!host(&cloud).await.upkeep.unlocking);
    // Of one that something else has taken out of service they tell too.
    let condition = rpc::monitor::Condition {
        alarm_id: "200.006".into(),
        entity: "process=sm".into(),
        level: rpc::monitor::Level::Critical,
        reason: "x".into(),
        degrades: false,
        fails: true,
    };
    let (this, of) = (cloud.controller.inventory.clone(), id.clone());
    cloud.controller.core.store.write(move |tx| this.host_conditions_in(tx, &of, &[condition])).await.unwrap();
    until(&cloud, &admin, |h| h["vim_progress_status"].as_str().unwrap().contains("what its monitors say must be mended")).await;
}

/// The controller's own host is told of, and stays in service.
#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_own_host_fails_its_tests_in_service_and_stays_there() {
    let mut cloud = Cloud::with_settings(1, &[("hosts.listen", "127.0.0.1:5001"), ("maintenance.in_service_seconds", "1")]).await;
    let admin = cloud.admin().await;
    let only = |wanted: &'static str| move |a: &Answer| a.json()["ihosts"][0]["availability"] == wanted;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, only("available")).await;
    let tests = cloud.home().join("tests");
    cloud.hosts[0].settings.push(("host.tests", tests.display().to_string()));
    cloud.hosts[0].vanish().await;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, only("offline")).await;
    cloud.host_return(0).await;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, only("available")).await;
    script(&tests, "disk", "exit 1");
    let told = |a: &Answer| a.json()["alarms"].as_array().unwrap().iter().any(|a| a["alarm_id"] == "200.011");
    cloud.until(&admin, "/fault/v1/alarms", PATIENCE, told).await;
    let host = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0].clone();
    assert_eq!(["operational", "availability", "task"].map(|key| host[key].clone()), ["enabled", "degraded", ""].map(Value::from));
    std::fs::remove_file(tests.join("disk")).unwrap();
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, only("available")).await;
    assert_eq!(alarms(&cloud, &admin).await, []);
}

/// Maintenance specification, section 4: an active controller without a peer that fails itself is degraded only.
#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_own_host_is_degraded_when_it_fails_its_tests() {
    let settings = [("hosts.listen", "127.0.0.1:5001"), ("maintenance.in_service_seconds", "0"), ("maintenance.retry_seconds", "0")];
    let mut cloud = Cloud::with_settings(1, &settings).await;
    let admin = cloud.admin().await;
    let only = |wanted: &'static str| move |a: &Answer| a.json()["ihosts"][0]["availability"] == wanted;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, only("available")).await;
    let tests = cloud.home().join("tests");
    script(&tests, "disk", "exit 1");
    cloud.hosts[0].settings.push(("host.tests", tests.display().to_string()));
    cloud.hosts[0].vanish().await;
    cloud.hosts[0].hypervisor.power_cut();
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, only("offline")).await;
    cloud.host_return(0).await;
    let held = |a: &Answer| a.json()["ihosts"][0]["task"] == "In-Test Failure, threshold reached, Lock/Unlock to retry";
    let shown = cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, held).await.json();
    let host = &shown["ihosts"][0];
    assert_eq!(
        ["administrative", "operational", "availability"].map(|key| host[key].clone()),
        ["unlocked", "enabled", "degraded"].map(Value::from)
    );
    assert_eq!(alarms(&cloud, &admin).await[0].0, "200.004");
    let services = cloud.get(&admin, "/compute/v2.1/os-services?host=host-0").await.expect(200);
    assert_eq!(services["services"][0]["status"], "enabled");
    // Locked and unlocked when it is well, it is available again.
    std::fs::remove_file(tests.join("disk")).unwrap();
    for action in ["lock", "unlock"] {
        act(&cloud, &admin, host["uuid"].as_str().unwrap(), action).await.expect(200);
    }
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, only("available")).await;
    assert_eq!(alarms(&cloud, &admin).await, []);
}
