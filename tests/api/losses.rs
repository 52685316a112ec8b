//! The machine of either end is lost at each step of what moves a guest: it is in one place in the end, running where its server says.

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Answer, Cloud, Token};

use crate::recovery::{eventually, server};
use crate::servers::ready;

const SOON: Duration = Duration::from_secs(60);
/// Long enough for a step to be met while it is done.
const SLOW: Duration = Duration::from_millis(40);

/// An operation that moves a guest, begun with the guest on `host-0`.
struct Way {
    kind: &'static str,
    steps: &'static [&'static str],
    /// What goes before, with the status that it ends in; and what begins it. Bodies of the server's actions.
    before: &'static [(&'static str, &'static str)],
    begin: &'static str,
    /// Where it goes, and where it comes from, as numbers of hosts.
    ends: [usize; 2],
}

const MIGRATE: &str = r#"{"migrate": {"host": "host-1"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_lost_while_a_server_migrates_leaves_it_in_one_place() {
    let steps = &["claim", "stop", "copy", "switch", "start"];
    lose_all(&Way { kind: "compute.server_move", steps, before: &[], begin: MIGRATE, ends: [1, 0] }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_lost_while_a_server_moves_back_leaves_it_in_one_place() {
    let (steps, before) = (&["stop", "bring", "return", "start"], &[(MIGRATE, "VERIFY_RESIZE")]);
    lose_all(&Way { kind: "compute.server_move_back", steps, before, begin: r#"{"revertResize": null}"#, ends: [0, 1] }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_lost_while_a_server_comes_from_the_shelf_leaves_it_in_one_place() {
    let before = &[(r#"{"shelve": null}"#, "SHELVED_OFFLOADED")];
    let begin = r#"{"unshelve": {"host": "host-1"}}"#;
    lose_all(&Way { kind: "compute.server_unshelve", steps: &["place", "spawn", "clean"], before, begin, ends: [1, 0] }).await;
}

/// Each end at each step, side by side: they mostly wait.
async fn lose_all(way: &Way) {
    for step in way.steps {
        tokio::join!(lose(way, step, way.ends[0]), lose(way, step, way.ends[1]));
    }
}

async fn act(cloud: &Cloud, admin: &Token, guest: &str, body: &str) {
    let request = cloud.request("POST", &format!("/compute/v2.1/servers/{guest}/action")).token(admin);
    let body: Value = serde_json::from_str(body).unwrap();
    let answer = request.header("openstack-api-version", "compute 2.91").json(&body).send().await;
    assert_eq!(answer.status, 202, "{body}: {}", answer.text());
}

/// Processes of the guest, on all machines that have power.
fn processes(cloud: &Cloud) -> usize {
    cloud.hosts.iter().map(|host| host.hypervisor.running().len()).sum()
}

async fn lose(way: &Way, step: &str, victim: usize) {
    let what = format!("{} at {step} without host-{victim}", way.kind);
    let mut cloud = Cloud::with_settings(3, &[("hosts.listen", "127.0.0.1:5001"), ("host.simulated", "true")]).await;
    let admin = cloud.admin().await;
    let body = ready(&cloud, &admin).await;
    let guest = server(&cloud, &admin, &body, "guest", json!({})).await;
    let path = format!("/compute/v2.1/servers/{guest}");
    for (begin, status) in way.before {
        act(&cloud, &admin, &guest, begin).await;
        cloud.until(&admin, &path, SOON, |a| a.json()["server"]["status"] == *status).await;
    }
    let (inventory, compute) = (cloud.controller.inventory.clone(), cloud.controller.compute.clone());
    let (store, tasks) = (cloud.controller.core.store.clone(), cloud.controller.core.tasks.clone());
    let name = format!("host-{victim}");
    let hosts = store.read(|tx| inventory.hosts_in(tx)).await.unwrap();
    let lost = hosts.into_iter().find(|h| h.hostname == name).unwrap().uuid;
    for host in &cloud.hosts {
        host.hypervisor.trouble(|t| t.delay = SLOW);
    }
    act(&cloud, &admin, &guest, way.begin).await;
    // At this step, or at its end when that was sooner than this looked.
    let reached = async || {
        let all = tasks.list(&Default::default()).await.unwrap();
        let own = all.into_iter().find(|o| o.kind == way.kind).unwrap();
        own.step == step || own.finished_at.is_some()
    };
    while !reached().await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut gone = cloud.hosts.remove(victim);
    gone.vanish().await;
    gone.hypervisor.power_cut();
    let (of, this, id) = (inventory.clone(), compute.clone(), lost.clone());
    store
        .write(move |tx| {
            of.host_health_in(tx, &id, ::inventory::Health::Lost)?;
            of.host_fence_in(tx, &id)?;
            this.host_failed_in(tx, &id)
        })
        .await
        .unwrap();

    let settled = async || {
        assert!(processes(&cloud) <= 1, "{what}: it runs twice");
        let open = tasks.list(&Default::default()).await.unwrap().iter().any(|o| o.finished_at.is_none());
        let server = cloud.get(&admin, &path).await.expect(200)["server"].clone();
        !open && server["OS-EXT-STS:task_state"].is_null() && (server["OS-EXT-SRV-ATTR:host"] != name.as_str() || processes(&cloud) == 0)
    };
    eventually(&format!("{what}: nothing is under way"), settled).await;

    // The machine is back, and has nothing that it should not have.
    gone.hypervisor.trouble(|t| t.delay = Duration::ZERO);
    cloud.hosts.push(gone);
    cloud.host_return(2).await;
    eventually(&format!("{what}: the host is clear"), async || store.read(|tx| compute.host_is_clear_in(tx, &lost)).await.unwrap()).await;
    let (of, id, this) = (inventory.clone(), lost.clone(), compute.clone());
    store
        .write(move |tx| {
            of.host_health_in(tx, &id, ::inventory::Health::Well)?;
            of.host_admit_in(tx, &id)?;
            this.host_recovered_in(tx, &id)
        })
        .await
        .unwrap();
    let rests = |a: &Answer| {
        let server = &a.json()["server"];
        let known = ["ACTIVE", "VERIFY_RESIZE", "SHELVED_OFFLOADED"].iter().any(|status| server["status"] == *status);
        known && server["OS-EXT-STS:task_state"].is_null()
    };
    let shown = cloud.until(&admin, &path, SOON, rests).await.json()["server"].clone();
    if shown["status"] == "SHELVED_OFFLOADED" {
        // As before: it can be taken from the shelf again.
        assert_eq!((processes(&cloud), &shown["OS-EXT-SRV-ATTR:host"]), (0, &Value::Null), "{what}");
        return println!("{what}: on the shelf");
    }
    let place = shown["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_string();
    println!("{what}: {} on {place}", shown["status"]);
    eventually(&format!("{what}: it runs once"), async || processes(&cloud) == 1).await;
    let order = [0, 1, 2].into_iter().filter(|n| *n != victim).chain([victim]);
    let of: Vec<usize> = order.zip(&cloud.hosts).filter(|(_, h)| !h.hypervisor.running().is_empty()).map(|(n, _)| n).collect();
    assert_eq!(of.iter().map(|n| format!("host-{n}")).collect::<Vec<_>>(), [place], "{what}");
}
