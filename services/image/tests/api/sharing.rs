//! Members of shared images.

use serde_json::json;

use crate::world::World;

pub async fn sharing_from_offer_to_end(world: World) {
    let id = world.active("alice", json!({"name": "i"}), b"content").await;
    let path = format!("/v2/images/{id}/members");
    world.get("bob", &format!("/v2/images/{id}")).await.is(404);
    let made = world.post("alice", &path, json!({"member": "b"})).await.is(200).json();
    assert_eq!((&made["member_id"], &made["image_id"], &made["status"]), (&json!("b"), &json!(id), &json!("pending")));
    assert_eq!(made["schema"], "/v2/schemas/member");
    world.post("alice", &path, json!({"member": "b"})).await.is(409);
    world.post("alice", &path, json!({"member": "c"})).await.is(200);

    // Offered: seen by its id, not in lists.
    world.show("bob", &id).await;
    let listed =
        async |query: &str| world.get("bob", &format!("/v2/images{query}")).await.is(200).json()["images"].as_array().unwrap().len();
    assert_eq!((listed("").await, listed("?member_status=pending").await, listed("?member_status=all&visibility=shared").await), (0, 1, 1));
    // The member answers; the owner cannot, and other members are nobody's business.
    let answer = |status: &str| json!({ "status": status });
    world.put("alice", &format!("{path}/b"), answer("accepted")).await.is(403);
    world.put("bob", &format!("{path}/c"), answer("accepted")).await.is(404);
    world.put("bob", &format!("{path}/b"), answer("perhaps")).await.is(400);
    world.put("bob", &format!("{path}/b"), json!({})).await.is(400);
    assert_eq!(world.put("bob", &format!("{path}/b"), answer("accepted")).await.is(200).json()["status"], "accepted");
    assert_eq!((listed("").await, listed("?member_status=pending").await), (1, 0));
    assert_eq!(world.get("bob", &format!("/v2/images/{id}/file")).await.is(200).text(), "content");
    let members = async |token: &str| {
        let body = world.get(token, &path).await.is(200).json();
        body["members"].as_array().unwrap().iter().map(|m| m["member_id"].as_str().unwrap().to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((members("alice").await.as_str(), members("bob").await.as_str(), members("admin").await.as_str()), ("b c", "b", "b c"));
    world.get("bob", &format!("{path}/b")).await.is(200);
    world.get("bob", &format!("{path}/c")).await.is(404);
    world.get("alice", &format!("{path}/z")).await.is(404);
    // A member may use it, no more.
    world.patch("bob", &id, json!([{"op": "replace", "path": "/name", "value": "mine"}])).await.is(403);
    world.delete("bob", &format!("/v2/images/{id}")).await.is(403);
    world.post("bob", &path, json!({"member": "z"})).await.is(403);
    world.delete("bob", &format!("{path}/b")).await.is(403);

    world.put("bob", &format!("{path}/b"), answer("rejected")).await.is(200);
    assert_eq!(listed("").await, 0);
    world.delete("alice", &format!("{path}/b")).await.is(204);
    world.delete("alice", &format!("{path}/b")).await.is(404);
    world.get("bob", &format!("/v2/images/{id}")).await.is(404);
}

pub async fn only_shared_images_have_members(world: World) {
    let id = world.image("alice", json!({"visibility": "private"})).await;
    let path = format!("/v2/images/{id}/members");
    world.post("alice", &path, json!({"member": "b"})).await.is(403);
    world.get("alice", &path).await.is(403);
    world.get("alice", &format!("{path}/b")).await.is(404);
    world.put("alice", &format!("{path}/b"), json!({"status": "accepted"})).await.is(403);
    world.delete("alice", &format!("{path}/b")).await.is(403);
    // What was shared is not seen while the image is private.
    let id = world.image("alice", json!({"visibility": "shared"})).await;
    world.post("alice", &format!("/v2/images/{id}/members"), json!({"member": "b"})).await.is(200);
    world.patch("alice", &id, json!([{"op": "replace", "path": "/visibility", "value": "private"}])).await.is(200);
    world.get("bob", &format!("/v2/images/{id}")).await.is(404);
}

pub async fn bodies_of_members(world: World) {
    let path = format!("/v2/images/{}/members", world.image("alice", json!({})).await);
    for body in [json!({}), json!({"member": ""}), json!({"member": 5}), json!({"member": "x".repeat(256)}), json!([]), json!("b")] {
        world.post("alice", &path, body).await.is(400);
    }
    for n in 0..128 {
        world.post("alice", &path, json!({"member": format!("m{n}")})).await.is(200);
    }
    world.post("alice", &path, json!({"member": "one-more"})).await.is(413);
    assert_eq!(world.get("alice", &path).await.json()["members"].as_array().unwrap().len(), 128);
}
