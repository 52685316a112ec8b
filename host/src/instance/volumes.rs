//! A guest's volumes: while its process runs, what is plugged in follows the document.

use std::sync::Arc;
use std::time::Duration;

use base::{Error, Result};
use rpc::instance::{DiskSource, InstanceSpec, InstanceState, Power};

use super::{Instance, Next};
use crate::hypervisor::{Machine, RunState, command, disk_name, volumes};

/// Pause between attempts, each of which waits for the guest to let go of a volume.
const AGAIN: Duration = Duration::from_millis(100);

/// The volumes a document names, in its order.
pub fn wanted(spec: &InstanceSpec) -> Vec<String> {
    let volume = |source: &DiskSource| match source {
        DiskSource::Volume { id, .. } => Some(id.clone()),
        _ => None,
    };
    spec.disks.iter().filter_map(|disk| volume(&disk.source)).collect()
}

impl Instance {
    /// The process is gone: nobody has its volumes open.
    pub(super) fn volumes_released(&mut self) {
        self.plugged.clear();
        self.shared.volumes.release(&self.id);
    }

    pub(super) async fn volumes_adopted(&mut self, machine: &Arc<dyn Machine>) -> Result<()> {
        self.plugged = machine.volumes().await?.into_iter().collect();
        self.shared.volumes.adopted(&self.id, machine, &self.plugged);
        Ok(())
    }

    /// Plugs in or takes out one volume, if that is to be done. None: nothing is.
    pub(super) async fn volumes_step(&mut self, spec: &Arc<InstanceSpec>, state: RunState) -> Result<Option<Next>> {
        let runs = matches!(state, RunState::Running | RunState::Paused | RunState::IoError);
        let stays = matches!(spec.power, Power::Running | Power::Paused) && spec.boot <= self.journal.boot && self.journal.ending.is_none();
        let Some(machine) = self.machine.clone().filter(|_| runs && stays) else { return Ok(None) };
        let wanted = wanted(spec);
        if let Some(id) = self.plugged.iter().find(|id| !wanted.contains(id)).cloned() {
            return self.volume_out(spec, &machine, &id).await.map(Some);
        }
        let missing = spec.disks.iter().find(|disk| match &disk.source {
            DiskSource::Volume { id, .. } => !self.plugged.contains(id),
            _ => false,
        });
        let (Some(disk), Some(id)) = (missing, wanted.iter().find(|id| !self.plugged.contains(*id)).cloned()) else { return Ok(None) };
        let claims = self.shared.volumes.claim(&self.id, std::slice::from_ref(&id), false).await?;
        let (_, stack) = claims.volumes.first().ok_or_else(|| Error::internal("a claim without a volume"))?;
        let Some(slot) = self.journal.slots.take(&disk_name(disk)) else {
            return Err(Error::conflict("the guest has no free slot for a volume"));
        };
        // Written down first: after a crash it is known what the process may have, and where.
        self.journal.volumes.insert(id.clone());
        self.write().await?;
        let plugged = machine.volume_plug(disk, &id, stack, command::bus(&spec.machine.kind, slot).as_deref()).await;
        if plugged.is_err() {
            // Whether it is in is unknown.
            self.volumes_adopted(&machine).await?;
            plugged?;
        }
        self.plugged.insert(id);
        self.shared.volumes.adopted(&self.id, &machine, &self.plugged);
        Ok(Some(Next::Again))
    }

    async fn volume_out(&mut self, spec: &Arc<InstanceSpec>, machine: &Arc<dyn Machine>, id: &str) -> Result<Next> {
        if machine.volume_unplug(id).await? {
            self.plugged.remove(id);
            self.shared.volumes.adopted(&self.id, machine, &self.plugged);
            self.journal.volumes.clone_from(&self.plugged);
            self.journal.slots.taken.remove(&volumes::device(id));
            self.write().await?;
            return Ok(Next::Again);
        }
        let state = if spec.power == Power::Paused { InstanceState::Paused } else { InstanceState::Running };
        self.report(spec, state, Some(format!("the guest has not let go of volume {id} yet")));
        self.wait(Some(base::Timestamp::now().plus(AGAIN))).await;
        Ok(Next::Again)
    }
}
