//! Volumes in storage that several hosts see, from one of them to another: no byte is copied. The row changes hosts in one transaction with
//! the order to its old host to let go; the new one takes the volume up when that is done, or when the old host is fenced.

use std::time::Duration;

use base::{Error, Result};
use store::Tx;
use task::StepContext;

use crate::Volumes;
use crate::bring::Destination;
use crate::db::hosts::{self, Host};
use crate::db::{attachments, volumes as db};
use crate::model::Volume;

/// How long a host may take to let go, and another to take up: a guest may have to end first.
const PASS: Duration = Duration::from_secs(120);

/// Whether a host sees what a volume is in.
fn sees(host: &Host, volume: &Volume) -> bool {
    volume.storage.is_some() && host.connected && host.info.storage.as_ref().map(|s| &s.id) == volume.storage.as_ref()
}

/// Why a volume in shared storage cannot be passed to a host.
pub(crate) fn obstacle(volume: &Volume, all: &[Host], there: &str) -> Option<String> {
    let id = &volume.id;
    let find = |id: &str| all.iter().find(|host| host.id == id);
    let Some(there) = find(there).filter(|host| sees(host, volume)) else {
        return Some(format!("Volume {id} is in shared storage that the host is not known to see."));
    };
    match volume.host_id.as_deref().and_then(find) {
        _ if volume.doc.launched_at.is_none() => Some(format!("Volume {id} is not made yet.")),
        _ if there.frozen => Some(format!("Host {} is frozen.", there.name)),
        Some(here) if !here.connected && !here.fenced => {
            Some(format!("Volume {id} is kept by host {}, which is neither there nor fenced.", here.name))
        }
        _ => None,
    }
}

impl Volumes {
    /// Whether a volume is where other hosts see it too, and may be passed to them.
    pub fn is_shared_in(&self, tx: &Tx, id: &str) -> Result<bool> {
        Ok(db::volume_fetch_in(tx, id)?.is_some_and(|volume| volume.is_passable()))
    }

    /// Whether a volume could be on a host as far as that sees its storage. One on the disk of a host could be anywhere, once it was brought
    /// there.
    pub fn is_seen_in(&self, tx: &Tx, id: &str, host_id: &str) -> Result<bool> {
        let Some(volume) = db::volume_fetch_in(tx, id)?.filter(|volume| volume.storage.is_some()) else { return Ok(true) };
        Ok(hosts::host_fetch_in(tx, host_id)?.is_some_and(|host| sees(&host, &volume)))
    }

    /// Passes a volume to a host. `certain`: if its old host is fenced, nobody there has it open.
    pub fn pass_in(&self, tx: &Tx, id: &str, to: &Destination, certain: bool) -> Result<()> {
        let mut volume = db::volume_get_in(tx, id)?;
        if volume.host_id.as_ref() == Some(&to.host_id) {
            return Ok(());
        }
        volume.spec_generation += 1;
        volume.migration_status = volume.migration_status.take().map(|_| "success".into());
        self.keeper_change_in(tx, &mut volume, to, certain)?;
        db::volume_update_in(tx, &mut volume)?;
        self.settle_in(tx, &volume)?;
        self.host_tell_after_commit(tx, &to.host_id, id);
        for mut attachment in attachments::attachments_of_in(tx, id)?.into_iter().filter(|attachment| attachment.host.is_some()) {
            attachment.host = Some(to.host.clone());
            attachments::attachment_put_in(tx, &attachment)?;
        }
        Ok(())
    }

    /// Another host's from this generation on, as far as its row goes.
    pub(crate) fn keeper_change_in(&self, tx: &Tx, volume: &mut Volume, to: &Destination, certain: bool) -> Result<()> {
        volume.doc.kept_by = volume.host_id.replace(to.host_id.clone());
        volume.host = Some(to.host.clone());
        volume.doc.seize = false;
        if let Some(old) = volume.doc.kept_by.clone() {
            volume.doc.seize = certain && hosts::host_fetch_in(tx, &old)?.is_some_and(|host| host.fenced);
            db::tombstone_put_in(tx, &old, &volume.id, volume.spec_generation)?;
            self.host_tell_after_commit(tx, &old, &volume.id);
        }
        db::tombstone_drop_in(tx, &to.host_id, &volume.id, volume.spec_generation)
    }

    /// As [`Volumes::volume_bring`], of a volume in shared storage.
    pub(crate) async fn pass(&self, cx: &StepContext, id: &str, to: &Destination, stop: impl Fn() -> bool) -> Result<()> {
        if cx.cancelled() && stop() {
            return Err(Error::conflict(format!("The way of volume {id} to another host was cancelled.")));
        }
        let (this, volume, to, who) = (self.clone(), id.to_string(), to.clone(), cx.resource_id.clone());
        self.core
            .store
            .write(move |tx| {
                let mut now = db::volume_get_in(tx, &volume)?;
                if now.host_id.as_ref() == Some(&to.host_id) {
                    return Ok(());
                }
                if now.migration_status.as_deref() == Some(crate::visits::STARTING) {
                    // Its own operation has said so before it began.
                    now.migration_status = Some("success".into());
                    db::volume_update_in(tx, &mut now)?;
                }
                this.bring_check_in(tx, &volume, &to.host_id, &who)?;
                this.pass_in(tx, &volume, &to, true)
            })
            .await?;
        self.volume_settled(id, PASS, stop).await.map(drop)
    }

    /// A host is fenced, or admitted again. What it was to let go of is taken up without its word, but not what `doubtful` servers (ids)
    /// have, which may run there yet.
    pub fn host_fenced_in(&self, tx: &Tx, host_id: &str, fenced: bool, doubtful: impl Fn(&str) -> Result<bool>) -> Result<()> {
        hosts::host_fence_in(tx, host_id, fenced)?;
        if !fenced {
            return Ok(());
        }
        for mut volume in db::volumes_stored_in(tx)? {
            let (true, Some(to)) = (volume.doc.kept_by.as_deref() == Some(host_id), volume.host_id.clone()) else { continue };
            let mut doubt = false;
            for attachment in attachments::attachments_of_in(tx, &volume.id)? {
                doubt |= attachment.server_id.as_deref().map(&doubtful).transpose()?.unwrap_or(false);
            }
            if volume.doc.seize || doubt {
                continue;
            }
            volume.doc.seize = true;
            volume.spec_generation += 1;
            db::volume_update_in(tx, &mut volume)?;
            self.host_tell_after_commit(tx, &to, &volume.id);
        }
        Ok(())
    }

    /// A volume that is to go while its keeper is fenced becomes another's, which removes it.
    pub(crate) fn inherit_in(&self, tx: &Tx, volume: &mut Volume) -> Result<()> {
        let Some(keeper) = volume.host_id.as_deref().map(|id| hosts::host_fetch_in(tx, id)).transpose()?.flatten() else { return Ok(()) };
        if volume.storage.is_none() || keeper.connected || !keeper.fenced {
            return Ok(());
        }
        let heir = hosts::host_list_in(tx)?.into_iter().find(|host| sees(host, volume));
        heir.map_or(Ok(()), |heir| self.keeper_change_in(tx, volume, &Destination { host_id: heir.id, host: heir.name }, true))
    }
}
