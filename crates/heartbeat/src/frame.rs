//! What travels: one frame of a fixed size, authenticated, in every direction.
//!
//! | bytes | |
//! |---|---|
//! | 0-4 | `STP1` |
//! | 4 | kind |
//! | 5 | flags |
//! | 6-8 | zero |
//! | 8-24 | sender |
//! | 24-40 | receiver |
//! | 40-48 | sequence number |
//! | 48-56 | run of the one whose stamp it is |
//! | 56-64 | stamp, nanoseconds of that one's clock |
//! | 64-72 | value |
//! | 72-88 | the first half of an HMAC-SHA256 of all before |
//!
//! Numbers are big-endian. Whatever is not exactly so is dropped unseen.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::Moment;

/// Bytes of a frame.
pub const FRAME: usize = 88;
const SIGNED: usize = 72;
const MAGIC: &[u8; 4] = b"STP1";
const GRANT: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Controller to host.
    Pulse,
    /// Host to controller: a pulse with this number came.
    Answer,
    /// Host to host: do you hear the controller?
    Question,
    /// Host to host: for how many milliseconds it has not.
    Vote,
}

/// A frame without its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    /// The right to keep guests is given with this pulse.
    pub grant: bool,
    pub sender: Uuid,
    pub receiver: Uuid,
    pub sequence: u64,
    /// Run and stamp of who is to recognise it: a pulse carries those of the newest answer, a vote those of its question. What
    /// carries the newest is fresh, whatever clock or counter the other side has lost.
    pub run: u64,
    pub stamp: Moment,
    pub value: u64,
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No frame.
    Malformed,
    /// A frame, by somebody without the key.
    Forged,
}

/// A secret that two sides share. Shown nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

impl Key {
    pub fn new(bytes: [u8; 32]) -> Key {
        Key(bytes)
    }

    /// The key for `purpose` under this one: who has it cannot come to this one, nor to that of another purpose.
    pub fn derive(&self, purpose: &str) -> Key {
        Key(self.mac(purpose.as_bytes()))
    }

    /// An id that only who has this key gives to `name`.
    pub fn id(&self, name: &str) -> Uuid {
        Uuid::from_u128(self.mac(name.as_bytes())[..16].iter().fold(0, |n, byte| n << 8 | u128::from(*byte)))
    }

    fn mac(&self, bytes: &[u8]) -> [u8; 32] {
        self.hmac(bytes).finalize().into_bytes().into()
    }

    fn hmac(&self, bytes: &[u8]) -> Hmac<Sha256> {
        // An HMAC takes keys of any length: this cannot fail, and a key of zeros would open nothing.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| Hmac::new(&Default::default()));
        mac.update(bytes);
        mac
    }
}

impl Frame {
    pub fn seal(&self, key: &Key) -> [u8; FRAME] {
        let mut out = [0; FRAME];
        out[..4].copy_from_slice(MAGIC);
        out[4] = match self.kind {
            Kind::Pulse => 1,
            Kind::Answer => 2,
            Kind::Question => 3,
            Kind::Vote => 4,
        };
        out[5] = if self.grant { GRANT } else { 0 };
        out[8..24].copy_from_slice(self.sender.as_bytes());
        out[24..40].copy_from_slice(self.receiver.as_bytes());
        let stamp = u64::try_from(self.stamp.as_nanos()).unwrap_or(u64::MAX);
        for (at, number) in [(40, self.sequence), (48, self.run), (56, stamp), (64, self.value)] {
            out[at..at + 8].copy_from_slice(&number.to_be_bytes());
        }
        let mac = key.mac(&out[..SIGNED]);
        out[SIGNED..].copy_from_slice(&mac[..FRAME - SIGNED]);
        out
    }

    /// Who a packet says it is from: to find the key with which it is opened. Nothing is proved yet.
    pub fn claimed_sender(packet: &[u8]) -> Result<Uuid, Refused> {
        let bytes: [u8; 16] = packet.get(8..24).and_then(|b| b.try_into().ok()).ok_or(Refused::Malformed)?;
        if packet.len() != FRAME || packet[..4] != *MAGIC || packet[6..8] != [0, 0] {
            return Err(Refused::Malformed);
        }
        Ok(Uuid::from_bytes(bytes))
    }

    pub fn open(packet: &[u8], key: &Key) -> Result<Frame, Refused> {
        let sender = Frame::claimed_sender(packet)?;
        let kind = match packet[4] {
            1 => Kind::Pulse,
            2 => Kind::Answer,
            3 => Kind::Question,
            4 => Kind::Vote,
            _ => return Err(Refused::Malformed),
        };
        if packet[5] & !GRANT != 0 {
            return Err(Refused::Malformed);
        }
        // Compared in constant time.
        key.hmac(&packet[..SIGNED]).verify_truncated_left(&packet[SIGNED..]).map_err(|_| Refused::Forged)?;
        let number = |at: usize| packet[at..at + 8].iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        let receiver = packet[24..40].iter().fold(0u128, |n, byte| n << 8 | u128::from(*byte));
        Ok(Frame {
            kind,
            grant: packet[5] & GRANT != 0,
            sender,
            receiver: Uuid::from_u128(receiver),
            sequence: number(40),
            run: number(48),
            stamp: Moment::from_nanos(number(56)),
            value: number(64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u8) -> Key {
        Key::new([n; 32])
    }

    fn frame() -> Frame {
        Frame {
            kind: Kind::Pulse,
            grant: true,
            sender: Uuid::from_u128(1),
            receiver: Uuid::from_u128(2),
            sequence: u64::MAX,
            run: 7,
            stamp: Moment::from_nanos(12_345_678_901),
            value: 9,
        }
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_only() {
        for kind in [Kind::Pulse, Kind::Answer, Kind::Question, Kind::Vote] {
            let sent = Frame { kind, grant: kind == Kind::Pulse, ..frame() };
            let packet = sent.seal(&key(1));
            assert_eq!(Frame::open(&packet, &key(1)), Ok(sent));
            assert_eq!(Frame::claimed_sender(&packet), Ok(sent.sender));
            assert_eq!(Frame::open(&packet, &key(2)), Err(Refused::Forged));
        }
        assert_ne!(key(1).derive("pulse a"), key(1).derive("pulse b"));
        assert!(!format!("{:?}", key(65)).contains('A'));
    }

    proptest! {
        #[test]
        fn any_packet_is_taken_or_refused(packet in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Frame::open(&packet, &key(1)).is_err());
        }

        #[test]
        fn a_changed_or_cut_frame_is_refused(at in 0..FRAME, bit in 0..8u8, length in 0..FRAME) {
            let mut packet = frame().seal(&key(1));
            prop_assert!(Frame::open(&packet[..length], &key(1)).is_err());
            packet[at] ^= 1 << bit;
            prop_assert!(Frame::open(&packet, &key(1)).is_err());
        }
    }
}
