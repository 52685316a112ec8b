//! The program that does with one vCPU more or less when its host asks: behind `@cgcs.scale`, beside the daemon that has the port.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr as Address, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guest::messaging::VERSION;
use guest::scale::{Change, Outcome};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::cpus::{Cpus, listed};

/// What of the host's time is left for the way there and back.
const MARGIN: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);
/// How often the metadata is asked for at boot, and how long each time.
const TRIES: u32 = 3;
const METADATA: Duration = Duration::from_secs(5);
/// Bytes of an answer of the metadata address.
const LONGEST: u64 = 16 << 10;

pub struct Scaler {
    pub cpus: Cpus,
    /// Says which vCPU can go (`--cpu_del`, by its exit code), and hears which one came (`--cpu_add`). It may be missing.
    pub helper: PathBuf,
    /// The name of the daemon that has the port.
    pub daemon: String,
}

/// What the guest does without, as its metadata says; asked for a few times, since the network may not be there yet.
pub fn offline_at_boot(metadata: Address) -> BTreeSet<u32> {
    for _ in 0..TRIES {
        let began = Instant::now();
        match fetch(metadata, "/latest/meta-data/offline_cpuset") {
            Ok(Some(text)) => return listed(&text),
            Ok(None) => return BTreeSet::new(),
            Err(e) => eprintln!("metadata at {metadata}: {e}"),
        }
        std::thread::sleep(METADATA.saturating_sub(began.elapsed()));
    }
    BTreeSet::new()
}

/// A document of the metadata address; none: there is no such one.
fn fetch(address: Address, path: &str) -> std::io::Result<Option<String>> {
    let mut stream = TcpStream::connect_timeout(&address, METADATA)?;
    stream.set_read_timeout(Some(METADATA))?;
    stream.set_write_timeout(Some(METADATA))?;
    // In one packet.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", address.ip()).as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(Some(body.to_string())),
        Some("404") => Ok(None),
        status => Err(std::io::Error::other(format!("answered {}", status.unwrap_or("nothing")))),
    }
}

impl Scaler {
    /// Takes these offline: the guest was scaled down before it booted.
    pub fn without(&self, cpus: &BTreeSet<u32>) {
        for cpu in cpus.iter().filter(|cpu| **cpu > 0) {
            if let Err(why) = self.cpus.set(*cpu, false) {
                eprintln!("{why}");
            }
        }
    }

    /// Serves until `stop` has something to read.
    pub fn run(&self, socket: &UnixDatagram, stop: BorrowedFd<'_>) {
        loop {
            let mut fds = [PollFd::new(stop, PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            // When it fails, it is tried again.
            let _ = poll(&mut fds, PollTimeout::NONE);
            if fds[0].revents().is_some_and(|r| !r.is_empty()) {
                return;
            }
            let mut buffer = [0u8; 8192];
            while let Ok(n) = socket.recv(&mut buffer) {
                let Some((to, answer)) = self.answer(&buffer[..n]) else { continue };
                let message = json!({"version": VERSION, "dest_addr": to, "data": answer}).to_string();
                let sent = SocketAddr::from_abstract_name(&self.daemon).and_then(|daemon| socket.send_to_addr(message.as_bytes(), &daemon));
                if let Err(e) = sent {
                    eprintln!("@{}: {e}", self.daemon);
                }
            }
        }
    }

    /// To whom and what is answered to a datagram; what is of no use is not.
    fn answer(&self, datagram: &[u8]) -> Option<(String, Value)> {
        let message: Value = serde_json::from_slice(datagram).ok()?;
        if message["version"].as_u64() != Some(VERSION) {
            return None;
        }
        let data = &message["data"];
        if data["msg_type"] == "nack" {
            eprintln!("the host does not understand an answer: {}", data["log_msg"]);
        }
        let (change, time) = Change::asked(data)?;
        let outcome = self.change(&change, Instant::now() + time.saturating_sub(MARGIN)).unwrap_or_else(Outcome::Failed);
        eprintln!("{change:?}: {outcome:?}");
        Some((message["source_addr"].as_str()?.to_string(), change.answer(&outcome)))
    }

    fn change(&self, change: &Change, until: Instant) -> Result<Outcome, String> {
        let cpu = match change {
            Change::Down { online } => {
                let cpu = self.choose(online, until)?;
                self.cpus.set(cpu, false)?;
                cpu
            }
            Change::Up { cpu, online } => {
                self.cpus.set(*cpu, true)?;
                let list = online.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
                match self.helper(&["--cpu_add", &cpu.to_string(), &list], until) {
                    None | Some(Ok(0)) => *cpu,
                    Some(Ok(code)) => return Err(format!("{} ended with {code}", self.helper.display())),
                    Some(Err(why)) => return Err(why),
                }
            }
        };
        Ok(Outcome::Done { cpu: Some(cpu), online: self.cpus.online() })
    }

    /// The vCPU that can go: one that has gone, if the host does not know it yet; that of the helper; the highest.
    fn choose(&self, known: &BTreeSet<u32>, until: Instant) -> Result<u32, String> {
        let online = self.cpus.online();
        if let Some(gone) = known.difference(&online).max().filter(|cpu| **cpu > 0 && !online.is_empty()) {
            return Ok(*gone);
        }
        let chosen = self.helper(&["--cpu_del"], until).and_then(|code| u32::try_from(code.ok()?).ok());
        let chosen = chosen.filter(|cpu| *cpu > 0 && online.contains(cpu)).or(online.last().copied());
        chosen.filter(|cpu| *cpu > 0).ok_or_else(|| "there is no vCPU that can go".into())
    }

    /// The helper's exit code; none: there is no helper.
    fn helper(&self, arguments: &[&str], until: Instant) -> Option<Result<i32, String>> {
        let child = Command::new(&self.helper).args(arguments).stdin(Stdio::null()).spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(e) => return Some(Err(format!("{}: {e}", self.helper.display()))),
        };
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status.code().ok_or_else(|| "the helper was killed".to_string())),
                Ok(None) if Instant::now() < until => std::thread::sleep(LOOK),
                _ => {
                    // It may have ended.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Some(Err("the helper takes too long".into()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::cpus::tests::fake;
    use crate::messages::bind;

    const SECOND: Duration = Duration::from_secs(1);

    fn scaler(cpus: Cpus, helper: PathBuf) -> Scaler {
        Scaler { cpus, helper, daemon: String::new() }
    }

    fn down(scaler: &Scaler, known: &[u32]) -> Result<Option<u32>, String> {
        let change = Change::Down { online: known.iter().copied().collect() };
        match scaler.change(&change, Instant::now() + SECOND)? {
            Outcome::Done { cpu, .. } => Ok(cpu),
            Outcome::Failed(why) => Err(why),
        }
    }

    fn script(root: &std::path::Path, text: &str) -> PathBuf {
        let path = root.join("helper");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_highest_goes_unless_the_helper_says_another() {
        let (root, cpus) = fake(4, "0-3");
        let alone = scaler(cpus, "/nonexistent".into());
        assert_eq!(down(&alone, &[0, 1, 2, 3]), Ok(Some(3)));
        assert_eq!(std::fs::read_to_string(root.path().join("cpu3/online")).unwrap(), "0");
        for (text, chosen) in [("exit 2", 2), ("exit 0", 3), ("exit 77", 3), ("kill -9 $$", 3), ("exec sleep 30", 3)] {
            let (root, cpus) = fake(4, "0-3");
            let helped = scaler(cpus, script(root.path(), text));
            assert_eq!(down(&helped, &[]), Ok(Some(chosen)), "{text}");
        }
    }

    #[test]
    fn what_was_done_before_is_not_done_again() {
        let (_root, cpus) = fake(4, "0-2");
        let asked_again = scaler(cpus, "/nonexistent".into());
        assert_eq!(down(&asked_again, &[0, 1, 2, 3]), Ok(Some(3)));
        assert_eq!(down(&asked_again, &[0, 1, 2]), Ok(Some(2)));
    }

    #[test]
    fn the_last_one_stays() {
        let (_root, cpus) = fake(1, "0");
        assert!(down(&scaler(cpus, "/nonexistent".into()), &[0]).unwrap_err().contains("no vCPU"));
    }

    #[test]
    fn one_comes_back_and_the_helper_hears_of_it() {
        let (root, cpus) = fake(3, "0-2");
        let helper = script(root.path(), &format!("echo \"$@\" >{}; exit $2", root.path().join("heard").display()));
        let helped = scaler(cpus, helper);
        helped.without(&BTreeSet::from([0, 2, 9]));
        assert_eq!(std::fs::read_to_string(root.path().join("cpu2/online")).unwrap(), "0");
        let up = |cpu: u32| helped.change(&Change::Up { cpu, online: [0, cpu].into() }, Instant::now() + SECOND);
        assert!(up(2).unwrap_err().ends_with("ended with 2"));
        assert_eq!(std::fs::read_to_string(root.path().join("heard")).unwrap(), "--cpu_add 2 0,2\n");
        assert_eq!(std::fs::read_to_string(root.path().join("cpu2/online")).unwrap(), "1");
        assert!(up(9).unwrap_err().contains("cpu9"));
    }

    #[test]
    fn it_answers_over_the_daemon() {
        let own = |name: &str| format!("{name}.{}", std::process::id() % 100_000);
        let (root, cpus) = fake(2, "0-1");
        let (daemon, name) = (bind(&own("scd")).unwrap(), own("sca"));
        let scaler = Scaler { cpus, helper: "/nonexistent".into(), daemon: own("scd") };
        let socket = bind(&name).unwrap();
        let (mut stop, stopped) = UnixStream::pair().unwrap();
        let serving = std::thread::spawn(move || scaler.run(&socket, stopped.as_fd()));
        daemon.set_nonblocking(false).unwrap();
        daemon.set_read_timeout(Some(20 * SECOND)).unwrap();
        let to = SocketAddr::from_abstract_name(&name).unwrap();
        let question = Change::Down { online: [0, 1].into() }.request(SECOND);
        for data in [json!({"msg_type": "nack"}), question] {
            let message = json!({"version": 2, "source_addr": "cgcs.scale", "data": data}).to_string();
            daemon.send_to_addr(message.as_bytes(), &to).unwrap();
        }
        let mut buffer = [0u8; 4096];
        let n = daemon.recv(&mut buffer).unwrap();
        let answer: Value = serde_json::from_slice(&buffer[..n]).unwrap();
        assert_eq!(
            (&answer["dest_addr"], &answer["data"]["result"], &answer["data"]["offline_cpu"]),
            (&json!("cgcs.scale"), &json!("success"), &json!(1))
        );
        stop.write_all(b"x").unwrap();
        serving.join().unwrap();
        drop(root);
    }

    #[test]
    fn metadata_says_what_is_to_be_offline() {
        let serve = |answer: &'static str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(&stream).lines().map(Result::unwrap);
                let question: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                assert_eq!(question[0], "GET /latest/meta-data/offline_cpuset HTTP/1.0");
                stream.write_all(answer.as_bytes()).unwrap();
            });
            address
        };
        let there = serve("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nset([2, 3])");
        assert_eq!(offline_at_boot(there), BTreeSet::from([2, 3]));
        assert_eq!(offline_at_boot(serve("HTTP/1.1 404 Not Found\r\n\r\n")), BTreeSet::new());
    }
}
