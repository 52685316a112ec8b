//! Content in volumes of block storage: a volume for each image, at `cinder://STORE/VOLUME`, the same bytes from its beginning on.
//!
//! What is done with volumes is done by who keeps them ([`Keeper`]): block storage, which is made after this service and introduces itself.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use base::{Error, Kind, Result};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::runtime::Handle;

use crate::content::{Facts, Listing, receive};
use crate::model::Image;

/// Whose the volumes are, unless the store's address says otherwise.
const PROJECT: &str = "service";

/// An image that a volume shall hold.
#[derive(Clone, Debug)]
pub struct Held {
    /// The id of the store.
    pub store: String,
    /// Whose the volume is: name or id.
    pub project: String,
    /// The volume's type: name or id. None: the default one.
    pub kind: Option<String>,
    pub image: String,
    /// The project that has the image.
    pub owner: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// What brings it: an upload or an import. By this id leftovers are known.
    pub upload: String,
}

/// What volumes of a store there are.
#[derive(Debug, Default)]
pub struct Kept {
    /// Ids of the images that volumes hold, whole.
    pub images: Vec<String>,
    /// Ids of what has not come to its end: uploads and imports that have a volume, and readers.
    pub uploads: Vec<String>,
}

/// The bytes of an image as they come; whoever drops them reads no more.
pub type Pieces = BoxStream<'static, Result<Bytes>>;

/// Who keeps volumes. Each of these can be done again.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// Makes a volume of a file, in place of any that holds the image; its id. What fails leaves none.
    async fn put(&self, held: &Held, file: &Path) -> Result<String>;
    /// What the image's volume holds; none when there is no volume. `reader` is the id of who reads.
    async fn read(&self, store: &str, image: &str, reader: &str) -> Result<Option<Pieces>>;
    async fn has(&self, store: &str, image: &str) -> Result<bool>;
    /// A volume that somebody uses stays for now.
    async fn remove(&self, store: &str, image: &str) -> Result<()>;
    /// Removes what an upload, an import or a reader has left.
    async fn remove_upload(&self, store: &str, upload: &str) -> Result<()>;
    async fn list(&self, store: &str) -> Result<Kept>;
}

/// Where the keeper introduces itself.
#[derive(Clone, Default)]
pub struct Introduction(Arc<OnceLock<Box<dyn Keeper>>>);

impl std::fmt::Debug for Introduction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.get().is_some() { "introduced" } else { "awaited" })
    }
}

impl Introduction {
    /// Once; the first one stays.
    pub fn made(&self, keeper: impl Keeper + 'static) {
        let _ = self.0.set(Box::new(keeper));
    }
}

/// The volumes of a store.
#[derive(Clone, Debug)]
pub struct Volumes {
    store: String,
    project: String,
    kind: Option<String>,
    keeper: Introduction,
}

impl Volumes {
    /// `query` is what follows `cinder` in the store's address: nothing, or `?project=NAME` and `type=NAME`, parted by `&`.
    pub fn of(store: &str, query: &str, keeper: &Introduction) -> std::result::Result<Volumes, String> {
        let mut volumes = Volumes { store: store.into(), project: PROJECT.into(), kind: None, keeper: keeper.clone() };
        let pairs = match query.strip_prefix('?') {
            Some(pairs) => pairs,
            None if query.is_empty() => "",
            None => return Err("is not of the form id=cinder?project=name&type=name".into()),
        };
        for pair in pairs.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("project", name) if !name.is_empty() => volumes.project = name.into(),
                ("type", name) if !name.is_empty() => volumes.kind = Some(name.into()),
                _ => return Err(format!("says `{pair}`, which is none of project, type with a value")),
            }
        }
        Ok(volumes)
    }

    /// The type that its volumes get; none: the default one.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The address of what a volume holds.
    fn url(&self, volume: &str) -> String {
        format!("cinder://{}/{volume}", self.store)
    }

    fn keeper(&self) -> Result<&dyn Keeper> {
        let keeper = self.keeper.0.get().map(|keeper| &**keeper);
        keeper.ok_or_else(|| Error::unavailable(format!("There are no volumes for the images of store '{}' yet.", self.store)))
    }

    /// Keeps the content of a file as the image's, in place of any that is there; its address. Twice is as once. `upload` is the id of what
    /// brings it. Blocks.
    pub fn put(&self, file: &Path, facts: &Facts, image: &Image, upload: &str) -> Result<String> {
        let held = Held {
            store: self.store.clone(),
            project: self.project.clone(),
            kind: self.kind.clone(),
            image: image.id.clone(),
            owner: image.owner.clone().unwrap_or_default(),
            size: facts.size,
            sha256: facts.sha256.clone(),
            upload: upload.into(),
        };
        let keeper = self.keeper()?;
        let volume = Handle::current().block_on(keeper.put(&held, file));
        volume.map(|volume| self.url(&volume)).map_err(|error| match error.kind() {
            // To its user it is what a full disk is.
            Kind::NoCapacity => {
                Error::new(Kind::TooLarge, "Image storage media is full: there is no room for a volume of this size.").caused_by(error)
            }
            _ => error,
        })
    }

    /// Writes an image's content into a new file, where it is verified; false when there is none.
    pub async fn get(&self, image: &str, sha256: &str, reader: &str, to: &Path) -> Result<bool> {
        let Some(pieces) = self.keeper()?.read(&self.store, image, reader).await? else { return Ok(false) };
        if !receive(pieces, to, sha256).await? {
            return Err(Error::internal(format!("image {image} in store {} is damaged: its volume holds something else", self.store)));
        }
        Ok(true)
    }

    /// Blocks.
    pub fn has(&self, image: &str) -> Result<bool> {
        let keeper = self.keeper()?;
        Handle::current().block_on(keeper.has(&self.store, image))
    }

    /// Removes what holds an image; that there was nothing is fine. Blocks.
    pub fn remove(&self, image: &str) -> Result<()> {
        let keeper = self.keeper()?;
        Handle::current().block_on(keeper.remove(&self.store, image))
    }

    /// Blocks.
    pub fn remove_upload(&self, upload: &str) -> Result<()> {
        let keeper = self.keeper()?;
        Handle::current().block_on(keeper.remove_upload(&self.store, upload))
    }

    /// What is there. Blocks.
    pub fn list(&self) -> Result<Listing> {
        let keeper = self.keeper()?;
        let Kept { images, uploads } = Handle::current().block_on(keeper.list(&self.store))?;
        Ok(Listing { content: images, uploads, ..Listing::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let of = |query: &str| Volumes::of("far", query, &Introduction::default());
        let plain = of("").unwrap();
        assert_eq!((plain.project(), plain.kind(), plain.url("x").as_str()), ("service", None, "cinder://far/x"));
        let other = of("?type=slow&project=images").unwrap();
        assert_eq!((other.project(), other.kind()), ("images", Some("slow")));
        for (query, words) in [("s", "form"), ("?project=", "value"), ("?type", "value"), ("?pool=x", "none of")] {
            let error = of(query).unwrap_err();
            assert!(error.contains(words), "{query}: {error}");
        }
        assert!(plain.has("x").unwrap_err().is(Kind::Unavailable));
    }
}
