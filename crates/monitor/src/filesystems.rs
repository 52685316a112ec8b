//! Whether what is written to the machine's filesystems is there. Each is looked at by a thread of its own, which one that hangs may keep.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use rpc::monitor::{Condition, Level};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::{Board, Settings};

pub const FILESYSTEM: &str = "100.104";
/// Seconds between probes, and how long one may take.
const PROBE: u32 = 15;
const DEADLINE: u32 = 10;
/// Probes in a row that must have failed until that is said.
const UNWRITTEN: u32 = 2;

/// Filesystems of which it is said that they cannot be written: how full they are is of no interest then.
#[derive(Default)]
pub struct Unwritten(Mutex<BTreeSet<String>>);

impl Unwritten {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has(&self, entity: &str) -> bool {
        self.lock().contains(entity)
    }
}

pub fn entity(path: &Path) -> String {
    format!("filesystem={}", path.display())
}

/// A directory that is written to and read.
#[derive(Clone)]
struct Place {
    directory: PathBuf,
    file: PathBuf,
    /// It holds what this host is told: one that cannot keep that takes nothing new until it works again.
    ours: bool,
}

/// Probes for ever.
pub async fn watch(settings: Settings, board: Arc<Board>, unwritten: Arc<Unwritten>) {
    let place = |directory: PathBuf, ours| {
        let file = directory.join(file_name(&settings.home));
        Place { directory, file, ours }
    };
    let mut all = JoinSet::new();
    let ours = settings.home.join("host");
    let mut seen = BTreeSet::new();
    for directory in &settings.filesystems {
        // By its real name: `/var/run` is `/run`.
        let Ok(real) = directory.canonicalize() else { continue };
        if real.is_dir() && seen.insert(real.clone()) {
            all.spawn(follow(place(real, false), settings.second, board.clone(), unwritten.clone()));
        }
    }
    all.spawn(follow(place(ours, true), settings.second, board, unwritten));
    while all.join_next().await.is_some() {}
}

/// The same in each run, so that a crash leaves one file at most; another one for each host of this machine.
fn file_name(home: &Path) -> String {
    let hash = home
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    format!(".fs_test-{hash:016x}")
}

async fn follow(place: Place, second: Duration, board: Arc<Board>, unwritten: Arc<Unwritten>) {
    let entity = entity(&place.directory);
    let (ask, orders) = std::sync::mpsc::channel::<()>();
    let (answer, mut answers) = mpsc::channel(1);
    let file = place.file.clone();
    let thread = std::thread::Builder::new()
        .name("fs-probe".into())
        .spawn(move || while orders.recv().is_ok() && answer.blocking_send(probed(&file)).is_ok() {});
    if let Err(error) = thread {
        return tracing::error!("{} is not watched: {error}", place.directory.display());
    }
    let (mut failures, mut asked, mut first) = (0, false, true);
    loop {
        if !asked && ask.send(()).is_err() {
            return;
        }
        let outcome = match tokio::time::timeout(second * DEADLINE, answers.recv()).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return,
            Err(_) => Err(std::io::Error::new(ErrorKind::TimedOut, "it hangs")),
        };
        asked = matches!(&outcome, Err(e) if e.kind() == ErrorKind::TimedOut && e.raw_os_error().is_none());
        match outcome {
            Ok(()) => {
                (failures, first) = (0, false);
                if unwritten.lock().remove(&entity) {
                    board.clear(FILESYSTEM, &entity);
                }
            }
            // A machine may be made so that nothing is written there, or not by us.
            Err(e) if first && !place.ours && matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                return tracing::info!("{} is not for this host to write, and not watched: {e}", place.directory.display());
            }
            Err(error) => {
                first = first && asked;
                failures += 1;
                tracing::error!("{} cannot be written and read: {error}", place.directory.display());
                if failures >= UNWRITTEN {
                    unwritten.lock().insert(entity.clone());
                    board.set(condition(&place, entity.clone(), &error));
                }
            }
        }
        tokio::time::sleep(second * PROBE).await;
    }
}

fn condition(place: &Place, entity: String, error: &std::io::Error) -> Condition {
    let (level, reason) = match place.ours {
        true => (Level::Critical, format!("what this host is told cannot be stored: {error}")),
        false => (Level::Major, format!("File System cannot be written and read: {error}")),
    };
    Condition { alarm_id: FILESYSTEM.into(), entity, level, reason, degrades: true, fails: place.ours }
}

fn probed(path: &Path) -> std::io::Result<()> {
    let wanted = format!("{:?}", std::time::SystemTime::now());
    let mut file = std::fs::File::create(path)?;
    file.write_all(wanted.as_bytes())?;
    file.sync_data()?;
    let mut found = String::new();
    std::fs::File::open(path)?.read_to_string(&mut found)?;
    std::fs::remove_file(path)?;
    if found == wanted { Ok(()) } else { Err(std::io::Error::other("what was read is not what was written")) }
}

/// What is known of how full a filesystem is.
#[derive(Debug, PartialEq)]
pub enum Usage {
    Percent(f64),
    /// It has not answered, or not yet to an earlier question.
    Hangs,
}

/// Asks filesystems how full they are.
pub struct Usages {
    look: fn(&Path) -> Option<f64>,
    asked: BTreeMap<PathBuf, oneshot::Receiver<Option<f64>>>,
}

impl Default for Usages {
    fn default() -> Usages {
        Usages { look: percent, asked: BTreeMap::new() }
    }
}

impl Usages {
    /// All of them, within the deadline. Those that cannot be asked are not in the answer.
    pub async fn ask(&mut self, mounts: Vec<PathBuf>, deadline: Duration) -> Vec<(PathBuf, Usage)> {
        self.asked.retain(|mount, _| mounts.contains(mount));
        for mount in &mounts {
            if !self.asked.contains_key(mount) {
                let (answer, answered) = oneshot::channel();
                let (look, at) = (self.look, mount.clone());
                // Nobody waits for it any more when this host ends.
                let thread = std::thread::Builder::new().name("fs-usage".into()).spawn(move || answer.send(look(&at)));
                if thread.is_ok() {
                    self.asked.insert(mount.clone(), answered);
                }
            }
        }
        let until = tokio::time::Instant::now() + deadline;
        let mut all = Vec::new();
        for mount in mounts {
            let Some(answered) = self.asked.get_mut(&mount) else { continue };
            match tokio::time::timeout_at(until, answered).await {
                Err(_) => all.push((mount, Usage::Hangs)),
                Ok(answer) => {
                    self.asked.remove(&mount);
                    all.extend(answer.ok().flatten().map(|percent| (mount, Usage::Percent(percent))));
                }
            }
        }
        all
    }
}

fn percent(mount: &Path) -> Option<f64> {
    let stat = statvfs(mount).ok()?;
    let used = stat.blocks().saturating_sub(stat.blocks_free()) as f64;
    // As df counts: what only root may use is neither.
    let room = used + stat.blocks_available() as f64;
    (room > 0.0).then(|| used * 100.0 / room)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_millis(20);

    struct Watched {
        home: tempfile::TempDir,
        log: tempfile::TempDir,
        board: Arc<Board>,
        _task: JoinSet<()>,
    }

    impl Watched {
        fn new() -> Watched {
            let (home, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            std::fs::create_dir(home.path().join("host")).unwrap();
            std::os::unix::fs::symlink(log.path(), home.path().join("again")).unwrap();
            let filesystems = vec![log.path().into(), home.path().join("again"), "/nowhere".into()];
            let settings = Settings { second: SECOND, filesystems, ..Settings::of(&base::Config::for_home(home.path())) };
            let board = Arc::new(Board::default());
            let mut task = JoinSet::new();
            task.spawn(watch(settings, board.clone(), Arc::default()));
            Watched { home, log, board, _task: task }
        }

        fn file(&self, directory: &Path) -> PathBuf {
            directory.join(file_name(self.home.path()))
        }

        /// Waits until exactly this is not well.
        async fn says(&self, wanted: &[(&Path, Level, bool)]) -> Vec<Condition> {
            let began = std::time::Instant::now();
            let wanted: BTreeSet<_> = wanted.iter().map(|(path, level, fails)| (entity(path), *level, *fails)).collect();
            loop {
                let said = self.board.conditions();
                if said.iter().map(|c| (c.entity.clone(), c.level, c.fails)).collect::<BTreeSet<_>>() == wanted {
                    return said;
                }
                assert!(began.elapsed() < Duration::from_secs(30), "{said:?}");
                tokio::time::sleep(SECOND).await;
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_told_and_taken_back() {
        let watched = Watched::new();
        let (ours, log) = (watched.home.path().join("host"), watched.log.path().to_path_buf());
        let gone = watched.home.path().join("gone");
        watched.says(&[]).await;
        // Both have been well once: from now on whatever goes wrong is a fault.
        tokio::time::sleep(SECOND * PROBE * 2).await;
        std::fs::rename(&ours, &gone).unwrap();
        let said = watched.says(&[(&ours, Level::Critical, true)]).await;
        assert!(said[0].reason.starts_with("what this host is told cannot be stored: "), "{}", said[0].reason);
        std::fs::rename(&gone, &ours).unwrap();
        watched.says(&[]).await;
        std::fs::create_dir(watched.file(&log)).unwrap();
        let said = watched.says(&[(&log, Level::Major, false)]).await;
        assert!(said[0].reason.starts_with("File System cannot be written and read: "), "{}", said[0].reason);
        std::fs::remove_dir(watched.file(&log)).unwrap();
        watched.says(&[]).await;
        assert!(!watched.file(&ours).exists() || !watched.file(&log).exists(), "each removes what it has written");
    }

    /// A pipe that nobody reads keeps whoever opens it, as a filesystem that hangs.
    #[tokio::test]
    async fn one_that_hangs_is_told_and_keeps_no_other_from_being_looked_at() {
        let watched = Watched::new();
        let (ours, log) = (watched.home.path().join("host"), watched.log.path().to_path_buf());
        tokio::time::sleep(SECOND * PROBE * 2).await;
        let pipe = watched.file(&log);
        loop {
            // The file of a probe that is under way may be there.
            match nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU) {
                Ok(()) => break,
                Err(e) => assert_eq!(e, nix::errno::Errno::EEXIST),
            }
        }
        let said = watched.says(&[(&log, Level::Major, false)]).await;
        assert!(said[0].reason.ends_with("it hangs"), "{}", said[0].reason);
        std::fs::rename(&ours, watched.home.path().join("gone")).unwrap();
        watched.says(&[(&log, Level::Major, false), (&ours, Level::Critical, true)]).await;
        std::fs::rename(watched.home.path().join("gone"), &ours).unwrap();
        watched.says(&[(&log, Level::Major, false)]).await;
        // It goes on: what waited is done, and the next probe finds all well.
        let reader = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
        std::fs::remove_file(&pipe).unwrap();
        watched.says(&[]).await;
        drop(reader);
    }

    #[tokio::test]
    async fn a_filesystem_that_hangs_does_not_keep_others_from_being_asked() {
        fn look(mount: &Path) -> Option<f64> {
            if mount.ends_with("hangs") {
                // Until the test lets it go.
                while !mount.exists() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            (!mount.ends_with("gone")).then_some(50.0)
        }
        let home = tempfile::tempdir().unwrap();
        let mounts = ["hangs", "well", "gone"].map(|name| home.path().join(name)).to_vec();
        let mut usages = Usages { look, asked: BTreeMap::new() };
        let hangs = vec![(mounts[0].clone(), Usage::Hangs), (mounts[1].clone(), Usage::Percent(50.0))];
        for _ in 0..3 {
            assert_eq!(usages.ask(mounts.clone(), Duration::from_millis(100)).await, hangs);
        }
        std::fs::write(&mounts[0], "").unwrap();
        let answers = usages.ask(mounts.clone(), Duration::from_secs(20)).await;
        assert_eq!(answers, [(mounts[0].clone(), Usage::Percent(50.0)), (mounts[1].clone(), Usage::Percent(50.0))]);
        assert!(Usages::default().ask(vec!["/".into()], Duration::from_secs(20)).await.len() == 1);
    }
}
