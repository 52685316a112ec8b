//! What a host needs to know to answer its controller's pulses and to keep, or lose, its lease (crate `heartbeat`).

use std::net::{IpAddr, SocketAddr};

use heartbeat::Key;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Whole at each change, as all documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatDocument {
    /// Number of this list of the site, to be confirmed with each answer.
    pub site: u64,
    /// Who sends the pulses, and with which key between the two.
    pub controller: Uuid,
    pub key: Key,
    /// The key of what hosts ask each other.
    pub site_key: Key,
    /// UDP port on which every host listens.
    pub port: u16,
    /// The other machines of the site, the controller's among them.
    pub peers: Vec<Peer>,
    /// The host is locked: nothing of its own makes it reboot.
    #[serde(default)]
    pub locked: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub id: Uuid,
    /// None: it cannot be asked.
    pub address: Option<IpAddr>,
}

impl HeartbeatDocument {
    pub fn address(&self, peer: &Uuid) -> Option<SocketAddr> {
        let known = self.peers.iter().find(|p| p.id == *peer)?;
        known.address.map(|at| SocketAddr::new(at, self.port))
    }
}
