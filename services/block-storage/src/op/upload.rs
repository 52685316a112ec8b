//! An image of a volume: the host copies its content out, which is then read piece by piece into the image.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result};
use base64::Engine;
use bytes::Bytes;
use http_api::body::Upload;
use rpc::message::{Request, Response};
use rpc::volume::Export;
use serde::{Deserialize, Serialize};
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::db::{attachments, volumes as db};
use crate::model::Volume;
use crate::notify::volume_event_in;
use crate::{Volumes, messages};

/// How long a host may take to copy a volume out.
const COPY: Duration = Duration::from_secs(1800);
/// How long the copy may take into the image.
const UPLOAD: Duration = Duration::from_secs(3600);
/// What is asked of a host at once.
const PIECE: u32 = 4 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Params {
    pub image_id: String,
    pub export: String,
    /// As the host calls it.
    pub format: String,
}

pub struct VolumeUpload(pub Volumes);

#[async_trait]
impl Operation for VolumeUpload {
    fn kind(&self) -> &'static str {
        super::UPLOAD
    }
    fn steps(&self) -> &'static [&'static str] {
        &["copy", "upload"]
    }
    fn deadline(&self) -> Duration {
        COPY + UPLOAD
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(if step == "copy" { COPY } else { UPLOAD })
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let params: Params = cx.param()?;
        if step == "copy" {
            self.copy(cx, &params).await?;
            return Ok(Effect::none());
        }
        self.upload(cx, &params).await?;
        let (this, ctx) = (self.0.clone(), cx.context.clone());
        let id = cx.resource_id.clone();
        Ok(Effect::none().commit(move |tx| {
            let Some(mut volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
            settle_in(tx, &this, &mut volume, &params.export)?;
            volume_event_in(tx, "copy_to_image.end", &volume, &ctx, None)
        }))
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        if step != "copy" {
            return Ok(Effect::none());
        }
        let params: Params = cx.param()?;
        self.0.images.image_drop(&cx.context, &params.image_id).await?;
        let (this, id) = (self.0.clone(), cx.resource_id.clone());
        Ok(Effect::none().commit(move |tx| {
            let Some(mut volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
            settle_in(tx, &this, &mut volume, &params.export)
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(volume) = db::volume_fetch_in(tx, &cx.resource_id)? else { return Ok(()) };
        messages::message_in(tx, &cx.context, &volume, None, messages::UPLOAD, messages::NOT_UPLOADED)?;
        volume_event_in(tx, "copy_to_image.error", &volume, &cx.context, Some(error.message()))
    }
}

impl VolumeUpload {
    /// Has the host copy the volume out, as the volume's row then wants it.
    async fn copy(&self, cx: &StepContext, params: &Params) -> Result<()> {
        let (id, export) = (cx.resource_id.clone(), Export { id: params.export.clone(), format: params.format.clone() });
        let wanted = move |tx: &Tx| {
            let mut volume = db::volume_get_in(tx, &id)?;
            if !volume.doc.exports.contains(&export) {
                volume.doc.exports.push(export);
                volume.spec_generation += 1;
                db::volume_update_in(tx, &mut volume)?;
            }
            Ok(())
        };
        self.0.core.store.write(wanted).await?;
        let status = self.0.volume_settled(&cx.resource_id, COPY, || cx.cancelled()).await?;
        if status.exports.contains_key(&params.export) {
            Ok(())
        } else {
            Err(Error::unavailable("The host has no copy of the volume yet."))
        }
    }

    /// Brings the copy into its image. An image that has its content already is left as it is.
    async fn upload(&self, cx: &StepContext, params: &Params) -> Result<()> {
        let (ctx, image_id) = (&cx.context, &params.image_id);
        match self.0.images.boot_image(ctx, image_id).await?.status.as_str() {
            "queued" => {}
            "active" => return Ok(()),
            // A process before this one died over it; the image service puts it back.
            "saving" => return Err(Error::unavailable("The image is still being saved.")),
            other => return Err(Error::conflict(format!("Image {image_id} is {other}."))),
        }
        let volume = self.0.core.store.read(|tx| db::volume_get_in(tx, &cx.resource_id)).await?;
        let host_id = volume.host_id.ok_or_else(|| Error::conflict(format!("Volume {} has no host.", volume.id)))?;
        let first = (self.0.clone(), host_id, params.export.clone(), 0u64);
        let pieces = futures_util::stream::try_unfold(first, |(this, host, export, offset)| async move {
            let request = Request::ExportRead { export_id: export.clone(), offset, length: PIECE };
            let Response::Text(text) = this.core.hosts.ask(&host, request).await? else {
                return Err(Error::internal("a host answered a request for a copy with something else"));
            };
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            let piece = decoded.map_err(|e| Error::internal("a copy's piece").caused_by(e))?;
            if piece.is_empty() {
                return Ok(None);
            }
            let next = offset + piece.len() as u64;
            Ok(Some((Bytes::from(piece), (this, host, export, next))))
        });
        let upload = self.0.images.content_put(ctx, image_id, Upload::from_stream(pieces));
        tokio::time::timeout(UPLOAD, upload).await.map_err(|_| Error::timeout("The image could not be saved in time."))?.map_err(|error| {
            match error.kind() {
                // A piece that did not come looks like a client that went away.
                Kind::Invalid => Error::unavailable("The copy of the volume could not be read to its end.").caused_by(error),
                _ => error,
            }
        })
    }
}

/// The copy is wanted no more, and the volume is what it was before.
fn settle_in(tx: &Tx, volumes: &Volumes, volume: &mut Volume, export: &str) -> Result<()> {
    let before = volume.doc.exports.len();
    volume.doc.exports.retain(|e| e.id != export);
    if volume.doc.exports.len() != before {
        volume.spec_generation += 1;
        if let Some(host_id) = &volume.host_id {
            volumes.host_tell_after_commit(tx, host_id, &volume.id);
        }
    }
    if volume.status == "uploading" {
        let attached = attachments::attachments_of_in(tx, &volume.id)?.iter().any(|a| a.status == "attached");
        volume.status = if attached { "in-use" } else { "available" }.into();
        volume.doc.previous_status = Some("uploading".into());
    }
    db::volume_update_in(tx, volume)
}
