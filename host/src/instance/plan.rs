//! What to do next for a guest: a pure function of what is wanted, what has been done and what is seen.

use std::time::Duration;

use base::Timestamp;
use rpc::instance::{InstanceSpec, InstanceState, Power, Restart, Watchdog};

use super::disk_trouble::DiskTrouble;
use crate::documents::{Ending, Hold, Journal, kept_differs, layout};
use crate::hypervisor::RunState;

/// A guest that is still starting does not hear its power button, so it is pressed again.
const PRESS_AGAIN: Duration = Duration::from_secs(5);
/// How long after its grace a press may still be the reason of a shutdown.
const PRESS_COUNTS: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The process went without anyone wanting it.
    Mourn {
        reason: Option<String>,
    },
    /// The process is gone as intended; note what that means.
    Settle(Ending),
    /// A hold has had its day.
    Lift,
    /// A press of the power button has had its day.
    ForgetPress,
    Press,
    /// End the process; what follows.
    End(Ending),
    Start,
    Pause,
    Resume,
    /// Memory to the disk, then the end of the process.
    Suspend,
    /// The saved memory is not gone on from.
    ForgetMemory,
    /// The disks of a guest that stays off are others now.
    Prepare,
    /// What was kept beside the guest's disks is kept no more.
    Sweep,
    /// Its threads run elsewhere than they are to.
    Pin,
    Plug(String),
    Unplug(String),
    Snapshot(String),
    ForgetSnapshot(String),
    Remove,
    /// Nothing to do before something changes or `until` comes.
    Wait {
        until: Option<Timestamp>,
        state: InstanceState,
        error: Option<String>,
        settled: bool,
    },
}

/// What is seen of a guest's process.
pub struct Seen<'a> {
    pub state: Option<RunState>,
    /// The machine's present boot.
    pub boot_id: &'a str,
    pub now: Timestamp,
    /// Last press of the button by this task.
    pub last_press: Option<Timestamp>,
    /// What stopped it, or just has.
    pub disk_trouble: Option<&'a DiskTrouble>,
    /// Whether the guest, if it could be started elsewhere, may run here.
    pub leased: bool,
    /// Why the guest could not be suspended, as its newest document wants.
    pub not_suspended: Option<&'a str>,
    /// Whether its threads run where they are to.
    pub pinned: bool,
    /// Why they do not, for its newest document.
    pub not_pinned: Option<&'a str>,
}

fn settled(state: InstanceState) -> Step {
    Step::Wait { until: None, state, error: None, settled: true }
}

pub fn plan(spec: &InstanceSpec, journal: &Journal, seen: &Seen) -> Step {
    let step = match (spec.power, seen.state) {
        (Power::Absent, None) => return Step::Remove,
        (Power::Absent, Some(_)) => return Step::End(Ending::AsWanted),
        (power, state) if !seen.leased && spec.recovery.elsewhere && (power != Power::Stopped || state.is_some()) => {
            return unleased(journal, state);
        }
        (_, None) => without_process(spec, journal, seen),
        (_, Some(state)) => with_process(spec, journal, seen, state),
    };
    match &step {
        // The guest is as wanted: then what hangs on it can be made so.
        Step::Wait { settled: true, state, .. } if *state != InstanceState::Failed => match parts(spec, journal, seen) {
            Some(part) => part,
            None => unpinned(step, seen),
        },
        _ => step,
    }
}

/// The guest may be running on another host. The guard ends its process, whatever happens to us; that is no death of its own.
fn unleased(journal: &Journal, state: Option<RunState>) -> Step {
    match (state, &journal.ending) {
        (Some(_), _) => Step::End(Ending::AsWanted),
        (None, Some(ending)) => Step::Settle(ending.clone()),
        (None, None) if journal.process.is_some() => Step::Settle(Ending::AsWanted),
        (None, None) => Step::Wait {
            until: None,
            state: InstanceState::Recovering,
            error: Some("this host is cut off from its controller: the guest may run elsewhere".into()),
            settled: false,
        },
    }
}

/// What of the guest's parts is not as wanted.
fn parts(spec: &InstanceSpec, journal: &Journal, seen: &Seen) -> Option<Step> {
    if seen.state.is_none() && spec.power == Power::Stopped && journal.layout != layout(spec) {
        return Some(Step::Prepare);
    }
    if seen.state.is_some() && kept_differs(&journal.layout, &layout(spec)) {
        return Some(Step::Sweep);
    }
    if seen.state.is_some() && !seen.pinned && seen.not_pinned.is_none() {
        return Some(Step::Pin);
    }
    if let (Some(cards), Some(_)) = (&journal.cards, seen.state) {
        if let Some(gone) = cards.iter().find(|port| !spec.nics.iter().any(|n| n.port_id == **port)) {
            return Some(Step::Unplug(gone.clone()));
        }
        if let Some(new) = spec.nics.iter().find(|n| !cards.contains(&n.port_id)) {
            return Some(Step::Plug(new.port_id.clone()));
        }
    }
    if let Some(gone) = journal.snapshots.iter().find(|had| !spec.snapshots.iter().any(|s| s.id == had.id)) {
        return Some(Step::ForgetSnapshot(gone.id.clone()));
    }
    let new = spec.snapshots.iter().find(|s| !journal.snapshots.iter().any(|had| had.id == s.id));
    new.map(|new| Step::Snapshot(new.id.clone()))
}

/// What is told of a guest whose threads cannot run where they are to. It goes on.
fn unpinned(step: Step, seen: &Seen) -> Step {
    match (step, seen.not_pinned) {
        (Step::Wait { until, state, error: None, settled }, Some(why)) => Step::Wait { until, state, error: Some(why.into()), settled },
        (step, _) => step,
    }
}

fn without_process(spec: &InstanceSpec, journal: &Journal, seen: &Seen) -> Step {
    if let Some(ending) = &journal.ending {
        return Step::Settle(ending.clone());
    }
    if let Some(process) = &journal.process {
        let reason = (process.boot_id != seen.boot_id).then(|| "the machine rebooted".to_string());
        return Step::Mourn { reason };
    }
    if journal.memory {
        // Switched off or booted anew, it is no more what the guest is.
        if spec.power == Power::Stopped || spec.boot > journal.boot {
            return Step::ForgetMemory;
        }
        if spec.power == Power::Suspended {
            return settled(InstanceState::Suspended);
        }
    }
    if spec.power == Power::Stopped {
        return if journal.hold.is_some() || journal.recovering { Step::Lift } else { settled(InstanceState::Stopped) };
    }
    match &journal.hold {
        Some(_) if spec.boot > journal.boot => return Step::Lift,
        Some(Hold::StartFailed { generation, .. }) if spec.generation > *generation => return Step::Lift,
        Some(Hold::ShutDown) => return settled(InstanceState::Stopped),
        Some(Hold::GaveUp { reason } | Hold::StartFailed { reason, .. }) => {
            return Step::Wait { until: None, state: InstanceState::Failed, error: Some(reason.clone()), settled: true };
        }
        None => {}
    }
    let due = journal.deaths.last().filter(|_| journal.recovering).map(|last| last.plus(backoff(journal.deaths.len())));
    match due {
        Some(due) if due > seen.now => {
            let error = Some(format!("attempt {} is due at {}", journal.deaths.len(), due.iso()));
            Step::Wait { until: Some(due), state: InstanceState::Recovering, error, settled: false }
        }
        _ => Step::Start,
    }
}

/// Pause before the n-th restart within the window: none, then 1, 2, 4, ... seconds.
pub fn backoff(attempt: usize) -> Duration {
    match attempt {
        0 | 1 => Duration::ZERO,
        n => Duration::from_secs(1 << (n - 2).min(10)).min(BACKOFF_MAX),
    }
}

fn with_process(spec: &InstanceSpec, journal: &Journal, seen: &Seen, state: RunState) -> Step {
    if let Some(ending) = &journal.ending {
        return Step::End(ending.clone());
    }
    let grace = Duration::from_secs(spec.shutdown_seconds.into());
    let restart = spec.boot > journal.boot;
    match state {
        // Our button did it, or nobody wants the guest any more: the document says what is next.
        RunState::ShutDown if journal.pressed.is_some() || spec.power == Power::Stopped || restart => return Step::End(Ending::AsWanted),
        RunState::ShutDown => return Step::End(Ending::ShutDown),
        RunState::Panicked if spec.power == Power::Stopped || restart => return Step::End(Ending::AsWanted),
        RunState::Panicked => return Step::End(Ending::Dead { reason: "the guest's kernel panicked".into() }),
        RunState::Watchdog if spec.machine.watchdog == Watchdog::Poweroff => return Step::End(Ending::ShutDown),
        _ => {}
    }
    if spec.power == Power::Stopped || (restart && spec.restart == Restart::Soft) {
        return switch_off(journal, seen, state, grace);
    }
    if restart {
        return Step::End(Ending::AsWanted);
    }
    let until = journal.pressed.map(|pressed| pressed.plus(grace + PRESS_COUNTS));
    if until.is_some_and(|until| until <= seen.now) {
        return Step::ForgetPress;
    }
    match (spec.power, state) {
        (Power::Suspended, _) => match seen.not_suspended {
            None => Step::Suspend,
            Some(why) => {
                let state = if state == RunState::Running { InstanceState::Running } else { InstanceState::Paused };
                Step::Wait { until, state, error: Some(why.into()), settled: true }
            }
        },
        (Power::Paused, RunState::Running) => Step::Pause,
        (Power::Running, RunState::Paused) => Step::Resume,
        (Power::Running, RunState::IoError) => match seen.disk_trouble {
            Some(trouble) if trouble.retry() > seen.now => disk_waits(trouble, trouble.retry()),
            _ => Step::Resume,
        },
        (Power::Running, RunState::Watchdog) => {
            let error = Some("paused: the guest's watchdog fired".into());
            Step::Wait { until, state: InstanceState::Paused, error, settled: true }
        }
        (Power::Running, _) => match seen.disk_trouble {
            Some(trouble) => disk_waits(trouble, trouble.proven()),
            None => Step::Wait { until, state: InstanceState::Running, error: None, settled: true },
        },
        _ => Step::Wait { until, state: InstanceState::Paused, error: None, settled: true },
    }
}

/// The guest stands still for a disk until then.
fn disk_waits(trouble: &DiskTrouble, until: Timestamp) -> Step {
    let error = Some(format!("stopped: {}", trouble.why));
    Step::Wait { until: Some(until), state: InstanceState::Paused, error, settled: true }
}

/// Asks the guest to switch itself off, and after its grace does not ask.
fn switch_off(journal: &Journal, seen: &Seen, state: RunState, grace: Duration) -> Step {
    if grace.is_zero() || state != RunState::Running {
        return Step::End(Ending::AsWanted);
    }
    let Some(pressed) = journal.pressed else { return Step::Press };
    let deadline = pressed.plus(grace);
    if deadline <= seen.now {
        return Step::End(Ending::AsWanted);
    }
    match seen.last_press.map(|last| last.plus(PRESS_AGAIN)) {
        Some(again) if again > seen.now => {
            let until = Some(again.min(deadline));
            Step::Wait { until, state: InstanceState::Running, error: Some("waiting for the guest to shut down".into()), settled: false }
        }
        _ => Step::Press,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Process;
    use crate::testing;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn seen(state: Option<RunState>) -> Seen<'static> {
        Seen {
            state,
            boot_id: "now",
            now: NOW,
            last_press: None,
            disk_trouble: None,
            leased: true,
            not_suspended: None,
            pinned: true,
            not_pinned: None,
        }
    }
    fn process(boot_id: &str) -> Process {
        Process { pid: 1, start_ticks: 1, boot_id: boot_id.into(), started_at: NOW }
    }

    #[test]
    fn without_a_lease_what_may_run_elsewhere_does_not_run_here() {
        let unleased = |state| Seen { leased: false, ..seen(state) };
        let mut spec = testing::spec();
        let journal = Journal { process: Some(process("now")), ..Default::default() };
        // A guest that stays with its host goes on, and is healed.
        assert_eq!(plan(&spec, &journal, &unleased(Some(RunState::Running))), plan(&spec, &journal, &seen(Some(RunState::Running))));
        assert_eq!(plan(&spec, &Journal::default(), &unleased(None)), Step::Start);
        spec.recovery.elsewhere = true;
        assert_eq!(plan(&spec, &journal, &unleased(Some(RunState::Running))), Step::End(Ending::AsWanted));
        // The guard was faster: no death to be counted.
        assert_eq!(plan(&spec, &journal, &unleased(None)), Step::Settle(Ending::AsWanted));
        let waits = plan(&spec, &Journal::default(), &unleased(None));
        assert!(matches!(waits, Step::Wait { until: None, state: InstanceState::Recovering, error: Some(_), settled: false }), "{waits:?}");
        // One that is off, or must be gone, needs no lease.
        spec.power = Power::Stopped;
        assert_eq!(plan(&spec, &Journal::default(), &unleased(None)), plan(&spec, &Journal::default(), &seen(None)));
        spec.power = Power::Absent;
        assert_eq!(plan(&spec, &Journal::default(), &unleased(None)), Step::Remove);
    }

    #[test]
    fn a_shutdown_is_the_guests_own_unless_we_pressed() {
        let spec = testing::spec();
        let mut journal = Journal { process: Some(process("now")), ..Default::default() };
        assert_eq!(plan(&spec, &journal, &seen(Some(RunState::ShutDown))), Step::End(Ending::ShutDown));
        journal.pressed = Some(NOW);
        assert_eq!(plan(&spec, &journal, &seen(Some(RunState::ShutDown))), Step::End(Ending::AsWanted));
    }

    #[test]
    fn holds_last_until_a_boot_or_a_stop_is_wanted() {
        let mut spec = testing::spec();
        let journal = Journal { hold: Some(Hold::ShutDown), ..Default::default() };
        assert!(matches!(plan(&spec, &journal, &seen(None)), Step::Wait { state: InstanceState::Stopped, .. }));
        spec.generation = 9;
        assert!(matches!(plan(&spec, &journal, &seen(None)), Step::Wait { state: InstanceState::Stopped, .. }));
        spec.boot = 1;
        assert_eq!(plan(&spec, &journal, &seen(None)), Step::Lift);
        spec.boot = 0;
        spec.power = Power::Stopped;
        assert_eq!(plan(&spec, &journal, &seen(None)), Step::Lift);
    }

    #[test]
    fn a_missing_process_is_a_death_or_a_reboot() {
        let spec = testing::spec();
        let died = Journal { process: Some(process("now")), ..Default::default() };
        assert_eq!(plan(&spec, &died, &seen(None)), Step::Mourn { reason: None });
        let rebooted = Journal { process: Some(process("before")), ..Default::default() };
        assert!(matches!(plan(&spec, &rebooted, &seen(None)), Step::Mourn { reason: Some(_) }));
        let ended = Journal { process: Some(process("now")), ending: Some(Ending::AsWanted), ..Default::default() };
        assert_eq!(plan(&spec, &ended, &seen(None)), Step::Settle(Ending::AsWanted));
    }

    #[test]
    fn the_button_is_pressed_again_and_patience_ends() {
        let mut spec = testing::spec();
        spec.power = Power::Stopped;
        let mut journal = Journal { process: Some(process("now")), ..Default::default() };
        assert_eq!(plan(&spec, &journal, &seen(Some(RunState::Running))), Step::Press);
        journal.pressed = Some(NOW);
        let just = Seen { last_press: Some(NOW), ..seen(Some(RunState::Running)) };
        assert!(matches!(plan(&spec, &journal, &just), Step::Wait { settled: false, .. }));
        let later = Seen { now: NOW.plus(Duration::from_secs(6)), last_press: Some(NOW), ..seen(Some(RunState::Running)) };
        assert_eq!(plan(&spec, &journal, &later), Step::Press);
        let late = Seen { now: NOW.plus(Duration::from_secs(61)), ..seen(Some(RunState::Running)) };
        assert_eq!(plan(&spec, &journal, &late), Step::End(Ending::AsWanted));
    }

    #[test]
    fn memory_is_gone_on_from_unless_a_boot_or_a_stop_is_wanted() {
        let mut spec = testing::spec();
        spec.power = Power::Suspended;
        let running = Journal { process: Some(process("now")), ..Default::default() };
        assert_eq!(plan(&spec, &running, &seen(Some(RunState::Running))), Step::Suspend);
        assert_eq!(plan(&spec, &running, &seen(Some(RunState::Paused))), Step::Suspend);
        let failed = Seen { not_suspended: Some("full"), ..seen(Some(RunState::Running)) };
        assert!(matches!(plan(&spec, &running, &failed), Step::Wait { state: InstanceState::Running, error: Some(_), .. }));
        let mut saved = Journal { memory: true, ..Default::default() };
        assert!(matches!(plan(&spec, &saved, &seen(None)), Step::Wait { state: InstanceState::Suspended, settled: true, .. }));
        // The machine rebooted: nothing happens to it.
        spec.power = Power::Running;
        assert_eq!(plan(&spec, &saved, &seen(None)), Step::Start);
        spec.boot = 1;
        assert_eq!(plan(&spec, &saved, &seen(None)), Step::ForgetMemory);
        saved.memory = false;
        assert_eq!(plan(&spec, &saved, &seen(None)), Step::Start);
    }

    #[test]
    fn parts_follow_once_the_guest_is_as_wanted() {
        let mut spec = testing::spec();
        let mut journal = Journal { process: Some(process("now")), cards: Some(vec!["old".into()]), ..Default::default() };
        journal.layout = layout(&spec);
        let snapshot = rpc::instance::Snapshot { id: "s".into(), disk: "root".into() };
        spec.snapshots = vec![snapshot];
        assert_eq!(plan(&spec, &journal, &seen(Some(RunState::Paused))), Step::Resume, "first things first");
        assert_eq!(plan(&spec, &journal, &seen(Some(RunState::Running))), Step::Unplug("old".into()));
        let adrift = Seen { pinned: false, ..seen(Some(RunState::Running)) };
        assert_eq!(plan(&spec, &journal, &adrift), Step::Pin);
        journal.cards = Some(vec![]);
        let full = Seen { not_pinned: Some("full"), ..Seen { pinned: false, ..seen(Some(RunState::Running)) } };
        let bare = InstanceSpec { snapshots: vec![], ..spec.clone() };
        assert!(matches!(plan(&bare, &journal, &full), Step::Wait { state: InstanceState::Running, error: Some(_), settled: true, .. }));
        assert_eq!(plan(&spec, &journal, &seen(Some(RunState::Running))), Step::Snapshot("s".into()));
        journal.snapshots.push(rpc::instance::SnapshotStatus { id: "s".into(), bytes: 1, error: None });
        assert!(matches!(plan(&spec, &journal, &seen(Some(RunState::Running))), Step::Wait { settled: true, .. }));
        spec.snapshots.clear();
        assert_eq!(plan(&spec, &journal, &seen(Some(RunState::Running))), Step::ForgetSnapshot("s".into()));
        journal.snapshots.clear();
        journal.layout.push_str("root-7");
        assert_eq!(plan(&spec, &journal, &seen(Some(RunState::Running))), Step::Sweep);
        // Off, with other disks than before.
        (spec.power, journal.process, spec.disks[0].revision) = (Power::Stopped, None, 1);
        assert_eq!(plan(&spec, &journal, &seen(None)), Step::Prepare);
    }

    #[test]
    fn a_guest_that_stands_still_for_a_disk_is_shown_so_until_it_goes_on() {
        let spec = testing::spec();
        let journal = Journal { process: Some(process("now")), layout: layout(&spec), ..Default::default() };
        let trouble = DiskTrouble::new("disk root is full", NOW);
        let at = |state, seconds| Seen { now: NOW.plus(Duration::from_secs(seconds)), disk_trouble: Some(&trouble), ..seen(Some(state)) };
        for (state, until) in [(RunState::IoError, trouble.retry()), (RunState::Running, trouble.proven())] {
            let error = Some("stopped: disk root is full".to_string());
            let waits = Step::Wait { until: Some(until), state: InstanceState::Paused, error, settled: true };
            assert_eq!(plan(&spec, &journal, &at(state, 1)), waits);
        }
        assert_eq!(plan(&spec, &journal, &at(RunState::IoError, 10)), Step::Resume);
    }

    #[test]
    fn the_pause_between_attempts_grows() {
        assert_eq!((1..=6).map(|n| backoff(n).as_secs()).collect::<Vec<_>>(), [0, 1, 2, 4, 8, 16]);
        assert_eq!(backoff(1000), BACKOFF_MAX);
    }
}
