//! The states of a server, as the reference names them.

/// `vm_state`.
pub mod vm {
    pub const ACTIVE: &str = "active";
    pub const BUILDING: &str = "building";
    pub const PAUSED: &str = "paused";
    pub const SUSPENDED: &str = "suspended";
    pub const STOPPED: &str = "stopped";
    pub const RESCUED: &str = "rescued";
    pub const RESIZED: &str = "resized";
    pub const SHELVED: &str = "shelved";
    pub const SHELVED_OFFLOADED: &str = "shelved_offloaded";
    pub const ERROR: &str = "error";
    pub const DELETED: &str = "deleted";
}

/// `task_state`.
pub mod task {
    pub const SCHEDULING: &str = "scheduling";
    pub const NETWORKING: &str = "networking";
    pub const SPAWNING: &str = "spawning";
    pub const REBOOTING: &str = "rebooting";
    pub const REBOOTING_HARD: &str = "rebooting_hard";
    pub const PAUSING: &str = "pausing";
    pub const UNPAUSING: &str = "unpausing";
    pub const SUSPENDING: &str = "suspending";
    pub const RESUMING: &str = "resuming";
    pub const POWERING_OFF: &str = "powering-off";
    pub const POWERING_ON: &str = "powering-on";
    pub const UPDATING_PASSWORD: &str = "updating_password";
    pub const IMAGE_SNAPSHOT: &str = "image_snapshot";
    pub const IMAGE_UPLOADING: &str = "image_uploading";
    pub const IMAGE_BACKUP: &str = "image_backup";
    pub const MIGRATING: &str = "migrating";
    pub const REBUILDING: &str = "rebuilding";
    pub const RESCUING: &str = "rescuing";
    pub const UNRESCUING: &str = "unrescuing";
    pub const RESIZE_PREP: &str = "resize_prep";
    pub const RESIZE_MIGRATING: &str = "resize_migrating";
    pub const RESIZE_REVERTING: &str = "resize_reverting";
    pub const SCALING: &str = "scaling";
    pub const SHELVING: &str = "shelving";
    pub const SHELVING_IMAGE_UPLOADING: &str = "shelving_image_uploading";
    pub const SHELVING_OFFLOADING: &str = "shelving_offloading";
    pub const UNSHELVING: &str = "unshelving";
    pub const DELETING: &str = "deleting";
}

/// `power_state`.
pub mod power {
    pub const NOSTATE: i64 = 0;
    pub const RUNNING: i64 = 1;
    pub const PAUSED: i64 = 3;
    pub const SHUTDOWN: i64 = 4;
    pub const CRASHED: i64 = 6;
}

/// `(vm_state, task_state or "", status)`; the row without a task is the state's default. States this cloud never
/// enters are listed for the status filter, which must know their names.
const STATUS: &[(&str, &str, &str)] = &[
    ("active", "", "ACTIVE"),
    ("active", "rebooting", "REBOOT"),
    ("active", "reboot_pending", "REBOOT"),
    ("active", "reboot_started", "REBOOT"),
    ("active", "rebooting_hard", "HARD_REBOOT"),
    ("active", "reboot_pending_hard", "HARD_REBOOT"),
    ("active", "reboot_started_hard", "HARD_REBOOT"),
    ("active", "updating_password", "PASSWORD"),
    ("active", "rebuilding", "REBUILD"),
    ("active", "migrating", "MIGRATING"),
    ("active", "resize_prep", "RESIZE"),
    ("active", "resize_migrating", "RESIZE"),
    ("active", "resize_migrated", "RESIZE"),
    ("active", "resize_finish", "RESIZE"),
    ("building", "", "BUILD"),
    ("stopped", "", "SHUTOFF"),
    ("stopped", "resize_prep", "RESIZE"),
    ("stopped", "rebuilding", "REBUILD"),
    ("resized", "", "VERIFY_RESIZE"),
    ("resized", "resize_reverting", "REVERT_RESIZE"),
    ("paused", "", "PAUSED"),
    ("paused", "migrating", "MIGRATING"),
    ("suspended", "", "SUSPENDED"),
    ("rescued", "", "RESCUE"),
    ("error", "", "ERROR"),
    ("error", "rebuilding", "REBUILD"),
    ("deleted", "", "DELETED"),
    ("soft-delete", "", "SOFT_DELETED"),
    ("shelved", "", "SHELVED"),
    ("shelved_offloaded", "", "SHELVED_OFFLOADED"),
];

/// What users see.
pub fn status(vm_state: &str, task_state: Option<&str>) -> &'static str {
    let task = task_state.unwrap_or_default();
    let find = |task: &str| STATUS.iter().find(|(vm, t, _)| *vm == vm_state && *t == task).map(|(_, _, status)| *status);
    find(task).or_else(|| find("")).unwrap_or("UNKNOWN")
}

/// The pairs a list filtered by these statuses asks for: vm states, and task states unless any will do.
pub fn states_of(statuses: &[&str]) -> (Vec<&'static str>, Option<Vec<&'static str>>) {
    let (mut vms, mut tasks, mut any_task) = (Vec::new(), Vec::new(), false);
    for (vm, task, status) in STATUS {
        if statuses.iter().any(|s| s.eq_ignore_ascii_case(status)) {
            if !vms.contains(vm) {
                vms.push(*vm);
            }
            if task.is_empty() {
                any_task = true;
            } else {
                tasks.push(*task);
            }
        }
    }
    (vms, if any_task { None } else { Some(tasks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_refine_and_default() {
        assert_eq!(status("active", None), "ACTIVE");
        assert_eq!(status("active", Some("rebooting_hard")), "HARD_REBOOT");
        assert_eq!(status("active", Some("powering-off")), "ACTIVE");
        assert_eq!(status("stopped", Some("powering-on")), "SHUTOFF");
        assert_eq!(status("gone", None), "UNKNOWN");
        assert_eq!(states_of(&["shutoff"]), (vec!["stopped"], None));
        assert_eq!(states_of(&["REBOOT"]).1.unwrap().len(), 3);
        assert!(states_of(&["nonsense"]).0.is_empty());
    }
}
