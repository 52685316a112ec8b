//! The keys of pulses: all come from one secret in `keys/heartbeat`, which is made at first use and never leaves the controller.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base::error::Internal;
use base::{Error, Result};
use heartbeat::Key;
use uuid::Uuid;

pub struct Keys(Key);

impl Keys {
    pub fn open(directory: &Path) -> Result<Keys> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).internal("cannot make the directory of keys")?;
        let path = directory.join("heartbeat");
        let mut secret = [0; 32];
        match OpenOptions::new().read(true).open(&path) {
            Ok(mut file) => file.read_exact(&mut secret).internal("keys/heartbeat is damaged: remove it, and start again")?,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                getrandom::fill(&mut secret).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
                let part = path.with_extension("part");
                let mut file =
                    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).internal("cannot write a key")?;
                file.write_all(&secret).and_then(|()| file.sync_all()).internal("cannot write a key")?;
                std::fs::rename(&part, &path).internal("cannot write a key")?;
            }
            Err(e) => return Err(e).internal("cannot read keys/heartbeat"),
        }
        Ok(Keys(Key::new(secret)))
    }

    /// Whom hosts know this controller as: the same after each start.
    pub fn controller(&self) -> Uuid {
        self.0.id("controller")
    }

    /// Between the controller and one host.
    pub fn host(&self, id: &Uuid) -> Key {
        self.0.derive(&format!("host {id}"))
    }

    /// Among hosts: another one for each site they form, so that a host that was deleted knows none that counts.
    pub fn site<'a>(&self, hosts: impl Iterator<Item = &'a Uuid>) -> Key {
        let names: Vec<String> = hosts.map(Uuid::to_string).collect();
        self.0.derive(&format!("site {}", names.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_after_a_start_and_no_two_alike() {
        let home = tempfile::tempdir().unwrap();
        let (one, again) = (Keys::open(&home.path().join("keys")).unwrap(), Keys::open(&home.path().join("keys")).unwrap());
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!((one.controller(), one.host(&a)), (again.controller(), again.host(&a)));
        assert_ne!(one.host(&a), one.host(&b));
        assert_ne!(one.site([a].iter()), one.site([a, b].iter()));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Keys::open(other.path()).unwrap().host(&a), one.host(&a));
        std::fs::write(home.path().join("keys/heartbeat"), "short").unwrap();
        assert!(Keys::open(&home.path().join("keys")).is_err());
    }
}
