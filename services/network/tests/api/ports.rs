use serde_json::{Value, json};

use crate::world::{World, all, text};

pub async fn defaults_of_a_port(w: World) {
    let net = w.network("member:p1").await;
    w.subnet("member:p1", &net, "10.0.0.0/24").await;
    let port = w.port("member:p1", &net).await;
    assert!(text(&port["mac_address"]).starts_with("fa:16:3e:"));
    assert_eq!((&port["status"], &port["device_owner"], &port["binding:vnic_type"]), (&json!("DOWN"), &json!(""), &json!("normal")));
    assert_eq!(port["fixed_ips"].as_array().unwrap().len(), 1);
    assert_eq!(port["security_groups"].as_array().unwrap().len(), 1, "the default group");
    let at = text(&port["fixed_ips"][0]["ip_address"]);
    let host = format!("host-{}", at.replace('.', "-"));
    assert_eq!(port["dns_assignment"], json!([{"ip_address": at, "hostname": host, "fqdn": format!("{host}.openstacklocal.")}]));
    for hidden in ["binding:host_id", "binding:profile", "binding:vif_type", "binding:vif_details", "shared", "network:project_id"] {
        assert!(port.get(hidden).is_none(), "{hidden}");
    }
    let seen = w.get("admin", &format!("/ports/{}", text(&port["id"]))).await;
    assert_eq!((&seen["port"]["binding:vif_type"], &seen["port"]["binding:host_id"]), (&json!("unbound"), &json!("")));
}

pub async fn addresses_as_wished(w: World) {
    let net = w.network("member:p1").await;
    let a = w.subnet("member:p1", &net, "10.0.0.0/24").await;
    let b = w.subnet("member:p1", &net, "10.1.0.0/24").await;
    let wished = json!({"network_id": net, "fixed_ips": [{"subnet_id": b}, {"ip_address": "10.0.0.77"}, {"subnet_id": a, "ip_address": "10.0.0.78"}]});
    let port = w.make("member:p1", "/ports", "port", wished).await;
    assert_eq!(all(&port["fixed_ips"], "subnet_id"), [b.clone(), a.clone(), a.clone()]);
    let path = format!("/ports/{}", text(&port["id"]));
    let kept = text(&port["fixed_ips"][0]["ip_address"]);
    let change = json!({"port": {"fixed_ips": [{"subnet_id": b}, {"ip_address": "10.0.0.79"}]}});
    let (status, changed) = w.ask("member:p1", "PUT", &path, change).await;
    assert_eq!((status, all(&changed["port"]["fixed_ips"], "ip_address")), (200, vec![kept, "10.0.0.79".into()]));
    for (wish, status, name) in [
        (json!([{"ip_address": "10.0.0.79"}]), 409, "IpAddressInUse"),
        (json!([{"ip_address": "10.2.0.5"}]), 400, "InvalidIpForNetwork"),
        (json!([{"subnet_id": a, "ip_address": "10.1.0.5"}]), 400, "InvalidIpForSubnet"),
        (json!([{"subnet_id": a, "ip_address": "10.0.0.255"}]), 400, "InvalidIpForSubnet"),
        (json!([{"subnet_id": net}]), 400, "InvalidInput"),
        (json!([{}]), 400, "InvalidInput"),
        (json!([{"subnet_id": "x"}]), 400, "HTTPBadRequest"),
        (json!([{"ip_address": "10.0.0.5"}, {"ip_address": "10.0.0.5"}]), 400, "HTTPBadRequest"),
        (json!("10.0.0.5"), 400, "HTTPBadRequest"),
    ] {
        let body = json!({"port": {"network_id": net, "fixed_ips": wish}});
        assert_eq!(w.refused("member:p1", "POST", "/ports", body, status).await, name, "{wish}");
    }
    let none = w.make("member:p1", "/ports", "port", json!({"network_id": net, "fixed_ips": []})).await;
    assert_eq!(none["fixed_ips"], json!([]));
    assert_eq!(w.get("member:p1", "/ports?fixed_ips=ip_address%3D10.0.0.79").await["ports"].as_array().unwrap().len(), 1);
    assert_eq!(w.get("member:p1", "/ports?fixed_ips=ip_address_substr%3D0.0.7").await["ports"].as_array().unwrap().len(), 1);
    assert_eq!(w.ask("member:p1", "GET", "/ports?fixed_ips=nonsense", Value::Null).await.0, 400);
}

pub async fn macs_pairs_options_and_security(w: World) {
    let net = w.network("member:p1").await;
    w.subnet("member:p1", &net, "10.0.0.0/24").await;
    let make = |more: Value| {
        let mut body = json!({"network_id": net});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"port": body})
    };
    let port = w.ask("member:p1", "POST", "/ports", make(json!({"mac_address": "FA:16:3E:AA:BB:CC"}))).await.1["port"].clone();
    assert_eq!(port["mac_address"], json!("fa:16:3e:aa:bb:cc"));
    let path = format!("/ports/{}", text(&port["id"]));
    let group = "0e9b4a4e-6f77-4c5e-9b0c-0d5a4ad9a8e7";
    for (more, status, name) in [
        (json!({"mac_address": "fa:16:3e:aa:bb:cc"}), 409, "MacAddressInUse"),
        (json!({"mac_address": "fa:16"}), 400, "HTTPBadRequest"),
        (json!({"security_groups": [group]}), 404, "SecurityGroupNotFound"),
        (json!({"security_groups": ["x"]}), 400, "HTTPBadRequest"),
        (json!({"allowed_address_pairs": [{"mac_address": "fa:16:3e:aa:bb:cc"}]}), 400, "HTTPBadRequest"),
        (json!({"allowed_address_pairs": [{"ip_address": "1.1.1.1"}, {"ip_address": "1.1.1.1"}]}), 400, "HTTPBadRequest"),
        (
            json!({"allowed_address_pairs": [{"ip_address": "1.1.1.1"}], "port_security_enabled": false}),
            409,
            "AddressPairAndPortSecurityRequired",
        ),
        (json!({"extra_dhcp_opts": [{"opt_name": "", "opt_value": "x"}]}), 400, "HTTPBadRequest"),
        (json!({"extra_dhcp_opts": [{"opt_name": "a", "opt_value": "x"}, {"opt_name": "a", "opt_value": "y"}]}), 400, "HTTPBadRequest"),
        (json!({"dns_name": "not_a_name!"}), 400, "HTTPBadRequest"),
        (json!({"binding:vnic_type": "quantum"}), 400, "HTTPBadRequest"),
        (json!({"binding:host_id": "h"}), 403, "PolicyNotAuthorized"),
        (json!({"network_id": group}), 404, "NetworkNotFound"),
    ] {
        assert_eq!(w.refused("member:p1", "POST", "/ports", make(more.clone()), status).await, name, "{more}");
    }
    let put = |body: Value| w.ask("member:p1", "PUT", &path, body);
    let (_, changed) = put(json!({"port": {"allowed_address_pairs": [{"ip_address": "10.0.0.0/28"}],
        "extra_dhcp_opts": [{"opt_name": "bootfile-name", "opt_value": "x"}, {"opt_name": "tftp-server", "opt_value": "1.1.1.1"}]}}))
    .await;
    assert_eq!(changed["port"]["allowed_address_pairs"], json!([{"ip_address": "10.0.0.0/28", "mac_address": "fa:16:3e:aa:bb:cc"}]));
    let (_, changed) = put(json!({"port": {"extra_dhcp_opts": [{"opt_name": "bootfile-name", "opt_value": null}]}})).await;
    assert_eq!(changed["port"]["extra_dhcp_opts"], json!([{"opt_name": "tftp-server", "opt_value": "1.1.1.1", "ip_version": 4}]));
    assert_eq!(put(json!({"port": {"port_security_enabled": false}})).await.1["NeutronError"]["type"], "PortSecurityPortHasSecurityGroup");
    let off = json!({"port": {"port_security_enabled": false, "security_groups": [], "allowed_address_pairs": []}});
    assert_eq!(put(off).await.0, 200);
    assert_eq!(put(json!({"port": {"status": "ACTIVE"}})).await.0, 400);
}

pub async fn tags_come_with_ports_and_bulk_is_one_request(w: World) {
    let net = w.network("member:p1").await;
    w.subnet("member:p1", &net, "10.0.0.0/24").await;
    let body = json!({"ports": [{"network_id": net, "tags": ["red"]}, {"network_id": net, "name": "b"}]});
    let (status, made) = w.ask("member:p1", "POST", "/ports", body).await;
    assert_eq!((status, &made["ports"][0]["tags"]), (201, &json!(["red"])));
    let addresses: Vec<_> = made["ports"].as_array().unwrap().iter().map(|p| p["fixed_ips"][0]["ip_address"].clone()).collect();
    assert_ne!(addresses[0], addresses[1]);
}
