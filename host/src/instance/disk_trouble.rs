//! A guest that its process has stopped because a disk could not be read or written. It goes on from there, as if nothing had been, when
//! the disk can be again: that is tried again and again.

use std::time::Duration;

use base::Timestamp;

use crate::hypervisor::RunState;

/// How often such a guest is let go on: space may have been made.
const RETRY: Duration = Duration::from_secs(10);
/// What failed is done again as soon as it goes on. A guest that is not stopped by it within this time goes on for good.
const PROOF: Duration = Duration::from_secs(2);
const UNKNOWN: &str = "a disk could not be read or written";

#[derive(Clone, Debug, PartialEq)]
pub struct DiskTrouble {
    /// Which disk, and what is wrong with it.
    pub why: String,
    /// When the guest was stopped, or let go on, last.
    at: Timestamp,
}

impl DiskTrouble {
    pub fn new(why: &str, at: Timestamp) -> DiskTrouble {
        DiskTrouble { why: why.to_string(), at }
    }

    /// What is known after a look at the guest.
    pub fn seen(before: Option<DiskTrouble>, state: Option<RunState>, now: Timestamp) -> Option<DiskTrouble> {
        match (before, state) {
            (None, Some(RunState::IoError)) => Some(DiskTrouble::new(UNKNOWN, now)),
            (Some(known), Some(RunState::IoError)) => Some(known),
            (Some(known), Some(RunState::Running)) if now < known.at.plus(PROOF) => Some(known),
            _ => None,
        }
    }

    /// When it is let go on.
    pub fn retry(&self) -> Timestamp {
        self.at.plus(RETRY)
    }

    /// When one that goes on has shown that it does.
    pub fn proven(&self) -> Timestamp {
        self.at.plus(PROOF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_goes_on_has_to_show_it() {
        let at = |seconds| Timestamp(1_000_000_000).plus(Duration::from_secs(seconds));
        let (stopped, runs) = (Some(RunState::IoError), Some(RunState::Running));
        // Known from the word of the process, or from its state alone.
        let told = DiskTrouble::new("disk root could not be written: No space left on device", at(0));
        assert_eq!(DiskTrouble::seen(Some(told.clone()), stopped, at(1)), Some(told.clone()));
        assert_eq!(DiskTrouble::seen(None, stopped, at(1)).unwrap().why, UNKNOWN);
        assert_eq!((told.retry(), told.proven()), (at(10), at(2)));
        let tried = DiskTrouble { at: at(10), ..told };
        assert_eq!(DiskTrouble::seen(Some(tried.clone()), runs, at(11)), Some(tried.clone()));
        assert_eq!(DiskTrouble::seen(Some(tried.clone()), runs, at(12)), None);
        assert_eq!(DiskTrouble::seen(Some(tried), Some(RunState::Paused), at(11)), None);
        assert_eq!((DiskTrouble::seen(None, runs, at(0)), DiskTrouble::seen(None, None, at(0))), (None, None));
    }
}
