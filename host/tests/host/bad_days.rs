//! A host whose disk is full, or can only be read, or that has lost what it knew: what it says, and what becomes of its guests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host::simulated::SimulatedHypervisor;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rpc::instance::{InstanceSpec, InstanceState, Power};
use rpc::message::HostEventKind;

use crate::common::{Bench, Heard, blank, next};

const SOON: Duration = Duration::from_secs(60);

fn bench() -> (Bench, SimulatedHypervisor) {
    let machine = SimulatedHypervisor::default();
    let copy = machine.clone();
    (Bench::new(move |_| Arc::new(copy)), machine)
}

/// Runs a test where what it mounts is its own.
pub fn alone(test: impl Future<Output = ()>) {
    unshare(CloneFlags::CLONE_NEWNS).expect("tests that mount run as root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Gives the host a disk of one megabyte for what it keeps.
fn small_disk(bench: &Bench) -> PathBuf {
    let directory = bench.home.path().join("host");
    std::fs::create_dir_all(&directory).unwrap();
    mount(Some("tmpfs"), &directory, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
    directory
}

/// Takes all the room that is left.
pub fn fill(directory: &Path) {
    let mut file = std::fs::File::options().create(true).append(true).open(directory.join("ballast")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

async fn told(bench: &Bench, spec: &InstanceSpec, why: &str) {
    let id = spec.id.clone();
    let fits = |h: &Heard| h.statuses.get(&id).and_then(|s| s.error.as_ref()).is_some_and(|error| error.contains(why));
    bench.until(&format!("{} is told of: {why}", spec.id), SOON, fits).await;
}

async fn until(what: &str, mut fits: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !fits() {
        assert!(began.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn on_a_full_disk_guests_run_on_what_is_new_is_refused_with_its_reason_and_what_is_to_go_goes() {
    alone(async {
        let (mut bench, machine) = bench();
        let disk = small_disk(&bench);
        bench.start().await;
        let (stays, goes, new) = (blank(), blank(), blank());
        for spec in [&stays, &goes] {
            bench.want(spec).await;
            bench.state(spec, InstanceState::Running).await;
        }
        fill(&disk);
        bench.want(&new).await;
        told(&bench, &new, "No space left").await;
        let off = next(&stays, |s| s.power = Power::Stopped);
        bench.want(&off).await;
        told(&bench, &stays, "No space left").await;
        let both = |one: &InstanceSpec, other: &InstanceSpec| {
            let mut ids = vec![one.id.clone(), other.id.clone()];
            ids.sort();
            ids
        };
        let running = || {
            let mut ids = machine.running();
            ids.sort();
            ids
        };
        assert_eq!(running(), both(&stays, &goes));
        // One that is to be gone makes room.
        let gone = next(&goes, |s| s.power = Power::Absent);
        bench.want(&gone).await;
        bench.state(&gone, InstanceState::Absent).await;
        fill(&disk);
        // The agent starts with what there is, and takes up what runs.
        bench.stop().await;
        fill(&disk);
        bench.start().await;
        let starts = machine.starts();
        bench.state(&stays, InstanceState::Running).await;
        assert_eq!(machine.starts(), starts);
        // A death cannot be noted down, and is told as soon as it can.
        assert!(machine.kill(&stays.id, "killed by SIGKILL"));
        told(&bench, &stays, "No space left").await;
        std::fs::remove_file(disk.join("ballast")).unwrap();
        bench.event("recovered", |k| matches!(k, HostEventKind::InstanceRecovered { instance_id, .. } if *instance_id == stays.id)).await;
        bench.want(&off).await;
        bench.want(&new).await;
        bench.state(&off, InstanceState::Stopped).await;
        bench.state(&new, InstanceState::Running).await;
        assert_eq!(machine.running(), std::slice::from_ref(&new.id));
        bench.stop().await;
        umount2(&disk, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn on_a_disk_that_can_only_be_read_guests_run_on_and_what_is_new_is_refused_with_its_reason() {
    alone(async {
        let (mut bench, machine) = bench();
        bench.start().await;
        let (stays, new) = (blank(), blank());
        bench.want(&stays).await;
        bench.state(&stays, InstanceState::Running).await;
        let disk = bench.home.path().join("host");
        // What was done for it is noted down after it was told.
        let journal = disk.join(format!("instances/{}.state.json", stays.id));
        until("its process is noted down", || std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"process\":{"))).await;
        mount(Some(&disk), &disk, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let only_read = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &disk, None::<&str>, only_read, None::<&str>).unwrap();
        bench.want(&new).await;
        told(&bench, &new, "Read-only file system").await;
        // Its document cannot be forgotten: it is not said to be gone, or it might come back here after it was started elsewhere.
        let gone = next(&stays, |s| s.power = Power::Absent);
        bench.want(&gone).await;
        told(&bench, &stays, "Read-only file system").await;
        until("its process has ended", || machine.running().is_empty()).await;
        assert_ne!(bench.heard.borrow().statuses[&stays.id].state, InstanceState::Absent);
        umount2(&disk, MntFlags::MNT_DETACH).unwrap();
        bench.state(&gone, InstanceState::Absent).await;
        bench.state(&new, InstanceState::Running).await;
        assert_eq!(machine.running(), std::slice::from_ref(&new.id));
        bench.stop().await;
    });
}

#[tokio::test]
async fn a_host_that_lost_what_it_knew_is_the_same_host_and_takes_up_its_guests() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let spec = blank();
    bench.want(&spec).await;
    let pid = bench.state(&spec, InstanceState::Running).await.pid;
    let id = bench.host_id();
    bench.stop().await;
    std::fs::remove_dir_all(bench.home.path().join("host")).unwrap();
    bench.id = Some(id.clone());
    bench.start().await;
    assert_eq!(bench.host_id(), id);
    // Nobody has to start it again.
    assert_eq!(machine.running(), std::slice::from_ref(&spec.id));
    let named = next(&spec, |s| s.name = "again".into());
    bench.want(&named).await;
    assert_eq!(bench.state(&named, InstanceState::Running).await.pid, pid);
    assert_eq!(machine.starts(), 1);
    bench.stop().await;
}
