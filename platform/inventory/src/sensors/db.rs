//! Rows of sensors and of their groups.

use base::{Result, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Row, Tx, params};

use super::{Action, Actions};

/// Sensors of one host that measure the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub uuid: String,
    pub host_id: String,
    pub name: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub doc: GroupDoc,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupDoc {
    /// What is measured.
    pub kind: String,
    /// Its sensors are not watched.
    pub disabled: bool,
    pub suppress: bool,
    /// Seconds between readings.
    pub interval: u32,
    pub actions: Actions,
}

impl Default for GroupDoc {
    fn default() -> GroupDoc {
        GroupDoc { kind: String::new(), disabled: false, suppress: false, interval: super::INTERVAL, actions: Actions::default() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sensor {
    pub uuid: String,
    pub host_id: String,
    pub group_id: String,
    pub name: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub doc: SensorDoc,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SensorDoc {
    pub kind: String,
    pub unit: String,
    pub reading: Option<f64>,
    /// In the words of [`bmc::Status`].
    pub status: String,
    /// Seen once, and acted on when it is seen again.
    pub pending: Option<String>,
    /// Readings in a row without it.
    pub missing: u32,
    /// It is not watched.
    pub disabled: bool,
    pub suppress: bool,
    /// What is done at present about its status.
    pub acted: Option<Action>,
    /// Lower: critical, major, minor; upper: minor, major, critical.
    pub thresholds: [Option<f64>; 6],
}

fn group_row(r: &Row) -> Result<Group> {
    Ok(Group { uuid: r.text(0)?, host_id: r.text(1)?, name: r.text(2)?, created_at: r.time(3)?, updated_at: r.time(4)?, doc: r.json(5)? })
}

fn sensor_row(r: &Row) -> Result<Sensor> {
    Ok(Sensor {
        uuid: r.text(0)?,
        host_id: r.text(1)?,
        group_id: r.text(2)?,
        name: r.text(3)?,
        created_at: r.time(4)?,
        updated_at: r.time(5)?,
        doc: r.json(6)?,
    })
}

const GROUP: &str = "SELECT uuid, host_id, name, created_at, updated_at, doc FROM sensor_group";
const SENSOR: &str = "SELECT uuid, host_id, group_id, name, created_at, updated_at, doc FROM sensor";

/// Of one host, or of all.
pub fn groups_in(tx: &Tx, host_id: Option<&str>) -> Result<Vec<Group>> {
    match host_id {
        Some(id) => tx.query(&format!("{GROUP} WHERE host_id = ?1 ORDER BY name, uuid"), params![id], group_row),
        None => tx.query(&format!("{GROUP} ORDER BY host_id, name, uuid"), &[], group_row),
    }
}

pub fn group_in(tx: &Tx, uuid: &str) -> Result<Option<Group>> {
    tx.query_opt(&format!("{GROUP} WHERE uuid = ?1"), params![uuid], group_row)
}

pub fn sensors_in(tx: &Tx, host_id: Option<&str>) -> Result<Vec<Sensor>> {
    match host_id {
        Some(id) => tx.query(&format!("{SENSOR} WHERE host_id = ?1 ORDER BY name, uuid"), params![id], sensor_row),
        None => tx.query(&format!("{SENSOR} ORDER BY host_id, name, uuid"), &[], sensor_row),
    }
}

pub fn sensor_in(tx: &Tx, uuid: &str) -> Result<Option<Sensor>> {
    tx.query_opt(&format!("{SENSOR} WHERE uuid = ?1"), params![uuid], sensor_row)
}

fn text(doc: &impl Serialize) -> Result<String> {
    serde_json::to_string(doc).map_err(|e| base::Error::internal("writing a sensor").caused_by(e))
}

pub fn group_put_in(tx: &Tx, group: &mut Group) -> Result<()> {
    group.updated_at = Timestamp::now();
    tx.execute(
        "INSERT INTO sensor_group (uuid, host_id, name, created_at, updated_at, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (uuid) DO UPDATE SET updated_at = excluded.updated_at, doc = excluded.doc",
        params![&group.uuid, &group.host_id, &group.name, group.created_at, group.updated_at, text(&group.doc)?],
    )
    .map(drop)
}

pub fn sensor_put_in(tx: &Tx, sensor: &mut Sensor) -> Result<()> {
    sensor.updated_at = Timestamp::now();
    tx.execute(
        "INSERT INTO sensor (uuid, host_id, group_id, name, created_at, updated_at, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (uuid) DO UPDATE SET updated_at = excluded.updated_at, doc = excluded.doc",
        params![&sensor.uuid, &sensor.host_id, &sensor.group_id, &sensor.name, sensor.created_at, sensor.updated_at, text(&sensor.doc)?],
    )
    .map(drop)
}

pub fn sensors_forget_in(tx: &Tx, host_id: &str) -> Result<()> {
    tx.execute("DELETE FROM sensor WHERE host_id = ?1", params![host_id]).map(drop)
}

pub fn groups_forget_in(tx: &Tx, host_id: &str) -> Result<()> {
    tx.execute("DELETE FROM sensor_group WHERE host_id = ?1", params![host_id]).map(drop)
}
