//! Locations of content.

use serde_json::{Value, json};

use crate::world::World;

pub async fn content_that_is_there_is_given_to_an_image(world: World) {
    world.core.tasks.start().await.unwrap();
    let path = |id: &str| format!("/v2/images/{id}/locations");
    let first = world.active("alice", json!({}), b"content").await;
    let there = world.get("nova", &path(&first)).await.is(200).json();
    let url = there[0]["url"].as_str().unwrap().to_string();
    assert_eq!((there.as_array().unwrap().len(), &there[0]["metadata"]), (1, &json!({"store": "local"})));
    assert_eq!(url, format!("file://{}/{}", world.images.directory().display(), world.files()[0]));
    world.get("alice", &path(&first)).await.is(403);
    world.get("bob", &path(&first)).await.is(404);

    let raw = || json!({"disk_format": "raw", "container_format": "bare"});
    let id = world.image("alice", raw()).await;
    assert_eq!(world.get("nova", &path(&id)).await.is(200).json(), json!([]));
    world.post("alice", &path(&id), json!({ "url": url })).await.is(403);
    world.post("nova", &path(&first), json!({ "url": url })).await.is(409);
    let with = |validation: Value| json!({"url": url, "validation_data": validation});
    let directory = world.images.directory();
    for (words, body) in [
        ("'url' is a required", json!({})),
        ("'url'", json!({"url": 5})),
        ("No store", json!({"url": "file:///etc/passwd"})),
        ("No store", json!({"url": "http://example.org/x"})),
        ("No store", json!({"url": format!("file://{}/../../etc/passwd", directory.display())})),
        ("No store", json!({"url": format!("file://{}/.staged-x", directory.display())})),
        ("'os_hash_algo'", with(json!({"os_hash_algo": "crc", "os_hash_value": "0"}))),
        ("was unexpected", with(json!({"checksum": "0"}))),
        ("neither", with(json!({"os_hash_algo": "md5"}))),
        ("not computed", with(json!({"os_hash_algo": "sha1", "os_hash_value": "0".repeat(40)}))),
        ("hexadecimal", with(json!({"os_hash_algo": "md5", "os_hash_value": "x".repeat(32)}))),
        ("correct size", with(json!({"os_hash_algo": "sha256", "os_hash_value": "0".repeat(32)}))),
    ] {
        let answer = world.post("nova", &path(&id), body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.text().contains(words), "{body}: {}", answer.text());
    }
    let bare = world.image("alice", json!({})).await;
    world.post("nova", &path(&bare), json!({ "url": url })).await.is(400);
    // Content that is not what it should be, or is not there, leaves the image as it was.
    let wrong = with(json!({"os_hash_algo": "md5", "os_hash_value": "0".repeat(32)}));
    let nothing = json!({"url": format!("file://{}/{}", directory.display(), "0".repeat(64))});
    for (body, words) in [(wrong, "not matched"), (nothing, "nothing at")] {
        world.post("nova", &path(&id), body).await.is(202);
        assert_eq!(world.imported("alice", &id).await["status"], "queued");
        let task = world.get("alice", &format!("/v2/images/{id}/tasks")).await.is(200).json()["tasks"][0].clone();
        assert_eq!((&task["type"], &task["status"]), (&json!("location_import"), &json!("failure")));
        assert!(task["message"].as_str().unwrap().contains(words), "{task}");
    }
    world.post("nova", &path(&id), with(json!({"os_hash_algo": "md5", "os_hash_value": "9A0364B9E99BB480DD25E1F0284C8555"}))).await.is(202);
    let image = world.imported("alice", &id).await;
    assert_eq!(
        (&image["status"], &image["size"], &image["checksum"]),
        (&json!("active"), &json!(7), &json!("9a0364b9e99bb480dd25e1f0284c8555"))
    );
    assert_eq!((&image["os_hash_algo"], &image["os_hash_value"]), (&json!("md5"), &image["checksum"]));
    world.delete("alice", &format!("/v2/images/{first}")).await.is(204);
    assert_eq!(world.get("alice", &format!("/v2/images/{id}/file")).await.is(200).text(), "content");
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    assert!(world.files().is_empty());
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn locations_are_changed_where_they_are_shown() {
    let directory = tempfile::tempdir().unwrap();
    let second = directory.path().join("second");
    let stores = format!("second={}", second.display());
    let world = World::with(move |config| {
        config.set("image.stores", &stores);
        config.set("image.show_multiple_locations", "true");
        config.set("image.show_image_direct_url", "true");
    });
    let world = world.await;
    world.core.tasks.start().await.unwrap();
    let queued = world.image("alice", json!({})).await;
    let shown = world.show("alice", &queued).await;
    assert_eq!((&shown["locations"], shown.get("direct_url")), (&json!([]), None));
    let id = world.active("alice", json!({}), b"content").await;
    world.post("admin", &format!("/v2/images/{id}/import"), json!({"method": {"name": "copy-image"}, "all_stores": true})).await.is(202);
    let shown = world.imported("alice", &id).await;
    let (local, other) = (shown["locations"][0].clone(), shown["locations"][1].clone());
    assert_eq!((&local["metadata"]["store"], &other["metadata"]["store"]), (&json!("local"), &json!("second")));
    assert_eq!((&shown["direct_url"], &shown["stores"]), (&local["url"], &json!("local,second")));
    let mut foreign = local.clone();
    foreign["url"] = format!("{}0", local["url"].as_str().unwrap().split_at(local["url"].as_str().unwrap().len() - 1).0).into();
    let change = |op: &str, at: &str, value: Value| json!([{"op": op, "path": format!("/locations{at}"), "value": value}]);
    for (token, status, words, patch) in [
        ("alice", 403, "empty list", change("replace", "", json!([]))),
        ("alice", 400, "twice", change("replace", "", json!([local, local]))),
        ("alice", 400, "Invalid location", change("replace", "", json!([foreign]))),
        ("alice", 400, "Invalid location", change("add", "/-", json!({"url": "file:///etc/passwd", "metadata": {}}))),
        ("alice", 400, "already", change("add", "/1", local.clone())),
        ("alice", 400, "position", change("add", "/7", local.clone())),
        ("alice", 400, "position", change("add", "/x", local.clone())),
        ("alice", 400, "'metadata' is a required", change("add", "/-", json!({"url": "file:///x"}))),
        ("alice", 400, "JSON pointer", change("add", "", local.clone())),
        ("alice", 400, "JSON pointer", change("replace", "/0", local.clone())),
        ("alice", 403, "delete_image_location", change("remove", "/0", Value::Null)),
        ("alice", 400, "names the same", change("replace", "", json!([local]))),
        ("admin", 400, "names the same", change("replace", "", json!([local]))),
        ("bob", 404, "", change("remove", "/0", Value::Null)),
        ("admin", 400, "position", change("remove", "/2", Value::Null)),
    ] {
        let answer = world.patch(token, &id, patch.clone()).await;
        assert_eq!(answer.status, status, "{patch}: {}", answer.text());
        assert!(answer.text().contains(words), "{patch}: {}", answer.text());
    }
    world.patch("admin", &queued, change("replace", "", json!([local]))).await.is(400);
    world.patch("admin", &queued, change("remove", "/0", Value::Null)).await.is(409);
    let turned = world.patch("alice", &id, change("replace", "", json!([other, local]))).await.is(200).json();
    assert_eq!((&turned["stores"], &turned["direct_url"]), (&json!("second,local"), &other["url"]));
    assert_eq!(world.show("alice", &id).await["stores"], "second,local");
    let left = world.patch("admin", &id, change("remove", "/1", Value::Null)).await.is(200).json();
    assert_eq!((&left["stores"], world.files().len(), world.files_of(&second).len()), (&json!("second"), 0, 1));
    assert_eq!(world.get("alice", &format!("/v2/images/{id}/file")).await.is(200).text(), "content");
    world.patch("admin", &id, change("remove", "/0", Value::Null)).await.is(403);
    world.core.tasks.stop().await;
}
