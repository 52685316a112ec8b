//! How often in a row something was so.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Counts for each host how often in a row it was so, since the controller's start.
#[derive(Default)]
pub struct Streaks(Mutex<HashMap<String, u32>>);

impl Streaks {
    /// It was so once more, or was not; how often in a row it has been now.
    pub fn take(&self, host: &str, so: bool) -> u32 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !so {
            all.remove(host);
            return 0;
        }
        let times = all.entry(host.to_string()).or_default();
        *times = times.saturating_add(1);
        *times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_its_own_streak_and_one_break_ends_it() {
        let streaks = Streaks::default();
        assert_eq!([true, true, false, true].map(|so| streaks.take("a", so)), [1, 2, 0, 1]);
        assert_eq!((streaks.take("b", true), streaks.take("a", true)), (1, 2));
    }
}
