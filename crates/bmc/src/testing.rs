//! An IPMI BMC to try things on: `ipmi_sim` with a machine whose power is a file and that has one sensor.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Access, Address, Protocol};

pub const USERNAME: &str = "operator";
pub const PASSWORD: &str = "sim-s3cret";

/// A running simulator. Ends with this value.
pub struct Simulator {
    directory: tempfile::TempDir,
    child: Child,
    port: u16,
}

/// The machine: notes what it is told, and does it unless there is a file `stuck`.
const MACHINE: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
shift
what=$1
shift
case $what in
get) for key; do case $key in power) echo "power:$(cat power)" ;; boot) echo boot:default ;; esac; done ;;
set)
	while [ $# -gt 1 ]; do
		echo "$1 $2" >>told
		[ -e stuck ] || [ "$1" != power ] || echo "$2" >power
		shift 2
	done ;;
esac
"#;

impl Simulator {
    pub fn start() -> Simulator {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let put = |name: &str, text: &str| std::fs::write(at.join(name), text).unwrap();
        // Nobody else is given it so soon again.
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        put("machine", MACHINE);
        std::fs::set_permissions(at.join("machine"), std::fs::Permissions::from_mode(0o700)).unwrap();
        put("power", "1");
        put("told", "");
        put("temperature", "40");
        put("lan.conf", &lan(at, port));
        put("sim.emu", &emulated(at));
        std::fs::create_dir(at.join("state")).unwrap();
        let log = std::fs::File::create(at.join("log")).unwrap();
        let child = Command::new("ipmi_sim")
            .args(["-n", "-c"])
            .arg(at.join("lan.conf"))
            .arg("-f")
            .arg(at.join("sim.emu"))
            .arg("-s")
            .arg(at.join("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("ipmi_sim is missing: tools/install test");
        let simulator = Simulator { directory, child, port };
        let began = Instant::now();
        while !simulator.answers() {
            assert!(began.elapsed() < Duration::from_secs(20), "ipmi_sim: {}", simulator.read("log"));
        }
        simulator
    }

    /// Whether it answers a ping of RMCP's presence.
    fn answers(&self) -> bool {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let ping = [6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 0, 0, 0];
        let _ = socket.send_to(&ping, ("127.0.0.1", self.port));
        socket.recv(&mut [0; 64]).is_ok()
    }

    pub fn access(&self) -> Access {
        Access {
            address: Address { ip: "127.0.0.1".parse().unwrap(), port: Some(self.port) },
            username: USERNAME.into(),
            password: PASSWORD.into(),
            protocol: Some(Protocol::Ipmi),
            authorities: None,
        }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    pub fn is_on(&self) -> bool {
        self.read("power").trim() == "1"
    }
    pub fn power_set(&self, on: bool) {
        std::fs::write(self.directory.path().join("power"), if on { "1" } else { "0" }).unwrap();
    }
    /// A machine that takes orders and does not follow them.
    pub fn stuck_set(&self, stuck: bool) {
        let path = self.directory.path().join("stuck");
        if stuck { std::fs::write(path, "").unwrap() } else { drop(std::fs::remove_file(path)) }
    }
    /// What the machine was told so far: `power 0`, `reset 1`.
    pub fn told(&self) -> Vec<String> {
        self.read("told").lines().map(str::to_string).collect()
    }
    pub fn temperature_set(&self, degrees: u8) {
        let path = self.directory.path().join("temperature");
        // Replaced whole: it is read at any time.
        std::fs::write(path.with_extension("part"), degrees.to_string()).unwrap();
        std::fs::rename(path.with_extension("part"), path).unwrap();
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lan(at: &Path, port: u16) -> String {
    let machine = at.join("machine");
    let allowed: String =
        ["callback", "user", "operator", "admin"].map(|who| format!("allowed_auths_{who} none md2 md5 straight\n")).concat();
    format!(
        "name \"bmc\"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 {port}\npriv_limit admin\n{allowed}guid a123456789abcdefa123456789abcdef\nendlan\n\
         chassis_control \"{} 0x20\"\nuser 1 false \"\" \"\" user 10 none md2 md5 straight\n\
         user 2 true \"{USERNAME}\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n",
        machine.display()
    )
}

/// A management controller with one sensor of a temperature: minor from 80, critical from 90, non-recoverable from 96 degrees on.
fn emulated(at: &Path) -> String {
    let name = b"CPU Temp";
    let (thresholds, linear) = ([96, 90, 80, 2, 3, 5], [0, 1, 0, 0, 0, 0, 0, 7, 40, 60, 10, 255, 0]);
    let mut record = vec![0x20, 0, 1, 3, 1, 0x7f, 0x68, 1, 1, 0x95, 0x7a, 0x95, 0x7a, 0x3f, 0x3f, 0, 1, 0];
    record.extend(linear);
    record.extend(thresholds);
    record.extend([2, 2, 0, 0, 0, 0xc0 | name.len() as u8]);
    record.extend(name);
    let bytes: Vec<u8> = [1, 0, 0x51, 1, record.len() as u8].into_iter().chain(record).collect();
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:#04x}")).collect();
    let all = "000111111111111";
    format!(
        "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 1000 0x0a\n\
         sensor_add 0x20 0 1 0x01 0x01 poll 100 file \"{}\"\n\
         sensor_set_threshold 0x20 0 1 settable 111111 96 90 80 2 3 5\n\
         sensor_set_event_support 0x20 0 1 enable scanning per-state {all} {all} {all} {all}\n\
         main_sdr_add 0x20 {}\nmc_enable 0x20\n",
        at.join("temperature").display(),
        bytes.join(" ")
    )
}
