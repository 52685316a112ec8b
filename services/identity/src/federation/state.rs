//! What we give somebody to bring back, so that we need not keep it: sealed with the keys of tokens, which all controllers have.

use std::time::Duration;

use base::Timestamp;

use crate::Identity;
use crate::token::keys::Keys;

impl Identity {
    /// A text of letters, digits, `-` and `_`. What is sealed for one purpose opens for no other.
    pub(crate) fn state_seal(&self, purpose: &str, values: &[&str]) -> String {
        seal(&self.keys(), purpose, values, seconds())
    }

    /// None: it is not ours, for something else, or older than `patience`.
    pub(crate) fn state_open(&self, purpose: &str, sealed: &str, patience: Duration) -> Option<Vec<String>> {
        open(&self.keys(), purpose, sealed, seconds().saturating_sub(patience.as_secs()))
    }
}

/// Since 1970.
fn seconds() -> u64 {
    u64::try_from(Timestamp::now().micros() / 1_000_000).unwrap_or_default()
}

fn seal(keys: &Keys, purpose: &str, values: &[&str], at: u64) -> String {
    let whole: Vec<&str> = std::iter::once(purpose).chain(values.iter().copied()).collect();
    keys.seal(serde_json::Value::from(whole).to_string().as_bytes(), at)
}

fn open(keys: &Keys, purpose: &str, sealed: &str, oldest: u64) -> Option<Vec<String>> {
    let (bytes, at) = keys.unseal(sealed)?;
    let mut values: Vec<String> = serde_json::from_slice(&bytes).ok()?;
    (at >= oldest && !values.is_empty() && values.remove(0) == purpose).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_opens_for_its_purpose_and_for_a_while() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::open(home.path()).unwrap();
        let sealed = seal(&keys, "one", &["a", "b\"é"], 1000);
        assert!(sealed.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{sealed}");
        assert_eq!(open(&keys, "one", &sealed, 1000), Some(vec!["a".into(), "b\"é".into()]));
        assert_eq!(open(&keys, "one", &sealed, 1001), None, "it is too old");
        assert_eq!(open(&keys, "a", &sealed, 0), None);
        assert_eq!(open(&keys, "one", &sealed[1..], 0), None);
        // Neither what else is sealed with these keys, nor what others seal.
        for other in ["[]", "{}", "[1]", "\"one\"", "one"] {
            assert_eq!(open(&keys, "one", &keys.seal(other.as_bytes(), 1000), 0), None, "{other}");
        }
        let strange = tempfile::tempdir().unwrap();
        assert_eq!(open(&Keys::open(strange.path()).unwrap(), "one", &sealed, 0), None);
    }
}
