use serde_json::{Value, json};

use crate::world::{World, all};

pub async fn filters_fields_and_order(w: World) {
    for (name, up) in [("b", true), ("a", false), ("c", true)] {
        w.make("member:p1", "/networks", "network", json!({"name": name, "admin_state_up": up, "description": format!("about {name}")}))
            .await;
    }
    let names = |path: &'static str| {
        let w = &w;
        async move { all(&w.get("member:p1", path).await["networks"], "name") }
    };
    assert_eq!(names("/networks?sort_key=name").await, ["a", "b", "c"]);
    assert_eq!(names("/networks?sort_key=name&sort_dir=desc").await, ["c", "b", "a"]);
    assert_eq!(names("/networks?sort_key=description&sort_dir=desc").await, ["c", "b", "a"]);
    assert_eq!(names("/networks?name=a&name=c&sort_key=name").await, ["a", "c"]);
    assert_eq!(names("/networks?admin_state_up=False").await, ["a"]);
    assert_eq!(names("/networks?description=about+b").await, ["b"]);
    assert_eq!(names("/networks?tenant_id=p1&shared=false&sort_key=name").await, ["a", "b", "c"]);
    assert_eq!(names("/networks?router%3Aexternal=True").await, [""; 0]);
    assert_eq!(names("/networks?changed_since=2000-01-01T00:00:00Z&sort_key=name").await.len(), 3);
    let fields = w.get("member:p1", "/networks?fields=name&fields=mtu&name=a").await;
    assert_eq!(fields["networks"], json!([{"name": "a", "mtu": 1450}]));
    for wrong in ["colour=red", "sort_key=colour", "sort_dir=up&sort_key=name", "limit=-1", "limit=x", "admin_state_up=maybe", "mtu=x"] {
        assert_eq!(w.ask("member:p1", "GET", &format!("/networks?{wrong}"), Value::Null).await.0, 400, "{wrong}");
    }
    assert_eq!(w.get("member:p2", "/networks").await["networks"], json!([]));
    assert_eq!(w.get("admin", "/networks").await["networks"].as_array().unwrap().len(), 3);
}

pub async fn pages_in_both_directions_by_column_and_by_document(w: World) {
    for n in 0..7 {
        w.make("member:p1", "/networks", "network", json!({"name": format!("n{n}"), "description": format!("d{}", 6 - n)})).await;
    }
    for (key, wanted) in [("name", ["n0", "n1", "n2", "n3", "n4", "n5", "n6"]), ("description", ["n6", "n5", "n4", "n3", "n2", "n1", "n0"])]
    {
        let mut seen = Vec::new();
        let mut path = format!("/networks?limit=3&sort_key={key}");
        let last_page = loop {
            let page = w.get("member:p1", &path).await;
            seen.extend(all(&page["networks"], "name"));
            let links = page["networks_links"].as_array().cloned().unwrap_or_default();
            let Some(next) = links.iter().find(|l| l["rel"] == "next") else {
                break page;
            };
            path = next["href"].as_str().unwrap().strip_prefix("http://cloud/network/v2.0").unwrap().to_string();
        };
        assert_eq!(seen, wanted, "{key}");
        let links = last_page["networks_links"].as_array().cloned().unwrap_or_default();
        let back = links.iter().find(|l| l["rel"] == "previous").expect("a way back");
        let path = back["href"].as_str().unwrap().strip_prefix("http://cloud/network/v2.0").unwrap().to_string();
        assert!(path.contains("page_reverse=True"));
        assert_eq!(all(&w.get("member:p1", &path).await["networks"], "name"), wanted[3..6], "{key}");
    }
    let last = w.get("member:p1", "/networks?limit=2&sort_key=name&page_reverse=True").await;
    assert_eq!(all(&last["networks"], "name"), ["n5", "n6"]);
    assert_eq!(w.ask("member:p1", "GET", "/networks?limit=1&marker=nobody", Value::Null).await.0, 404);
}

pub async fn documents_of_the_service(w: World) {
    let root = hyper::Request::builder().uri("/network/").body(axum::body::Body::empty()).unwrap();
    assert_eq!(w.app.handle(root, &http_api::Peer::default()).await.status().as_u16(), 200);
    assert_eq!(w.ask("", "GET", "", Value::Null).await.0, 200);
    let extensions = w.get("reader:p1", "/extensions").await;
    let aliases = all(&extensions["extensions"], "alias");
    for wanted in ["router", "security-group", "quotas", "external-net", "binding", "provider", "pagination", "sorting"] {
        assert!(aliases.contains(&wanted.to_string()), "{wanted}");
    }
    assert_eq!(w.get("reader:p1", "/extensions/router").await["extension"]["alias"], json!("router"));
    assert_eq!(w.ask("reader:p1", "GET", "/extensions/trunk", Value::Null).await.0, 404);
    assert_eq!(w.get("reader:p1", "/availability_zones").await["availability_zones"].as_array().unwrap().len(), 2);
    assert_eq!(w.get("reader:p1", "/service-providers").await, json!({"service_providers": []}));
}
