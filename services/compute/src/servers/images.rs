//! Images of servers.

use std::collections::BTreeMap;

use base::{Context, Error, Result};
use serde_json::{Map, Value, json};
use store::Tx;

use super::require_state;
use crate::db::actions;
use crate::db::servers::{self as db, Server};
use crate::db::volumes::{self as rows, State};
use crate::op::{self, server_copy};
use crate::states::{task, vm};
use crate::{Compute, quotas};

/// What makes an image a backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    pub kind: String,
    /// How many are kept.
    pub rotation: u32,
}

/// Properties of an image that say nothing about images made of its servers.
const OWN: &[&str] = &[
    "cache_in_nova",
    "bittorrent",
    "img_signature",
    "img_signature_hash_method",
    "img_signature_key_type",
    "img_signature_certificate_uuid",
    "backup_type",
    // Of a volume's image: they say what that image was.
    "checksum",
    "container_format",
    "disk_format",
    "image_id",
    "image_name",
    "min_disk",
    "min_ram",
    "name",
    "size",
];

impl Compute {
    /// Begins an image of a server's root disk; answers its id.
    pub async fn server_image(
        &self,
        ctx: &Context,
        id: &str,
        name: &str,
        metadata: BTreeMap<String, String>,
        backup: Option<Backup>,
        limited: bool,
    ) -> Result<String> {
        let rule = if backup.is_some() { "os_compute_api:os-create-backup" } else { "os_compute_api:servers:create_image" };
        let server = self.server_for(ctx, id, rule).await?;
        let volumes = server.boots_from_volume();
        if volumes && backup.is_some() {
            return Err(Error::invalid("Backup is not supported for volume-backed instances."));
        }
        if limited {
            let project = ctx.project_id().to_string();
            let count = metadata.len() as i64;
            self.core
                .store
                .read(|tx| match quotas::limit_in(tx, &project, "metadata_items")? {
                    limit if limit >= 0 && count > limit => Err(Error::forbidden("Image metadata limit exceeded")),
                    _ => Ok(()),
                })
                .await?;
        }
        let kind = if backup.is_some() { "backup" } else { "snapshot" };
        let mut body = image_body(&server, name, kind);
        body.extend(metadata.into_iter().map(|(key, value)| (key, json!(value))));
        if let Some(backup) = &backup {
            body.insert("backup_type".into(), json!(backup.kind));
        }
        if volumes {
            // It has no content of its own: what is booted from it are the snapshots that it names.
            body.remove("min_disk");
            for (key, value) in [("disk_format", "raw"), ("bdm_v2", "True"), ("block_device_mapping", "[]")] {
                body.insert(key.into(), json!(value));
            }
            body.insert("root_device_name".into(), json!(server.root_device_name.as_deref().unwrap_or("/dev/vda")));
        }
        let mut image = self.images.image_draft(ctx, body)?;
        let image_id = image.id.clone();
        let snapshot_name = format!("snapshot for {name}");
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            let verb = if backup.is_some() { "createBackup" } else { "createImage" };
            require_state(verb, server, &[vm::ACTIVE, vm::STOPPED, vm::PAUSED, vm::SUSPENDED])?;
            this.server_host(server)?;
            let mut snapshots = Vec::new();
            if volumes {
                let mapping = this.snapshots_take_in(tx, ctx, server, &snapshot_name, &mut snapshots)?;
                image.properties.insert("block_device_mapping".into(), mapping);
            }
            this.images.image_insert_in(tx, ctx, &image)?;
            server.task_state = Some(if backup.is_some() { task::IMAGE_BACKUP } else { task::IMAGE_SNAPSHOT }.into());
            server.progress = 0;
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, verb, ctx)?;
            crate::notify::server_event_in(tx, "snapshot.start", server, ctx, None)?;
            let backup = backup.map(|b| (b.kind, b.rotation));
            let params = server_copy::Params { image_id: image.id.clone(), snapshot: base::id::uuid(), backup, volumes, snapshots };
            let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
            this.core.tasks.submit(tx, op::submit(server_copy::KIND, server, ctx, params)).map(drop)
        })
        .await?;
        Ok(image_id)
    }
}

impl Compute {
    /// Begins a snapshot of each of a server's volumes; answers the block devices that an image of the server names.
    fn snapshots_take_in(&self, tx: &Tx, ctx: &Context, server: &Server, name: &str, taken: &mut Vec<String>) -> Result<String> {
        let mut devices = Vec::new();
        for row in rows::volumes_of_in(tx, &server.id)?.into_iter().filter(|row| row.state == State::Attached) {
            let Some(volume_id) = &row.volume_id else { continue };
            let snapshot = self.volumes.server_snapshot_in(tx, ctx, volume_id, Some(name.to_string()))?;
            devices.push(json!({
                "source_type": "snapshot",
                "destination_type": "volume",
                "snapshot_id": snapshot.id,
                "volume_id": null,
                "image_id": null,
                "volume_size": snapshot.size,
                "device_name": row.device,
                "boot_index": row.boot_index,
                "delete_on_termination": row.delete_on_termination,
                "device_type": "disk",
                "disk_bus": "virtio",
                "guest_format": null,
                "no_device": null,
                "tag": row.tag,
            }));
            taken.push(snapshot.id);
        }
        let flavor = server.flavor()?;
        let local =
            [(server.doc.ephemeral.unwrap_or(flavor.ephemeral_gb), None), (server.doc.swap.unwrap_or(flavor.swap_mb), Some("swap"))];
        for (size, format) in local.into_iter().filter(|(size, _)| *size > 0) {
            devices.push(json!({
                "source_type": "blank",
                "destination_type": "local",
                "volume_size": size,
                "boot_index": -1,
                "delete_on_termination": true,
                "device_type": "disk",
                "guest_format": format,
            }));
        }
        Ok(json!(devices).to_string())
    }
}

/// The image service's request for an image of a server's disk, with what it inherits.
pub(crate) fn image_body(server: &Server, name: &str, kind: &str) -> Map<String, Value> {
    let mut body = Map::new();
    if let Some(image) = &server.doc.image {
        for (key, value) in image.properties.iter().filter(|(key, _)| !OWN.contains(&key.as_str())) {
            body.insert(key.clone(), json!(value));
        }
        body.insert("min_ram".into(), json!(image.min_ram_mib));
        body.insert("min_disk".into(), json!(image.min_disk_gib));
    }
    if let Some(root) = server.doc.flavor.as_ref().map(|f| f.root_gb).filter(|root| *root > 0) {
        body.insert("min_disk".into(), json!(root));
    }
    for (key, value) in [
        ("name", name),
        ("visibility", "private"),
        ("disk_format", "qcow2"),
        ("container_format", "bare"),
        ("image_type", kind),
        ("instance_uuid", &server.id),
        ("user_id", &server.user_id),
        ("owner_id", &server.project_id),
        ("base_image_ref", &server.image_ref),
        ("image_location", "snapshot"),
        ("image_state", "available"),
    ] {
        body.insert(key.into(), json!(value));
    }
    body
}
