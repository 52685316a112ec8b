//! The controller's side of its hosts, shared by the services that care.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use base::Result;
use rpc::message::{Request, Response, ToController, ToHost};
use rpc::session::{Heard, Hosts, Said};
use tokio::sync::{OwnedMutexGuard, mpsc};

/// A service that wants to hear hosts. Each message reaches every listener, in order.
#[async_trait]
pub trait HostListener: Send + Sync {
    /// An error is logged; for an event it also means that the host must send it again.
    async fn heard(&self, host_id: &str, said: &Said) -> Result<()>;
}

/// Sends to hosts and lets services listen to them. Cheap to clone.
#[derive(Clone)]
pub struct HostLinks {
    hosts: Hosts,
    listeners: Arc<RwLock<Vec<Arc<dyn HostListener>>>>,
    turns: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl HostLinks {
    pub fn new(hosts: Hosts) -> Self {
        HostLinks { hosts, listeners: Arc::default(), turns: Arc::default() }
    }

    pub fn listen(&self, listener: Arc<dyn HostListener>) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// The turn to tell a host something that was read from the store. Whoever reads and sends holds it meanwhile: else a
    /// document read early could be sent late, and bring back what a later one had removed.
    pub async fn turn(&self, host_id: &str) -> OwnedMutexGuard<()> {
        let turn = self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(host_id.to_string()).or_default().clone();
        turn.lock_owned().await
    }

    /// `Unavailable` when the host has no session now.
    pub async fn send(&self, host_id: &str, message: ToHost) -> Result<()> {
        self.hosts.send(host_id, message).await
    }

    pub async fn ask(&self, host_id: &str, request: Request) -> Result<Response> {
        self.hosts.ask(host_id, request).await
    }

    pub fn is_connected(&self, host_id: &str) -> bool {
        self.hosts.is_connected(host_id)
    }

    pub fn sessions(&self) -> &Hosts {
        &self.hosts
    }

    /// Hands everything hosts say to the listeners until the stream ends.
    pub async fn dispatch(&self, mut heard: mpsc::Receiver<Heard>) {
        while let Some(Heard { host_id, message }) = heard.recv().await {
            let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner).clone();
            let mut all_heard = true;
            for listener in &listeners {
                if let Err(error) = listener.heard(&host_id, &message).await {
                    tracing::error!(host_id, "a message of a host could not be taken in: {}", error.chain());
                    all_heard = false;
                }
            }
            if let (Said::Message(ToController::Event { number, .. }), true) = (&message, all_heard) {
                // When the session is gone, the host sends the event again and the listeners see it twice: they are idempotent.
                let _ = self.hosts.send(&host_id, ToHost::EventsStored { up_to: *number }).await;
            }
        }
    }
}
