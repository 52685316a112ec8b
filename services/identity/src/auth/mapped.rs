//! By the word of an identity provider. The methods `mapped`, `openid` and `saml2` are one: what they carry is decided by the protocol
//! of the provider.

use base::{Kind, Result, Timestamp};
use serde_json::{Map, Value};

use super::Proof;
use super::form::{object, text};
use crate::federation::oidc::claims;
use crate::federation::shadow::{Times, arrive_in};
use crate::sync::changed_in;
use crate::token::payload;
use crate::{Identity, fault};

/// Of these, the one that is named after the protocol stands in the token.
pub(super) const METHODS: [&str; 3] = ["mapped", "openid", "saml2"];

impl Identity {
    /// `bearer`: the token of the provider, out of the request's `Authorization`.
    pub(super) async fn prove_by_assertion(
        &self,
        method: &str,
        identity: &Map<String, Value>,
        bearer: Option<&str>,
        proof: &mut Proof,
    ) -> Result<()> {
        let said = object(identity, method, "identity")?;
        // The way to rescope before there was another.
        if said.contains_key("id") {
            let token = text(said, "id", method)?.ok_or_else(|| fault::expecting("id", method))?;
            return self.prove_by_token_of(&token, proof).await;
        }
        let idp_id = text(said, "identity_provider", method)?.ok_or_else(|| fault::expecting("identity_provider", method))?;
        let protocol_id = text(said, "protocol", method)?.ok_or_else(|| fault::expecting("protocol", method))?;
        let bearer = bearer.filter(|token| !token.is_empty()).ok_or_else(fault::unauthorized)?;
        let provider = self.0.oidc.find(&idp_id, &protocol_id).ok_or_else(fault::unauthorized)?;
        let claims = provider.claims(bearer).await?;
        let assertion = claims::assertion(&claims, &provider.settings.claim_prefix);
        let times = Times {
            token_end: payload::end_of(Timestamp::now(), self.token_lifetime()),
            authorization_ttl: self.0.config.int("federation.default_authorization_ttl"),
        };
        let issuer = provider.settings.issuer.clone();
        let cache = self.0.cache.clone();
        let protocol = protocol_id.clone();
        let arrived = self
            .add(move |tx| {
                let arrival = arrive_in(tx, &idp_id, &protocol, &issuer, &assertion, times)?;
                if arrival.changed {
                    changed_in(tx, cache);
                }
                Ok(arrival)
            })
            .await;
        // Who asks with a provider's name hears no more than that it did not work.
        let arrival = arrived.map_err(|e| if e.is(Kind::NotFound) { fault::unauthorized() } else { e })?;
        let own = METHODS.contains(&protocol_id.as_str()).then(|| self.0.methods.bit(&protocol_id)).filter(|bit| *bit != 0);
        proof.methods |= own.unwrap_or_else(|| self.0.methods.bit("mapped"));
        proof.via = arrival.via.or(proof.via.take());
        proof.is(arrival.user_id)
    }
}
