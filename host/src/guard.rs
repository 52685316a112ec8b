//! The guard: a small process beside the agent that answers the controller's pulses and ends the guests that may be running
//! elsewhere when this host's lease has run out (decision 0013). It is apart from the agent so that neither an upgrade nor a crash
//! of the agent makes the host look lost, and it knows nothing of the network but packets of one size that it can prove.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::error::Internal;
use base::{Config, Error, Result};
use heartbeat::{FRAME, Frame, Kind, Lease, Moment, PERIOD, Refused};
use rpc::heartbeat::HeartbeatDocument;
use rpc::instance::Power;
use uuid::Uuid;

use crate::documents::{self, Documents};
use crate::hypervisor::{boot_id, process, qmp};
use crate::lease::{LeaseFile, now};
use crate::watchdog::Watchdog;

/// How often it looks whether a guest runs that must not, while there is no lease.
const SWEEP: Duration = Duration::from_millis(50);
/// How long a guest that is being ended may still be seen until the machine's watchdog is no longer wound up: a large one's memory
/// takes the kernel seconds.
const LINGER: Duration = Duration::from_secs(10);
/// How often dropped packets are told, at most.
const TELL: Duration = Duration::from_secs(60);

/// The document it goes by, as the agent stored it.
pub fn document_path(home: &Path) -> PathBuf {
    home.join("host/heartbeat.json")
}

/// Is there when it is to leave for good, and not for another one to follow.
pub fn leave_path(home: &Path) -> PathBuf {
    home.join("host/guard.leave")
}

/// Its lock, with its process' number.
pub fn lock_path(home: &Path) -> PathBuf {
    home.join("host/guard.lock")
}

struct Guard {
    home: PathBuf,
    own: Uuid,
    documents: Documents,
    file: LeaseFile,
    lease: Lease,
    written: Option<Moment>,
    socket: UdpSocket,
    document: HeartbeatDocument,
    /// Of the document's file, to see that it is another one.
    read: std::time::SystemTime,
    dropped: Dropped,
    lock: File,
    /// When something of its own was last told to go wrong.
    troubled: Option<Moment>,
    watchdog: Option<Watchdog>,
    /// Since when guests are seen that have been ended.
    lingering: Option<Moment>,
}

#[derive(Default)]
struct Dropped {
    malformed: u64,
    forged: u64,
    told: Moment,
}

/// Runs as long as there is a home. One a home.
pub fn run(config: &Config) -> Result<()> {
    let home = &config.home();
    let lock = lock(home)?;
    // A wish for its predecessor.
    let _ = std::fs::remove_file(leave_path(home));
    let Some(own) = documents::id(home)?.and_then(|id| id.parse().ok()) else {
        return Err(Error::invalid("this home has no host"));
    };
    let Some((document, read)) = load(home)? else { return Ok(()) };
    let file = LeaseFile::open(home)?;
    let now = now();
    let mut run = [0; 8];
    getrandom::fill(&mut run).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
    let mut guard = Guard {
        home: home.to_path_buf(),
        own,
        documents: Documents::open(home, true)?,
        lease: Lease::new(own, u64::from_be_bytes(run), now, file.until().unwrap_or_default()),
        file,
        written: None,
        socket: socket(document.port)?,
        document,
        read,
        dropped: Dropped::default(),
        lock,
        troubled: None,
        watchdog: Watchdog::of(config),
        lingering: None,
    };
    process::first_in_line();
    guard.site_set();
    while guard.round()? {}
    // An error is no orderly end: the watchdog runs on, for whoever comes next.
    if let Some(watchdog) = guard.watchdog.take() {
        watchdog.close();
    }
    Ok(())
}

fn lock(home: &Path) -> Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(lock_path(home)).internal("cannot open the guard's lock")?;
    // One before it that is just leaving.
    let began = now();
    while file.try_lock().is_err() {
        if now() > began + Duration::from_secs(5) {
            return Err(Error::conflict("another guard keeps this host"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // In place, which a disk that is full allows.
    file.write_all_at(format!("{:<10}", std::process::id()).as_bytes(), 0).internal("cannot write the guard's lock")?;
    Ok(file)
}

fn load(home: &Path) -> Result<Option<(HeartbeatDocument, std::time::SystemTime)>> {
    let path = document_path(home);
    let Ok(changed) = std::fs::metadata(&path).and_then(|m| m.modified()) else { return Ok(None) };
    Ok(documents::read(&path)?.map(|document| (document, changed)))
}

/// On every address: which one leads to the controller may change.
fn socket(port: u16) -> Result<UdpSocket> {
    let bound = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).or_else(|_| UdpSocket::bind(("0.0.0.0", port)));
    bound.map_err(|e| Error::unavailable(format!("UDP port {port} of this machine is not free")).caused_by(e))
}

impl Guard {
    /// One period. False: there is nothing more to guard.
    fn round(&mut self) -> Result<bool> {
        let began = now();
        let pause = if self.lease.holds(began) { PERIOD } else { SWEEP };
        loop {
            let left = (began + pause).saturating_sub(now());
            if left.is_zero() {
                break;
            }
            self.socket.set_read_timeout(Some(left)).internal("cannot wait for packets")?;
            // One byte more than a frame has: a longer packet is seen to be one.
            let mut packet = [0; FRAME + 1];
            match self.socket.recv_from(&mut packet) {
                Ok((n, from)) => self.packet(&packet[..n], from),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                // An answer could not be delivered: that is told here, and says nothing of the next packet.
                Err(e) => tracing::debug!("receiving: {e}"),
            }
            self.write();
        }
        self.reload();
        for question in self.lease.tick(now()) {
            if let Some(to) = self.document.address(&question.receiver) {
                self.send(&question, to);
            }
        }
        self.write();
        let linger = !self.lease.holds(now()) && self.guests_end();
        self.watchdog_wind(linger);
        self.tell();
        Ok(self.home.exists() && !leave_path(&self.home).exists())
    }

    /// Winds up the machine's watchdog, as long as it can be counted on that guests end here.
    fn watchdog_wind(&mut self, linger: bool) {
        let Some(watchdog) = &mut self.watchdog else { return };
        let now = now();
        if !linger {
            self.lingering = None;
        } else if now > *self.lingering.get_or_insert(now) + LINGER {
            let error = Error::internal("guests that may run elsewhere do not end: this machine's watchdog resets it");
            return self.trouble(&error);
        }
        watchdog.wind(now);
    }

    /// What goes wrong with files is told, and harms nothing: this host answers, and its guests end with its lease, from memory.
    fn trouble(&mut self, error: &Error) {
        if self.troubled.is_none_or(|told| now() > told + TELL) {
            tracing::error!("{}", error.chain());
            self.troubled = Some(now());
        }
    }

    fn packet(&mut self, packet: &[u8], from: SocketAddr) {
        let opened = Frame::claimed_sender(packet).and_then(|sender| {
            let pulse = sender == self.document.controller;
            let frame = Frame::open(packet, if pulse { &self.document.key } else { &self.document.site_key })?;
            // What only the controller may say is sealed with the key that only it has.
            if (frame.kind == Kind::Pulse) == pulse { Ok(frame) } else { Err(Refused::Forged) }
        });
        match opened {
            Ok(frame) => {
                if let Some(mut answer) = self.lease.hear(&frame, now()) {
                    if answer.kind == Kind::Answer {
                        answer.value = self.document.site;
                    }
                    self.send(&answer, from);
                }
            }
            Err(Refused::Malformed) => self.dropped.malformed += 1,
            Err(Refused::Forged) => self.dropped.forged += 1,
        }
    }

    fn send(&self, frame: &Frame, to: SocketAddr) {
        let key = if frame.kind == Kind::Answer { &self.document.key } else { &self.document.site_key };
        let to = match (self.socket.local_addr(), to) {
            // A socket of IPv6 reaches IPv4 by addresses of its own kind.
            (Ok(SocketAddr::V6(_)), SocketAddr::V4(to)) => SocketAddr::from((to.ip().to_ipv6_mapped(), to.port())),
            _ => to,
        };
        // A network that is down is what all this is for.
        let _ = self.socket.send_to(&frame.seal(key), to);
    }

    fn site_set(&mut self) {
        let peers: BTreeSet<Uuid> = self.document.peers.iter().map(|p| p.id).filter(|id| *id != self.own).collect();
        self.lease.peers_set(peers);
    }

    fn reload(&mut self) {
        let changed = std::fs::metadata(document_path(&self.home)).and_then(|m| m.modified());
        let outcome = match changed {
            Ok(at) if at != self.read => self.take(),
            Err(e) if e.kind() == ErrorKind::NotFound && self.home.exists() => self.restore(),
            _ => return,
        };
        if let Err(error) = outcome {
            self.trouble(&error);
        }
    }

    fn take(&mut self) -> Result<()> {
        let Some((document, read)) = load(&self.home)? else { return Ok(()) };
        if document.port != self.document.port {
            self.socket = socket(document.port)?;
        }
        (self.document, self.read) = (document, read);
        self.site_set();
        Ok(())
    }

    /// Somebody has removed what this host knew. What is known here is put back: who the host is, and for how long it may have
    /// guests. An agent that starts now goes on by it, and takes up the guests when its controller has named them.
    fn restore(&mut self) -> Result<()> {
        tracing::error!("{} is gone: this host has lost what it knew", document_path(&self.home).display());
        self.documents = Documents::open(&self.home, true)?;
        documents::id_restore(&self.home, &self.own.to_string())?;
        let own = self.lock.metadata().internal("cannot look at the guard's lock")?.ino();
        if std::fs::metadata(lock_path(&self.home)).map_or(true, |found| found.ino() != own) {
            self.lock = lock(&self.home)?;
        }
        (self.file, self.written) = (LeaseFile::open(&self.home)?, None);
        self.write();
        let text = serde_json::to_vec(&self.document).internal("cannot write a document")?;
        documents::replace(&document_path(&self.home), &text, true)?;
        self.take()
    }

    /// Leaves for the agent how long the lease holds. When that cannot be written, the agent takes it for shorter than it is.
    fn write(&mut self) {
        let until = if self.lease.holds(now()) && self.lease.until() <= now() { Moment::MAX } else { self.lease.until() };
        if self.written == Some(until) {
            return;
        }
        match self.file.write(until) {
            Ok(()) => self.written = Some(until),
            Err(error) => self.trouble(&error),
        }
    }

    /// Ends every guest that may be running elsewhere. The agent begins none without a lease, and ends them too. True: some were there.
    fn guests_end(&mut self) -> bool {
        let instances = self.documents.instances().unwrap_or_else(|error| {
            self.trouble(&error);
            Vec::new()
        });
        let mut any = strays_end(&self.home, |id| instances.iter().any(|(spec, _)| spec.id == id));
        let boot = boot_id();
        for (spec, journal) in instances.iter().filter(|(spec, _)| spec.recovery.elsewhere && spec.power != Power::Absent) {
            let known = journal.process.as_ref().filter(|p| p.boot_id == boot).map(|p| (p.pid, Some(p.start_ticks)));
            // One that was started a moment ago is not in the journal yet; who listens on its monitor is its process.
            let found = || qmp::listener(&self.home.join("instances").join(&spec.id).join("qmp.sock")).map(|pid| (pid, None));
            let Some((pid, ticks)) = known.filter(|(pid, ticks)| process::start_ticks(*pid) == *ticks).or_else(found) else { continue };
            any |= end(&spec.id, pid, ticks, "the host has lost its lease, the guest may run elsewhere");
        }
        any
    }

    fn tell(&mut self) {
        let Dropped { malformed, forged, told } = self.dropped;
        if malformed + forged > 0 && now() > told + TELL {
            tracing::warn!(malformed, forged, "packets dropped since the guard started");
            self.dropped.told = now();
        }
    }
}

/// Ends a guest's process. True: it was there.
fn end(instance: &str, pid: i32, ticks: Option<u64>, why: &str) -> bool {
    match process::end(pid, ticks) {
        Ok(true) => tracing::warn!(instance, pid, "ended: {why}"),
        Ok(false) => return false,
        Err(e) => tracing::error!(instance, pid, "cannot be ended: {e}"),
    }
    true
}

/// Ends guests of which this host knows nothing any more, as when its documents are lost: they may run elsewhere. Only while there is no
/// lease. True: some were there.
pub(crate) fn strays_end(home: &Path, known: impl Fn(&str) -> bool) -> bool {
    let Ok(entries) = std::fs::read_dir(home.join("instances")) else { return false };
    let mut any = false;
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if !base::id::is_uuid(&id) || known(&id) {
            continue;
        }
        let Some(pid) = qmp::listener(&entry.path().join("qmp.sock")) else { continue };
        any |= end(&id, pid, None, "this host has no lease and knows nothing of it, it may run elsewhere");
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::Journal;
    use crate::hypervisor::Process;
    use heartbeat::{Health, Key, LEASE, Watch};
    use rpc::heartbeat::Peer;

    fn spec(elsewhere: bool) -> rpc::instance::InstanceSpec {
        let mut spec = crate::testing::spec();
        spec.recovery.elsewhere = elsewhere;
        spec
    }

    /// A process that stands for a guest's, with what the agent would have written of it.
    fn guest(documents: &Documents, elsewhere: bool) -> std::process::Child {
        let spec = spec(elsewhere);
        let child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id() as i32;
        let process =
            Process { pid, start_ticks: process::start_ticks(pid).unwrap(), boot_id: boot_id(), started_at: base::Timestamp::now() };
        documents.instance_store(&spec).unwrap();
        documents.journal_store(&spec.id, &Journal { process: Some(process), ..Default::default() }).unwrap();
        child
    }

    struct Controller {
        socket: UdpSocket,
        watch: Watch,
        key: Key,
        confirmed: u64,
    }

    impl Controller {
        /// Pulses a guard for a while.
        fn run(&mut self, to: SocketAddr, time: Duration) {
            let end = now() + time;
            self.socket.set_read_timeout(Some(PERIOD)).unwrap();
            let mut packet = [0; FRAME];
            while now() < end {
                for pulse in self.watch.tick(now()).1 {
                    self.socket.send_to(&pulse.seal(&self.key), to).unwrap();
                }
                let next = now() + PERIOD;
                while let Ok(n) = self.socket.recv(&mut packet) {
                    let answer = Frame::open(&packet[..n], &self.key).unwrap();
                    self.confirmed = answer.value;
                    self.watch.hear(&answer);
                    std::thread::sleep(next.saturating_sub(now()));
                }
            }
        }
    }

    /// The whole of it with real packets and processes: pulses are answered and prolong the lease, forgeries do nothing, and when
    /// the pulses stop the guests that could be started elsewhere end, within the margin, and no others.
    #[test]
    fn guests_end_with_the_lease() {
        let home = tempfile::tempdir().unwrap();
        let documents = Documents::open(home.path(), true).unwrap();
        let own: Uuid = documents.host_id().unwrap().parse().unwrap();
        let (mut leased, mut kept) = (guest(&documents, true), guest(&documents, false));
        let key = Key::new([7; 32]);
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (controller, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let peers = vec![Peer { id: controller, address: None }, Peer { id: other, address: Some("127.0.0.1".parse().unwrap()) }];
        let document =
            HeartbeatDocument { site: 41, controller, key: key.clone(), site_key: key.derive("site"), port, peers, locked: false };
        LeaseFile::open(home.path()).unwrap().write(now() + LEASE).unwrap();
        documents::replace(&document_path(home.path()), &serde_json::to_vec(&document).unwrap(), true).unwrap();
        let watchdog = tempfile::NamedTempFile::new().unwrap();
        let mut config = base::Config::for_home(home.path());
        config.set("host.watchdog", &watchdog.path().to_string_lossy());
        let guard = std::thread::spawn(move || run(&config));

        let mut watch = Watch::new(controller, 9, now());
        watch.site_set(&BTreeSet::from([own]), &BTreeSet::from([controller, other]), now());
        let mut site = Controller { socket: UdpSocket::bind("127.0.0.1:0").unwrap(), watch, key: key.clone(), confirmed: 0 };
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        site.run(to, LEASE + Duration::from_secs(1));
        assert_eq!((site.watch.health(&own), site.confirmed), (Some(Health::Well), 41));
        assert!(leased.try_wait().unwrap().is_none());
        // A list of the site that changes is taken up while it runs.
        let newer = HeartbeatDocument { site: 42, ..document };
        documents::replace(&document_path(home.path()), &serde_json::to_vec(&newer).unwrap(), true).unwrap();
        site.run(to, Duration::from_millis(500));
        assert_eq!(site.confirmed, 42);

        // What the host knows is lost while it runs. What is needed to go on is there again, and the lease was never gone; of its
        // guests it knows nothing, and this one speaks for itself.
        let stray = home.path().join("instances").join(base::id::uuid());
        std::fs::create_dir_all(&stray).unwrap();
        let listens = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(600)";
        let socket = stray.join("qmp.sock");
        let mut stray = std::process::Command::new("python3").args(["-c", listens]).arg(&socket).spawn().unwrap();
        let began = now();
        while qmp::listener(&socket).is_none() {
            assert!(now() < began + Duration::from_secs(20), "nobody listens");
            site.run(to, PERIOD);
        }
        let stored: Vec<_> = documents.instances().unwrap();
        std::fs::remove_dir_all(home.path().join("host")).unwrap();
        site.run(to, Duration::from_secs(1));
        assert_eq!((site.watch.health(&own), site.confirmed), (Some(Health::Well), 42));
        assert_eq!(documents::id(home.path()).unwrap(), Some(own.to_string()));
        assert!(documents::read::<HeartbeatDocument>(&document_path(home.path())).unwrap().is_some_and(|d| d == newer));
        assert!(File::open(lock_path(home.path())).unwrap().try_lock().is_err(), "another guard would not know of this one");
        assert!(leased.try_wait().unwrap().is_none() && stray.try_wait().unwrap().is_none());
        // Its controller names the guests again.
        for (spec, journal) in stored {
            documents.instance_store(&spec).unwrap();
            documents.journal_store(&spec.id, &journal).unwrap();
        }

        let until = LeaseFile::open(home.path()).unwrap().until().unwrap();
        let ended = now();
        assert!(until > ended && until <= ended + LEASE);
        // Whoever has no key prolongs nothing: grants of another key, of another sender, and noise.
        let grant = Frame { grant: true, ..site.watch.tick(now()).1[0] };
        while leased.try_wait().unwrap().is_none() {
            site.socket.send_to(&grant.seal(&Key::new([8; 32])), to).unwrap();
            site.socket.send_to(&Frame { sender: other, ..grant }.seal(&newer.site_key), to).unwrap();
            site.socket.send_to(&[0xff; 2000], to).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            assert!(now() < ended + Duration::from_secs(20), "the guest runs on");
        }
        assert!(now() >= until, "it ended early");
        println!("ended {:?} after its lease", now() - until);
        while stray.try_wait().unwrap().is_none() {
            assert!(now() < ended + Duration::from_secs(20), "a guest that nobody knows runs on");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(kept.try_wait().unwrap().is_none());
        kept.kill().unwrap();
        kept.wait().unwrap();

        // The guard, which ends with its home, may write there meanwhile.
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            std::fs::remove_dir_all(home.path()).is_ok()
        });
        assert!(gone);
        guard.join().unwrap().unwrap();
        // Wound up all the time, and stopped in the end.
        let wound = std::fs::read(watchdog.path()).unwrap();
        let seconds = (now() - began).as_secs() as usize;
        assert!(wound.len() + 4 > seconds, "{} times in {seconds} s and more", wound.len());
        assert_eq!(wound.iter().position(|byte| *byte == b'V'), Some(wound.len() - 1));
    }

    fn guard_in(home: &Path, watchdog: &Path) -> Guard {
        let documents = Documents::open(home, true).unwrap();
        let own: Uuid = documents.host_id().unwrap().parse().unwrap();
        let mut config = Config::for_home(home);
        config.set("host.watchdog", &watchdog.to_string_lossy());
        let key = Key::new([7; 32]);
        let document = HeartbeatDocument {
            site: 1,
            controller: Uuid::from_u128(1),
            key: key.clone(),
            site_key: key,
            port: 0,
            peers: vec![],
            locked: false,
        };
        Guard {
            home: home.to_path_buf(),
            own,
            documents,
            file: LeaseFile::open(home).unwrap(),
            lease: Lease::new(own, 1, now(), Moment::ZERO),
            written: None,
            socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
            document,
            read: std::time::SystemTime::UNIX_EPOCH,
            dropped: Dropped::default(),
            lock: lock(home).unwrap(),
            troubled: None,
            watchdog: Watchdog::of(&config),
            lingering: None,
        }
    }

    #[test]
    fn a_machine_whose_guests_do_not_end_is_not_wound_up_any_more() {
        let home = tempfile::tempdir().unwrap();
        let device = tempfile::NamedTempFile::new().unwrap();
        let mut guard = guard_in(home.path(), device.path());
        let wound = || std::fs::metadata(device.path()).unwrap().len();
        let tried = |guard: &mut Guard, linger| {
            let before = wound();
            // Its time has come.
            std::thread::sleep(Duration::from_millis(1100));
            guard.watchdog_wind(linger);
            wound() - before
        };
        guard.watchdog_wind(false);
        assert_eq!(tried(&mut guard, false), 1);
        // A guest that is just ending.
        assert_eq!(tried(&mut guard, true), 1);
        guard.lingering = guard.lingering.map(|since| since.saturating_sub(LINGER));
        assert_eq!(tried(&mut guard, true), 0);
        // It has ended after all.
        assert_eq!(tried(&mut guard, false), 1);
        assert_eq!(guard.lingering, None);
    }

    /// A guest counts as being there as long as its process is, however often that was ended.
    #[test]
    fn guests_that_have_to_end_are_seen_until_they_have() {
        let home = tempfile::tempdir().unwrap();
        let mut guard = guard_in(home.path(), &home.path().join("none"));
        assert!(!guard.guests_end());
        let mut child = guest(&guard.documents, true);
        assert!(guard.guests_end());
        child.wait().unwrap();
        assert!(!guard.guests_end());
    }
}
