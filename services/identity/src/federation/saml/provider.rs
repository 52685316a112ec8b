//! One provider of SAML: what it says about a user, and how it is asked.

use base::{Error, Result, Timestamp};

use super::encryption::DecryptionKey;
use super::keys::Certificate;
use super::response::{self, Expected, Said};
use crate::fault;
use crate::federation::mapping::Assertion;
use crate::federation::oidc::claims::REMOTE_USER;
use crate::federation::peers::address;
use crate::federation::settings::Saml;

pub struct Provider {
    pub settings: Saml,
    certificates: Vec<Certificate>,
    pub(super) key: Option<DecryptionKey>,
    /// Where clients bring its assertions.
    pub consumer: String,
    /// Where browsers do.
    pub browser_url: String,
}

impl Provider {
    /// `own_url`: of the Identity API, up to `/v3`.
    pub fn new(settings: Saml, own_url: &str) -> Result<Provider> {
        let (idp, protocol) = (&settings.identity_provider, &settings.protocol);
        let mut certificates = Certificate::load(&settings.certificate)?;
        certificates.iter_mut().for_each(|one| one.sha1 = settings.sha1);
        let key = match (&settings.encryption_certificate, &settings.encryption_key) {
            (Some(certificate), Some(key)) => Some(DecryptionKey::load(certificate, key)?),
            (None, None) => None,
            _ => return Err(Error::invalid(format!("'{idp}': encryption_certificate and encryption_key go together"))),
        };
        Ok(Provider {
            certificates,
            key,
            consumer: address(own_url, idp, protocol, "auth"),
            browser_url: address(&format!("{own_url}/auth"), idp, protocol, "websso"),
            settings,
        })
    }

    /// As whom it knows us.
    pub fn audience(&self) -> &str {
        self.settings.audience.as_deref().unwrap_or(&self.consumer)
    }

    /// What a document of it says. `Unauthenticated` when it is not believed.
    pub fn said(&self, document: &str, consumer: &str) -> Result<Said> {
        let expected = Expected {
            entity_id: &self.settings.entity_id,
            certificates: &self.certificates,
            key: self.key.as_ref(),
            consumer,
            audience: self.audience(),
            names_audience: !self.settings.keystone,
            now: Timestamp::now(),
        };
        response::read(document, &expected).map_err(|problem| self.refuse(problem))
    }

    /// Why is for the log alone.
    pub fn refuse(&self, problem: &str) -> Error {
        tracing::info!(entity_id = self.settings.entity_id, "an assertion is not believed: {problem}");
        fault::unauthorized()
    }

    /// Each attribute by its name and, where no other has it, by its friendly name, also as Apache's mod_auth_mellon calls them, so that
    /// mappings that were written for one serve here. The names that say who it is and who says so are no provider's to give.
    pub fn assertion(&self, said: &Said) -> Assertion {
        let mut assertion = Assertion::default();
        let friendly = said.attributes.iter().filter_map(|attribute| Some((attribute.friendly_name.as_ref()?, &attribute.values)));
        let named = said.attributes.iter().map(|attribute| (&attribute.name, &attribute.values));
        for (name, values) in friendly.chain(named) {
            assertion.put(format!("MELLON_{name}"), values.clone());
            assertion.put(name.clone(), values.clone());
        }
        let name: Vec<String> = said.name.iter().cloned().collect();
        for own in [REMOTE_USER, "MELLON_NAME_ID"] {
            assertion.put(own.into(), name.clone());
        }
        for own in ["MELLON_IDP", "Shib-Identity-Provider"] {
            assertion.put(own.into(), vec![self.settings.entity_id.clone()]);
        }
        assertion
    }
}
