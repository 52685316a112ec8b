//! Networks and floating addresses, as compute passed them on before 2.36.

use serde_json::{Value, json};

use crate::world::World;

const NONE: &str = "11111111-2222-4333-8444-555555555555";

impl World {
    /// An external network with a subnet.
    async fn outside(&self, name: &str, cidr: &str) -> String {
        let body = json!({"network": {"name": name, "router:external": true}});
        let made = self.cloud.post(&self.admin, "/network/v2.0/networks", body).await.expect(201);
        let id = made["network"]["id"].as_str().unwrap().to_string();
        let subnet = json!({"subnet": {"network_id": id, "cidr": cidr, "ip_version": 4, "enable_dhcp": false}});
        self.cloud.post(&self.admin, "/network/v2.0/subnets", subnet).await.expect(201);
        id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_shown_with_what_is_left_of_them() {
    let w = World::new().await;
    let stranger = w.cloud.tenant("stranger", "member").await;
    for collection in ["/os-networks", "/os-tenant-networks"] {
        let listed = w.get(collection, "2.35").await.expect(200)["networks"].clone();
        assert_eq!(listed.as_array().unwrap().len(), 1);
        let at = format!("{collection}/{}", w.network);
        assert_eq!(w.get(&at, "2.1").await.expect(200)["network"], listed[0]);
        assert_eq!((&listed[0]["id"], &listed[0]["label"]), (&json!(w.network), &json!("private")));
        assert_eq!(w.call(&stranger, "GET", collection, None, "2.1").await.expect(200)["networks"], json!([]));
        for (token, path, version, status) in [
            (&stranger, at.clone(), "2.1", 404),
            (&w.tenant, at.clone(), "2.36", 404),
            (&w.tenant, collection.to_string(), "2.36", 404),
            (&w.tenant, format!("{collection}/{NONE}"), "2.1", 404),
            (&w.tenant, format!("{collection}/odd"), "2.1", 404),
        ] {
            assert_eq!(w.call(token, "GET", &path, None, version).await.status, status, "{path} {version}");
        }
        assert_eq!(w.post(collection, json!({}), "2.1").await.status, 410);
        assert_eq!(w.delete(&at, "2.40").await.status, 410);
    }
    let tenants = w.get(&format!("/os-tenant-networks/{}", w.network), "2.1").await.expect(200);
    assert_eq!(tenants, json!({"network": {"id": w.network, "label": "private", "cidr": "None"}}));
    let at = format!("/os-networks/{}", w.network);
    let own = w.get(&at, "2.1").await.expect(200)["network"].as_object().unwrap().clone();
    let all = w.call(&w.admin, "GET", &at, None, "2.1").await.expect(200)["network"].as_object().unwrap().clone();
    assert_eq!((own.len(), all.len()), (11, 32), "administrators see more that is lost");
    assert!(own.iter().all(|(name, value)| value.is_null() || name == "id" || name == "label"));
}

#[tokio::test(flavor = "multi_thread")]
async fn floating_addresses_come_from_pools() {
    let w = World::new().await;
    let at = |id: &str| format!("/os-floating-ips/{id}");
    assert_eq!(w.post("/os-floating-ips", json!({}), "2.1").await.status, 404, "there is no pool");
    let outside = w.outside("public", "203.0.113.0/29").await;
    assert_eq!(w.get("/os-floating-ip-pools", "2.1").await.expect(200), json!({"floating_ip_pools": [{"name": "public"}]}));
    // Of one pool it need not be said.
    let made = w.call(&w.tenant, "POST", "/os-floating-ips", None, "2.35").await.expect(200)["floating_ip"].clone();
    let id = made["id"].as_str().unwrap().to_string();
    let whole = json!({"id": id, "ip": made["ip"], "fixed_ip": null, "instance_id": null, "pool": "public"});
    assert_eq!(made, whole);
    assert_eq!(w.get(&at(&id), "2.1").await.expect(200)["floating_ip"], whole);
    assert_eq!(w.get("/os-floating-ips", "2.1").await.expect(200), json!({"floating_ips": [whole]}));

    // Led to a server, which compute then names.
    let router = json!({"router": {"name": "r", "external_gateway_info": {"network_id": outside}}});
    let router = w.cloud.post(&w.tenant, "/network/v2.0/routers", router).await.expect(201)["router"]["id"].clone();
    let subnet = w.cloud.get(&w.tenant, &format!("/network/v2.0/subnets?network_id={}", w.network)).await.expect(200);
    let subnet = json!({"subnet_id": subnet["subnets"][0]["id"]});
    let path = format!("/network/v2.0/routers/{}/add_router_interface", router.as_str().unwrap());
    w.cloud.request("PUT", &path).token(&w.tenant).json(&subnet).send().await.expect(200);
    let server = w.active(json!({})).await;
    let act = format!("/servers/{server}/action");
    assert_eq!(w.post(&act, json!({"addFloatingIp": {"address": made["ip"]}}), "2.1").await.status, 202);
    let led = w.get(&at(&id), "2.1").await.expect(200)["floating_ip"].clone();
    assert_eq!(led["instance_id"], json!(server));
    assert!(led["fixed_ip"].as_str().unwrap().starts_with("10.1.0."));

    // With two pools one must be named, unless one has the usual name.
    w.outside("", "198.51.100.0/24").await;
    let pools = w.get("/os-floating-ip-pools", "2.1").await.expect(200)["floating_ip_pools"].clone();
    let nameless = pools.as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).find(|n| *n != "public").unwrap().to_string();
    assert!(base::id::is_uuid(&nameless), "{pools}");
    let take = |pool: Value| {
        let w = &w;
        async move { w.post("/os-floating-ips", json!({"pool": pool, "odd": 1}), "2.1").await }
    };
    for (pool, status) in
        [(Value::Null, 404), (json!(""), 404), (json!("none"), 404), (json!(NONE), 404), (json!(7), 400), (json!(nameless.clone()), 200)]
    {
        assert_eq!(take(pool.clone()).await.status, status, "{pool}");
    }
    w.outside("nova", "192.0.2.0/24").await;
    assert_eq!(take(Value::Null).await.expect(200)["floating_ip"]["pool"], "nova");
    w.outside("nova", "192.0.3.0/24").await;
    assert_eq!(take(json!("nova")).await.status, 400, "which of the two?");
    // The first pool has six addresses, of which gateway, router and the first floating address have three.
    for _ in 0..3 {
        take(json!("public")).await.expect(200);
    }
    let none = take(json!("public")).await;
    assert_eq!((none.status, none.text().contains("No more floating IPs in pool public.")), (404, true), "{}", none.text());
    let quota = json!({"quota": {"floatingip": 1}});
    let path = format!("/network/v2.0/quotas/{}", w.tenant.project_id);
    w.cloud.request("PUT", &path).token(&w.admin).json(&quota).send().await.expect(200);
    let over = take(json!("public")).await;
    assert_eq!((over.status, over.text().contains("IP allocation over quota in pool public.")), (403, true), "{}", over.text());

    let stranger = w.cloud.tenant("stranger", "member").await;
    let reader = w.cloud.tenant("reader", "reader").await;
    assert_eq!(w.call(&w.admin, "GET", "/os-floating-ips", None, "2.1").await.expect(200)["floating_ips"], json!([]));
    for (token, method, path, version, status) in [
        (&w.tenant, "GET", "/os-floating-ip-pools".to_string(), "2.36", 404),
        (&w.tenant, "GET", "/os-floating-ips".into(), "2.36", 404),
        (&w.tenant, "POST", "/os-floating-ips".into(), "2.36", 404),
        (&w.tenant, "GET", at(&id), "2.36", 404),
        (&w.tenant, "DELETE", at(&id), "2.36", 404),
        (&w.tenant, "GET", at(NONE), "2.1", 404),
        (&w.tenant, "DELETE", at("odd"), "2.1", 404),
        (&stranger, "GET", at(&id), "2.1", 404),
        (&stranger, "DELETE", at(&id), "2.1", 404),
        (&reader, "POST", "/os-floating-ips".into(), "2.1", 403),
        (&reader, "DELETE", at(&id), "2.1", 403),
        (&w.tenant, "DELETE", at(&id), "2.1", 202),
        (&w.tenant, "GET", at(&id), "2.1", 404),
    ] {
        let answer = w.call(token, method, &path, None, version).await;
        assert_eq!(answer.status, status, "{method} {path} {version}: {}", answer.text());
    }
}
