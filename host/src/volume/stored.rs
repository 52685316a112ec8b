//! Volumes in the storage that hosts share: taking one up, writing down what it is made of, and letting go of it.

use std::collections::BTreeSet;

use base::{Error, Result};
use rpc::volume::{Role, Stored, VolumeSpec};

use super::index::Index;
use super::store::{Record, Store};
use super::{Volumes, lock};

impl Volumes {
    /// The storage, if it is there and this host may work on it.
    fn store(&self, id: &str) -> Result<&Store> {
        let store = self.store.as_ref().ok_or_else(|| Error::unavailable("this host has no shared storage (`host.shared_storage`)"))?;
        store.require(id)?;
        match (self.leased)() {
            true => Ok(store),
            false => Err(Error::unavailable("this host is cut off from its controller: others may keep its volumes in shared storage")),
        }
    }

    /// Takes up a volume as its document says. False: another host keeps it, and it is only looked at.
    pub(super) async fn take(&self, spec: &VolumeSpec, stored: &Stored) -> Result<bool> {
        let (id, visits) = (&spec.id, stored.role == Role::Visit);
        if lock(&self.index).stored.get(id) != Some(spec) {
            self.update(|index| index.stored.insert(id.clone(), spec.clone())).await?;
        }
        let store = self.store(&stored.storage)?;
        if !visits && self.volume(id).is_some_and(|v| !v.is_visited()) {
            return Ok(true);
        }
        let Some(mut record) = store.read(id).await? else {
            return match stored.role {
                Role::Make => Ok(true),
                _ => Err(Error::unavailable(format!("volume {id} is not in the shared storage"))),
            };
        };
        if record.volume.spec.generation > spec.generation {
            return Err(Error::unavailable(format!("volume {id} has gone on since this host was told to keep it")));
        }
        let free = |keeper: &str| visits || keeper == store.host_id() || matches!(&stored.role, Role::Seize { from } if from == keeper);
        if let Some(other) = record.keeper.as_deref().filter(|keeper| !free(keeper)) {
            return Err(Error::unavailable(format!("host {other} has not let go of volume {id}")));
        }
        let _writer = self.writer.lock().await;
        if visits {
            // What it is made of changes no more until the guest has come.
            (record.volume.spec, record.volume.generation) = (spec.clone(), spec.generation);
        } else {
            record.keeper = Some(store.host_id().to_string());
            store.write(id, &record).await?;
        }
        lock(&self.index).take(id, record.volume, record.layers);
        Ok(!visits)
    }

    /// Writes down what has changed of volumes that this host keeps. One that another host keeps by now is forgotten: `Unavailable`.
    pub(super) async fn records_write(&self, before: &Index, index: &Index) -> Result<()> {
        let mut changed: BTreeSet<&String> =
            index.volumes.iter().filter(|(id, v)| before.volumes.get(*id) != Some(*v)).map(|(id, _)| id).collect();
        for (one, other) in [(before, index), (index, before)] {
            let differs = one.layers.iter().filter(|(name, layer)| other.layers.get(*name) != Some(*layer));
            changed.extend(differs.filter_map(|(_, layer)| layer.volume.as_ref()));
        }
        for id in changed {
            let Some(volume) = index.volumes.get(id).filter(|v| !v.is_visited()) else { continue };
            let Some(stored) = &volume.spec.stored else { continue };
            let store = self.store(&stored.storage)?;
            let me = Some(store.host_id().to_string());
            match store.read(id).await? {
                None if stored.role == Role::Make => {}
                Some(record) if record.keeper == me => {}
                _ => {
                    lock(&self.index).forget(id);
                    return Err(Error::unavailable(format!("this host does not keep volume {id} any more")));
                }
            }
            store.write(id, &Record { keeper: me, volume: volume.clone(), layers: index.layers_of(id) }).await?;
        }
        Ok(())
    }

    /// Removes a volume with all its files.
    pub(super) async fn erase(&self, spec: &VolumeSpec, stored: &Stored) -> Result<()> {
        let id = &spec.id;
        // A later life of it is none of what is to go.
        let found = self.store(&stored.storage)?.read(id).await?;
        if found.is_some_and(|record| record.volume.spec.generation <= spec.generation) {
            self.take(spec, stored).await?;
            self.update(|index| {
                if let Some(volume) = index.volumes.get_mut(id) {
                    (volume.head, volume.next, volume.copying) = (None, None, None);
                    volume.snapshots.clear();
                    volume.spec = spec.clone();
                }
            })
            .await?;
            self.sweep().await?;
            if !lock(&self.index).layers_of(id).is_empty() {
                return Err(Error::unavailable(format!("another volume is being made of volume {id}")));
            }
            self.store(&stored.storage)?.remove(id).await?;
        }
        self.stored_forget(id).await
    }

    /// Leaves a volume to the host that is told to keep it next.
    pub(super) async fn let_go(&self, id: &str, told: &VolumeSpec) -> Result<()> {
        if let Some(stored) = told.stored.as_ref().filter(|stored| stored.role != Role::Visit) {
            let store = self.store(&stored.storage)?;
            if let Some(mut record) = store.read(id).await?.filter(|record| record.keeper.as_deref() == Some(store.host_id())) {
                record.keeper = None;
                store.write(id, &record).await?;
            }
        }
        self.stored_forget(id).await
    }

    async fn stored_forget(&self, id: &str) -> Result<()> {
        {
            let _writer = self.writer.lock().await;
            lock(&self.index).forget(id);
        }
        self.update(|index| drop(index.stored.remove(id))).await
    }
}
