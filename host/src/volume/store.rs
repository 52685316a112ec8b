//! Storage that several hosts see: a directory which the operator mounts on each of them. A file in it with a UUID proves that it
//! is the storage, and which; a host that does not find it there offers none, so that the bare directory of a mount that is
//! missing is never taken for it.
//!
//! A volume there has one file that says what it is made of and which host keeps it. Only that host changes anything of it.
//! It is passed on like a baton: who lets go writes that nobody keeps it, and only then another takes it up, unless the controller
//! knows for certain that its keeper was fenced.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::error::Internal;
use base::{Config, Error, Result};
use rpc::message::SharedStorage;
use serde::{Deserialize, Serialize};

use super::index::{Layer, Volume};
use crate::documents::{read, remove, replace};
use crate::instance::blocking;

/// The file that the operator puts there, with a UUID.
pub const MARKER: &str = "sturnus-storage";
/// How often it is looked at, and how long it may take to answer.
const LOOK: Duration = Duration::from_secs(5);

/// What is written there of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The host (id) that keeps it; none: who is told to takes it up.
    pub keeper: Option<String>,
    pub volume: Volume,
    pub layers: BTreeMap<String, Layer>,
}

pub struct Store {
    directory: PathBuf,
    name: String,
    host_id: String,
    sync: bool,
    /// What was seen last; why not, when nothing was.
    seen: Mutex<Result<SharedStorage, String>>,
}

/// Where layers and records lie in the storage of this host, if it has one.
pub fn files(config: &Config) -> Option<PathBuf> {
    let directory = config.text("host.shared_storage");
    (!directory.is_empty()).then(|| Path::new(directory).join("volumes"))
}

impl Store {
    pub fn open(config: &Config, host_id: &str, sync: bool) -> Option<Arc<Store>> {
        let directory = PathBuf::from(config.text("host.shared_storage"));
        let name = config.text("host.shared_storage_name").to_string();
        let store = Store { directory, name, host_id: host_id.to_string(), sync, seen: Mutex::new(Err("not looked at yet".into())) };
        files(config).map(|_| Arc::new(store))
    }

    fn lock(&self) -> MutexGuard<'_, Result<SharedStorage, String>> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn host_id(&self) -> &str {
        &self.host_id
    }

    /// The storage as it was seen last, if it is there.
    pub fn seen(&self) -> Option<SharedStorage> {
        self.lock().clone().ok()
    }

    /// `Unavailable` unless the storage with this id is there.
    pub fn require(&self, id: &str) -> Result<()> {
        let at = self.directory.display();
        match &*self.lock() {
            Ok(seen) if seen.id == id => Ok(()),
            Ok(seen) => Err(Error::unavailable(format!("at {at} is the shared storage {}, not {id}", seen.id))),
            Err(why) => Err(Error::unavailable(format!("the shared storage {id} is not there: {at}: {why}"))),
        }
    }

    /// Looks after the storage, for ever. A mount whose server is gone may not answer for hours: then it counts as missing.
    pub async fn watch(self: Arc<Store>) {
        loop {
            let directory = self.directory.clone();
            let name = self.name.clone();
            let mut look = tokio::task::spawn_blocking(move || look(&directory, name));
            let found = match tokio::time::timeout(LOOK, &mut look).await {
                Ok(found) => found,
                Err(_) => {
                    self.note(Err("it does not answer".into()));
                    look.await
                }
            };
            self.note(found.unwrap_or_else(|e| Err(e.to_string())));
            tokio::time::sleep(LOOK).await;
        }
    }

    fn note(&self, found: Result<SharedStorage, String>) {
        let mut seen = self.lock();
        let at = self.directory.display();
        match (&*seen, &found) {
            (Ok(before), Ok(now)) if before.id == now.id => {}
            (Err(before), Err(now)) if before == now => {}
            (_, Ok(now)) => tracing::info!("the shared storage {} is at {at}", now.id),
            (_, Err(why)) => tracing::error!("this host offers no shared storage: {at}: {why}"),
        }
        *seen = found;
    }

    fn record(&self, id: &str) -> PathBuf {
        self.directory.join("volumes").join(format!("{id}.json"))
    }

    /// All of these are `Unavailable` when they cannot be done now: what a network's file system says is seldom its last word.
    pub async fn read(&self, id: &str) -> Result<Option<Record>> {
        let path = self.record(id);
        blocking(move || read(&path)).await.map_err(unavailable)
    }

    pub async fn write(&self, id: &str, record: &Record) -> Result<()> {
        let (path, sync) = (self.record(id), self.sync);
        let bytes = serde_json::to_vec(record).internal("cannot write the record of a volume")?;
        blocking(move || replace(&path, &bytes, sync)).await.map_err(unavailable)
    }

    pub async fn remove(&self, id: &str) -> Result<()> {
        let path = self.record(id);
        blocking(move || remove(&path)).await.map_err(unavailable)
    }
}

fn unavailable(error: Error) -> Error {
    Error::unavailable("the shared storage does not do what it should").caused_by(error)
}

/// Whether the storage is at `directory`. All through one descriptor: a mount that comes or goes meanwhile changes nothing of what is seen.
fn look(directory: &Path, name: String) -> Result<SharedStorage, String> {
    let open = File::open(directory).map_err(|e| e.to_string())?;
    let at = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    let id = std::fs::read_to_string(at.join(MARKER)).map_err(|e| format!("there is no {MARKER}: {e}"))?.trim().to_string();
    if !base::id::is_uuid(&id) {
        return Err(format!("in {MARKER} is no UUID"));
    }
    // A guest's disk that two hosts have open in turn must not lie in the page cache of either.
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(at.join(MARKER))
        .map_err(|e| format!("its files cannot be opened past the page cache (O_DIRECT): {e}"))?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(at.join("volumes")).map_err(|e| e.to_string())?;
    let space = nix::sys::statvfs::fstatvfs(&open).map_err(|e| e.to_string())?;
    let gib = |blocks: u64| (blocks * space.fragment_size()) >> 30;
    Ok(SharedStorage { id, name, gib: gib(space.blocks()), free_gib: gib(space.blocks_available()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_marked_directory_is_the_storage() {
        let directory = tempfile::tempdir().unwrap();
        let look = |path: &Path| super::look(path, "shared".into());
        assert!(look(&directory.path().join("gone")).is_err());
        let bare = look(directory.path()).unwrap_err();
        assert!(bare.contains(MARKER), "{bare}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is made where no storage is");
        std::fs::write(directory.path().join(MARKER), "mine\n").unwrap();
        assert!(look(directory.path()).unwrap_err().contains("UUID"));
        let id = base::id::uuid();
        std::fs::write(directory.path().join(MARKER), format!("{id}\n")).unwrap();
        let seen = look(directory.path()).unwrap();
        assert_eq!((seen.id, seen.name), (id, "shared".to_string()));
        assert!(directory.path().join("volumes").is_dir());
    }
}
