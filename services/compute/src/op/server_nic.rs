//! An interface more, or one less: its port is the network's, its card the host's.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result, Timestamp};
use rpc::instance::InstanceState;
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::db::actions;
use crate::db::servers as db;

pub const KIND: &str = "compute.server_nic";
/// A guest may take its time to let go of a card, and a host to return.
const APPLY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub port_id: String,
    pub attach: bool,
}

pub struct ServerNic(pub Compute);

#[async_trait]
impl Operation for ServerNic {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["apply"]
    }
    fn retry(&self, _: &str) -> Retry {
        Retry::within(APPLY)
    }

    async fn run(&self, cx: &StepContext, _: &str) -> Result<Effect> {
        let (compute, params, started) = (self.0.clone(), cx.param::<Params>()?, Timestamp::now());
        let server = compute.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = compute.server_host(&server)?;
        let generation = compute.instance_send(&host_id, &server.id).await?;
        let status = compute.host_settled(cx, &host_id, generation, 0, APPLY).await?;
        if matches!(status.state, InstanceState::Failed | InstanceState::Absent) {
            return Err(Error::conflict(status.error.unwrap_or_else(|| "the guest is not there".into())));
        }
        let (id, ctx) = (cx.resource_id.clone(), cx.context.clone());
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            if !params.attach {
                compute.nic_release_in(tx, &server, &params.port_id)?;
                server.doc.detaching.retain(|port| *port != params.port_id);
                compute.server_changed_in(tx, &mut server, true)?;
            }
            let (verb, event) = words(&params);
            actions::action_event_in(tx, &id, &ctx.request_id, event, server.host.as_deref(), started, None)?;
            crate::notify::server_event_in(tx, &format!("{verb}.end"), &server, &ctx, None)
        }))
    }

    async fn undo(&self, cx: &StepContext, _: &str) -> Result<Effect> {
        let (compute, params, id) = (self.0.clone(), cx.param::<Params>()?, cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let Some(mut server) = db::server_fetch_in(tx, &id, false)? else {
                return if params.attach { compute.network.port_release_in(tx, &id, &params.port_id) } else { Ok(()) };
            };
            if params.attach {
                compute.nic_release_in(tx, &server, &params.port_id)?;
            }
            server.doc.detaching.retain(|port| *port != params.port_id);
            compute.server_changed_in(tx, &mut server, true)
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(server) = db::server_fetch_in(tx, &cx.resource_id, false)? else { return Ok(()) };
        let params: Params = cx.param()?;
        let ((verb, event), host, now) = (words(&params), server.host.as_deref(), Timestamp::now());
        actions::action_event_in(tx, &server.id, &cx.context.request_id, event, host, now, Some(error.message()))?;
        crate::notify::server_event_in(tx, &format!("{verb}.error"), &server, &cx.context, Some(error.message()))
    }
}

fn words(params: &Params) -> (&'static str, &'static str) {
    match params.attach {
        true => ("interface_attach", "compute_attach_interface"),
        false => ("interface_detach", "compute_detach_interface"),
    }
}
