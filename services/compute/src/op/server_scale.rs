//! One vCPU more or less for a server that runs. Going down its guest chooses which, and lets go of it first; then its host runs that vCPU
//! where vCPU 0 is, and only then is its processor another's. Going up is the other way round: the processor, then the host, then the guest.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use rpc::guest::GuestScaled;
use rpc::message::{Request, Response};
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::Compute;
use crate::cpus;
use crate::db::actions;
use crate::db::servers::{self as db, Server};
use crate::scheduler;
use crate::servers::scale_quota_in;
use crate::states::task as task_state;

pub const KIND: &str = "compute.server_scale";
/// The name of its event in the action list.
const EVENT: &str = "compute_scale_instance";
/// How long a host may take to run the threads elsewhere.
const PIN: Duration = Duration::from_secs(60);
/// The host waits for its guest for ten seconds.
const ANSWER: Duration = Duration::from_secs(20);
/// How often a guest that is waited for is looked away from, to see whether the operation was cancelled.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    /// Who waits for the outcome.
    pub permit: String,
    /// The vCPU that it gets back; none: one is taken.
    pub cpu: Option<u32>,
}

/// Which vCPU it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Picked {
    cpu: u32,
    /// Nobody in the guest has chosen it, and why.
    unasked: Option<String>,
}

pub struct ServerScale(pub Compute);

#[async_trait]
impl Operation for ServerScale {
    fn kind(&self) -> &'static str {
        KIND
    }
    fn steps(&self) -> &'static [&'static str] {
        &["ask", "claim", "pin", "tell"]
    }
    fn retry(&self, step: &str) -> Retry {
        if step == "pin" { Retry::within(PIN) } else { Retry::within(Duration::from_secs(30)) }
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        match step {
            "ask" => self.ask(cx, &params).await.map(|picked| Effect::with(&picked)),
            "claim" => self.claim(cx, &params),
            "pin" => self.pin(cx, &params).await,
            _ => self.tell(cx, &params).await,
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        let Some(picked) = cx.opt_output::<Picked>("ask")? else { return Ok(Effect::none()) };
        match step {
            "claim" => Ok(self.unclaim(cx, picked.cpu, params.cpu.is_some())),
            // It had let go of one that it has yet. Whether it hears that does not matter to anybody but itself.
            "ask" if params.cpu.is_none() => {
                let Some(server) = self.0.core.store.read(|tx| db::server_fetch_in(tx, &cx.resource_id, false)).await? else {
                    return Ok(Effect::none());
                };
                if picked.unasked.is_none() && !server.doc.offline.contains(&picked.cpu) {
                    let told = self.guest(&server, Some(picked.cpu)).await;
                    tracing::info!(server = server.id, ?told, "a guest is told that it keeps its vCPU");
                }
                Ok(Effect::none())
            }
            _ => Ok(Effect::none()),
        }
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let params: Params = cx.param()?;
        if let Some(mut server) = db::server_fetch_in(tx, &cx.resource_id, false)? {
            let deleting = server.task_state.as_deref() == Some(task_state::DELETING);
            if !deleting {
                server.task_state = None;
            }
            db::server_update_in(tx, &mut server)?;
            self.0.status_again_after_commit(tx, &server.id);
            let (host, now) = (server.host.as_deref(), Timestamp::now());
            actions::action_event_in(tx, &server.id, &cx.context.request_id, EVENT, host, now, Some(error.message()))?;
            if !deleting {
                crate::notify::server_event_in(tx, "scale.error", &server, &cx.context, Some(error.message()))?;
            }
        }
        let (this, outcome) = (self.0.clone(), Error::new(error.kind(), error.message().to_string()));
        tx.after_commit(move || this.held.answer(&params.permit, Err(outcome)));
        Ok(())
    }
}

impl ServerScale {
    /// Asks the guest to do with one vCPU more, this one, or with one less. Whatever keeps its answer away counts as silence.
    async fn guest(&self, server: &Server, cpu: Option<u32>) -> GuestScaled {
        let Some(host_id) = &server.host_id else { return GuestScaled::Absent };
        let request = Request::GuestScale { instance_id: server.id.clone(), cpu, online: cpus::online(server) };
        match self.0.core.hosts.sessions().ask_within(host_id, request, ANSWER).await {
            Ok(Response::Json(scaled)) => serde_json::from_value(scaled).unwrap_or(GuestScaled::Silent),
            Ok(_) => GuestScaled::Silent,
            Err(error) => {
                tracing::warn!(server = server.id, "a guest could not be asked: {}", error.chain());
                GuestScaled::Silent
            }
        }
    }

    /// The same, as long as the operation goes on.
    async fn guest_heard(&self, cx: &StepContext, server: &Server, cpu: Option<u32>) -> Result<GuestScaled> {
        let asked = self.guest(server, cpu);
        tokio::pin!(asked);
        loop {
            if let Ok(scaled) = tokio::time::timeout(LOOK, &mut asked).await {
                return Ok(scaled);
            }
            if cx.cancelled() {
                return Err(Error::conflict(format!("The operation on server {} was cancelled.", server.id)));
            }
        }
    }

    async fn ask(&self, cx: &StepContext, params: &Params) -> Result<Picked> {
        if let Some(cpu) = params.cpu {
            return Ok(Picked { cpu, unasked: None });
        }
        let server = self.0.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let online = cpus::online(&server);
        let highest = |why: &str| match online.last() {
            Some(cpu) if *cpu > 0 => Ok(Picked { cpu: *cpu, unasked: Some(why.into()) }),
            _ => Err(Error::invalid("The guest has no vCPU that it can do without.")),
        };
        match self.guest_heard(cx, &server, None).await? {
            GuestScaled::Done { cpu: Some(cpu), .. } if cpu > 0 && online.contains(&cpu) => Ok(Picked { cpu, unasked: None }),
            GuestScaled::Done { cpu: Some(cpu), .. } => {
                Err(Error::invalid(format!("The guest has let go of vCPU {cpu}, which is not one that it has for itself.")))
            }
            GuestScaled::Done { cpu: None, .. } => highest("the guest does not say which vCPU it has let go of"),
            GuestScaled::Failed(why) => Err(Error::invalid(format!("The guest could not let go of a vCPU: {why}"))),
            GuestScaled::Silent => highest("the guest does not answer"),
            GuestScaled::Absent => highest("the guest has no port to be asked over"),
        }
    }

    /// Writes down what the host is to do, and takes the processor that it needs for more.
    fn claim(&self, cx: &StepContext, params: &Params) -> Result<Effect> {
        let (this, id, up, picked) = (self.0.clone(), cx.resource_id.clone(), params.cpu.is_some(), cx.output::<Picked>("ask")?);
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            if server.doc.offline.contains(&picked.cpu) != up {
                return Ok(());
            }
            if up {
                scale_quota_in(tx, &server)?;
                let mut offline = server.doc.offline.clone();
                offline.remove(&picked.cpu);
                cpus::offline_set(&mut server, offline);
                this.scaled_claim_in(tx, &server)?;
            } else {
                // It counts for what it has as long as its host has not said that the processor is free.
                server.doc.offline.insert(picked.cpu);
            }
            server.spec_generation += 1;
            db::server_update_in(tx, &mut server)
        }))
    }

    fn unclaim(&self, cx: &StepContext, cpu: u32, up: bool) -> Effect {
        let (this, id) = (self.0.clone(), cx.resource_id.clone());
        Effect::none().commit(move |tx| {
            let Some(mut server) = db::server_fetch_in(tx, &id, false)? else { return Ok(()) };
            let counted = server.vcpus as usize == cpus::online(&server).len();
            if server.doc.offline.contains(&cpu) == up {
                return Ok(());
            }
            let mut offline = server.doc.offline.clone();
            let _ = if up { offline.insert(cpu) } else { offline.remove(&cpu) };
            cpus::offline_set(&mut server, offline);
            if up || counted {
                match this.scaled_claim_in(tx, &server) {
                    // What it had is another's by now: it does without.
                    Err(error) if !up && error.is(Kind::Conflict) => return Ok(()),
                    claimed => claimed?,
                }
            }
            server.spec_generation += 1;
            db::server_save_in(tx, &mut server)?;
            this.tell_after_commit(tx, &server);
            Ok(())
        })
    }

    async fn pin(&self, cx: &StepContext, params: &Params) -> Result<Effect> {
        let (this, up) = (self.0.clone(), params.cpu.is_some());
        let server = this.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = this.server_host(&server)?;
        let generation = this.instance_send(&host_id, &server.id).await?;
        let status = this.host_settled(cx, &host_id, generation, 0, PIN).await?;
        if let Some(why) = status.error.filter(|_| up) {
            return Err(Error::conflict(format!("Host {} could not carry it out: {why}", server.host.unwrap_or_default())));
        }
        let id = cx.resource_id.clone();
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            if server.vcpus as usize != cpus::online(&server).len() {
                let offline = server.doc.offline.clone();
                cpus::offline_set(&mut server, offline);
                this.scaled_claim_in(tx, &server)?;
                db::server_update_in(tx, &mut server)?;
            }
            Ok(())
        }))
    }

    /// Has the guest use what it has got. It has it, whatever it answers.
    async fn tell(&self, cx: &StepContext, params: &Params) -> Result<Effect> {
        let (this, started, picked) = (self.0.clone(), Timestamp::now(), cx.output::<Picked>("ask")?);
        let mut remark = picked.unasked.map(|why| format!("vCPU {} was taken by the host: {why}", picked.cpu));
        if params.cpu.is_some() {
            let server = this.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
            let online = cpus::online(&server);
            let why = match self.guest_heard(cx, &server, Some(picked.cpu)).await? {
                GuestScaled::Done { online: seen, .. } if seen.is_empty() || seen == online => None,
                GuestScaled::Done { online: seen, .. } => Some(format!("the guest uses {seen:?} of {online:?}")),
                GuestScaled::Failed(why) => Some(format!("the guest could not use it: {why}")),
                GuestScaled::Silent => Some("the guest does not answer".into()),
                GuestScaled::Absent => Some("the guest has no port to be told over".into()),
            };
            remark = why.map(|why| format!("vCPU {} was given by the host: {why}", picked.cpu));
        }
        let (ctx, id, permit) = (cx.context.clone(), cx.resource_id.clone(), params.permit.clone());
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            if server.task_state.as_deref() == Some(task_state::SCALING) {
                server.task_state = None;
            }
            db::server_update_in(tx, &mut server)?;
            this.status_again_after_commit(tx, &id);
            if let Some(remark) = &remark {
                tracing::info!(server = id, "{remark}");
            }
            actions::action_remark_in(tx, &id, &ctx.request_id, EVENT, server.host.as_deref(), started, remark.as_deref())?;
            crate::notify::server_event_in(tx, "scale.end", &server, &ctx, None)?;
            tx.after_commit(move || this.held.answer(&permit, Ok(())));
            Ok(())
        }))
    }
}

impl Compute {
    /// Claims on the server's host what it counts for now.
    fn scaled_claim_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        let (host_id, resources) = (self.server_host(server)?, scheduler::resources(server)?);
        self.claim_here_in(tx, server, &host_id, &resources, None).map_err(|error| match error.kind() {
            Kind::NoCapacity => Error::conflict("The host has no processor free for the instance.").caused_by(error),
            _ => error,
        })
    }
}
