//! Filters of searches (RFC 4515): from their text to what goes over the wire, and values that cannot be mistaken for more.

use super::ber::{OCTETS, flag, tlv};

/// How deep a filter may be nested.
const DEEPEST: usize = 20;

/// A value that stands for itself, whatever is in it.
pub fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '*' | '(' | ')' | '\\' | '\0' => out.push_str(&format!("\\{:02x}", c as u32)),
            _ => out.push(c),
        }
    }
    out
}

/// `(attribute=value)`.
pub fn equal(attribute: &str, value: &str) -> String {
    format!("({attribute}={})", escape(value))
}

/// All of these; a filter that stands without parentheses gets them.
pub fn all<'a>(filters: impl IntoIterator<Item = &'a str>) -> String {
    let filters = filters.into_iter().filter(|filter| !filter.is_empty());
    let wrapped: String = filters.map(|filter| if filter.starts_with('(') { filter.to_string() } else { format!("({filter})") }).collect();
    format!("(&{wrapped})")
}

/// The filter as it is sent; `None` when the text is none.
pub fn encode(text: &str) -> Option<Vec<u8>> {
    let mut rest = text;
    let encoded = filter(&mut rest, 0)?;
    rest.is_empty().then_some(encoded)
}

fn filter(rest: &mut &str, depth: usize) -> Option<Vec<u8>> {
    if depth > DEEPEST {
        return None;
    }
    *rest = rest.strip_prefix('(')?;
    let encoded = match rest.chars().next()? {
        sign @ ('&' | '|') => {
            *rest = &rest[1..];
            let mut parts = Vec::new();
            while rest.starts_with('(') {
                parts.extend(filter(rest, depth + 1)?);
            }
            tlv(if sign == '&' { 0xa0 } else { 0xa1 }, &parts)
        }
        '!' => {
            *rest = &rest[1..];
            tlv(0xa2, &filter(rest, depth + 1)?)
        }
        _ => {
            let end = rest.find([')', '('])?;
            let item = &rest[..end];
            *rest = &rest[end..];
            simple(item)?
        }
    };
    *rest = rest.strip_prefix(')')?;
    Some(encoded)
}

fn is_attribute(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b';' | b'_'))
}

fn simple(item: &str) -> Option<Vec<u8>> {
    let (left, value) = item.split_once('=')?;
    if let Some(left) = left.strip_suffix(':') {
        return extensible(left, value);
    }
    let (tag, attribute) = match left.chars().last()? {
        '>' => (0xa5, &left[..left.len() - 1]),
        '<' => (0xa6, &left[..left.len() - 1]),
        '~' => (0xa8, &left[..left.len() - 1]),
        _ => (0xa3, left),
    };
    if !is_attribute(attribute) {
        return None;
    }
    let name = tlv(OCTETS, attribute.as_bytes());
    if tag == 0xa3 && value == "*" {
        return Some(tlv(0x87, attribute.as_bytes()));
    }
    if tag == 0xa3 && value.contains('*') {
        return substrings(&name, value);
    }
    Some(tlv(tag, &[name, tlv(OCTETS, &unescape(value)?)].concat()))
}

fn substrings(name: &[u8], value: &str) -> Option<Vec<u8>> {
    let parts: Vec<&str> = value.split('*').collect();
    let mut list = Vec::new();
    for (i, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
        let tag = if i == 0 {
            0x80
        } else if i + 1 == parts.len() {
            0x82
        } else {
            0x81
        };
        list.extend(tlv(tag, &unescape(part)?));
    }
    (!list.is_empty()).then(|| tlv(0xa4, &[name.to_vec(), tlv(super::ber::SEQUENCE, &list)].concat()))
}

/// `attribute[:dn][:rule]:=value`.
fn extensible(left: &str, value: &str) -> Option<Vec<u8>> {
    let mut parts = left.split(':');
    let (attribute, mut rule, mut dn) = (parts.next()?, None, false);
    for part in parts {
        match part {
            "dn" if !dn => dn = true,
            _ if rule.is_none() && is_attribute(part) => rule = Some(part),
            _ => return None,
        }
    }
    let mut out = rule.map(|rule| tlv(0x81, rule.as_bytes())).unwrap_or_default();
    if !attribute.is_empty() {
        out.extend(is_attribute(attribute).then(|| tlv(0x82, attribute.as_bytes()))?);
    } else if rule.is_none() {
        return None;
    }
    out.extend(tlv(0x83, &unescape(value)?));
    if dn {
        let mut field = flag(true);
        field[0] = 0x84;
        out.extend(field);
    }
    Some(tlv(0xa9, &out))
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
                let (high, low) = (digit()?, digit()?);
                out.push(high << 4 | low);
            }
            b'*' | b'(' | b')' | 0 => return None,
            _ => out.push(byte),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ldap::ber::Reader;
    use proptest::prelude::*;

    #[test]
    fn filters_as_rfc_4515_has_them() {
        for good in [
            "(cn=Babs Jensen)",
            "(!(cn=Tim Howes))",
            "(&(objectClass=Person)(|(sn=Jensen)(cn=Babs J*)))",
            "(o=univ*of*mich*)",
            "(seeAlso=)",
            "(cn:caseExactMatch:=Fred Flintstone)",
            "(cn:=Betty Rubble)",
            "(sn:dn:2.4.6.8.10:=Barney Rubble)",
            "(o:dn:=Ace Industry)",
            "(:1.2.3:=Wilma Flintstone)",
            "(:dn:2.4.6.8.10:=Dino)",
            "(o=Parens R Us \\28for all your parenthetical needs\\29)",
            "(a>=1)",
            "(a<=1)",
            "(a~=1)",
            "(a=*)",
        ] {
            assert!(encode(good).is_some(), "{good}");
        }
        assert_eq!(encode("(cn=*\\2A*)").unwrap(), [&[0xa4, 9, 4, 2], &b"cn"[..], &[0x30, 3, 0x81, 1, b'*']].concat());
        let deep = format!("{}(a=b){}", "(!".repeat(100), ")".repeat(100));
        for bad in ["", "a=b", "(a=b", "(a=b))", "(=b)", "(a)", "(a=\\4)", "(a=\\zz)", "(a b=c)", "(&(a=b)c)", "(:=x)", "(a=**)", &deep] {
            assert_eq!(encode(bad), None, "{bad}");
        }
    }

    proptest! {
        /// Whatever somebody calls themselves, it is one value of one comparison.
        #[test]
        fn no_value_breaks_out(name in ".{0,40}") {
            let sent = encode(&equal("cn", &name)).unwrap();
            let (tag, content) = Reader(&sent).next().unwrap();
            prop_assert_eq!(tag, 0xa3);
            let mut reader = Reader(content);
            prop_assert_eq!(reader.expect(OCTETS), Some(&b"cn"[..]));
            prop_assert_eq!(reader.expect(OCTETS), Some(name.as_bytes()));
            prop_assert_eq!(reader.next(), None);
        }

        #[test]
        fn never_panics(text in "[()&|!=*:~<>\\\\a-f0-9]{0,60}") {
            encode(&text);
        }
    }
}
