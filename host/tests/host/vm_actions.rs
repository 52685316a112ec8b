//! Real guests under QEMU: what is done to a running one.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use rpc::instance::{DiskSource, InstanceState, Metadata, Nic, Power, Snapshot};
use rpc::message::{Request, Response, Secret, ToController, ToHost};
use sha2::{Digest, Sha256};

use crate::common::{Bench, Heard, next, vm};

fn metadata(script: &str) -> Metadata {
    let id = base::id::uuid();
    Metadata {
        meta_data: serde_json::json!({"uuid": id, "hostname": "bench", "name": "bench", "meta": {}}),
        network_data: serde_json::json!({"links": [], "networks": [], "services": []}),
        vendor_data: serde_json::json!({}),
        user_data_base64: Some(base64::engine::general_purpose::STANDARD.encode(script)),
        config_drive: true,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_suspends_goes_on_and_sets_passwords() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let mut spec = vm();
    spec.metadata = metadata("#!/bin/sh\n(i=0; while :; do i=$((i+1)); echo tick-$i. >/dev/console; sleep 0.5; done) &\n");
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    bench.console_shows(&spec, "bench is up", 1).await;
    bench.console_shows(&spec, "tick-3.", 1).await;
    let password = Secret("new one".into());
    let set = bench.ask(Request::SetPassword { instance_id: spec.id.clone(), user: "cirros".into(), password }).await.unwrap();
    assert!(matches!(set, Response::Done), "{set:?}");

    let asked = Instant::now();
    let suspended = next(&spec, |s| s.power = Power::Suspended);
    bench.want(&suspended).await;
    assert_eq!(bench.state(&suspended, InstanceState::Suspended).await.pid, None);
    println!("suspended after {:?}", asked.elapsed());
    let memory = bench.directory(&spec).join("memory.img");
    println!("{} MiB of memory", std::fs::metadata(&memory).unwrap().len() >> 20);
    bench.no_leaks().await;
    bench.stop().await;
    bench.start().await;
    bench.state(&suspended, InstanceState::Suspended).await;
    let last = bench.console(&spec).await.matches("tick-").count();
    let asked = Instant::now();
    let running = next(&suspended, |s| s.power = Power::Running);
    bench.want(&running).await;
    bench.state(&running, InstanceState::Running).await;
    println!("running again after {:?}", asked.elapsed());
    bench.console_shows(&spec, &format!("tick-{}.", last + 3), 1).await;
    assert_eq!(bench.console(&spec).await.matches("bench is up").count(), 1, "it went on and did not boot");
    assert!(!memory.exists());
    bench.no_leaks().await;

    // Memory that cannot be read is an error, and a hard reboot helps.
    let suspended = next(&running, |s| s.power = Power::Suspended);
    bench.want(&suspended).await;
    bench.state(&suspended, InstanceState::Suspended).await;
    std::fs::write(&memory, b"rubbish").unwrap();
    let running = next(&suspended, |s| s.power = Power::Running);
    bench.want(&running).await;
    let failed = bench.state(&running, InstanceState::Failed).await;
    println!("{:?}", failed.error);
    let reset = next(&running, |s| s.boot = 1);
    bench.want(&reset).await;
    bench.state(&reset, InstanceState::Running).await;
    bench.console_shows(&spec, "bench is up", 2).await;
    assert!(bench.heard.borrow().events.is_empty(), "nobody died");
    bench.clean(&[&spec]).await;
}

/// Reads a copy as the controller does.
async fn fetch(bench: &Bench, instance: &str, snapshot: &str) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let request = Request::ReadSnapshot {
            instance_id: instance.into(),
            snapshot_id: snapshot.into(),
            offset: all.len() as u64,
            length: u32::MAX,
        };
        let Response::Text(piece) = bench.ask(request).await.unwrap() else { panic!("no piece") };
        if piece.is_empty() {
            return all;
        }
        all.extend(base64::engine::general_purpose::STANDARD.decode(piece).unwrap());
    }
}

fn virtual_size(disk: &Path) -> u64 {
    let out = std::process::Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(disk).output().unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    facts["virtual-size"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_disks_are_copied_replaced_and_gone_back_to() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let mut spec = vm();
    spec.shutdown_seconds = 0;
    spec.metadata =
        metadata("#!/bin/sh\nif [ -e /home/cirros/kept ]; then echo it-is-kept; else echo it-is-new; fi\ntouch /home/cirros/kept; sync\n");
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    bench.console_shows(&spec, "it-is-new", 1).await;
    bench.console_shows(&spec, "bench is up", 1).await;
    let one = Snapshot { id: base::id::uuid(), disk: "root".into() };
    let asked = Instant::now();
    let wanted = next(&spec, |s| s.snapshots = vec![one.clone()]);
    bench.want(&wanted).await;
    let status = bench.state(&wanted, InstanceState::Running).await;
    assert_eq!(status.snapshots[0].error, None);
    println!("copy of {} MiB after {:?}", status.snapshots[0].bytes >> 20, asked.elapsed());
    let data = fetch(&bench, &spec.id, &one.id).await;
    assert_eq!(data.len() as u64, status.snapshots[0].bytes);
    let hash: String = Sha256::digest(&data).iter().map(|b| format!("{b:02x}")).collect();
    std::fs::write(bench.home.path().join("images").join(&hash), &data).unwrap();
    bench.no_leaks().await;

    // Off: copied from outside; then a larger copy, and back.
    let two = Snapshot { id: base::id::uuid(), disk: "root".into() };
    let off = next(&wanted, |s| (s.power, s.snapshots) = (Power::Stopped, vec![two.clone()]));
    bench.want(&off).await;
    let status = bench.state(&off, InstanceState::Stopped).await;
    assert_eq!(status.snapshots.iter().map(|s| (s.id.as_str(), s.error.clone())).collect::<Vec<_>>(), [(two.id.as_str(), None)]);
    let files = |name: &str| bench.directory(&spec).join(name);
    assert!(!files(&format!("snapshot-{}.img", one.id)).exists());
    let larger = next(&off, |s| {
        s.kept = s.disks.clone();
        (s.disks[0].revision, s.disks[0].copy_of, s.disks[0].bytes) = (1, Some("root".into()), 2 << 30);
        (s.power, s.boot) = (Power::Running, 1);
        s.snapshots.clear();
        // Another instance for the guest, which runs its script again.
        s.metadata.meta_data["uuid"] = base::id::uuid().into();
    });
    bench.want(&larger).await;
    bench.state(&larger, InstanceState::Running).await;
    bench.console_shows(&spec, "it-is-kept", 1).await;
    assert_eq!((virtual_size(&files("root-1.qcow2")), virtual_size(&files("root.qcow2"))), (2 << 30, 1 << 30));
    bench.no_leaks().await;
    let back = next(&larger, |s| (s.disks, s.kept, s.power) = (spec.disks.clone(), vec![], Power::Stopped));
    bench.want(&back).await;
    bench.state(&back, InstanceState::Stopped).await;
    bench.no_leaks().await;
    assert!(!files("root-1.qcow2").exists() && files("root.qcow2").exists());

    // A disk of another image, here the copy, in place of the old one.
    let rebuilt = next(&back, |s| {
        s.disks[0].source = DiskSource::Image { sha256: hash.clone(), format: "qcow2".into() };
        (s.disks[0].revision, s.power, s.boot) = (2, Power::Running, 2);
        s.metadata.meta_data["uuid"] = base::id::uuid().into();
    });
    bench.want(&rebuilt).await;
    bench.state(&rebuilt, InstanceState::Running).await;
    bench.console_shows(&spec, "it-is-kept", 2).await;
    assert!(!files("root.qcow2").exists());
    bench.clean(&[&spec]).await;
}

#[test]
fn vm_cards_are_plugged_in_and_out() {
    // As in `vm.rs`: a network namespace that ends with this thread.
    let work = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(plugging());
    });
    work.join().unwrap();
}

async fn plugging() {
    let mut bench = Bench::qemu();
    bench.real_wire = Some(host::switch::Switch::start(bench.home.path().to_path_buf(), Default::default()).unwrap());
    bench.start().await;
    let network = base::id::uuid();
    let mut spec = vm();
    spec.metadata = metadata("#!/bin/sh\n(while :; do echo cards: $(ls /sys/class/net | grep -c eth). >/dev/console; sleep 0.5; done) &\n");
    let nic = |n: u8| Nic { port_id: base::id::uuid(), mac: format!("52:54:00:12:34:0{n}"), mtu: 1450, model: "virtio".into() };
    let nics = [nic(1), nic(2)];
    let port = |nic: &Nic| rpc::network::Port {
        id: nic.port_id.clone(),
        network_id: network.clone(),
        instance_id: spec.id.clone(),
        mac: nic.mac.clone(),
        admin_up: true,
        addresses: vec![],
        allowed_pairs: vec![],
        port_security: false,
        limits: Default::default(),
        security_groups: vec![],
    };
    let mut document = rpc::network::NetworkDocument {
        generation: 1,
        networks: vec![rpc::network::Network {
            id: network.clone(),
            mtu: 1450,
            kind: rpc::network::NetworkKind::Overlay { vni: 7 },
            subnets: vec![],
            service_port: None,
            elsewhere: Vec::new(),
            dns_domain: String::new(),
            leases: vec![],
        }],
        ports: nics.iter().map(port).collect(),
        ..Default::default()
    };
    bench.hosts.send(&bench.host_id(), ToHost::Network(Box::new(document.clone()))).await.unwrap();
    bench.want(&spec).await;
    let pid = bench.state(&spec, InstanceState::Running).await.pid;
    bench.console_shows(&spec, "is up", 1).await;
    bench.console_shows(&spec, "cards: 0.", 1).await;
    let with = next(&spec, |s| s.nics = nics.to_vec());
    bench.want(&with).await;
    bench.state(&with, InstanceState::Running).await;
    bench.console_shows(&spec, "cards: 2.", 1).await;
    let up = |h: &Heard| matches!(&h.network, Some(ToController::Network { ports_up, error: None, .. }) if ports_up.len() == 2);
    bench.until("ports up", Duration::from_secs(10), up).await;

    // Devices that were plugged in are where they were after a suspend.
    let suspended = next(&with, |s| s.power = Power::Suspended);
    bench.want(&suspended).await;
    bench.state(&suspended, InstanceState::Suspended).await;
    let running = next(&suspended, |s| s.power = Power::Running);
    bench.want(&running).await;
    let second = bench.state(&running, InstanceState::Running).await.pid;
    assert_ne!(second, pid);

    let asked = Instant::now();
    let one = next(&running, |s| drop(s.nics.remove(0)));
    bench.want(&one).await;
    assert_eq!(bench.state(&one, InstanceState::Running).await.pid, second);
    println!("a card gone after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(7), "the guest let go of it");
    bench.console_shows(&spec, "cards: 1.", 1).await;
    // The same card once more: its name and slot are free again.
    let again = next(&one, |s| s.nics = nics.to_vec());
    bench.want(&again).await;
    assert_eq!(bench.state(&again, InstanceState::Running).await.error, None);

    let gone = next(&again, |s| s.power = Power::Absent);
    bench.want(&gone).await;
    bench.state(&gone, InstanceState::Absent).await;
    (document.generation, document.networks, document.ports) = (2, vec![], vec![]);
    bench.hosts.send(&bench.host_id(), ToHost::Network(Box::new(document))).await.unwrap();
    let gone = |h: &Heard| matches!(&h.network, Some(ToController::Network { generation: 2, .. }));
    bench.until("network gone", Duration::from_secs(10), gone).await;
    bench.clean(&[]).await;
}
