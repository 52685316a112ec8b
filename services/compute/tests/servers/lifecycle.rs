//! From nothing to running to gone.

use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_comes_and_goes() {
    let w = World::new().await;
    let answer = w.post("/servers", w.body(json!({"metadata": {"a": "b"}, "tags": ["x"], "adminPass": "secret"})), "2.52").await;
    let body = answer.expect(202);
    let id = body["server"]["id"].as_str().unwrap().to_string();
    assert_eq!(body["server"]["adminPass"], "secret");
    assert_eq!(body["server"]["security_groups"], json!([{"name": "default"}]));
    assert_eq!(answer.header("location"), format!("http://cloud.test/compute/v2.1/servers/{id}"));
    let shown = w.wait(&id, "ACTIVE").await;
    assert_eq!(shown["OS-EXT-STS:vm_state"], "active");
    assert_eq!(shown["OS-EXT-STS:power_state"], 1);
    assert_eq!(shown["OS-EXT-AZ:availability_zone"], "nova");
    assert_eq!(shown["metadata"], json!({"a": "b"}));
    assert_eq!(shown["security_groups"], json!([{"name": "default"}]));
    let address = &shown["addresses"]["private"][0];
    assert_eq!((&address["version"], &address["OS-EXT-IPS:type"]), (&json!(4), &json!("fixed")));
    assert!(shown["OS-SRV-USG:launched_at"].is_string());
    assert!(shown.get("OS-EXT-SRV-ATTR:host").is_none());
    assert_eq!(w.cloud.hosts[0].hypervisor.running(), std::slice::from_ref(&id));
    let actions = w.get(&format!("/servers/{id}/os-instance-actions"), "2.104").await.expect(200);
    assert_eq!(actions["instanceActions"][0]["action"], "create");
    let request = actions["instanceActions"][0]["request_id"].as_str().unwrap();
    let action = w.get(&format!("/servers/{id}/os-instance-actions/{request}"), "2.104").await.expect(200);
    assert_eq!(action["instanceAction"]["events"][0]["result"], "Success");

    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
    let actions = w.get(&format!("/servers/{id}/os-instance-actions"), "2.21").await.expect(200);
    assert_eq!(actions["instanceActions"][0]["action"], "delete");
    assert_eq!(w.get(&format!("/servers/{id}/os-instance-actions"), "2.20").await.status, 404);
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn power_follows_the_wish() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let steps = [
        (json!({"pause": null}), "PAUSED", 3),
        (json!({"unpause": null}), "ACTIVE", 1),
        (json!({"reboot": {"type": "SOFT"}}), "ACTIVE", 1),
        (json!({"reboot": {"type": "HARD"}}), "ACTIVE", 1),
        (json!({"os-stop": null}), "SHUTOFF", 4),
        (json!({"os-start": null}), "ACTIVE", 1),
    ];
    for (body, status, power) in steps {
        let answer = w.act(&id, body.clone()).await;
        assert_eq!((answer.status, answer.text()), (202, String::new()), "{body}");
        let shown = w.wait(&id, status).await;
        assert_eq!(shown["OS-EXT-STS:power_state"], power, "{body}");
    }
    for (body, status) in [
        (json!({"os-start": null}), 409),
        (json!({"unpause": null}), 409),
        (json!({"restore": null}), 409),
        (json!({"reboot": {"type": "warm"}}), 400),
        (json!({"reboot": {}}), 400),
        (json!({"no-such": null}), 400),
        (json!({}), 400),
        (json!({"os-stop": null, "os-start": null}), 400),
        (json!({"migrate": null}), 403),
    ] {
        let answer = w.act(&id, body.clone()).await;
        assert_eq!(answer.status, status, "{body} {}", answer.text());
    }
    let console = w.act(&id, json!({"os-getConsoleOutput": {"length": 5}})).await.expect(200);
    assert!(console["output"].is_string());
    assert_eq!(w.act(&id, json!({"os-getConsoleOutput": {"length": "many"}})).await.status, 400);
    assert_eq!(w.act(&id, json!({"forceDelete": null})).await.status, 202);
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_hold_off_users_but_not_administrators() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    assert_eq!(w.act(&id, json!({"lock": {"locked_reason": "mine"}})).await.status, 202);
    let shown = w.get(&format!("/servers/{id}"), "2.73").await.expect(200);
    assert_eq!((&shown["server"]["locked"], &shown["server"]["locked_reason"]), (&json!(true), &json!("mine")));
    assert_eq!(w.act(&id, json!({"os-stop": null})).await.status, 409);
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 409);
    assert_eq!(w.put(&format!("/servers/{id}/metadata"), json!({"metadata": {}}), "2.1").await.status, 409);
    assert_eq!(w.act(&id, json!({"unlock": null})).await.status, 202);
    let path = format!("/servers/{id}/action");
    assert_eq!(w.call(&w.admin, "POST", &path, Some(json!({"lock": null})), "2.1").await.status, 202);
    assert_eq!(w.act(&id, json!({"unlock": null})).await.status, 403);
    assert_eq!(w.call(&w.admin, "POST", &path, Some(json!({"os-stop": null})), "2.1").await.status, 202);
    w.wait(&id, "SHUTOFF").await;
    assert_eq!(w.act(&id, json!({"os-resetState": {"state": "error"}})).await.status, 403);
    assert_eq!(w.call(&w.admin, "POST", &path, Some(json!({"os-resetState": {"state": "error"}})), "2.1").await.status, 202);
    w.wait(&id, "ERROR").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_and_no_more_than_the_quota() {
    let w = World::new().await;
    let answer =
        w.post("/servers", w.body(json!({"name": "many", "min_count": 2, "max_count": 20, "return_reservation_id": true})), "2.104").await;
    let reservation = answer.expect(202)["reservation_id"].as_str().unwrap().to_string();
    let listed = w.get(&format!("/servers/detail?reservation_id={reservation}"), "2.104").await.expect(200);
    let servers = listed["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 10);
    let mut names: Vec<&str> = servers.iter().map(|s| s["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!((names[0], names[1]), ("many-1", "many-10"));
    let refused = w.post("/servers", w.body(json!({})), "2.104").await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.json()["forbidden"]["message"].as_str().unwrap().contains("Quota exceeded for instances"));
    for server in servers {
        let id = server["id"].as_str().unwrap();
        w.wait(id, "ACTIVE").await;
        assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    }
    for server in servers {
        w.gone(server["id"].as_str().unwrap()).await;
    }
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_learn_what_they_need() {
    let w = World::new().await;
    let key = json!({"keypair": {"name": "k", "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKqP3Cr632C2dNhhgKVcon4ldUSAeKiku2yP9O9/bDtY me"}});
    w.post("/os-keypairs", key, "2.1").await.expect(200);
    let id = w
        .active(json!({"name": "My vm", "key_name": "k", "user_data": "aGVsbG8=", "metadata": {"role": "web"}, "config_drive": true}))
        .await;
    let seen = w.cloud.hosts[0].wire.metadata(&id).expect("metadata of the guest");
    assert_eq!(seen.meta_data["uuid"], id.as_str());
    assert_eq!(seen.meta_data["hostname"], "my-vm.novalocal");
    assert_eq!(seen.meta_data["meta"]["role"], "web");
    assert!(seen.meta_data["public_keys"]["k"].as_str().unwrap().starts_with("ssh-ed25519"));
    assert_eq!(seen.user_data_base64.as_deref(), Some("aGVsbG8="));
    assert!(seen.ec2["public-keys/0/openssh-key"].starts_with("ssh-ed25519"));
    assert!(seen.ec2["local-ipv4"].starts_with("10.1.0."));
    assert_eq!(seen.network_data["networks"][0]["type"], "ipv4_dhcp");
    assert!(seen.config_drive);
    w.post(&format!("/servers/{id}/metadata"), json!({"metadata": {"more": "x"}}), "2.1").await.expect(200);
    let started = std::time::Instant::now();
    while w.cloud.hosts[0].wire.metadata(&id).is_none_or(|m| m.meta_data["meta"]["more"] != "x") {
        assert!(started.elapsed() < crate::world::PATIENCE, "the guest never heard of its new metadata");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
