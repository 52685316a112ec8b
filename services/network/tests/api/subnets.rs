use serde_json::{Value, json};

use crate::world::{World, text};

pub async fn defaults_and_changes(w: World) {
    let net = w.network("member:p1").await;
    let made = w.make("member:p1", "/subnets", "subnet", json!({"network_id": net, "cidr": "10.0.0.0/24", "ip_version": 4})).await;
    assert_eq!((&made["gateway_ip"], &made["enable_dhcp"], &made["subnetpool_id"]), (&json!("10.0.0.1"), &json!(true), &Value::Null));
    assert_eq!(made["allocation_pools"], json!([{"start": "10.0.0.2", "end": "10.0.0.254"}]));
    let id = text(&made["id"]);
    let change = json!({"subnet": {"dns_nameservers": ["8.8.8.8"], "host_routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}],
        "gateway_ip": null, "enable_dhcp": false, "allocation_pools": [{"start": "10.0.0.10", "end": "10.0.0.20"}]}});
    let (status, changed) = w.ask("member:p1", "PUT", &format!("/subnets/{id}"), change).await;
    assert_eq!((status, &changed["subnet"]["gateway_ip"], &changed["subnet"]["dns_nameservers"]), (200, &Value::Null, &json!(["8.8.8.8"])));
    assert_eq!(w.get("admin", "/ports").await["ports"], json!([]), "without DHCP the network needs no port of its own");
    assert_eq!(text(&w.port("member:p1", &net).await["fixed_ips"][0]["ip_address"]), "10.0.0.10");
}

pub async fn what_a_subnet_may_not_be(w: World) {
    let net = w.network("member:p1").await;
    w.subnet("member:p1", &net, "10.0.0.0/16").await;
    let with = |more: Value| {
        let mut body = json!({"network_id": net, "cidr": "10.5.0.0/24", "ip_version": 4});
        body["cidr"] = json!("192.168.0.0/24");
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"subnet": body})
    };
    let table = [
        (json!({"cidr": "10.0.3.0/24"}), 400, "InvalidInput"),
        (json!({"cidr": "fd00::/64"}), 400, "InvalidInput"),
        (json!({"cidr": "192.168.0.1/24"}), 400, "HTTPBadRequest"),
        (json!({"cidr": "nonsense"}), 400, "HTTPBadRequest"),
        (json!({"ip_version": 5}), 400, "HTTPBadRequest"),
        (json!({"gateway_ip": "192.168.0.0"}), 400, "InvalidInput"),
        (json!({"gateway_ip": "fd00::1"}), 400, "InvalidInput"),
        (json!({"gateway_ip": "x"}), 400, "HTTPBadRequest"),
        (json!({"ipv6_ra_mode": "slaac"}), 400, "InvalidInput"),
        (json!({"ipv6_ra_mode": "magic"}), 400, "HTTPBadRequest"),
        (json!({"allocation_pools": [{"start": "192.168.0.1", "end": "192.168.0.9"}]}), 409, "GatewayConflictWithAllocationPools"),
        (json!({"allocation_pools": [{"start": "192.168.1.1", "end": "192.168.1.9"}]}), 400, "OutOfBoundsAllocationPool"),
        (json!({"allocation_pools": [{"start": "192.168.0.5"}]}), 400, "HTTPBadRequest"),
        (json!({"allocation_pools": "all"}), 400, "HTTPBadRequest"),
        (json!({"dns_nameservers": ["1.1.1.1", "1.1.1.1"]}), 400, "HTTPBadRequest"),
        (json!({"dns_nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5", "1.1.1.6"]}), 400, "DNSNameServersExhausted"),
        (json!({"host_routes": [{"destination": "1.0.0.0/8"}]}), 400, "HTTPBadRequest"),
        (json!({"subnetpool_id": "0e9b4a4e-6f77-4c5e-9b0c-0d5a4ad9a8e7"}), 404, "SubnetPoolNotFound"),
        (json!({"network_id": "0e9b4a4e-6f77-4c5e-9b0c-0d5a4ad9a8e7"}), 404, "NetworkNotFound"),
        (json!({"network_id": 5}), 400, "HTTPBadRequest"),
    ];
    for (more, status, name) in table {
        assert_eq!(w.refused("member:p1", "POST", "/subnets", with(more.clone()), status).await, name, "{more}");
    }
    let v6 = |more: Value| {
        let mut body = json!({"network_id": net, "cidr": "fd00::/64", "ip_version": 6});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"subnet": body})
    };
    for more in [
        json!({"ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"}),
        json!({"ipv6_ra_mode": "slaac", "enable_dhcp": false}),
        json!({"ipv6_ra_mode": "slaac", "cidr": "fd00::/80"}),
    ] {
        assert_eq!(w.refused("member:p1", "POST", "/subnets", v6(more.clone()), 400).await, "InvalidInput", "{more}");
    }
    assert_eq!(w.get("admin", "/subnets").await["subnets"].as_array().unwrap().len(), 1);
}

pub async fn in_use_subnets_stay_but_the_service_port_and_slaac_do_not_hold_them(w: World) {
    let net = w.network("member:p1").await;
    let subnet = w.subnet("member:p1", &net, "10.0.0.0/24").await;
    let slaac = json!({"network_id": net, "cidr": "fd00::/64", "ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    let port = w.port("member:p1", &net).await;
    let auto = text(&w.make("member:p1", "/subnets", "subnet", slaac).await["id"]);
    let port_path = format!("/ports/{}", text(&port["id"]));
    let fixed = w.get("member:p1", &port_path).await["port"]["fixed_ips"].clone();
    assert_eq!(fixed.as_array().unwrap().len(), 2, "an older port gets its SLAAC address: {fixed}");
    assert_eq!(w.refused("member:p1", "DELETE", &format!("/subnets/{subnet}"), Value::Null, 409).await, "SubnetInUse");
    w.delete("member:p1", &format!("/subnets/{auto}")).await;
    assert_eq!(w.get("member:p1", &port_path).await["port"]["fixed_ips"].as_array().unwrap().len(), 1);
    w.delete("member:p1", &port_path).await;
    w.delete("member:p1", &format!("/subnets/{subnet}")).await;
    w.empty(&["subnet", "port", "ip_allocation"]).await;
}
