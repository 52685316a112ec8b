//! A BMC by Redfish: OpenStack's emulator (`tools/venv redfish` installs it).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base::Kind;
use bmc::{Access, Action, Address, Bmc, Power, Protocol, Quantity, Status};

/// The emulated machine takes up to 11 s to follow.
const PATIENCE: Duration = Duration::from_secs(40);
const PASSWORD: &str = "emulated-s3cret";

struct Emulator {
    directory: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Emulator {
    fn start() -> Emulator {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let put = |name: &str, text: &str| std::fs::write(at.join(name), text).unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
        put("certificate", &made.cert.pem());
        put("key", &made.signing_key.serialize_pem());
        put("users", &format!("admin:{}\n", bcrypt::hash(PASSWORD, 4).unwrap()));
        std::fs::create_dir(at.join("state")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let of = |name: &str| at.join(name).display().to_string();
        put(
            "config",
            &format!(
                "SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\nSUSHY_EMULATOR_LISTEN_PORT = {port}\nSUSHY_EMULATOR_SSL_CERT = '{}'\n\
                 SUSHY_EMULATOR_SSL_KEY = '{}'\nSUSHY_EMULATOR_AUTH_FILE = '{}'\nSUSHY_EMULATOR_STATE_DIR = '{}'\n\
                 SUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': '27946b59-9e44-4fa7-8e91-f3527a1ef094', 'name': 'fake', 'power_state': 'On', 'nics': []}}]\n",
                of("certificate"),
                of("key"),
                of("users"),
                of("state")
            ),
        );
        let built = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../target").into());
        let log = std::fs::File::create(at.join("log")).unwrap();
        let child = Command::new(Path::new(&built).join("redfish-emulator/bin/python"))
            .args(["-m", "sushy_tools.emulator.main", "--fake", "--config"])
            .arg(at.join("config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the emulator is missing: tools/venv redfish");
        let emulator = Emulator { directory, child, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = std::fs::read_to_string(emulator.directory.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(60), "{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        emulator
    }

    fn access(&self) -> Access {
        Access {
            address: Address { ip: "127.0.0.1".parse().unwrap(), port: Some(self.port) },
            username: "admin".into(),
            password: PASSWORD.into(),
            protocol: None,
            authorities: None,
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn power_and_sensors_of_an_emulated_machine() {
    let emulator = Emulator::start();
    let bmc = Bmc::new(emulator.access()).unwrap();
    assert_eq!(bmc.learn().await.unwrap(), Protocol::Redfish);
    assert_eq!(bmc.power().await.unwrap(), Power::On);
    let sensors = bmc.sensors().await.unwrap();
    let named = |name: &str| sensors.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name}: {sensors:?}"));
    let processor = named("CPU Temp");
    assert_eq!((processor.quantity, processor.reading, processor.status), (Quantity::Temperature, Some(41.0), Status::Ok));
    assert_eq!((processor.thresholds.upper_minor, processor.thresholds.upper_critical), (Some(42.0), Some(45.0)));
    assert_eq!((named("BaseBoard System Fan").quantity, named("BaseBoard System Fan").unit.as_str()), (Quantity::Fan, "RPM"));

    bmc.act(Action::Reset).await.unwrap();
    bmc.wait(Power::On, PATIENCE).await.unwrap();
    bmc.is_off_within(PATIENCE).await.unwrap();

    let wrong = Bmc::new(Access { password: "wrong".into(), protocol: Some(Protocol::Redfish), ..emulator.access() }).unwrap();
    assert!(wrong.power().await.unwrap_err().is(Kind::Forbidden));
    // Only certificates of these authorities: the emulator's is its own.
    let strict = Access { authorities: Some(emulator.directory.path().join("certificate")), ..emulator.access() };
    assert_eq!(Bmc::new(strict).unwrap().power().await.unwrap(), Power::Off);
    let other = emulator.directory.path().join("other");
    std::fs::write(&other, rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap().cert.pem()).unwrap();
    let foreign = Access { authorities: Some(other), protocol: Some(Protocol::Redfish), ..emulator.access() };
    assert!(Bmc::new(foreign).unwrap().power().await.unwrap_err().is(Kind::Unavailable));
}
