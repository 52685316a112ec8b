//! Volumes that go to another host with their snapshots: two agents on this machine, real files, a real guest.

use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use rpc::instance::{InstanceState, Power, Stage};
use rpc::message::{DiskPiece, Request, Response};
use rpc::volume::{Export, Head, Part, Parts, Revert, VolumeSource, VolumeSpec, VolumeState, part_key};

use crate::common::{Bench, next, volume, volume_disk, volume_next};
use crate::vm_moves::{Move, counting, counts_past, said};

const STEP: usize = 64 << 10;

fn gone(spec: &VolumeSpec) -> VolumeSpec {
    rpc::volume::absent(&spec.id, spec.generation + 10_000)
}

/// The file that a volume nobody has open would be written to.
fn head(bench: &Bench, spec: &VolumeSpec) -> PathBuf {
    let index = std::fs::read(bench.home.path().join("host/volumes.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let name = index["volumes"][&spec.id]["head"].as_str().unwrap().to_string();
    let format = if name.starts_with('r') { "raw" } else { "qcow2" };
    bench.home.path().join("volumes").join(format!("{name}.{format}"))
}

/// Writes this byte to one step of a volume.
fn write(bench: &Bench, spec: &VolumeSpec, step: usize, byte: u8) {
    let done = Command::new("qemu-io").arg("-c").arg(format!("write -P {byte} {} {STEP}", step * STEP)).arg(head(bench, spec)).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The first bytes of the first steps of a volume, and its newest document.
async fn shown(bench: &Bench, spec: &VolumeSpec) -> (VolumeSpec, [u8; 4]) {
    let id = base::id::uuid();
    let with = volume_next(spec, |v| v.exports = vec![Export { id: id.clone(), format: "raw".into() }]);
    bench.volume(&with).await;
    let mut bytes = [0; 4];
    for (step, byte) in bytes.iter_mut().enumerate() {
        let request = Request::ExportRead { export_id: id.clone(), offset: (step * STEP) as u64, length: 1 };
        let Response::Text(text) = bench.ask(request).await.unwrap() else { panic!() };
        *byte = base64::engine::general_purpose::STANDARD.decode(text).unwrap()[0];
    }
    let without = volume_next(&with, |v| v.exports.clear());
    bench.volume(&without).await;
    (without, bytes)
}

/// The same of a new volume of a snapshot, which is removed again.
async fn frozen(bench: &Bench, snapshot: &str) -> [u8; 4] {
    let copy = volume(VolumeSource::Snapshot { id: snapshot.into() });
    bench.volume(&copy).await;
    let (copy, bytes) = shown(bench, &copy).await;
    bench.volume(&gone(&copy)).await;
    bytes
}

/// What a controller does with a volume: its layers to the other host. Answers its document here, and its source there.
async fn carried(from: &Bench, to: &Bench, spec: &VolumeSpec, format: &str) -> (VolumeSpec, VolumeSource) {
    let id = base::id::uuid();
    let with = volume_next(spec, |v| v.exports = vec![Export { id: id.clone(), format: format.into() }]);
    let status = from.volume(&with).await;
    let (parts, all) = (status.parts[&id].clone(), status.exports[&id]);
    let mut carried = 0;
    for n in 0..u32::try_from(parts.parts.len()).unwrap() {
        let (key, mut offset) = (part_key(&id, n), 0);
        loop {
            let request = Request::ExportPiece { export_id: key.clone(), offset, length: 4 << 20 };
            let Response::Json(piece) = from.ask(request).await.unwrap() else { panic!() };
            let piece: DiskPiece = serde_json::from_value(piece).unwrap();
            if piece.bytes == 0 {
                break;
            }
            let (parcel_id, bytes) = (key.clone(), piece.bytes);
            to.ask(Request::ParcelWrite { parcel_id, volume_id: spec.id.clone(), offset, piece }).await.unwrap();
            offset += bytes;
        }
        to.ask(Request::ParcelKeep { parcel_id: key.clone(), bytes: offset }).await.unwrap();
        carried += offset;
    }
    assert_eq!(carried, all);
    let none = Request::ExportPiece { export_id: part_key(&id, 99), offset: 0, length: 1 };
    assert!(from.ask(none).await.is_err(), "there are not so many");
    (with, VolumeSource::Parts { id, parts })
}

fn files(bench: &Bench) -> Vec<PathBuf> {
    std::fs::read_dir(bench.home.path().join("volumes")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_carried_to_another_host_with_its_snapshots() {
    let (mut here, mut there) = (Bench::qemu(), Bench::qemu());
    here.start().await;
    there.start().await;
    // Over a volume that is not its own, with a snapshot that it went back from.
    let base = volume(VolumeSource::Blank);
    here.volume(&base).await;
    write(&here, &base, 0, 1);
    let mut spec = volume(VolumeSource::Volume { id: base.id.clone() });
    here.volume(&spec).await;
    let ids: Vec<String> = (0..3).map(|_| base::id::uuid()).collect();
    spec = volume_next(&spec, |v| v.snapshots = ids[..1].to_vec());
    here.volume(&spec).await;
    write(&here, &spec, 1, 2);
    spec = volume_next(&spec, |v| v.snapshots = ids[..2].to_vec());
    here.volume(&spec).await;
    spec = volume_next(&spec, |v| v.revert = Some(Revert { serial: 1, snapshot: ids[0].clone(), image: None }));
    here.volume(&spec).await;
    write(&here, &spec, 2, 3);
    spec = volume_next(&spec, |v| v.snapshots.clone_from(&ids));
    here.volume(&spec).await;
    write(&here, &spec, 3, 4);
    let copy = volume(VolumeSource::Snapshot { id: ids[1].clone() });
    here.volume(&copy).await;

    let (left, source) = carried(&here, &there, &spec, "layers").await;
    let VolumeSource::Parts { parts: came, .. } = &source else { panic!() };
    assert_eq!((came.parts.len(), came.head), (4, Head::Last), "the three, and what is written to; nothing of what is below them");
    there.cut().await;
    there.start().await;
    // What does not fit together is refused, and leaves nothing.
    let stray = volume(source.clone());
    let stray = VolumeSpec { snapshots: vec![base::id::uuid()], ..stray };
    there.want_volume(&stray).await;
    assert!(there.volume_state(&stray, VolumeState::Failed).await.error.unwrap().contains("do not fit"));
    there.volume(&gone(&stray)).await;
    let arrived = VolumeSpec { generation: left.generation + 1, source, revert: None, exports: Vec::new(), ..left.clone() };
    assert_eq!(there.volume(&arrived).await.snapshots.len(), 3);
    here.volume(&gone(&left)).await;
    here.volume(&gone(&base)).await;
    there.cut().await;
    there.start().await;
    let chain = Command::new("qemu-img").args(["info", "-U", "--backing-chain"]).arg(head(&there, &arrived)).output().unwrap();
    assert!(chain.status.success(), "its files say what they lie over here: {}", String::from_utf8_lossy(&chain.stderr));

    let expected = [[1, 0, 0, 0], [1, 2, 0, 0], [1, 0, 3, 0]];
    let (arrived, now) = shown(&there, &arrived).await;
    assert_eq!(now, [1, 0, 3, 4]);
    for (snapshot, expected) in ids.iter().zip(expected) {
        assert_eq!(frozen(&there, snapshot).await, expected);
    }
    let fewer = volume_next(&arrived, |v| v.snapshots = ids[1..].to_vec());
    there.volume(&fewer).await;
    let back = volume_next(&fewer, |v| v.revert = Some(Revert { serial: 1, snapshot: ids[1].clone(), image: None }));
    there.volume(&back).await;
    let grown = volume_next(&back, |v| v.bytes = 2 << 30);
    assert_eq!(there.volume(&grown).await.bytes, 2 << 30);
    write(&there, &grown, 3, 9);
    let (grown, now) = shown(&there, &grown).await;
    assert_eq!(now, [1, 2, 0, 9]);
    // What was made of it stays where it was, with what it needs.
    let (copy, now) = shown(&here, &copy).await;
    assert_eq!(now, expected[1]);
    here.volume(&gone(&copy)).await;
    there.volume(&gone(&grown)).await;
    assert_eq!((files(&here), files(&there)), (vec![], vec![]));
    here.stop().await;
    there.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_for_several_goes_as_a_raw_file() {
    let (mut here, mut there) = (Bench::qemu(), Bench::qemu());
    here.start().await;
    there.start().await;
    let mut spec = VolumeSpec { shared: true, ..volume(VolumeSource::Blank) };
    here.volume(&spec).await;
    write(&here, &spec, 0, 1);
    let snapshot = base::id::uuid();
    spec = volume_next(&spec, |v| v.snapshots = vec![snapshot.clone()]);
    here.volume(&spec).await;
    write(&here, &spec, 1, 2);
    let (left, source) = carried(&here, &there, &spec, "layers").await;
    let VolumeSource::Parts { parts: Parts { parts, .. }, .. } = &source else { panic!() };
    assert!(parts.iter().all(|part: &Part| part.raw) && parts.len() == 2, "{parts:?}");
    let arrived = VolumeSpec { generation: left.generation + 1, source, exports: Vec::new(), ..left.clone() };
    there.volume(&arrived).await;
    here.volume(&gone(&left)).await;
    assert!(head(&there, &arrived).extension().unwrap() == "raw", "several may open it");
    assert_eq!(frozen(&there, &snapshot).await, [1, 0, 0, 0]);
    let (arrived, now) = shown(&there, &arrived).await;
    assert_eq!(now, [1, 2, 0, 0]);
    there.volume(&gone(&arrived)).await;
    assert_eq!((files(&here), files(&there)), (vec![], vec![]));
    here.stop().await;
    there.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_takes_its_volumes_snapshots_along() {
    let (mut one, mut two) = (Bench::qemu(), Bench::qemu());
    one.start().await;
    two.start().await;
    let ids: Vec<String> = (0..2).map(|_| base::id::uuid()).collect();
    let mut data = volume(VolumeSource::Blank);
    one.volume(&data).await;
    write(&one, &data, 1, 2);
    data = volume_next(&data, |v| v.snapshots = ids[..1].to_vec());
    one.volume(&data).await;
    write(&one, &data, 2, 3);
    data = volume_next(&data, |v| v.snapshots.clone_from(&ids));
    one.volume(&data).await;
    // The guest writes to the first step when it boots, and once only.
    let mut spec = counting();
    spec.disks.push(volume_disk(&data, None));
    one.want(&spec).await;
    one.state(&spec, InstanceState::Running).await;
    let before = counts_past(&one, &spec, 2).await;
    for (from, to) in [(&one, &two), (&two, &one)] {
        let (left, source) = carried(from, to, &data, "below").await;
        let VolumeSource::Parts { parts, .. } = &source else { panic!() };
        assert_eq!((parts.parts.len(), parts.head), (2, Head::Over(1)));
        let come = VolumeSpec { generation: left.generation + 1, source, exports: Vec::new(), ..left.clone() };
        to.volume(&come).await;
        let moves = Move::new();
        let (here, doors) = moves.here(&spec, from, to).await;
        let away = moves.away(&here, &doors);
        from.want(&away).await;
        let left = said(from, &away, |stage| matches!(stage, Stage::Left | Stage::Failed(_))).await;
        let moving = left.moving.clone().unwrap();
        assert_eq!(moving.stage, Stage::Left, "{left:?}");
        assert!(moving.disks.total > 0, "{moving:?}");
        said(to, &here, |stage| matches!(stage, Stage::Arrived)).await;
        let mut stays = next(&away, |s| s.moving = None);
        to.want(&stays).await;
        to.state(&stays, InstanceState::Running).await;
        let mut absent = stays.clone();
        absent.power = Power::Absent;
        from.want(&absent).await;
        from.state(&absent, InstanceState::Absent).await;
        data = volume_next(&come, |v| v.source = VolumeSource::Blank);
        from.volume(&rpc::volume::absent(&data.id, data.generation)).await;
        data = volume_next(&data, |_| ());
        to.volume(&data).await;
        assert_eq!((files(from), files(to).len()), (vec![], 3), "its layers are here and nowhere else");
        assert_eq!((frozen(to, &ids[0]).await, frozen(to, &ids[1]).await), ([0, 2, 0, 0], [0, 2, 3, 0]));
        counts_past(to, &spec, before).await;
        stays.generation += 1;
        spec = stays;
    }
    let absent = next(&spec, |s| s.power = Power::Absent);
    one.want(&absent).await;
    one.state(&absent, InstanceState::Absent).await;
    let (data, now) = shown(&one, &data).await;
    assert_eq!(now, [b'p', 2, 3, 0], "what the guest wrote lies over all that was frozen before");
    one.volume(&gone(&data)).await;
    assert_eq!(files(&one), Vec::<PathBuf>::new());
    one.clean(&[]).await;
    two.stop().await;
}
