//! By a request that is signed with an access token of OAuth 1.0a.

use base::Result;

use super::Proof;
use crate::Identity;
use crate::oauth1::signature::SignedRequest;
use crate::token::payload::{Target, Via};

impl Identity {
    /// The signature is over the request's address and header, not over its body.
    pub(super) async fn prove_by_oauth1(&self, signed: SignedRequest, proof: &mut Proof) -> Result<()> {
        let token = self.access_token_proven(&signed).await?;
        proof.methods |= self.0.methods.bit("oauth1");
        proof.ends_by(Some(token.expires_at));
        proof.bind(Via::OAuth1(token.id), Target::Project(token.project_id))?;
        proof.is(token.user_id)
    }
}
