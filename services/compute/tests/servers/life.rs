//! What is done with a server after it was built: suspended, copied, rebuilt, rescued, resized.

use serde_json::{Value, json};
use testing::Answer;

use crate::world::{PATIENCE, World};

fn conflict(answer: &Answer) -> String {
    assert_eq!(answer.status, 409, "{}", answer.text());
    answer.json()["conflictingRequest"]["message"].as_str().unwrap().to_string()
}

/// The host hears a moment later that a copy is wanted no more.
async fn no_copies(w: &World) {
    let limit = std::time::Instant::now() + PATIENCE;
    while w.cloud.hosts[0].hypervisor.copies() > 0 {
        assert!(std::time::Instant::now() < limit, "a copy is left on the host");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

impl World {
    async fn admin_act(&self, id: &str, body: Value, version: &str) -> Answer {
        self.call(&self.admin, "POST", &format!("/servers/{id}/action"), Some(body), version).await
    }
    async fn image(&self, id: &str) -> Value {
        self.cloud.get(&self.tenant, &format!("/image/v2/images/{id}")).await.expect(200)
    }
    async fn flavor(&self, id: &str, ram: u64, disk: u64) {
        let flavor = json!({"flavor": {"id": id, "name": id, "ram": ram, "vcpus": 2, "disk": disk}});
        self.cloud.post(&self.admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    }
    /// What placement holds, by consumer.
    async fn held(&self, consumer: &str) -> Value {
        let answer = self.cloud.get(&self.admin, &format!("/placement/allocations/{consumer}")).await.expect(200);
        answer["allocations"].as_object().unwrap().values().next().map_or(Value::Null, |a| a["resources"].clone())
    }
    async fn actions(&self, id: &str) -> Vec<String> {
        let listed = self.get(&format!("/servers/{id}/os-instance-actions"), "2.104").await.expect(200);
        listed["instanceActions"].as_array().unwrap().iter().map(|a| a["action"].as_str().unwrap().to_string()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_server_resumes_where_it_was() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    assert!(conflict(&w.act(&id, json!({"resume": null})).await).contains("Cannot 'resume' instance"));
    assert_eq!(w.act(&id, json!({"suspend": null})).await.status, 202);
    let shown = w.wait(&id, "SUSPENDED").await;
    assert_eq!((&shown["OS-EXT-STS:vm_state"], &shown["OS-EXT-STS:power_state"]), (&json!("suspended"), &json!(4)));
    let machine = &w.cloud.hosts[0].hypervisor;
    assert!(machine.running().is_empty() && machine.has_memory(&id));
    assert!(conflict(&w.act(&id, json!({"suspend": null})).await).contains("vm_state suspended"));
    assert!(conflict(&w.act(&id, json!({"os-start": null})).await).contains("vm_state suspended"));
    assert_eq!(w.act(&id, json!({"resume": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert!(!machine.has_memory(&id));
    // A full machine: the server goes on, and says why.
    machine.trouble(|t| t.full = true);
    assert_eq!(w.act(&id, json!({"suspend": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    let actions = w.get(&format!("/servers/{id}/os-instance-actions"), "2.104").await.expect(200);
    assert_eq!((&actions["instanceActions"][0]["action"], &actions["instanceActions"][0]["message"]), (&json!("suspend"), &json!("Error")));
    machine.trouble(|t| t.full = false);
    assert_eq!(w.act(&id, json!({"suspend": null})).await.status, 202);
    w.wait(&id, "SUSPENDED").await;
    // A hard reboot starts it anew.
    assert_eq!(w.act(&id, json!({"reboot": {"type": "HARD"}})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert!(!machine.has_memory(&id));
    assert_eq!(w.actions(&id).await[0], "reboot");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_set_by_the_guests_agent_or_not_at_all() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let body = json!({"changePassword": {"adminPass": "s3cret"}});
    let refused = conflict(&w.act(&id, body.clone()).await);
    assert!(refused.contains("Failed to set admin password on") && !refused.contains("s3cret"), "{refused}");
    w.wait(&id, "ACTIVE").await;
    let machine = &w.cloud.hosts[0].hypervisor;
    machine.trouble(|t| t.agent = true);
    assert_eq!(w.act(&id, body.clone()).await.status, 202);
    assert_eq!(machine.password(&id).as_deref(), Some("s3cret"));
    for bad in [json!({"changePassword": null}), json!({"changePassword": {}}), json!({"changePassword": {"adminPass": 1}})] {
        assert_eq!(w.act(&id, bad.clone()).await.status, 400, "{bad}");
    }
    assert_eq!(w.act(&id, json!({"os-stop": null})).await.status, 202);
    w.wait(&id, "SHUTOFF").await;
    assert!(conflict(&w.act(&id, body).await).contains("Cannot 'changePassword' instance"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_server_boots_another() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let answer = w.act(&id, json!({"createImage": {"name": "copy", "metadata": {"mine": "yes"}}})).await.expect(202);
    let image = answer["image_id"].as_str().unwrap().to_string();
    let active = |a: &Answer| a.json()["status"] == "active";
    w.cloud.until(&w.tenant, &format!("/image/v2/images/{image}"), PATIENCE, active).await;
    w.wait(&id, "ACTIVE").await;
    let shown = w.image(&image).await;
    for (key, value) in [
        ("name", json!("copy")),
        ("mine", json!("yes")),
        ("image_type", json!("snapshot")),
        ("instance_uuid", json!(id)),
        ("base_image_ref", json!(w.image)),
        ("disk_format", json!("qcow2")),
        ("container_format", json!("bare")),
        ("visibility", json!("private")),
        ("owner", json!(w.tenant.project_id)),
        ("min_disk", json!(1)),
        ("virtual_size", json!(1 << 20)),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    no_copies(&w).await;
    let second = w.active(json!({"imageRef": image})).await;
    assert_ne!(second, id);
    // Of old the answer is in a header.
    let old = w.post(&format!("/servers/{id}/action"), json!({"createImage": {"name": "old"}}), "2.44").await;
    assert_eq!((old.status, old.text()), (202, String::new()));
    let location = old.header("location");
    assert!(location.contains("/image/v2/images/"), "{location}");
    let image = location.rsplit('/').next().unwrap().to_string();
    // While it is being made nothing else is done with the server.
    w.cloud.until(&w.tenant, &format!("/image/v2/images/{image}"), PATIENCE, active).await;
    w.wait(&id, "ACTIVE").await;
    // One that cannot be made leaves neither image nor task.
    w.cloud.hosts[0].hypervisor.trouble(|t| t.full = true);
    let image = w.act(&id, json!({"createImage": {"name": "none"}})).await.expect(202)["image_id"].as_str().unwrap().to_string();
    w.cloud.until(&w.tenant, &format!("/image/v2/images/{image}"), PATIENCE, |a| a.status == 404).await;
    w.wait(&id, "ACTIVE").await;
    for bad in [json!({}), json!({"name": ""}), json!({"name": "a", "metadata": 1}), json!({"name": "a", "x": 1}), json!(null)] {
        assert_eq!(w.act(&id, json!({"createImage": bad})).await.status, 400, "{bad}");
    }
    let many: serde_json::Map<String, Value> = (0..200).map(|n| (format!("k{n}"), json!("v"))).collect();
    let body = json!({"createImage": {"name": "many", "metadata": many}});
    assert_eq!(w.post(&format!("/servers/{id}/action"), body, "2.38").await.status, 403);
    // A server that goes while it is copied takes the copy along.
    w.cloud.hosts[0].hypervisor.trouble(|t| (t.full, t.delay) = (false, std::time::Duration::from_millis(200)));
    let image = w.act(&id, json!({"createImage": {"name": "gone"}})).await.expect(202)["image_id"].as_str().unwrap().to_string();
    assert!(conflict(&w.act(&id, json!({"pause": null})).await).contains("task_state image_snapshot"));
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.cloud.until(&w.tenant, &format!("/image/v2/images/{image}"), PATIENCE, |a| a.status == 404).await;
    no_copies(&w).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_rotate() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let mut made = Vec::new();
    for n in 1..=3 {
        let body = json!({"createBackup": {"name": format!("b{n}"), "backup_type": "daily", "rotation": 2}});
        let image = w.act(&id, body).await.expect(202)["image_id"].as_str().unwrap().to_string();
        w.wait(&id, "ACTIVE").await;
        made.push(image);
    }
    let listed = w.cloud.get(&w.tenant, "/image/v2/images?image_type=backup&sort=created_at:asc").await.expect(200);
    let names: Vec<&str> = listed["images"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b2", "b3"]);
    assert_eq!(listed["images"][0]["backup_type"], "daily");
    let body = json!({"createBackup": {"name": "none", "backup_type": "daily", "rotation": 0}});
    let answer = w.post(&format!("/servers/{id}/action"), body, "2.44").await;
    assert_eq!((answer.status, answer.header("location")), (202, ""));
    w.wait(&id, "ACTIVE").await;
    let listed = w.cloud.get(&w.tenant, "/image/v2/images?image_type=backup").await.expect(200);
    assert_eq!(listed["images"], json!([]));
    for bad in [json!({"name": "a", "backup_type": "x"}), json!({"name": "a", "backup_type": "x", "rotation": -1})] {
        assert_eq!(w.act(&id, json!({"createBackup": bad})).await.status, 400, "{bad}");
    }
    assert_eq!(w.actions(&id).await[0], "createBackup");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_gives_another_disk_and_keeps_the_rest() {
    let w = World::new().await;
    let id = w.active(json!({"metadata": {"old": "1"}})).await;
    let before = w.wait(&id, "ACTIVE").await;
    let body = json!({"rebuild": {
        "imageRef": w.image, "name": "new", "metadata": {"new": "2"}, "adminPass": "pw", "description": "d", "user_data": "aGk=",
        "preserve_ephemeral": false, "accessIPv4": "1.2.3.4", "hostname": "other", "key_name": null, "trusted_image_certificates": null,
    }});
    let answer = w.act(&id, body).await;
    let shown = answer.expect(202)["server"].clone();
    assert!(answer.header("location").ends_with(&id));
    for (key, value) in [("name", "new"), ("adminPass", "pw"), ("status", "REBUILD"), ("user_data", "aGk="), ("accessIPv4", "1.2.3.4")] {
        assert_eq!(shown[key], value, "{key}");
    }
    let after = w.wait(&id, "ACTIVE").await;
    assert_eq!((&after["metadata"], &after["addresses"]), (&json!({"new": "2"}), &before["addresses"]));
    let newest = w.get(&format!("/servers/{id}"), "2.90").await.expect(200);
    assert_eq!(newest["server"]["OS-EXT-SRV-ATTR:hostname"], "other");
    assert_ne!(after["OS-SRV-USG:launched_at"], before["OS-SRV-USG:launched_at"]);
    let machine = &w.cloud.hosts[0].hypervisor;
    assert_eq!(machine.disks(&id), ["root-1"]);
    assert_eq!(w.held(&id).await["VCPU"], 1);
    let meta = w.cloud.hosts[0].wire.metadata(&id).unwrap();
    assert_eq!((meta.user_data_base64.as_deref(), &meta.meta_data["admin_pass"]), (Some("aGk="), &json!("pw")));
    // One that is off stays off.
    assert_eq!(w.act(&id, json!({"os-stop": null})).await.status, 202);
    w.wait(&id, "SHUTOFF").await;
    w.act(&id, json!({"rebuild": {"imageRef": w.image}})).await.expect(202);
    w.wait(&id, "SHUTOFF").await;
    assert_eq!(machine.disks(&id), ["root-4"]);
    assert!(machine.running().is_empty());
    let path = format!("/servers/{id}/action");
    let image = w.image.clone();
    for (rebuild, version, status) in [
        (json!({}), "2.1", 400),
        (json!({"imageRef": "x"}), "2.1", 400),
        (json!({"imageRef": "11111111-2222-4333-8444-555555555555"}), "2.1", 400),
        (json!({"imageRef": image, "description": "d"}), "2.18", 400),
        (json!({"imageRef": image, "key_name": "nope"}), "2.54", 400),
        (json!({"imageRef": image, "key_name": null}), "2.53", 400),
        (json!({"imageRef": image, "user_data": "aGk="}), "2.56", 400),
        (json!({"imageRef": image, "personality": []}), "2.57", 400),
        (json!({"imageRef": image, "trusted_image_certificates": ["a"]}), "2.63", 400),
        (json!({"imageRef": image, "hostname": "h.example"}), "2.93", 400),
    ] {
        let answer = w.post(&path, json!({"rebuild": rebuild}), version).await;
        assert_eq!(answer.status, status, "{rebuild} {version} {}", answer.text());
    }
    // A start that fails is an error, and a rebuild is a way out of it.
    machine.trouble(|t| t.starts_fail.push_back("no luck".into()));
    assert_eq!(w.act(&id, json!({"os-start": null})).await.status, 202);
    w.wait(&id, "ERROR").await;
    assert_eq!(w.act(&id, json!({"lock": null})).await.status, 202);
    w.act(&id, json!({"unlock": null})).await;
    w.act(&id, json!({"rebuild": {"imageRef": w.image}})).await.expect(202);
    w.wait(&id, "ACTIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescued_server_has_its_disks_beside() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    assert!(conflict(&w.act(&id, json!({"unrescue": null})).await).contains("Cannot 'unrescue' instance"));
    let body = json!({"rescue": {"adminPass": "pw", "rescue_image_ref": w.image}});
    assert_eq!(w.act(&id, body).await.expect(200), json!({"adminPass": "pw"}));
    let shown = w.wait(&id, "RESCUE").await;
    assert_eq!((&shown["OS-EXT-STS:vm_state"], &shown["OS-EXT-STS:power_state"]), (&json!("rescued"), &json!(1)));
    let machine = &w.cloud.hosts[0].hypervisor;
    assert_eq!(machine.disks(&id), ["rescue-1", "root"]);
    assert_eq!(w.cloud.hosts[0].wire.metadata(&id).unwrap().meta_data["admin_pass"], "pw");
    // A guest that dies meanwhile comes back rescued.
    machine.kill(&id, "killed");
    let log = |a: &Answer| a.text().contains("700.101");
    w.cloud.until(&w.admin, "/fault/v1/event_log?include_suppress=true", PATIENCE, log).await;
    w.wait(&id, "RESCUE").await;
    assert!(conflict(&w.act(&id, json!({"rescue": null})).await).contains("vm_state rescued"));
    assert_eq!(w.act(&id, json!({"unrescue": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!(machine.disks(&id), ["root"]);
    assert_eq!(w.cloud.hosts[0].wire.metadata(&id).unwrap().meta_data["admin_pass"], Value::Null);
    let own = w.act(&id, json!({"rescue": null})).await.expect(200);
    assert_eq!(own["adminPass"].as_str().unwrap().len(), 12);
    w.wait(&id, "RESCUE").await;
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
    let other = w.active(json!({})).await;
    for bad in [json!({"rescue_image_ref": "x"}), json!({"rescue_image_ref": id}), json!({"x": 1}), json!("now")] {
        assert_eq!(w.act(&other, json!({"rescue": bad})).await.status, 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_is_confirmed_or_reverted() {
    let w = World::new().await;
    w.flavor("2", 128, 2).await;
    let id = w.active(json!({})).await;
    let machine = &w.cloud.hosts[0].hypervisor;
    for reverting in [true, false] {
        assert_eq!(w.act(&id, json!({"resize": {"flavorRef": "2"}})).await.status, 202);
        let shown = w.wait(&id, "VERIFY_RESIZE").await;
        assert_eq!((&shown["OS-EXT-STS:vm_state"], &shown["flavor"]["id"]), (&json!("resized"), &json!("2")));
        assert_eq!(machine.disks(&id).len(), 2, "the old disk is kept");
        assert_eq!(w.held(&id).await, json!({"VCPU": 2, "MEMORY_MB": 128, "DISK_GB": 2}));
        let listed = w.call(&w.admin, "GET", &format!("/os-migrations?instance_uuid={id}"), None, "2.80").await.expect(200);
        let migration = &listed["migrations"][0];
        assert_eq!((&migration["status"], &migration["migration_type"]), (&json!("finished"), &json!("resize")));
        let uuid = migration["uuid"].as_str().unwrap();
        assert_eq!(w.held(uuid).await, json!({"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1}));
        assert!(conflict(&w.act(&id, json!({"resize": {"flavorRef": "1"}})).await).contains("vm_state resized"));
        if reverting {
            assert_eq!(w.act(&id, json!({"revertResize": null})).await.status, 202);
            let shown = w.wait(&id, "ACTIVE").await;
            assert_eq!(shown["flavor"]["id"], "1");
            assert_eq!(machine.disks(&id), ["root"]);
            assert_eq!(w.held(&id).await, json!({"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1}));
        } else {
            let answer = w.act(&id, json!({"confirmResize": null})).await;
            assert_eq!((answer.status, answer.text()), (204, String::new()));
            let shown = w.wait(&id, "ACTIVE").await;
            assert_eq!(shown["flavor"]["id"], "2");
            assert_eq!(w.held(&id).await, json!({"VCPU": 2, "MEMORY_MB": 128, "DISK_GB": 2}));
            let limit = std::time::Instant::now() + PATIENCE;
            while machine.disks(&id).len() != 1 {
                assert!(std::time::Instant::now() < limit, "the old disk stays: {:?}", machine.disks(&id));
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        assert_eq!(w.held(uuid).await, Value::Null);
        let listed = w.call(&w.admin, "GET", "/os-migrations", None, "2.80").await.expect(200);
        assert_eq!(listed["migrations"][0]["status"], if reverting { "reverted" } else { "confirmed" });
    }
    assert!(conflict(&w.act(&id, json!({"confirmResize": null})).await).contains("Cannot 'confirmResize' instance"));
    assert!(conflict(&w.act(&id, json!({"revertResize": null})).await).contains("Cannot 'revertResize' instance"));
    for (flavor, status) in [("2", 400), ("nope", 400)] {
        assert_eq!(w.act(&id, json!({"resize": {"flavorRef": flavor}})).await.status, status, "{flavor}");
    }
    // Smaller disks cannot be; the server goes on and its actions tell.
    assert_eq!(w.act(&id, json!({"resize": {"flavorRef": "1"}})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    let listed = w.call(&w.admin, "GET", "/os-migrations?limit=1", None, "2.59").await.expect(200);
    assert_eq!(listed["migrations"][0]["status"], "error");
    assert!(listed["migrations_links"][0]["href"].as_str().unwrap().contains("marker="));
    // No room for both sizes.
    w.flavor("huge", 2_000_000_000, 4).await;
    let quota = json!({"quota_set": {"ram": -1, "cores": -1}});
    w.cloud
        .request("PUT", &format!("/compute/v2.1/os-quota-sets/{}", w.tenant.project_id))
        .token(&w.admin)
        .json(&quota)
        .send()
        .await
        .expect(200);
    assert_eq!(w.act(&id, json!({"resize": {"flavorRef": "huge"}})).await.status, 202);
    let shown = w.wait(&id, "ACTIVE").await;
    assert_eq!(shown["flavor"]["id"], "2");
    assert_eq!(w.held(&id).await, json!({"VCPU": 2, "MEMORY_MB": 128, "DISK_GB": 2}));
    // Off, and deleted half-way.
    assert_eq!(w.act(&id, json!({"os-stop": null})).await.status, 202);
    w.wait(&id, "SHUTOFF").await;
    w.flavor("3", 192, 3).await;
    assert_eq!(w.act(&id, json!({"resize": {"flavorRef": "3"}})).await.status, 202);
    let shown = w.wait(&id, "VERIFY_RESIZE").await;
    assert_eq!(shown["OS-EXT-STS:power_state"], 4);
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_counts_against_the_quota_and_a_guest_that_does_not_start_is_put_back() {
    let w = World::new().await;
    w.flavor("2", 128, 2).await;
    let id = w.active(json!({})).await;
    let quota = json!({"quota_set": {"ram": 100}});
    w.cloud
        .request("PUT", &format!("/compute/v2.1/os-quota-sets/{}", w.tenant.project_id))
        .token(&w.admin)
        .json(&quota)
        .send()
        .await
        .expect(200);
    let refused = w.act(&id, json!({"resize": {"flavorRef": "2"}})).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let quota = json!({"quota_set": {"ram": 1000}});
    w.cloud
        .request("PUT", &format!("/compute/v2.1/os-quota-sets/{}", w.tenant.project_id))
        .token(&w.admin)
        .json(&quota)
        .send()
        .await
        .expect(200);
    w.cloud.hosts[0].hypervisor.trouble(|t| t.starts_fail.push_back("no luck".into()));
    assert_eq!(w.act(&id, json!({"resize": {"flavorRef": "2"}})).await.status, 202);
    let shown = w.wait(&id, "ACTIVE").await;
    assert_eq!(shown["flavor"]["id"], "1");
    assert_eq!(w.held(&id).await, json!({"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1}));
    let limit = std::time::Instant::now() + PATIENCE;
    while w.cloud.hosts[0].hypervisor.running().is_empty() || w.cloud.hosts[0].hypervisor.disks(&id) != ["root"] {
        assert!(std::time::Instant::now() < limit, "it never ran again");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_have_versions_policies_and_locks() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let path = format!("/servers/{id}/action");
    for (body, version, status) in [
        (json!({"trigger_crash_dump": null}), "2.16", 404),
        (json!({"trigger_crash_dump": {}}), "2.17", 400),
        (json!({"trigger_crash_dump": null}), "2.17", 202),
        (json!({"resetNetwork": null}), "2.1", 410),
        (json!({"injectNetworkInfo": null}), "2.1", 403),
        (json!({"migrate": null}), "2.1", 403),
        (json!({"os-migrateLive": {"host": null, "block_migration": "auto"}}), "2.25", 403),
    ] {
        let answer = w.post(&path, body.clone(), version).await;
        assert_eq!(answer.status, status, "{body} {version} {}", answer.text());
    }
    for (body, version, status) in [
        (json!({"injectNetworkInfo": null}), "2.1", 202),
        (json!({"migrate": {"host": "nowhere"}}), "2.56", 400),
        (json!({"migrate": {"host": "host-0"}}), "2.56", 400),
        (json!({"migrate": {"other": 1}}), "2.56", 400),
        (json!({"os-migrateLive": {"host": null, "block_migration": "auto"}}), "2.33", 400),
        (json!({"os-migrateLive": {"host": null, "block_migration": false, "disk_over_commit": false}}), "2.24", 400),
        (json!({"os-migrateLive": {"host": null, "block_migration": "auto", "force": true}}), "2.30", 400),
        (json!({"os-migrateLive": {"host": "nowhere", "block_migration": "auto"}}), "2.68", 400),
        (json!({"os-migrateLive": {"block_migration": "auto"}}), "2.34", 400),
        (json!({"os-migrateLive": {"host": null, "block_migration": "auto"}}), "2.34", 202),
        (json!({"migrate": null}), "2.1", 202),
    ] {
        let answer = w.admin_act(&id, body.clone(), version).await;
        assert_eq!(answer.status, status, "{body} {version} {}", answer.text());
        w.wait(&id, "ACTIVE").await;
    }
    w.wait(&id, "ACTIVE").await;
    let listed = w.call(&w.admin, "GET", "/os-migrations?status=error", None, "2.59").await.expect(200);
    assert_eq!(listed["migrations"].as_array().unwrap().len(), 2);
    assert_eq!(w.get("/os-migrations", "2.59").await.status, 403);
    assert_eq!(w.call(&w.admin, "GET", "/os-migrations?nonsense=1", None, "2.59").await.status, 400);
    w.call(&w.admin, "GET", "/os-migrations?nonsense=1", None, "2.58").await.expect(200);
    let of = format!("/servers/{id}/migrations");
    assert_eq!(w.call(&w.admin, "GET", &of, None, "2.23").await.expect(200), json!({"migrations": []}));
    assert_eq!(w.call(&w.admin, "GET", &of, None, "2.22").await.status, 404);
    // A server that is not on its way has nothing to be aborted or forced.
    for (method, path, body, status) in [
        ("GET", format!("{of}/1"), None, 404),
        ("DELETE", format!("{of}/1"), None, 409),
        ("POST", format!("{of}/1/action"), Some(json!({"force_complete": null})), 409),
    ] {
        assert_eq!(w.call(&w.admin, method, &path, body, "2.65").await.status, status, "{method} {path}");
    }
    assert_eq!(w.act(&id, json!({"lock": null})).await.status, 202);
    w.call(&w.admin, "POST", &path, Some(json!({"lock": null})), "2.1").await;
    for body in [
        json!({"suspend": null}),
        json!({"rebuild": {"imageRef": w.image}}),
        json!({"rescue": null}),
        json!({"resize": {"flavorRef": "1"}}),
        json!({"changePassword": {"adminPass": "x"}}),
        json!({"trigger_crash_dump": null}),
    ] {
        assert!(conflict(&w.act(&id, body.clone()).await).contains("is locked"), "{body}");
    }
    let reader = w.cloud.tenant("reader", "reader").await;
    for body in [json!({"suspend": null}), json!({"createImage": {"name": "x"}}), json!({"rescue": null})] {
        assert_eq!(w.call(&reader, "POST", &path, Some(body.clone()), "2.1").await.status, 404, "{body}");
    }
}
