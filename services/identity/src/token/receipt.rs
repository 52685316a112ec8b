//! Receipts: what a user has proved so far, for users of whom several methods are demanded. In keystone's form, sealed as tokens are; it
//! begins with the user where a token has a version, so that neither passes for the other.

use base::Timestamp;
use rmpv::Value;

use super::payload::{Reader, end_on_wire, id, sealed_second, times};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub user_id: String,
    /// As [`Methods`](super::methods::Methods) has them.
    pub methods: u32,
    pub issued_at: Timestamp,
    /// A whole second.
    pub expires_at: Timestamp,
}

impl Receipt {
    pub fn encode(&self) -> Option<Vec<u8>> {
        let end = Value::F64(end_on_wire(self.issued_at, self.expires_at));
        let mut out = Vec::with_capacity(64);
        rmpv::encode::write_value(&mut out, &Value::Array(vec![id(&self.user_id), self.methods.into(), end])).ok()?;
        Some(out)
    }

    pub fn decode(bytes: &[u8], sealed_at: u64) -> Option<Receipt> {
        let mut items = Reader::new(bytes)?;
        let user_id = items.id()?;
        let methods = u32::try_from(items.next()?.as_u64()?).ok()?;
        let (issued_at, expires_at) = times(sealed_at, items.next()?.as_f64()?)?;
        items.next().is_none().then_some(Receipt { user_id, methods, issued_at, expires_at })
    }

    pub fn sealed_at(&self) -> u64 {
        sealed_second(self.issued_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::payload::{Payload, Target, Via};

    #[test]
    fn a_receipt_is_no_token_and_a_token_no_receipt() {
        let (issued_at, expires_at) = (Timestamp(1_800_000_000_123_456), Timestamp(1_800_000_301_000_000));
        let user_id = "0123456789abcdef0123456789abcdef".to_string();
        let receipt = Receipt { user_id: user_id.clone(), methods: 2, issued_at, expires_at };
        let bytes = receipt.encode().unwrap();
        assert_eq!(Payload::decode(&bytes, receipt.sealed_at()), None);
        assert_eq!(Receipt::decode(&bytes, receipt.sealed_at()), Some(receipt));
        assert_eq!(Receipt::decode(&bytes[..bytes.len() - 1], 1), None);
        let (target, via) = (Target::Unscoped, Via::User);
        let token = Payload { user_id, methods: 2, target, via, issued_at, expires_at, audit_id: [0; 16], parent_audit_id: None };
        assert_eq!(Receipt::decode(&token.encode().unwrap(), token.sealed_at()), None);
    }
}
