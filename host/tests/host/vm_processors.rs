//! Real guests with processors of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rpc::instance::{Dedicated, InstanceSpec, InstanceState, Power};

use crate::common::{Bench, next, vm};

/// The processors that each thread of a process may run on, by the thread's name; those of vCPUs are `CPU 0/TCG` and so on.
fn threads(pid: i32) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let Ok(status) = std::fs::read_to_string(entry.unwrap().path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_string();
        let name = field("Name:");
        let name = if name.starts_with("CPU ") { name } else { "other".into() };
        all.entry(name).or_default().insert(field("Cpus_allowed_list:"));
    }
    all
}

fn places(pid: i32, vcpus: &[(&str, &str)], others: &str) {
    let others = [("other", others)];
    let wanted = vcpus.iter().chain(&others).map(|(name, cpus)| (name.to_string(), BTreeSet::from([cpus.to_string()])));
    assert_eq!(threads(pid), wanted.collect::<BTreeMap<_, _>>());
}

fn dedicated(vcpus: u32, offline: &[u32]) -> InstanceSpec {
    InstanceSpec { vcpus, dedicated: Some(Dedicated { offline: offline.iter().copied().collect() }), ..vm() }
}

/// This machine's first two processors; a machine with one has nothing to tell apart.
fn two() -> Option<Bench> {
    let count = std::thread::available_parallelism().unwrap().get();
    let mut bench = Bench::qemu();
    bench.config.set("host.cpu_dedicated_set", "0-1");
    (count >= 2).then_some(bench)
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_has_processors_for_itself() {
    let Some(mut bench) = two() else { return };
    bench.start().await;
    let spec = dedicated(2, &[]);
    bench.want(&spec).await;
    let pid = bench.state(&spec, InstanceState::Running).await.pid.unwrap();
    places(pid, &[("CPU 0/TCG", "0"), ("CPU 1/TCG", "1")], "0-1");

    // There are no more, and the second one says so.
    let other = dedicated(1, &[]);
    bench.want(&other).await;
    let failed = bench.state(&other, InstanceState::Failed).await;
    assert!(failed.error.as_ref().unwrap().contains("0 free"), "{failed:?}");

    // It does without one, which is free for the other then.
    let fewer = next(&spec, |s| s.dedicated = Some(Dedicated { offline: [1].into() }));
    bench.want(&fewer).await;
    bench.state(&fewer, InstanceState::Running).await;
    places(pid, &[("CPU 0/TCG", "0"), ("CPU 1/TCG", "0")], "0");
    let other = next(&other, |_| {});
    bench.want(&other).await;
    let of_other = bench.state(&other, InstanceState::Running).await.pid.unwrap();
    places(of_other, &[("CPU 0/TCG", "1")], "1");

    // None is left for it to have both again: it goes on with one, and that is told.
    let both = next(&fewer, |s| s.dedicated = Some(Dedicated::default()));
    bench.want(&both).await;
    let told = bench.state(&both, InstanceState::Running).await;
    assert!(told.error.as_ref().is_some_and(|why| why.contains("0 free")), "{told:?}");
    places(pid, &[("CPU 0/TCG", "0"), ("CPU 1/TCG", "0")], "0");
    bench.clean(&[&both, &other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_keeps_its_processors_through_stops_and_the_hosts_restart() {
    let Some(mut bench) = two() else { return };
    bench.start().await;
    let (spec, other) = (dedicated(1, &[]), dedicated(1, &[]));
    bench.want(&spec).await;
    let pid = bench.state(&spec, InstanceState::Running).await.pid.unwrap();
    places(pid, &[("CPU 0/TCG", "0")], "0");
    // Moved by somebody while the agent is away.
    bench.stop().await;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread: i32 = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let mut all = nix::sched::CpuSet::new();
        (0..2).for_each(|cpu| all.set(cpu).unwrap());
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(thread), &all).unwrap();
    }
    bench.start().await;
    let limit = Instant::now() + Duration::from_secs(20);
    while threads(pid).values().any(|cpus| !cpus.iter().eq(["0"])) {
        assert!(Instant::now() < limit, "{:?}", threads(pid));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Off, it has its processor yet.
    let off = next(&spec, |s| (s.power, s.shutdown_seconds) = (Power::Stopped, 0));
    bench.want(&off).await;
    bench.state(&off, InstanceState::Stopped).await;
    bench.want(&other).await;
    let of_other = bench.state(&other, InstanceState::Running).await.pid.unwrap();
    places(of_other, &[("CPU 0/TCG", "1")], "1");
    let on = next(&off, |s| (s.power, s.boot) = (Power::Running, s.boot + 1));
    bench.want(&on).await;
    let pid = bench.state(&on, InstanceState::Running).await.pid.unwrap();
    places(pid, &[("CPU 0/TCG", "0")], "0");
    bench.clean(&[&on, &other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_that_shares_stays_where_sharing_is() {
    let Some(mut bench) = two() else { return };
    bench.config.set("host.cpu_dedicated_set", "1");
    bench.config.set("host.cpu_shared_set", "0");
    bench.start().await;
    let (plain, own) = (vm(), dedicated(1, &[]));
    bench.want(&plain).await;
    bench.want(&own).await;
    let pid = bench.state(&plain, InstanceState::Running).await.pid.unwrap();
    places(pid, &[("CPU 0/TCG", "0")], "0");
    let pid = bench.state(&own, InstanceState::Running).await.pid.unwrap();
    places(pid, &[("CPU 0/TCG", "1")], "0");
    bench.clean(&[&plain, &own]).await;
}
