//! The work on one volume: its document is compared with what is, and made so step by step. Each step writes down what it
//! is about to make, makes it, and writes down that it is made; after a crash the same steps find what is there.

use std::sync::Arc;
use std::time::Duration;

use base::{Error, Result};
use rpc::volume::{VolumeSource, VolumeSpec, VolumeState, VolumeStatus};
use tokio::sync::watch;

use super::carry::{arrived, is_parts};
use super::index::{Below, ExportFile, Index, Layer, Shape, Volume, home, is_copy, is_raw, is_stored};
use super::{Volumes, lock};

const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

impl Volumes {
    /// Works until the newest document is applied, or cannot be.
    pub(super) async fn run(self: Arc<Self>, id: String, mut wanted: watch::Receiver<Arc<VolumeSpec>>) {
        let mut pause = RETRY.0;
        loop {
            let spec = wanted.borrow_and_update().clone();
            match self.apply(&spec).await {
                Ok(()) => {}
                Err(e) if e.is_transient() => {
                    tracing::debug!(volume = id, "{}", e.chain());
                    self.report(self.status(&spec, VolumeState::Working, Some(e.chain())));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
                        changed = wanted.changed() => if changed.is_err() { return },
                    }
                    continue;
                }
                Err(e) => {
                    tracing::warn!(volume = id, generation = spec.generation, "{}", e.chain());
                    let failed = self.update(|index| {
                        if let Some(volume) = index.volumes.get_mut(&spec.id) {
                            volume.failed = Some(e.chain());
                        }
                    });
                    if let Err(second) = failed.await {
                        tracing::error!(volume = id, "{}", second.chain());
                    }
                    let mut status = self.status(&spec, VolumeState::Failed, Some(e.chain()));
                    status.generation = spec.generation;
                    self.report(status);
                }
            }
            let mut all = lock(&self.wanted);
            // A newer document may have come in this very instant; a closed channel means that the agent stops.
            if wanted.has_changed().unwrap_or(false) {
                drop(all);
                pause = RETRY.0;
                continue;
            }
            all.remove(&id);
            return;
        }
    }

    fn status(&self, spec: &VolumeSpec, state: VolumeState, error: Option<String>) -> VolumeStatus {
        let index = lock(&self.index);
        let volume = index.volumes.get(&spec.id);
        VolumeStatus {
            id: spec.id.clone(),
            generation: volume.map_or(0, |v| v.generation),
            state,
            bytes: volume.map_or(0, |v| v.bytes),
            snapshots: volume.map_or_else(Vec::new, |v| v.snapshots.keys().cloned().collect()),
            exports: index.exports.iter().filter(|(_, e)| e.volume == spec.id).filter_map(|(id, e)| Some((id.clone(), e.bytes?))).collect(),
            parts: {
                let done = index.exports.iter().filter(|(_, e)| e.volume == spec.id && e.bytes.is_some());
                done.filter_map(|(id, e)| Some((id.clone(), e.parts.clone()?))).collect()
            },
            error,
        }
    }

    async fn apply(&self, spec: &VolumeSpec) -> Result<()> {
        let _turn = self.turn(&spec.id).await;
        if spec.absent {
            return self.remove(spec).await;
        }
        if let Some(stored) = &spec.stored
            && !self.take(spec, stored).await?
        {
            self.report(self.status(spec, VolumeState::Ready, None));
            return Ok(());
        }
        let known = self.volume(&spec.id);
        if known.as_ref().is_some_and(|v| v.spec.absent && v.spec.generation > spec.generation) {
            return Ok(());
        }
        let done = known.as_ref().filter(|v| v.spec == *spec);
        if let Some(reason) = done.and_then(|v| v.failed.clone()) {
            // Tried before the agent was started anew.
            return Err(Error::internal(reason));
        }
        if done.is_none_or(|v| v.generation != spec.generation) {
            self.report(self.status(spec, VolumeState::Working, None));
        }
        if known.is_none_or(|v| v.spec != *spec) {
            self.update(|index| match index.volumes.get_mut(&spec.id) {
                Some(volume) => (volume.spec, volume.failed) = (spec.clone(), None),
                None => drop(index.volumes.insert(spec.id.clone(), fresh(spec))),
            })
            .await?;
        }
        let Some(volume) = self.volume(&spec.id) else { return Err(Error::internal("a volume vanished")) };
        if volume.copying.is_some() {
            // It broke off, and is made again under another name if it is still wanted.
            self.update(|index| {
                if let Some(volume) = index.volumes.get_mut(&spec.id) {
                    volume.copying = None;
                }
            })
            .await?;
        }
        if volume.head.is_none() {
            self.make(spec, volume).await?;
        } else if volume.next.is_some() {
            self.freeze(&spec.id, |_, _| {}).await?;
        }
        self.unfold(spec).await?;
        self.drop_snapshots(spec).await?;
        self.grow(spec).await?;
        for snapshot in &spec.snapshots {
            if !self.volume(&spec.id).is_some_and(|v| v.snapshots.contains_key(snapshot)) {
                let (id, snapshot) = (spec.id.clone(), snapshot.clone());
                self.freeze(&spec.id, move |index, old| {
                    if let Some(volume) = index.volumes.get_mut(&id) {
                        volume.snapshots.insert(snapshot, old.to_string());
                    }
                })
                .await?;
            }
        }
        self.revert(spec).await?;
        self.export(spec).await?;
        if self.volume(&spec.id).is_some_and(|v| v.generation != spec.generation) {
            self.update(|index| {
                if let Some(volume) = index.volumes.get_mut(&spec.id) {
                    volume.generation = spec.generation;
                }
            })
            .await?;
        }
        self.report(self.status(spec, VolumeState::Ready, None));
        if let Err(e) = self.sweep().await {
            // The files are named in the index, and will be tried again.
            tracing::warn!("volumes: {}", e.chain());
        }
        Ok(())
    }

    async fn remove(&self, spec: &VolumeSpec) -> Result<()> {
        self.unused(&spec.id).await?;
        let told = lock(&self.index).stored.get(&spec.id).cloned();
        match (&spec.stored, told) {
            (Some(stored), _) => self.erase(spec, stored).await?,
            (None, Some(told)) => self.let_go(&spec.id, &told).await?,
            (None, None) if self.volume(&spec.id).is_some() => self.update(|index| drop(index.volumes.remove(&spec.id))).await?,
            (None, None) => {}
        }
        self.parcels_remove(&spec.id).await?;
        self.sweep().await?;
        let mut status = self.status(spec, VolumeState::Absent, None);
        status.generation = spec.generation;
        self.report(status);
        lock(&self.turns).remove(&spec.id);
        Ok(())
    }

    /// Lays the first layer of a volume.
    async fn make(&self, spec: &VolumeSpec, volume: Volume) -> Result<()> {
        let name = match &volume.next {
            // Begun before a crash.
            Some(name) => name.clone(),
            None => self.first_layer(spec).await?,
        };
        match &spec.source {
            VolumeSource::Parcel { id } => self.layers.parcel_take(id, &name).await?,
            VolumeSource::Parts { id, .. } => self.parts_take(&spec.id, id).await?,
            _ => {}
        }
        let bytes = self.lay(&name).await?;
        self.update(|index| {
            whole(index, &name);
            if let Some(volume) = index.volumes.get_mut(&spec.id) {
                (volume.head, volume.next, volume.bytes) = (Some(name), None, bytes);
                arrived(volume, &spec.source);
            }
        })
        .await?;
        self.parcels_remove(&spec.id).await
    }

    /// Removes what came for a volume and was not needed, or is not any more.
    async fn parcels_remove(&self, id: &str) -> Result<()> {
        let parcels = lock(&self.index).parcels_of(id);
        if parcels.is_empty() {
            return Ok(());
        }
        for parcel in &parcels {
            self.layers.parcel_remove(parcel).await?;
        }
        self.update(|index| index.parcels.retain(|id, _| !parcels.contains(id))).await
    }

    /// Makes the file of a layer that is written down; answers its size.
    async fn lay(&self, name: &str) -> Result<u64> {
        let (layer, stack) = {
            let index = lock(&self.index);
            let layer = index.layers.get(name).cloned().ok_or_else(|| Error::internal("a layer is not known"))?;
            let stack = index.stack_over(&layer.below)?;
            (layer, stack)
        };
        match is_copy(name) {
            true => self.layers.copy(&stack, name, layer.bytes).await?,
            false => self.layers.make(name, &layer).await?,
        }
        Ok(layer.bytes)
    }

    /// Writes down what the first layer of a volume will be.
    async fn first_layer(&self, spec: &VolumeSpec) -> Result<String> {
        if let VolumeSource::Parts { id, parts } = &spec.source {
            return self.parts_lay(spec, id, parts).await;
        }
        let stored = spec.stored.is_some();
        // In shared storage volumes have no layers together, and nothing lies over what another host may take away.
        let copied = match &spec.source {
            VolumeSource::Blank | VolumeSource::Parcel { .. } | VolumeSource::Parts { .. } => false,
            VolumeSource::Image { .. } => stored,
            VolumeSource::Snapshot { id } => stored || lock(&self.index).snapshot(id).is_some_and(is_stored),
            VolumeSource::Volume { id } => stored || self.volume(id).is_some_and(|v| v.spec.stored.is_some()),
        };
        let name = head_name(spec, copied);
        let (id, layer, volume) = (spec.id.clone(), name.clone(), home(spec));
        let note = move |index: &mut Index, below: Below, least: u64, bytes: u64| {
            index.layers.insert(layer.clone(), Layer { below, bytes: bytes.max(least), volume });
            if let Some(volume) = index.volumes.get_mut(&id) {
                volume.next = Some(layer);
            }
        };
        let bytes = spec.bytes;
        match &spec.source {
            VolumeSource::Blank | VolumeSource::Parcel { .. } | VolumeSource::Parts { .. } => {
                self.update(|index| note(index, Below::Nothing, 0, bytes)).await?
            }
            VolumeSource::Image { sha256, format } => {
                let natural = self.layers.image(sha256, format).await?;
                let below = Below::Image { sha256: sha256.clone(), format: format.clone() };
                self.update(|index| note(index, below, natural, bytes)).await?;
            }
            VolumeSource::Snapshot { id } => {
                let found = self.update(|index| {
                    let below = index.snapshot(id)?.to_string();
                    let least = index.layers.get(&below).map_or(0, |l| l.bytes);
                    note(index, Below::Layer(below), least, bytes);
                    Some(())
                });
                found.await?.ok_or_else(|| Error::not_found("Snapshot", id))?;
            }
            VolumeSource::Volume { id } => {
                let _turn = self.turn(id).await;
                if self.volume(id).is_none_or(|v| v.head.is_none()) {
                    return Err(Error::not_found("Volume", id));
                }
                self.freeze(id, move |index, old| {
                    let least = index.layers.get(old).map_or(0, |l| l.bytes);
                    note(index, Below::Layer(old.to_string()), least, bytes);
                })
                .await?;
            }
        }
        Ok(name)
    }

    /// Freezes the head of a volume whose turn the caller has: an empty layer takes its place. `note` writes down, in the
    /// same instant, what the frozen layer is needed for.
    pub(super) async fn freeze(&self, id: &str, note: impl FnOnce(&mut Index, &str)) -> Result<()> {
        let volume = self.volume(id).ok_or_else(|| Error::not_found("Volume", id))?;
        let old = volume.head.clone().ok_or_else(|| Error::internal("a volume without a head"))?;
        if volume.spec.shared && volume.next.is_none() {
            return self.copy_head(id, &volume, &old, note).await;
        }
        let name = match volume.next {
            Some(name) => name,
            None => {
                let name = Index::layer_name(Shape::Over, volume.spec.stored.is_some());
                let layer = Layer { below: Below::Layer(old.clone()), bytes: volume.bytes, volume: volume.home() };
                self.update(|index| {
                    index.layers.insert(name.clone(), layer);
                    if let Some(volume) = index.volumes.get_mut(id) {
                        volume.next = Some(name.clone());
                    }
                })
                .await?;
                name
            }
        };
        if is_copy(&name) {
            self.unused(id).await?;
        }
        self.lay(&name).await?;
        for (_, machine) in self.users(id).await? {
            // After a crash in between, the process may write to the new layer already.
            if machine.volume_head(id).await?.as_deref() != Some(name.as_str()) {
                machine.volume_switch(id, &old, &name).await?;
            }
        }
        // Without a process the new layer may be taken all the same: over a head that nobody writes to it shows the same.
        self.update(|index| {
            whole(index, &name);
            if let Some(volume) = index.volumes.get_mut(id) {
                (volume.head, volume.next) = (Some(name), None);
            }
            note(index, &old);
        })
        .await
    }

    /// What freezing is for a volume that several may write to: its head stays the head, and a copy of it is what is frozen.
    /// What is written while it is copied would make it a copy of no instant at all, so nobody writes.
    async fn copy_head(&self, id: &str, volume: &Volume, head: &str, note: impl FnOnce(&mut Index, &str)) -> Result<()> {
        let name = Index::layer_name(Shape::Raw, volume.spec.stored.is_some());
        let layer = Layer { below: Below::Layer(head.to_string()), bytes: volume.bytes, volume: volume.home() };
        self.update(|index| {
            index.layers.insert(name.clone(), layer);
            if let Some(volume) = index.volumes.get_mut(id) {
                volume.copying = Some(name.clone());
            }
        })
        .await?;
        let still = self.stand_still(id).await?;
        self.lay(&name).await?;
        drop(still);
        self.update(|index| {
            whole(index, &name);
            if let Some(volume) = index.volumes.get_mut(id) {
                volume.copying = None;
            }
            note(index, &name);
        })
        .await
    }

    /// Makes the head of a volume that has become shared a raw one. One that is shared no more may stay as it is.
    async fn unfold(&self, spec: &VolumeSpec) -> Result<()> {
        let Some(volume) = self.volume(&spec.id) else { return Ok(()) };
        let Some(head) = volume.head.filter(|head| spec.shared && !is_raw(head)) else { return Ok(()) };
        self.unused(&spec.id).await?;
        self.put_over(&spec.id, Below::Layer(head), Index::layer_name(Shape::Raw, spec.stored.is_some()), volume.bytes, |_| {}).await
    }

    /// Makes a new head over `below`, which takes the place of the present one. `note` writes down, in the same instant, why.
    async fn put_over(&self, id: &str, below: Below, name: String, bytes: u64, note: impl FnOnce(&mut Volume)) -> Result<()> {
        // After a crash from here on the layer becomes the head, and is followed by one more: both show the same.
        self.update(|index| {
            if let Some(volume) = index.volumes.get_mut(id) {
                index.layers.insert(name.clone(), Layer { below, bytes, volume: volume.home() });
                volume.next = Some(name.clone());
            }
        })
        .await?;
        self.lay(&name).await?;
        self.update(|index| {
            whole(index, &name);
            if let Some(volume) = index.volumes.get_mut(id) {
                (volume.head, volume.next) = (Some(name), None);
                note(volume);
            }
        })
        .await
    }

    async fn grow(&self, spec: &VolumeSpec) -> Result<()> {
        let Some(volume) = self.volume(&spec.id).filter(|v| v.bytes < spec.bytes) else { return Ok(()) };
        let head = volume.head.ok_or_else(|| Error::internal("a volume without a head"))?;
        let machines = self.users(&spec.id).await?;
        for (_, machine) in &machines {
            machine.volume_resize(&spec.id, &head, spec.bytes).await?;
        }
        if machines.is_empty() {
            self.layers.grow(&head, spec.bytes).await?;
        }
        self.update(|index| {
            if let Some(volume) = index.volumes.get_mut(&spec.id) {
                volume.bytes = spec.bytes;
            }
            if let Some(layer) = index.layers.get_mut(&head) {
                layer.bytes = spec.bytes;
            }
        })
        .await
    }

    async fn drop_snapshots(&self, spec: &VolumeSpec) -> Result<()> {
        let gone = self.volume(&spec.id).is_some_and(|v| v.snapshots.keys().any(|s| !spec.snapshots.contains(s)));
        if gone {
            self.update(|index| {
                if let Some(volume) = index.volumes.get_mut(&spec.id) {
                    volume.snapshots.retain(|s, _| spec.snapshots.contains(s));
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Goes back to a snapshot, or to an image: an empty layer over it becomes the head.
    async fn revert(&self, spec: &VolumeSpec) -> Result<()> {
        let Some(volume) = self.volume(&spec.id) else { return Ok(()) };
        let Some(revert) = spec.revert.as_ref().filter(|r| r.serial > volume.reverted) else { return Ok(()) };
        let below = match &revert.image {
            Some(image) => {
                let natural = self.layers.image(&image.sha256, &image.format).await?;
                if natural > volume.bytes {
                    return Err(Error::conflict(format!("the image has {natural} bytes, the volume only {}", volume.bytes)));
                }
                Below::Image { sha256: image.sha256.clone(), format: image.format.clone() }
            }
            None => {
                let layer = volume.snapshots.get(&revert.snapshot).cloned();
                Below::Layer(layer.ok_or_else(|| Error::not_found("Snapshot", &revert.snapshot))?)
            }
        };
        self.unused(&spec.id).await?;
        let serial = revert.serial;
        let copied = spec.stored.is_some() && revert.image.is_some();
        self.put_over(&spec.id, below, head_name(spec, copied), volume.bytes, move |v| v.reverted = serial).await
    }

    /// Copies out what shall be read by others.
    async fn export(&self, spec: &VolumeSpec) -> Result<()> {
        for export in &spec.exports {
            let known = || lock(&self.index).exports.get(&export.id).cloned();
            if known().is_none() {
                if is_parts(&export.format) {
                    self.parts_note(&spec.id, export).await?;
                } else {
                    let (volume, id, format) = (spec.id.clone(), export.id.clone(), export.format.clone());
                    self.freeze(&spec.id, move |index, old| {
                        let file = ExportFile { volume, layer: old.to_string(), format, bytes: None, files: Vec::new(), parts: None };
                        index.exports.insert(id, file);
                    })
                    .await?;
                }
            }
            let Some(file) = known() else { continue };
            if file.bytes.is_none() {
                let bytes = if file.parts.is_some() {
                    self.parts_export(&export.id, &file.files).await?
                } else {
                    let stack = lock(&self.index).stack(&file.layer)?;
                    self.layers.export(&stack, &export.id, &file.format).await?
                };
                self.update(|index| {
                    if let Some(file) = index.exports.get_mut(&export.id) {
                        file.bytes = Some(bytes);
                    }
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// The name of a new layer that shall be written to; `copied`: it lies over nothing.
pub(super) fn head_name(spec: &VolumeSpec, copied: bool) -> String {
    let shape = match spec.shared {
        true => Shape::Raw,
        false if copied => Shape::Copy,
        false => Shape::Over,
    };
    Index::layer_name(shape, spec.stored.is_some())
}

/// A copy that is whole lies over nothing.
fn whole(index: &mut Index, name: &str) {
    if let Some(layer) = index.layers.get_mut(name).filter(|_| is_copy(name)) {
        layer.below = Below::Nothing;
    }
}

pub(super) fn fresh(spec: &VolumeSpec) -> Volume {
    Volume {
        spec: spec.clone(),
        generation: 0,
        head: None,
        next: None,
        copying: None,
        coming: Vec::new(),
        bytes: 0,
        snapshots: Default::default(),
        reverted: spec.revert.as_ref().map_or(0, |r| r.serial),
        failed: None,
    }
}
