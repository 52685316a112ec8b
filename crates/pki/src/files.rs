//! Files that are either old or new, never half.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base::{Result, error::Internal};

/// Makes a directory that only its owner enters.
pub fn directory(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).internal(&format!("making {}", path.display()))
}

/// Held until dropped: no other process changes the directory meanwhile.
pub fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.internal(&format!("opening {}", path.display()))?;
    file.lock().internal(&format!("locking {}", path.display()))?;
    Ok(file)
}

/// Replaces `directory/name`; call it under [`lock`].
pub fn write(directory: &Path, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let (path, fresh) = (directory.join(name), directory.join(format!(".{name}.new")));
    let doing = format!("writing {}", path.display());
    // A process that died left this one behind, possibly with another mode.
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).internal(&doing),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&fresh).internal(&doing)?;
    file.write_all(content).internal(&doing)?;
    file.sync_all().internal(&doing)?;
    std::fs::rename(&fresh, &path).internal(&doing)?;
    File::open(directory).and_then(|d| d.sync_all()).internal(&doing)
}

/// The text of a file; none when there is no such file.
pub fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).internal(&format!("reading {}", path.display())),
    }
}
