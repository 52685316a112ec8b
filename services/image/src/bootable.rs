//! Content in a form that hosts lay disks over. What is neither raw nor qcow2 is converted, once for all who start from it.

use std::sync::Arc;

use base::{Error, Result, error::Internal};
use task::StepContext;

use crate::Images;
use crate::bring::told;
use crate::content::{self, Temporary};
use crate::db::converted::{self as db, Converted};
use crate::db::images::images_of_content;
use crate::prepare::convert::convert;

/// What hosts lay disks over as it is: an ISO is raw to them.
const READY: &[&str] = &["raw", "qcow2", "iso"];
/// What is converted first.
const CONVERTED: &[&str] = &["vmdk", "vhd", "vhdx", "vdi"];

/// What hosts call a format that takes no conversion.
pub fn for_hosts(disk_format: &str) -> &str {
    if disk_format == "iso" { "raw" } else { disk_format }
}

/// Whether servers and volumes can be made of images in this format.
pub fn is_bootable(disk_format: &str) -> bool {
    READY.contains(&disk_format) || is_converted(disk_format)
}

/// Whether that takes a conversion ([`Images::content_converted`]).
pub fn is_converted(disk_format: &str) -> bool {
    CONVERTED.contains(&disk_format)
}

impl Images {
    /// Sees to it that hosts can take this content from here, in a form that they lay disks over; as a step of a durable operation. Answers its SHA-256
    /// and format.
    pub async fn content_ready(&self, cx: &StepContext, sha256: &str, disk_format: &str) -> Result<(String, String)> {
        if !is_converted(disk_format) {
            self.content_bring(cx, sha256).await?;
            return Ok((sha256.to_string(), for_hosts(disk_format).to_string()));
        }
        let converted = self.content_converted(cx, sha256, disk_format).await?;
        Ok((converted.sha256, "qcow2".to_string()))
    }

    /// Content in a format that takes a conversion, as qcow2; as a step of a durable operation. Done again it finds what is there, and needs the
    /// content it was made of no more. It stays as long as any image has that.
    pub async fn content_converted(&self, cx: &StepContext, sha256: &str, disk_format: &str) -> Result<Converted> {
        let arrival = self.coming().arrival(&format!("{sha256}.qcow2"));
        // Whoever else wants it waits here, and finds it then.
        let turn = cx.aside(arrival.clone().turn(self)).await.map(Arc::new)?;
        // One at a time: it takes memory, a processor and the disk.
        let _alone = cx.aside(self.0.converting.lock()).await?;
        let local = self.stores().local_directory().clone();
        let known = self.core().store.read(|tx| db::converted_fetch(tx, sha256)).await?;
        if let Some(known) = known.filter(|known| local.file(&known.sha256).is_some_and(|file| file.exists())) {
            return Ok(known);
        }
        let source = local.file(sha256).ok_or_else(|| Error::internal("a content name that is no SHA-256"))?;
        self.content_bring(cx, sha256).await?;
        let Ok(size) = tokio::fs::metadata(&source).await.map(|file| file.len()) else {
            // Content that no image has is not brought; what is cached may be let go of at any time.
            return Err(match self.core().store.read(|tx| images_of_content(tx, sha256)).await?.is_empty() {
                true => Error::conflict("The image was deleted meanwhile."),
                false => Error::unavailable("The content of the image was taken away meanwhile."),
            });
        };
        let max = self.core().config.int("image.max_bytes");
        let (of, format, held) = (local.clone(), disk_format.to_string(), turn.clone());
        // Goes on to its end when nobody waits for it any more; then it is lost.
        let converting = tokio::task::spawn_blocking(move || {
            let made = of.scratch(held.upload());
            held.lands(made.path());
            if !convert(&source, &format, made.path(), "qcow2", max)? {
                return Err(Error::internal(format!("content of format {format} that needs no conversion")));
            }
            let learned = content::examine(made.path(), None)?;
            let virtual_size =
                learned.inspector.judge("qcow2").map_err(|why| Error::internal(format!("converted content is refused: {why}")))?;
            Ok((made, learned.facts, virtual_size.unwrap_or_default()))
        });
        let converted = cx.aside(async {
            tokio::select! {
                made = converting => made.internal("converting image content")?,
                // As a rule it takes about the same room.
                ended = told(cx, size, || arrival.bytes()) => Err(ended.err().unwrap_or_else(|| Error::internal("telling has an end"))),
            }
        });
        let (made, facts, virtual_size): (Temporary, _, _) = converted.await??;
        let converted = Converted { sha256: facts.sha256.clone(), virtual_size };
        // Held until the record is there: the reconciler of content takes away what has none.
        let _publishing = self.0.publish.lock().await;
        let named = tokio::task::spawn_blocking(move || local.take(made.path(), &facts));
        named.await.internal("keeping converted content")??;
        let (source, note) = (sha256.to_string(), converted.clone());
        match self.core().store.write(move |tx| db::converted_put(tx, &source, &note)).await? {
            true => Ok(converted),
            false => Err(Error::conflict("The image was deleted meanwhile.")),
        }
    }
}
