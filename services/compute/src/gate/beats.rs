//! Whose heart beats, as the hosts say.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rpc::guest::{GuestBeat, GuestStatus};

use crate::db::servers::Server;

/// The guests that beat, by server, each with the host that says so. Hosts say it all again in each session.
#[derive(Default)]
pub struct Beats(Mutex<HashMap<String, (String, GuestBeat)>>, Mutex<HashMap<String, Silence>>);

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

    fn all(&self) -> MutexGuard<'_, HashMap<String, (String, GuestBeat)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The beat of a server's guest, where the server is.
    pub fn of(&self, server: &Server) -> Option<GuestBeat> {
        let all = self.all();
        let (host_id, beat) = all.get(&server.id)?;
        (server.host_id.as_ref() == Some(host_id)).then_some(*beat)
    }

    pub(crate) fn put(&self, host_id: &str, status: &GuestStatus) {
        let mut all = self.all();
        match status.beat {
            Some(beat) => drop(all.insert(status.instance_id.clone(), (host_id.to_string(), beat))),
            // One that has left a host beats on another perhaps.
            None => {
                if all.get(&status.instance_id).is_some_and(|(host, _)| host == host_id) {
                    all.remove(&status.instance_id);
                }
            }
        }
    }

    /// A session has begun: what was said in another one is not said yet in this.
    pub(crate) fn forget(&self, host_id: &str) {
        self.all().retain(|_, (host, _)| host != host_id);
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
        beats.put("old", &status(true));
        beats.put("new", &status(true));
        beats.put("old", &status(false));
        assert_eq!(beats.all().len(), 1, "the old host's end is not the new one's");
        beats.forget("old");
        assert_eq!(beats.all().len(), 1);
        beats.forget("new");
        assert!(beats.all().is_empty());
    }
}
