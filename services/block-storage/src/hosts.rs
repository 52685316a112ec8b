//! Hosts: what they keep is told to them whenever they come, and what they say of volumes is taken in.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result};
use image::bootable;
use rpc::message::{HostInfo, ToController, ToHost};
use rpc::session::Said;
use rpc::volume::{Role, Stored, VolumeSource, VolumeSpec, VolumeState, VolumeStatus};
use service::HostListener;
use store::Tx;

use crate::Volumes;
use crate::db::{hosts, snapshots, visits, volumes as db};
use crate::model::Volume;
use crate::visits::visitor;

/// Snapshots in these states are on the host, or shall be.
const KEPT: &[&str] = &["creating", "available", "restoring", "unmanaging", "backing-up"];

#[async_trait]
impl HostListener for Volumes {
    async fn heard(&self, host_id: &str, said: &Said) -> Result<()> {
        match said {
            Said::Connected(info) => {
                self.host_take(info).await?;
                // In a task of its own: the host must be able to talk while it is being told.
                let (this, host_id) = (self.clone(), host_id.to_string());
                self.runtime.spawn(async move {
                    if let Err(error) = this.documents_send(&host_id).await {
                        tracing::warn!(host_id, "a host could not be told of its volumes: {}", error.chain());
                    }
                });
                Ok(())
            }
            Said::Info(info) => self.host_take(info).await,
            Said::Disconnected => {
                let id = host_id.to_string();
                self.core.store.write(move |tx| hosts::host_disconnected_in(tx, &id)).await
            }
            Said::Message(ToController::Volume(status)) => {
                if self.statuses.put(host_id, status) {
                    return Ok(());
                }
                self.status_take(host_id, status).await
            }
            Said::Message(_) | Said::Refused(_) => Ok(()),
        }
    }
}

/// The document of a volume as it stands. The same rows give the same document.
pub fn document_in(tx: &Tx, volume: &Volume) -> Result<VolumeSpec> {
    let kept = snapshots::snapshots_of_in(tx, &volume.id)?;
    Ok(VolumeSpec {
        id: volume.id.clone(),
        generation: volume.spec_generation,
        absent: false,
        bytes: u64::try_from(volume.size).unwrap_or(0) << 30,
        shared: volume.multiattach,
        source: volume.doc.source.clone().unwrap_or(VolumeSource::Blank),
        snapshots: kept.into_iter().filter(|s| KEPT.contains(&s.status.as_str())).map(|s| s.id).chain(volume.doc.frozen.clone()).collect(),
        // One that is not converted yet is for its operation.
        revert: volume.doc.revert.clone().filter(|revert| revert.image.as_ref().is_none_or(|image| !bootable::is_converted(&image.format))),
        exports: volume.doc.exports.clone(),
        stored: volume.storage.clone().map(|storage| Stored { storage, role: role(volume) }),
    })
}

/// What its host is to a volume that several see.
fn role(volume: &Volume) -> Role {
    match volume.doc.launched_at {
        None => Role::Make,
        Some(_) => volume.takes(),
    }
}

impl Volumes {
    async fn host_take(&self, info: &HostInfo) -> Result<()> {
        if !info.volumes {
            return Ok(());
        }
        let (this, info) = (self.clone(), info.clone());
        self.core
            .store
            .write(move |tx| {
                hosts::host_put_in(tx, &info)?;
                hosts::host_fetch_in(tx, &info.id)?.map_or(Ok(()), |host| this.pools_sync_in(tx, &host).map(drop))
            })
            .await
    }

    async fn documents_send(&self, host_id: &str) -> Result<()> {
        let told = self
            .core
            .store
            .read(|tx| {
                // One that is not made yet is told by the operation that makes it.
                let volumes = db::volumes_on_host_in(tx, host_id)?.into_iter().filter(|v| v.doc.launched_at.is_some());
                let others = [visits::visit_list_in(tx, host_id)?, db::tombstone_list_in(tx, host_id)?].concat();
                let told: BTreeSet<String> = volumes.map(|v| v.id).chain(others).collect();
                Ok(told)
            })
            .await?;
        for id in told {
            match self.volume_tell(host_id, &id).await {
                // It left meanwhile.
                Err(error) if error.kind() == Kind::NotFound => {}
                told => told.map(drop)?,
            }
        }
        Ok(())
    }

    /// What a host says of a volume that no operation waits for.
    async fn status_take(&self, host_id: &str, status: &VolumeStatus) -> Result<()> {
        // What becomes of one that is where it belongs, its operation says; of its tombstone too.
        let here = |tx: &Tx, host: &str, id: &str| {
            let known = db::volume_fetch_in(tx, id)?.is_some_and(|v| v.host_id.as_deref() == Some(host));
            Ok::<_, Error>(known || visits::visit_fetch_in(tx, id)?.as_deref() == Some(host))
        };
        if self.core.store.read(|tx| here(tx, host_id, &status.id)).await? {
            return Ok(());
        }
        let (host, status, volumes) = (host_id.to_string(), status.clone(), self.clone());
        self.core
            .store
            .write(move |tx| {
                if here(tx, &host, &status.id)? {
                    return Ok(());
                }
                if status.state == VolumeState::Absent {
                    db::tombstone_drop_in(tx, &host, &status.id, status.generation)?;
                    tx.after_commit(move || volumes.statuses.forget(&status.id));
                    return Ok(());
                }
                // It outlived its volume here: nothing is left over.
                db::tombstone_put_in(tx, &host, &status.id, status.generation + 1)?;
                volumes.host_tell_after_commit(tx, &host, &status.id);
                Ok(())
            })
            .await
    }

    /// Tells a host of a volume what the store says now: its document, or that it must be gone. Answers the generation told.
    pub(crate) async fn volume_tell(&self, host_id: &str, id: &str) -> Result<u64> {
        let _turn = self.core.hosts.turn(host_id).await;
        let document = self
            .core
            .store
            .read(|tx| {
                let comes = visits::visit_fetch_in(tx, id)?.as_deref() == Some(host_id);
                let volume = db::volume_fetch_in(tx, id)?.filter(|v| comes || v.host_id.as_deref() == Some(host_id));
                match (volume, db::tombstone_fetch_in(tx, host_id, id)?) {
                    (volume, Some(generation)) if volume.as_ref().is_none_or(|v| v.spec_generation <= generation) => {
                        let stored = db::tombstone_stored_in(tx, host_id, id)?;
                        Ok(VolumeSpec { stored, ..rpc::volume::absent(id, generation) })
                    }
                    (Some(volume), _) if comes => Ok(visitor(document_in(tx, &volume)?, volume.doc.parcel.as_ref())),
                    (Some(volume), _) => document_in(tx, &volume),
                    (None, _) => Err(Error::new(Kind::NotFound, format!("Volume {id} is not on host {host_id}."))),
                }
            })
            .await?;
        let generation = document.generation;
        self.core.hosts.send(host_id, ToHost::Volume(Box::new(document))).await?;
        Ok(generation)
    }

    /// Tells a volume's host of it as it stands; answers host and generation.
    pub(crate) async fn volume_send(&self, id: &str) -> Result<(String, u64)> {
        let volume = self.core.store.read(|tx| db::volume_get_in(tx, id)).await?;
        let host_id = volume.host_id.ok_or_else(|| Error::conflict(format!("Volume {id} has no host.")))?;
        let generation = self.volume_tell(&host_id, id).await?;
        Ok((host_id, generation))
    }

    /// Tells a host of a volume as soon as the transaction is durable. When that fails, the host's next session does.
    pub(crate) fn host_tell_after_commit(&self, tx: &Tx, host_id: &str, id: &str) {
        let (this, host_id, id, runtime) = (self.clone(), host_id.to_string(), id.to_string(), self.runtime.clone());
        tx.after_commit(move || {
            runtime.spawn(async move {
                if let Err(error) = this.volume_tell(&host_id, &id).await {
                    tracing::debug!(host_id, volume = id, "a host could not be told now: {}", error.chain());
                }
            });
        });
    }

    /// Has the newest document applied. An error of kind `Conflict` is the host's last word.
    pub(crate) async fn volume_settled(&self, id: &str, limit: Duration, stop: impl Fn() -> bool) -> Result<VolumeStatus> {
        let (host_id, generation) = self.volume_send(id).await?;
        let accept = |host: &str, s: &VolumeStatus| {
            let done = matches!(s.state, VolumeState::Ready | VolumeState::Failed);
            (host == host_id && s.generation >= generation && done).then(|| s.clone())
        };
        let gone = || stop() || !self.core.hosts.is_connected(&host_id);
        match self.statuses.wait(id, limit, accept, gone).await {
            Some(status) if status.state == VolumeState::Failed => {
                let why = status.error.unwrap_or_default();
                Err(Error::new(Kind::Conflict, format!("The host could not carry it out: {why}")))
            }
            Some(status) => Ok(status),
            None if !self.core.hosts.is_connected(&host_id) => Err(Error::unavailable(format!("Host {host_id} is not connected."))),
            None => Err(Error::timeout(format!("Host {host_id} did not report on volume {id} in time."))),
        }
    }

    /// Has a host remove a volume and waits for its word. False: the stored tombstone reaches it later.
    pub(crate) async fn volume_removed(&self, host_id: &str, id: &str, generation: u64, limit: Duration) -> Result<bool> {
        match self.volume_tell(host_id, id).await {
            Err(error) if error.is_transient() => return Ok(false),
            // The host has reported it gone before, and the tombstone went with that.
            Err(error) if error.kind() == Kind::NotFound => return Ok(true),
            told => told.map(drop)?,
        }
        let accept =
            |host: &str, s: &VolumeStatus| (host == host_id && s.generation >= generation && s.state == VolumeState::Absent).then_some(());
        let gone = || !self.core.hosts.is_connected(host_id);
        Ok(self.statuses.wait(id, limit, accept, gone).await.is_some())
    }
}
