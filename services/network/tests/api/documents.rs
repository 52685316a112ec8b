//! What hosts are sent, and what follows from their reports.

use rpc::network::{NetworkKind, Remote};
use serde_json::{Value, json};

use crate::world::{World, soon, text};

pub async fn a_host_gets_what_its_ports_need_and_nothing_else(w: World) {
    let mut host = w.host("h1", "alpha").await;
    let public = w.public().await;
    let (router, network, subnet) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let elsewhere = w.network("member:p2").await;
    w.subnet("member:p2", &elsewhere, "10.0.0.0/24").await;
    let port = w
        .make(
            "admin",
            "/ports",
            "port",
            json!({"network_id": network, "project_id": "p1", "device_id": "vm1", "device_owner": "compute:nova"}),
        )
        .await;
    let id = text(&port["id"]);
    let path = format!("/ports/{id}");
    assert_eq!(
        w.ask("admin", "PUT", &path, json!({"port": {"binding:host_id": "alpha"}})).await.1["port"]["binding:vif_type"],
        json!("bridge")
    );
    let document = host.document(|d| d.ports.iter().any(|p| p.id == id)).await;
    assert_eq!(document.networks.len(), 2, "its own and the one outside");
    let own = document.networks.iter().find(|n| n.id == network).unwrap();
    assert_eq!((own.mtu, own.subnets[0].id.as_str(), own.leases.len()), (1450, subnet.as_str(), 1));
    assert!(matches!(own.kind, NetworkKind::Overlay { vni: 1 }));
    assert_eq!(own.service_port.as_ref().unwrap().addresses, ["10.0.0.2/24".parse().unwrap()]);
    let outside = document.networks.iter().find(|n| n.id == public).unwrap();
    let carried = NetworkKind::Provider { physical_network: "public".into(), host_addresses: vec!["172.24.4.1/24".parse().unwrap()] };
    assert_eq!((&outside.kind, outside.service_port.is_none()), (&carried, true));
    let wired = &document.routers[0];
    assert_eq!((wired.id.as_str(), wired.interfaces[0].addresses[0]), (router.as_str(), "10.0.0.1/24".parse().unwrap()));
    let gateway = wired.gateway.as_ref().unwrap();
    assert!(gateway.snat && gateway.nexthops == ["172.24.4.1".parse::<std::net::IpAddr>().unwrap()]);
    let group = document.security_groups.iter().find(|g| document.ports[0].security_groups.contains(&g.id)).unwrap();
    assert_eq!((group.rules.len(), group.members.len()), (4, 1));
    assert!(group.rules.iter().any(|r| r.ingress && r.remote == Remote::Group(group.id.clone())));

    // Another member of the group, on no host at all, is let in here.
    let other = w.port("member:p1", &network).await;
    let document = host.document(|d| d.security_groups.iter().any(|g| g.members.len() == 2)).await;
    assert_eq!(document.networks.iter().find(|n| n.id == network).unwrap().leases.len(), 2);
    w.delete("member:p1", &format!("/ports/{}", text(&other["id"]))).await;

    let body = json!({"floating_network_id": public, "port_id": id});
    let floating = w.make("member:p1", "/floatingips", "floatingip", body).await;
    let document = host.document(|d| d.routers.iter().any(|r| !r.floating.is_empty())).await;
    assert_eq!(document.routers[0].floating[0].fixed.to_string(), text(&port["fixed_ips"][0]["ip_address"]));

    host.applied(&[&id]).await;
    let floating_path = format!("/floatingips/{}", text(&floating["id"]));
    soon("the floating address", || async { (w.get("member:p1", &floating_path).await["floatingip"]["status"] == "ACTIVE").then_some(()) })
        .await;
    assert_eq!(w.get("member:p1", &path).await["port"]["status"], json!("ACTIVE"));
    let joints = w.get("admin", &format!("/ports?device_id={router}")).await;
    assert!(joints["ports"].as_array().unwrap().iter().all(|p| p["status"] == "ACTIVE"));
    host.applied(&[]).await;
    soon("the port", || async { (w.get("member:p1", &path).await["port"]["status"] == "DOWN").then_some(()) }).await;

    w.delete("member:p1", &floating_path).await;
    w.delete("member:p1", &path).await;
    let (status, _) = w.ask("member:p1", "PUT", &format!("/routers/{router}/remove_router_interface"), json!({"subnet_id": subnet})).await;
    assert_eq!(status, 200);
    w.delete("member:p1", &format!("/routers/{router}")).await;
    let document = host.document(|d| d.networks.is_empty()).await;
    assert!(document.ports.is_empty() && document.routers.is_empty() && document.security_groups.is_empty());
}

pub async fn routers_made_before_their_host_find_it_and_a_returning_host_is_told_again(w: World) {
    let public = w.public().await;
    let (router, ..) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let host = w.host("h1", "alpha").await;
    assert_eq!(host.last.routers[0].id, router);
    let generation = host.last.generation;
    drop(host);
    let again = w.host("h1", "alpha").await;
    assert!(again.last.generation >= generation && again.last.routers.len() == 1);
    let agents = w.get("admin", "/agents").await;
    assert_eq!((&agents["agents"][0]["host"], &agents["agents"][0]["alive"]), (&json!("alpha"), &json!(true)));
    let put = |body| w.ask("admin", "PUT", "/agents/h1", body);
    let (_, answer) = put(json!({"agent": {"admin_state_up": false, "description": "rack 3"}})).await;
    assert_eq!((&answer["agent"]["admin_state_up"], &answer["agent"]["description"]), (&json!(false), &json!("rack 3")));
    assert_eq!(put(json!({"agent": {"alive": false}})).await.0, 400);
    assert_eq!(w.refused("admin", "DELETE", "/agents/h1", Value::Null, 409).await, "AgentInUse");
    drop(again);
    soon("the agent's end", || async { (w.get("admin", "/agents/h1").await["agent"]["alive"] == false).then_some(()) }).await;
}

pub async fn an_old_report_does_not_vouch_for_what_came_later(w: World) {
    let mut host = w.host("h1", "alpha").await;
    let public = w.public().await;
    let (_, network, _) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let port = w.port("member:p1", &network).await;
    host.document(|d| d.routers.iter().any(|r| r.gateway.is_some() && !r.interfaces.is_empty())).await;
    let old = host.last.generation;
    let body = json!({"floating_network_id": public, "port_id": port["id"]});
    let floating = w.make("member:p1", "/floatingips", "floatingip", body).await;
    let path = format!("/floatingips/{}", text(&floating["id"]));
    host.document(|d| d.generation > old && d.routers.iter().any(|r| !r.floating.is_empty())).await;
    let newest = host.last.generation;
    host.last.generation = old;
    host.applied(&[]).await;
    soon("the old report", || async {
        let agent = w.get("admin", "/agents/h1").await;
        (agent["agent"]["configurations"]["document_applied"] == json!(old)).then_some(())
    })
    .await;
    assert_eq!(w.get("member:p1", &path).await["floatingip"]["status"], json!("DOWN"));
    host.last.generation = newest;
    host.applied(&[]).await;
    soon("the floating address", || async { (w.get("member:p1", &path).await["floatingip"]["status"] == "ACTIVE").then_some(()) }).await;
}

pub async fn hosts_hear_where_the_ports_of_others_are(w: World) {
    let public = w.public().await;
    let mut alpha = w.host_at("h1", "alpha", "192.0.2.1").await;
    let mut beta = w.host_at("h2", "beta", "192.0.2.2").await;
    let (router, network, _) = w.routed("member:p1", &public, "10.0.0.0/24").await;
    let mut ports = Vec::new();
    for (device, host) in [("vm1", "alpha"), ("vm2", "beta")] {
        let body = json!({"network_id": network, "device_id": device, "device_owner": "compute:nova", "binding:host_id": host});
        ports.push(w.make("admin", "/ports", "port", body).await);
    }
    // Both have a part of the router and answer DHCP; its home leads out for both.
    let names = |list: &Value, key: &str| list.as_array().unwrap().iter().map(|item| text(&item[key])).collect::<Vec<_>>();
    for (path, list, key, wanted) in [
        (format!("/routers/{router}/l3-agents"), "agents", "host", vec!["alpha".to_string(), "beta".into()]),
        (format!("/networks/{network}/dhcp-agents"), "agents", "host", vec!["alpha".into(), "beta".into()]),
        ("/agents/h1/l3-routers".into(), "routers", "id", vec![router.clone()]),
        ("/agents/h2/l3-routers".into(), "routers", "id", vec![router.clone()]),
        ("/agents/h2/dhcp-networks".into(), "networks", "id", vec![network.clone()]),
    ] {
        assert_eq!(names(&w.get("admin", &path).await[list], key), wanted, "{path}");
        let (status, answer) = w.ask("member:p1", "GET", &path, Value::Null).await;
        assert!(status == 403 || status == 404, "{path}: {answer}");
    }
    assert_eq!(w.ask("admin", "GET", "/routers/x/l3-agents", Value::Null).await.0, 404);
    let places = |d: &rpc::network::NetworkDocument| {
        let of = d.networks.iter().find(|n| n.id == network);
        let all = of.into_iter().flat_map(|n| &n.elsewhere);
        all.map(|host| (host.address.to_string(), host.ports.iter().map(|p| p.mac.clone()).collect::<Vec<_>>())).collect::<Vec<_>>()
    };
    let mac = |port: &Value| text(&port["mac_address"]);
    let joint = w.get("admin", &format!("/ports?device_id={router}&device_owner=network:router_interface")).await["ports"][0].clone();
    // One of them is the router's home, whichever; both have a part of it, and know the other's by a MAC of its own.
    let (carrier, far) = if text(&joint["binding:host_id"]) == "alpha" { ("alpha", "beta") } else { ("beta", "alpha") };
    let ends = |d: &rpc::network::NetworkDocument| {
        d.networks.iter().flat_map(|n| &n.elsewhere).flat_map(|host| host.ends.clone()).collect::<Vec<_>>()
    };
    let mut known = Vec::new();
    for (host, name, other, its) in [(&mut alpha, "alpha", "192.0.2.2", &ports[1]), (&mut beta, "beta", "192.0.2.1", &ports[0])] {
        let wanted = vec![(other.to_string(), vec![mac(its)])];
        let document = host.document(|d| places(d) == wanted && d.routers.len() == 1 && ends(d).len() == 1).await;
        let part = &document.routers[0];
        assert_eq!((part.interfaces[0].mac.clone(), document.ports.len()), (mac(&joint), 1));
        assert_eq!((part.home.is_some(), part.gateway.is_some()), (name == far, name == carrier), "one of them leads out");
        known.push((name, part.interfaces[0].end.clone(), part.home.clone().map(|home| home.mac), ends(&document)));
    }
    let [(_, end_a, _, seen_by_a), (_, end_b, _, seen_by_b)] = known.as_slice() else { panic!("two hosts") };
    assert_eq!((seen_by_a, seen_by_b), (&vec![end_b.clone()], &vec![end_a.clone()]));
    let way = known.iter().find_map(|(name, _, home, ends)| (*name == far).then(|| (home.clone().unwrap(), ends[0].clone()))).unwrap();
    assert_eq!(way.0, way.1, "the way home is the home's own end");
    // A floating address is with its guest.
    let body = json!({"floating_network_id": public, "port_id": ports[0]["id"]});
    let floating = w.make("admin", "/floatingips", "floatingip", body).await;
    let held =
        |d: &rpc::network::NetworkDocument| d.routers.first().is_some_and(|r| r.floating.iter().any(|f| !f.coming) && r.gateway.is_some());
    let document = alpha.document(held).await;
    assert_eq!(document.networks.len(), 2, "with the network outside");
    alpha.applied(&[]).await;
    let floating_path = format!("/floatingips/{}", text(&floating["id"]));
    soon("the floating address", || async { (w.get("admin", &floating_path).await["floatingip"]["status"] == "ACTIVE").then_some(()) })
        .await;
    let generation = beta.last.generation;
    let document = beta.document(|d| d.generation > generation).await;
    assert!(document.routers[0].floating.is_empty() && document.routers[0].gateway.is_some() == (carrier == "beta"));

    // What a guest sends leaves under its address from where it comes to, before the address is there.
    let net = w.net.clone();
    w.core.store.write(move |tx| net.ports_visit_in(tx, "vm1", "h2")).await.unwrap();
    let document = beta.document(|d| d.routers.first().is_some_and(|r| r.floating.iter().any(|f| f.coming))).await;
    assert!(document.routers[0].gateway.is_some());

    // A port that moves is behind the other tunnel.
    let path = format!("/ports/{}", text(&ports[0]["id"]));
    assert_eq!(w.ask("admin", "PUT", &path, json!({"port": {"binding:host_id": "beta"}})).await.0, 200);
    beta.document(|d| d.ports.len() == 2 && held(d)).await;
    let left = usize::from(carrier == "alpha");
    alpha
        .document(|d| {
            d.ports.is_empty()
                && d.routers.iter().all(|r| r.floating.is_empty())
                && d.networks.iter().filter(|n| n.id == network).count() == left
        })
        .await;

    // A host that comes back at another address is reached there.
    drop(alpha);
    let _alpha = w.host_at("h1", "alpha", "192.0.2.9").await;
    if carrier == "alpha" {
        beta.document(|d| d.networks.iter().flat_map(|n| &n.elsewhere).any(|host| host.address.to_string() == "192.0.2.9")).await;
    }
    // A closed host hands its router on.
    let (net, id) = (w.net.clone(), if carrier == "alpha" { "h1" } else { "h2" });
    w.core.store.write(move |tx| net.host_close_in(tx, id, true)).await.unwrap();
    let joint = w.get("admin", &format!("/ports?device_id={router}&device_owner=network:router_interface")).await["ports"][0].clone();
    assert_eq!(text(&joint["binding:host_id"]), far);
}

/// Its tunnels' other ends follow, whichever host carries what.
pub async fn hosts_hear_of_vlans_as_of_physical_networks(w: World) {
    let mut alpha = w.host_at("h1", "alpha", "192.0.2.1").await;
    let mut beta = w.host_at("h2", "beta", "192.0.2.2").await;
    let vlan = async |id: u16, external: bool, cidr: &str| {
        let body = json!({
            "provider:network_type": "vlan", "provider:physical_network": "public", "provider:segmentation_id": id,
            "shared": true, "router:external": external,
        });
        let network = text(&w.make("admin", "/networks", "network", body).await["id"]);
        (w.subnet("admin", &network, cidr).await, network)
    };
    let (_, outside) = vlan(100, true, "203.0.113.0/24").await;
    let (subnet, inside) = vlan(200, false, "10.0.0.0/24").await;
    let gateway = json!({"external_gateway_info": {"network_id": outside}});
    let router = text(&w.make("member:p1", "/routers", "router", gateway).await["id"]);
    let path = format!("/routers/{router}/add_router_interface");
    // By a port: the subnet's owner is another.
    let interface = w.make("admin", "/ports", "port", json!({"network_id": inside, "fixed_ips": [{"subnet_id": subnet}]})).await;
    assert_eq!(w.ask("admin", "PUT", &path, json!({"port_id": interface["id"]})).await.0, 200);
    let mut ports = Vec::new();
    for (device, host) in [("vm1", "alpha"), ("vm2", "beta")] {
        let body = json!({"network_id": inside, "device_id": device, "device_owner": "compute:nova", "binding:host_id": host});
        ports.push(w.make("admin", "/ports", "port", body).await);
    }
    let body = json!({"floating_network_id": outside, "port_id": ports[1]["id"]});
    let floating = w.make("admin", "/floatingips", "floatingip", body).await;
    // Floating addresses are on the hosts of their guests, as they are on a flat network, and no host has the gateway's address for itself.
    let document = beta.document(|d| d.routers.iter().any(|r| r.floating.iter().any(|f| !f.coming) && r.gateway.is_some())).await;
    let of = |id: &str| document.networks.iter().find(|n| n.id == id).unwrap();
    let kind = |id| NetworkKind::Vlan { physical_network: "public".into(), id };
    assert_eq!((&of(&outside).kind, &of(&inside).kind, of(&inside).mtu), (&kind(100), &kind(200), 1500));
    assert_eq!(document.routers[0].floating[0].floating.to_string(), text(&floating["floating_ip_address"]));
    // Where the others are, for the router's part; its own parts are known by MACs of their own.
    let document = alpha.document(|d| d.networks.iter().any(|n| n.id == inside && !n.elsewhere.is_empty())).await;
    let there = &document.networks.iter().find(|n| n.id == inside).unwrap().elsewhere[0];
    assert_eq!(there.ports.iter().map(|p| p.mac.clone()).collect::<Vec<_>>(), [text(&ports[1]["mac_address"])]);
    assert_eq!((there.ends.len(), document.routers[0].floating.len()), (1, 0));
    assert_ne!(document.routers[0].interfaces[0].end, "");
}

pub async fn a_host_that_comes_back_at_another_address_is_reached_there(w: World) {
    let network = w.network("member:p1").await;
    w.subnet("member:p1", &network, "10.0.0.0/24").await;
    let alpha = w.host_at("h1", "alpha", "192.0.2.1").await;
    let mut beta = w.host_at("h2", "beta", "192.0.2.2").await;
    for name in ["alpha", "beta"] {
        let port = text(&w.make("member:p1", "/ports", "port", json!({"network_id": network})).await["id"]);
        assert_eq!(w.ask("admin", "PUT", &format!("/ports/{port}"), json!({"port": {"binding:host_id": name}})).await.0, 200);
    }
    let ends = |d: &rpc::network::NetworkDocument| {
        d.networks.iter().flat_map(|n| &n.elsewhere).map(|host| host.address.to_string()).collect::<Vec<_>>()
    };
    beta.document(|d| ends(d) == ["192.0.2.1"]).await;
    drop(alpha);
    let alpha = w.host_at("h1", "alpha", "192.0.2.9").await;
    beta.document(|d| ends(d) == ["192.0.2.9"]).await;
    assert_eq!(ends(&alpha.last), ["192.0.2.2"]);
    // One that nobody reaches any more has no tunnel.
    drop(alpha);
    let _alpha = w.host_at("h1", "alpha", "127.0.0.1").await;
    beta.document(|d| ends(d).is_empty()).await;
}
