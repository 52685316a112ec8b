//! By the word of an identity provider. The methods `mapped`, `openid` and `saml2` are one: what they carry is decided by the protocol
//! of the provider.

use base::{Kind, Result, Timestamp};
use serde_json::{Map, Value};

use super::Proof;
use super::form::{object, text};
use crate::federation::mapping::Assertion;
use crate::federation::oidc;
use crate::federation::peers::Peer;
use crate::federation::saml;
use crate::federation::saml::replay::{Use, assertion_use_in};
use crate::federation::saml::response::Said;
use crate::federation::shadow::{Times, arrive_in};
use crate::sync::changed_in;
use crate::token::payload;
use crate::{Identity, fault};

/// Of these, the one that is named after the protocol stands in the token.
pub(super) const METHODS: [&str; 3] = ["mapped", "openid", "saml2"];

/// What a request has of an identity provider.
pub(crate) enum Word<'a> {
    None,
    /// A token of it.
    Bearer(&'a str),
    /// A document of SAML.
    Document(&'a str),
    /// A document of SAML that answers this request of ours, brought by the browser that began with it.
    Answer {
        document: String,
        request: String,
        consumer: String,
    },
    /// What it said to ourselves.
    Claims(Map<String, Value>),
}

/// What a provider says, believed.
struct Heard {
    issuer: String,
    assertion: Assertion,
    /// None: it may say so again.
    once: Option<Use>,
    /// When the provider's own session ends.
    ends_at: Option<Timestamp>,
}

impl Heard {
    fn of_claims(provider: &oidc::Provider, claims: &Map<String, Value>) -> Heard {
        let assertion = oidc::claims::assertion(claims, &provider.settings.claim_prefix);
        Heard { issuer: provider.settings.issuer.clone(), assertion, once: None, ends_at: None }
    }
    fn of_said(provider: &saml::Provider, said: &Said) -> Heard {
        Heard {
            issuer: provider.settings.entity_id.clone(),
            assertion: provider.assertion(said),
            once: Some(Use::of(&provider.settings.entity_id, said)),
            ends_at: said.session_ends_at,
        }
    }
}

impl Identity {
    pub(super) async fn prove_by_assertion(
        &self,
        method: &str,
        identity: &Map<String, Value>,
        word: &Word<'_>,
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
        let heard = self.hear(&idp_id, &protocol_id, word).await?;
        let times = Times {
            token_end: payload::end_of(Timestamp::now(), self.token_lifetime()),
            authorization_ttl: self.0.config.int("federation.default_authorization_ttl"),
        };
        let cache = self.0.cache.clone();
        let protocol = protocol_id.clone();
        let arrived = self
            .add(move |tx| {
                if let Some(once) = &heard.once {
                    assertion_use_in(tx, once)?;
                }
                let arrival = arrive_in(tx, &idp_id, &protocol, &heard.issuer, &heard.assertion, times)?;
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
        proof.ends_by(heard.ends_at);
        proof.is(arrival.user_id)
    }

    async fn hear(&self, idp_id: &str, protocol_id: &str, word: &Word<'_>) -> Result<Heard> {
        match (self.0.peers.find(idp_id, protocol_id), word) {
            (Some(Peer::Oidc(provider)), Word::Bearer(token)) if !token.is_empty() => {
                Ok(Heard::of_claims(&provider, &provider.claims(token).await?))
            }
            (Some(Peer::Oidc(provider)), Word::Claims(claims)) => Ok(Heard::of_claims(&provider, claims)),
            (Some(Peer::Saml(provider)), Word::Document(document)) => {
                let said = provider.said(document, &provider.consumer)?;
                self.check_answers(&provider, said.in_response_to.as_deref())?;
                Ok(Heard::of_said(&provider, &said))
            }
            (Some(Peer::Saml(provider)), Word::Answer { document, request, consumer }) => {
                let said = provider.said(document, consumer)?;
                if said.in_response_to.as_ref() != Some(request) {
                    return Err(provider.refuse("it answers another request than this browser's"));
                }
                Ok(Heard::of_said(&provider, &said))
            }
            _ => Err(fault::unauthorized()),
        }
    }
}
