//! Following the events, with or without a durable cursor.

use base::{Result, Timestamp};
use std::time::Duration;
use store::{Row, Store, Watch, params};

use crate::{CHANNEL, Event, Priority, Recorded};

/// How long a follower waits at most before it looks again by itself, in case a nudge from another controller was lost.
const LOOK: Duration = Duration::from_secs(5);

/// One consumer's place in the events.
pub struct Feed {
    store: Store,
    /// None: lives and dies with this value.
    consumer: Option<String>,
    position: i64,
    watch: Watch,
}

impl Feed {
    /// The durable cursor of `consumer`; a new one starts at the oldest event that is kept.
    pub async fn open(store: &Store, consumer: &str) -> Result<Feed> {
        let watch = store.watch(CHANNEL);
        let name = consumer.to_owned();
        let position = store
            .write(move |tx| {
                tx.execute(
                    "INSERT INTO event_cursor (consumer, position, updated_at) VALUES (?1, 0, ?2) ON CONFLICT (consumer) DO NOTHING",
                    params![name, Timestamp::now()],
                )?;
                tx.query_one("SELECT position FROM event_cursor WHERE consumer = ?1", params![name], |row| row.int(0))
            })
            .await?;
        Ok(Feed { store: store.clone(), consumer: Some(consumer.to_owned()), position, watch })
    }

    /// As [`Feed::open`], but a new consumer starts now: what was before is not its business.
    pub async fn open_new(store: &Store, consumer: &str) -> Result<Feed> {
        let name = consumer.to_owned();
        let known = "SELECT 1 FROM event_cursor WHERE consumer = ?1";
        if store.read(|tx| tx.query_opt(known, params![name], |_| Ok(()))).await?.is_none() {
            store
                .write(move |tx| {
                    tx.execute(
                        "INSERT INTO event_cursor (consumer, position, updated_at) \
                         VALUES (?1, (SELECT value FROM event_counter WHERE name = 'seq'), ?2) ON CONFLICT (consumer) DO NOTHING",
                        params![name, Timestamp::now()],
                    )
                })
                .await?;
        }
        Feed::open(store, consumer).await
    }

    /// Follows from behind `position` and leaves no trace; none when that is not possible because events behind it are gone, or
    /// it never was.
    pub async fn after(store: &Store, position: i64) -> Result<Option<Feed>> {
        let watch = store.watch(CHANNEL);
        let sql = "SELECT value, (SELECT MIN(seq) FROM event) FROM event_counter WHERE name = 'seq'";
        let (newest, oldest) = store.read(|tx| tx.query_one(sql, &[], |row| Ok((row.int(0)?, row.opt_int(1)?)))).await?;
        let whole = position <= newest && position + 1 >= oldest.unwrap_or(newest + 1);
        Ok(whole.then(|| Feed { store: store.clone(), consumer: None, position, watch }))
    }

    /// Follows from now on and leaves no trace: for caches and live views.
    pub async fn live(store: &Store) -> Result<Feed> {
        let watch = store.watch(CHANNEL);
        let position = store.read(|tx| tx.query_one("SELECT value FROM event_counter WHERE name = 'seq'", &[], |row| row.int(0))).await?;
        Ok(Feed { store: store.clone(), consumer: None, position, watch })
    }

    /// The sequence number up to which everything is committed.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The oldest events behind the position, at most `limit`; none when there are none. The same ones again until
    /// [`Feed::commit`].
    pub async fn next(&self, limit: u64) -> Result<Vec<Recorded>> {
        self.store
            .read(|tx| {
                tx.query(
                    "SELECT seq, message_id, event_type, project_id, user_id, request_id, resource_id, priority, publisher, payload, \
                     recorded_at FROM event WHERE seq > ?1 ORDER BY seq LIMIT ?2",
                    params![self.position, limit],
                    recorded,
                )
            })
            .await
    }

    /// Like [`Feed::next`], but waits until there is at least one.
    pub async fn next_batch(&mut self, limit: u64) -> Result<Vec<Recorded>> {
        loop {
            let batch = self.next(limit.max(1)).await?;
            if !batch.is_empty() {
                return Ok(batch);
            }
            self.wait().await;
        }
    }

    /// Everything up to this sequence number is dealt with.
    pub async fn commit(&mut self, up_to: i64) -> Result<()> {
        if let Some(consumer) = self.consumer.clone() {
            self.store
                .write(move |tx| {
                    tx.execute(
                        "UPDATE event_cursor SET position = ?2, updated_at = ?3 WHERE consumer = ?1 AND position < ?2",
                        params![consumer, up_to, Timestamp::now()],
                    )
                })
                .await?;
        }
        self.position = self.position.max(up_to);
        Ok(())
    }

    /// Returns when something may have been recorded since the last wait.
    pub async fn wait(&mut self) {
        // Running into the time limit is as good as a nudge.
        let _ = tokio::time::timeout(LOOK, self.watch.wait()).await;
    }
}

/// Deletes a consumer's cursor, so that it no longer keeps events from being pruned.
pub async fn forget(store: &Store, consumer: &str) -> Result<()> {
    let known = "SELECT 1 FROM event_cursor WHERE consumer = ?1";
    if store.read(|tx| tx.query_opt(known, params![consumer], |_| Ok(()))).await?.is_none() {
        return Ok(());
    }
    let consumer = consumer.to_owned();
    store.write(move |tx| tx.execute("DELETE FROM event_cursor WHERE consumer = ?1", params![consumer])).await?;
    Ok(())
}

/// Deletes events older than `keep` that every durable consumer has passed; answers how many.
pub async fn prune(store: &Store, keep: Duration) -> Result<u64> {
    let keep = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
    let before = Timestamp(Timestamp::now().micros().saturating_sub(keep));
    store
        .write(move |tx| {
            tx.execute(
                "DELETE FROM event WHERE recorded_at < ?1 \
                 AND seq <= COALESCE((SELECT MIN(position) FROM event_cursor), (SELECT value FROM event_counter WHERE name = 'seq'))",
                params![before],
            )
        })
        .await
}

fn recorded(row: &Row) -> Result<Recorded> {
    Ok(Recorded {
        seq: row.int(0)?,
        message_id: row.text(1)?,
        event: Event {
            event_type: row.text(2)?,
            project_id: row.text(3)?,
            user_id: row.text(4)?,
            request_id: row.text(5)?,
            resource: row.text(6)?,
            priority: Priority::parse(&row.text(7)?)?,
            publisher: row.text(8)?,
            payload: row.json(9)?,
        },
        recorded_at: row.time(10)?,
    })
}
