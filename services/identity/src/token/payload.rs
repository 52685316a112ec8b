//! What is inside a token: the least from which everything else can be looked up again.

use base::Timestamp;

/// How the user proved who they are; a bit each.
pub const METHODS: &[(&str, u8)] = &[("password", 1), ("token", 2)];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Unscoped,
    Project(String),
    Domain(String),
    System,
    /// By the id of the trust, which names the project.
    Trust(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    pub user_id: String,
    pub methods: u8,
    pub target: Target,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub audit_id: [u8; 16],
    /// The audit id of the first token of a chain of tokens got by tokens.
    pub parent_audit_id: Option<[u8; 16]>,
}

const VERSION: u8 = 1;

impl Payload {
    pub fn method_names(&self) -> Vec<&'static str> {
        METHODS.iter().filter(|(_, bit)| self.methods & bit != 0).map(|(name, _)| *name).collect()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.methods];
        push_id(&mut out, &self.user_id);
        match &self.target {
            Target::Unscoped => out.push(0),
            Target::Project(id) => {
                out.push(1);
                push_id(&mut out, id);
            }
            Target::Domain(id) => {
                out.push(2);
                push_id(&mut out, id);
            }
            Target::System => out.push(3),
            Target::Trust(id) => {
                out.push(4);
                push_id(&mut out, id);
            }
        }
        out.extend(self.issued_at.micros().to_be_bytes());
        out.extend(self.expires_at.micros().to_be_bytes());
        out.extend(self.audit_id);
        if let Some(parent) = self.parent_audit_id {
            out.extend(parent);
        }
        out
    }

    /// `None` for anything that [`Payload::encode`] does not make.
    pub fn decode(bytes: &[u8]) -> Option<Payload> {
        let mut rest = Reader(bytes);
        if rest.byte()? != VERSION {
            return None;
        }
        let methods = rest.byte()?;
        let user_id = rest.id()?;
        let target = match rest.byte()? {
            0 => Target::Unscoped,
            1 => Target::Project(rest.id()?),
            2 => Target::Domain(rest.id()?),
            3 => Target::System,
            4 => Target::Trust(rest.id()?),
            _ => return None,
        };
        let issued_at = Timestamp(i64::from_be_bytes(rest.array()?));
        let expires_at = Timestamp(i64::from_be_bytes(rest.array()?));
        let audit_id = rest.array()?;
        let parent_audit_id = if rest.0.is_empty() { None } else { Some(rest.array()?) };
        rest.0.is_empty().then_some(Payload { user_id, methods, target, issued_at, expires_at, audit_id, parent_audit_id })
    }
}

/// Ids of 32 lower-case hex digits take 17 bytes, others their length and 2.
fn push_id(out: &mut Vec<u8>, id: &str) {
    match from_hex(id) {
        Some(raw) => {
            out.push(1);
            out.extend(raw);
        }
        None => {
            let bytes = &id.as_bytes()[..id.len().min(255)];
            out.push(0);
            out.push(bytes.len() as u8);
            out.extend(bytes);
        }
    }
}

fn from_hex(id: &str) -> Option<[u8; 16]> {
    if id.len() != 32 || !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(id, 16).ok().map(u128::to_be_bytes)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Option<&[u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn id(&mut self) -> Option<String> {
        match self.byte()? {
            1 => Some(format!("{:032x}", u128::from_be_bytes(self.array()?))),
            0 => {
                let length = self.byte()?;
                String::from_utf8(self.take(usize::from(length))?.to_vec()).ok()
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload() -> impl Strategy<Value = Payload> {
        let id = prop_oneof!["[0-9a-f]{32}", "[a-zA-Z0-9-]{1,64}"];
        let target = prop_oneof![
            Just(Target::Unscoped),
            Just(Target::System),
            id.clone().prop_map(Target::Project),
            id.clone().prop_map(Target::Domain),
            id.clone().prop_map(Target::Trust)
        ];
        (id, 0u8..4, target, any::<i64>(), any::<i64>(), any::<[u8; 16]>(), any::<Option<[u8; 16]>>()).prop_map(
            |(user_id, methods, target, issued, expires, audit_id, parent_audit_id)| Payload {
                user_id,
                methods,
                target,
                issued_at: Timestamp(issued),
                expires_at: Timestamp(expires),
                audit_id,
                parent_audit_id,
            },
        )
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(payload in payload()) {
            prop_assert_eq!(Payload::decode(&payload.encode()), Some(payload));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(payload) = Payload::decode(&bytes) {
                prop_assert_eq!(Payload::decode(&payload.encode()), Some(payload));
            }
        }

        #[test]
        fn cut_payloads_are_none(payload in payload(), cut in 1usize..16) {
            let bytes = payload.encode();
            prop_assert_eq!(Payload::decode(&bytes[..bytes.len() - cut]), None);
        }
    }
}
