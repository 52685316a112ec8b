//! A real guest from one host to another while it runs: two agents on this machine, each with its own home.

use std::time::{Duration, Instant};

use host::hypervisor::{At, Found, Side};
use rpc::instance::{Doors, InstanceSpec, InstanceState, InstanceStatus, Moving, MovingTls, Power, Recovery, Stage, Way};
use rpc::message::{DiskPiece, Request, Response, Secret};
use rpc::volume::VolumeSource;

use crate::common::{Bench, next, vm, volume, volume_disk};

const LIMIT: Duration = Duration::from_secs(120);

/// A guest that counts on its console, and keeps on its disk what it has counted.
pub fn counting() -> InstanceSpec {
    use base64::Engine;
    let id = base::id::uuid();
    let script = format!(
        "#!/bin/sh\n[ ! -b /dev/vdb ] || {{ echo precious {id} | dd of=/dev/vdb conv=fsync; }}\n(n=0; while true; do n=$((n+1)); echo $n >/home/cirros/count; echo count $n at $(cat /home/cirros/count) >/dev/ttyS0; sleep 1; done) &\n"
    );
    let mut spec = vm();
    spec.id = id;
    spec.metadata = rpc::instance::Metadata {
        meta_data: serde_json::json!({"uuid": base::id::uuid(), "hostname": "bench", "name": "bench"}),
        user_data_base64: Some(base64::engine::general_purpose::STANDARD.encode(script)),
        config_drive: true,
        ..Default::default()
    };
    spec
}

fn json<T: serde::de::DeserializeOwned>(answer: Response) -> T {
    match answer {
        Response::Json(value) => serde_json::from_value(value).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What a controller does between two hosts, by hand.
pub struct Move {
    id: String,
    pair: pki::Pair,
}

impl Move {
    pub fn new() -> Move {
        let id = base::id::uuid();
        Move { pair: pki::Pair::new(&id).unwrap(), id }
    }

    fn document(&self, spec: &InstanceSpec, end: &pki::End, way: Way) -> InstanceSpec {
        let tls = MovingTls {
            name: self.pair.name.clone(),
            authority: self.pair.authority.clone(),
            certificate: end.certificate.clone(),
            key: Secret(end.key.clone()),
        };
        let mut spec = next(spec, |_| ());
        spec.moving = Some(Moving { id: self.id.clone(), tls, way });
        spec
    }

    /// Has the second host wait for the guest.
    pub async fn here(&self, spec: &InstanceSpec, from: &Bench, to: &Bench) -> (InstanceSpec, Doors) {
        let file = "config.iso".to_string();
        let read = Request::DiskRead { instance_id: spec.id.clone(), file: file.clone(), offset: 0, length: 4 << 20 };
        let piece: DiskPiece = json(from.ask(read).await.unwrap());
        let bytes = piece.bytes;
        to.ask(Request::DiskWrite { instance_id: spec.id.clone(), file: file.clone(), offset: 0, piece }).await.unwrap();
        to.ask(Request::DiskKeep { instance_id: spec.id.clone(), file, bytes }).await.unwrap();
        let slots = json(from.ask(Request::Slots { instance_id: spec.id.clone() }).await.unwrap());
        let here = self.document(spec, &self.pair.server, Way::Here { slots });
        to.want(&here).await;
        let status = said(to, &here, |stage| matches!(stage, Stage::Awaited(_) | Stage::Failed(_))).await;
        match status.moving.unwrap().stage {
            Stage::Awaited(doors) => (here, doors),
            other => panic!("{other:?}"),
        }
    }

    pub fn away(&self, spec: &InstanceSpec, doors: &Doors) -> InstanceSpec {
        self.document(spec, &self.pair.client, Way::Away { doors: doors.clone(), downtime: 500, force: false, stop: false })
    }
}

pub async fn said(bench: &Bench, spec: &InstanceSpec, fits: impl Fn(&Stage) -> bool) -> InstanceStatus {
    let id = spec.id.clone();
    let way = &spec.moving.as_ref().unwrap().id;
    let heard = bench.until("a migration's stage", LIMIT, |h| {
        h.statuses.get(&id).and_then(|s| s.moving.as_ref()).is_some_and(|moving| moving.id == *way && fits(&moving.stage))
    });
    heard.await.statuses[&spec.id].clone()
}

/// The first line of the only volume's head, as a stranger reads the file.
fn written(bench: &Bench) -> String {
    let mut files = std::fs::read_dir(bench.home.path().join("volumes")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "one layer, over nothing");
    let raw = bench.home.path().join("volume.raw");
    let done = std::process::Command::new("qemu-img").args(["convert", "-U", "-O", "raw"]).arg(&file).arg(&raw).status().unwrap();
    assert!(done.success());
    let mut bytes = vec![0; 512];
    std::io::Read::read_exact(&mut std::fs::File::open(&raw).unwrap(), &mut bytes).unwrap();
    std::fs::remove_file(&raw).unwrap();
    String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_string()
}

/// The last number that the guest's console shows.
async fn counted(bench: &Bench, spec: &InstanceSpec) -> u32 {
    let log = bench.console(spec).await;
    let numbers =
        log.lines().filter_map(|l| l.trim().strip_prefix("count ")?.split_once(" at ").map(|(n, kept)| (n.to_string(), kept.to_string())));
    let whole: Vec<(String, String)> = numbers.filter(|(n, kept)| n == kept.trim()).collect();
    whole.last().and_then(|(n, _)| n.parse().ok()).unwrap_or(0)
}

pub async fn counts_past(bench: &Bench, spec: &InstanceSpec, number: u32) -> u32 {
    let limit = Instant::now() + Duration::from_secs(150);
    loop {
        let now = counted(bench, spec).await;
        if now > number {
            return now;
        }
        assert!(Instant::now() < limit, "the guest does not count past {number}: {}", bench.console(spec).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_goes_to_another_host_while_it_runs_and_back() {
    let (mut one, mut two) = (Bench::qemu(), Bench::qemu());
    one.start().await;
    two.start().await;
    let mut spec = counting();
    spec.recovery = Recovery { elsewhere: true, ..spec.recovery };
    // A volume of its own, on which the guest writes once: what is read of it later has come over the wire.
    let mut data = volume(VolumeSource::Blank);
    one.volume(&data).await;
    spec.disks.push(volume_disk(&data, None));
    one.want(&spec).await;
    let first = one.state(&spec, InstanceState::Running).await;
    let before = counts_past(&one, &spec, 2).await;
    for (from, to) in [(&one, &two), (&two, &one)] {
        let asked = Instant::now();
        let moves = Move::new();
        to.volume(&data).await;
        let (here, doors) = moves.here(&spec, from, to).await;
        let awaited = to.heard.borrow().statuses[&spec.id].clone();
        assert!(awaited.elsewhere && awaited.state == InstanceState::Building, "{awaited:?}");
        let away = moves.away(&here, &doors);
        let sent = Instant::now();
        from.want(&away).await;
        let left = said(from, &away, |stage| matches!(stage, Stage::Left | Stage::Failed(_))).await;
        let moving = left.moving.clone().unwrap();
        assert_eq!(moving.stage, Stage::Left, "{left:?}");
        assert!(moving.memory.total > 128 << 20 && moving.memory.done > 0 && moving.disks.total > 0, "{moving:?}");
        let arrived = said(to, &here, |stage| matches!(stage, Stage::Arrived | Stage::Failed(_))).await;
        assert_eq!((arrived.state, arrived.moving.unwrap().stage), (InstanceState::Running, Stage::Arrived));
        println!("prepared in {:?}, moved in {:?}", sent - asked, sent.elapsed());
        // The new document of the one, the end of the other.
        let mut stays = next(&away, |s| s.moving = None);
        to.want(&stays).await;
        let now = to.state(&stays, InstanceState::Running).await;
        assert_ne!(now.pid, first.pid);
        let mut gone = stays.clone();
        gone.power = Power::Absent;
        from.want(&gone).await;
        from.state(&gone, InstanceState::Absent).await;
        assert!(!from.directory(&spec).exists());
        data.generation += 1;
        from.volume(&rpc::volume::absent(&data.id, data.generation)).await;
        data.generation += 1;
        assert_eq!(written(to), format!("precious {}", spec.id), "the volume came with what was on it");
        assert!(!to.directory(&spec).join("tls").exists(), "credentials are not left lying around");
        // It counts on, from memory and disk: nothing of its past is on the new console but what it says from now on.
        let after = counts_past(to, &spec, before).await;
        assert!(after >= before);
        assert_eq!(to.console(&spec).await.matches("Linux version").count(), 0, "it was never booted here");
        to.no_leaks().await;
        stays.generation += 1;
        spec = stays;
    }
    // What it does with its disks is nothing of the way: it is stopped, and comes up again.
    let again = next(&spec, |s| {
        s.boot += 1;
        s.restart = rpc::instance::Restart::Hard;
    });
    one.want(&again).await;
    one.console_shows(&again, "bench is up", 1).await;
    one.clean(&[&again]).await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_stays_when_its_way_breaks_off_and_goes_when_agents_die() {
    let (mut one, mut two) = (Bench::qemu(), Bench::qemu());
    one.start().await;
    two.start().await;
    let spec = counting();
    one.want(&spec).await;
    let first = one.state(&spec, InstanceState::Running).await;
    let before = counts_past(&one, &spec, 2).await;
    // The process that waits is gone: nothing happens to the guest.
    let moves = Move::new();
    let (here, doors) = moves.here(&spec, &one, &two).await;
    let gone = next(&here, |s| (s.power, s.moving) = (Power::Absent, None));
    two.want(&gone).await;
    two.state(&gone, InstanceState::Absent).await;
    let away = moves.away(&gone, &doors);
    let away = InstanceSpec { power: Power::Running, ..away };
    one.want(&away).await;
    let failed = said(&one, &away, |stage| matches!(stage, Stage::Failed(_))).await;
    assert_eq!((failed.state, failed.pid), (InstanceState::Running, first.pid), "{failed:?}");
    let before = counts_past(&one, &spec, before).await;
    // A stranger with a certificate of another pair does not get in.
    let (moves, stranger) = (Move::new(), Move::new());
    let (here, doors) = moves.here(&away, &one, &two).await;
    let mut away = stranger.away(&here, &doors);
    away.moving.as_mut().unwrap().id = moves.id.clone();
    one.want(&away).await;
    let failed = said(&one, &away, |stage| matches!(stage, Stage::Failed(_))).await;
    assert_eq!((failed.state, failed.pid), (InstanceState::Running, first.pid), "{failed:?}");
    let gone = next(&away, |s| (s.power, s.moving) = (Power::Absent, None));
    two.want(&gone).await;
    two.state(&gone, InstanceState::Absent).await;
    // Suspending works as ever: what served the way is gone with it.
    let suspended = next(&InstanceSpec { power: Power::Running, ..gone }, |s| s.power = Power::Suspended);
    one.want(&suspended).await;
    one.state(&suspended, InstanceState::Suspended).await;
    let mut runs = next(&suspended, |s| s.power = Power::Running);
    one.want(&runs).await;
    one.state(&runs, InstanceState::Running).await;
    counts_past(&one, &spec, before).await;
    // It has come from its saved memory, and has not gone anywhere yet: an agent that dies before the first byte is sent leaves just that.
    one.cut().await;
    let Found::Machine(machine) = one.hypervisor.find(&spec.id, None).await.unwrap() else { panic!("the guest runs") };
    assert_eq!(machine.transit(Side::Away { memory: true }).await.unwrap().at, At::Ready);
    drop(machine);
    one.start().await;
    // Both agents are killed again and again on its way, and it gets there all the same, once.
    let moves = Move::new();
    let (here, doors) = moves.here(&runs, &one, &two).await;
    two.cut().await;
    two.start().await;
    let away = moves.away(&here, &doors);
    one.want(&away).await;
    let limit = Instant::now() + LIMIT;
    let mut alive = Duration::from_millis(100);
    loop {
        one.cut().await;
        two.cut().await;
        one.start().await;
        two.start().await;
        // As a controller does in each session.
        one.want(&away).await;
        let arrived = two.heard.borrow().statuses.get(&spec.id).and_then(|s| s.moving.clone()).is_some_and(|m| m.stage == Stage::Arrived);
        if arrived {
            break;
        }
        assert!(Instant::now() < limit, "{:?} {:?}", one.heard.borrow().statuses, two.heard.borrow().statuses);
        // Time for a few steps; a machine that is busy needs more of it for one.
        alive = alive * 11 / 10;
        tokio::time::sleep(alive).await;
    }
    let left = said(&one, &away, |stage| matches!(stage, Stage::Left)).await;
    let there = two.heard.borrow().statuses[&spec.id].clone();
    assert_ne!(left.pid, there.pid);
    runs = next(&away, |s| s.moving = None);
    two.want(&runs).await;
    two.state(&runs, InstanceState::Running).await;
    let mut gone = runs.clone();
    gone.power = Power::Absent;
    one.want(&gone).await;
    one.state(&gone, InstanceState::Absent).await;
    counts_past(&two, &spec, 0).await;
    two.clean(&[&runs]).await;
    one.stop().await;
}
