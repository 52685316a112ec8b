//! Rows of segments, their hosts, notifications and moves.

use base::{Error, Result, Timestamp};
use serde_json::Value;
use store::{Row, Select, Tx, params};

/// Hosts that stand in for each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    pub uuid: String,
    pub id: i64,
    pub name: String,
    pub description: Option<String>,
    /// One of [`crate::segments::METHODS`].
    pub recovery_method: String,
    pub service_type: String,
    /// Notifications of one that is not are ignored.
    pub enabled: bool,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// A host in a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    pub uuid: String,
    pub id: i64,
    pub segment_uuid: String,
    pub name: String,
    pub kind: Option<String>,
    pub control_attributes: Option<String>,
    /// Kept free to take what others lose.
    pub reserved: bool,
    pub on_maintenance: bool,
    /// Its present loss has a notification.
    pub noticed: bool,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// A failure that was told of.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    pub uuid: String,
    pub id: i64,
    pub segment_uuid: String,
    pub source_host_uuid: String,
    pub hostname: String,
    /// `COMPUTE_HOST`, `VM`, `PROCESS`.
    pub kind: String,
    pub generated_time: Timestamp,
    pub payload: Value,
    /// One of [`crate::notifications::STATUSES`].
    pub status: String,
    pub message: Option<String>,
    pub details: Value,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// What became of one instance of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    pub uuid: String,
    pub id: i64,
    pub notification_uuid: String,
    pub instance_uuid: String,
    pub instance_name: String,
    pub source_host: String,
    pub dest_host: Option<String>,
    pub start_time: Option<Timestamp>,
    pub end_time: Option<Timestamp>,
    pub kind: String,
    /// `pending`, `ongoing`, `ignored`, `failed`, `succeeded`.
    pub status: String,
    pub message: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// A table whose rows have a uuid and a number, either of which is a marker of its lists.
pub trait Listed: Sized {
    const TABLE: &'static str;
    const COLUMNS: &'static str;
    fn read(row: &Row) -> Result<Self>;

    /// All columns, for conditions to be added.
    fn select() -> Select {
        Select::new(format!("SELECT {} FROM {}", Self::COLUMNS, Self::TABLE))
    }
    fn fetch_in(tx: &Tx, uuid: &str) -> Result<Option<Self>> {
        tx.query_opt(&format!("SELECT {} FROM {} WHERE uuid = ?1", Self::COLUMNS, Self::TABLE), params![uuid], Self::read)
    }
    /// The values of these columns in the row that a marker names.
    fn marker_in(tx: &Tx, marker: &str, columns: &[&str]) -> Result<Vec<store::Value>> {
        let select = Select::new(format!("SELECT {} FROM {}", columns.join(", "), Self::TABLE));
        let select = match marker.parse::<i64>() {
            Ok(id) => select.eq("id", id),
            Err(_) => select.eq("uuid", marker),
        };
        let mut found = select.fetch(tx, |row| (0..columns.len()).map(|place| row.value(place)).collect::<Result<Vec<_>>>())?;
        found.pop().ok_or_else(|| Error::invalid(format!("Marker {marker} could not be found.")))
    }
    fn delete_in(tx: &Tx, uuid: &str) -> Result<()> {
        tx.execute(&format!("DELETE FROM {} WHERE uuid = ?1", Self::TABLE), params![uuid]).map(drop)
    }
}

/// The next number of a table's rows.
fn number_in(tx: &Tx, table: &str) -> Result<i64> {
    tx.lock("instance-ha")?;
    tx.query_one(&format!("SELECT COALESCE(MAX(id), 0) + 1 FROM {table}"), &[], |r| r.int(0))
}

impl Listed for Segment {
    const TABLE: &'static str = "ha_segment";
    const COLUMNS: &'static str = "uuid, id, name, description, recovery_method, service_type, enabled, created_at, updated_at";
    fn read(r: &Row) -> Result<Segment> {
        Ok(Segment {
            uuid: r.text(0)?,
            id: r.int(1)?,
            name: r.text(2)?,
            description: r.opt_text(3)?,
            recovery_method: r.text(4)?,
            service_type: r.text(5)?,
            enabled: r.flag(6)?,
            created_at: r.time(7)?,
            updated_at: r.opt_time(8)?,
        })
    }
}

impl Listed for Host {
    const TABLE: &'static str = "ha_host";
    const COLUMNS: &'static str =
        "uuid, id, segment_uuid, name, type, control_attributes, reserved, on_maintenance, noticed, created_at, updated_at";
    fn read(r: &Row) -> Result<Host> {
        Ok(Host {
            uuid: r.text(0)?,
            id: r.int(1)?,
            segment_uuid: r.text(2)?,
            name: r.text(3)?,
            kind: r.opt_text(4)?,
            control_attributes: r.opt_text(5)?,
            reserved: r.flag(6)?,
            on_maintenance: r.flag(7)?,
            noticed: r.flag(8)?,
            created_at: r.time(9)?,
            updated_at: r.opt_time(10)?,
        })
    }
}

impl Listed for Notification {
    const TABLE: &'static str = "ha_notification";
    const COLUMNS: &'static str = "uuid, id, segment_uuid, source_host_uuid, hostname, type, generated_time, payload, status, message, \
         details, created_at, updated_at";
    fn read(r: &Row) -> Result<Notification> {
        Ok(Notification {
            uuid: r.text(0)?,
            id: r.int(1)?,
            segment_uuid: r.text(2)?,
            source_host_uuid: r.text(3)?,
            hostname: r.text(4)?,
            kind: r.text(5)?,
            generated_time: r.time(6)?,
            payload: r.json(7)?,
            status: r.text(8)?,
            message: r.opt_text(9)?,
            details: r.json(10)?,
            created_at: r.time(11)?,
            updated_at: r.opt_time(12)?,
        })
    }
}

impl Listed for Move {
    const TABLE: &'static str = "ha_vmove";
    const COLUMNS: &'static str = "uuid, id, notification_uuid, instance_uuid, instance_name, source_host, dest_host, start_time, end_time, type, \
         status, message, created_at, updated_at";
    fn read(r: &Row) -> Result<Move> {
        Ok(Move {
            uuid: r.text(0)?,
            id: r.int(1)?,
            notification_uuid: r.text(2)?,
            instance_uuid: r.text(3)?,
            instance_name: r.text(4)?,
            source_host: r.text(5)?,
            dest_host: r.opt_text(6)?,
            start_time: r.opt_time(7)?,
            end_time: r.opt_time(8)?,
            kind: r.text(9)?,
            status: r.text(10)?,
            message: r.opt_text(11)?,
            created_at: r.time(12)?,
            updated_at: r.opt_time(13)?,
        })
    }
}

/// Writes a segment whole; a new one (number 0) gets its number.
pub fn segment_put_in(tx: &Tx, segment: &mut Segment) -> Result<()> {
    if segment.id == 0 {
        segment.id = number_in(tx, Segment::TABLE)?;
    }
    tx.execute(
        &format!(
            "INSERT INTO ha_segment ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (uuid) DO UPDATE SET name = excluded.name, \
             description = excluded.description, recovery_method = excluded.recovery_method, service_type = excluded.service_type, \
             enabled = excluded.enabled, updated_at = excluded.updated_at",
            Segment::COLUMNS
        ),
        params![
            &segment.uuid,
            segment.id,
            &segment.name,
            segment.description.clone(),
            &segment.recovery_method,
            &segment.service_type,
            segment.enabled,
            segment.created_at,
            segment.updated_at
        ],
    )
    .map(drop)
}

/// As [`segment_put_in`].
pub fn host_put_in(tx: &Tx, host: &mut Host) -> Result<()> {
    if host.id == 0 {
        host.id = number_in(tx, Host::TABLE)?;
    }
    tx.execute(
        &format!(
            "INSERT INTO ha_host ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (uuid) DO UPDATE SET \
             name = excluded.name, type = excluded.type, control_attributes = excluded.control_attributes, reserved = excluded.reserved, \
             on_maintenance = excluded.on_maintenance, noticed = excluded.noticed, updated_at = excluded.updated_at",
            Host::COLUMNS
        ),
        params![
            &host.uuid,
            host.id,
            &host.segment_uuid,
            &host.name,
            host.kind.clone(),
            host.control_attributes.clone(),
            host.reserved,
            host.on_maintenance,
            host.noticed,
            host.created_at,
            host.updated_at
        ],
    )
    .map(drop)
}

/// As [`segment_put_in`]; of one that is there only what came of it is written.
pub fn notification_put_in(tx: &Tx, notification: &mut Notification) -> Result<()> {
    if notification.id == 0 {
        notification.id = number_in(tx, Notification::TABLE)?;
    }
    tx.execute(
        &format!(
            "INSERT INTO ha_notification ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT (uuid) DO UPDATE SET \
             status = excluded.status, message = excluded.message, details = excluded.details, updated_at = excluded.updated_at",
            Notification::COLUMNS
        ),
        params![
            &notification.uuid,
            notification.id,
            &notification.segment_uuid,
            &notification.source_host_uuid,
            &notification.hostname,
            &notification.kind,
            notification.generated_time,
            notification.payload.to_string(),
            &notification.status,
            notification.message.clone(),
            notification.details.to_string(),
            notification.created_at,
            notification.updated_at
        ],
    )
    .map(drop)
}

/// As [`segment_put_in`].
pub fn move_put_in(tx: &Tx, vmove: &mut Move) -> Result<()> {
    if vmove.id == 0 {
        vmove.id = number_in(tx, Move::TABLE)?;
    }
    tx.execute(
        &format!(
            "INSERT INTO ha_vmove ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT (uuid) DO UPDATE SET \
             dest_host = excluded.dest_host, start_time = excluded.start_time, end_time = excluded.end_time, status = excluded.status, \
             message = excluded.message, updated_at = excluded.updated_at",
            Move::COLUMNS
        ),
        params![
            &vmove.uuid,
            vmove.id,
            &vmove.notification_uuid,
            &vmove.instance_uuid,
            &vmove.instance_name,
            &vmove.source_host,
            vmove.dest_host.clone(),
            vmove.start_time,
            vmove.end_time,
            &vmove.kind,
            &vmove.status,
            vmove.message.clone(),
            vmove.created_at,
            vmove.updated_at
        ],
    )
    .map(drop)
}

pub fn host_by_name_in(tx: &Tx, name: &str) -> Result<Option<Host>> {
    Ok(Host::select().eq("name", name).fetch(tx, Host::read)?.pop())
}

pub fn hosts_of_in(tx: &Tx, segment_uuid: &str) -> Result<Vec<Host>> {
    Host::select().eq("segment_uuid", segment_uuid).order(&[("id", store::Dir::Asc)]).fetch(tx, Host::read)
}

pub fn moves_of_in(tx: &Tx, notification_uuid: &str) -> Result<Vec<Move>> {
    Move::select().eq("notification_uuid", notification_uuid).order(&[("id", store::Dir::Asc)]).fetch(tx, Move::read)
}
