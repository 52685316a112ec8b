//! The machine of either end is lost at each step of what moves a guest: it is in one place in the end, running where its server says. And
//! one with very many guests is lost.

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Answer, Cloud, Host, Token};

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

/// A site of three machines with a guest on the first, and what is done to it.
struct Site {
    cloud: Cloud,
    admin: Token,
    guest: String,
    /// Of the guest's server.
    path: String,
}

impl Site {
    async fn new() -> Site {
        Site::with_settings(&[]).await
    }

    async fn with_settings(settings: &[(&'static str, &str)]) -> Site {
        let own = [("hosts.listen", "127.0.0.1:5001"), ("host.simulated", "true")];
        let cloud = Cloud::with_settings(3, &[&own, settings].concat()).await;
        let admin = cloud.admin().await;
        let body = ready(&cloud, &admin).await;
        let guest = server(&cloud, &admin, &body, "guest", json!({})).await;
        let path = format!("/compute/v2.1/servers/{guest}");
        Site { cloud, admin, guest, path }
    }

    async fn id_of(&self, name: &str) -> String {
        let inventory = self.cloud.controller.inventory.clone();
        let hosts = self.cloud.controller.core.store.read(|tx| inventory.hosts_in(tx)).await.unwrap();
        hosts.into_iter().find(|h| h.hostname == name).unwrap().uuid
    }

    /// What comes now takes long enough for each step to be met while it is done.
    fn slow(&self) {
        for host in &self.cloud.hosts {
            host.hypervisor.trouble(|t| t.delay = SLOW);
        }
    }

    /// An operation of the kind is at this step, or at its end when that was sooner than this looked.
    async fn reached(&self, kind: &str, step: &str) {
        let tasks = &self.cloud.controller.core.tasks;
        loop {
            let all = tasks.list(&Default::default()).await.unwrap();
            if all.iter().any(|o| o.kind == kind && (o.step == step || o.finished_at.is_some())) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The machine with this place in the list of hosts loses its power, and is fenced.
    async fn lose(&mut self, place: usize, id: &str) -> Host {
        let mut gone = self.cloud.hosts.remove(place);
        gone.vanish().await;
        gone.hypervisor.power_cut();
        let (inventory, compute) = (self.cloud.controller.inventory.clone(), self.cloud.controller.compute.clone());
        let id = id.to_string();
        let lost = move |tx: &store::Tx| {
            inventory.host_health_in(tx, &id, ::inventory::Health::Lost)?;
            inventory.host_fence_in(tx, &id)?;
            compute.host_failed_in(tx, &id)
        };
        self.cloud.controller.core.store.write(lost).await.unwrap();
        gone
    }

    /// The machine is back, is heard to have nothing that it should not have, and is in service again.
    async fn back(&mut self, gone: Host, id: &str, what: &str) {
        gone.hypervisor.trouble(|t| t.delay = Duration::ZERO);
        self.cloud.hosts.push(gone);
        self.cloud.host_return(self.cloud.hosts.len() - 1).await;
        let (inventory, compute) = (self.cloud.controller.inventory.clone(), self.cloud.controller.compute.clone());
        let store = self.cloud.controller.core.store.clone();
        eventually(&format!("{what}: the host is clear"), async || store.read(|tx| compute.host_is_clear_in(tx, id)).await.unwrap()).await;
        let id = id.to_string();
        let well = move |tx: &store::Tx| {
            inventory.host_health_in(tx, &id, ::inventory::Health::Well)?;
            inventory.host_admit_in(tx, &id)?;
            compute.host_recovered_in(tx, &id)
        };
        self.cloud.controller.core.store.write(well).await.unwrap();
    }
}

async fn lose(way: &Way, step: &str, victim: usize) {
    let what = format!("{} at {step} without host-{victim}", way.kind);
    let mut site = Site::new().await;
    for (begin, status) in way.before {
        act(&site.cloud, &site.admin, &site.guest, begin).await;
        site.cloud.until(&site.admin, &site.path, SOON, |a| a.json()["server"]["status"] == *status).await;
    }
    let name = format!("host-{victim}");
    let lost = site.id_of(&name).await;
    site.slow();
    act(&site.cloud, &site.admin, &site.guest, way.begin).await;
    site.reached(way.kind, step).await;
    let gone = site.lose(victim, &lost).await;
    let tasks = site.cloud.controller.core.tasks.clone();
    let settled = async || {
        let cloud = &site.cloud;
        assert!(processes(cloud) <= 1, "{what}: it runs twice");
        let open = tasks.list(&Default::default()).await.unwrap().iter().any(|o| o.finished_at.is_none());
        let server = cloud.get(&site.admin, &site.path).await.expect(200)["server"].clone();
        !open && server["OS-EXT-STS:task_state"].is_null() && (server["OS-EXT-SRV-ATTR:host"] != name.as_str() || processes(cloud) == 0)
    };
    eventually(&format!("{what}: nothing is under way"), settled).await;
    site.back(gone, &lost, &what).await;
    let rests = |a: &Answer| {
        let server = &a.json()["server"];
        let known = ["ACTIVE", "VERIFY_RESIZE", "SHELVED_OFFLOADED"].iter().any(|status| server["status"] == *status);
        known && server["OS-EXT-STS:task_state"].is_null()
    };
    let shown = site.cloud.until(&site.admin, &site.path, SOON, rests).await.json()["server"].clone();
    if shown["status"] == "SHELVED_OFFLOADED" {
        // As before: it can be taken from the shelf again.
        assert_eq!((processes(&site.cloud), &shown["OS-EXT-SRV-ATTR:host"]), (0, &Value::Null), "{what}");
        return println!("{what}: on the shelf");
    }
    let place = shown["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_string();
    println!("{what}: {} on {place}", shown["status"]);
    eventually(&format!("{what}: it runs once"), async || processes(&site.cloud) == 1).await;
    let order = [0, 1, 2].into_iter().filter(|n| *n != victim).chain([victim]);
    let of: Vec<usize> = order.zip(&site.cloud.hosts).filter(|(_, h)| !h.hypervisor.running().is_empty()).map(|(n, _)| n).collect();
    assert_eq!(of.iter().map(|n| format!("host-{n}")).collect::<Vec<_>>(), [place], "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_host_that_is_lost_while_a_server_is_evacuated_to_it_leaves_it_to_a_third() {
    for step in ["place", "spawn"] {
        let what = format!("evacuation at {step} without its new host");
        let mut site = Site::new().await;
        let (old, new) = (site.id_of("host-0").await, site.id_of("host-1").await);
        let (store, compute) = (site.cloud.controller.core.store.clone(), site.cloud.controller.compute.clone());
        let leased = async || store.read(|tx| compute.stranded_in(tx, &old)).await.unwrap().iter().all(|s| s.leased);
        eventually("the host confirms", leased).await;
        site.slow();
        let first = site.lose(0, &old).await;
        site.reached("compute.server_evacuate", step).await;
        let second = site.lose(0, &new).await;
        let there = async || {
            assert!(processes(&site.cloud) <= 1, "{what}: it runs twice");
            let server = site.cloud.get(&site.admin, &site.path).await.expect(200)["server"].clone();
            println!(
                "{} {} {} {}",
                server["OS-EXT-SRV-ATTR:host"], server["status"], server["OS-EXT-STS:task_state"], server["fault"]["message"]
            );
            server["OS-EXT-SRV-ATTR:host"] == "host-2" && server["status"] == "ACTIVE" && server["OS-EXT-STS:task_state"].is_null()
        };
        eventually(&format!("{what}: it runs on the third"), there).await;
        site.back(first, &old, &what).await;
        site.back(second, &new, &what).await;
        assert_eq!(site.cloud.hosts[0].hypervisor.running(), std::slice::from_ref(&site.guest), "{what}");
        assert_eq!(processes(&site.cloud), 1, "{what}");
    }
}

/// VIM specification, acceptance 22: a few at a time, and each gets elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_guests_of_a_lost_host_run_elsewhere_a_few_at_a_time() {
    const GUESTS: usize = 500;
    const AT_ONCE: usize = 8;
    // Machines that are large enough, as they say.
    let Site { cloud, admin, guest, path } =
        Site::with_settings(&[("host.cpu_allocation_ratio", "1000"), ("host.ram_allocation_ratio", "1000")]).await;
    cloud.delete(&admin, &path).await;
    cloud.until(&admin, &path, SOON, |a| a.status == 404).await;
    let quotas = json!({"quota_set": {"instances": -1, "cores": -1, "ram": -1}});
    cloud.put(&admin, &format!("/compute/v2.1/os-quota-sets/{}", admin.project_id), quotas).await.expect(200);
    let flavor = json!({"flavor": {"id": "least", "name": "least", "vcpus": 1, "ram": 16, "disk": 0}});
    cloud.post(&admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    let image = cloud.get(&admin, "/image/v2/images").await.expect(200)["images"][0]["id"].clone();
    let many = json!({"server": {
        "name": "many", "flavorRef": "least", "imageRef": image, "networks": "none", "availability_zone": "nova:host-0", "min_count": GUESTS,
    }});
    let asked = cloud.request("POST", "/compute/v2.1/servers").token(&admin).header("openstack-api-version", "compute 2.37").json(&many);
    asked.send().await.expect(202);
    let all = "/compute/v2.1/servers/detail?limit=1000";
    let run_on = |answer: &Answer, hosts: &[&str]| {
        let servers = answer.json()["servers"].as_array().unwrap().clone();
        let runs = |server: &&Value| server["status"] == "ACTIVE" && hosts.iter().any(|host| server["OS-EXT-SRV-ATTR:host"] == *host);
        servers.len() == GUESTS && servers.iter().filter(runs).count() == GUESTS
    };
    cloud.until(&admin, all, SOON, |a| run_on(a, &["host-0"])).await;
    let (store, compute) = (cloud.controller.core.store.clone(), cloud.controller.compute.clone());
    let mut site = Site { cloud, admin, guest, path };
    let lost = site.id_of("host-0").await;
    let leased = async || store.read(|tx| compute.stranded_in(tx, &lost)).await.unwrap().iter().filter(|s| s.leased).count();
    eventually("the host confirms", async || leased().await == GUESTS).await;

    let began = std::time::Instant::now();
    let gone = site.lose(0, &lost).await;
    let elsewhere = async || {
        let running = store.read(|tx| compute.evacuations_running_in(tx)).await.unwrap();
        assert!(running <= AT_ONCE, "{running} at once");
        run_on(&site.cloud.get(&site.admin, all).await, &["host-1", "host-2"])
    };
    eventually("all run elsewhere", elsewhere).await;
    println!("{GUESTS} guests run elsewhere after {:?}", began.elapsed());
    let each: std::collections::BTreeSet<String> = site.cloud.hosts.iter().flat_map(|host| host.hypervisor.running()).collect();
    assert_eq!((each.len(), processes(&site.cloud)), (GUESTS, GUESTS), "each runs once");
    site.back(gone, &lost, "a host that had many guests").await;
    assert_eq!(processes(&site.cloud), GUESTS);
}
