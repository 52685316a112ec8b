//! Which providers have changed, since when: what the index in memory follows.
//!
//! Every write of a provider, of what it has or of what is used of it is noted in its own transaction. As there is one writer at a
//! time (decision 0009), versions are in the order of commits: who has seen version n has missed nothing up to n.

use base::Result;
use store::{Tx, params};

/// Notes that a provider has changed, come or gone.
pub fn note_in(tx: &Tx, provider: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO provider_change (provider, version) VALUES (?1, (SELECT COALESCE(MAX(version), 0) + 1 FROM provider_change)) \
         ON CONFLICT (provider) DO UPDATE SET version = excluded.version",
        params![provider],
    )
    .map(drop)
}

/// The version of everything, as this transaction sees it.
pub fn version_in(tx: &Tx) -> Result<i64> {
    tx.query_one("SELECT COALESCE(MAX(version), 0) FROM provider_change", params![], |r| r.int(0))
}

/// The providers that have changed after a version.
pub fn since_in(tx: &Tx, version: i64) -> Result<Vec<String>> {
    tx.query("SELECT provider FROM provider_change WHERE version > ?1", params![version], |r| r.text(0))
}
