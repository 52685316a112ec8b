//! The thread that carries packets between the link, where the machine's tunnels send in the clear, and the port.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use super::peers::{Peers, To};

/// How often the protocol's clocks are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Packets taken from one side before the other has its turn.
const BATCH: usize = 64;
/// The largest packet.
const LARGEST: usize = 65535;

pub struct Worker {
    pub link: File,
    pub socket: Arc<UdpSocket>,
    /// The peers' port, and this host's.
    pub port: u16,
    pub peers: Arc<Mutex<Peers>>,
}

impl Worker {
    /// Until `stop` is closed at its other end, or the link is gone.
    pub fn run(self, stop: &PipeReader) -> io::Result<()> {
        let mut buffer = vec![0; LARGEST];
        let mut ticked = Instant::now();
        loop {
            let flags = {
                let wait = TICK.saturating_sub(ticked.elapsed());
                let mut all = [
                    PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.link.as_fd(), PollFlags::POLLIN),
                    PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                ];
                match poll(&mut all, wait.as_millis() as u16 + 1) {
                    Err(nix::Error::EINTR) => continue,
                    other => other?,
                };
                all.map(|fd| fd.any().unwrap_or_default())
            };
            if flags[2] {
                return Ok(());
            }
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            // What a full queue loses the guests' own protocols send again.
            let mut send = |to: To, bytes: &[u8]| match to {
                To::Peer(address) => drop(self.socket.send_to(bytes, SocketAddr::new(address, self.port))),
                To::Inside => drop((&self.link).write(bytes)),
            };
            if flags[0] {
                for _ in 0..BATCH {
                    // An error of the socket tells of a packet that did not arrive, or that there is none.
                    let Ok((n, from)) = self.socket.recv_from(&mut buffer) else { break };
                    peers.datagram(from.ip(), &buffer[..n], &mut send);
                }
            }
            if flags[1] {
                for _ in 0..BATCH {
                    match (&self.link).read(&mut buffer) {
                        Ok(n) => peers.packet(&buffer[..n], &mut send),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
            }
            if ticked.elapsed() >= TICK {
                peers.tick(&mut send);
                ticked = Instant::now();
            }
        }
    }
}
