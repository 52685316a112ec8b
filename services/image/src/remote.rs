//! Images of other regions: asked for at the address that the catalogue has, with the caller's own token.
//!
//! The token has to last as long as the import, which a restart may come between: it is kept with the operation, sealed with
//! `keys/image`.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base::{Error, Result, error::Internal};
use fernet::Fernet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use store::Tx;

use crate::Images;

/// The address of the image service of a region, by interface; none where there is none.
pub type Endpoints = Box<dyn Fn(&Tx, &str, &str) -> Result<Option<String>> + Send + Sync>;

/// What properties of an image of another region begin with that are taken over.
const PROPERTIES: [&str; 5] = ["hw_", "trait:", "os_distro", "os_secure_boot", "os_type"];
/// The largest description of an image.
const DOCUMENT: usize = 1 << 20;

/// An image of another region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    pub region: String,
    pub image_id: String,
    pub interface: String,
    /// The caller's, sealed.
    pub token: String,
}

/// What is taken over of it beside its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub disk_format: String,
    pub container_format: String,
    pub size: u64,
    pub properties: BTreeMap<String, String>,
}

impl Remote {
    /// From the method of an import; the token is not in it.
    pub fn parse(method: &Value) -> Result<Remote> {
        let text = |name: &str| method.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let needed =
            |name: &str| text(name).ok_or_else(|| Error::invalid(format!("'{name}' needs to be set for glance-download import method")));
        let (region, image_id) = (needed("glance_region")?.to_string(), needed("glance_image_id")?.to_string());
        if !base::id::is_uuid(&image_id) {
            return Err(Error::invalid(format!("Remote image id does not look like a UUID: {image_id}")));
        }
        // Whether there is such a region and interface is found out by the import.
        let interface = text("glance_service_interface").unwrap_or("public").to_string();
        Ok(Remote { region, image_id, interface, token: String::new() })
    }
}

fn taken(image: &Map<String, Value>) -> Result<Taken> {
    let text = |name: &str| image.get(name).and_then(Value::as_str);
    let status = text("status").unwrap_or_default();
    if status != "active" {
        return Err(Error::invalid(format!("Source image status should be active instead of {status}")));
    }
    let format = |name: &str| text(name).map(str::to_string).ok_or_else(|| Error::invalid(format!("The source image has no {name}.")));
    let size = image.get("size").and_then(Value::as_u64).ok_or_else(|| Error::invalid("The source image does not tell its size."))?;
    let properties = image.iter().filter(|(name, _)| PROPERTIES.iter().any(|prefix| name.starts_with(prefix)));
    let properties = properties.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_string())));
    Ok(Taken { disk_format: format("disk_format")?, container_format: format("container_format")?, size, properties: properties.collect() })
}

impl Images {
    /// Where the image services of regions are; without this there are none.
    pub fn endpoints_set(&self, endpoints: Endpoints) {
        // A second time is a mistake of the program's, and changes nothing.
        let _ = self.0.endpoints.set(endpoints);
    }

    /// The token in a form that can be stored.
    pub(crate) fn token_seal(&self, token: &str) -> Result<String> {
        Ok(key(&self.core().config.home().join("keys"))?.encrypt(token.as_bytes()))
    }

    fn token_open(&self, sealed: &str) -> Result<String> {
        let lost = || Error::internal("keys/image does not open the token of an import");
        let token = key(&self.core().config.home().join("keys"))?.decrypt(sealed).map_err(|_| lost())?;
        String::from_utf8(token).map_err(|_| lost())
    }

    /// The address of an image of another region, and the token to ask for it with.
    async fn remote_url(&self, remote: &Remote) -> Result<(String, String)> {
        let found = match self.0.endpoints.get() {
            Some(endpoints) => self.core().store.read(|tx| endpoints(tx, &remote.region, &remote.interface)).await?,
            None => None,
        };
        let none = || Error::invalid(format!("{} glance endpoint not found for region {}", remote.interface, remote.region));
        let endpoint = found.ok_or_else(none)?;
        Ok((format!("{}/v2/images/{}", endpoint.trim_end_matches('/'), remote.image_id), self.token_open(&remote.token)?))
    }

    pub(crate) async fn remote_show(&self, remote: &Remote) -> Result<Taken> {
        let (url, token) = self.remote_url(remote).await?;
        let mut body = self.0.sources.ask(&url, &token).await?;
        let mut text = Vec::new();
        while let Some(piece) = body.chunk().await? {
            if text.len() + piece.len() > DOCUMENT {
                return Err(Error::invalid(format!("{url} answers with more than {DOCUMENT} bytes.")));
            }
            text.extend_from_slice(&piece);
        }
        match serde_json::from_slice(&text) {
            Ok(Value::Object(image)) => taken(&image),
            _ => Err(Error::invalid(format!("{url} does not answer with an image."))),
        }
    }

    pub(crate) async fn remote_content(&self, remote: &Remote) -> Result<http_api::body::Upload> {
        let (url, token) = self.remote_url(remote).await?;
        self.0.sources.ask(&format!("{url}/file"), &token).await
    }
}

/// The key that seals tokens of imports: `keys/image`, made at first use.
fn key(directory: &Path) -> Result<Fernet> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).internal("cannot make the directory of keys")?;
    let path = directory.join("image");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = Fernet::generate_key();
            let part = directory.join(format!("image.{}", base::id::hex()));
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
            let mut file = file.internal("cannot write a key")?;
            file.write_all(made.as_bytes()).and_then(|()| file.sync_all()).internal("cannot write a key")?;
            // Two requests may make it at once: the first one's is everybody's.
            match std::fs::hard_link(&part, &path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error).internal("cannot write a key"),
                _ => std::fs::remove_file(&part).internal("cannot write a key")?,
            }
            std::fs::read_to_string(&path).internal("cannot read keys/image")?
        }
        Err(error) => return Err(error).internal("cannot read keys/image"),
    };
    Fernet::new(text.trim()).ok_or_else(|| Error::internal("keys/image is damaged: remove it, and ask for imports under way again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("keys");
        let sealed = key(&directory).unwrap().encrypt(b"token");
        assert_eq!(key(&directory).unwrap().decrypt(&sealed).unwrap(), b"token");
        let files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["image"]);
        std::fs::write(directory.join("image"), "no key").unwrap();
        assert!(key(&directory).err().unwrap().message().contains("damaged"));
    }
}
