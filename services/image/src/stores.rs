//! The places that keep content: each a [`Store`] with a name, chosen by users where there are several.
//!
//! A store knows content by its SHA-256, or by the image whose it is (its key); an image has a location for each store that has its content.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Config, Error, Kind, Result, error::Internal};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::bring::Turn;
use crate::content::{Directory, Facts, Listing, Temporary, is_sha256};
use crate::model::{Image, Location};
use crate::rbd::Pool;
use crate::s3::Bucket;
use crate::volumes::{Introduction, Volumes};

/// The store in `$STURNUS_HOME/images`, from which hosts take what they boot.
pub const LOCAL: &str = "local";

/// A place that keeps content.
#[derive(Clone, Debug)]
pub struct Store {
    pub id: String,
    pub description: String,
    /// Of the stores that have an image, the one of the greatest weight gives it out.
    pub weight: i64,
    pub place: Place,
}

/// What a store is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A directory of files, each named by its SHA-256.
    Directory(Directory),
    /// A bucket of an object store.
    Bucket(Bucket),
    /// A pool of Ceph.
    Pool(Pool),
    /// Volumes of block storage.
    Volumes(Volumes),
    /// What others keep, at addresses that images have. It is only read.
    Web,
}

impl Store {
    /// The word for the kind of store.
    pub fn kind(&self) -> &'static str {
        match &self.place {
            Place::Directory(_) => "file",
            Place::Bucket(_) => "s3",
            Place::Pool(_) => "rbd",
            Place::Volumes(_) => "cinder",
            Place::Web => "http",
        }
    }

    /// What administrators see of it.
    pub fn properties(&self) -> Value {
        match &self.place {
            Place::Directory(directory) => json!({"data_dir": directory.path(), "chunk_size": 65536, "thin_provisioning": true}),
            Place::Bucket(bucket) => json!({"s3_store_bucket_url": bucket.url(), "s3_store_large_object_size": bucket.part() >> 20}),
            Place::Pool(pool) => {
                json!({"chunk_size": pool.chunk(), "pool": pool.name(), "fsid": pool.fsid(), "thin_provisioning": true})
            }
            Place::Volumes(volumes) => json!({"volume_type": volumes.kind(), "use_multipath": false}),
            Place::Web => json!({}),
        }
    }

    /// Whether nothing can be written to it.
    pub fn is_read_only(&self) -> bool {
        matches!(self.place, Place::Web)
    }

    /// Whether it keeps content for each image, and not once for all that have the same.
    pub fn is_by_image(&self) -> bool {
        matches!(self.place, Place::Pool(_) | Place::Volumes(_))
    }

    /// By what it knows an image's content.
    pub fn key<'a>(&self, image: &'a str, sha256: &'a str) -> &'a str {
        if self.is_by_image() { image } else { sha256 }
    }

    /// The address of an image's content that is at this location.
    pub fn url(&self, image: &Image, location: &Location) -> String {
        let sha256 = image.sha256.as_deref().unwrap_or_default();
        match &self.place {
            Place::Directory(directory) => format!("file://{}/{sha256}", directory.path().display()),
            Place::Bucket(bucket) => format!("s3+{}/{sha256}", bucket.url()),
            Place::Pool(pool) => pool.url(&image.id),
            Place::Volumes(_) | Place::Web => location.url.clone(),
        }
    }

    /// The content that an address of this store means.
    fn of_url<'a>(&self, url: &'a str) -> Option<&'a str> {
        match &self.place {
            Place::Directory(directory) => {
                let name = url.strip_prefix("file://")?.strip_prefix(directory.path().to_str()?)?.strip_prefix('/')?;
                directory.file(name).map(|_| name)
            }
            // Content is taken over from where its file can be read.
            Place::Bucket(_) | Place::Pool(_) | Place::Volumes(_) | Place::Web => None,
        }
    }

    /// Keeps the content of a file, which stays, for an image. Twice is as once. `upload` is the id of what brings it. Answers where, if the store does
    /// not know that by itself. Blocks.
    pub fn put(&self, file: &Path, facts: &Facts, image: &Image, upload: &str) -> Result<String> {
        match &self.place {
            Place::Directory(directory) => directory.take(file, facts)?,
            Place::Bucket(bucket) => Handle::current().block_on(bucket.put(file, facts))?,
            Place::Pool(pool) => pool.put(file, facts, &image.id, upload)?,
            Place::Volumes(volumes) => return volumes.put(file, facts, image, upload),
            Place::Web => return Err(self.refusal()),
        }
        Ok(String::new())
    }

    /// Whether the content is there. Blocks.
    pub fn has(&self, key: &str) -> Result<bool> {
        match &self.place {
            Place::Directory(directory) => Ok(directory.file(key).is_some_and(|file| file.exists())),
            Place::Bucket(bucket) => Handle::current().block_on(bucket.has(key)),
            Place::Pool(pool) => pool.has(key),
            Place::Volumes(volumes) => volumes.has(key),
            Place::Web => Ok(false),
        }
    }

    /// Removes content, where it is ours to remove. Blocks.
    pub fn remove(&self, key: &str) -> Result<()> {
        match &self.place {
            Place::Directory(directory) => directory.remove(key),
            Place::Bucket(bucket) => Handle::current().block_on(bucket.remove(key)),
            Place::Pool(pool) => pool.remove(key),
            Place::Volumes(volumes) => volumes.remove(key),
            Place::Web => Ok(()),
        }
    }

    /// Removes what an upload has left. Blocks.
    pub fn remove_upload(&self, upload: &str) -> Result<()> {
        match &self.place {
            Place::Directory(directory) => directory.remove_upload(upload),
            Place::Pool(pool) => pool.remove_upload(upload),
            Place::Volumes(volumes) => volumes.remove_upload(upload),
            Place::Bucket(_) | Place::Web => Ok(()),
        }
    }

    /// Writes an image's content into a new file, where it is verified; none when it is not there, or is read at its place. Who gives up leaves no
    /// file: that of Ceph's own program goes when the program has ended, and so long `turn` is held.
    pub async fn fetch(&self, image: &str, sha256: &str, to: Temporary, turn: Arc<Turn>) -> Result<Option<Temporary>> {
        match &self.place {
            Place::Bucket(bucket) => Ok(bucket.get(sha256, to.path()).await?.then_some(to)),
            Place::Pool(pool) => {
                let (pool, image, sha256) = (pool.clone(), image.to_string(), sha256.to_string());
                let fetch = move || -> Result<Option<Temporary>> {
                    let _turn = turn;
                    Ok(pool.get(&image, &sha256, to.path())?.then_some(to))
                };
                tokio::task::spawn_blocking(fetch).await.internal("fetching image content")?
            }
            Place::Volumes(volumes) => Ok(volumes.get(image, sha256, turn.upload(), to.path()).await?.then_some(to)),
            Place::Directory(_) | Place::Web => Ok(None),
        }
    }

    /// What is there. Blocks.
    pub fn list(&self) -> Result<Listing> {
        match &self.place {
            Place::Directory(directory) => directory.list(),
            Place::Bucket(bucket) => {
                let mut content = Handle::current().block_on(bucket.list())?;
                content.retain(|name| is_sha256(name));
                Ok(Listing { content, ..Listing::default() })
            }
            Place::Pool(pool) => pool.list(),
            Place::Volumes(volumes) => volumes.list(),
            Place::Web => Ok(Listing::default()),
        }
    }

    /// The file of content; none when the name is no SHA-256, or the store has no files.
    pub fn file(&self, sha256: &str) -> Option<PathBuf> {
        match &self.place {
            Place::Directory(directory) => directory.file(sha256),
            Place::Bucket(_) | Place::Pool(_) | Place::Volumes(_) | Place::Web => None,
        }
    }

    pub fn directory(&self) -> Option<&Directory> {
        match &self.place {
            Place::Directory(directory) => Some(directory),
            Place::Bucket(_) | Place::Pool(_) | Place::Volumes(_) | Place::Web => None,
        }
    }

    /// What a client is told that wants to write to a store that is only read.
    pub fn refusal(&self) -> Error {
        Error::new(Kind::Gone, format!("Images cannot be added to the store '{}': it is read-only.", self.id))
    }
}

/// All stores, the local one first.
#[derive(Clone, Debug)]
pub struct Stores {
    all: Vec<Store>,
    /// Of the local store.
    directory: Directory,
    default: String,
    keeper: Introduction,
}

impl Stores {
    /// The local store and those of `image.stores`: `id=place` or `id=place:weight`, separated by commas.
    pub fn open(config: &Config) -> Result<Stores> {
        let local = Directory::open(config.home().join("images"))?;
        let keeper = Introduction::default();
        let mut all = vec![Store {
            id: LOCAL.into(),
            description: "Files on the controller".into(),
            weight: 0,
            place: Place::Directory(local.clone()),
        }];
        for entry in config.text("image.stores").split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let wrong = |why: &str| Error::invalid(format!("image.stores: `{entry}` {why}"));
            let (id, path) = entry.split_once('=').ok_or_else(|| wrong("is not of the form id=directory"))?;
            let (path, weight) = match path.rsplit_once(':') {
                // The port of an address, not a weight.
                Some((_, rest)) if rest.contains('/') => (path, 0),
                Some((path, weight)) => (path, weight.parse().map_err(|_| wrong("has a weight that is no number"))?),
                None => (path, 0),
            };
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            if id.is_empty() || !id.chars().all(fits) || id.starts_with("os_glance_") {
                return Err(wrong("has no good name"));
            }
            if all.iter().any(|store| store.id == id) {
                return Err(wrong("has the name of another store"));
            }
            if path == "http" {
                // Addresses do not say which of two they would be of.
                if all.iter().any(|store| store.is_read_only()) {
                    return Err(wrong("is the second of its kind"));
                }
                all.push(Store { id: id.into(), description: "What others keep, read by HTTP".into(), weight, place: Place::Web });
                continue;
            }
            if let Some(query) = path.strip_prefix("cinder") {
                let volumes = Volumes::of(id, query, &keeper).map_err(|why| wrong(&why))?;
                let description = format!("Volumes of project {}", volumes.project());
                all.push(Store { id: id.into(), description, weight, place: Place::Volumes(volumes) });
                continue;
            }
            if let Some(text) = path.strip_prefix("rbd+") {
                let pool = Pool::of(text).map_err(|why| wrong(&why))?;
                // Each would take the other's images for leftovers of its own.
                if all.iter().any(|store| matches!(&store.place, Place::Pool(other) if other.is(&pool))) {
                    return Err(wrong("has the pool of another store"));
                }
                let description = format!("Images in Ceph's pool {}", pool.name());
                all.push(Store { id: id.into(), description, weight, place: Place::Pool(pool) });
                continue;
            }
            if let Some(url) = path.strip_prefix("s3+") {
                let keys = config.home().join("keys").join(format!("store-{id}"));
                let credentials =
                    std::fs::read_to_string(&keys).map_err(|e| wrong(&format!("has no credentials: {}: {e}", keys.display())))?;
                let bucket = Bucket::of(url, &credentials).map_err(wrong)?;
                let description = format!("Objects in {}", bucket.url());
                all.push(Store { id: id.into(), description, weight, place: Place::Bucket(bucket) });
                continue;
            }
            if !Path::new(path).is_absolute() {
                return Err(wrong("does not name its directory in full"));
            }
            let place = Place::Directory(Directory::open(path.into())?);
            all.push(Store { id: id.into(), description: format!("Files in {path}"), weight, place });
        }
        let default = config.text("image.default_store").to_string();
        match all.iter().find(|store| store.id == default) {
            None => return Err(Error::invalid(format!("image.default_store: there is no store `{default}`"))),
            Some(store) if store.is_read_only() => {
                return Err(Error::invalid(format!("image.default_store: the store `{default}` is read-only")));
            }
            Some(_) => {}
        }
        Ok(Stores { all, directory: local, default, keeper })
    }

    pub fn all(&self) -> &[Store] {
        &self.all
    }
    pub fn local(&self) -> &Store {
        &self.all[0]
    }
    /// The local store's directory, in which all content lands that comes.
    pub fn local_directory(&self) -> &Directory {
        &self.directory
    }
    /// Where who keeps volumes introduces itself.
    pub fn keeper(&self) -> &Introduction {
        &self.keeper
    }
    pub fn default(&self) -> &str {
        &self.default
    }
    pub fn find(&self, id: &str) -> Option<&Store> {
        self.all.iter().find(|store| store.id == id)
    }
    /// The store that what is at an address of somebody else's is of; none when there is no such store.
    pub fn of_web(&self, url: &str) -> Option<&Store> {
        let web = url.starts_with("http://") || url.starts_with("https://");
        self.all.iter().find(|store| web && store.is_read_only())
    }
    /// The store that an address is of, and the SHA-256 of what is there.
    pub fn of_url<'a>(&self, url: &'a str) -> Option<(&Store, &'a str)> {
        self.all.iter().find_map(|store| Some((store, store.of_url(url)?)))
    }
    /// The store a user names; 400 when there is none of that name.
    pub fn named(&self, id: &str) -> Result<&Store> {
        self.find(id).ok_or_else(|| Error::new(Kind::Invalid, format!("Store '{id}' is not configured.")))
    }
    /// The names, as the headers and bodies of answers have them.
    pub fn ids(&self) -> String {
        self.all.iter().map(|store| store.id.as_str()).collect::<Vec<_>>().join(",")
    }
    /// Those of `ids`, the one to read from first: of the greatest weight, then the first.
    pub fn by_weight<'a>(&'a self, ids: impl IntoIterator<Item = &'a str>) -> Vec<&'a Store> {
        let mut found: Vec<&Store> = ids.into_iter().filter_map(|id| self.find(id)).collect();
        found.sort_by_key(|store| std::cmp::Reverse(store.weight));
        found
    }
}
