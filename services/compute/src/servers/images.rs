//! Images of servers.

use std::collections::BTreeMap;

use base::{Context, Error, Result};
use serde_json::{Map, Value, json};

use super::require_state;
use crate::db::actions;
use crate::db::servers::{self as db, Server};
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
        if server.boots_from_volume() {
            return Err(Error::invalid("A volume-backed server is not copied into an image here: take a snapshot of its volume."));
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
        let image = self.images.image_draft(ctx, body)?;
        let image_id = image.id.clone();
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            let verb = if backup.is_some() { "createBackup" } else { "createImage" };
            require_state(verb, server, &[vm::ACTIVE, vm::STOPPED, vm::PAUSED, vm::SUSPENDED])?;
            this.server_host(server)?;
            this.images.image_insert_in(tx, ctx, &image)?;
            server.task_state = Some(if backup.is_some() { task::IMAGE_BACKUP } else { task::IMAGE_SNAPSHOT }.into());
            server.progress = 0;
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, verb, ctx)?;
            crate::notify::server_event_in(tx, "snapshot.start", server, ctx, None)?;
            let backup = backup.map(|b| (b.kind, b.rotation));
            let params = server_copy::Params { image_id: image.id.clone(), snapshot: base::id::uuid(), backup };
            let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
            this.core.tasks.submit(tx, op::submit(server_copy::KIND, server, ctx, params)).map(drop)
        })
        .await?;
        Ok(image_id)
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
