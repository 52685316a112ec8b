//! Create, show, delete, schemas, versions, and who may do what.

use axum::body::Body;
use serde_json::{Value, json};

use crate::world::World;

pub async fn an_image_has_everything_it_was_made_with(world: World) {
    let id = base::id::uuid();
    let body = json!({
        "id": id, "name": "all", "visibility": "private", "protected": true, "os_hidden": true, "disk_format": "qcow2",
        "container_format": "bare", "min_disk": 3, "min_ram": 64, "tags": ["b", "a", "b"], "hw_disk_bus": "virtio",
        "owner_specified.openstack.md5": "", "architecture": "x86_64"
    });
    let made = world.post("alice", "/v2/images", body).await.is(201);
    assert_eq!(made.header("location"), format!("http://cloud:5000/image/v2/images/{id}"));
    let made = made.json();
    assert_eq!(made, world.show("alice", &id).await);
    let times = (made["created_at"].clone(), made["updated_at"].clone());
    assert_eq!(times.0, times.1);
    assert_eq!(
        made,
        json!({
            "id": id, "name": "all", "status": "queued", "visibility": "private", "owner": "a", "protected": true, "os_hidden": true,
            "disk_format": "qcow2", "container_format": "bare", "min_disk": 3, "min_ram": 64, "size": null, "virtual_size": null,
            "checksum": null, "os_hash_algo": null, "os_hash_value": null, "created_at": times.0, "updated_at": times.1,
            "tags": ["a", "b"], "self": format!("/v2/images/{id}"), "file": format!("/v2/images/{id}/file"),
            "schema": "/v2/schemas/image", "hw_disk_bus": "virtio", "owner_specified.openstack.md5": "", "architecture": "x86_64"
        })
    );
    let answer = world.post("bob", "/v2/images", json!({ "id": id })).await.is(409);
    assert!(answer.text().contains(&format!("Image ID {id} already exists!")));
    assert_eq!(answer.header("content-type"), "text/html; charset=UTF-8");
    // With nothing said at all.
    let made = world.post("alice", "/v2/images", json!({})).await.is(201).json();
    assert_eq!((&made["name"], &made["visibility"], &made["protected"]), (&Value::Null, &json!("shared"), &json!(false)));
    assert_eq!((&made["min_disk"], &made["disk_format"], &made["tags"]), (&json!(0), &Value::Null, &json!([])));
}

pub async fn what_cannot_be_made_is_told_by_name(world: World) {
    let long = "x".repeat(256);
    let many: Vec<String> = (0..129).map(|n| n.to_string()).collect();
    let properties: serde_json::Map<String, Value> = many.iter().map(|n| (format!("p{n}"), json!("v"))).collect();
    for (status, words, body) in [
        (400, "property 'name'", json!({"name": 1})),
        (400, "property 'name'", json!({ "name": long })),
        (400, "property 'id'", json!({"id": "no uuid"})),
        (400, "property 'id'", json!({"id": "0123456789abcdef0123456789abcdef"})),
        (400, "property 'container_format'", json!({"container_format": "wrong"})),
        (400, "property 'disk_format'", json!({"disk_format": "wrong"})),
        (400, "property 'visibility'", json!({"visibility": "wrong"})),
        (400, "property 'visibility'", json!({"visibility": null})),
        (400, "property 'protected'", json!({"protected": "yes"})),
        (400, "property 'min_disk'", json!({"min_disk": "1"})),
        (400, "property 'min_ram'", json!({"min_ram": true})),
        (400, "min_disk", json!({"min_disk": -1})),
        (400, "min_ram", json!({"min_ram": 2147483648u64})),
        (400, "property 'tags'", json!({"tags": "one"})),
        (400, "property 'tags'", json!({"tags": [long]})),
        (400, "property 'tags'", json!({"tags": [1]})),
        (400, "property 'custom'", json!({"custom": 5})),
        (400, "property 'custom'", json!({"custom": "a\u{0}b"})),
        (400, "property 'kernel_id'", json!({"kernel_id": "x"})),
        (400, "property 'size'", json!({"size": "big"})),
        (400, "255", json!({ long.as_str(): "v" })),
        (400, "empty", json!({"": "v"})),
        (403, "'size' is read-only", json!({"size": 5})),
        (403, "'status' is read-only", json!({"status": "active"})),
        (403, "'checksum' is read-only", json!({"checksum": "x"})),
        (403, "'self' is read-only", json!({"self": "/x"})),
        (403, "'direct_url' is read-only", json!({"direct_url": "file:///etc/passwd"})),
        (403, "'deleted' is reserved", json!({"deleted": "true"})),
        (403, "'os_glance_foo' is reserved", json!({"os_glance_foo": "bar"})),
        (400, "property 'locations'", json!({"locations": "x"})),
        (403, "locations", json!({"locations": []})),
        (403, "owned by 'b'", json!({"owner": "b"})),
        (403, "publicize_image", json!({"visibility": "public"})),
        (413, "tags", json!({ "tags": many })),
        (413, "properties", Value::Object(properties)),
    ] {
        let answer = world.post("alice", "/v2/images", body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert!(answer.text().replace("&quot;", "\"").contains(words), "{body}: {}", answer.text());
    }
    for text in ["", "[]", "{", "null", "{\"name\": \"x\"} more"] {
        world.send("alice", "POST", "/v2/images", &[], Body::from(text)).await.is(400);
    }
    assert_eq!(world.get("alice", "/v2/images").await.json()["images"], json!([]));
    world.post("reader", "/v2/images", json!({})).await.is(403);
    world.post("system", "/v2/images", json!({})).await.is(403);
    world.post("admin", "/v2/images", json!({"owner": "b", "visibility": "public"})).await.is(201);
    world.post("admin", "/v2/images", json!({"owner": null})).await.is(201);
}

/// Without a token, with a role that is too little, from another project, of something that is not there.
pub async fn every_route_is_denied_to_those_it_is_not_for(world: World) {
    let id = world.active("alice", json!({"name": "i", "visibility": "shared", "tags": ["t"]}), b"content").await;
    world.post("alice", &format!("/v2/images/{id}/members"), json!({"member": "c"})).await.is(200);
    let nothing = base::id::uuid();
    let octets: (&'static str, &str) = ("content-type", "application/octet-stream");
    let patch: (&'static str, &str) = ("content-type", "application/openstack-images-v2.1-json-patch");
    let none: (&'static str, &str) = ("x-nothing", "");
    let changes = r#"[{"op": "replace", "path": "/name", "value": "n"}]"#;
    for (method, path, header, body, too_little) in [
        ("GET", "", none, "", 200),
        ("PATCH", "", patch, changes, 403),
        ("DELETE", "", none, "", 403),
        ("GET", "/file", none, "", 403),
        ("PUT", "/file", octets, "x", 403),
        ("POST", "/actions/deactivate", none, "", 403),
        ("POST", "/actions/reactivate", none, "", 403),
        ("PUT", "/tags/x", none, "", 403),
        ("DELETE", "/tags/t", none, "", 403),
        ("GET", "/members", none, "", 200),
        ("POST", "/members", none, r#"{"member": "z"}"#, 403),
        ("GET", "/members/c", none, "", 200),
        ("PUT", "/members/c", none, r#"{"status": "accepted"}"#, 403),
        ("DELETE", "/members/c", none, "", 403),
    ] {
        for (token, image, status) in
            [("", &id, 401), ("stale", &id, 401), ("reader", &id, too_little), ("bob", &id, 404), ("alice", &nothing, 404)]
        {
            let answer = world.send(token, method, &format!("/v2/images/{image}{path}"), &[header], Body::from(body)).await;
            assert_eq!(answer.status, status, "{method} {path} by {token:?}: {}", answer.text());
        }
    }
    for (method, path) in [("GET", "/v2/images"), ("POST", "/v2/images"), ("GET", "/v2/schemas/image"), ("GET", "/v2/info/import")] {
        world.send("", method, path, &[], Body::empty()).await.is(401);
    }
    world.get("system", "/v2/images").await.is(403);
    let shown = world.show("alice", &id).await;
    assert_eq!((&shown["name"], &shown["status"], &shown["tags"]), (&json!("i"), &json!("active"), &json!(["t"])));
}

pub async fn protected_images_stay_and_deleted_ones_are_gone(world: World) {
    let id = world.active("alice", json!({"name": "i", "protected": true}), b"content").await;
    let answer = world.delete("alice", &format!("/v2/images/{id}")).await.is(403);
    assert!(answer.text().contains("protected and cannot be deleted"));
    world.patch("alice", &id, json!([{"op": "replace", "path": "/protected", "value": false}])).await.is(200);
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    for (method, path) in [("GET", ""), ("DELETE", ""), ("GET", "/file"), ("GET", "/members"), ("POST", "/actions/deactivate")] {
        world.send("alice", method, &format!("/v2/images/{id}{path}"), &[], Body::empty()).await.is(404);
    }
    world.patch("alice", &id, json!([{"op": "replace", "path": "/name", "value": "x"}])).await.is(404);
    world.upload("alice", &id, "x").await.is(404);
    world.get("alice", &format!("/v2/images/{}/tasks", "11111111-2222-4333-8444-555555555555")).await.is(404);
    world.get("alice", "/v2/images/").await.is(404);
    world.delete("alice", "/v2/images/").await.is(404);
    world.get("alice", "/v2/images/..%2f..%2fetc%2fpasswd").await.is(404);
}

pub async fn deactivated_content_is_for_administrators(world: World) {
    let id = world.active("alice", json!({"visibility": "community"}), b"content").await;
    let act =
        async |token: &str, verb: &str| world.send(token, "POST", &format!("/v2/images/{id}/actions/{verb}"), &[], Body::empty()).await;
    act("alice", "deactivate").await.is(204);
    act("alice", "deactivate").await.is(204);
    assert_eq!(world.show("alice", &id).await["status"], "deactivated");
    for (token, status) in [("alice", 403), ("bob", 403), ("admin", 200)] {
        world.get(token, &format!("/v2/images/{id}/file")).await.is(status);
    }
    act("bob", "reactivate").await.is(403);
    act("alice", "reactivate").await.is(204);
    assert_eq!(world.get("bob", &format!("/v2/images/{id}/file")).await.is(200).text(), "content");
    let queued = world.image("alice", json!({})).await;
    let answer = world.send("alice", "POST", &format!("/v2/images/{queued}/actions/deactivate"), &[], Body::empty()).await.is(403);
    assert!(answer.text().contains("Not allowed to deactivate image in status 'queued'"));
}

pub async fn versions_schemas_and_information(world: World) {
    let choice = world.get("", "/").await.is(300).json();
    let versions = world.get("", "/versions").await.is(200).json();
    assert_eq!(choice, versions);
    assert_eq!(versions["versions"][0]["status"], "CURRENT");
    assert_eq!(versions["versions"][0]["links"][0]["href"], "http://cloud:5000/image/v2/");
    assert_eq!(versions["versions"].as_array().unwrap().last().unwrap()["id"], "v2.0");
    for (name, list) in [("image", false), ("images", true), ("member", false), ("members", true), ("task", false), ("tasks", true)] {
        let schema = world.get("alice", &format!("/v2/schemas/{name}")).await.is(200).json();
        assert_eq!(schema["name"], name);
        assert_eq!(schema["properties"][name]["type"] == "array", list);
    }
    let methods = world.get("alice", "/v2/info/import").await.is(200).json()["import-methods"]["value"].clone();
    assert_eq!(methods, json!(["glance-direct", "web-download", "copy-image", "glance-download"]));
    let stores = json!([{"id": "local", "description": "Files on the controller", "default": "true"}]);
    assert_eq!(world.get("alice", "/v2/info/stores").await.is(200).json()["stores"], stores);
    let detail = world.get("admin", "/v2/info/stores/detail").await.is(200).json();
    assert_eq!((&detail["stores"][0]["type"], &detail["stores"][0]["weight"]), (&json!("file"), &json!(0)));
    assert_eq!(detail["stores"][0]["properties"]["data_dir"], world.images.directory().to_str().unwrap());
}

pub async fn every_change_is_an_event(world: World) {
    let id = world.active("alice", json!({"name": "i"}), b"content").await;
    world.patch("alice", &id, json!([{"op": "add", "path": "/x", "value": "y"}])).await.is(200);
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    let mut feed = events::Feed::open(&world.core.store, "test").await.unwrap();
    let seen = feed.next_batch(100).await.unwrap();
    let kinds: Vec<&str> = seen.iter().map(|r| r.event.event_type.as_str()).collect();
    assert_eq!(kinds, ["image.create", "image.upload", "image.update", "image.delete"]);
    assert!(seen.iter().all(|r| r.event.resource == id && r.event.project_id == "a" && r.event.user_id == "user-alice"));
    assert_eq!((&seen[1].event.payload["status"], &seen[1].event.payload["size"]), (&json!("active"), &json!(7)));
}
