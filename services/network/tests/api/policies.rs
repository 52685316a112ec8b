//! The four denials: no token, another project, no role, an attribute that is not one's own to set.

use serde_json::{Value, json};

use crate::world::{World, text};

pub async fn every_route_wants_a_token(w: World) {
    let mut asked = 0;
    for route in w.app.routes().iter().filter(|r| !r.public) {
        let path =
            route.path.replace("/v2.0", "").replace("{id}", "x").replace("{tag}", "x").replace("{project}", "x").replace("{alias}", "x");
        for token in ["", "bad"] {
            assert_eq!(w.ask(token, route.method, &path, json!({})).await.0, 401, "{} {path}", route.method);
        }
        asked += 1;
    }
    assert!(asked > 80, "{asked}");
}

pub async fn another_project_sees_nothing_and_a_reader_changes_nothing(w: World) {
    let public = w.public().await;
    let (router, network, subnet) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let port = text(&w.port("member:p1", &network).await["id"]);
    let floating = text(&w.make("member:p1", "/floatingips", "floatingip", json!({"floating_network_id": public})).await["id"]);
    let group = text(&w.make("member:p1", "/security-groups", "security_group", json!({"name": "g"})).await["id"]);
    for (kind, path) in [
        ("network", format!("/networks/{network}")),
        ("subnet", format!("/subnets/{subnet}")),
        ("port", format!("/ports/{port}")),
        ("router", format!("/routers/{router}")),
        ("floatingip", format!("/floatingips/{floating}")),
        ("security_group", format!("/security-groups/{group}")),
    ] {
        let change = json!({kind: {"description": "mine now"}});
        for (method, body) in [("GET", Value::Null), ("PUT", change.clone()), ("DELETE", Value::Null)] {
            let name = w.refused("member:p2", method, &path, body.clone(), 404).await;
            assert!(name.ends_with("NotFound"), "{method} {path}: {name}");
            w.refused("nobody:p1", method, &path, body, 404).await;
        }
        let name = w.refused("reader:p1", "PUT", &path, change, 403).await;
        assert_eq!(name, "PolicyNotAuthorized");
        w.refused("reader:p1", "DELETE", &path, Value::Null, 403).await;
        w.get("reader:p1", &path).await;
    }
}

pub async fn shared_and_external_networks_are_seen_but_not_owned(w: World) {
    let public = w.public().await;
    assert_eq!(w.get("member:p2", &format!("/networks/{public}")).await["network"]["router:external"], json!(true));
    assert_eq!(w.get("member:p2", "/networks?router:external=True").await["networks"].as_array().unwrap().len(), 1);
    let subnets = w.get("member:p2", &format!("/subnets?network_id={public}")).await;
    assert_eq!(subnets["subnets"].as_array().unwrap().len(), 1);
    assert!(subnets["subnets"][0].get("shared").is_none());
    w.refused("member:p2", "DELETE", &format!("/networks/{public}"), Value::Null, 403).await;
    let body = json!({"subnet": {"network_id": public, "cidr": "10.0.0.0/24", "ip_version": 4}});
    assert_eq!(w.refused("member:p2", "POST", "/subnets", body, 403).await, "PolicyNotAuthorized");
    let shared = text(&w.make("admin", "/networks", "network", json!({"shared": true})).await["id"]);
    w.subnet("admin", &shared, "10.0.0.0/24").await;
    w.port("member:p2", &shared).await;
    let chosen = json!({"port": {"network_id": shared, "fixed_ips": [{"ip_address": "10.0.0.50"}]}});
    assert_eq!(w.refused("member:p2", "POST", "/ports", chosen, 403).await, "PolicyNotAuthorized");
    let owner = json!({"port": {"network_id": shared, "device_owner": "network:dhcp"}});
    assert_eq!(w.refused("member:p2", "POST", "/ports", owner, 403).await, "PolicyNotAuthorized");
}

pub async fn admins_act_for_projects(w: World) {
    let made = w.make("admin", "/networks", "network", json!({"tenant_id": "p7"})).await;
    assert_eq!(made["project_id"], json!("p7"));
    let both = json!({"network": {"tenant_id": "p7", "project_id": "p8"}});
    assert_eq!(w.ask("admin", "POST", "/networks", both).await.0, 400);
    assert_eq!(w.get("member:p7", "/networks").await["networks"].as_array().unwrap().len(), 1);
    w.host("h1", "alpha").await;
    assert_eq!(w.get("admin", "/agents").await["agents"].as_array().unwrap().len(), 1);
    assert_eq!(w.get("member:p1", "/agents").await["agents"], json!([]));
    assert_eq!(w.ask("member:p1", "GET", "/agents/x", Value::Null).await.0, 404);
}
