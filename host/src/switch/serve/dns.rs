//! Names of a network's ports. Pure: a question in, an answer or "ask somebody else" out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dhcp4::hostname;
use super::options::name_bytes;
use super::view::View;

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const ANY: u16 = 255;
const TTL: u32 = 60;

const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;
const SERVER_FAILURE: u8 = 2;

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Reply(Vec<u8>),
    /// Not ours to know.
    Forward,
    /// Not a question.
    Nothing,
}

struct Question {
    /// Lower-case, without the dot at the end.
    name: String,
    kind: u16,
    /// Where the question section ends.
    end: usize,
}

fn question(bytes: &[u8]) -> Option<Question> {
    let mut at = 12;
    let mut labels: Vec<String> = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => {
                let label = bytes.get(at..at + length)?;
                labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
                at += length;
            }
            _ => return None, // questions are not compressed
        }
        if at > 12 + 255 {
            return None;
        }
    }
    let tail = bytes.get(at..at + 4)?;
    let (kind, class) = (u16::from_be_bytes([tail[0], tail[1]]), u16::from_be_bytes([tail[2], tail[3]]));
    matches!(class, 1 | 255).then(|| Question { name: labels.join("."), kind, end: at + 4 })
}

pub fn answer(view: &View, bytes: &[u8]) -> Answer {
    // A header, a query and not an answer.
    if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
        return Answer::Nothing;
    }
    if bytes[2] & 0x78 != 0 {
        return Answer::Reply(empty(bytes, NOT_IMPLEMENTED));
    }
    let Some(question) = question(bytes).filter(|_| bytes[4..6] == [0, 1]) else { return Answer::Reply(empty(bytes, REFUSED)) };
    if let Some(address) = reverse(&question.name) {
        return match name_of(view, address) {
            Some(name) if matches!(question.kind, PTR | ANY) => Answer::Reply(reply(bytes, &question, &[(PTR, name)])),
            Some(_) => Answer::Reply(reply(bytes, &question, &[])),
            None if view.subnet_of(address).is_some() => Answer::Reply(failure(bytes, &question, NO_SUCH_NAME)),
            None => Answer::Forward,
        };
    }
    let host = match question.name.strip_suffix(&view.domain).and_then(|n| n.strip_suffix('.')) {
        Some(host) if !view.domain.is_empty() => host,
        _ if question.name == view.domain && !view.domain.is_empty() => return Answer::Reply(reply(bytes, &question, &[])),
        // Bare names too, for clients without a search list.
        _ if !question.name.contains('.') => &question.name,
        _ => return Answer::Forward,
    };
    let mut known = false;
    let mut records = Vec::new();
    for lease in view.leases.values() {
        for address in &lease.addresses {
            if hostname(lease, address) != host {
                continue;
            }
            known = true;
            match address {
                IpAddr::V4(a) if matches!(question.kind, A | ANY) => records.push((A, a.octets().to_vec())),
                IpAddr::V6(a) if matches!(question.kind, AAAA | ANY) => records.push((AAAA, a.octets().to_vec())),
                _ => {}
            }
        }
    }
    if known {
        records.truncate(20);
        Answer::Reply(reply(bytes, &question, &records))
    } else {
        Answer::Reply(failure(bytes, &question, NO_SUCH_NAME))
    }
}

/// What to say when nobody could be asked.
pub fn refuse(bytes: &[u8], tried: bool) -> Vec<u8> {
    empty(bytes, if tried { SERVER_FAILURE } else { REFUSED })
}

fn header(bytes: &[u8], code: u8, questions: u16, answers: u16) -> Vec<u8> {
    let mut out = bytes[..2].to_vec();
    // An answer, authoritative, recursion wanted as asked and available.
    out.push(0x84 | bytes[2] & 1);
    out.push(0x80 | code);
    out.extend(questions.to_be_bytes());
    out.extend(answers.to_be_bytes());
    out.extend([0; 4]);
    out
}

fn empty(bytes: &[u8], code: u8) -> Vec<u8> {
    if bytes.len() < 12 {
        return Vec::new();
    }
    match question(bytes) {
        Some(q) => failure(bytes, &q, code),
        None => header(bytes, code, 0, 0),
    }
}

fn failure(bytes: &[u8], question: &Question, code: u8) -> Vec<u8> {
    let mut out = header(bytes, code, 1, 0);
    out.extend(&bytes[12..question.end]);
    out
}

fn reply(bytes: &[u8], question: &Question, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = header(bytes, NO_ERROR, 1, records.len() as u16);
    out.extend(&bytes[12..question.end]);
    for (kind, data) in records {
        out.extend([0xc0, 12]); // the name asked for
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(TTL.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    out
}

/// The address in a name for reverse look-up.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = rest.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let mut value = 0u128;
    let mut count = 0;
    for label in rest.split('.') {
        let digit = u128::from(label.chars().next()?.to_digit(16)?);
        if label.len() != 1 || count == 32 {
            return None;
        }
        value |= digit << (4 * count);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(value).into())
}

fn name_of(view: &View, address: IpAddr) -> Option<Vec<u8>> {
    let lease = view.leases.values().find(|l| l.addresses.contains(&address))?;
    let host = hostname(lease, address);
    name_bytes(&if view.domain.is_empty() { host } else { format!("{host}.{}", view.domain) })
}
