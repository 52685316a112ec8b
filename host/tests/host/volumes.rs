//! Volumes: their documents over simulated machines, crashes of the agent at any instant, and real ones in real guests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use host::hypervisor::RunState;
use host::simulated::SimulatedHypervisor;
use rpc::instance::{InstanceState, Power};
use rpc::message::{DiskPiece, Request, Response};
use rpc::volume::{Export, Head, Part, Parts, Revert, VolumeSource, VolumeSpec, VolumeState, part_key};

use crate::common::{Bench, Heard, blank, guest_image, next, vm, volume, volume_disk, volume_next};

fn bench() -> (Bench, SimulatedHypervisor) {
    let machine = SimulatedHypervisor::default();
    let copy = machine.clone();
    (Bench::new(move |_| Arc::new(copy)), machine)
}

fn gone(spec: &VolumeSpec) -> VolumeSpec {
    rpc::volume::absent(&spec.id, spec.generation + 1000)
}

#[tokio::test]
async fn layers_stay_as_long_as_something_needs_them() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let first = volume(VolumeSource::Blank);
    assert_eq!(bench.volume(&first).await.bytes, 1 << 30);
    assert_eq!(machine.layer_files().len(), 1);
    let snapshot = base::id::uuid();
    let first = volume_next(&first, |v| v.snapshots = vec![snapshot.clone()]);
    assert_eq!(bench.volume(&first).await.snapshots, std::slice::from_ref(&snapshot));
    let second = VolumeSpec { bytes: 2 << 30, ..volume(VolumeSource::Snapshot { id: snapshot.clone() }) };
    let third = volume(VolumeSource::Volume { id: second.id.clone() });
    assert_eq!(bench.volume(&second).await.bytes, 2 << 30);
    assert_eq!(bench.volume(&third).await.bytes, 2 << 30, "a copy is at least as large as what it is a copy of");
    // Two of the first, the frozen and the new head of the second, the third.
    assert_eq!(machine.layer_files().len(), 5);
    let first = volume_next(&first, |v| v.snapshots.clear());
    bench.volume(&first).await;
    assert_eq!(machine.layer_files().len(), 5, "others lie over the snapshot's layer");
    bench.volume(&gone(&first)).await;
    bench.volume(&gone(&second)).await;
    assert_eq!(machine.layer_files().len(), 3, "the third lies over two");
    bench.volume(&gone(&third)).await;
    assert_eq!(machine.layer_files(), Vec::<String>::new());
    bench.stop().await;
}

#[tokio::test]
async fn what_cannot_be_made_says_so_and_leaves_nothing() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let orphan = volume(VolumeSource::Snapshot { id: base::id::uuid() });
    bench.want_volume(&orphan).await;
    assert!(bench.volume_state(&orphan, VolumeState::Failed).await.error.unwrap().contains("Snapshot"));
    machine.trouble(|t| t.layers_fail.push_back("no space".into()));
    let unlucky = volume(VolumeSource::Blank);
    bench.want_volume(&unlucky).await;
    assert!(bench.volume_state(&unlucky, VolumeState::Failed).await.error.unwrap().contains("no space"));
    // A newer document is tried afresh.
    let again = volume_next(&unlucky, |_| {});
    bench.volume(&again).await;
    // An older one is ignored.
    bench.want_volume(&VolumeSpec { absent: true, ..unlucky }).await;
    bench.volume(&gone(&orphan)).await;
    assert_eq!(machine.layer_files().len(), 1);
    bench.volume(&gone(&again)).await;
    assert_eq!(machine.layer_files(), Vec::<String>::new());
    bench.stop().await;
}

#[tokio::test]
async fn volumes_come_and_go_in_a_running_guest() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let (a, b) = (volume(VolumeSource::Blank), volume(VolumeSource::Blank));
    bench.volume(&a).await;
    bench.volume(&b).await;
    let mut spec = blank();
    spec.disks.push(volume_disk(&a, Some(0)));
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    let spec = next(&spec, |s| s.disks.push(volume_disk(&b, None)));
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    assert_eq!(machine.plugged(&spec.id).len(), 2);

    // A snapshot with the guest going on: its writes go to a new layer.
    let before = machine.plugged(&spec.id)[&b.id].clone();
    let b = volume_next(&b, |v| (v.snapshots, v.bytes) = (vec![base::id::uuid()], 3 << 30));
    assert_eq!(bench.volume(&b).await.bytes, 3 << 30);
    assert_ne!(machine.plugged(&spec.id)[&b.id], before);

    // What a guest has open is not removed, and no other guest gets it.
    bench.want_volume(&gone(&b)).await;
    let waiting = |h: &Heard| h.volumes[&b.id].error.as_ref().is_some_and(|e| e.contains("open"));
    bench.until("in use", Duration::from_secs(5), waiting).await;
    let mut other = blank();
    other.disks.push(volume_disk(&a, Some(0)));
    bench.want(&other).await;
    assert!(bench.state(&other, InstanceState::Failed).await.error.unwrap().contains("in use"));

    // Adopted with what it has, by an agent that has been started anew.
    bench.stop().await;
    bench.start().await;
    bench.state(&spec, InstanceState::Running).await;
    machine.trouble(|t| t.clinging = true);
    let out = next(&spec, |s| drop(s.disks.pop()));
    bench.want(&out).await;
    let clings = |h: &Heard| h.statuses[&out.id].error.as_ref().is_some_and(|e| e.contains("let go"));
    bench.until("clings", Duration::from_secs(5), clings).await;
    machine.trouble(|t| t.clinging = false);
    bench.state(&out, InstanceState::Running).await;
    // The removal that was wanted all along; a controller says so again in each session.
    bench.want_volume(&gone(&b)).await;
    bench.volume_state(&gone(&b), VolumeState::Absent).await;
    let absent = next(&out, |s| s.power = Power::Absent);
    bench.want(&absent).await;
    bench.state(&absent, InstanceState::Absent).await;
    bench.volume(&gone(&a)).await;
    assert_eq!(machine.layer_files(), Vec::<String>::new());
    bench.stop().await;
}

#[tokio::test]
async fn several_guests_have_a_shared_volume() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let shared = VolumeSpec { shared: true, ..volume(VolumeSource::Blank) };
    bench.volume(&shared).await;
    let guest = || {
        let mut spec = blank();
        spec.disks.push(volume_disk(&shared, None));
        spec
    };
    // One starts with it, the other gets it later.
    let (one, two) = (guest(), blank());
    bench.want(&one).await;
    bench.want(&two).await;
    bench.state(&one, InstanceState::Running).await;
    bench.state(&two, InstanceState::Running).await;
    let two = next(&two, |s| s.disks.push(volume_disk(&shared, None)));
    bench.want(&two).await;
    bench.state(&two, InstanceState::Running).await;
    let head = machine.plugged(&one.id)[&shared.id].clone();
    assert_eq!((head.as_str(), head.starts_with('r')), (machine.plugged(&two.id)[&shared.id].as_str(), true), "the same raw layer");

    // What is frozen is a copy; nobody's writes go elsewhere, and all grow.
    let snapshot = base::id::uuid();
    let shared = volume_next(&shared, |v| (v.snapshots, v.bytes) = (vec![snapshot.clone()], 2 << 30));
    assert_eq!(bench.volume(&shared).await.bytes, 2 << 30);
    assert_eq!(machine.layer_files().len(), 2);
    let copy = volume(VolumeSource::Volume { id: shared.id.clone() });
    bench.volume(&copy).await;
    for guest in [&one, &two] {
        assert_eq!(machine.plugged(&guest.id)[&shared.id], head);
        bench.state(guest, InstanceState::Running).await;
    }
    let until = Instant::now() + Duration::from_secs(20);
    while [&one, &two].iter().any(|g| machine.state(&g.id) != Some(RunState::Running)) {
        assert!(Instant::now() < until, "they do not go on after they stood still");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // An agent that is started anew finds both.
    bench.stop().await;
    bench.start().await;
    bench.state(&one, InstanceState::Running).await;
    bench.state(&two, InstanceState::Running).await;
    bench.want_volume(&gone(&shared)).await;
    let waiting = |h: &Heard| h.volumes[&shared.id].error.as_ref().is_some_and(|e| e.contains("open"));
    bench.until("in use", Duration::from_secs(20), waiting).await;
    for guest in [&one, &two] {
        let absent = next(guest, |s| s.power = Power::Absent);
        bench.want(&absent).await;
        bench.state(&absent, InstanceState::Absent).await;
    }
    bench.volume_state(&gone(&shared), VolumeState::Absent).await;
    bench.volume(&gone(&copy)).await;
    assert_eq!(machine.layer_files(), Vec::<String>::new());
    bench.stop().await;
}

#[tokio::test]
async fn a_volume_becomes_shared_and_alone_again() {
    let (mut bench, machine) = bench();
    bench.start().await;
    let snapshot = base::id::uuid();
    let v = volume_next(&volume(VolumeSource::Blank), |v| v.snapshots = vec![snapshot.clone()]);
    bench.volume(&v).await;
    let raw = || machine.layer_files().iter().filter(|l| l.starts_with('r')).count();
    let v = volume_next(&v, |v| v.shared = true);
    bench.volume(&v).await;
    assert_eq!((machine.layer_files().len(), raw()), (2, 1), "the snapshot's layer, and a copy of what lay over it");
    // Going back gives another raw one.
    let v = volume_next(&v, |v| v.revert = Some(Revert { serial: 1, snapshot: snapshot.clone(), image: None }));
    bench.volume(&v).await;
    assert_eq!((machine.layer_files().len(), raw()), (2, 1));
    let v = volume_next(&v, |v| v.shared = false);
    bench.volume(&v).await;
    let v = volume_next(&v, |v| v.snapshots.push(base::id::uuid()));
    bench.volume(&v).await;
    assert_eq!((machine.layer_files().len(), raw()), (3, 1), "frozen without a copy");
    let v = volume_next(&v, |v| (v.shared, v.snapshots) = (true, vec![]));
    bench.volume(&v).await;
    assert_eq!((machine.layer_files().len(), raw()), (1, 1));
    bench.volume(&gone(&v)).await;
    assert_eq!(machine.layer_files(), Vec::<String>::new());
    bench.stop().await;
}

/// As below, of a volume that two guests have and that is copied.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_a_shared_volume_becomes_what_is_wanted() {
    for instant in 0..12u64 {
        let (mut bench, machine) = bench();
        bench.start().await;
        let base = VolumeSpec { shared: true, ..volume(VolumeSource::Blank) };
        bench.volume(&base).await;
        let guests: Vec<_> = (0..2)
            .map(|_| {
                let mut spec = blank();
                spec.disks.push(volume_disk(&base, None));
                spec
            })
            .collect();
        for guest in &guests {
            bench.want(guest).await;
            bench.state(guest, InstanceState::Running).await;
        }
        machine.trouble(|t| t.delay = Duration::from_millis(2));
        let snapshot = base::id::uuid();
        let base = volume_next(&base, |v| (v.snapshots, v.bytes) = (vec![snapshot.clone()], 2 << 30));
        let copy = VolumeSpec { shared: instant % 3 == 0, ..volume(VolumeSource::Volume { id: base.id.clone() }) };
        bench.want_volume(&base).await;
        bench.want_volume(&copy).await;
        tokio::time::sleep(Duration::from_millis(instant * 2)).await;
        bench.cut().await;
        if instant % 2 == 0 {
            machine.kill(&guests[0].id, "also killed");
        }
        bench.start().await;
        bench.want_volume(&base).await;
        bench.want_volume(&copy).await;
        let status = bench.volume_state(&base, VolumeState::Ready).await;
        assert_eq!((status.bytes, status.snapshots), (2 << 30, vec![snapshot.clone()]));
        bench.volume_state(&copy, VolumeState::Ready).await;
        for guest in &guests {
            bench.state(guest, InstanceState::Running).await;
        }
        let until = Instant::now() + Duration::from_secs(20);
        while guests.iter().any(|g| machine.state(&g.id) != Some(RunState::Running)) {
            assert!(Instant::now() < until, "cut after {instant}: they stand still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for guest in &guests {
            let absent = next(guest, |s| s.power = Power::Absent);
            bench.want(&absent).await;
            bench.state(&absent, InstanceState::Absent).await;
        }
        bench.volume(&gone(&base)).await;
        bench.volume(&gone(&copy)).await;
        assert_eq!(machine.layer_files(), Vec::<String>::new(), "cut after {instant}");
        bench.stop().await;
    }
}

/// The agent is cut off at every few milliseconds of a volume's life and started anew; whatever came of it, the same
/// documents lead to the same end, and nothing is left over.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_a_volume_becomes_what_is_wanted() {
    for instant in 0..12u64 {
        let (mut bench, machine) = bench();
        bench.start().await;
        machine.trouble(|t| t.delay = Duration::from_millis(2));
        let base = volume(VolumeSource::Blank);
        bench.volume(&base).await;
        let mut spec = blank();
        spec.disks.push(volume_disk(&base, None));
        bench.want(&spec).await;
        bench.state(&spec, InstanceState::Running).await;
        let snapshot = base::id::uuid();
        let base = volume_next(&base, |v| (v.snapshots, v.bytes) = (vec![snapshot.clone()], 2 << 30));
        let copy = volume(VolumeSource::Volume { id: base.id.clone() });
        bench.want_volume(&base).await;
        bench.want_volume(&copy).await;
        tokio::time::sleep(Duration::from_millis(instant * 2)).await;
        bench.cut().await;
        if instant % 2 == 0 {
            machine.kill(&spec.id, "also killed");
        }
        bench.start().await;
        bench.want_volume(&base).await;
        bench.want_volume(&copy).await;
        let status = bench.volume_state(&base, VolumeState::Ready).await;
        assert_eq!((status.bytes, status.snapshots), (2 << 30, vec![snapshot.clone()]));
        bench.volume_state(&copy, VolumeState::Ready).await;
        bench.state(&spec, InstanceState::Running).await;
        let gone_guest = next(&spec, |s| s.power = Power::Absent);
        bench.want(&gone_guest).await;
        bench.state(&gone_guest, InstanceState::Absent).await;
        bench.volume(&gone(&base)).await;
        bench.volume(&gone(&copy)).await;
        assert_eq!(machine.layer_files(), Vec::<String>::new(), "cut after {instant}");
        bench.stop().await;
    }
}

/// Files of volumes on a bench's disk, by the end of their names.
fn files(bench: &Bench, end: &str) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(bench.home.path().join("volumes")).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.to_string_lossy().contains(end)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_carried_to_another_host() {
    let (mut here, mut there) = (Bench::qemu(), Bench::qemu());
    here.start().await;
    there.start().await;
    let first = volume(VolumeSource::Blank);
    here.volume(&first).await;
    let head = files(&here, ".qcow2").remove(0);
    let wrote =
        std::process::Command::new("qemu-io").args(["-c", "write -P 90 0 64k", "-c", "write -P 7 700M 1M"]).arg(&head).output().unwrap();
    assert!(wrote.status.success(), "{}", String::from_utf8_lossy(&wrote.stderr));
    let parcel = base::id::uuid();
    let first = volume_next(&first, |v| v.exports = vec![Export { id: parcel.clone(), format: "qcow2".into() }]);
    let bytes = here.volume(&first).await.exports[&parcel];
    assert!(bytes < 4 << 20, "what is empty does not travel");
    let piece = async |offset: u64| {
        let request = Request::ExportPiece { export_id: parcel.clone(), offset, length: 300_000 };
        let Response::Json(piece) = here.ask(request).await.unwrap() else { panic!() };
        serde_json::from_value::<DiskPiece>(piece).unwrap()
    };
    let write = async |parcel: &str, volume: &str, offset: u64| {
        let request = Request::ParcelWrite { parcel_id: parcel.into(), volume_id: volume.into(), offset, piece: piece(offset).await };
        there.ask(request).await.map(drop)
    };
    // What makes no sense is refused, and what was begun for nothing goes.
    assert!(write("../../etc", &first.id, 0).await.is_err() && write(&parcel, "..", 0).await.is_err());
    assert!(write(&parcel, &first.id, 300_000).await.is_err(), "nothing came before");
    assert!(there.ask(Request::ParcelKeep { parcel_id: parcel.clone(), bytes: 1 }).await.is_err());
    write(&parcel, &first.id, 0).await.unwrap();
    assert!(write(&parcel, &base::id::uuid(), 300_000).await.is_err(), "it is another volume's");
    assert_eq!(files(&there, "parcel").len(), 1);
    there.volume(&gone(&first)).await;
    assert!(files(&there, "").is_empty());

    let mut offset = 0;
    while offset < bytes {
        write(&parcel, &first.id, offset).await.unwrap();
        offset += piece(offset).await.bytes;
    }
    there.ask(Request::ParcelKeep { parcel_id: parcel.clone(), bytes }).await.unwrap();
    there.cut().await;
    there.start().await;
    let source = VolumeSource::Parcel { id: parcel.clone() };
    let arrived = VolumeSpec { generation: first.generation + 2000, source, exports: Vec::new(), ..first.clone() };
    assert_eq!(there.volume(&arrived).await.bytes, 1 << 30);
    let same = std::process::Command::new("qemu-img").arg("compare").arg(&files(&there, ".qcow2")[0]).arg(&head).output().unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    assert!(files(&there, "parcel").is_empty());
    let again = Request::ParcelWrite { parcel_id: base::id::uuid(), volume_id: first.id.clone(), offset: 0, piece: piece(0).await };
    assert!(there.ask(again).await.is_err(), "the volume is there");
    // One whose parcel never came cannot be made, and says so.
    let lost = volume(VolumeSource::Parcel { id: base::id::uuid() });
    there.want_volume(&lost).await;
    assert!(there.volume_state(&lost, VolumeState::Failed).await.error.unwrap().contains("Parcel"));
    for spec in [&lost, &arrived] {
        there.volume(&gone(spec)).await;
    }
    here.volume(&gone(&first)).await;
    assert!(files(&there, "").is_empty() && files(&here, "").is_empty());
    here.stop().await;
    there.stop().await;
}

async fn read(bench: &Bench, spec: &VolumeSpec, bytes: u32) -> (VolumeSpec, Vec<u8>) {
    let export = base::id::uuid();
    let with = volume_next(spec, |v| v.exports = vec![Export { id: export.clone(), format: "raw".into() }]);
    let status = bench.volume(&with).await;
    assert!(status.exports[&export] >= spec.bytes);
    let Response::Text(text) = bench.ask(Request::ExportRead { export_id: export, offset: 0, length: bytes }).await.unwrap() else {
        panic!()
    };
    let without = volume_next(&with, |v| v.exports.clear());
    bench.volume(&without).await;
    (without, base64::engine::general_purpose::STANDARD.decode(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_holds_a_file_that_came_as_it_is() {
    let mut bench = Bench::qemu();
    bench.start().await;
    // No whole sectors, and a hole.
    let mut content: Vec<u8> = (0..700_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    content[200_000..500_000].fill(0);
    for content in [&content[..], b"", b"x"] {
        let (parcel, frozen) = (base::id::uuid(), base::id::uuid());
        let part = Part { below: None, bytes: content.len() as u64, raw: true, snapshots: vec![frozen.clone()] };
        let source = VolumeSource::Parts { id: parcel.clone(), parts: Parts { parts: vec![part], head: Head::Over(0) } };
        let first = VolumeSpec { snapshots: vec![frozen.clone()], ..volume(source) };
        let key = part_key(&parcel, 0);
        let pieces: Vec<&[u8]> = if content.is_empty() { vec![content] } else { content.chunks(100_000).collect() };
        let mut offset = 0;
        for piece in pieces {
            let piece = DiskPiece::of(piece);
            let (parcel_id, volume_id, next) = (key.clone(), first.id.clone(), offset + piece.bytes);
            bench.ask(Request::ParcelWrite { parcel_id, volume_id, offset, piece }).await.unwrap();
            offset = next;
        }
        bench.ask(Request::ParcelKeep { parcel_id: key, bytes: offset }).await.unwrap();
        let status = bench.volume(&first).await;
        assert_eq!((status.bytes, &status.snapshots), (1 << 30, &vec![frozen.clone()]));
        // A volume of it begins with the same bytes, and nothing is copied for it.
        let copy = VolumeSpec { bytes: 2 << 30, ..volume(VolumeSource::Snapshot { id: frozen.clone() }) };
        assert_eq!(bench.volume(&copy).await.bytes, 2 << 30);
        let (copy, bytes) = read(&bench, &copy, u32::try_from(content.len()).unwrap() + 100).await;
        assert!(bytes[..content.len()] == *content && bytes[content.len()..] == [0; 100]);
        // Offered as it is, whatever has become of the volume.
        let first = volume_next(&first, |v| v.bytes = 3 << 30);
        bench.volume(&first).await;
        let export = base::id::uuid();
        let first = volume_next(&first, |v| v.exports = vec![Export { id: export.clone(), format: "below".into() }]);
        let status = bench.volume(&first).await;
        let parts = &status.parts[&export].parts;
        assert_eq!((parts.len(), parts[0].raw, &parts[0].snapshots), (1, true, &vec![frozen.clone()]));
        let mut came = Vec::new();
        loop {
            let request = Request::ExportPiece { export_id: part_key(&export, 0), offset: came.len() as u64, length: 300_000 };
            let Response::Json(piece) = bench.ask(request).await.unwrap() else { panic!() };
            let piece = serde_json::from_value::<DiskPiece>(piece).unwrap().content().unwrap();
            if piece.is_empty() {
                break;
            }
            came.extend(piece);
        }
        assert!(came == content);
        bench.volume(&gone(&first)).await;
        let (copy, bytes) = read(&bench, &copy, 10).await;
        assert!(bytes[..content.len().min(10)] == content[..content.len().min(10)]);
        bench.volume(&gone(&copy)).await;
        assert!(files(&bench, "").is_empty(), "{:?}", files(&bench, ""));
    }
    bench.stop().await;
}

/// What the guest's script does with the volume of this serial number.
fn script(serial: &str) -> String {
    let text = format!(
        "#!/bin/sh\nd=/dev/disk/by-id/virtio-{serial}\nn=1\n\
         until [ -e $d ]; do sleep 1; done\n\
         dd if=$d bs=16 count=1 2>/dev/null | grep -q after && exit\n\
         echo \"volume came: $(dd if=$d bs=16 count=1 2>/dev/null | tr -d '\\000')\"\n\
         printf 'written-%s-by-it' $n | dd of=$d bs=16 count=1 conv=notrunc,fsync 2>/dev/null; sync\n\
         echo \"volume written $n\"\n\
         s=$(basename $(readlink $d)); until [ $(cat /sys/class/block/$s/size) -gt 2097152 ]; do sleep 1; done; echo volume grown\n\
         printf 'after-%s--by-it' $n | dd of=$d bs=16 count=1 conv=notrunc,fsync 2>/dev/null; sync; echo \"volume written after $n\"\n\
         while [ -e $d ]; do sleep 1; done\necho \"volume went $n\"\n"
    );
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_writes_to_a_volume_while_it_is_frozen_and_grown() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let first = volume(VolumeSource::Blank);
    bench.volume(&first).await;
    let mut spec = vm();
    spec.metadata.config_drive = true;
    spec.metadata.meta_data = serde_json::json!({"uuid": spec.id, "hostname": "vm", "name": "vm"});
    spec.metadata.user_data_base64 = Some(script(base::id::short(&first.id, 20)));
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    bench.console_shows(&spec, "is up", 1).await;

    let asked = Instant::now();
    let spec = next(&spec, |s| s.disks.push(volume_disk(&first, None)));
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    println!("attached in {:?}", asked.elapsed());
    bench.console_shows(&spec, "volume written 1", 1).await;
    let (one, asked) = (base::id::uuid(), Instant::now());
    let first = volume_next(&first, |v| v.snapshots = vec![one.clone()]);
    bench.volume(&first).await;
    println!("snapshot of an attached volume in {:?}", asked.elapsed());
    let first = volume_next(&first, |v| v.bytes = 2 << 30);
    bench.volume(&first).await;
    bench.console_shows(&spec, "volume written after 1", 1).await;
    bench.no_leaks().await;

    // The guest's process dies, and comes back with the volume.
    let pid = bench.heard.borrow().statuses[&spec.id].pid.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    bench.until("restarted", Duration::from_secs(60), |h| h.statuses[&spec.id].pid.is_some_and(|p| p != pid)).await;
    bench.console_shows(&spec, "is up", 2).await;
    // And the agent is started anew and adopts it.
    bench.stop().await;
    bench.start().await;
    bench.state(&spec, InstanceState::Running).await;
    let spec = next(&spec, |s| drop(s.disks.pop()));
    let asked = Instant::now();
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    println!("detached in {:?}", asked.elapsed());
    bench.no_leaks().await;

    let (first, now) = read(&bench, &first, 16).await;
    assert_eq!(String::from_utf8_lossy(&now[..15]), "after-1--by-itt");
    let back = volume(VolumeSource::Snapshot { id: one.clone() });
    bench.volume(&back).await;
    let (back, then) = read(&bench, &back, 16).await;
    assert_eq!(String::from_utf8_lossy(&then), "written-1-by-it\0");
    let reverted = volume_next(&first, |v| v.revert = Some(Revert { serial: 1, snapshot: one.clone(), image: None }));
    bench.volume(&reverted).await;
    let (reverted, then) = read(&bench, &reverted, 16).await;
    assert_eq!(String::from_utf8_lossy(&then), "written-1-by-it\0");

    bench.volume(&gone(&back)).await;
    bench.volume(&gone(&reverted)).await;
    bench.clean(&[&spec]).await;
    assert_eq!(std::fs::read_dir(bench.home.path().join("volumes")).unwrap().count(), 0);
}

/// What the first guest writes the second one answers, and the first one reads the answer.
fn dialogue(serial: &str, first: bool) -> String {
    let (say, wait) = if first { ("question-of-one-", "answer-of-two---") } else { ("answer-of-two---", "question-of-one-") };
    let speak = format!("printf '{say}' | dd of=$d bs=512 seek={} count=1 conv=notrunc,fsync 2>/dev/null; sync\n", u8::from(!first));
    // Nobody has the device open in between, so each look is at the device and not at what the guest remembers.
    let read =
        format!("echo 3 > /proc/sys/vm/drop_caches; dd if=$d bs=512 skip={} count=1 2>/dev/null | grep -q '{wait}'", u8::from(first));
    let listen = format!("until {read}; do sleep 1; done; echo 'heard: {wait}'\n");
    let (then, after) = if first { (speak, listen) } else { (listen, speak) };
    let grown =
        "s=$(basename $(readlink $d)); until [ $(cat /sys/class/block/$s/size) -gt 2097152 ]; do sleep 1; done; echo volume grown\n";
    let text = format!("#!/bin/sh\nd=/dev/disk/by-id/virtio-{serial}\nuntil [ -e $d ]; do sleep 1; done\n{then}{after}{grown}");
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_reads_what_another_one_writes_to_a_shared_volume() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let shared = VolumeSpec { shared: true, ..volume(VolumeSource::Blank) };
    bench.volume(&shared).await;
    let guest = |first: bool| {
        let mut spec = vm();
        spec.metadata.config_drive = true;
        spec.metadata.meta_data = serde_json::json!({"uuid": spec.id, "hostname": "vm", "name": "vm"});
        spec.metadata.user_data_base64 = Some(dialogue(base::id::short(&shared.id, 20), first));
        spec
    };
    // The first one starts with the volume, the second one gets it while it runs.
    let (mut one, two) = (guest(true), guest(false));
    one.disks.push(volume_disk(&shared, None));
    for spec in [&one, &two] {
        bench.want(spec).await;
        bench.state(spec, InstanceState::Running).await;
    }
    let two = next(&two, |s| s.disks.push(volume_disk(&shared, None)));
    bench.want(&two).await;
    bench.state(&two, InstanceState::Running).await;
    bench.console_shows(&two, "heard: question-of-one-", 1).await;
    bench.console_shows(&one, "heard: answer-of-two---", 1).await;
    // A copy while both have it, and both see it grow.
    let snapshot = base::id::uuid();
    let shared = volume_next(&shared, |v| (v.snapshots, v.bytes) = (vec![snapshot.clone()], 2 << 30));
    bench.volume(&shared).await;
    bench.console_shows(&one, "volume grown", 1).await;
    bench.console_shows(&two, "volume grown", 1).await;
    bench.no_leaks().await;
    // One lets go, the other has it still, and a copy of the snapshot holds what both wrote.
    let one = next(&one, |s| drop(s.disks.pop()));
    bench.want(&one).await;
    bench.state(&one, InstanceState::Running).await;
    let copy = volume(VolumeSource::Snapshot { id: snapshot });
    bench.volume(&copy).await;
    let (copy, content) = read(&bench, &copy, 1024).await;
    assert_eq!((&content[..16], &content[512..528]), (&b"question-of-one-"[..], &b"answer-of-two---"[..]));
    for spec in [&one, &two] {
        let absent = next(spec, |s| s.power = Power::Absent);
        bench.want(&absent).await;
        bench.state(&absent, InstanceState::Absent).await;
    }
    // Alone again: what is laid over the raw file shows it.
    let alone = volume_next(&shared, |v| v.shared = false);
    bench.volume(&alone).await;
    let (alone, content) = read(&bench, &alone, 528).await;
    assert_eq!((&content[..16], &content[512..]), (&b"question-of-one-"[..], &b"answer-of-two---"[..]));
    // And shared once more: all of it in one raw file.
    let shared = volume_next(&alone, |v| (v.shared, v.snapshots) = (true, vec![]));
    bench.volume(&shared).await;
    let (shared, content) = read(&bench, &shared, 16).await;
    assert_eq!(content, b"question-of-one-");
    bench.volume(&gone(&copy)).await;
    bench.volume(&gone(&shared)).await;
    bench.clean(&[]).await;
    assert_eq!(std::fs::read_dir(bench.home.path().join("volumes")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_boots_from_volumes_of_an_image() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let (sha256, _) = guest_image();
    bench.ask(Request::CacheImage { sha256: sha256.clone(), format: "qcow2".into() }).await.unwrap();
    let source = VolumeSource::Image { sha256, format: "qcow2".into() };
    let mut took = Vec::new();
    let mut volumes = Vec::new();
    for _ in 0..5 {
        let asked = Instant::now();
        let volume = volume(source.clone());
        bench.volume(&volume).await;
        took.push(asked.elapsed());
        volumes.push(volume);
    }
    took.sort();
    println!("volume of a cached image: median {:?}, worst {:?}", took[2], took[4]);
    let mut spec = blank();
    spec.disks.push(volume_disk(&volumes[0], Some(0)));
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    bench.console_shows(&spec, "is up", 1).await;
    // A copy of a volume that a guest is running from boots as well.
    let copy = volume(VolumeSource::Volume { id: volumes[0].id.clone() });
    bench.volume(&copy).await;
    let mut second = blank();
    second.disks.push(volume_disk(&copy, Some(0)));
    bench.want(&second).await;
    bench.state(&second, InstanceState::Running).await;
    bench.console_shows(&second, "is up", 1).await;
    for guest in [&spec, &second] {
        let gone = next(guest, |s| s.power = Power::Absent);
        bench.want(&gone).await;
        bench.state(&gone, InstanceState::Absent).await;
    }
    for volume in volumes.iter().chain([&copy]) {
        bench.volume(&gone(volume)).await;
    }
    bench.clean(&[]).await;
    assert_eq!(std::fs::read_dir(bench.home.path().join("volumes")).unwrap().count(), 0);
}
