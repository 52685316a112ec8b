//! Durable operations, most of them on servers.

pub mod aggregate_images;
mod copy;
mod disks;
pub mod server_copy;
pub mod server_create;
pub mod server_delete;
pub mod server_evacuate;
pub mod server_gate;
pub mod server_live;
pub mod server_move;
pub mod server_move_back;
pub mod server_nic;
pub mod server_power;
pub mod server_reimage;
pub mod server_resize;
pub mod server_scale;
pub mod server_shelve;
pub mod server_unshelve;
pub mod server_volume;
mod until_fenced;

use base::{Context, Error, Kind, Result};
use rpc::instance::{InstanceState, InstanceStatus};
use serde_json::Value;
use std::time::{Duration, Instant};
use task::{Effect, New, StepContext};

use crate::Compute;
use crate::db::servers::{self as db, Server};
use crate::statuses::Waited;

pub use until_fenced::UntilFenced;

/// An operation on a server, ready to be submitted.
pub fn submit(kind: &str, server: &Server, ctx: &Context, params: Value) -> New {
    New::new(kind, "server", &server.id).project(&server.project_id).context(ctx.clone()).params(params)
}

/// How long an image may be on its way to the controller from another store.
pub(crate) const IMAGE: Duration = Duration::from_secs(1800);
/// How long one is awaited that the host may have already.
pub(crate) const PERHAPS: Duration = Duration::from_secs(1200);
/// Failures after which such an image is left to the host, and how long one may take that is worth another try.
const TRIES: u32 = 6;
const HICCUP: Duration = Duration::from_secs(10);

impl Compute {
    /// Sees to it that hosts can fetch the images that a server is started from, and that nothing speaks against those; whole as a step, which
    /// needs no undo: they stay cached, and what was converted stays so. `perhaps`: the host may have them already, so that they are not awaited for longer, and what cannot be
    /// had now is for the host to miss.
    pub(crate) async fn images_bring(&self, cx: &StepContext, perhaps: Option<Duration>) -> Result<Effect> {
        let mut server = self.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let mut settled = Vec::new();
        for image in server.images().filter(|image| !image.sha256.is_empty()) {
            if image.is_ready() {
                let (content, _) = image.content();
                match perhaps {
                    Some(limit) => self.content_try(cx, content, limit).await?,
                    None => self.images.content_bring(cx, content).await?,
                }
                continue;
            }
            if let Some(doubt) = image.doubt.take() {
                self.images.content_bring(cx, &image.sha256).await?;
                cx.aside(self.images.doubt_settle(&doubt, &image.sha256)).await??;
            }
            if !image.is_ready() {
                image.converted = Some(self.images.content_converted(cx, &image.sha256, &image.disk_format).await?);
            }
            settled.push(image.clone());
        }
        if settled.is_empty() {
            return Ok(Effect::none());
        }
        let id = cx.resource_id.clone();
        Ok(Effect::none().commit(move |tx| {
            let mut server = db::server_get_in(tx, &id)?;
            for image in server.images() {
                if let Some(settled) = settled.iter().find(|settled| settled.sha256 == image.sha256) {
                    (image.doubt, image.converted) = (None, settled.converted.clone());
                }
            }
            db::server_save_in(tx, &mut server)
        }))
    }

    /// Brings content unless the place where it is fails, or is slower than this.
    async fn content_try(&self, cx: &StepContext, sha256: &str, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        let error = match tokio::time::timeout(limit, self.images.content_bring(cx, sha256)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => {
                // It was given up on aside.
                cx.aside(std::future::ready(())).await?;
                Error::timeout("The image did not come in time.")
            }
        };
        let again = error.is_transient() && cx.attempt < TRIES && begun.elapsed() < HICCUP;
        if again || cx.cancelled() {
            return Err(error);
        }
        tracing::warn!(server = cx.resource_id, sha256, "an image cannot be had; the host may have it: {}", error.chain());
        Ok(())
    }

    /// Waits until the host has carried out this generation of a server's document, or cannot.
    pub(crate) async fn host_settled(
        &self,
        cx: &StepContext,
        host_id: &str,
        generation: u64,
        boot: u64,
        limit: Duration,
    ) -> Result<InstanceStatus> {
        self.host_says(cx, host_id, limit, |status| {
            let done = matches!(
                status.state,
                InstanceState::Running
                    | InstanceState::Paused
                    | InstanceState::Suspended
                    | InstanceState::Stopped
                    | InstanceState::Failed
                    | InstanceState::Absent
            );
            status.generation >= generation && status.boot >= boot && done
        })
        .await
    }

    /// Waits until the host says of a guest what `fits`.
    pub(crate) async fn host_says(
        &self,
        cx: &StepContext,
        host_id: &str,
        limit: Duration,
        fits: impl Fn(&InstanceStatus) -> bool,
    ) -> Result<InstanceStatus> {
        let id = &cx.resource_id;
        let accept = |host: &str, status: &InstanceStatus| (host == host_id && fits(status)).then(|| status.clone());
        let gone = || cx.cancelled() || !self.core.hosts.is_connected(host_id);
        match self.statuses.wait(id, limit, accept, gone).await {
            Waited::Found(status) => Ok(status),
            Waited::Stopped if cx.cancelled() => Err(Error::conflict(format!("The operation on server {id} was cancelled."))),
            Waited::Stopped => Err(Error::unavailable(format!("Host {host_id} is not connected."))),
            Waited::TimedOut => Err(Error::timeout(format!("Host {host_id} did not report on server {id} in time."))),
        }
    }

    /// Has a host remove every trace of a guest and waits for its word. False when the host cannot be reached or does not
    /// answer in time: the stored tombstone reaches it later.
    pub(crate) async fn host_removed(&self, host_id: &str, server_id: &str, generation: u64, limit: Duration) -> Result<bool> {
        if !self.core.hosts.is_connected(host_id) {
            return Ok(false);
        }
        match self.instance_send(host_id, server_id).await {
            Err(error) if error.is_transient() => return Ok(false),
            // The host has reported it gone before, and the tombstone went with that.
            Err(error) if error.kind() == Kind::NotFound => return Ok(true),
            told => told.map(drop)?,
        }
        let accept = |host: &str, s: &InstanceStatus| {
            (host == host_id && s.generation >= generation && s.state == InstanceState::Absent).then_some(())
        };
        let gone = || !self.core.hosts.is_connected(host_id);
        let waited = self.statuses.wait(server_id, limit, accept, gone).await;
        if waited == Waited::TimedOut {
            tracing::warn!(server_id, host_id, "the host did not report that a guest is gone; its tombstone stays");
        }
        Ok(waited == Waited::Found(()))
    }
}
