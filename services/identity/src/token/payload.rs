//! What is inside a token: the least from which everything else can be looked up again.
//!
//! The form is that of keystone's Fernet tokens, so that a keystone with the same keys reads ours and we read its: a MessagePack array
//! that begins with a version, which says what the rest is. docs/decisions/0021-token-format.md has it whole.

use base::Timestamp;
use rmpv::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Unscoped,
    Project(String),
    Domain(String),
    System,
    Trust {
        id: String,
        /// The project of the trust.
        project_id: String,
    },
}

/// What stands behind a token besides the user's own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    User,
    /// An identity provider's word: who came by it, and the groups it gives.
    Federation {
        idp_id: String,
        protocol_id: String,
        group_ids: Vec<String>,
    },
    /// By the id of the access token; for a project.
    OAuth1(String),
    /// By its id; for a project.
    ApplicationCredential(String),
    /// By the thumbprint of the client's certificate, to which the token is bound; for a project or a domain.
    Certificate(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    pub user_id: String,
    /// As [`Methods`](super::methods::Methods) has them.
    pub methods: u32,
    pub target: Target,
    pub via: Via,
    pub issued_at: Timestamp,
    /// A whole second.
    pub expires_at: Timestamp,
    pub audit_id: [u8; 16],
    /// The audit id of the first token of a chain of tokens got by tokens.
    pub parent_audit_id: Option<[u8; 16]>,
}

const SECOND: i64 = 1_000_000;

/// Versions of payloads.
mod version {
    pub const UNSCOPED: u64 = 0;
    pub const DOMAIN: u64 = 1;
    pub const PROJECT: u64 = 2;
    pub const TRUST: u64 = 3;
    pub const FEDERATED: u64 = 4;
    pub const FEDERATED_PROJECT: u64 = 5;
    pub const FEDERATED_DOMAIN: u64 = 6;
    pub const OAUTH1: u64 = 7;
    pub const SYSTEM: u64 = 8;
    pub const APPLICATION_CREDENTIAL: u64 = 9;
    pub const CERTIFICATE: u64 = 10;
}

/// The end of a token that is issued at `now`: its last second is a whole one.
pub fn end_of(now: Timestamp, lifetime: std::time::Duration) -> Timestamp {
    Timestamp(ceil(now.plus(lifetime).micros()))
}

/// The whole second at or before an instant at which a token may still be valid.
pub fn cut(end: Timestamp) -> Timestamp {
    Timestamp(end.micros().div_euclid(SECOND) * SECOND)
}

pub fn ceil(micros: i64) -> i64 {
    micros.div_euclid(SECOND) * SECOND + if micros.rem_euclid(SECOND) == 0 { 0 } else { SECOND }
}

impl Payload {
    /// `None` when there is no form for what stands behind the token with this scope.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let (user, methods) = (id(&self.user_id), Value::from(self.methods));
        let (end, audit) = (Value::F64(end_on_wire(self.issued_at, self.expires_at)), self.audit_on_wire());
        let (number, rest) = match (&self.via, &self.target) {
            (Via::User, Target::Unscoped) => (version::UNSCOPED, vec![end, audit]),
            (Via::User, Target::Domain(domain)) => (version::DOMAIN, vec![bare_id(domain), end, audit]),
            (Via::User, Target::Project(project)) => (version::PROJECT, vec![id(project), end, audit]),
            // As upstream: what a trust lends does not depend on how its trustee came.
            (Via::User | Via::Federation { .. }, Target::Trust { id: trust, project_id }) => {
                (version::TRUST, vec![id(project_id), end, audit, bare_id(trust)])
            }
            (Via::User, Target::System) => (version::SYSTEM, vec!["all".into(), end, audit]),
            (Via::Federation { idp_id, protocol_id, group_ids }, target) => {
                let groups = Value::Array(group_ids.iter().map(|group| id(group)).collect());
                let by = [groups, id(idp_id), protocol_id.as_str().into(), end, audit];
                match target {
                    Target::Unscoped => (version::FEDERATED, by.to_vec()),
                    Target::Project(project) => (version::FEDERATED_PROJECT, [&[id(project)], &by[..]].concat()),
                    Target::Domain(domain) => (version::FEDERATED_DOMAIN, [&[id(domain)], &by[..]].concat()),
                    _ => return None,
                }
            }
            (Via::OAuth1(access), Target::Project(project)) => (version::OAUTH1, vec![id(project), id(access), end, audit]),
            (Via::ApplicationCredential(credential), Target::Project(project)) => {
                (version::APPLICATION_CREDENTIAL, vec![id(project), end, audit, id(credential)])
            }
            (Via::Certificate(thumbprint), target) => {
                let (project, domain) = match target {
                    Target::Project(project) => (id(project), none()),
                    Target::Domain(domain) => (none(), id(domain)),
                    _ => return None,
                };
                let thumbprint = Value::Array(vec![false.into(), thumbprint.as_str().into()]);
                (version::CERTIFICATE, vec![project, domain, end, audit, thumbprint])
            }
            _ => return None,
        };
        let mut whole = vec![number.into(), user, methods];
        whole.extend(rest);
        let mut out = Vec::with_capacity(128);
        rmpv::encode::write_value(&mut out, &Value::Array(whole)).ok()?;
        Some(out)
    }

    /// `None` for anything that neither we nor keystone make. `sealed_at`: seconds since 1970, when the token was sealed.
    pub fn decode(bytes: &[u8], sealed_at: u64) -> Option<Payload> {
        let mut items = Reader::new(bytes)?;
        let number = items.next()?.as_u64()?;
        let user_id = items.id()?;
        let methods = u32::try_from(items.next()?.as_u64()?).ok()?;
        let (mut target, mut via) = (Target::Unscoped, Via::User);
        let mut trust = None;
        match number {
            version::DOMAIN => target = Target::Domain(items.bare_id()?),
            version::PROJECT => target = Target::Project(items.id()?),
            version::TRUST => trust = Some(items.id()?),
            version::SYSTEM => target = (items.text()? == "all").then_some(Target::System)?,
            version::FEDERATED_PROJECT => target = Target::Project(items.id()?),
            version::FEDERATED_DOMAIN => target = Target::Domain(items.id()?),
            version::OAUTH1 => {
                target = Target::Project(items.id()?);
                via = Via::OAuth1(items.id()?);
            }
            version::APPLICATION_CREDENTIAL => target = Target::Project(items.id()?),
            version::CERTIFICATE => {
                target = match (items.opt_id()?, items.opt_id()?) {
                    (Some(project), None) => Target::Project(project),
                    (None, Some(domain)) => Target::Domain(domain),
                    _ => return None,
                }
            }
            version::UNSCOPED | version::FEDERATED => {}
            _ => return None,
        }
        if matches!(number, version::FEDERATED | version::FEDERATED_PROJECT | version::FEDERATED_DOMAIN) {
            let Value::Array(groups) = items.next()? else { return None };
            let group_ids = groups.into_iter().map(read_id).collect::<Option<_>>()?;
            via = Via::Federation { group_ids, idp_id: items.id()?, protocol_id: items.text()? };
        }
        let end = items.next()?.as_f64()?;
        let Value::Array(audit) = items.next()? else { return None };
        match number {
            version::TRUST => target = Target::Trust { id: items.bare_id()?, project_id: trust? },
            version::APPLICATION_CREDENTIAL => via = Via::ApplicationCredential(items.id()?),
            version::CERTIFICATE => via = Via::Certificate(items.id()?),
            _ => {}
        }
        if items.next().is_some() || !(1..=2).contains(&audit.len()) {
            return None;
        }
        let mut audit = audit.iter().map(|id| id.as_slice()?.try_into().ok());
        let audit_id = audit.next()??;
        let parent_audit_id = match audit.next() {
            None => None,
            Some(parent) => Some(parent?),
        };
        let (issued_at, expires_at) = times(sealed_at, end)?;
        Some(Payload { user_id, methods, target, via, issued_at, expires_at, audit_id, parent_audit_id })
    }

    /// The second of [`Payload::issued_at`], which is sealed beside the payload.
    pub fn sealed_at(&self) -> u64 {
        sealed_second(self.issued_at)
    }

    fn audit_on_wire(&self) -> Value {
        Value::Array(std::iter::once(&self.audit_id).chain(&self.parent_audit_id).map(|id| Value::Binary(id.to_vec())).collect())
    }
}

/// The second of an instant of issue.
pub fn sealed_second(issued_at: Timestamp) -> u64 {
    u64::try_from(issued_at.micros().div_euclid(SECOND)).unwrap_or(0)
}

/// The end in seconds, with the fraction of the second in which the token was issued: there is no other place for it, and revocations
/// are exact to the instant. It is less than a second before the end, so that nobody takes the token for longer.
pub fn end_on_wire(issued_at: Timestamp, expires_at: Timestamp) -> f64 {
    let fraction = issued_at.micros().rem_euclid(SECOND);
    let before = if fraction == 0 { 0 } else { SECOND };
    (expires_at.micros() - before + fraction) as f64 / SECOND as f64
}

/// When the token was issued and when it ends.
pub fn times(sealed_at: u64, end: f64) -> Option<(Timestamp, Timestamp)> {
    // Until then, in the year 2106, a double tells microseconds well apart.
    const LAST: i64 = (1 << 32) - 1;
    let sealed_at = i64::try_from(sealed_at).ok().filter(|seconds| *seconds <= LAST)?;
    if !(0.0..=LAST as f64).contains(&end) {
        return None;
    }
    let end = end.floor() as i64 * SECOND + (end.fract() * SECOND as f64).round() as i64;
    Some((Timestamp(sealed_at * SECOND + end.rem_euclid(SECOND)), Timestamp(ceil(end))))
}

/// An id that says itself whether it is a UUID as bytes or a text.
pub fn id(id: &str) -> Value {
    Value::Array(vec![from_hex(id).is_some().into(), bare_id(id)])
}

fn bare_id(id: &str) -> Value {
    from_hex(id).map_or_else(|| id.into(), |raw| Value::Binary(raw.to_vec()))
}

fn none() -> Value {
    Value::Array(vec![false.into(), Value::Nil])
}

fn from_hex(id: &str) -> Option<[u8; 16]> {
    if id.len() != 32 || !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(id, 16).ok().map(u128::to_be_bytes)
}

fn hex(raw: &[u8]) -> Option<String> {
    Some(format!("{:032x}", u128::from_be_bytes(raw.try_into().ok()?)))
}

/// Texts may come as bytes: MessagePack knew no difference once.
fn read_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => text.into_str(),
        Value::Binary(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn read_id(value: Value) -> Option<String> {
    read_opt_id(value)?
}

/// The inner `None`: there is no id.
fn read_opt_id(value: Value) -> Option<Option<String>> {
    let Value::Array(pair) = value else { return None };
    let [Value::Boolean(is_uuid), value]: [Value; 2] = pair.try_into().ok()? else { return None };
    match value {
        Value::Nil if !is_uuid => Some(None),
        value if is_uuid => Some(Some(hex(value.as_slice()?)?)),
        value => Some(Some(read_text(value)?)),
    }
}

/// The items of a payload, one after the other.
pub struct Reader(std::vec::IntoIter<Value>);

impl Reader {
    /// `None` when there is anything but one array.
    pub fn new(bytes: &[u8]) -> Option<Reader> {
        let mut rest = bytes;
        match rmpv::decode::read_value(&mut rest).ok()? {
            Value::Array(items) if rest.is_empty() => Some(Reader(items.into_iter())),
            _ => None,
        }
    }
    pub fn next(&mut self) -> Option<Value> {
        self.0.next()
    }
    fn text(&mut self) -> Option<String> {
        read_text(self.next()?)
    }
    pub fn id(&mut self) -> Option<String> {
        read_id(self.next()?)
    }
    fn opt_id(&mut self) -> Option<Option<String>> {
        read_opt_id(self.next()?)
    }
    /// Of 16 bytes it is a UUID.
    fn bare_id(&mut self) -> Option<String> {
        match self.next()? {
            Value::Binary(raw) if raw.len() == 16 => hex(&raw),
            other => read_text(other),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = String> + Clone {
        prop_oneof!["[0-9a-f]{32}", "[a-zA-Z0-9-]{1,64}"]
    }

    fn way() -> impl Strategy<Value = (Via, Target)> {
        let project = || id().prop_map(Target::Project);
        let federation = (id(), "[a-z0-9]{1,12}", proptest::collection::vec(id(), 0..20))
            .prop_map(|(idp_id, protocol_id, group_ids)| Via::Federation { idp_id, protocol_id, group_ids });
        let scope = prop_oneof![Just(Target::Unscoped), project(), id().prop_map(Target::Domain)];
        let trust = (id(), id()).prop_map(|(id, project_id)| Target::Trust { id, project_id });
        prop_oneof![
            prop_oneof![scope.clone(), Just(Target::System), trust].prop_map(|target| (Via::User, target)),
            (federation, scope),
            (id().prop_map(Via::OAuth1), project()),
            (id().prop_map(Via::ApplicationCredential), project()),
            (id().prop_map(Via::Certificate), prop_oneof![project(), id().prop_map(Target::Domain)]),
        ]
    }

    fn payload() -> impl Strategy<Value = Payload> {
        let times = (1i64..(1 << 32) * SECOND, 1i64..1 << 32);
        (id(), any::<u32>(), way(), times, any::<[u8; 16]>(), any::<Option<[u8; 16]>>()).prop_map(
            |(user_id, methods, (via, target), (issued, end), audit_id, parent_audit_id)| Payload {
                user_id,
                methods,
                target,
                via,
                issued_at: Timestamp(issued),
                expires_at: Timestamp(end * SECOND),
                audit_id,
                parent_audit_id,
            },
        )
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(payload in payload()) {
            prop_assert_eq!(Payload::decode(&payload.encode().unwrap(), payload.sealed_at()), Some(payload));
        }

        #[test]
        fn is_for_nobody_valid_after_its_end(payload in payload()) {
            prop_assert!(end_on_wire(payload.issued_at, payload.expires_at) * SECOND as f64 <= payload.expires_at.micros() as f64);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<u64>()) {
            let _ = Payload::decode(&bytes, at);
        }

        #[test]
        fn damaged_payloads_are_read_as_they_are_or_not_at_all(payload in payload(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = payload.encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let Some(other) = Payload::decode(&bytes, payload.sealed_at()) {
                let again = other.encode().and_then(|bytes| Payload::decode(&bytes, other.sealed_at()));
                prop_assert_eq!(again, Some(other));
            }
        }

        #[test]
        fn cut_payloads_are_none(payload in payload(), cut in 1usize..16) {
            let bytes = payload.encode().unwrap();
            prop_assert_eq!(Payload::decode(&bytes[..bytes.len() - cut], 1), None);
        }
    }

    /// A payload by the names that keystone has for what is in it.
    pub fn of_keystone(wanted: &serde_json::Value, issued_at: Timestamp) -> Payload {
        let methods = crate::token::methods::Methods::read(&base::Config::for_home("/nonexistent")).unwrap();
        let text = |name: &str| wanted[name].as_str().map(str::to_string);
        let target = match (text("trust_id"), text("project_id"), text("domain_id"), text("system")) {
            (Some(id), Some(project_id), ..) => Target::Trust { id, project_id },
            (None, Some(project), ..) => Target::Project(project),
            (None, None, Some(domain), _) => Target::Domain(domain),
            (.., Some(_)) => Target::System,
            _ => Target::Unscoped,
        };
        let via = match (text("identity_provider_id"), text("access_token_id"), text("app_cred_id"), text("thumbprint")) {
            (Some(idp_id), ..) => {
                let groups = wanted["federated_group_ids"].as_array().unwrap();
                let group_ids = groups.iter().map(|group| group["id"].as_str().unwrap().to_string()).collect();
                Via::Federation { idp_id, protocol_id: text("protocol_id").unwrap(), group_ids }
            }
            (_, Some(access), ..) => Via::OAuth1(access),
            (_, _, Some(credential), _) => Via::ApplicationCredential(credential),
            (.., Some(thumbprint)) => Via::Certificate(thumbprint),
            _ => Via::User,
        };
        let audit_id = |at: usize| {
            use base64::Engine;
            let id = wanted["audit_ids"][at].as_str()?;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(id).unwrap().try_into().ok()
        };
        Payload {
            user_id: text("user_id").unwrap(),
            methods: wanted["methods"].as_array().unwrap().iter().map(|name| methods.bit(name.as_str().unwrap())).sum(),
            target,
            via,
            issued_at,
            expires_at: Timestamp::parse(&text("expires_at").unwrap()).unwrap(),
            audit_id: audit_id(0).unwrap(),
            parent_audit_id: audit_id(1),
        }
    }

    /// What keystone makes of a payload and we have to, byte for byte; `tests/clients` asks a real one whether it still does.
    #[test]
    fn the_form_is_that_of_keystone() {
        let vectors: Vec<serde_json::Value> = serde_json::from_str(include_str!("keystone.json")).unwrap();
        for vector in vectors {
            let (wanted, packed) = (&vector["payload"], vector["packed"].as_str().unwrap());
            let payload = of_keystone(wanted, Timestamp(1_795_000_000 * SECOND));
            let made: String = payload.encode().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(made, packed, "{wanted}");
            let bytes: Vec<u8> = (0..packed.len()).step_by(2).map(|at| u8::from_str_radix(&packed[at..at + 2], 16).unwrap()).collect();
            assert_eq!(Payload::decode(&bytes, 1_795_000_000), Some(payload), "{wanted}");
        }
    }

    #[test]
    fn what_has_no_form_is_not_made() {
        let payload = |via, target| Payload {
            user_id: "u".into(),
            methods: 0,
            target,
            via,
            issued_at: Timestamp(0),
            expires_at: Timestamp(0),
            audit_id: [0; 16],
            parent_audit_id: None,
        };
        for via in [Via::OAuth1("a".into()), Via::ApplicationCredential("a".into()), Via::Certificate("a".into())] {
            let trust = Target::Trust { id: "t".into(), project_id: "p".into() };
            for target in [Target::Unscoped, Target::System, trust] {
                assert_eq!(payload(via.clone(), target).encode(), None, "a restriction would be lost");
            }
        }
        let federation = Via::Federation { idp_id: "i".into(), protocol_id: "p".into(), group_ids: Vec::new() };
        assert_eq!(payload(federation, Target::System).encode(), None);
    }
}
