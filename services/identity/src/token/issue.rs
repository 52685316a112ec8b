//! New tokens.

use std::sync::Arc;

use base::{Error, Result, Timestamp};
use store::Tx;

use super::cache::Live;
use super::payload::{self, Payload, Target, Via};
use crate::{Identity, fault, trusts};

/// What a new token is to say.
pub struct Claim {
    pub user_id: String,
    /// As [`Methods`](super::methods::Methods) has them.
    pub methods: u32,
    pub target: Target,
    pub via: Via,
    /// The end of what it is made by; none: it lasts as long as tokens do.
    pub expires_at: Option<Timestamp>,
    /// See [`Payload::parent_audit_id`].
    pub parent_audit_id: Option<[u8; 16]>,
}

impl Identity {
    /// Makes a token of what `claim` finds in the store, which it looks up in the same view of the store as the token. `Unauthenticated`
    /// when such a token would not be valid.
    pub(crate) async fn token_make(&self, claim: impl FnOnce(&Tx, Timestamp) -> Result<Claim> + Send) -> Result<(String, Arc<Live>)> {
        let now = Timestamp::now();
        let mut audit_id = [0u8; 16];
        getrandom::fill(&mut audit_id).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
        let generation = self.0.cache.generation();
        let live = self
            .0
            .store
            .read(|tx| {
                let Claim { user_id, methods, target, via, expires_at, parent_audit_id } = claim(tx, now)?;
                let ends = [expires_at, end_of_in(tx, &target)?].into_iter().flatten().map(payload::cut);
                let expires_at = ends.fold(payload::end_of(now, self.token_lifetime()), Timestamp::min);
                if expires_at <= now {
                    return Err(fault::unauthorized());
                }
                let payload = Payload { user_id, methods, target, via, issued_at: now, expires_at, audit_id, parent_audit_id };
                self.live_in(tx, payload, generation)
            })
            .await?;
        if let Some(trust) = live.trust_id() {
            self.trust_use(trust).await?;
        }
        let token = self.token_write(&live.payload).ok_or_else(fault::unauthorized)?;
        let live = Arc::new(live);
        self.0.cache.put(&token, live.clone());
        Ok((token, live))
    }
}

/// When what the token stands for ends by itself.
fn end_of_in(tx: &Tx, target: &Target) -> Result<Option<Timestamp>> {
    match target {
        Target::Trust { id, .. } => Ok(trusts::trust_get_in(tx, id)?.expires_at),
        _ => Ok(None),
    }
}
