//! The host's own key: made here, and never leaves it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519::{PublicKey, StaticSecret};

/// A private key (Curve25519).
#[derive(Clone)]
pub struct Key(pub StaticSecret);

fn path(home: &Path) -> PathBuf {
    home.join("host").join("tunnel.key")
}

impl Key {
    /// The key of the host whose state is in `home`; a new one when there is none that can be read.
    pub fn load(home: &Path) -> io::Result<Key> {
        let path = path(home);
        match fs::read_to_string(&path) {
            Ok(text) => match decode(text.trim()) {
                Some(bytes) => return Ok(Key(StaticSecret::from(bytes))),
                None => tracing::error!("{} holds no key: a new one is made", path.display()),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let key = Key(StaticSecret::from(bytes));
        let new = path.with_extension("key.new");
        fs::create_dir_all(home.join("host"))?;
        // What a crash left may be open to more readers.
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        writeln!(file, "{}", STANDARD.encode(key.0.to_bytes()))?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        Ok(key)
    }

    /// Takes the key away: the next start makes a new one.
    pub fn forget(home: &Path) -> io::Result<()> {
        match fs::remove_file(path(home)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// What others know of it, as base64.
    pub fn public(&self) -> String {
        STANDARD.encode(PublicKey::from(&self.0).as_bytes())
    }
}

/// 32 bytes out of base64.
pub fn decode(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_for_root_only() {
        let home = tempfile::tempdir().unwrap();
        let first = Key::load(home.path()).unwrap();
        assert_eq!(Key::load(home.path()).unwrap().public(), first.public());
        assert_eq!(fs::metadata(path(home.path())).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(decode(&first.public()).is_some() && decode("YQ==").is_none() && decode("?").is_none());

        fs::write(path(home.path()), "nothing").unwrap();
        let second = Key::load(home.path()).unwrap();
        assert_ne!(second.public(), first.public(), "one that cannot be read is replaced");
        Key::forget(home.path()).unwrap();
        Key::forget(home.path()).unwrap();
        assert_ne!(Key::load(home.path()).unwrap().public(), second.public());
        assert_eq!(fs::metadata(path(home.path())).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
