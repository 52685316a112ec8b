//! The cache: content of images of other stores, copied into the directory that hosts take it from.
//!
//! What is in the local store is as good as cached: an entry of it costs nothing.

use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result, Timestamp, error::Internal};

use crate::content::{Facts, Temporary};
use crate::db::cache::{self as db, Cached};
use crate::db::images::{self, Content};
use crate::images::not_found;
use crate::model::{Image, Location, Status};
use crate::stores::LOCAL;
use crate::uploads::Receiving;
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
    /// It is in the local store: there is nothing to do.
    Local,
    /// Another store's file.
    File(PathBuf),
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

    /// Whether the image is cached; that it was asked for is noted.
    pub(crate) async fn cache_hit(&self, id: &str) -> Result<bool> {
        let entry = self.core().store.read(|tx| db::cache_fetch(tx, id)).await?;
        if !entry.is_some_and(|entry| entry.cached) {
            return Ok(false);
        }
        let id = id.to_string();
        self.core().store.write(move |tx| db::cache_hit(tx, &id, Timestamp::now())).await?;
        Ok(true)
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
            if let Err(error) = self.cache_bring(&entry.image_id).await {
                tracing::warn!(image = entry.image_id, "an image could not be cached: {}", error.chain());
            }
        }
        Ok(())
    }

    /// Caches an image without waiting for its turn.
    pub(crate) async fn cache_now(&self, id: &str) -> Result<()> {
        let name = id.to_string();
        self.core().store.write(move |tx| db::cache_queue(tx, &name, Timestamp::now())).await?;
        self.cache_bring(id).await
    }

    async fn cache_bring(&self, id: &str) -> Result<()> {
        let brought = self.cache_make(id).await;
        if let Err(error) = &brought
            && error.is(Kind::UnsupportedMediaType)
        {
            // It would be fetched and refused each time.
            self.cache_drop(id).await?;
        }
        brought
    }

    async fn cache_make(&self, id: &str) -> Result<()> {
        let image = self.core().store.read(|tx| images::image_fetch(tx, id, "")).await?.ok_or_else(|| not_found(id))?;
        // The lock would wait for servers far away otherwise.
        let receiving = Receiving::named(self, base::id::uuid());
        let source = self.cache_source(&image, receiving.id()).await?;
        // Held until the record is there: the reconciler of content takes away what has none.
        let _publishing = self.0.publish.lock().await;
        let learned = match source {
            Source::Fetched(file, found) => {
                self.cache_keep(file.path(), &found.facts).await?;
                Some(found)
            }
            Source::File(file) => {
                self.cache_keep(&file, &Facts::of(&image)).await?;
                None
            }
            Source::Copied(file) => {
                self.cache_keep(file.path(), &Facts::of(&image)).await?;
                None
            }
            Source::Local => None,
        };
        let written = self.core().store.write(move |tx| {
            if let Some(found) = &learned {
                images::content_learned(tx, &image.id, found)?;
            }
            let size = learned.map(|found| found.facts.size).or(image.size).unwrap_or_default();
            db::cache_done(tx, &image.id, size, Timestamp::now()).map(drop)
        });
        written.await
    }

    async fn cache_keep(&self, file: &Path, facts: &Facts) -> Result<()> {
        let (local, file, facts) = (self.stores().local_directory().clone(), file.to_path_buf(), facts.clone());
        tokio::task::spawn_blocking(move || local.take(&file, &facts)).await.internal("caching image content")?
    }

    /// Finds an image's content, and brings it near where no store has it as a file. `upload`: as which it is received.
    async fn cache_source(&self, image: &Image, upload: &str) -> Result<Source> {
        if image.locations.iter().any(|location| location.store == LOCAL) {
            return Ok(Source::Local);
        }
        let sha256 = image.sha256.clone().unwrap_or_default();
        let stores = self.stores().by_weight(image.locations.iter().map(|l| l.store.as_str()));
        if let Some(file) = stores.iter().filter_map(|store| store.file(&sha256)).find(|file| file.exists()) {
            return Ok(Source::File(file));
        }
        let scratch = || self.stores().local_directory().scratch(upload);
        for store in stores.into_iter().filter(|store| !store.is_read_only()) {
            let (place, id, sha256, file) = (store.clone(), image.id.clone(), sha256.clone(), scratch());
            let fetch = move || -> Result<Option<Temporary>> { Ok(place.fetch(&id, &sha256, file.path())?.then_some(file)) };
            if let Some(file) = tokio::task::spawn_blocking(fetch).await.internal("fetching image content")?? {
                return Ok(Source::Copied(file));
            }
        }
        let of_web = |location: &&Location| self.stores().find(&location.store).is_some_and(|store| store.is_read_only());
        let urls: Vec<&str> = image.locations.iter().filter(of_web).map(|location| location.url.as_str()).collect();
        let (file, found) = self.web_fetch(image, &urls, upload).await?;
        Ok(Source::Fetched(file, found))
    }
}
