//! Sends the pulses and hears the answers, in a thread that does nothing else: whatever the rest of the controller is busy with,
//! pulses go out in time. What it sees it reports; it never waits for who takes the reports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::error::Internal;
use base::{Error, Result};
use heartbeat::{Change, FRAME, Frame, Health, Key, Moment, Rules, Watch, Way};
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
    /// Where it is asked on the network among the hosts, if it is.
    pub cluster: Option<SocketAddr>,
    /// How it answered on each network when that was last noted down.
    pub ways: [Health; 2],
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
    /// On one of a host's several networks.
    Way {
        host: Uuid,
        way: Way,
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
    rules: Rules,
    targets: BTreeMap<Uuid, Target>,
    /// Hosts of which it was reported that they are fenced.
    fenced: BTreeSet<Uuid>,
    /// Packets that were no answers, and answers that told nothing new.
    dropped: u64,
    stale: u64,
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

fn socket(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0)).map_err(|e| Error::unavailable(format!("no socket at {address}")).caused_by(e))?;
    socket.set_nonblocking(true).internal("cannot prepare the pulse's socket")?;
    // Past the machine's limit where that is allowed; the usual size is enough for some hundred hosts.
    let larger = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER));
    larger.internal("cannot prepare the pulse's socket")?;
    Ok(socket)
}

impl Pulse {
    /// `cluster`: this machine's address on the network among the hosts. It need not be there yet.
    pub fn start(own: Uuid, address: IpAddr, cluster: Option<IpAddr>, reports: mpsc::UnboundedSender<Report>) -> Result<Pulse> {
        let sockets = vec![(Way::Management, socket(address)?)];
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
        let state = Arc::new(Mutex::new(State {
            watch: Watch::new(own, u64::from_be_bytes(random), now()),
            rules: Rules::default(),
            targets: BTreeMap::new(),
            fenced: BTreeSet::new(),
            dropped: 0,
            stale: 0,
            cut_off: false,
        }));
        let thread = Thread { state: state.clone(), sockets, cluster, reports, opened: None, period: heartbeat::PERIOD };
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
            state.watch.ways_set(id, target.cluster.is_some(), target.ways);
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

    /// It is given one again, unless it has been fenced meanwhile.
    pub fn relent(&self, host: &Uuid) {
        let mut state = lock(&self.state);
        if !state.fenced.contains(host) {
            state.watch.admit(host);
        }
    }

    /// From now on silence is judged by these.
    pub fn rules_set(&self, rules: Rules) {
        let mut state = lock(&self.state);
        if state.rules == rules {
            return;
        }
        tracing::info!(?rules, "silence of hosts is judged by these from now on");
        state.rules = rules;
        let State { watch, targets, fenced, .. } = &mut *state;
        watch.rules_set(rules);
        // Who is lost, but has not been fenced, is only told of now.
        for id in targets.keys().filter(|id| !rules.fails && !fenced.contains(id)) {
            if watch.health(id) == Some(Health::Lost) {
                watch.admit(id);
            }
        }
    }

    /// How a host that is asked on several networks answers on each.
    pub fn ways(&self, host: &Uuid) -> Option<[Health; 2]> {
        lock(&self.state).watch.ways(host)
    }

    pub fn health(&self, host: &Uuid) -> Option<Health> {
        lock(&self.state).watch.health(host)
    }

    /// Packets that came and were no answers of a host that is watched.
    pub fn dropped(&self) -> u64 {
        lock(&self.state).dropped
    }

    /// Answers that came late, twice, or for nothing that was asked.
    pub fn stale(&self) -> u64 {
        lock(&self.state).stale
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
    sockets: Vec<(Way, UdpSocket)>,
    /// The address of a network for which there is no socket yet.
    cluster: Option<IpAddr>,
    reports: mpsc::UnboundedSender<Report>,
    /// When the last pulses went out, and for how long they have.
    opened: Option<Moment>,
    period: Duration,
}

impl Thread {
    fn run(mut self) {
        // Before everything else of this process; where that is not allowed, as the rest.
        if let Err(error) = rustix::process::setpriority_process(None, -20) {
            tracing::debug!("pulses have no priority: {error}");
        }
        while Arc::strong_count(&self.state) > 1 {
            if let Some(last) = self.opened {
                self.hear_until(last + self.period / 2);
                self.overdue();
                self.hear_until(last + self.period);
            }
            self.opened = Some(now());
            // One that is not there is looked for at each pulse: nothing else tells when it comes.
            if let Some(Ok(socket)) = self.cluster.map(socket) {
                self.sockets.push((Way::Cluster, socket));
                self.cluster = None;
            }
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
            let mut wanted: Vec<PollFd> = self.sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
            if ppoll(&mut wanted, Some(left.into()), None) != Ok(0) {
                std::thread::sleep(GATHER.min(due.saturating_sub(now())));
            }
        }
    }

    /// Hears what has come. Whoever floods this port does not keep the pulses from going out.
    fn hear(&self) {
        let mut packet = [0; FRAME + 1];
        for (way, socket) in &self.sockets {
            for _ in 0..FLOOD {
                let Ok((n, _)) = socket.recv_from(&mut packet) else { break };
                self.packet(*way, &packet[..n]);
            }
        }
    }

    fn packet(&self, way: Way, packet: &[u8]) {
        let mut state = lock(&self.state);
        let opened = Frame::claimed_sender(packet).ok().and_then(|sender| {
            let target = state.targets.get(&sender)?;
            // What was asked on one network says nothing of another.
            Frame::open(packet, &target.key).ok().filter(|answer| Way::of(answer) == way)
        });
        let Some(answer) = opened else {
            state.dropped += 1;
            return;
        };
        if !state.watch.hear(&answer) {
            state.stale += 1;
            return;
        }
        if state.watch.site_confirmed(&answer.sender, answer.value)
            && let Some(target) = state.targets.get_mut(&answer.sender).filter(|t| !t.bound)
        {
            target.bound = true;
            // Nobody left to hear it: the process ends.
            let _ = self.reports.send(Report::Bound(answer.sender));
        }
    }

    fn beat(&mut self) {
        let pulses = self.tick();
        self.period = lock(&self.state).watch.period();
        for burst in pulses.chunks(BURST) {
            for (way, packet, address) in burst {
                let Some((_, socket)) = self.sockets.iter().find(|(known, _)| known == way) else { continue };
                // A way that is down is seen by the answers that do not come.
                let _ = socket.send_to(packet, address);
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
        let Change { host, way, before, now } = *change;
        let report = match way {
            None => Report::Changed { host, before, now },
            Some(way) => Report::Way { host, way, now },
        };
        // Nobody left to hear it: the process ends.
        let _ = self.reports.send(report);
    }

    /// Counts who has not answered, says what follows from it, and seals the next pulses.
    fn tick(&self) -> Vec<(Way, [u8; FRAME], SocketAddr)> {
        let mut state = lock(&self.state);
        let now = now();
        let (changes, pulses) = state.watch.tick(now);
        let sealed = |pulse: &Frame| {
            let (way, target) = (Way::of(pulse), state.targets.get(&pulse.receiver)?);
            let address = if way == Way::Cluster { target.cluster? } else { target.address };
            Some((way, pulse.seal(&target.key), address))
        };
        let sealed = pulses.iter().filter_map(sealed).collect();
        self.cut_off_begins(&mut state);
        for change in changes {
            // One that comes back before anything was started elsewhere goes on as if it had never been away.
            if change.way.is_none() && change.now == Health::Well && !state.fenced.contains(&change.host) {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use heartbeat::Kind;

    use super::*;

    const HOST: Uuid = Uuid::from_u128(7);
    const OWN: Uuid = Uuid::from_u128(1);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn key() -> Key {
        Key::new([7; 32])
    }

    /// A host that answers on two networks, as long as each is not cut; what it was asked last, and by whom.
    struct Host {
        addresses: [SocketAddr; 2],
        cut: Arc<[AtomicBool; 2]>,
        asked: Arc<Mutex<Vec<(Frame, SocketAddr)>>>,
        over: Arc<AtomicBool>,
    }

    impl Host {
        fn start() -> Host {
            let sockets = ["127.0.0.1:0", "127.0.0.2:0"].map(|at| UdpSocket::bind(at).unwrap());
            let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
            let host = Host { addresses, cut: Arc::default(), asked: Arc::default(), over: Arc::default() };
            for (n, socket) in sockets.into_iter().enumerate() {
                socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                let (cut, asked, over) = (host.cut.clone(), host.asked.clone(), host.over.clone());
                std::thread::spawn(move || {
                    let mut packet = [0; FRAME];
                    while !over.load(Ordering::Relaxed) {
                        let Ok((n_bytes, from)) = socket.recv_from(&mut packet) else { continue };
                        let pulse = Frame::open(&packet[..n_bytes], &key()).unwrap();
                        assert_eq!(Way::of(&pulse) as usize, n, "asked on the other network");
                        asked.lock().unwrap().push((pulse, from));
                        if !cut[n].load(Ordering::Relaxed) {
                            socket.send_to(&answer(&pulse).seal(&key()), from).unwrap();
                        }
                    }
                });
            }
            host
        }

        fn cut(&self, way: Way, cut: bool) {
            self.cut[way as usize].store(cut, Ordering::Relaxed);
        }

        fn target(&self, cluster: bool) -> BTreeMap<Uuid, Target> {
            let (cluster, ways) = (cluster.then_some(self.addresses[1]), [Health::Well; 2]);
            let target = Target { address: self.addresses[0], cluster, ways, key: key(), health: Health::Well, bound: true, fenced: false };
            BTreeMap::from([(HOST, target)])
        }

        /// The newest pulse on a network.
        fn newest(&self, way: Way) -> (Frame, SocketAddr) {
            let began = Instant::now();
            loop {
                let asked = self.asked.lock().unwrap().iter().rev().find(|(pulse, _)| Way::of(pulse) == way).copied();
                if let Some(found) = asked {
                    return found;
                }
                assert!(began.elapsed() < PATIENCE, "never asked");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            self.over.store(true, Ordering::Relaxed);
        }
    }

    fn answer(pulse: &Frame) -> Frame {
        Frame { kind: Kind::Answer, grant: false, sender: HOST, receiver: OWN, stamp: now(), run: 5, ..*pulse }
    }

    fn until(what: &str, mut fits: impl FnMut() -> bool) {
        let began = Instant::now();
        while !fits() {
            assert!(began.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn start(host: &Host, cluster: bool) -> (Pulse, mpsc::UnboundedReceiver<Report>) {
        let (reports, heard) = reports();
        let pulse = Pulse::start(OWN, "127.0.0.1".parse().unwrap(), cluster.then(|| "127.0.0.2".parse().unwrap()), reports).unwrap();
        pulse.site_set(host.target(cluster));
        (pulse, heard)
    }

    /// Each of them is counted, and none is an answer; who answers is well all the time.
    #[test]
    fn what_is_wrong_forged_doubled_or_out_of_order_is_dropped_and_counted() {
        let host = Host::start();
        let (pulse, _heard) = start(&host, false);
        until("the host is heard", || pulse.answers()(&HOST.to_string()).is_some_and(|n| n > 5));
        let (asked, to) = host.newest(Way::Management);
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sealed = answer(&asked).seal(&key());
        let mut changed = sealed;
        changed[60] ^= 1;
        let unauthentic: [&[u8]; 7] = [
            b"",
            b"cgts pulse rsp:",
            &[0xff; 2000],
            &sealed[..FRAME - 1],
            &[&sealed[..], b"x"].concat(),
            &changed,
            &answer(&asked).seal(&Key::new([8; 32])),
        ];
        let before = pulse.dropped();
        for packet in unauthentic {
            stranger.send_to(packet, to).unwrap();
        }
        until("they are counted", || pulse.dropped() >= before + unauthentic.len() as u64);
        assert_eq!(pulse.dropped(), before + unauthentic.len() as u64);
        // With the right key: doubled, of long ago, of a pulse that was never sent, for somebody else, of another kind.
        let before = pulse.stale();
        let stale = [
            answer(&asked),
            Frame { sequence: asked.sequence - 40, ..answer(&asked) },
            Frame { sequence: asked.sequence + 4000, ..answer(&asked) },
            Frame { receiver: HOST, ..answer(&asked) },
            Frame { kind: Kind::Pulse, ..answer(&asked) },
            Frame { kind: Kind::Vote, ..answer(&asked) },
        ];
        until("the first is doubled", || host.newest(Way::Management).0.sequence > asked.sequence);
        for frame in &stale {
            stranger.send_to(&frame.seal(&key()), to).unwrap();
        }
        until("they are counted", || pulse.stale() >= before + stale.len() as u64);
        // A flood costs its sender only.
        for _ in 0..20_000 {
            let _ = stranger.send_to(&[0; 60], to);
        }
        until("the host is heard meanwhile", || pulse.answers()(&HOST.to_string()).is_some_and(|n| n > 20));
        // Who is silent is lost, whatever is played again in its name.
        host.cut(Way::Management, true);
        until("it is lost", || {
            stranger.send_to(&sealed, to).unwrap();
            pulse.health(&HOST) == Some(Health::Lost)
        });
    }

    #[test]
    fn a_host_that_is_somewhere_else_is_asked_there_and_is_well_meanwhile() {
        let (here, there) = (Host::start(), Host::start());
        let (pulse, mut heard) = start(&here, false);
        until("the host is heard", || pulse.answers()(&HOST.to_string()).is_some_and(|n| n > 5));
        pulse.site_set(there.target(false));
        let (first, _) = there.newest(Way::Management);
        until("it is heard there", || there.newest(Way::Management).0.sequence > first.sequence + 20);
        let last = here.newest(Way::Management).0.sequence;
        assert!(last <= first.sequence + 1, "{last} was asked where it is no more, {} where it is", first.sequence);
        assert_eq!(pulse.health(&HOST), Some(Health::Well));
        let told: Vec<Report> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        assert!(!told.iter().any(|report| matches!(report, Report::Changed { now: Health::Lost, .. })), "{told:?}");
    }

    /// What is set while it runs holds at once: a host that is only told of is lost, has its lease, and is fenced when it is to be.
    #[test]
    fn rules_hold_from_when_they_are_set() {
        let host = Host::start();
        let (pulse, mut heard) = start(&host, false);
        until("the host is heard", || pulse.answers()(&HOST.to_string()).is_some_and(|n| n > 5));
        pulse.rules_set(Rules { loss: 60, ..Rules::default() });
        host.cut(Way::Management, true);
        until("it is degraded", || pulse.health(&HOST) == Some(Health::Degraded));
        let began = Instant::now();
        until("it is lost", || pulse.health(&HOST) == Some(Health::Lost));
        // From the 6th to the 60th pulse: the clock that counts them is the same.
        assert!(began.elapsed() > heartbeat::PERIOD * 50, "{:?}", began.elapsed());
        let grants = || host.newest(Way::Management).0.grant;
        until("it gets no lease", || !grants());
        pulse.rules_set(Rules { fails: false, ..Rules::default() });
        host.cut(Way::Management, false);
        until("it answers", || pulse.answers()(&HOST.to_string()).is_some_and(|n| n > 5));
        until("it gets its lease", grants);
        host.cut(Way::Management, true);
        until("it is lost again", || pulse.health(&HOST) == Some(Health::Lost));
        assert!(!lock(&pulse.state).watch.is_barred(&HOST));
        pulse.rules_set(Rules::default());
        assert!(lock(&pulse.state).watch.is_barred(&HOST));
        let told: Vec<Report> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        assert!(told.iter().all(|report| !matches!(report, Report::Fenced(_) | Report::CutOff(_))), "{told:?}");
    }

    #[test]
    fn a_host_with_two_networks_is_lost_on_both_only() {
        let host = Host::start();
        let (pulse, mut heard) = start(&host, true);
        until("both are asked", || pulse.answers()(&HOST.to_string()).is_some_and(|n| n > 5));
        host.newest(Way::Cluster);
        let mut seen = Vec::new();
        let mut until_ways = |what: &str, wanted: [Health; 2]| {
            until(what, || {
                while let Ok(report) = heard.try_recv() {
                    seen.push(report);
                }
                pulse.ways(&HOST) == Some(wanted)
            });
            std::mem::take(&mut seen)
        };
        host.cut(Way::Management, true);
        let told = until_ways("the management network is lost", [Health::Lost, Health::Well]);
        assert_eq!(pulse.health(&HOST), Some(Health::Well));
        assert!(told.iter().all(|report| matches!(report, Report::Way { way: Way::Management, .. })), "{told:?}");
        host.cut(Way::Cluster, true);
        until_ways("both are lost", [Health::Lost, Health::Lost]);
        assert_eq!(pulse.health(&HOST), Some(Health::Lost));
        host.cut(Way::Management, false);
        until_ways("one is back", [Health::Well, Health::Lost]);
        until("it is well", || pulse.health(&HOST) == Some(Health::Well));
        // A network that is taken away is silent for nobody.
        pulse.site_set(host.target(false));
        assert_eq!(pulse.ways(&HOST), None);
    }
}
