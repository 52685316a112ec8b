//! What the metadata address knows of every guest, and what guests leave there: their password.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rpc::instance::Metadata;

use crate::wire::Keep;

/// The longest password that is taken, in bytes; it is a ciphertext, and so long in other clouds too.
const LONGEST: usize = 1020;

#[derive(Default)]
pub struct Desk {
    documents: RwLock<HashMap<String, Arc<Metadata>>>,
    keep: OnceLock<Keep>,
}

/// What became of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    Kept,
    /// Nobody knows this guest.
    Nobody,
    /// There is one already, and who set it must clear it first.
    Taken,
    /// Too long, or no text.
    Refused,
    /// It could not be written down; worth another try.
    Failed,
}

impl Desk {
    pub fn set(&self, instance_id: &str, metadata: Metadata) {
        self.documents.write().unwrap_or_else(PoisonError::into_inner).insert(instance_id.into(), Arc::new(metadata));
    }

    pub fn remove(&self, instance_id: &str) {
        self.documents.write().unwrap_or_else(PoisonError::into_inner).remove(instance_id);
    }

    pub fn get(&self, instance_id: &str) -> Option<Arc<Metadata>> {
        self.documents.read().unwrap_or_else(PoisonError::into_inner).get(instance_id).cloned()
    }

    /// Where passwords go. The first call counts.
    pub fn keep_in(&self, keep: Keep) {
        let _ = self.keep.set(keep);
    }

    /// Keeps a guest's password. Blocks until it is on disk.
    pub fn post(&self, instance_id: &str, password: &[u8]) -> Posted {
        let Some(known) = self.get(instance_id) else { return Posted::Nobody };
        if !known.password.is_empty() {
            return Posted::Taken;
        }
        let Some(password) = std::str::from_utf8(password).ok().filter(|p| p.len() <= LONGEST) else { return Posted::Refused };
        if password.is_empty() {
            return Posted::Kept;
        }
        let Some(keep) = self.keep.get() else { return Posted::Failed };
        if let Err(error) = keep(instance_id, password) {
            tracing::error!(instance = instance_id, "a guest's password could not be kept: {}", error.chain());
            return Posted::Failed;
        }
        // So that the guest reads it at once; the next document says it too.
        let mut documents = self.documents.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = documents.get_mut(instance_id) {
            Arc::make_mut(document).password = password.into();
        }
        Posted::Kept
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_password_is_kept_once() {
        let (desk, kept) = (Desk::default(), Arc::new(Mutex::new(Vec::new())));
        assert_eq!(desk.post("a", b"x"), Posted::Nobody);
        desk.set("a", Metadata::default());
        assert_eq!(desk.post("a", b"x"), Posted::Failed, "there is no place for it yet");
        let writes = kept.clone();
        desk.keep_in(Arc::new(move |id, password| {
            writes.lock().unwrap().push(format!("{id} {password}"));
            if password == "bad" { Err(base::Error::internal("the disk is full")) } else { Ok(()) }
        }));
        assert_eq!(desk.post("a", b"bad"), Posted::Failed);
        assert_eq!(desk.post("a", &[b'x'; LONGEST + 1]), Posted::Refused);
        assert_eq!(desk.post("a", b"\xff"), Posted::Refused);
        assert_eq!(desk.post("a", b""), Posted::Kept);
        assert_eq!((desk.post("a", b"secret"), desk.post("a", b"other")), (Posted::Kept, Posted::Taken));
        assert_eq!(desk.get("a").unwrap().password, "secret");
        // Cleared by its user: it may come again.
        desk.set("a", Metadata::default());
        assert_eq!(desk.post("a", &[b'x'; LONGEST]), Posted::Kept);
        assert_eq!(kept.lock().unwrap().len(), 3);
        desk.remove("a");
        assert_eq!(desk.get("a"), None);
    }
}
