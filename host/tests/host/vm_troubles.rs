//! What goes wrong in real guests and below them: disks that cannot be written, watchdogs that nobody winds up, panics.

use std::path::Path;
use std::time::Duration;

use host::hypervisor::{Found, qmp};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rpc::instance::{InstanceSpec, InstanceState, InstanceStatus, Power, Watchdog};
use rpc::message::HostEventKind;
use serde_json::{Value, json};

use crate::bad_days::{alone, fill};
use crate::common::{Bench, blank, next, vm};
use crate::vm::metadata;

const SOON: Duration = Duration::from_secs(60);

/// Waits until the guest is shown stopped, for this reason.
async fn stopped(bench: &Bench, spec: &InstanceSpec, why: &str) -> InstanceStatus {
    let says = |s: &InstanceStatus| s.state == InstanceState::Paused && s.error.as_ref().is_some_and(|error| error.contains(why));
    bench.until(why, SOON, |h| says(&h.statuses[&spec.id])).await.statuses[&spec.id].clone()
}

/// A guest that writes to its disk as long as it runs.
fn writer() -> InstanceSpec {
    let mut spec = vm();
    let script = "#!/bin/sh\nn=0\nwhile dd if=/dev/urandom of=/home/cirros/$n bs=64k count=8 2>&1 && sync; do n=$((n + 1)); \
                  echo \"wrote-$n.\"; sleep 1; done\necho 'cannot write'\n";
    spec.metadata = metadata(script);
    spec
}

async fn wrote(bench: &Bench, spec: &InstanceSpec) -> usize {
    bench.console(spec).await.matches("wrote-").count()
}

/// Processor time that a process has used.
fn used(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<u64> = stat.rsplit_once(") ").unwrap().1.split(' ').map(|field| field.parse().unwrap_or_default()).collect();
    // Ticks of a hundredth of a second, in all kernels there are.
    Duration::from_millis(10 * (fields[11] + fields[12]))
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_asked_for_little() {
    const TIMES: u32 = 1000;
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    let paused = next(&spec, |s| s.power = Power::Paused);
    bench.want(&paused).await;
    let pid = bench.state(&paused, InstanceState::Paused).await.pid.unwrap().to_string();
    bench.stop().await;
    let Found::Machine(machine) = bench.hypervisor.find(&spec.id, None).await.unwrap() else { panic!("it does not answer") };
    let before = (used("self"), used(&pid));
    for _ in 0..TIMES {
        assert!(machine.answers().await);
    }
    let (ours, its) = ((used("self") - before.0) / TIMES, (used(&pid) - before.1) / TIMES);
    println!("a question and its answer: {ours:?} of a processor here, {its:?} in the guest's process");
    assert!(ours + its < Duration::from_millis(5), "a hundred guests are asked twenty times a second");
    drop(machine);
    bench.start().await;
    bench.clean(&[&paused]).await;
}

/// Nothing of what was wrong has reached the guest.
async fn goes_on(bench: &Bench, spec: &InstanceSpec, pid: Option<i32>) {
    assert_eq!(bench.state(spec, InstanceState::Running).await.pid, pid);
    let now = wrote(bench, spec).await;
    bench.console_shows(spec, "wrote-", now + 2).await;
    let log = bench.console(spec).await;
    assert!(!log.contains("I/O error") && !log.contains("cannot write"), "{log}");
    assert!(bench.heard.borrow().events.is_empty(), "{:?}", bench.heard.borrow().events);
}

#[test]
fn vm_on_a_full_disk_stands_still_until_there_is_room() {
    alone(async {
        let mut bench = Bench::qemu();
        let directory = bench.home.path().join("instances");
        std::fs::create_dir_all(&directory).unwrap();
        mount(Some("tmpfs"), &directory, Some("tmpfs"), MsFlags::empty(), Some("size=200m")).unwrap();
        bench.start().await;
        let spec = writer();
        bench.want(&spec).await;
        let pid = bench.state(&spec, InstanceState::Running).await.pid;
        bench.console_shows(&spec, "wrote-2.", 1).await;
        fill(&directory);
        stopped(&bench, &spec, "disk root could not be written: No space left on device").await;
        // Let go on in vain, it is not shown as one that runs.
        let runs = bench.until("tried", Duration::from_secs(13), |h| h.statuses[&spec.id].state == InstanceState::Running);
        assert!(tokio::time::timeout(Duration::from_secs(12), runs).await.is_err());
        std::fs::remove_file(directory.join("ballast")).unwrap();
        goes_on(&bench, &spec, pid).await;
        bench.clean(&[&spec]).await;
        umount2(&directory, MntFlags::MNT_DETACH).unwrap();
    });
}

/// Has the process' next write to a disk fail with EIO. The agent must be away: the monitor has one place.
async fn write_fails_once(monitor: &Path) {
    let (stream, _) = qmp::call(monitor).await.unwrap();
    let (qmp, _events) = qmp::greet(stream, SOON).await.unwrap();
    let execute = async |command: &str, arguments: Value| qmp.execute(command, arguments, SOON).await.unwrap();
    let error = json!({"event": "none", "iotype": "write", "errno": 5, "once": true});
    execute("blockdev-add", json!({"driver": "blkdebug", "node-name": "faulty", "image": "disk-root-file", "inject-error": [error]})).await;
    let disk = json!({"driver": "qcow2", "node-name": "disk-root", "file": "faulty", "discard": "unmap", "backing": "disk-root-base"});
    execute("blockdev-reopen", json!({"options": [disk]})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_whose_disk_fails_stands_still_and_is_tried_again() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = writer();
    bench.want(&spec).await;
    let pid = bench.state(&spec, InstanceState::Running).await.pid;
    bench.console_shows(&spec, "wrote-2.", 1).await;
    bench.stop().await;
    write_fails_once(&bench.directory(&spec).join("qmp.sock")).await;
    bench.start().await;
    // Whether the agent was there to hear of it, or came later and finds it so.
    stopped(&bench, &spec, "could not be").await;
    goes_on(&bench, &spec, pid).await;
    bench.clean(&[&spec]).await;
}

/// A guest that sets its watchdog, two times a second, and does not wind it up. Its kernel has no driver for it: what a driver would
/// write to the device is written here.
fn negligent(action: Watchdog) -> InstanceSpec {
    let mut spec = vm();
    spec.machine.watchdog = action;
    let script = "#!/bin/sh\nsync\nfor device in /sys/bus/pci/devices/*; do\n\
                  [ \"$(cat $device/vendor)$(cat $device/device)\" = 0x80860x25ab ] || continue\n\
                  echo 'watchdog found'\nsleep 2\n\
                  printf '\\004\\000' | dd of=$device/config bs=2 seek=48 conv=notrunc 2>&1\n\
                  printf '\\002' | dd of=$device/config bs=1 seek=104 conv=notrunc 2>&1\n\
                  done\nsleep 8\necho 'time is over'\n";
    spec.metadata = metadata(script);
    spec
}

/// What has been told of a guest's watchdog or kernel.
fn told(bench: &Bench) -> Vec<String> {
    let cause = |kind: &HostEventKind| match kind {
        HostEventKind::InstancePanicked { cause, .. } => Some(cause.clone()),
        _ => None,
    };
    bench.heard.borrow().events.iter().filter_map(|(_, event)| cause(&event.kind)).collect()
}

async fn neglected(action: Watchdog) -> (Bench, InstanceSpec, Option<i32>) {
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = negligent(action);
    bench.want(&spec).await;
    let pid = bench.state(&spec, InstanceState::Running).await.pid;
    let sign = if action == Watchdog::None { "time is over" } else { "watchdog found" };
    bench.console_shows(&spec, sign, 1).await;
    (bench, spec, pid)
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_reset_by_its_watchdog() {
    let (mut bench, spec, pid) = neglected(Watchdog::Reset).await;
    bench.event("told", |k| matches!(k, HostEventKind::InstancePanicked { .. })).await;
    // It boots again, in the same process, and has not died.
    bench.console_shows(&spec, "is up", 2).await;
    assert_eq!(bench.state(&spec, InstanceState::Running).await.pid, pid);
    assert_eq!((told(&bench), bench.heard.borrow().events.len()), (vec!["watchdog: reset".to_string()], 1));
    bench.clean(&[&spec]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_switched_off_by_its_watchdog() {
    let (mut bench, spec, _) = neglected(Watchdog::Poweroff).await;
    bench.event("told", |k| matches!(k, HostEventKind::InstanceShutDown { .. })).await;
    assert_eq!(bench.state(&spec, InstanceState::Stopped).await.pid, None);
    assert_eq!(told(&bench), ["watchdog"]);
    bench.clean(&[&spec]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_is_paused_by_its_watchdog() {
    let (mut bench, spec, pid) = neglected(Watchdog::Pause).await;
    assert_eq!(stopped(&bench, &spec, "the guest's watchdog fired").await.pid, pid);
    bench.event("told", |k| matches!(k, HostEventKind::InstancePanicked { .. })).await;
    assert_eq!(told(&bench), ["watchdog: paused"]);
    bench.clean(&[&spec]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_without_a_watchdog_finds_none() {
    let (mut bench, spec, pid) = neglected(Watchdog::None).await;
    assert!(!bench.console(&spec).await.contains("watchdog found"));
    assert_eq!(bench.state(&spec, InstanceState::Running).await.pid, pid);
    assert!(bench.heard.borrow().events.is_empty());
    bench.clean(&[&spec]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_whose_kernel_panics_is_told_of_and_started_again() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let mut spec = vm();
    spec.metadata = metadata("#!/bin/sh\nsync\necho c >/proc/sysrq-trigger\n");
    bench.want(&spec).await;
    let pid = bench.state(&spec, InstanceState::Running).await.pid;
    let died =
        |k: &HostEventKind| matches!(k, HostEventKind::InstanceDied { reason, will_recover: true, .. } if reason.contains("panicked"));
    bench.until("died", Duration::from_secs(150), |h| h.events.iter().any(|(_, e)| died(&e.kind))).await;
    assert_eq!(told(&bench), ["kernel panic"]);
    bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { attempt: 1, .. })).await;
    bench.console_shows(&spec, "is up", 1).await;
    assert_ne!(bench.state(&spec, InstanceState::Running).await.pid, pid);
    bench.clean(&[&spec]).await;
}
