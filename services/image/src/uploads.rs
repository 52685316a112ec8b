//! Content on its way in and out.

use std::cmp::Reverse;
use std::pin::pin;
use std::time::{Duration, Instant};

use axum::body::Body;
use base::{Context, Error, Kind, Result, Timestamp, error::Internal};
use http_api::body::Upload;

use crate::Images;
use crate::content::{Facts, Writer, Written, pieces, too_large};
use crate::db::{converted, images as db};
use crate::formats::{Inspector, Refusal};
use crate::images::{not_found, record};
use crate::limits::Resource;
use crate::model::{Image, Location, Status};
use crate::signatures::{Expected, Hash};
use crate::stores::{Place, Store};

/// How often an upload shows that it is alive, and how long another controller waits for such a sign.
const SIGN: Duration = Duration::from_secs(20);
pub const SILENCE: Duration = Duration::from_secs(120);
/// How long a client may send nothing.
const PATIENCE: Duration = Duration::from_secs(300);
/// What is read on after a refusal, so that the client gets to read the answer.
const DRAIN: u64 = 32 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A store, and where in it an image's content is.
pub type Source = (Store, Location);

/// What becomes of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The image is active afterwards.
    Keep,
    /// It waits for its import.
    Stage,
}

/// What is told of an upload before it comes.
#[derive(Clone)]
pub struct Incoming {
    pub goal: Goal,
    /// Where it is kept.
    pub store: Store,
    /// The size the client has announced.
    pub declared: Option<u64>,
    /// The caller's, for what is asked of others in his name.
    pub token: Option<String>,
}

/// An upload that this process is receiving; forgotten when dropped.
pub struct Receiving {
    images: Images,
    id: String,
}

impl Receiving {
    fn new(images: &Images) -> Receiving {
        Receiving::named(images, base::id::uuid())
    }
    pub fn id(&self) -> &str {
        &self.id
    }
    pub fn named(images: &Images, id: String) -> Receiving {
        images.uploads().insert(id.clone());
        Receiving { images: images.clone(), id }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.images.uploads().remove(&self.id);
    }
}

impl Images {
    /// Takes the content of a queued image. `waits`: the client sends nothing before it is asked to.
    pub(crate) async fn content_upload(&self, ctx: &Context, id: &str, incoming: Incoming, waits: bool, mut body: Upload) -> Result<()> {
        let (image, receiving, expected) = match self.upload_begin(ctx, id, &incoming).await {
            Ok(begun) => begun,
            Err(error) => {
                if !waits {
                    drain(&mut body).await;
                }
                return Err(error);
            }
        };
        // A task of its own: when the client goes away this handler is dropped, and the image must still be put back.
        let (images, ctx) = (self.clone(), ctx.clone());
        let receiving = tokio::spawn(async move { images.receive(&ctx, image, incoming, receiving, expected, body).await });
        receiving.await.internal("receiving an upload")?
    }

    /// The content of an image from another service of this cloud.
    pub async fn content_put(&self, ctx: &Context, id: &str, body: Upload) -> Result<()> {
        let incoming = Incoming { goal: Goal::Keep, store: self.stores().local().clone(), declared: None, token: None };
        self.content_upload(ctx, id, incoming, true, body).await
    }

    /// Checks whether the upload may be, and takes the image for it.
    async fn upload_begin(&self, ctx: &Context, id: &str, incoming: &Incoming) -> Result<(Image, Receiving, Option<Expected>)> {
        let (goal, declared) = (incoming.goal, incoming.declared);
        let (rule, to) = match goal {
            Goal::Keep => ("upload_image", Status::Saving),
            Goal::Stage => ("modify_image", Status::Uploading),
        };
        let image = self.image_for(ctx, id, rule).await?;
        if image.status != Status::Queued {
            let (from, to) = (image.status.as_str(), to.as_str());
            return Err(Error::conflict(format!("Image status transition from {from} to {to} is not allowed")));
        }
        if goal == Goal::Keep {
            formats_given(&image, "saving data")?;
        }
        let max = self.core().config.int("image.max_bytes");
        if declared.is_some_and(|size| size > max) {
            return Err(too_large(max));
        }
        let expected = match goal {
            Goal::Keep => self.signature_expected(incoming.token.as_deref(), &image).await?,
            Goal::Stage => None,
        };
        let receiving = Receiving::new(self);
        let (image_id, upload) = (image.id.clone(), receiving.id.clone());
        let (this, project) = (self.clone(), ctx.project_id().to_string());
        let total = if goal == Goal::Keep { Resource::SizeTotal } else { Resource::StageTotal };
        let begun = self.core().store.write(move |tx| {
            this.enforce_in(tx, &project, total, Images::announced(declared))?;
            let begun = db::upload_begin(tx, &image_id, &upload, to, Timestamp::now())?;
            // This one counts already.
            this.enforce_in(tx, &project, Resource::CountUploading, 0)?;
            Ok(begun)
        });
        if !begun.await? {
            return Err(Error::conflict(format!("Image {id} is no longer queued.")));
        }
        Ok((image, receiving, expected))
    }

    async fn receive(
        &self,
        ctx: &Context,
        image: Image,
        incoming: Incoming,
        receiving: Receiving,
        expected: Option<Expected>,
        mut body: Upload,
    ) -> Result<()> {
        let Incoming { goal, store, declared, .. } = incoming;
        let hash = expected.as_ref().map(Expected::hash);
        // Staged content lies beside what hosts take: importing it there costs nothing.
        let store = if goal == Goal::Stage { self.stores().local() } else { &store };
        let taken = match self.take(&receiving.id, store, declared, hash, &mut body).await {
            Ok(written) if goal == Goal::Keep => self.keep(ctx, &image, store, &receiving.id, expected, written).await,
            Ok(written) => self.stage(&image, &receiving.id, written).await,
            Err(error) => Err(error),
        };
        let Err(error) = taken else { return Ok(()) };
        let upload = receiving.id.clone();
        // Should this fail too, the reconciler puts the image back.
        if let Err(second) = self.core().store.write(move |tx| db::upload_abandon(tx, &upload, Timestamp::now())).await {
            tracing::warn!(image = image.id, "an upload could not be taken back: {}", second.chain());
        }
        drain(&mut body).await;
        Err(error)
    }

    /// Reads the whole body into a temporary file.
    async fn take(&self, upload: &str, store: &Store, declared: Option<u64>, hash: Option<Hash>, body: &mut Upload) -> Result<Written> {
        let max = self.core().config.int("image.max_bytes");
        let written = self.write_down(upload, store, max, body, hash, true).await?;
        match declared {
            Some(size) if size != written.facts.size => {
                Err(Error::invalid(format!("The upload has {} bytes, but {size} were announced.", written.facts.size)))
            }
            _ => Ok(written),
        }
    }

    /// Reads a body of at most `max` bytes into a temporary file. `signs`: the image's record shows that it is alive.
    pub(crate) async fn write_down(
        &self,
        upload: &str,
        store: &Store,
        max: u64,
        body: &mut Upload,
        hash: Option<Hash>,
        signs: bool,
    ) -> Result<Written> {
        let directory = store.directory().unwrap_or(self.stores().local_directory());
        let writer = directory.writer(upload, max, hash)?;
        if let Err(error) = self.pump(upload, body, &writer, signs).await {
            writer.abort().await;
            return Err(error);
        }
        writer.finish().await
    }

    /// Hands the body to the writer until it ends or the writer gives up.
    async fn pump(&self, upload: &str, body: &mut Upload, writer: &Writer, signs: bool) -> Result<()> {
        let mut last_sign = Instant::now();
        loop {
            let piece = tokio::time::timeout(PATIENCE, body.chunk()).await;
            let piece =
                piece.map_err(|_| Error::invalid(format!("No data came for {} seconds.", PATIENCE.as_secs())).with_status(408))??;
            let Some(piece) = piece else { return Ok(()) };
            if !writer.write(piece).await {
                return Ok(());
            }
            if signs && last_sign.elapsed() > SIGN {
                last_sign = Instant::now();
                let id = upload.to_string();
                if !self.core().store.write(move |tx| db::upload_alive(tx, &id, Timestamp::now())).await? {
                    return Err(gone());
                }
            }
        }
    }

    /// Waits for what may take long, and shows meanwhile that the upload is alive.
    async fn alive_while<T>(&self, upload: &str, work: impl Future<Output = T>) -> Result<T> {
        let sign = || {
            let (store, id) = (self.core().store.clone(), upload.to_string());
            // An upload that is over is told by what comes after, which tidies up.
            async move { store.write(move |tx| db::upload_alive(tx, &id, Timestamp::now())).await.map(drop) }
        };
        signing(work, SIGN, sign).await
    }

    /// Keeps what was uploaded for the import.
    async fn stage(&self, image: &Image, upload: &str, written: Written) -> Result<()> {
        let (directory, id) = (self.stores().local_directory().clone(), upload.to_string());
        let facts = tokio::task::spawn_blocking(move || directory.stage(&id, written)).await.internal("staging image content")??;
        let (image_id, id) = (image.id.clone(), upload.to_string());
        let stored = self.core().store.write(move |tx| db::staged_set(tx, &image_id, &id, facts.size, Timestamp::now()));
        if !stored.await? {
            let (directory, id) = (self.stores().local_directory().clone(), upload.to_string());
            tokio::task::spawn_blocking(move || directory.unstage(&id)).await.internal("removing staged content")??;
            return Err(gone());
        }
        Ok(())
    }

    /// Judges what was uploaded, gives it its name and makes the image active.
    async fn keep(
        &self,
        ctx: &Context,
        image: &Image,
        store: &Store,
        upload: &str,
        expected: Option<Expected>,
        written: Written,
    ) -> Result<()> {
        if let Some(expected) = expected {
            expected.check(&image.id, written.signed.as_deref())?;
        }
        let found = self.judge(image, written.facts.clone(), &written.inspector)?;
        let sha256 = written.facts.sha256.clone();
        let (mut written, mut url) = (written, String::new());
        if store.directory().is_none() {
            // Far away this may take its time, in which others go on.
            let (place, image, name) = (store.clone(), image.clone(), upload.to_string());
            let sending =
                tokio::task::spawn_blocking(move || place.put(written.path(), &written.facts, &image, &name).map(|url| (written, url)));
            (written, url) = self.alive_while(upload, sending).await?.internal("sending image content")??;
        }
        let _publishing = self.alive_while(upload, self.0.publish.lock()).await?;
        let (place, owned, name) = (store.clone(), image.clone(), upload.to_string());
        // The temporary file, if it is still there, is removed where blocking is allowed.
        let publish = move || match place.directory() {
            Some(directory) => directory.publish(&written).map(|()| url),
            // Taken away meanwhile with the last image that had it.
            None if !place.has(place.key(&owned.id, &written.facts.sha256))? => place.put(written.path(), &written.facts, &owned, &name),
            None => Ok(url),
        };
        let url = self.alive_while(upload, tokio::task::spawn_blocking(publish)).await?.internal("publishing image content")??;
        let (cause, upload, id, places) = (ctx.clone(), upload.to_string(), image.id.clone(), [Location::at(&store.id, url)]);
        let stored = self.core().store.write(move |tx| {
            let held = db::upload_holds(tx, &id, &upload)?;
            if !held || !db::content_set(tx, &id, Status::Saving, &found, &places, Timestamp::now())? {
                return Err(gone());
            }
            let now = db::image_fetch(tx, &id, "")?.ok_or_else(gone)?;
            record(tx, &cause, "image.upload", &now)
        });
        if let Err(error) = stored.await {
            self.release_locked(store, store.key(&image.id, &sha256)).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Removes what a deleted image leaves in stores, unless another image has it.
    pub(crate) async fn content_forget(&self, image: &Image, staged: Option<String>) -> Result<()> {
        if let Some(sha256) = &image.sha256 {
            // It may have been cached.
            self.content_release(self.stores().local(), sha256).await?;
            for store in image.locations.iter().filter_map(|location| self.stores().find(&location.store)) {
                self.content_release(store, store.key(&image.id, sha256)).await?;
            }
        }
        let Some(staged) = staged else { return Ok(()) };
        let directory = self.stores().local_directory().clone();
        tokio::task::spawn_blocking(move || directory.unstage(&staged)).await.internal("removing staged content")?
    }

    /// Removes content from a store when no image has it there any more.
    pub(crate) async fn content_release(&self, store: &Store, key: &str) -> Result<()> {
        // What an image has for itself is about to become nobody else's.
        let _publishing = if store.is_by_image() { None } else { Some(self.0.publish.lock().await) };
        self.release_locked(store, key).await
    }

    async fn release_locked(&self, store: &Store, key: &str) -> Result<()> {
        let used = if store.is_by_image() { db::content_used_by_image } else { db::content_used };
        if self.core().store.read(|tx| used(tx, &store.id, key)).await? {
            return Ok(());
        }
        let (place, key) = (store.clone(), key.to_string());
        tokio::task::spawn_blocking(move || place.remove(&key)).await.internal("removing image content")?
    }

    /// Brings files and records in line: what a crash has left over goes, images whose upload has died are queued again.
    pub(crate) async fn content_reconcile(&self) -> Result<()> {
        // With one controller an upload that is not here is nowhere.
        let alone = self.core().store.is_sqlite();
        let live = |id: &str| self.uploads().contains(id);
        for (upload, seen) in self.core().store.read(db::upload_list).await? {
            if !live(&upload) && (alone || Timestamp::now().since(seen) > SILENCE) {
                tracing::info!(upload, "an upload has died; its image is queued again");
                self.core().store.write(move |tx| db::upload_abandon(tx, &upload, Timestamp::now())).await?;
            }
        }
        if self.core().store.read(converted::is_any_orphaned).await? {
            self.core().store.write(converted::orphans_forget).await?;
        }
        // A store that is out of reach keeps nobody from tidying the others.
        let mut outcome = Ok(());
        for store in self.stores().all().iter().filter(|store| !store.is_read_only()) {
            if let Err(error) = self.store_reconcile(store).await {
                tracing::warn!(store = store.id, "a store could not be tidied: {}", error.chain());
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn store_reconcile(&self, store: &Store) -> Result<()> {
        // Nobody else's content is in what an image has for itself: there the cluster may take its time.
        let by_image = store.is_by_image();
        let _publishing = if by_image { None } else { Some(self.0.publish.lock().await) };
        let place = store.clone();
        // Listed before the records are read: what comes meanwhile is not looked at.
        let listing = tokio::task::spawn_blocking(move || place.list()).await.internal("listing image content")??;
        let names = if by_image { db::content_images } else { db::content_list };
        let read = self.core().store.read(|tx| Ok((names(tx, &store.id)?, db::staged_list(tx)?, db::upload_list(tx)?)));
        let (records, staged, under_way) = read.await?;
        let live = |id: &str| self.uploads().contains(id);
        for missing in records.iter().filter(|name| !listing.content.contains(name)) {
            tracing::error!(content = missing, store = store.id, "an image has lost its content");
        }
        for orphan in listing.content.iter().filter(|name| !records.contains(*name)) {
            // An upload of this very image looks for its content when it has the lock.
            let _publishing = if by_image { Some(self.0.publish.lock().await) } else { None };
            self.release_locked(store, orphan).await?;
        }
        // A directory is this controller's; in what several share the others' uploads are known by their records.
        let shared = |id: &String| store.directory().is_none() && (staged.contains(id) || under_way.iter().any(|(upload, _)| upload == id));
        let uploads: Vec<String> = listing.uploads.iter().filter(|id| !live(id) && !shared(id)).cloned().collect();
        let place = store.clone();
        let removed = tokio::task::spawn_blocking(move || uploads.iter().try_for_each(|id| place.remove_upload(id)));
        removed.await.internal("removing unfinished image content")??;
        let stale: Vec<String> = listing.staged.iter().filter(|id| !live(id) && !staged.contains(*id)).cloned().collect();
        let Some(directory) = store.directory().cloned() else { return Ok(()) };
        let removed = tokio::task::spawn_blocking(move || stale.iter().try_for_each(|id| directory.unstage(id)));
        removed.await.internal("removing image content")?
    }

    /// Whether a store without files has the content.
    pub(crate) fn is_elsewhere(&self, image: &Image) -> bool {
        image.locations.iter().filter_map(|location| self.stores().find(&location.store)).any(|store| store.directory().is_none())
    }

    /// An image for a download, and the places that have its content, the one to read from first; none while it has none.
    /// `prefer`: stores to take it from, if they have it.
    pub(crate) async fn content_find(&self, ctx: &Context, id: &str, prefer: &[&str]) -> Result<(Image, Vec<Source>)> {
        let image = self.image_show(ctx, id).await?;
        if image.status == Status::Deactivated && !self.is_admin(ctx) {
            return Err(Error::forbidden("The requested image has been deactivated. Image data download is forbidden."));
        }
        self.core().authorize(crate::KIND, "download_image", ctx, &image)?;
        if !prefer.is_empty() {
            self.core().authorize(crate::KIND, "download_from_store", ctx, &image)?;
            prefer.iter().try_for_each(|id| self.stores().named(id).map(drop))?;
        }
        let places = image.locations.iter().filter_map(|location| Some((self.stores().find(&location.store)?.clone(), location.clone())));
        let mut places: Vec<Source> = places.collect();
        // What is at hand as a file before what must be brought.
        let last = |store: &Store| (!prefer.contains(&store.id.as_str()), store.directory().is_none(), Reverse(store.weight));
        places.sort_by_key(|(store, _)| last(store));
        Ok((image, places))
    }

    /// `length` bytes from `start` of an image's content, from the first of these places that gives them.
    pub(crate) async fn content_read(&self, ctx: &Context, image: &Image, places: &[Source], start: u64, length: u64) -> Result<Body> {
        let mut failure = None;
        for (store, location) in places {
            let read = match &store.place {
                Place::Directory(_) => self.file_read(store, image, start, length).await,
                Place::Web => self.web_read(image, &location.url, start, length).await.map(Some),
                // It is brought to where hosts take it from, and read there.
                Place::Bucket(_) | Place::Pool(_) | Place::Volumes(_) => match self.cache_now(&image.id).await {
                    Ok(()) => self.file_read(self.stores().local(), image, start, length).await,
                    Err(error) => Err(error),
                },
            };
            match read {
                Ok(Some(body)) => return Ok(body),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(image = image.id, store = store.id, "content could not be read: {}", error.chain());
                    failure = Some(error);
                }
            }
        }
        // Deleted meanwhile, or lost.
        self.image_show(ctx, &image.id).await.map_err(|_| not_found(&image.id))?;
        let missing = || Error::unavailable(format!("The content of image {} is not there.", image.id));
        Err(match failure {
            Some(error) if error.is(Kind::Internal) => error,
            // Where it lies is not for everybody who may read it.
            Some(error) => missing().caused_by(error),
            None => missing(),
        })
    }

    /// None when the store does not have it.
    async fn file_read(&self, store: &Store, image: &Image, start: u64, length: u64) -> Result<Option<Body>> {
        let Some(path) = store.file(image.sha256.as_deref().unwrap_or_default()) else { return Ok(None) };
        match tokio::fs::File::open(path).await {
            Ok(file) => Ok(Some(Body::from_stream(pieces(file.into_std().await, start, length)))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).internal("opening image content"),
        }
    }

    /// What the content is, or why it is refused.
    pub(crate) fn judge(&self, image: &Image, facts: Facts, inspector: &Inspector) -> Result<db::Content> {
        let (mut virtual_size, mut format) = (None, None);
        // Other containers hold a disk inside something else, or next to it.
        if image.container_format.as_deref() == Some("bare") {
            let disk_format = image.disk_format.as_deref().unwrap_or_default();
            format = inspector.format().map(|format| format.to_string());
            virtual_size = match inspector.judge(disk_format) {
                Ok(size) => size,
                Err(Refusal::Mismatch(_)) if !self.core().config.flag("image.require_format_match") => None,
                Err(why) => {
                    let text = format!("The upload was refused and image {} stays queued: {why}.", image.id);
                    return Err(Error::new(Kind::UnsupportedMediaType, text));
                }
            };
        }
        let virtual_size = virtual_size.filter(|size| i64::try_from(*size).is_ok());
        Ok(db::Content { facts, virtual_size, format, hash_algo: "sha512" })
    }
}

/// Waits for what may take long, and gives a sign of life from time to time. It is never left before its end: what it does would go on, and
/// undo what comes after. A sign that fails is told then.
async fn signing<T, S: Future<Output = Result<()>>>(work: impl Future<Output = T>, every: Duration, sign: impl Fn() -> S) -> Result<T> {
    let mut work = pin!(work);
    let mut outcome = Ok(());
    loop {
        if let Ok(done) = tokio::time::timeout(every, &mut work).await {
            return outcome.map(|()| done);
        }
        outcome = outcome.and(sign().await);
    }
}

/// Both formats must be said before content is taken.
pub fn formats_given(image: &Image, before: &str) -> Result<()> {
    let missing: Vec<&str> = [("disk_format", &image.disk_format), ("container_format", &image.container_format)]
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().is_none_or(|v| v.is_empty()).then_some(name))
        .collect();
    match &missing[..] {
        [] => Ok(()),
        [one] => Err(Error::invalid(format!("Property {one} must be set prior to {before}."))),
        _ => Err(Error::invalid(format!("Properties {} must be set prior to {before}.", missing.join(", ")))),
    }
}

/// Reads on for a while and forgets it: a client that is still sending would not see the answer.
async fn drain(body: &mut Upload) {
    let reading = async {
        let mut read = 0;
        while let Ok(Some(piece)) = body.chunk().await {
            read += piece.len() as u64;
            if read > DRAIN {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

fn gone() -> Error {
    Error::new(
        Kind::Gone,
        "The image could not be found after the upload: it may have been deleted meanwhile. What was uploaded is removed.",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_is_not_left_before_its_end() {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let (end, done) = (std::sync::Mutex::new(Some(end)), AtomicBool::new(false));
        let work = async {
            let _ = ended.await;
            done.store(true, Ordering::Relaxed);
        };
        let signs = std::sync::atomic::AtomicU32::new(0);
        // The first sign fails, the third ends the work.
        let sign = || {
            let number = signs.fetch_add(1, Ordering::Relaxed);
            if number == 2 {
                drop(end.lock().unwrap().take());
            }
            std::future::ready(if number == 0 { Err(Error::unavailable("no sign")) } else { Ok(()) })
        };
        let error = signing(work, Duration::from_millis(1), sign).await.unwrap_err();
        assert_eq!((error.message(), done.load(Ordering::Relaxed)), ("no sign", true));
        assert_eq!(signing(async { 7 }, Duration::from_secs(60), || std::future::ready(Err(gone()))).await.unwrap(), 7);
    }
}
