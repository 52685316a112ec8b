//! Servers that have failed on a host that is well (VIM specification, section 3, "recovery audit"): what their host's own healing
//! did not mend is started anew, then made anew from its image; a few times, and less and less often.

use std::cmp::Reverse;
use std::time::Duration;

use base::{Context, Result, Timestamp};
use rpc::instance::Power;
use serde::{Deserialize, Serialize};
use store::Tx;

use super::{PowerAction, Rebuild};
use crate::Compute;
use crate::db::servers::{self as db, Server};
use crate::spec;
use crate::states::vm;

/// Tries that are remembered.
const KEPT: usize = 10;

/// A try to mend a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mend {
    pub at: Timestamp,
    pub rebuilt: bool,
}

/// A server that nobody mends yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    pub id: String,
    pub host_id: String,
    /// `sw:wrs:recovery_priority`: 1 comes first, 10 last.
    pub priority: u8,
    pub since: Timestamp,
    /// When it was tried within the window, the newest last.
    pub tries: Vec<Timestamp>,
    /// It was said that it is tried no more.
    pub exhausted: bool,
}

/// Whether the system may start it anew.
fn is_mendable(server: &Server) -> bool {
    let idle = server.task_state.is_none() && server.vm_state == vm::ERROR && !server.deleted;
    // One whose state was set by hand is not held by its host.
    idle && server.doc.gate.is_none() && server.doc.held_failed && server.wanted == Power::Running && server.host_id.is_some()
}

impl Compute {
    /// Servers that have failed and may be recovered, in their order: by priority, then the largest first.
    pub fn broken_in(&self, tx: &Tx, window: Duration) -> Result<Vec<Broken>> {
        let now = Timestamp::now();
        let mut all = Vec::new();
        for server in db::servers_failed_in(tx)?.into_iter().filter(is_mendable) {
            let recovery = spec::recovery(&server, self.recovery);
            let Some(host_id) = server.host_id.clone().filter(|_| recovery.auto) else { continue };
            let tries = server.doc.mends.iter().map(|mend| mend.at).filter(|at| now.since(*at) < window).collect();
            let exhausted = server.doc.exhausted == Some(server.boot);
            let broken = Broken { id: server.id.clone(), host_id, priority: recovery.priority, since: server.updated_at, tries, exhausted };
            all.push((Reverse((server.vcpus, server.memory_mb)), broken));
        }
        // Stable: equals stay in the order of their creation.
        all.sort_by_key(|(size, broken)| (broken.priority, *size));
        Ok(all.into_iter().map(|(_, broken)| broken).collect())
    }

    /// Tries to mend a server once more: a new start; where that was the last try, a new disk from its image.
    pub async fn mend(&self, id: &str) -> Result<()> {
        let ctx = Context::system(format!("req-{}", base::id::uuid()));
        let server = self.core.store.read(|tx| db::server_get_in(tx, id)).await?;
        let started = server.doc.mends.last().is_some_and(|mend| !mend.rebuilt);
        let rebuilds = self.core.config.flag("recovery.rebuild") && !server.image_ref.is_empty() && !server.boots_from_volume();
        if started && rebuilds {
            tracing::warn!(server = id, "it has failed again, and is made anew from its image");
            let wish = Rebuild {
                image_ref: server.image_ref.clone(),
                preserve_ephemeral: true,
                mend: Some(Mend { at: Timestamp::now(), rebuilt: true }),
                ..Rebuild::default()
            };
            match self.server_rebuild(&ctx, id, wish, None).await {
                Ok(_) => return Ok(()),
                // Such as an image that is gone: then it is started once more.
                Err(error) => tracing::warn!(server = id, "not made anew: {}", error.chain()),
            }
        }
        tracing::warn!(server = id, "it has failed, and is started anew");
        self.server_change(&ctx, id, |this, tx, ctx, server| {
            if !is_mendable(server) {
                return Ok(());
            }
            server.doc.mend(Mend { at: Timestamp::now(), rebuilt: false });
            this.power_begin_in(tx, ctx, server, PowerAction::RebootHard, None, None)
        })
        .await
    }

    /// A server is tried no more until somebody starts it: its alarm says so.
    pub fn mend_exhausted_in(&self, tx: &Tx, id: &str) -> Result<()> {
        let Some(mut server) = db::server_fetch_in(tx, id, false)? else { return Ok(()) };
        if server.doc.exhausted == Some(server.boot) || server.vm_state != vm::ERROR {
            return Ok(());
        }
        server.doc.exhausted = Some(server.boot);
        db::server_save_in(tx, &mut server)?;
        let fault = db::faults_of_in(tx, &[server.id.clone()])?.remove(&server.id).map(|fault| fault.message);
        self.vim_exhausted_in(tx, &server, fault.as_deref())
    }
}

impl db::ServerDoc {
    pub(crate) fn mend(&mut self, mend: Mend) {
        self.mends.push(mend);
        let surplus = self.mends.len().saturating_sub(KEPT);
        self.mends.drain(..surplus);
    }
}
