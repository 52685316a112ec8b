//! Hosts that fail, vanish and lie, guests that die, controllers that crash: every server reaches a final state.

use std::sync::Arc;

use async_trait::async_trait;
use base::{Error, Result};
use compute::op::server_delete::ServerDelete;
use serde_json::{Value, json};
use store::Tx;
use task::{Effect, Engine, Operation, StepContext};

use crate::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_a_build_is_left_for_another() {
    let w = World::with_hosts(2).await;
    for host in &w.cloud.hosts[..1] {
        host.hypervisor.trouble(|t| t.starts_fail.extend((0..20).map(|_| "no luck".to_string())));
    }
    let id = w.active(json!({})).await;
    let shown = w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200);
    assert_eq!(shown["server"]["OS-EXT-SRV-ATTR:host"], "host-1");
    assert_eq!(w.cloud.hosts[0].hypervisor.traces(), Vec::<String>::new());
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_no_host_manages_ends_in_error_and_holds_nothing() {
    let w = World::new().await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.starts_fail.extend((0..50).map(|_| "no luck".to_string())));
    let id = w.create(json!({})).await;
    let shown = w.wait(&id, "ERROR").await;
    assert_eq!(shown["fault"]["code"], 500);
    assert!(shown["fault"]["message"].as_str().unwrap().contains("No valid host was found"), "{}", shown["fault"]);
    w.clean().await;
    let alarms = w.cloud.get(&w.admin, "/fault/v1/alarms").await;
    if alarms.status == 200 {
        assert!(alarms.text().contains("700.001"), "{}", alarms.text());
    }
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_while_building_ends_with_nothing() {
    let w = World::new().await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.delay = std::time::Duration::from_millis(150));
    for _ in 0..5 {
        let id = w.create(json!({})).await;
        assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
        // A second delete is as good as the first.
        let again = w.delete(&format!("/servers/{id}"), "2.1").await.status;
        assert!(again == 204 || again == 404, "{again}");
        w.gone(&id).await;
    }
    w.clean().await;
}

/// A deletion during whose first step, before its record, the server's metadata are changed: its host has a newer document then.
struct Overtaken {
    deletion: ServerDelete,
    w: Arc<World>,
}

#[async_trait]
impl Operation for Overtaken {
    fn kind(&self) -> &'static str {
        self.deletion.kind()
    }
    fn steps(&self) -> &'static [&'static str] {
        self.deletion.steps()
    }
    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let effect = self.deletion.run(cx, step).await?;
        if step == "mark" {
            let path = format!("/servers/{}/metadata", cx.resource_id);
            self.w.post(&path, json!({"metadata": {"changed": "meanwhile"}}), "2.1").await.expect(200);
        }
        Ok(effect)
    }
    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        self.deletion.undo(cx, step).await
    }
    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        self.deletion.failed(tx, cx, error)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_comes_while_a_deletion_begins_does_not_hold_it_up() {
    let w = Arc::new(World::new().await);
    let id = w.active(json!({})).await;
    let controller = &w.cloud.controller;
    controller.core.tasks.stop().await;
    let engine = Engine::new(controller.core.store.clone(), "another");
    engine.register(Arc::new(Overtaken { deletion: ServerDelete(controller.compute.clone()), w: w.clone() }));
    engine.start().await.unwrap();
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_lost_host_can_be_deleted_and_its_guest_goes_when_the_host_returns() {
    let mut w = World::new().await;
    let id = w.active(json!({})).await;
    w.cloud.hosts[0].vanish().await;
    let down = |a: &testing::Answer| a.json()["hypervisors"][0]["state"] == "down";
    w.cloud.until(&w.admin, "/compute/v2.1/os-hypervisors", PATIENCE, down).await;
    let status = w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.16").await.expect(200);
    assert_eq!(status["server"]["host_status"], "UNKNOWN");
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    assert_eq!(w.cloud.hosts[0].hypervisor.running(), std::slice::from_ref(&id));
    w.cloud.host_return(0).await;
    until(|| w.cloud.hosts[0].hypervisor.traces().is_empty()).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guest_comes_back_and_the_alarm_says_so() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    assert!(w.cloud.hosts[0].hypervisor.kill(&id, "killed by signal 9"));
    let log = |a: &testing::Answer| a.text().contains("700.101") && a.text().contains("700.102");
    w.cloud.until(&w.admin, "/fault/v1/event_log?include_suppress=true", PATIENCE, log).await;
    until(|| w.cloud.hosts[0].hypervisor.running() == [id.clone()]).await;
    w.wait(&id, "ACTIVE").await;
    let clear = |a: &testing::Answer| a.status == 200 && !a.text().contains("700.001");
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, clear).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hangs_has_its_alarm_until_it_runs_again() {
    let mut w = World::new().await;
    w.cloud.hosts[0].vanish().await;
    w.cloud.hosts[0].settings.extend([("host.guest_ask_seconds", "1".to_string()), ("host.guest_misses", "1".to_string())]);
    w.cloud.host_return(0).await;
    let id = w.active(json!({})).await;
    // One that cannot be started again at once: its alarm stays that long.
    w.cloud.hosts[0].hypervisor.trouble(|t| t.starts_fail.extend(["no luck".to_string(), "no luck".to_string()]));
    w.cloud.hosts[0].hypervisor.hang(&id, true);
    let said = |a: &testing::Answer| a.text().contains("700.001") && a.text().contains(&format!("instance={id}"));
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, said).await;
    let log = |a: &testing::Answer| a.text().contains("700.102") && a.text().contains("hung: process");
    w.cloud.until(&w.admin, "/fault/v1/event_log?include_suppress=true", PATIENCE, log).await;
    w.wait(&id, "ACTIVE").await;
    let clear = |a: &testing::Answer| a.status == 200 && !a.text().contains("700.001");
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, clear).await;
    until(|| w.cloud.hosts[0].hypervisor.running() == [id.clone()]).await;

    // One that opted out is shown as failed, with the reason, as long as it is silent.
    let specs = json!({"extra_specs": {"sw:wrs:auto_recovery": "false"}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors/1/os-extra_specs", specs).await.expect(200);
    let id = w.active(json!({})).await;
    let starts = w.cloud.hosts[0].hypervisor.starts();
    w.cloud.hosts[0].hypervisor.hang(&id, true);
    let shown = w.wait(&id, "ERROR").await;
    assert!(shown["fault"]["message"].as_str().unwrap().contains("hung: process"), "{shown}");
    let said = |a: &testing::Answer| a.text().contains("700.001") && a.text().contains("recovery was given up: hung");
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, said).await;
    w.cloud.hosts[0].hypervisor.hang(&id, false);
    w.wait(&id, "ACTIVE").await;
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, clear).await;
    assert_eq!(w.cloud.hosts[0].hypervisor.starts(), starts);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guests_watchdog_has_done_is_told() {
    let w = World::new().await;
    let specs = json!({"extra_specs": {"hw:watchdog_action": "pause"}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors/1/os-extra_specs", specs).await.expect(200);
    let id = w.active(json!({})).await;
    assert!(w.cloud.hosts[0].hypervisor.watchdog(&id, true));
    let log = |a: &testing::Answer| a.text().contains("700.186") && a.text().contains("the instance's watchdog fired");
    w.cloud.until(&w.admin, "/fault/v1/event_log?include_suppress=true", PATIENCE, log).await;
    assert!(w.cloud.hosts[0].hypervisor.watchdog(&id, false));
    w.wait(&id, "PAUSED").await;
    let says = |a: &testing::Answer| a.text().contains("700.002") && a.text().contains("paused: the guest's watchdog fired");
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, says).await;
    assert_eq!(w.act(&id, json!({"reboot": {"type": "HARD"}})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, |a| a.status == 200 && !a.text().contains("700.002")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_shuts_itself_down_is_stopped_and_can_be_started() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    assert!(w.cloud.hosts[0].hypervisor.shut_down(&id));
    let shown = w.wait(&id, "SHUTOFF").await;
    assert_eq!(shown["OS-EXT-STS:power_state"], 4);
    assert_eq!(w.act(&id, json!({"os-start": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    until(|| w.cloud.hosts[0].hypervisor.running() == [id.clone()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_controller_changes_nothing_that_was_promised() {
    let mut w = World::new().await;
    let kept = w.active(json!({"name": "kept"})).await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.delay = std::time::Duration::from_millis(100));
    let building = w.create(json!({"name": "building"})).await;
    let stopping = w.active(json!({"name": "stopping"})).await;
    assert_eq!(w.act(&stopping, json!({"os-stop": null})).await.status, 202);
    let doomed = w.create(json!({"name": "doomed"})).await;
    assert_eq!(w.delete(&format!("/servers/{doomed}"), "2.1").await.status, 204);
    let World { cloud, admin, tenant, image, network } = w;
    let cloud = cloud.crash().await;
    w = World { cloud, admin, tenant, image, network };
    w.wait(&kept, "ACTIVE").await;
    w.wait(&building, "ACTIVE").await;
    w.wait(&stopping, "SHUTOFF").await;
    w.gone(&doomed).await;
    let mut wanted = vec![kept, building];
    wanted.sort();
    until(|| {
        let mut running = w.cloud.hosts[0].hypervisor.running();
        running.sort();
        running == wanted
    })
    .await;
    let ports: Value = w.cloud.get(&w.admin, "/network/v2.0/ports?device_owner=compute:nova").await.expect(200);
    assert_eq!(ports["ports"].as_array().unwrap().len(), 3);
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap().len(), 3);
}

async fn until(fits: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !fits() {
        assert!(started.elapsed() < PATIENCE, "it never came true");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
