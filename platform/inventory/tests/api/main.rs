//! Hosts and tokens through the API of a whole cloud on simulated hosts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod actions;
mod alone;
mod cycle;
mod enable;
mod monitors;
mod parameters;
mod roles;
mod sensors;
mod systems;

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Answer, Cloud, Token};

const PATIENCE: Duration = Duration::from_secs(20);

/// A cloud that takes in hosts, with one simulated host.
async fn cloud() -> (Cloud, Token) {
    let cloud = Cloud::with_settings(1, &[("hosts.listen", "127.0.0.1:5001")]).await;
    let admin = cloud.admin().await;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, |a| a.json()["ihosts"][0]["availability"] == "available").await;
    (cloud, admin)
}

/// The same with so many hosts that are workers, beside a controller that is none of them.
async fn workers(count: usize) -> (Cloud, Token) {
    let cloud = Cloud::with_settings(count, &[("hosts.listen", "127.0.0.1:5001"), ("host.simulated", "true")]).await;
    let admin = cloud.admin().await;
    let all = |a: &Answer| a.json()["ihosts"].as_array().unwrap().iter().filter(|h| h["availability"] == "available").count() == count;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, all).await;
    (cloud, admin)
}

fn fault(answer: &Answer) -> String {
    let inner: Value = serde_json::from_str(answer.json()["error_message"].as_str().unwrap_or_default()).unwrap_or(Value::Null);
    inner["faultstring"].as_str().unwrap_or_default().to_string()
}

async fn token(cloud: &Cloud, admin: &Token, body: Value) -> String {
    let made = cloud.post(admin, "/inventory/v1/join_tokens", body).await.expect(200);
    made["token"].as_str().unwrap().rsplit_once('.').unwrap().0.to_string()
}

async fn join(cloud: &Cloud, token: &str, name: &str, request: &str, id: Option<&str>) -> Answer {
    let body = json!({"token": token, "hostname": name, "host_id": id, "request": request});
    cloud.request("POST", "/inventory/v1/join").json(&body).send().await
}

async fn act(cloud: &Cloud, admin: &Token, id: &str, action: &str) -> Answer {
    let body = json!([{"op": "replace", "path": "/action", "value": action}]);
    cloud.request("PATCH", &format!("/inventory/v1/ihosts/{id}")).token(admin).json(&body).send().await
}

#[tokio::test]
async fn a_token_is_good_once_for_one_host_and_for_a_while() {
    let (cloud, admin) = cloud().await;
    let offer = cloud.request("GET", "/inventory/v1/join").send().await.expect(200);
    assert_eq!(offer["sessions"], "https://127.0.0.1:5001");
    let made = cloud.post(&admin, "/inventory/v1/join_tokens", json!({})).await.expect(200);
    let (text, fingerprint) = made["token"].as_str().unwrap().rsplit_once('.').unwrap();
    assert_eq!(pki::fingerprint(offer["authority"].as_str().unwrap()).unwrap(), fingerprint);

    let request = pki::Request::new().unwrap().text;
    let refused = join(&cloud, "0011223344556677.00", "edge-1", &request, None).await;
    assert_eq!((refused.status, fault(&refused).as_str()), (403, "The token is not known, has expired or was used."));
    // What cannot be right does not use it up.
    for (name, request, field) in [("edge_1", request.as_str(), "hostname"), ("edge-1", "nonsense", "request")] {
        let answer = join(&cloud, text, name, request, None).await;
        assert!(answer.status == 400 && fault(&answer).starts_with(field), "{}", answer.text());
    }
    let first = join(&cloud, text, "edge-1", &request, None).await.expect(200);
    let host = pki::peer(&pem(first["certificate"].as_str().unwrap())).unwrap();
    assert_eq!(host.host_id, first["host_id"].as_str().unwrap());
    // The answer may have been lost: the very same request is answered again, any other is not.
    let again = join(&cloud, text, "edge-1", &request, None).await.expect(200);
    assert_eq!(again["host_id"], first["host_id"]);
    assert_eq!(join(&cloud, text, "edge-1", &pki::Request::new().unwrap().text, None).await.status, 403);
    assert_eq!(join(&cloud, text, "edge-2", &request, None).await.status, 200, "the same request under the name the operator corrected");

    let bound = token(&cloud, &admin, json!({"hostname": "edge-3"})).await;
    assert_eq!(join(&cloud, &bound, "edge-4", &request, None).await.status, 403);
    assert_eq!(join(&cloud, &bound, "edge-3", &request, None).await.status, 200);

    let short = token(&cloud, &admin, json!({"lifetime_seconds": 1})).await;
    let list = "/inventory/v1/join_tokens";
    cloud.until(&admin, list, PATIENCE, |a| a.json()["join_tokens"].as_array().unwrap().iter().any(|t| t["state"] == "expired")).await;
    assert_eq!(join(&cloud, &short, "edge-5", &request, None).await.status, 403);
    for (body, field) in
        [(json!({"lifetime_seconds": 0}), "lifetime_seconds"), (json!({"hostname": "a b"}), "hostname"), (json!({"x": 1}), "x")]
    {
        let answer = cloud.post(&admin, list, body).await;
        assert!(answer.status == 400 && fault(&answer).contains(field), "{}", answer.text());
    }
    let gone = token(&cloud, &admin, json!({})).await;
    let id = gone.split('.').next().unwrap();
    assert_eq!(cloud.delete(&admin, &format!("{list}/{id}")).await.status, 204);
    assert_eq!(cloud.delete(&admin, &format!("{list}/{id}")).await.status, 404);
    assert_eq!(join(&cloud, &gone, "edge-6", &request, None).await.status, 403);
}

fn pem(text: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(text.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn names_belong_to_one_host() {
    let (cloud, admin) = cloud().await;
    let request = || pki::Request::new().unwrap().text;
    let first = join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &request(), None).await.expect(200);
    let taken = join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &request(), None).await;
    assert!(taken.status == 409 && fault(&taken).contains("--name"), "{}", taken.text());
    // The same machine may come again, as when it lost its certificate.
    let id = first["host_id"].as_str();
    let back = join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &request(), id).await.expect(200);
    assert_eq!(back["host_id"], first["host_id"]);
    // An announced host is the one that joins by its name, and stays locked.
    let announced = cloud.post(&admin, "/inventory/v1/ihosts", json!({"hostname": "edge-2", "personality": "worker"})).await.expect(200);
    assert_eq!((&announced["administrative"], &announced["invprovision"]), (&json!("locked"), &json!("unprovisioned")));
    let joined = join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-2", &request(), None).await.expect(200);
    assert_eq!(joined["host_id"], announced["uuid"]);
    let shown = cloud.get(&admin, &format!("/inventory/v1/ihosts/{}", announced["id"])).await.expect(200);
    assert_eq!((&shown["administrative"], &shown["invprovision"]), (&json!("locked"), &json!("provisioned")));
    for (body, field) in [
        (json!({"hostname": "edge-2", "personality": "worker"}), "edge-2"),
        (json!({"hostname": "edge-9", "personality": "storage"}), "personality"),
        (json!({"hostname": "-", "personality": "worker"}), "hostname"),
    ] {
        let answer = cloud.post(&admin, "/inventory/v1/ihosts", body).await;
        assert!(answer.status >= 400 && answer.status < 410 && fault(&answer).contains(field), "{}", answer.text());
    }
    let page = cloud.get(&admin, "/inventory/v1/ihosts?sort_key=hostname&sort_dir=desc&limit=1").await.expect(200);
    assert_eq!((page["ihosts"].as_array().unwrap().len(), &page["ihosts"][0]["hostname"]), (1, &json!("host-0")));
    let next = page["next"].as_str().unwrap().split_once("/inventory").unwrap().1.to_string();
    let rest = cloud.get(&admin, &format!("/inventory{}", next.replace("limit=1&", "").replace("limit=1", "limit=9"))).await.expect(200);
    let names: Vec<&str> = rest["ihosts"].as_array().unwrap().iter().map(|h| h["hostname"].as_str().unwrap()).collect();
    assert_eq!(names, ["edge-2", "edge-1"]);
}

#[tokio::test]
async fn a_locked_host_takes_nothing_and_can_be_deleted() {
    let (cloud, admin) = workers(2).await;
    let hosts = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200);
    let ids: Vec<String> = hosts["ihosts"].as_array().unwrap().iter().map(|h| h["uuid"].as_str().unwrap().to_string()).collect();
    let answer = cloud.delete(&admin, &format!("/inventory/v1/ihosts/{}", ids[1])).await;
    assert!(answer.status == 400 && fault(&answer).contains("must be locked"), "{}", answer.text());
    let locked = act(&cloud, &admin, &ids[1], "lock").await.expect(200);
    assert_eq!(
        (&locked["administrative"], &locked["operational"], &locked["availability"]),
        (&json!("locked"), &json!("disabled"), &json!("online"))
    );
    assert_eq!(act(&cloud, &admin, &ids[1], "lock").await.status, 400);
    let alarms = cloud.get(&admin, "/fault/v1/alarms").await.expect(200);
    assert_eq!((&alarms["alarms"][0]["alarm_id"], &alarms["alarms"][0]["entity_instance_id"]), (&json!("200.001"), &json!("host=host-1")));
    let services = cloud.get(&admin, "/compute/v2.1/os-services?host=host-1").await.expect(200);
    assert_eq!(services["services"][0]["status"], "disabled");
    let volumes = |body: &Value| {
        let all = body["services"].as_array().unwrap().clone();
        let of_host = |s: &Value| s["binary"] == "cinder-volume" && s["host"].as_str().is_some_and(|host| host.starts_with("host-1"));
        all.into_iter().find(of_host).unwrap()["status"].clone()
    };
    let path = format!("/volume/v3/{}/os-services", admin.project_id);
    assert_eq!(volumes(&cloud.get(&admin, &path).await.expect(200)), "disabled");
    act(&cloud, &admin, &ids[1], "unlock").await.expect(200);
    let at = format!("/inventory/v1/ihosts/{}", ids[1]);
    cloud.until(&admin, &at, PATIENCE, |a| a.json()["availability"] == "available").await;
    assert_eq!(cloud.get(&admin, "/fault/v1/alarms").await.expect(200)["alarms"], json!([]));
    assert_eq!(cloud.get(&admin, "/compute/v2.1/os-services?host=host-1").await.expect(200)["services"][0]["status"], "enabled");
    assert_eq!(volumes(&cloud.get(&admin, &path).await.expect(200)), "enabled");
    act(&cloud, &admin, &ids[1], "lock").await.expect(200);
    // It comes back after a crash of the controller as it was.
    let cloud = cloud.crash().await;
    let path = format!("/inventory/v1/ihosts/{}", ids[1]);
    let back = cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "online").await.json();
    assert_eq!(back["administrative"], "locked");
    assert_eq!(cloud.delete(&admin, &path).await.status, 204);
    assert_eq!(cloud.get(&admin, &path).await.status, 404);
}

/// Maintenance specification, acceptance 14; VIM specification, acceptance 4.
#[tokio::test(flavor = "multi_thread")]
async fn the_controller_is_locked_only_where_it_is_the_only_host_and_empty() {
    let (mut cloud, admin) = cloud().await;
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let path = format!("/inventory/v1/ihosts/{id}");
    for (action, word) in [
        ("reset", "controller"),
        ("power-off", "controller"),
        ("dance", "dance"),
        ("force-lock", "controller"),
        ("swact", "no enabled mate"),
        ("reinstall", "does not install"),
    ] {
        let answer = act(&cloud, &admin, &id, action).await;
        assert!(answer.status == 400 && fault(&answer).contains(word), "{}", answer.text());
    }
    // Alone: what runs there has no other place to go to.
    let body = ready(&cloud, &admin).await;
    let one = server(&cloud, &admin, &body, "host-0", "one").await;
    let refused = act(&cloud, &admin, &id, "lock").await;
    assert!(refused.status == 400 && fault(&refused).contains("there are no other hypervisors available."), "{}", refused.text());
    assert_eq!(cloud.get(&admin, &path).await.expect(200)["availability"], "available");
    is(&cloud, &admin, &one, "ACTIVE").await;
    assert_eq!(cloud.delete(&admin, &format!("/compute/v2.1/servers/{one}")).await.status, 204);
    cloud.until(&admin, &format!("/compute/v2.1/servers/{one}"), PATIENCE, |a| a.status == 404).await;
    let locked = act(&cloud, &admin, &id, "lock").await.expect(200);
    assert_eq!((&locked["administrative"], &locked["availability"]), (&json!("locked"), &json!("online")));
    let made = cloud.delete(&admin, &path).await;
    assert!(made.status == 400 && fault(&made).contains("controller"), "{}", made.text());
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "available").await;

    // With another host: the site would have no controller in service.
    let joined =
        join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &pki::Request::new().unwrap().text, None).await.expect(200);
    host::id_set(&cloud.home().join("edge-1"), joined["host_id"].as_str().unwrap()).unwrap();
    cloud.host_add("edge-1").await;
    let other = format!("/inventory/v1/ihosts/{}", joined["host_id"].as_str().unwrap());
    cloud.until(&admin, &other, PATIENCE, |a| a.json()["availability"] == "available").await;
    let refused = act(&cloud, &admin, &id, "reboot").await;
    assert!(refused.status == 400 && fault(&refused).contains("active controller"), "{}", refused.text());
    let refused = act(&cloud, &admin, &id, "lock").await;
    let why = "Lock of host host-0 rejected because it is the active controller, and there is no other that could take over.";
    assert_eq!((refused.status, fault(&refused).as_str()), (400, why));
    let shown = cloud.get(&admin, &path).await.expect(200);
    assert_eq!(["administrative", "operational", "task"].map(|key| shown[key].clone()), ["unlocked", "enabled", ""].map(|v| json!(v)));
}

/// A site of one host reboots as a whole, with its controller; the order is carried out once.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_host_of_a_site_reboots_with_its_controller() {
    let (mut cloud, admin) = cloud().await;
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let path = format!("/inventory/v1/ihosts/{id}");
    // Its agent has to know how.
    let mark = cloud.home().join("rebooted");
    let script = cloud.home().join("reboot");
    std::fs::write(&script, format!("#!/bin/sh\necho >> {}\n", mark.display())).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    cloud.hosts[0].settings.push(("host.reboot_command", script.display().to_string()));
    cloud.hosts[0].vanish().await;
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "offline").await;
    cloud.host_return(0).await;
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "available").await;
    let body = ready(&cloud, &admin).await;
    let one = server(&cloud, &admin, &body, "host-0", "one").await;
    act(&cloud, &admin, &id, "reboot").await.expect(200);
    let began = std::time::Instant::now();
    while !mark.exists() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The machine goes, with all that runs on it.
    let mut gone = cloud.hosts.remove(0);
    gone.vanish().await;
    gone.hypervisor.power_cut();
    let mut cloud = cloud.crash().await;
    let shown = cloud.get(&admin, &path).await.expect(200);
    assert_eq!((&shown["action"], &shown["administrative"]), (&json!("reboot"), &json!("unlocked")));
    cloud.hosts.push(gone);
    cloud.host_return(0).await;
    let back = cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "available" && a.json()["task"] == "").await.json();
    assert_eq!(back["vim_progress_status"], "");
    is(&cloud, &admin, &one, "ACTIVE").await;
    assert_eq!(std::fs::read_to_string(&mark).unwrap().lines().count(), 1, "once");
    let log = cloud.get(&admin, "/fault/v1/event_log?limit=1000").await.expect(200).to_string();
    assert!(log.contains("command=reboot") && !log.contains("rebooted by itself"), "{log}");
}

/// What a first server needs; returns the body of its request.
async fn ready(cloud: &Cloud, admin: &Token) -> Value {
    let flavor = json!({"flavor": {"id": "tiny", "name": "tiny", "vcpus": 1, "ram": 128, "disk": 1}});
    cloud.post(admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    let image = json!({"name": "i", "disk_format": "raw", "container_format": "bare", "visibility": "public"});
    let image = cloud.post(admin, "/image/v2/images", image).await.expect(201)["id"].as_str().unwrap().to_string();
    let file = cloud.request("PUT", &format!("/image/v2/images/{image}/file")).token(admin);
    assert_eq!(file.text("application/octet-stream", vec![7u8; 4096]).send().await.status, 204);
    json!({"server": {"name": "s", "flavorRef": "tiny", "imageRef": image, "networks": "none"}})
}

async fn server(cloud: &Cloud, admin: &Token, body: &Value, host: &str, name: &str) -> String {
    let mut body = body.clone();
    body["server"]["availability_zone"] = json!(format!("nova:{host}"));
    body["server"]["name"] = json!(name);
    let made = cloud.request("POST", "/compute/v2.1/servers").token(admin).header("openstack-api-version", "compute 2.37");
    let id = made.json(&body).send().await.expect(202)["server"]["id"].as_str().unwrap().to_string();
    is(cloud, admin, &id, "ACTIVE").await;
    id
}

async fn is(cloud: &Cloud, admin: &Token, id: &str, status: &str) -> Value {
    let path = format!("/compute/v2.1/servers/{id}");
    cloud.until(admin, &path, PATIENCE, |a| a.json()["server"]["status"] == status).await.json()["server"].clone()
}

async fn host_of(cloud: &Cloud, admin: &Token, id: &str) -> Value {
    cloud.get(admin, &format!("/compute/v2.1/servers/{id}")).await.expect(200)["server"]["OS-EXT-SRV-ATTR:host"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_leave_a_host_before_it_is_locked() {
    let (cloud, admin) = workers(2).await;
    let hosts = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200);
    let id = |name: &str| {
        let all = hosts["ihosts"].as_array().unwrap();
        all.iter().find(|h| h["hostname"] == name).unwrap()["uuid"].as_str().unwrap().to_string()
    };
    let (host, path) = (id("host-1"), format!("/inventory/v1/ihosts/{}", id("host-1")));
    let body = ready(&cloud, &admin).await;
    let one = server(&cloud, &admin, &body, "host-1", "one").await;
    let other = server(&cloud, &admin, &body, "host-1", "other").await;
    let off = server(&cloud, &admin, &body, "host-1", "off").await;
    let action = |id: &str| format!("/compute/v2.1/servers/{id}/action");
    assert_eq!(cloud.post(&admin, &action(&off), json!({"os-stop": null})).await.status, 202);
    is(&cloud, &admin, &off, "SHUTOFF").await;

    // Refused as a whole, with the name of the one that cannot leave; nothing has moved.
    assert_eq!(cloud.post(&admin, &action(&other), json!({"suspend": null})).await.status, 202);
    is(&cloud, &admin, &other, "SUSPENDED").await;
    let refused = act(&cloud, &admin, &host, "lock").await;
    assert_eq!((refused.status, fault(&refused).as_str()), (400, "Lock of host host-1 rejected because instance other is suspended."));
    assert_eq!(cloud.post(&admin, &action(&other), json!({"resume": null})).await.status, 202);
    is(&cloud, &admin, &other, "ACTIVE").await;
    // A paused one leaves as it is.
    assert_eq!(cloud.post(&admin, &action(&other), json!({"pause": null})).await.status, 202);
    is(&cloud, &admin, &other, "PAUSED").await;
    let disable = |word: &str| (format!("/compute/v2.1/os-services/{word}"), json!({"host": "host-0", "binary": "nova-compute"}));
    let (disabling, of) = disable("disable");
    cloud.put(&admin, &disabling, of).await.expect(200);
    let refused = act(&cloud, &admin, &host, "lock").await;
    assert!(refused.status == 400 && fault(&refused).contains("no other hypervisors available"), "{}", refused.text());
    let (enabling, of) = disable("enable");
    cloud.put(&admin, &enabling, of).await.expect(200);

    // The controller dies in the middle of it.
    let begun = act(&cloud, &admin, &host, "lock").await.expect(200);
    assert_eq!((&begun["task"], &begun["administrative"]), (&json!("Disabling Services"), &json!("unlocked")));
    let again = act(&cloud, &admin, &host, "lock").await;
    assert!(again.status == 400 && fault(&again).contains("in progress"), "{}", again.text());
    let cloud = cloud.crash().await;
    let locked = cloud.until(&admin, &path, PATIENCE, |a| a.json()["administrative"] == "locked").await.json();
    assert_eq!((&locked["task"], &locked["vim_progress_status"]), (&json!(""), &json!("")));
    for (id, status) in [(&one, "ACTIVE"), (&other, "PAUSED")] {
        is(&cloud, &admin, id, status).await;
        assert_eq!(host_of(&cloud, &admin, id).await, "host-0");
    }
    let moved = cloud.get(&admin, "/compute/v2.1/os-migrations?migration_type=live-migration&status=completed").await.expect(200);
    assert_eq!(moved["migrations"].as_array().unwrap().len(), 2, "they went as they were: {moved}");
    // What is off rests where it is, and nobody starts it under the hands of who works there.
    assert_eq!(host_of(&cloud, &admin, &off).await, "host-1");
    for (verb, body) in [("start", json!({"os-start": null})), ("reboot", json!({"reboot": {"type": "HARD"}}))] {
        let refused = cloud.post(&admin, &action(&off), body).await;
        let wanted = format!("Cannot '{verb}' instance {off} host 'host-1' is disabled");
        assert_eq!((refused.status, &refused.json()["conflictingRequest"]["message"]), (409, &json!(wanted)));
    }
    is(&cloud, &admin, &off, "SHUTOFF").await;
    assert!(cloud.hosts[1].hypervisor.running().is_empty());
    act(&cloud, &admin, &host, "unlock").await.expect(200);
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "available").await;
    assert_eq!(cloud.post(&admin, &action(&off), json!({"os-start": null})).await.status, 202);
    is(&cloud, &admin, &off, "ACTIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_fails_puts_the_host_back_into_service() {
    let (cloud, admin) = workers(2).await;
    let hosts = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200);
    let host = hosts["ihosts"].as_array().unwrap().iter().find(|h| h["hostname"] == "host-1").unwrap()["uuid"].as_str().unwrap();
    let body = ready(&cloud, &admin).await;
    let one = server(&cloud, &admin, &body, "host-1", "one").await;
    // The other host is there, and has no room.
    let providers = cloud.get(&admin, "/placement/resource_providers?name=host-0").await.expect(200);
    let provider = providers["resource_providers"][0]["uuid"].as_str().unwrap().to_string();
    let inventories = format!("/placement/resource_providers/{provider}/inventories");
    let mut all = cloud.get(&admin, &inventories).await.expect(200);
    all["inventories"]["MEMORY_MB"]["reserved"] = json!(all["inventories"]["MEMORY_MB"]["total"].as_u64().unwrap() - 1);
    cloud.put(&admin, &inventories, all).await.expect(200);
    act(&cloud, &admin, host, "lock").await.expect(200);
    let path = format!("/inventory/v1/ihosts/{host}");
    let back = cloud.until(&admin, &path, PATIENCE, |a| a.json()["task"] == "").await.json();
    assert_eq!((&back["administrative"], &back["operational"]), (&json!("unlocked"), &json!("enabled")));
    let why = back["vim_progress_status"].as_str().unwrap();
    assert!(why.starts_with("Lock of host host-1 failed because instance one could not be moved"), "{why}");
    assert_eq!(is(&cloud, &admin, &one, "ACTIVE").await["OS-EXT-SRV-ATTR:host"], "host-1");
    let services = cloud.get(&admin, "/compute/v2.1/os-services?host=host-1").await.expect(200);
    assert_eq!(services["services"][0]["status"], "enabled");
}

/// What is done with an instance keeps its host from being locked, in StarlingX's words; nothing is moved then.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_refused_with_what_is_done_with_an_instance() {
    let (cloud, admin) = workers(2).await;
    let host = host_id(&cloud, &admin, "host-1").await;
    let body = ready(&cloud, &admin).await;
    let larger = json!({"flavor": {"id": "larger", "name": "larger", "vcpus": 1, "ram": 256, "disk": 1}});
    cloud.post(&admin, "/compute/v2.1/flavors", larger).await.expect(200);
    let one = server(&cloud, &admin, &body, "host-1", "one").await;
    let image = body["server"]["imageRef"].clone();
    let path = format!("/compute/v2.1/servers/{one}/action");
    let machine = cloud.hosts[1].hypervisor.clone();
    for (action, why) in [
        (json!({"os-migrateLive": {"host": "host-0", "block_migration": "auto"}}), "is migrating"),
        (json!({"rebuild": {"imageRef": image}}), "is rebuilding"),
        (json!({"reboot": {"type": "HARD"}}), "action in progress"),
        (json!({"resize": {"flavorRef": "larger"}}), "is resizing"),
    ] {
        machine.trouble(|t| (t.delay, t.restless) = (Duration::from_secs(3600), true));
        let begun = cloud.request("POST", &path).token(&admin).header("openstack-api-version", "compute 2.30").json(&action).send().await;
        assert_eq!(begun.status, 202, "{}", begun.text());
        let refused = act(&cloud, &admin, &host, "lock").await;
        let text = format!("Lock of host host-1 rejected because instance one {why}.");
        assert_eq!((refused.status, fault(&refused)), (400, text));
        let shown = cloud.get(&admin, &format!("/inventory/v1/ihosts/{host}")).await.expect(200);
        assert_eq!((&shown["availability"], &shown["task"]), (&json!("available"), &json!("")));
        machine.trouble(|t| (t.delay, t.restless) = (Duration::ZERO, false));
        if why == "is migrating" {
            // There it is done with; the rest is about this host.
            cloud
                .until(&admin, &format!("/compute/v2.1/servers/{one}"), PATIENCE, |a| {
                    a.json()["server"]["OS-EXT-SRV-ATTR:host"] == "host-0"
                })
                .await;
            is(&cloud, &admin, &one, "ACTIVE").await;
            let back = json!({"os-migrateLive": {"host": "host-1", "block_migration": "auto"}});
            let begun = cloud.request("POST", &path).token(&admin).header("openstack-api-version", "compute 2.30").json(&back).send().await;
            assert_eq!(begun.status, 202, "{}", begun.text());
        }
        let there = |a: &Answer| {
            let server = a.json()["server"].clone();
            server["OS-EXT-SRV-ATTR:host"] == "host-1" && server["OS-EXT-STS:task_state"].is_null()
        };
        cloud.until(&admin, &format!("/compute/v2.1/servers/{one}"), PATIENCE, there).await;
    }
}

/// VIM specification, acceptance 6.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_live_migration_breaks_off_leaves_the_instance_running() {
    let (cloud, admin) = workers(2).await;
    let host = host_id(&cloud, &admin, "host-1").await;
    let body = ready(&cloud, &admin).await;
    let one = server(&cloud, &admin, &body, "host-1", "one").await;
    let machine = cloud.hosts[1].hypervisor.clone();
    machine.trouble(|t| t.no_way = true);
    act(&cloud, &admin, &host, "lock").await.expect(200);
    let path = format!("/inventory/v1/ihosts/{host}");
    let back = cloud.until(&admin, &path, PATIENCE, |a| a.json()["task"] == "").await.json();
    assert_eq!(
        ["administrative", "operational", "availability"].map(|key| back[key].clone()),
        ["unlocked", "enabled", "available"].map(Value::from)
    );
    let why = back["vim_progress_status"].as_str().unwrap();
    assert!(
        why.starts_with("Lock of host host-1 failed because instance one could not be moved: ") && why.contains("no route to host"),
        "{why}"
    );
    assert_eq!(is(&cloud, &admin, &one, "ACTIVE").await["OS-EXT-SRV-ATTR:host"], "host-1");
    assert_eq!((machine.running(), machine.starts()), (vec![one], 1));
    let services = cloud.get(&admin, "/compute/v2.1/os-services?host=host-1").await.expect(200);
    assert_eq!(services["services"][0]["status"], "enabled");
}

/// VIM specification, acceptance 9: what is unlocked before it is empty stays in service; a host with instances is not deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_unlocked_while_it_is_emptied_stays_in_service() {
    let (cloud, admin) = workers(2).await;
    let host = host_id(&cloud, &admin, "host-1").await;
    let path = format!("/inventory/v1/ihosts/{host}");
    let body = ready(&cloud, &admin).await;
    let one = server(&cloud, &admin, &body, "host-1", "one").await;
    let other = server(&cloud, &admin, &body, "host-1", "other").await;
    let machine = cloud.hosts[1].hypervisor.clone();
    machine.trouble(|t| t.restless = true);
    act(&cloud, &admin, &host, "lock").await.expect(200);
    let status = |id: &str| format!("/compute/v2.1/servers/{id}");
    cloud.until(&admin, &status(&one), PATIENCE, |a| a.json()["server"]["status"] == "MIGRATING").await;
    let shown = act(&cloud, &admin, &host, "unlock").await.expect(200);
    let states = |host: &Value| ["administrative", "operational", "availability", "task"].map(|key| host[key].clone());
    assert_eq!(states(&shown), ["unlocked", "enabled", "available", ""].map(Value::from));
    assert_eq!(shown["vim_progress_status"], "The lock of host host-1 was dropped: it was unlocked.");
    assert_eq!(act(&cloud, &admin, &host, "unlock").await.status, 400);
    // Another lock may begin while the first sees the one that is on its way to its end; that one is busy.
    let again = act(&cloud, &admin, &host, "lock").await;
    assert!(again.status == 400 && fault(&again).contains("instance one is migrating"), "{}", again.text());
    machine.trouble(|t| t.restless = false);
    cloud.until(&admin, &status(&one), PATIENCE, |a| a.json()["server"]["OS-EXT-SRV-ATTR:host"] == "host-0").await;
    is(&cloud, &admin, &one, "ACTIVE").await;
    let operations = async || {
        let filter = task::Filter { resource_id: Some(host.clone()), open: true, ..Default::default() };
        cloud.controller.core.tasks.list(&filter).await.unwrap().len()
    };
    let began = std::time::Instant::now();
    while operations().await > 0 {
        assert!(began.elapsed() < PATIENCE, "the lock does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The other never left, and the host takes what is placed there.
    assert_eq!(is(&cloud, &admin, &other, "ACTIVE").await["OS-EXT-SRV-ATTR:host"], "host-1");
    assert_eq!(states(&cloud.get(&admin, &path).await.expect(200)), ["unlocked", "enabled", "available", ""].map(Value::from));
    server(&cloud, &admin, &body, "host-1", "third").await;

    // Deleted it cannot be as long as it has an instance, and is as it was then.
    for id in [&other, &one] {
        assert_eq!(cloud.post(&admin, &format!("{}/action", status(id)), json!({"os-stop": null})).await.status, 202);
        is(&cloud, &admin, id, "SHUTOFF").await;
    }
    act(&cloud, &admin, &host, "lock").await.expect(200);
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["administrative"] == "locked").await;
    let refused = cloud.delete(&admin, &path).await;
    assert!(refused.status == 400 && fault(&refused).contains("it holds 1 instances and 0 volumes"), "{}", refused.text());
    assert_eq!(states(&cloud.get(&admin, &path).await.expect(200)), ["locked", "disabled", "online", ""].map(Value::from));
    act(&cloud, &admin, &host, "unlock").await.expect(200);
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "available").await;
}

/// The host's UUID.
async fn host_id(cloud: &Cloud, admin: &Token, name: &str) -> String {
    let hosts = cloud.get(admin, &format!("/inventory/v1/ihosts?hostname={name}")).await.expect(200);
    hosts["ihosts"][0]["uuid"].as_str().unwrap().to_string()
}

#[tokio::test]
async fn a_deleted_host_is_forgotten_everywhere() {
    let (mut cloud, admin) = cloud().await;
    let joined =
        join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &pki::Request::new().unwrap().text, None).await.expect(200);
    let id = joined["host_id"].as_str().unwrap().to_string();
    host::id_set(&cloud.home().join("edge-1"), &id).unwrap();
    cloud.host_add("edge-1").await;
    let path = format!("/inventory/v1/ihosts/{id}");
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "available").await;
    act(&cloud, &admin, &id, "lock").await.expect(200);
    assert_eq!(cloud.delete(&admin, &path).await.status, 204);
    assert_eq!(cloud.get(&admin, &path).await.status, 404);
    let authority = pki::Authority::open(&cloud.home().join("pki")).unwrap();
    let serial = pki::peer(&pem(joined["certificate"].as_str().unwrap())).unwrap().serial;
    assert!(authority.revocations().contains(&serial).unwrap());
    assert_eq!(cloud.get(&admin, "/compute/v2.1/os-services?host=edge-1").await.expect(200)["services"], json!([]));
    assert_eq!(cloud.get(&admin, "/network/v2.0/agents?host=edge-1").await.expect(200)["agents"], json!([]));
    assert_eq!(cloud.get(&admin, "/fault/v1/alarms").await.expect(200)["alarms"], json!([]));
    // Its name is free again.
    let again =
        join(&cloud, &token(&cloud, &admin, json!({})).await, "edge-1", &pki::Request::new().unwrap().text, Some(&id)).await.expect(200);
    assert_ne!(again["host_id"], joined["host_id"]);
}
