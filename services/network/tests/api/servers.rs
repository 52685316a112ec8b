//! What compute asks: plan, make, bind, release.

use base::{Context, Kind};
use network::{NicPlan, NicWanted, ServerPorts};
use serde_json::json;

use crate::world::{World, caller, text};

fn server() -> ServerPorts {
    ServerPorts { server_id: "vm1".into(), project_id: "p1".into(), hostname: "web".into(), availability_zone: "nova".into() }
}

async fn make(w: &World, plan: &[NicPlan]) -> base::Result<Vec<String>> {
    let (net, plan) = (w.net.clone(), plan.to_vec());
    w.core.store.write(move |tx| net.ports_create_in(tx, &caller("member:p1"), &server(), &plan)).await
}

async fn plan(w: &World, ctx: &Context, wanted: &[NicWanted]) -> base::Result<Vec<NicPlan>> {
    w.net.nics_plan(ctx, wanted, &[]).await
}

fn on(id: &str) -> NicWanted {
    NicWanted::Network { id: id.into(), fixed_ip: None, tag: None }
}

pub async fn a_servers_ports_from_plan_to_release(w: World) {
    let mut host = w.host("h1", "alpha").await;
    let network = w.network("member:p1").await;
    w.subnet("member:p1", &network, "10.0.0.0/24").await;
    let own = text(&w.port("member:p1", &network).await["id"]);
    let ctx = caller("member:p1");
    let wanted = [
        NicWanted::Network { id: network.clone(), fixed_ip: Some("10.0.0.40".parse().unwrap()), tag: Some("front".into()) },
        NicWanted::Port { id: own.clone(), tag: None },
    ];
    let nics = plan(&w, &ctx, &wanted).await.unwrap();
    let ids = make(&w, &nics).await.unwrap();
    assert_eq!((ids.len(), &ids[1]), (2, &own));
    assert_eq!(make(&w, &nics).await.unwrap(), ids, "asked again, the same");
    let net = w.net.clone();
    w.core.store.write(move |tx| net.ports_bind_in(tx, "vm1", "h1", "alpha", "nova")).await.unwrap();
    let document = host.document(|d| d.ports.len() == 2).await;
    assert!(document.ports.iter().all(|p| p.instance_id == "vm1"));
    assert_eq!(document.networks[0].leases.iter().filter(|l| l.hostname == "web").count(), 2);
    host.applied(&[&ids[0]]).await;
    let infos = w.net.nics(&["vm1".into(), "vm2".into()]).await.unwrap();
    assert_eq!(infos.len(), 1);
    let nic = &infos["vm1"][0];
    assert_eq!((nic.fixed[0].address.to_string(), nic.mtu, nic.tag.as_deref()), ("10.0.0.40".into(), 1450, Some("front")));
    assert_eq!((nic.fixed[0].gateway.unwrap().to_string(), nic.security_groups[0].1.as_str()), ("10.0.0.1".into(), "default"));
    assert_eq!(w.net.security_groups_of("vm1").await.unwrap().len(), 1);
    let taken = plan(&w, &ctx, &[NicWanted::Port { id: own.clone(), tag: None }]).await.unwrap_err();
    assert_eq!(taken.kind(), Kind::Conflict);

    let net = w.net.clone();
    w.core.store.write(move |tx| net.ports_release_in(tx, "vm1")).await.unwrap();
    host.document(|d| d.ports.is_empty()).await;
    assert_eq!(w.ask("member:p1", "GET", &format!("/ports/{}", ids[0]), serde_json::Value::Null).await.0, 404);
    let back = w.get("admin", &format!("/ports/{own}")).await["port"].clone();
    assert_eq!((&back["device_id"], &back["binding:host_id"], &back["status"]), (&json!(""), &json!(""), &json!("DOWN")));
}

pub async fn plans_that_cannot_be(w: World) {
    let ctx = caller("member:p1");
    assert!(plan(&w, &ctx, &[NicWanted::Auto]).await.unwrap().is_empty(), "no network, no interface");
    let network = w.network("member:p1").await;
    let kind = |result: base::Result<Vec<NicPlan>>| result.unwrap_err().kind();
    assert_eq!(kind(plan(&w, &ctx, &[on(&network)]).await), Kind::Invalid, "no subnet");
    w.subnet("member:p1", &network, "10.0.0.0/24").await;
    assert_eq!(plan(&w, &ctx, &[NicWanted::Auto]).await.unwrap()[0].network_id, network);
    assert_eq!(kind(plan(&w, &caller("member:p2"), &[on(&network)]).await), Kind::NotFound);
    let at = |address: &str| NicWanted::Network { id: network.clone(), fixed_ip: Some(address.parse().unwrap()), tag: None };
    assert_eq!(kind(plan(&w, &ctx, &[at("10.9.0.1")]).await), Kind::Invalid);
    let port = w.port("member:p1", &network).await;
    assert_eq!(kind(plan(&w, &ctx, &[at(&text(&port["fixed_ips"][0]["ip_address"]))]).await), Kind::Invalid);
    let public = w.public().await;
    assert_eq!(kind(plan(&w, &ctx, &[on(&public)]).await), Kind::Forbidden);
    assert_eq!(kind(w.net.nics_plan(&ctx, &[on(&network)], &["nope".into()]).await), Kind::NotFound);
    let second = w.network("member:p1").await;
    w.subnet("member:p1", &second, "10.1.0.0/24").await;
    assert_eq!(kind(plan(&w, &ctx, &[NicWanted::Auto]).await), Kind::Conflict);
    w.ask("admin", "PUT", "/quotas/p1", json!({"quota": {"port": 1}})).await;
    assert_eq!(kind(plan(&w, &ctx, &[on(&network)]).await), Kind::QuotaExceeded);
}

pub async fn groups_of_a_running_server(w: World) {
    let network = w.network("member:p1").await;
    w.subnet("member:p1", &network, "10.0.0.0/24").await;
    w.make("member:p1", "/security-groups", "security_group", json!({"name": "web"})).await;
    let nics = w.net.nics_plan(&caller("member:p1"), &[on(&network)], &["web".into()]).await.unwrap();
    make(&w, &nics).await.unwrap();
    let names = || async { w.net.security_groups_of("vm1").await.unwrap().into_iter().map(|(_, name)| name).collect::<Vec<_>>() };
    assert_eq!(names().await, ["web"]);
    w.get("member:p1", "/security-groups").await;
    let change = |group: &'static str, adding: bool| {
        let net = w.net.clone();
        w.core.store.write(move |tx| net.security_group_change_in(tx, &caller("member:p1"), "vm1", "p1", group, adding))
    };
    change("default", true).await.unwrap();
    change("web", false).await.unwrap();
    assert_eq!(names().await, ["default"]);
    assert_eq!(change("nope", true).await.unwrap_err().kind(), Kind::NotFound);
}

/// Whoever writes the id of another project's server on a port does not make it that server's.
pub async fn a_strangers_port_is_no_servers(w: World) {
    w.host("h1", "alpha").await;
    w.net.devices_owned(Box::new(|_, device| Ok((device == "vm1").then(|| "p1".to_string()))));
    let (own, theirs) = (w.network("member:p1").await, w.network("member:p2").await);
    w.subnet("member:p1", &own, "10.0.0.0/24").await;
    w.subnet("member:p2", &theirs, "10.1.0.0/24").await;
    let body = json!({"port": {"network_id": theirs, "device_id": "vm1"}});
    assert_eq!(w.refused("member:p2", "POST", "/ports", body, 409).await, "DeviceIDNotOwnedByTenant");
    let stranger = text(&w.port("member:p2", &theirs).await["id"]);
    let (path, to) = (format!("/ports/{stranger}"), json!({"port": {"device_id": "vm1"}}));
    assert_eq!(w.refused("member:p2", "PUT", &path, to.clone(), 409).await, "DeviceIDNotOwnedByTenant");
    let other = json!({"port": {"device_id": "vm2"}});
    assert_eq!(w.ask("member:p2", "PUT", &path, other.clone()).await.0, 200, "a device that nobody knows");
    // Even where it says so it does not count.
    assert_eq!(w.ask("admin", "PUT", &path, to.clone()).await.0, 200);
    let ours = w.make("member:p1", "/ports", "port", json!({"network_id": own, "device_id": "vm1"})).await;
    let ours = text(&ours["id"]);
    let counted = async || {
        let net = w.net.clone();
        w.core.store.write(move |tx| net.ports_bind_in(tx, "vm1", "h1", "alpha", "nova")).await.unwrap();
        let nics = w.net.nics(&["vm1".into()]).await.unwrap().remove("vm1").unwrap_or_default();
        let mut ids: Vec<String> = nics.into_iter().map(|nic| nic.port_id).collect();
        ids.sort();
        ids
    };
    assert_eq!(counted().await, [ours.as_str()]);
    let host = async |id: &str| w.get("admin", &format!("/ports/{id}")).await["port"]["binding:host_id"].clone();
    assert_eq!((host(&ours).await, host(&stranger).await), (json!("alpha"), json!("")));
    // What compute took for the server is the server's, whose ever it is; and no longer when it was given to another.
    let taken = text(&w.port("member:p2", &theirs).await["id"]);
    let nics = plan(&w, &caller("admin:p1"), &[NicWanted::Port { id: taken.clone(), tag: None }]).await.unwrap();
    make(&w, &nics).await.unwrap();
    let mut both = vec![ours.clone(), taken.clone()];
    both.sort();
    assert_eq!(counted().await, both);
    let path = format!("/ports/{taken}");
    assert_eq!(w.ask("member:p2", "PUT", &path, other).await.0, 200);
    assert_eq!(w.ask("admin", "PUT", &path, to).await.0, 200);
    assert_eq!(counted().await, [ours.as_str()]);
}
