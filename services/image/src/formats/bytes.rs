//! Numbers at an offset of a slice; none when the slice ends before.

macro_rules! reader {
    ($name:ident, $type:ty, $from:ident) => {
        pub fn $name(bytes: &[u8], at: usize) -> Option<$type> {
            let end = at.checked_add(size_of::<$type>())?;
            bytes.get(at..end)?.try_into().ok().map(<$type>::$from)
        }
    };
}
reader!(be16, u16, from_be_bytes);
reader!(be32, u32, from_be_bytes);
reader!(be64, u64, from_be_bytes);
reader!(le16, u16, from_le_bytes);
reader!(le32, u32, from_le_bytes);
reader!(le64, u64, from_le_bytes);

/// Whether `what` stands at `at`.
pub fn is_at(bytes: &[u8], at: usize, what: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(what))
}
