//! By the password of a user in a domain's directory.

use std::net::IpAddr;

use base::{Kind, Result};

use super::form::{Lookup, Named};
use crate::ldap::Who;
use crate::{Identity, projects};

impl Identity {
    /// The user's id; none when it is not a directory that knows the password. Who guesses is slowed down as with other passwords.
    pub(super) async fn prove_by_directory(&self, by: &Lookup, password: &str, from: Option<IpAddr>) -> Result<Option<String>> {
        let asked = by.text();
        self.0.attempts.check(from, &asked)?;
        let found = self.directory_user(by, password).await;
        if found.as_ref().is_err_and(|e| e.is(Kind::Unauthenticated)) {
            self.0.attempts.failed(from, &asked);
        }
        found
    }

    async fn directory_user(&self, by: &Lookup, password: &str) -> Result<Option<String>> {
        let (name, domain) = match by {
            Lookup::Id(id) => return self.directory_login(Who::Id(id), password).await,
            Lookup::Name { name, domain } => (name, domain),
        };
        let found = match domain {
            Named::Id(id) => Some(id.clone()),
            Named::Name(name) => self.0.store.read(|tx| projects::project_by_name_in(tx, name, "")).await?.map(|domain| domain.id),
        };
        match found {
            Some(domain_id) => self.directory_login(Who::Name { name, domain_id: &domain_id }, password).await,
            None => Ok(None),
        }
    }
}
