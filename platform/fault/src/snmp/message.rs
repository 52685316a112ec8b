//! Messages as they are on the wire. The encoding itself is the library's.

use rasn::types::{Integer, ObjectIdentifier, OctetString};
use rasn_smi::v2::{ApplicationSyntax, SimpleSyntax};
use rasn_snmp::v2::{ObjectSyntax, Pdus, VarBind, VarBindValue};
use rasn_snmp::v2c;
use rasn_snmp::v3::{HeaderData, Message, ScopedPdu, ScopedPduData, USMSecurityParameters};

use super::mib::Value;
use super::usm::{DIGEST, User};

/// The largest message we take.
const LARGEST: u32 = 65507;
const SIGNED: u8 = 1;
const PRIVATE: u8 = 2;
const REPORTABLE: u8 = 4;
/// The user-based security model.
const USM: i64 = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Level {
    Plain,
    Signed,
    Private,
}

/// What a packet is.
pub enum Seen {
    Community(Vec<u8>, Pdus),
    Secured(Box<Secured>),
    Foreign,
}

/// A message of version 3, whose secrets are still closed.
pub struct Secured {
    pub id: i32,
    pub level: Level,
    pub reportable: bool,
    pub engine: Vec<u8>,
    pub boots: u32,
    pub time: u32,
    pub user: Vec<u8>,
    /// Zero, where it cannot be read yet.
    pub request_id: i32,
    pub context: Vec<u8>,
    parameters: Vec<u8>,
    digest: Vec<u8>,
    salt: Vec<u8>,
    data: ScopedPduData,
}

pub fn read(packet: &[u8]) -> Seen {
    if let Ok(message) = rasn::ber::decode::<v2c::Message<Pdus>>(packet) {
        return if message.version == 1.into() { Seen::Community(message.community.to_vec(), message.data) } else { Seen::Foreign };
    }
    secured(packet).map_or(Seen::Foreign, |secured| Seen::Secured(Box::new(secured)))
}

fn secured(packet: &[u8]) -> Option<Secured> {
    let message = rasn::ber::decode::<Message>(packet).ok()?;
    let header = &message.global_data;
    let flags = *header.flags.first()?;
    let level = match flags & (SIGNED | PRIVATE) {
        0 => Level::Plain,
        SIGNED => Level::Signed,
        PRIVATE => return None,
        _ => Level::Private,
    };
    if message.version != 3.into() || header.security_model != USM.into() {
        return None;
    }
    let usm = rasn::ber::decode::<USMSecurityParameters>(&message.security_parameters).ok()?;
    let (request_id, context) = match &message.scoped_data {
        ScopedPduData::CleartextPdu(scoped) => (request_id(&scoped.data), scoped.name.to_vec()),
        ScopedPduData::EncryptedPdu(_) => (0, Vec::new()),
    };
    Some(Secured {
        id: number(&header.message_id)?,
        level,
        reportable: flags & REPORTABLE != 0,
        engine: usm.authoritative_engine_id.to_vec(),
        boots: number(&usm.authoritative_engine_boots)?,
        time: number(&usm.authoritative_engine_time)?,
        user: usm.user_name.to_vec(),
        request_id,
        context,
        parameters: message.security_parameters.to_vec(),
        digest: usm.authentication_parameters.to_vec(),
        salt: usm.privacy_parameters.to_vec(),
        data: message.scoped_data,
    })
}

fn request_id(pdus: &Pdus) -> i32 {
    match pdus {
        Pdus::GetRequest(get) => get.0.request_id,
        Pdus::GetNextRequest(get) => get.0.request_id,
        Pdus::GetBulkRequest(bulk) => bulk.0.request_id,
        Pdus::SetRequest(set) => set.0.request_id,
        _ => 0,
    }
}

impl Secured {
    /// What was never secret.
    #[cfg(test)]
    pub fn in_the_clear(self) -> Pdus {
        match self.data {
            ScopedPduData::CleartextPdu(scoped) => scoped.data,
            ScopedPduData::EncryptedPdu(_) => panic!("it is secret"),
        }
    }

    /// What it asks, in the clear.
    pub fn opened(&self, user: &User) -> Option<Pdus> {
        match &self.data {
            ScopedPduData::CleartextPdu(scoped) => (self.level != Level::Private).then(|| scoped.data.clone()),
            ScopedPduData::EncryptedPdu(secret) => {
                let salt = self.salt.as_slice().try_into().ok()?;
                let plain = user.decrypt(self.boots, self.time, salt, secret)?;
                // Some pad what they encrypt.
                rasn::ber::decode_with_remainder::<ScopedPdu>(&plain).ok().map(|(scoped, _)| scoped.data)
            }
        }
    }
}

/// The packet with zeros for its digest, and the digest.
pub fn unsigned(packet: &[u8], message: &Secured) -> Option<(Vec<u8>, Vec<u8>)> {
    let at = place(packet, &message.parameters, message.salt.len())?;
    let mut zeroed = packet.to_vec();
    let field = zeroed.get_mut(at..at + DIGEST)?;
    if field != message.digest {
        return None;
    }
    field.fill(0);
    Some((zeroed, message.digest.clone()))
}

/// Where the digest is: it stands in the security parameters before the salt, which is the last of them.
fn place(packet: &[u8], parameters: &[u8], salt: usize) -> Option<usize> {
    let start = packet.windows(parameters.len().max(1)).position(|window| window == parameters)?;
    let before = parameters.len().checked_sub(2 + salt + DIGEST)?;
    Some(start + before)
}

/// Who speaks, and when.
pub struct Envelope<'a> {
    pub id: i32,
    pub engine: &'a [u8],
    pub boots: u32,
    pub time: u32,
    pub salt: [u8; 8],
}

pub fn sealed(envelope: &Envelope, context: &[u8], level: Level, user: Option<&User>, pdus: Pdus) -> Option<Vec<u8>> {
    let scoped = ScopedPdu { engine_id: bytes(envelope.engine), name: bytes(context), data: pdus };
    let (scoped_data, salt) = match (level, user) {
        (Level::Private, Some(user)) => {
            let plain = rasn::ber::encode(&scoped).ok()?;
            let secret = user.encrypt(envelope.boots, envelope.time, &envelope.salt, &plain)?;
            (ScopedPduData::EncryptedPdu(bytes(&secret)), &envelope.salt[..])
        }
        _ => (ScopedPduData::CleartextPdu(scoped), &[][..]),
    };
    let digest: &[u8] = if level == Level::Plain { &[] } else { &[0; DIGEST] };
    let usm = USMSecurityParameters {
        authoritative_engine_id: bytes(envelope.engine),
        authoritative_engine_boots: envelope.boots.into(),
        authoritative_engine_time: envelope.time.into(),
        user_name: bytes(user.map_or(&[][..], |user| user.name.as_bytes())),
        authentication_parameters: bytes(digest),
        privacy_parameters: bytes(salt),
    };
    let parameters = rasn::ber::encode(&usm).ok()?;
    let flags = match level {
        Level::Plain => 0,
        Level::Signed => SIGNED,
        Level::Private => SIGNED | PRIVATE,
    };
    let message = Message {
        version: 3.into(),
        global_data: HeaderData {
            message_id: envelope.id.into(),
            max_size: LARGEST.into(),
            flags: bytes(&[flags]),
            security_model: USM.into(),
        },
        security_parameters: bytes(&parameters),
        scoped_data,
    };
    let mut packet = rasn::ber::encode(&message).ok()?;
    if let Some(user) = user.filter(|_| level != Level::Plain) {
        let at = place(&packet, &parameters, salt.len())?;
        let digest = user.digest(&packet);
        packet.get_mut(at..at + DIGEST)?.copy_from_slice(digest.get(..DIGEST)?);
    }
    Some(packet)
}

pub fn with_community(community: &[u8], pdus: Pdus) -> Option<Vec<u8>> {
    rasn::ber::encode(&v2c::Message { version: 1.into(), community: bytes(community), data: pdus }).ok()
}

pub fn oid(arcs: &[u32]) -> Option<ObjectIdentifier> {
    ObjectIdentifier::new(arcs.to_vec())
}

pub fn value(value: &Value) -> VarBindValue {
    let simple = |value| VarBindValue::Value(ObjectSyntax::Simple(value));
    match value {
        Value::Number(number) => simple(SimpleSyntax::Integer((*number).into())),
        Value::Text(text) => simple(SimpleSyntax::String(bytes(text))),
        Value::Oid(arcs) => oid(arcs).map_or(VarBindValue::Unspecified, |oid| simple(SimpleSyntax::ObjectId(oid))),
        Value::Ticks(ticks) => {
            VarBindValue::Value(ObjectSyntax::ApplicationWide(ApplicationSyntax::Ticks(rasn_smi::v1::TimeTicks(*ticks))))
        }
    }
}

pub fn counter(count: u32) -> VarBindValue {
    VarBindValue::Value(ObjectSyntax::ApplicationWide(ApplicationSyntax::Counter(rasn_smi::v1::Counter(count))))
}

/// About how many bytes it takes.
pub fn size(variable: &VarBind) -> usize {
    let text = match &variable.value {
        VarBindValue::Value(ObjectSyntax::Simple(SimpleSyntax::String(text))) => text.len(),
        _ => 8,
    };
    text + 2 * variable.name.len() + 8
}

fn bytes(octets: &[u8]) -> OctetString {
    octets.to_vec().into()
}

/// None when it does not fit.
fn number<T: std::str::FromStr>(integer: &Integer) -> Option<T> {
    integer.to_string().parse().ok()
}
