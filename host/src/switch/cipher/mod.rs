//! Tunnels to other hosts within WireGuard, in this process.
//!
//! What VXLAN sends is led into a link ([`path`]) whose other end is a thread ([`work`]): it encrypts each packet for the host it is
//! for and sends it on the port, and what comes there it puts, decrypted, into the link ([`peers`]). VXLAN itself knows nothing of it.
//! While the setting is on the machine's rules let VXLAN neither out nor in by any other way, also when this process is not there.

use std::collections::BTreeMap;
use std::io::{self, PipeWriter};
use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::sys::socket::{setsockopt, sockopt};

use super::sys;
use crate::drops::Drops;

mod key;
pub mod path;
mod peers;
#[cfg(test)]
mod tests;
mod work;

pub use key::{Key, decode};
use peers::To;

/// The link's name.
pub const LINK: &str = "sturnus-wg";
pub const ALIAS: &str = "sturnus:cipher:hosts";
/// Room for packets that wait in the port, in bytes; as the kernel's own limit is far less.
const ROOM: usize = 4 << 20;

/// What the document and the machine's options make of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// This host's end of tunnels.
    pub local: IpAddr,
    pub port: u16,
    /// The link's, in bytes.
    pub mtu: u32,
    /// Public keys by address.
    pub peers: BTreeMap<IpAddr, [u8; 32]>,
}

/// The link and its thread. The link goes when this is dropped.
pub struct Cipher {
    at: (IpAddr, u16),
    socket: Arc<UdpSocket>,
    peers: Arc<Mutex<peers::Peers>>,
    thread: Option<JoinHandle<()>>,
    stop: Option<PipeWriter>,
}

impl Cipher {
    /// Makes the link in the namespace of the calling thread.
    pub fn start(wanted: &Wanted, key: &Key, drops: Arc<Drops>) -> io::Result<Cipher> {
        let at = (wanted.local, wanted.port);
        let socket = Arc::new(UdpSocket::bind(at)?);
        socket.set_nonblocking(true)?;
        for result in [setsockopt(&socket, sockopt::RcvBufForce, &ROOM), setsockopt(&socket, sockopt::SndBufForce, &ROOM)] {
            result?;
        }
        let link = sys::tun_create(LINK)?;
        let peers = Arc::new(Mutex::new(peers::Peers::new(key.0.clone(), wanted.local, drops)));
        let (told, stop) = io::pipe()?;
        let worker = work::Worker { link, socket: socket.clone(), port: wanted.port, peers: peers.clone() };
        let thread = std::thread::Builder::new().name("tunnel".into()).spawn(move || {
            if let Err(e) = worker.run(&told) {
                tracing::error!("encrypted tunnels stop until the network is applied again: {e}");
            }
        })?;
        Ok(Cipher { at, socket, peers, thread: Some(thread), stop: Some(stop) })
    }

    /// Whether it runs, and at the right place.
    pub fn serves(&self, wanted: &Wanted) -> bool {
        self.at == (wanted.local, wanted.port) && self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    pub fn update(&self, wanted: &Wanted) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        // Only sessions that begin are sent here; one that is lost begins again by the protocol's clocks.
        peers.update(&wanted.peers, &mut |to, bytes| {
            if let To::Peer(address) = to {
                drop(self.socket.send_to(bytes, (address, wanted.port)));
            }
        });
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // One that panicked has told so.
            let _ = thread.join();
        }
    }
}
