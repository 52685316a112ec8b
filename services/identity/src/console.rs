//! What an operator does at the machine's console, next to the API: when nobody can log in, or nothing runs.

use base::{Context, Error, Result};
use store::{Tx, params};
use task::Reconciler;

use crate::bootstrap::{DEFAULT_DOMAIN, bootstrap_in, role_ids};
use crate::grants::{Actor, Grant, On, grant_insert_in};
use crate::projects::project_by_name_in;
use crate::token::validate::{USER, revoke_in};
use crate::users::{user_by_name_in, user_reset_in};
use crate::{Identity, note, sync};

impl Identity {
    /// Gives the cloud's administrator a new password, and all else that a login needs: the account is there, enabled and without
    /// demands for more than the password, it has its roles, its domain and project are enabled. The tokens it had are void. A cloud
    /// that runs on the same SQLite sees that within a minute, with the new keys of tokens; one on PostgreSQL at once. `Conflict`, and nothing is done,
    /// when the users of the default domain are those of a directory: no stored password works there, unless the domain is to `leave` it.
    pub async fn admin_reset(&self, password: &str, leave: bool) -> Result<()> {
        let config = self.domain_config(DEFAULT_DOMAIN).await?;
        if config.text("identity", "driver") == "ldap" && !leave {
            let message = "The users of the default domain are those of a directory: no password that is set here works there. \
                           With --leave-directory the domain has its own users again.";
            return Err(Error::conflict(message));
        }
        let hash = self.0.hasher.hash(password.to_string()).await?;
        let (identity, lifetime) = (self.clone(), self.token_lifetime());
        self.change(move |tx| {
            if leave {
                let sql = "DELETE FROM domain_config WHERE domain_id = ?1 AND group_name = 'identity' AND option_name = 'driver'";
                tx.execute(sql, params![DEFAULT_DOMAIN])?;
            }
            bootstrap_in(tx, Some(hash.clone()), identity.0.config.text("region"))?;
            let admin = user_by_name_in(tx, "admin", DEFAULT_DOMAIN)?.ok_or_else(|| Error::internal("no user admin"))?;
            let id = admin.id.clone();
            user_reset_in(tx, &identity.0.password_rules, admin, Some(hash))?;
            admit_in(tx, &id)?;
            revoke_in(tx, USER, &id, lifetime)?;
            note(tx, &Context::system("console"), "user.updated", &id)
        })
        .await?;
        self.keys_rotate().await
    }

    /// Forgets what is over: revocations that no token can meet any more; trusts, application credentials, tokens of OAuth and
    /// memberships that have ended. The cloud does so by itself.
    pub async fn purge(&self) -> Result<()> {
        sync::Revocations(self.clone()).run().await?;
        sync::Memberships(self.clone()).run().await
    }
}

/// Opens the domain and the project to the administrator.
fn admit_in(tx: &Tx, user_id: &str) -> Result<()> {
    let project = project_by_name_in(tx, "admin", DEFAULT_DOMAIN)?.ok_or_else(|| Error::internal("no project admin"))?;
    tx.execute("UPDATE project SET enabled = 1 WHERE id = ?1 OR id = ?2", params![DEFAULT_DOMAIN, &project.id])?;
    let role_id = role_ids(tx)?.remove("admin").ok_or_else(|| Error::internal("no role admin"))?;
    for on in [On::Project(project.id), On::System] {
        grant_insert_in(tx, &Grant { actor: Actor::User(user_id.into()), on, role_id: role_id.clone(), inherited: false })?;
    }
    Ok(())
}
