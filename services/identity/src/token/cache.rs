//! Validated tokens, kept in memory until something changes that could change the answer.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use base::{Context, Timestamp};
use bytes::Bytes;
use http_api::Certificate;

use super::payload::{Payload, Target, Via};
use crate::application_credentials::ApplicationCredential;
use crate::application_credentials::access::AccessRule;
use crate::certificate::thumbprint;
use crate::password::same;

/// A token that was found valid, with everything a validation answers.
pub struct Live {
    pub payload: Payload,
    /// The caller this token makes; without a request id.
    pub ctx: Context,
    pub user_domain_id: String,
    /// `{"token": {...}}` without the catalogue.
    pub bare: Bytes,
    /// The catalogue as JSON, shared among tokens; none for unscoped ones.
    pub catalogue: Option<Bytes>,
    /// Ids.
    pub role_ids: HashSet<String>,
    /// By which its holder acts.
    pub credential: Option<ApplicationCredential>,
    generation: u64,
    read_at: Instant,
}

impl Live {
    /// `generation`: from before the store was read.
    pub fn new(payload: Payload, ctx: Context, user_domain_id: String, bare: Bytes, generation: u64) -> Live {
        Live {
            payload,
            ctx,
            user_domain_id,
            bare,
            catalogue: None,
            role_ids: HashSet::new(),
            credential: None,
            generation,
            read_at: Instant::now(),
        }
    }

    /// The answer of `GET /v3/auth/tokens`.
    pub fn rendered(&self, with_catalogue: bool) -> Bytes {
        match (&self.catalogue, self.bare.strip_suffix(b"}}")) {
            (Some(catalogue), Some(open)) if with_catalogue => {
                let mut whole = Vec::with_capacity(self.bare.len() + catalogue.len() + 16);
                whole.extend_from_slice(open);
                whole.extend_from_slice(b",\"catalog\":");
                whole.extend_from_slice(catalogue);
                whole.extend_from_slice(b"}}");
                whole.into()
            }
            _ => self.bare.clone(),
        }
    }

    /// The trust by which its holder acts.
    pub fn trust_id(&self) -> Option<&str> {
        match &self.payload.target {
            Target::Trust { id, .. } => Some(id),
            _ => None,
        }
    }

    /// The application credential by which its holder acts.
    pub fn credential_id(&self) -> Option<&str> {
        match &self.payload.via {
            Via::ApplicationCredential(id) => Some(id),
            _ => None,
        }
    }

    /// The access token of OAuth 1.0a by which its holder acts.
    pub fn access_token_id(&self) -> Option<&str> {
        match &self.payload.via {
            Via::OAuth1(id) => Some(id),
            _ => None,
        }
    }

    /// Lent by another user, for a time.
    pub fn is_lent(&self) -> bool {
        self.trust_id().is_some() || self.access_token_id().is_some()
    }

    /// Stands for less than the user: it reaches one project and what belongs to that.
    pub fn is_delegated(&self) -> bool {
        self.is_lent() || self.credential_id().is_some()
    }

    /// Of an application credential that makes no others.
    pub fn is_restricted(&self) -> bool {
        self.credential_id().is_some() && self.credential.as_ref().is_none_or(|credential| !credential.unrestricted)
    }

    /// Whether who sends it may: a token that is bound to a certificate is good for who shows that one (RFC 8705).
    pub fn is_held_by(&self, shown: Option<&Certificate>) -> bool {
        match &self.payload.via {
            Via::Certificate(bound) => shown.is_some_and(|shown| same(thumbprint(shown).as_bytes(), bound.as_bytes())),
            _ => true,
        }
    }

    /// The requests it is good for; empty: all.
    pub fn access_rules(&self) -> &[AccessRule] {
        self.credential.as_ref().map_or(&[], |credential| &credential.rules)
    }

    pub fn is_expired(&self, now: Timestamp, window: Duration) -> bool {
        now >= self.payload.expires_at.plus(window)
    }
}

const SHARDS: usize = 16;
/// About a kilobyte each.
const PER_SHARD: usize = 512;

type Shard = RwLock<HashMap<Box<str>, Arc<Live>>>;

/// Bounded; cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    shards: [Shard; SHARDS],
    hasher: RandomState,
    generation: AtomicU64,
    /// The last catalogue rendered: nearly always the next one's equal.
    catalogue: RwLock<Bytes>,
    /// How long an entry may be used unread; none: as long as the generation stays.
    longest: Option<Duration>,
}

impl Cache {
    /// With `shared`, other controllers change the same store unseen, and an entry is read again after a second.
    pub fn new(shared: bool) -> Cache {
        Cache(Arc::new(Inner {
            shards: Default::default(),
            hasher: RandomState::new(),
            generation: AtomicU64::new(1),
            catalogue: RwLock::default(),
            longest: shared.then_some(Duration::from_secs(1)),
        }))
    }

    /// To be taken before the store is read for a new entry.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::SeqCst)
    }

    /// Makes all entries void.
    pub fn invalidate(&self) {
        self.0.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub fn get(&self, token: &str) -> Option<Arc<Live>> {
        let live = self.shard(token).read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()?;
        self.is_current(&live).then_some(live)
    }

    pub fn put(&self, token: &str, live: Arc<Live>) {
        let mut shard = self.shard(token).write().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= PER_SHARD {
            let now = Timestamp::now();
            shard.retain(|_, live| self.is_current(live) && !live.is_expired(now, Duration::ZERO));
            if shard.len() >= PER_SHARD {
                shard.clear();
            }
        }
        shard.insert(token.into(), live);
    }

    pub fn intern(&self, catalogue: Vec<u8>) -> Bytes {
        let last = self.0.catalogue.read().unwrap_or_else(PoisonError::into_inner).clone();
        if last == catalogue {
            return last;
        }
        let fresh = Bytes::from(catalogue);
        *self.0.catalogue.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        fresh
    }

    fn is_current(&self, live: &Live) -> bool {
        live.generation == self.generation() && self.0.longest.is_none_or(|longest| live.read_at.elapsed() < longest)
    }

    fn shard(&self, token: &str) -> &Shard {
        &self.0.shards[self.0.hasher.hash_one(token) as usize % SHARDS]
    }
}
