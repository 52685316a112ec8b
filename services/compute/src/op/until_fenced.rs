//! What waits for a host waits until that is fenced: from then on nothing comes of waiting, and what is to become of the server (the undo of
//! the operation, its being brought up elsewhere) begins at once instead of at the end of the step's time.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result};
use serde::Deserialize;
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use super::{server_evacuate, server_move_back};
use crate::Compute;
use crate::db::{nodes, servers as db};

/// An operation on a server that is given up when a host is fenced without which it cannot go on.
pub struct UntilFenced<O> {
    pub compute: Compute,
    pub inner: O,
}

/// Where a server goes, as the step says that has chosen it.
#[derive(Deserialize)]
struct Going {
    host_id: String,
}

impl<O: Operation> UntilFenced<O> {
    /// The name of such a host.
    async fn fenced(&self, cx: &StepContext) -> Result<Option<String>> {
        let going = ["claim", "place"].into_iter().find_map(|step| cx.opt_output::<Going>(step).ok().flatten());
        let find = |tx: &Tx| {
            let Some(server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(None) };
            // One that is brought up elsewhere is so because its host is fenced.
            let own = server.host_id.as_deref().filter(|_| self.inner.kind() != server_evacuate::KIND);
            let kept = server.kept_on().filter(|_| self.inner.kind() == server_move_back::KIND);
            for id in [own, kept, going.as_ref().map(|going| going.host_id.as_str())].into_iter().flatten() {
                if let Some(node) = nodes::node_fetch_in(tx, id)?.filter(|node| node.fenced) {
                    return Ok(Some(node.name));
                }
            }
            Ok(None)
        };
        self.compute.core.store.read(find).await
    }
}

#[async_trait]
impl<O: Operation> Operation for UntilFenced<O> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
    fn steps(&self) -> &'static [&'static str] {
        self.inner.steps()
    }
    fn deadline(&self) -> Duration {
        self.inner.deadline()
    }
    fn retry(&self, step: &str) -> Retry {
        self.inner.retry(step)
    }
    fn pure(&self, step: &str) -> bool {
        self.inner.pure(step)
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        match self.inner.run(cx, step).await {
            Err(error) if error.is_transient() => match self.fenced(cx).await? {
                Some(host) => Err(Error::conflict(format!("Host {host} is lost.")).caused_by(error)),
                None => Err(error),
            },
            outcome => outcome,
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        self.inner.undo(cx, step).await
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        self.inner.failed(tx, cx, error)
    }
}
