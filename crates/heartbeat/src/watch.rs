//! The controller's side: which hosts answer, and when the guests of one that does not may be started elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{BACK, DEGRADE, Frame, Kind, LATE, LEASE, LOSS, MARGIN, MINOR, Moment, SITE, WINDOW};

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

/// A host's health is another one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub host: Uuid,
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
    /// Whether an answer came since the last tick.
    heard: bool,
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
}

impl Watch {
    /// `sequence` is random: answers to a controller before this one are none to it.
    pub fn new(own: Uuid, sequence: u64, now: Moment) -> Watch {
        // Far enough from the end never to meet it. Lists of the site are counted from there too.
        let sequence = sequence >> 2 | 1 << 32;
        Watch { own, sequence, last_tick: now, hosts: BTreeMap::new(), local: BTreeSet::new(), site: sequence }
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
            host.barred = health == Health::Lost;
        }
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
        let sequence = self.sequence;
        let Some(host) = self.hosts.get_mut(&answer.sender) else { return false };
        if answer.sequence <= host.newest || answer.sequence > sequence || sequence - answer.sequence >= WINDOW {
            return false;
        }
        host.newest = answer.sequence;
        (host.run, host.stamp, host.heard) = (answer.run, answer.stamp, true);
        true
    }

    /// To be called each period, after all that has come was heard: what changed, and the pulses to send now.
    pub fn tick(&mut self, now: Moment) -> (Vec<Change>, Vec<Frame>) {
        // When this process itself stood still nobody was asked, so nobody failed to answer; and nobody is known to have been well.
        let late = now.saturating_sub(self.last_tick) > LATE;
        self.last_tick = now;
        self.sequence += 1;
        let mut changes = Vec::new();
        let mut pulses = Vec::new();
        for (id, host) in &mut self.hosts {
            let before = host.health;
            if std::mem::take(&mut host.heard) {
                (host.missed, host.answered) = (0, host.answered.saturating_add(1));
                host.steady = host.steady.filter(|_| !late).or(Some(now));
            } else if late {
                host.steady = None;
            } else {
                (host.missed, host.answered) = (host.missed.saturating_add(1), 0);
            }
            host.health = match (before, host.missed) {
                (Health::Lost, _) if host.answered < BACK => Health::Lost,
                (_, LOSS..) => Health::Lost,
                (_, DEGRADE..) => Health::Degraded,
                (_, MINOR..) => Health::Minor,
                _ => Health::Well,
            };
            if host.health >= Health::Degraded {
                host.steady = None;
            }
            if host.health == Health::Lost {
                host.barred = true;
            }
            if host.health != before {
                changes.push(Change { host: *id, before, now: host.health });
            }
            // One that seems to be going is not given more: the sooner its right ends.
            let grant = !host.barred && host.missed < MINOR;
            if grant {
                host.granted = now;
            }
            pulses.push(Frame {
                kind: Kind::Pulse,
                grant,
                sender: self.own,
                receiver: *id,
                sequence: self.sequence,
                run: host.run,
                stamp: host.stamp,
                value: 0,
            });
        }
        (changes, pulses)
    }

    /// To be called between two ticks, after all that has come was heard: one that was silent for so long that the pulse now on its way is
    /// its last is given half of the time for it. An answer takes a hundredth.
    pub fn overdue(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, host) in self.hosts.iter_mut().filter(|(_, h)| !h.heard && h.health != Health::Lost && h.missed + 1 == LOSS) {
            let before = std::mem::replace(&mut host.health, Health::Lost);
            (host.missed, host.barred) = (LOSS, true);
            changes.push(Change { host: *id, before, now: Health::Lost });
        }
        changes
    }

    /// Whether it is certain that the host has stopped the guests that may be started elsewhere: its right has run out, and it can
    /// have had no other from the hosts around it, because at least half of the site has heard the controller all the time.
    pub fn fenced(&self, host: &Uuid, now: Moment) -> bool {
        let Some(lost) = self.hosts.get(host).filter(|h| h.barred && h.bound) else { return false };
        // Since before the last moment for which others could have given it a right that lasts until now.
        let since = now.saturating_sub(LEASE + MARGIN);
        let steady = |id: &Uuid| self.local.contains(id) || self.hosts.get(id).and_then(|h| h.steady).is_some_and(|from| from <= since);
        let kept = |site: &BTreeSet<Uuid>| {
            let steady = site.iter().filter(|id| *id != host && steady(id)).count();
            site.len() >= SITE && steady * 2 >= site.len()
        };
        now >= lost.granted + LEASE + MARGIN && lost.sites.values().all(kept)
    }

    /// Whether fewer than half of the site answer: then it is more likely this controller that is cut off.
    pub fn is_cut_off(&self) -> bool {
        let all = self.hosts.len() + self.local.len();
        let lost = self.hosts.values().filter(|h| h.health == Health::Lost).count();
        lost * 2 > all
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
        assert_eq!(silent.overdue(), [Change { host: HOST, before: Health::Degraded, now: Health::Lost }]);
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
        assert!(!watch.hear(&Frame { sequence: answer.sequence + 1, ..answer }), "a pulse that was not sent");
        assert!(!watch.hear(&Frame { sequence: answer.sequence - WINDOW, ..answer }));
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
}
