//! Points in time: integer microseconds UTC, in memory, in the store and between processes.

use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub fn now() -> Self {
        Timestamp(jiff::Timestamp::now().as_microsecond())
    }
    pub fn micros(self) -> i64 {
        self.0
    }
    pub fn plus(self, span: std::time::Duration) -> Self {
        Timestamp(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
    pub fn since(self, earlier: Timestamp) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
    fn print(self, form: &str) -> String {
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH).strftime(form).to_string()
    }
    /// `2026-11-20T12:00:00Z`: compute, image, network.
    pub fn iso(self) -> String {
        self.print("%Y-%m-%dT%H:%M:%SZ")
    }
    /// `2026-11-20T12:00:00.000000Z`: identity.
    pub fn iso_micros_z(self) -> String {
        self.print("%Y-%m-%dT%H:%M:%S.%6fZ")
    }
    /// `2026-11-20T12:00:00.000000`: compute's actions and services, fault.
    pub fn iso_micros(self) -> String {
        self.print("%Y-%m-%dT%H:%M:%S.%6f")
    }
    /// `2026-11-20T12:00:00`: without a zone.
    pub fn iso_plain(self) -> String {
        self.print("%Y-%m-%dT%H:%M:%S")
    }
    /// `Fri, 20 Nov 2026 12:00:00 GMT`: HTTP headers.
    pub fn http_date(self) -> String {
        self.print("%a, %d %b %Y %H:%M:%S GMT")
    }
    /// Reads ISO 8601 with `T` or a space, with or without fraction and zone; without one it is UTC.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(t) = text.parse::<jiff::Timestamp>() {
            return Some(Timestamp(t.as_microsecond()));
        }
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(Timestamp(zoned.timestamp().as_microsecond()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_the_forms_clients_use() {
        let t = Timestamp(1_700_000_000_123_456);
        assert_eq!(t.iso(), "2023-11-14T22:13:20Z");
        assert_eq!(t.iso_micros_z(), "2023-11-14T22:13:20.123456Z");
        for text in [t.iso_micros_z(), t.iso_micros(), "2023-11-14 22:13:20.123456".into(), "2023-11-14T23:13:20.123456+01:00".into()] {
            assert_eq!(Timestamp::parse(&text), Some(t), "{text}");
        }
        assert_eq!(Timestamp::parse("yesterday"), None);
    }
}
