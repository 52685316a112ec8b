//! Making a volume: a host is chosen, then told.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result, Timestamp};
use rpc::volume::VolumeSource;
use store::Tx;
use task::{Effect, Operation, Retry, StepContext};

use crate::capabilities::Pool;
use crate::db::{hosts, snapshots, types, volumes as db};
use crate::image_volumes::frozen_in;
use crate::model::Volume;
use crate::notify::volume_event_in;
use crate::{Volumes, groups, messages};

/// An image may have to be fetched first.
const MAKE: Duration = Duration::from_secs(600);
const CLEAR: Duration = Duration::from_secs(60);

pub struct VolumeCreate(pub Volumes);

#[async_trait]
impl Operation for VolumeCreate {
    fn kind(&self) -> &'static str {
        super::CREATE
    }
    fn steps(&self) -> &'static [&'static str] {
        &["place", "image", "make"]
    }
    fn retry(&self, step: &str) -> Retry {
        Retry::within(match step {
            "image" => super::IMAGE,
            "make" => MAKE,
            _ => Duration::from_secs(60),
        })
    }
    fn pure(&self, step: &str) -> bool {
        step == "image"
    }

    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        match step {
            "place" => {
                let id = cx.resource_id.clone();
                // Chosen, promised and written in one transaction.
                let this = self.0.clone();
                Ok(Effect::none().commit(move |tx| {
                    let mut volume = db::volume_get_in(tx, &id)?;
                    if volume.host_id.is_some() {
                        return Ok(());
                    }
                    this.place_in(tx, &mut volume)?;
                    volume.spec_generation += 1;
                    db::volume_update_in(tx, &mut volume)?;
                    this.promise_in(tx, &volume)
                }))
            }
            "image" => {
                let volume = self.0.core.store.read(|tx| db::volume_get_in(tx, &cx.resource_id)).await?;
                let Some(VolumeSource::Image { sha256, format }) = &volume.doc.source else { return Ok(Effect::none()) };
                let ready = self.0.images.content_ready(cx, sha256, format).await?;
                if (&ready.0, &ready.1) == (sha256, format) {
                    return Ok(Effect::none());
                }
                let id = cx.resource_id.clone();
                Ok(Effect::none().commit(move |tx| {
                    let mut volume = db::volume_get_in(tx, &id)?;
                    volume.doc.source = Some(VolumeSource::Image { sha256: ready.0, format: ready.1 });
                    db::volume_update_in(tx, &mut volume)
                }))
            }
            _ => self.make(cx).await,
        }
    }

    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let id = cx.resource_id.clone();
        if step == "place" {
            let this = self.0.clone();
            return Ok(Effect::none().commit(move |tx| {
                let Some(mut volume) = db::volume_fetch_in(tx, &id)? else { return Ok(()) };
                (volume.host_id, volume.host) = (None, None);
                (volume.storage, volume.doc.storage_name) = (None, None);
                db::volume_update_in(tx, &mut volume)?;
                this.settle_in(tx, &volume)
            }));
        }
        if step == "image" {
            // It stays cached.
            return Ok(Effect::none());
        }
        let marked = self
            .0
            .core
            .store
            .write(move |tx| {
                let Some(mut volume) = db::volume_fetch_in(tx, &id)? else { return Ok(None) };
                let Some(host_id) = volume.host_id.clone() else { return Ok(None) };
                volume.spec_generation += 1;
                volume.doc.launched_at = None;
                db::tombstone_erase_in(tx, &host_id, &volume, volume.spec_generation)?;
                db::volume_update_in(tx, &mut volume)?;
                Ok(Some((host_id, volume.spec_generation)))
            })
            .await?;
        let Some((host_id, generation)) = marked else { return Ok(Effect::none()) };
        let gone = self.0.volume_removed(&host_id, &cx.resource_id, generation, CLEAR).await?;
        let id = cx.resource_id.clone();
        Ok(Effect::none().commit(move |tx| {
            if gone {
                db::tombstone_drop_in(tx, &host_id, &id, generation)?;
            }
            Ok(())
        }))
    }

    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        let Some(mut volume) = db::volume_fetch_in(tx, &cx.resource_id)? else { return Ok(()) };
        if volume.status != "deleting" {
            volume.status = "error".into();
        }
        db::volume_update_in(tx, &mut volume)?;
        groups::volume_made_in(tx, &volume)?;
        let (action, detail) =
            if error.is(Kind::NoCapacity) { (messages::SCHEDULE, messages::NO_BACKEND) } else { (messages::CREATE, messages::UNKNOWN) };
        messages::message_in(tx, &cx.context, &volume, None, action, detail)?;
        volume_event_in(tx, "create.error", &volume, &cx.context, Some(error.message()))
    }
}

impl VolumeCreate {
    async fn make(&self, cx: &StepContext) -> Result<Effect> {
        let deleting = |status: &str| status == "deleting";
        let now = self.0.core.store.read(|tx| db::volume_get_in(tx, &cx.resource_id)).await?;
        if deleting(&now.status) || cx.cancelled() {
            return Err(Error::conflict(format!("Volume {} is being deleted.", now.id)));
        }
        self.0.volume_settled(&cx.resource_id, MAKE, || cx.cancelled()).await?;
        let (id, ctx) = (cx.resource_id.clone(), cx.context.clone());
        Ok(Effect::none().commit(move |tx| {
            let mut volume = db::volume_get_in(tx, &id)?;
            volume.doc.launched_at = Some(Timestamp::now());
            if !deleting(&volume.status) {
                volume.status = "available".into();
            }
            db::volume_update_in(tx, &mut volume)?;
            groups::volume_made_in(tx, &volume)?;
            volume_event_in(tx, "create.end", &volume, &ctx, None)
        }))
    }
}

impl Volumes {
    /// Chooses the place for a volume: on the host that has what it is made of, or else where there is the most room.
    /// Storage that hosts share is for types that ask for it.
    pub(crate) fn place_in(&self, tx: &Tx, volume: &mut Volume) -> Result<()> {
        let none = |why: &str| Error::new(Kind::NoCapacity, format!("No valid backend was found. {why}"));
        let of = |id: &str| db::volume_fetch_in(tx, id).map(|v| v.and_then(|v| v.host_id));
        let bound = match &volume.doc.source {
            Some(VolumeSource::Volume { id }) => Some(of(id)?.ok_or_else(|| none("The source volume is gone."))?),
            Some(VolumeSource::Snapshot { id }) => {
                let snapshot = snapshots::snapshot_fetch_in(tx, id)?.ok_or_else(|| none("The snapshot is gone."))?;
                Some(of(&snapshot.volume_id)?.ok_or_else(|| none("The snapshot's volume is gone."))?)
            }
            _ => None,
        };
        let kind = volume.type_id.as_ref().map(|id| types::type_fetch_in(tx, id)).transpose()?.flatten();
        let all = hosts::host_list_in(tx)?;
        let no_specs = BTreeMap::new();
        let specs = kind.as_ref().map_or(&no_specs, |kind| &kind.doc.extra_specs);
        let pools: Vec<Pool> = all.iter().flat_map(Pool::of).collect();
        let stocks = self.stocks_in(tx, &pools)?;
        let mut best: Option<(i64, Pool)> = None;
        let (mut unfit, mut full) = (false, false);
        // What comes in parts is for hosts that know them, and for their own disks.
        let in_parts = matches!(volume.doc.source, Some(VolumeSource::Parts { .. }));
        for host in &all {
            let fits = bound.as_ref().is_none_or(|id| *id == host.id) && volume.doc.wanted_host.as_ref().is_none_or(|id| *id == host.id);
            if !fits || !host.connected || (host.disabled && bound.is_none()) || host.frozen || (in_parts && !host.info.layers) {
                continue;
            }
            // Its own disk comes first.
            let mut fitting = None;
            for pool in Pool::of(host).filter(|pool| !in_parts || pool.storage().is_none()) {
                let stock = stocks.of(&pool);
                // To count what is in it only matters where that is asked for.
                let (count, allocated) = if specs.is_empty() { (0, 0) } else { hosts::allocated_in(tx, &pool)? };
                if pool.fits(count, allocated, &stock, specs) {
                    fitting = Some((stock, pool));
                    break;
                }
            }
            let Some((stock, pool)) = fitting else {
                unfit = true;
                continue;
            };
            let rank = pool.rank(&stock);
            let takes = pool.room(&stock) >= volume.size && stock.inventory.fits_unit(u64::try_from(volume.size).unwrap_or(0));
            full |= !takes;
            if takes && best.as_ref().is_none_or(|(most, _)| rank > *most) {
                best = Some((rank, pool));
            }
        }
        match best {
            Some((_, pool)) => {
                (volume.host_id, volume.host) = (Some(pool.host.id.clone()), Some(pool.host.name.clone()));
                volume.storage = pool.storage().map(str::to_string);
                volume.doc.storage_name = volume.storage.as_ref().map(|_| pool.name().to_string());
                if let Some(VolumeSource::Image { sha256, format }) = &volume.doc.source
                    && format == "raw"
                    && pool.storage().is_none()
                    && let Some(id) = frozen_in(tx, sha256, &pool.host.id)?
                {
                    // A volume there holds just that.
                    volume.doc.source = Some(VolumeSource::Snapshot { id });
                }
                Ok(())
            }
            None if unfit => Err(none("None has what the volume type asks for.")),
            // It may come back; the step is tried again.
            None if !full && (bound.is_some() || all.iter().all(|h| !h.connected)) => {
                Err(Error::unavailable("No host that could keep the volume is connected."))
            }
            None => Err(none("No host has room for it.")),
        }
    }
}
