//! Volumes in storage that two hosts see: passed from one to the other, by both of their words or when one is certain to be gone, and with
//! real guests that run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host::simulated::SimulatedHypervisor;
use rpc::instance::{InstanceState, Power, Recovery, Stage};
use rpc::volume::{Role, Stored, VolumeSource, VolumeSpec, VolumeState};

use crate::common::{Bench, Heard, blank, guest_image, next, volume, volume_disk, volume_next};
use crate::vm_moves::{Move, counting, counts_past, said};

const SOON: Duration = Duration::from_secs(30);

struct Storage {
    directory: tempfile::TempDir,
    id: String,
}

impl Storage {
    fn new() -> Storage {
        let storage = Storage { directory: tempfile::tempdir().unwrap(), id: base::id::uuid() };
        storage.mark(&storage.id);
        storage
    }

    fn mark(&self, id: &str) {
        std::fs::write(self.directory.path().join("sturnus-storage"), id).unwrap();
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn stored(&self, role: Role) -> Option<Stored> {
        Some(Stored { storage: self.id.clone(), role })
    }

    /// A new volume there.
    fn volume(&self, source: VolumeSource) -> VolumeSpec {
        VolumeSpec { stored: self.stored(Role::Make), ..volume(source) }
    }

    /// The next document of one, for a host that is this to it.
    fn next(&self, spec: &VolumeSpec, role: Role) -> VolumeSpec {
        volume_next(spec, |v| v.stored = self.stored(role))
    }

    /// The document that has its files removed.
    fn erased(&self, spec: &VolumeSpec) -> VolumeSpec {
        VolumeSpec { stored: self.stored(Role::Keep), ..left(spec) }
    }

    fn files(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.path().join("volumes")).unwrap().map(|entry| entry.unwrap().path());
        // A simulated host keeps what a file held before beside it.
        all.filter(|path| path.extension().is_none_or(|end| end != "new")).collect()
    }

    fn simulated(&self) -> (Bench, SimulatedHypervisor) {
        let machine = SimulatedHypervisor::default();
        let copy = machine.clone();
        let mut bench = Bench::new(move |_| Arc::new(copy));
        bench.config.set("host.shared_storage", self.path().to_str().unwrap());
        (bench, machine)
    }
}

/// The document by which a host lets go of a volume.
fn left(spec: &VolumeSpec) -> VolumeSpec {
    rpc::volume::absent(&spec.id, spec.generation + 1)
}

/// Waits until a host says why it does not do what a volume's document says.
async fn complains(bench: &Bench, spec: &VolumeSpec, why: &str) {
    let says = |h: &Heard| h.volumes.get(&spec.id).and_then(|s| s.error.as_ref()).is_some_and(|error| error.contains(why));
    bench.until(why, SOON, says).await;
}

#[tokio::test]
async fn a_volume_is_passed_on_and_never_kept_by_two() {
    let storage = Storage::new();
    let ((mut one, _), (mut two, _)) = (storage.simulated(), storage.simulated());
    one.start().await;
    two.start().await;
    let snapshot = base::id::uuid();
    let first = storage.volume(VolumeSource::Blank);
    one.volume(&first).await;
    let first = volume_next(&first, |v| (v.snapshots, v.bytes) = (vec![snapshot.clone()], 2 << 30));
    one.volume(&first).await;
    let copy = storage.volume(VolumeSource::Volume { id: first.id.clone() });
    one.volume(&copy).await;

    // Whoever is told to keep it waits for the word of who keeps it.
    let mut now = storage.next(&first, Role::Keep);
    two.want_volume(&now).await;
    complains(&two, &now, "has not let go").await;
    one.volume(&left(&first)).await;
    let status = two.volume_state(&now, VolumeState::Ready).await;
    assert_eq!((status.bytes, &status.snapshots), (2 << 30, &vec![snapshot.clone()]));
    // What was made of it is a volume of its own, and stayed.
    let copy = volume_next(&copy, |v| v.bytes = 3 << 30);
    assert_eq!(one.volume(&copy).await.bytes, 3 << 30);

    let second = two.host_id();
    // The second one vanishes; only who knows that it is gone for certain takes what it keeps.
    two.stop().await;
    now = storage.next(&now, Role::Keep);
    one.want_volume(&now).await;
    complains(&one, &now, "has not let go").await;
    now = storage.next(&now, Role::Seize { from: base::id::uuid() });
    one.want_volume(&now).await;
    complains(&one, &now, "has not let go").await;
    now = storage.next(&now, Role::Seize { from: second });
    one.volume(&now).await;
    // It comes back with an old document, and with one that it had not heard of: nothing of it is done.
    two.start().await;
    complains(&two, &now, "has gone on").await;
    let stale = VolumeSpec { bytes: 9 << 30, ..storage.next(&now, Role::Keep) };
    two.want_volume(&stale).await;
    complains(&two, &now, "has not let go").await;
    two.volume(&left(&stale)).await;
    now = storage.next(&now, Role::Keep);
    assert_eq!(one.volume(&now).await.bytes, 2 << 30, "what the other one was told has changed nothing");

    // Letting go of what somebody else keeps takes nothing from them; what is erased is gone.
    one.volume(&storage.erased(&now)).await;
    let one_left = storage.files();
    assert_eq!(one_left.len(), 1, "the record of the copy: {one_left:?}");
    one.volume(&storage.erased(&copy)).await;
    assert_eq!(storage.files(), Vec::<PathBuf>::new());
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_host_that_lost_a_volume_while_it_ran_changes_nothing_of_it() {
    let storage = Storage::new();
    let ((mut one, _), (mut two, _)) = (storage.simulated(), storage.simulated());
    one.start().await;
    two.start().await;
    let first = storage.volume(VolumeSource::Blank);
    one.volume(&first).await;
    let now = storage.next(&first, Role::Seize { from: one.host_id() });
    two.volume(&now).await;
    // An agent that was cut off, and hears of a snapshot that was wanted before.
    let stale = volume_next(&first, |v| v.snapshots = vec![base::id::uuid()]);
    one.want_volume(&stale).await;
    complains(&one, &stale, "not").await;
    let now = volume_next(&now, |_| {});
    assert!(two.volume(&now).await.snapshots.is_empty());
    one.volume(&left(&stale)).await;
    two.volume(&storage.erased(&now)).await;
    assert_eq!(storage.files(), Vec::<PathBuf>::new());
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_bare_directory_or_another_storage_is_not_the_storage() {
    let storage = Storage::new();
    std::fs::remove_file(storage.path().join("sturnus-storage")).unwrap();
    let (mut bench, _) = storage.simulated();
    bench.start().await;
    let first = storage.volume(VolumeSource::Blank);
    bench.want_volume(&first).await;
    complains(&bench, &first, "there is no sturnus-storage").await;
    assert_eq!(std::fs::read_dir(storage.path()).unwrap().count(), 0);
    storage.mark(&base::id::uuid());
    complains(&bench, &first, "is the shared storage").await;
    storage.mark(&storage.id);
    bench.volume_state(&first, VolumeState::Ready).await;
    bench.volume(&storage.erased(&first)).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_guest_gets_only_what_its_own_host_keeps() {
    let storage = Storage::new();
    let ((mut one, machine), (mut two, other)) = (storage.simulated(), storage.simulated());
    one.start().await;
    two.start().await;
    let first = storage.volume(VolumeSource::Blank);
    one.volume(&first).await;
    let mut spec = blank();
    spec.disks.push(volume_disk(&first, Some(0)));
    one.want(&spec).await;
    one.state(&spec, InstanceState::Running).await;
    // It is looked at there, for a guest that comes running; one that is started waits.
    let visited = storage.next(&first, Role::Visit);
    two.volume(&visited).await;
    let mut same = blank();
    same.disks.push(volume_disk(&first, Some(0)));
    two.want(&same).await;
    two.state(&next(&same, |s| s.generation = 0), InstanceState::Building).await;
    // The host that keeps it lets go when its guest has.
    let kept = storage.next(&visited, Role::Keep);
    two.want_volume(&kept).await;
    complains(&two, &kept, "has not let go").await;
    one.want_volume(&left(&first)).await;
    complains(&one, &first, "open").await;
    assert!(other.running().is_empty() && machine.running().len() == 1);
    let gone = next(&spec, |s| s.power = Power::Absent);
    one.want(&gone).await;
    one.state(&gone, InstanceState::Absent).await;
    one.volume_state(&left(&first), VolumeState::Absent).await;
    two.state(&same, InstanceState::Running).await;
    assert_eq!(other.plugged(&same.id).len(), 1);
    two.clean(&[&same]).await;
    one.stop().await;
}

/// The root disk of a guest that counts.
async fn booted(storage: &Storage, bench: &Bench, data: Option<&VolumeSpec>) -> (VolumeSpec, rpc::instance::InstanceSpec) {
    let root = storage.volume(VolumeSource::Image { sha256: guest_image().0, format: "qcow2".into() });
    bench.volume(&root).await;
    let mut spec = counting();
    spec.disks = vec![volume_disk(&root, Some(0))];
    spec.disks.extend(data.map(|data| volume_disk(data, None)));
    spec.recovery = Recovery { elsewhere: true, ..spec.recovery };
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    (root, spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_goes_to_another_host_and_its_shared_root_volume_stays_where_it_is() {
    let storage = Storage::new();
    let (mut one, mut two) = (Bench::qemu_sharing(storage.path()), Bench::qemu_sharing(storage.path()));
    one.start().await;
    two.start().await;
    let (root, spec) = booted(&storage, &one, None).await;
    let before = counts_past(&one, &spec, 2).await;
    let visited = storage.next(&root, Role::Visit);
    two.volume(&visited).await;
    let moves = Move::new();
    let (here, doors) = moves.here(&spec, &one, &two).await;
    let away = moves.away(&here, &doors);
    let sent = std::time::Instant::now();
    one.want(&away).await;
    let left_behind = said(&one, &away, |stage| matches!(stage, Stage::Left | Stage::Failed(_))).await;
    let moving = left_behind.moving.clone().unwrap();
    assert_eq!(moving.stage, Stage::Left, "{left_behind:?}");
    assert_eq!(moving.disks.total, 0, "nothing of the volume is copied");
    let arrived = said(&two, &here, |stage| matches!(stage, Stage::Arrived | Stage::Failed(_))).await;
    assert_eq!((arrived.state, arrived.moving.unwrap().stage), (InstanceState::Running, Stage::Arrived));
    println!("moved in {:?}", sent.elapsed());
    let stays = next(&away, |s| s.moving = None);
    two.want(&stays).await;
    two.state(&stays, InstanceState::Running).await;
    let kept = storage.next(&visited, Role::Keep);
    two.want_volume(&kept).await;
    let mut gone = stays.clone();
    gone.power = Power::Absent;
    one.want(&gone).await;
    one.state(&gone, InstanceState::Absent).await;
    one.volume(&left(&root)).await;
    two.volume_state(&kept, VolumeState::Ready).await;
    let counted = tokio::time::timeout(Duration::from_secs(140), counts_past(&two, &spec, before)).await;
    let log = std::fs::read_to_string(two.directory(&spec).join("qemu.log")).unwrap_or_default();
    assert!(counted.is_ok(), "{:?}: {log}", two.heard.borrow().statuses[&spec.id]);
    assert_eq!(two.console(&spec).await.matches("Linux version").count(), 0, "it was never booted here");
    // Now it is all the second host's: a snapshot with the guest running, and a new boot from what it has written.
    let frozen = volume_next(&kept, |v| v.snapshots = vec![base::id::uuid()]);
    two.volume(&frozen).await;
    let again = next(&stays, |s| {
        s.boot += 1;
        s.restart = rpc::instance::Restart::Hard;
    });
    two.want(&again).await;
    two.console_shows(&again, "bench is up", 1).await;
    two.clean(&[&again]).await;
    two.start().await;
    two.volume(&storage.erased(&frozen)).await;
    assert_eq!(storage.files(), Vec::<PathBuf>::new());
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_of_a_host_that_died_comes_up_elsewhere_with_what_it_wrote() {
    let storage = Storage::new();
    let (mut one, mut two) = (Bench::qemu_sharing(storage.path()), Bench::qemu_sharing(storage.path()));
    one.start().await;
    two.start().await;
    let data = storage.volume(VolumeSource::Blank);
    one.volume(&data).await;
    // The guest writes to its second disk when it boots first.
    let (root, spec) = booted(&storage, &one, Some(&data)).await;
    counts_past(&one, &spec, 2).await;
    let pid = one.heard.borrow().statuses[&spec.id].pid.unwrap();
    let died = one.host_id();
    one.cut().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();

    let (root, data) = (&root, &data);
    let seized = |volume| storage.next(volume, Role::Seize { from: died.clone() });
    let (root, data) = (seized(root), seized(data));
    let began = std::time::Instant::now();
    for volume in [&root, &data] {
        two.volume(volume).await;
    }
    let there = next(&spec, |s| s.boot += 1);
    two.want(&there).await;
    two.state(&there, InstanceState::Running).await;
    println!("runs elsewhere after {:?}", began.elapsed());
    // It boots from the disk that it had.
    two.console_shows(&there, "bench is up", 1).await;
    two.clean(&[&there]).await;
    let head = storage.files().into_iter().find(|path| {
        let text = path.file_name().unwrap().to_string_lossy().into_owned();
        text.starts_with('s') && text.ends_with(".qcow2")
    });
    let raw = storage.path().join("data.raw");
    let done = std::process::Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(head.unwrap()).arg(&raw).status().unwrap();
    assert!(done.success());
    let mut bytes = vec![0; 512];
    std::io::Read::read_exact(&mut std::fs::File::open(&raw).unwrap(), &mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_string();
    assert_eq!(text, format!("precious {}", spec.id));
    // The host that died comes back: it does nothing with what is another one's, and lets go.
    one.start().await;
    let gone = next(&there, |s| s.power = Power::Absent);
    one.want(&gone).await;
    one.state(&gone, InstanceState::Absent).await;
    for volume in [&root, &data] {
        one.volume(&left(volume)).await;
    }
    one.stop().await;
}
