//! How many wrong passwords came from where for whom within the last minute: who guesses fast is not answered for a while, and the
//! account's owner, who comes from elsewhere, is. Kept in memory, by each controller for itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::{Error, Result};

const WINDOW: Duration = Duration::from_secs(60);
/// When there are more entries the old ones are thrown out, and if that does not help all of them: memory stays bounded.
const MOST: usize = 100_000;

pub struct Attempts {
    /// 0: any number.
    allowed: u64,
    failed: Mutex<HashMap<(Option<IpAddr>, String), Failures>>,
}

struct Failures {
    since: Instant,
    count: u64,
}

impl Attempts {
    pub fn new(allowed: u64) -> Attempts {
        Attempts { allowed, failed: Mutex::new(HashMap::new()) }
    }

    /// `asked`: as the request named the user, whether or not there is one.
    pub fn check(&self, from: Option<IpAddr>, asked: &str) -> Result<()> {
        if self.allowed == 0 {
            return Ok(());
        }
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match failed.get(&(from, asked.to_string())) {
            Some(entry) if entry.count >= self.allowed && entry.since.elapsed() < WINDOW => {
                Err(Error::new(base::Kind::Unavailable, "Too many failed logins; try again in a minute.").with_status(429))
            }
            _ => Ok(()),
        }
    }

    pub fn failed(&self, from: Option<IpAddr>, asked: &str) {
        if self.allowed == 0 {
            return;
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= MOST {
            failed.retain(|_, entry| entry.since.elapsed() < WINDOW);
            if failed.len() >= MOST {
                failed.clear();
            }
        }
        let entry = failed.entry((from, asked.to_string())).or_insert(Failures { since: Instant::now(), count: 0 });
        if entry.since.elapsed() >= WINDOW {
            *entry = Failures { since: Instant::now(), count: 0 };
        }
        entry.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_and_user_is_counted_alone() {
        let attempts = Attempts::new(2);
        let (here, there) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        for _ in 0..2 {
            assert!(attempts.check(here, "u").is_ok());
            attempts.failed(here, "u");
        }
        assert_eq!(attempts.check(here, "u").unwrap_err().status(), Some(429));
        assert!(attempts.check(there, "u").is_ok() && attempts.check(here, "v").is_ok());
        let any = Attempts::new(0);
        (0..100).for_each(|_| any.failed(here, "u"));
        assert!(any.check(here, "u").is_ok());
    }

    #[test]
    fn memory_stays_bounded() {
        let attempts = Attempts::new(1);
        (0..=MOST).for_each(|n| attempts.failed(None, &n.to_string()));
        assert!(attempts.failed.lock().unwrap().len() <= MOST);
    }
}
