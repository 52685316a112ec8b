//! What we give somebody to bring back, so that we need not keep it: sealed with the keys of tokens, which all controllers have.

use std::time::Duration;

use base::Timestamp;

use crate::Identity;

impl Identity {
    /// A text of letters, digits, `-` and `_`. What is sealed for one purpose opens for no other.
    pub(crate) fn state_seal(&self, purpose: &str, values: &[&str]) -> String {
        let whole: Vec<&str> = std::iter::once(purpose).chain(values.iter().copied()).collect();
        let text = serde_json::Value::from(whole).to_string();
        self.keys().seal(text.as_bytes(), seconds(Timestamp::now()))
    }

    /// None: it is not ours, for something else, or older than `patience`.
    pub(crate) fn state_open(&self, purpose: &str, sealed: &str, patience: Duration) -> Option<Vec<String>> {
        let (bytes, at) = self.keys().unseal(sealed)?;
        let mut values: Vec<String> = serde_json::from_slice(&bytes).ok()?;
        let fresh = seconds(Timestamp::now()).saturating_sub(at) <= patience.as_secs();
        (fresh && !values.is_empty() && values.remove(0) == purpose).then_some(values)
    }
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.micros() / 1_000_000).unwrap_or_default()
}
