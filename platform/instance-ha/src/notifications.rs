//! Notifications of failures: taking one in.

use base::{Error, Kind, Result, Timestamp};
use serde_json::{Value, json};
use store::Tx;

use crate::InstanceHa;
use crate::db::{self, Host, Listed, Notification};

pub const KINDS: &[&str] = &["COMPUTE_HOST", "VM", "PROCESS"];
pub const STATUSES: &[&str] = &["new", "running", "error", "failed", "ignored", "finished"];
/// Statuses of one that is worked on.
pub const OPEN: &[&str] = &["new", "running"];
/// The same said again within this time, in microseconds, is one notification (upstream's default).
const AGAIN: i64 = 180 * 1_000_000;

/// What a monitor says.
#[derive(Clone, Debug)]
pub struct New {
    pub kind: String,
    pub hostname: String,
    pub generated_time: Timestamp,
    pub payload: Value,
}

pub fn notification_get_in(tx: &Tx, uuid: &str) -> Result<Notification> {
    Notification::fetch_in(tx, uuid)?.ok_or_else(|| Error::new(Kind::NotFound, format!("No notification with id {uuid}.")))
}

/// Notes a failure of a host in a segment.
pub fn notify_in(tx: &Tx, host: &Host, new: New) -> Result<Notification> {
    let mut notification = Notification {
        uuid: base::id::uuid(),
        id: 0,
        segment_uuid: host.segment_uuid.clone(),
        source_host_uuid: host.uuid.clone(),
        hostname: host.name.clone(),
        kind: new.kind,
        generated_time: new.generated_time,
        payload: new.payload,
        status: "new".into(),
        message: None,
        details: json!([]),
        created_at: Timestamp::now(),
        updated_at: None,
    };
    db::notification_put_in(tx, &mut notification)?;
    Ok(notification)
}

fn is_said_already_in(tx: &Tx, host: &Host, new: &New) -> Result<bool> {
    let since = Timestamp(new.generated_time.micros().saturating_sub(AGAIN));
    let same = Notification::select().eq("source_host_uuid", &host.uuid).eq("type", &new.kind).ge("generated_time", since);
    Ok(same.fetch(tx, Notification::read)?.iter().any(|before| before.payload == new.payload))
}

impl InstanceHa {
    pub async fn notification_create(&self, new: New) -> Result<Notification> {
        let this = self.clone();
        self.core
            .store
            .write(move |tx| {
                let unknown = || Error::invalid(format!("Host with name {} could not be found.", new.hostname));
                let host = db::host_by_name_in(tx, &new.hostname)?.ok_or_else(unknown)?;
                let refused = |why: &str| Error::conflict(format!("Notification received from host {} of type {why}", host.name));
                if host.on_maintenance {
                    return Err(refused(&format!("'{}' is ignored as the host is already under maintenance.", new.kind)));
                }
                if is_said_already_in(tx, &host, &new)? {
                    return Err(refused(&format!("{} is duplicate.", new.kind)));
                }
                let notification = notify_in(tx, &host, new)?;
                this.recovery.nudge_after_commit(tx);
                Ok(notification)
            })
            .await
    }
}
