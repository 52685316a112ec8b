//! The seam to the network: what the agent and the guests' reconcilers ask of whatever moves their packets.

use std::sync::Arc;

use async_trait::async_trait;
use base::Result;
use rpc::instance::Metadata;
use rpc::monitor::Dropped;
use rpc::network::NetworkDocument;

/// What came of applying a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What could not be applied, one line each; everything else was.
    pub errors: Vec<String>,
    /// Ports whose tap is there and forwards.
    pub ports: Vec<String>,
}

/// Writes down what a guest has left at the metadata address: the guest, and its password. On disk when it returns.
pub type Keep = Arc<dyn Fn(&str, &str) -> Result<()> + Send + Sync>;

/// The network of one host. Implemented by [`crate::switch::Switch`] and by the simulated network.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Makes the machine's network what `document` says. Idempotent; a later call always carries the same or a newer document.
    async fn apply(&self, document: &NetworkDocument) -> Result<Applied>;
    /// Whether the tap of this port exists and a guest may open it.
    fn port_ready(&self, port_id: &str) -> bool;
    /// What the metadata address answers to this guest.
    fn instance_metadata_set(&self, instance_id: &str, metadata: Metadata);
    fn instance_metadata_remove(&self, instance_id: &str);
    /// Where passwords go that guests post to the metadata address.
    fn passwords_keep(&self, keep: Keep);
    /// The public key of this host's encrypted tunnels; empty: it has none.
    fn tunnel_key(&self) -> String {
        String::new()
    }
    /// What was dropped on the ports that it serves.
    fn dropped(&self) -> Vec<Dropped> {
        Vec::new()
    }
}
