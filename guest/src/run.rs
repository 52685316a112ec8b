//! The loop: port, scripts and clock, one after the other.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use guest::client::{Client, Notice, TICK};
use guest::message::{Notification, VoteResult};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::Config;
use crate::port::Port;
use crate::script::{Said, Script};

/// How often a script that runs is looked at.
const LOOK: u16 = 50;
/// Bytes that wait for a host which does not read.
const WAITING: usize = 16 << 10;
/// How long the last word may take to be sent.
const LEAVE: Duration = Duration::from_millis(500);

struct Guest<'a> {
    config: &'a Config,
    client: Client,
    began: Instant,
    open: bool,
    unwritten: Vec<u8>,
    asked: Vec<(Notice, Script)>,
    health: Option<Script>,
    checked: Option<Instant>,
}

/// Serves until `stop` has something to read.
pub fn run(port: &mut dyn Port, config: &Config, stop: BorrowedFd<'_>) {
    // Numbers that tell one beginning from another; they are no secret.
    let random = || getrandom::u32().unwrap_or_else(|_| std::process::id()) >> 1;
    let mut guest = Guest {
        config,
        client: Client::new(config.settings.clone(), Box::new(random)),
        began: Instant::now(),
        open: false,
        unwritten: Vec::new(),
        asked: Vec::new(),
        health: None,
        checked: None,
    };
    while !guest.wait(port, stop) {
        guest.exchange(port);
        guest.check();
        guest.client.tick(guest.began.elapsed());
        guest.ask();
        guest.answer();
        guest.flush(port);
    }
    guest.client.exit("the client was stopped".into());
    let end = Instant::now() + LEAVE;
    guest.flush(port);
    while !guest.unwritten.is_empty() && guest.open && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
        guest.flush(port);
    }
}

impl Guest<'_> {
    /// Waits for something to do. True: it is to end.
    fn wait(&mut self, port: &mut dyn Port, stop: BorrowedFd<'_>) -> bool {
        let busy = !self.asked.is_empty() || self.health.is_some();
        let tick = u16::try_from(TICK.as_millis()).unwrap_or(LOOK);
        let time = PollTimeout::from(if busy { LOOK } else { tick });
        let mut fds = vec![PollFd::new(stop, PollFlags::POLLIN)];
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.unwritten.is_empty());
        if let Some(fd) = port.fd() {
            fds.push(PollFd::new(fd, wanted));
        }
        let there = fds.len() > 1;
        // When it fails, the clock goes on.
        let _ = poll(&mut fds, time);
        let stopped = fds[0].revents().is_some_and(|r| !r.is_empty());
        // A port that nobody has open on the other side is ready all the time.
        let open = there && fds[1].revents().is_some_and(|r| !r.intersects(PollFlags::POLLHUP | PollFlags::POLLERR));
        drop(fds);
        if open != self.open {
            self.opened(open);
        }
        if !open && !stopped {
            std::thread::sleep(TICK / 3);
        }
        stopped
    }

    fn opened(&mut self, open: bool) {
        self.open = open;
        self.unwritten.clear();
        if open {
            self.client.connected(self.began.elapsed());
        } else {
            self.asked.clear();
            self.client.disconnected();
        }
    }

    fn exchange(&mut self, port: &mut dyn Port) {
        let mut buffer = [0u8; 2048];
        while self.open {
            match port.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => self.client.received(&buffer[..n], self.began.elapsed()),
                Err(_) => {
                    port.close();
                    self.opened(false);
                }
            }
        }
    }

    fn flush(&mut self, port: &mut dyn Port) {
        self.unwritten.extend(self.client.output());
        if !self.open || self.unwritten.len() > WAITING {
            self.unwritten.clear();
        }
        while !self.unwritten.is_empty() {
            match port.write(&self.unwritten) {
                Ok(0) => return,
                Ok(n) => drop(self.unwritten.drain(..n)),
                Err(_) => {
                    port.close();
                    self.opened(false);
                }
            }
        }
    }

    /// Asks the guest how it is, now and then.
    fn check(&mut self) {
        let Some(path) = &self.config.health_script else { return };
        if let Some(script) = &mut self.health {
            let Some(said) = script.said() else { return };
            self.health = None;
            let action = self.config.settings.action;
            self.client.health(match said {
                Said::Yes(_) => None,
                Said::No(why) => Some((action, why)),
                Said::Nothing(why) => Some((action, why)),
            });
        } else if self.checked.is_none_or(|at| at.elapsed() >= self.config.health_interval) {
            self.checked = Some(Instant::now());
            match Script::start(path, &[], self.config.health_interval) {
                Ok(script) => self.health = Some(script),
                // One that cannot be asked says nothing of the guest.
                Err(why) => eprintln!("{why}"),
            }
        }
    }

    /// Has the script speak to what the host has asked or told.
    fn ask(&mut self) {
        for notice in self.client.notices() {
            let Some(path) = &self.config.event_script else {
                // Nobody has anything against it, or to do.
                self.client.answer(&notice, VoteResult::Complete, String::new());
                continue;
            };
            let time = notice.until.saturating_sub(self.began.elapsed());
            match Script::start(path, &[notice.notification.word(), notice.event.word()], time) {
                Ok(script) => self.asked.push((notice, script)),
                Err(why) => {
                    eprintln!("{why}");
                    self.client.answer(&notice, VoteResult::Error, why);
                }
            }
        }
    }

    fn answer(&mut self) {
        let mut open = Vec::new();
        for (notice, mut script) in std::mem::take(&mut self.asked) {
            let done = if notice.notification == Notification::Revocable { VoteResult::Accept } else { VoteResult::Complete };
            match script.said() {
                None => open.push((notice, script)),
                Some(Said::Yes(why)) => self.client.answer(&notice, done, why),
                Some(Said::No(why)) => self.client.answer(&notice, VoteResult::Reject, why),
                Some(Said::Nothing(why)) => self.client.answer(&notice, VoteResult::Timeout, why),
            }
        }
        self.asked = open;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use guest::host::{Host, Report, Verdict};
    use guest::message::{Action, Event};

    use super::*;
    use crate::port::patient;

    /// One end of a pair of sockets as a port.
    struct Socket(UnixStream);

    impl Port for Socket {
        fn fd(&mut self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            patient(self.0.read(buffer))
        }
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            patient(self.0.write(bytes))
        }
        fn close(&mut self) {}
    }

    struct Talk {
        host: Host,
        socket: UnixStream,
        began: Instant,
        stop: UnixStream,
        guest: Option<std::thread::JoinHandle<()>>,
    }

    impl Talk {
        fn new(config: Config) -> Talk {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (stop, stopped) = UnixStream::pair().unwrap();
            for socket in [&ours, &theirs] {
                socket.set_nonblocking(true).unwrap();
            }
            let guest = std::thread::spawn(move || run(&mut Socket(theirs), &config, stopped.as_fd()));
            let mut n = 0;
            let random = Box::new(move || {
                n += 1;
                n
            });
            Talk { host: Host::new(random), socket: ours, began: Instant::now(), stop, guest: Some(guest) }
        }
        /// Talks until there is a report of this kind.
        fn until(&mut self, fits: impl Fn(&Report) -> bool) -> Report {
            let mut buffer = [0u8; 4096];
            loop {
                assert!(self.began.elapsed() < Duration::from_secs(60), "it never comes");
                if let Ok(n) = self.socket.read(&mut buffer) {
                    self.host.received(&mut &buffer[..n], 1000, self.began.elapsed());
                }
                self.host.tick(self.began.elapsed());
                self.socket.write_all(&self.host.output()).unwrap();
                if let Some(report) = self.host.reports().into_iter().find(|r| fits(r)) {
                    return report;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        fn ask(&mut self, event: Event, notification: Notification) -> Verdict {
            self.host.ask(1, event, notification, self.began.elapsed()).unwrap();
            match self.until(|r| matches!(r, Report::Answered { .. })) {
                Report::Answered { verdict, .. } => verdict,
                other => panic!("{other:?}"),
            }
        }
    }

    impl Drop for Talk {
        fn drop(&mut self) {
            let _ = self.stop.write_all(b"x");
            if let Some(guest) = self.guest.take() {
                let _ = guest.join();
            }
        }
    }

    fn script(directory: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
        let path = directory.path().join(name);
        // Written under another name: a file that is still open for writing cannot be run.
        let part = directory.path().join("part");
        std::fs::write(&part, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&part, &path).unwrap();
        path
    }

    #[test]
    fn it_beats_votes_by_its_script_and_takes_leave() {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::parse("HB_INTERVAL=5000\nVOTE=30\nSHUTDOWN_NOTICE=30\nSUSPEND_NOTICE=1").unwrap();
        config.event_script = Some(script(
            &home,
            "event",
            &format!(
                "echo \"$1 $2\" >> {}/log; case $1-$2 in revocable-stop) echo I am busy; echo more; exit 1;; *-pause) sleep 60;; esac",
                home.path().display()
            ),
        ));
        let mut talk = Talk::new(config);
        talk.until(|r| *r == Report::Established);
        assert_eq!(talk.ask(Event::Stop, Notification::Revocable), Verdict::Rejected("I am busy".into()));
        assert_eq!(talk.ask(Event::Reboot, Notification::Revocable), Verdict::Accepted);
        assert_eq!(talk.ask(Event::Stop, Notification::Irrevocable), Verdict::Accepted);
        assert_eq!(talk.ask(Event::Pause, Notification::Irrevocable), Verdict::Silent, "it had its time");
        let log = std::fs::read_to_string(home.path().join("log")).unwrap();
        assert!(log.starts_with("revocable stop\nrevocable reboot\nirrevocable stop\n"), "{log}");
        talk.stop.write_all(b"x").unwrap();
        assert_eq!(talk.until(|_| true), Report::Disconnected { log: "the client was stopped".into() });
    }

    #[test]
    fn without_scripts_it_agrees_and_with_one_it_says_how_it_is() {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::parse("HB_INTERVAL=5000\nHEALTH_CHECK_INTERVAL=5\nCORRECTIVE_ACTION=log").unwrap();
        config.health_script =
            Some(script(&home, "health", &format!("test ! -e {}/ill || {{ echo no disk; exit 3; }}", home.path().display())));
        let mut talk = Talk::new(config);
        talk.until(|r| *r == Report::Established);
        assert_eq!(talk.ask(Event::Stop, Notification::Revocable), Verdict::Accepted);
        std::fs::write(home.path().join("ill"), "").unwrap();
        assert_eq!(talk.until(|_| true), Report::Unhealthy { action: Action::Log, log: "no disk".into() });
    }
}
