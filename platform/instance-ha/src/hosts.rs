//! Hosts of segments: what may be done with one.

use base::{Error, Kind, Result, Timestamp};
use store::Tx;

use crate::InstanceHa;
use crate::db::{self, Host, Listed, Segment};
use crate::segments::{is_recovering_in, segment_get_in};

/// What a host is to be; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub name: Option<String>,
    pub kind: Option<Option<String>>,
    pub control_attributes: Option<Option<String>>,
    pub reserved: Option<bool>,
    pub on_maintenance: Option<bool>,
}

/// A host of that segment, with it.
pub fn host_get_in(tx: &Tx, segment_uuid: &str, uuid: &str) -> Result<(Host, Segment)> {
    let segment = segment_get_in(tx, segment_uuid)?;
    let host = Host::fetch_in(tx, uuid)?.filter(|host| host.segment_uuid == segment.uuid);
    Ok((host.ok_or_else(|| Error::new(Kind::NotFound, format!("No host with id {uuid}.")))?, segment))
}

impl InstanceHa {
    /// A host's name is that of a host of the cloud, and in no other segment.
    fn name_fits_in(&self, tx: &Tx, name: &str) -> Result<()> {
        if !self.inventory.hosts_in(tx)?.iter().any(|host| host.hostname == name) {
            return Err(Error::invalid(format!("Compute service with name {name} could not be found.")));
        }
        match db::host_by_name_in(tx, name)? {
            None => Ok(()),
            Some(_) => Err(Error::conflict(format!("Host with name {name} already exists."))),
        }
    }

    pub async fn host_create(&self, segment_uuid: &str, change: Change) -> Result<(Host, Segment)> {
        let (this, segment_uuid) = (self.clone(), segment_uuid.to_string());
        self.core
            .store
            .write(move |tx| {
                let segment = segment_get_in(tx, &segment_uuid)?;
                let mut host = Host {
                    uuid: base::id::uuid(),
                    id: 0,
                    segment_uuid,
                    name: change.name.unwrap_or_default(),
                    kind: change.kind.flatten(),
                    control_attributes: change.control_attributes.flatten(),
                    reserved: change.reserved.unwrap_or(false),
                    on_maintenance: change.on_maintenance.unwrap_or(false),
                    noticed: false,
                    created_at: Timestamp::now(),
                    updated_at: None,
                };
                this.name_fits_in(tx, &host.name)?;
                db::host_put_in(tx, &mut host)?;
                Ok((host, segment))
            })
            .await
    }

    pub async fn host_update(&self, segment_uuid: &str, uuid: &str, change: Change) -> Result<(Host, Segment)> {
        let (this, segment_uuid, uuid) = (self.clone(), segment_uuid.to_string(), uuid.to_string());
        self.core
            .store
            .write(move |tx| {
                let (mut host, segment) = host_get_in(tx, &segment_uuid, &uuid)?;
                if is_recovering_in(tx, &segment_uuid)? {
                    return Err(Error::conflict(format!("Host {uuid} can't be updated as it is in-use to process notifications.")));
                }
                if let Some(name) = change.name.filter(|name| *name != host.name) {
                    this.name_fits_in(tx, &name)?;
                    (host.name, host.noticed) = (name, false);
                }
                host.kind = change.kind.unwrap_or(host.kind);
                host.control_attributes = change.control_attributes.unwrap_or(host.control_attributes);
                host.reserved = change.reserved.unwrap_or(host.reserved);
                host.on_maintenance = change.on_maintenance.unwrap_or(host.on_maintenance);
                host.updated_at = Some(Timestamp::now());
                db::host_put_in(tx, &mut host)?;
                Ok((host, segment))
            })
            .await
    }

    pub async fn host_delete(&self, segment_uuid: &str, uuid: &str) -> Result<()> {
        let (segment_uuid, uuid) = (segment_uuid.to_string(), uuid.to_string());
        self.core
            .store
            .write(move |tx| {
                let (host, _) = host_get_in(tx, &segment_uuid, &uuid)?;
                if is_recovering_in(tx, &segment_uuid)? {
                    return Err(Error::conflict(format!("Host {uuid} can't be deleted as it is in-use to process notifications.")));
                }
                Host::delete_in(tx, &host.uuid)
            })
            .await
    }
}
