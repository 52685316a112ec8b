//! Keys that somebody else may change while they are in use: the operator at the console, a keystone, another controller.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base::Result;

use super::keys::Keys;

pub struct Ring {
    directory: PathBuf,
    keys: RwLock<Arc<Keys>>,
}

impl Ring {
    /// Loads the keys of a directory, making them where there are none.
    pub fn open(directory: PathBuf) -> Result<Ring> {
        let keys = RwLock::new(Arc::new(Keys::open(&directory)?));
        Ok(Ring { directory, keys })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// As they were last read.
    pub fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the directory again; tells whether the keys are others than before.
    pub fn reload(&self) -> Result<bool> {
        Ok(self.put(Keys::open(&self.directory)?))
    }

    pub fn put(&self, fresh: Keys) -> bool {
        let is_new = !fresh.are(&self.keys());
        if is_new {
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        }
        is_new
    }

    /// See [`Keys::seal_text`].
    pub fn seal_text(&self, text: &[u8]) -> String {
        self.keys().seal_text(text)
    }

    /// See [`Keys::open_text`]. What no known key opens may have been sealed since the directory was read.
    pub fn open_text(&self, sealed: &str) -> Option<Vec<u8>> {
        self.keys().open_text(sealed).or_else(|| {
            let is_new = self.reload().inspect_err(|error| tracing::warn!("{}", error.chain())).unwrap_or(false);
            if is_new { self.keys().open_text(sealed) } else { None }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::keys::rotate;

    #[test]
    fn what_another_has_sealed_meanwhile_is_opened() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (Ring::open(home.path().into()).unwrap(), Ring::open(home.path().into()).unwrap());
        for _ in 0..3 {
            rotate(home.path(), 3).unwrap();
            assert!(other.reload().unwrap() && !other.reload().unwrap());
        }
        let sealed = other.seal_text(b"a secret");
        assert_eq!(one.keys().open_text(&sealed), None);
        assert_eq!(one.open_text(&sealed).unwrap(), b"a secret");
        assert_eq!(one.open_text("nonsense"), None);
    }
}
