//! The guests of a home as its disk and the machine's processes show them, without an agent: for commands.

use std::path::Path;
use std::time::{Duration, Instant};

use base::error::Internal;
use base::{Error, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::documents::Documents;
use crate::hypervisor::{boot_id, process};

/// A guest that this host keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    pub id: String,
    pub name: String,
    /// The process, if it runs now.
    pub pid: Option<i32>,
}

/// How long a process may take to end.
const END: Duration = Duration::from_secs(10);

/// All guests with a document in `home`.
pub fn guests(home: &Path) -> Result<Vec<Guest>> {
    if !home.join("host").is_dir() {
        return Ok(Vec::new());
    }
    let boot = boot_id();
    let instances = Documents::open(home, true)?.instances()?;
    let guest = |(spec, journal): (rpc::instance::InstanceSpec, crate::documents::Journal)| {
        let alive = journal.process.filter(|p| p.boot_id == boot && process::start_ticks(p.pid) == Some(p.start_ticks));
        Guest { id: spec.id, name: spec.name, pid: alive.map(|p| p.pid) }
    };
    Ok(instances.into_iter().map(guest).collect())
}

/// Ends the processes of all guests, as a power cut of the machine would; the next start of the host brings them back.
/// Only for a home whose agent does not run. Returns how many were ended.
pub fn guests_stop(home: &Path) -> Result<usize> {
    let running: Vec<Guest> = guests(home)?.into_iter().filter(|g| g.pid.is_some()).collect();
    for guest in &running {
        let Some(pid) = guest.pid.map(Pid::from_raw) else { continue };
        // QEMU writes back its caches and ends when asked by SIGTERM.
        signal(pid, Signal::SIGTERM)?;
        let started = Instant::now();
        while kill(pid, None) != Err(Errno::ESRCH) {
            if started.elapsed() > END {
                return Err(Error::timeout(format!("guest {} (process {pid}) does not end", guest.id)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    crate::guarded::leave(home);
    Ok(running.len())
}

fn signal(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e).internal("cannot signal a guest"),
    }
}
