//! Asking a guest before something is done with it: its vote, then the notice, then the action, which begins in the transaction that
//! ends this operation.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result, Timestamp};
use rpc::guest::GuestVerdict;
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::db::actions;
use crate::db::servers as db;
use crate::gate::{ANSWER, Gated, REJECTED};
use crate::vim::{Issuer, Stage};

pub const KIND: &str = "compute.server_gate";
/// How often a guest that is waited for is looked away from, to see whether the operation was cancelled.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    /// See [`db::Gate`].
    pub permit: String,
    pub wish: Gated,
}

/// What is not done since its permit was taken back.
pub(crate) fn unwanted(action: &str, server_id: &str, why: Option<&str>) -> Error {
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    Error::conflict(format!("The {action} of instance {server_id} is not wanted any more{why}."))
}

pub struct ServerGate(pub Compute);

impl ServerGate {
    /// Asks the guest. Nobody is asked twice for long: an operation that goes on after a crash asks again, and the guest's time begins
    /// anew.
    async fn ask(&self, cx: &StepContext, vote: bool) -> Result<GuestVerdict> {
        let params: Params = cx.param()?;
        let server = self.0.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        if server.doc.gate.as_ref().is_none_or(|gate| gate.permit != params.permit) {
            return Err(unwanted(params.wish.action(), &server.id, None));
        }
        let Some(event) = params.wish.event() else { return Ok(GuestVerdict::Absent) };
        let asked = self.0.guest_ask(&server, event, vote);
        tokio::pin!(asked);
        loop {
            if let Ok(verdict) = cx.aside(tokio::time::timeout(LOOK, &mut asked)).await? {
                return Ok(verdict);
            }
            if cx.cancelled() {
                return Err(Error::conflict(format!("The operation on server {} was cancelled.", server.id)));
            }
        }
    }
}

#[async_trait]
impl Operation for ServerGate {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["vote", "notice", "act"]
    }
    fn retry(&self, step: &str) -> Retry {
        match step {
            "act" => Retry::default(),
            // A guest has its time, which is longer than steps have.
            _ => Retry::within(ANSWER + LOOK * 10),
        }
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        match step {
            "vote" => match self.ask(cx, true).await? {
                GuestVerdict::Rejected(why) => Err(Error::conflict(format!("{REJECTED}{}", why.to_lowercase()))),
                _ => Ok(Effect::none()),
            },
            "notice" => self.ask(cx, false).await.map(|_| Effect::none()),
            _ => {
                let (this, ctx, id) = (self.0.clone(), cx.context.clone(), cx.resource_id.clone());
                let params: Params = cx.param()?;
                Ok(Effect::none().commit(move |tx| {
                    let mut server = db::server_get_in(tx, &id)?;
                    if server.doc.gate.take_if(|gate| gate.permit == params.permit).is_none() {
                        return Err(unwanted(params.wish.action(), &id, None));
                    }
                    server.doc.issuer = Issuer::Known;
                    this.act_in(tx, &ctx, &mut server, &params.wish)?;
                    tx.after_commit(move || this.held.answer(&params.permit, Ok(())));
                    Ok(())
                }))
            }
        }
    }

    /// A question cannot be taken back.
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Params { permit, wish } = cx.param()?;
        let rejected = error.message().starts_with(REJECTED);
        let outcome = Error::new(error.kind(), error.message().to_string());
        let outcome = if rejected { outcome.named(http_api::fault::ACTION_REJECTED) } else { outcome };
        if let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? {
            let open = server.doc.gate.take_if(|gate| gate.permit == permit).is_some();
            if open {
                db::server_save_in(tx, &mut server)?;
            }
            let why = error.message();
            let stage = match (rejected, server.task_state.as_deref()) {
                (true, _) => Stage::Rejected,
                (_, Some(crate::states::task::DELETING)) => Stage::Cancelled,
                // Taken back by whoever took the permit.
                _ if !open => Stage::Cancelled,
                _ => Stage::Failed,
            };
            let (host, now) = (server.host.as_deref(), Timestamp::now());
            actions::action_event_in(tx, &server.id, &cx.context.request_id, "compute_ask_instance", host, now, Some(why))?;
            if rejected {
                actions::action_refused_in(tx, &server.id, &cx.context.request_id, why)?;
            }
            if open {
                db::fault_put_in(tx, &server.id, 409, why, "")?;
            }
            self.0.vim_log_in(tx, &server, wish.log_name(), stage, Some(why))?;
        }
        let this = self.0.clone();
        tx.after_commit(move || this.held.answer(&permit, Err(outcome)));
        Ok(())
    }
}
