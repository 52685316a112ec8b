//! The commands `system` and `sturnus host` as their user calls them, against a cloud with two hosts that are played.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use base::Config;
use sturnus::cloud::Cloud;
use sturnus::machine::Hosts;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    _cloud: Cloud,
    _hosts: Hosts,
    home: tempfile::TempDir,
    /// Of BMCs, in the environment.
    tells_password: bool,
    _stop: watch::Sender<bool>,
}

async fn world() -> World {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config::for_home(home.path());
    for (key, value) in [
        ("listen", listener.local_addr().unwrap().to_string().as_str()),
        ("password.memory_kib", "64"),
        ("password.passes", "1"),
        // Nobody joins: tokens are made all the same.
        ("hosts.listen", "127.0.0.1:5001"),
        ("host.simulated", "true"),
        ("host.simulated_hosts", "2"),
    ] {
        config.set(key, value);
    }
    std::fs::create_dir_all(home.path().join("run")).unwrap();
    let cloud = Cloud::open(config.clone()).await.unwrap();
    let images = host::ImageSource::Directory(home.path().join("images"));
    let hosts = Hosts::start(&config, cloud.dial(), images, None).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(Cloud::serve(cloud.app.clone(), listener, None, stopped));
    let system: PathBuf = home.path().join("system");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sturnus"), &system).unwrap();
    let w = World { _cloud: cloud, _hosts: hosts, home, tells_password: false, _stop: stop };
    for host in ["simulated-0", "simulated-1"] {
        w.until(host, "availability", "available").await;
    }
    w
}

impl World {
    async fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = match program {
            "system" => Command::new(self.home.path().join("system")),
            _ => Command::new(env!("CARGO_BIN_EXE_sturnus")),
        };
        if program != "system" {
            command.arg(program);
        }
        command.args(args).env_clear().env("STURNUS_HOME", self.home.path()).stdin(std::process::Stdio::null());
        if self.tells_password {
            command.env("STURNUS_BMC_PASSWORD", "secret");
        }
        command.output().await.unwrap()
    }
    /// What it prints, when it succeeds.
    async fn says(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args).await;
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
    /// What it complains of, when it fails.
    async fn fails(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{program} {args:?}: {said}");
        said
    }
    /// A property that `system host-show` shows; empty when it shows none.
    async fn shows(&self, host: &str, property: &str) -> String {
        let output = self.run("system", &["host-show", host]).await;
        let text = String::from_utf8(output.stdout).unwrap();
        cells(&text).into_iter().find(|row| row[0] == property).map(|row| row[1].to_string()).unwrap_or_default()
    }
    async fn until(&self, host: &str, property: &str, value: &str) {
        let started = Instant::now();
        while self.shows(host, property).await != value {
            assert!(started.elapsed() < PATIENCE, "{host}: {property} is never {value}, but {}", self.shows(host, property).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The cells of a table, without its frame.
fn cells(table: &str) -> Vec<Vec<&str>> {
    let rows = table.lines().filter(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn system_shows_and_describes_the_site_and_sets_what_holds_for_it() {
    let w = world().await;
    let property = |table: &str, name: &str| -> String {
        cells(table).into_iter().find(|row| row[0] == name).map(|row| row[1].to_string()).unwrap_or_else(|| panic!("{name}: {table}"))
    };
    let shown = w.says("system", &["show"]).await;
    assert_eq!([property(&shown, "system_type"), property(&shown, "https_enabled")], ["Standard", "false"]);
    assert!(!shown.contains("capabilities") && !shown.contains("links"), "{shown}");
    let shown = w.says("system", &["modify", "--name", "edge-7", "--latitude", "-33.4", "-d", "by the sea"]).await;
    assert_eq!(["name", "latitude", "description"].map(|name| property(&shown, name)), ["edge-7", "-33.4", "by the sea"]);
    assert!(w.fails("system", &["modify", "--longitude", "181"]).await.contains("longitude: degrees from -180 to 180"));
    assert!(w.fails("system", &["modify", "-m", "duplex"]).await.contains("system_mode: it follows"));
    w.fails("system", &["modify"]).await;

    let listed = w.says("system", &["service-parameter-list", "--service", "platform", "--section", "maintenance"]).await;
    let rows = cells(&listed);
    assert_eq!(rows[0], ["uuid", "service", "section", "name", "value", "personality", "resource"]);
    let period = rows.iter().find(|row| row[3] == "heartbeat_period").unwrap();
    assert_eq!(period[4], "100");
    let shown = w.says("system", &["service-parameter-show", period[0]]).await;
    assert_eq!(property(&shown, "section"), "maintenance");
    let modify = ["service-parameter-modify", "platform", "maintenance"];
    let changed = w.says("system", &[&modify[..], &["heartbeat_period=500", "heartbeat_failure_action=degrade"]].concat()).await;
    assert!(changed.contains("500") && changed.contains("degrade"), "{changed}");
    assert!(w.fails("system", &[&modify[..], &["heartbeat_period=5"]].concat()).await.contains("from 100 to 1000"));
    assert!(w.fails("system", &[&modify[..], &["colour=red"]].concat()).await.contains("no service parameter colour"));
    let applied = w.says("system", &["service-parameter-apply", "platform", "--section", "maintenance"]).await;
    assert_eq!(applied.trim(), "Applying platform service parameters");
    assert!(w.fails("system", &["service-parameter-apply", "dns"]).await.contains("no service parameters of dns"));
    let one = w.says("system", &["service-parameter-list", "--name", "heartbeat_period"]).await;
    assert_eq!((cells(&one).len(), cells(&one)[1][4]), (2, "500"));
}

#[tokio::test(flavor = "multi_thread")]
async fn system_lists_shows_and_changes_hosts() {
    let w = world().await;
    let table = w.says("system", &["host-list"]).await;
    let rows = cells(&table);
    assert_eq!(rows[0], ["id", "hostname", "personality", "administrative", "operational", "availability"]);
    let mut named: Vec<_> = rows[1..].iter().map(|row| row[1..].to_vec()).collect();
    named.sort();
    assert_eq!(
        named,
        [["simulated-0", "worker", "unlocked", "enabled", "available"], ["simulated-1", "worker", "unlocked", "enabled", "available"]]
    );

    // By name, number and UUID; every property in its order.
    let uuid = w.shows("simulated-1", "uuid").await;
    let number = rows.iter().find(|row| row[1] == "simulated-1").unwrap()[0].to_string();
    for name in [&uuid, &number] {
        assert_eq!(w.shows(name, "hostname").await, "simulated-1");
    }
    let shown = w.says("system", &["host-show", "simulated-1"]).await;
    let names: Vec<&str> = cells(&shown).into_iter().map(|row| row[0]).collect();
    let mut sorted = names[1..].to_vec();
    sorted.sort_unstable();
    assert_eq!((names[0], &names[1..], names.contains(&"links")), ("Property", &sorted[..], false));
    assert!(w.fails("system", &["host-show", "nowhere"]).await.contains("there is no host nowhere"));

    // What needs a lock says so; locked and unlocked again.
    for verb in ["host-reboot", "host-reset", "host-power-on", "host-power-off", "host-delete"] {
        let why = w.fails("system", &[verb, "simulated-1"]).await;
        assert!(why.to_lowercase().contains("lock"), "{verb}: {why}");
    }
    assert!(w.says("system", &["host-lock", "simulated-1"]).await.contains("| uuid "));
    w.until("simulated-1", "administrative", "locked").await;
    w.until("simulated-1", "task", "").await;
    // There is no controller of its machine.
    for verb in ["host-reset", "host-power-on", "host-power-off"] {
        let why = w.fails("system", &[verb, "simulated-1"]).await;
        assert!(why.contains("BMC") || why.contains("management controller"), "{verb}: {why}");
    }
    for verb in ["host-swact", "host-reinstall"] {
        w.fails("system", &[verb, "simulated-1"]).await;
    }
    w.says("system", &["host-unlock", "simulated-1"]).await;
    w.until("simulated-1", "administrative", "unlocked").await;
    w.until("simulated-1", "availability", "available").await;

    // One that is to come, and is not wanted any more.
    let added = w.says("system", &["host-add", "-n", "later", "-p", "worker"]).await;
    assert!(cells(&added).contains(&vec!["administrative", "locked"]), "{added}");
    assert!(w.fails("system", &["host-add", "-n", "later"]).await.contains("already exists"));
    assert!(w.fails("system", &["host-add", "-n", "other", "-p", "storage"]).await.contains("only worker can"));
    assert!(w.fails("system", &["host-update", "later", "bm_type"]).await.contains("'bm_type' is not of the form name=value"));
    w.fails("system", &["host-update", "later", "colour=red"]).await;
    w.says("system", &["host-update", "later", "bm_type=ipmi", "bm_ip=192.0.2.7", "bm_username=root", "bm_password=secret"]).await;
    assert_eq!((w.shows("later", "bm_type").await, w.shows("later", "bm_ip").await), ("ipmi".to_string(), "192.0.2.7".to_string()));
    assert!(!w.says("system", &["host-show", "later"]).await.contains("secret"), "no password is shown");
    let sensors = w.says("system", &["host-sensor-list", "later"]).await;
    assert_eq!(cells(&sensors), [["uuid", "sensorname", "sensortype", "state", "status"]]);
    let groups = w.says("system", &["host-sensorgroup-list", "later"]).await;
    assert_eq!(cells(&groups), [["uuid", "sensorgroupname", "sensortype", "state", "audit_interval_group"]]);
    assert!(w.fails("system", &["host-sensor-show", "later", "fan"]).await.contains("no fan among its isensors"));
    assert!(
        w.fails("system", &["host-sensorgroup-modify", "later", "fans", "suppress=True"]).await.contains("no fans among its isensorgroups")
    );
    assert_eq!(w.says("system", &["host-delete", "later"]).await, "Deleted host later\n");
    assert!(w.fails("system", &["host-delete", "later"]).await.contains("there is no host later"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sturnus_host_does_the_same_in_plain_words() {
    let mut w = world().await;
    let listed = w.says("host", &["list"]).await;
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "Name", "Personality", "Administrative", "Operational", "Availability", "Address"]);
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[1..].iter().all(|line| line[2..6] == ["worker", "unlocked", "enabled", "available"]), "{listed}");
    assert!(w.says("host", &["show", "simulated-0"]).await.lines().any(|line| line.split_whitespace().eq(["hostname", "simulated-0"])));
    assert!(w.fails("host", &["show", "nowhere"]).await.contains("there is no host nowhere"));

    // It waits until the host is as it is to be.
    w.says("host", &["lock", "simulated-0"]).await;
    assert_eq!(w.shows("simulated-0", "administrative").await, "locked");
    assert!(w.fails("host", &["power-off", "simulated-0"]).await.to_lowercase().contains("bmc"));
    w.says("host", &["unlock", "simulated-0"]).await;
    assert_eq!(w.shows("simulated-0", "administrative").await, "unlocked");
    assert!(w.fails("host", &["delete", "simulated-0"]).await.to_lowercase().contains("lock"));

    assert!(w.says("host", &["add", "later"]).await.contains("hostname"));
    let token = w.says("host", &["token", "--name", "later", "--lifetime", "60"]).await;
    let words: Vec<&str> = token.split_whitespace().collect();
    assert_eq!((&words[..2], words[3], words.len()), (&["sturnus", "join"][..], "--token", 5));
    assert!(words[2].starts_with("http://127.0.0.1:"), "{token}");
    let bmc = ["bmc", "later", "--type", "redfish", "--address", "192.0.2.7", "--username", "root"];
    assert!(w.fails("host", &bmc).await.contains("bm_password: it is needed"));
    w.tells_password = true;
    assert!(!w.says("host", &bmc).await.contains("secret"));
    assert_eq!(w.shows("later", "bm_username").await, "root");
    assert_eq!(w.says("host", &["delete", "later"]).await, "Deleted host later\n");
}
