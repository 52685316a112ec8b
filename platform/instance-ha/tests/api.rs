//! Segments, hosts, notifications and moves through the API of a whole cloud on simulated hosts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use serde_json::{Value, json};
use store::params;
use testing::{Answer, Cloud, Token};

const SOON: Duration = Duration::from_secs(30);
const NOTIFICATIONS: &str = "/instance-ha/v1/notifications";

async fn ask(cloud: &Cloud, admin: &Token, method: &'static str, path: &str, version: &str, body: Option<Value>) -> Answer {
    let request = cloud.request(method, path).token(admin).header("openstack-api-version", &format!("instance-ha {version}"));
    match body {
        Some(body) => request.json(&body).send().await,
        None => request.send().await,
    }
}

async fn segment(cloud: &Cloud, admin: &Token, name: &str, method: &str) -> String {
    let body = json!({"segment": {"name": name, "recovery_method": method, "service_type": "COMPUTE"}});
    cloud.post(admin, "/instance-ha/v1/segments", body).await.expect(201)["segment"]["uuid"].as_str().unwrap().to_string()
}

async fn member(cloud: &Cloud, admin: &Token, segment: &str, name: &str, more: Value) -> Answer {
    let mut body = json!({"host": {"name": name, "type": "COMPUTE", "control_attributes": "SSH"}});
    for (key, value) in more.as_object().unwrap() {
        body["host"][key] = value.clone();
    }
    cloud.post(admin, &format!("/instance-ha/v1/segments/{segment}/hosts"), body).await
}

/// A cloud of two hosts, both in one segment.
async fn cloud(method: &str) -> (Cloud, Token, String) {
    let cloud = Cloud::with_settings(2, &[("hosts.listen", "127.0.0.1:5001")]).await;
    let admin = cloud.admin().await;
    let two = |a: &Answer| a.json()["ihosts"].as_array().unwrap().iter().filter(|h| h["availability"] == "available").count() == 2;
    cloud.until(&admin, "/inventory/v1/ihosts", SOON, two).await;
    let segment = segment(&cloud, &admin, "rack", method).await;
    for name in ["host-0", "host-1"] {
        member(&cloud, &admin, &segment, name, json!({})).await.expect(201);
    }
    (cloud, admin, segment)
}

fn message(answer: &Answer) -> String {
    let body = answer.json();
    body.as_object().unwrap().values().next().unwrap()["message"].as_str().unwrap().to_string()
}

fn stopped(host: &str) -> Value {
    let payload = json!({"event": "STOPPED", "host_status": "NORMAL", "cluster_status": "OFFLINE"});
    json!({"notification": {"type": "COMPUTE_HOST", "hostname": host, "generated_time": "2026-11-20T12:00:00.000000", "payload": payload}})
}

/// The notification when it has ended.
async fn ended(cloud: &Cloud, admin: &Token, id: &str) -> Value {
    let path = format!("{NOTIFICATIONS}/{id}");
    let open = |a: &Answer| ["new", "running"].iter().any(|s| a.json()["notification"]["status"] == *s);
    cloud.until(admin, &path, SOON, |a| !open(a)).await.json()["notification"].clone()
}

#[tokio::test]
async fn segments_and_hosts_come_and_go() {
    let (cloud, admin, rack) = cloud("auto").await;
    let other = segment(&cloud, &admin, "other", "rh_priority").await;
    let path = format!("/instance-ha/v1/segments/{other}");
    // `enabled` is there since 1.2.
    assert_eq!(cloud.get(&admin, &path).await.expect(200)["segment"].get("enabled"), None);
    let shown = ask(&cloud, &admin, "GET", &path, "1.2", None).await.expect(200);
    assert_eq!((&shown["segment"]["enabled"], &shown["segment"]["recovery_method"]), (&json!(true), &json!("rh_priority")));
    let disable = json!({"segment": {"enabled": "off"}});
    let refused = ask(&cloud, &admin, "PUT", &path, "1.1", Some(disable.clone())).await;
    assert!(refused.status == 400 && message(&refused).contains("'enabled' was unexpected"), "{}", refused.text());
    assert_eq!(ask(&cloud, &admin, "PUT", &path, "latest", Some(disable)).await.expect(200)["segment"]["enabled"], false);
    let taken = cloud.put(&admin, &path, json!({"segment": {"name": "rack"}})).await;
    assert_eq!((taken.status, message(&taken).as_str()), (409, "Failover segment with name rack already exists."));
    for (body, field) in [
        (json!({"segment": {"name": "x", "recovery_method": "magic", "service_type": "C"}}), "segment.recovery_method"),
        (json!({"segment": {"name": "x", "recovery_method": "auto"}}), "'service_type' is a required property"),
        (json!({"segment": {"name": "", "recovery_method": "auto", "service_type": "C"}}), "segment.name"),
    ] {
        let refused = cloud.post(&admin, "/instance-ha/v1/segments", body).await;
        assert!(refused.status == 400 && message(&refused).contains(field), "{}", refused.text());
    }

    let names = |answer: Value, what: &str| answer[what].as_array().unwrap().iter().map(|s| s["name"].clone()).collect::<Vec<_>>();
    let list = async |query: &str| ask(&cloud, &admin, "GET", &format!("/instance-ha/v1/segments?{query}"), "1.2", None).await;
    assert_eq!(names(list("").await.expect(200), "segments"), ["other", "rack"]);
    assert_eq!(names(list("sort_key=name&sort_dir=desc").await.expect(200), "segments"), ["rack", "other"]);
    assert_eq!(names(list("enabled=true").await.expect(200), "segments"), ["rack"]);
    assert_eq!(names(list("recovery_method=rh_priority").await.expect(200), "segments"), ["other"]);
    assert_eq!(names(list("limit=1").await.expect(200), "segments"), ["other"]);
    // A marker is the id or the uuid.
    assert_eq!(names(list(&format!("marker={other}")).await.expect(200), "segments"), ["rack"]);
    assert_eq!(names(list(&format!("marker={}", shown["segment"]["id"])).await.expect(200), "segments"), ["rack"]);
    assert_eq!(list("marker=nobody").await.status, 400);
    assert_eq!(list("sort_key=weight").await.status, 400);
    assert_eq!(list("enabled=perhaps").await.status, 400);

    let unknown = member(&cloud, &admin, &other, "host-9", json!({})).await;
    assert_eq!((unknown.status, message(&unknown).as_str()), (400, "Compute service with name host-9 could not be found."));
    let twice = member(&cloud, &admin, &other, "host-0", json!({})).await;
    assert_eq!((twice.status, message(&twice).as_str()), (409, "Host with name host-0 already exists."));
    let hosts = format!("/instance-ha/v1/segments/{rack}/hosts");
    let all = cloud.get(&admin, &format!("{hosts}?sort_key=name&sort_dir=asc")).await.expect(200);
    assert_eq!(names(all.clone(), "hosts"), ["host-0", "host-1"]);
    assert_eq!(all["hosts"][0]["failover_segment"]["name"], "rack");
    let first = format!("{hosts}/{}", all["hosts"][0]["uuid"].as_str().unwrap());
    let changed = cloud.put(&admin, &first, json!({"host": {"reserved": "True", "on_maintenance": true}})).await.expect(200);
    assert_eq!((&changed["host"]["reserved"], &changed["host"]["on_maintenance"]), (&json!(true), &json!(true)));
    assert_eq!(names(cloud.get(&admin, &format!("{hosts}?on_maintenance=false")).await.expect(200), "hosts"), ["host-1"]);
    // One of another segment is not there.
    assert_eq!(cloud.get(&admin, &first.replace(&rack, &other)).await.status, 404);

    assert_eq!(cloud.delete(&admin, &first).await.status, 204);
    assert_eq!(cloud.get(&admin, &first).await.status, 404);
    assert_eq!(cloud.delete(&admin, &format!("/instance-ha/v1/segments/{rack}")).await.status, 204);
    // Its hosts went with it, and their names are free.
    member(&cloud, &admin, &other, "host-1", json!({})).await.expect(201);
}

#[tokio::test]
async fn notifications_are_checked_and_listed() {
    let (cloud, admin, segment) = cloud("auto").await;
    let refused = async |body: Value| cloud.post(&admin, NOTIFICATIONS, body).await;
    let unknown = refused(stopped("host-7")).await;
    assert_eq!((unknown.status, message(&unknown).as_str()), (400, "Host with name host-7 could not be found."));
    let with = |place: &str, value: Value| {
        let mut body = stopped("host-1");
        *body.pointer_mut("/notification").unwrap().pointer_mut(place).unwrap() = value;
        body
    };
    for (body, field) in [
        (with("/type", json!("DISK")), "notification.type"),
        (with("/generated_time", json!("yesterday")), "notification.generated_time"),
        (with("/payload/event", json!("EXPLODED")), "notification.payload.event"),
        (with("/payload", json!({"event": "STOPPED", "more": "x"})), "'more' was unexpected"),
        (with("/payload", json!({})), "'event' is a required property"),
    ] {
        let answer = refused(body).await;
        assert!(answer.status == 400 && message(&answer).contains(field), "{}", answer.text());
    }

    // What says nothing of a healthy cluster moves nothing.
    let doubtful = cloud.post(&admin, NOTIFICATIONS, with("/payload/host_status", json!("UNKNOWN"))).await.expect(202);
    let doubtful = ended(&cloud, &admin, doubtful["notification"]["notification_uuid"].as_str().unwrap()).await;
    assert_eq!((&doubtful["status"], &doubtful["message"]), (&json!("ignored"), &json!("host_status is 'UNKNOWN'.")));
    let again = refused(with("/payload/host_status", json!("UNKNOWN"))).await;
    assert_eq!(
        (again.status, message(&again).as_str()),
        (409, "Notification received from host host-1 of type COMPUTE_HOST is duplicate.")
    );
    let started = cloud.post(&admin, NOTIFICATIONS, with("/payload/event", json!("STARTED"))).await.expect(202);
    assert_eq!(ended(&cloud, &admin, started["notification"]["notification_uuid"].as_str().unwrap()).await["status"], "finished");

    // A process: nothing new comes to its host, which is under maintenance now.
    let process = json!({"notification": {"type": "PROCESS", "hostname": "host-1", "generated_time": "2026-11-20 12:00:00",
        "payload": {"event": "STOPPED", "process_name": "libvirtd"}}});
    let process = cloud.post(&admin, NOTIFICATIONS, process).await.expect(202);
    let id = process["notification"]["notification_uuid"].as_str().unwrap();
    assert_eq!(ended(&cloud, &admin, id).await["status"], "finished");
    let services = cloud.get(&admin, "/compute/v2.1/os-services?host=host-1").await.expect(200);
    let service = &services["services"][0];
    assert_eq!((&service["status"], &service["disabled_reason"]), (&json!("disabled"), &json!("process libvirtd has failed")));
    let later = refused(with("/generated_time", json!("2026-11-21T12:00:00Z"))).await;
    assert!(later.status == 409 && message(&later).contains("already under maintenance"), "{}", later.text());

    // What was done since 1.1, moves since 1.3 and only of hosts.
    let path = format!("{NOTIFICATIONS}/{id}");
    assert_eq!(cloud.get(&admin, &path).await.expect(200)["notification"].get("recovery_workflow_details"), None);
    let shown = ask(&cloud, &admin, "GET", &path, "1.1", None).await.expect(200);
    let workflow = &shown["notification"]["recovery_workflow_details"][0];
    assert_eq!((&workflow["state"], &workflow["progress"]), (&json!("SUCCESS"), &json!(1.0)));
    assert_eq!(ask(&cloud, &admin, "GET", &format!("{path}/vmoves"), "1.2", None).await.status, 404);
    let none = ask(&cloud, &admin, "GET", &format!("{path}/vmoves"), "1.3", None).await;
    assert_eq!((none.status, message(&none)), (400, format!("This notification {id} without vm moves.")));
    let count = async |query: &str| {
        cloud.get(&admin, &format!("{NOTIFICATIONS}?{query}")).await.expect(200)["notifications"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 3);
    assert_eq!((count("type=PROCESS").await, count("status=ignored").await, count("generated-since=2030-01-01T00:00:00").await), (1, 1, 0));
    assert_eq!(cloud.get(&admin, &format!("{NOTIFICATIONS}?status=odd")).await.status, 400);
    assert_eq!(cloud.delete(&admin, &format!("/instance-ha/v1/segments/{segment}")).await.status, 204);
    assert_eq!(count("").await, 3, "what happened stays");
}

/// A server on a host, which has confirmed that the guest ends with its lease.
async fn server(cloud: &Cloud, admin: &Token, host: &str, metadata: Value) -> (String, String) {
    let flavor = json!({"flavor": {"id": "tiny", "name": "tiny", "vcpus": 1, "ram": 128, "disk": 1}});
    cloud.post(admin, "/compute/v2.1/flavors", flavor).await;
    let image = json!({"name": "i", "disk_format": "raw", "container_format": "bare"});
    let image = cloud.post(admin, "/image/v2/images", image).await.expect(201)["id"].as_str().unwrap().to_string();
    let file = format!("/image/v2/images/{image}/file");
    assert_eq!(cloud.request("PUT", &file).token(admin).text("application/octet-stream", vec![7u8; 4096]).send().await.status, 204);
    let body = json!({"server": {"name": "s", "flavorRef": "tiny", "imageRef": image, "networks": "none", "metadata": metadata,
        "availability_zone": format!("nova:{host}")}});
    let made = cloud.request("POST", "/compute/v2.1/servers").token(admin).header("openstack-api-version", "compute 2.37").json(&body);
    let id = made.send().await.expect(202)["server"]["id"].as_str().unwrap().to_string();
    let path = format!("/compute/v2.1/servers/{id}");
    cloud.until(admin, &path, SOON, |a| a.json()["server"]["status"] == "ACTIVE").await;
    (id, path)
}

/// The cloud's id of a host that others stand in for.
async fn leased(cloud: &Cloud, name: &str) -> String {
    let (inventory, store) = (cloud.controller.inventory.clone(), cloud.controller.core.store.clone());
    let name = name.to_string();
    store
        .write(move |tx| {
            let hosts = inventory.hosts_in(tx)?;
            for host in &hosts {
                inventory.host_leased_in(tx, &host.uuid)?;
            }
            let id = hosts.into_iter().find(|h| h.hostname == name).unwrap().uuid;
            // The simulated ones share a machine with the controller.
            tx.execute("UPDATE host SET personality = 'worker' WHERE uuid = ?1", params![&id])?;
            Ok(id)
        })
        .await
        .unwrap()
}

async fn confirmed(cloud: &Cloud, host: &str) {
    let (store, compute) = (cloud.controller.core.store.clone(), cloud.controller.compute.clone());
    let began = std::time::Instant::now();
    while !store.read(|tx| compute.stranded_in(tx, host)).await.unwrap().iter().any(|s| s.leased) {
        assert!(began.elapsed() < SOON, "the host does not confirm");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As the pulse does when a host's lease has certainly ended.
async fn fence(cloud: &Cloud, id: &str) {
    let (inventory, compute, id) = (cloud.controller.inventory.clone(), cloud.controller.compute.clone(), id.to_string());
    let fenced = cloud.controller.core.store.write(move |tx| {
        inventory.host_fence_in(tx, &id)?;
        compute.host_failed_in(tx, &id)
    });
    fenced.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_said_to_have_stopped_is_fenced_before_anything_moves() {
    let (mut cloud, admin, segment) = cloud("auto").await;
    let (id, path) = server(&cloud, &admin, "host-1", json!({})).await;
    let (stays, _) = server(&cloud, &admin, "host-1", json!({"HA_Enabled": "False"})).await;
    let refused = cloud.post(&admin, NOTIFICATIONS, stopped("host-0")).await.expect(202);
    let refused = ended(&cloud, &admin, refused["notification"]["notification_uuid"].as_str().unwrap()).await;
    assert_eq!(refused["status"], "error");
    assert!(refused["message"].as_str().unwrap().contains("it is the active controller"), "{refused}");

    let host = leased(&cloud, "host-1").await;
    confirmed(&cloud, &host).await;
    let told = cloud.post(&admin, NOTIFICATIONS, stopped("host-1")).await.expect(202);
    let uuid = told["notification"]["notification_uuid"].as_str().unwrap().to_string();
    let of = format!("{NOTIFICATIONS}/{uuid}");
    cloud.until(&admin, &of, SOON, |a| a.json()["notification"]["message"] == "Waiting until the host's lease has ended.").await;
    assert_eq!(cloud.get(&admin, &path).await.expect(200)["server"]["OS-EXT-SRV-ATTR:host"], "host-1");
    let busy = cloud.put(&admin, &format!("/instance-ha/v1/segments/{segment}"), json!({"segment": {"name": "x"}})).await;
    assert!(busy.status == 409 && message(&busy).contains("in-use to process notifications"), "{}", busy.text());
    let moves = async || {
        ask(&cloud, &admin, "GET", &format!("{of}/vmoves?sort_key=id&sort_dir=asc"), "1.3", None).await.expect(200)["vmoves"].clone()
    };
    let before = moves().await;
    let of_server = |moves: &Value, id: &str| moves.as_array().unwrap().iter().find(|m| m["instance_uuid"] == id).unwrap().clone();
    assert_eq!((&of_server(&before, &id)["status"], &of_server(&before, &stays)["status"]), (&json!("pending"), &json!("ignored")));

    cloud.hosts[1].vanish().await;
    // The controller dies meanwhile.
    let cloud = cloud.crash().await;
    fence(&cloud, &host).await;
    let over = ended(&cloud, &admin, &uuid).await;
    assert_eq!((&over["status"], &over["message"]), (&json!("finished"), &json!("1 of 2 instances moved, 1 not to be moved, 0 failed.")));
    let vmove = of_server(&ask(&cloud, &admin, "GET", &format!("{of}/vmoves"), "1.3", None).await.expect(200)["vmoves"], &id);
    assert_eq!((&vmove["status"], &vmove["source_host"], &vmove["dest_host"]), (&json!("succeeded"), &json!("host-1"), &json!("host-0")));
    assert!(vmove["start_time"].is_string() && vmove["end_time"].is_string(), "{vmove}");
    let one = ask(&cloud, &admin, "GET", &format!("{of}/vmoves/{}", vmove["uuid"].as_str().unwrap()), "1.3", None).await;
    assert_eq!(one.expect(200)["vmove"], vmove);
    let hosts = cloud.get(&admin, &format!("/instance-ha/v1/segments/{segment}/hosts?name=host-1")).await.expect(200);
    assert_eq!(hosts["hosts"][0]["on_maintenance"], true);
    assert_eq!(cloud.get(&admin, &format!("/inventory/v1/ihosts/{host}")).await.expect(200)["administrative"], "locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_found_lost_has_its_notification() {
    let (mut cloud, admin, _) = cloud("auto").await;
    let (id, _) = server(&cloud, &admin, "host-1", json!({})).await;
    let host = leased(&cloud, "host-1").await;
    confirmed(&cloud, &host).await;
    cloud.hosts[1].vanish().await;
    let (inventory, lost) = (cloud.controller.inventory.clone(), host.clone());
    let loss = cloud.controller.core.store.write(move |tx| inventory.host_health_in(tx, &lost, inventory::Health::Lost));
    loss.await.unwrap();
    let one = |a: &Answer| a.json()["notifications"].as_array().unwrap().len() == 1;
    let listed = cloud.until(&admin, NOTIFICATIONS, SOON, one).await.json();
    let uuid = listed["notifications"][0]["notification_uuid"].as_str().unwrap().to_string();
    let of = format!("{NOTIFICATIONS}/{uuid}");
    cloud.until(&admin, &of, SOON, |a| a.json()["notification"]["message"] == "Waiting until the host is fenced.").await;
    fence(&cloud, &host).await;
    assert_eq!(ended(&cloud, &admin, &uuid).await["status"], "finished");
    let moves = ask(&cloud, &admin, "GET", &format!("{of}/vmoves"), "1.3", None).await.expect(200);
    assert_eq!((&moves["vmoves"][0]["instance_uuid"], &moves["vmoves"][0]["status"]), (&json!(id), &json!("succeeded")));
    // It is still lost, and that is one notification.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(one(&cloud.get(&admin, NOTIFICATIONS).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_hang_are_rebooted_once() {
    let (cloud, admin, _) = cloud("auto").await;
    let (id, path) = server(&cloud, &admin, "host-1", json!({})).await;
    let told = |event: &str, time: &str| {
        json!({"notification": {"type": "VM", "hostname": "host-1", "generated_time": time,
            "payload": {"instance_uuid": id, "vir_domain_event": event, "event": "LIFECYCLE"}}})
    };
    let say = async |body: Value| {
        let answer = cloud.post(&admin, NOTIFICATIONS, body).await.expect(202);
        ended(&cloud, &admin, answer["notification"]["notification_uuid"].as_str().unwrap()).await
    };
    // It was healed before anybody asked.
    let healed = say(told("STOPPED_FAILED", "2026-11-20T12:00:00")).await;
    assert_eq!((&healed["status"], &healed["message"]), (&json!("finished"), &json!("The instance runs.")));
    let hangs = say(told("QEMU_GUEST_AGENT_ERROR", "2026-11-20T13:00:00")).await;
    assert_eq!(hangs["status"], "finished");
    let actions = cloud.get(&admin, &format!("{path}/os-instance-actions")).await.expect(200);
    let reboots: Vec<&Value> = actions["instanceActions"].as_array().unwrap().iter().filter(|a| a["action"] == "reboot").collect();
    assert_eq!(reboots.len(), 1, "{actions}");
    assert_eq!(reboots[0]["request_id"], json!(format!("req-{}", hangs["notification_uuid"].as_str().unwrap())));

    assert_eq!(cloud.post(&admin, &format!("{path}/action"), json!({"os-stop": null})).await.status, 202);
    cloud.until(&admin, &path, SOON, |a| a.json()["server"]["status"] == "SHUTOFF").await;
    let off = say(told("STOPPED_FAILED", "2026-11-20T14:00:00")).await;
    assert_eq!((&off["status"], &off["message"]), (&json!("ignored"), &json!("The instance is stopped.")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserve_is_put_into_service_where_the_method_wants_one() {
    let (cloud, admin, segment) = cloud("reserved_host").await;
    let host = leased(&cloud, "host-1").await;
    let none = cloud.post(&admin, NOTIFICATIONS, stopped("host-1")).await.expect(202);
    let none = ended(&cloud, &admin, none["notification"]["notification_uuid"].as_str().unwrap()).await;
    assert_eq!((&none["status"], &none["message"]), (&json!("error"), &json!("No reserved_hosts available for evacuation.")));
    assert_eq!(cloud.get(&admin, &format!("/inventory/v1/ihosts/{host}")).await.expect(200)["task"], "", "nothing was begun");

    let hosts = format!("/instance-ha/v1/segments/{segment}/hosts");
    let spare = cloud.get(&admin, &format!("{hosts}?name=host-0")).await.expect(200)["hosts"][0]["uuid"].as_str().unwrap().to_string();
    let spare = format!("{hosts}/{spare}");
    cloud.put(&admin, &spare, json!({"host": {"reserved": true}})).await.expect(200);
    let off = json!({"host": "host-0", "binary": "nova-compute"});
    cloud.put(&admin, "/compute/v2.1/os-services/disable", off).await.expect(200);
    let mut body = stopped("host-1");
    body["notification"]["generated_time"] = json!("2026-11-21T12:00:00");
    cloud.post(&admin, NOTIFICATIONS, body).await.expect(202);
    cloud.until(&admin, &spare, SOON, |a| a.json()["host"]["reserved"] == false).await;
    let services = cloud.get(&admin, "/compute/v2.1/os-services?host=host-0").await.expect(200);
    assert_eq!(services["services"][0]["status"], "enabled");
}
