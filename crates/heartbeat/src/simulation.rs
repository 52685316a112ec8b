//! Controllers, hosts and a bad network in one thread with one clock: what both sides promise together, in any order of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use crate::{Frame, Kind, LEASE, Lease, MARGIN, Moment, PERIOD, Rules, Watch};

const STEP: Moment = Moment::from_millis(10);
const CONTROLLER: Uuid = Uuid::from_u128(1);

fn id(n: usize) -> Uuid {
    Uuid::from_u128(n as u128 + 2)
}

/// What goes wrong, at which step.
#[derive(Clone, Debug)]
enum Trouble {
    /// A way from one machine to another is cut or mended; 0 is the controller.
    Cut(usize, usize),
    Mend(usize, usize),
    MendAll,
    /// Everything on a way takes so many steps from now on.
    Slow(usize, usize, u64),
    /// A machine's process does nothing for so many steps.
    Stall(usize, u64),
    /// The process ends and begins anew, without what it knew.
    Restart(usize),
}

struct Site {
    now: Moment,
    watch: Watch,
    site: u64,
    hosts: Vec<Lease>,
    runs: u64,
    cut: BTreeSet<(usize, usize)>,
    slow: BTreeMap<(usize, usize), u64>,
    stalled: BTreeMap<usize, u64>,
    last_tick: Vec<Moment>,
    /// On the way: when it arrives, from where, to where.
    flying: Vec<(Moment, usize, usize, Frame)>,
    waiting: Vec<Vec<Frame>>,
    /// Hosts whose guests were started elsewhere: the store's, which survives.
    fenced: BTreeSet<usize>,
    /// A controller that never comes back.
    dead: bool,
    rules: Rules,
}

impl Site {
    fn new(hosts: usize) -> Site {
        let mut site = Site {
            now: Moment::from_secs(10),
            watch: Watch::new(CONTROLLER, 5, Moment::from_secs(10)),
            site: 0,
            hosts: (0..hosts).map(|n| Lease::new(id(n), n as u64 + 1, Moment::from_secs(10), Moment::ZERO)).collect(),
            runs: 100,
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            stalled: BTreeMap::new(),
            last_tick: vec![Moment::ZERO; hosts + 1],
            flying: Vec::new(),
            waiting: vec![Vec::new(); hosts + 1],
            fenced: BTreeSet::new(),
            dead: false,
            rules: Rules::default(),
        };
        for n in 0..hosts {
            site.hosts[n] = Lease::new(id(n), n as u64 + 1, site.clock(n), Moment::ZERO);
        }
        site.begin();
        for n in 0..hosts {
            site.peers(n);
        }
        site
    }

    fn begin(&mut self) {
        let all: BTreeSet<Uuid> = (0..self.hosts.len()).map(id).collect();
        self.site = self.watch.site_set(&all, &BTreeSet::from([CONTROLLER]), self.now);
        for n in 0..self.hosts.len() {
            self.watch.site_confirmed(&id(n), self.site);
        }
        for n in &self.fenced {
            self.watch.bar(&id(*n));
        }
    }

    fn peers(&mut self, n: usize) {
        let others = (0..self.hosts.len()).filter(|other| *other != n).map(id).chain([CONTROLLER]);
        self.hosts[n].peers_set(others.collect());
    }

    fn send(&mut self, from: usize, frame: Frame) {
        let to = if frame.receiver == CONTROLLER { 0 } else { frame.receiver.as_u128() as usize - 1 };
        if !self.cut.contains(&(from, to)) {
            let steps = 1 + self.slow.get(&(from, to)).copied().unwrap_or_default();
            self.flying.push((self.now + STEP * steps as u32, from, to, frame));
        }
    }

    fn suffer(&mut self, trouble: &Trouble) {
        match *trouble {
            Trouble::Cut(a, b) => drop(self.cut.insert((a, b))),
            Trouble::Mend(a, b) => drop((self.cut.remove(&(a, b)), self.slow.remove(&(a, b)))),
            Trouble::MendAll => (self.cut, self.slow) = Default::default(),
            Trouble::Slow(a, b, steps) => drop(self.slow.insert((a, b), steps)),
            Trouble::Stall(who, steps) => drop(self.stalled.insert(who, steps)),
            Trouble::Restart(0) => {
                self.runs += 1;
                self.watch = Watch::new(CONTROLLER, self.runs * 1_000_003, self.now);
                self.watch.rules_set(self.rules);
                self.begin();
            }
            Trouble::Restart(who) => {
                self.runs += 1;
                self.hosts[who - 1] = Lease::new(id(who - 1), self.runs, self.clock(who - 1), self.hosts[who - 1].until());
                self.peers(who - 1);
            }
        }
    }

    /// What a machine's own clock says: each has one, and none is right.
    fn clock(&self, host: usize) -> Moment {
        self.now + Moment::from_secs([0, 86_400 * 365, 7, 3600, 5][host % 5])
    }

    fn holds(&self, host: usize) -> bool {
        self.hosts[host].holds(self.clock(host))
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        let (arrived, flying) = std::mem::take(&mut self.flying).into_iter().partition(|(at, ..)| *at <= now);
        self.flying = flying;
        let arrived: Vec<(Moment, usize, usize, Frame)> = arrived;
        for (_, _, to, frame) in arrived {
            self.waiting[to].push(frame);
        }
        for who in 0..=self.hosts.len() {
            if let Some(left) = self.stalled.get_mut(&who) {
                *left -= 1;
                if *left == 0 {
                    self.stalled.remove(&who);
                }
                continue;
            }
            let frames = std::mem::take(&mut self.waiting[who]);
            let period = if who == 0 { self.watch.period() } else { PERIOD };
            let due = now >= self.last_tick[who] + period;
            if due {
                self.last_tick[who] = now;
            }
            let mut out = Vec::new();
            if who == 0 {
                if self.dead {
                    continue;
                }
                for frame in &frames {
                    self.watch.hear(frame);
                }
                if now == self.last_tick[0] + period / 2 {
                    self.watch.overdue();
                }
                if due {
                    out = self.watch.tick(now).1;
                    self.decide();
                }
            } else {
                let clock = self.clock(who - 1);
                let lease = &mut self.hosts[who - 1];
                out.extend(frames.iter().filter_map(|frame| lease.hear(frame, clock)));
                if due {
                    out.extend(lease.tick(clock));
                }
            }
            for frame in out {
                self.send(who, frame);
            }
        }
        for n in &self.fenced {
            assert!(!self.holds(*n), "host {n} keeps guests that run elsewhere, at {now:?}");
        }
    }

    /// As the controller does: guests of a fenced host start elsewhere; a host that is well again is told, and admitted.
    fn decide(&mut self) {
        for n in 0..self.hosts.len() {
            if self.watch.fenced(&id(n), self.now) {
                self.fenced.insert(n);
            }
            if self.watch.is_barred(&id(n)) && self.watch.health(&id(n)) == Some(crate::Health::Well) {
                self.fenced.remove(&n);
                self.watch.admit(&id(n));
            }
        }
    }

    fn run(&mut self, time: Moment) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }
}

fn trouble(machines: usize) -> impl Strategy<Value = Trouble> {
    let way = || (0..machines, 0..machines);
    prop_oneof![
        4 => way().prop_map(|(a, b)| Trouble::Cut(a, b)),
        2 => way().prop_map(|(a, b)| Trouble::Mend(a, b)),
        1 => Just(Trouble::MendAll),
        2 => (way(), 1..400u64).prop_map(|((a, b), steps)| Trouble::Slow(a, b, steps)),
        2 => (0..machines, 1..500u64).prop_map(|(who, steps)| Trouble::Stall(who, steps)),
        1 => (0..machines).prop_map(Trouble::Restart),
    ]
}

/// Those of the start in half of all runs.
fn rules() -> impl Strategy<Value = Rules> {
    let set = (0..4usize, 100..=1000u64, 4..30u32, 10..40u32).prop_map(|(most, period, degrade, loss)| Rules {
        period: Moment::from_millis(period),
        degrade,
        loss: loss.max(degrade + 1),
        most,
        ..Rules::default()
    });
    prop_oneof![(0..4usize).prop_map(|most| Rules { most, ..Rules::default() }), set]
}

fn history() -> impl Strategy<Value = (usize, Rules, Vec<(u32, Trouble)>)> {
    (2..6usize).prop_flat_map(|hosts| (Just(hosts), rules(), prop::collection::vec((0..500u32, trouble(hosts + 1)), 1..40)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// The promise: whatever fails, and however silence is judged, a host whose guests were started elsewhere holds no lease.
    #[test]
    fn no_guest_runs_twice((hosts, rules, history) in history()) {
        let mut site = Site::new(hosts);
        site.rules = rules;
        site.watch.rules_set(rules);
        site.run(Moment::from_secs(2));
        for (pause, trouble) in &history {
            site.run(STEP * *pause);
            site.suffer(trouble);
        }
        site.run(Moment::from_secs(10));
    }
}

fn cut_off(site: &mut Site, host: usize) {
    for other in 0..=site.hosts.len() {
        site.cut.insert((host + 1, other));
        site.cut.insert((other, host + 1));
    }
}

#[test]
fn a_host_that_is_cut_off_is_fenced_in_time_and_comes_back() {
    for hosts in 2..6 {
        let mut site = Site::new(hosts);
        site.run(Moment::from_secs(10));
        cut_off(&mut site, 0);
        site.run(Moment::from_millis(1100));
        assert_eq!(site.watch.health(&id(0)), Some(crate::Health::Lost));
        assert!(site.fenced.is_empty());
        site.run(Moment::from_secs(3));
        assert_eq!(site.fenced, BTreeSet::from([0]));
        assert!((1..hosts).all(|n| site.holds(n)));
        site.suffer(&Trouble::MendAll);
        site.run(Moment::from_secs(2));
        assert!(site.fenced.is_empty() && site.holds(0));
    }
}

#[test]
fn without_a_controller_hosts_that_reach_one_another_keep_their_guests() {
    for hosts in 2..6 {
        let mut site = Site::new(hosts);
        site.run(Moment::from_secs(10));
        site.dead = true;
        for _ in 0..600 {
            site.run(PERIOD);
            assert!((0..hosts).all(|n| site.holds(n)), "{hosts} hosts at {:?}", site.now);
        }
        // One that is cut off from the others now cannot know any more.
        cut_off(&mut site, 0);
        site.run(LEASE + MARGIN);
        assert!(!site.holds(0));
        // The others are fewer, but still most of the site when there are enough of them.
        assert_eq!((1..hosts).all(|n| site.holds(n)), (hosts - 1) * 2 > hosts + 1);
    }
}

#[test]
fn when_half_of_the_site_and_more_is_silent_nothing_is_started_elsewhere() {
    let mut site = Site::new(3);
    site.run(Moment::from_secs(10));
    for n in 0..3 {
        cut_off(&mut site, n);
    }
    site.run(Moment::from_secs(20));
    assert!(site.fenced.is_empty() && site.watch.is_cut_off());
}

/// What one who listens can send again, later, gives no right.
#[test]
fn pulses_that_are_played_again_give_nothing() {
    let mut site = Site::new(2);
    site.run(Moment::from_secs(5));
    let mut seen = Vec::new();
    for _ in 0..300 {
        site.step();
        seen.extend(site.flying.iter().filter(|(_, _, to, f)| *to == 1 && f.kind == Kind::Pulse).map(|(.., f)| *f));
    }
    cut_off(&mut site, 0);
    for chunk in seen.chunks(5) {
        for frame in chunk {
            let now = site.clock(0);
            site.hosts[0].hear(frame, now);
        }
        site.step();
    }
    site.run(Moment::from_secs(5));
    assert!(!site.holds(0));
    // Nor to a host whose machine's clock passes the same stamps once more after a reboot.
    let mut again = Lease::new(id(0), 77, Moment::ZERO, Moment::ZERO);
    again.peers_set(BTreeSet::from([id(1), CONTROLLER]));
    for frame in &seen {
        again.hear(frame, frame.stamp);
        assert!(!again.holds(frame.stamp));
    }
}

/// A link that comes and goes, at any pace: its host is lost when it is silent for long enough, and never has guests that run elsewhere. The
/// others are well all the time.
#[test]
fn a_link_that_flaps_harms_only_its_own_host() {
    for (down, up) in [(5, 5), (30, 30), (70, 20), (110, 20), (110, 150), (500, 50), (450, 500)] {
        let mut site = Site::new(4);
        site.run(Moment::from_secs(5));
        for _ in 0..20 {
            cut_off(&mut site, 0);
            site.run(STEP * down);
            site.suffer(&Trouble::MendAll);
            site.run(STEP * up);
            assert!((1..4).all(|n| site.holds(n) && !site.fenced.contains(&n)), "{down} {up}");
            assert!(!site.watch.is_cut_off());
        }
        site.run(Moment::from_secs(3));
        assert!(site.holds(0) && site.fenced.is_empty(), "{down} {up}: it is back");
    }
}

/// Half of the site is cut off from the other half with the controller: nobody runs what others run, and all are back.
#[test]
fn half_of_a_site_that_is_cut_off_keeps_its_guests_or_is_fenced_and_never_both() {
    for (hosts, away) in [(4, 2), (4, 3), (5, 2), (5, 3)] {
        let mut site = Site::new(hosts);
        site.run(Moment::from_secs(10));
        for one in 0..away {
            for other in std::iter::once(0).chain(away + 1..hosts + 1) {
                site.suffer(&Trouble::Cut(one + 1, other));
                site.suffer(&Trouble::Cut(other, one + 1));
            }
        }
        // Whoever is fenced holds nothing: each step looks.
        site.run(Moment::from_secs(20));
        assert_eq!(site.fenced.len(), if away * 2 > hosts + 1 { 0 } else { away }, "{away} of {hosts}");
        assert!((away..hosts).all(|n| site.holds(n)));
        site.suffer(&Trouble::MendAll);
        site.run(Moment::from_secs(10));
        assert!(site.fenced.is_empty() && (0..hosts).all(|n| site.holds(n)), "{away} of {hosts}");
        assert_eq!(site.watch.period(), PERIOD);
    }
}
