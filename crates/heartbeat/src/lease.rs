//! The host's side: how long it may keep the guests that others could start.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use crate::{Frame, Kind, LEASE, Moment, PERIOD, SILENT, SITE, VOTE};

/// What a peer last said.
struct Said {
    /// When it was asked.
    asked: Moment,
    silent: bool,
}

/// A host's right to keep its guests. It comes from the controller's pulses, each of which proves that it was sent after an answer
/// of this host and lasts from the moment of that answer; and from the other hosts, when most of the site does not hear the
/// controller: then it is the controller that is gone, and nobody starts guests elsewhere.
pub struct Lease {
    own: Uuid,
    run: u64,
    /// The other machines of the site.
    peers: BTreeSet<Uuid>,
    /// Number of the newest pulse, and stamp that the newest fresh one carried.
    sequence: u64,
    newest: Moment,
    /// When a pulse last came; none in this run yet.
    heard: Option<Moment>,
    until: Moment,
    /// It had a right at some time since the machine booted.
    given: bool,
    said: HashMap<Uuid, Said>,
    asked: Moment,
    began: Moment,
}

impl Lease {
    /// `run` is random, of this process; `until` is what an earlier one of the same boot of the machine left, zero if none did.
    pub fn new(own: Uuid, run: u64, now: Moment, until: Moment) -> Lease {
        Lease {
            own,
            run,
            peers: BTreeSet::new(),
            sequence: 0,
            newest: Moment::ZERO,
            heard: None,
            until: until.min(now + LEASE),
            given: !until.is_zero(),
            said: HashMap::new(),
            asked: Moment::ZERO,
            began: now,
        }
    }

    /// Sets the other machines of the site, the controller's among them.
    pub fn peers_set(&mut self, peers: BTreeSet<Uuid>) {
        self.said.retain(|id, _| peers.contains(id));
        self.peers = peers;
    }

    /// Whether guests that could be started elsewhere may run here. In a small site they run on whatever happens to the way to the
    /// controller; but a machine that has booted may have been switched off for a reason, and asks first.
    pub fn holds(&self, now: Moment) -> bool {
        now < self.until || (self.given && self.peers.len() + 1 < SITE)
    }

    /// Until when, if nothing more comes.
    pub fn until(&self) -> Moment {
        self.until
    }

    /// For how long no pulse has come.
    pub fn silence(&self, now: Moment) -> Moment {
        now.saturating_sub(self.heard.unwrap_or(self.began))
    }

    /// Takes a frame that was opened with the key of its sender's side, and says what to answer.
    pub fn hear(&mut self, frame: &Frame, now: Moment) -> Option<Frame> {
        if frame.receiver != self.own {
            return None;
        }
        match frame.kind {
            Kind::Pulse => Some(self.pulse(frame, now)),
            Kind::Question => Some(Frame {
                kind: Kind::Vote,
                grant: false,
                sender: self.own,
                receiver: frame.sender,
                value: u64::try_from(self.silence(now).as_millis()).unwrap_or(u64::MAX),
                ..*frame
            }),
            Kind::Vote => {
                self.vote(frame, now);
                None
            }
            Kind::Answer => None,
        }
    }

    fn pulse(&mut self, pulse: &Frame, now: Moment) -> Frame {
        // Only what carries a stamp of this run that no pulse before it carried was sent after that stamp was made.
        let fresh = pulse.run == self.run && pulse.stamp > self.newest && pulse.stamp <= now;
        if fresh {
            self.newest = pulse.stamp;
            if pulse.grant {
                self.given = true;
                self.until = self.until.max(pulse.stamp + LEASE);
            }
        }
        // A controller that has started again counts from elsewhere.
        if fresh || pulse.sequence > self.sequence {
            (self.sequence, self.heard) = (pulse.sequence, Some(now));
        }
        Frame { kind: Kind::Answer, grant: false, sender: self.own, receiver: pulse.sender, run: self.run, stamp: now, value: 0, ..*pulse }
    }

    fn vote(&mut self, vote: &Frame, now: Moment) {
        if vote.run != self.run || vote.stamp > now || !self.peers.contains(&vote.sender) {
            return;
        }
        let said = Said { asked: vote.stamp, silent: u128::from(vote.value) >= SILENT.as_millis() };
        if self.said.get(&vote.sender).is_none_or(|before| before.asked < said.asked) {
            self.said.insert(vote.sender, said);
        }
    }

    /// To be called each period: counts what the others said, and gives the questions to ask them now.
    pub fn tick(&mut self, now: Moment) -> Vec<Frame> {
        if self.silence(now) < SILENT {
            return Vec::new();
        }
        let since = now.saturating_sub(VOTE);
        let silent: Vec<Moment> = self.said.values().filter(|s| s.silent && s.asked >= since).map(|s| s.asked).collect();
        // This host and those that said so, of all. They prolong a right; one that has run out only the controller gives again: it may
        // have counted on that.
        if self.holds(now) && (silent.len() + 1) * 2 > self.peers.len() + 1 {
            let oldest = silent.into_iter().min().unwrap_or(now);
            self.until = self.until.max(oldest + LEASE);
        }
        if now < self.asked + PERIOD {
            return Vec::new();
        }
        self.asked = now;
        let question = |peer: &Uuid| Frame {
            kind: Kind::Question,
            grant: false,
            sender: self.own,
            receiver: *peer,
            sequence: 0,
            run: self.run,
            stamp: now,
            value: 0,
        };
        self.peers.iter().map(question).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Of two machines: the one that booted asks first, and then keeps what it has whatever happens.
    #[test]
    fn in_a_small_site_a_boot_needs_a_right_and_only_a_boot() {
        let (own, controller) = (Uuid::from_u128(7), Uuid::from_u128(1));
        let at = Duration::from_secs;
        let mut lease = Lease::new(own, 5, at(10), Moment::ZERO);
        lease.peers_set(BTreeSet::from([controller]));
        assert!(!lease.holds(at(10)));
        let pulse = Frame {
            kind: Kind::Pulse,
            grant: false,
            sender: controller,
            receiver: own,
            sequence: 9,
            run: 0,
            stamp: Moment::ZERO,
            value: 0,
        };
        let answer = lease.hear(&pulse, at(11)).unwrap();
        assert!(!lease.holds(at(11)));
        lease.hear(&Frame { grant: true, sequence: 10, run: answer.run, stamp: answer.stamp, ..pulse }, at(12));
        assert!(lease.holds(at(12)) && lease.holds(at(9999)));
        // The guard starts anew in the same boot: an earlier one left until when.
        let mut again = Lease::new(own, 6, at(100), at(14));
        again.peers_set(BTreeSet::from([controller]));
        assert!(again.holds(at(100)));
    }
}
