//! To which hosts the volumes of a server could go, from where they are.

use std::collections::HashMap;

use base::Result;
use store::Tx;

use crate::capabilities::Pool;
use crate::db::hosts::{self, Host};
use crate::db::{snapshots, volumes as db};
use crate::model::Volume;
use crate::room::weight_in;
use crate::visits::{bound_in, in_layers_in};
use crate::{Volumes, passing};

/// What a host is to the volumes of a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// GiB of them that are there already.
    pub gib: i64,
    /// Why one of the others cannot come.
    pub barred: Option<String>,
}

/// A volume that is on a host, or will be made there.
pub(crate) struct Load {
    /// Its name in messages.
    what: String,
    /// GiB, with its snapshots.
    size: i64,
    host_id: String,
    /// Why it stays there, whatever other hosts say.
    stays: Option<String>,
    /// Whether it goes layer by layer.
    in_layers: bool,
    /// The volume, if it is in storage that hosts share: then nothing is copied, and it needs no room.
    shared: Option<Volume>,
}

impl Load {
    /// None: it is on no host. `who`: the server that it would go with.
    pub(crate) fn of_in(tx: &Tx, volume: &Volume, who: &str) -> Result<Option<Load>> {
        let Some(host_id) = volume.host_id.clone() else { return Ok(None) };
        let stays = bound_in(tx, volume, who)?.map(|why| format!("Volume {} {why}.", volume.id));
        let in_layers = in_layers_in(tx, volume)?;
        let shared = volume.storage.is_some().then(|| volume.clone());
        Ok(Some(Load { what: format!("volume {}", volume.id), size: weight_in(tx, volume)?, host_id, stays, in_layers, shared }))
    }

    /// The volume that will be made of a snapshot: there, where that is.
    fn of_snapshot_in(tx: &Tx, id: &str) -> Result<Option<Load>> {
        let Some(snapshot) = snapshots::snapshot_fetch_in(tx, id)? else { return Ok(None) };
        let host = db::volume_fetch_in(tx, &snapshot.volume_id)?.and_then(|volume| volume.host_id);
        let what = format!("the volume of snapshot {id}");
        Ok(host.map(|host_id| Load { what, size: snapshot.size, host_id, stays: None, in_layers: false, shared: None }))
    }

    /// Why it cannot go to a host with room for so many GiB.
    pub(crate) fn obstacle(&self, all: &[Host], there: &str, room: i64) -> Option<String> {
        if self.stays.is_some() {
            return self.stays.clone();
        }
        if let Some(volume) = &self.shared {
            return passing::obstacle(volume, all, there);
        }
        let able = |host: &Host| host.info.carries && (host.info.layers || !self.in_layers);
        let carries = |id: &str| all.iter().find(|host| host.id == id).filter(|host| host.connected && able(host));
        let (Some(_), Some(there)) = (carries(&self.host_id), carries(there)) else {
            let what = &self.what;
            return Some(format!(
                "One of the hosts between which {what} would go is not there, or of a release that cannot carry volumes."
            ));
        };
        (there.frozen || room < self.size).then(|| format!("Host {} has no room for {}.", there.name, self.what))
    }
}

impl Volumes {
    /// Each host as the volumes of a server see it, those included that are to be made of these snapshots. Empty: it has none.
    pub fn places_in(&self, tx: &Tx, server_id: &str, volumes: &[String], snapshots: &[String]) -> Result<HashMap<String, Place>> {
        let mut loads = Vec::new();
        for id in volumes {
            if let Some(volume) = db::volume_fetch_in(tx, id)? {
                loads.extend(Load::of_in(tx, &volume, server_id)?);
            }
        }
        for id in snapshots {
            loads.extend(Load::of_snapshot_in(tx, id)?);
        }
        let mut places = HashMap::new();
        if loads.is_empty() {
            return Ok(places);
        }
        let all = hosts::host_list_in(tx)?;
        let pools: Vec<Pool> = all.iter().map(Pool::local).collect();
        let stocks = self.stocks_in(tx, &pools)?;
        for pool in pools {
            let host = pool.host;
            let mut room = pool.room(&stocks.of(&pool));
            let mut place = Place::default();
            for load in &loads {
                let size = if load.shared.is_some() { 0 } else { load.size };
                if load.host_id == host.id {
                    place.gib += size;
                    continue;
                }
                place.barred = place.barred.or_else(|| load.obstacle(&all, &host.id, room));
                room -= size;
            }
            places.insert(host.id.clone(), place);
        }
        Ok(places)
    }

    /// Why a volume stays on its host wherever a server goes that does not have it yet; none: it can go along.
    pub fn volume_stays_in(&self, tx: &Tx, id: &str) -> Result<Option<String>> {
        Ok(db::volume_fetch_in(tx, id)?.map(|volume| Load::of_in(tx, &volume, "")).transpose()?.flatten().and_then(|load| load.stays))
    }
}
