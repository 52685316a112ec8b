//! A control group for each guest, `sturnus/<id>`, in every hierarchy that is mounted; written by ourselves.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use base::Result;
use base::error::Internal;

/// Controllers of version 1 that work without further set-up.
const CONTROLLERS: &[&str] = &["cpu", "cpuacct", "memory", "pids", "freezer"];
const PARENT: &str = "sturnus";

/// Directories of the guest's groups, whether they exist or not.
pub fn directories(mounts: &str, instance_id: &str) -> Vec<PathBuf> {
    let mut first = Vec::new();
    let mut second = Vec::new();
    for line in mounts.lines() {
        // A mount table line: device, directory, type, options.
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, directory, kind, options, ..] = fields[..] else { continue };
        let group = Path::new(directory).join(PARENT).join(instance_id);
        match kind {
            "cgroup" if options.split(',').any(|o| CONTROLLERS.contains(&o)) => first.push(group),
            "cgroup2" => second.push(group),
            _ => {}
        }
    }
    if first.is_empty() { second } else { first }
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/mounts").unwrap_or_default()
}

/// Makes the guest's groups and opens what a process enters them by. Where none can be made (not root, none
/// mounted) the guest runs without.
pub fn make(instance_id: &str, vcpus: u32) -> Vec<File> {
    let mut entries = Vec::new();
    for group in directories(&mounts(), instance_id) {
        if let Some(parent) = group.parent()
            && std::fs::create_dir_all(parent).is_ok()
            && let Some(root) = parent.parent()
            && root.join("cgroup.controllers").exists()
        {
            // Version 2: hand down what is there. Refused where processes sit in the root; then there is no accounting.
            for directory in [root, parent] {
                for controller in ["cpu", "memory", "pids"] {
                    let _ = std::fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
        if let Err(e) = std::fs::create_dir_all(&group) {
            tracing::debug!("no control group {}: {e}", group.display());
            continue;
        }
        for (file, value) in
            [("cpu.shares", 1024 * u64::from(vcpus)), ("cpu.weight", (100 * u64::from(vcpus)).min(10_000)), ("pids.max", 4096)]
        {
            if group.join(file).exists() {
                // A weight that is refused leaves the default one.
                let _ = std::fs::write(group.join(file), value.to_string());
            }
        }
        match OpenOptions::new().write(true).open(group.join("cgroup.procs")) {
            Ok(file) => entries.push(file),
            Err(e) => tracing::debug!("cannot enter {}: {e}", group.display()),
        }
    }
    entries
}

/// Removes the guest's groups. The kernel refuses as long as a process is in one, so this removes nothing that lives.
pub async fn remove(instance_id: &str) -> Result<()> {
    for group in directories(&mounts(), instance_id) {
        let mut tries = 0;
        loop {
            match std::fs::remove_dir(&group) {
                Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && tries < 100 => {
                    // The last thread leaves its group a moment after its process is seen gone.
                    tries += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                // Two hosts of one machine, and a guest that went from one to the other: it has its group now.
                Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && inhabited(&group) => break,
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).internal("cannot remove a guest's control group");
                }
                _ => break,
            }
        }
    }
    Ok(())
}

fn inhabited(group: &Path) -> bool {
    std::fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_mounted() {
        let first = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\ncgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(directories(first, "x"), [PathBuf::from("/sys/fs/cgroup/cpu/sturnus/x")]);
        let second = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(directories(second, "x"), [PathBuf::from("/sys/fs/cgroup/sturnus/x")]);
        assert!(directories("proc /proc proc rw 0 0\n", "x").is_empty());
    }
}
