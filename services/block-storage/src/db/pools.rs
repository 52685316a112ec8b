//! Places for volumes as placement knows them.

use base::Result;
use store::{Row, Tx, params};

/// What a place offers by the settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// GiB of volumes for each GiB.
    pub ratio: f64,
    /// Percent of the whole that is kept free.
    pub reserved: u64,
}

impl Terms {
    /// GiB that are kept free of so many.
    pub fn reserved_of(&self, total: u64) -> u64 {
        total.saturating_mul(self.reserved).div_ceil(100)
    }
}

/// A place that placement knows.
#[derive(Clone, Debug)]
pub struct KnownPool {
    /// Of the host whose disk it is, or of the storage that several hosts see.
    pub id: String,
    pub provider: String,
    /// What its inventory was last made of.
    pub terms: Terms,
}

const SELECT: &str = "SELECT id, provider, allocation_ratio, reserved FROM volume_pool";

fn read(r: &Row) -> Result<KnownPool> {
    Ok(KnownPool { id: r.text(0)?, provider: r.text(1)?, terms: Terms { ratio: r.real(2)?, reserved: r.count(3)? } })
}

pub fn pool_fetch_in(tx: &Tx, id: &str) -> Result<Option<KnownPool>> {
    tx.query_opt(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

pub fn pool_list_in(tx: &Tx) -> Result<Vec<KnownPool>> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

pub fn pool_put_in(tx: &Tx, pool: &KnownPool) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_pool (id, provider, allocation_ratio, reserved) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE SET \
         provider = excluded.provider, allocation_ratio = excluded.allocation_ratio, reserved = excluded.reserved",
        params![pool.id, pool.provider, pool.terms.ratio, pool.terms.reserved],
    )
    .map(drop)
}

pub fn pool_drop_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM volume_pool WHERE id = ?1", params![id]).map(drop)
}
