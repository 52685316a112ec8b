//! By a token that one has already.

use std::time::Duration;

use base::Result;
use serde_json::{Map, Value};

use super::Proof;
use super::form::{object, text};
use crate::token::payload::Via;
use crate::token::validate::as_subject;
use crate::{Identity, fault};

impl Identity {
    pub(super) async fn prove_by_token(&self, identity: &Map<String, Value>, proof: &mut Proof) -> Result<()> {
        let token = text(object(identity, "token", "identity")?, "id", "token")?.ok_or_else(|| fault::expecting("id", "token"))?;
        self.prove_by_token_of(&token, proof).await
    }

    pub(super) async fn prove_by_token_of(&self, token: &str, proof: &mut Proof) -> Result<()> {
        // Upstream's answer: it looks for the token as for any other thing.
        let live = self.token_live(token, Duration::ZERO).await.map_err(|e| as_subject(e, token))?;
        if !live.is_held_by(proof.certificate.as_ref()) {
            return Err(fault::unauthorized());
        }
        // Else whoever holds one could keep what was lent for as long as tokens last.
        if live.trust_id().is_some() {
            return Err(fault::forbidden_action("a token of a trust gives no other token; ask for one with the trust as its scope"));
        }
        match &live.payload.via {
            Via::User => {}
            via @ Via::Federation { .. } => proof.via = Some(via.clone()),
            Via::OAuth1(_) => {
                return Err(fault::forbidden_action("a token of OAuth 1.0a gives no other token; ask for one with the access token"));
            }
            // It stays what it is: neither its scope nor what restricts it can be shaken off.
            via @ (Via::ApplicationCredential(_) | Via::Certificate(_)) => proof.bind(via.clone(), live.payload.target.clone())?,
        }
        proof.methods |= self.0.methods.bit("token") | live.payload.methods;
        // A token from a token lives no longer and stays in its chain.
        proof.ends_by(Some(live.payload.expires_at));
        proof.parent_audit_id = Some(live.payload.parent_audit_id.unwrap_or(live.payload.audit_id));
        proof.is(live.payload.user_id.clone())
    }
}
