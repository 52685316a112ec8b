//! Certificates that are no longer good.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base::{Error, Result, error::Internal};

use crate::authority::Record;
use crate::files;

/// What changes when the file is replaced.
type Stamp = (u64, u64, i64, i64);

/// The list of an authority, read again whenever its file changed: revoking works from any process.
#[derive(Debug)]
pub struct Revocations {
    path: PathBuf,
    known: Mutex<(Option<Stamp>, HashSet<String>)>,
}

impl Revocations {
    pub(crate) fn new(directory: &Path) -> Revocations {
        Revocations { path: directory.join("revoked"), known: Mutex::default() }
    }

    /// Whether the certificate with this serial was revoked. An error means that nobody knows: let nobody in.
    pub fn contains(&self, serial: &str) -> Result<bool> {
        let stamp = match std::fs::metadata(&self.path) {
            Ok(m) => Some((m.ino(), m.size(), m.mtime(), m.mtime_nsec())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(e).internal(&format!("reading {}", self.path.display())),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != stamp {
            let serials = records(&self.path)?.into_iter().map(|record| record.serial).collect();
            *known = (stamp, serials);
        }
        Ok(known.1.contains(serial))
    }
}

/// All lines of a list; none when there is no file yet.
pub(crate) fn records(path: &Path) -> Result<Vec<Record>> {
    let text = files::read(path)?.unwrap_or_default();
    let parse = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::internal(format!("{}, line {}", path.display(), at + 1)).caused_by(e))
    };
    text.lines().enumerate().map(parse).collect()
}
