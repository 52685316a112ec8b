//! Lists: filters, order, pages.

use serde_json::{Value, json};

use crate::world::World;

fn names(body: &Value) -> Vec<String> {
    body["servers"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_find_and_pages_join() {
    let w = World::new().await;
    let mut ids = Vec::new();
    for (i, tags) in [vec!["red"], vec!["red", "blue"], vec!["blue"], vec![], vec!["green"]].into_iter().enumerate() {
        ids.push(w.active(json!({"name": format!("vm-{i}"), "tags": tags, "metadata": {"n": i.to_string()}})).await);
    }
    w.act(&ids[4], json!({"os-stop": null})).await;
    w.wait(&ids[4], "SHUTOFF").await;
    let detail = w.get(&format!("/servers/{}", ids[2]), "2.104").await.expect(200)["server"].clone();
    let address = detail["addresses"]["private"][0]["addr"].as_str().unwrap().to_string();
    let cases: &[(String, &str, &[&str])] = &[
        ("".into(), "2.104", &["vm-4", "vm-3", "vm-2", "vm-1", "vm-0"]),
        ("?sort_key=display_name&sort_dir=asc".into(), "2.104", &["vm-0", "vm-1", "vm-2", "vm-3", "vm-4"]),
        ("?name=vm-[13]$&sort_key=display_name&sort_dir=asc".into(), "2.1", &["vm-1", "vm-3"]),
        ("?status=shutoff".into(), "2.1", &["vm-4"]),
        ("?status=SHUTOFF&status=ERROR".into(), "2.104", &["vm-4"]),
        ("?status=nonsense".into(), "2.37", &[]),
        ("?tags=red".into(), "2.26", &["vm-1", "vm-0"]),
        ("?tags=red,blue".into(), "2.26", &["vm-1"]),
        ("?tags-any=green,blue".into(), "2.26", &["vm-4", "vm-2", "vm-1"]),
        ("?not-tags=red,blue".into(), "2.26", &["vm-4", "vm-3", "vm-2", "vm-0"]),
        ("?not-tags-any=red,blue".into(), "2.26", &["vm-4", "vm-3"]),
        (format!("?ip={address}$"), "2.1", &["vm-2"]),
        (format!("?image={}&limit=2", w.image), "2.1", &["vm-4", "vm-3"]),
        ("?flavor=1&limit=1".into(), "2.1", &["vm-4"]),
        ("?flavor=none".into(), "2.1", &[]),
        ("?limit=0".into(), "2.1", &[]),
        (format!("?marker={}", ids[3]), "2.1", &["vm-2", "vm-1", "vm-0"]),
        // Only administrators filter by host; for others it means nothing.
        ("?host=elsewhere&limit=1".into(), "2.1", &["vm-4"]),
        ("?changes-since=2999-01-01T00:00:00Z".into(), "2.1", &[]),
        ("?changes-since=2020-01-01T00:00:00Z&limit=1".into(), "2.1", &["vm-4"]),
        ("?locked=true".into(), "2.73", &[]),
        ("?unknown=1&limit=1".into(), "2.74", &["vm-4"]),
    ];
    for (query, version, wanted) in cases {
        for path in ["/servers", "/servers/detail"] {
            let listed = w.get(&format!("{path}{query}"), version).await.expect(200);
            assert_eq!(names(&listed), *wanted, "{path}{query}");
        }
    }
    for (query, version, status) in [
        ("?status=nonsense", "2.38", 400),
        ("?unknown=1", "2.75", 400),
        ("?limit=-1", "2.1", 400),
        ("?limit=x", "2.1", 400),
        ("?marker=none", "2.1", 400),
        ("?sort_key=nonsense", "2.1", 400),
        ("?sort_key=vcpus", "2.74", 200),
        ("?sort_key=vcpus", "2.75", 400),
        ("?sort_key=host", "2.1", 403),
        ("?sort_dir=up", "2.1", 400),
        ("?changes-since=yesterday", "2.1", 400),
        ("?name=[", "2.1", 400),
        ("?all_tenants=1", "2.1", 403),
        ("?status=deleted", "2.1", 403),
        ("?locked=perhaps", "2.73", 400),
        ("?changes-since=2021-01-01T00:00:00Z&changes-before=2020-01-01T00:00:00Z", "2.66", 400),
    ] {
        let answer = w.get(&format!("/servers{query}"), version).await;
        assert_eq!(answer.status, status, "{query} {version}: {}", answer.text());
    }
    pages_join(&w, &ids).await;
    admins_see_more(&w, &ids).await;
}

/// Whatever the order and the size of pages: together they are the whole list, each server once.
async fn pages_join(w: &World, ids: &[String]) {
    for order in
        ["", "&sort_key=display_name&sort_dir=asc", "&sort_key=vm_state", "&sort_key=task_state&sort_dir=asc", "&sort_key=launched_at"]
    {
        let whole = w.get(&format!("/servers?x=1{order}"), "2.1").await.expect(200);
        for size in 1..=ids.len() + 1 {
            let mut joined = Vec::new();
            let mut path = format!("/servers?limit={size}{order}");
            loop {
                let page = w.get(&path, "2.1").await.expect(200);
                joined.extend(names(&page));
                match page["servers_links"][0]["href"].as_str() {
                    Some(next) => path = next.split("/compute/v2.1").nth(1).unwrap().to_string(),
                    None => break,
                }
            }
            assert_eq!(joined, names(&whole), "{order} by {size}");
        }
    }
}

async fn admins_see_more(w: &World, ids: &[String]) {
    let get = |query: &'static str| async move { w.call(&w.admin, "GET", &format!("/servers{query}"), None, "2.104").await };
    assert_eq!(names(&get("").await.expect(200)), Vec::<String>::new());
    assert_eq!(names(&get("?all_tenants=1").await.expect(200)).len(), 5);
    assert_eq!(names(&get("?all_tenants=1&host=host-0").await.expect(200)).len(), 5);
    assert_eq!(names(&get("?all_tenants=1&host=elsewhere").await.expect(200)).len(), 0);
    assert_eq!(get("?metadata=1").await.status, 400);
    assert_eq!(w.delete(&format!("/servers/{}", ids[0]), "2.1").await.status, 204);
    w.gone(&ids[0]).await;
    assert_eq!(names(&get("?all_tenants=1&deleted=true").await.expect(200)), ["vm-0"]);
    assert_eq!(names(&get("?all_tenants=1&status=deleted").await.expect(200)), ["vm-0"]);
    let changed = w.get("/servers/detail?changes-since=2020-01-01T00:00:00Z", "2.104").await.expect(200);
    let deleted: Vec<&Value> = changed["servers"].as_array().unwrap().iter().filter(|s| s["status"] == "DELETED").collect();
    assert_eq!(deleted.len(), 1);
}
