//! Hosts: what they keep is told to them whenever they come, and what they say of volumes is taken in.

use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Kind, Result};
use rpc::message::{HostInfo, ToController, ToHost};
use rpc::session::Said;
use rpc::volume::{VolumeSource, VolumeSpec, VolumeState, VolumeStatus};
use service::HostListener;
use store::Tx;

use crate::Volumes;
use crate::db::{hosts, snapshots, volumes as db};
use crate::model::Volume;

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
            Said::Message(_) => Ok(()),
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
        source: volume.doc.source.clone().unwrap_or(VolumeSource::Blank),
        snapshots: kept.into_iter().filter(|s| KEPT.contains(&s.status.as_str())).map(|s| s.id).collect(),
        revert: volume.doc.revert.clone(),
        exports: volume.doc.exports.clone(),
    })
}

impl Volumes {
    async fn host_take(&self, info: &HostInfo) -> Result<()> {
        if !info.volumes {
            return Ok(());
        }
        let info = info.clone();
        self.core.store.write(move |tx| hosts::host_put_in(tx, &info)).await
    }

    async fn documents_send(&self, host_id: &str) -> Result<()> {
        let (documents, gone) = self
            .core
            .store
            .read(|tx| {
                let mut documents = Vec::new();
                // One that is not made yet is told by the operation that makes it.
                for volume in db::volumes_on_host_in(tx, host_id)?.iter().filter(|v| v.doc.launched_at.is_some()) {
                    documents.push(document_in(tx, volume)?);
                }
                Ok((documents, db::tombstone_list_in(tx, host_id)?))
            })
            .await?;
        // One that is being deleted is not told to be there.
        let gone_here = |id: &str| gone.iter().any(|(g, _)| g == id);
        for document in documents.into_iter().filter(|d| !gone_here(&d.id)) {
            self.core.hosts.send(host_id, ToHost::Volume(Box::new(document))).await?;
        }
        for (id, generation) in gone {
            self.core.hosts.send(host_id, ToHost::Volume(Box::new(rpc::volume::absent(&id, generation)))).await?;
        }
        Ok(())
    }

    /// What a host says of a volume that no operation waits for.
    async fn status_take(&self, host_id: &str, status: &VolumeStatus) -> Result<()> {
        let id = status.id.clone();
        if status.state == VolumeState::Absent {
            let (host_id, volume) = (host_id.to_string(), id.clone());
            self.core.store.write(move |tx| db::tombstone_drop_in(tx, &host_id, &volume)).await?;
            self.statuses.forget(&id);
            return Ok(());
        }
        let known = self.core.store.read(|tx| db::volume_fetch_in(tx, &id)).await?;
        if known.is_some_and(|v| v.host_id.as_deref() == Some(host_id)) {
            return Ok(());
        }
        // It outlived its volume here: nothing is left over.
        let generation = status.generation + 1;
        let (host, volume) = (host_id.to_string(), id.clone());
        self.core.store.write(move |tx| db::tombstone_put_in(tx, &host, &volume, generation)).await?;
        self.core.hosts.send(host_id, ToHost::Volume(Box::new(rpc::volume::absent(&id, generation)))).await
    }

    /// Sends a volume's document as it stands to its host; answers host and generation.
    pub(crate) async fn volume_send(&self, id: &str) -> Result<(String, u64)> {
        let (host_id, document) = self
            .core
            .store
            .read(|tx| {
                let volume = db::volume_get_in(tx, id)?;
                let host_id = volume.host_id.clone().ok_or_else(|| Error::conflict(format!("Volume {id} has no host.")))?;
                Ok((host_id, document_in(tx, &volume)?))
            })
            .await?;
        let generation = document.generation;
        self.core.hosts.send(&host_id, ToHost::Volume(Box::new(document))).await?;
        Ok((host_id, generation))
    }

    /// Sends a volume's document as soon as the transaction is durable. When that fails, the host's next session does.
    pub(crate) fn tell_after_commit(&self, tx: &Tx, id: &str) {
        let (this, id, runtime) = (self.clone(), id.to_string(), self.runtime.clone());
        tx.after_commit(move || {
            runtime.spawn(async move {
                if let Err(error) = this.volume_send(&id).await {
                    tracing::debug!(volume = id, "a document could not be sent now: {}", error.chain());
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
        let document = ToHost::Volume(Box::new(rpc::volume::absent(id, generation)));
        match self.core.hosts.send(host_id, document).await {
            Err(error) if error.is_transient() => return Ok(false),
            other => other?,
        }
        let accept =
            |host: &str, s: &VolumeStatus| (host == host_id && s.generation >= generation && s.state == VolumeState::Absent).then_some(());
        let gone = || !self.core.hosts.is_connected(host_id);
        Ok(self.statuses.wait(id, limit, accept, gone).await.is_some())
    }
}
