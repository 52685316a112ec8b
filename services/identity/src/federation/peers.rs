//! The providers that the settings name. They are read again when their file changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base::Result;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::settings::Settings;
use super::{oidc, saml};

pub struct Peers {
    file: PathBuf,
    /// Of the Identity API, up to `/v3`, as they know it.
    own_url: String,
    known: Mutex<Known>,
}

struct Known {
    changed: Option<SystemTime>,
    list: Vec<Peer>,
}

/// What a provider speaks.
#[derive(Clone)]
pub enum Peer {
    Oidc(Arc<oidc::Provider>),
    Saml(Arc<saml::Provider>),
}

impl Peer {
    /// The identity provider and the protocol.
    pub fn names(&self) -> (&str, &str) {
        match self {
            Peer::Oidc(one) => (&one.settings.identity_provider, &one.settings.protocol),
            Peer::Saml(one) => (&one.settings.identity_provider, &one.settings.protocol),
        }
    }

    /// Where its browsers come back to.
    pub fn browser_url(&self) -> &str {
        match self {
            Peer::Oidc(one) => &one.browser_url,
            Peer::Saml(one) => &one.browser_url,
        }
    }
}

/// What RFC 3986 leaves unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An address of a protocol.
pub fn address(url: &str, idp_id: &str, protocol_id: &str, end: &str) -> String {
    let encode = |text| utf8_percent_encode(text, SEGMENT);
    format!("{url}/OS-FEDERATION/identity_providers/{}/protocols/{}/{end}", encode(idp_id), encode(protocol_id))
}

impl Peers {
    /// An error when the settings are wrong now; later it is only logged, and those that were right last are used.
    pub fn load(file: PathBuf, own_url: String) -> Result<Peers> {
        let changed = changed(&file);
        let list = read(&file, &own_url)?;
        Ok(Peers { file, own_url, known: Mutex::new(Known { changed, list }) })
    }

    pub fn find(&self, idp_id: &str, protocol_id: &str) -> Option<Peer> {
        self.all().into_iter().find(|one| one.names() == (idp_id, protocol_id))
    }

    /// Those that have a protocol of this name and let browsers in.
    pub fn of_protocol(&self, protocol_id: &str) -> Vec<Peer> {
        let asks = |peer: &Peer| !matches!(peer, Peer::Saml(one) if one.settings.sso_url.is_none());
        self.all().into_iter().filter(|one| one.names().1 == protocol_id && asks(one)).collect()
    }

    fn all(&self) -> Vec<Peer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = changed(&self.file);
        if known.changed != changed {
            known.changed = changed;
            match read(&self.file, &self.own_url) {
                Ok(list) => known.list = list,
                Err(error) => tracing::error!("the settings of federation are not used: {}", error.chain()),
            }
        }
        known.list.clone()
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

fn read(file: &Path, own_url: &str) -> Result<Vec<Peer>> {
    let settings = Settings::load(file)?;
    let oidc = settings.oidc.into_iter().map(|one| oidc::Provider::new(one, own_url).map(Arc::new).map(Peer::Oidc));
    let saml = settings.saml.into_iter().map(|one| saml::Provider::new(one, own_url).map(Arc::new).map(Peer::Saml));
    oidc.chain(saml).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(issuer: &str, more: &str) -> String {
        format!("[[oidc]]\nidentity_provider = 'i'\nprotocol = 'p'\nissuer = '{issuer}'\nclient_id = 'c'\n{more}\n")
    }

    fn issuer(peers: &Peers) -> String {
        match peers.find("i", "p") {
            Some(Peer::Oidc(provider)) => provider.settings.issuer.clone(),
            _ => panic!("there is no such provider"),
        }
    }

    #[test]
    fn settings_are_read_again_when_they_change() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("federation.toml");
        let peers = Peers::load(file.clone(), "https://us/v3".into()).unwrap();
        assert!(peers.find("i", "p").is_none());
        let mut minute = 1;
        let mut write = |text: &str| {
            std::fs::write(&file, text).unwrap();
            minute += 1;
            let at = SystemTime::now() + std::time::Duration::from_secs(60 * minute);
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(at).unwrap();
        };
        write(&text("https://one", ""));
        assert_eq!(issuer(&peers), "https://one");
        assert!(peers.find("i", "q").is_none());
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
            assert_eq!(issuer(&peers), "https://one");
            let error = Peers::load(file.clone(), "https://us/v3".into()).err().unwrap();
            assert!(error.chain().contains(wanted), "{}", error.chain());
        }
        write(&text("http://127.0.0.1:80", ""));
        assert_eq!(issuer(&peers), "http://127.0.0.1:80");
    }
}
