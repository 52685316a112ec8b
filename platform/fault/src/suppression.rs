//! What is kept from an operator's eyes: whole alarm ids, and the entities that a pattern names.

use std::time::Duration;

use async_trait::async_trait;
use base::{Result, Timestamp};
use store::{Store, Tx, escape_like, params};
use task::Reconciler;

/// Later than everything: a suppression without an end.
const NEVER: i64 = i64::MAX;

/// SQL for when the suppression of an alarm ends, in microseconds; 0: it is not suppressed. `id` and `entity` are columns or
/// parameters; a suppression by entity counts only where `also` holds.
pub(crate) fn hidden_until(id: &str, entity: &str, also: &str) -> String {
    format!(
        "CASE WHEN EXISTS (SELECT 1 FROM event_suppression s WHERE s.alarm_id = {id} AND s.suppressed = 1) THEN {NEVER} ELSE
         COALESCE((SELECT MAX(COALESCE(p.expires_at, {NEVER})) FROM entity_suppression p WHERE p.alarm_id IN ('', {id}) AND {also}
             AND ({entity} LIKE p.likeness ESCAPE '\\' OR {entity} LIKE p.likeness || '.%' ESCAPE '\\'
                 OR {entity} LIKE p.likeness || ',%' ESCAPE '\\')), 0) END"
    )
}

/// Whether an event that happens now is suppressed. Logs are not by their entity: there is no condition that anybody waits for to end.
pub(crate) fn hidden_in(tx: &Tx, alarm_id: &str, entity: &str, state: &str) -> Result<bool> {
    let also = if state == "log" { "1 = 0" } else { "1 = 1" };
    let sql = format!("SELECT {}", hidden_until("?1", "?2", also));
    Ok(tx.query_one(&sql, params![alarm_id, entity], |row| row.int(0))? > Timestamp::now().micros())
}

/// The pattern as SQL's LIKE has it: `*` stands for any text, every other character for itself.
pub(crate) fn likeness(pattern: &str) -> String {
    escape_like(pattern).replace('*', "%")
}

/// Deletes suppressions that have ended. Lists and traps heed the end to the microsecond; this is for the gauges, and for order.
pub(crate) struct Expiry {
    pub store: Store,
}

#[async_trait]
impl Reconciler for Expiry {
    fn name(&self) -> &'static str {
        "fault.suppression"
    }
    fn every(&self) -> Duration {
        Duration::from_secs(10)
    }
    async fn run(&self) -> Result<()> {
        let now = Timestamp::now();
        let sql = "SELECT entity_pattern FROM entity_suppression WHERE expires_at <= ?1";
        let ended = self.store.read(move |tx| tx.query(sql, params![now], |row| row.text(0))).await?;
        if ended.is_empty() {
            return Ok(());
        }
        tracing::info!(entities = ?ended, "suppressions have ended");
        let delete = move |tx: &Tx| {
            tx.execute("DELETE FROM entity_suppression WHERE expires_at <= ?1", params![now])?;
            task::nudge_in(tx, crate::gauges::NAME);
            Ok(())
        };
        self.store.write(delete).await
    }
}

#[cfg(test)]
mod tests {
    use super::likeness;

    #[test]
    fn only_the_asterisk_stands_for_others() {
        assert_eq!(likeness("host=c_1*.port=%\\"), "host=c\\_1%.port=\\%\\\\");
    }
}
