//! Rules of attachments: who has a volume, from reservation to release.

use base::{Context, Error, Result, Timestamp};
use serde_json::{Map, Value, json};
use store::Tx;

use crate::Volumes;
use crate::bring::still;
use crate::db::{attachments as db, volumes};
use crate::model::{Attachment, AttachmentDoc, Volume};
use crate::notify::volume_event_in;
use crate::volumes::invalid;

/// An attachment to be made.
#[derive(Clone, Debug, Default)]
pub struct AttachmentWish {
    pub server_id: Option<String>,
    pub connector: Option<Value>,
    /// `rw` or `ro`; none: as the volume allows.
    pub mode: Option<String>,
    pub mountpoint: Option<String>,
    pub host: Option<String>,
}

impl Volumes {
    /// Reserves a volume. One that several servers may have is reserved anew for each, one after the other.
    pub fn attachment_create_in(&self, tx: &Tx, ctx: &Context, volume: &mut Volume, wish: &AttachmentWish) -> Result<Attachment> {
        let others = db::attachments_of_in(tx, &volume.id)?;
        if volume.multiattach && volume.status == "in-use" && volume.bootable {
            self.authorize("volume:multiattach_bootable_volume", ctx, volume)?;
        }
        let free = volume.status == "available" || (volume.multiattach && volume.status == "in-use");
        // A server that is moved to another host has the same volume twice for a while.
        let again =
            volume.status_is(&["in-use", "reserved"]) && wish.server_id.is_some() && others.iter().any(|a| a.server_id == wish.server_id);
        still(volume)?;
        if !free && !again {
            let allowed = if volume.multiattach { "available, in-use or downloading" } else { "available or downloading" };
            return Err(invalid(format!(
                "Volume {} status must be {allowed} to reserve, but the current status is {}.",
                volume.id, volume.status
            )));
        }
        let readonly = volume.doc.readonly == Some(true);
        let mode = match wish.mode.as_deref() {
            Some("rw") if readonly => return Err(invalid("the volume is read-only and cannot be attached with mode 'rw'.")),
            Some(mode) => mode.to_string(),
            None if readonly => "ro".into(),
            None => "null".into(),
        };
        let mut attachment = Attachment {
            id: base::id::uuid(),
            volume_id: volume.id.clone(),
            project_id: ctx.project_id().to_string(),
            server_id: wish.server_id.clone(),
            host: wish.host.clone(),
            mountpoint: wish.mountpoint.clone(),
            mode,
            status: "reserved".into(),
            attached_at: None,
            created_at: Timestamp::now(),
            doc: AttachmentDoc::default(),
        };
        if free {
            volume.status = "reserved".into();
        }
        if let Some(connector) = &wish.connector {
            connect(volume, &mut attachment, connector);
        }
        db::attachment_put_in(tx, &attachment)?;
        volumes::volume_update_in(tx, volume)?;
        Ok(attachment)
    }

    /// Notes where a reserved volume is going to be opened; answers how.
    pub fn attachment_update_in(&self, tx: &Tx, volume: &mut Volume, attachment: &mut Attachment, connector: &Value) -> Result<()> {
        if !volume.status_is(&["reserved", "in-use", "attaching", "downloading"]) {
            return Err(invalid(format!("Volume {} is {} and cannot be connected.", volume.id, volume.status)));
        }
        let others = db::attachments_of_in(tx, &volume.id)?;
        if !volume.multiattach && others.iter().any(|a| a.id != attachment.id && !a.doc.connection_info.is_empty()) {
            return Err(invalid(format!("duplicate connectors detected on volume {}", volume.id)));
        }
        connect(volume, attachment, connector);
        db::attachment_put_in(tx, attachment)?;
        volumes::volume_update_in(tx, volume)
    }

    pub fn attachment_complete_in(&self, tx: &Tx, ctx: &Context, attachment: &mut Attachment) -> Result<()> {
        let mut volume = volumes::volume_get_in(tx, &attachment.volume_id)?;
        attachment.status = "attached".into();
        attachment.attached_at.get_or_insert(Timestamp::now());
        if attachment.mode == "null" {
            attachment.mode = "rw".into();
        }
        db::attachment_put_in(tx, attachment)?;
        volume.status = "in-use".into();
        volumes::volume_update_in(tx, &mut volume)?;
        volume_event_in(tx, "attach.end", &volume, ctx, None)
    }

    /// Ends an attachment; the volume is free when it was the last.
    pub fn attachment_delete_in(&self, tx: &Tx, ctx: &Context, attachment: &Attachment) -> Result<Vec<Attachment>> {
        db::attachment_delete_in(tx, &attachment.id)?;
        let left = db::attachments_of_in(tx, &attachment.volume_id)?;
        let Some(mut volume) = volumes::volume_fetch_in(tx, &attachment.volume_id)? else { return Ok(left) };
        if volume.status_is(&["reserved", "attaching", "in-use", "detaching"]) {
            volume.status = status_of(&left).into();
        }
        volumes::volume_update_in(tx, &mut volume)?;
        volume_event_in(tx, "detach.end", &volume, ctx, None)?;
        Ok(left)
    }

    /// How the volume is opened where it is: by its id, on its own host only.
    pub async fn connection(&self, ctx: &Context, id: &str, connector: &Value) -> Result<Value> {
        let volume = self.volume_for(ctx, id, "volume_extension:volume_actions:initialize_connection").await?;
        if connector.as_object().is_none_or(Map::is_empty) {
            return Err(Error::invalid("Invalid input received: the connector must be an object that says who wants to connect."));
        }
        Ok(json!({"driver_volume_type": "local", "data": connection_data(&volume)}))
    }
}

/// The status of a volume that is had, or shall be had, by these.
pub fn status_of(attachments: &[Attachment]) -> &'static str {
    let is = |status: &str| attachments.iter().any(|a| a.status == status);
    match () {
        () if is("attached") => "in-use",
        () if is("attaching") => "attaching",
        () if is("detaching") => "detaching",
        () if attachments.is_empty() => "available",
        () => "reserved",
    }
}

fn connection_data(volume: &Volume) -> Map<String, Value> {
    let mode = if volume.doc.readonly == Some(true) { "ro" } else { "rw" };
    let data = json!({
        "volume_id": volume.id,
        "host": volume.host,
        "access_mode": mode,
        "encrypted": false,
        "qos_specs": null,
        "discard": true,
    });
    data.as_object().cloned().unwrap_or_default()
}

fn connect(volume: &Volume, attachment: &mut Attachment, connector: &Value) {
    let text = |name: &str| connector.get(name).and_then(Value::as_str).map(str::to_string);
    let mut info = connection_data(volume);
    info.insert("driver_volume_type".into(), "local".into());
    info.insert("attachment_id".into(), attachment.id.clone().into());
    attachment.host = text("host").or(attachment.host.take());
    attachment.mountpoint = text("mountpoint").or(attachment.mountpoint.take());
    if let Some(mode) = text("mode").filter(|m| matches!(m.as_str(), "rw" | "ro")) {
        attachment.mode = mode;
    }
    attachment.status = "attaching".into();
    attachment.doc.connector = Some(connector.clone());
    attachment.doc.connection_info = info;
}
