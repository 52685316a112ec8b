//! Transfers: a volume changes its project, with a secret that its owner hands over.

use base::error::Internal;
use base::{Context, Error, Result, Timestamp};
use sha2::{Digest, Sha256};
use store::{Row, Tx, params};

use crate::db::{snapshots, volumes as db};
use crate::notify::volume_event_in;
use crate::volumes::invalid;
use crate::{Volumes, quotas};

#[derive(Clone, Debug)]
pub struct Transfer {
    pub id: String,
    pub volume_id: String,
    pub project_id: String,
    pub name: Option<String>,
    salt: String,
    secret: String,
    pub no_snapshots: bool,
    pub created_at: Timestamp,
}

const SELECT: &str = "SELECT id, volume_id, project_id, name, salt, secret, no_snapshots, created_at FROM volume_transfer";

fn read(r: &Row) -> Result<Transfer> {
    Ok(Transfer {
        id: r.text(0)?,
        volume_id: r.text(1)?,
        project_id: r.text(2)?,
        name: r.opt_text(3)?,
        salt: r.text(4)?,
        secret: r.text(5)?,
        no_snapshots: r.flag(6)?,
        created_at: r.time(7)?,
    })
}

fn not_found(id: &str) -> Error {
    Error::new(base::Kind::NotFound, format!("Transfer {id} could not be found."))
}

pub fn transfer_list_in(tx: &Tx, project: Option<&str>) -> Result<Vec<Transfer>> {
    match project {
        Some(project) => tx.query(&format!("{SELECT} WHERE project_id = ?1 ORDER BY created_at DESC, id DESC"), params![project], read),
        None => tx.query(&format!("{SELECT} ORDER BY created_at DESC, id DESC"), &[], read),
    }
}

pub fn transfer_fetch_in(tx: &Tx, id: &str) -> Result<Transfer> {
    tx.query_opt(&format!("{SELECT} WHERE id = ?1"), params![id], read)?.ok_or_else(|| not_found(id))
}

fn hidden(salt: &str, key: &str) -> String {
    Sha256::new().chain_update(salt).chain_update(key).finalize().iter().map(|b| format!("{b:02x}")).collect()
}

impl Volumes {
    pub(crate) fn transfer_visible_in(&self, tx: &Tx, ctx: &Context, id: &str) -> Result<Transfer> {
        let transfer = transfer_fetch_in(tx, id)?;
        if ctx.is_admin() || transfer.project_id == ctx.project_id() { Ok(transfer) } else { Err(not_found(id)) }
    }

    /// Offers a volume; answers the secret, which is not kept.
    pub async fn transfer_create(&self, ctx: &Context, id: &str, name: Option<String>, no_snapshots: bool) -> Result<(Transfer, String)> {
        self.volume_change(ctx, id, "volume:create_transfer", move |_, tx, ctx, volume| {
            if volume.status != "available" {
                return Err(invalid("status must be available"));
            }
            crate::groups::ungrouped(volume)?;
            if no_snapshots && !snapshots::snapshots_of_in(tx, &volume.id)?.is_empty() {
                return Err(invalid("a volume that has snapshots is transferred with them"));
            }
            let mut bytes = [0u8; 8];
            getrandom::fill(&mut bytes).internal("reading randomness")?;
            let key: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let salt = base::id::short(&base::id::hex(), 8).to_string();
            let transfer = Transfer {
                id: base::id::uuid(),
                volume_id: volume.id.clone(),
                project_id: volume.project_id.clone(),
                name,
                secret: hidden(&salt, &key),
                salt,
                no_snapshots,
                created_at: Timestamp::now(),
            };
            tx.execute(
                "INSERT INTO volume_transfer (id, volume_id, project_id, name, salt, secret, no_snapshots, created_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    transfer.id,
                    transfer.volume_id,
                    transfer.project_id,
                    transfer.name,
                    transfer.salt,
                    transfer.secret,
                    transfer.no_snapshots,
                    transfer.created_at
                ],
            )?;
            volume.status = "awaiting-transfer".into();
            db::volume_update_in(tx, volume)?;
            volume_event_in(tx, "transfer.create.end", volume, ctx, None)?;
            Ok((transfer, key))
        })
        .await
    }

    pub async fn transfer_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (this, ctx, id) = (self.clone(), ctx.clone(), id.to_string());
        self.core
            .store
            .write(move |tx| {
                let transfer = this.transfer_visible_in(tx, &ctx, &id)?;
                this.authorize("volume:delete_transfer", &ctx, &[("project_id", transfer.project_id.as_str())])?;
                tx.execute("DELETE FROM volume_transfer WHERE id = ?1", params![id])?;
                let Some(mut volume) = db::volume_fetch_in(tx, &transfer.volume_id)? else { return Ok(()) };
                if volume.status == "awaiting-transfer" {
                    volume.status = "available".into();
                }
                db::volume_update_in(tx, &mut volume)
            })
            .await
    }

    /// Takes over an offered volume. Anyone with the secret may.
    pub async fn transfer_accept(&self, ctx: &Context, id: &str, key: String) -> Result<Transfer> {
        self.authorize("volume:accept_transfer", ctx, &[("project_id", ctx.project_id())])?;
        let (this, ctx, id) = (self.clone(), ctx.clone(), id.to_string());
        self.core
            .store
            .write(move |tx| {
                let transfer = transfer_fetch_in(tx, &id)?;
                if hidden(&transfer.salt, &key) != transfer.secret {
                    return Err(Error::invalid(format!("Invalid auth key: Attempt to transfer {id} with invalid auth key.")));
                }
                let mut volume = db::volume_get_in(tx, &transfer.volume_id)?;
                if volume.status != "awaiting-transfer" {
                    return Err(invalid(format!("Volume {} must not be consumed.", volume.id)));
                }
                let name = volume.doc.type_name.clone();
                let below = snapshots::snapshots_of_in(tx, &volume.id)?;
                let of_snapshots = i64::try_from(below.len()).unwrap_or(i64::MAX);
                let size = volume.size + below.iter().map(|s| s.size).sum::<i64>();
                let wanted = [("volumes", 1), ("snapshots", of_snapshots), ("gigabytes", size)];
                quotas::reserve_in(tx, ctx.project_id(), name.as_deref(), &wanted)?;
                (volume.project_id, volume.user_id) = (ctx.project_id().to_string(), ctx.user_id.clone());
                volume.status = "available".into();
                db::volume_update_in(tx, &mut volume)?;
                for mut snapshot in below {
                    (snapshot.project_id, snapshot.user_id) = (volume.project_id.clone(), volume.user_id.clone());
                    snapshots::snapshot_update_in(tx, &mut snapshot)?;
                }
                this.settle_in(tx, &volume)?;
                tx.execute("DELETE FROM volume_transfer WHERE id = ?1", params![id])?;
                volume_event_in(tx, "transfer.accept.end", &volume, &ctx, None)?;
                Ok(transfer)
            })
            .await
    }
}
