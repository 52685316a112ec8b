//! Bringing tables up to date.

use base::error::Internal;
use base::{Error, Result, Timestamp};

use crate::{Tx, params};

/// One numbered, append-only step of a service's schema: plain SQL that both backends understand.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// `0001_networks`: four digits give the order.
    pub name: &'static str,
    /// Statements, each ending with `;`.
    pub sql: &'static str,
}

pub(crate) fn run(tx: &Tx, service: &str, migrations: &[Migration]) -> Result<()> {
    tx.lock("store/migration")?;
    tx.batch(
        "CREATE TABLE IF NOT EXISTS migration (service TEXT NOT NULL, place BIGINT NOT NULL, name TEXT NOT NULL, applied_at BIGINT NOT NULL, \
         PRIMARY KEY (service, place))",
    )?;
    let done = tx.query("SELECT name FROM migration WHERE service = ?1 ORDER BY place", params![service], |row| row.text(0))?;
    for (place, name) in done.iter().enumerate() {
        match migrations.get(place) {
            Some(m) if m.name == name => {}
            Some(m) => {
                return Err(Error::internal(format!(
                    "{service}: the database has migration {name} at place {place}, this program has {}: migrations may only be appended",
                    m.name
                )));
            }
            None => {
                return Err(Error::internal(format!(
                    "{service}: the database has migration {name}, which this program does not know: it is older than the database"
                )));
            }
        }
    }
    for (place, migration) in migrations.iter().enumerate().skip(done.len()) {
        tx.batch(migration.sql).internal(&format!("{service}: migration {}", migration.name))?;
        tx.execute(
            "INSERT INTO migration (service, place, name, applied_at) VALUES (?1, ?2, ?3, ?4)",
            params![service, place, migration.name, Timestamp::now()],
        )?;
        tracing::debug!(service, migration = migration.name, "migrated");
    }
    Ok(())
}
