//! Host aggregates.

use std::collections::{BTreeMap, HashMap};

use base::{Result, Timestamp};
use store::{Row, Tx, Value, params};

/// The key under which an aggregate's metadata name the availability zone of its hosts.
pub const ZONE_KEY: &str = "availability_zone";

pub type Metadata = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub number: i64,
    /// Also the id of the placement aggregate that mirrors it.
    pub id: String,
    pub name: String,
    pub metadata: Metadata,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    /// Names, in the order they came.
    pub hosts: Vec<String>,
}

impl Aggregate {
    pub fn zone(&self) -> Option<&str> {
        self.metadata.get(ZONE_KEY).map(String::as_str)
    }
}

const COLUMNS: &str = "number, id, name, metadata, created_at, updated_at";

fn row(r: &Row) -> Result<Aggregate> {
    Ok(Aggregate {
        number: r.int(0)?,
        id: r.text(1)?,
        name: r.text(2)?,
        metadata: r.json(3)?,
        created_at: r.time(4)?,
        updated_at: r.opt_time(5)?,
        hosts: Vec::new(),
    })
}

pub fn aggregate_list_in(tx: &Tx) -> Result<Vec<Aggregate>> {
    let mut all = tx.query(&format!("SELECT {COLUMNS} FROM aggregate ORDER BY number"), &[], row)?;
    let rows = tx.query("SELECT number, host FROM aggregate_host ORDER BY number, host", &[], |r| Ok((r.int(0)?, r.text(1)?)))?;
    for (number, host) in rows {
        if let Some(aggregate) = all.iter_mut().find(|a| a.number == number) {
            aggregate.hosts.push(host);
        }
    }
    Ok(all)
}

pub fn aggregate_fetch_in(tx: &Tx, number: i64) -> Result<Option<Aggregate>> {
    let Some(mut aggregate) = tx.query_opt(&format!("SELECT {COLUMNS} FROM aggregate WHERE number = ?1"), params![number], row)? else {
        return Ok(None);
    };
    let sql = "SELECT host FROM aggregate_host WHERE number = ?1 ORDER BY host";
    aggregate.hosts = tx.query(sql, params![number], |r| r.text(0))?;
    Ok(Some(aggregate))
}

/// The aggregates that hold a host.
pub fn aggregates_of_host_in(tx: &Tx, host: &str) -> Result<Vec<Aggregate>> {
    let sql =
        format!("SELECT {COLUMNS} FROM aggregate WHERE number IN (SELECT number FROM aggregate_host WHERE host = ?1) ORDER BY number");
    tx.query(&sql, params![host], row)
}

/// The metadata of all aggregates of each host that is in any.
pub fn metadata_by_host_in(tx: &Tx) -> Result<HashMap<String, Vec<Metadata>>> {
    let sql = "SELECT h.host, a.metadata FROM aggregate_host h JOIN aggregate a ON a.number = h.number";
    let mut by_host: HashMap<String, Vec<Metadata>> = HashMap::new();
    for (host, metadata) in tx.query(sql, &[], |r| Ok((r.text(0)?, r.json(1)?)))? {
        by_host.entry(host).or_default().push(metadata);
    }
    Ok(by_host)
}

/// A number nobody had before, also not an aggregate that is gone.
pub fn aggregate_number_in(tx: &Tx) -> Result<i64> {
    tx.query_one("UPDATE aggregate_number SET last = last + 1 WHERE one = 1 RETURNING last", &[], |r| r.int(0))
}

/// `Exists` when the name is taken.
pub fn aggregate_insert_in(tx: &Tx, a: &Aggregate) -> Result<()> {
    tx.execute(
        "INSERT INTO aggregate (number, id, name, availability_zone, metadata, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![a.number, &a.id, &a.name, a.zone(), Value::json(&a.metadata)?, a.created_at, a.updated_at],
    )
    .map(drop)
}

/// `Exists` when the name is taken.
pub fn aggregate_update_in(tx: &Tx, a: &Aggregate) -> Result<()> {
    tx.execute(
        "UPDATE aggregate SET name = ?2, availability_zone = ?3, metadata = ?4, updated_at = ?5 WHERE number = ?1",
        params![a.number, &a.name, a.zone(), Value::json(&a.metadata)?, a.updated_at],
    )
    .map(drop)
}

pub fn aggregate_delete_in(tx: &Tx, number: i64) -> Result<()> {
    tx.execute("DELETE FROM aggregate WHERE number = ?1", params![number]).map(drop)
}

pub fn aggregate_host_add_in(tx: &Tx, number: i64, host: &str) -> Result<()> {
    tx.execute("INSERT INTO aggregate_host (number, host) VALUES (?1, ?2)", params![number, host]).map(drop)
}

pub fn aggregate_host_remove_in(tx: &Tx, number: i64, host: &str) -> Result<()> {
    tx.execute("DELETE FROM aggregate_host WHERE number = ?1 AND host = ?2", params![number, host]).map(drop)
}

/// Takes a host that is gone out of every aggregate.
pub fn aggregate_host_forget_in(tx: &Tx, host: &str) -> Result<()> {
    tx.execute("DELETE FROM aggregate_host WHERE host = ?1", params![host]).map(drop)
}
