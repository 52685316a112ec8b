//! Lists: filters, order, pages.

use serde_json::json;

use crate::world::{Answer, World};

/// The names of a list, in order.
fn names(answer: Answer) -> Vec<String> {
    let body = answer.is(200).json();
    body["images"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap_or_default().to_string()).collect()
}

async fn some_images(world: &World) -> Vec<String> {
    let mut ids = Vec::new();
    for (n, name) in ["c", "a", "b"].into_iter().enumerate() {
        let body = json!({"name": name, "tags": ["all", name], "min_ram": n, "shade": format!("s{}", n % 2), "protected": n == 1});
        ids.push(world.active("alice", body, &vec![7; 100 * (n + 1)]).await);
    }
    ids.push(world.image("alice", json!({"name": "q,uoted", "disk_format": "qcow2"})).await);
    world.image("alice", json!({"name": "hidden", "os_hidden": true})).await;
    world.image("bob", json!({"name": "foreign"})).await;
    ids
}

pub async fn filters(world: World) {
    let ids = some_images(&world).await;
    let (first, last) = (world.show("alice", &ids[0]).await, world.show("alice", &ids[3]).await);
    let (first, last) = (first["created_at"].as_str().unwrap().to_string(), last["created_at"].as_str().unwrap().to_string());
    let foreign = base::id::uuid();
    for (query, wanted) in [
        ("".to_string(), "q,uoted b a c"),
        ("name=a".into(), "a"),
        ("name=eq:a".into(), "a"),
        ("name=in:a,b".into(), "b a"),
        ("name=in:\"q,uoted\",c".into(), "q,uoted c"),
        ("name=none".into(), ""),
        ("status=queued".into(), "q,uoted"),
        ("status=in:queued,active".into(), "q,uoted b a c"),
        ("disk_format=raw".into(), "b a c"),
        ("disk_format=in:raw,qcow2".into(), "q,uoted b a c"),
        ("container_format=bare".into(), "b a c"),
        (format!("id={}", ids[0]), "c"),
        (format!("id=in:{},{}", ids[0], ids[2]), "b c"),
        ("size=200".into(), "a"),
        ("size=many".into(), ""),
        ("size_min=200".into(), "b a"),
        ("size_max=200".into(), "a c"),
        ("size_min=101&size_max=299".into(), "a"),
        ("min_ram=2".into(), "b"),
        ("min_ram_min=1".into(), "b a"),
        ("protected=true".into(), "a"),
        ("protected=false".into(), "q,uoted b c"),
        ("os_hidden=true".into(), "hidden"),
        ("tag=all".into(), "b a c"),
        ("tag=all&tag=b".into(), "b"),
        ("tag=a&tag=b".into(), ""),
        ("owner=a".into(), "q,uoted b a c"),
        ("owner=b".into(), ""),
        ("visibility=shared".into(), "q,uoted b a c"),
        ("visibility=all".into(), "q,uoted b a c"),
        ("visibility=private".into(), ""),
        ("shade=s0".into(), "b c"),
        ("shade=s0&name=c".into(), "c"),
        ("no_such_property=1".into(), ""),
        // The oldest and the newest: a second may begin between any two of them.
        (format!("created_at={first}&name=c"), "c"),
        (format!("created_at=gte:{first}"), "q,uoted b a c"),
        (format!("created_at=lte:{last}"), "q,uoted b a c"),
        ("created_at=gt:2020-01-01T00:00:00Z".into(), "q,uoted b a c"),
        ("created_at=lt:2020-01-01T00:00:00Z".into(), ""),
        ("created_at=neq:2020-01-01T00:00:00Z&updated_at=gt:2020-01-01".into(), "q,uoted b a c"),
        ("limit=2".into(), "q,uoted b"),
        ("limit=0".into(), ""),
        ("sort=name".into(), "q,uoted c b a"),
        ("sort=name:asc".into(), "a b c q,uoted"),
        ("sort_key=name&sort_dir=asc".into(), "a b c q,uoted"),
        ("sort_key=status&sort_key=size&sort_dir=asc&sort_dir=desc".into(), "b a c q,uoted"),
        ("sort=size:asc,name:desc".into(), "c a b q,uoted"),
        ("sort_dir=asc".into(), "c a b q,uoted"),
        (format!("marker={}", ids[2]), "a c"),
        (format!("sort=name:asc&marker={}&limit=1", ids[1]), "b"),
        (format!("sort=size:desc&marker={}", ids[3]), "b a c"),
    ] {
        // Images made within one second are in the order of their making only as the store has it.
        assert_eq!(names(world.get("alice", &format!("/v2/images?{query}")).await).join(" "), wanted, "{query}");
    }
    for query in [
        "limit=-1",
        "limit=x",
        "sort=color",
        "sort_key=color",
        "sort=name:up",
        "sort_dir=up",
        "sort=name&sort_key=name",
        "sort_key=name&sort_key=size&sort_dir=asc&sort_dir=asc&sort_dir=asc",
        "visibility=secret",
        "member_status=maybe",
        "os_hidden=perhaps",
        "protected=perhaps",
        "size_min=x",
        "name=like:a",
        "name=in:\"a",
        "name=in:a\"b\"",
        "name=in:\"a\"b",
        "created_at=yesterday",
        "created_at=since:2020-01-01T00:00:00Z",
        "changes-since=2020-01-01T00:00:00Z",
        "marker=nothing",
        &format!("marker={foreign}"),
    ] {
        world.get("alice", &format!("/v2/images?{query}")).await.is(400);
    }
    // Another's image is no marker either.
    let theirs = world.image("bob", json!({"name": "f"})).await;
    world.get("alice", &format!("/v2/images?marker={theirs}")).await.is(400);
}

pub async fn pages_link_to_the_next(world: World) {
    for n in 0..5 {
        world.image("alice", json!({"name": format!("n{n}"), "tags": ["x"]})).await;
    }
    let mut path = "/v2/images?limit=2&sort=name%3Aasc&tag=x".to_string();
    let mut seen = Vec::new();
    let mut pages = 0;
    loop {
        let body = world.get("alice", &path).await.is(200).json();
        seen.extend(body["images"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().to_string()));
        assert_eq!((&body["first"], &body["schema"]), (&json!("/v2/images?limit=2&sort=name%3Aasc&tag=x"), &json!("/v2/schemas/images")));
        pages += 1;
        match body["next"].as_str() {
            Some(next) => path = next.to_string(),
            None => break,
        }
    }
    assert_eq!((seen.join(" ").as_str(), pages), ("n0 n1 n2 n3 n4", 3));
}

pub async fn who_sees_what(world: World) {
    for visibility in ["private", "shared", "community"] {
        world.image("alice", json!({"name": visibility, "visibility": visibility})).await;
    }
    world.image("admin", json!({"name": "public", "visibility": "public"})).await;
    for (token, query, wanted) in [
        ("alice", "", "public community shared private"),
        ("reader", "", "public community shared private"),
        ("bob", "", "public"),
        ("bob", "?visibility=community", "community"),
        ("bob", "?visibility=all", "public community"),
        ("bob", "?visibility=private", ""),
        ("bob", "?owner=a", ""),
        ("admin", "", "public shared private"),
        ("admin", "?visibility=all", "public community shared private"),
        ("admin", "?owner=a&visibility=private", "private"),
    ] {
        assert_eq!(names(world.get(token, &format!("/v2/images{query}")).await).join(" "), wanted, "{token} {query}");
    }
}
