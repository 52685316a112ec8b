use serde_json::{Value, json};

use crate::world::{World, text};

pub async fn from_pool_to_port_and_back(w: World) {
    let public = w.public().await;
    let (router, network, subnet) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let port = w.port("member:p1", &network).await;
    let made = w.make("member:p1", "/floatingips", "floatingip", json!({"floating_network_id": public})).await;
    assert_eq!((&made["status"], &made["port_id"], &made["port_details"]), (&json!("DOWN"), &Value::Null, &Value::Null));
    assert!(made.get("name").is_none());
    let path = format!("/floatingips/{}", text(&made["id"]));
    let (status, answer) = w.ask("member:p1", "PUT", &path, json!({"floatingip": {"port_id": port["id"]}})).await;
    assert_eq!(status, 200, "{answer}");
    let tied = &answer["floatingip"];
    assert_eq!((&tied["router_id"], &tied["fixed_ip_address"]), (&json!(router), &port["fixed_ips"][0]["ip_address"]));
    assert_eq!(tied["port_details"]["network_id"], json!(network));
    let second = json!({"floatingip": {"floating_network_id": public, "port_id": port["id"]}});
    assert_eq!(w.refused("member:p1", "POST", "/floatingips", second, 409).await, "FloatingIPPortAlreadyAssociated");
    let remove = format!("/routers/{router}/remove_router_interface");
    assert_eq!(w.refused("member:p1", "PUT", &remove, json!({"subnet_id": subnet}), 409).await, "RouterInterfaceInUseByFloatingIP");
    let clear = json!({"router": {"external_gateway_info": null}});
    assert_eq!(w.refused("member:p1", "PUT", &format!("/routers/{router}"), clear, 409).await, "RouterExternalGatewayInUseByFloatingIp");
    assert_eq!(w.ask("member:p1", "PUT", &path, json!({"floatingip": {"description": "d"}})).await.1["floatingip"]["port_id"], port["id"]);
    assert_eq!(w.ask("member:p1", "PUT", &path, json!({"floatingip": {}})).await.1["floatingip"]["port_id"], Value::Null);
    assert_eq!(w.ask("member:p1", "PUT", &path, json!({"floatingip": {"port_id": port["id"]}})).await.0, 200);
    w.delete("member:p1", &format!("/ports/{}", text(&port["id"]))).await;
    assert_eq!(w.get("member:p1", &path).await["floatingip"]["port_id"], Value::Null, "a port that goes sets its address free");
    w.delete("member:p1", &path).await;
    w.empty(&["floatingip"]).await;
    assert_eq!(w.get("admin", "/ports?device_owner=network:floatingip").await["ports"], json!([]));
}

pub async fn what_cannot_float(w: World) {
    let public = w.public().await;
    let (_, network, _) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let lonely = w.network("member:p1").await;
    let far_subnet = w.subnet("member:p1", &lonely, "10.6.0.0/24").await;
    let far = w.port("member:p1", &lonely).await;
    let two = w
        .make(
            "member:p1",
            "/ports",
            "port",
            json!({"network_id": lonely, "fixed_ips": [{"subnet_id": far_subnet}, {"subnet_id": far_subnet}]}),
        )
        .await;
    let none = w.make("member:p1", "/ports", "port", json!({"network_id": network, "fixed_ips": []})).await;
    let theirs_net = w.network("member:p2").await;
    w.subnet("member:p2", &theirs_net, "10.6.0.0/24").await;
    let theirs = w.port("member:p2", &theirs_net).await;
    for (token, more, status, name) in [
        ("member:p1", json!({"floating_network_id": lonely}), 400, "BadRequest"),
        ("member:p1", json!({"floating_network_id": far_subnet}), 404, "NetworkNotFound"),
        ("member:p1", json!({"floating_network_id": null}), 400, "HTTPBadRequest"),
        ("member:p1", json!({"port_id": far["id"]}), 404, "ExternalGatewayForFloatingIPNotFound"),
        ("member:p1", json!({"port_id": two["id"]}), 400, "BadRequest"),
        ("member:p1", json!({"port_id": none["id"]}), 400, "BadRequest"),
        ("member:p1", json!({"port_id": theirs["id"]}), 404, "PortNotFound"),
        ("member:p1", json!({"port_id": far["id"], "fixed_ip_address": "10.6.0.200"}), 400, "BadRequest"),
        ("member:p1", json!({"fixed_ip_address": "10.6.0.200"}), 400, "BadRequest"),
        ("member:p1", json!({"floating_ip_address": "172.24.4.50"}), 403, "PolicyNotAuthorized"),
        ("admin", json!({"floating_ip_address": "172.24.9.50"}), 400, "InvalidIpForNetwork"),
        ("admin", json!({"floating_ip_address": "172.24.4.2"}), 409, "IpAddressInUse"),
        ("reader:p1", json!({}), 403, "PolicyNotAuthorized"),
    ] {
        let mut body = json!({"floating_network_id": public});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(w.refused(token, "POST", "/floatingips", json!({"floatingip": body}), status).await, name, "{more}");
    }
    let chosen =
        w.make("admin", "/floatingips", "floatingip", json!({"floating_network_id": public, "floating_ip_address": "172.24.4.50"})).await;
    assert_eq!(chosen["floating_ip_address"], json!("172.24.4.50"));
    let other = text(&w.make("admin", "/networks", "network", json!({"router:external": true})).await["id"]);
    w.subnet("admin", &other, "172.25.0.0/24").await;
    let unused = w.make("member:p1", "/floatingips", "floatingip", json!({"floating_network_id": other})).await;
    w.delete("admin", &format!("/networks/{other}")).await;
    w.refused("member:p1", "GET", &format!("/floatingips/{}", text(&unused["id"])), Value::Null, 404).await;
}
