//! Content on its way in and out.

use std::time::{Duration, Instant};

use base::{Context, Error, Kind, Result, Timestamp, error::Internal};
use http_api::body::Upload;

use crate::Images;
use crate::content::{Writer, Written, too_large};
use crate::db::images as db;
use crate::images::{not_found, record};
use crate::model::{Image, Status};

/// How often an upload shows that it is alive, and how long another controller waits for such a sign.
const SIGN: Duration = Duration::from_secs(20);
pub const SILENCE: Duration = Duration::from_secs(120);
/// How long a client may send nothing.
const PATIENCE: Duration = Duration::from_secs(300);
/// What is read on after a refusal, so that the client gets to read the answer.
const DRAIN: u64 = 32 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// An upload that this process is receiving; forgotten when dropped.
struct Receiving {
    images: Images,
    id: String,
}

impl Receiving {
    fn new(images: &Images) -> Receiving {
        let id = base::id::uuid();
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
    /// Takes the content of a queued image. `declared` is the size the client has announced; `waits`: it sends nothing
    /// before it is asked to.
    pub(crate) async fn content_upload(&self, ctx: &Context, id: &str, declared: Option<u64>, waits: bool, mut body: Upload) -> Result<()> {
        let (image, receiving) = match self.upload_begin(ctx, id, declared).await {
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
        tokio::spawn(async move { images.receive(&ctx, image, receiving, declared, body).await }).await.internal("receiving an upload")?
    }

    /// The content of an image from another service of this cloud.
    pub async fn content_put(&self, ctx: &Context, id: &str, body: Upload) -> Result<()> {
        self.content_upload(ctx, id, None, true, body).await
    }

    /// Checks whether the upload may be, and takes the image for it.
    async fn upload_begin(&self, ctx: &Context, id: &str, declared: Option<u64>) -> Result<(Image, Receiving)> {
        let image = self.image_for(ctx, id, "upload_image").await?;
        if image.status != Status::Queued {
            let from = image.status.as_str();
            return Err(Error::conflict(format!("Image status transition from {from} to saving is not allowed")));
        }
        let missing: Vec<&str> = [("disk_format", &image.disk_format), ("container_format", &image.container_format)]
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().is_none_or(|v| v.is_empty()).then_some(name))
            .collect();
        match &missing[..] {
            [] => {}
            [one] => return Err(Error::invalid(format!("Property {one} must be set prior to saving data."))),
            _ => return Err(Error::invalid(format!("Properties {} must be set prior to saving data.", missing.join(", ")))),
        }
        let max = self.core().config.int("image.max_bytes");
        if declared.is_some_and(|size| size > max) {
            return Err(too_large(max));
        }
        let receiving = Receiving::new(self);
        let (image_id, upload) = (image.id.clone(), receiving.id.clone());
        if !self.core().store.write(move |tx| db::upload_begin(tx, &image_id, &upload, Timestamp::now())).await? {
            return Err(Error::conflict(format!("Image {id} is no longer queued.")));
        }
        Ok((image, receiving))
    }

    async fn receive(&self, ctx: &Context, image: Image, receiving: Receiving, declared: Option<u64>, mut body: Upload) -> Result<()> {
        let taken = match self.take(&receiving.id, declared, &mut body).await {
            Ok(written) => self.keep(ctx, &image, &receiving.id, written).await,
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
    async fn take(&self, upload: &str, declared: Option<u64>, body: &mut Upload) -> Result<Written> {
        let writer = self.content().writer(upload, self.core().config.int("image.max_bytes"))?;
        if let Err(error) = self.pump(upload, body, &writer).await {
            writer.abort().await;
            return Err(error);
        }
        let written = writer.finish().await?;
        match declared {
            Some(size) if size != written.size => {
                Err(Error::invalid(format!("The upload has {} bytes, but {size} were announced.", written.size)))
            }
            _ => Ok(written),
        }
    }

    /// Hands the body to the writer until it ends or the writer gives up.
    async fn pump(&self, upload: &str, body: &mut Upload, writer: &Writer) -> Result<()> {
        let mut last_sign = Instant::now();
        loop {
            let piece = tokio::time::timeout(PATIENCE, body.chunk()).await;
            let piece =
                piece.map_err(|_| Error::invalid(format!("No data came for {} seconds.", PATIENCE.as_secs())).with_status(408))??;
            let Some(piece) = piece else { return Ok(()) };
            if !writer.write(piece).await {
                return Ok(());
            }
            if last_sign.elapsed() > SIGN {
                last_sign = Instant::now();
                let id = upload.to_string();
                if !self.core().store.write(move |tx| db::upload_alive(tx, &id, Timestamp::now())).await? {
                    return Err(gone());
                }
            }
        }
    }

    /// Judges what was uploaded, gives it its name and makes the image active.
    async fn keep(&self, ctx: &Context, image: &Image, upload: &str, written: Written) -> Result<()> {
        let mut virtual_size = None;
        // Other containers hold a disk inside something else, or next to it.
        if image.container_format.as_deref() == Some("bare") {
            let disk_format = image.disk_format.as_deref().unwrap_or_default();
            virtual_size = written.inspector.judge(disk_format).map_err(|why| {
                Error::new(Kind::UnsupportedMediaType, format!("The upload was refused and image {} stays queued: {why}.", image.id))
            })?;
        }
        let found = db::Content {
            size: written.size,
            virtual_size: virtual_size.filter(|size| i64::try_from(*size).is_ok()),
            checksum: written.md5.clone(),
            os_hash_value: written.sha512.clone(),
            sha256: written.sha256.clone(),
        };
        let sha256 = written.sha256.clone();
        let _publishing = self.0.publish.lock().await;
        let directory = self.content().clone();
        // The temporary file, if it is still there, is removed where blocking is allowed.
        tokio::task::spawn_blocking(move || directory.publish(&written)).await.internal("publishing image content")??;
        let (cause, upload, id) = (ctx.clone(), upload.to_string(), image.id.clone());
        let stored = self.core().store.write(move |tx| {
            if !db::upload_finish(tx, &upload, &found, Timestamp::now())? {
                return Err(gone());
            }
            let now = db::image_fetch(tx, &id, "")?.ok_or_else(gone)?;
            record(tx, &cause, "image.upload", &now)
        });
        if let Err(error) = stored.await {
            self.release_locked(&sha256).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Removes content that no image has any more.
    pub(crate) async fn content_release(&self, sha256: &str) -> Result<()> {
        let _publishing = self.0.publish.lock().await;
        self.release_locked(sha256).await
    }

    async fn release_locked(&self, sha256: &str) -> Result<()> {
        if self.core().store.read(|tx| db::content_used(tx, sha256)).await? {
            return Ok(());
        }
        let (directory, sha256) = (self.content().clone(), sha256.to_string());
        tokio::task::spawn_blocking(move || directory.remove(&sha256)).await.internal("removing image content")?
    }

    /// Brings files and records in line: what a crash has left over goes, images whose upload has died are queued again.
    pub(crate) async fn content_reconcile(&self) -> Result<()> {
        let _publishing = self.0.publish.lock().await;
        let directory = self.content().clone();
        let listing = tokio::task::spawn_blocking(move || directory.list()).await.internal("listing image content")??;
        let (records, uploads) = self.core().store.read(|tx| Ok((db::content_list(tx)?, db::upload_list(tx)?))).await?;
        // With one controller an upload that is not here is nowhere.
        let alone = self.core().store.is_sqlite();
        let live = |id: &str| self.uploads().contains(id);
        for (upload, seen) in uploads {
            if !live(&upload) && (alone || Timestamp::now().since(seen) > SILENCE) {
                tracing::info!(upload, "an upload has died; its image is queued again");
                self.core().store.write(move |tx| db::upload_abandon(tx, &upload, Timestamp::now())).await?;
            }
        }
        let stale: Vec<String> = listing.uploads.iter().filter(|id| !live(id)).cloned().collect();
        let orphans: Vec<String> = listing.content.iter().filter(|name| !records.contains(*name)).cloned().collect();
        for missing in records.iter().filter(|name| !listing.content.contains(name)) {
            tracing::error!(sha256 = missing, "an image has lost its content");
        }
        let directory = self.content().clone();
        let removed = tokio::task::spawn_blocking(move || {
            stale.iter().try_for_each(|id| directory.remove_upload(id))?;
            orphans.iter().try_for_each(|sha256| directory.remove(sha256))
        });
        removed.await.internal("removing image content")?
    }

    /// The image and its content, for a download; `None` when it has none yet.
    pub async fn content_open(&self, ctx: &Context, id: &str) -> Result<(Image, Option<std::fs::File>)> {
        let image = self.image_show(ctx, id).await?;
        if image.status == Status::Deactivated && !self.is_admin(ctx) {
            return Err(Error::forbidden("The requested image has been deactivated. Image data download is forbidden."));
        }
        self.core().authorize(crate::KIND, "download_image", ctx, &image)?;
        let Some(path) = image.sha256.as_deref().and_then(|sha256| self.content().file(sha256)) else { return Ok((image, None)) };
        let opened = tokio::task::spawn_blocking(move || std::fs::File::open(path)).await.internal("opening image content")?;
        match opened {
            Ok(file) => Ok((image, Some(file))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Deleted meanwhile, or lost.
                self.image_show(ctx, id).await.map_err(|_| not_found(id))?;
                Err(Error::unavailable(format!("The content of image {id} is not there.")).caused_by(error))
            }
            Err(error) => Err(error).internal("opening image content"),
        }
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
