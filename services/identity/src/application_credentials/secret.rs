//! Secrets of application credentials.
//!
//! One that we made has 512 random bits: nobody guesses it from a hash, so a plain SHA-256 is enough, and a token costs no slow hash. One
//! that a user chose is hashed as passwords are; once it was right, that is remembered for the life of this process by a keyed hash.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use base::{Error, Result};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::password::{Hasher, same};

const PLAIN: &str = "$sha256$";
/// What is remembered at most.
const REMEMBERED: usize = 10_000;

/// A fresh secret, in upstream's form: 64 random bytes.
pub fn generate() -> Result<String> {
    let mut random = [0u8; 64];
    getrandom::fill(&mut random).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

/// What is stored for a secret of [`generate`].
pub fn plain_hash(secret: &str) -> String {
    format!("{PLAIN}{}", URL_SAFE_NO_PAD.encode(Sha256::digest(secret.as_bytes())))
}

/// Which secrets were found right.
pub struct Proven {
    key: [u8; 32],
    seen: Mutex<HashSet<[u8; 32]>>,
}

impl Proven {
    pub fn new() -> Result<Proven> {
        let mut key = [0u8; 32];
        getrandom::fill(&mut key).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
        Ok(Proven { key, seen: Mutex::default() })
    }

    /// Whether `secret` is the one of which `stored` was made. A wrong one takes as long as any wrong password, whatever is stored and
    /// also when nothing is: nobody finds out by the clock which credentials there are.
    pub async fn verify(&self, hasher: &Hasher, secret: String, stored: Option<String>) -> Result<bool> {
        let mark = self.mark(&secret, stored.as_deref().unwrap_or_default())?;
        match stored.as_deref().and_then(|stored| stored.strip_prefix(PLAIN)) {
            Some(hash) => {
                let right = same(hash.as_bytes(), URL_SAFE_NO_PAD.encode(Sha256::digest(secret.as_bytes())).as_bytes());
                if !right {
                    hasher.verify(secret, None).await?;
                }
                Ok(right)
            }
            None if stored.is_some() && self.seen().contains(&mark) => Ok(true),
            None => {
                let right = hasher.verify(secret, stored).await?;
                if right {
                    let mut seen = self.seen();
                    if seen.len() >= REMEMBERED {
                        seen.clear();
                    }
                    seen.insert(mark);
                }
                Ok(right)
            }
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, secret: &str, stored: &str) -> Result<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).map_err(|e| Error::internal(format!("HMAC: {e}")))?;
        mac.update(stored.as_bytes());
        mac.update(&[0]);
        mac.update(secret.as_bytes());
        Ok(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn right_ones_are_right_again_and_wrong_ones_stay_wrong() {
        let mut config = base::Config::for_home("/nonexistent");
        config.set("password.memory_kib", "64");
        config.set("password.passes", "1");
        let hasher = Hasher::start(&config).unwrap();
        let proven = Proven::new().unwrap();
        let made = generate().unwrap();
        assert_eq!(made.len(), 86);
        assert_ne!(made, generate().unwrap());
        for (secret, stored) in [(made.clone(), plain_hash(&made)), ("chosen".into(), hasher.hash("chosen".into()).await.unwrap())] {
            for _ in 0..2 {
                assert!(proven.verify(&hasher, secret.clone(), Some(stored.clone())).await.unwrap());
                assert!(!proven.verify(&hasher, format!("{secret}x"), Some(stored.clone())).await.unwrap());
                assert!(!proven.verify(&hasher, secret.clone(), None).await.unwrap());
                assert!(!proven.verify(&hasher, secret.clone(), Some(plain_hash("another"))).await.unwrap());
            }
        }
        assert_eq!(proven.seen().len(), 1, "only what took a slow hash");
    }
}
