//! Receipts: who has used some of the methods that are demanded comes back with the rest.

use std::time::Duration;

use base::{Result, Timestamp};
use serde_json::{Value, json};

use super::{Proof, rules};
use crate::projects::domain_get_in;
use crate::token::payload;
use crate::token::receipt::Receipt;
use crate::token::validate::is_user_revoked_in;
use crate::users::User;
use crate::{Identity, fault, users};

/// The header of answers and requests.
pub const HEADER: &str = "openstack-auth-receipt";

/// What a client gets that has to come back.
pub struct Issued {
    pub receipt: String,
    pub body: Value,
}

impl Identity {
    /// Adds what a receipt says to what this request has proved.
    pub(super) async fn prove_by_receipt(&self, text: &str, proof: &mut Proof) -> Result<()> {
        let (bytes, sealed_at) = self.keys().unseal(text).ok_or_else(fault::unauthorized)?;
        let receipt = Receipt::decode(&bytes, sealed_at).ok_or_else(fault::unauthorized)?;
        if Timestamp::now() >= receipt.expires_at || proof.user_id.as_ref() != Some(&receipt.user_id) {
            return Err(fault::unauthorized());
        }
        // A password that was changed since is no proof any more.
        if self.0.store.read(|tx| is_user_revoked_in(tx, &receipt.user_id, receipt.issued_at)).await? {
            return Err(fault::unauthorized());
        }
        proof.methods |= receipt.methods;
        Ok(())
    }

    /// For a user whose proof is not enough. A receipt says by which methods, and nothing of what they were bound to: what was got by
    /// a token, or for one project only, is therefore not put into one.
    pub(super) async fn receipt_issue(&self, user: &User, proof: &Proof) -> Result<Issued> {
        let domain = self.0.store.read(|tx| domain_get_in(tx, &user.domain_id)).await?;
        let is_bound = proof.via.is_some() || proof.target.is_some() || proof.expires_at.is_some();
        if is_bound || !user.enabled || !domain.enabled {
            return Err(fault::unauthorized());
        }
        let now = Timestamp::now();
        let expires_at = payload::end_of(now, Duration::from_secs(self.0.config.int("token.receipt_seconds")));
        let receipt = Receipt { user_id: user.id.clone(), methods: proof.methods, issued_at: now, expires_at };
        let sealed = self.keys().seal(&receipt.encode().ok_or_else(fault::unauthorized)?, receipt.sealed_at());
        let body = json!({
            "receipt": {
                "methods": self.0.methods.names(proof.methods),
                "user": { "id": user.id, "name": user.name, "domain": { "id": domain.id, "name": domain.name } },
                "expires_at": expires_at.iso_micros_z(),
                "issued_at": now.iso_micros_z(),
            },
            "required_auth_methods": rules::begun(&self.0.methods, user, proof.methods),
        });
        Ok(Issued { receipt: sealed, body })
    }

    pub(super) async fn user_of(&self, proof: &Proof) -> Result<User> {
        let id = proof.user_id.as_deref().ok_or_else(fault::unauthorized)?;
        self.0.store.read(|tx| users::user_fetch_in(tx, id)).await?.ok_or_else(fault::unauthorized)
    }
}
