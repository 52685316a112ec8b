//! Failover segments: what may be done with one.

use base::{Error, Kind, Result, Timestamp};
use store::{Select, Tx};

use crate::InstanceHa;
use crate::db::{self, Host, Listed, Notification, Segment};
use crate::notifications::OPEN;

pub const METHODS: &[&str] = &["auto", "reserved_host", "auto_priority", "rh_priority"];

/// What a segment is to be; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub recovery_method: Option<String>,
    pub service_type: Option<String>,
    pub enabled: Option<bool>,
}

pub fn segment_get_in(tx: &Tx, uuid: &str) -> Result<Segment> {
    Segment::fetch_in(tx, uuid)?.ok_or_else(|| Error::new(Kind::NotFound, format!("No failover segment with id {uuid}.")))
}

/// Whether a notification of one of a segment's hosts is being worked on: until its end nothing of the segment changes.
pub fn is_recovering_in(tx: &Tx, uuid: &str) -> Result<bool> {
    let open = Notification::select().eq("segment_uuid", uuid).in_list("status", OPEN.iter().copied()).limit(1);
    Ok(!open.fetch(tx, Notification::read)?.is_empty())
}

fn name_is_free_in(tx: &Tx, name: &str) -> Result<()> {
    match Segment::select().eq("name", name).fetch(tx, Segment::read)?.is_empty() {
        true => Ok(()),
        false => Err(Error::conflict(format!("Failover segment with name {name} already exists."))),
    }
}

impl InstanceHa {
    pub async fn segment_create(&self, change: Change) -> Result<Segment> {
        self.core
            .store
            .write(move |tx| {
                let mut segment = Segment {
                    uuid: base::id::uuid(),
                    id: 0,
                    name: change.name.unwrap_or_default(),
                    description: change.description.flatten(),
                    recovery_method: change.recovery_method.unwrap_or_default(),
                    service_type: change.service_type.unwrap_or_default(),
                    enabled: change.enabled.unwrap_or(true),
                    created_at: Timestamp::now(),
                    updated_at: None,
                };
                name_is_free_in(tx, &segment.name)?;
                db::segment_put_in(tx, &mut segment)?;
                Ok(segment)
            })
            .await
    }

    pub async fn segment_update(&self, uuid: &str, change: Change) -> Result<Segment> {
        let uuid = uuid.to_string();
        self.core
            .store
            .write(move |tx| {
                let mut segment = segment_get_in(tx, &uuid)?;
                if is_recovering_in(tx, &uuid)? {
                    let why = format!("Failover segment {uuid} can't be updated as it is in-use to process notifications.");
                    return Err(Error::conflict(why));
                }
                if let Some(name) = change.name.filter(|name| *name != segment.name) {
                    name_is_free_in(tx, &name)?;
                    segment.name = name;
                }
                segment.description = change.description.unwrap_or(segment.description);
                segment.recovery_method = change.recovery_method.unwrap_or(segment.recovery_method);
                segment.service_type = change.service_type.unwrap_or(segment.service_type);
                segment.enabled = change.enabled.unwrap_or(segment.enabled);
                segment.updated_at = Some(Timestamp::now());
                db::segment_put_in(tx, &mut segment)?;
                Ok(segment)
            })
            .await
    }

    /// With its hosts.
    pub async fn segment_delete(&self, uuid: &str) -> Result<()> {
        let uuid = uuid.to_string();
        self.core
            .store
            .write(move |tx| {
                segment_get_in(tx, &uuid)?;
                if is_recovering_in(tx, &uuid)? {
                    let why = format!("Failover segment ({uuid}) can't be deleted as it is in-use to process notifications.");
                    return Err(Error::conflict(why));
                }
                for host in db::hosts_of_in(tx, &uuid)? {
                    Host::delete_in(tx, &host.uuid)?;
                }
                Segment::delete_in(tx, &uuid)
            })
            .await
    }

    /// A page of a table.
    pub(crate) async fn list<T: Listed + Send + 'static>(&self, page: Listing) -> Result<Vec<T>> {
        self.core.store.read(|tx| page.apply::<T>(tx)?.fetch(tx, T::read)).await
    }
}

/// Which rows, in what order, from where.
pub struct Listing {
    pub select: Select,
    pub order: Vec<(&'static str, store::Dir)>,
    pub marker: Option<String>,
    pub limit: u64,
}

impl Listing {
    fn apply<T: Listed>(&self, tx: &Tx) -> Result<Select> {
        let select = self.select.clone().order(&self.order).limit(self.limit);
        let Some(marker) = &self.marker else { return Ok(select) };
        let columns: Vec<&str> = self.order.iter().map(|(column, _)| *column).collect();
        Ok(select.after(T::marker_in(tx, marker, &columns)?))
    }
}
