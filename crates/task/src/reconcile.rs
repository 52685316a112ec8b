//! Reconcilers: idempotent work without input, started by a timer or a nudge.

use async_trait::async_trait;
use base::{Error, Result, Timestamp};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Store, Tx, params};
use tokio::sync::watch;

use crate::db::Claimant;

/// Reads what is wanted and what is, and makes the difference go away.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// `compute.server_power`
    fn name(&self) -> &'static str;
    /// The longest time between two runs.
    fn every(&self) -> Duration;
    /// Never runs twice at the same time, also not on two controllers (unless it runs [`Reconciler::everywhere`]).
    async fn run(&self) -> Result<()>;
    /// True for work that each controller has of its own, such as for the hosts that have a session with it.
    fn everywhere(&self) -> bool {
        false
    }
}

/// Starts a reconciler before its time. Many nudges while it runs make it run once more.
#[derive(Clone)]
pub struct Nudge {
    store: Store,
    channel: Arc<str>,
}

impl Nudge {
    pub(crate) fn new(store: &Store, name: &str) -> Self {
        Nudge { store: store.clone(), channel: channel(name).into() }
    }
    /// At once, if it runs on this controller.
    pub fn nudge(&self) {
        self.store.nudge_here(&self.channel);
    }
    /// When the transaction is durable, on whichever controller it runs.
    pub fn nudge_after_commit(&self, tx: &Tx) {
        tx.nudge(&self.channel);
    }
}

/// As [`Nudge::nudge_after_commit`], for who knows the reconciler by its name only.
pub fn nudge_in(tx: &Tx, name: &str) {
    tx.nudge(&channel(name));
}

/// As [`Nudge::nudge`], for who knows the reconciler by its name only.
pub fn nudge_here(store: &Store, name: &str) {
    store.nudge_here(&channel(name));
}

fn channel(name: &str) -> String {
    format!("reconcile/{name}")
}

/// The first pause after an error; it doubles up to the reconciler's own period.
const BACK_OFF: Duration = Duration::from_millis(250);
const LEASE: Duration = Duration::from_secs(15);

pub(crate) async fn run(store: Store, claimant: Claimant, reconciler: Arc<dyn Reconciler>, mut stopping: watch::Receiver<bool>) {
    let name = reconciler.name();
    let every = reconciler.every();
    let mut nudged = store.watch(&channel(name));
    let mut failures: u32 = 0;
    // Embedded, there is one controller and no lease to win.
    let shared = !store.is_sqlite() && !reconciler.everywhere();
    let lease = shared.then(|| Lease { store: store.clone(), name, owner: claimant.owner, span: LEASE.max(every * 2) });
    while !*stopping.borrow() {
        let mine = match &lease {
            None => true,
            Some(lease) => lease.hold().await.unwrap_or_else(|error| {
                tracing::warn!(reconciler = name, error = %error.chain(), "taking the lease of a reconciler");
                false
            }),
        };
        if mine {
            match once(&*reconciler, lease.as_ref()).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(reconciler = name, failures, error = %error.chain(), "a reconciler failed");
                }
            }
        }
        if failures > 0 {
            // Nudges do not shorten the back-off; they are kept for its end.
            let pause = BACK_OFF.saturating_mul(1 << (failures - 1).min(16)).min(every.max(BACK_OFF));
            let _ = tokio::time::timeout(pause, stopping.wait_for(|stop| *stop)).await;
        } else {
            tokio::select! {
                _ = tokio::time::sleep(every) => {}
                _ = nudged.wait() => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        }
    }
    if let Some(lease) = lease
        && let Err(error) = lease.release().await
    {
        tracing::debug!(reconciler = name, error = %error.chain(), "giving the lease of a reconciler back");
    }
}

/// One run. While it lasts its lease is renewed; when that fails for the lease's whole length, the run is ended.
async fn once(reconciler: &dyn Reconciler, lease: Option<&Lease>) -> Result<()> {
    let work = AssertUnwindSafe(reconciler.run()).catch_unwind();
    let keep = async {
        let Some(lease) = lease else { return std::future::pending().await };
        let mut good = Instant::now();
        loop {
            tokio::time::sleep(lease.span / 3).await;
            let asked = Instant::now();
            match lease.hold().await {
                Ok(true) => good = asked,
                Ok(false) => return,
                Err(_) if good.elapsed() > lease.span => return,
                Err(_) => {}
            }
        }
    };
    tokio::select! {
        result = work => result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Error::internal(format!("panic in a reconciler: {}", text.unwrap_or("no message"))))
        }),
        () = keep => Err(Error::unavailable("another controller took the reconciler over")),
    }
}

struct Lease {
    store: Store,
    name: &'static str,
    owner: String,
    span: Duration,
}

impl Lease {
    async fn hold(&self) -> Result<bool> {
        let (name, owner, span) = (self.name, self.owner.clone(), self.span);
        let now = Timestamp::now();
        let changed = self.store.write(move |tx| {
            tx.execute(
                "INSERT INTO reconciler_lease (name, owner, lease_until) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE \
                 SET owner = ?2, lease_until = ?3 WHERE reconciler_lease.owner = ?2 OR reconciler_lease.lease_until < ?4",
                params![name, owner, now.plus(span), now],
            )
        });
        Ok(changed.await? == 1)
    }
    async fn release(&self) -> Result<()> {
        let (name, owner) = (self.name, self.owner.clone());
        let done =
            self.store.write(move |tx| tx.execute("DELETE FROM reconciler_lease WHERE name = ?1 AND owner = ?2", params![name, owner]));
        done.await.map(drop)
    }
}
