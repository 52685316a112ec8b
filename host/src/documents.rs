//! The host's memory on its own disk: wanted documents, and for each guest a journal of what has been done.
//!
//! A file is replaced whole (written aside, synced, renamed, directory synced), so that at any instant the
//! old or the new one is there. One note is written in place: [`Documents::left_mark`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base::error::Internal;
use base::{Error, Result, Timestamp};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rpc::instance::{Disk, DiskSource, Doors, InstanceSpec, SnapshotStatus};
use rpc::network::NetworkDocument;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cpus::Pins;
use crate::hypervisor::Process;

/// What the host has done for a guest; with the wanted document all that is needed to go on after any crash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Journal {
    /// Generation of the document applied last.
    pub generation: u64,
    /// See [`InstanceSpec::boot`]; every start of a process catches up with it.
    pub boot: u64,
    /// The process, as long as nobody has seen it gone.
    pub process: Option<Process>,
    /// Its end is under way by our own will, and this follows. Without it, a missing process has died.
    pub ending: Option<Ending>,
    /// Why there is no process although the document wants one.
    pub hold: Option<Hold>,
    /// When we pressed the power button of the present process.
    pub pressed: Option<Timestamp>,
    /// Deaths that were recovered from, within the window.
    pub deaths: Vec<Timestamp>,
    /// Died, and not yet running again.
    pub recovering: bool,
    /// The guest's memory lies whole on the disk: its next process goes on from there.
    pub memory: bool,
    /// Where the devices of the present process sit; one that goes on from memory must find them there again.
    pub slots: Slots,
    /// Ports whose card the process has. None: those of the document.
    pub cards: Option<Vec<String>>,
    /// What [`layout`] said of the disks that were last made ready.
    pub layout: String,
    /// Copies that were made or given up.
    pub snapshots: Vec<SnapshotStatus>,
    /// Volumes that the process may have open.
    pub volumes: BTreeSet<String>,
    /// The processors that it has for itself, by vCPU; also while it is off.
    pub pins: Pins,
    /// How far this host is with a migration of the guest.
    pub moved: Option<Moved>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The migration.
    pub id: String,
    pub progress: Progress,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Its process waits for the guest behind these doors.
    Awaited(Doors),
    /// It is being sent; its memory, too.
    Going {
        memory: bool,
    },
    /// It may run on the other host from now on, and thus not here.
    Left,
    Arrived,
    Failed(String),
}

/// The slots for devices that can be plugged in and out, by the device's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slots {
    pub count: u32,
    pub taken: BTreeMap<String, u32>,
    /// Whether it has a port for its heartbeat.
    pub heartbeat: bool,
    /// Whether it has one for messages of its group.
    pub messaging: bool,
}

impl Slots {
    /// Takes the device's slot, the first free one for a new device. None when all are taken.
    pub fn take(&mut self, device: &str) -> Option<u32> {
        if let Some(slot) = self.taken.get(device) {
            return Some(*slot);
        }
        let free = (0..self.count).find(|slot| !self.taken.values().any(|taken| taken == slot))?;
        self.taken.insert(device.to_string(), free);
        Some(free)
    }
}

/// Describes the disks a document wants, and those it keeps: another text, other disks.
pub fn layout(spec: &InstanceSpec) -> String {
    let one = |d: &Disk| format!("{}:{}:{:?}", d.file(), d.bytes, d.source);
    // Volumes are made from documents of their own.
    let own = spec.disks.iter().filter(|d| !matches!(d.source, DiskSource::Volume { .. }));
    let kept: Vec<String> = spec.kept.iter().map(Disk::file).collect();
    format!("{}|{}", own.map(one).collect::<Vec<_>>().join(","), kept.join(","))
}

/// Whether two layouts differ in nothing but what is kept.
pub fn kept_differs(one: &str, other: &str) -> bool {
    one != other && one.rsplit_once('|').map(|l| l.0) == other.rsplit_once('|').map(|l| l.0)
}

/// What follows the end of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Whatever the document says then.
    AsWanted,
    /// The guest switched itself off.
    ShutDown,
    /// It did not deserve to live (panic): as if it had died.
    Dead { reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// The guest switched itself off. Ends with the next wanted boot or a wanted stop.
    ShutDown,
    /// Recovery gave up, or was not wanted. Ends alike.
    GaveUp { reason: String },
    /// The document of this generation could not be made so. A newer one is tried again.
    StartFailed { reason: String, generation: u64 },
}

/// `host.json`.
#[derive(Serialize, Deserialize)]
struct Host {
    id: String,
}

/// The id that the host of this home has; none before its first start.
pub fn id(home: &Path) -> Result<Option<String>> {
    Ok(read::<Host>(&home.join("host/host.json"))?.map(|host| host.id))
}

/// Gives the host of this home the id that its cloud has chosen. Its agent must not run.
pub fn id_set(home: &Path, id: &str) -> Result<()> {
    let documents = Documents::open(home, true)?;
    documents.write(&documents.root.join("host.json"), &Host { id: id.to_string() })
}

/// The same when it has none any more.
pub fn id_restore(home: &Path, id: &str) -> Result<()> {
    match self::id(home)? {
        Some(_) => Ok(()),
        None => id_set(home, id),
    }
}

/// The directory of a host, `$HOME/host`.
#[derive(Clone, Debug)]
pub struct Documents {
    root: PathBuf,
    sync: bool,
}

impl Documents {
    /// `sync` is false for simulated hosts only: thousands of them share one disk.
    pub fn open(home: &Path, sync: bool) -> Result<Documents> {
        let root = home.join("host");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root.join("instances"))
            .internal("cannot make the host's directory")?;
        Ok(Documents { root, sync })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes what writes left that a kill broke off. Only for the agent that holds the lock: others may be writing.
    pub fn tidy(&self) -> Result<()> {
        for directory in [self.root.clone(), self.root.join("instances")] {
            for entry in std::fs::read_dir(&directory).internal("cannot list the host's documents")? {
                let path = entry.internal("cannot list the host's documents")?.path();
                if path.extension().is_some_and(|e| e == PART) {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Stable id of this host, made at first start.
    pub fn host_id(&self) -> Result<String> {
        let path = self.root.join("host.json");
        if let Some(host) = read::<Host>(&path)? {
            return Ok(host.id);
        }
        let host = Host { id: base::id::uuid() };
        self.write(&path, &host)?;
        Ok(host.id)
    }

    /// The wanted network; what the switch has made of it is its own record, `network.json`.
    pub fn network(&self) -> Result<Option<NetworkDocument>> {
        read(&self.root.join("network-wanted.json"))
    }
    pub fn network_store(&self, document: &NetworkDocument) -> Result<()> {
        self.write(&self.root.join("network-wanted.json"), document)
    }

    /// All guests with their journals. A file that cannot be read is kept aside: the controller sends the
    /// document again, and a process that runs is found by its socket.
    pub fn instances(&self) -> Result<Vec<(InstanceSpec, Journal)>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.root.join("instances")).internal("cannot list the host's documents")? {
            let path = entry.internal("cannot list the host's documents")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(id) = name.strip_suffix(".json").filter(|id| base::id::is_uuid(id)) else { continue };
            let spec: InstanceSpec = match read(&path) {
                Ok(Some(spec)) => spec,
                Ok(None) => continue,
                Err(e) => {
                    tracing::error!(instance = id, "a stored document is damaged: {}", e.chain());
                    continue;
                }
            };
            let journal = match self.journal(id) {
                Ok(journal) => journal.unwrap_or_default(),
                Err(e) => {
                    tracing::error!(instance = id, "a journal is damaged: {}", e.chain());
                    Journal::default()
                }
            };
            all.push((spec, journal));
        }
        Ok(all)
    }

    pub fn instance_store(&self, spec: &InstanceSpec) -> Result<()> {
        self.write(&self.root.join("instances").join(format!("{}.json", spec.id)), spec)
    }
    /// A guest's journal; none when there is no such guest.
    pub fn journal(&self, id: &str) -> Result<Option<Journal>> {
        let mut journal: Option<Journal> = read(&self.journal_path(id))?;
        if let Some(moved) = journal.as_mut().and_then(|journal| journal.moved.as_mut())
            && moved.progress == (Progress::Going { memory: true })
            && self.is_left(id, &moved.id)?
        {
            moved.progress = Progress::Left;
        }
        Ok(journal)
    }
    pub fn journal_store(&self, id: &str, journal: &Journal) -> Result<()> {
        self.write(&self.journal_path(id), journal)
    }

    /// Forgets a guest: the journal first, so that what remains after a crash is a document and thus found.
    pub fn instance_remove(&self, id: &str) -> Result<()> {
        remove(&self.journal_path(id))?;
        self.left_remove(id)?;
        remove(&self.root.join("instances").join(format!("{id}.json")))?;
        self.sync_directory(&self.root.join("instances"))
    }

    /// Makes the place for [`Documents::left_mark`].
    pub fn left_prepare(&self, id: &str) -> Result<()> {
        replace(&self.left_path(id), &[b'-'; MARK], self.sync)
    }

    /// Notes that a guest whose memory goes may run on the other host: [`Progress::Left`] in short, for the time in which it stands
    /// still. Its place is there already, so this costs the disk one block, and does not wait for what others have written, as a
    /// journal does that is replaced.
    pub fn left_mark(&self, id: &str, migration: &str) -> Result<()> {
        let path = self.left_path(id);
        let work = || -> std::io::Result<()> {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&mark(migration), 0)?;
            if self.sync { file.sync_data() } else { Ok(()) }
        };
        work().map_err(|e| Error::internal(format!("cannot write {}", path.display())).caused_by(e))
    }

    pub fn left_remove(&self, id: &str) -> Result<()> {
        remove(&self.left_path(id))
    }

    fn is_left(&self, id: &str, migration: &str) -> Result<bool> {
        let path = self.left_path(id);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(bytes == mark(migration)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::internal(format!("cannot read {}", path.display())).caused_by(e)),
        }
    }

    fn left_path(&self, id: &str) -> PathBuf {
        self.root.join("instances").join(format!("{id}.left.mark"))
    }

    fn journal_path(&self, id: &str) -> PathBuf {
        self.root.join("instances").join(format!("{id}.state.json"))
    }

    fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).internal("cannot write a document")?;
        replace(path, &bytes, self.sync)
    }

    fn sync_directory(&self, path: &Path) -> Result<()> {
        if self.sync { File::open(path).and_then(|d| d.sync_all()).internal("cannot sync a directory") } else { Ok(()) }
    }
}

/// The bytes of a mark that a guest has left, an id of a migration with blanks behind it.
const MARK: usize = 64;

fn mark(migration: &str) -> [u8; MARK] {
    let mut bytes = [b' '; MARK];
    for (to, from) in bytes.iter_mut().zip(migration.bytes()) {
        *to = from;
    }
    bytes
}

/// The extension of a file that is being written.
const PART: &str = "new";

/// Replaces a file whole.
pub fn replace(path: &Path, bytes: &[u8], sync: bool) -> Result<()> {
    let part = path.with_extension(PART);
    let work = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(sync).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        if !sync {
            file.set_len(bytes.len() as u64)?;
            return swap(&part, path);
        }
        file.sync_data()?;
        std::fs::rename(&part, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    work().map_err(|e| Error::internal(format!("cannot write {}", path.display())).caused_by(e))
}

/// As a rename, for what need not outlive the machine, and costs little: the old file stays beside the new one, to be written to the next
/// time. ext4 writes a file to the disk at once that is renamed over another one, and looks long for a new file's place where many were
/// removed a moment ago.
fn swap(part: &Path, path: &Path) -> std::io::Result<()> {
    match renameat2(AT_FDCWD, part, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => Ok(()),
        // There is no other one yet, or this file system cannot do it.
        Err(_) => std::fs::rename(part, path),
    }
}

/// None when there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).internal("a stored document is no valid JSON"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::internal(format!("cannot read {}", path.display())).caused_by(e)),
    }
}

/// Removes a file, and what stays beside it.
pub(crate) fn remove(path: &Path) -> Result<()> {
    for path in [path, &path.with_extension(PART)] {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::internal(format!("cannot remove {}", path.display())).caused_by(e));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_back_and_damaged_ones_do_no_harm() {
        let home = tempfile::tempdir().unwrap();
        let documents = Documents::open(home.path(), true).unwrap();
        let id = documents.host_id().unwrap();
        assert_eq!(documents.host_id().unwrap(), id);
        let (a, b) = (crate::testing::spec(), crate::testing::spec());
        documents.instance_store(&a).unwrap();
        documents.instance_store(&b).unwrap();
        let journal = Journal { boot: 3, hold: Some(Hold::ShutDown), ..Default::default() };
        documents.journal_store(&a.id, &journal).unwrap();
        std::fs::write(documents.root().join("instances").join(format!("{}.json", b.id)), "{\"id\":").unwrap();
        assert_eq!(documents.instances().unwrap(), vec![(a.clone(), journal)]);
        documents.instance_remove(&a.id).unwrap();
        assert_eq!(documents.instances().unwrap(), vec![]);
    }

    #[test]
    fn the_mark_of_a_migration_makes_its_guest_one_that_has_left() {
        for sync in [true, false] {
            let home = tempfile::tempdir().unwrap();
            let documents = Documents::open(home.path(), sync).unwrap();
            let spec = crate::testing::spec();
            let (id, migration, other) = (&spec.id, base::id::uuid(), base::id::uuid());
            let going = |id: &str, memory| Some(Moved { id: id.to_string(), progress: Progress::Going { memory } });
            let read = |moved: Option<Moved>| {
                documents.journal_store(id, &Journal { moved, ..Default::default() }).unwrap();
                documents.journal(id).unwrap().unwrap().moved.unwrap().progress
            };
            documents.instance_store(&spec).unwrap();
            assert!(documents.left_mark(id, &migration).is_err(), "it has no place yet");
            documents.left_prepare(id).unwrap();
            assert_eq!(read(going(&migration, true)), Progress::Going { memory: true });
            documents.left_mark(id, &migration).unwrap();
            assert_eq!(read(going(&migration, true)), Progress::Left);
            assert_eq!(documents.instances().unwrap()[0].1.moved.as_ref().unwrap().progress, Progress::Left);
            // It says nothing of another migration, nor of one that has not come so far.
            assert_eq!(read(going(&other, true)), Progress::Going { memory: true });
            assert_eq!(read(going(&migration, false)), Progress::Going { memory: false });
            documents.left_prepare(id).unwrap();
            assert_eq!(read(going(&migration, true)), Progress::Going { memory: true });
            documents.instance_remove(id).unwrap();
            assert_eq!(std::fs::read_dir(documents.root().join("instances")).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_write_that_broke_off_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let documents = Documents::open(home.path(), true).unwrap();
        let (id, spec) = (documents.host_id().unwrap(), crate::testing::spec());
        documents.instance_store(&spec).unwrap();
        let parts = ["host.new", "instances/x.state.new"].map(|name| documents.root().join(name));
        parts.iter().for_each(|part| std::fs::write(part, "{\"gen").unwrap());
        documents.tidy().unwrap();
        assert!(parts.iter().all(|part| !part.exists()));
        assert_eq!((documents.host_id().unwrap(), documents.instances().unwrap().len()), (id, 1));
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_when_it_goes() {
        for sync in [true, false] {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("a.json");
            for text in ["[1, 2, 3]", "[]", "[1, 2, 3, 4]", "[5]"] {
                replace(&path, text.as_bytes(), sync).unwrap();
                assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            }
            remove(&path).unwrap();
            assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
        }
    }
}
