//! Whose heart beats, as the hosts say.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rpc::guest::{GuestBeat, GuestStatus};

use crate::db::servers::Server;

/// The hearts of guests, by server. Hosts say again in each session which of them beat.
#[derive(Default)]
pub struct Beats(Mutex<HashMap<String, Known>>, Mutex<HashMap<String, Silence>>);

/// A guest's heart, as far as the guest's host has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heart {
    Beats,
    /// It has left, or fell silent.
    Still,
    /// The host has not said it, or before its present session.
    Unknown,
}

struct Known {
    host_id: String,
    heart: Heart,
    /// What the guest has declared last.
    beat: GuestBeat,
}

/// A guest that was seen running without a heartbeat, or was not.
struct Silence {
    since: Option<Instant>,
    /// Whether there is an alarm; none: nobody knows since the controller started.
    alarm: Option<bool>,
}

impl Beats {
    /// Notes whether a guest lacks its heartbeat now. Whether the alarm is to be set, or cleared, if it is not so already.
    pub(crate) fn silent(&self, id: &str, silent: bool, patience: Duration) -> Option<bool> {
        let mut all = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(id.to_string()).or_insert(Silence { since: None, alarm: None });
        known.since = if silent { known.since.or_else(|| Some(Instant::now())) } else { None };
        let wanted = match known.since {
            Some(since) if since.elapsed() >= patience => true,
            // One of before the controller's start stays until more is known.
            Some(_) if known.alarm.is_none() => return None,
            Some(_) => known.alarm.unwrap_or(false),
            None => false,
        };
        (known.alarm != Some(wanted)).then_some(wanted)
    }

    pub(crate) fn told(&self, id: &str, alarm: bool) {
        if let Some(known) = self.1.lock().unwrap_or_else(PoisonError::into_inner).get_mut(id) {
            known.alarm = Some(alarm);
        }
    }

    /// The server is no more.
    pub(crate) fn gone(&self, id: &str) {
        self.all().remove(id);
        self.1.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The beat of a server's guest, where the server is.
    pub fn of(&self, server: &Server) -> Option<GuestBeat> {
        let all = self.all();
        let known = all.get(&server.id).filter(|known| server.host_id.as_ref() == Some(&known.host_id))?;
        (known.heart == Heart::Beats).then_some(known.beat)
    }

    /// The heart of a server's guest, where the server is.
    pub(crate) fn heart(&self, server: &Server) -> Heart {
        let all = self.all();
        let known = all.get(&server.id).filter(|known| server.host_id.as_ref() == Some(&known.host_id));
        known.map_or(Heart::Unknown, |known| known.heart)
    }

    /// How long a guest has said that it may take to be there again, wherever it said so.
    pub(crate) fn restart(&self, id: &str) -> Option<Duration> {
        self.all().get(id).map(|known| Duration::from_secs(known.beat.restart_seconds.into()))
    }

    pub(crate) fn put(&self, host_id: &str, status: &GuestStatus) {
        let mut all = self.all();
        match status.beat {
            Some(beat) => {
                let known = Known { host_id: host_id.to_string(), heart: Heart::Beats, beat };
                all.insert(status.instance_id.clone(), known);
            }
            // One that has left a host beats on another perhaps.
            None => {
                if let Some(known) = all.get_mut(&status.instance_id).filter(|known| known.host_id == host_id) {
                    known.heart = Heart::Still;
                }
            }
        }
    }

    /// A session has begun: what was said in another one is not said yet in this.
    pub(crate) fn forget(&self, host_id: &str) {
        for known in self.all().values_mut().filter(|known| known.host_id == host_id) {
            known.heart = Heart::Unknown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_of_once_it_lasts() {
        let (beats, long) = (Beats::default(), Duration::from_secs(3600));
        assert_eq!(beats.silent("s", true, long), None, "an alarm of before stays");
        assert_eq!(beats.silent("s", true, Duration::ZERO), Some(true));
        beats.told("s", true);
        assert_eq!((beats.silent("s", true, Duration::ZERO), beats.silent("s", false, long)), (None, Some(false)));
        beats.told("s", false);
        assert_eq!((beats.silent("s", false, long), beats.silent("s", true, long)), (None, None));
    }

    #[test]
    fn a_guest_beats_where_it_was_last_heard() {
        let beats = Beats::default();
        let status = |beat: bool| GuestStatus { instance_id: "s".into(), beat: beat.then_some(GuestBeat { restart_seconds: 1 }) };
        let heart = || beats.all().get("s").map(|known| known.heart);
        beats.put("old", &status(true));
        beats.put("new", &status(true));
        beats.put("old", &status(false));
        assert_eq!(heart(), Some(Heart::Beats), "the old host's end is not the new one's");
        assert_eq!((beats.restart("s"), beats.restart("other")), (Some(Duration::from_secs(1)), None));
        beats.forget("old");
        assert_eq!(heart(), Some(Heart::Beats));
        beats.forget("new");
        assert_eq!(heart(), Some(Heart::Unknown));
        beats.put("new", &status(true));
        beats.put("new", &status(false));
        assert_eq!(heart(), Some(Heart::Still));
        assert_eq!(beats.restart("s"), Some(Duration::from_secs(1)), "one that is off has said it before");
        beats.gone("s");
        assert_eq!(heart(), None);
    }
}
