//! The pairs of keys that sign tokens: a directory in keystone's layout. `private/private.pem` signs, whoever is in `public` is believed.
//!
//! `private/next.pem` is the next that signs; its public key is known a whole period before, so that whoever takes our tokens has it by
//! then. The public key of one that signed before is `public/retired-SECOND-ID.pem`, and goes when no token of it can be good any more.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base::{Error, Result, error::Internal};
use p256::ecdsa::{SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};

const OWN: &str = "private/private.pem";
const NEXT: &str = "private/next.pem";
const RETIRED: &str = "retired-";

pub struct Pairs {
    pub own: SigningKey,
    next: SigningKey,
    /// All of `public`.
    pub public: Vec<VerifyingKey>,
    /// Since when these two are there.
    since: SystemTime,
}

impl Pairs {
    /// Loads what is there, making pairs where there are none; forgets public keys that retired longer ago than `keep`.
    pub fn open(directory: &Path, keep: Duration) -> Result<Pairs> {
        let _held = hold(directory)?;
        forget(directory, keep)?;
        load(directory)
    }

    /// Makes the next pair the own one, and a new next one.
    pub fn rotate(directory: &Path) -> Result<()> {
        let _held = hold(directory)?;
        let pairs = load(directory)?;
        retire(directory, pairs.own.verifying_key())?;
        write(&directory.join(OWN), &read(&directory.join(NEXT))?)?;
        make(directory, NEXT)
    }

    /// For how long the own one has signed, and others had the time to learn of the next one.
    pub fn age(&self) -> Duration {
        self.since.elapsed().unwrap_or_default()
    }

    /// What others must know to take our tokens, those of the next period too.
    pub fn published(&self) -> Result<Vec<String>> {
        [&self.own, &self.next].into_iter().map(|key| text_of(key.verifying_key())).collect()
    }
}

/// The console and the cloud may both look after one directory.
fn hold(directory: &Path) -> Result<fs::File> {
    for path in [directory.to_path_buf(), directory.join("private"), directory.join("public")] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).internal("making the directory of signature keys")?;
    }
    let held = fs::File::open(directory).internal("opening the directory of signature keys")?;
    held.lock().internal("locking the directory of signature keys")?;
    Ok(held)
}

fn load(directory: &Path) -> Result<Pairs> {
    let path = directory.join(OWN);
    if !path.exists() {
        make(directory, OWN)?;
    }
    let own = private(&path)?;
    let next = directory.join(NEXT);
    // A rotation may have been cut off before it made a new one.
    if !next.exists() || private(&next)? == own {
        make(directory, NEXT)?;
    }
    let public = publics(directory)?.into_iter().map(|(_, key)| key).collect();
    let made = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).internal("reading the age of a signature key");
    Ok(Pairs { own, next: private(&next)?, public, since: made(&path)?.max(made(&next)?) })
}

fn publics(directory: &Path) -> Result<Vec<(PathBuf, VerifyingKey)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory.join("public")).internal("listing the public keys of tokens")? {
        let path = entry.internal("listing the public keys of tokens")?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            let key = public_of(&read(&path)?).ok_or_else(|| Error::internal(format!("{} is no public key of P-256", path.display())))?;
            found.push((path, key));
        }
    }
    Ok(found)
}

/// Whatever its file was called, from now on it says since when the key signs no more. Done again after it was cut off, it says so later.
fn retire(directory: &Path, key: &VerifyingKey) -> Result<()> {
    let before = publics(directory)?.into_iter().filter(|(_, known)| known == key);
    let second = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let retired = directory.join("public").join(format!("{RETIRED}{second}-{}.pem", base::id::hex()));
    write(&retired, &text_of(key)?)?;
    for (path, _) in before {
        fs::remove_file(path).internal("retiring a public key of tokens")?;
    }
    Ok(())
}

fn forget(directory: &Path, keep: Duration) -> Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for entry in fs::read_dir(directory.join("public")).internal("listing the public keys of tokens")? {
        let path = entry.internal("listing the public keys of tokens")?.path();
        let since = path.file_name().and_then(|name| name.to_str()?.strip_prefix(RETIRED)?.split('-').next()?.parse().ok());
        if since.is_some_and(|since| Duration::from_secs(since).saturating_add(keep) < now) {
            fs::remove_file(path).internal("forgetting a public key of tokens")?;
        }
    }
    Ok(())
}

/// `None` for what is no public key of P-256.
pub fn public_of(text: &str) -> Option<VerifyingKey> {
    VerifyingKey::from_public_key_pem(text).ok()
}

fn text_of(key: &VerifyingKey) -> Result<String> {
    key.to_public_key_pem(LineEnding::LF).map_err(|e| Error::internal(format!("writing a public key: {e}")))
}

fn private(path: &Path) -> Result<SigningKey> {
    SigningKey::from_pkcs8_pem(&read(path)?).map_err(|e| Error::internal(format!("{} is no key of P-256: {e}", path.display())))
}

fn make(directory: &Path, name: &str) -> Result<()> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
    let key = SigningKey::from_slice(&random).map_err(|e| Error::internal(format!("making a key: {e}")))?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| Error::internal(format!("making a key: {e}")))?;
    // The public one first: a private one that nobody knows would sign tokens that nobody takes.
    write(&directory.join("public").join(format!("{}.pem", base::id::hex())), &text_of(key.verifying_key())?)?;
    write(&directory.join(name), &pem)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).internal("reading a signature key")
}

/// Whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let half = path.with_extension("new");
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(&half, path)).internal("writing a signature key")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = publics(directory).unwrap().into_iter().map(|(path, _)| path).collect();
        names.sort();
        names.into_iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_string()).collect()
    }

    #[test]
    fn the_next_pair_is_known_before_it_signs() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pairs::open(dir.path(), HOUR).unwrap();
        assert_eq!(first.public.len(), 2);
        Pairs::rotate(dir.path()).unwrap();
        let second = Pairs::open(dir.path(), HOUR).unwrap();
        assert_eq!(second.own, first.next);
        assert_eq!(second.published().unwrap()[0], first.published().unwrap()[1]);
        assert!(second.public.contains(first.own.verifying_key()) && second.public.len() == 3);
        let retired = names(dir.path()).into_iter().find(|name| name.starts_with(RETIRED)).unwrap();
        let public = dir.path().join("public");
        fs::rename(public.join(retired), public.join("retired-1700000000-x.pem")).unwrap();
        fs::copy(public.join("retired-1700000000-x.pem"), public.join("of-an-operator.pem")).unwrap();
        let third = Pairs::open(dir.path(), HOUR).unwrap();
        assert!(third.public.contains(first.own.verifying_key()) && third.public.len() == 3, "what somebody else brought stays");
        assert!(!names(dir.path()).iter().any(|name| name.starts_with(RETIRED)));
    }

    #[test]
    fn a_rotation_that_was_cut_off_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let before = Pairs::open(dir.path(), HOUR).unwrap();
        // After each of its steps.
        retire(dir.path(), before.own.verifying_key()).unwrap();
        let half = Pairs::open(dir.path(), HOUR).unwrap();
        assert!(half.own == before.own && half.next == before.next && half.public.len() == 2);
        write(&dir.path().join(OWN), &read(&dir.path().join(NEXT)).unwrap()).unwrap();
        let after = Pairs::open(dir.path(), HOUR).unwrap();
        assert!(after.own == before.next && after.next != before.next && after.public.len() == 3);
        assert!(after.age() < HOUR);
        let old = fs::File::options().write(true).open(dir.path().join(OWN)).unwrap();
        old.set_modified(SystemTime::now() - 5 * HOUR).unwrap();
        assert!(Pairs::open(dir.path(), HOUR).unwrap().age() < HOUR, "the next one is new");
    }

    #[test]
    fn what_is_no_key_is_told() {
        let dir = tempfile::tempdir().unwrap();
        Pairs::open(dir.path(), HOUR).unwrap();
        fs::write(dir.path().join("public/broken.pem"), "x").unwrap();
        assert!(Pairs::open(dir.path(), HOUR).is_err());
        fs::remove_file(dir.path().join("public/broken.pem")).unwrap();
        fs::write(dir.path().join(NEXT), "x").unwrap();
        assert!(Pairs::open(dir.path(), HOUR).is_err());
    }
}
