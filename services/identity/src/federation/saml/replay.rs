//! An assertion counts once.

use base::{Result, Timestamp};
use sha2::Digest;
use store::{Tx, params};

use super::response::Said;
use crate::fault;

/// One use of an assertion.
#[derive(Clone, Debug)]
pub struct Use {
    id: String,
    ends_at: Timestamp,
}

impl Use {
    pub fn of(entity_id: &str, said: &Said) -> Use {
        let digest = sha2::Sha256::digest(format!("{entity_id}\n{}", said.id));
        Use { id: digest.iter().map(|byte| format!("{byte:02x}")).collect(), ends_at: said.ends_at }
    }
}

/// `Unauthenticated` the second time, on whichever controller.
pub fn assertion_use_in(tx: &Tx, once: &Use) -> Result<()> {
    let sql = "INSERT INTO saml_assertion_use (id, ends_at) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING";
    if tx.execute(sql, params![&once.id, once.ends_at])? == 0 {
        tracing::info!("an assertion is not believed: it was brought before");
        return Err(fault::unauthorized());
    }
    Ok(())
}

/// Forgets those that nobody would take any more; how many there were.
pub fn assertion_uses_prune_in(tx: &Tx) -> Result<u64> {
    tx.execute("DELETE FROM saml_assertion_use WHERE ends_at < ?1", params![Timestamp::now()])
}
