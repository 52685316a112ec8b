//! What a simulated machine has outside the process that plays it: one small file for each guest and layer in a directory.
//! So its guests outlive a killed process as real ones do, and whoever looks at the directory sees what is on the machine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use base::Result;
use base::error::Internal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::documents::{read, remove, replace};
use crate::hypervisor::{Process, RunState};

/// A process of a guest.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredGuest {
    pub process: Process,
    pub state: RunState,
    pub cards: BTreeSet<String>,
    pub volumes: BTreeMap<String, String>,
    /// Waits for a guest, or was left by it.
    #[serde(default)]
    pub travel: Travel,
}

/// What a simulated process has to do with a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Travel {
    #[default]
    None,
    /// Waits for its guest behind this door.
    Awaits(u16),
    Arrived,
    /// Sends its guest to this door: disks, then memory, then nothing more until it is told to go.
    Disks(u16),
    Memory(u16),
    Door(u16),
    Gone,
    Failed,
}

/// Everything a guest has on the machine.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct StoredInstance {
    /// None when no process runs.
    pub guest: Option<StoredGuest>,
    /// None when nothing was made ready yet, or all was removed.
    pub disks: Option<BTreeSet<String>>,
    pub memory: bool,
    pub copies: BTreeSet<String>,
}

impl StoredInstance {
    fn is_nothing(&self) -> bool {
        self.guest.is_none() && self.disks.is_none() && !self.memory && self.copies.is_empty()
    }
}

/// The directory, and what its files say: a file that would stay the same is not written again.
pub(crate) struct Disk {
    directory: PathBuf,
    written: HashMap<PathBuf, Vec<u8>>,
}

impl Disk {
    pub fn open(directory: &Path) -> Result<Disk> {
        for kind in ["instances", "layers", "exports", "parcels"] {
            std::fs::create_dir_all(directory.join(kind)).internal("cannot make the directory of a simulated machine")?;
        }
        Ok(Disk { directory: directory.to_path_buf(), written: HashMap::new() })
    }

    /// How often the machine has booted.
    pub fn boot(&self) -> Result<u32> {
        Ok(read(&self.directory.join("boot.json"))?.unwrap_or_default())
    }
    pub fn boot_set(&mut self, boot: u32) {
        self.write(self.directory.join("boot.json"), Some(&boot));
    }

    pub fn instances(&self) -> Result<BTreeMap<String, StoredInstance>> {
        self.all("instances")
    }
    pub fn layers(&self) -> Result<BTreeMap<String, u64>> {
        self.all("layers")
    }
    pub fn exports(&self) -> Result<BTreeMap<String, u64>> {
        self.all("exports")
    }
    pub fn parcels(&self) -> Result<BTreeMap<String, u64>> {
        self.all("parcels")
    }

    pub fn instance_set(&mut self, id: &str, instance: &StoredInstance) {
        self.write(self.path("instances", id), (!instance.is_nothing()).then_some(instance));
    }
    pub fn layer_set(&mut self, name: &str, bytes: Option<u64>) {
        self.write(self.path("layers", name), bytes.as_ref());
    }
    pub fn export_set(&mut self, id: &str, bytes: Option<u64>) {
        self.write(self.path("exports", id), bytes.as_ref());
    }
    pub fn parcel_set(&mut self, id: &str, bytes: Option<u64>) {
        self.write(self.path("parcels", id), bytes.as_ref());
    }

    fn path(&self, kind: &str, name: &str) -> PathBuf {
        self.directory.join(kind).join(format!("{name}.json"))
    }

    fn all<T: DeserializeOwned>(&self, kind: &str) -> Result<BTreeMap<String, T>> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(self.directory.join(kind)).internal("cannot list a simulated machine")? {
            let path = entry.internal("cannot list a simulated machine")?.path();
            // Anything else is what a file held before, or a write that broke off: the file itself is whole.
            let Some(name) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".json")) else { continue };
            if let Some(value) = read(&path)? {
                all.insert(name.to_string(), value);
            }
        }
        Ok(all)
    }

    /// A machine that cannot keep what happens on it is of no use to anybody, but its process must not die of that: it is told.
    fn write<T: Serialize>(&mut self, path: PathBuf, value: Option<&T>) {
        let outcome = match value {
            Some(value) => self.replace(&path, value),
            None => self.remove(&path),
        };
        if let Err(error) = outcome {
            tracing::error!("a simulated machine: {}", error.chain());
        }
    }

    fn replace<T: Serialize>(&mut self, path: &Path, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).internal("cannot write JSON")?;
        if self.written.get(path) != Some(&bytes) {
            replace(path, &bytes, false)?;
            self.written.insert(path.to_path_buf(), bytes);
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        self.written.remove(path);
        remove(path)
    }
}
