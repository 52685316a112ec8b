//! Encrypted traffic between hosts: what networks get, and what hosts are told.

use rpc::message::HostInfo;
use rpc::network::Peer;
use serde_json::json;

use crate::world::{Host, World, text};

const ON: [(&str, &str); 1] = [("network.encryption", "true")];

fn host(n: u8, key: &str) -> HostInfo {
    HostInfo {
        id: format!("h{n}"),
        name: format!("host-{n}"),
        address: format!("192.0.2.{n}"),
        tunnel_key: key.into(),
        ..HostInfo::default()
    }
}

fn peers(host: &Host) -> Option<Vec<Peer>> {
    host.last.encryption.as_ref().map(|e| e.peers.clone())
}

fn peer(n: u8, key: &str) -> Peer {
    Peer { address: format!("192.0.2.{n}").parse().unwrap(), key: key.into() }
}

pub async fn networks_with_the_greatest_mtu_follow_the_setting(w: World) {
    let greatest = w.network("member:p1").await;
    let small = text(&w.make("member:p1", "/networks", "network", json!({"mtu": 1300})).await["id"]);
    let public = w.public().await;
    let mtus = async |w: &World| {
        let mut found = Vec::new();
        for id in [&greatest, &small, &public] {
            found.push(w.get("admin", &format!("/networks/{id}")).await["network"]["mtu"].as_i64().unwrap());
        }
        found
    };
    assert_eq!(mtus(&w).await, [1450, 1300, 1500]);
    let w = w.again(&ON).await;
    assert_eq!(mtus(&w).await, [1390, 1300, 1500]);
    assert_eq!(w.make("member:p1", "/networks", "network", json!({})).await["mtu"], json!(1390));
    let refused = w.ask("member:p1", "POST", "/networks", json!({"network": {"mtu": 1391}})).await;
    assert_eq!((refused.0, text(&refused.1["NeutronError"]["message"]).contains("maximum is 1390")), (400, true));
    // Tunnels between addresses of IPv6 need more.
    let six = HostInfo { address: "2001:db8::1".into(), ..host(6, "k") };
    let told = w.host_of(six).await;
    assert_eq!(w.make("member:p1", "/networks", "network", json!({})).await["mtu"], json!(1350));
    assert_eq!(told.last.encryption.as_ref().map(|e| (e.port, e.mtu, e.largest)), Some((51820, 1500, 1430)));
    drop(told);
    w.core.store.write(|tx| tx.execute("DELETE FROM network_host", &[])).await.unwrap();

    let w = w.again(&[]).await;
    assert_eq!(mtus(&w).await, [1450, 1300, 1500]);
    w.core.tasks.stop().await;
}

pub async fn hosts_hear_of_their_peers_keys(w: World) {
    let one = w.host_of(host(1, "key-1")).await;
    assert_eq!(peers(&one), None, "nothing is encrypted");
    let before = one.last.generation;
    drop(one);

    let w = w.again(&ON).await;
    let mut one = w.host_of(host(1, "key-1")).await;
    assert!(one.last.generation > before, "a host takes newer documents only");
    assert_eq!(peers(&one), Some(vec![]));
    let two = w.host_of(host(2, "key-2")).await;
    assert_eq!(peers(&two), Some(vec![peer(1, "key-1")]));
    one.document(|d| d.encryption.as_ref().is_some_and(|e| e.peers == [peer(2, "key-2")])).await;

    // One that cannot encrypt is nobody's peer, and has peers.
    let three = w.host_of(host(3, "")).await;
    assert_eq!(peers(&three).map(|p| p.len()), Some(2));
    drop((two, three));

    // It joined anew.
    let two = w.host_of(host(2, "key-9")).await;
    one.document(|d| d.encryption.as_ref().is_some_and(|e| e.peers == [peer(2, "key-9")])).await;
    drop(two);
    let net = w.net.clone();
    w.core.store.write(move |tx| net.host_forget_in(tx, "h2")).await.unwrap();
    one.document(|d| d.encryption.as_ref().is_some_and(|e| e.peers.is_empty())).await;

    // A start with the same settings changes nothing, one with others is told to all.
    let known = one.last.generation;
    drop(one);
    let w = w.again(&ON).await;
    let one = w.host_of(host(1, "key-1")).await;
    assert_eq!(one.last.generation, known);
    drop(one);
    let w = w.again(&[]).await;
    let one = w.host_of(host(1, "key-1")).await;
    assert!(peers(&one).is_none() && one.last.generation > known);
    w.core.tasks.stop().await;
}

/// With one key for two hosts whoever came last would get what is meant for the other.
pub async fn an_address_is_one_hosts(w: World) {
    let w = w.again(&ON).await;
    let mut one = w.host_of(host(1, "key-1")).await;
    let two = w.host_of(host(2, "key-2")).await;
    one.document(|d| d.encryption.as_ref().is_some_and(|e| e.peers == [peer(2, "key-2")])).await;
    let claims = |n: u8, address: u8| HostInfo { address: format!("192.0.2.{address}"), ..host(n, &format!("key-{n}")) };
    let mut three = w.host_of(claims(3, 2)).await;
    assert_eq!(peers(&three), Some(vec![peer(1, "key-1"), peer(2, "key-2")]), "it reaches the others, and is told whose the address is");
    let (net, info) = (w.net.clone(), claims(3, 2));
    let holder = w.core.store.read(move |tx| net.host_address_holder_in(tx, &info)).await.unwrap();
    assert_eq!(holder.as_deref(), Some("host-2"));

    // Neither a second attempt nor the first one's absence changes that.
    drop(two);
    let mut again = w.host_of(claims(3, 2)).await;
    assert_eq!(three.ended().await, "a newer session of this host has begun");
    let four = w.host_of(host(4, "key-4")).await;
    assert_eq!(peers(&four), Some(vec![peer(1, "key-1"), peer(2, "key-2")]));
    one.document(|d| d.encryption.as_ref().is_some_and(|e| e.peers == [peer(2, "key-2"), peer(4, "key-4")])).await;

    // It comes back elsewhere: the other one greets again and gets what it asked for.
    let two = w.host_of(claims(2, 9)).await;
    one.document(|d| d.encryption.as_ref().is_some_and(|e| e.peers == [peer(9, "key-2"), peer(4, "key-4")])).await;
    assert!(again.ended().await.contains("belongs to no other host"));
    let three = w.host_of(claims(3, 2)).await;
    assert_eq!(peers(&three), Some(vec![peer(1, "key-1"), peer(9, "key-2"), peer(4, "key-4")]));
    one.document(|d| d.encryption.as_ref().is_some_and(|e| e.peers == [peer(9, "key-2"), peer(2, "key-3"), peer(4, "key-4")])).await;

    // As when the holder is deleted.
    let mut five = w.host_of(claims(5, 4)).await;
    drop(four);
    let net = w.net.clone();
    w.core.store.write(move |tx| net.host_forget_in(tx, "h4")).await.unwrap();
    assert!(five.ended().await.contains("belongs to no other host"));
    let _five = w.host_of(claims(5, 4)).await;
    one.document(|d| d.encryption.as_ref().is_some_and(|e| e.peers.contains(&peer(4, "key-5")))).await;
    drop((two, three));
    w.core.tasks.stop().await;
}
