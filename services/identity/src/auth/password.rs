//! By password.

use base::{Error, Result, Timestamp};
use serde_json::{Map, Value};
use store::Tx;

use super::Proof;
use super::form::{Lookup, Named, named, object, text};
use crate::users::User;
use crate::{Identity, fault, projects, users};

impl Identity {
    pub(super) async fn prove_by_password(&self, identity: &Map<String, Value>, proof: &mut Proof) -> Result<()> {
        let user = object(object(identity, "password", "identity")?, "user", "password")?;
        let password = text(user, "password", "user")?.ok_or_else(|| fault::expecting("password", "user"))?;
        let id = text(user, "id", "user")?;
        let name = text(user, "name", "user")?;
        let by = match (id, name) {
            (_, Some(name)) => {
                let domain = named(object(user, "domain", "user")?, "domain")?;
                Lookup::Name { name, domain }
            }
            (Some(id), None) => Lookup::Id(id),
            (None, None) => return Err(fault::expecting("id or name", "user")),
        };
        if let Some(id) = self.prove_by_directory(&by, &password, proof.from).await? {
            proof.methods |= self.0.methods.bit("password");
            return proof.is(id);
        }
        let found = self.0.store.read(|tx| find_user(tx, &by)).await?;
        let user = self.password_check(found, &by.text(), password, proof.from).await?;
        if self.0.password_rules.is_expired(&user, Timestamp::now()) {
            // Told only to who knew it: only the user can get a new one with it.
            let message = format!("The password of user {} has expired: change it first.", user.id);
            return Err(Error::unauthenticated(message));
        }
        proof.methods |= self.0.methods.bit("password");
        proof.is(user.id)
    }
}

pub(super) fn find_user(tx: &Tx, by: &Lookup) -> Result<Option<User>> {
    match by {
        Lookup::Id(id) => users::user_fetch_in(tx, id),
        Lookup::Name { name, domain } => {
            let domain_id = match domain {
                Named::Id(id) => id.clone(),
                Named::Name(name) => match projects::project_by_name_in(tx, name, "")? {
                    Some(domain) => domain.id,
                    None => return Ok(None),
                },
            };
            users::user_by_name_in(tx, name, &domain_id)
        }
    }
}
