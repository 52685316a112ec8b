//! Servers on the shelf, and interfaces that come and go.

use serde_json::{Value, json};
use testing::Answer;

use crate::world::{PATIENCE, World};

fn conflict(answer: &Answer) -> String {
    assert_eq!(answer.status, 409, "{}", answer.text());
    answer.json()["conflictingRequest"]["message"].as_str().unwrap().to_string()
}

async fn until(what: &str, fits: impl Fn() -> bool) {
    let limit = std::time::Instant::now() + PATIENCE;
    while !fits() {
        assert!(std::time::Instant::now() < limit, "never: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn images(w: &World) -> Vec<Value> {
    w.cloud.get(&w.tenant, "/image/v2/images?visibility=private").await.expect(200)["images"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shelved_server_holds_nothing_and_comes_back_with_its_disk_and_addresses() {
    let w = World::with_hosts(2).await;
    let id = w.active(json!({})).await;
    let before = w.wait(&id, "ACTIVE").await;
    assert!(conflict(&w.act(&id, json!({"unshelve": null})).await).contains("Cannot 'unshelve' instance"));
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    let shown = w.wait(&id, "SHELVED_OFFLOADED").await;
    assert_eq!((&shown["OS-EXT-STS:vm_state"], &shown["hostId"]), (&json!("shelved_offloaded"), &json!("")));
    assert_eq!(shown["addresses"], before["addresses"]);
    let made = images(&w).await;
    assert_eq!((made.len(), &made[0]["name"], &made[0]["status"]), (1, &json!("vm-shelved"), &json!("active")));
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), Vec::<String>::new());
    until("nothing is left on the hosts", || w.cloud.hosts.iter().all(|h| h.hypervisor.traces().is_empty())).await;
    let ports = w.cloud.get(&w.admin, &format!("/network/v2.0/ports?device_id={id}")).await.expect(200);
    assert_eq!((&ports["ports"][0]["binding:host_id"], &ports["ports"][0]["status"]), (&json!(""), &json!("DOWN")));
    let offload = Some(json!({"shelveOffload": null}));
    let path = format!("/servers/{id}/action");
    assert_eq!(w.act(&id, json!({"shelveOffload": null})).await.status, 403);
    assert!(conflict(&w.call(&w.admin, "POST", &path, offload, "2.1").await).contains("Cannot 'shelveOffload' instance"));
    for body in
        [json!({"os-start": null}), json!({"reboot": {"type": "HARD"}}), json!({"shelve": null}), json!({"createImage": {"name": "x"}})]
    {
        assert!(conflict(&w.act(&id, body.clone()).await).contains("vm_state shelved_offloaded"), "{body}");
    }
    for (body, version, status) in [
        (json!({"unshelve": {}}), "2.77", 400),
        (json!({"unshelve": {"availability_zone": "nowhere"}}), "2.77", 400),
        (json!({"unshelve": {"host": "host-1"}}), "2.90", 400),
        (json!({"unshelve": {"host": "host-1"}}), "2.91", 403),
    ] {
        let answer = w.post(&path, body.clone(), version).await;
        assert_eq!(answer.status, status, "{body} {version} {}", answer.text());
    }
    let to = |host: &str| json!({"unshelve": {"host": host, "availability_zone": null}});
    assert_eq!(w.call(&w.admin, "POST", &path, Some(to("nowhere")), "2.91").await.status, 400);
    assert_eq!(w.call(&w.admin, "POST", &path, Some(to("host-1")), "2.91").await.status, 202);
    let after = w.wait(&id, "ACTIVE").await;
    assert_eq!((&after["addresses"], &after["image"]["id"]), (&before["addresses"], &before["image"]["id"]));
    let shown = w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200);
    assert_eq!(shown["server"]["OS-EXT-SRV-ATTR:host"], "host-1");
    assert_eq!(w.cloud.hosts[1].hypervisor.running(), std::slice::from_ref(&id));
    assert_eq!(w.cloud.hosts[1].hypervisor.disks(&id).len(), 1);
    w.cloud.until(&w.tenant, "/image/v2/images?visibility=private", PATIENCE, |a| a.json()["images"] == json!([])).await;
    // Once more, then deleted on the shelf: its image goes with it.
    assert_eq!(w.act(&id, json!({"suspend": null})).await.status, 202);
    w.wait(&id, "SUSPENDED").await;
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    w.wait(&id, "SHELVED_OFFLOADED").await;
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    assert_eq!(images(&w).await, Vec::<Value>::new());
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shelving_or_unshelving_that_fails_is_taken_back() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let machine = &w.cloud.hosts[0].hypervisor;
    machine.trouble(|t| t.full = true);
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    until("it runs again", || machine.running() == [id.clone()]).await;
    assert_eq!((images(&w).await, machine.copies()), (vec![], 0));
    machine.trouble(|t| t.full = false);
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    w.wait(&id, "SHELVED_OFFLOADED").await;
    machine.trouble(|t| t.starts_fail.push_back("no luck".into()));
    assert_eq!(w.act(&id, json!({"unshelve": null})).await.status, 202);
    w.wait(&id, "SHELVED_OFFLOADED").await;
    until("nothing is left", || machine.traces().is_empty()).await;
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), Vec::<String>::new());
    assert_eq!(w.act(&id, json!({"unshelve": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!(machine.running(), [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_come_and_go() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let machine = &w.cloud.hosts[0].hypervisor;
    let first = machine.cards(&id);
    assert_eq!(first.len(), 1);
    let of = format!("/servers/{id}/os-interface");
    let added = w.post(&of, json!({"interfaceAttachment": {"net_id": w.network, "tag": "second"}}), "2.70").await.expect(200);
    let added = &added["interfaceAttachment"];
    let port = added["port_id"].as_str().unwrap().to_string();
    assert_eq!((&added["net_id"], &added["tag"]), (&json!(w.network), &json!("second")));
    assert!(added["fixed_ips"][0]["ip_address"].as_str().unwrap().starts_with("10.1.0."));
    assert!(machine.cards(&id).contains(&port), "the guest has its card");
    let listed = w.get(&of, "2.1").await.expect(200);
    assert_eq!(listed["interfaceAttachments"].as_array().unwrap().len(), 2);
    assert_eq!(w.wait(&id, "ACTIVE").await["addresses"]["private"].as_array().unwrap().len(), 2);
    // A port of the user's, with an address of his choice.
    let own = json!({"port": {"network_id": w.network, "fixed_ips": [{"ip_address": "10.1.0.77"}]}});
    let own = w.cloud.post(&w.tenant, "/network/v2.0/ports", own).await.expect(201)["port"]["id"].as_str().unwrap().to_string();
    w.post(&of, json!({"interfaceAttachment": {"port_id": own}}), "2.1").await.expect(200);
    assert_eq!(machine.cards(&id).len(), 3);
    for (body, version, status) in [
        (json!({"port_id": own}), "2.1", 409),
        (json!({"port_id": id}), "2.1", 404),
        (json!({"net_id": id}), "2.1", 404),
        (json!({"net_id": w.network, "port_id": own}), "2.1", 400),
        (json!({"fixed_ips": [{"ip_address": "10.1.0.9"}]}), "2.1", 400),
        (json!({"net_id": w.network, "fixed_ips": [{"ip_address": "10.1.0.77"}]}), "2.1", 409),
        (json!({"net_id": w.network, "fixed_ips": []}), "2.1", 400),
        (json!({"net_id": w.network, "tag": "x"}), "2.48", 400),
        (json!({"net_id": "x"}), "2.1", 400),
    ] {
        let answer = w.post(&of, json!({"interfaceAttachment": body}), version).await;
        assert_eq!(answer.status, status, "{body} {}", answer.text());
    }
    // Out again: the user's port stays, ours goes.
    for port in [&own, &port] {
        assert_eq!(w.delete(&format!("{of}/{port}"), "2.1").await.status, 202);
        w.cloud.until(&w.tenant, &format!("/compute/v2.1{of}/{port}"), PATIENCE, |a| a.status == 404).await;
    }
    assert_eq!(machine.cards(&id), first);
    let kept = w.cloud.get(&w.tenant, &format!("/network/v2.0/ports/{own}")).await.expect(200);
    assert_eq!(kept["port"]["device_id"], "");
    assert_eq!(w.cloud.get(&w.tenant, &format!("/network/v2.0/ports/{port}")).await.status, 404);
    assert_eq!(w.delete(&format!("{of}/{port}"), "2.1").await.status, 404);
    // A stopped server gets its card when it starts.
    assert_eq!(w.act(&id, json!({"os-stop": null})).await.status, 202);
    w.wait(&id, "SHUTOFF").await;
    w.post(&of, json!({"interfaceAttachment": {}}), "2.1").await.expect(200);
    assert_eq!(w.act(&id, json!({"os-start": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!(machine.cards(&id).len(), 2);
    let actions = w.get(&format!("/servers/{id}/os-instance-actions"), "2.104").await.expect(200);
    let done: Vec<&str> = actions["instanceActions"].as_array().unwrap().iter().map(|a| a["action"].as_str().unwrap()).collect();
    assert!(done.contains(&"attach_interface") && done.contains(&"detach_interface"), "{done:?}");
    assert_eq!(w.act(&id, json!({"lock": null})).await.status, 202);
    assert!(conflict(&w.post(&of, json!({"interfaceAttachment": {}}), "2.1").await).contains("is locked"));
    assert_eq!(w.act(&id, json!({"unlock": null})).await.status, 202);
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_were_once_actions() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let path = format!("/servers/{id}/action");
    assert_eq!(w.post(&path, json!({"addFixedIp": {"networkId": w.network}}), "2.44").await.status, 404);
    assert_eq!(w.post(&path, json!({"addFixedIp": {"networkId": w.network}}), "2.43").await.status, 202);
    let listed = |v: Value| v["addresses"]["private"].as_array().unwrap().clone();
    let addresses = listed(w.wait(&id, "ACTIVE").await);
    assert_eq!(addresses.len(), 2);
    let gone = addresses[0]["addr"].clone();
    assert_eq!(w.post(&path, json!({"removeFixedIp": {"address": gone}}), "2.1").await.status, 202);
    assert_eq!(listed(w.wait(&id, "ACTIVE").await).len(), 1);
    assert_eq!(w.post(&path, json!({"removeFixedIp": {"address": gone}}), "2.1").await.status, 400);
    assert_eq!(w.post(&path, json!({"addFixedIp": {"networkId": id}}), "2.1").await.status, 404);
    // A floating address, by way of a router.
    let outside = json!({"network": {"name": "out", "router:external": true}});
    let outside = w.cloud.post(&w.admin, "/network/v2.0/networks", outside).await.expect(201)["network"]["id"].clone();
    let subnet = json!({"subnet": {"network_id": outside, "cidr": "203.0.113.0/24", "ip_version": 4, "enable_dhcp": false}});
    w.cloud.post(&w.admin, "/network/v2.0/subnets", subnet).await.expect(201);
    let router = json!({"router": {"external_gateway_info": {"network_id": outside}}});
    let router = w.cloud.post(&w.tenant, "/network/v2.0/routers", router).await.expect(201)["router"]["id"].as_str().unwrap().to_string();
    let inside = w.cloud.get(&w.tenant, &format!("/network/v2.0/subnets?network_id={}", w.network)).await.expect(200);
    let interface = json!({"subnet_id": inside["subnets"][0]["id"]});
    let add = format!("/network/v2.0/routers/{router}/add_router_interface");
    w.cloud.request("PUT", &add).token(&w.tenant).json(&interface).send().await.expect(200);
    let floating = json!({"floatingip": {"floating_network_id": outside}});
    let floating =
        w.cloud.post(&w.tenant, "/network/v2.0/floatingips", floating).await.expect(201)["floatingip"]["floating_ip_address"].clone();
    assert_eq!(w.post(&path, json!({"addFloatingIp": {"address": "203.0.113.200"}}), "2.1").await.status, 404);
    assert_eq!(w.post(&path, json!({"removeFloatingIp": {"address": floating}}), "2.1").await.status, 409);
    let wrong = json!({"addFloatingIp": {"address": floating, "fixed_address": "10.9.9.9"}});
    assert_eq!(w.post(&path, wrong, "2.1").await.status, 400);
    assert_eq!(w.post(&path, json!({"addFloatingIp": {"address": floating}}), "2.1").await.status, 202);
    let addresses = listed(w.wait(&id, "ACTIVE").await);
    assert!(addresses.iter().any(|a| a["addr"] == floating && a["OS-EXT-IPS:type"] == "floating"), "{addresses:?}");
    assert_eq!(w.post(&path, json!({"removeFloatingIp": {"address": floating}}), "2.1").await.status, 202);
    assert_eq!(listed(w.wait(&id, "ACTIVE").await).len(), 1);
}
