//! The content files: `$home/images/<sha256>`, written once, shared by all images of the same content.
//!
//! An upload goes through a bounded channel to a thread of its own, which writes and inspects it, while each hash is computed
//! beside (`reading`). The file gets its final name only when it is whole and on disk; a name that begins with `.upload-` is of
//! an upload under way or of one that a crash has ended. What begins with `.staged-` is whole and waits to be imported.

mod lane;
mod pieces;
mod reading;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::{Error, Kind, Result, error::Internal};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

use crate::formats::Inspector;
use crate::model::Image;
use crate::signatures::Hash;
use lane::Lane;
pub use pieces::pieces;
use reading::Reading;

pub use reading::{Learned, examine, hex, unhex};

/// Pieces between the connection and the writer; with what the connection holds itself and what waits to be hashed, all the
/// memory an upload takes.
const PIECES: usize = 2;
/// After so many bytes they are sent on to the disk while more come: at the end there is little to wait for.
const FLUSH: u64 = 32 << 20;
const TEMPORARY: &str = ".upload-";
const STAGED: &str = ".staged-";
/// What is read of a file at once.
const BLOCK: usize = 256 << 10;

/// The directory of all content.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

/// What the directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// SHA-256 of finished content.
    pub content: Vec<String>,
    /// Ids of uploads that are not finished.
    pub uploads: Vec<String>,
    /// Ids of staged content.
    pub staged: Vec<String>,
}

/// What is known of content that has been read once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub size: u64,
    pub md5: String,
    pub sha256: String,
    pub sha512: String,
}

impl Facts {
    /// What is known of an image's content; empty what is not.
    pub fn of(image: &Image) -> Facts {
        let known = |text: &Option<String>| text.clone().unwrap_or_default();
        Facts {
            size: image.size.unwrap_or_default(),
            md5: known(&image.checksum),
            sha256: known(&image.sha256),
            sha512: known(&image.os_hash_value),
        }
    }

    /// Whether content that was read is the image's, as far as that is known.
    pub fn check(&self, image: &Image) -> Result<()> {
        let sized = image.size.is_none_or(|size| size == self.size);
        let algo = image.os_hash_algo.as_deref().unwrap_or_default();
        let named = image.sha256.as_deref().is_none_or(|value| value == self.sha256);
        let same = sized && named && image.os_hash_value.as_deref().is_none_or(|value| value == self.hash(algo));
        if same { Ok(()) } else { Err(Error::unavailable(format!("The content found for image {} is another one.", image.id))) }
    }

    /// The hash by an algorithm; SHA-512 unless it is another one that is computed.
    pub fn hash(&self, algo: &str) -> &str {
        match algo {
            "md5" => &self.md5,
            "sha256" => &self.sha256,
            _ => &self.sha512,
        }
    }
}

/// A whole upload, on disk under its temporary name. The file goes with this value unless [`Directory::publish`] takes it.
pub struct Written {
    temporary: Temporary,
    pub facts: Facts,
    pub inspector: Inspector,
    /// The digest that was asked for beside the others.
    pub signed: Option<Box<[u8]>>,
}

impl Written {
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }
    pub fn into_file(self) -> Temporary {
        self.temporary
    }
}

/// Removes the file when dropped.
pub struct Temporary(PathBuf);

impl Temporary {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.0.display(), %error, "removing an unfinished upload");
        }
    }
}

impl Directory {
    pub fn open(path: PathBuf) -> Result<Directory> {
        fs::create_dir_all(&path).internal("making the directory of images")?;
        Ok(Directory(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file of finished content; none when the name is no SHA-256, so that no other file can be meant.
    pub fn file(&self, sha256: &str) -> Option<PathBuf> {
        is_sha256(sha256).then(|| self.0.join(sha256))
    }

    fn temporary(&self, upload: &str) -> PathBuf {
        self.0.join(format!("{TEMPORARY}{upload}"))
    }

    /// Starts to write; at most `max` bytes are taken. `hash` is that of a signature.
    pub fn writer(&self, upload: &str, max: u64, hash: Option<Hash>) -> Result<Writer> {
        let (pieces, inbox) = mpsc::channel(PIECES);
        let (outcome, done) = oneshot::channel();
        let whole = Arc::new(AtomicBool::new(false));
        let (path, all_there) = (self.temporary(upload), whole.clone());
        std::thread::Builder::new()
            .name("image-upload".into())
            .spawn(move || {
                // Nobody waits any more: the file goes with the value.
                let _ = outcome.send(write(path, inbox, max, hash, &all_there));
            })
            .internal("starting a thread for an upload")?;
        Ok(Writer { pieces, done, whole })
    }

    /// Gives the content its final name; afterwards it survives a power cut. Blocks.
    pub fn publish(&self, written: &Written) -> Result<()> {
        self.name(&written.temporary.0, &written.facts)
    }

    fn name(&self, file: &Path, facts: &Facts) -> Result<()> {
        let target = self.file(&facts.sha256).ok_or_else(|| Error::internal("a content name that is no SHA-256"))?;
        // Equal content is kept as it is: guests may have it open.
        if fs::metadata(&target).is_ok_and(|have| have.len() == facts.size) {
            return Ok(());
        }
        fs::rename(file, &target).map_err(disk)?;
        self.sync()
    }

    /// Keeps a whole upload as staged content, under its own id. Blocks.
    pub fn stage(&self, upload: &str, written: Written) -> Result<Facts> {
        fs::rename(&written.temporary.0, self.staged(upload)).map_err(disk)?;
        self.sync()?;
        Ok(written.facts.clone())
    }

    /// A name for a file that comes of another, as if it were uploaded.
    pub fn scratch(&self, id: &str) -> Temporary {
        Temporary(self.temporary(id))
    }

    /// Keeps a finished file as staged content. Blocks.
    pub fn stage_file(&self, file: Temporary, id: &str) -> Result<()> {
        fs::rename(&file.0, self.staged(id)).map_err(disk)?;
        self.sync()
    }

    pub fn staged(&self, id: &str) -> PathBuf {
        self.0.join(format!("{STAGED}{id}"))
    }

    /// Brings content from a file, of this or another directory, under its name; the file stays. Blocks.
    pub fn take(&self, file: &Path, facts: &Facts) -> Result<()> {
        let temporary = Temporary(self.temporary(&base::id::uuid()));
        // Within the directory a second name costs nothing; another store has its content for itself.
        match file.parent() == Some(self.path()) {
            true => fs::hard_link(file, &temporary.0).map_err(disk)?,
            false => copy(file, &temporary.0, &facts.sha256)?,
        }
        self.name(&temporary.0, facts)
    }

    /// Removes finished content. Blocks.
    pub fn remove(&self, sha256: &str) -> Result<()> {
        let Some(file) = self.file(sha256) else { return Ok(()) };
        self.unlink(&file)
    }

    /// Removes what an upload has left. Blocks.
    pub fn remove_upload(&self, upload: &str) -> Result<()> {
        self.unlink(&self.temporary(upload))
    }

    /// Removes staged content. Blocks.
    pub fn unstage(&self, id: &str) -> Result<()> {
        self.unlink(&self.staged(id))
    }

    fn unlink(&self, file: &Path) -> Result<()> {
        match fs::remove_file(file) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).internal("removing image content"),
        }
    }

    fn sync(&self) -> Result<()> {
        File::open(&self.0).and_then(|dir| dir.sync_all()).map_err(disk)
    }

    /// What is there; names that are not ours are left out. Blocks.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.0).internal("reading the directory of images")? {
            let name = entry.internal("reading the directory of images")?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(upload) = name.strip_prefix(TEMPORARY).filter(|id| base::id::is_uuid(id)) {
                listing.uploads.push(upload.to_string());
            } else if let Some(id) = name.strip_prefix(STAGED).filter(|id| base::id::is_uuid(id)) {
                listing.staged.push(id.to_string());
            } else if is_sha256(name) {
                listing.content.push(name.to_string());
            }
        }
        Ok(listing)
    }
}

pub fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The near end of an upload's writer.
pub struct Writer {
    pieces: mpsc::Sender<Bytes>,
    done: oneshot::Receiver<Result<Written>>,
    /// Set when the last piece has been sent: an end without it is no end.
    whole: Arc<AtomicBool>,
}

impl Writer {
    /// Waits while the disk is behind. False: the writer has given up, [`Writer::finish`] says why.
    pub async fn write(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// All pieces are there: waits until they are on disk.
    pub async fn finish(self) -> Result<Written> {
        let Writer { pieces, done, whole } = self;
        whole.store(true, Ordering::Release);
        drop(pieces);
        done.await.internal("the writer of an upload has ended")?
    }

    /// There will be no more: waits until the file is removed.
    pub async fn abort(self) {
        let Writer { pieces, done, .. } = self;
        drop(pieces);
        let _ = done.await;
    }
}

fn write(path: PathBuf, mut inbox: mpsc::Receiver<Bytes>, max: u64, hash: Option<Hash>, whole: &AtomicBool) -> Result<Written> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(disk)?;
    let temporary = Temporary(path);
    let mut reading = Reading::start(hash)?;
    let (mut flusher, mut unflushed) = (None, 0);
    while let Some(piece) = inbox.blocking_recv() {
        if reading.size() + piece.len() as u64 > max {
            return Err(too_large(max));
        }
        reading.feed(&piece);
        file.write_all(&piece).map_err(disk)?;
        unflushed += piece.len() as u64;
        if unflushed >= FLUSH {
            unflushed = 0;
            flush(&mut flusher, &file)?;
        }
    }
    if !whole.load(Ordering::Acquire) {
        return Err(Error::invalid("The upload ended early."));
    }
    let flushed = flusher.map(Lane::end).transpose()?;
    flushed.map_or(Ok(()), |(_, outcome)| outcome).and_then(|()| file.sync_all()).map_err(disk)?;
    let Learned { facts, inspector, signed } = reading.end()?;
    Ok(Written { temporary, facts, inspector, signed })
}

/// A thread that brings to the disk what has been written so far, and the first thing that went wrong with that.
type Flusher = Lane<(), (File, io::Result<()>)>;

/// Has what is written brought to the disk, unless that is being done.
fn flush(flusher: &mut Option<Flusher>, file: &File) -> Result<()> {
    let flusher = match flusher {
        Some(flusher) => flusher,
        none => {
            let state = (file.try_clone().map_err(disk)?, Ok(()));
            none.insert(Lane::start("image-flush", state, |(file, outcome), ()| {
                // An error is told once only, also by the last sync.
                if outcome.is_ok() {
                    *outcome = file.sync_data();
                }
            })?)
        }
    };
    flusher.offer(());
    Ok(())
}

/// Copies a file whose content has this hash; what does not is damaged.
pub fn copy(from: &Path, to: &Path, sha256: &str) -> Result<()> {
    let mut source = File::open(from).internal("opening image content")?;
    let mut target = OpenOptions::new().read(true).write(true).create_new(true).open(to).map_err(disk)?;
    // Done by the kernel: where the file system can, both files share their blocks afterwards.
    io::copy(&mut source, &mut target).map_err(disk)?;
    if !verify(&mut target, sha256)? {
        return Err(Error::internal(format!("{} is damaged: its content is not what its name says", from.display())));
    }
    target.sync_all().map_err(disk)
}

/// Writes what comes into a new file; whether it has this hash.
pub async fn receive(pieces: impl Stream<Item = Result<Bytes>>, to: &Path, sha256: &str) -> Result<bool> {
    let mut file = tokio::fs::File::create_new(to).await.map_err(disk)?;
    let (mut pieces, mut hash) = (pin!(pieces), Sha256::new());
    while let Some(piece) = pieces.try_next().await? {
        hash.update(&piece);
        file.write_all(&piece).await.map_err(disk)?;
    }
    file.sync_all().await.map_err(disk)?;
    Ok(hex(&hash.finalize()) == sha256)
}

/// Whether a file's content has this hash. Blocks.
pub fn verify(file: &mut File, sha256: &str) -> Result<bool> {
    file.seek(SeekFrom::Start(0)).internal("reading image content")?;
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block).internal("reading image content")? {
            0 => return Ok(hex(&hash.finalize()) == sha256),
            n => hash.update(&block[..n]),
        }
    }
}

pub fn too_large(max: u64) -> Error {
    Error::new(Kind::TooLarge, format!("The incoming image is too large: at most {max} bytes are accepted."))
}

/// A full disk is told to the user as what it is.
pub fn disk(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::new(Kind::TooLarge, "Image storage media is full: there is not enough space for this image.").caused_by(error)
        }
        _ => Error::internal("writing image content").caused_by(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_fault_of_ours() {
        let error = disk(io::ErrorKind::StorageFull.into());
        assert!(error.is(Kind::TooLarge) && error.message().contains("storage media is full"));
        assert!(disk(io::ErrorKind::PermissionDenied.into()).is(Kind::Internal));
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path().join("images")).unwrap();
        for name in ["", "..", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63), &format!("{}/", "a".repeat(63))] {
            assert_eq!(directory.file(name), None, "{name}");
        }
        assert_eq!(directory.file(&"a1".repeat(32)), Some(directory.path().join("a1".repeat(32))));
    }
}
