//! `POST /volumes/{id}/action`.

use base::{Error, Result};
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Map, Value, json};
use store::Tx;

use super::at_least;
use super::body::{self, need, only, wrong};
use crate::Volumes;
use crate::attachments::AttachmentWish;
use crate::db::{attachments, volumes as db};
use crate::groups::ungrouped;
use crate::model::{Attachment, Volume};
use crate::volumes::invalid;

pub fn routes(routes: Routes<Volumes>) -> Routes<Volumes> {
    routes.post("/volumes/{id}/action", act)
}

const STATUSES: &[&str] = &[
    "creating",
    "available",
    "deleting",
    "error",
    "error_deleting",
    "error_managing",
    "managing",
    "attaching",
    "in-use",
    "detaching",
    "maintenance",
    "restoring-backup",
    "error_restoring",
    "reserved",
    "awaiting-transfer",
    "backing-up",
    "error_backing-up",
    "error_extending",
    "downloading",
    "uploading",
    "retyping",
    "extending",
];

async fn act(volumes: Volumes, req: Request) -> Result<Response> {
    let body = req.object()?;
    let mut pairs = body.into_iter();
    let (Some((action, value)), None) = (pairs.next(), pairs.next()) else {
        return Err(Error::invalid("Malformed request body: there must be one action."));
    };
    let map = match value {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        _ if matches!(action.as_str(), "os-reserve" | "os-unreserve" | "os-begin_detaching" | "os-roll_detaching" | "os-force_delete") => {
            Map::new()
        }
        other => return Err(wrong(&action, format!("{other} is not of type 'object'"))),
    };
    match action.as_str() {
        "os-extend" => extend(volumes, req, map).await,
        "os-reset_status" => reset_status(volumes, req, map).await,
        "os-set_bootable" => set_bootable(volumes, req, map).await,
        "os-update_readonly_flag" => readonly(volumes, req, map).await,
        "os-retype" => {
            only(&map, &["new_type", "migration_policy"])?;
            let kind = need("new_type", body::text(&map, "new_type")?)?;
            volumes.volume_retype(&req.ctx, req.param("id"), kind, body::text(&map, "migration_policy")?).await?;
            empty(202)
        }
        "os-migrate_volume" => migrate(volumes, req, map).await,
        "os-force_delete" => force_delete(volumes, req).await,
        "os-volume_upload_image" => super::uploads::upload(volumes, req, map).await,
        "os-reimage" if at_least(&req, 68) => {
            only(&map, &["image_id", "reimage_reserved"])?;
            let image = need("image_id", body::uuid(&map, "image_id")?)?;
            let reserved = body::flag(&map, "reimage_reserved")?.unwrap_or(false);
            volumes.volume_reimage(&req.ctx, req.param("id"), &image, reserved).await?;
            empty(202)
        }
        "revert" if at_least(&req, 40) => {
            volumes.volume_revert(&req.ctx, req.param("id"), body::text(&map, "snapshot_id")?).await?;
            empty(202)
        }
        "os-set_image_metadata" => set_image_metadata(volumes, req, map).await,
        "os-unset_image_metadata" => unset_image_metadata(volumes, req, map).await,
        "os-show_image_metadata" => {
            let rule = "volume_extension:volume_image_metadata:show";
            let volume = volumes.volume_for(&req.ctx, req.param("id"), rule).await?;
            json(200, &json!({"metadata": volume.doc.image_metadata}))
        }
        "os-attach" => attach(volumes, req, map).await,
        "os-detach" | "os-force_detach" => detach(volumes, req, map, action == "os-force_detach").await,
        "os-reserve" => {
            let rule = "volume_extension:volume_actions:reserve";
            turn(volumes, req, rule, |volume| match volume.status.as_str() {
                "available" => Ok("attaching"),
                "in-use" if volume.multiattach => Ok("attaching"),
                status => Err(invalid(format!("Volume status must be available to reserve, but the status is {status}."))),
            })
            .await
        }
        "os-unreserve" => unreserve(volumes, req).await,
        "os-begin_detaching" => {
            let rule = "volume_extension:volume_actions:begin_detaching";
            turn(volumes, req, rule, |volume| match volume.status.as_str() {
                "in-use" => Ok("detaching"),
                status => Err(invalid(format!("Unable to detach volume. Volume status must be 'in-use', but is '{status}'."))),
            })
            .await
        }
        "os-roll_detaching" => {
            let rule = "volume_extension:volume_actions:roll_detaching";
            turn(volumes, req, rule, |volume| Ok(if volume.status == "detaching" { "in-use" } else { "" })).await
        }
        "os-initialize_connection" => {
            let connector = need("connector", map.get("connector"))?;
            let info = volumes.connection(&req.ctx, req.param("id"), connector).await?;
            json(200, &json!({"connection_info": info}))
        }
        "os-terminate_connection" => {
            need("connector", map.get("connector"))?;
            let volume = volumes.volume_for(&req.ctx, req.param("id"), "volume_extension:volume_actions:terminate_connection").await?;
            volumes
                .core
                .store
                .read(|tx| attachments::attachments_of_in(tx, &volume.id)?.iter().try_for_each(|a| not_of_a_server_in(&volumes, tx, a)))
                .await?;
            empty(202)
        }
        other => Err(Error::invalid(format!("There is no such action: {other}"))),
    }
}

async fn migrate(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    let clusters = at_least(&req, 16);
    only(
        &map,
        if clusters { &["host", "force_host_copy", "lock_volume", "cluster"] } else { &["host", "force_host_copy", "lock_volume"] },
    )?;
    let host = body::text(&map, "host")?;
    // How it is copied is our own business; whether the word is one, is not.
    body::flag(&map, "force_host_copy")?;
    let lock = body::flag(&map, "lock_volume")?.unwrap_or(false);
    let cluster = if clusters { body::text(&map, "cluster")? } else { None };
    match (host, cluster) {
        (Some(_), Some(_)) => Err(Error::invalid("Cannot specify both host and cluster.")),
        (_, Some(cluster)) => Err(Error::invalid(format!("Invalid host: No available service named {cluster}: there are no clusters."))),
        (host, None) => {
            volumes.volume_migrate(&req.ctx, req.param("id"), &need("host", host)?, lock).await?;
            empty(202)
        }
    }
}

/// Moves a volume to the status that `next` gives; none: it stays.
async fn turn(
    volumes: Volumes,
    req: Request,
    rule: &'static str,
    next: impl Fn(&Volume) -> Result<&'static str> + Send + 'static,
) -> Result<Response> {
    volumes
        .volume_change(&req.ctx, req.param("id"), rule, move |_, tx, _, volume| {
            match next(volume)? {
                "" => return Ok(()),
                status => volume.status = status.into(),
            }
            db::volume_update_in(tx, volume)
        })
        .await?;
    empty(202)
}

async fn extend(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    only(&map, &["new_size"])?;
    let size = need("new_size", body::size(&map, "new_size")?)?;
    volumes.volume_extend(&req.ctx, req.param("id"), size, at_least(&req, 42)).await?;
    empty(202)
}

async fn reset_status(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    only(&map, &["status", "attach_status", "migration_status"])?;
    let word = |name: &str, known: &'static [&'static str]| -> Result<Option<String>> {
        match body::text(&map, name)?.map(|t| t.to_lowercase()) {
            Some(text) if !known.contains(&text.as_str()) => Err(wrong(name, format!("'{text}' is not one of {known:?}"))),
            other => Ok(other),
        }
    };
    let status = word("status", STATUSES)?;
    let attach = word("attach_status", &["attached", "detached", "attaching", "detaching", "reserved"])?;
    let migration = word("migration_status", &["migrating", "error", "success", "completing", "none", "starting"])?;
    if status.is_none() && attach.is_none() && migration.is_none() {
        return Err(Error::invalid("Must specify 'status', 'attach_status' or 'migration_status' for update."));
    }
    let rule = "volume_extension:volume_admin_actions:reset_status";
    volumes
        .volume_change(&req.ctx, req.param("id"), rule, move |_, tx, ctx, volume| {
            if let Some(status) = status {
                volume.status = status;
            }
            if let Some(migration) = migration {
                volume.migration_status = Some(migration).filter(|m| m != "none");
            }
            if attach.as_deref() == Some("detached") {
                for a in attachments::attachments_of_in(tx, &volume.id)? {
                    attachments::attachment_delete_in(tx, &a.id)?;
                }
            }
            db::volume_update_in(tx, volume)?;
            crate::notify::volume_event_in(tx, "reset_status.end", volume, ctx, None)
        })
        .await?;
    empty(202)
}

async fn set_bootable(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    only(&map, &["bootable"])?;
    let bootable = need("bootable", body::flag(&map, "bootable")?)?;
    volumes
        .volume_change(&req.ctx, req.param("id"), "volume:update", move |_, tx, _, volume| {
            volume.bootable = bootable;
            db::volume_update_in(tx, volume)
        })
        .await?;
    empty(200)
}

async fn readonly(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    only(&map, &["readonly"])?;
    let readonly = need("readonly", body::flag(&map, "readonly")?)?;
    volumes
        .volume_change(&req.ctx, req.param("id"), "volume:update_readonly_flag", move |_, tx, _, volume| {
            if volume.status != "available" {
                return Err(invalid(format!(
                    "Volume {} status must be available to update readonly flag, but current status is: {}.",
                    volume.id, volume.status
                )));
            }
            volume.doc.readonly = Some(readonly);
            db::volume_update_in(tx, volume)
        })
        .await?;
    empty(202)
}

async fn force_delete(volumes: Volumes, req: Request) -> Result<Response> {
    let (id, rule) = (req.param("id"), "volume_extension:volume_admin_actions:force_delete");
    volumes
        .volume_change(&req.ctx, id, rule, |this, tx, ctx, volume| {
            ungrouped(volume)?;
            this.volume_delete_in(tx, ctx, volume, false, true)
        })
        .await?;
    volumes.operations_cancel(id).await?;
    empty(202)
}

async fn set_image_metadata(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    only(&map, &["metadata"])?;
    let metadata = need("metadata", body::metadata("metadata", map.get("metadata"))?)?;
    let rule = "volume_extension:volume_image_metadata:set";
    let all = volumes
        .volume_change(&req.ctx, req.param("id"), rule, move |_, tx, _, volume| {
            volume.doc.image_metadata.extend(metadata);
            db::volume_update_in(tx, volume)?;
            Ok(volume.doc.image_metadata.clone())
        })
        .await?;
    json(200, &json!({ "metadata": all }))
}

async fn unset_image_metadata(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    only(&map, &["key"])?;
    let key = need("key", body::text(&map, "key")?)?;
    let rule = "volume_extension:volume_image_metadata:remove";
    volumes
        .volume_change(&req.ctx, req.param("id"), rule, move |_, tx, _, volume| {
            if volume.doc.image_metadata.remove(&key).is_none() {
                return Err(Error::new(base::Kind::NotFound, format!("Metadata item '{key}' was not found")));
            }
            db::volume_update_in(tx, volume)
        })
        .await?;
    empty(200)
}

async fn attach(volumes: Volumes, req: Request, map: Map<String, Value>) -> Result<Response> {
    only(&map, &["instance_uuid", "mountpoint", "host_name", "mode"])?;
    let server_id = body::uuid(&map, "instance_uuid")?;
    let host = body::text(&map, "host_name")?;
    let mountpoint = need("mountpoint", body::text(&map, "mountpoint")?.filter(|m| !m.is_empty()))?;
    let mode = body::text(&map, "mode")?.unwrap_or_else(|| "rw".into());
    if server_id.is_none() && host.is_none() {
        return Err(Error::invalid(
            "Invalid request to attach volume to an invalid target: 'instance_uuid' or 'host_name' is a required property",
        ));
    }
    if !matches!(mode.as_str(), "rw" | "ro") {
        return Err(wrong("mode", format!("'{mode}' is not one of ['rw', 'ro']")));
    }
    let rule = "volume_extension:volume_actions:attach";
    volumes
        .volume_change(&req.ctx, req.param("id"), rule, move |this, tx, ctx, volume| {
            if volume.status == "attaching" {
                volume.status = "available".into();
            }
            let wish = AttachmentWish { server_id, connector: None, mode: Some(mode), mountpoint: Some(mountpoint), host };
            let mut attachment = this.attachment_create_in(tx, ctx, volume, &wish)?;
            this.attachment_complete_in(tx, ctx, &mut attachment)
        })
        .await?;
    empty(202)
}

async fn detach(volumes: Volumes, req: Request, map: Map<String, Value>, force: bool) -> Result<Response> {
    only(&map, if force { &["attachment_id", "connector"] } else { &["attachment_id"] })?;
    let wanted = body::uuid(&map, "attachment_id")?;
    let rule = if force { "volume_extension:volume_admin_actions:force_detach" } else { "volume_extension:volume_actions:detach" };
    volumes
        .volume_change(&req.ctx, req.param("id"), rule, move |this, tx, ctx, volume| {
            let all = attachments::attachments_of_in(tx, &volume.id)?;
            let chosen = match &wanted {
                Some(id) => {
                    let chosen = all.iter().find(|a| a.id == *id);
                    if chosen.is_none() && attachments::attachment_fetch_in(tx, id)?.is_some() {
                        return Err(invalid("Invalid input received: The attachment is of another volume."));
                    }
                    chosen
                }
                None if all.len() > 1 => {
                    return Err(invalid("Detach volume failed: More than one attachment, but no attachment_id provided."));
                }
                None => all.first(),
            };
            match chosen {
                Some(attachment) => {
                    not_of_a_server_in(this, tx, attachment)?;
                    let left = this.attachment_delete_in(tx, ctx, attachment)?;
                    // Whatever somebody has set by hand: what nobody has is available.
                    let mut now = db::volume_get_in(tx, &volume.id)?;
                    if left.is_empty() && now.status_is(&["error", "error_deleting"]) {
                        now.status = "available".into();
                        db::volume_update_in(tx, &mut now)?;
                    }
                    Ok(())
                }
                None => {
                    all.iter().try_for_each(|attachment| not_of_a_server_in(this, tx, attachment))?;
                    if volume.status_is(&["in-use", "detaching", "attaching", "reserved"]) {
                        volume.status = "available".into();
                    }
                    db::volume_update_in(tx, volume)
                }
            }
        })
        .await?;
    empty(202)
}

/// What compute has attached, only compute detaches: the guest has the volume open, or will have it off the shelf.
fn not_of_a_server_in(volumes: &Volumes, tx: &Tx, attachment: &Attachment) -> Result<()> {
    if !matches!(attachment.status.as_str(), "attached" | "reserved") || !volumes.server_has_in(tx, attachment)? {
        return Ok(());
    }
    let server = attachment.server_id.as_deref().unwrap_or_default();
    Err(Error::conflict(format!("Detach volume from instance {server} using the Compute API")))
}

async fn unreserve(volumes: Volumes, req: Request) -> Result<Response> {
    let rule = "volume_extension:volume_actions:unreserve";
    volumes
        .volume_change(&req.ctx, req.param("id"), rule, |_, tx, _, volume| {
            if volume.status == "attaching" {
                let used = attachments::attachments_of_in(tx, &volume.id)?.iter().any(|a| a.status == "attached");
                volume.status = if used { "in-use" } else { "available" }.into();
            }
            db::volume_update_in(tx, volume)
        })
        .await?;
    empty(202)
}
