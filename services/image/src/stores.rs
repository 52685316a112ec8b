//! The places that keep content: each a [`Store`] with a name, chosen by users where there are several.
//!
//! A store knows content by its SHA-256, or by an address of its own; an image has a location for each store that has its content.

use std::fs::File;
use std::path::{Path, PathBuf};

use base::{Config, Error, Kind, Result};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::content::{Directory, Facts, Listing, is_sha256};
use crate::s3::Bucket;

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
}

impl Store {
    /// The word for the kind of store.
    pub fn kind(&self) -> &'static str {
        match &self.place {
            Place::Directory(_) => "file",
            Place::Bucket(_) => "s3",
        }
    }

    /// What administrators see of it.
    pub fn properties(&self) -> Value {
        match &self.place {
            Place::Directory(directory) => json!({"data_dir": directory.path(), "chunk_size": 65536, "thin_provisioning": true}),
            Place::Bucket(bucket) => json!({"s3_store_bucket_url": bucket.url(), "s3_store_large_object_size": bucket.part() >> 20}),
        }
    }

    /// The address of content.
    pub fn url(&self, sha256: &str) -> String {
        match &self.place {
            Place::Directory(directory) => format!("file://{}/{sha256}", directory.path().display()),
            Place::Bucket(bucket) => format!("s3+{}/{sha256}", bucket.url()),
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
            Place::Bucket(_) => None,
        }
    }

    /// Keeps the content of a file, which stays. Twice is as once. Blocks.
    pub fn put(&self, file: &Path, facts: &Facts) -> Result<()> {
        match &self.place {
            Place::Directory(directory) => directory.take(file, facts),
            Place::Bucket(bucket) => Handle::current().block_on(bucket.put(file, facts)),
        }
    }

    /// Whether the content is there. Blocks.
    pub fn has(&self, sha256: &str) -> Result<bool> {
        match &self.place {
            Place::Directory(directory) => Ok(directory.file(sha256).is_some_and(|file| file.exists())),
            Place::Bucket(bucket) => Handle::current().block_on(bucket.has(sha256)),
        }
    }

    /// Removes content. Blocks.
    pub fn remove(&self, sha256: &str) -> Result<()> {
        match &self.place {
            Place::Directory(directory) => directory.remove(sha256),
            Place::Bucket(bucket) => Handle::current().block_on(bucket.remove(sha256)),
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
        }
    }

    /// The file of content; none when the name is no SHA-256, or the store has no files.
    pub fn file(&self, sha256: &str) -> Option<PathBuf> {
        match &self.place {
            Place::Directory(directory) => directory.file(sha256),
            Place::Bucket(_) => None,
        }
    }

    /// Blocks. None when it is not there.
    pub fn open(&self, sha256: &str) -> std::io::Result<Option<File>> {
        match self.file(sha256).map(File::open) {
            None => Ok(None),
            Some(Ok(file)) => Ok(Some(file)),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Some(Err(error)) => Err(error),
        }
    }

    pub fn directory(&self) -> Option<&Directory> {
        match &self.place {
            Place::Directory(directory) => Some(directory),
            Place::Bucket(_) => None,
        }
    }
    pub fn bucket(&self) -> Option<&Bucket> {
        match &self.place {
            Place::Directory(_) => None,
            Place::Bucket(bucket) => Some(bucket),
        }
    }
}

/// All stores, the local one first.
#[derive(Clone, Debug)]
pub struct Stores {
    all: Vec<Store>,
    /// Of the local store.
    directory: Directory,
    default: String,
}

impl Stores {
    /// The local store and those of `image.stores`: `id=directory` or `id=directory:weight`, separated by commas.
    pub fn open(config: &Config) -> Result<Stores> {
        let local = Directory::open(config.home().join("images"))?;
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
        if !all.iter().any(|store| store.id == default) {
            return Err(Error::invalid(format!("image.default_store: there is no store `{default}`")));
        }
        Ok(Stores { all, directory: local, default })
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
    pub fn default(&self) -> &str {
        &self.default
    }
    pub fn find(&self, id: &str) -> Option<&Store> {
        self.all.iter().find(|store| store.id == id)
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
