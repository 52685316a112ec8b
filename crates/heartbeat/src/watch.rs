//! The controller's side: which hosts answer, and when the guests of one that does not may be started elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{BACK, BACKOFF, DEGRADE, Frame, Kind, LATE, LEASE, LOSS, MARGIN, MINOR, Moment, PERIOD, SETTLE, SITE, WINDOW};

/// How a host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Well,
    /// Some pulses in a row went unanswered.
    Minor,
    Degraded,
    /// It is counted as lost until it has answered ten in a row.
    Lost,
}

/// What follows from silence. The pace of the pulses does not, and neither does the lease: what makes it certain that a host has
/// stopped its guests is the same whatever is set here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// By what silence is counted: so long without an answer is one period. At least [`PERIOD`], at which pulses go out.
    pub period: Moment,
    /// Periods in a row until a host counts as degraded, and until it is lost.
    pub degrade: u32,
    pub loss: u32,
    /// A host that is lost gets no right to its guests before it is admitted; else it is only told of, and never fenced.
    pub fails: bool,
    /// From how many hosts lost at once it is taken for the network, 0: more than half of the site; and for how long, zero: for ever.
    pub most: usize,
    pub patience: Moment,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { period: PERIOD, degrade: DEGRADE, loss: LOSS, fails: true, most: 0, patience: Moment::ZERO }
    }
}

impl Rules {
    /// How many pulses so many periods are.
    fn pulses(&self, periods: u32) -> u32 {
        let all = (self.period * periods).as_millis().div_ceil(PERIOD.as_millis());
        u32::try_from(all).unwrap_or(u32::MAX).max(1)
    }

    /// What follows from pulses in a row that were missed, or answered.
    fn next(&self, before: Health, missed: u32, answered: u32) -> Health {
        match before {
            Health::Lost if answered < BACK => Health::Lost,
            _ if missed >= self.pulses(self.loss) => Health::Lost,
            _ if missed >= self.pulses(self.degrade) => Health::Degraded,
            _ if missed >= self.pulses(MINOR) => Health::Minor,
            _ => Health::Well,
        }
    }
}

/// A network on which a host is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Management,
    /// The one among the hosts, where there is one of its own.
    Cluster,
}

const WAYS: u64 = 2;

impl Way {
    pub const ALL: [Way; WAYS as usize] = [Way::Management, Way::Cluster];

    /// The network that a pulse, and its answer, belong to: each has its own numbers, so that who hears both cannot answer on one what was
    /// asked on the other.
    pub fn of(frame: &Frame) -> Way {
        if frame.sequence.is_multiple_of(WAYS) { Way::Management } else { Way::Cluster }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// How a host answers on one network.
#[derive(Clone, Copy)]
struct Line {
    health: Health,
    missed: u32,
    answered: u32,
    newest: u64,
    heard: bool,
}

impl Line {
    fn new(health: Health) -> Line {
        Line { health, missed: 0, answered: 0, newest: 0, heard: false }
    }
}

/// A host's health is another one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub host: Uuid,
    /// On which network; none: on all together, which is what counts. Of a host with one network only that is told.
    pub way: Option<Way>,
    pub before: Health,
    pub now: Health,
}

struct Watched {
    health: Health,
    /// Pulses in a row that were not answered, or answered, since the last of the other kind.
    missed: u32,
    answered: u32,
    /// Number of the newest pulse that was answered.
    newest: u64,
    /// Whether an answer came since the last tick, on any network.
    heard: bool,
    lines: [Option<Line>; WAYS as usize],
    /// Run and stamp of its newest answer.
    run: u64,
    stamp: Moment,
    /// Since when it has answered without ever being degraded.
    steady: Option<Moment>,
    /// When it was last given the right to keep its guests, as far as it may have heard.
    granted: Moment,
    /// It is not given the right to keep its guests before [`Watch::admit`].
    barred: bool,
    /// It goes by a lease: its guests end with it.
    bound: bool,
    /// Who belonged to the site in what this host may go by: the list it confirmed, and those told since.
    sites: BTreeMap<u64, BTreeSet<Uuid>>,
}

impl Watched {
    fn new(now: Moment) -> Watched {
        Watched {
            health: Health::Well,
            missed: 0,
            answered: 0,
            newest: 0,
            heard: false,
            lines: [Some(Line::new(Health::Well)), None],
            run: 0,
            stamp: Moment::ZERO,
            steady: None,
            // A controller before this one may have given it until now.
            granted: now,
            barred: false,
            bound: false,
            sites: BTreeMap::new(),
        }
    }
}

/// All hosts that are watched.
pub struct Watch {
    own: Uuid,
    sequence: u64,
    last_tick: Moment,
    hosts: BTreeMap<Uuid, Watched>,
    /// Machines that hear the controller for certain: its own.
    local: BTreeSet<Uuid>,
    site: u64,
    rules: Rules,
    /// Since when so many are lost.
    since: Option<Moment>,
    /// Until when pulses are few.
    slow: Option<Moment>,
    /// Pulses up to this one were sent when they were few.
    floor: u64,
}

impl Watch {
    /// `sequence` is random: answers to a controller before this one are none to it.
    pub fn new(own: Uuid, sequence: u64, now: Moment) -> Watch {
        // Far enough from the end never to meet it. Lists of the site are counted from there too.
        let sequence = sequence >> 3 | 1 << 32;
        let (hosts, local, since, slow) = Default::default();
        Watch { own, sequence, last_tick: now, hosts, local, site: sequence, rules: Rules::default(), since, slow, floor: 0 }
    }

    /// From now on silence is judged by these. Hosts that are lost are lost by them too, or are merely told of.
    pub fn rules_set(&mut self, rules: Rules) {
        let fails = !self.rules.fails && rules.fails;
        self.rules = rules;
        for host in self.hosts.values_mut().filter(|host| fails && host.health == Health::Lost) {
            host.barred = true;
        }
    }

    /// How long it is from the last tick to the next.
    pub fn period(&self) -> Moment {
        if self.slow.is_some() { PERIOD * BACKOFF } else { PERIOD }
    }

    /// Sets who belongs to the site: hosts to watch, and those of this process. Returns the number of this list: hosts are told it
    /// with the list and confirm it in what they say.
    pub fn site_set(&mut self, hosts: &BTreeSet<Uuid>, local: &BTreeSet<Uuid>, now: Moment) -> u64 {
        if self.hosts.keys().eq(hosts.iter()) && self.local == *local {
            return self.site;
        }
        self.site += 1;
        self.hosts.retain(|id, _| hosts.contains(id));
        self.local = local.clone();
        let all: BTreeSet<Uuid> = hosts.union(local).copied().collect();
        for id in hosts {
            let host = self.hosts.entry(*id).or_insert_with(|| Watched::new(now));
            host.sites.insert(self.site, all.clone());
        }
        self.site
    }

    /// The host goes by this list now, and by none before it. False when the list is none of this controller's run.
    pub fn site_confirmed(&mut self, host: &Uuid, site: u64) -> bool {
        match self.hosts.get_mut(host) {
            Some(host) if host.sites.contains_key(&site) => {
                host.bound = true;
                host.sites.retain(|number, _| *number >= site);
                true
            }
            _ => false,
        }
    }

    /// What a controller before this one knew of a host: how it answered, and whether it goes by a lease. One that never confirmed a
    /// list of the site keeps its guests whatever happens, and is never fenced.
    pub fn known(&mut self, host: &Uuid, health: Health, bound: bool) {
        if let Some(host) = self.hosts.get_mut(host) {
            (host.health, host.bound) = (health, bound);
            host.barred = health == Health::Lost && self.rules.fails;
        }
    }

    /// Whether the host is asked on the network among the hosts too. `known`: how it answered on each when that was last noted down.
    pub fn ways_set(&mut self, host: &Uuid, cluster: bool, known: [Health; WAYS as usize]) {
        let Some(host) = self.hosts.get_mut(host) else { return };
        match (cluster, host.lines[Way::Cluster.index()]) {
            (true, None) => host.lines = known.map(|health| Some(Line::new(health))),
            (false, Some(_)) => host.lines[Way::Cluster.index()] = None,
            _ => {}
        }
    }

    /// How a host with several networks answers on each; none of one with a single one.
    pub fn ways(&self, host: &Uuid) -> Option<[Health; WAYS as usize]> {
        let [Some(management), Some(cluster)] = self.hosts.get(host)?.lines else { return None };
        Some([management.health, cluster.health])
    }

    pub fn health(&self, host: &Uuid) -> Option<Health> {
        self.hosts.get(host).map(|h| h.health)
    }

    /// How many pulses in a row a host has answered.
    pub fn answered(&self, host: &Uuid) -> Option<u32> {
        self.hosts.get(host).map(|h| h.answered)
    }

    /// From now on the host is not given the right to keep its guests, until it is admitted: as one is that was lost.
    pub fn bar(&mut self, host: &Uuid) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.barred = true;
        }
    }

    /// The host may have guests again: it knows which of them are elsewhere now.
    pub fn admit(&mut self, host: &Uuid) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.barred = false;
        }
    }

    pub fn is_barred(&self, host: &Uuid) -> bool {
        self.hosts.get(host).is_some_and(|h| h.barred)
    }

    /// Takes an answer that was opened with its sender's key. False when it tells nothing new: late, doubled, or to nobody here.
    pub fn hear(&mut self, answer: &Frame) -> bool {
        if answer.kind != Kind::Answer || answer.receiver != self.own {
            return false;
        }
        let Some(host) = self.hosts.get_mut(&answer.sender) else { return false };
        let number = answer.sequence / WAYS;
        let Some(line) = &mut host.lines[Way::of(answer).index()] else { return false };
        if number <= line.newest || number > self.sequence || self.sequence - number >= WINDOW {
            return false;
        }
        (line.newest, line.heard, host.heard) = (number, true, true);
        if number >= host.newest {
            host.newest = number;
            (host.run, host.stamp) = (answer.run, answer.stamp);
        }
        true
    }

    /// To be called each period, after all that has come was heard: what changed, and the pulses to send now.
    pub fn tick(&mut self, now: Moment) -> (Vec<Change>, Vec<Frame>) {
        // When this process itself stood still nobody was asked, so nobody failed to answer; and nobody is known to have been well.
        let slow = self.slow.is_some();
        let (weight, late) = if slow { (BACKOFF, LATE * BACKOFF) } else { (1, LATE) };
        let late = now.saturating_sub(self.last_tick) > late;
        self.last_tick = now;
        if slow {
            self.floor = self.sequence;
        }
        self.sequence += 1;
        let mut changes = Vec::new();
        let mut pulses = Vec::new();
        let rules = self.rules;
        for (id, host) in &mut self.hosts {
            let before = host.health;
            if std::mem::take(&mut host.heard) {
                // One in a long period stands for as many as there are else in that time.
                (host.missed, host.answered) = (0, host.answered.saturating_add(weight));
                // What was asked when pulses were few tells nothing of the time between: that a host which answers has not said to the
                // others that it hears nobody.
                host.steady = host.steady.filter(|_| !late).or(Some(now)).filter(|_| host.newest > self.floor);
            } else if late {
                host.steady = None;
            } else {
                (host.missed, host.answered) = (host.missed.saturating_add(1), 0);
            }
            host.health = rules.next(before, host.missed, host.answered);
            // However much silence is allowed: one that hears no pulse for longer may say to others that it hears nobody.
            if host.missed >= DEGRADE || host.health >= Health::Degraded || slow {
                host.steady = None;
            }
            let several = host.lines.iter().all(Option::is_some);
            for (way, line) in Way::ALL.into_iter().zip(&mut host.lines) {
                let Some(line) = line else { continue };
                match (std::mem::take(&mut line.heard), late) {
                    (true, _) => (line.missed, line.answered) = (0, line.answered.saturating_add(weight)),
                    (false, true) => {}
                    (false, false) => (line.missed, line.answered) = (line.missed.saturating_add(1), 0),
                }
                let before = line.health;
                line.health = rules.next(before, line.missed, line.answered);
                if several && line.health != before {
                    changes.push(Change { host: *id, way: Some(way), before, now: line.health });
                }
            }
            if host.health == Health::Lost && rules.fails {
                host.barred = true;
            }
            if host.health != before {
                changes.push(Change { host: *id, way: None, before, now: host.health });
            }
            // One that seems to be going is not given more: the sooner its right ends.
            let grant = !host.barred && host.missed < MINOR;
            if grant {
                host.granted = now;
            }
            for (way, _) in Way::ALL.into_iter().zip(&host.lines).filter(|(_, line)| line.is_some()) {
                pulses.push(Frame {
                    kind: Kind::Pulse,
                    grant,
                    sender: self.own,
                    receiver: *id,
                    sequence: self.sequence * WAYS + way as u64,
                    run: host.run,
                    stamp: host.stamp,
                    value: 0,
                });
            }
        }
        self.pace(now);
        (changes, pulses)
    }

    /// How often hosts are asked from now on.
    fn pace(&mut self, now: Moment) {
        self.since = self.is_silent().then(|| self.since.unwrap_or(now));
        self.slow = match self.is_cut_off() {
            true => Some(now + SETTLE),
            false => self.slow.filter(|until| *until > now),
        };
    }

    /// To be called between two ticks, after all that has come was heard: one that was silent for so long that the pulse now on its way is
    /// its last is given half of the time for it. An answer takes a hundredth.
    pub fn overdue(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let (loss, fails) = (self.rules.pulses(self.rules.loss), self.rules.fails);
        for (id, host) in self.hosts.iter_mut().filter(|(_, h)| !h.heard && h.health != Health::Lost && h.missed.saturating_add(1) == loss)
        {
            let before = std::mem::replace(&mut host.health, Health::Lost);
            (host.missed, host.barred) = (loss, host.barred || fails);
            changes.push(Change { host: *id, way: None, before, now: Health::Lost });
        }
        changes
    }

    /// Whether it is certain that the host has stopped the guests that may be started elsewhere: its right has run out, and it can
    /// have had no other from the hosts around it, because at least half of the site has heard the controller all the time.
    pub fn fenced(&self, host: &Uuid, now: Moment) -> bool {
        let Some(lost) = self.hosts.get(host).filter(|h| h.barred && h.bound && !self.is_cut_off()) else { return false };
        // Since before the last moment for which others could have given it a right that lasts until now.
        let since = now.saturating_sub(LEASE + MARGIN);
        let steady = |id: &Uuid| self.local.contains(id) || self.hosts.get(id).and_then(|h| h.steady).is_some_and(|from| from <= since);
        let kept = |site: &BTreeSet<Uuid>| {
            let steady = site.iter().filter(|id| *id != host && steady(id)).count();
            site.len() >= SITE && steady * 2 >= site.len()
        };
        now >= lost.granted + LEASE + MARGIN && lost.sites.values().all(kept)
    }

    /// Whether fewer than half of the site answer, or as many hosts at once do not as was set: then it is more likely this controller that
    /// is cut off, or the network that is at fault.
    pub fn is_cut_off(&self) -> bool {
        let over = |since: Moment| !self.rules.patience.is_zero() && self.last_tick >= since + self.rules.patience;
        self.is_silent() && !self.since.is_some_and(over)
    }

    fn is_silent(&self) -> bool {
        let all = self.hosts.len() + self.local.len();
        let lost = self.hosts.values().filter(|h| h.health == Health::Lost).count();
        self.rules.fails && (lost * 2 > all || (self.rules.most > 0 && lost >= self.rules.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PERIOD;

    const HOST: Uuid = Uuid::from_u128(7);
    const OWN: Uuid = Uuid::from_u128(1);

    /// Watches the host, which has confirmed that it goes by a lease, in a site of these besides.
    fn watch_in(hosts: &[Uuid], local: &[Uuid]) -> Watch {
        let mut watch = Watch::new(OWN, 99, Moment::ZERO);
        let hosts = hosts.iter().copied().chain([HOST]).collect();
        let site = watch.site_set(&hosts, &local.iter().copied().chain([OWN]).collect(), Moment::ZERO);
        assert!(!watch.site_confirmed(&HOST, site + 1) && watch.site_confirmed(&HOST, site));
        watch
    }

    fn watch() -> Watch {
        watch_in(&[], &[])
    }

    /// Ticks, with answers to those for which `answers` says so. The changes with the number of the tick.
    fn run(watch: &mut Watch, ticks: std::ops::Range<u32>, answers: impl Fn(u32) -> bool) -> Vec<(u32, Health)> {
        let mut changes = Vec::new();
        for n in ticks {
            let (changed, pulses) = watch.tick(PERIOD * n);
            changes.extend(changed.iter().map(|c| (n, c.now)));
            for pulse in pulses.iter().filter(|_| answers(n)) {
                watch.hear(&Frame { kind: Kind::Answer, sender: HOST, receiver: OWN, stamp: PERIOD * n, ..*pulse });
            }
        }
        changes
    }

    /// Maintenance specification, acceptance 6: minor at 0.4 s, degraded at 0.6 s, lost at 1.0 s.
    #[test]
    fn silence_is_told_in_three_steps() {
        let mut watch = watch();
        assert_eq!(run(&mut watch, 1..50, |_| true), []);
        // The answer to the pulse of tick 49 is counted at 50; the one sent at 50 is the first without.
        assert_eq!(run(&mut watch, 50..80, |_| false), [(54, Health::Minor), (56, Health::Degraded), (60, Health::Lost)]);
        assert!(watch.is_barred(&HOST));
        // Nine answers are not enough.
        assert_eq!(run(&mut watch, 80..200, |n| n != 89), [(100, Health::Well)]);
        assert!(watch.is_barred(&HOST), "only who decides admits it");
    }

    /// The last pulse before a host is lost is not waited for as long as the others; an answer that is there counts.
    #[test]
    fn the_last_silence_is_cut_short() {
        let mut silent = watch();
        run(&mut silent, 1..50, |_| true);
        for n in 50..59 {
            silent.tick(PERIOD * n);
            assert_eq!(silent.overdue(), [], "after {n}");
        }
        let (_, pulses) = silent.tick(PERIOD * 59);
        assert_eq!(silent.overdue(), [Change { host: HOST, way: None, before: Health::Degraded, now: Health::Lost }]);
        assert!(silent.is_barred(&HOST) && silent.overdue().is_empty());
        // Too late, and one of the ten that bring it back.
        silent.hear(&Frame { kind: Kind::Answer, sender: HOST, receiver: OWN, ..pulses[0] });
        assert_eq!(run(&mut silent, 60..100, |_| true), [(69, Health::Well)]);

        let mut answers = watch();
        run(&mut answers, 1..50, |_| true);
        run(&mut answers, 50..59, |_| false);
        let (_, pulses) = answers.tick(PERIOD * 59);
        answers.hear(&Frame { kind: Kind::Answer, sender: HOST, receiver: OWN, ..pulses[0] });
        assert_eq!(answers.overdue(), []);
    }

    /// What is set for silence changes when it is told, and nothing of when a host that is lost is fenced.
    #[test]
    fn silence_is_judged_by_the_rules_that_are_set() {
        let judged = |rules: Rules| {
            let mut watch = watch_in(&[], &[Uuid::from_u128(2)]);
            watch.rules_set(rules);
            run(&mut watch, 1..50, |_| true);
            let seen = run(&mut watch, 50..250, |_| false);
            (seen, watch.is_barred(&HOST), watch.fenced(&HOST, PERIOD * 300))
        };
        let rules = Rules { degrade: 5, loss: 20, ..Rules::default() };
        assert_eq!(judged(rules), (vec![(54, Health::Minor), (55, Health::Degraded), (70, Health::Lost)], true, true));
        // Periods of 250 ms: the end of one that has begun is waited for.
        let rules = Rules { period: Moment::from_millis(250), ..Rules::default() };
        assert_eq!(judged(rules), (vec![(60, Health::Minor), (65, Health::Degraded), (75, Health::Lost)], true, true));
        // It is told of, and has its right all the time.
        let rules = Rules { fails: false, ..Rules::default() };
        assert_eq!(judged(rules), (vec![(54, Health::Minor), (56, Health::Degraded), (60, Health::Lost)], false, false));
        let mut watch = watch();
        watch.rules_set(rules);
        run(&mut watch, 1..50, |n| n < 20);
        watch.rules_set(Rules::default());
        assert!(watch.is_barred(&HOST), "what is lost is lost by the new rules");
        // Nor is the network blamed for what nothing follows from.
        let mut watch = watch_in(&[Uuid::from_u128(8)], &[]);
        watch.rules_set(Rules { most: 1, ..rules });
        run(&mut watch, 1..50, |_| false);
        assert!(!watch.is_cut_off() && watch.period() == PERIOD);
    }

    /// Acceptance 7: half a second is minor and clear, 0.8 s is degraded and cleared by the first answer.
    #[test]
    fn short_silence_ends_with_the_first_answer() {
        let mut watch = watch();
        assert_eq!(run(&mut watch, 1..100, |n| !(50..55).contains(&n)), [(54, Health::Minor), (56, Health::Well)]);
        let seen = run(&mut watch, 100..150, |n| !(100..108).contains(&n));
        assert_eq!(seen, [(104, Health::Minor), (106, Health::Degraded), (109, Health::Well)]);
        assert!(!watch.is_barred(&HOST));
    }

    #[test]
    fn old_doubled_and_foreign_answers_tell_nothing() {
        let mut watch = watch();
        run(&mut watch, 1..20, |_| true);
        let (_, pulses) = watch.tick(PERIOD * 20);
        let answer = Frame { kind: Kind::Answer, sender: HOST, receiver: OWN, ..pulses[0] };
        assert!(!watch.hear(&Frame { sequence: answer.sequence + WAYS, ..answer }), "a pulse that was not sent");
        assert!(!watch.hear(&Frame { sequence: answer.sequence - WINDOW * WAYS, ..answer }));
        assert!(!watch.hear(&Frame { sequence: answer.sequence + 1, ..answer }), "one of a network that the host does not have");
        assert!(!watch.hear(&Frame { sender: OWN, ..answer }));
        assert!(!watch.hear(&Frame { receiver: HOST, ..answer }));
        assert!(watch.hear(&answer));
        assert!(!watch.hear(&answer), "doubled");
    }

    #[test]
    fn a_controller_that_stood_still_blames_nobody() {
        let mut watch = watch();
        run(&mut watch, 1..20, |_| true);
        for n in [60, 100, 140, 180, 220, 260, 300, 340, 380, 420, 460, 500] {
            assert_eq!(watch.tick(PERIOD * n).0, []);
        }
    }

    #[test]
    fn a_lost_host_is_fenced_when_its_lease_has_run_out_and_half_of_the_site_answers() {
        let mut watch = watch();
        // Of two machines neither can know.
        run(&mut watch, 1..200, |n| n < 50);
        assert!(!watch.fenced(&HOST, PERIOD * 200));

        let mut watch = watch_in(&[], &[Uuid::from_u128(2)]);
        run(&mut watch, 1..50, |_| true);
        run(&mut watch, 50..61, |_| false);
        // The last grant went out with the last pulse before the fourth miss.
        let granted = PERIOD * 53;
        assert!(!watch.fenced(&HOST, granted + LEASE + MARGIN - Moment::from_millis(1)));
        assert!(watch.fenced(&HOST, granted + LEASE + MARGIN));
        watch.admit(&HOST);
        assert!(!watch.fenced(&HOST, granted + LEASE + MARGIN));

        // The next controller knows that it is lost, and waits for what the one before it may have granted until now.
        let start = PERIOD * 61;
        let begin = |bound| {
            let mut watch = Watch::new(OWN, 5, start);
            watch.site_set(&BTreeSet::from([HOST]), &BTreeSet::from([OWN, Uuid::from_u128(2)]), start);
            watch.known(&HOST, Health::Lost, bound);
            watch
        };
        let mut next = begin(true);
        assert!(next.is_barred(&HOST) && !next.fenced(&HOST, start) && next.fenced(&HOST, start + LEASE + MARGIN));
        next.tick(start + PERIOD);
        assert_eq!(next.health(&HOST), Some(Health::Lost));
        assert!(!begin(false).fenced(&HOST, start + LEASE + MARGIN), "it may never have had a guard");

        // With a second host lost as well there is less than half.
        let mut watch = watch_in(&[Uuid::from_u128(8)], &[]);
        run(&mut watch, 1..200, |_| false);
        assert!(watch.is_cut_off());
        assert!(!watch.fenced(&HOST, PERIOD * 200));
    }

    /// A host that is silent on one of its networks is degraded by it, and lost when it is silent on all.
    #[test]
    fn each_network_is_told_of_and_only_all_of_them_lose_a_host() {
        let mut watch = watch();
        watch.ways_set(&HOST, true, [Health::Well; 2]);
        let mut run = |ticks: std::ops::Range<u32>, answers: &dyn Fn(Way) -> bool| {
            let mut seen = Vec::new();
            for n in ticks {
                let (changes, pulses) = watch.tick(PERIOD * n);
                seen.extend(changes.iter().map(|c| (n, c.way, c.now)));
                assert_eq!(pulses.iter().map(Way::of).collect::<Vec<_>>(), Way::ALL);
                for pulse in pulses.iter().filter(|pulse| answers(Way::of(pulse))) {
                    assert!(watch.hear(&Frame { kind: Kind::Answer, sender: HOST, receiver: OWN, stamp: PERIOD * n, ..*pulse }));
                }
            }
            (seen, watch.health(&HOST).unwrap(), watch.is_barred(&HOST))
        };
        assert_eq!(run(1..50, &|_| true).0, []);
        let management = Some(Way::Management);
        let (seen, health, barred) = run(50..100, &|way| way == Way::Cluster);
        assert_eq!(seen, [(54, management, Health::Minor), (56, management, Health::Degraded), (60, management, Health::Lost)]);
        assert_eq!((health, barred), (Health::Well, false));
        // The other one too: now it is lost.
        let (seen, health, barred) = run(100..120, &|_| false);
        let both = |n, now| [(n, Some(Way::Cluster), now), (n, None, now)];
        assert_eq!(seen, [both(104, Health::Minor), both(106, Health::Degraded), both(110, Health::Lost)].concat());
        assert_eq!((health, barred), (Health::Lost, true));
        let (seen, health, _) = run(120..200, &|way| way == Way::Management);
        assert_eq!(seen, [(130, management, Health::Well), (130, None, Health::Well)]);
        assert_eq!(health, Health::Well);
        assert_eq!(watch.ways(&HOST), Some([Health::Well, Health::Lost]));
    }

    /// Maintenance specification, acceptance 12: while too many are silent pulses are few, and for three seconds after.
    #[test]
    fn while_too_many_are_silent_pulses_are_few() {
        let ids: Vec<Uuid> = (10..14).map(Uuid::from_u128).collect();
        let site = |most, patience| {
            let mut watch = Watch::new(OWN, 99, Moment::ZERO);
            let list = watch.site_set(&ids.iter().copied().collect(), &BTreeSet::from([OWN]), Moment::ZERO);
            ids.iter().for_each(|id| assert!(watch.site_confirmed(id, list)));
            watch.rules_set(Rules { most, patience, ..Rules::default() });
            (watch, Moment::ZERO)
        };
        let run = |(watch, now): &mut (Watch, Moment), time: Moment, answers: &dyn Fn(&Uuid) -> bool| {
            let (end, mut pulses) = (*now + time, 0);
            while *now < end {
                *now += watch.period();
                let (_, sent) = watch.tick(*now);
                pulses += 1;
                for pulse in sent.iter().filter(|pulse| answers(&pulse.receiver)) {
                    watch.hear(&Frame { kind: Kind::Answer, sender: pulse.receiver, receiver: OWN, stamp: *now, ..*pulse });
                }
            }
            pulses
        };
        let second = Moment::from_secs(1);
        for (most, silent) in [(0, 3), (2, 2)] {
            let mut site = site(most, Moment::ZERO);
            let quiet = |id: &Uuid| !ids[..silent].contains(id);
            assert_eq!(run(&mut site, second * 10, &|_| true), 100);
            run(&mut site, second * 2, &quiet);
            assert!(site.0.is_cut_off() && site.0.period() == PERIOD * BACKOFF);
            assert_eq!(run(&mut site, second * 8, &quiet), 20);
            assert!(ids[..silent].iter().all(|id| site.0.health(id) == Some(Health::Lost)));
            assert!(ids.iter().all(|id| !site.0.fenced(id, site.1)), "nobody is fenced meanwhile");
            // One stays silent: it alone is lost, and fenced when the others have been heard for long enough.
            let one = |id: &Uuid| *id != ids[0];
            run(&mut site, second * 2, &one);
            assert!(!site.0.is_cut_off() && site.0.period() == PERIOD * BACKOFF, "its pace comes back later");
            run(&mut site, second * 3, &one);
            assert!(site.0.period() == PERIOD && !site.0.fenced(&ids[0], site.1));
            run(&mut site, second * 5, &one);
            assert!(site.0.fenced(&ids[0], site.1));
        }
        // What is set is believed for so long.
        let mut site = site(2, second * 5);
        let quiet = |id: &Uuid| !ids[..2].contains(id);
        run(&mut site, second * 10, &|_| true);
        run(&mut site, second * 4, &quiet);
        assert!(site.0.is_cut_off());
        run(&mut site, second * 4, &quiet);
        assert!(!site.0.is_cut_off());
        run(&mut site, second * 10, &quiet);
        assert!(ids[..2].iter().all(|id| site.0.fenced(id, site.1)));
        assert!(site.0.period() == PERIOD);
    }
}
