//! How long this host may keep guests that others could start, as its guard leaves it for the agent: a file, so that either may be
//! started anew at any time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use base::Result;
use base::error::Internal;
use heartbeat::Moment;
use nix::time::{ClockId, clock_gettime};

use crate::hypervisor::boot_id;

/// Time of this machine since it booted, asleep or not.
pub fn now() -> Moment {
    // The clock is there on every kernel that runs us; without it no lease would ever hold.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

/// The file: until when, twice, and in which boot of the machine. It is written in place many times a second; a reader that
/// meets a writer sees two different numbers.
pub struct LeaseFile {
    file: File,
    boot: String,
}

impl LeaseFile {
    pub fn open(home: &Path) -> Result<LeaseFile> {
        let path = home.join("host/lease");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        Ok(LeaseFile { file: file.internal("cannot open the lease")?, boot: boot_id() })
    }

    /// None when nobody has written it in this boot of the machine.
    pub fn until(&self) -> Option<Moment> {
        let mut bytes = [0; 160];
        for _ in 0..100 {
            let n = self.file.read_at(&mut bytes, 0).ok()?;
            let text = std::str::from_utf8(&bytes[..n]).ok()?;
            let mut words = text.split_whitespace();
            let (one, other, boot) = (words.next()?, words.next()?, words.next()?);
            if one == other {
                return one.parse().ok().map(Duration::from_nanos).filter(|_| boot == self.boot);
            }
        }
        None
    }

    pub fn write(&self, until: Moment) -> Result<()> {
        let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.file.write_all_at(format!("{nanos:020} {nanos:020} {}\n", self.boot).as_bytes(), 0).internal("cannot write the lease")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_of_this_boot_and_runs_out() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("host")).unwrap();
        let lease = LeaseFile::open(home.path()).unwrap();
        assert_eq!(lease.until(), None);
        let until = now() + Duration::from_secs(60);
        lease.write(until).unwrap();
        assert_eq!(LeaseFile::open(home.path()).unwrap().until(), Some(until));
        lease.write(Moment::MAX).unwrap();
        assert!(lease.until() > Some(until));
        for damaged in ["", "1 2 x", "18446744073709551615 18446744073709551615 another-boot\n"] {
            std::fs::write(home.path().join("host/lease"), damaged).unwrap();
            assert_eq!(LeaseFile::open(home.path()).unwrap().until(), None, "{damaged}");
        }
    }
}
