//! Byte streams inside a session, as consoles need: each end takes in only so much at a time, so that no stream holds up
//! the documents beside it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use base::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};

/// What may be under way in one direction of a stream.
const WINDOW: usize = 256 << 10;
/// The most that one message carries.
const CHUNK: usize = 16 << 10;
/// Messages that may wait at one end: more than a peer sends that keeps to the window and does not send byte by byte.
const BACKLOG: usize = 4096;

/// What a stream leads to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A guest's screen, keyboard and pointer, in the protocol of VNC (RFB), without a password.
    Display { instance_id: String },
    /// A guest's first serial port. Who comes last has it.
    Serial { instance_id: String },
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    /// Asks a host to begin.
    Open(Target),
    /// The host has begun.
    Opened,
    Data(#[serde(with = "text")] Vec<u8>),
    /// The receiver has taken in this many bytes: as many more may come.
    Taken(u32),
    /// It is over in both directions; why, if it should not be.
    Closed(Option<String>),
}

/// Bytes as hexadecimal text, two letters each: JSON has no bytes.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |n: u8| char::from(DIGITS[usize::from(n & 15)]);
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            text.push(digit(byte >> 4));
            text.push(digit(*byte));
        }
        to.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|n| u8::try_from(n).ok());
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        text.as_bytes().chunks(2).map(|pair| byte(pair).ok_or_else(|| D::Error::custom("not hexadecimal"))).collect()
    }
}

/// The streams of a session, by number. Cheap to clone.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<HashMap<u64, Place>>>);

struct Place {
    frames: mpsc::Sender<Frame>,
    credit: Arc<Semaphore>,
}

/// One end of a stream. Frames for it are kept until it is dropped.
pub struct End {
    id: u64,
    frames: mpsc::Receiver<Frame>,
    credit: Arc<Semaphore>,
    streams: Streams,
}

impl Drop for End {
    fn drop(&mut self) {
        self.streams.places().remove(&self.id);
    }
}

impl Streams {
    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Place>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.places().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From here on frames of this number are heard.
    pub fn enter(&self, id: u64) -> End {
        let (sender, frames) = mpsc::channel(BACKLOG);
        let credit = Arc::new(Semaphore::new(WINDOW));
        self.places().insert(id, Place { frames: sender, credit: credit.clone() });
        End { id, frames, credit, streams: self.clone() }
    }

    /// Nobody is left at the other ends.
    pub fn end(&self) {
        self.places().clear();
    }

    /// Hands a frame on. False when the stream is over here: then a peer that still sends must be told.
    pub fn deliver(&self, id: u64, frame: Frame) -> bool {
        let mut places = self.places();
        let Some(place) = places.get(&id) else { return matches!(frame, Frame::Closed(_)) };
        if let Frame::Taken(bytes) = frame {
            // Past the waiting frames: the other direction must go on when this one stands still.
            let room = WINDOW.saturating_sub(place.credit.available_permits());
            place.credit.add_permits(room.min(bytes as usize));
            return true;
        }
        // A peer that sends more than it may is cut off.
        let taken = place.frames.try_send(frame).is_ok();
        if !taken {
            places.remove(&id);
        }
        taken
    }
}

impl End {
    /// Waits for the answer to [`Frame::Open`].
    pub async fn opened(&mut self) -> Result<()> {
        match self.frames.recv().await {
            Some(Frame::Opened) => Ok(()),
            Some(Frame::Closed(Some(why))) => Err(Error::conflict(why)),
            _ => Err(Error::unavailable("the host has gone")),
        }
    }

    /// Carries bytes between `io` and the other end until either side is done. Ends with the last byte written, not said.
    pub async fn carry<F>(mut self, io: impl AsyncRead + AsyncWrite, say: impl Fn(Frame) -> F)
    where
        F: Future<Output = Result<()>>,
    {
        let (mut read, mut write) = tokio::io::split(io);
        let credit = self.credit.clone();
        let outward = async {
            let mut chunk = vec![0u8; CHUNK];
            loop {
                let Ok(permit) = credit.acquire().await else { return };
                permit.forget();
                let most = CHUNK.min(credit.available_permits() + 1);
                let n = match read.read(&mut chunk[..most]).await {
                    Ok(n) if n > 0 => n,
                    _ => return,
                };
                if let Ok(rest) = credit.try_acquire_many(u32::try_from(n - 1).unwrap_or(0)) {
                    rest.forget();
                }
                if say(Frame::Data(chunk[..n].to_vec())).await.is_err() {
                    return;
                }
            }
        };
        let frames = &mut self.frames;
        let inward = async {
            while let Some(Frame::Data(bytes)) = frames.recv().await {
                if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                    return;
                }
                if say(Frame::Taken(u32::try_from(bytes.len()).unwrap_or(u32::MAX))).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = outward => {}
            () = inward => {}
        }
        // The other end may be gone already.
        let _ = say(Frame::Closed(None)).await;
        let _ = write.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ends joined back to back, with an io for each.
    fn pair() -> (tokio::io::DuplexStream, tokio::io::DuplexStream, Streams, Streams) {
        let (left, right) = (Streams::default(), Streams::default());
        let ((near, left_io), (far, right_io)) = (tokio::io::duplex(1000), tokio::io::duplex(1000));
        for (own, other, io) in [(left.clone(), right.clone(), left_io), (right.clone(), left.clone(), right_io)] {
            let end = own.enter(7);
            tokio::spawn(async move {
                end.carry(io, |frame| {
                    let frame: Frame = serde_json::from_str(&serde_json::to_string(&frame).unwrap()).unwrap();
                    other.deliver(7, frame);
                    async { Ok(()) }
                })
                .await;
            });
        }
        (near, far, left, right)
    }

    #[tokio::test]
    async fn everything_arrives_in_both_directions_at_once() {
        let (near, far, ..) = pair();
        let data: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
        let ends = [near, far].map(|io| {
            let data = data.clone();
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(io);
                let (sent, mut got) = (data.clone(), vec![0u8; data.len()]);
                let (wrote, all) = tokio::join!(write.write_all(&sent), read.read_exact(&mut got));
                wrote.unwrap();
                all.unwrap();
                (got == data, read, write)
            })
        });
        for end in ends {
            assert!(end.await.unwrap().0);
        }
    }

    #[tokio::test]
    async fn who_reads_nothing_stops_the_other_but_not_the_way_back() {
        let (mut near, mut far, _, right) = pair();
        let written = tokio::time::timeout(std::time::Duration::from_millis(200), async {
            let mut all = 0;
            loop {
                all += near.write(&[0u8; 1000]).await.unwrap();
                assert!(all <= WINDOW + 2 * CHUNK + 10_000, "no end of what is taken in");
            }
        });
        assert!(written.await.is_err(), "the writer must stand still");
        assert!(right.places()[&7].frames.capacity() > 0);
        far.write_all(b"back").await.unwrap();
        let mut got = [0u8; 4];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"back");
    }

    #[tokio::test]
    async fn an_end_that_goes_takes_the_other_along() {
        let (near, mut far, left, right) = pair();
        drop(near);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        while !(left.is_empty() && right.is_empty()) {
            tokio::task::yield_now().await;
        }
        // A peer that goes on all the same is not listened to.
        assert!(!left.deliver(7, Frame::Data(vec![1])));
    }

    #[tokio::test]
    async fn a_peer_that_floods_is_cut_off() {
        let streams = Streams::default();
        let mut end = streams.enter(1);
        for _ in 0..=BACKLOG {
            streams.deliver(1, Frame::Data(vec![0]));
        }
        assert!(streams.is_empty());
        streams.deliver(1, Frame::Taken(u32::MAX));
        assert!(end.opened().await.is_err());
    }
}
