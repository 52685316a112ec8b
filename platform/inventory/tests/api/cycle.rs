//! A machine that a sensor has switched off and on (maintenance specification, section 9 and acceptance 18).

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bmc::testing::Simulator;
use inventory::{HostCycle, Inventory};
use serde_json::json;
use task::testing::{Fixture, four_runs};
use task::{Engine, Operation};
use testing::{Cloud, Token};

use super::PATIENCE;
use super::actions::{boots, change, host, of, path, site};
use super::sensors::{measured, patch};

/// A host in service whose machine is to be power-cycled when it is too hot.
async fn world() -> (Cloud, Token, Simulator) {
    let (cloud, admin) = site(&[("maintenance.cycle_seconds", "3")]).await;
    let simulator = Simulator::start();
    change(&cloud, &admin, of(&simulator)).await.expect(200);
    let groups = |a: &testing::Answer| !a.json()["isensorgroups"].as_array().unwrap().is_empty();
    let groups = cloud.until(&admin, "/inventory/v1/isensorgroups", PATIENCE, groups).await.json();
    let place = format!("/isensorgroups/{}", groups["isensorgroups"][0]["uuid"].as_str().unwrap());
    patch(&cloud, &admin, &place, json!({"actions_critical_group": "powercycle"})).await.expect(200);
    (cloud, admin, simulator)
}

/// The host measures what its machine has, until this is so.
async fn measures(cloud: &Cloud, simulator: &Simulator, fits: impl AsyncFn(&Cloud) -> bool) {
    let (bmc, id) = (bmc::Bmc::new(simulator.access()).unwrap(), host(cloud).await.uuid);
    let began = Instant::now();
    while !fits(cloud).await {
        assert!(began.elapsed() < PATIENCE, "{:?}", host(cloud).await);
        let sensors = bmc.sensors().await.unwrap();
        assert!(!measured(cloud, &id, &sensors).await, "nothing is to be reset");
    }
}

async fn until(what: &str, fits: impl Fn() -> bool) {
    let began = Instant::now();
    while !fits() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_too_hot_cools_and_one_that_stays_so_is_off_after_three_cycles() {
    let (mut cloud, admin, simulator) = world().await;
    let told = |what: &str| simulator.told().iter().filter(|told| *told == what).count();
    let cycling = async |cloud: &Cloud| host(cloud).await.task == "Critical Event Power-Cycle";
    simulator.temperature_set(93);
    measures(&cloud, &simulator, cycling).await;
    let shown = cloud.get(&admin, &path(&cloud).await).await.expect(200);
    assert_eq!((&shown["operational"], &shown["action"]), (&json!("disabled"), &json!("none")));
    until("it is switched off", || !simulator.is_on()).await;
    let off = Instant::now();
    cloud.hosts[1].vanish().await;
    until("it is switched on", || simulator.is_on()).await;
    assert!(off.elapsed() > Duration::from_millis(2500), "it has not cooled: {:?}", off.elapsed());
    simulator.temperature_set(40);
    boots(&mut cloud).await;
    measures(&cloud, &simulator, async |cloud| host(cloud).await.task != "Critical Event Power-Cycle").await;
    cloud.until(&admin, &path(&cloud).await, PATIENCE, |a| a.json()["availability"] == "available" && a.json()["task"] == "").await;
    assert_eq!((told("power 0"), told("power 1")), (1, 1), "{:?}", simulator.told());

    // It gets hot again, and this time nothing helps.
    simulator.temperature_set(93);
    measures(&cloud, &simulator, cycling).await;
    for cycle in 2..5 {
        until("it is switched off", || told("power 0") == cycle).await;
        cloud.hosts[1].vanish().await;
        until("it is switched on", || told("power 1") == cycle).await;
        boots(&mut cloud).await;
    }
    let down = |a: &testing::Answer| a.json()["task"] == "Critical Event Power-Down";
    let shown = cloud.until(&admin, &path(&cloud).await, PATIENCE, down).await.json();
    assert_eq!((&shown["administrative"], &shown["operational"]), (&json!("unlocked"), &json!("disabled")));
    assert!(shown["vim_progress_status"].as_str().unwrap().contains("still critical after 3 power-cycles"), "{shown}");
    cloud.hosts[1].vanish().await;
    cloud.until(&admin, &path(&cloud).await, PATIENCE, |a| a.json()["availability"] != "intest").await;
    // Who looks after machines that should be on leaves it alone.
    task::nudge_here(&cloud.controller.core.store, "maintenance.bmc");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((told("power 0"), told("power 1"), simulator.is_on()), (5, 4, false), "{:?}", simulator.told());
    let log = cloud.get(&admin, "/fault/v1/event_log?limit=1000").await.expect(200).to_string();
    assert!(log.contains("host=host-1.command=power-cycle") && log.contains("its machine stays off"), "{log}");

    // Somebody has repaired it, and switches it on.
    simulator.temperature_set(40);
    simulator.power_set(true);
    boots(&mut cloud).await;
    cloud.until(&admin, &path(&cloud).await, PATIENCE, |a| a.json()["availability"] == "available" && a.json()["task"] == "").await;
}

/// A cloud whose own engine is dead, so that the run's engine works, and a host in service that does not come back.
struct World {
    cloud: Cloud,
    simulator: Simulator,
    inventory: Inventory,
}

impl World {
    async fn new() -> World {
        // What is measured does not count for one that does not come back.
        let (cloud, admin) = site(&[("maintenance.cycle_seconds", "0")]).await;
        let simulator = Simulator::start();
        change(&cloud, &admin, of(&simulator)).await.expect(200);
        cloud.controller.core.tasks.kill().await;
        let inventory = cloud.controller.inventory.clone();
        World { cloud, simulator, inventory }
    }
}

#[async_trait]
impl Fixture for World {
    fn store(&self) -> store::Store {
        self.cloud.controller.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        Arc::new(HostCycle(self.inventory.clone()))
    }
    async fn submit(&self, _: &Engine) -> base::Result<String> {
        let (this, host) = (self.inventory.clone(), host(&self.cloud).await);
        let id = host.uuid.clone();
        assert!(self.store().write(move |tx| this.host_cycle_begin_in(tx, host)).await?);
        let filter = task::Filter { resource_id: Some(id), ..Default::default() };
        Ok(self.cloud.controller.core.tasks.list(&filter).await?.remove(0).id)
    }
    async fn check_done(&self) {
        let host = host(&self.cloud).await;
        assert_eq!((host.task.as_str(), host.task_shown().as_str(), host.is_power_cycled()), ("", "Critical Event Power-Down", true));
        assert!(!self.simulator.is_on());
    }
    async fn check_undone(&self) {
        let host = host(&self.cloud).await;
        // A host that answers may be on its way into service again, which has words of its own.
        let returns = ["Testing", "Initializing", "Enabling"].contains(&host.task.as_str());
        let told = host.task.is_empty() && host.progress.contains("failed");
        assert!(!host.is_power_cycled() && (told || returns), "{host:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cycle_survives_what_operations_survive() {
    four_runs(World::new).await;
}
