//! The processors of this machine, and where its threads may run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base::error::Internal;
use base::{Error, Result};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::set;

/// How often threads are looked for that began while others were being moved.
const LOOKS: usize = 5;

/// The processors a machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processors {
    pub online: BTreeSet<u32>,
    /// Those that are threads of one core, of which this is one.
    pub siblings: BTreeMap<u32, BTreeSet<u32>>,
}

impl Processors {
    /// As the kernel shows them below `/sys/devices/system/cpu`. What cannot be read is not there.
    pub fn read(root: &Path) -> Processors {
        let set = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            set::parse(&text, &path.to_string_lossy()).unwrap_or_default()
        };
        let online = set(&root.join("online"));
        let siblings = |cpu: &u32| set(&root.join(format!("cpu{cpu}/topology/thread_siblings_list")));
        Processors { siblings: online.iter().map(|cpu| (*cpu, siblings(cpu))).collect(), online }
    }

    /// Whether some are threads of the same core.
    pub fn threaded(&self) -> bool {
        self.siblings.values().any(|core| core.len() > 1)
    }

    /// The core of a processor, by its lowest thread.
    pub fn core(&self, cpu: u32) -> u32 {
        self.siblings.get(&cpu).and_then(|core| core.first().copied()).unwrap_or(cpu)
    }
}

/// The kernel's form of a set.
pub fn mask(cpus: &BTreeSet<u32>) -> Result<CpuSet> {
    let mut mask = CpuSet::new();
    for cpu in cpus {
        mask.set(*cpu as usize).internal("a processor's number is too large")?;
    }
    Ok(mask)
}

/// Has a thread run on these processors only. One that has ended runs nowhere.
pub fn thread_pin(thread: i32, cpus: &BTreeSet<u32>) -> Result<()> {
    match sched_setaffinity(Pid::from_raw(thread), &mask(cpus)?) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(Error::internal(format!("thread {thread} cannot be moved to processors {cpus:?}")).caused_by(e)),
    }
}

/// The same for all threads of a process but some, and for those that they start meanwhile.
pub fn others_pin(pid: i32, but: &BTreeSet<i32>, cpus: &BTreeSet<u32>) -> Result<()> {
    let mut moved = but.clone();
    for _ in 0..LOOKS {
        let new: Vec<i32> = threads(pid)?.into_iter().filter(|thread| !moved.contains(thread)).collect();
        if new.is_empty() {
            break;
        }
        for thread in new {
            thread_pin(thread, cpus)?;
            moved.insert(thread);
        }
    }
    Ok(())
}

fn threads(pid: i32) -> Result<Vec<i32>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).internal("cannot list a guest's threads")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_processors_and_their_cores() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("online"), "0-2\n").unwrap();
        for (cpu, core) in [(0, "0,2"), (1, "1"), (2, "0,2")] {
            let directory = root.path().join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("thread_siblings_list"), core).unwrap();
        }
        let found = Processors::read(root.path());
        assert_eq!((found.online.len(), found.core(2), found.core(1), found.threaded()), (3, 0, 1, true));
        assert_eq!(Processors::read(Path::new("/nonexistent")), Processors::default());
    }

    #[test]
    fn a_thread_is_moved_and_one_that_has_ended_is_not_missed() {
        let allowed = |thread: i32| {
            let mask = nix::sched::sched_getaffinity(Pid::from_raw(thread)).unwrap();
            (0..CpuSet::count() as u32).filter(|cpu| mask.is_set(*cpu as usize).unwrap()).collect::<BTreeSet<u32>>()
        };
        // A thread of its own: the test's runner is left alone.
        std::thread::spawn(move || {
            let me = nix::unistd::gettid().as_raw();
            let one: BTreeSet<u32> = allowed(me).into_iter().take(1).collect();
            thread_pin(me, &one).unwrap();
            assert_eq!(allowed(me), one);
        })
        .join()
        .unwrap();
        thread_pin(i32::MAX, &BTreeSet::from([0])).unwrap();
    }
}
