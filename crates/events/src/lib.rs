//! The outbox: every change writes an event in its own transaction, and durable consumers follow them in order.
//!
//! ```no_run
//! use events::{Event, Feed, Priority};
//!
//! # async fn example(store: store::Store, cx: base::Context) -> base::Result<()> {
//! store.migrate("events", events::MIGRATIONS).await?;
//! store
//!     .write(move |tx| {
//!         // ... change the resource ...
//!         events::record(tx, &Event::new("network.create.end", "net-1", &cx).payload(serde_json::json!({"network": {"id": "net-1"}})))
//!     })
//!     .await?;
//!
//! let mut feed = Feed::open(&store, "notifications").await?;
//! let batch = feed.next_batch(100).await?; // waits until there are some
//! for event in &batch {
//!     println!("{}", events::notification(event));
//! }
//! if let Some(last) = batch.last() {
//!     feed.commit(last.seq).await?; // what is not committed comes again after a restart
//! }
//! # Ok(())
//! # }
//! ```

mod feed;
mod notification;

pub use feed::{Feed, forget, prune};
pub use notification::{envelope, notification};

use base::{Context, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Migration, Tx, params};

/// The tables, for `store.migrate("events", events::MIGRATIONS)`.
pub static MIGRATIONS: &[Migration] = &[Migration { name: "0001_events", sql: include_str!("../migrations/0001_events.sql") }];

/// The channel that [`store::Tx::nudge`] wakes for every recorded event.
pub const CHANNEL: &str = "events";

/// How urgent, in the words of oslo.messaging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Priority {
    Audit,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
    Critical,
    Sample,
}

impl Priority {
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Audit => "AUDIT",
            Priority::Debug => "DEBUG",
            Priority::Info => "INFO",
            Priority::Warn => "WARN",
            Priority::Error => "ERROR",
            Priority::Critical => "CRITICAL",
            Priority::Sample => "SAMPLE",
        }
    }
    fn parse(text: &str) -> Result<Self> {
        let all = [Self::Audit, Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Critical, Self::Sample];
        all.into_iter().find(|p| p.as_str() == text).ok_or_else(|| Error::internal(format!("event priority {text:?}")))
    }
}

/// What happened to one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// `compute.instance.create.end`
    pub event_type: String,
    pub project_id: String,
    pub user_id: String,
    pub request_id: String,
    /// The id of the resource.
    pub resource: String,
    pub priority: Priority,
    /// `compute.host1`
    pub publisher: String,
    pub payload: Value,
}

impl Event {
    /// An event about `resource` caused by the caller of `context`; the publisher is the first word of the type.
    pub fn new(event_type: impl Into<String>, resource: impl Into<String>, context: &Context) -> Self {
        let event_type = event_type.into();
        Event {
            publisher: event_type.split('.').next().unwrap_or_default().to_owned(),
            project_id: context.project_id().to_owned(),
            user_id: context.user_id.clone(),
            request_id: context.request_id.clone(),
            resource: resource.into(),
            event_type,
            ..Event::default()
        }
    }
    pub fn payload(mut self, payload: Value) -> Self {
        self.payload = payload;
        self
    }
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
    pub fn publisher(mut self, publisher: impl Into<String>) -> Self {
        self.publisher = publisher.into();
        self
    }
    /// The project the resource belongs to, when it is not the caller's.
    pub fn project(mut self, project_id: impl Into<String>) -> Self {
        self.project_id = project_id.into();
        self
    }
}

/// An event as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Grows in the order in which events became visible, with no later one ever appearing below.
    pub seq: i64,
    pub message_id: String,
    pub recorded_at: Timestamp,
    pub event: Event,
}

/// Stores the event in the caller's transaction and wakes the followers when that is durable. Answers the message id.
///
/// The row is written as the very last thing of the transaction: sequence numbers come from one counter row, whose lock
/// makes number order and commit order the same (a follower that has seen 8 will never find a 7 it missed, which a
/// sequence of PostgreSQL cannot promise). Taken any earlier, that lock would make all writers wait for each other, and
/// deadlock with the locks they take afterwards.
pub fn record(tx: &Tx, event: &Event) -> Result<String> {
    let message_id = base::id::uuid();
    let (event, id) = (event.clone(), message_id.clone());
    tx.before_commit(move |tx| {
        let seq = tx.query_one("UPDATE event_counter SET value = value + 1 WHERE name = 'seq' RETURNING value", &[], |row| row.int(0))?;
        tx.execute(
            "INSERT INTO event (seq, message_id, event_type, project_id, user_id, request_id, resource_id, priority, publisher, payload, \
             recorded_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                seq,
                id,
                event.event_type,
                event.project_id,
                event.user_id,
                event.request_id,
                event.resource,
                event.priority.as_str(),
                event.publisher,
                event.payload,
                Timestamp::now()
            ],
        )?;
        Ok(())
    });
    tx.nudge(CHANNEL);
    Ok(message_id)
}
