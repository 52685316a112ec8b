//! Real guests under QEMU: boot, heal, adopt, stop, remove.

use std::time::{Duration, Instant};

use base::Timestamp;
use rpc::instance::{InstanceState, Power};
use rpc::message::HostEventKind;

use crate::common::{Bench, Heard, blank, guest_image, next, vm};

#[tokio::test(flavor = "multi_thread")]
async fn vm_boots_and_is_removed_without_trace() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = vm();
    let asked = Instant::now();
    bench.want(&spec).await;
    let status = bench.state(&spec, InstanceState::Running).await;
    println!("first start, image not cached: {:?}", asked.elapsed());
    let pid = status.pid.unwrap();
    // Unprivileged, behind a system call filter, in its own control group.
    let about = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| about.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_string();
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2".into(), "1".into()));
    if nix::unistd::geteuid().is_root() {
        assert!(!field("Uid:").split_whitespace().any(|u| u == "0"), "{about}");
        assert_eq!(field("CapEff:"), "0000000000000000");
        assert!(std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().contains(&format!("sturnus/{}", spec.id)));
    }
    bench.console_shows(&spec, "is up", 1).await;
    println!("up after {:?}", asked.elapsed());
    bench.no_leaks().await;

    let gone = next(&spec, |s| s.power = Power::Absent);
    bench.want(&gone).await;
    bench.state(&gone, InstanceState::Absent).await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists());
    assert!(!bench.directory(&spec).exists());
    assert_eq!(std::fs::read_dir(bench.home.path().join("host/instances")).unwrap().count(), 0);
    for group in ["cpu", "memory", "pids", ""] {
        assert!(!std::path::Path::new("/sys/fs/cgroup").join(group).join("sturnus").join(&spec.id).exists());
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_killed_is_noticed_and_running_again() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = vm();
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await.pid.unwrap();
    // Quiet: the journal is written too.
    bench.no_leaks().await;
    let killed = Timestamp::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).unwrap();
    let (died, event) = bench.event("died", |k| matches!(k, HostEventKind::InstanceDied { .. })).await;
    let HostEventKind::InstanceDied { pid, reason, will_recover, .. } = event else { unreachable!() };
    assert_eq!((pid, will_recover), (first, true));
    assert!(reason.contains("SIGKILL"), "{reason}");
    let (recovered, event) = bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { .. })).await;
    assert!(matches!(event, HostEventKind::InstanceRecovered { attempt: 1, .. }));
    println!("noticed after {:?}, running again after {:?}", died.since(killed), recovered.since(killed));
    assert!(recovered.since(killed) < Duration::from_secs(10));
    let again = bench.state(&spec, InstanceState::Running).await.pid.unwrap();
    assert_ne!(again, first);
    bench.clean(&[&spec]).await;
}

fn user_data(script: &str) -> Option<String> {
    use base64::Engine;
    Some(base64::engine::general_purpose::STANDARD.encode(script))
}

pub fn metadata(script: &str) -> rpc::instance::Metadata {
    let id = base::id::uuid();
    rpc::instance::Metadata {
        meta_data: serde_json::json!({"uuid": id, "hostname": "bench", "name": "bench", "meta": {"role": "test"}}),
        network_data: serde_json::json!({"links": [], "networks": [], "services": []}),
        vendor_data: serde_json::json!({}),
        user_data_base64: user_data(script),
        config_drive: true,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_keeps_its_disk_through_death_and_reads_its_config_drive() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let mut spec = vm();
    // At the first boot a file is written and synced; each later boot tells of it. The script runs once an instance id.
    spec.metadata = metadata("#!/bin/sh\necho 'user-data ran'\necho kept >/home/cirros/kept; sync\n");
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await;
    bench.console_shows(&spec, "user-data ran", 1).await;
    bench.console_shows(&spec, "bench is up", 1).await;
    let log = bench.console(&spec).await;
    assert!(log.contains("datasource"), "{log}");
    // The network of this guest is none, so only a config drive can have told it.
    let log = log.rsplit("guest:").next().unwrap().to_string();
    assert!(log.to_lowercase().contains("config"), "{log}");

    // Agent away, guest killed, agent back: found dead, started again with the same disk.
    bench.stop().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first.pid.unwrap()), nix::sys::signal::Signal::SIGKILL).unwrap();
    bench.start().await;
    bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { .. })).await;
    bench.console_shows(&spec, "bench is up", 2).await;
    assert_eq!(bench.console(&spec).await.matches("user-data ran").count(), 1, "the instance id was remembered on the disk");
    let second = bench.state(&spec, InstanceState::Running).await;

    // Agent away and back: the same process.
    bench.stop().await;
    bench.start().await;
    assert_eq!(bench.state(&spec, InstanceState::Running).await.pid, second.pid);

    // Stop by the power button, then start.
    let asked = Instant::now();
    let stopped = next(&spec, |s| s.power = Power::Stopped);
    bench.want(&stopped).await;
    bench.state(&stopped, InstanceState::Stopped).await;
    println!("stopped after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(40), "the guest shut itself down");
    bench.clean(&[&spec]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_switches_itself_off_is_stopped_also_when_nobody_watched() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let mut spec = vm();
    spec.metadata = metadata("#!/bin/sh\necho 'switching off'\npoweroff\n");
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await;
    bench.console_shows(&spec, "switching off", 1).await;
    bench.stop().await;
    // The process waits in its last state.
    let limit = Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(bench.directory(&spec).join("console.log")).unwrap().contains("Power down") {
        assert!(Instant::now() < limit, "the guest does not switch off");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(std::path::Path::new(&format!("/proc/{}", first.pid.unwrap())).exists());
    bench.start().await;
    bench.event("shut down", |k| matches!(k, HostEventKind::InstanceShutDown { .. })).await;
    assert_eq!(bench.state(&spec, InstanceState::Stopped).await.pid, None);
    assert!(!bench.heard.borrow().events.iter().any(|(_, e)| matches!(e.kind, HostEventKind::InstanceDied { .. })));
    bench.clean(&[&spec]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_reboots_pauses_and_answers() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = vm();
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await;
    bench.console_shows(&spec, "is up", 1).await;

    let paused = next(&spec, |s| s.power = Power::Paused);
    bench.want(&paused).await;
    bench.state(&paused, InstanceState::Paused).await;
    let running = next(&paused, |s| s.power = Power::Running);
    bench.want(&running).await;
    bench.state(&running, InstanceState::Running).await;
    let rpc::message::Response::Json(facts) = bench.ask(rpc::message::Request::Diagnostics { instance_id: spec.id.clone() }).await.unwrap()
    else {
        panic!("no facts")
    };
    assert!(facts["blockstats"][0]["stats"]["rd_bytes"].as_u64().unwrap() > 1 << 20, "{facts}");
    let rpc::message::Response::Text(last) =
        bench.ask(rpc::message::Request::ConsoleLog { instance_id: spec.id.clone(), lines: Some(2) }).await.unwrap()
    else {
        panic!("no text")
    };
    assert!(last.lines().count() <= 2);

    // Soft: the guest itself ends, so its disk is clean.
    let soft = next(&running, |s| (s.boot, s.restart) = (1, rpc::instance::Restart::Soft));
    bench.want(&soft).await;
    bench.console_shows(&spec, "Power down", 1).await;
    bench.console_shows(&spec, "is up", 2).await;
    let second = bench.state(&soft, InstanceState::Running).await;
    assert_ne!(second.pid, first.pid);
    // Hard: a new process at once.
    let asked = Instant::now();
    let hard = next(&soft, |s| (s.boot, s.restart) = (2, rpc::instance::Restart::Hard));
    bench.want(&hard).await;
    let third = bench
        .until("rebooted", Duration::from_secs(20), |h| {
            h.statuses[&spec.id].boot == 2 && h.statuses[&spec.id].generation == hard.generation
        })
        .await;
    println!("hard reboot {:?}", asked.elapsed());
    assert_ne!(third.statuses[&spec.id].pid, second.pid);
    assert!(bench.heard.borrow().events.is_empty(), "nobody died");
    bench.clean(&[&spec]).await;
}

/// Without a disk QEMU starts and its firmware waits: enough for all that happens before a guest's kernel.
#[tokio::test(flavor = "multi_thread")]
async fn vm_given_up_after_its_attempts() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let mut spec = blank();
    spec.recovery.attempts = 2;
    bench.want(&spec).await;
    let mut pid = bench.state(&spec, InstanceState::Running).await.pid.unwrap();
    for attempt in 1..=2u32 {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { attempt: a, .. } if *a == attempt)).await;
        pid = bench.state(&spec, InstanceState::Running).await.pid.unwrap();
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGABRT).unwrap();
    bench.state(&spec, InstanceState::Failed).await;
    bench.event("gave up", |k| matches!(k, HostEventKind::InstanceRecoveryFailed { reason, .. } if reason.contains("SIGABRT"))).await;
    bench.clean(&[&spec]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_with_a_damaged_disk_fails_and_says_so() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = vm();
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    let stopped = next(&spec, |s| (s.power, s.shutdown_seconds) = (Power::Stopped, 0));
    bench.want(&stopped).await;
    bench.state(&stopped, InstanceState::Stopped).await;
    bench.no_leaks().await;
    std::fs::write(bench.directory(&spec).join("root.qcow2"), b"QFI\xfbrubbish").unwrap();
    let started = next(&stopped, |s| s.power = Power::Running);
    bench.want(&started).await;
    let failed = bench.state(&started, InstanceState::Failed).await;
    assert!(failed.error.as_ref().unwrap().contains("root"), "{failed:?}");
    assert!(
        bench.leaks().iter().any(|i| i.verdict == leak::Verdict::Contradictory && i.name.ends_with("root.qcow2")),
        "{:?}",
        bench.leaks()
    );

    // An image that is not there, one that is damaged.
    let mut missing = vm();
    missing.disks[0].source = rpc::instance::DiskSource::Image { sha256: "0".repeat(64), format: "raw".into() };
    bench.want(&missing).await;
    let failed = bench.state(&missing, InstanceState::Failed).await;
    assert!(failed.error.as_ref().unwrap().contains("could not be found"), "{failed:?}");
    bench.clean(&[&spec, &missing]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_starts_are_quick_and_many_fit() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let (hash, _) = guest_image();
    bench.ask(rpc::message::Request::CacheImage { sha256: hash, format: "qcow2".into() }).await.unwrap();
    let mut took = Vec::new();
    for _ in 0..5 {
        let spec = vm();
        let asked = Instant::now();
        bench.want(&spec).await;
        bench.state(&spec, InstanceState::Running).await;
        took.push(asked.elapsed());
        let gone = next(&spec, |s| s.power = Power::Absent);
        bench.want(&gone).await;
        bench.state(&gone, InstanceState::Absent).await;
    }
    took.sort();
    println!("document to running, image cached: median {:?}, worst {:?}", took[2], took[4]);
    let specs: Vec<_> = (0..8).map(|_| blank()).collect();
    let asked = Instant::now();
    for spec in &specs {
        bench.want(spec).await;
    }
    for spec in &specs {
        bench.state(spec, InstanceState::Running).await;
    }
    println!("{} at once: {:?}", specs.len(), asked.elapsed());
    bench.clean(&specs.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_hangs_is_told_and_can_still_be_removed() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let pid = bench.state(&spec, InstanceState::Running).await.pid.unwrap();
    bench.stop().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    bench.start().await;
    bench
        .until("told", Duration::from_secs(30), |h| h.statuses[&spec.id].error.as_ref().is_some_and(|e| e.contains("does not answer")))
        .await;
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    let gone = next(&spec, |s| s.power = Power::Absent);
    bench.want(&gone).await;
    bench.state(&gone, InstanceState::Absent).await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_hangs_is_noticed_ended_and_runs_again() {
    let mut bench = Bench::qemu();
    bench.config.set("host.guest_ask_seconds", "1");
    bench.config.set("host.guest_misses", "3");
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await.pid.unwrap();
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), signal).unwrap();
    // Slow: it goes on before the last answer is missed.
    signal(nix::sys::signal::Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(2)).await;
    signal(nix::sys::signal::Signal::SIGCONT);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(bench.state(&spec, InstanceState::Running).await.pid, Some(first));
    assert!(bench.heard.borrow().events.is_empty(), "{:?}", bench.heard.borrow().events);

    let stopped = Timestamp::now();
    signal(nix::sys::signal::Signal::SIGSTOP);
    let (died, event) = bench.event("died", |k| matches!(k, HostEventKind::InstanceDied { .. })).await;
    let HostEventKind::InstanceDied { pid, reason, will_recover, .. } = event else { unreachable!() };
    assert_eq!((pid, will_recover), (first, true));
    assert!(reason.contains("hung"), "{reason}");
    let (recovered, _) = bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { attempt: 1, .. })).await;
    println!("hung: told after {:?}, running again after {:?}", died.since(stopped), recovered.since(stopped));
    // Three seconds, and up to one until it is asked.
    assert!((Duration::from_secs(3)..Duration::from_secs(10)).contains(&died.since(stopped)), "{:?}", died.since(stopped));
    assert_ne!(bench.state(&spec, InstanceState::Running).await.pid, Some(first));
    assert!(!std::path::Path::new(&format!("/proc/{first}/cmdline")).exists());
    bench.clean(&[&spec]).await;
}

/// A process that hung while the agent was away is found so by the next one; also one whose queue of callers is full.
#[tokio::test(flavor = "multi_thread")]
async fn vm_that_hangs_at_the_agents_start_is_healed() {
    let mut bench = Bench::qemu();
    bench.config.set("host.guest_misses", "1");
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await.pid.unwrap();
    bench.stop().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGSTOP).unwrap();
    let directory = std::fs::File::open(bench.directory(&spec)).unwrap();
    let socket = format!("/proc/self/fd/{}/qmp.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
    let mut callers = Vec::new();
    let full = loop {
        let call = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_NONBLOCK,
            None,
        )
        .unwrap();
        let address = nix::sys::socket::UnixAddr::new(socket.as_str()).unwrap();
        match nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&call), &address) {
            Ok(()) => callers.push(call),
            Err(e) => break e,
        }
    };
    assert_eq!(full, nix::errno::Errno::EAGAIN);
    let started = Timestamp::now();
    bench.start().await;
    let hung = |k: &HostEventKind| matches!(k, HostEventKind::InstanceDied { pid, reason, .. } if *pid == first && reason.contains("hung"));
    let (died, _) = bench.event("died", hung).await;
    // It has had its time all the same.
    assert!(died.since(started) >= Duration::from_secs(5), "{:?}", died.since(started));
    bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { .. })).await;
    assert_ne!(bench.state(&spec, InstanceState::Running).await.pid, Some(first));
    bench.clean(&[&spec]).await;
}

/// A host in a network namespace of its own, with the real switch: the guest speaks on its tap, and nothing is left
/// of either afterwards.
#[test]
fn vm_speaks_on_its_tap() {
    // Threads of the runtime are made by this one, so all of them live in the new namespace, which ends with them.
    let work = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(on_its_tap());
    });
    work.join().unwrap();
}

async fn on_its_tap() {
    let mut bench = Bench::qemu();
    bench.real_wire = Some(host::switch::Switch::start(bench.home.path().to_path_buf(), Default::default()).unwrap());
    bench.start().await;
    let (port, network) = (base::id::uuid(), base::id::uuid());
    let tap = rpc::instance::tap_name(&port);
    let mut spec = vm();
    spec.nics = vec![rpc::instance::Nic { port_id: port.clone(), mac: "52:54:00:12:34:56".into(), mtu: 1450, model: "virtio".into() }];
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
        ports: vec![rpc::network::Port {
            id: port.clone(),
            network_id: network,
            instance_id: spec.id.clone(),
            mac: spec.nics[0].mac.clone(),
            admin_up: true,
            addresses: vec![],
            allowed_pairs: vec![],
            port_security: false,
            limits: Default::default(),
            security_groups: vec![],
        }],
        ..Default::default()
    };
    bench.hosts.send(&bench.host_id(), rpc::message::ToHost::Network(Box::new(document.clone()))).await.unwrap();
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    let up = |h: &Heard| matches!(&h.network, Some(rpc::message::ToController::Network { ports_up, error: None, .. }) if *ports_up == [port.clone()]);
    bench.until("port up", Duration::from_secs(10), up).await;
    // The guest asks for an address: frames come out of the tap.
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let counts = std::process::Command::new("ip").args(["-s", "-j", "link", "show", &tap]).output().unwrap();
        let facts: serde_json::Value = serde_json::from_slice(&counts.stdout).unwrap();
        if facts[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or_default() > 0 {
            break;
        }
        assert!(Instant::now() < limit, "nothing came out of the tap: {facts}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A second guest on the same tap is refused.
    let mut second = blank();
    second.nics = spec.nics.clone();
    bench.want(&second).await;
    let failed = bench.state(&second, InstanceState::Failed).await;
    assert!(failed.error.as_ref().unwrap().contains("in use"), "{failed:?}");

    for spec in [&second, &spec] {
        let gone = next(spec, |s| s.power = Power::Absent);
        bench.want(&gone).await;
        bench.state(&gone, InstanceState::Absent).await;
    }
    (document.generation, document.networks, document.ports) = (2, vec![], vec![]);
    bench.hosts.send(&bench.host_id(), rpc::message::ToHost::Network(Box::new(document))).await.unwrap();
    let gone = |h: &Heard| matches!(&h.network, Some(rpc::message::ToController::Network { generation: 2, .. }));
    bench.until("network gone", Duration::from_secs(10), gone).await;
    let report = leak::take_stock(bench.home.path()).unwrap();
    let left: Vec<_> = report.findings().filter(|i| matches!(i.kind, leak::Kind::Link | leak::Kind::Table)).collect();
    assert!(left.is_empty(), "{left:#?}");
    bench.clean(&[]).await;
}
