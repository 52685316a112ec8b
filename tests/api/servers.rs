//! Servers on simulated hosts: their day, their death and return, and what a crash of the controller leaves.

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Cloud, Token};

const SOON: Duration = Duration::from_secs(20);

/// A flavor, an image and a network: what a first server needs. Returns the body of its request.
pub async fn ready(cloud: &Cloud, token: &Token) -> Value {
    let admin = cloud.admin().await;
    let flavor = json!({"flavor": {"id": "tiny", "name": "tiny", "vcpus": 1, "ram": 128, "disk": 1}});
    cloud.post(&admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    let image = json!({"name": "i", "disk_format": "raw", "container_format": "bare", "visibility": "public"});
    let image = cloud.post(&admin, "/image/v2/images", image).await.expect(201)["id"].as_str().unwrap().to_string();
    let path = format!("/image/v2/images/{image}/file");
    assert_eq!(cloud.request("PUT", &path).token(&admin).text("application/octet-stream", vec![7u8; 4096]).send().await.status, 204);
    let network = cloud.post(token, "/network/v2.0/networks", json!({"network": {"name": "n"}})).await.expect(201)["network"]["id"].clone();
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24"}});
    cloud.post(token, "/network/v2.0/subnets", subnet).await.expect(201);
    json!({"server": {"name": "s", "flavorRef": "tiny", "imageRef": image, "networks": [{"uuid": network}]}})
}

async fn create(cloud: &Cloud, token: &Token, body: &Value) -> String {
    cloud.post(token, "/compute/v2.1/servers", body.clone()).await.expect(202)["server"]["id"].as_str().unwrap().to_string()
}

async fn becomes(cloud: &Cloud, token: &Token, id: &str, status: &str) -> Value {
    let path = format!("/compute/v2.1/servers/{id}");
    let answer = cloud.until(token, &path, SOON, |a| [status, "ERROR"].iter().any(|s| a.json()["server"]["status"] == *s)).await.json();
    assert_eq!(answer["server"]["status"], status, "{answer}");
    answer["server"].clone()
}

async fn goes(cloud: &Cloud, token: &Token, id: &str) {
    assert_eq!(cloud.delete(token, &format!("/compute/v2.1/servers/{id}")).await.status, 204);
    cloud.until(token, &format!("/compute/v2.1/servers/{id}"), SOON, |a| a.status == 404).await;
}

/// Nothing of any server is left anywhere.
async fn nothing_left(cloud: &Cloud, token: &Token) {
    let started = std::time::Instant::now();
    loop {
        let ports = cloud.get(token, "/network/v2.0/ports?device_owner=compute:nova").await.expect(200);
        let consumers = cloud.controller.placement.consumers().await.unwrap();
        let traces: Vec<String> = cloud.hosts.iter().flat_map(|h| h.hypervisor.traces()).collect();
        if ports["ports"] == json!([]) && consumers.is_empty() && traces.is_empty() {
            return;
        }
        assert!(started.elapsed() < SOON, "left: {ports} {consumers:?} {traces:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_day() {
    let cloud = Cloud::start().await;
    let member = cloud.tenant("demo", "member").await;
    let body = ready(&cloud, &member).await;
    let id = create(&cloud, &member, &body).await;
    let server = becomes(&cloud, &member, &id, "ACTIVE").await;
    assert_eq!(server["addresses"]["n"][0]["version"], 4, "{server}");
    assert_eq!(cloud.hosts[0].hypervisor.running(), vec![id.clone()]);
    let action = format!("/compute/v2.1/servers/{id}/action");
    for (verb, status) in
        [(json!({"os-stop": null}), "SHUTOFF"), (json!({"os-start": null}), "ACTIVE"), (json!({"reboot": {"type": "HARD"}}), "ACTIVE")]
    {
        assert_eq!(cloud.post(&member, &action, verb.clone()).await.status, 202, "{verb}");
        becomes(&cloud, &member, &id, status).await;
    }
    let stranger = cloud.tenant("stranger", "member").await;
    assert_eq!(cloud.get(&stranger, &format!("/compute/v2.1/servers/{id}")).await.status, 404);
    assert_eq!(cloud.delete(&stranger, &format!("/compute/v2.1/servers/{id}")).await.status, 404);
    goes(&cloud, &member, &id).await;
    nothing_left(&cloud, &member).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_of_the_floating_address_it_gets_and_loses() {
    let cloud = Cloud::start().await;
    let (admin, member) = (cloud.admin().await, cloud.tenant("demo", "member").await);
    let body = ready(&cloud, &member).await;
    let outside = json!({"network": {"name": "out", "router:external": true, "provider:network_type": "flat", "provider:physical_network": "public"}});
    let outside = cloud.post(&admin, "/network/v2.0/networks", outside).await.expect(201)["network"]["id"].clone();
    let subnet = json!({"subnet": {"network_id": outside, "ip_version": 4, "cidr": "172.24.4.0/24"}});
    cloud.post(&admin, "/network/v2.0/subnets", subnet).await.expect(201);
    let router = json!({"router": {"external_gateway_info": {"network_id": outside}}});
    let router = cloud.post(&member, "/network/v2.0/routers", router).await.expect(201)["router"]["id"].as_str().unwrap().to_string();
    let subnets = cloud.get(&member, "/network/v2.0/subnets?cidr=10.9.0.0/24").await.expect(200);
    let join = json!({"subnet_id": subnets["subnets"][0]["id"]});
    cloud.put(&member, &format!("/network/v2.0/routers/{router}/add_router_interface"), join).await.expect(200);

    let id = create(&cloud, &member, &body).await;
    becomes(&cloud, &member, &id, "ACTIVE").await;
    let ports = cloud.get(&member, &format!("/network/v2.0/ports?device_id={id}")).await.expect(200);
    let wanted = json!({"floatingip": {"floating_network_id": outside, "port_id": ports["ports"][0]["id"]}});
    let floating = cloud.post(&member, "/network/v2.0/floatingips", wanted).await.expect(201)["floatingip"].clone();
    let reads = async |address: &str| {
        let started = std::time::Instant::now();
        while cloud.hosts[0].wire.metadata(&id).is_none_or(|m| m.ec2["public-ipv4"] != address) {
            assert!(started.elapsed() < SOON, "the guest does not read {address:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    reads(floating["floating_ip_address"].as_str().unwrap()).await;
    let path = format!("/network/v2.0/floatingips/{}", floating["id"].as_str().unwrap());
    cloud.put(&member, &path, json!({"floatingip": {"port_id": null}})).await.expect(200);
    reads("").await;
    // With an address again: what goes along with the server must not get in its way.
    cloud.put(&member, &path, json!({"floatingip": {"port_id": ports["ports"][0]["id"]}})).await.expect(200);
    goes(&cloud, &member, &id).await;
    nothing_left(&cloud, &member).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_guest_returns_and_its_alarm_comes_and_goes() {
    let cloud = Cloud::start().await;
    let admin = cloud.admin().await;
    let body = ready(&cloud, &admin).await;
    let id = create(&cloud, &admin, &body).await;
    becomes(&cloud, &admin, &id, "ACTIVE").await;
    assert!(cloud.hosts[0].hypervisor.kill(&id, "killed by SIGKILL"));
    let events =
        |a: &testing::Answer| a.json()["event_log"].as_array().map(|l| l.iter().filter(|e| e["event_log_id"] == "700.001").count());
    cloud.until(&admin, "/fault/v1/event_log?alarms=true", SOON, |a| events(a) == Some(2)).await;
    cloud.until(&admin, "/fault/v1/alarms", SOON, |a| a.json()["alarms"] == json!([])).await;
    becomes(&cloud, &admin, &id, "ACTIVE").await;
    assert_eq!(cloud.hosts[0].hypervisor.starts(), 2);
    // A guest that switches itself off is stopped, not healed.
    assert!(cloud.hosts[0].hypervisor.shut_down(&id));
    becomes(&cloud, &admin, &id, "SHUTOFF").await;
    assert_eq!(cloud.hosts[0].hypervisor.starts(), 2);
    goes(&cloud, &admin, &id).await;
    nothing_left(&cloud, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_start_a_guest_is_passed_over() {
    let cloud = Cloud::with_hosts(2).await;
    let admin = cloud.admin().await;
    let body = ready(&cloud, &admin).await;
    for host in &cloud.hosts {
        host.hypervisor.trouble(|t| t.starts_fail.push_back("the disk is on fire".into()));
    }
    // Both refuse the first guest they see.
    let id = create(&cloud, &admin, &body).await;
    let server = cloud
        .until(&admin, &format!("/compute/v2.1/servers/{id}"), SOON, |a| {
            matches!(a.json()["server"]["status"].as_str(), Some("ACTIVE" | "ERROR"))
        })
        .await
        .json();
    assert_eq!(server["server"]["status"], "ERROR", "{server}");
    assert!(server["server"]["fault"]["message"].is_string(), "{server}");
    goes(&cloud, &admin, &id).await;
    let id = create(&cloud, &admin, &body).await;
    becomes(&cloud, &admin, &id, "ACTIVE").await;
    goes(&cloud, &admin, &id).await;
    nothing_left(&cloud, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_anything_ends_well() {
    let mut cloud = Cloud::start().await;
    let admin = cloud.admin().await;
    let body = ready(&cloud, &admin).await;
    for patience in [0, 1, 3, 8, 20, 60] {
        let created = create(&cloud, &admin, &body).await;
        tokio::time::sleep(Duration::from_millis(patience)).await;
        cloud = cloud.crash().await;
        becomes(&cloud, &admin, &created, "ACTIVE").await;
        assert_eq!(cloud.delete(&admin, &format!("/compute/v2.1/servers/{created}")).await.status, 204);
        tokio::time::sleep(Duration::from_millis(patience)).await;
        cloud = cloud.crash().await;
        cloud.until(&admin, &format!("/compute/v2.1/servers/{created}"), SOON, |a| a.status == 404).await;
    }
    nothing_left(&cloud, &admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once_and_the_quota_holds() {
    let cloud = Cloud::start().await;
    let member = cloud.tenant("demo", "member").await;
    let mut body = ready(&cloud, &member).await;
    body["server"]["min_count"] = json!(10);
    body["server"]["max_count"] = json!(20);
    let first = create(&cloud, &member, &body).await;
    becomes(&cloud, &member, &first, "ACTIVE").await;
    let all = |status: &'static str| {
        move |a: &testing::Answer| a.json()["servers"].as_array().is_some_and(|l| l.len() == 10 && l.iter().all(|s| s["status"] == status))
    };
    let list = cloud.until(&member, "/compute/v2.1/servers/detail", SOON, all("ACTIVE")).await.json();
    body["server"].as_object_mut().unwrap().remove("min_count");
    body["server"].as_object_mut().unwrap().remove("max_count");
    let refused = cloud.post(&member, "/compute/v2.1/servers", body).await;
    assert_eq!((refused.status, refused.json()["forbidden"]["code"].as_u64()), (403, Some(403)));
    for server in list["servers"].as_array().unwrap() {
        goes(&cloud, &member, server["id"].as_str().unwrap()).await;
    }
    nothing_left(&cloud, &member).await;
}
