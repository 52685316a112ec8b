//! Patches in both dialects, and tags.

use axum::body::Body;
use serde_json::{Value, json};

use crate::world::World;

pub async fn attributes_and_properties_change(world: World) {
    let id = world.image("alice", json!({"name": "i", "old": "1", "gone": "2"})).await;
    let changed = world
        .patch(
            "alice",
            &id,
            json!([
                {"op": "replace", "path": "/name", "value": "j"},
                {"op": "add", "path": "/new~1a~0b", "value": "3"},
                {"op": "replace", "path": "/old", "value": "4"},
                {"op": "add", "path": "/old2", "value": "5"},
                {"op": "remove", "path": "/gone"},
                {"op": "replace", "path": "/tags", "value": ["x", "y"]},
                {"op": "replace", "path": "/min_ram", "value": 7},
                {"op": "replace", "path": "/visibility", "value": "private"},
                {"op": "add", "path": "/disk_format", "value": "raw"}
            ]),
        )
        .await
        .is(200)
        .json();
    assert_eq!(changed, world.show("alice", &id).await);
    for (name, value) in [
        ("name", json!("j")),
        ("new/a~b", json!("3")),
        ("old", json!("4")),
        ("old2", json!("5")),
        ("tags", json!(["x", "y"])),
        ("min_ram", json!(7)),
        ("visibility", json!("private")),
        ("disk_format", json!("raw")),
    ] {
        assert_eq!(changed[name], value, "{name}");
    }
    assert_eq!(changed.get("gone"), None);
    let before = world.show("alice", &id).await;
    assert_eq!(world.patch("alice", &id, json!([])).await.is(200).json(), before);
}

pub async fn what_cannot_be_changed_changes_nothing(world: World) {
    let id = world.active("alice", json!({"name": "i", "p": "1"}), b"content").await;
    let before = world.show("alice", &id).await;
    let first = json!({"op": "replace", "path": "/name", "value": "changed"});
    for (status, words, change) in [
        (403, "'id' is read-only", json!({"op": "replace", "path": "/id", "value": base::id::uuid()})),
        (403, "'status' is read-only", json!({"op": "replace", "path": "/status", "value": "queued"})),
        (403, "'size' is read-only", json!({"op": "remove", "path": "/size"})),
        (403, "'deleted' is reserved", json!({"op": "add", "path": "/deleted", "value": "x"})),
        (403, "'os_glance_x' is reserved", json!({"op": "add", "path": "/os_glance_x", "value": "x"})),
        (403, "may not be removed", json!({"op": "remove", "path": "/name"})),
        (403, "queued image", json!({"op": "replace", "path": "/disk_format", "value": "qcow2"})),
        (403, "queued image", json!({"op": "replace", "path": "/container_format", "value": "ova"})),
        (403, "non admin", json!({"op": "replace", "path": "/owner", "value": "b"})),
        (403, "non admin", json!({"op": "add", "path": "/owner", "value": "b"})),
        (403, "publicize_image", json!({"op": "replace", "path": "/visibility", "value": "public"})),
        (403, "locations", json!({"op": "add", "path": "/locations/-", "value": {"url": "file:///etc/passwd", "metadata": {}}})),
        (403, "locations", json!({"op": "replace", "path": "/locations", "value": []})),
        (409, "does not exist", json!({"op": "replace", "path": "/none", "value": "x"})),
        (409, "does not exist", json!({"op": "remove", "path": "/none"})),
        (400, "property 'visibility'", json!({"op": "replace", "path": "/visibility", "value": "wrong"})),
        (400, "property 'protected'", json!({"op": "replace", "path": "/protected", "value": "false"})),
        (400, "property 'p'", json!({"op": "replace", "path": "/p", "value": 5})),
        (400, "min_disk", json!({"op": "replace", "path": "/min_disk", "value": -1})),
        (400, "requires a member named \"value\"", json!({"op": "replace", "path": "/name"})),
        (400, "Invalid operation", json!({"op": "move", "path": "/name", "value": "x"})),
        (400, "Unable to find `op`", json!({"path": "/name", "value": "x"})),
        (400, "Unable to find 'path'", json!({"op": "add", "value": "x"})),
        (400, "must be a string", json!({"op": "add", "path": 1, "value": "x"})),
        (400, "does not start", json!({"op": "add", "path": "name", "value": "x"})),
        (400, "ends with", json!({"op": "add", "path": "/name/", "value": "x"})),
        (400, "adjacent", json!({"op": "add", "path": "/a//b", "value": "x"})),
        (400, "escape", json!({"op": "add", "path": "/a~2", "value": "x"})),
        (400, "valid token", json!({"op": "add", "path": "/", "value": "x"})),
        (400, "Invalid JSON pointer", json!({"op": "add", "path": "/name/deeper", "value": "x"})),
        (400, "JSON objects", json!("text")),
    ] {
        let answer = world.patch("alice", &id, json!([first, change])).await;
        assert_eq!(answer.status, status, "{change}: {}", answer.text());
        assert!(answer.text().replace("&quot;", "\"").contains(words), "{change}: {}", answer.text());
        assert_eq!(world.show("alice", &id).await, before, "{change}");
    }
    world.patch("alice", &id, json!({"op": "add"})).await.is(400);
    let answer =
        world.send("alice", "PATCH", &format!("/v2/images/{id}"), &[("content-type", "application/json")], Body::from("[]")).await.is(415);
    assert!(answer.header("accept-patch").contains("application/openstack-images-v2.1-json-patch"));
    world.patch("admin", &id, json!([{"op": "replace", "path": "/owner", "value": "b"}])).await.is(200);
    assert_eq!(world.show("bob", &id).await["owner"], "b");
}

pub async fn the_older_dialect(world: World) {
    let id = world.image("alice", json!({"name": "i", "p": "1"})).await;
    let patch = async |body: Value| {
        let kind = [("content-type", "application/openstack-images-v2.0-json-patch")];
        world.send("alice", "PATCH", &format!("/v2/images/{id}"), &kind, Body::from(body.to_string())).await
    };
    let changed = patch(json!([{"replace": "/name", "value": "j"}, {"add": "/q", "value": "2"}, {"remove": "/p"}])).await.is(200).json();
    assert_eq!((&changed["name"], &changed["q"], changed.get("p")), (&json!("j"), &json!("2"), None));
    patch(json!([{"add": "/q", "value": "3"}])).await.is(409);
    patch(json!([{"add": "/name", "value": "3"}])).await.is(409);
    patch(json!([{"add": "/x", "remove": "/q", "value": "3"}])).await.is(400);
    patch(json!([{"value": "3"}])).await.is(400);
    patch(json!([{"add": "/os_glance_foo", "value": "bar"}])).await.is(403);
    // The newer dialect under the name that the standard gives it.
    let kind = [("content-type", "application/json-patch+json")];
    let body = json!([{"op": "add", "path": "/q", "value": "4"}]).to_string();
    let changed = world.send("alice", "PATCH", &format!("/v2/images/{id}"), &kind, Body::from(body)).await.is(200).json();
    assert_eq!(changed["q"], "4");
}

pub async fn tags(world: World) {
    let id = world.image("alice", json!({"tags": ["a"]})).await;
    let path = |tag: &str| format!("/v2/images/{id}/tags/{tag}");
    world.put("alice", &path("b%20c"), json!({})).await.is(204);
    world.put("alice", &path("a"), json!({})).await.is(204);
    assert_eq!(world.show("alice", &id).await["tags"], json!(["a", "b c"]));
    world.delete("alice", &path("a")).await.is(204);
    world.delete("alice", &path("a")).await.is(404);
    world.put("alice", &path(&"x".repeat(256)), json!({})).await.is(400);
    let many: Vec<String> = (0..128).map(|n| n.to_string()).collect();
    world.patch("alice", &id, json!([{"op": "replace", "path": "/tags", "value": many}])).await.is(200);
    world.put("alice", &path("one-more"), json!({})).await.is(413);
}
