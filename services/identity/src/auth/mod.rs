//! Authentication: `POST /v3/auth/tokens`. What the methods of a request prove about one user, whether that is enough, and the scope
//! of the token that is given for it. A file for each method; the list of methods is [`Methods`](crate::token::methods::Methods).

mod application_credential;
mod certificate;
mod directory;
mod external;
mod form;
mod mapped;
mod oauth1;
mod password;
mod receipt;
mod rules;
mod scope;
mod token;
mod tokenless;
mod totp;

use std::net::IpAddr;
use std::sync::Arc;

use base::{Error, Result, Timestamp};
use http_api::{Certificate, Request};
use serde_json::{Map, Value};

use crate::oauth1::signature::SignedRequest;
use crate::token::cache::Live;
use crate::token::issue::Claim;
use crate::token::payload::{self, Target, Via};
use crate::{Identity, fault, users};

use form::object;
use scope::Wanted;

pub(crate) use mapped::Word;
pub use receipt::HEADER as RECEIPT_HEADER;
pub use totp::Guesses;

/// What a request for a token leads to.
pub(crate) enum Answer {
    Token(String, Arc<Live>),
    Receipt(receipt::Issued),
}

/// What the methods have proved so far.
#[derive(Default)]
struct Proof {
    /// Where the request comes from, if that is known.
    from: Option<IpAddr>,
    /// What the client has shown.
    certificate: Option<Certificate>,
    user_id: Option<String>,
    methods: u32,
    /// What stands behind the user's word; none: nothing does.
    via: Option<Via>,
    /// What the token must be for; none: what the request asks for.
    target: Option<Target>,
    expires_at: Option<Timestamp>,
    parent_audit_id: Option<[u8; 16]>,
}

impl Proof {
    /// The token ends then at the latest.
    fn ends_by(&mut self, end: Option<Timestamp>) {
        if let Some(end) = end.map(payload::cut) {
            self.expires_at = Some(self.expires_at.map_or(end, |known| known.min(end)));
        }
    }

    /// The token stands on `via` alone, and that is for `target` alone.
    fn bind(&mut self, via: Via, target: Target) -> Result<()> {
        if self.via.as_ref().is_some_and(|known| *known != via) || self.target.as_ref().is_some_and(|known| *known != target) {
            return Err(fault::unauthorized());
        }
        (self.via, self.target) = (Some(via), Some(target));
        Ok(())
    }

    /// All methods of one request must be about one user.
    fn is(&mut self, user_id: String) -> Result<()> {
        match &self.user_id {
            Some(known) if *known != user_id => Err(fault::unauthorized()),
            _ => {
                self.user_id = Some(user_id);
                Ok(())
            }
        }
    }
}

impl Identity {
    /// Checks `auth` (the value below that key) of a request, and makes a token or, for users of whom more is demanded, a receipt.
    pub(crate) async fn token_issue(&self, req: &Request, auth: &Map<String, Value>) -> Result<Answer> {
        self.token_issue_by(req, auth, bearer(req).map_or(Word::None, Word::Bearer)).await
    }

    /// As [`Identity::token_issue`], with an identity provider's word for the user.
    pub(crate) async fn token_issue_by(&self, req: &Request, auth: &Map<String, Value>, word: Word<'_>) -> Result<Answer> {
        let identity = object(auth, "identity", "auth")?;
        let mut methods = method_names(identity)?;
        let wanted = scope::wanted(auth)?;
        let mut proof = Proof { from: req.address, certificate: req.certificate.clone(), ..Proof::default() };
        // The code that counts once comes last: whoever mistypes the password does not lose it.
        methods.sort_by_key(|method| *method == "totp");
        // As upstream: who stands in front has said it all, and the request names no method.
        if methods.is_empty() && self.is_vouched_for(req) {
            methods.push("external");
        }
        for method in &methods {
            let of_federation = mapped::METHODS.contains(method) && self.0.methods.bit("mapped") != 0;
            if self.0.methods.bit(method) == 0 && !of_federation {
                return Err(fault::unauthorized());
            }
            match *method {
                "password" => self.prove_by_password(identity, &mut proof).await?,
                "external" => self.prove_by_external(req, &mut proof).await?,
                "totp" => self.prove_by_totp(identity, &mut proof).await?,
                "token" => self.prove_by_token(identity, &mut proof).await?,
                "application_credential" if auth.contains_key("scope") => {
                    let message = "An application credential has its scope already: leave 'scope' out.";
                    return Err(Error::unauthenticated(message));
                }
                "application_credential" => self.prove_by_application_credential(identity, &mut proof).await?,
                "oauth1" => self.prove_by_oauth1(SignedRequest::read(req)?, &mut proof).await?,
                method if mapped::METHODS.contains(&method) => self.prove_by_assertion(method, identity, &word, &mut proof).await?,
                _ => return Err(fault::unauthorized()),
            }
        }
        if let Some(receipt) = req.header(receipt::HEADER).filter(|text| !text.is_empty()) {
            self.prove_by_receipt(receipt, &mut proof).await?;
        }
        let user = self.user_of(&proof).await?;
        if !rules::is_enough(&self.0.methods, &user, proof.methods) {
            return self.receipt_issue(&user, &proof).await.map(Answer::Receipt);
        }
        let made = self.token_make(|tx, _| {
            let user = users::user_get_in(tx, &user.id).map_err(|_| fault::unauthorized())?;
            let target = match (wanted, proof.target) {
                (Wanted::Default, Some(bound)) => bound,
                (wanted, bound) => {
                    let target = scope::settle(tx, &user, wanted)?;
                    if bound.is_some_and(|bound| bound != target) {
                        return Err(fault::unauthorized());
                    }
                    target
                }
            };
            // What a trust lends does not depend on how its trustee came.
            let lent = matches!(target, Target::Trust { .. });
            let via = proof.via.filter(|via| !lent || !matches!(via, Via::Federation { .. })).unwrap_or(Via::User);
            Ok(Claim {
                target,
                user_id: user.id,
                methods: proof.methods,
                via,
                expires_at: proof.expires_at,
                parent_audit_id: proof.parent_audit_id,
            })
        });
        made.await.map(|(token, live)| Answer::Token(token, live))
    }
}

/// A token of an identity provider.
fn bearer(req: &Request) -> Option<&str> {
    let (scheme, token) = req.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn method_names(identity: &Map<String, Value>) -> Result<Vec<&str>> {
    let wrong = || fault::field("identity/methods", "it is not of type 'array' of 'string'");
    let list = identity.get("methods").ok_or_else(|| fault::field("identity", "'methods' is a required property"))?;
    let mut methods: Vec<&str> = Vec::new();
    for method in list.as_array().ok_or_else(wrong)? {
        let method = method.as_str().ok_or_else(wrong)?;
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    for method in &methods {
        if !identity.contains_key(*method) {
            return Err(fault::expecting(method, "identity"));
        }
    }
    Ok(methods)
}
