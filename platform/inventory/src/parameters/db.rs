//! Rows of service parameters.

use base::{Result, Timestamp};
use store::{Row, Tx, params};

#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub uuid: String,
    pub service: String,
    pub section: String,
    pub name: String,
    /// What was written down; empty: its default.
    pub value: String,
    /// What holds.
    pub applied: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

const COLUMNS: &str = "uuid, service, section, name, value, applied, created_at, updated_at";

fn parameter_row(r: &Row) -> Result<Parameter> {
    Ok(Parameter {
        uuid: r.text(0)?,
        service: r.text(1)?,
        section: r.text(2)?,
        name: r.text(3)?,
        value: r.text(4)?,
        applied: r.text(5)?,
        created_at: r.time(6)?,
        updated_at: r.time(7)?,
    })
}

pub fn parameters_in(tx: &Tx) -> Result<Vec<Parameter>> {
    tx.query(&format!("SELECT {COLUMNS} FROM service_parameter ORDER BY service, section, name"), &[], parameter_row)
}

pub fn parameter_in(tx: &Tx, uuid: &str) -> Result<Option<Parameter>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM service_parameter WHERE uuid = ?1"), params![uuid], parameter_row)
}

pub fn parameter_applied_in(tx: &Tx, service: &str, section: &str, name: &str) -> Result<Option<String>> {
    let sql = "SELECT applied FROM service_parameter WHERE service = ?1 AND section = ?2 AND name = ?3";
    tx.query_opt(sql, params![service, section, name], |r| r.text(0))
}

/// One that is there stays as it is.
pub fn parameter_add_in(tx: &Tx, service: &str, section: &str, name: &str) -> Result<()> {
    let now = Timestamp::now();
    tx.execute(
        &format!("INSERT INTO service_parameter ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, '', '', ?5, ?6) ON CONFLICT (service, section, name) DO NOTHING"),
        params![base::id::uuid(), service, section, name, now, now],
    )
    .map(drop)
}

pub fn parameter_put_in(tx: &Tx, parameter: &mut Parameter) -> Result<()> {
    parameter.updated_at = Timestamp::now();
    tx.execute(
        "UPDATE service_parameter SET value = ?2, applied = ?3, updated_at = ?4 WHERE uuid = ?1",
        params![&parameter.uuid, &parameter.value, &parameter.applied, parameter.updated_at],
    )
    .map(drop)
}
