//! What compute needs of volumes. Functions ending in `_in` take part in the caller's transaction.

use std::time::{Duration, Instant};

use base::{Context, Error, Result};
use store::Tx;

use crate::Volumes;
use crate::attachments::{AttachmentWish, status_of};
use crate::create::ImagePart;
use crate::db::{attachments, hosts, volumes as db};
use crate::groups::ungrouped;
use crate::model::{Attachment, AttachmentDoc, Volume};
use crate::volumes::invalid;

/// What a server must know of a volume.
#[derive(Clone, Debug)]
pub struct VolumeFacts {
    pub id: String,
    pub status: String,
    /// GiB.
    pub size: i64,
    pub host_id: Option<String>,
    pub bootable: bool,
    pub multiattach: bool,
    /// It goes to whatever host needs it, as it is.
    pub shared: bool,
    pub read_only: bool,
    /// Of the image it was made from.
    pub image_metadata: std::collections::BTreeMap<String, String>,
}

impl From<Volume> for VolumeFacts {
    fn from(v: Volume) -> Self {
        VolumeFacts {
            shared: v.is_passable(),
            id: v.id,
            status: v.status,
            size: v.size,
            host_id: v.host_id,
            bootable: v.bootable,
            multiattach: v.multiattach,
            read_only: v.doc.readonly == Some(true),
            image_metadata: v.doc.image_metadata,
        }
    }
}

/// How often a waiter looks.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

impl Volumes {
    /// A volume that the caller may use.
    pub async fn volume_facts(&self, ctx: &Context, id: &str) -> Result<VolumeFacts> {
        self.volume_for(ctx, id, "volume:get").await.map(Into::into)
    }

    pub fn volume_facts_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<VolumeFacts> {
        self.volume_visible_in(tx, ctx, id).map(Into::into)
    }

    /// Size and host of the volume a snapshot is of.
    pub async fn snapshot_facts(&self, ctx: &Context, id: &str) -> Result<(i64, VolumeFacts)> {
        let snapshot = self.snapshot_for(ctx, id, "volume:get_snapshot").await?;
        let volume = self.core.store.read(|tx| db::volume_get_in(tx, &snapshot.volume_id)).await?;
        let mut facts: VolumeFacts = volume.into();
        facts.image_metadata = snapshot.doc.image_metadata;
        facts.bootable = snapshot.doc.bootable;
        Ok((snapshot.size, facts))
    }

    /// How many volumes lie on a host.
    pub fn volumes_on_in(&self, tx: &Tx, host_id: &str) -> Result<u64> {
        Ok(db::volumes_on_host_in(tx, host_id)?.len() as u64)
    }

    /// Hosts (ids) that keep volumes and have no session.
    pub fn hosts_away_in(&self, tx: &Tx) -> Result<Vec<String>> {
        Ok(hosts::host_list_in(tx)?.into_iter().filter(|host| !host.connected).map(|host| host.id).collect())
    }

    /// Closes a host to new volumes for a reason, or opens it for none.
    pub fn host_close_in(&self, tx: &Tx, host_id: &str, reason: Option<&str>) -> Result<()> {
        let sql = "UPDATE volume_host SET disabled = ?2, disabled_reason = ?3, updated_at = ?4 WHERE id = ?1";
        let reason_text = reason.map(str::to_string);
        tx.execute(sql, store::params![host_id, reason.is_some(), reason_text, base::Timestamp::now()]).map(drop)
    }

    /// Forgets a host that is gone for good and has no volumes.
    pub fn host_forget_in(&self, tx: &Tx, host_id: &str) -> Result<()> {
        // Nobody is left to say that these volumes are gone.
        tx.execute("DELETE FROM volume_tombstone WHERE host_id = ?1", store::params![host_id])?;
        tx.execute("DELETE FROM volume_host WHERE id = ?1", store::params![host_id])?;
        self.pools_forget_in(tx, host_id)
    }

    /// Reserves a volume for a server; answers the attachment's id.
    pub fn server_attach_in(&self, tx: &Tx, ctx: &Context, id: &str, server_id: &str, mountpoint: &str) -> Result<String> {
        let mut volume = self.volume_visible_in(tx, ctx, id)?;
        self.authorize("volume:attachment_create", ctx, &volume)?;
        let wish = AttachmentWish { server_id: Some(server_id.into()), mountpoint: Some(mountpoint.into()), ..AttachmentWish::default() };
        let id = self.attachment_create_in(tx, ctx, &mut volume, &wish)?.id;
        tx.execute("INSERT INTO volume_server (attachment_id) VALUES (?1)", store::params![id])?;
        Ok(id)
    }

    /// Replaces what a server's volume holds by an image. The server must have let go of it by then.
    pub fn server_reimage_in(&self, tx: &Tx, ctx: &Context, id: &str, image: &ImagePart) -> Result<()> {
        let mut volume = db::volume_get_in(tx, id)?;
        if attachments::attachments_of_in(tx, id)?.len() > 1 {
            return Err(Error::conflict(format!("Volume {id} is attached to other servers too and cannot be replaced.")));
        }
        self.reimage_in(tx, ctx, &mut volume, image, "in-use")
    }

    /// The server has it now.
    pub fn server_attached_in(&self, tx: &Tx, ctx: &Context, attachment_id: &str, host: &str) -> Result<()> {
        let Some(mut attachment) = attachments::attachment_fetch_in(tx, attachment_id)? else { return Ok(()) };
        attachment.host = Some(host.to_string());
        self.attachment_complete_in(tx, ctx, &mut attachment)
    }

    /// A server on the shelf gets it: nobody opens it yet, and it counts as attached all the same.
    pub fn server_attached_on_shelf_in(&self, tx: &Tx, ctx: &Context, attachment_id: &str) -> Result<()> {
        let Some(mut attachment) = attachments::attachment_fetch_in(tx, attachment_id)? else { return Ok(()) };
        self.attachment_complete_in(tx, ctx, &mut attachment)
    }

    /// The server has given up its place, and the volume stays reserved for it.
    pub fn server_shelved_in(&self, tx: &Tx, attachment_id: &str) -> Result<()> {
        let Some(mut attachment) = attachments::attachment_fetch_in(tx, attachment_id)? else { return Ok(()) };
        attachment.status = "reserved".into();
        (attachment.host, attachment.attached_at, attachment.doc) = (None, None, AttachmentDoc::default());
        attachments::attachment_put_in(tx, &attachment)?;
        let mut volume = db::volume_get_in(tx, &attachment.volume_id)?;
        if volume.status == "in-use" {
            volume.status = status_of(&attachments::attachments_of_in(tx, &volume.id)?).into();
        }
        db::volume_update_in(tx, &mut volume)
    }

    /// Whether a server may only read what it has attached so.
    pub fn server_only_reads_in(&self, tx: &Tx, attachment_id: &str) -> Result<bool> {
        Ok(attachments::attachment_fetch_in(tx, attachment_id)?.is_some_and(|a| a.mode == "ro"))
    }

    /// The server begins to let go of it.
    pub fn server_detaching_in(&self, tx: &Tx, id: &str) -> Result<()> {
        let mut volume = db::volume_get_in(tx, id)?;
        if volume.status != "in-use" {
            return Err(invalid(format!("Unable to detach volume. Volume status must be 'in-use', not '{}'.", volume.status)));
        }
        volume.status = "detaching".into();
        db::volume_update_in(tx, &mut volume)
    }

    /// The server has not let go of it.
    pub fn server_detach_failed_in(&self, tx: &Tx, id: &str) -> Result<()> {
        let Some(mut volume) = db::volume_fetch_in(tx, id)? else { return Ok(()) };
        if volume.status == "detaching" {
            volume.status = "in-use".into();
        }
        db::volume_update_in(tx, &mut volume)
    }

    /// The server has it no more, or shall not get it after all.
    pub fn server_detached_in(&self, tx: &Tx, ctx: &Context, attachment_id: &str) -> Result<()> {
        match attachments::attachment_fetch_in(tx, attachment_id)? {
            Some(attachment) => {
                tx.execute("DELETE FROM volume_server WHERE attachment_id = ?1", store::params![attachment_id])?;
                self.attachment_delete_in(tx, ctx, &attachment).map(drop)
            }
            None => Ok(()),
        }
    }

    /// Deletes a volume that went with its server.
    pub fn server_volume_delete_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<()> {
        let Some(mut volume) = db::volume_fetch_in(tx, id)? else { return Ok(()) };
        if volume.status == "deleting" {
            return Ok(());
        }
        match ungrouped(&volume).and_then(|()| self.volume_delete_in(tx, ctx, &mut volume, false, false)) {
            // It has snapshots, or another server: then it stays, as upstream leaves it.
            Err(error) if error.is(base::Kind::Invalid) => {
                tracing::info!(volume = id, "not deleted with its server: {}", error.message());
                Ok(())
            }
            other => other,
        }
    }

    /// Whether a server of compute's really has it, and not only somebody's note of one.
    pub(crate) fn server_has_in(&self, tx: &Tx, attachment: &Attachment) -> Result<bool> {
        let sql = "SELECT 1 FROM volume_server WHERE attachment_id = ?1";
        Ok(tx.query_opt(sql, store::params![attachment.id], |_| Ok(()))?.is_some())
    }

    /// Ends a volume that was made for a server which is not built, whatever became of it.
    pub fn server_volume_drop_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<()> {
        let Some(mut volume) = db::volume_fetch_in(tx, id)? else { return Ok(()) };
        if volume.status == "deleting" {
            return Ok(());
        }
        self.volume_delete_in(tx, ctx, &mut volume, true, true)
    }

    pub fn server_attachments_in(&self, tx: &Tx, server_id: &str) -> Result<Vec<Attachment>> {
        attachments::attachments_of_server_in(tx, server_id)
    }

    /// Waits until a new volume is there, or has failed.
    pub async fn volume_made(&self, id: &str, limit: Duration, stop: impl Fn() -> bool) -> Result<VolumeFacts> {
        let end = Instant::now() + limit;
        loop {
            let volume = self.core.store.read(|tx| db::volume_get_in(tx, id)).await?;
            match volume.status.as_str() {
                "creating" | "downloading" => {}
                "error" | "deleting" => return Err(Error::conflict(format!("Volume {id} could not be created."))),
                _ => return Ok(volume.into()),
            }
            if stop() {
                return Err(Error::conflict("The operation was cancelled."));
            }
            if Instant::now() > end {
                return Err(Error::timeout(format!("Volume {id} was not created in time.")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Hosts that could keep a volume with this source: the one it must be on, if any.
    pub fn volume_host_in(&self, tx: &Tx, id: &str) -> Result<Option<String>> {
        Ok(db::volume_fetch_in(tx, id)?.and_then(|v| v.host_id))
    }
}
