//! The loop: port, scripts and clock, one after the other.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use guest::client::{Client, Notice, TICK};
use guest::message::{Action, Notification, VoteResult};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::api::{Answer, Api, severity};
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
    asked: Vec<Asked>,
    health: Option<Script>,
    checked: Option<Instant>,
    /// What the script has found, and the applications.
    ill: Option<(Action, String)>,
    api: Option<Api>,
}

/// Something that the guest has been asked, and who has not answered yet.
struct Asked {
    notice: Notice,
    script: Option<Script>,
    applications: Vec<u64>,
    /// What the script has said to it.
    said: String,
}

/// Serves until `stop` has something to read.
pub fn run(port: &mut dyn Port, config: &Config, api: Option<Api>, stop: BorrowedFd<'_>) {
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
        ill: None,
        api,
    };
    while !guest.wait(port, stop) {
        guest.exchange(port);
        guest.check();
        guest.applications();
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
        let due = self.api.as_ref().and_then(Api::due).map(|due| due.saturating_duration_since(Instant::now()));
        let due = due.map_or(tick, |due| u16::try_from(due.as_millis()).unwrap_or(tick));
        let time = PollTimeout::from(due.min(if busy { LOOK } else { tick }));
        let mut fds = vec![PollFd::new(stop, PollFlags::POLLIN)];
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.unwritten.is_empty());
        if let Some(fd) = port.fd() {
            fds.push(PollFd::new(fd, wanted));
        }
        let there = fds.len() > 1;
        if let Some(api) = &self.api {
            fds.extend(api.fds().into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
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
            self.ill = match said {
                Said::Yes(_) => None,
                Said::No(why) => Some((action, why)),
                Said::Nothing(why) => Some((action, why)),
            };
            self.tell_health();
        } else if self.checked.is_none_or(|at| at.elapsed() >= self.config.health_interval) {
            self.checked = Some(Instant::now());
            match Script::start(path, &[], self.config.health_interval) {
                Ok(script) => self.health = Some(script),
                // One that cannot be asked says nothing of the guest.
                Err(why) => eprintln!("{why}"),
            }
        }
    }

    /// Of what is not well the worst is told.
    fn tell_health(&mut self) {
        let applications = self.api.as_ref().and_then(Api::unwell);
        let worst = self.ill.iter().cloned().chain(applications).max_by_key(|(action, _)| severity(*action));
        self.client.health(worst);
    }

    fn applications(&mut self) {
        let Some(api) = &mut self.api else { return };
        api.serve();
        if let Some(settings) = api.terms(&self.config.settings) {
            self.client.declare(settings, self.began.elapsed());
        }
        self.tell_health();
    }

    /// Has the script and the applications speak to what the host has asked or told.
    fn ask(&mut self) {
        for notice in self.client.notices() {
            let applications = self.api.as_mut().map(|api| api.ask(&notice)).unwrap_or_default();
            let time = notice.until.saturating_sub(self.began.elapsed());
            let words = [notice.notification.word(), notice.event.word()];
            let script = match self.config.event_script.as_ref().map(|path| Script::start(path, &words, time)).transpose() {
                Ok(script) => script,
                Err(why) => {
                    eprintln!("{why}");
                    self.client.answer(&notice, VoteResult::Error, why);
                    continue;
                }
            };
            if script.is_none() && applications.is_empty() {
                // Nobody has anything against it, or to do.
                self.client.answer(&notice, VoteResult::Complete, String::new());
            } else {
                self.asked.push(Asked { notice, script, applications, said: String::new() });
            }
        }
    }

    fn answer(&mut self) {
        let answers = self.api.as_mut().map(Api::answers).unwrap_or_default();
        let now = self.began.elapsed();
        for mut asked in std::mem::take(&mut self.asked) {
            match asked.hear(&answers, self.api.as_ref(), now) {
                Some((result, log)) => self.client.answer(&asked.notice, result, log),
                None => self.asked.push(asked),
            }
        }
    }
}

impl Asked {
    /// The guest's answer: one that refuses is enough, else all must have spoken.
    fn hear(&mut self, answers: &[Answer], api: Option<&Api>, now: Duration) -> Option<(VoteResult, String)> {
        for answer in answers.iter().filter(|a| u64::from(a.invocation_id) == self.notice.invocation_id) {
            match answer.result {
                VoteResult::Reject => return Some((VoteResult::Reject, answer.log.clone())),
                VoteResult::Accept | VoteResult::Complete => self.applications.retain(|number| *number != answer.application),
                // As good as silence.
                VoteResult::Timeout | VoteResult::Error | VoteResult::Unknown => {}
            }
        }
        self.applications.retain(|number| api.is_some_and(|api| api.has(*number)));
        match self.script.as_mut().and_then(Script::said) {
            None => {}
            Some(Said::No(why)) => return Some((VoteResult::Reject, why)),
            Some(Said::Nothing(why)) => return Some((VoteResult::Timeout, why)),
            Some(Said::Yes(why)) => (self.script, self.said) = (None, why),
        }
        if self.script.is_none() && self.applications.is_empty() {
            let done = if self.notice.notification == Notification::Revocable { VoteResult::Accept } else { VoteResult::Complete };
            return Some((done, std::mem::take(&mut self.said)));
        }
        (now >= self.notice.until).then(|| (VoteResult::Timeout, "an application takes too long".into()))
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
    use crate::port::Socket;

    struct Talk {
        host: Host,
        socket: UnixStream,
        began: Instant,
        stop: UnixStream,
        guest: Option<std::thread::JoinHandle<()>>,
    }

    impl Talk {
        fn new(config: Config) -> Talk {
            Talk::with(config, None)
        }
        fn with(config: Config, api: Option<Api>) -> Talk {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (stop, stopped) = UnixStream::pair().unwrap();
            for socket in [&ours, &theirs] {
                socket.set_nonblocking(true).unwrap();
            }
            let guest = std::thread::spawn(move || run(&mut Socket(theirs), &config, api, stopped.as_fd()));
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
        /// Both sides get to say something.
        fn turn(&mut self) {
            let mut buffer = [0u8; 4096];
            self.socket.write_all(&self.host.output()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            if let Ok(n) = self.socket.read(&mut buffer) {
                self.host.received(&mut &buffer[..n], 1000, self.began.elapsed());
            }
            self.host.tick(self.began.elapsed());
            self.socket.write_all(&self.host.output()).unwrap();
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

    /// An application as the original's library has it.
    struct Application(UnixStream);

    impl Application {
        fn call(path: &std::path::Path) -> Application {
            let stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            Application(stream)
        }
        fn say(&mut self, kind: u16, body: &[u8]) {
            let mut bytes = [b"FDFDA5A5".as_slice(), &[2, 1], &kind.to_ne_bytes(), &[0; 4], &228u32.to_ne_bytes(), body].concat();
            bytes.resize(228, 0);
            self.0.write_all(&bytes).unwrap();
        }
        fn words(&mut self, kind: u16, words: &[u32], log: &str) {
            let words: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            self.say(kind, &[&words[..], log.as_bytes()].concat());
        }
        fn register(&mut self, name: &str, interval: u32, vote: u32) -> u32 {
            let mut body = name.as_bytes().to_vec();
            body.resize(40, 0);
            body.extend([interval, vote, 60, 60, 60, 4].iter().flat_map(|w: &u32| w.to_ne_bytes()));
            self.say(0, &body);
            self.hears(1)[0]
        }
        /// The next message of this kind; challenges before it are answered.
        fn hears(&mut self, kind: u16) -> [u32; 3] {
            loop {
                let mut bytes = [0u8; 228];
                self.0.read_exact(&mut bytes).unwrap();
                assert_eq!((&bytes[..10], &bytes[16..20]), (&b"FDFDA5A5\x02\x01"[..], &228u32.to_ne_bytes()[..]));
                let words = [20, 24, 28].map(|at| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()));
                match u16::from_ne_bytes([bytes[10], bytes[11]]) {
                    heard if heard == kind => return words,
                    3 => self.words(4, &[words[0], 1, 1], ""),
                    other => panic!("{other}"),
                }
            }
        }
    }

    #[test]
    fn applications_have_a_say_and_are_missed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api");
        let config =
            Config::parse("HB_INTERVAL=5000\nVOTE=1\nSHUTDOWN_NOTICE=1\nSUSPEND_NOTICE=1\nRESUME_NOTICE=1\nCORRECTIVE_ACTION=log").unwrap();
        let mut talk = Talk::with(config, Some(Api::open(&path).unwrap()));
        talk.until(|r| *r == Report::Established);
        let mut first = Application::call(&path);
        assert_eq!(first.register("too often", 100, 10), 0);
        assert_eq!(first.register("first", 600_000, 30), 1);
        let mut second = Application::call(&path);
        assert_eq!(second.register("second", 600_000, 20), 1);
        // What needs longer than the guest has said is said to the host.
        let declared = Instant::now();
        while talk.host.terms().unwrap().vote != Duration::from_secs(31) {
            assert!(declared.elapsed() < Duration::from_secs(20));
            talk.turn();
        }
        talk.host.ask(1, Event::Pause, Notification::Revocable, talk.began.elapsed()).unwrap();
        talk.turn();
        let asked = (first.hears(5), second.hears(5));
        assert_eq!((&asked.0[1..], &asked.1[1..]), (&[4, 1][..], &[4, 1][..]), "pause, and it may be refused");
        first.words(6, &[asked.0[0], 4, 1, 1], "");
        second.words(6, &[asked.0[0], 4, 1, 2], "I am writing");
        let verdict = talk.until(|r| matches!(r, Report::Answered { .. }));
        assert_eq!(verdict, Report::Answered { ticket: 1, verdict: Verdict::Rejected("I am writing".into()) });
        // Told what cannot be refused, all are waited for; one that has taken leave is asked no more.
        second.words(2, &[], "");
        talk.host.ask(2, Event::Stop, Notification::Irrevocable, talk.began.elapsed()).unwrap();
        talk.turn();
        let asked = first.hears(5);
        assert_eq!(asked[1..], [1, 2]);
        first.words(6, &[asked[0], 1, 2, 3], "");
        let verdict = talk.until(|r| matches!(r, Report::Answered { .. }));
        assert_eq!(verdict, Report::Answered { ticket: 2, verdict: Verdict::Accepted });
        // One that ends without a word is missed.
        drop((first, second));
        let unwell = talk.until(|r| matches!(r, Report::Unhealthy { .. }));
        assert_eq!(unwell, Report::Unhealthy { action: Action::Log, log: "application first has ended".into() });
    }

    #[test]
    fn an_application_says_how_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api");
        let mut talk = Talk::with(Config::parse("HB_INTERVAL=5000").unwrap(), Some(Api::open(&path).unwrap()));
        talk.until(|r| *r == Report::Established);
        let mut stranger = Application::call(&path);
        stranger.0.write_all(&[b'x'; 500]).unwrap();
        assert_eq!(stranger.0.read(&mut [0u8; 1]).unwrap_or(0), 0, "who speaks something else is not listened to");
        let mut application = Application::call(&path);
        assert_eq!(application.register("app", 600_000, 5), 1);
        let challenge = application.hears(3)[0];
        application.words(4, &[challenge, 0, 3], "no licence");
        let unwell = talk.until(|r| matches!(r, Report::Unhealthy { .. }));
        assert_eq!(unwell, Report::Unhealthy { action: Action::Stop, log: "no licence".into() });
    }
}
