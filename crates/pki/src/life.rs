//! How long a certificate is good.

use std::time::SystemTime;

/// The time in which a certificate is good; seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    not_before: i64,
    not_after: i64,
}

impl Life {
    /// Of the first certificate in a text in PEM; none when there is no such thing.
    pub fn of(pem: &str) -> Option<Life> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let validity = pem.parse_x509().ok()?.validity().clone();
        Some(Life { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
    }

    /// When it ends; seconds since 1970.
    pub fn end(&self) -> i64 {
        self.not_after
    }

    /// Seconds until it ends; negative when it did.
    pub fn left(&self) -> i64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.not_after.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// Whether it should be replaced by now: less than a third is left, which leaves whoever replaces it many attempts.
    pub fn is_due(&self) -> bool {
        self.left() < self.not_after.saturating_sub(self.not_before) / 3
    }
}

/// Whether what a text in PEM holds should be replaced by now. What cannot be read should.
pub(crate) fn is_due(pem: &str) -> bool {
    Life::of(pem).is_none_or(|life| life.is_due())
}
