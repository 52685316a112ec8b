//! The processors that a guest has for itself, and where its threads run.

use base::Result;
use rpc::instance::InstanceSpec;

use super::Instance;
use crate::cpus::{Affinity, owners};

impl Instance {
    /// Takes for the guest's next process what it is to have, and tells where its threads go. The caller writes the journal.
    pub(super) fn pins_claim(&mut self, spec: &InstanceSpec) -> Result<Option<Affinity>> {
        self.journal.pins = self.shared.cpus.claim(spec, &self.journal.pins)?;
        Ok(self.shared.cpus.affinity(spec, &self.journal.pins))
    }

    /// The threads of the process are there. What the guest had more is free.
    pub(super) fn pins_kept(&mut self, affinity: Option<Affinity>) {
        self.shared.cpus.keep(&self.id, &self.journal.pins);
        self.affinity = affinity;
    }

    /// Whether the process' threads run where the document wants them.
    pub(super) fn pinned(&self, spec: &InstanceSpec) -> bool {
        self.journal.pins.keys().copied().eq(owners(spec)) && self.affinity == self.shared.cpus.affinity(spec, &self.journal.pins)
    }

    /// Puts the threads of a process that runs where they are to be. When they cannot be there, the guest goes on where it is.
    pub(super) async fn pin(&mut self, spec: &InstanceSpec) -> Result<()> {
        let Some(machine) = self.machine.clone() else { return Ok(()) };
        let affinity = match self.pins_claim(spec) {
            Ok(affinity) => affinity,
            Err(e) => {
                tracing::warn!(instance = self.id, "{}", e.chain());
                self.not_pinned = Some((spec.generation, e.chain()));
                return Ok(());
            }
        };
        // Before its threads are there: whoever takes up the guest after a crash must not give them to others.
        self.write().await?;
        if let Some(affinity) = &affinity {
            machine.pin(affinity).await?;
        }
        self.pins_kept(affinity);
        Ok(())
    }
}
