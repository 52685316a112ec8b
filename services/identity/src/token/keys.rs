//! The keys that seal tokens: a directory of numbered files.
//!
//! The greatest number is the primary key, which seals; `0` is staged, the next primary; the others still open
//! tokens that were sealed before. Rotation promotes the staged key and stages a new one, so that a key is known to
//! every controller before anything is sealed with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base::{Error, Result, error::Internal};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fernet::Fernet;
use sha2::{Digest, Sha256};

/// Of a token: room for some hundred groups of a federated user.
const LONGEST: usize = 8192;

pub struct Keys {
    primary: Fernet,
    /// Newest first, the staged one last.
    older: Vec<Fernet>,
    /// When the primary key became it.
    promoted: SystemTime,
    /// A hash of all.
    fingerprint: [u8; 32],
}

impl Keys {
    /// Loads the keys, making them where there are none.
    pub fn open(directory: &Path) -> Result<Keys> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).internal("making the directory of token keys")?;
        let mut files = list(directory)?;
        if files.is_empty() {
            write(directory, 1, &Fernet::generate_key())?;
        }
        if !files.iter().any(|(number, _)| *number == 0) {
            write(directory, 0, &Fernet::generate_key())?;
        }
        files = list(directory)?;
        let texts = texts(directory)?;
        let staged_is_primary = texts.len() > 1 && texts.values().next() == texts.values().next_back();
        if staged_is_primary {
            // A rotation was cut off between its two steps.
            write(directory, 0, &Fernet::generate_key())?;
            return Keys::open(directory);
        }
        let newest = files.iter().max_by_key(|(number, _)| *number).ok_or_else(|| Error::internal("no token key"))?;
        let promoted = fs::metadata(&newest.1).and_then(|m| m.modified()).internal("reading a token key's age")?;
        Ok(Keys { promoted, ..Keys::of(&texts)? })
    }

    /// By their numbers; the age is not known.
    pub fn of(texts: &Texts) -> Result<Keys> {
        let mut keys = Vec::new();
        let mut hash = Sha256::new();
        for (number, text) in texts.iter().rev() {
            keys.push(Fernet::new(text).ok_or_else(|| Error::internal(format!("the key {number} is none")))?);
            hash = hash.chain_update(text).chain_update([0]);
        }
        let mut keys = keys.into_iter();
        let primary = keys.next().ok_or_else(|| Error::internal("no token key"))?;
        Ok(Keys { primary, older: keys.collect(), promoted: SystemTime::now(), fingerprint: hash.finalize().into() })
    }

    /// Whether these are the same keys in the same order.
    pub fn are(&self, others: &Keys) -> bool {
        self.fingerprint == others.fingerprint
    }

    pub fn age(&self) -> Duration {
        self.promoted.elapsed().unwrap_or_default()
    }

    /// A token sealed at a second since 1970; without the padding, which no header needs.
    pub fn seal(&self, payload: &[u8], at: u64) -> String {
        unpadded(self.primary.encrypt_at_time(payload, at))
    }

    /// What is in a token, and the second at which it was sealed.
    pub fn unseal(&self, token: &str) -> Option<(Vec<u8>, u64)> {
        if token.len() > LONGEST || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return None;
        }
        let payload = self.open_text(token)?;
        // A byte for the version of the form, then the time.
        let head = URL_SAFE_NO_PAD.decode(token.get(..12)?).ok()?;
        Some((payload, u64::from_be_bytes(head.get(1..9)?.try_into().ok()?)))
    }

    /// A text for the store, to be opened by [`Keys::open_text`].
    pub fn seal_text(&self, text: &[u8]) -> String {
        unpadded(self.primary.encrypt(text))
    }

    /// Whether a text was sealed with the key that seals now.
    pub fn is_by_primary(&self, sealed: &str) -> bool {
        self.primary.decrypt(&padded(sealed)).is_ok()
    }

    /// What was sealed, of any length; for texts that come from the store.
    pub fn open_text(&self, sealed: &str) -> Option<Vec<u8>> {
        let padded = padded(sealed);
        std::iter::once(&self.primary).chain(&self.older).find_map(|key| key.decrypt(&padded).ok())
    }
}

fn padded(text: &str) -> String {
    format!("{text}{}", &"==="[..(4 - text.len() % 4) % 4])
}

fn unpadded(mut text: String) -> String {
    text.truncate(text.trim_end_matches('=').len());
    text
}

/// Keys by their numbers.
pub type Texts = BTreeMap<u64, String>;

/// What is in a directory.
pub fn texts(directory: &Path) -> Result<Texts> {
    let mut texts = Texts::new();
    for (number, path) in list(directory)? {
        texts.insert(number, fs::read_to_string(path).internal("reading a token key")?.trim().to_string());
    }
    Ok(texts)
}

/// Makes a directory a copy of these keys. The staged one comes first: else one who looks meanwhile could take it for a rotation that was cut off.
pub fn replace(directory: &Path, wanted: &Texts) -> Result<()> {
    let before = texts(directory)?;
    for (number, text) in wanted.iter().filter(|(number, text)| before.get(number) != Some(text)) {
        write(directory, *number, text)?;
    }
    for number in before.keys().filter(|number| !wanted.contains_key(number)) {
        fs::remove_file(directory.join(number.to_string())).internal("removing an old token key")?;
    }
    sync(directory)
}

/// As [`rotate`] would leave a directory of these keys.
pub fn next(texts: &Texts, keep: usize) -> Result<Texts> {
    let mut after = texts.clone();
    let number = texts.keys().next_back().map_or(1, |last| last + 1);
    let staged = after.insert(0, Fernet::generate_key()).ok_or_else(|| Error::internal("no staged key"))?;
    after.insert(number, staged);
    while after.len() > keep.max(2) {
        let oldest = after.keys().copied().find(|number| *number != 0);
        oldest.and_then(|number| after.remove(&number));
    }
    Ok(after)
}

/// Makes the staged key primary and stages a new one; at most `keep` remain. Tokens sealed with a key that goes are void.
pub fn rotate(directory: &Path, keep: usize) -> Result<()> {
    let mut files = list(directory)?;
    files.sort();
    let next = files.last().map_or(1, |(number, _)| number + 1);
    let staged = fs::read_to_string(directory.join("0")).internal("reading the staged token key")?;
    write(directory, next, staged.trim())?;
    write(directory, 0, &Fernet::generate_key())?;
    let mut numbered: Vec<_> = list(directory)?.into_iter().filter(|(number, _)| *number != 0).collect();
    numbered.sort();
    // The staged one counts.
    let surplus = (numbered.len() + 1).saturating_sub(keep.max(2));
    for (_, path) in numbered.into_iter().take(surplus) {
        fs::remove_file(path).internal("removing an old token key")?;
    }
    sync(directory)
}

/// How many keys there must be so that no valid token loses its key.
pub fn needed(lifetime: Duration, rotation: Duration) -> usize {
    let rotations = lifetime.as_secs().div_ceil(rotation.as_secs().max(1));
    usize::try_from(rotations).unwrap_or(usize::MAX - 2).saturating_add(2).clamp(3, 1000)
}

fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).internal("listing the token keys")? {
        let path = entry.internal("listing the token keys")?.path();
        if let Some(number) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()) {
            files.push((number, path));
        }
    }
    Ok(files)
}

/// Whole or not at all.
fn write(directory: &Path, number: u64, key: &str) -> Result<()> {
    let half = directory.join(format!(".{number}.new"));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half).internal("writing a token key")?;
    file.write_all(key.as_bytes()).and_then(|()| file.sync_all()).internal("writing a token key")?;
    fs::rename(&half, directory.join(number.to_string())).internal("writing a token key")?;
    sync(directory)
}

fn sync(directory: &Path) -> Result<()> {
    fs::File::open(directory).and_then(|d| d.sync_all()).internal("writing the directory of token keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_tokens_open_until_their_key_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Keys::open(dir.path()).unwrap();
        let token = first.seal(b"payload", 1_700_000_000);
        assert!(!token.contains('='));
        for _ in 0..2 {
            rotate(dir.path(), 4).unwrap();
            let keys = Keys::open(dir.path()).unwrap();
            assert_eq!(keys.unseal(&token), Some((b"payload".to_vec(), 1_700_000_000)));
            assert_eq!(
                first.unseal(&keys.seal(b"new", 1_700_000_000)).is_some(),
                keys.older.len() == 2,
                "only the first rotation's primary was staged"
            );
        }
        rotate(dir.path(), 3).unwrap();
        assert_eq!(Keys::open(dir.path()).unwrap().unseal(&token), None);
        assert_eq!(list(dir.path()).unwrap().len(), 3);
    }

    #[test]
    fn a_cut_off_rotation_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        Keys::open(dir.path()).unwrap();
        let staged = fs::read_to_string(dir.path().join("0")).unwrap();
        write(dir.path(), 2, &staged).unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        assert_ne!(fs::read_to_string(dir.path().join("0")).unwrap(), staged);
        assert_eq!(keys.older.len(), 2);
    }

    #[test]
    fn a_copy_is_rotated_as_a_directory_is() {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Keys::open(dir.path()).unwrap();
        Keys::open(copy.path()).unwrap();
        for keep in [4, 4, 4, 3, 2] {
            let before = texts(dir.path()).unwrap();
            let wanted = next(&before, keep).unwrap();
            rotate(dir.path(), keep).unwrap();
            let got = texts(dir.path()).unwrap();
            assert_eq!(got.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
            assert_eq!(got.values().skip(1).collect::<Vec<_>>(), wanted.values().skip(1).collect::<Vec<_>>(), "all but the new one");
            replace(copy.path(), &got).unwrap();
            assert_eq!(texts(copy.path()).unwrap(), got);
            assert!(Keys::open(copy.path()).unwrap().are(&Keys::open(dir.path()).unwrap()));
        }
        assert!(next(&Texts::new(), 3).is_err());
    }

    #[test]
    fn as_many_keys_as_the_lifetime_needs() {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        assert_eq!(needed(hours(1), hours(24)), 3);
        assert_eq!(needed(hours(48), hours(24)), 4);
    }
}
