//! The cache: content of images of other stores, copied into the directory that hosts take it from.
//!
//! What is in the local store is as good as cached: an entry of it costs nothing.

use std::sync::Arc;

use base::{Context, Error, Kind, Result, Timestamp, error::Internal};
use store::Tx;

use crate::bring::{Failures, Turn};
use crate::content::{self, Facts, Temporary};
use crate::db::cache::{self as db, Cached};
use crate::db::images::{self, Content};
use crate::images::not_found;
use crate::model::{Image, Location, Status};
use crate::{Images, KIND};

/// What `DELETE /v2/cache` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    All,
    Cached,
    Queued,
}

impl Part {
    fn holds(self, entry: &Cached) -> bool {
        match self {
            Part::All => true,
            Part::Cached => entry.cached,
            Part::Queued => !entry.cached,
        }
    }
}

/// Where content that is cached comes from.
enum Source {
    /// It is in the local store, or cached for another image: there is nothing to do.
    Local,
    /// A file of its own, the copy of what a store has.
    Copied(Temporary),
    /// A file of its own, of what others have, and what has been learned of it.
    Fetched(Temporary, Content),
}

impl Images {
    fn cache_access(&self, ctx: &Context, rule: &str) -> Result<()> {
        self.core().authorize(KIND, rule, ctx, &())
    }

    pub async fn cache_list(&self, ctx: &Context) -> Result<Vec<Cached>> {
        self.cache_access(ctx, "cache_list")?;
        self.core().store.read(db::cache_list).await
    }

    /// Asks for an image to be cached, which is done by the reconciler.
    pub async fn cache_queue(&self, ctx: &Context, id: &str) -> Result<()> {
        let image = self.image_for(ctx, id, "cache_image").await?;
        if image.status != Status::Active {
            return Err(Error::invalid("Only images with status active can be targeted for queueing"));
        }
        self.core().store.write(move |tx| db::cache_queue(tx, &image.id, Timestamp::now())).await?;
        self.0.caching.nudge();
        Ok(())
    }

    /// Takes an image out of the cache or its queue.
    pub async fn cache_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        match self.image_show(ctx, id).await {
            Ok(image) => self.core().authorize(KIND, "cache_delete", ctx, &image)?,
            Err(error) => {
                let known = self.core().store.read(|tx| db::cache_fetch(tx, id)).await?;
                known.ok_or(error)?;
                self.cache_access(ctx, "cache_delete")?;
            }
        }
        self.cache_drop(id).await
    }

    pub async fn cache_clear(&self, ctx: &Context, part: Part) -> Result<()> {
        self.cache_access(ctx, "cache_delete")?;
        let entries = self.core().store.read(db::cache_list).await?;
        for entry in entries.iter().filter(|entry| part.holds(entry)) {
            self.cache_drop(&entry.image_id).await?;
        }
        Ok(())
    }

    /// Removes entries of images that are gone.
    pub async fn cache_clean(&self, ctx: &Context) -> Result<()> {
        self.cache_access(ctx, "cache_clean")?;
        self.cache_tidy().await
    }

    /// Removes what was not wanted for longest until no more than `image.cache_max_bytes` are cached; answers how many and how much.
    pub async fn cache_prune(&self, ctx: &Context) -> Result<(u64, u64)> {
        self.cache_access(ctx, "cache_prune")?;
        let entries: Vec<Cached> = self.core().store.read(db::cache_list).await?.into_iter().filter(|entry| entry.cached).collect();
        let max = self.core().config.int("image.cache_max_bytes");
        let mut bytes: u64 = entries.iter().map(|entry| entry.size).sum();
        let mut pruned = (0, 0);
        for entry in entries {
            if bytes <= max {
                break;
            }
            self.cache_drop(&entry.image_id).await?;
            bytes -= entry.size;
            pruned = (pruned.0 + 1, pruned.1 + entry.size);
        }
        Ok(pruned)
    }

    /// Where an image is cached: here, or nowhere.
    pub async fn cache_nodes(&self, ctx: &Context, id: &str) -> Result<Vec<String>> {
        self.cache_access(ctx, "list_cached_nodes")?;
        self.image_show(ctx, id).await?;
        let entry = self.core().store.read(|tx| db::cache_fetch(tx, id)).await?;
        Ok(entry.filter(|entry| entry.cached).map(|_| self.core().config.public_url()).into_iter().collect())
    }

    /// If the image is cached, it is noted that it was asked for.
    pub(crate) async fn cache_hit(&self, id: &str) -> Result<()> {
        let entry = self.core().store.read(|tx| db::cache_fetch(tx, id)).await?;
        if !entry.is_some_and(|entry| entry.cached) {
            return Ok(());
        }
        let id = id.to_string();
        self.core().store.write(move |tx| db::cache_hit(tx, &id, Timestamp::now())).await
    }

    async fn cache_drop(&self, id: &str) -> Result<()> {
        let name = id.to_string();
        let image = self.core().store.write(move |tx| {
            db::cache_delete(tx, &name)?;
            images::image_fetch(tx, &name, "")
        });
        match image.await?.and_then(|image| image.sha256) {
            Some(sha256) => self.content_release(self.stores().local(), &sha256).await,
            None => Ok(()),
        }
    }

    async fn cache_tidy(&self) -> Result<()> {
        for entry in self.core().store.read(db::cache_list).await? {
            let image = self.core().store.read(|tx| images::image_fetch(tx, &entry.image_id, "")).await?;
            if image.is_none_or(|image| !matches!(image.status, Status::Active | Status::Deactivated)) {
                self.cache_drop(&entry.image_id).await?;
            }
        }
        Ok(())
    }

    /// Brings what is queued. An image that cannot be read now stays queued.
    pub(crate) async fn cache_fill(&self) -> Result<()> {
        self.cache_tidy().await?;
        for entry in self.core().store.read(db::cache_list).await?.into_iter().filter(|entry| !entry.cached) {
            if let Err(error) = self.cache_bring(&entry.image_id, db::cache_done).await {
                tracing::warn!(image = entry.image_id, "an image could not be cached: {}", error.chain());
            }
        }
        Ok(())
    }

    /// Caches an image without waiting for its turn. What fails leaves nothing behind, no place in the queue either.
    pub(crate) async fn cache_now(&self, id: &str) -> Result<()> {
        self.cache_bring(id, db::cache_put).await
    }

    /// `noted` writes that it is cached.
    async fn cache_bring(&self, id: &str, noted: fn(&Tx, &str, u64, Timestamp) -> Result<()>) -> Result<()> {
        let brought = self.cache_make(id, noted).await;
        if let Err(error) = &brought
            && error.is(Kind::UnsupportedMediaType)
        {
            // It would be fetched and refused each time.
            self.cache_drop(id).await?;
        }
        brought
    }

    async fn cache_make(&self, id: &str, noted: fn(&Tx, &str, u64, Timestamp) -> Result<()>) -> Result<()> {
        let image = self.core().store.read(|tx| images::image_fetch(tx, id, "")).await?.ok_or_else(|| not_found(id))?;
        // What nobody has read has no name yet.
        let arrival = self.coming().arrival(image.sha256.as_deref().unwrap_or(id));
        // Whoever else wants this content waits here, and finds it then. The lock below would wait for servers far away.
        let turn = Arc::new(arrival.turn(self).await);
        let (image, here) = self
            .core()
            .store
            .read(|tx| {
                let image = images::image_fetch(tx, id, "")?.ok_or_else(|| not_found(id))?;
                let here = match &image.sha256 {
                    Some(sha256) => images::content_here(tx, sha256)?,
                    None => false,
                };
                Ok((image, here))
            })
            .await?;
        let source = if here { Source::Local } else { self.cache_source(&image, &turn).await? };
        // Held until the record is there: the reconciler of content takes away what has none.
        let _publishing = self.0.publish.lock().await;
        let local = self.stores().local_directory().clone();
        let facts = Facts::of(&image);
        let kept = move || match source {
            Source::Local if local.file(&facts.sha256).is_some_and(|file| file.exists()) => Ok(None),
            Source::Local => Err(Error::unavailable("The content was taken away meanwhile.")),
            Source::Copied(copy) => local.take(copy.path(), &facts).map(|()| None),
            Source::Fetched(copy, found) => local.take(copy.path(), &found.facts).map(|()| Some(found)),
        };
        let learned = tokio::task::spawn_blocking(kept).await.internal("caching image content")??;
        let written = self.core().store.write(move |tx| {
            if let Some(found) = &learned {
                images::content_learned(tx, &image.id, found)?;
            }
            let size = learned.map(|found| found.facts.size).or(image.size).unwrap_or_default();
            noted(tx, &image.id, size, Timestamp::now())
        });
        written.await
    }

    /// Brings an image's content near, in a file of its own, from the first of its places that gives it.
    async fn cache_source(&self, image: &Image, turn: &Arc<Turn>) -> Result<Source> {
        let mut failures = Failures::of(image);
        let sha256 = image.sha256.as_deref().unwrap_or_default();
        let stores = self.stores().by_weight(image.locations.iter().map(|l| l.store.as_str()));
        let scratch = || self.stores().local_directory().scratch(turn.upload());
        turn.lands(scratch().path());
        for there in stores.iter().filter_map(|store| store.file(sha256)).filter(|file| file.exists()) {
            let (file, turn, name) = (scratch(), turn.clone(), sha256.to_string());
            let copied = move || {
                let _turn = turn;
                content::copy(&there, file.path(), &name).map(|()| Source::Copied(file))
            };
            match tokio::task::spawn_blocking(copied).await.internal("copying image content")? {
                Ok(source) => return Ok(source),
                Err(error) => failures.add(error),
            }
        }
        for store in stores.into_iter().filter(|store| !store.is_read_only()) {
            match store.fetch(&image.id, sha256, scratch(), turn.clone()).await {
                Ok(Some(file)) => return Ok(Source::Copied(file)),
                Ok(None) => {}
                Err(error) => failures.add(error),
            }
        }
        let of_web = |location: &&Location| self.stores().find(&location.store).is_some_and(|store| store.is_read_only());
        let urls: Vec<&str> = image.locations.iter().filter(of_web).map(|location| location.url.as_str()).collect();
        match self.web_fetch(image, &urls, turn.upload(), &mut failures).await {
            Some((file, found)) => Ok(Source::Fetched(file, found)),
            None => Err(failures.end()),
        }
    }
}
