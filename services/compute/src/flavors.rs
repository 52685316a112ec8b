//! Flavors: the sizes servers come in.

use std::collections::BTreeMap;

use base::{Result, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Row, Tx, params};

/// A stored flavor. `id` is what users call `flavorid`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flavor {
    pub id: String,
    pub name: String,
    pub vcpus: u32,
    pub memory_mb: u64,
    pub root_gb: u64,
    pub ephemeral_gb: u64,
    pub swap_mb: u64,
    pub is_public: bool,
    pub disabled: bool,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    #[serde(flatten)]
    pub doc: FlavorDoc,
}

/// What of a flavor is neither searched nor sorted by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlavorDoc {
    pub description: Option<String>,
    #[serde(default)]
    pub extra_specs: BTreeMap<String, String>,
    #[serde(default)]
    pub rxtx_factor: Option<f64>,
}

/// The columns [`flavor_row`] reads, in order.
pub const FLAVOR_COLUMNS: &str =
    "id, name, vcpus, memory_mb, root_gb, ephemeral_gb, swap_mb, is_public, disabled, created_at, updated_at, doc";

pub fn flavor_row(row: &Row) -> Result<Flavor> {
    Ok(Flavor {
        id: row.text(0)?,
        name: row.text(1)?,
        vcpus: u32::try_from(row.count(2)?).unwrap_or(u32::MAX),
        memory_mb: row.count(3)?,
        root_gb: row.count(4)?,
        ephemeral_gb: row.count(5)?,
        swap_mb: row.count(6)?,
        is_public: row.flag(7)?,
        disabled: row.flag(8)?,
        created_at: row.time(9)?,
        updated_at: row.opt_time(10)?,
        doc: row.json(11)?,
    })
}

/// The flavor with this flavor id, whoever may see it.
pub fn flavor_fetch_in(tx: &Tx, id: &str) -> Result<Option<Flavor>> {
    tx.query_opt(&format!("SELECT {FLAVOR_COLUMNS} FROM flavor WHERE id = ?1"), params![id], flavor_row)
}

/// Whether `project_id` may use a flavor that is not public.
pub fn flavor_access_has_in(tx: &Tx, flavor_id: &str, project_id: &str) -> Result<bool> {
    let found =
        tx.query_opt("SELECT 1 FROM flavor_access WHERE flavor_id = ?1 AND project_id = ?2", params![flavor_id, project_id], |r| r.int(0))?;
    Ok(found.is_some())
}

pub fn flavor_insert_in(tx: &Tx, flavor: &Flavor) -> Result<()> {
    tx.execute(
        "INSERT INTO flavor (id, name, vcpus, memory_mb, root_gb, ephemeral_gb, swap_mb, is_public, disabled, created_at, updated_at, doc) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            &flavor.id,
            &flavor.name,
            flavor.vcpus,
            flavor.memory_mb,
            flavor.root_gb,
            flavor.ephemeral_gb,
            flavor.swap_mb,
            flavor.is_public,
            flavor.disabled,
            flavor.created_at,
            flavor.updated_at,
            store::Value::json(&flavor.doc)?
        ],
    )?;
    Ok(())
}
