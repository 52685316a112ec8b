//! The host's image cache: each image once, under its SHA-256, verified when it came in.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base::error::Internal;
use base::{Error, Result};
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};

use crate::disks;

/// How long an image that no guest uses is kept.
const UNUSED: Duration = Duration::from_secs(24 * 3600);

/// Writes the data of the image with this SHA-256 to a file, in place of what was there. What arrives is verified afterwards. It may come from another host
/// when the last argument says so; then true is answered.
pub type Fetch = Arc<dyn Fn(String, PathBuf, bool) -> BoxFuture<'static, Result<bool>> + Send + Sync>;

/// Where images come from.
#[derive(Clone)]
pub enum ImageSource {
    /// The controller's own content-addressed directory, in an all-in-one.
    Directory(PathBuf),
    /// The controller on another machine.
    Remote(Fetch),
}

pub struct Cache {
    directory: PathBuf,
    source: ImageSource,
    /// One filler for each image at a time.
    filling: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

fn is_hash(sha256: &str) -> bool {
    sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Cache {
    pub fn open(directory: PathBuf, source: ImageSource) -> Result<Cache> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).internal("cannot make the image cache")?;
        // What was being fetched when the process was killed is nobody's: fetching starts anew under another name.
        for entry in std::fs::read_dir(&directory).internal("cannot read the image cache")?.flatten() {
            if entry.file_name().to_string_lossy().contains(".part-") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(Cache { directory, source, filling: Mutex::default() })
    }

    /// Path of a cached image, ready to boot from; fetched first when it is not there.
    pub async fn image(&self, sha256: &str, format: &str) -> Result<PathBuf> {
        if !is_hash(sha256) || !matches!(format, "raw" | "qcow2") {
            return Err(Error::invalid(format!("`{sha256}` ({format}) names no image")));
        }
        let path = self.directory.join(sha256);
        let turn = self.turn(sha256);
        let _turn = turn.lock().await;
        if path.exists() {
            self.used(sha256);
            return Ok(path);
        }
        let (source, to, hash, kind) = (self.source.clone(), path.clone(), sha256.to_string(), format.to_string());
        // Runs to its end even when the asker leaves: the next one will want it.
        tokio::spawn(async move { fill(source, to, hash, kind).await }).await.internal("filling the image cache broke off")??;
        self.used(sha256);
        Ok(path)
    }

    /// Whether an image is here, or on its way here.
    pub fn expects(&self, sha256: &str) -> bool {
        let coming = || self.turn(sha256).try_lock().is_err();
        is_hash(sha256) && (self.path(sha256).exists() || coming())
    }

    /// An image that is here once nobody fetches it any more; none when it did not come.
    pub async fn arrived(&self, sha256: &str) -> Option<PathBuf> {
        let turn = self.turn(sha256);
        let _turn = turn.lock().await;
        Some(self.path(sha256)).filter(|path| path.exists())
    }

    /// Held by who fetches it.
    fn turn(&self, sha256: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.filling.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entry(sha256.to_string()).or_default().clone()
    }

    /// Where an image is, if it is there.
    pub fn path(&self, sha256: &str) -> PathBuf {
        self.directory.join(sha256)
    }

    /// Marks the last use by a file of its own: a hard-linked image shares its times with the original.
    fn used(&self, sha256: &str) {
        // Losing a mark costs at most one more fetch.
        let _ = File::create(self.directory.join(format!("{sha256}.used")));
    }

    /// Drops images that no document names and nobody asked for lately, and what broken-off fills left.
    pub fn prune(&self, in_use: impl Fn(&str) -> bool, now: SystemTime) -> Result<()> {
        for entry in std::fs::read_dir(&self.directory).internal("cannot list the image cache")? {
            let entry = entry.internal("cannot list the image cache")?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let (hash, rest) = name.split_at_checked(64).unwrap_or((&name, ""));
            if !is_hash(hash) || rest == ".used" || (rest.is_empty() && in_use(hash)) {
                continue;
            }
            let mark = if rest.is_empty() { self.directory.join(format!("{hash}.used")) } else { entry.path() };
            let last = std::fs::metadata(&mark).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            if now.duration_since(last).is_ok_and(|age| age > UNUSED) {
                std::fs::remove_file(entry.path()).internal("cannot drop a cached image")?;
                let _ = std::fs::remove_file(self.directory.join(format!("{hash}.used")));
            }
        }
        Ok(())
    }
}

async fn fill(source: ImageSource, to: PathBuf, sha256: String, format: String) -> Result<()> {
    let part = to.with_extension(format!("part-{}", base::id::hex()));
    let filled = fill_by(&source, &part, &to, &sha256, &format).await;
    if filled.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    filled
}

async fn fill_by(source: &ImageSource, part: &Path, to: &Path, sha256: &str, format: &str) -> Result<()> {
    let ImageSource::Remote(fetch) = source else { return keep(source, part, to, sha256, format).await };
    let lent = fetch(sha256.to_string(), part.to_path_buf(), true).await?;
    match keep(source, part, to, sha256, format).await {
        Err(error) if lent => {
            tracing::error!("another host's copy is of no use: {}", error.chain());
            fetch(sha256.to_string(), part.to_path_buf(), false).await?;
            keep(source, part, to, sha256, format).await
        }
        outcome => outcome,
    }
}

/// Verifies what has come and gives it its name.
async fn keep(source: &ImageSource, part: &Path, to: &Path, sha256: &str, format: &str) -> Result<()> {
    let (source, part, to) = (source.clone(), part.to_path_buf(), to.to_path_buf());
    let (sha256, format) = (sha256.to_string(), format.to_string());
    let keep = move || {
        bring(&source, &part, &sha256)?;
        verify(&part, &sha256, &format)?;
        std::fs::rename(&part, &to).internal("cannot name a cached image")?;
        to.parent().map_or(Ok(()), |d| File::open(d).and_then(|d| d.sync_all())).internal("cannot sync the image cache")
    };
    tokio::task::spawn_blocking(keep).await.internal("filling the image cache broke off")?
}

fn bring(source: &ImageSource, part: &Path, sha256: &str) -> Result<()> {
    if let ImageSource::Directory(directory) = source {
        let from = directory.join(sha256);
        // A link costs nothing; on another file system a copy (a reflink where the file system can).
        if std::fs::hard_link(&from, part).is_ok() {
            return Ok(());
        }
        match std::fs::copy(&from, part) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Error::not_found("Image data", sha256)),
            Err(e) => return Err(Error::internal("cannot copy an image into the cache").caused_by(e)),
        }
    }
    File::open(part).and_then(|f| f.sync_all()).internal("cannot sync a cached image")
}

/// The SHA-256 of a file.
pub(crate) fn hash(path: &Path) -> Result<String> {
    let mut file = File::open(path).internal("cannot read a cached image")?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut chunk).internal("cannot read a cached image")? {
            0 => break,
            n => hash.update(&chunk[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn verify(part: &Path, sha256: &str, format: &str) -> Result<()> {
    let found = hash(part)?;
    if !found.eq_ignore_ascii_case(sha256) {
        return Err(Error::internal(format!("image {sha256} is damaged: its data hash to {found}")));
    }
    disks::virtual_bytes(part, format).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn images_come_in_once_verified_and_leave_when_unused() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("images");
        std::fs::create_dir(&source).unwrap();
        let cache = Cache::open(home.path().join("cache"), ImageSource::Directory(source.clone())).unwrap();
        let data = b"some image".to_vec();
        let hash: String = Sha256::digest(&data).iter().map(|b| format!("{b:02x}")).collect();
        assert!(cache.image(&hash, "raw").await.unwrap_err().is(base::Kind::NotFound));
        std::fs::write(source.join(&hash), b"other bytes").unwrap();
        assert!(cache.image(&hash, "raw").await.unwrap_err().message().contains("damaged"));
        std::fs::write(source.join(&hash), &data).unwrap();
        let path = cache.image(&hash, "raw").await.unwrap();
        std::fs::remove_file(source.join(&hash)).unwrap();
        assert_eq!(std::fs::read(cache.image(&hash, "raw").await.unwrap()).unwrap(), data);
        assert!(cache.image("../../etc/passwd", "raw").await.is_err());

        // From another machine the same: only what hashes to its name comes in, and nothing of the rest stays.
        let sent = Arc::new(Mutex::new((b"half of it".to_vec(), b"half of it".to_vec())));
        let given = sent.clone();
        let fetch: Fetch = Arc::new(move |_, to, elsewhere| {
            let given = given.clone();
            Box::pin(async move {
                let (lent, own) = &*given.lock().unwrap();
                std::fs::write(to, if elsewhere { lent } else { own }).internal("writing")?;
                Ok(elsewhere)
            })
        });
        let far = Cache::open(home.path().join("far"), ImageSource::Remote(fetch)).unwrap();
        assert!(far.image(&hash, "raw").await.unwrap_err().message().contains("damaged"));
        assert_eq!(std::fs::read_dir(home.path().join("far")).unwrap().count(), 0);
        // Another host's copy that is damaged is fetched again from where it cannot be.
        sent.lock().unwrap().1 = data.clone();
        assert_eq!(std::fs::read(far.image(&hash, "raw").await.unwrap()).unwrap(), data);

        let later = SystemTime::now() + UNUSED + Duration::from_secs(60);
        cache.prune(|h| h == hash, later).unwrap();
        cache.prune(|_| false, SystemTime::now()).unwrap();
        assert!(path.exists());
        cache.prune(|_| false, later).unwrap();
        assert_eq!(std::fs::read_dir(home.path().join("cache")).unwrap().count(), 0);
    }
}
