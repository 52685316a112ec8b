//! Sends the pulses and hears the answers, in a thread that does nothing else: whatever the rest of the controller is busy with,
//! pulses go out in time. What it sees it reports; it never waits for who takes the reports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::error::Internal;
use base::{Error, Result};
use heartbeat::{Change, FRAME, Frame, Health, Key, Moment, PERIOD, Watch};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::Ids;

/// How long answers gather before they are heard, all at once: nothing follows from one before the next pulses go out.
const GATHER: Duration = Duration::from_millis(5);
/// Pulses that are sent before what has come meanwhile is heard.
const BURST: usize = 64;
/// Packets that are heard in a row.
const FLOOD: usize = 10_000;
/// Answers of all hosts of a large site at once, should this thread come late.
const BUFFER: usize = 4 << 20;

/// A host to watch.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub key: Key,
    /// How it answered when it was last noted down.
    pub health: Health,
    /// It has confirmed, some time, that it goes by a lease.
    pub bound: bool,
    /// Its guests were brought up elsewhere, and it has not been admitted since.
    pub fenced: bool,
}

/// What was seen.
#[derive(Debug, PartialEq)]
pub enum Report {
    Changed {
        host: Uuid,
        before: Health,
        now: Health,
    },
    /// The host goes by a lease: it has not been seen to before.
    Bound(Uuid),
    Fenced(Uuid),
    /// More than half of the site is silent, or no longer is.
    CutOff(bool),
}

/// Where reports go, and where they are heard.
pub fn reports() -> (mpsc::UnboundedSender<Report>, mpsc::UnboundedReceiver<Report>) {
    mpsc::unbounded_channel()
}

struct State {
    watch: Watch,
    targets: BTreeMap<Uuid, Target>,
    /// Hosts of which it was reported that they are fenced.
    fenced: BTreeSet<Uuid>,
    /// Packets that were no answers.
    dropped: u64,
    cut_off: bool,
}

pub struct Pulse {
    own: Uuid,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Moment {
    // The clock is there on every kernel that runs us; one that stood still would fence nobody.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

impl Drop for Pulse {
    fn drop(&mut self) {
        // The thread sees that it is alone.
        lock(&self.state).targets.clear();
    }
}

impl Pulse {
    pub fn start(own: Uuid, address: IpAddr, reports: mpsc::UnboundedSender<Report>) -> Result<Pulse> {
        let socket = UdpSocket::bind((address, 0)).map_err(|e| Error::unavailable(format!("no socket at {address}")).caused_by(e))?;
        socket.set_nonblocking(true).internal("cannot prepare the pulse's socket")?;
        // Past the machine's limit where that is allowed; the usual size is enough for some hundred hosts.
        let larger = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER));
        larger.internal("cannot prepare the pulse's socket")?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
        let state = Arc::new(Mutex::new(State {
            watch: Watch::new(own, u64::from_be_bytes(random), now()),
            targets: BTreeMap::new(),
            fenced: BTreeSet::new(),
            dropped: 0,
            cut_off: false,
        }));
        let thread = Thread { state: state.clone(), socket, reports, opened: None };
        std::thread::Builder::new().name("pulse".into()).spawn(move || thread.run()).internal("cannot start the pulse's thread")?;
        Ok(Pulse { own, state })
    }

    /// Follows the list of hosts; the number by which they are told of it.
    pub fn site_set(&self, targets: BTreeMap<Uuid, Target>) -> u64 {
        let mut state = lock(&self.state);
        let ids: Ids = targets.keys().copied().collect();
        let site = state.watch.site_set(&ids, &BTreeSet::from([self.own]), now());
        for (id, target) in &targets {
            if !state.targets.contains_key(id) {
                state.watch.known(id, target.health, target.bound);
            }
            if target.fenced && state.fenced.insert(*id) {
                state.watch.bar(id);
            }
        }
        state.fenced.retain(|id| targets.contains_key(id));
        state.targets = targets;
        site
    }

    /// Tells how many pulses in a row a host has answered; None of one that is not watched.
    pub fn answers(&self) -> impl Fn(&str) -> Option<u32> + Send + Sync + use<> {
        // The thread ends with this value, whoever may still ask.
        let state = Arc::downgrade(&self.state);
        move |host| {
            let (id, state) = (host.parse().ok()?, state.upgrade()?);
            let state = lock(&state);
            state.targets.contains_key(&id).then(|| match state.watch.health(&id) {
                Some(Health::Well) => state.watch.answered(&id).unwrap_or_default(),
                _ => 0,
            })
        }
    }

    /// The host is given no more lease.
    pub fn bar(&self, host: &Uuid) {
        lock(&self.state).watch.bar(host);
    }

    pub fn health(&self, host: &Uuid) -> Option<Health> {
        lock(&self.state).watch.health(host)
    }

    /// Packets that came and were no answers of a host that is watched.
    pub fn dropped(&self) -> u64 {
        lock(&self.state).dropped
    }

    /// Hosts whose guests were brought up elsewhere, and that answer again.
    pub fn waiting(&self) -> Vec<Uuid> {
        let state = lock(&self.state);
        state.fenced.iter().filter(|id| state.watch.health(id) == Some(Health::Well)).copied().collect()
    }

    pub fn admit(&self, host: &Uuid) {
        let mut state = lock(&self.state);
        state.fenced.remove(host);
        state.watch.admit(host);
        if let Some(target) = state.targets.get_mut(host) {
            target.fenced = false;
        }
    }

    /// The host is fenced by other means than its lease.
    pub fn fence(&self, host: &Uuid) {
        let mut state = lock(&self.state);
        state.fenced.insert(*host);
        state.watch.bar(host);
    }

    /// Whether fewer than half of the site answer.
    pub fn is_cut_off(&self) -> bool {
        lock(&self.state).watch.is_cut_off()
    }

    /// That the host is fenced could not be noted down: it will be reported again.
    pub fn fence_forget(&self, host: &Uuid) {
        lock(&self.state).fenced.remove(host);
    }
}

struct Thread {
    state: Arc<Mutex<State>>,
    socket: UdpSocket,
    reports: mpsc::UnboundedSender<Report>,
    /// When the last pulses went out.
    opened: Option<Moment>,
}

impl Thread {
    fn run(mut self) {
        // Before everything else of this process; where that is not allowed, as the rest.
        if let Err(error) = rustix::process::setpriority_process(None, -20) {
            tracing::debug!("pulses have no priority: {error}");
        }
        while Arc::strong_count(&self.state) > 1 {
            if let Some(last) = self.opened {
                self.hear_until(last + PERIOD / 2);
                self.overdue();
                self.hear_until(last + PERIOD);
            }
            self.opened = Some(now());
            self.beat();
        }
    }

    /// Hears answers until `due`, and whatever has come by then.
    fn hear_until(&self, due: Moment) {
        loop {
            self.hear();
            let left = due.saturating_sub(now());
            if left.is_zero() {
                return;
            }
            let mut wanted = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if ppoll(&mut wanted, Some(left.into()), None) != Ok(0) {
                std::thread::sleep(GATHER.min(due.saturating_sub(now())));
            }
        }
    }

    /// Hears what has come. Whoever floods this port does not keep the pulses from going out.
    fn hear(&self) {
        let mut packet = [0; FRAME + 1];
        for _ in 0..FLOOD {
            let Ok((n, _)) = self.socket.recv_from(&mut packet) else { return };
            self.packet(&packet[..n]);
        }
    }

    fn packet(&self, packet: &[u8]) {
        let mut state = lock(&self.state);
        let opened = Frame::claimed_sender(packet).ok().and_then(|sender| {
            let target = state.targets.get(&sender)?;
            Frame::open(packet, &target.key).ok()
        });
        let Some(answer) = opened else {
            state.dropped += 1;
            return;
        };
        if state.watch.hear(&answer)
            && state.watch.site_confirmed(&answer.sender, answer.value)
            && let Some(target) = state.targets.get_mut(&answer.sender).filter(|t| !t.bound)
        {
            target.bound = true;
            // Nobody left to hear it: the process ends.
            let _ = self.reports.send(Report::Bound(answer.sender));
        }
    }

    fn beat(&self) {
        let pulses = self.tick();
        for burst in pulses.chunks(BURST) {
            for (packet, address) in burst {
                // A way that is down is seen by the answers that do not come.
                let _ = self.socket.send_to(packet, address);
            }
            self.hear();
        }
    }

    /// Says who is lost without waiting for the next pulse.
    fn overdue(&self) {
        let mut state = lock(&self.state);
        let changes = state.watch.overdue();
        self.cut_off_begins(&mut state);
        for change in changes {
            self.tell(&change);
        }
    }

    /// To be said before the hosts by which it is so: they are waited for from the first one on.
    fn cut_off_begins(&self, state: &mut State) {
        if !state.cut_off && state.watch.is_cut_off() {
            state.cut_off = true;
            let _ = self.reports.send(Report::CutOff(true));
        }
    }

    fn tell(&self, change: &Change) {
        // Nobody left to hear it: the process ends.
        let _ = self.reports.send(Report::Changed { host: change.host, before: change.before, now: change.now });
    }

    /// Counts who has not answered, says what follows from it, and seals the next pulses.
    fn tick(&self) -> Vec<([u8; FRAME], SocketAddr)> {
        let mut state = lock(&self.state);
        let now = now();
        let (changes, pulses) = state.watch.tick(now);
        let sealed = |pulse: &Frame| state.targets.get(&pulse.receiver).map(|target| (pulse.seal(&target.key), target.address));
        let sealed = pulses.iter().filter_map(sealed).collect();
        self.cut_off_begins(&mut state);
        for change in changes {
            // One that comes back before anything was started elsewhere goes on as if it had never been away.
            if change.now == Health::Well && !state.fenced.contains(&change.host) {
                state.watch.admit(&change.host);
            }
            self.tell(&change);
        }
        if state.cut_off && !state.watch.is_cut_off() {
            state.cut_off = false;
            let _ = self.reports.send(Report::CutOff(false));
        }
        let State { watch, targets, fenced, .. } = &mut *state;
        for id in targets.keys() {
            if !fenced.contains(id) && watch.fenced(id, now) {
                fenced.insert(*id);
                let _ = self.reports.send(Report::Fenced(*id));
            }
        }
        sealed
    }
}
