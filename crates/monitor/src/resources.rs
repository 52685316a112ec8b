//! Processor, memory and filesystems, with levels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rpc::monitor::{Condition, Level};

use crate::filesystems::{FILESYSTEM, Unwritten, Usage, Usages, entity};
use crate::{Board, Settings};

const CPU: &str = "100.101";
const MEMORY: &str = "100.103";
/// Seconds between samples, and how long filesystems may take to say how full they are.
const SAMPLE: u32 = 30;
const DEADLINE: u32 = 10;
/// Samples in a row until something is said that was well, and until it is another level or well again.
pub const RAISE: u32 = 7;
pub const SETTLE: u32 = 3;
/// Percent from which a level begins: major, critical.
const CPU_LEVELS: (f64, f64) = (90.0, 95.0);
const OTHER_LEVELS: (f64, f64) = (80.0, 90.0);

/// What is said of one measure, so that a moment says nothing.
#[derive(Clone, Debug, Default)]
pub struct Debounce {
    said: Option<Level>,
    /// The level that samples have shown last, other than what is said, and how often in a row.
    seen: Option<Level>,
    times: u32,
}

impl Debounce {
    /// Takes a sample; what is said from now on.
    pub fn take(&mut self, level: Option<Level>) -> Option<Level> {
        if level == self.said {
            self.times = 0;
            return self.said;
        }
        // From well to any level it is one thing; between levels each counts for itself.
        self.times = if self.said.is_none() || level == self.seen || self.times == 0 { self.times + 1 } else { 1 };
        self.seen = level;
        if self.times >= if self.said.is_none() { RAISE } else { SETTLE } {
            (self.said, self.times) = (level, 0);
        }
        self.said
    }
}

fn level(percent: f64, (major, critical): (f64, f64)) -> Option<Level> {
    match percent {
        p if p >= critical => Some(Level::Critical),
        p if p >= major => Some(Level::Major),
        _ => None,
    }
}

/// One measure of this machine in percent.
#[derive(Clone, Debug, PartialEq)]
struct Measure {
    alarm_id: &'static str,
    entity: String,
    what: &'static str,
    percent: f64,
    levels: (f64, f64),
}

/// All measures, and what is said of each.
#[derive(Default)]
struct Judge {
    known: BTreeMap<(&'static str, String), Debounce>,
    /// The value in the text that stands.
    told: BTreeMap<(&'static str, String), (Level, f64)>,
    unwritten: Arc<Unwritten>,
}

impl Judge {
    /// `hang` are filesystems that do not answer: what was known of them stays.
    fn take(&mut self, measures: Vec<Measure>, hang: &[PathBuf], board: &Board) {
        let mut there: BTreeSet<(&'static str, String)> = measures.iter().map(|m| (m.alarm_id, m.entity.clone())).collect();
        for mount in hang {
            let key = (FILESYSTEM, entity(mount));
            there.insert(key.clone());
            self.told.remove(&key);
            self.known.entry(key.clone()).or_default();
            if !self.unwritten.has(&key.1) {
                board.set(hanging(key.1));
            }
        }
        // What is gone, as a filesystem that is no longer mounted, is not full.
        for key in self.known.keys().filter(|key| !there.contains(key)) {
            board.clear(key.0, &key.1);
        }
        self.known.retain(|key, _| there.contains(key));
        self.told.retain(|key, _| there.contains(key));
        for measure in measures {
            let key = (measure.alarm_id, measure.entity.clone());
            if measure.alarm_id == FILESYSTEM && self.unwritten.has(&measure.entity) {
                // That comes first, and is taken back by whoever has said it; after that, how full it is.
                self.told.remove(&key);
                continue;
            }
            match self.known.entry(key.clone()).or_default().take(level(measure.percent, measure.levels)) {
                None => {
                    self.told.remove(&key);
                    board.clear(measure.alarm_id, &measure.entity);
                }
                // The value in the text follows, but not every tenth of it.
                Some(level) if self.told.get(&key).is_some_and(|(said, at)| *said == level && (at - measure.percent).abs() < 1.0) => {}
                Some(level) => {
                    self.told.insert(key, (level, measure.percent));
                    board.set(condition(&measure, level));
                }
            }
        }
    }
}

fn condition(measure: &Measure, level: Level) -> Condition {
    let threshold = if level == Level::Critical { measure.levels.1 } else { measure.levels.0 };
    Condition {
        alarm_id: measure.alarm_id.into(),
        entity: measure.entity.clone(),
        level,
        reason: format!("{} threshold exceeded ; threshold {threshold:.2}%, actual {:.2}%", measure.what, measure.percent),
        degrades: level == Level::Critical,
        fails: false,
    }
}

fn hanging(entity: String) -> Condition {
    let reason = "File System does not answer".to_string();
    Condition { alarm_id: FILESYSTEM.into(), entity, level: Level::Major, reason, degrades: true, fails: false }
}

/// Samples for ever.
pub async fn watch(settings: Settings, board: Arc<Board>, unwritten: Arc<Unwritten>) {
    let mut judge = Judge { unwritten, ..Judge::default() };
    let mut usages = Usages::default();
    let mut before = cpu_times(&read("/proc/stat"));
    loop {
        tokio::time::sleep(settings.second * SAMPLE).await;
        let now = cpu_times(&read("/proc/stat"));
        let cpu = before.zip(now).and_then(|(before, now)| cpu_percent(before, now));
        before = now;
        let mounts = mounts(&read("/proc/self/mounts"), &settings.home);
        let usage = usages.ask(mounts, settings.second * DEADLINE).await;
        let hang: Vec<PathBuf> = usage.iter().filter(|(_, usage)| *usage == Usage::Hangs).map(|(mount, _)| mount.clone()).collect();
        judge.take(measures(cpu, &usage), &hang, &board);
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn measures(cpu: Option<f64>, filesystems: &[(PathBuf, Usage)]) -> Vec<Measure> {
    let platform = |alarm_id, what, levels| move |percent| Measure { alarm_id, entity: String::new(), what, percent, levels };
    let mut all: Vec<Measure> = Vec::new();
    all.extend(cpu.map(platform(CPU, "Platform CPU", CPU_LEVELS)));
    all.extend(memory_percent(&read("/proc/meminfo")).map(platform(MEMORY, "Memory", OTHER_LEVELS)));
    for (mount, usage) in filesystems {
        if let Usage::Percent(percent) = *usage {
            all.push(Measure { alarm_id: FILESYSTEM, entity: entity(mount), what: "File System", percent, levels: OTHER_LEVELS });
        }
    }
    all
}

/// Time that was idle, and all time, of all processors, without what guests took under KVM.
fn cpu_times(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice, ..] = fields[..] else { return None };
    // The kernel counts guests in with users.
    let busy = (user + nice).saturating_sub(guest + guest_nice) + system + irq + softirq + steal;
    Some((idle + iowait, busy + idle + iowait))
}

fn cpu_percent(before: (u64, u64), now: (u64, u64)) -> Option<f64> {
    let (idle, all) = (now.0.checked_sub(before.0)?, now.1.checked_sub(before.1)?);
    (all > 0).then(|| 100.0 - idle.min(all) as f64 * 100.0 / all as f64)
}

fn memory_percent(meminfo: &str) -> Option<f64> {
    let field = |name: &str| meminfo.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok());
    let (total, available) = (field("MemTotal:")?, field("MemAvailable:")?);
    (total > 0.0).then(|| 100.0 - available.min(total) * 100.0 / total)
}

/// Where disks are mounted that may fill up, each once, and the one that holds our home.
fn mounts(table: &str, home: &Path) -> Vec<PathBuf> {
    let mut devices: BTreeMap<&str, &str> = BTreeMap::new();
    let mut ours: Option<(&str, &str)> = None;
    for line in table.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if options.split(',').any(|option| option == "ro") || matches!(kind, "squashfs" | "iso9660" | "erofs") || at.contains('\\') {
            continue;
        }
        if home.starts_with(at) && ours.is_none_or(|(_, known)| known.len() <= at.len()) {
            ours = Some((device, at));
        }
        if device.starts_with("/dev/") && !device.starts_with("/dev/loop") {
            let known = devices.entry(device).or_insert(at);
            // By its shortest name, where it is mounted more than once.
            if at.len() < known.len() {
                *known = at;
            }
        }
    }
    let mut all: BTreeSet<&str> = devices.values().copied().collect();
    all.extend(ours.filter(|(device, _)| !devices.contains_key(device)).map(|(_, at)| at));
    all.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(percent: f64) -> Vec<Measure> {
        vec![Measure { alarm_id: CPU, entity: String::new(), what: "Platform CPU", percent, levels: CPU_LEVELS }]
    }

    #[test]
    fn a_level_is_said_after_its_time_and_taken_back_after_less() {
        let (mut judge, board) = (Judge::default(), Board::default());
        for _ in 0..RAISE - 1 {
            judge.take(cpu(96.0), &[], &board);
        }
        // A moment of rest: it begins anew.
        judge.take(cpu(50.0), &[], &board);
        for _ in 0..RAISE - 1 {
            judge.take(cpu(96.0), &[], &board);
            assert_eq!(board.conditions(), []);
        }
        judge.take(cpu(96.4), &[], &board);
        let said = board.conditions();
        assert_eq!(
            (said[0].level, said[0].reason.as_str()),
            (Level::Critical, "Platform CPU threshold exceeded ; threshold 95.00%, actual 96.40%")
        );
        assert!(said[0].degrades);
        // The text follows the value, not its noise.
        judge.take(cpu(96.9), &[], &board);
        assert_eq!(board.conditions(), said);
        judge.take(cpu(99.0), &[], &board);
        assert!(board.conditions()[0].reason.ends_with("99.00%"));
        for _ in 0..SETTLE {
            assert_eq!(board.conditions()[0].level, Level::Critical);
            judge.take(cpu(92.0), &[], &board);
        }
        assert_eq!(board.conditions()[0].level, Level::Major);
        for _ in 0..SETTLE {
            assert_eq!(board.conditions().len(), 1);
            judge.take(cpu(10.0), &[], &board);
        }
        assert_eq!(board.conditions(), []);
    }

    #[test]
    fn what_swings_between_two_levels_is_said_too() {
        let mut debounce = Debounce::default();
        let swings = [Level::Major, Level::Critical].into_iter().cycle().take(RAISE as usize);
        assert!(swings.map(|level| debounce.take(Some(level))).last().unwrap().is_some());
    }

    #[test]
    fn a_filesystem_that_is_gone_is_not_full() {
        let full = |at: &str| Measure {
            alarm_id: FILESYSTEM,
            entity: format!("filesystem={at}"),
            what: "File System",
            percent: 95.0,
            levels: OTHER_LEVELS,
        };
        let (mut judge, board) = (Judge::default(), Board::default());
        for _ in 0..RAISE {
            judge.take(vec![full("/a"), full("/b")], &[], &board);
        }
        assert_eq!(board.conditions().len(), 2);
        judge.take(vec![full("/b")], &[], &board);
        assert_eq!(board.conditions().iter().map(|c| c.entity.as_str()).collect::<Vec<_>>(), ["filesystem=/b"]);
        // One that hangs is told of at once, and afterwards what it was before.
        judge.take(vec![], &["/b".into()], &board);
        assert_eq!(board.conditions().iter().map(|c| (c.level, c.reason.contains("answer"))).collect::<Vec<_>>(), [(Level::Major, true)]);
        judge.take(vec![full("/b")], &[], &board);
        assert_eq!(
            board.conditions().iter().map(|c| (c.level, c.reason.contains("answer"))).collect::<Vec<_>>(),
            [(Level::Critical, false)]
        );
    }

    #[test]
    fn what_the_kernel_says_is_understood() {
        let before = cpu_times("cpu  100 0 100 800 0 0 0 0 50 0\ncpu0 1 1 1 1\n").unwrap();
        // 100 more of which 40 were a guest's, 40 idle.
        let now = cpu_times("cpu  150 0 110 840 0 0 0 0 90 0\n").unwrap();
        assert_eq!(cpu_percent(before, now), Some(100.0 - 40.0 * 100.0 / 60.0));
        assert_eq!(cpu_percent(now, before), None);
        assert_eq!(memory_percent("MemTotal: 1000 kB\nMemAvailable: 250 kB\n"), Some(75.0));
        assert_eq!((cpu_times("nonsense"), memory_percent("")), (None, None));
        let table = "/dev/vda / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/vda /mnt/again ext4 rw 0 0\n/dev/loop0 /snap squashfs ro 0 0\n/dev/sr0 /cd iso9660 ro 0 0\n\
                     tmpfs /tmp/home tmpfs rw 0 0\n/dev/vdb /var xfs rw 0 0\n";
        let all = |home: &str| mounts(table, Path::new(home)).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(all("/var/lib/sturnus"), ["/", "/var"]);
        assert_eq!(all("/tmp/home/x"), ["/", "/tmp/home", "/var"]);
        let usage = [(PathBuf::from("/a"), Usage::Percent(12.5)), (PathBuf::from("/b"), Usage::Hangs)];
        let said = measures(Some(1.0), &usage);
        assert_eq!(said.iter().filter(|m| m.alarm_id == FILESYSTEM).map(|m| m.percent).collect::<Vec<_>>(), [12.5]);
        assert!(said.iter().any(|m| m.alarm_id == CPU));
    }
}
