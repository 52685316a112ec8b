//! Servers whose ports are promised bandwidth and packets: placement gives them on the host that the server is on, wherever that is.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};

use crate::world::{PATIENCE, World};

const EGRESS: &str = "NET_BW_EGR_KILOBIT_PER_SEC";
const INGRESS: &str = "NET_BW_IGR_KILOBIT_PER_SEC";
const PACKETS: &str = "NET_PACKET_RATE_KILOPACKET_PER_SEC";

/// A cloud whose hosts promise so many kilobits per second on tunnels, and ten thousand packets, and a policy with a rule that promises
/// 1000 kilobits.
struct Wired {
    w: World,
    policy: String,
    rule: String,
}

impl Wired {
    async fn new(kilobits: &[u64]) -> Wired {
        let mut w = World::with_hosts(kilobits.len()).await;
        for (number, n) in kilobits.iter().enumerate() {
            let host = &mut w.cloud.hosts[number];
            host.settings.push(("host.resource_provider_bandwidths", format!("rp_tunnelled:{n}:{n}")));
            host.settings.push(("host.resource_provider_packet_processing", ":10".into()));
            host.vanish().await;
            w.cloud.host_return(number).await;
        }
        let policy = json!({"policy": {"name": "gold", "shared": true}});
        let policy = w.cloud.post(&w.admin, "/network/v2.0/qos/policies", policy).await.expect(201)["policy"]["id"].clone();
        let policy = policy.as_str().unwrap().to_string();
        let rules = format!("/network/v2.0/qos/policies/{policy}/minimum_bandwidth_rules");
        let rule = w.cloud.post(&w.admin, &rules, json!({"minimum_bandwidth_rule": {"min_kbps": 1000}})).await.expect(201);
        let rule = rule["minimum_bandwidth_rule"]["id"].as_str().unwrap().to_string();
        let wired = Wired { w, policy, rule };
        wired.promised(kilobits.len()).await;
        wired
    }

    /// Waits until so many hosts promise bandwidth.
    async fn promised(&self, hosts: usize) {
        let started = Instant::now();
        loop {
            let path = format!("/placement/resource_providers?resources={EGRESS}:1");
            let request = self.w.cloud.request("GET", &path).token(&self.w.admin);
            let answer = request.header("openstack-api-version", "placement 1.39").send().await.expect(200);
            if answer["resource_providers"].as_array().is_some_and(|all| all.len() == hosts) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{answer}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn port(&self) -> String {
        self.port_with(Some(&self.policy)).await
    }

    async fn port_with(&self, policy: Option<&str>) -> String {
        let port = json!({"port": {"network_id": self.w.network, "qos_policy_id": policy}});
        let made = self.w.cloud.post(&self.w.tenant, "/network/v2.0/ports", port).await.expect(201);
        made["port"]["id"].as_str().unwrap().to_string()
    }

    async fn seen(&self, port: &str) -> Value {
        self.w.cloud.get(&self.w.admin, &format!("/network/v2.0/ports/{port}")).await.expect(200)["port"].clone()
    }

    /// A policy with rules of these types, directions and amounts.
    async fn policy(&self, rules: &[(&str, &str, u64)]) -> String {
        let w = &self.w;
        let policy = json!({"policy": {"name": "other", "shared": true}});
        let policy = w.cloud.post(&w.admin, "/network/v2.0/qos/policies", policy).await.expect(201)["policy"]["id"].clone();
        let policy = policy.as_str().unwrap().to_string();
        for (kind, direction, amount) in rules {
            let amount_name = if *kind == "minimum_bandwidth" { "min_kbps" } else { "min_kpps" };
            let rule = json!({format!("{kind}_rule"): {"direction": direction, amount_name: amount}});
            w.cloud.post(&w.admin, &format!("/network/v2.0/qos/policies/{policy}/{kind}_rules"), rule).await.expect(201);
        }
        policy
    }

    /// The kilobits that a consumer has, by the name of the provider, which is also who the port says it is from.
    async fn claimed(&self, consumer: &str) -> Vec<(String, u64)> {
        self.claimed_of(consumer, EGRESS).await
    }

    async fn claimed_of(&self, consumer: &str, class: &str) -> Vec<(String, u64)> {
        let answer = self.w.cloud.get(&self.w.admin, &format!("/placement/allocations/{consumer}")).await.expect(200);
        let mut found = Vec::new();
        for (uuid, given) in answer["allocations"].as_object().unwrap() {
            if let Some(n) = given["resources"][class].as_u64() {
                let provider = self.w.cloud.get(&self.w.admin, &format!("/placement/resource_providers/{uuid}")).await.expect(200);
                found.push((provider["name"].as_str().unwrap().to_string(), n));
            }
        }
        found
    }

    /// Whether the port names the provider of its host as the one that gives what it asks for.
    async fn agrees(&self, port: &str, host: &str) {
        let port = self.seen(port).await;
        let group = port["resource_request"]["request_groups"][0]["id"].as_str().unwrap();
        let provider = port["binding:profile"]["allocation"][group].as_str().unwrap();
        let provider = self.w.cloud.get(&self.w.admin, &format!("/placement/resource_providers/{provider}")).await.expect(200);
        assert_eq!(provider["name"], json!(format!("{host}:rp_tunnelled")));
    }

    async fn with(&self, port: &str) -> String {
        self.w.create(json!({"networks": [{"port": port}]})).await
    }

    async fn host(&self, id: &str) -> String {
        let server = self.w.call(&self.w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200);
        server["server"]["OS-EXT-SRV-ATTR:host"].as_str().unwrap_or_default().to_string()
    }

    async fn admin(&self, id: &str, body: Value) {
        let answer = self.w.call(&self.w.admin, "POST", &format!("/servers/{id}/action"), Some(body), "2.104").await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }

    async fn port_put(&self, port: &str, change: Value) -> u16 {
        let request = self.w.cloud.request("PUT", &format!("/network/v2.0/ports/{port}")).token(&self.w.admin);
        request.json(&json!({"port": change})).send().await.status
    }

    /// Has a host promise another number of kilobits.
    async fn promise(&mut self, number: usize, kilobits: u64) {
        let host = &mut self.w.cloud.hosts[number];
        host.settings.push(("host.resource_provider_bandwidths", format!("rp_tunnelled:{kilobits}:{kilobits}")));
        host.vanish().await;
        self.w.cloud.host_return(number).await;
        let sql = "SELECT i.total FROM inventory i JOIN provider p ON p.uuid = i.provider WHERE p.name = ?1 AND i.class = ?2";
        let name = format!("host-{number}:rp_tunnelled");
        let started = Instant::now();
        let store = &self.w.cloud.controller.core.store;
        let total = async || store.read(|tx| tx.query_opt(sql, store::params![name, EGRESS], |row| row.count(0))).await.unwrap();
        while total().await != Some(kilobits) {
            assert!(started.elapsed() < PATIENCE, "never heard of");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn change(&self, kilobits: u64) -> u16 {
        let path = format!("/network/v2.0/qos/policies/{}/minimum_bandwidth_rules/{}", self.policy, self.rule);
        let request = self.w.cloud.request("PUT", &path).token(&self.w.admin);
        request.json(&json!({"minimum_bandwidth_rule": {"min_kbps": kilobits}})).send().await.status
    }
}

fn packets(host: &str, thousands: u64) -> Vec<(String, u64)> {
    vec![(format!("{host}:Sturnus host"), thousands)]
}

fn tunnels(host: &str, kilobits: u64) -> Vec<(String, u64)> {
    vec![(format!("{host}:rp_tunnelled"), kilobits)]
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_host_with_room_gets_a_server_and_of_many_as_many_as_fit() {
    let c = Wired::new(&[500, 5500]).await;
    let w = &c.w;
    let quota = json!({"quota_set": {"instances": -1, "cores": -1}});
    let path = format!("/os-quota-sets/{}", w.tenant.project_id);
    assert_eq!(w.call(&w.admin, "PUT", &path, Some(quota), "2.104").await.status, 200);
    let mut servers = Vec::new();
    for _ in 0..16 {
        servers.push((c.with(&c.port().await).await, String::new()));
    }
    for (id, status) in &mut servers {
        let path = format!("/compute/v2.1/servers/{id}");
        let settled = w.cloud.until(&w.tenant, &path, PATIENCE, |a| ["ACTIVE", "ERROR"].iter().any(|s| a.json()["server"]["status"] == *s));
        *status = settled.await.json()["server"]["status"].as_str().unwrap().to_string();
    }
    let winners: Vec<&String> = servers.iter().filter(|(_, status)| status == "ACTIVE").map(|(id, _)| id).collect();
    assert_eq!(winners.len(), 5, "{servers:?}");
    for id in winners {
        assert_eq!((c.host(id).await, c.claimed(id).await), ("host-1".to_string(), tunnels("host-1", 1000)));
    }
    for (id, _) in &servers {
        assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
        w.gone(id).await;
    }
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), Vec::<String>::new());
    // What was theirs is there for others.
    let port = c.port().await;
    let id = c.with(&port).await;
    w.wait(&id, "ACTIVE").await;
    c.agrees(&port, "host-1").await;
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    assert_eq!(c.seen(&port).await["binding:profile"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_come_and_go_with_a_running_server() {
    let c = Wired::new(&[1500]).await;
    let w = &c.w;
    let id = w.active(json!({})).await;
    assert_eq!(c.claimed(&id).await, []);
    let (first, second) = (c.port().await, c.port().await);
    let attach = |port: &str| (format!("/servers/{id}/os-interface"), json!({"interfaceAttachment": {"port_id": port}}));
    let (path, body) = attach(&first);
    assert_eq!(w.post(&path, body, "2.104").await.status, 200);
    assert_eq!(c.claimed(&id).await, tunnels("host-0", 1000));
    c.agrees(&first, "host-0").await;
    let (path, body) = attach(&second);
    let refused = w.post(&path, body, "2.104").await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!((&c.seen(&second).await["device_id"], c.claimed(&id).await), (&json!(""), tunnels("host-0", 1000)));

    // The rule changes under it: as far as its host can follow.
    assert_eq!((c.change(1501).await, c.change(1500).await), (409, 200));
    assert_eq!(c.claimed(&id).await, tunnels("host-0", 1500));
    c.agrees(&first, "host-0").await;
    assert_eq!(c.change(700).await, 200);
    let (path, body) = attach(&second);
    assert_eq!(w.post(&path, body, "2.104").await.status, 200);
    assert_eq!(c.claimed(&id).await, tunnels("host-0", 1400));
    assert_eq!(c.change(751).await, 409, "both of them would not fit");

    // One goes by compute, the other by the network.
    assert_eq!(w.delete(&format!("/servers/{id}/os-interface/{first}"), "2.104").await.status, 202);
    let started = Instant::now();
    while c.claimed(&id).await != tunnels("host-0", 700) {
        assert!(started.elapsed() < PATIENCE, "never given back");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(c.seen(&first).await["binding:profile"], json!({}));
    w.wait(&id, "ACTIVE").await;
    assert_eq!(c.port_put(&second, json!({"device_id": ""})).await, 200);
    assert_eq!((c.claimed(&id).await, c.seen(&second).await["binding:profile"].clone()), (vec![], json!({})), "given to nobody");
    assert_eq!(c.port_put(&second, json!({"device_id": id})).await, 200);
    assert_eq!((c.claimed(&id).await, c.seen(&second).await["binding:profile"].clone()), (vec![], json!({})), "compute did not give it");
    assert_eq!(c.port_put(&second, json!({"device_id": ""})).await, 200);
    let (path, body) = attach(&second);
    assert_eq!(w.post(&path, body, "2.104").await.status, 200);
    assert_eq!(c.claimed(&id).await, tunnels("host-0", 700));
    c.agrees(&second, "host-0").await;
    // Less is fine whatever the server does, more is not.
    let task = async |task: Option<&'static str>| {
        let id = id.clone();
        let put = move |tx: &store::Tx| tx.execute("UPDATE server SET task_state = ?2 WHERE id = ?1", store::params![id, task]).map(drop);
        w.cloud.controller.core.store.write(put).await.unwrap();
    };
    task(Some("rebooting")).await;
    assert_eq!((c.change(701).await, c.change(600).await), (409, 200));
    assert_eq!(c.claimed(&id).await, tunnels("host-0", 600));
    let gone = w.cloud.request("DELETE", &format!("/network/v2.0/ports/{second}")).token(&w.tenant).send().await;
    assert_eq!((gone.status, c.claimed(&id).await), (204, vec![]));
    task(None).await;
    w.wait(&id, "ACTIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_port_takes_nothing_of_a_server() {
    let c = Wired::new(&[1500]).await;
    let w = &c.w;
    let id = w.active(json!({})).await;
    let stranger = w.cloud.tenant("stranger", "member").await;
    let network = json!({"network": {"name": "theirs"}});
    let network = w.cloud.post(&stranger, "/network/v2.0/networks", network).await.expect(201)["network"]["id"].clone();
    let port = json!({"port": {"network_id": network, "qos_policy_id": c.policy, "device_id": id}});
    assert_eq!(w.cloud.post(&stranger, "/network/v2.0/ports", port).await.status, 409);
    let port = json!({"port": {"network_id": network, "qos_policy_id": c.policy}});
    let port = w.cloud.post(&stranger, "/network/v2.0/ports", port).await.expect(201)["port"]["id"].as_str().unwrap().to_string();
    assert_eq!(c.port_put(&port, json!({"device_id": id})).await, 200, "an administrator may");
    let own = c.port().await;
    let body = json!({"interfaceAttachment": {"port_id": own}});
    assert_eq!(w.post(&format!("/servers/{id}/os-interface"), body, "2.104").await.status, 200);
    assert_eq!(c.claimed(&id).await, tunnels("host-0", 1000), "for its own");
    let port = c.seen(&port).await;
    assert_eq!((&port["binding:host_id"], &port["binding:profile"]), (&json!(""), &json!({})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_promised_too_much_can_be_left_and_returned_to() {
    let mut c = Wired::new(&[2500, 2500]).await;
    let port = c.port().await;
    let id = c.with(&port).await;
    c.w.wait(&id, "ACTIVE").await;
    let at = c.host(&id).await;
    let (number, first, second) = if at == "host-0" { (0, "host-0", "host-1") } else { (1, "host-1", "host-0") };
    assert_eq!(c.claimed(&id).await, tunnels(first, 1000));
    c.promise(number, 500).await;
    // A new size on the same host, and the old one again.
    let w = &c.w;
    let flavor = json!({"flavor": {"id": "2", "name": "m1.small", "ram": 128, "vcpus": 1, "disk": 1}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    for end in ["revertResize", "confirmResize"] {
        assert_eq!(w.act(&id, json!({"resize": {"flavorRef": "2"}})).await.status, 202);
        w.wait(&id, "VERIFY_RESIZE").await;
        assert_eq!((c.host(&id).await, c.claimed(&id).await), (first.to_string(), tunnels(first, 1000)));
        assert!(w.act(&id, json!({end: null})).await.status < 300);
        w.wait(&id, "ACTIVE").await;
        assert_eq!(c.claimed(&id).await, tunnels(first, 1000));
    }
    // To another host, and back; meanwhile nothing can make that impossible.
    c.admin(&id, json!({"migrate": {"host": null}})).await;
    w.wait(&id, "VERIFY_RESIZE").await;
    assert_eq!((c.host(&id).await, c.claimed(&id).await), (second.to_string(), tunnels(second, 1000)));
    assert_eq!((c.change(1100).await, c.change(900).await), (409, 200));
    assert_eq!(c.claimed(&id).await, tunnels(second, 900));
    assert_eq!(w.act(&id, json!({"revertResize": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!((c.host(&id).await, c.claimed(&id).await), (first.to_string(), tunnels(first, 900)));
    c.agrees(&port, first).await;
    c.admin(&id, json!({"os-migrateLive": {"host": null, "block_migration": "auto"}})).await;
    w.wait(&id, "ACTIVE").await;
    assert_eq!((c.host(&id).await, c.claimed(&id).await), (second.to_string(), tunnels(second, 900)));
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_network_promises_its_ports_follows_their_server() {
    let c = Wired::new(&[2500, 2500]).await;
    let w = &c.w;
    let put = json!({"network": {"qos_policy_id": c.policy}});
    let network = format!("/network/v2.0/networks/{}", w.network);
    assert_eq!(w.cloud.request("PUT", &network).token(&w.tenant).json(&put).send().await.status, 200);
    let id = w.active(json!({})).await;
    let other = |host: &str| if host == "host-0" { "host-1" } else { "host-0" }.to_string();
    let first = c.host(&id).await;
    assert_eq!(c.claimed(&id).await, tunnels(&first, 1000));
    let ports = w.cloud.get(&w.admin, &format!("/network/v2.0/ports?device_id={id}")).await.expect(200);
    let port = ports["ports"][0]["id"].as_str().unwrap().to_string();
    c.agrees(&port, &first).await;

    c.admin(&id, json!({"os-migrateLive": {"host": null, "block_migration": "auto"}})).await;
    w.wait(&id, "ACTIVE").await;
    let second = other(&first);
    assert_eq!((c.host(&id).await, c.claimed(&id).await), (second.clone(), tunnels(&second, 1000)));
    c.agrees(&port, &second).await;

    // While a resize can be taken back, both hosts keep what it needs.
    c.admin(&id, json!({"migrate": {"host": null}})).await;
    w.wait(&id, "VERIFY_RESIZE").await;
    assert_eq!(c.claimed(&id).await, tunnels(&first, 1000));
    let consumers: BTreeSet<String> = w.cloud.controller.placement.consumers().await.unwrap().into_iter().collect();
    let migration = consumers.iter().find(|consumer| **consumer != id).unwrap();
    assert_eq!(c.claimed(migration).await, tunnels(&second, 1000));
    assert_eq!(w.act(&id, json!({"revertResize": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!((c.host(&id).await, c.claimed(&id).await), (second.clone(), tunnels(&second, 1000)));
    c.agrees(&port, &second).await;

    // On the shelf it has nothing.
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    w.wait(&id, "SHELVED_OFFLOADED").await;
    assert_eq!(c.claimed(&id).await, []);
    assert_eq!(w.act(&id, json!({"unshelve": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    let now = c.host(&id).await;
    assert_eq!(c.claimed(&id).await, tunnels(&now, 1000));
    c.agrees(&port, &now).await;
    // Without the policy nothing.
    let none = json!({"network": {"qos_policy_id": null}});
    assert_eq!(w.cloud.request("PUT", &network).token(&w.tenant).json(&none).send().await.status, 200);
    assert_eq!((c.claimed(&id).await, c.seen(&port).await["binding:profile"].clone()), (vec![], json!({})));
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_and_bandwidth_come_from_two_providers() {
    let c = Wired::new(&[2500]).await;
    let w = &c.w;
    let both = c.policy(&[("minimum_bandwidth", "egress", 1000), ("minimum_packet_rate", "any", 6)]).await;
    let port = c.port_with(Some(&both)).await;
    let id = c.with(&port).await;
    w.wait(&id, "ACTIVE").await;
    assert_eq!((c.claimed(&id).await, c.claimed_of(&id, PACKETS).await), (tunnels("host-0", 1000), packets("host-0", 6)));
    let seen = c.seen(&port).await;
    let groups = seen["resource_request"]["request_groups"].as_array().unwrap();
    assert_eq!((groups.len(), &seen["resource_request"]["same_subtree"]), (2, &json!([groups[0]["id"], groups[1]["id"]])));
    let mut givers = BTreeSet::new();
    for (group, name) in groups.iter().zip(["host-0:rp_tunnelled", "host-0:Sturnus host"]) {
        let giver = seen["binding:profile"]["allocation"][group["id"].as_str().unwrap()].as_str().unwrap().to_string();
        let provider = w.cloud.get(&w.admin, &format!("/placement/resource_providers/{giver}")).await.expect(200);
        assert_eq!(provider["name"], json!(name));
        givers.insert(giver);
    }
    assert_eq!(givers.len(), 2);
    // Who asks for more packets than are left gets nowhere.
    let second = c.with(&c.port_with(Some(&both)).await).await;
    let failed = w.wait(&second, "ERROR").await;
    assert!(failed["fault"]["message"].as_str().unwrap().contains("No valid host"), "{failed}");
    assert_eq!(c.claimed_of(&second, PACKETS).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_port_had_nothing_of_it_gets_when_its_server_moves() {
    let c = Wired::new(&[2500, 2500]).await;
    let w = &c.w;
    let has = async |id: &str| {
        let mut has = Vec::new();
        for class in [EGRESS, INGRESS, PACKETS] {
            has.push(c.claimed_of(id, class).await.into_iter().map(|(_, n)| n).sum::<u64>());
        }
        has
    };
    let both = c.policy(&[("minimum_bandwidth", "egress", 2000), ("minimum_packet_rate", "any", 6)]).await;
    let (bare, port) = (c.port_with(None).await, c.port().await);
    let id = w.create(json!({"networks": [{"port": bare}, {"port": port}]})).await;
    w.wait(&id, "ACTIVE").await;
    let first = c.host(&id).await;
    let set = async |port: &str, policy: Option<&str>| c.port_put(port, json!({"qos_policy_id": policy})).await;
    assert_eq!(has(&id).await, [1000, 0, 0]);
    // It had nothing, or bandwidth alone.
    assert_eq!(set(&bare, Some(&both)).await, 200);
    assert_eq!((has(&id).await, c.seen(&bare).await["binding:profile"].clone()), (vec![1000, 0, 0], json!({})));
    assert_eq!(set(&bare, None).await, 200);
    assert_eq!(set(&port, Some(&both)).await, 200);
    assert_eq!(has(&id).await, [2000, 0, 0]);
    assert_eq!(c.seen(&port).await["binding:profile"]["allocation"].as_object().unwrap().len(), 1);
    // Bandwidth in the other direction is bandwidth too.
    let inward = c.policy(&[("minimum_bandwidth", "ingress", 500)]).await;
    assert_eq!(set(&port, Some(&inward)).await, 200);
    assert_eq!(has(&id).await, [0, 500, 0]);
    let much = c.policy(&[("minimum_bandwidth", "ingress", 2501)]).await;
    assert_eq!(set(&port, Some(&much)).await, 409);
    assert_eq!((has(&id).await, &c.seen(&port).await["qos_policy_id"]), (vec![0, 500, 0], &json!(inward)));
    assert_eq!(set(&port, Some(&both)).await, 200);

    // A new host gives all that it asks for by now, and a way back what it had.
    c.admin(&id, json!({"migrate": {"host": null}})).await;
    w.wait(&id, "VERIFY_RESIZE").await;
    assert_ne!(c.host(&id).await, first);
    assert_eq!(has(&id).await, [2000, 0, 6]);
    assert_eq!(w.act(&id, json!({"revertResize": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!((c.host(&id).await, has(&id).await), (first, vec![2000, 0, 0]));
    c.agrees(&port, &c.host(&id).await).await;
    c.admin(&id, json!({"os-migrateLive": {"host": null, "block_migration": "auto"}})).await;
    w.wait(&id, "ACTIVE").await;
    assert_eq!(has(&id).await, [2000, 0, 6]);
    assert_eq!(c.seen(&port).await["binding:profile"]["allocation"].as_object().unwrap().len(), 2);

    // Without a policy it has nothing, and with one again nothing either. A new port gets what it asks for beside it.
    assert_eq!(set(&port, None).await, 200);
    assert_eq!((has(&id).await, c.seen(&port).await["binding:profile"].clone()), (vec![0, 0, 0], json!({})));
    assert_eq!(set(&port, Some(&both)).await, 200);
    assert_eq!(has(&id).await, [0, 0, 0]);
    let new = c.port().await;
    let body = json!({"interfaceAttachment": {"port_id": new}});
    assert_eq!(w.post(&format!("/servers/{id}/os-interface"), body, "2.104").await.status, 200);
    assert_eq!(has(&id).await, [1000, 0, 0]);
}
