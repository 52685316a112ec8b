//! The leak check against planted leaks and planted damage.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use leak::{Kind, Report, Verdict, take_stock};
use rpc::instance::{Disk, DiskSource, InstanceSpec, Machine, Metadata, Power, Recovery, Restart};
use rpc::network::NetworkDocument;
use serde_json::json;

const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn spec(id: &str) -> InstanceSpec {
    InstanceSpec {
        id: id.into(),
        generation: 1,
        name: "vm".into(),
        project_id: base::id::hex(),
        power: Power::Running,
        boot: 0,
        restart: Restart::Hard,
        shutdown_seconds: 0,
        vcpus: 1,
        memory_mib: 64,
        machine: Machine::default(),
        disks: vec![Disk {
            name: "root".into(),
            revision: 0,
            copy_of: None,
            bytes: 1 << 20,
            source: DiskSource::Image { sha256: HASH.into(), format: "raw".into() },
            boot_index: Some(0),
            serial: String::new(),
            cdrom: false,
        }],
        kept: vec![],
        nics: vec![],
        metadata: Metadata::default(),
        recovery: Recovery::default(),
        snapshots: vec![],
        moving: None,
        heartbeat: false,
        messaging: false,
        dedicated: None,
    }
}

/// A home with one guest, its disk, its image and its process.
struct Home {
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl Drop for Home {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Home {
    fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        for directory in ["host/instances", "instances", "cache"] {
            std::fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        Home { dir, children: vec![] }
    }
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }
    fn disk(&self, id: &str, below: &Path) {
        let below = below.to_str().unwrap().as_bytes();
        let mut bytes = b"QFI\xfb\0\0\0\x03".to_vec();
        bytes.extend(512u64.to_be_bytes());
        bytes.extend((below.len() as u32).to_be_bytes());
        bytes.resize(512, 0);
        bytes.extend(below);
        self.write(&format!("instances/{id}/root.qcow2"), bytes);
    }
    /// A process that looks like a guest's and holds its console log.
    fn process(&mut self, id: &str, console: &Path) -> i32 {
        let log = std::fs::File::create(console).unwrap();
        let mut command = Command::new("/bin/sh");
        command.arg0("qemu-system-x86_64").args(["-c", "read line", "-name", &format!("guest=sturnus-{id},debug-threads=on")]);
        let child = command.stdin(Stdio::piped()).stdout(log).spawn().unwrap();
        let pid = child.id() as i32;
        self.children.push(child);
        // Its command line is the shell's once it has been executed.
        while !std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains(id) {
            std::thread::yield_now();
        }
        pid
    }
    fn journal(&self, id: &str, pid: i32) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let ticks: u64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let process = json!({"pid": pid, "start_ticks": ticks, "boot_id": boot.trim(), "started_at": 0});
        self.write(&format!("host/instances/{id}.state.json"), json!({"process": process}).to_string());
    }
    /// A guest as it should be.
    fn guest(&mut self) -> (String, i32) {
        let id = base::id::uuid();
        self.write(&format!("host/instances/{id}.json"), serde_json::to_vec(&spec(&id)).unwrap());
        let directory = self.dir.path().join("instances").join(&id);
        std::fs::create_dir(&directory).unwrap();
        let image = self.dir.path().join("cache").join(HASH);
        std::fs::write(&image, [0; 512]).unwrap();
        self.disk(&id, &image);
        let pid = self.process(&id, &directory.join("console.log"));
        self.journal(&id, pid);
        (id, pid)
    }
    fn stock(&self) -> Report {
        let mut report = take_stock(self.dir.path()).unwrap();
        // What other homes left on this machine is not this test's.
        report
            .items
            .retain(|i| matches!(i.kind, Kind::Document | Kind::File) || (i.kind == Kind::Process && i.verdict != Verdict::Foreign));
        report
    }
}

#[track_caller]
fn finds(report: &Report, kind: Kind, verdict: Verdict, name: &str, why: &str) {
    let found = report.items.iter().any(|i| i.kind == kind && i.verdict == verdict && i.name.contains(name) && i.why.contains(why));
    assert!(found, "no {verdict:?} {kind:?} {name} ({why}) in\n{report}");
}

#[test]
fn a_host_as_it_should_be_is_clean() {
    let mut home = Home::new();
    let (id, pid) = home.guest();
    let report = home.stock();
    assert!(report.is_clean(), "{report}");
    finds(&report, Kind::Process, Verdict::Live, &pid.to_string(), "");
    finds(&report, Kind::File, Verdict::Live, &format!("instances/{id}/root.qcow2"), "");
    assert!(take_stock(&home.dir.path().join("nowhere")).unwrap().with(Verdict::Live).next().is_none());
}

#[test]
fn planted_leaks_are_stale() {
    let mut home = Home::new();
    let (id, _) = home.guest();
    let lost = base::id::uuid();
    std::fs::create_dir(home.dir.path().join("instances").join(&lost)).unwrap();
    let console = home.dir.path().join("instances").join(&lost).join("console.log");
    let pid = home.process(&lost, &console);
    home.write(&format!("host/instances/{lost}.state.json"), "{}");
    home.write(&format!("instances/{id}/old.qcow2"), "x");
    home.write("host/instances/x.new", "x");
    home.write("host/rubbish", "x");
    home.write(&format!("cache/{}", "b".repeat(64)), "x");
    home.write(&format!("cache/{}.part-1", "b".repeat(64)), "x");
    home.write(&format!("cache/{}.used", "c".repeat(64)), "x");
    let report = home.stock();
    finds(&report, Kind::Process, Verdict::Stale, &pid.to_string(), "no document");
    finds(&report, Kind::File, Verdict::Stale, &format!("instances/{lost}"), "no document");
    finds(&report, Kind::Document, Verdict::Stale, &lost, "without a document");
    finds(&report, Kind::File, Verdict::Stale, "old.qcow2", "");
    finds(&report, Kind::Document, Verdict::Stale, "x.new", "");
    finds(&report, Kind::File, Verdict::Stale, "host/rubbish", "");
    finds(&report, Kind::File, Verdict::Kept, &"b".repeat(64), "no guest uses");
    finds(&report, Kind::File, Verdict::Stale, ".part-1", "");
    finds(&report, Kind::File, Verdict::Stale, &"c".repeat(64), "gone");
    assert_eq!(report.with(Verdict::Contradictory).count(), 0, "{report}");
}

#[test]
fn planted_damage_is_contradictory() {
    let mut home = Home::new();
    let (twice, _) = home.guest();
    let console = home.dir.path().join("instances").join(&twice).join("qemu.log");
    home.process(&twice, &console);
    let (stopped, _) = home.guest();
    let document = InstanceSpec { power: Power::Stopped, ..spec(&stopped) };
    home.write(&format!("host/instances/{stopped}.json"), serde_json::to_vec(&document).unwrap());
    let (damaged, _) = home.guest();
    home.write(&format!("instances/{damaged}/root.qcow2"), "rubbish");
    let (moved, _) = home.guest();
    home.disk(&moved, Path::new("/nowhere/image"));
    let (unread, pid) = home.guest();
    home.write(&format!("host/instances/{unread}.json"), "{\"id\":");
    let (dead, gone) = home.guest();
    let child = home.children.last_mut().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let report = home.stock();
    finds(&report, Kind::Process, Verdict::Contradictory, &twice, "runs 2 times");
    finds(&report, Kind::Process, Verdict::Contradictory, &stopped, "wanted stopped");
    finds(&report, Kind::File, Verdict::Contradictory, &format!("{damaged}/root.qcow2"), "damaged");
    finds(&report, Kind::File, Verdict::Contradictory, &format!("{moved}/root.qcow2"), "/nowhere/image");
    finds(&report, Kind::Document, Verdict::Contradictory, &unread, "damaged");
    finds(&report, Kind::Process, Verdict::Kept, &pid.to_string(), "cannot be read");
    finds(&report, Kind::File, Verdict::Kept, &unread, "cannot be read");
    finds(&report, Kind::Process, Verdict::Contradictory, &format!("{gone} (guest {dead})"), "gone");
    assert_eq!(report.with(Verdict::Stale).count(), 0, "{report}");
}

/// In a network namespace of its own, which ends with the thread.
#[test]
fn net_planted_links_and_rules() {
    let run = |program: &str, arguments: &[&str]| {
        let out = Command::new(program).args(arguments).output().unwrap();
        assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let work = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let home = Home::new();
        let [wanted, tagged, old, missing] = std::array::from_fn(|_| base::id::uuid());
        let network = |id: &str| json!({"id": id, "mtu": 1450, "kind": {"overlay": {"vni": 5}}, "subnets": [], "service_port": null, "dns_domain": "", "leases": []});
        let mut document: NetworkDocument = serde_json::from_value(
            json!({"generation": 1, "networks": [network(&wanted)], "ports": [], "routers": [], "security_groups": []}),
        )
        .unwrap();
        let vlan = rpc::network::NetworkKind::Vlan { physical_network: "public".into(), id: 5 };
        document.networks.push(rpc::network::Network { id: tagged.clone(), kind: vlan, ..document.networks[0].clone() });
        document.ports.push(rpc::network::Port {
            id: missing.clone(),
            network_id: wanted.clone(),
            instance_id: base::id::uuid(),
            mac: "52:54:00:00:00:01".into(),
            admin_up: true,
            addresses: vec![],
            allowed_pairs: vec![],
            port_security: true,
            limits: Default::default(),
            security_groups: vec![],
        });
        home.write("host/network-wanted.json", serde_json::to_vec(&document).unwrap());
        let recorded = format!("sturnus-r-{old}");
        home.write("host/network.json", json!({"namespaces": [recorded]}).to_string());
        for (name, group, alias) in [
            ("br-live", "1400141170", format!("sturnus:network:{wanted}")),
            ("br-old", "1400141170", format!("sturnus:network:{old}")),
            ("vi-live", "1400141170", format!("sturnus:vlan:{tagged}")),
            ("vo-live", "1400141170", format!("sturnus:trunk:{tagged}")),
            ("br-ex", "1400141170", "sturnus:physical:public".into()),
            ("vo-old", "1400141170", format!("sturnus:trunk:{wanted}")),
            ("br-half", "1400141170", String::new()),
            ("br-posing", "0", format!("sturnus:network:{wanted}")),
            ("br-other", "0", "mine".into()),
        ] {
            run("ip", &["link", "add", name, "type", "bridge"]);
            run("ip", &["link", "set", name, "group", group, "alias", &alias]);
        }
        run("nft", &["add", "table", "inet", "sturnus"]);
        run("nft", &["add", "table", "inet", "other"]);
        let report = take_stock(home.dir.path()).unwrap();
        for name in ["br-live", "vi-live", "vo-live", "br-ex"] {
            finds(&report, Kind::Link, Verdict::Live, name, "");
        }
        for name in ["br-old", "vo-old"] {
            finds(&report, Kind::Link, Verdict::Stale, name, "nothing wants");
        }
        finds(&report, Kind::Link, Verdict::Stale, "br-half", "never finished");
        finds(&report, Kind::Link, Verdict::Foreign, "br-posing", "mark");
        finds(&report, Kind::Link, Verdict::Contradictory, &rpc::instance::tap_name(&missing), "not there");
        finds(&report, Kind::Table, Verdict::Live, "inet sturnus", "");
        finds(&report, Kind::Namespace, Verdict::Stale, &recorded, "neither wanted nor there");
        assert!(!report.items.iter().any(|i| i.name == "br-other" || i.name == "inet other"), "{report}");
    });
    work.join().unwrap();
}
