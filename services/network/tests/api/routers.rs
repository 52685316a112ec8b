use serde_json::{Value, json};

use crate::world::{World, text};

pub async fn a_router_with_gateway_and_interface(w: World) {
    let public = w.public().await;
    let (router, network, subnet) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let path = format!("/routers/{router}");
    let seen = w.get("member:p1", &path).await["router"].clone();
    assert_eq!((&seen["status"], &seen["external_gateway_info"]["enable_snat"]), (&json!("ACTIVE"), &json!(true)));
    assert_eq!(seen["external_gateway_info"]["external_fixed_ips"][0]["ip_address"], json!("172.24.4.2"));
    assert!(seen.get("ha").is_none() && w.get("admin", &path).await["router"]["ha"] == json!(false));
    let own = w.get("member:p1", &format!("/ports?device_id={router}")).await["ports"].clone();
    assert_eq!(
        (own.as_array().unwrap().len(), &own[0]["device_owner"]),
        (1, &json!("network:router_interface")),
        "the gateway's port is the cloud's"
    );
    assert_eq!(own[0]["fixed_ips"][0]["ip_address"], json!("10.0.0.1"));
    let port = text(&own[0]["id"]);
    assert_eq!(w.refused("member:p1", "DELETE", &format!("/ports/{port}"), Value::Null, 409).await, "ServicePortInUse");
    assert_eq!(w.refused("member:p1", "DELETE", &path, Value::Null, 409).await, "RouterInUse");
    assert_eq!(w.refused("member:p1", "DELETE", &format!("/subnets/{subnet}"), Value::Null, 409).await, "SubnetInUse");
    assert_eq!(w.refused("member:p1", "DELETE", &format!("/networks/{network}"), Value::Null, 409).await, "NetworkInUse");
    let (status, answer) = w.ask("member:p1", "PUT", &format!("{path}/remove_router_interface"), json!({"subnet_id": subnet})).await;
    assert_eq!((status, text(&answer["port_id"])), (200, port));
    w.delete("member:p1", &path).await;
    w.delete("member:p1", &format!("/networks/{network}")).await;
    w.delete("admin", &format!("/networks/{public}")).await;
    w.empty(&["router", "port", "ip_allocation", "subnet", "network"]).await;
}

pub async fn what_an_interface_may_not_be(w: World) {
    let public = w.public().await;
    let (router, network, subnet) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let other = w.network("member:p1").await;
    let overlapping = w.subnet("member:p1", &other, "10.0.0.128/25").await;
    let gateless = w
        .make("member:p1", "/subnets", "subnet", json!({"network_id": other, "cidr": "10.7.0.0/24", "ip_version": 4, "gateway_ip": null}))
        .await;
    let foreign_net = w.network("member:p2").await;
    let foreign = w.subnet("member:p2", &foreign_net, "10.8.0.0/24").await;
    let used = w.make("member:p1", "/ports", "port", json!({"network_id": other, "device_id": "vm"})).await;
    let bare = w.make("member:p1", "/ports", "port", json!({"network_id": other, "fixed_ips": []})).await;
    let path = format!("/routers/{router}/add_router_interface");
    for (body, status, name) in [
        (json!({}), 400, "BadRequest"),
        (json!({"subnet_id": subnet, "port_id": used["id"]}), 400, "BadRequest"),
        (json!({"subnet_id": "x"}), 400, "BadRequest"),
        (json!({"colour": "red"}), 400, "HTTPBadRequest"),
        (json!({"subnet_id": subnet}), 400, "BadRequest"),
        (json!({"subnet_id": overlapping}), 400, "BadRequest"),
        (json!({"subnet_id": gateless["id"]}), 400, "BadRequest"),
        (json!({"subnet_id": foreign}), 404, "SubnetNotFound"),
        (json!({"port_id": used["id"]}), 409, "PortInUse"),
        (json!({"port_id": bare["id"]}), 400, "BadRequest"),
        (json!({"port_id": network}), 404, "PortNotFound"),
    ] {
        assert_eq!(w.refused("member:p1", "PUT", &path, body.clone(), status).await, name, "{body}");
    }
    let path = format!("/routers/{router}/remove_router_interface");
    assert_eq!(w.refused("member:p1", "PUT", &path, json!({"port_id": used["id"]}), 404).await, "RouterInterfaceNotFound");
    assert_eq!(w.refused("member:p1", "PUT", &path, json!({"subnet_id": overlapping}), 404).await, "RouterInterfaceNotFoundForSubnet");
    assert_eq!(w.refused("member:p2", "PUT", &path, json!({"subnet_id": subnet}), 404).await, "RouterNotFound");
    assert_eq!(w.refused("reader:p1", "PUT", &path, json!({"subnet_id": subnet}), 403).await, "PolicyNotAuthorized");
}

pub async fn gateways_and_extra_routes(w: World) {
    let public = w.public().await;
    let (router, network, subnet) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let path = format!("/routers/{router}");
    let gateway = |info: Value| json!({"router": {"external_gateway_info": info}});
    assert_eq!(w.refused("member:p1", "PUT", &path, gateway(json!({"network_id": network})), 400).await, "BadRequest");
    assert_eq!(w.refused("member:p1", "PUT", &path, gateway(json!({"network": public})), 400).await, "HTTPBadRequest");
    let plain = gateway(json!({"network_id": public, "enable_snat": false}));
    assert_eq!(w.refused("member:p1", "PUT", &path, plain.clone(), 403).await, "PolicyNotAuthorized");
    assert_eq!(w.ask("admin", "PUT", &path, plain).await.1["router"]["external_gateway_info"]["enable_snat"], json!(false));
    let chosen = gateway(json!({"network_id": public, "external_fixed_ips": [{"ip_address": "172.24.4.99"}]}));
    let (_, answer) = w.ask("admin", "PUT", &path, chosen).await;
    assert_eq!(answer["router"]["external_gateway_info"]["external_fixed_ips"][0]["ip_address"], json!("172.24.4.99"), "{answer}");

    let routes = |nexthop: &str| json!({"router": {"routes": [{"destination": "10.9.0.0/16", "nexthop": nexthop}]}});
    assert_eq!(w.refused("member:p1", "PUT", &path, routes("10.3.0.1"), 400).await, "InvalidRoutes");
    assert_eq!(w.refused("member:p1", "PUT", &path, routes("10.0.0.1"), 400).await, "InvalidRoutes");
    assert_eq!(w.ask("member:p1", "PUT", &path, routes("10.0.0.9")).await.0, 200);
    let remove = format!("{path}/remove_router_interface");
    assert_eq!(w.refused("member:p1", "PUT", &remove, json!({"subnet_id": subnet}), 409).await, "RouterInterfaceInUseByRoute");
    let more = json!({"router": {"routes": [{"destination": "10.8.0.0/16", "nexthop": "10.0.0.9"}]}});
    let (_, answer) = w.ask("member:p1", "PUT", &format!("{path}/add_extraroutes"), more).await;
    assert_eq!(answer["router"]["routes"].as_array().unwrap().len(), 2);
    let (_, answer) = w.ask("member:p1", "PUT", &format!("{path}/remove_extraroutes"), routes("10.0.0.9")).await;
    assert_eq!(answer["router"]["routes"], json!([{"destination": "10.8.0.0/16", "nexthop": "10.0.0.9"}]));
    assert_eq!(w.ask("member:p1", "PUT", &path, json!({"router": {"routes": []}})).await.0, 200);
    assert_eq!(w.ask("member:p1", "PUT", &path, gateway(json!({}))).await.1["router"]["external_gateway_info"], Value::Null);
    let ha = json!({"router": {"ha": true}});
    assert_eq!(w.refused("admin", "POST", "/routers", ha, 400).await, "HTTPBadRequest");
}
