//! Volumes that nobody has open, to another host: the old host copies one out as a single file, or offers the layers that it and its
//! snapshots are in; the files are carried over piece by piece, the other host makes the volume of them, and only then it is the other
//! host's and goes where it was. Until then it is where it was, whatever fails.

use std::time::Duration;

use base::error::Internal;
use base::{Context, Error, Kind, Result};
use rpc::message::Request;
use rpc::volume::{Export, Parts, VolumeStatus, part_key};
use serde::{Deserialize, Serialize};
use service::carry::PIECE;
use store::Tx;
use task::StepContext;

use crate::capabilities::Pool;
use crate::db::{hosts, visits, volumes as db};
use crate::model::{Parcel, Volume, VolumeDoc};
use crate::notify::volume_event_in;
use crate::op::migrate::Params;
use crate::places::Load;
use crate::visits::{MIGRATING, STARTING, in_layers_in, is_moving};
use crate::volumes::invalid;
use crate::{Volumes, op};

/// How long all of it may take.
pub const BRING: Duration = Duration::from_secs(4 * 3600);
/// How long a host may take to copy a volume out.
const COPY: Duration = Duration::from_secs(1800);
/// How long the other host may take to clear away something older, and to make the volume.
const CLEAR: Duration = Duration::from_secs(60);

/// Where a volume goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Destination {
    pub host_id: String,
    pub host: String,
}

impl Volumes {
    /// Why a volume that nobody has open cannot go to a host, for this server or (its own id) for none; `NoCapacity`.
    pub fn bring_check_in(&self, tx: &Tx, id: &str, host_id: &str, who: &str) -> Result<()> {
        let volume = db::volume_get_in(tx, id)?;
        let load = Load::of_in(tx, &volume, who)?.ok_or_else(|| Error::new(Kind::NoCapacity, format!("Volume {id} is on no host.")))?;
        if volume.host_id.as_deref() == Some(host_id) {
            return Ok(());
        }
        let all = hosts::host_list_in(tx)?;
        let there = all.iter().find(|host| host.id == host_id).map(Pool::local);
        let room = there.map(|pool| Ok::<_, Error>(pool.room(&self.stocks_in(tx, &[pool])?.of(&pool)))).transpose()?.unwrap_or(0);
        load.obstacle(&all, host_id, room).map_or(Ok(()), |why| Err(Error::new(Kind::NoCapacity, why)))
    }

    /// Moves a volume that nobody has to the host that an administrator names, as volumes show it. `lock`: nobody can have it meanwhile,
    /// where an attachment would be refused anyway.
    pub async fn volume_migrate(&self, ctx: &Context, id: &str, host: &str, lock: bool) -> Result<()> {
        let (name, pool) = host.split_once('@').map_or((host, None), |(name, pool)| (name, pool.split('#').next()));
        let (name, pool) = (name.to_string(), pool.map(str::to_string));
        let done = self.volume_change(ctx, id, "volume_extension:volume_admin_actions:migrate_volume", move |this, tx, ctx, volume| {
            let all = hosts::host_list_in(tx)?;
            let Some(there) = all.into_iter().find(|host| host.name == name && host.connected && !host.disabled) else {
                return Err(Error::invalid(format!("Invalid host: No available service named {name}.")));
            };
            if pool.is_some_and(|pool| pool != volume.pool()) {
                return Err(Error::invalid("Invalid host: a volume stays in the backend that it is in, its own disk or shared storage."));
            }
            let movable = volume.status == "available" && volume.host_id.as_ref().is_some_and(|here| *here != there.id);
            if !movable {
                return Err(invalid(
                    "Volume status must be available, and the destination host must be different than the current host. One that a \
                     server has goes with its server.",
                ));
            }
            this.bring_check_in(tx, &volume.id, &there.id, &volume.id).map_err(|error| Error::invalid(error.message().to_string()))?;
            volume.migration_status = Some(STARTING.into());
            if lock {
                volume.doc.previous_status = Some(std::mem::replace(&mut volume.status, "maintenance".into()));
            }
            db::volume_update_in(tx, volume)?;
            volume_event_in(tx, "migrate.start", volume, ctx, None)?;
            let params = Params { to: Destination { host_id: there.id, host: there.name } };
            let params = serde_json::to_value(params).internal("writing an operation's parameters")?;
            this.core.tasks.submit(tx, op::submit(op::MIGRATE, volume, ctx, params)).map(drop)
        });
        done.await
    }

    /// Brings a volume that nobody has open to a host, as part of a step: done again, it goes on. One that is there already stays.
    /// When the step is given up, [`Volumes::bring_over_in`] clears away what was begun.
    pub async fn volume_bring(&self, cx: &StepContext, id: &str, to: &Destination) -> Result<()> {
        self.bring(cx, id, to, || cx.cancelled()).await
    }

    /// As [`Volumes::volume_bring`], of one that was brought away by an operation that is given up: whoever cancels it does not stop this.
    pub async fn volume_return(&self, cx: &StepContext, id: &str, to: &Destination) -> Result<()> {
        self.bring(cx, id, to, || false).await
    }

    async fn bring(&self, cx: &StepContext, id: &str, to: &Destination, stop: impl Fn() -> bool + Copy + Send + Sync) -> Result<()> {
        if self.core.store.read(|tx| db::volume_get_in(tx, id)).await?.storage.is_some() {
            return self.pass(cx, id, to, stop).await;
        }
        self.visit_cleared(id, &to.host_id, CLEAR).await?;
        let Some((parcel, from)) = self.bring_begin(cx, id, to).await? else { return Ok(()) };
        if self.core.store.read(|tx| visits::visit_fetch_in(tx, id)).await?.is_none() {
            let status = self.volume_settled(id, COPY, stop).await?;
            self.parcel_carry(cx, &parcel, id, (&from, &to.host_id), &status, stop).await?;
            self.parcel_there(id, &to.host_id, status.parts.get(&parcel).cloned()).await?;
        }
        self.visit_ready(id, &to.host_id, CLEAR, stop).await?;
        let (this, volume, to) = (self.clone(), id.to_string(), to.clone());
        self.core.store.write(move |tx| this.visit_arrived_in(tx, &volume, &to.host_id, &to.host)).await
    }

    /// Notes that a volume is on its way, which makes its host copy it out. Answers the parcel and the host; none: it is there.
    async fn bring_begin(&self, cx: &StepContext, id: &str, to: &Destination) -> Result<Option<(String, String)>> {
        let (this, id, to, by, who) = (self.clone(), id.to_string(), to.clone(), cx.operation_id.clone(), cx.resource_id.clone());
        self.core
            .store
            .write(move |tx| {
                let mut volume = db::volume_get_in(tx, &id)?;
                let Some(from) = volume.host_id.clone().filter(|from| *from != to.host_id) else { return Ok(None) };
                if let Some(parcel) = volume.doc.parcel.as_ref().filter(|parcel| parcel.by == by && parcel.to == to.host_id) {
                    return Ok(Some((parcel.id.clone(), from)));
                }
                if volume.migration_status.as_deref() == Some(MIGRATING) {
                    return Err(Error::conflict(format!("Volume {id} is on its way to another host already.")));
                }
                // Its own operation has said so before it began.
                volume.migration_status = None;
                db::volume_update_in(tx, &mut volume)?;
                this.bring_check_in(tx, &id, &to.host_id, &who)?;
                let format = if in_layers_in(tx, &volume)? { "layers" } else { "qcow2" };
                let parcel = parcel_begin(&mut volume, &to.host_id, &by, format);
                db::volume_update_in(tx, &mut volume)?;
                this.promise_in(tx, &volume)?;
                Ok(Some((parcel, from)))
            })
            .await
    }

    /// The layers below what a server writes to go to the host that it goes to, as part of a step of its operation: done again, it goes on.
    /// Of a volume without snapshots there are none to go.
    pub async fn visit_carry(&self, cx: &StepContext, id: &str, to: &str) -> Result<()> {
        let found = self.core.store.read(|tx| Ok((db::volume_get_in(tx, id)?, visits::visit_fetch_in(tx, id)?))).await?;
        let (Volume { host_id: Some(from), doc: VolumeDoc { parcel: Some(parcel), .. }, .. }, None) = found else { return Ok(()) };
        if parcel.by != cx.operation_id {
            return Ok(());
        }
        let stop = || cx.cancelled();
        let status = self.volume_settled(id, COPY, stop).await?;
        self.parcel_carry(cx, &parcel.id, id, (&from, to), &status, stop).await?;
        self.parcel_there(id, to, status.parts.get(&parcel.id).cloned()).await
    }

    /// All of it is on the other host, which is told of the volume.
    async fn parcel_there(&self, id: &str, to: &str, parts: Option<Parts>) -> Result<()> {
        let (this, volume, host) = (self.clone(), id.to_string(), to.to_string());
        let note = move |tx: &Tx| {
            let mut row = db::volume_get_in(tx, &volume)?;
            if let Some(parcel) = &mut row.doc.parcel {
                parcel.parts = parts;
            }
            db::volume_update_in(tx, &mut row)?;
            this.visit_in(tx, &volume, &host)
        };
        self.core.store.write(note).await
    }

    /// The file, or all of them, from one host to the other, which knows then that they are whole.
    async fn parcel_carry(
        &self,
        cx: &StepContext,
        parcel: &str,
        id: &str,
        (from, to): (&str, &str),
        status: &VolumeStatus,
        stop: impl Fn() -> bool,
    ) -> Result<()> {
        let Some(all) = status.exports.get(parcel) else {
            return Err(Error::unavailable("The host has no copy of the volume yet."));
        };
        let files = match status.parts.get(parcel) {
            Some(parts) => (0..).zip(&parts.parts).map(|(n, _)| part_key(parcel, n)).collect(),
            None => vec![parcel.to_string()],
        };
        let mut before = 0;
        for file in files {
            before += self.file_carry(cx, &file, id, (from, to), (before, *all), &stop).await?;
        }
        Ok(())
    }

    /// One file; answers its size. `share`: bytes carried before, of how many.
    async fn file_carry(
        &self,
        cx: &StepContext,
        file: &str,
        id: &str,
        (from, to): (&str, &str),
        share: (u64, u64),
        stop: impl Fn() -> bool,
    ) -> Result<u64> {
        let read = |offset| Request::ExportPiece { export_id: file.into(), offset, length: PIECE };
        let write = |offset, piece| Request::ParcelWrite { parcel_id: file.into(), volume_id: id.into(), offset, piece };
        let go_on = || match stop() {
            true => Err(Error::conflict(format!("The way of volume {id} to another host was cancelled."))),
            false => Ok(()),
        };
        let bytes = self.core.hosts.carry(cx, (from, to), read, write, go_on, Some(share)).await?;
        self.core.hosts.ask(to, Request::ParcelKeep { parcel_id: file.into(), bytes }).await?;
        Ok(bytes)
    }

    /// A volume that this operation has begun to bring somewhere stays where it is; what came of it to the other host goes. One that
    /// has arrived stays there.
    pub fn bring_over_in(&self, tx: &Tx, cx: &StepContext, id: &str, to: &str) -> Result<()> {
        let Some(mut volume) = db::volume_fetch_in(tx, id)? else {
            // Deleted by force on its way. A host that has more than a parcel of it speaks of it, and is told again.
            db::tombstone_put_in(tx, to, id, 1)?;
            self.host_tell_after_commit(tx, to, id);
            return Ok(());
        };
        let Some(parcel) = volume.doc.parcel.clone().filter(|parcel| parcel.by == cx.operation_id) else { return Ok(()) };
        parcel_end(&mut volume);
        visits::visit_drop_in(tx, id)?;
        volume.migration_status = Some("error".into());
        volume.spec_generation += 1;
        db::tombstone_put_in(tx, &parcel.to, id, volume.spec_generation)?;
        db::volume_update_in(tx, &mut volume)?;
        self.settle_in(tx, &volume)?;
        for host_id in volume.host_id.iter().chain([&parcel.to]) {
            self.host_tell_after_commit(tx, host_id, id);
        }
        Ok(())
    }
}

/// It begins to be carried: its host copies it out. Answers the parcel.
pub(crate) fn parcel_begin(volume: &mut Volume, to: &str, by: &str, format: &str) -> String {
    let id = base::id::uuid();
    volume.migration_status = Some(MIGRATING.into());
    volume.doc.parcel = Some(Parcel { id: id.clone(), to: to.into(), by: by.into(), parts: None });
    volume.doc.exports.push(Export { id: id.clone(), format: format.into() });
    volume.spec_generation += 1;
    id
}

/// It is not carried any more.
pub(crate) fn parcel_end(volume: &mut Volume) {
    if let Some(parcel) = volume.doc.parcel.take() {
        volume.doc.exports.retain(|export| export.id != parcel.id);
    }
}

/// Whether a volume may begin to go to another host, as far as itself says; 400.
pub(crate) fn still(volume: &Volume) -> Result<()> {
    match is_moving(volume) {
        true => Err(invalid(format!("Volume {} is being migrated.", volume.id))),
        false => Ok(()),
    }
}
