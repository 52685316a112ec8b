//! OpenID Connect: what a provider's tokens say, once it is sure that they are its own and meant for us.

pub mod claims;
pub mod fetch;
pub mod jwt;
mod provider;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base::Result;

use super::settings::Settings;
use provider::Provider;

/// All providers of the settings, which are read again when their file changes.
pub struct Providers {
    file: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    changed: Option<SystemTime>,
    list: Vec<Arc<Provider>>,
}

impl Providers {
    /// An error when the settings are wrong now; later it is only logged, and those that were right last are used.
    pub fn load(file: PathBuf) -> Result<Providers> {
        let changed = changed(&file);
        let list = read(&file)?;
        Ok(Providers { file, known: Mutex::new(Known { changed, list }) })
    }

    pub fn find(&self, idp_id: &str, protocol_id: &str) -> Option<Arc<Provider>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = changed(&self.file);
        if known.changed != changed {
            known.changed = changed;
            match read(&self.file) {
                Ok(list) => known.list = list,
                Err(error) => tracing::error!("the settings of federation are not used: {}", error.chain()),
            }
        }
        known.list.iter().find(|one| one.settings.identity_provider == idp_id && one.settings.protocol == protocol_id).cloned()
    }
}

fn changed(file: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

fn read(file: &std::path::Path) -> Result<Vec<Arc<Provider>>> {
    Settings::load(file)?.oidc.into_iter().map(|settings| Provider::new(settings).map(Arc::new)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(issuer: &str, more: &str) -> String {
        format!("[[oidc]]\nidentity_provider = 'i'\nprotocol = 'p'\nissuer = '{issuer}'\nclient_id = 'c'\n{more}\n")
    }

    #[test]
    fn settings_are_read_again_when_they_change() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("federation.toml");
        let providers = Providers::load(file.clone()).unwrap();
        assert!(providers.find("i", "p").is_none());
        let mut minute = 1;
        let mut write = |text: &str| {
            std::fs::write(&file, text).unwrap();
            minute += 1;
            let at = SystemTime::now() + std::time::Duration::from_secs(60 * minute);
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(at).unwrap();
        };
        write(&text("https://one", ""));
        assert_eq!(providers.find("i", "p").unwrap().settings.issuer, "https://one");
        assert!(providers.find("i", "q").is_none());
        // What is wrong is not used, and at the start not accepted.
        for (wrong, wanted) in [
            (text("http://one", ""), "no URL of https"),
            (text("https://user:secret@one", ""), "no URL of https"),
            (text("https://one", "secret = 's'"), "unknown field"),
            (text("https://one", "") + &text("https://two", ""), "twice"),
            (text("https://one", "ca_certificate = '/nonexistent'"), "ca_certificate"),
            ("[[oidc]]".into(), "missing field"),
        ] {
            write(&wrong);
            assert_eq!(providers.find("i", "p").unwrap().settings.issuer, "https://one");
            let error = Providers::load(file.clone()).err().unwrap();
            assert!(error.chain().contains(wanted), "{}", error.chain());
        }
        write(&text("http://127.0.0.1:80", ""));
        assert_eq!(providers.find("i", "p").unwrap().settings.issuer, "http://127.0.0.1:80");
    }
}
