//! What is known of identity providers beyond the API: where they are and the secrets shared with them. One TOML file, so that the
//! secrets are in nobody's API and in no database.

use std::path::{Path, PathBuf};

use base::{Error, Result};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Providers of OpenID Connect.
    #[serde(default)]
    pub oidc: Vec<Oidc>,
    /// Providers of SAML.
    #[serde(default)]
    pub saml: Vec<Saml>,
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
    /// What browsers ask it for.
    #[serde(default = "scope")]
    pub scope: String,
    /// Ask the provider about every token, also about those that can be verified here.
    #[serde(default)]
    pub introspect: bool,
    /// PEM file of the authorities that vouch for the provider; none: those of the system.
    pub ca_certificate: Option<PathBuf>,
}

/// A provider of SAML, for one protocol of one identity provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saml {
    pub identity_provider: String,
    pub protocol: String,
    /// As it stands in its assertions and, if the identity provider has any, among the remote ids.
    pub entity_id: String,
    /// PEM file of the certificates by which it signs.
    pub certificate: PathBuf,
    /// PEM files of a certificate for which it encrypts what it says, and of the private key (RSA); none: it does not encrypt.
    pub encryption_certificate: Option<PathBuf>,
    pub encryption_key: Option<PathBuf>,
    /// As whom it knows us; none: by the URL at which assertions come in.
    pub audience: Option<String>,
    /// Where browsers ask it for an assertion (HTTP-Redirect); none: they do not.
    pub sso_url: Option<String>,
    /// It may sign with SHA-1, as upstream's keystone does and nobody else should.
    #[serde(default)]
    pub sha1: bool,
    /// It is a Keystone that sends its users without being asked (K2K), and does not say for whom an assertion is.
    #[serde(default)]
    pub keystone: bool,
}

fn scope() -> String {
    "openid email profile".into()
}

fn prefix() -> String {
    "OIDC-".into()
}

impl Oidc {
    pub fn is_audience(&self, name: &str) -> bool {
        if self.audiences.is_empty() { name == self.client_id } else { self.audiences.iter().any(|audience| audience == name) }
    }
}

/// The dashboards of the configuration. `Invalid` when one has no URL.
pub fn dashboards(config: &base::Config) -> Result<Vec<String>> {
    const KEY: &str = "federation.trusted_dashboard";
    let all = config.text(KEY).split(',').map(str::trim).filter(|one| !one.is_empty());
    all.map(|one| match reqwest::Url::parse(one) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(one.to_string()),
        _ => Err(Error::invalid(format!("{KEY}: '{one}' is no URL of http or https"))),
    })
    .collect()
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
        let safe = |what: &str, url: &str| match super::oidc::fetch::is_safe(url) {
            true => Ok(()),
            false => Err(wrong(&format!("the {what} '{url}' has no URL of https"))),
        };
        settings.oidc.iter().try_for_each(|one| safe("issuer", &one.issuer))?;
        settings.saml.iter().filter_map(|one| one.sso_url.as_ref()).try_for_each(|url| safe("sso_url", url))?;
        let oidc = settings.oidc.iter().map(|one| (&one.identity_provider, &one.protocol));
        let mut all: Vec<(&String, &String)> =
            oidc.chain(settings.saml.iter().map(|one| (&one.identity_provider, &one.protocol))).collect();
        all.sort();
        if let Some(twice) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(wrong(&format!("'{}' has the protocol '{}' twice", twice[0].0, twice[0].1)));
        }
        Ok(settings)
    }
}
