//! Control groups below `sturnus`.

use std::path::{Path, PathBuf};

use base::Result;

use crate::processes::Processes;
use crate::records::{Records, file_name, list};
use crate::{Kind, Report, Verdict};

pub fn check(records: &Records, processes: &Processes, report: &mut Report) -> Result<()> {
    for parent in parents(&std::fs::read_to_string("/proc/mounts").unwrap_or_default()) {
        for group in list(&parent)?.into_iter().filter(|p| p.is_dir()) {
            let (id, name) = (file_name(&group), group.display().to_string());
            let inside: Vec<i32> = std::fs::read_to_string(group.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
                .filter_map(|l| l.trim().parse().ok())
                .collect();
            let known = processes.get(&id).map(Vec::as_slice).unwrap_or_default();
            let (verdict, why) = match inside.as_slice() {
                // Guests that are off have no group, so an empty one is nobody's.
                [] if records.unreadable.contains(&id) => (Verdict::Kept, "its document cannot be read"),
                [] => (Verdict::Stale, "no process is in it"),
                pids if pids.iter().all(|p| known.contains(p)) => (Verdict::Live, "holds the guest's process"),
                _ if known.is_empty() => (Verdict::Foreign, "holds processes that are not of this home"),
                _ => (Verdict::Contradictory, "holds other processes than the guest's"),
            };
            report.add(Kind::ControlGroup, name, verdict, why);
        }
    }
    Ok(())
}

fn parents(mounts: &str) -> Vec<PathBuf> {
    let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    let groups = fields.filter(|f| f.len() > 2 && matches!(f[2], "cgroup" | "cgroup2"));
    let mut all: Vec<PathBuf> = groups.map(|f| Path::new(f[1]).join("sturnus")).filter(|p| p.is_dir()).collect();
    all.sort();
    all.dedup();
    all
}
