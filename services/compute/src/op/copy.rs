//! Steps that several operations share: a copy of a server's root disk on its host, and its way into an image.

use std::time::Duration;

use base::{Error, Kind, Result};
use base64::Engine;
use bytes::Bytes;
use futures_util::Stream;
use http_api::body::Upload;
use rpc::instance::InstanceState;
use rpc::message::{Request, Response};
use store::Tx;
use task::StepContext;

use crate::Compute;
use crate::db::servers::{self as db, Server};

/// How long a host may take to copy a disk.
pub const COPY: Duration = Duration::from_secs(1800);
/// How long the copy may take into the image.
pub const UPLOAD: Duration = Duration::from_secs(3600);
/// What is asked of a host at once.
const PIECE: u32 = 4 << 20;

impl Compute {
    /// Has the host make the copy that the server's row wants, and waits for it.
    pub(crate) async fn copy_make(&self, cx: &StepContext, snapshot: &str) -> Result<()> {
        let wanted = snapshot.to_string();
        let id = cx.resource_id.clone();
        let server = self
            .core
            .store
            .write(move |tx| {
                let mut server = db::server_get_in(tx, &id)?;
                if server.doc.snapshot.as_ref() != Some(&wanted) {
                    server.doc.snapshot = Some(wanted);
                    server.spec_generation += 1;
                    db::server_save_in(tx, &mut server)?;
                }
                Ok(server)
            })
            .await?;
        let host_id = self.server_host(&server)?;
        let generation = self.instance_send(&host_id, &server.id).await?;
        let told = |s: &rpc::instance::InstanceStatus| s.generation >= generation && s.snapshots.iter().any(|had| had.id == snapshot);
        let failed = |s: &rpc::instance::InstanceStatus| s.generation >= generation && s.state == InstanceState::Failed;
        let status = self.host_says(cx, &host_id, COPY, |s| told(s) || failed(s)).await?;
        match status.snapshots.into_iter().find(|had| had.id == snapshot) {
            Some(copy) => copy.error.map_or(Ok(()), |why| Err(Error::conflict(format!("The disk could not be copied: {why}")))),
            None => Err(Error::conflict(format!("The guest has failed: {}", status.error.unwrap_or_default()))),
        }
    }

    /// Brings the copy into its image.
    pub(crate) async fn copy_upload(&self, cx: &StepContext, snapshot: &str, image_id: &str) -> Result<()> {
        let server = self.core.store.read(|tx| db::server_get_in(tx, &cx.resource_id)).await?;
        let host_id = self.server_host(&server)?;
        let first = (self.clone(), host_id, server.id.clone(), snapshot.to_string(), 0u64);
        let pieces = futures_util::stream::try_unfold(first, |(this, host, instance, snapshot, offset)| async move {
            let request = Request::ReadSnapshot { instance_id: instance.clone(), snapshot_id: snapshot.clone(), offset, length: PIECE };
            let Response::Text(text) = this.core.hosts.ask(&host, request).await? else {
                return Err(Error::internal("a host answered a request for a copy with something else"));
            };
            let piece =
                base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| Error::internal("a copy's piece").caused_by(e))?;
            if piece.is_empty() {
                return Ok(None);
            }
            let next = offset + piece.len() as u64;
            Ok(Some((Bytes::from(piece), (this, host, instance, snapshot, next))))
        });
        self.image_fill(cx, image_id, pieces).await
    }

    /// Gives an image its content. One that has it already is left as it is.
    pub(crate) async fn image_fill(
        &self,
        cx: &StepContext,
        image_id: &str,
        pieces: impl Stream<Item = Result<Bytes>> + Send + 'static,
    ) -> Result<()> {
        let ctx = &cx.context;
        match self.images.boot_image(ctx, image_id).await?.status.as_str() {
            "queued" => {}
            "active" => return Ok(()),
            // A process before this one died over it; the image service puts it back.
            "saving" => return Err(Error::unavailable("The image is still being saved.")),
            other => return Err(Error::conflict(format!("Image {image_id} is {other}."))),
        }
        let upload = self.images.content_put(ctx, image_id, Upload::from_stream(pieces));
        tokio::time::timeout(UPLOAD, upload).await.map_err(|_| Error::timeout("The image could not be saved in time."))?.map_err(|error| {
            match error.kind() {
                // A piece that did not come looks like a client that went away.
                Kind::Invalid => Error::unavailable("The copy of the disk could not be read to its end.").caused_by(error),
                _ => error,
            }
        })
    }

    /// The copy is wanted no more.
    pub(crate) fn copy_drop_in(&self, tx: &Tx, server: &mut Server) {
        if server.doc.snapshot.take().is_some() {
            server.spec_generation += 1;
            self.tell_after_commit(tx, server);
        }
    }

    /// An image that will get no content any more.
    pub(crate) async fn copy_image_remove(&self, cx: &StepContext, image_id: &str) -> Result<()> {
        match self.images.image_delete(&cx.context, image_id).await {
            Err(error) if error.is(Kind::NotFound) || error.is(Kind::Forbidden) => Ok(()),
            other => other,
        }
    }
}
