//! By application credential: by its id, or by its name and its user.

use base::Result;
use serde_json::{Map, Value};
use store::Tx;

use super::Proof;
use super::form::{Lookup, Named, named, object, text};
use super::password::find_user;
use crate::application_credentials::{ApplicationCredential, credential_by_name_in, credential_usable_in};
use crate::token::payload::{Target, Via};
use crate::{Identity, fault};

const METHOD: &str = "application_credential";

enum Which {
    Id(String),
    Name { name: String, user: Lookup },
}

impl Which {
    /// As it was asked for: to count who asks how often. No user is called so.
    fn text(&self) -> String {
        match self {
            Which::Id(id) => format!("{METHOD}/{id}"),
            Which::Name { name, user } => format!("{METHOD}/{}/{name}", user.text()),
        }
    }
}

impl Identity {
    pub(super) async fn prove_by_application_credential(&self, identity: &Map<String, Value>, proof: &mut Proof) -> Result<()> {
        let given = object(identity, METHOD, "identity")?;
        let secret = text(given, "secret", METHOD)?.ok_or_else(|| fault::expecting("secret", METHOD))?;
        let id = text(given, "id", METHOD)?.filter(|id| !id.is_empty());
        let name = text(given, "name", METHOD)?.filter(|name| !name.is_empty());
        let which = match (id, name) {
            // The user that a request names beside the id counts for nothing: it is the owner's credential.
            (Some(id), _) => Which::Id(id),
            (None, Some(name)) => Which::Name { name, user: user(object(given, "user", METHOD)?)? },
            (None, None) => return Err(fault::expecting("id or name", METHOD)),
        };
        let asked = which.text();
        self.0.attempts.check(proof.from, &asked)?;
        let found = self.0.store.read(|tx| find(tx, &which)).await?;
        let stored = found.as_ref().map(|credential| credential.secret.clone());
        let right = self.0.proven.verify(&self.0.hasher, secret, stored).await?;
        let Some(credential) = found.filter(|_| right) else {
            self.0.attempts.failed(proof.from, &asked);
            return Err(fault::unauthorized());
        };
        proof.methods |= self.0.methods.bit(METHOD);
        proof.ends_by(credential.expires_at);
        proof.bind(Via::ApplicationCredential(credential.id), Target::Project(credential.project_id))?;
        proof.is(credential.user_id)
    }
}

fn user(user: &Map<String, Value>) -> Result<Lookup> {
    match (text(user, "id", "user")?, text(user, "name", "user")?) {
        (Some(id), _) => Ok(Lookup::Id(id)),
        (None, Some(name)) => Ok(Lookup::Name { name, domain: user_domain(user)? }),
        (None, None) => Err(fault::expecting("id or name", "user")),
    }
}

fn user_domain(user: &Map<String, Value>) -> Result<Named> {
    named(object(user, "domain", "user")?, "domain")
}

fn find(tx: &Tx, which: &Which) -> Result<Option<ApplicationCredential>> {
    match which {
        Which::Id(id) => credential_usable_in(tx, id),
        Which::Name { name, user } => {
            let Some(user) = find_user(tx, user)? else { return Ok(None) };
            let Some(credential) = credential_by_name_in(tx, &user.id, name)? else { return Ok(None) };
            credential_usable_in(tx, &credential.id)
        }
    }
}
