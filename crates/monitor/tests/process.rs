//! Processes that die, stay dead, say nothing, and are told to stop.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use monitor::{Monitor, Settings};
use rpc::monitor::{Condition, Level};

const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that sleeps, and its script; notes what the script was told.
struct Daemon {
    directory: tempfile::TempDir,
    settings: Settings,
}

const SCRIPT: &str = r#"#!/bin/sh
at=$(dirname "$0")
echo "$1" >>"$at/told"
stop() { kill -9 "$(cat "$at/pid")" 2>/dev/null; }
start() {
	[ ! -e "$at/broken" ] || exit 1
	setsid sleep 600 </dev/null >/dev/null 2>&1 &
	echo $! >>"$at/all"
	echo $! >"$at/pid.part" && mv "$at/pid.part" "$at/pid"
}
case $1 in
start) start ;;
stop) stop ;;
restart) stop; start ;;
status) [ ! -e "$at/sick" ] ;;
esac
"#;

fn free(udp: bool) -> SocketAddr {
    match udp {
        true => UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
        false => std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
    }
}

impl Daemon {
    /// `keys`: of its file, besides name, script and pid file.
    fn new(second: Duration, keys: &str) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::write(at.join("script"), SCRIPT).unwrap();
        std::fs::set_permissions(at.join("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(at.join("pmon.d")).unwrap();
        let of = |name: &str| at.join(name).display().to_string();
        let file = format!("[process]\nprocess = sleeper\nscript = {}\npidfile = {}\n{keys}", of("script"), of("pid"));
        std::fs::write(at.join("pmon.d/sleeper.conf"), file).unwrap();
        let settings = Settings {
            processes: at.join("pmon.d"),
            second,
            orders: free(true),
            answers: free(true),
            resources: false,
            home: at.to_path_buf(),
            filesystems: vec![],
            address: None,
            cluster_address: None,
            public_address: None,
            clocks: monitor::Clocks::default(),
            links: None,
        };
        Daemon { directory, settings }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
    fn order(&self, word: &str) {
        assert!(std::process::Command::new(self.at("script")).arg(word).status().unwrap().success());
    }
    fn pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.at("pid")).ok()?.trim().parse().ok()
    }
    fn lives(&self) -> bool {
        self.pid().is_some_and(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        })
    }
    fn told(&self, word: &str) -> usize {
        std::fs::read_to_string(self.at("told")).unwrap_or_default().lines().filter(|line| *line == word).count()
    }
    fn kill(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Whoever still watches it is not to start another.
        let _ = std::fs::write(self.at("broken"), "");
        // A second one that was started beside the first has its place in the pid file.
        let all = std::fs::read_to_string(self.at("all")).unwrap_or_default();
        let own = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x00600\x00");
        for pid in all.lines().filter_map(|line| line.parse().ok()).filter(own) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

async fn until(what: &str, fits: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !fits() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

fn said(monitor: &Monitor) -> Option<Condition> {
    monitor.board.conditions().into_iter().next()
}

/// Maintenance specification, acceptance 1: the death is seen within 50 ms, and the new one runs within a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_runs_again_and_nobody_is_alarmed() {
    let second = Duration::from_millis(50);
    let daemon = Daemon::new(second, "severity = major\nrestarts = 3\ninterval = 5\ndebounce = 1\n");
    daemon.order("start");
    let monitor = Monitor::start(daemon.settings.clone());
    // Twice, so that the first is certainly watched.
    let mut seen = Vec::new();
    for round in 1..=2 {
        let before = daemon.pid();
        tokio::time::sleep(5 * second).await;
        daemon.kill();
        let killed = Instant::now();
        seen.push(until("it is restarted", || daemon.told("restart") == round).await);
        until("it runs again", || daemon.lives() && daemon.pid() != before).await;
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    }
    println!("seen and restarted after {seen:?}");
    // The time in which its script was begun is in it.
    assert!(seen.iter().min().is_some_and(|fastest| *fastest < Duration::from_millis(50)), "{seen:?}");
    tokio::time::sleep(5 * second).await;
    assert_eq!((said(&monitor), daemon.told("restart")), (None, 2));
}

/// What running and looking may take on a busy machine, beyond the times that are scaled.
const SLACK: Duration = Duration::from_secs(2);

/// Maintenance specification, acceptance 2 and 3: not before the third start that failed, and within 15 s; clear within debounce + 5 s.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_stay_is_told_of_after_its_restarts_and_no_longer_when_it_stays() {
    let second = Duration::from_millis(50);
    for (severity, level, degrades, fails) in
        [("major", Level::Major, true, false), ("critical", Level::Critical, false, true), ("minor", Level::Minor, false, false)]
    {
        let daemon = Daemon::new(second, &format!("severity = {severity}\nrestarts = 3\ninterval = 1\ndebounce = 1\nstartuptime = 1\n"));
        std::fs::write(daemon.at("broken"), "").unwrap();
        let monitor = Monitor::start(daemon.settings.clone());
        let took = until("it is told of", || said(&monitor).is_some()).await;
        assert!(took <= 15 * second + SLACK, "{took:?}");
        assert!(daemon.told("restart") >= 3, "{}", daemon.told("restart"));
        let condition = said(&monitor).unwrap();
        assert_eq!((condition.alarm_id.as_str(), condition.entity.as_str()), ("200.006", "process=sleeper"));
        assert_eq!((condition.level, condition.degrades, condition.fails), (level, degrades, fails));
        // A file that goes takes its process out of sight, and brings it back.
        std::fs::rename(daemon.at("pmon.d/sleeper.conf"), daemon.at("aside")).unwrap();
        until("it is forgotten", || said(&monitor).is_none()).await;
        std::fs::rename(daemon.at("aside"), daemon.at("pmon.d/sleeper.conf")).unwrap();
        until("it is told of again", || said(&monitor).is_some()).await;
        // It is tried on, and one day it works.
        std::fs::remove_file(daemon.at("broken")).unwrap();
        let took = until("it is well", || said(&monitor).is_none()).await;
        assert!(took <= 6 * second + SLACK, "{took:?}");
        assert!(daemon.lives());
    }
}

/// Maintenance specification, acceptance 3: the second time in a row is the watchdog's business.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_the_quorum_is_told_to_the_watchdog_when_it_does_not_come_back() {
    let keys = "severity = critical\nrestarts = 1\ninterval = 1\ndebounce = 1\nstartuptime = 1\nquorum = 1\n";
    let daemon = Daemon::new(Duration::from_millis(50), keys);
    std::fs::write(daemon.at("broken"), "").unwrap();
    let monitor = Monitor::start(daemon.settings.clone());
    let mut lost = monitor.board.quorum();
    until("it is told of", || said(&monitor).is_some()).await;
    tokio::time::timeout(PATIENCE, lost.changed()).await.unwrap().unwrap();
    assert!(lost.borrow_and_update().as_str() == "sleeper" && daemon.told("restart") >= 2);
    // One that is none of it is never.
    let daemon = Daemon::new(Duration::from_millis(50), keys.trim_end_matches("quorum = 1\n"));
    std::fs::write(daemon.at("broken"), "").unwrap();
    let monitor = Monitor::start(daemon.settings.clone());
    until("it was tried again and again", || daemon.told("restart") > 4).await;
    assert!(said(&monitor).is_some_and(|c| c.fails) && !monitor.board.quorum().has_changed().unwrap());
    assert_eq!(*monitor.board.quorum().borrow(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_restarted_is_told_of_at_once_until_somebody_starts_it() {
    let daemon = Daemon::new(Duration::from_millis(50), "severity = major\nrestarts = 0\ninterval = 1\ndebounce = 1\n");
    daemon.order("start");
    let monitor = Monitor::start(daemon.settings.clone());
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.kill();
    until("it is told of", || said(&monitor).is_some()).await;
    daemon.order("start");
    until("it is well", || said(&monitor).is_none()).await;
    assert_eq!(daemon.told("restart"), 0);
}

/// Maintenance specification, acceptance 4: 20 to 30 s later.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_no_longer_answers_is_restarted() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap();
    port.set_read_timeout(Some(PATIENCE)).unwrap();
    let keys = format!(
        "severity = major\nrestarts = 3\ninterval = 1\ndebounce = 1\nmode = active\nport = {}\nperiod = 5\ntimeout = 4\nthreshold = 5\n",
        port.local_addr().unwrap().port()
    );
    let second = Duration::from_millis(50);
    let daemon = Daemon::new(second, &keys);
    daemon.order("start");
    let monitor = Monitor::start(daemon.settings.clone());
    let mut packet = [0; 64];
    for sequence in 1..=4 {
        let (n, from) = port.recv_from(&mut packet).unwrap();
        assert_eq!(std::str::from_utf8(&packet[..n]).unwrap(), format!("sleeper 12345678 {sequence}"));
        assert_eq!(from, daemon.settings.answers);
        port.send_to(format!("sleeper edcba987 {sequence}\0").as_bytes(), from).unwrap();
    }
    // From now on it is silent: five questions in a row.
    let took = until("it is restarted", || daemon.told("restart") == 1).await;
    assert!(took >= 15 * second && took <= 30 * second + SLACK, "{took:?}");
    until("it is well", || said(&monitor).is_none() && daemon.lives()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_status_is_bad_is_started_and_its_words_are_told() {
    let words = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(words.path(), "the disk is on fire\n").unwrap();
    let keys = format!(
        "severity = minor\nrestarts = 2\ninterval = 1\ndebounce = 1\nmode = status\nperiod = 2\ntimeout = 60\nstatus_failure_text = {}\n",
        words.path().display()
    );
    let daemon = Daemon::new(Duration::from_millis(50), &keys);
    std::fs::write(daemon.at("sick"), "").unwrap();
    let monitor = Monitor::start(daemon.settings.clone());
    until("it is told of", || said(&monitor).is_some()).await;
    assert!(said(&monitor).unwrap().reason.contains("the disk is on fire"));
    assert!(daemon.told("start") >= 2);
    std::fs::remove_file(daemon.at("sick")).unwrap();
    until("it is well", || said(&monitor).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_told_to_stop_stays_so_for_its_time() {
    // Half an hour in less than four seconds.
    let daemon = Daemon::new(Duration::from_millis(2), "severity = major\nrestarts = 3\ninterval = 500\ndebounce = 5\nstartuptime = 50\n");
    daemon.order("start");
    let monitor = Monitor::start(daemon.settings.clone());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let order = |text: &str| assert!(socket.send_to(text.as_bytes(), daemon.settings.orders).is_ok());
    for noise in ["", "{", r#"{"command":"dance","process":"sleeper"}"#, r#"{"command":"stop","process":"nobody"}"#] {
        order(noise);
    }
    let again = || order(r#"{"command":"stop","process":"sleeper"}"#);
    let began = Instant::now();
    while daemon.told("stop") == 0 {
        assert!(began.elapsed() < PATIENCE, "it is not stopped");
        again();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("it is gone", || !daemon.lives()).await;
    let stopped = Instant::now();
    until("it runs again by itself", || daemon.lives()).await;
    assert!(stopped.elapsed() > Duration::from_secs(2), "{:?}", stopped.elapsed());
    assert_eq!((daemon.told("restart"), said(&monitor)), (0, None));
    // A restart that is ordered is none of a failure's.
    let pid = daemon.pid();
    let began = Instant::now();
    while daemon.told("restart") == 0 {
        assert!(began.elapsed() < PATIENCE, "it is not restarted");
        order(r#"{"command":"restart","process":"sleeper"}"#);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("another runs", || daemon.lives() && daemon.pid() != pid).await;
    assert_eq!(said(&monitor), None);
}
