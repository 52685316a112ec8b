//! Processor, memory and filesystems, with levels; and whether what we write to the disk is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statvfs::statvfs;
use rpc::monitor::{Condition, Level};

use crate::{Board, Settings};

const CPU: &str = "100.101";
const MEMORY: &str = "100.103";
const FILESYSTEM: &str = "100.104";
/// Seconds between samples, and between probes of the disk.
const SAMPLE: u32 = 30;
const PROBE: u32 = 15;
/// Probes in a row that must have failed until that is said.
const UNWRITTEN: u32 = 2;
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
}

impl Judge {
    fn take(&mut self, measures: Vec<Measure>, board: &Board) {
        let there: BTreeSet<(&'static str, String)> = measures.iter().map(|m| (m.alarm_id, m.entity.clone())).collect();
        // What is gone, as a filesystem that is no longer mounted, is not full.
        for key in self.known.keys().filter(|key| !there.contains(key)) {
            board.clear(key.0, &key.1);
        }
        self.known.retain(|key, _| there.contains(key));
        self.told.retain(|key, _| there.contains(key));
        for measure in measures {
            let key = (measure.alarm_id, measure.entity.clone());
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

/// Samples for ever.
pub async fn watch(settings: Settings, board: Arc<Board>) {
    let mut judge = Judge::default();
    let mut before = cpu_times(&read("/proc/stat"));
    loop {
        tokio::time::sleep(settings.second * SAMPLE).await;
        let now = cpu_times(&read("/proc/stat"));
        let cpu = before.zip(now).and_then(|(before, now)| cpu_percent(before, now));
        before = now;
        let home = settings.home.clone();
        // A filesystem that hangs must not take the others' time: it takes a thread, and is looked at no more meanwhile.
        let measures = tokio::task::spawn_blocking(move || measures(cpu, &home)).await;
        judge.take(measures.unwrap_or_default(), &board);
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn measures(cpu: Option<f64>, home: &Path) -> Vec<Measure> {
    let platform = |alarm_id, what, levels| move |percent| Measure { alarm_id, entity: String::new(), what, percent, levels };
    let mut all: Vec<Measure> = Vec::new();
    all.extend(cpu.map(platform(CPU, "Platform CPU", CPU_LEVELS)));
    all.extend(memory_percent(&read("/proc/meminfo")).map(platform(MEMORY, "Memory", OTHER_LEVELS)));
    for mount in mounts(&read("/proc/self/mounts"), home) {
        let Ok(stat) = statvfs(&mount) else { continue };
        let used = stat.blocks().saturating_sub(stat.blocks_free()) as f64;
        // As df counts: what only root may use is neither.
        let room = used + stat.blocks_available() as f64;
        if room > 0.0 {
            all.push(Measure {
                alarm_id: FILESYSTEM,
                entity: format!("filesystem={}", mount.display()),
                what: "File System",
                percent: used * 100.0 / room,
                levels: OTHER_LEVELS,
            });
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

/// Writes, reads and removes a file again and again. When that fails twice in a row the host can keep nothing that it is told: it takes
/// nothing new until it works again.
pub async fn probe(settings: Settings, board: Arc<Board>) {
    let entity = format!("filesystem={}", settings.home.join("host").display());
    let mut failures = 0;
    loop {
        let home = settings.home.clone();
        let outcome = tokio::task::spawn_blocking(move || probed(&home)).await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        match outcome {
            Ok(()) => {
                failures = 0;
                board.clear(FILESYSTEM, &entity);
            }
            Err(error) => {
                failures += 1;
                tracing::error!("{} cannot be written and read: {error}", settings.home.display());
                if failures == UNWRITTEN {
                    let reason = format!("what this host is told cannot be stored: {error}");
                    let (alarm_id, entity) = (FILESYSTEM.into(), entity.clone());
                    board.set(Condition { alarm_id, entity, level: Level::Critical, reason, degrades: true, fails: true });
                }
            }
        }
        tokio::time::sleep(settings.second * PROBE).await;
    }
}

fn probed(directory: &Path) -> std::io::Result<()> {
    let path = directory.join(".fs_test");
    let wanted = format!("{:?}", std::time::SystemTime::now());
    let mut file = std::fs::File::create(&path)?;
    file.write_all(wanted.as_bytes())?;
    file.sync_data()?;
    let mut found = String::new();
    std::fs::File::open(&path)?.read_to_string(&mut found)?;
    std::fs::remove_file(&path)?;
    if found == wanted { Ok(()) } else { Err(std::io::Error::other("what was read is not what was written")) }
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
            judge.take(cpu(96.0), &board);
        }
        // A moment of rest: it begins anew.
        judge.take(cpu(50.0), &board);
        for _ in 0..RAISE - 1 {
            judge.take(cpu(96.0), &board);
            assert_eq!(board.conditions(), []);
        }
        judge.take(cpu(96.4), &board);
        let said = board.conditions();
        assert_eq!(
            (said[0].level, said[0].reason.as_str()),
            (Level::Critical, "Platform CPU threshold exceeded ; threshold 95.00%, actual 96.40%")
        );
        assert!(said[0].degrades);
        // The text follows the value, not its noise.
        judge.take(cpu(96.9), &board);
        assert_eq!(board.conditions(), said);
        judge.take(cpu(99.0), &board);
        assert!(board.conditions()[0].reason.ends_with("99.00%"));
        for _ in 0..SETTLE {
            assert_eq!(board.conditions()[0].level, Level::Critical);
            judge.take(cpu(92.0), &board);
        }
        assert_eq!(board.conditions()[0].level, Level::Major);
        for _ in 0..SETTLE {
            assert_eq!(board.conditions().len(), 1);
            judge.take(cpu(10.0), &board);
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
            judge.take(vec![full("/a"), full("/b")], &board);
        }
        assert_eq!(board.conditions().len(), 2);
        judge.take(vec![full("/b")], &board);
        assert_eq!(board.conditions().iter().map(|c| c.entity.as_str()).collect::<Vec<_>>(), ["filesystem=/b"]);
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
        assert!(!measures(Some(1.0), Path::new("/tmp")).is_empty());
    }

    #[test]
    fn a_disk_that_can_be_written_and_read_is_well() {
        let home = tempfile::tempdir().unwrap();
        probed(home.path()).unwrap();
        assert!(std::fs::read_dir(home.path()).unwrap().next().is_none());
        assert!(probed(&home.path().join("nowhere")).is_err());
    }
}
