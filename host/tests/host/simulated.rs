//! The agent and the guests' reconcilers over simulated machines: everything that decides, at any speed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest::message::{Action, Event, Notification};
use host::hypervisor::{Hypervisor, RunState};
use host::simulated::{Manner, SimulatedHypervisor};
use proptest::prelude::*;
use rpc::guest::{GuestEvent, GuestVerdict, Repair};
use rpc::instance::{Disk, Doors, InstanceSpec, InstanceState, Moving, MovingTls, Nic, Power, Restart, Snapshot, Way};
use rpc::message::{HostEventKind, Request, Response, Secret, ToController, ToHost};
use rpc::network::NetworkDocument;

use crate::common::{Bench, Heard, blank, next};

const SOON: Duration = Duration::from_secs(20);

fn bench() -> (Bench, SimulatedHypervisor) {
    let machine = SimulatedHypervisor::default();
    let copy = machine.clone();
    (Bench::new(move |_| Arc::new(copy)), machine)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < limit, "not soon: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_guest_lives_and_leaves_nothing() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let status = bench.state(&spec, InstanceState::Running).await;
    assert!(status.pid.is_some() && status.started_at.is_some() && status.error.is_none());
    assert!(bench.wire.metadata(&spec.id).is_some());

    let older = InstanceSpec { generation: 0, power: Power::Absent, ..spec.clone() };
    bench.want(&older).await;
    let paused = next(&spec, |s| s.power = Power::Paused);
    bench.want(&paused).await;
    bench.state(&paused, InstanceState::Paused).await;
    assert_eq!(machine.state(&spec.id), Some(RunState::Paused));
    let running = next(&paused, |s| s.power = Power::Running);
    bench.want(&running).await;
    assert_eq!(bench.state(&running, InstanceState::Running).await.pid, status.pid, "an older document changed nothing");

    let diagnostics = bench.ask(Request::Diagnostics { instance_id: spec.id.clone() }).await.unwrap();
    assert!(matches!(diagnostics, Response::Json(_)));
    let gone = next(&running, |s| s.power = Power::Absent);
    bench.want(&gone).await;
    bench.state(&gone, InstanceState::Absent).await;
    assert!(machine.traces().is_empty());
    assert!(bench.wire.metadata(&spec.id).is_none());
    assert!(bench.ask(Request::Diagnostics { instance_id: spec.id.clone() }).await.is_err());

    // Absent is also the answer for a guest that never was.
    let never = InstanceSpec { power: Power::Absent, ..blank() };
    bench.want(&never).await;
    bench.state(&never, InstanceState::Absent).await;
    bench.stop().await;
}

#[tokio::test]
async fn the_dead_come_back_until_they_die_too_often() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let mut spec = blank();
    spec.recovery.attempts = 2;
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    for attempt in 1..=2u32 {
        assert!(machine.kill(&spec.id, "killed by SIGKILL"));
        bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { attempt: a, .. } if *a == attempt)).await;
    }
    machine.kill(&spec.id, "killed by SIGSEGV");
    let failed = bench.state(&spec, InstanceState::Failed).await;
    assert!(failed.error.as_ref().is_some_and(|e| e.contains("SIGSEGV")), "{failed:?}");
    bench.event("gave up", |k| matches!(k, HostEventKind::InstanceRecoveryFailed { .. })).await;
    let heard = bench.heard.borrow().clone();
    let died = heard.events.iter().filter_map(|(_, e)| match &e.kind {
        HostEventKind::InstanceDied { will_recover, .. } => Some(*will_recover),
        _ => None,
    });
    assert_eq!(died.collect::<Vec<_>>(), [true, true, false]);

    // It stays so over a restart, and a wanted boot is a new beginning.
    bench.stop().await;
    bench.start().await;
    bench.state(&spec, InstanceState::Failed).await;
    assert_eq!(machine.starts(), 3);
    let again = next(&spec, |s| s.boot += 1);
    bench.want(&again).await;
    bench.state(&again, InstanceState::Running).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_guest_that_opted_out_stays_dead() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let mut spec = blank();
    spec.recovery.auto = false;
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    machine.kill(&spec.id, "killed by SIGKILL");
    bench.state(&spec, InstanceState::Failed).await;
    bench.event("died", |k| matches!(k, HostEventKind::InstanceDied { will_recover: false, .. })).await;
    assert_eq!(machine.starts(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn a_guest_that_switches_itself_off_stays_off() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    machine.shut_down(&spec.id);
    bench.event("shut down", |k| matches!(k, HostEventKind::InstanceShutDown { .. })).await;
    bench.state(&spec, InstanceState::Stopped).await;
    let renamed = next(&spec, |s| s.name = "other".into());
    bench.want(&renamed).await;
    bench.state(&renamed, InstanceState::Stopped).await;
    let stopped = next(&renamed, |s| s.power = Power::Stopped);
    bench.want(&stopped).await;
    bench.state(&stopped, InstanceState::Stopped).await;
    let started = next(&stopped, |s| s.power = Power::Running);
    bench.want(&started).await;
    bench.state(&started, InstanceState::Running).await;
    assert!(!bench.heard.borrow().events.iter().any(|(_, e)| matches!(e.kind, HostEventKind::InstanceDied { .. })));
    bench.stop().await;
}

#[tokio::test]
async fn a_panicked_guest_is_restarted() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    machine.panic(&spec.id);
    bench.event("panicked", |k| matches!(k, HostEventKind::InstancePanicked { .. })).await;
    bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { .. })).await;
    assert_eq!(machine.starts(), 2);
    bench.stop().await;
}

#[tokio::test]
async fn a_guest_that_hangs_is_healed_as_a_dead_one_and_one_that_is_only_slow_is_left_alone() {
    let (mut bench, machine) = bench();
    bench.config.set("host.guest_ask_seconds", "1");
    bench.config.set("host.guest_misses", "3");
    bench.start().await;
    let mut spec = blank();
    spec.recovery.attempts = 1;
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await.pid;
    // Less than what is borne.
    machine.hang(&spec.id, true);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    machine.hang(&spec.id, false);
    bench.state(&spec, InstanceState::Running).await;
    assert_eq!(machine.starts(), 1);
    let began = Instant::now();
    machine.hang(&spec.id, true);
    let died = |k: &HostEventKind| matches!(k, HostEventKind::InstanceDied { reason, will_recover: true, .. } if reason.contains("hung"));
    bench.event("died", died).await;
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { attempt: 1, .. })).await;
    assert_ne!(bench.state(&spec, InstanceState::Running).await.pid, first);
    // Its deaths are counted as any.
    machine.hang(&spec.id, true);
    let failed = bench.state(&spec, InstanceState::Failed).await;
    assert!(failed.error.as_ref().is_some_and(|e| e.contains("given up") && e.contains("hung")), "{failed:?}");
    assert!(machine.running().is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn a_guest_that_hangs_and_opted_out_is_told_of_and_left_as_it_is() {
    let (mut bench, machine) = bench();
    bench.config.set("host.guest_ask_seconds", "1");
    bench.config.set("host.guest_misses", "1");
    bench.start().await;
    let mut spec = blank();
    spec.recovery.auto = false;
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await;
    machine.hang(&spec.id, true);
    let failed = bench.state(&spec, InstanceState::Failed).await;
    assert!(failed.error.as_ref().is_some_and(|e| e.contains("hung") && e.contains("not restarted")), "{failed:?}");
    assert_eq!(failed.pid, first.pid);
    // Looked at many times, told once.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let told = |h: &Heard| h.events.iter().filter(|(_, e)| matches!(e.kind, HostEventKind::InstanceRecoveryFailed { .. })).count();
    assert_eq!(told(&bench.heard.borrow()), 1);
    machine.hang(&spec.id, false);
    assert_eq!(bench.state(&spec, InstanceState::Running).await.pid, first.pid);
    assert_eq!(machine.starts(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn a_guest_that_cannot_write_its_disk_is_shown_stopped_until_it_goes_on() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await.pid;
    machine.disks_fail(Some("disk root could not be written: Input/output error"));
    let stopped = bench.state(&spec, InstanceState::Paused).await;
    assert!(stopped.error.is_some_and(|e| e.contains("Input/output error")));
    // It is let go on in vain meanwhile.
    let runs = bench.until("never", SOON, |h| h.statuses[&spec.id].state == InstanceState::Running);
    assert!(tokio::time::timeout(Duration::from_secs(12), runs).await.is_err());
    machine.disks_fail(None);
    let status = bench.state(&spec, InstanceState::Running).await;
    assert_eq!((status.pid, status.error), (first, None));
    assert!(bench.heard.borrow().events.is_empty());
    bench.stop().await;
}

/// A guest on its way between hosts is not asked: its process may have its hands full.
#[tokio::test]
async fn nobody_takes_a_guest_on_its_way_for_hung() {
    let (mut bench, machine) = bench();
    bench.config.set("host.guest_ask_seconds", "1");
    bench.config.set("host.guest_misses", "1");
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    // One that comes back, as far as its document says: nothing of it is left to be done here.
    let away = next(&spec, |s| {
        let (name, authority, certificate) = Default::default();
        let tls = MovingTls { name, authority, certificate, key: Secret(String::new()) };
        let doors = Doors { address: "127.0.0.1".into(), memory: 1, disks: 2 };
        s.moving = Some(Moving { id: base::id::uuid(), tls, way: Way::Away { doors, downtime: 500, force: false, stop: true } });
    });
    bench.want(&away).await;
    bench.state(&away, InstanceState::Running).await;
    machine.hang(&spec.id, true);
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_eq!((machine.starts(), machine.running().len()), (1, 1));
    assert!(bench.heard.borrow().events.is_empty());
    machine.hang(&spec.id, false);
    bench.stop().await;
}

#[tokio::test]
async fn reboots_are_counted_and_no_death_is_told() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await;
    let hard = next(&spec, |s| s.boot = 1);
    bench.want(&hard).await;
    let second = bench.until("rebooted", SOON, |h| h.statuses[&spec.id].boot == 1 && h.statuses[&spec.id].generation == 2).await;
    assert_ne!(second.statuses[&spec.id].pid, first.pid);
    let soft = next(&hard, |s| (s.boot, s.restart) = (2, Restart::Soft));
    bench.want(&soft).await;
    bench.until("rebooted", SOON, |h| h.statuses[&spec.id].boot == 2 && h.statuses[&spec.id].generation == 3).await;
    // A guest that does not hear is restarted all the same.
    machine.trouble(|t| t.deaf = true);
    let deaf = next(&soft, |s| (s.boot, s.shutdown_seconds) = (3, 1));
    bench.want(&deaf).await;
    bench.until("rebooted", SOON, |h| h.statuses[&spec.id].boot == 3 && h.statuses[&spec.id].generation == 4).await;
    assert_eq!(machine.starts(), 4);
    assert!(bench.heard.borrow().events.is_empty(), "{:?}", bench.heard.borrow().events);
    bench.stop().await;
}

#[tokio::test]
async fn a_newer_document_is_not_kept_waiting() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await;
    machine.trouble(|t| t.deaf = true);
    let stopped = next(&spec, |s| (s.power, s.shutdown_seconds) = (Power::Stopped, 3600));
    bench.want(&stopped).await;
    bench.until("waits for the guest", SOON, |h| h.statuses[&spec.id].error.as_ref().is_some_and(|e| e.contains("shut down"))).await;
    let running = next(&stopped, |s| s.power = Power::Running);
    bench.want(&running).await;
    assert_eq!(bench.state(&running, InstanceState::Running).await.pid, first.pid);
    // The press that was heard late leads to a restart: off is not what is wanted now.
    machine.shut_down(&spec.id);
    bench.until("another process", SOON, |h| h.statuses[&spec.id].pid.is_some_and(|p| Some(p) != first.pid)).await;
    let stopped = next(&running, |s| (s.power, s.shutdown_seconds) = (Power::Stopped, 3600));
    bench.want(&stopped).await;
    let gone = next(&stopped, |s| s.power = Power::Absent);
    bench.want(&gone).await;
    bench.state(&gone, InstanceState::Absent).await;
    bench.stop().await;
}

#[tokio::test]
async fn the_agent_returns_to_what_it_left() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let (a, b, c) = (blank(), blank(), blank());
    for spec in [&a, &b, &c] {
        bench.want(spec).await;
    }
    let before = bench.state(&a, InstanceState::Running).await;
    bench.state(&b, InstanceState::Running).await;
    bench.state(&c, InstanceState::Running).await;
    bench.stop().await;
    machine.kill(&b.id, "gone");
    machine.shut_down(&c.id);
    bench.start().await;
    bench.event("b recovered", |k| matches!(k, HostEventKind::InstanceRecovered { instance_id, .. } if *instance_id == b.id)).await;
    bench.event("c shut down", |k| matches!(k, HostEventKind::InstanceShutDown { instance_id } if *instance_id == c.id)).await;
    assert_eq!(bench.state(&a, InstanceState::Running).await.pid, before.pid);
    assert_eq!(machine.starts(), 4);
    bench.stop().await;
}

#[tokio::test]
async fn after_a_power_cut_guests_return_in_order_two_at_a_time() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let mut specs: Vec<InstanceSpec> = (1..=6).map(|_| blank()).collect();
    for (i, spec) in specs.iter_mut().enumerate() {
        spec.recovery.priority = 6 - i as u8;
        // Also guests that would not be restarted after dying alone.
        spec.recovery.auto = i % 2 == 0;
        bench.want(spec).await;
        bench.state(spec, InstanceState::Running).await;
    }
    let off = next(&specs[0], |s| s.power = Power::Stopped);
    bench.want(&off).await;
    bench.state(&off, InstanceState::Stopped).await;
    let most = machine.most_starting();
    assert_eq!(most, 1);
    bench.stop().await;
    machine.power_cut();
    machine.trouble(|t| t.delay = Duration::from_millis(30));
    bench.start().await;
    until("five run again", || machine.running().len() == 5).await;
    assert_eq!(machine.most_starting(), 2);
    let order: Vec<u8> = machine.started()[6..].iter().map(|id| specs.iter().find(|s| s.id == *id).unwrap().recovery.priority).collect();
    assert!(order[0] <= 2 && order[4] >= 4, "{order:?}");
    bench
        .until("all told", SOON, |h| {
            h.events.iter().filter(|(_, e)| matches!(e.kind, HostEventKind::InstanceRecovered { .. })).count() == 5
        })
        .await;
    bench.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_is_told_and_a_newer_document_tried() {
    let (mut bench, machine) = bench();
    bench.start().await;
    machine.trouble(|t| t.starts_fail = ["no memory".to_string()].into());
    let spec = blank();
    bench.want(&spec).await;
    assert_eq!(bench.state(&spec, InstanceState::Failed).await.error.as_deref(), Some("no memory"));
    let newer = next(&spec, |s| s.memory_mib = 64);
    bench.want(&newer).await;
    bench.state(&newer, InstanceState::Running).await;
    // While recovering, a start that fails is one more attempt.
    machine.trouble(|t| t.starts_fail = ["no memory".to_string()].into());
    machine.kill(&spec.id, "killed");
    bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { attempt: 2, .. })).await;

    let bad = InstanceSpec { vcpus: 0, ..blank() };
    bench.want(&bad).await;
    assert!(bench.state(&bad, InstanceState::Failed).await.error.unwrap().contains("processors"));
    bench.stop().await;
}

#[tokio::test]
async fn events_wait_for_a_controller_that_stores_them() {
    let (mut bench, machine) = bench();
    *bench.acknowledge.lock().unwrap() = false;
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    machine.kill(&spec.id, "killed");
    bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { .. })).await;
    bench.stop().await;
    *bench.acknowledge.lock().unwrap() = true;
    bench.start().await;
    bench.until("told again", SOON, |h| h.events.len() == 4).await;
    assert_eq!(bench.heard.borrow().events.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 1, 2]);
    machine.kill(&spec.id, "killed");
    bench.until("numbers go on", SOON, |h| h.events.last().is_some_and(|(n, _)| *n == 4)).await;
    bench.stop().await;
    bench.start().await;
    bench.state(&spec, InstanceState::Running).await;
    assert_eq!(bench.heard.borrow().events.len(), 6, "what is stored is not sent again");
    bench.stop().await;
}

fn port(id: &str, instance_id: &str) -> rpc::network::Port {
    rpc::network::Port {
        id: id.into(),
        network_id: "net".into(),
        instance_id: instance_id.into(),
        mac: "52:54:00:00:00:01".into(),
        admin_up: true,
        addresses: vec![],
        allowed_pairs: vec![],
        port_security: true,
        limits: Default::default(),
        security_groups: vec![],
    }
}

#[tokio::test]
async fn a_guest_waits_for_its_ports_and_they_are_told_up() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let port_id = base::id::uuid();
    let mut spec = blank();
    spec.nics = vec![Nic { port_id: port_id.clone(), mac: "52:54:00:00:00:01".into(), mtu: 1450, model: "virtio".into() }];
    bench.want(&spec).await;
    bench.until("building", SOON, |h| h.statuses.get(&spec.id).is_some_and(|s| s.state == InstanceState::Building)).await;
    assert_eq!(machine.starts(), 0);
    let document = NetworkDocument { generation: 7, ports: vec![port(&port_id, &spec.id)], ..Default::default() };
    bench.hosts.send(&bench.host_id(), ToHost::Network(Box::new(document))).await.unwrap();
    bench.state(&spec, InstanceState::Running).await;
    let up = |h: &Heard| matches!(&h.network, Some(ToController::Network { generation: 7, ports_up, error: None }) if *ports_up == [port_id.clone()]);
    bench.until("port up", SOON, up).await;
    // The network comes back from the host's own disk.
    bench.stop().await;
    bench.wire = Default::default();
    bench.start().await;
    until("applied again", || bench.wire.generation() == 7).await;
    bench.wire.fail(vec!["no bridge".into()]);
    let newer = NetworkDocument { generation: 8, ..Default::default() };
    bench.hosts.send(&bench.host_id(), ToHost::Network(Box::new(newer))).await.unwrap();
    bench
        .until(
            "error told",
            SOON,
            |h| matches!(&h.network, Some(ToController::Network { generation: 8, error: Some(e), .. }) if e == "no bridge"),
        )
        .await;
    bench.wire.fail(vec![]);
    bench.until("tried again", SOON, |h| matches!(&h.network, Some(ToController::Network { generation: 8, error: None, .. }))).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_silent_machine_is_told_and_not_replaced() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await;
    machine.hang(&spec.id, true);
    let paused = next(&spec, |s| s.power = Power::Paused);
    bench.want(&paused).await;
    bench.until("told", SOON, |h| h.statuses[&spec.id].error.is_some()).await;
    machine.hang(&spec.id, false);
    assert_eq!(bench.state(&paused, InstanceState::Paused).await.pid, first.pid);
    assert_eq!(machine.starts(), 1);
    // Removal does not depend on answers.
    machine.hang(&spec.id, true);
    let gone = next(&paused, |s| s.power = Power::Absent);
    bench.want(&gone).await;
    bench.state(&gone, InstanceState::Absent).await;
    assert!(machine.traces().is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn a_reconciler_that_breaks_is_started_again() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let first = bench.state(&spec, InstanceState::Running).await;
    machine.trouble(|t| t.broken = true);
    let paused = next(&spec, |s| s.power = Power::Paused);
    bench.want(&paused).await;
    assert_eq!(bench.state(&paused, InstanceState::Paused).await.pid, first.pid);
    bench.stop().await;
}

#[tokio::test]
async fn only_one_agent_serves_a_home() {
    let (mut bench, _) = bench();
    bench.start().await;
    let (other, _) = self::bench();
    let mut config = bench.config.clone();
    config.set("host.name", "other");
    let options = host::Options {
        guard: None,
        config,
        hypervisor: other.hypervisor.clone(),
        wire: Arc::new(bench.wire.clone()),
        dial: Arc::new(|| Box::pin(async { Err(base::Error::unavailable("none")) })),
        sync: true,
        id: None,
    };
    assert!(host::Agent::start(options).await.is_err());
    bench.stop().await;
}

#[tokio::test]
async fn many_guests_fit() {
    let (mut bench, machine) = bench();
    bench.sync = false;
    bench.start().await;
    let specs: Vec<InstanceSpec> = (0..500).map(|_| blank()).collect();
    let begun = Instant::now();
    for spec in &specs {
        bench.want(spec).await;
    }
    bench.until("all run", SOON, |h| h.statuses.values().filter(|s| s.state == InstanceState::Running).count() == specs.len()).await;
    println!("500 guests in {:?}", begun.elapsed());
    for spec in &specs {
        bench.want(&next(spec, |s| s.power = Power::Absent)).await;
    }
    bench.until("all gone", SOON, |h| h.statuses.values().all(|s| s.state == InstanceState::Absent)).await;
    assert!(machine.traces().is_empty());
    bench.stop().await;
}

/// What happens to one guest, in any order.
#[derive(Clone, Debug)]
enum Act {
    Power(Power),
    Boot(Restart),
    Kill,
    ShutDown,
    Panic,
    FailStart,
    Deaf(bool),
    Delay(u64),
    RestartAgent,
    PowerCut,
    Pause(u64),
    Full(bool),
    Snapshot,
    NewDisk,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => prop_oneof![Just(Power::Running), Just(Power::Paused), Just(Power::Suspended), Just(Power::Stopped), Just(Power::Absent)]
            .prop_map(Act::Power),
        2 => prop_oneof![Just(Restart::Soft), Just(Restart::Hard)].prop_map(Act::Boot),
        1 => Just(Act::Kill),
        1 => Just(Act::ShutDown),
        1 => Just(Act::Panic),
        1 => Just(Act::FailStart),
        1 => any::<bool>().prop_map(Act::Deaf),
        1 => (0u64..4).prop_map(Act::Delay),
        1 => Just(Act::RestartAgent),
        1 => Just(Act::PowerCut),
        3 => (0u64..8).prop_map(Act::Pause),
        1 => any::<bool>().prop_map(Act::Full),
        1 => Just(Act::Snapshot),
        1 => Just(Act::NewDisk),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_history_ends_in_the_last_document(acts in proptest::collection::vec(act(), 1..25), last in prop_oneof![Just(Power::Running), Just(Power::Paused), Just(Power::Suspended), Just(Power::Stopped), Just(Power::Absent)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(history(acts, last));
    }
}

async fn history(acts: Vec<Act>, last: Power) {
    let (mut bench, machine) = bench();
    bench.sync = false;
    bench.start().await;
    let mut spec = InstanceSpec { shutdown_seconds: 1, disks: vec![disk()], ..blank() };
    bench.want(&spec).await;
    for act in acts {
        match act {
            Act::Power(power) => {
                spec = next(&spec, |s| s.power = power);
                bench.want(&spec).await;
            }
            Act::Boot(restart) => {
                spec = next(&spec, |s| (s.boot, s.restart) = (s.boot + 1, restart));
                bench.want(&spec).await;
            }
            Act::Kill => drop(machine.kill(&spec.id, "killed")),
            Act::ShutDown => drop(machine.shut_down(&spec.id)),
            Act::Panic => drop(machine.panic(&spec.id)),
            Act::FailStart => machine.trouble(|t| t.starts_fail.push_back("no".into())),
            Act::Deaf(deaf) => machine.trouble(|t| t.deaf = deaf),
            Act::Delay(ms) => machine.trouble(|t| t.delay = Duration::from_millis(ms)),
            Act::RestartAgent => {
                bench.stop().await;
                bench.start().await;
            }
            Act::PowerCut => {
                bench.stop().await;
                machine.power_cut();
                bench.start().await;
            }
            Act::Full(full) => machine.trouble(|t| t.full = full),
            Act::Snapshot => {
                spec = next(&spec, |s| s.snapshots = vec![Snapshot { id: base::id::uuid(), disk: "root".into() }]);
                bench.want(&spec).await;
            }
            Act::NewDisk => {
                spec = next(&spec, |s| (s.disks[0].revision, s.boot) = (s.disks[0].revision + 1, s.boot + 1));
                bench.want(&spec).await;
            }
            Act::Pause(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }
    machine.trouble(|t| *t = Default::default());
    // A boot is wanted too, so that no hold is left.
    spec = next(&spec, |s| (s.power, s.boot, s.restart) = (last, s.boot + 1, Restart::Hard));
    bench.want(&spec).await;
    let (state, run) = match last {
        Power::Running => (InstanceState::Running, Some(RunState::Running)),
        Power::Paused => (InstanceState::Paused, Some(RunState::Paused)),
        Power::Suspended => (InstanceState::Suspended, None),
        Power::Stopped => (InstanceState::Stopped, None),
        Power::Absent => (InstanceState::Absent, None),
    };
    let status = bench.state(&spec, state).await;
    assert_eq!(status.boot, spec.boot);
    assert_eq!(machine.state(&spec.id), run);
    assert_eq!(machine.has_memory(&spec.id), last == Power::Suspended);
    if last == Power::Absent {
        assert!(machine.traces().is_empty());
        assert_eq!(machine.copies(), 0);
    } else {
        assert_eq!(machine.disks(&spec.id), [spec.disks[0].file()]);
        let known: Vec<&str> = status.snapshots.iter().map(|s| s.id.as_str()).collect();
        let wanted: Vec<&str> = spec.snapshots.iter().map(|s| s.id.as_str()).collect();
        assert_eq!(known, wanted);
    }
    bench.stop().await;
}

fn disk() -> Disk {
    Disk {
        name: "root".into(),
        revision: 0,
        copy_of: None,
        bytes: 1 << 20,
        source: rpc::instance::DiskSource::Blank,
        boot_index: Some(0),
        serial: "root".into(),
        cdrom: false,
    }
}

#[tokio::test]
async fn a_suspended_guest_goes_on_where_it_was_also_after_a_power_cut() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    // A full disk: the guest goes on, and why is told.
    machine.trouble(|t| t.full = true);
    let suspended = next(&spec, |s| s.power = Power::Suspended);
    bench.want(&suspended).await;
    let refused = bench.state(&suspended, InstanceState::Running).await;
    assert!(refused.error.unwrap().contains("no space"));
    assert_eq!(machine.state(&spec.id), Some(RunState::Running));
    machine.trouble(|t| t.full = false);
    let suspended = next(&suspended, |_| ());
    bench.want(&suspended).await;
    assert_eq!(bench.state(&suspended, InstanceState::Suspended).await.pid, None);
    assert!(machine.running().is_empty() && machine.has_memory(&spec.id));
    bench.stop().await;
    machine.power_cut();
    bench.start().await;
    bench.state(&suspended, InstanceState::Suspended).await;
    assert!(machine.running().is_empty(), "a power cut wakes nobody");
    let running = next(&suspended, |s| s.power = Power::Running);
    bench.want(&running).await;
    bench.state(&running, InstanceState::Running).await;
    assert_eq!((machine.state(&spec.id), machine.has_memory(&spec.id)), (Some(RunState::Running), false));
    // Started anew it forgets.
    let suspended = next(&running, |s| s.power = Power::Suspended);
    bench.want(&suspended).await;
    bench.state(&suspended, InstanceState::Suspended).await;
    let reset = next(&suspended, |s| (s.power, s.boot) = (Power::Running, 1));
    bench.want(&reset).await;
    bench.state(&reset, InstanceState::Running).await;
    assert!(!machine.has_memory(&spec.id));
    assert!(bench.heard.borrow().events.is_empty(), "nobody died");
    bench.stop().await;
}

#[tokio::test]
async fn copies_are_made_once_told_and_removed() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let mut spec = blank();
    spec.disks = vec![disk()];
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    let one = Snapshot { id: base::id::uuid(), disk: "root".into() };
    let wanted = next(&spec, |s| s.snapshots = vec![one.clone()]);
    bench.want(&wanted).await;
    let status = bench.state(&wanted, InstanceState::Running).await;
    assert_eq!((status.snapshots[0].id.as_str(), status.snapshots[0].error.as_ref()), (one.id.as_str(), None));
    let read = |offset| Request::ReadSnapshot { instance_id: spec.id.clone(), snapshot_id: one.id.clone(), offset, length: 1 << 20 };
    let Response::Text(first) = bench.ask(read(0)).await.unwrap() else { panic!() };
    assert!(first.starts_with("UUZJ+"), "a qcow2 file");
    assert!(matches!(bench.ask(read(status.snapshots[0].bytes)).await.unwrap(), Response::Text(end) if end.is_empty()));
    // One that cannot be made is told; a stopped guest's disk is copied too.
    machine.trouble(|t| t.full = true);
    let two = Snapshot { id: base::id::uuid(), disk: "root".into() };
    let more = next(&wanted, |s| (s.snapshots, s.power, s.shutdown_seconds) = (vec![one.clone(), two.clone()], Power::Stopped, 0));
    bench.want(&more).await;
    let status = bench.state(&more, InstanceState::Stopped).await;
    assert!(status.snapshots[1].error.as_ref().unwrap().contains("no space"), "{status:?}");
    let none = next(&more, |s| s.snapshots.clear());
    bench.want(&none).await;
    assert!(bench.state(&none, InstanceState::Stopped).await.snapshots.is_empty());
    assert_eq!(machine.copies(), 0);
    bench.stop().await;
}

#[tokio::test]
async fn cards_are_plugged_in_and_out_of_a_running_guest() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let pid = bench.state(&spec, InstanceState::Running).await.pid;
    let nic = Nic { port_id: base::id::uuid(), mac: "52:54:00:00:00:01".into(), mtu: 1450, model: "virtio".into() };
    let with = next(&spec, |s| s.nics = vec![nic.clone()]);
    bench.want(&with).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(machine.cards(&spec.id).is_empty(), "there is no tap yet");
    let port = rpc::network::Port {
        id: nic.port_id.clone(),
        network_id: base::id::uuid(),
        instance_id: spec.id.clone(),
        mac: nic.mac.clone(),
        admin_up: true,
        addresses: vec![],
        allowed_pairs: vec![],
        port_security: false,
        limits: Default::default(),
        security_groups: vec![],
    };
    let document = NetworkDocument { generation: 1, ports: vec![port], ..Default::default() };
    bench.hosts.send(&bench.host_id(), ToHost::Network(Box::new(document))).await.unwrap();
    assert_eq!(bench.state(&with, InstanceState::Running).await.pid, pid);
    assert_eq!(machine.cards(&spec.id), std::slice::from_ref(&nic.port_id));
    let up = |h: &Heard| matches!(&h.network, Some(ToController::Network { ports_up, .. }) if *ports_up == [nic.port_id.clone()]);
    bench.until("port up", SOON, up).await;
    bench.stop().await;
    bench.start().await;
    let without = next(&with, |s| s.nics.clear());
    bench.want(&without).await;
    assert_eq!(bench.state(&without, InstanceState::Running).await.pid, pid);
    assert!(machine.cards(&spec.id).is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn disks_are_replaced_kept_and_gone_back_to() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let mut spec = blank();
    spec.disks = vec![disk()];
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    let larger = next(&spec, |s| {
        s.kept = s.disks.clone();
        (s.disks[0].revision, s.disks[0].copy_of, s.boot) = (1, Some("root".into()), 1);
    });
    bench.want(&larger).await;
    bench.until("booted", SOON, |h| h.statuses[&spec.id].boot == 1).await;
    assert_eq!(machine.disks(&spec.id), ["root", "root-1"]);
    // Another one, kept to: the old one goes while the guest runs.
    let pid = bench.state(&larger, InstanceState::Running).await.pid;
    let confirmed = next(&larger, |s| (s.kept, s.disks[0].copy_of) = (vec![], None));
    bench.want(&confirmed).await;
    assert_eq!(bench.state(&confirmed, InstanceState::Running).await.pid, pid);
    assert_eq!(machine.disks(&spec.id), ["root-1"]);
    let spec = confirmed.clone();
    let larger = next(&confirmed, |s| {
        s.kept = s.disks.clone();
        (s.disks[0].revision, s.disks[0].copy_of, s.boot) = (2, Some("root-1".into()), 2);
    });
    bench.want(&larger).await;
    bench.until("booted", SOON, |h| h.statuses[&spec.id].boot == 2).await;
    assert_eq!(machine.disks(&spec.id), ["root-1", "root-2"]);
    let back = next(&larger, |s| (s.disks, s.kept, s.boot, s.power) = (spec.disks.clone(), vec![], 3, Power::Stopped));
    bench.want(&back).await;
    bench.state(&back, InstanceState::Stopped).await;
    until("the other is gone", || machine.disks(&spec.id) == ["root-1"]).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_machine_with_a_directory_outlives_the_process_that_plays_it() {
    let directory = tempfile::tempdir().unwrap();
    let open = || SimulatedHypervisor::open(directory.path()).unwrap();
    let mut bench = Bench::new(|_| Arc::new(open()));
    bench.start().await;
    let (stays, dies) = (blank(), blank());
    bench.want(&stays).await;
    bench.want(&dies).await;
    let pid = bench.state(&stays, InstanceState::Running).await.pid;
    bench.state(&dies, InstanceState::Running).await;
    bench.stop().await;

    // Nobody plays it now, and one of its guests dies all the same.
    let machine = open();
    assert_eq!(machine.running().len(), 2);
    assert!(machine.kill(&dies.id, "killed by SIGKILL"));
    drop(machine);
    let machine = open();
    assert_eq!(machine.running(), std::slice::from_ref(&stays.id));
    assert_eq!(machine.traces().len(), 2, "the disk of the dead one is there");
    bench.hypervisor = Arc::new(machine.clone());
    bench.start().await;
    assert_eq!(bench.state(&stays, InstanceState::Running).await.pid, pid, "it was adopted");
    bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { .. })).await;
    assert_eq!(machine.starts(), 1);

    // A power cut ends them all; the machine knows that it has booted again.
    bench.stop().await;
    let boot = machine.boot_id();
    machine.power_cut();
    let machine = open();
    assert!(machine.running().is_empty() && machine.boot_id() != boot);
    bench.hypervisor = Arc::new(machine.clone());
    bench.start().await;
    until("both are back", || machine.running().len() == 2).await;
    for spec in [&stays, &dies] {
        let gone = next(spec, |s| s.power = Power::Absent);
        bench.want(&gone).await;
        bench.state(&gone, InstanceState::Absent).await;
    }
    bench.stop().await;
    assert!(open().traces().is_empty());
    assert_eq!(std::fs::read_dir(directory.path().join("instances")).unwrap().count(), 0);
}

fn guest_event(kind: &HostEventKind, id: &str, wanted: &GuestEvent) -> bool {
    matches!(kind, HostEventKind::Guest { instance_id, event } if instance_id == id && event == wanted)
}

async fn guest_ask(bench: &Bench, id: &str, vote: bool) -> GuestVerdict {
    let request = Request::GuestAsk { instance_id: id.to_string(), event: "stop".into(), vote };
    match bench.ask(request).await.unwrap() {
        Response::Json(verdict) => serde_json::from_value(verdict).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guests_heart_is_heard_asked_and_lost() {
    let (mut bench, machine) = bench();
    let manner = Manner::default();
    {
        let mut mood = manner.mood();
        mood.settings.interval = Duration::from_millis(400);
        mood.settings.name = "vm".into();
    }
    machine.speaking(manner.clone());
    bench.start().await;
    let (spec, plain) = (InstanceSpec { heartbeat: true, ..blank() }, blank());
    bench.want(&plain).await;
    bench.want(&spec).await;
    let count = |bench: &Bench, wanted: &GuestEvent| {
        bench.heard.borrow().events.iter().filter(|(_, e)| guest_event(&e.kind, &spec.id, wanted)).count()
    };
    let lost = GuestEvent::Lost { repair: Repair::Reboot };
    bench.until("it beats", SOON, |h| h.beating.contains(&spec.id)).await;
    assert_eq!(guest_ask(&bench, &plain.id, true).await, GuestVerdict::Absent);
    assert_eq!(
        (guest_ask(&bench, &spec.id, true).await, guest_ask(&bench, &spec.id, false).await),
        (GuestVerdict::Accepted, GuestVerdict::Accepted)
    );
    let ten = Duration::from_secs(10);
    assert_eq!(manner.heard(&spec.id), [(Event::Stop, Notification::Revocable, ten), (Event::Stop, Notification::Irrevocable, ten)]);
    manner.mood().refuses = Some("no".into());
    assert_eq!(guest_ask(&bench, &spec.id, true).await, GuestVerdict::Rejected("no".into()));
    // The agent begins anew, and so does the conversation.
    bench.stop().await;
    bench.start().await;
    until("it beats again", || count(&bench, &GuestEvent::Established) == 2).await;
    bench.until("and that is told", SOON, |h| h.beating.contains(&spec.id)).await;
    // One that stands still misses nothing, though it answers nothing.
    let paused = next(&spec, |s| s.power = Power::Paused);
    bench.want(&paused).await;
    bench.state(&paused, InstanceState::Paused).await;
    manner.mood().dead = true;
    assert_eq!(guest_ask(&bench, &spec.id, true).await, GuestVerdict::Absent);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(count(&bench, &lost), 0);
    let running = next(&paused, |s| s.power = Power::Running);
    bench.want(&running).await;
    until("now it is missed", || count(&bench, &lost) == 1).await;
    bench.until("and that is told", SOON, |h| !h.beating.contains(&spec.id)).await;
    // It comes back by itself, is not well, and leaves.
    {
        let mut mood = manner.mood();
        (mood.dead, mood.unwell) = (false, Some((Action::Stop, "no disk".into())));
    }
    let unwell = GuestEvent::Unhealthy { repair: Repair::Stop, reason: "no disk".into() };
    until("it is not well", || count(&bench, &unwell) == 1).await;
    manner.mood().leaves = true;
    until("it leaves", || count(&bench, &GuestEvent::Disconnected { reason: "the client ends".into() }) == 1).await;
    assert_eq!((count(&bench, &lost), count(&bench, &unwell)), (1, 1));
    bench.clean(&[&running, &plain]).await;
}
