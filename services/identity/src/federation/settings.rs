//! What is known of identity providers beyond the API: where they are and the secrets shared with them. One TOML file, so that the
//! secrets are in nobody's API and in no database.

use std::path::Path;

use base::{Error, Result};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Providers of OpenID Connect.
    #[serde(default)]
    pub oidc: Vec<Oidc>,
}

/// A provider of OpenID Connect, for one protocol of one identity provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    pub identity_provider: String,
    pub protocol: String,
    /// As it stands in its tokens and, if the identity provider has any, among the remote ids.
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Option<String>,
    /// For whom tokens must be meant; empty: for the client.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// What the names of claims begin with as attributes of the assertion.
    #[serde(default = "prefix")]
    pub claim_prefix: String,
    /// Ask the provider about every token, also about those that can be verified here.
    #[serde(default)]
    pub introspect: bool,
    /// PEM file of the authorities that vouch for the provider; none: those of the system.
    pub ca_certificate: Option<std::path::PathBuf>,
}

fn prefix() -> String {
    "OIDC-".into()
}

impl Oidc {
    pub fn is_audience(&self, name: &str) -> bool {
        if self.audiences.is_empty() { name == self.client_id } else { self.audiences.iter().any(|audience| audience == name) }
    }
}

impl Settings {
    /// A file that is not there says nothing.
    pub fn load(path: &Path) -> Result<Settings> {
        let wrong = |problem: &dyn std::fmt::Display| Error::invalid(format!("{}: {problem}", path.display()));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Settings::default()),
            Err(e) => return Err(wrong(&e)),
        };
        let settings: Settings = toml::from_str(&text).map_err(|e| wrong(&e))?;
        for (i, one) in settings.oidc.iter().enumerate() {
            if !super::oidc::fetch::is_safe(&one.issuer) {
                return Err(wrong(&format!("oidc: the issuer '{}' has no URL of https", one.issuer)));
            }
            let same = |other: &Oidc| other.identity_provider == one.identity_provider && other.protocol == one.protocol;
            if settings.oidc[..i].iter().any(same) {
                return Err(wrong(&format!("oidc: '{}' has the protocol '{}' twice", one.identity_provider, one.protocol)));
            }
        }
        Ok(settings)
    }
}
