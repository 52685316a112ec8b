//! What the fault manager's C clients send and read: a length, a header, and records whose layout is that of the C structures on
//! machines of 64 bits, little-endian.

use base::Timestamp;

use crate::alarm::{Alarm, AlarmType, PROBABLE_CAUSES, Severity};
use crate::engine::Active;

/// The longest packet: a list of a thousand alarms.
pub const LONGEST: usize = HEADER + 1000 * RECORD;
pub const HEADER: usize = 16;
pub const RECORD: usize = 1568;
/// Every text has this much room, with its terminator.
pub const TEXT: usize = 255;
/// The most alarms that are sent as an answer: no client reads more.
pub const MOST: usize = 1000;

const VERSION: u32 = 1;
/// The end of the year 9999 in microseconds: what comes later is no time.
const LATEST: u64 = 253_402_300_800_000_000;

/// Results, by the clients' numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    InvalidAttribute = 2,
    InvalidRequest = 7,
    NotFound = 10,
    Database = 11,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Create(Box<Record>),
    /// As a create, but nobody waits for an answer.
    Update(Box<Record>),
    Delete(Key),
    DeleteUnder(String),
    Get(Key),
    GetEntity(String),
    GetId(String),
    GetKey(Key),
    CreateList(Vec<Record>),
    DeleteList(Vec<Key>),
    /// Nothing comes of it, and no answer.
    Nothing,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub alarm_id: String,
    pub entity: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Clear,
    Set,
    Log,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub uuid: String,
    pub state: State,
    pub alarm: Alarm,
    pub keep_existing: bool,
}

/// What a packet is.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    Request(u32, Request),
    /// Its action is known, but not what it says: this is answered.
    Refused(u32, Code),
    /// Nothing one could answer: the connection is of no more use.
    Foreign,
}

/// Reads a packet without its length.
pub fn parse(packet: &[u8]) -> Packet {
    let Some((header, payload)) = packet.split_at_checked(HEADER) else { return Packet::Foreign };
    let (version, action, size) = (number(header, 0), number(header, 4), number(header, 8));
    if version != VERSION || action > 10 {
        return Packet::Foreign;
    }
    let request = if usize::try_from(size) == Ok(payload.len()) { request(action, payload) } else { Err(Code::InvalidRequest) };
    match (action, request) {
        (_, Ok(request)) => Packet::Request(action, request),
        // Nobody reads an answer to these.
        (1 | 6, Err(_)) => Packet::Request(action, Request::Nothing),
        (_, Err(code)) => Packet::Refused(action, code),
    }
}

fn request(action: u32, payload: &[u8]) -> Result<Request, Code> {
    Ok(match action {
        0 => Request::Create(Box::new(record(payload)?)),
        1 => Request::Update(Box::new(record(payload)?)),
        2 => Request::Delete(key(payload)?),
        3 => Request::DeleteUnder(one(payload)?),
        4 => Request::Get(key(payload)?),
        5 => Request::GetEntity(one(payload)?),
        7 => Request::GetId(one(payload)?),
        8 => Request::GetKey(key(payload)?),
        9 => Request::CreateList(list(payload, RECORD, record)?),
        10 => Request::DeleteList(list(payload, 2 * TEXT, key)?),
        _ => Request::Nothing,
    })
}

fn list<T>(payload: &[u8], size: usize, each: impl Fn(&[u8]) -> Result<T, Code>) -> Result<Vec<T>, Code> {
    if !payload.len().is_multiple_of(size) {
        return Err(Code::InvalidRequest);
    }
    payload.chunks_exact(size).map(each).collect()
}

fn one(payload: &[u8]) -> Result<String, Code> {
    if payload.len() == TEXT { text(payload, 0) } else { Err(Code::InvalidRequest) }
}

fn key(payload: &[u8]) -> Result<Key, Code> {
    if payload.len() != 2 * TEXT {
        return Err(Code::InvalidRequest);
    }
    Ok(Key { alarm_id: text(payload, 0)?, entity: text(payload, TEXT)? })
}

fn record(payload: &[u8]) -> Result<Record, Code> {
    if payload.len() != RECORD {
        return Err(Code::InvalidRequest);
    }
    let state = match number(payload, 512) {
        0 => State::Clear,
        1 => State::Set,
        2 | 3 => State::Log,
        _ => return Err(Code::InvalidAttribute),
    };
    let at = u64::from(number(payload, 1032)) | u64::from(number(payload, 1036)) << 32;
    if at >= LATEST {
        return Err(Code::InvalidAttribute);
    }
    let cause = number(payload, 1304);
    let alarm = Alarm {
        alarm_id: text(payload, 255)?,
        entity_type_id: text(payload, 516)?,
        entity_instance_id: text(payload, 771)?,
        severity: Severity::ALL.into_iter().find(|s| *s as u32 == number(payload, 1040)).ok_or(Code::InvalidAttribute)?,
        reason_text: text(payload, 1044)?,
        alarm_type: AlarmType::from_number(number(payload, 1300).into()).ok_or(Code::InvalidAttribute)?,
        probable_cause: u8::try_from(cause).ok().filter(|c| usize::from(*c) < PROBABLE_CAUSES.len()).ok_or(Code::InvalidAttribute)?,
        proposed_repair_action: text(payload, 1308)?,
        service_affecting: payload[1563] != 0,
        suppression: payload[1564] != 0,
        inhibit_alarms: payload[1565] != 0,
        timestamp: (at > 0).then(|| Timestamp(i64::try_from(at).unwrap_or(0))),
    };
    Ok(Record { uuid: text(payload, 0)?, state, alarm, keep_existing: payload[1566] != 0 })
}

/// The callers have checked that it is there.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// A text and its terminator, which must be there.
fn text(bytes: &[u8], at: usize) -> Result<String, Code> {
    let field = bytes.get(at..at + TEXT).ok_or(Code::InvalidRequest)?;
    let end = field.iter().position(|b| *b == 0).ok_or(Code::InvalidAttribute)?;
    Ok(String::from_utf8_lossy(&field[..end]).into_owned())
}

/// A packet with its length, as it is sent.
pub fn reply(action: u32, code: Code, payload: &[u8]) -> Vec<u8> {
    let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut packet = Vec::with_capacity(4 + HEADER + payload.len());
    packet.extend(length(HEADER + payload.len()).to_be_bytes());
    for number in [VERSION, action, length(payload.len()), code as u32] {
        packet.extend(number.to_le_bytes());
    }
    packet.extend(payload);
    packet
}

/// A text in its field, cut where it has no more room.
pub fn field(text: &str) -> [u8; TEXT] {
    let mut field = [0; TEXT];
    let mut end = text.len().min(TEXT - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
    field
}

pub fn encode(active: &Active) -> Vec<u8> {
    let alarm = &active.alarm;
    let mut record = vec![0; RECORD];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &field(&active.uuid));
    put(255, &field(&alarm.alarm_id));
    put(512, &1u32.to_le_bytes());
    put(516, &field(&alarm.entity_type_id));
    put(771, &field(&alarm.entity_instance_id));
    put(1032, &alarm.timestamp.map_or(0, Timestamp::micros).to_le_bytes());
    put(1040, &(alarm.severity as u32).to_le_bytes());
    put(1044, &field(&alarm.reason_text));
    put(1300, &u32::from(alarm.alarm_type.number()).to_le_bytes());
    put(1304, &u32::from(alarm.probable_cause).to_le_bytes());
    put(1308, &field(&alarm.proposed_repair_action));
    put(1563, &[alarm.service_affecting, alarm.suppression, alarm.inhibit_alarms].map(u8::from));
    record
}

/// How many records follow, and the records.
pub fn encode_list(list: &[Active]) -> Vec<u8> {
    let list = &list[..list.len().min(MOST)];
    let mut payload = u32::try_from(list.len()).unwrap_or(0).to_le_bytes().to_vec();
    for active in list {
        payload.extend(encode(active));
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets kept as text: a byte, or a byte and how often it comes: `00*255`.
    fn corpus() -> Vec<(String, Vec<u8>)> {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
        let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let bytes = |text: String| {
            let word = |word: &str| {
                let (byte, times) = word.split_once('*').unwrap_or((word, "1"));
                vec![u8::from_str_radix(byte, 16).unwrap(); times.parse().unwrap()]
            };
            text.split_whitespace().flat_map(word).collect()
        };
        files.iter().map(|f| (f.file_name().unwrap().to_str().unwrap().to_string(), bytes(std::fs::read_to_string(f).unwrap()))).collect()
    }

    #[test]
    fn the_corpus_is_understood_as_its_names_say() {
        let corpus = corpus();
        assert!(corpus.len() > 12);
        for (name, bytes) in corpus {
            let packet = parse(&bytes);
            let good = match &packet {
                Packet::Request(_, Request::Nothing) => name.contains("-nothing"),
                Packet::Request(..) => name.contains("-request"),
                Packet::Refused(_, code) => name.contains(&format!("-refused-{}", *code as u32)),
                Packet::Foreign => name.contains("-foreign"),
            };
            assert!(good, "{name}: {packet:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (name, bytes) = corpus().into_iter().find(|(name, _)| name.starts_with("create-request")).unwrap();
        let Packet::Request(0, Request::Create(record)) = parse(&bytes) else { panic!("{name}") };
        assert_eq!((record.alarm.alarm_id.as_str(), record.alarm.entity_instance_id.as_str()), ("100.101", "host=controller-0"));
        assert_eq!(
            (record.alarm.severity, record.alarm.alarm_type, record.alarm.cause()),
            (Severity::Major, AlarmType::OperationalViolation, "threshold-crossed")
        );
        assert_eq!((record.alarm.timestamp, record.state), (Some(Timestamp(1_700_000_000_123_456)), State::Set));
        assert!(record.alarm.suppression && !record.alarm.service_affecting && record.keep_existing);
        let active = Active { uuid: record.uuid.clone(), alarm: record.alarm.clone(), masked: false };
        let mut again = bytes[..HEADER].to_vec();
        again.extend(encode(&active));
        assert_eq!(parse(&again), Packet::Request(0, Request::Create(Box::new(Record { keep_existing: false, ..*record }))));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "é".repeat(200);
        let cut = field(&long);
        assert_eq!(text(&cut, 0).unwrap(), "é".repeat(127));
        assert_eq!(text(&field(""), 0).unwrap(), "");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_grows_from_the_corpus_does_not_either(pick in 0usize..1000, changes in proptest::collection::vec((0usize..4000, 0u8..=255), 0..6), cut in 0usize..4000) {
            let corpus = corpus();
            let mut bytes = corpus[pick % corpus.len()].1.clone();
            for (at, byte) in changes {
                let at = at % bytes.len().max(1);
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(cut);
            match parse(&bytes) {
                Packet::Request(action, _) | Packet::Refused(action, _) => assert!(action <= 10),
                Packet::Foreign => {}
            }
        }
    }
}
