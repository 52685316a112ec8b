//! Messages in envelopes.

use base::{Error, Result, error::Internal};
use rpc::message::{ToController, ToHost};
use serde::{Serialize, de::DeserializeOwned};

use crate::wire::Envelope;

/// Bytes that a message may have. A host's network document with thousands of ports is a tenth of this.
pub const LIMIT: usize = 16 * 1024 * 1024;
/// The envelope around a message of this size.
pub(crate) const ENVELOPE_LIMIT: usize = LIMIT + 64;

/// What can be sent, and what goes instead of a message that is too large.
pub(crate) trait Message: Serialize + DeserializeOwned + Send + 'static {
    fn instead(self) -> Option<Self>;
}

impl Message for ToHost {
    fn instead(self) -> Option<Self> {
        None
    }
}

impl Message for ToController {
    fn instead(self) -> Option<Self> {
        match self {
            // The asker shall not wait for nothing.
            ToController::Response { id, .. } => {
                Some(ToController::Response { id, response: Err(format!("the answer is larger than {LIMIT} bytes")) })
            }
            _ => None,
        }
    }
}

/// Numbers the messages of one direction.
#[derive(Default)]
pub(crate) struct Writer {
    last: u64,
}

impl Writer {
    /// None for a message that cannot be sent: it is left out and the log knows.
    pub(crate) fn envelope<M: Message>(&mut self, message: M) -> Option<Envelope> {
        let bytes = match encode(&message) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!("a message of a session was left out: {}", error.chain());
                encode(&message.instead()?).ok()?
            }
        };
        self.last += 1;
        Some(Envelope { sequence: self.last, message: bytes.into() })
    }
}

fn encode<M: Message>(message: &M) -> Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message).internal("writing a message")?;
    if bytes.len() > LIMIT {
        return Err(Error::new(base::Kind::TooLarge, format!("a message of {} bytes; {LIMIT} are allowed", bytes.len())));
    }
    Ok(bytes)
}

/// Takes messages of one direction apart and sees to it that none is missing.
#[derive(Default)]
pub(crate) struct Reader {
    last: u64,
}

impl Reader {
    pub(crate) fn message<M: Message>(&mut self, envelope: &Envelope) -> Result<M> {
        let expected = self.last.saturating_add(1);
        if envelope.sequence != expected {
            return Err(Error::invalid(format!("message {} instead of {expected}", envelope.sequence)));
        }
        if envelope.message.len() > LIMIT {
            return Err(Error::new(base::Kind::TooLarge, format!("message {expected} is larger than {LIMIT} bytes")));
        }
        let message = serde_json::from_slice(&envelope.message).map_err(|e| Error::invalid(format!("message {expected}")).caused_by(e))?;
        self.last = expected;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;
    use rpc::message::Response;

    fn read<M: Message>(bytes: &[u8]) {
        if let Ok(envelope) = Envelope::decode(bytes) {
            let _ = Reader::default().message::<M>(&envelope);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600), text in "[\\[\\]{}\":,a-z0-9.]{0,200}") {
            read::<ToHost>(&bytes);
            read::<ToController>(&bytes);
            for message in [bytes, text.into_bytes()] {
                let envelope = Envelope { sequence: 1, message: message.into() }.encode_to_vec();
                read::<ToHost>(&envelope);
                read::<ToController>(&envelope);
            }
        }

        #[test]
        fn a_damaged_message_is_read_or_refused(at in 0usize..200, byte in any::<u8>(), generation in any::<u64>()) {
            let message = ToController::Network { generation, ports_up: vec!["p".repeat(20)], error: Some("é".into()) };
            let mut bytes = Writer::default().envelope(message).unwrap().encode_to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            read::<ToController>(&bytes);
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut text = br#"{"response":{"id":1,"response":{"Ok":{"json":"#.to_vec();
        text.extend(std::iter::repeat_n(b'[', 100_000));
        let envelope = Envelope { sequence: 1, message: text.into() };
        assert!(Reader::default().message::<ToController>(&envelope).is_err());
    }

    #[test]
    fn a_gap_or_a_repetition_is_refused() {
        let mut writer = Writer::default();
        let envelopes: Vec<Envelope> = (0..3).filter_map(|n| writer.envelope(ToHost::EventsStored { up_to: n })).collect();
        let mut reader = Reader::default();
        assert_eq!(reader.message::<ToHost>(&envelopes[0]).unwrap(), ToHost::EventsStored { up_to: 0 });
        assert!(reader.message::<ToHost>(&envelopes[0]).is_err());
        assert!(reader.message::<ToHost>(&envelopes[2]).is_err());
        assert_eq!(reader.message::<ToHost>(&envelopes[1]).unwrap(), ToHost::EventsStored { up_to: 1 });
    }

    #[test]
    fn what_is_too_large_is_left_out_or_replaced() {
        let mut writer = Writer::default();
        assert!(writer.envelope(ToHost::Refused { reason: "x".repeat(LIMIT) }).is_none());
        let answer = ToController::Response { id: 7, response: Ok(Response::Text("x".repeat(LIMIT))) };
        let envelope = writer.envelope(answer).unwrap();
        let read: ToController = Reader::default().message(&envelope).unwrap();
        assert!(matches!(read, ToController::Response { id: 7, response: Err(_) }));
    }
}
