//! Images and their metadata, as compute passed them on before 2.36.

use serde_json::{Value, json};
use testing::Answer;

use crate::world::{PATIENCE, World};

const NONE: &str = "11111111-2222-4333-8444-555555555555";

impl World {
    async fn empty_image(&self, body: Value) -> String {
        let made = self.cloud.post(&self.tenant, "/image/v2/images", body).await.expect(201);
        made["id"].as_str().unwrap().to_string()
    }
}

fn ids(list: &Value) -> Vec<String> {
    list["images"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_the_image_services() {
    let w = World::new().await;
    let server = w.active(json!({})).await;
    let copy = w.post(&format!("/servers/{server}/action"), json!({"createImage": {"name": "copy"}}), "2.1").await;
    let copy = copy.header("location").rsplit('/').next().unwrap().to_string();
    let at = format!("/images/{copy}");
    let done = |a: &Answer| a.json()["image"]["status"] == "ACTIVE";
    let shown = w.cloud.until(&w.tenant, &format!("/compute/v2.1{at}"), PATIENCE, done).await.json()["image"].clone();
    let root = shown["links"][0]["href"].as_str().unwrap().split("/compute/").next().unwrap().to_string();
    assert_eq!(
        shown["links"],
        json!([
            {"rel": "self", "href": format!("{root}/compute/v2.1/images/{copy}")},
            {"rel": "bookmark", "href": format!("{root}/compute/images/{copy}")},
            {"rel": "alternate", "type": "application/vnd.openstack.image", "href": format!("{root}/image/v2/images/{copy}")},
        ])
    );
    assert_eq!(
        (&shown["name"], &shown["progress"], &shown["minDisk"], &shown["minRam"]),
        (&json!("copy"), &json!(100), &json!(1), &json!(0))
    );
    assert_eq!((&shown["server"]["id"], &shown["metadata"]["image_type"]), (&json!(server), &json!("snapshot")));
    assert!(shown["server"]["links"][1]["href"].as_str().unwrap().ends_with(&format!("/compute/servers/{server}")));
    assert!(shown["OS-EXT-IMG-SIZE:size"].as_u64().unwrap() > 0);

    let queued =
        w.empty_image(json!({"name": "queued", "auto_disk_config": "True", "mappings": "[{\"device\": \"vda\"}]", "a:b": "c"})).await;
    let shown = w.get(&format!("/images/{queued}"), "2.35").await.expect(200)["image"].clone();
    assert_eq!((&shown["status"], &shown["progress"], &shown["OS-EXT-IMG-SIZE:size"]), (&json!("SAVING"), &json!(25), &json!(0)));
    assert_eq!((&shown["OS-DCF:diskConfig"], &shown["metadata"]["mappings"]), (&json!("AUTO"), &json!([{"device": "vda"}])));

    for (query, wanted) in [
        ("", vec![&queued, &copy, &w.image]),
        ("?name=copy", vec![&copy]),
        ("?status=active", vec![&copy, &w.image]),
        ("?status=SAVING", vec![]),
        ("?status=queued", vec![&queued]),
        ("?type=snapshot", vec![&copy]),
        (&format!("?server={server}"), vec![&copy]),
        (&format!("?server=http://x/servers/{server}"), vec![&copy]),
        ("?minDisk=1", vec![&copy]),
        ("?property-image_type=snapshot&odd=1", vec![&copy]),
        ("?changes-since=2020-01-01T00:00:00Z", vec![&queued, &copy, &w.image]),
        ("?changes-since=2120-01-01T00:00:00Z", vec![]),
        ("?limit=1", vec![&queued]),
        ("?page_size=1", vec![&queued, &copy, &w.image]),
        (&format!("?marker={queued}&limit=1"), vec![&copy]),
    ] {
        let listed = w.get(&format!("/images{query}"), "2.1").await.expect(200);
        assert_eq!(ids(&listed), wanted.into_iter().cloned().collect::<Vec<_>>(), "{query}");
        let detailed = w.get(&format!("/images/detail{query}"), "2.1").await.expect(200);
        assert_eq!(ids(&listed), ids(&detailed), "{query}");
    }
    let listed = w.get("/images?limit=2", "2.1").await.expect(200);
    assert_eq!(listed["images"][0].as_object().unwrap().keys().collect::<Vec<_>>(), ["id", "name", "links"]);
    let next = listed["images_links"][0]["href"].as_str().unwrap().split("/compute/v2.1").nth(1).unwrap().to_string();
    assert_eq!(ids(&w.get(&next, "2.1").await.expect(200)), std::slice::from_ref(&w.image));
    assert!(w.get("/images?limit=9", "2.1").await.expect(200).get("images_links").is_none());

    let stranger = w.cloud.tenant("stranger", "member").await;
    assert_eq!(ids(&w.call(&stranger, "GET", "/images", None, "2.1").await.expect(200)), std::slice::from_ref(&w.image));
    assert_eq!(w.call(&stranger, "DELETE", &at, None, "2.1").await.status, 404);
    assert_eq!(w.call(&stranger, "GET", &at, None, "2.1").await.status, 404);
    for (method, path, version, status) in [
        ("GET", "/images".to_string(), "2.36", 404),
        ("GET", "/images/detail".into(), "2.36", 404),
        ("GET", at.clone(), "2.36", 404),
        ("DELETE", at.clone(), "2.36", 404),
        ("GET", "/images?limit=0".into(), "2.1", 400),
        ("GET", "/images?limit=x".into(), "2.1", 400),
        ("GET", "/images?offset=-1".into(), "2.1", 400),
        ("GET", format!("/images?marker={NONE}"), "2.1", 400),
        ("GET", "/images/detail?changes-since=yesterday".into(), "2.1", 400),
        ("GET", format!("/images/{NONE}"), "2.1", 404),
        ("GET", "/images/odd".into(), "2.1", 404),
        ("DELETE", format!("/images/{NONE}"), "2.1", 404),
        ("DELETE", format!("/images/{}", w.image), "2.1", 403),
        ("DELETE", at.clone(), "2.35", 204),
        ("GET", at.clone(), "2.1", 404),
    ] {
        let answer = w.call(&w.tenant, method, &path, None, version).await;
        assert_eq!(answer.status, status, "{method} {path} {version}: {}", answer.text());
    }
    assert_eq!(w.cloud.get(&w.tenant, &format!("/image/v2/images/{copy}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_images_is_changed_until_2_38() {
    let w = World::new().await;
    let id = w.empty_image(json!({"name": "mine", "a": "1", "b": "2"})).await;
    let at = format!("/images/{id}/metadata");
    let body = |map: Value| json!({ "metadata": map });
    assert_eq!(w.get(&at, "2.38").await.expect(200), body(json!({"a": "1", "b": "2"})));
    assert_eq!(w.get(&format!("{at}/a"), "2.38").await.expect(200), json!({"meta": {"a": "1"}}));
    let merged = w.post(&at, body(json!({"b": "3", "c": "4"})), "2.38").await.expect(200);
    assert_eq!(merged, body(json!({"a": "1", "b": "3", "c": "4"})));
    assert_eq!(w.put(&format!("{at}/c"), json!({"meta": {"c": "5"}}), "2.1").await.expect(200), json!({"meta": {"c": "5"}}));
    assert_eq!(w.delete(&format!("{at}/a"), "2.1").await.status, 204);
    assert_eq!(w.get(&at, "2.1").await.expect(200), body(json!({"b": "3", "c": "5"})));
    assert_eq!(w.put(&at, body(json!({"d": "6"})), "2.1").await.expect(200), body(json!({"d": "6"})));
    let there = w.cloud.get(&w.tenant, &format!("/image/v2/images/{id}")).await.expect(200);
    assert_eq!((&there["d"], &there["b"], &there["name"]), (&json!("6"), &Value::Null, &json!("mine")));

    let many: serde_json::Map<String, Value> = (0..129).map(|n| (format!("k{n}"), json!("v"))).collect();
    let public = format!("/images/{}/metadata", w.image);
    let missing = format!("/images/{NONE}/metadata");
    for (method, path, sent, version, status) in [
        ("GET", at.clone(), None, "2.39", 404),
        ("POST", at.clone(), Some(body(json!({"x": "y"}))), "2.39", 404),
        ("PUT", at.clone(), Some(body(json!({"x": "y"}))), "2.39", 404),
        ("GET", format!("{at}/d"), None, "2.39", 404),
        ("PUT", format!("{at}/d"), Some(json!({"meta": {"d": "7"}})), "2.39", 404),
        ("DELETE", format!("{at}/d"), None, "2.39", 404),
        ("GET", format!("{at}/none"), None, "2.1", 404),
        ("DELETE", format!("{at}/none"), None, "2.1", 404),
        ("GET", missing.clone(), None, "2.1", 404),
        ("POST", missing.clone(), Some(body(json!({"x": "y"}))), "2.1", 404),
        ("PUT", missing.clone(), Some(body(json!({"x": "y"}))), "2.1", 404),
        ("PUT", format!("{missing}/x"), Some(json!({"meta": {"x": "y"}})), "2.1", 404),
        ("DELETE", format!("{missing}/x"), None, "2.1", 404),
        ("POST", at.clone(), Some(json!({})), "2.1", 400),
        ("POST", at.clone(), Some(body(json!({"x": 1}))), "2.1", 400),
        ("POST", at.clone(), Some(body(json!({"x/": "y"}))), "2.1", 400),
        ("POST", at.clone(), Some(json!({"metadata": {}, "x": 1})), "2.1", 400),
        // A name that the image service keeps for itself.
        ("POST", at.clone(), Some(body(json!({"size": "1"}))), "2.1", 403),
        ("POST", at.clone(), Some(body(json!({"name": "theirs"}))), "2.1", 400),
        ("PUT", format!("{at}/d"), Some(json!({"meta": {"e": "7"}})), "2.1", 400),
        ("PUT", format!("{at}/d"), Some(json!({"meta": {"d": "7", "e": "8"}})), "2.1", 400),
        ("PUT", format!("{at}/d"), Some(json!({"meta": {}})), "2.1", 400),
        ("PUT", at.clone(), Some(body(json!(many))), "2.1", 403),
        // Everybody's to see, nobody's but its owner's to change.
        ("GET", public.clone(), None, "2.1", 200),
        ("POST", public.clone(), Some(body(json!({"x": "y"}))), "2.1", 403),
        ("PUT", format!("{public}/x"), Some(json!({"meta": {"x": "y"}})), "2.1", 403),
    ] {
        let answer = w.call(&w.tenant, method, &path, sent.clone(), version).await;
        assert_eq!(answer.status, status, "{method} {path} {sent:?} {version}: {}", answer.text());
    }
    assert_eq!(w.get(&at, "2.1").await.expect(200), body(json!({"d": "6"})), "none of these left anything");
}
