//! The gate in front of what is done with a server: a guest that keeps a heartbeat with its host votes on it, and is told of it, before
//! it begins (decision 0015).
//!
//! A server whose flavor does not ask for that passes with a look at what is in memory. For the others an operation
//! ([`crate::op::server_gate`]) asks the guest through its host's session and carries the action out in the transaction that ends it; the
//! request waits for it. While it is open nothing else is begun with the server.

mod asking;
mod beats;
mod events;
mod held;

use std::time::Duration;

use ::guest::message::Event;
use base::{Context, Error, Result};
use rpc::guest::GuestVerdict;
use rpc::message::{Request, Response};
use serde::{Deserialize, Serialize};
use store::Tx;

pub use beats::Beats;
pub use held::Held;

use self::beats::Heart;
use crate::Compute;
use crate::db::actions;
use crate::db::servers::{self as db, Gate, Server};
use crate::op::{self, server_gate};
use crate::servers::{LiveWish, PowerAction, require_free};
use crate::spec;
use crate::states::vm;

/// A host answers for its guest when the guest's own time is over, which is ten minutes at most.
pub(crate) const ANSWER: Duration = Duration::from_secs(630);
/// How long a guest that goes on, or was moved while it ran, is awaited before it is told so.
const RETURN: Duration = Duration::from_secs(60);
/// The same of one that was switched off meanwhile, where it has not said how long it takes (guest specification, section 2.4).
const RESTART: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(250);

/// What begins a refusal's text.
pub const REJECTED: &str = "Action rejected by instance: ";

/// What can be wanted of a server that its guest has a say in, or had in another state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gated {
    Power(PowerAction),
    Resize { flavor_id: String, auto_disk_config: Option<bool> },
    Migrate { host: Option<String> },
    Live(LiveWish),
}

impl Gated {
    /// What a guest is asked.
    pub fn event(&self) -> Option<Event> {
        match self {
            Gated::Power(PowerAction::Stop) => Some(Event::Stop),
            Gated::Power(PowerAction::RebootSoft | PowerAction::RebootHard) => Some(Event::Reboot),
            Gated::Power(PowerAction::Pause) => Some(Event::Pause),
            Gated::Power(PowerAction::Suspend) => Some(Event::Suspend),
            Gated::Power(_) => None,
            Gated::Resize { .. } => Some(Event::ResizeBegin),
            Gated::Migrate { .. } => Some(Event::ColdMigrateBegin),
            Gated::Live(_) => Some(Event::LiveMigrateBegin),
        }
    }
    /// Its name in the list of actions, and in faults.
    pub fn action(&self) -> &'static str {
        match self {
            Gated::Power(action) => action.verb(),
            Gated::Resize { .. } => "resize",
            Gated::Migrate { .. } => "migrate",
            Gated::Live(_) => "live-migration",
        }
    }
    pub fn log_name(&self) -> &'static str {
        match self {
            Gated::Power(action) => action.log_name(),
            Gated::Resize { .. } => "Resize",
            Gated::Migrate { .. } => "Cold-Migrate",
            Gated::Live(_) => "Live-Migrate",
        }
    }
}

impl Compute {
    /// Does what is wanted of a server that the caller may do it with, once its guest agrees.
    pub(crate) async fn gated(&self, ctx: &Context, server: Server, wish: Gated) -> Result<()> {
        if !self.has_say(&server, &wish) {
            return self.server_change(ctx, &server.id, move |this, tx, ctx, server| this.act_in(tx, ctx, server, &wish)).await;
        }
        self.rehearse(ctx, &server.id, wish.clone()).await?;
        let permit = base::id::uuid();
        let place = self.held.enter(&permit);
        self.server_change(ctx, &server.id, move |this, tx, ctx, server| this.gate_in(tx, ctx, server, wish, permit)).await?;
        // Who has to know how it ends waits as long as it takes: only clients give up waiting.
        let patience = if ctx.internal { 3 * ANSWER } else { Duration::from_secs(self.core.config.int("compute.guest_wait_seconds")) };
        place.wait(patience).await
    }

    /// Whether the guest is to be asked: its services are provisioned, it is enabled, and there.
    fn has_say(&self, server: &Server, wish: &Gated) -> bool {
        wish.event().is_some() && spec::heartbeat(server) && server.vm_state == vm::ACTIVE && self.beats.of(server).is_some()
    }

    /// Whether a server's guest keeps its heartbeat now.
    pub fn guest_beats(&self, server: &Server) -> bool {
        self.beats.of(server).is_some()
    }

    /// Whether it would be refused anyway: nobody is asked about that.
    async fn rehearse(&self, ctx: &Context, id: &str, wish: Gated) -> Result<()> {
        const FINE: &str = "it would be done";
        let tried = self.server_change(ctx, id, move |this, tx, ctx, server| {
            this.act_in(tx, ctx, server, &wish)?;
            // Takes it all back.
            Err::<(), Error>(Error::internal(FINE))
        });
        match tried.await {
            Err(error) if error.message() == FINE => Ok(()),
            tried => tried,
        }
    }

    fn gate_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, wish: Gated, permit: String) -> Result<()> {
        let action = wish.action();
        require_free(action, server)?;
        actions::action_start_in(tx, &server.id, action, ctx)?;
        self.vim_issued_in(tx, ctx, server, wish.log_name())?;
        let params = serde_json::to_value(server_gate::Params { permit: permit.clone(), wish });
        let params = params.map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        let operation = self.core.tasks.submit(tx, op::submit(server_gate::KIND, server, ctx, params))?;
        server.doc.gate = Some(Gate { permit, action: action.into(), operation });
        db::server_save_in(tx, server)
    }

    /// Takes back what a server's guest is asked about, if it is: who waits for it is answered as soon as the transaction is durable, and
    /// the operation ends. Storing the server is left to the caller.
    pub(crate) fn gate_void_in(&self, tx: &Tx, server: &mut Server, why: &str) {
        let Some(Gate { permit, action, operation }) = server.doc.gate.take() else { return };
        let unwanted = server_gate::unwanted(&action, &server.id, Some(why));
        let this = self.clone();
        tx.after_commit(move || {
            this.held.answer(&permit, Err(unwanted));
            let tasks = this.core.tasks.clone();
            this.runtime.spawn(async move {
                // It may be over. One that a controller's end keeps from hearing of this finds that its permit is gone.
                let _ = tasks.cancel(&operation).await;
            });
        });
    }

    /// What is wanted begins.
    pub(crate) fn act_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, wish: &Gated) -> Result<()> {
        match wish {
            Gated::Power(action) => self.power_in(tx, ctx, server, *action),
            Gated::Resize { flavor_id, auto_disk_config } => self.resize_in(tx, ctx, server, flavor_id, *auto_disk_config),
            Gated::Migrate { host } => self.migrate_in(tx, ctx, server, host.as_deref()),
            Gated::Live(wish) => self.migrate_live_in(tx, ctx, server, wish),
        }
    }

    /// Asks a guest, or tells it. Whatever keeps its answer away counts as silence, once it has had time to answer.
    pub(crate) async fn guest_ask(&self, server: &Server, event: Event, vote: bool) -> GuestVerdict {
        let Some(host_id) = &server.host_id else { return GuestVerdict::Absent };
        let ask = || self.guest_ask_once(host_id, &server.id, event, vote);
        let heart = || if self.core.hosts.is_connected(host_id) { self.beats.heart(server) } else { Heart::Unknown };
        tokio::time::timeout(ANSWER, asking::verdict(ask, heart)).await.unwrap_or(GuestVerdict::Silent)
    }

    async fn guest_ask_once(&self, host_id: &str, server_id: &str, event: Event, vote: bool) -> Result<GuestVerdict> {
        let request = Request::GuestAsk { instance_id: server_id.to_string(), event: event.word().into(), vote };
        match self.core.hosts.sessions().ask_within(host_id, request, ANSWER).await {
            Ok(Response::Json(verdict)) => Ok(serde_json::from_value(verdict).unwrap_or(GuestVerdict::Silent)),
            Ok(_) => Ok(GuestVerdict::Silent),
            Err(error) => {
                tracing::warn!(server_id, "a guest could not be asked: {}", error.chain());
                Err(error)
            }
        }
    }

    /// Tells a guest, once the transaction is durable, that what it was told of is over. It is not waited for; a guest that a
    /// controller's end keeps this from goes on without.
    pub(crate) fn guest_tell_after_commit(&self, tx: &Tx, server: &Server, event: Event) {
        if !spec::heartbeat(server) || server.host_id.is_none() {
            return;
        }
        let (this, server, runtime) = (self.clone(), server.clone(), self.runtime.clone());
        tx.after_commit(move || {
            runtime.spawn(async move {
                // It may have to find its host first.
                let patience = match event {
                    Event::ColdMigrateEnd | Event::ResizeEnd => this.beats.restart(&server.id).unwrap_or(RESTART),
                    _ => RETURN,
                };
                let end = tokio::time::Instant::now() + patience;
                while this.beats.of(&server).is_none() {
                    if tokio::time::Instant::now() > end {
                        return;
                    }
                    tokio::time::sleep(LOOK).await;
                }
                this.guest_ask(&server, event, false).await;
            });
        });
    }
}
