//! What travels, and what happens when it does not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base::{Kind, Timestamp};
use rpc::guest::{GuestBeat, GuestEvent, GuestStatus, Repair};
use rpc::message::{HostEvent, HostEventKind, HostInfo, Request, Response, Secret, ToController, ToHost};
use rpc::session::Said;

use crate::world::{TIMING, World, hello, soon, wire};

fn to_host() -> Vec<ToHost> {
    vec![
        ToHost::Instance(Box::new(serde_json::from_str(INSTANCE).unwrap())),
        ToHost::Network(Box::new(serde_json::from_str(NETWORK).unwrap())),
        ToHost::EventsStored { up_to: u64::MAX },
    ]
}

fn from_host() -> Vec<ToController> {
    let event = |number, kind| ToController::Event { number, event: HostEvent { at: Timestamp::now(), kind } };
    let id = || "i".to_string();
    vec![
        ToController::Host(HostInfo { id: "a".into(), vcpus: 7, cpu: serde_json::json!({"flags": ["é"]}), ..HostInfo::default() }),
        ToController::Status(serde_json::from_str(STATUS).unwrap()),
        ToController::Network { generation: 3, ports_up: vec!["p".into()], error: Some("x\0y".into()) },
        event(1, HostEventKind::InstanceDied { instance_id: id(), pid: -1, reason: "r".into(), will_recover: true }),
        event(2, HostEventKind::InstanceRecovered { instance_id: id(), pid: 2, attempt: 1 }),
        event(3, HostEventKind::InstanceRecoveryFailed { instance_id: id(), reason: String::new() }),
        event(4, HostEventKind::InstanceShutDown { instance_id: id() }),
        event(5, HostEventKind::InstancePanicked { instance_id: id(), cause: "pvpanic".into() }),
        event(6, HostEventKind::PasswordPosted { instance_id: id(), password: Secret("s".into()) }),
        event(7, HostEventKind::Guest { instance_id: id(), event: GuestEvent::Unhealthy { repair: Repair::Stop, reason: "r".into() } }),
        ToController::Guest(GuestStatus { instance_id: id(), beat: Some(GuestBeat { restart_seconds: 3 }) }),
    ]
}

#[tokio::test]
async fn every_message_arrives_as_it_was_sent() {
    let mut world = World::new().await;
    let mut host = world.host("a").await;
    for message in to_host() {
        world.hosts.send("a", message.clone()).await.unwrap();
        assert_eq!(soon(host.incoming.recv()).await, Some(message));
    }
    for message in from_host() {
        host.outgoing.send(message.clone()).await.unwrap();
        match (world.said().await, message) {
            (Said::Info(heard), ToController::Host(sent)) => assert_eq!(heard, sent),
            (Said::Message(heard), sent) => assert_eq!(heard, sent),
            (other, _) => panic!("{other:?}"),
        }
    }
    let questions = [
        (Request::ConsoleLog { instance_id: "i".into(), lines: Some(3) }, Ok(Response::Text("a\nb".into()))),
        (Request::Diagnostics { instance_id: "i".into() }, Ok(Response::Json(serde_json::json!({"a": [1, null]})))),
        (Request::CacheImage { sha256: "0".into(), format: "raw".into() }, Ok(Response::Done)),
        (Request::Diagnostics { instance_id: "none".into() }, Err("no such guest".to_string())),
    ];
    for (question, answer) in questions {
        let asked = tokio::spawn({
            let (hosts, question) = (world.hosts.clone(), question.clone());
            async move { hosts.ask("a", question).await }
        });
        let Some(ToHost::Request { id, request }) = soon(host.incoming.recv()).await else { panic!() };
        assert_eq!(request, question);
        host.outgoing.send(ToController::Response { id, response: answer.clone() }).await.unwrap();
        assert_eq!(soon(asked).await.unwrap().map_err(|e| e.message().to_string()), answer);
    }
}

#[tokio::test]
async fn a_large_message_arrives_and_one_that_is_too_large_harms_nobody() {
    // Writing so much in an unoptimized build takes this thread longer than the other tests' keep-alive allows.
    let mut world = World::with(grpc::Timing::default()).await;
    let mut host = world.host("a").await;
    let large = ToController::Network { generation: 1, ports_up: vec![], error: Some("x".repeat(10 * 1024 * 1024)) };
    host.outgoing.send(large.clone()).await.unwrap();
    assert!(matches!(world.said().await, Said::Message(heard) if heard == large));

    let too_large = "x".repeat(grpc::LIMIT);
    host.outgoing.send(ToController::Network { generation: 2, ports_up: vec![], error: Some(too_large.clone()) }).await.unwrap();
    let asked = tokio::spawn({
        let hosts = world.hosts.clone();
        async move { hosts.ask("a", Request::ConsoleLog { instance_id: "i".into(), lines: None }).await }
    });
    let Some(ToHost::Request { id, .. }) = soon(host.incoming.recv()).await else { panic!() };
    host.outgoing.send(ToController::Response { id, response: Ok(Response::Text(too_large)) }).await.unwrap();
    let error = soon(asked).await.unwrap().unwrap_err();
    assert!(error.message().contains("larger"), "{error}");
    let next = ToController::Network { generation: 3, ports_up: vec![], error: None };
    host.outgoing.send(next.clone()).await.unwrap();
    assert!(matches!(world.said().await, Said::Message(heard) if heard == next), "the session goes on");
}

/// Sends until nothing more is taken for a while; how many were.
async fn fill<F: Future<Output = bool>>(mut send: impl FnMut() -> F) -> usize {
    let mut sent = 0;
    while let Ok(true) = tokio::time::timeout(Duration::from_secs(1), send()).await {
        sent += 1;
        assert!(sent < 20_000, "nothing holds the sender");
    }
    sent
}

#[tokio::test]
async fn a_slow_reader_holds_its_sender() {
    const SIZE: usize = 16 * 1024;
    let mut world = World::new().await;
    let mut host = world.host("a").await;

    // The host reads nothing: both backlogs, the window and what sockets hold, then the controller waits.
    let document = ToHost::Refused { reason: "x".repeat(SIZE) };
    let sent = fill(|| async { world.hosts.send("a", document.clone()).await.is_ok() }).await;
    assert!(sent * SIZE < 16 * 1024 * 1024, "{sent} messages under way");
    for _ in 0..sent {
        assert_eq!(soon(host.incoming.recv()).await.as_ref(), Some(&document));
    }

    // The controller hears nothing.
    let report = ToController::Network { generation: 1, ports_up: vec![], error: Some("x".repeat(SIZE)) };
    let sent = fill(|| async { host.outgoing.send(report.clone()).await.is_ok() }).await;
    assert!(sent * SIZE < 48 * 1024 * 1024, "{sent} messages under way");
    // Keep-alive is answered all the while, and nothing was lost.
    for _ in 0..sent {
        assert!(matches!(world.said().await, Said::Message(heard) if heard == report));
    }
    assert!(world.hosts.is_connected("a"));
}

#[tokio::test]
async fn both_ends_notice_a_dead_wire() {
    let mut world = World::new().await;
    let (address, cut) = wire(world.address).await;
    let mut host = world.host_at(&format!("https://{address}"), "a").await;
    // Idle for longer than keep-alive allows silence: it holds.
    let idle = tokio::time::timeout((TIMING.keep_alive + TIMING.keep_alive_answer) * 3, host.incoming.recv()).await;
    assert!(idle.is_err(), "{idle:?}");
    let asked = tokio::spawn({
        let hosts = world.hosts.clone();
        async move { hosts.ask("a", Request::Diagnostics { instance_id: "i".into() }).await }
    });
    assert!(matches!(soon(host.incoming.recv()).await, Some(ToHost::Request { .. })));

    cut.send_replace(true);
    let since = Instant::now();
    assert_eq!(soon(host.incoming.recv()).await, None);
    assert!(matches!(world.said().await, Said::Disconnected));
    assert_eq!(soon(asked).await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    let took = since.elapsed();
    // Generous to a busy machine; without keep-alive this would take minutes.
    assert!(took < Duration::from_secs(5), "{took:?}");
    soon(host.outgoing.closed()).await;
}

#[tokio::test]
async fn a_host_that_leaves_is_missed_at_once_and_may_return() {
    let mut world = World::new().await;
    drop(world.host("a").await);
    assert!(matches!(world.said().await, Said::Disconnected));
    // A newer session replaces the older over the wire too.
    let mut old = world.host("a").await;
    let mut new = grpc::dial_with(&world.url(), &world.client("a"), TIMING).await.unwrap();
    new.outgoing.send(hello("a")).await.unwrap();
    assert!(matches!(soon(old.incoming.recv()).await, Some(ToHost::Refused { .. })));
    assert_eq!(soon(old.incoming.recv()).await, None);
    assert_eq!(soon(new.incoming.recv()).await, Some(ToHost::Welcome { version: *rpc::message::VERSIONS.end() }));
}

#[tokio::test]
async fn a_stop_ends_every_session() {
    let mut world = World::new().await;
    let mut host = world.host("a").await;
    world.stop.send_replace(true);
    assert_eq!(soon(host.incoming.recv()).await, None);
    soon(&mut world.served).await.unwrap().unwrap();
    let error = soon(grpc::dial_with(&world.url(), &world.client("a"), TIMING)).await.err().expect("nobody serves");
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn someone_who_says_nothing_delays_nobody() {
    let mut world = World::new().await;
    let mut silent = BTreeMap::new();
    for n in 0..20 {
        silent.insert(n, tokio::net::TcpStream::connect(world.address).await.unwrap());
    }
    world.host("a").await;
    drop(silent);
}

const INSTANCE: &str = r#"{
    "id": "i", "generation": 9, "name": "büro", "project_id": "p", "power": "running", "boot": 2, "restart": "soft",
    "shutdown_seconds": 60, "vcpus": 2, "memory_mib": 512,
    "machine": {"kind": "q35", "firmware": "uefi", "cpu_model": "host", "watchdog": "reset"},
    "disks": [
        {"name": "vda", "bytes": 1073741824, "source": {"image": {"sha256": "00ff", "format": "qcow2"}}, "boot_index": 0, "serial": "s"},
        {"name": "vdb", "bytes": 1, "source": "blank", "boot_index": null, "serial": ""}
    ],
    "nics": [{"port_id": "n", "mac": "fa:16:3e:00:00:01", "mtu": 1450, "model": "virtio"}],
    "metadata": {
        "meta_data": {"uuid": "i", "keys": []}, "network_data": {"links": []}, "vendor_data": null,
        "user_data_base64": "aGk=", "ec2": {"ami-id": "x"}, "config_drive": true
    },
    "recovery": {"auto": true, "priority": 10, "attempts": 5, "window_seconds": 300}
}"#;

const STATUS: &str = r#"{
    "id": "i", "generation": 9, "boot": 2, "state": "running", "pid": 4711, "started_at": null, "error": "late"
}"#;

const NETWORK: &str = r#"{
    "generation": 12,
    "networks": [{
        "id": "n", "mtu": 1450, "kind": {"overlay": {"vni": 77}}, "dns_domain": "cloud.",
        "subnets": [{
            "id": "s", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1", "dhcp": true, "dns": ["9.9.9.9"],
            "host_routes": [{"destination": "10.1.0.0/16", "nexthop": "10.0.0.9"}], "ipv6": null
        }, {
            "id": "s6", "cidr": "fd00::/64", "gateway": null, "dhcp": true, "dns": [], "host_routes": [], "ipv6": "slaac"
        }],
        "service_port": {"port_id": "d", "mac": "fa:16:3e:00:00:02", "addresses": ["10.0.0.2/24"]},
        "leases": [{
            "port_id": "p", "mac": "fa:16:3e:00:00:01", "addresses": ["10.0.0.5"], "hostname": "h",
            "options": [{"name": "mtu", "value": "1400", "ip_version": 4}]
        }]
    }, {
        "id": "x", "mtu": 1500, "kind": {"provider": {"physical_network": "public", "host_addresses": ["192.0.2.1/24"]}},
        "dns_domain": "", "subnets": [], "service_port": null, "leases": []
    }, {
        "id": "v", "mtu": 1500, "kind": {"vlan": {"physical_network": "public", "id": 100}},
        "dns_domain": "", "subnets": [], "service_port": null, "leases": []
    }],
    "ports": [{
        "id": "p", "network_id": "n", "instance_id": "i", "mac": "fa:16:3e:00:00:01", "admin_up": true, "addresses": ["10.0.0.5"],
        "allowed_pairs": [{"mac": "fa:16:3e:00:00:01", "cidr": "10.0.0.0/28"}], "port_security": true, "security_groups": ["g"]
    }],
    "routers": [{
        "id": "r", "admin_up": true,
        "interfaces": [{"port_id": "a", "network_id": "n", "mac": "fa:16:3e:00:00:03", "addresses": ["10.0.0.1/24"], "mtu": 1450}],
        "gateway": {
            "port_id": "b", "network_id": "x", "mac": "fa:16:3e:00:00:04", "addresses": ["192.0.2.9/24"], "mtu": 1500,
            "nexthops": ["192.0.2.1"], "snat": true
        },
        "floating": [{"id": "f", "floating": "192.0.2.50", "fixed": "10.0.0.5"}],
        "routes": [{"destination": "::/0", "nexthop": "fd00::1"}]
    }],
    "security_groups": [{
        "id": "g", "stateful": true, "members": ["10.0.0.5/32"],
        "rules": [
            {"id": "1", "ingress": true, "ip_version": 4, "protocol": 6, "port_min": 22, "port_max": 22, "remote": {"cidr": "0.0.0.0/0"}},
            {"id": "2", "ingress": false, "ip_version": 6, "protocol": null, "port_min": null, "port_max": null, "remote": "any"},
            {"id": "3", "ingress": true, "ip_version": 4, "protocol": null, "port_min": null, "port_max": null, "remote": {"group": "g"}}
        ]
    }]
}"#;
