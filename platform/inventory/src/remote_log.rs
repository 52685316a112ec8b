//! Whether the collector of the cloud's log can be reached (alarm catalogue, 100.118). What it is sent by UDP nobody confirms, so this is
//! known only when a machine on the way, or the collector's own, says that it is not there.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use base::Result;
use fault::{Alarm, Severity};
use task::Reconciler;
use tokio::net::UdpSocket;

use crate::hosts::entity;
use crate::{Inventory, Streaks};

const UNREACHABLE: &str = "100.118";
const LOOK: Duration = Duration::from_secs(60);
/// How long it may take to be told so: a neighbour that is not there is given up by the kernel after three seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Times in a row until it is told.
const TIMES: u32 = 2;

pub struct RemoteLog {
    inventory: Inventory,
    patience: Duration,
    failed: Streaks,
}

impl RemoteLog {
    pub fn new(inventory: Inventory) -> RemoteLog {
        RemoteLog::with_patience(inventory, PATIENCE)
    }

    pub fn with_patience(inventory: Inventory, patience: Duration) -> RemoteLog {
        RemoteLog { inventory, patience, failed: Streaks::default() }
    }

    /// Sends it nothing at all, and hears whether that came back.
    async fn reach(&self, to: SocketAddr) -> std::io::Result<()> {
        let any: SocketAddr = if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(to).await?;
        socket.send(&[]).await?;
        match tokio::time::timeout(self.patience, socket.recv(&mut [0; 1])).await {
            Ok(Err(error)) => Err(error),
            // It says nothing, as collectors do.
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Reconciler for RemoteLog {
    fn name(&self) -> &'static str {
        "inventory.remote_log"
    }

    fn every(&self) -> Duration {
        LOOK
    }

    async fn run(&self) -> Result<()> {
        let Ok(to) = self.inventory.core.config.text("fault.syslog").parse::<SocketAddr>() else { return Ok(()) };
        let outcome = self.reach(to).await;
        let told = self.failed.take("", outcome.is_err()) >= TIMES;
        let why = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        let this = self.inventory.clone();
        let note = move |tx: &store::Tx| {
            let hosts = this.hosts_in(tx)?;
            let name = hosts.iter().find(|host| host.personality == "controller").map_or("controller", |host| host.hostname.as_str());
            if !told {
                return if why.is_empty() { this.faults.alarm_clear_in(tx, UNREACHABLE, &entity(name)).map(drop) } else { Ok(()) };
            }
            let text = format!("{name}: the remote log server {to} cannot be reached ({why}).");
            let repair = "Check that the server runs, the way to it, and its address (`fault.syslog`).";
            this.faults.alarm_keep_in(tx, &Alarm::known(UNREACHABLE, entity(name), Severity::Minor, text, repair)).map(drop)
        };
        self.inventory.core.store.write(note).await
    }
}
