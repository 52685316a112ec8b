//! The operation behind every import.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp, error::Internal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::content::{self, Facts, Learned};
use crate::db::images as db;
use crate::images::record;
use crate::imports::{FAILED, IMPORTING, TASK};
use crate::locations::Validation;
use crate::model::{Image, Location, Status};
use crate::remote::{Remote, Taken};
use crate::signatures::Expected;
use crate::stores::Store;
use crate::uploads::Receiving;
use crate::{Images, tasks};

pub const KIND: &str = "image.import";
/// The method of content that a store has already.
pub const LOCATION: &str = "location";

/// How long bringing and storing may take.
pub const HOURS: Duration = Duration::from_secs(24 * 3600);

/// How often a server is asked that does not answer.
const ATTEMPTS: u32 = 4;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub task: String,
    pub method: String,
    pub uri: Option<String>,
    pub stores: Vec<String>,
    pub all_must_succeed: bool,
    /// What the content must hash to.
    #[serde(default)]
    pub validation: Option<Validation>,
    #[serde(default)]
    pub remote: Option<Remote>,
    /// What the content must be, when the image is signed.
    pub signed: Option<Expected>,
}

/// What `bring` has found.
#[derive(Serialize, Deserialize)]
struct Brought {
    facts: Facts,
    virtual_size: Option<u64>,
    #[serde(default)]
    format: Option<String>,
    /// Of an image of another region.
    #[serde(default)]
    taken: Option<Taken>,
    /// None: as the image has it.
    #[serde(default)]
    disk_format: Option<String>,
}

/// Which stores took the content, and which did not.
#[derive(Default, Serialize, Deserialize)]
struct Stored {
    done: Vec<String>,
    failed: Vec<String>,
    /// Where it is in those that do not know that by themselves.
    #[serde(default)]
    urls: BTreeMap<String, String>,
}

/// Brings content to stores: what was staged, what is downloaded, or what another store has.
pub struct ImageImport(pub Images);

impl Params {
    /// Whether content of somebody else's is read at its address.
    fn is_of_web(&self) -> bool {
        self.method == LOCATION && self.uri.as_deref().is_some_and(|uri| uri.starts_with("http"))
    }
}

impl ImageImport {
    fn copies(params: &Params) -> bool {
        params.method == "copy-image"
    }

    /// The image, as long as this import has it.
    async fn image(&self, cx: &StepContext, params: &Params) -> Result<Image> {
        let image = self.0.core().store.read(|tx| db::image_fetch(tx, &cx.resource_id, "")).await?;
        let mine = image.filter(|image| image.properties.get(TASK) == Some(&params.task));
        mine.ok_or_else(gone)
    }

    /// The file that the content comes from.
    async fn source(&self, cx: &StepContext, image: &Image, params: &Params) -> Result<PathBuf> {
        let local = self.0.stores().local_directory();
        match params.method.as_str() {
            "glance-direct" if local.staged(&params.task).exists() => Ok(local.staged(&params.task)),
            "glance-direct" => {
                let staged = self.0.core().store.read(|tx| db::staged_fetch(tx, &image.id)).await?;
                Ok(local.staged(&staged.ok_or_else(|| Error::conflict("Nothing is staged for this image."))?))
            }
            "copy-image" => {
                let sha256 = image.sha256.as_deref().unwrap_or_default();
                let stores = self.0.stores().by_weight(image.locations.iter().map(|l| l.store.as_str()));
                let there = stores.iter().filter_map(|store| store.file(sha256)).find(|file| file.exists());
                if there.is_none() && self.0.is_elsewhere(image) {
                    if let Some(cached) = local.file(sha256).filter(|file| file.exists()) {
                        return Ok(cached);
                    }
                    cx.aside(self.0.cache_now(&image.id)).await??;
                    return local.file(sha256).ok_or_else(gone);
                }
                there.ok_or_else(|| Error::internal(format!("image {} has lost its content", image.id)))
            }
            LOCATION if !params.is_of_web() => {
                let url = params.uri.as_deref().unwrap_or_default();
                let there = self.0.stores().of_url(url).and_then(|(store, sha256)| store.file(sha256)).filter(|file| file.exists());
                there.ok_or_else(|| Error::invalid(format!("There is nothing at {url}.")))
            }
            _ => Ok(local.staged(&params.task)),
        }
    }

    async fn begin(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        self.image(cx, &params).await?;
        let id = cx.resource_id.clone();
        Ok(Effect::none().commit(move |tx| {
            held(tx, &id, &params)?;
            tasks::task_run_in(tx, &params.task)?;
            let now = Timestamp::now();
            match params.method.as_str() {
                "copy-image" => {}
                "glance-direct" => drop(db::status_set(tx, &id, Status::Uploading, Status::Importing, now)?),
                _ => drop(db::status_set(tx, &id, Status::Queued, Status::Importing, now)?),
            }
            db::property_set(tx, &id, IMPORTING, &params.stores.join(","))?;
            db::property_set(tx, &id, FAILED, "")
        }))
    }

    async fn bring(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let mut image = self.image(cx, &params).await?;
        let brought = if Self::copies(&params) {
            if image.sha256.is_none() {
                // Nobody has read it here yet. How long it takes is for others to say.
                cx.aside(self.0.cache_now(&image.id)).await??;
                image = self.image(cx, &params).await?;
            }
            let facts = Facts::of(&image);
            Brought { facts, virtual_size: image.virtual_size, format: image.content_format, taken: None, disk_format: None }
        } else {
            let file = self.source(cx, &image, &params).await?;
            let taken = match &params.remote {
                Some(remote) => Some(self.0.remote_show(remote).await.map_err(|error| lasting(cx, error))?),
                None => None,
            };
            if let Some(taken) = &taken {
                image.disk_format = Some(taken.disk_format.clone());
                image.container_format = Some(taken.container_format.clone());
            }
            if (matches!(params.method.as_str(), "web-download" | "glance-download") || params.is_of_web()) && !file.exists() {
                self.download(cx, &image, &params, taken.as_ref().map(|taken| taken.size)).await?;
            }
            if params.method == "glance-direct" {
                self.prepare(&image, &params, &file).await?;
            }
            let file = self.source(cx, &image, &params).await?;
            if params.method != LOCATION {
                image.disk_format = self.0.0.plugins.disk_format(&image).map(str::to_string);
            }
            let hash = params.signed.as_ref().map(Expected::hash);
            let Learned { facts, inspector, signed } =
                tokio::task::spawn_blocking(move || content::examine(&file, hash)).await.internal("reading image content")??;
            if let Some(wanted) = &params.validation {
                validate(wanted, &facts)?;
            }
            if let Some(expected) = &params.signed {
                expected.check(&image.id, signed.as_deref())?;
            }
            let found = self.0.judge(&image, facts, &inspector)?;
            let db::Content { facts, virtual_size, format, .. } = found;
            Brought { facts, virtual_size, format, taken, disk_format: image.disk_format }
        };
        let (task, sha256) = (params.task, brought.facts.sha256.clone());
        Ok(Effect::with(brought).commit(move |tx| tasks::task_claim_in(tx, &task, Some(&sha256))))
    }

    /// Decompresses and converts a file, where that is asked for, into the one that is staged under the task's id: it has that
    /// name only when it is whole. The file stays, so that a crash before that changes nothing.
    async fn prepare(&self, image: &Image, params: &Params, file: &Path) -> Result<()> {
        let images = self.0.clone();
        let directory = images.stores().local_directory().clone();
        if !images.0.plugins.concern(image) || directory.staged(&params.task).exists() {
            return Ok(());
        }
        let (image, task, file) = (image.clone(), params.task.clone(), file.to_path_buf());
        let preparing = tokio::task::spawn_blocking(move || {
            let scratch = [base::id::uuid(), base::id::uuid()];
            let _live = scratch.clone().map(|id| Receiving::named(&images, id));
            let max = images.core().config.int("image.max_bytes");
            match images.0.plugins.prepare(&image, &file, &directory, [&scratch[0], &scratch[1]], max)? {
                Some(made) => directory.stage_file(made, &task),
                None => Ok(()),
            }
        });
        preparing.await.internal("preparing image content")?
    }

    /// Downloads into the file that is staged under the task's id: it has that name only when it is whole.
    /// `size`: what is to come, where that is known.
    async fn download(&self, cx: &StepContext, image: &Image, params: &Params, size: Option<u64>) -> Result<()> {
        let images = &self.0;
        let receiving = Receiving::named(images, params.task.clone());
        let (directory, task) = (images.stores().local_directory().clone(), params.task.clone());
        // What an attempt before a crash has left.
        let (before, left) = (directory.clone(), task.clone());
        tokio::task::spawn_blocking(move || before.remove_upload(&left)).await.internal("removing half a download")??;
        let max = images.core().config.int("image.max_bytes");
        // How long it takes is for the server to say: other steps go on.
        let coming = cx.aside(async {
            let mut body = match &params.remote {
                Some(remote) => images.remote_content(remote).await?,
                None => images.0.sources.get(params.uri.as_deref().unwrap_or_default(), max).await?,
            };
            images.write_down(&task, images.stores().local(), max, &mut body, None, false).await
        });
        let written = coming.await?.map_err(|error| lasting(cx, error))?;
        let came = written.facts.size;
        if let Some(size) = size.filter(|size| *size != came) {
            return Err(Error::invalid(format!("The source image has {size} bytes, but {came} came.")));
        }
        if !params.is_of_web() {
            self.prepare(image, params, written.path()).await?;
        }
        if !directory.staged(&task).exists() {
            tokio::task::spawn_blocking(move || directory.stage(&task, written)).await.internal("staging a download")??;
        }
        drop(receiving);
        Ok(())
    }

    async fn store(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let image = self.image(cx, &params).await?;
        let brought: Brought = cx.output("bring")?;
        let file = self.source(cx, &image, &params).await?;
        let mut stored = Stored::default();
        for id in &params.stores {
            let Some(store) = self.0.stores().find(id).cloned() else {
                return Err(Error::conflict(format!("Store '{id}' is no longer configured.")));
            };
            if store.is_read_only() {
                stored.done.push(id.clone());
                continue;
            }
            let (file, facts, owned, task) = (file.clone(), brought.facts.clone(), image.clone(), params.task.clone());
            let far = store.directory().is_none();
            let storing = tokio::task::spawn_blocking(move || store.put(&file, &facts, &owned, &task));
            let kept = if far { cx.aside(storing).await? } else { storing.await };
            match kept.internal("storing image content")? {
                Ok(url) => {
                    stored.done.push(id.clone());
                    stored.urls.insert(id.clone(), url);
                }
                Err(error) if params.all_must_succeed => return Err(error),
                Err(error) => {
                    tracing::warn!(image = image.id, store = id, "an import goes on without a store: {}", error.chain());
                    stored.failed.push(id.clone());
                }
            }
        }
        if stored.done.is_empty() {
            return Err(Error::new(Kind::NoCapacity, "No store took the content."));
        }
        Ok(Effect::with(stored))
    }

    async fn finish(&self, cx: &StepContext, params: Params) -> Result<Effect> {
        let image = self.image(cx, &params).await?;
        let (brought, stored): (Brought, Stored) = (cx.output("bring")?, cx.output("store")?);
        self.unstage(&image, &params).await?;
        let (id, cause) = (cx.resource_id.clone(), cx.context.clone());
        let properties = self.0.0.plugins.properties(&cause).to_vec();
        let mut places: Vec<Location> =
            stored.done.iter().map(|store| Location::at(store, stored.urls.get(store).cloned().unwrap_or_default())).collect();
        if params.is_of_web() {
            places.iter_mut().for_each(|place| place.url = params.uri.clone().unwrap_or_default());
        }
        Ok(Effect::none().commit(move |tx| {
            held(tx, &id, &params)?;
            if Self::copies(&params) {
                places.iter().try_for_each(|place| db::location_insert(tx, &id, place))?;
            } else {
                // Validated content is shown with the hash it was validated by.
                let hash_algo = match params.validation.as_ref().map(|wanted| wanted.os_hash_algo.as_str()) {
                    Some("md5") => "md5",
                    Some("sha256") => "sha256",
                    _ => "sha512",
                };
                let found = db::Content { facts: brought.facts, virtual_size: brought.virtual_size, format: brought.format, hash_algo };
                if !db::content_set(tx, &id, Status::Importing, &found, &places, Timestamp::now())? {
                    return Err(Error::internal("an image that is imported and not importing"));
                }
                db::staged_delete(tx, &id)?;
                if let Some(taken) = &brought.taken {
                    db::formats_set(tx, &id, &taken.disk_format, &taken.container_format)?;
                    taken.properties.iter().try_for_each(|(name, value)| db::property_set(tx, &id, name, value))?;
                }
                if let Some(format) = &brought.disk_format {
                    db::disk_format_set(tx, &id, format)?;
                }
                if params.method != LOCATION {
                    properties.iter().try_for_each(|(name, value)| db::property_set(tx, &id, name, value))?;
                }
            }
            unlock(tx, &id, &stored.failed)?;
            tasks::task_end_in(tx, &params.task, "success", Some(&json!({ "image_id": id })), "")?;
            let Some(now) = db::image_fetch(tx, &id, "")? else { return Ok(()) };
            record(tx, &cause, "image.upload", &now)
        }))
    }

    /// Removes what was staged for the import.
    async fn unstage(&self, image: &Image, params: &Params) -> Result<()> {
        let mut names = vec![params.task.clone()];
        names.extend(self.0.core().store.read(|tx| db::staged_fetch(tx, &image.id)).await?);
        if Self::copies(params) {
            return Ok(());
        }
        let directory = self.0.stores().local_directory().clone();
        let removed = tokio::task::spawn_blocking(move || {
            directory.remove_upload(&names[0])?;
            names.iter().try_for_each(|name| directory.unstage(name))
        });
        removed.await.internal("removing staged content")?
    }
}

/// A server that does not answer is asked again for a little while.
fn lasting(cx: &StepContext, error: Error) -> Error {
    match error.is_transient() && cx.attempt >= ATTEMPTS {
        true => Error::invalid(error.message().to_string()).caused_by(error),
        false => error,
    }
}

fn validate(wanted: &Validation, facts: &Facts) -> Result<()> {
    let is = facts.hash(&wanted.os_hash_algo);
    if is == wanted.os_hash_value {
        return Ok(());
    }
    Err(Error::invalid(format!("os_hash_value: ({}) not matched with actual os_hash_value: ({is})", wanted.os_hash_value)))
}

fn gone() -> Error {
    Error::new(Kind::Gone, "The image was deleted while its content was imported.")
}

/// Whether the image is there still, and this import's.
fn held(tx: &Tx, id: &str, params: &Params) -> Result<()> {
    if db::property_fetch(tx, id, TASK)?.as_ref() == Some(&params.task) { Ok(()) } else { Err(gone()) }
}

/// The import is over: its marks go, and what it leaves is which stores it failed with.
fn unlock(tx: &Tx, id: &str, failed: &[String]) -> Result<()> {
    db::property_delete(tx, id, TASK)?;
    db::property_set(tx, id, IMPORTING, "")?;
    db::property_set(tx, id, FAILED, &failed.join(","))
}

#[async_trait]
impl Operation for ImageImport {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["begin", "bring", "store", "finish"]
    }
    fn deadline(&self) -> Duration {
        2 * HOURS
    }
    fn retry(&self, step: &str) -> Retry {
        match step {
            "bring" => Retry { first: Duration::from_millis(500), most: Duration::from_secs(5), within: HOURS },
            _ => Retry::within(HOURS),
        }
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        match step {
            "begin" => self.begin(cx, params).await,
            "bring" => self.bring(cx, params).await,
            "store" => self.store(cx, params).await,
            _ => self.finish(cx, params).await,
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        let image = self.0.core().store.read(|tx| db::image_fetch(tx, &cx.resource_id, "")).await?;
        match step {
            "store" => {
                let brought: Brought = cx.output("bring")?;
                let task = params.task.clone();
                self.0.core().store.write(move |tx| tasks::task_claim_in(tx, &task, None)).await?;
                let stores: Vec<&Store> = params.stores.iter().filter_map(|id| self.0.stores().find(id)).collect();
                for store in stores {
                    self.0.content_release(store, store.key(&cx.resource_id, &brought.facts.sha256)).await?;
                }
            }
            // The first one undoes for `bring` too: what was staged is there before either.
            "begin" => {
                let gone = Image::new(cx.resource_id.clone(), None);
                self.unstage(image.as_ref().unwrap_or(&gone), &params).await?;
            }
            _ => {}
        }
        Ok(Effect::none())
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let params: Params = cx.param()?;
        let message = match error.kind() {
            Kind::Internal => "The content could not be imported: an internal error.".to_string(),
            _ => error.message().to_string(),
        };
        tasks::task_end_in(tx, &params.task, "failure", None, &message)?;
        let id = &cx.resource_id;
        if held(tx, id, &params).is_err() {
            return Ok(());
        }
        if !Self::copies(&params) {
            db::import_abandon(tx, id, Timestamp::now())?;
        }
        unlock(tx, id, &params.stores)
    }
}
