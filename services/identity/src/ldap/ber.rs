//! The part of BER that LDAP is written in: tags of one byte, lengths that are given. It reads what strangers send, so it never
//! recurses and takes nothing for granted.

pub const INTEGER: u8 = 0x02;
pub const BOOLEAN: u8 = 0x01;
pub const OCTETS: u8 = 0x04;
pub const ENUMERATED: u8 = 0x0a;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;

pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = content.len().to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | bytes.len() as u8);
            out.extend(bytes);
        }
    }
    out.extend(content);
    out
}

pub fn integer(tag: u8, value: i32) -> Vec<u8> {
    tlv(tag, &value.to_be_bytes())
}

pub fn text(value: &str) -> Vec<u8> {
    tlv(OCTETS, value.as_bytes())
}

pub fn flag(value: bool) -> Vec<u8> {
    tlv(BOOLEAN, &[if value { 0xff } else { 0 }])
}

/// Reads one element after another.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next element's tag and content; `None` at the end, and for what is no element.
    pub fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (header, length) = header(self.0)?;
        let (content, rest) = self.0.get(header..)?.split_at_checked(length)?;
        let tag = self.0[0];
        self.0 = rest;
        Some((tag, content))
    }

    /// The next element's content, if it has this tag.
    pub fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    pub fn expect_integer(&mut self, tag: u8) -> Option<i64> {
        let bytes = self.expect(tag)?;
        if bytes.is_empty() || bytes.len() > 8 {
            return None;
        }
        let start = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
        Some(bytes.iter().fold(start, |value, byte| value << 8 | i64::from(*byte)))
    }

    pub fn expect_text(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.expect(OCTETS)?).into_owned())
    }
}

/// The lengths of an element's header and of its content, once all of the header is there.
pub fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let [tag, first, rest @ ..] = bytes else { return None };
    if tag & 0x1f == 0x1f {
        return None;
    }
    let more = usize::from(first & 0x7f);
    match first {
        0..=0x7f => Some((2, more)),
        0x81..=0x84 => {
            let length = rest.get(..more)?.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
            Some((2 + more, length))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_it_wrote(tag in 0u8..0x1f, content in proptest::collection::vec(any::<u8>(), 0..300), value: i32) {
            let written = [tlv(tag, &content), integer(INTEGER, value)].concat();
            let mut reader = Reader(&written);
            prop_assert_eq!(reader.next(), Some((tag, &content[..])));
            prop_assert_eq!(reader.expect_integer(INTEGER), Some(i64::from(value)));
            prop_assert_eq!(reader.next(), None);
        }

        #[test]
        fn lengths_of_every_size(length in prop_oneof![0usize..300, 65_000usize..66_000, 16_777_000usize..16_778_000]) {
            let written = tlv(OCTETS, &vec![7; length]);
            prop_assert_eq!(header(&written).map(|(head, content)| (head + content, content)), Some((written.len(), length)));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut reader = Reader(&bytes);
            while reader.next().is_some() {}
            Reader(&bytes).expect_integer(INTEGER);
        }
    }
}
