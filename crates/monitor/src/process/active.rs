//! Processes that are asked (StarlingX's active monitoring): `NAME 12345678 SEQUENCE` to the process' port; it answers to ours with
//! the magic number inverted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const MAGIC: u32 = 0x1234_5678;

/// The port where answers come.
pub struct Answers {
    socket: Arc<UdpSocket>,
    newest: Arc<Mutex<HashMap<String, watch::Sender<u32>>>>,
    task: JoinHandle<()>,
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Answers {
    pub async fn open(at: SocketAddr) -> std::io::Result<Arc<Answers>> {
        let socket = Arc::new(UdpSocket::bind(at).await?);
        let newest: Arc<Mutex<HashMap<String, watch::Sender<u32>>>> = Arc::default();
        let (ear, known) = (socket.clone(), newest.clone());
        let task = tokio::spawn(async move {
            let mut packet = [0; 256];
            loop {
                // An error is of a question that reached nobody.
                let Ok((n, _)) = ear.recv_from(&mut packet).await else { continue };
                let Some((name, sequence)) = packet.get(..n).and_then(answer) else { continue };
                if let Some(sender) = known.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
                    sender.send_replace(sequence);
                }
            }
        });
        Ok(Arc::new(Answers { socket, newest, task }))
    }

    /// The newest sequence that a process has answered.
    pub fn of(&self, name: &str) -> watch::Receiver<u32> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.entry(name.to_string()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    pub async fn ask(&self, name: &str, port: u16, sequence: u32) {
        // Whom it does not reach gives no answer.
        let _ = self.socket.send_to(format!("{name} {MAGIC:8x} {sequence}").as_bytes(), ("127.0.0.1", port)).await;
    }
}

fn answer(packet: &[u8]) -> Option<(&str, u32)> {
    let text = std::str::from_utf8(packet).ok()?.trim_end_matches('\0');
    let mut words = text.split_ascii_whitespace();
    let (name, magic, sequence) = (words.next()?, words.next()?, words.next()?);
    let magic = u32::from_str_radix(magic, 16).ok()?;
    (magic == MAGIC ^ u32::MAX).then_some((name, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_inverted_number_is_an_answer() {
        assert_eq!(answer(b"mtcClient edcba987 17\0"), Some(("mtcClient", 17)));
        for wrong in [&b"mtcClient 12345678 17"[..], b"mtcClient edcba987", b"", b"\xff\xff", b"x edcba987 -1"] {
            assert_eq!(answer(wrong), None);
        }
    }
}
