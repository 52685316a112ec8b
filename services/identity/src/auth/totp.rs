//! By a one-time password of an authenticator (RFC 6238: SHA-1, 30 seconds, six digits). Its secret is a credential of type `totp`, in
//! base32.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use base::{Result, Timestamp};
use hmac::{Hmac, Mac};
use serde_json::{Map, Value};
use sha1::Sha1;
use store::params;

use super::Proof;
use super::form::{Lookup, named, object, text};
use super::password::find_user;
use crate::password::same;
use crate::{Identity, credentials, fault};

/// Seconds for which a code is shown.
const STEP: i64 = 30;
/// Wrong codes of a user within a step; after that none counts until the next one. A million codes are soon tried.
const TRIES: u32 = 5;
/// Places from which users came with a right code. When there are more, all are forgotten: memory stays bounded.
const PLACES: usize = 100_000;

/// Wrong codes of the present step. Those from where the user was seen before are counted for themselves: else anybody could keep a user out
/// with five wrong codes every thirty seconds.
#[derive(Default)]
pub struct Guesses(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    step: i64,
    /// By user, and the place if it is known.
    wrong: HashMap<Place, u32>,
    known: HashSet<Place>,
}

type Place = (String, Option<IpAddr>);

impl Inner {
    fn place(&mut self, step: i64, user_id: &str, from: Option<IpAddr>) -> Place {
        if self.step != step {
            (self.step, self.wrong) = (step, HashMap::new());
        }
        let place = (user_id.to_string(), from);
        if self.known.contains(&place) { place } else { (place.0, None) }
    }
}

impl Guesses {
    fn may_try(&self, step: i64, user_id: &str, from: Option<IpAddr>) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = inner.place(step, user_id, from);
        inner.wrong.get(&place).is_none_or(|tries| *tries < TRIES)
    }

    fn was_wrong(&self, step: i64, user_id: &str, from: Option<IpAddr>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = inner.place(step, user_id, from);
        *inner.wrong.entry(place).or_default() += 1;
    }

    fn was_right(&self, user_id: &str, from: Option<IpAddr>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.known.len() >= PLACES {
            inner.known.clear();
        }
        inner.known.insert((user_id.to_string(), from));
    }
}

impl Identity {
    pub(super) async fn prove_by_totp(&self, identity: &Map<String, Value>, proof: &mut Proof) -> Result<()> {
        let user = object(object(identity, "totp", "identity")?, "user", "totp")?;
        let passcode = text(user, "passcode", "user")?.ok_or_else(|| fault::expecting("passcode", "user"))?;
        let by = match (text(user, "id", "user")?, text(user, "name", "user")?) {
            (_, Some(name)) => Lookup::Name { name, domain: named(object(user, "domain", "user")?, "domain")? },
            (Some(id), None) => Lookup::Id(id),
            (None, None) => return Err(fault::expecting("id or name", "user")),
        };
        let found = self.0.store.read(|tx| {
            let Some(user) = find_user(tx, &by)? else { return Ok(None) };
            let secrets = credentials::credentials_of_in(tx, &self.0.credential_keys, &user.id, "totp")?;
            Ok(Some((user.id, secrets)))
        });
        let (user_id, secrets) = found.await?.ok_or_else(fault::unauthorized)?;
        let now = Timestamp::now().micros().div_euclid(1_000_000 * STEP);
        if !self.0.guesses.may_try(now, &user_id, proof.from) {
            return Err(fault::unauthorized());
        }
        let window = i64::try_from(self.0.config.int("totp.previous_windows")).unwrap_or(0).min(10);
        let right = secrets.iter().find_map(|secret| {
            let key = base32(&secret.blob)?;
            let step =
                (now - window..=now).find(|step| code(&key, *step).is_some_and(|code| same(code.as_bytes(), passcode.as_bytes())))?;
            Some((secret.id.clone(), step))
        });
        let Some((credential_id, step)) = right else {
            self.0.guesses.was_wrong(now, &user_id, proof.from);
            return Err(fault::unauthorized());
        };
        self.add(move |tx| {
            let sql = "INSERT INTO totp_use (credential_id, step) VALUES (?1, ?2) \
                       ON CONFLICT (credential_id) DO UPDATE SET step = excluded.step WHERE totp_use.step < excluded.step";
            // Of two who come with the same code, one is late.
            if tx.execute(sql, params![credential_id, step])? == 0 { Err(fault::unauthorized()) } else { Ok(()) }
        })
        .await?;
        self.0.guesses.was_right(&user_id, proof.from);
        proof.methods |= self.0.methods.bit("totp");
        proof.is(user_id)
    }
}

/// `None` for what is no base32. Padding may be left out.
fn base32(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(text.len() * 5 / 8), 0u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'2'..=b'7' => c - b'2' + 26,
            _ => return None,
        };
        bits = (bits << 5) | u32::from(value);
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // An empty key would make codes that everybody knows.
    (!bytes.is_empty()).then_some(bytes)
}

/// The code of a step (RFC 4226, section 5.3).
fn code(key: &[u8], step: i64) -> Option<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).ok()?;
    mac.update(&step.to_be_bytes());
    let hash = mac.finalize().into_bytes();
    let at = usize::from(hash.last()? & 15);
    let word = u32::from_be_bytes(hash.get(at..at + 4)?.try_into().ok()?) & 0x7fff_ffff;
    Some(format!("{:06}", word % 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn codes_are_those_of_the_rfc() {
        // RFC 6238, appendix B, the last six of its eight digits.
        let key = base32("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").unwrap();
        assert_eq!(key, b"12345678901234567890");
        for (seconds, wanted) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code(&key, seconds / STEP).unwrap(), wanted);
        }
    }

    #[test]
    fn nobody_is_kept_out_where_they_were_before() {
        let guesses = Guesses::default();
        let (home, attacker, other) =
            (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])), Some(IpAddr::from([10, 0, 0, 3])));
        guesses.was_right("u", home);
        (0..TRIES).for_each(|_| guesses.was_wrong(1, "u", attacker));
        // From many places there are no more tries than from one.
        assert!(!guesses.may_try(1, "u", attacker) && !guesses.may_try(1, "u", other) && !guesses.may_try(1, "u", None));
        assert!(guesses.may_try(1, "u", home) && guesses.may_try(1, "v", attacker) && guesses.may_try(2, "u", attacker));
        (0..TRIES).for_each(|_| guesses.was_wrong(2, "u", home));
        assert!(!guesses.may_try(2, "u", home) && guesses.may_try(2, "u", other));
        (0..=PLACES).for_each(|n| guesses.was_right(&n.to_string(), None));
        assert!(guesses.0.lock().unwrap().known.len() <= PLACES);
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        for (text, wanted) in [("MY======", "f"), ("MZXQ", "fo"), ("MZXW6===", "foo"), ("MZXW6YQ", "foob"), ("MZXW6YTBOI", "foobar")] {
            assert_eq!(base32(text).unwrap(), wanted.as_bytes());
        }
        for wrong in ["", "A", "mzxw6", "MZXW1", "MZ XW"] {
            assert_eq!(base32(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_panics(text in ".{0,64}", step in any::<i64>()) {
            if let Some(key) = base32(&text) {
                prop_assert_eq!(code(&key, step).unwrap().len(), 6);
            }
        }
    }
}
