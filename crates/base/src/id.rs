//! Ids. Identity's are 32 hex digits, all others UUIDs with dashes; both are random.

/// A new dashed UUID.
pub fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A new id in identity's form: 32 lower-case hex digits.
pub fn hex() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Whether `text` is a UUID in the form clients send: dashed or 32 hex digits, either case.
pub fn is_uuid(text: &str) -> bool {
    matches!(text.len(), 32 | 36) && uuid::Uuid::try_parse(text).is_ok()
}

/// The first `n` characters of an id: device names have little room.
pub fn short(id: &str, n: usize) -> &str {
    id.get(..n).unwrap_or(id)
}
