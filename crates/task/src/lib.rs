//! Durable operations and reconcilers.
//!
//! Whatever takes longer than one transaction is an [`Operation`]: named steps, each with an undo, recorded in the store.
//! It is submitted in the transaction of the API call and survives every crash from there on.
//!
//! ```no_run
//! use async_trait::async_trait;
//! use base::{Context, Error, Result};
//! use std::sync::Arc;
//! use store::{Tx, params};
//! use task::{Effect, Engine, New, Operation, StepContext};
//!
//! struct VolumeCreate;
//!
//! #[async_trait]
//! impl Operation for VolumeCreate {
//!     fn kind(&self) -> &'static str {
//!         "volume.create"
//!     }
//!     fn steps(&self) -> &'static [&'static str] {
//!         &["allocate", "format"]
//!     }
//!     async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
//!         let id = cx.resource_id.clone();
//!         Ok(match step {
//!             "allocate" => Effect::with(format!("/volumes/{id}")),
//!             _ => {
//!                 let path: String = cx.output("allocate")?;
//!                 tracing::debug!(path, "formatting");
//!                 // Written in the transaction that records the step.
//!                 Effect::none().commit(move |tx| tx.execute("UPDATE volume SET status = 'available' WHERE id = ?1", params![id]).map(drop))
//!             }
//!         })
//!     }
//!     async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
//!         let path: Option<String> = cx.opt_output(step)?;
//!         tracing::debug!(path, "removing, if it is there");
//!         Ok(Effect::none())
//!     }
//!     fn failed(&self, tx: &Tx, cx: &StepContext, _error: &Error) -> Result<()> {
//!         tx.execute("UPDATE volume SET status = 'error' WHERE id = ?1", params![cx.resource_id]).map(drop)
//!     }
//! }
//!
//! # async fn example(store: store::Store, context: Context) -> Result<()> {
//! store.migrate("task", task::MIGRATIONS).await?;
//! let engine = Engine::new(store.clone(), "controller-0");
//! engine.register(Arc::new(VolumeCreate));
//! engine.start().await?;
//! let submitter = engine.clone();
//! let operation = store
//!     .write(move |tx| {
//!         // ... insert the volume ...
//!         submitter.submit(tx, New::new("volume.create", "volume", "vol-1").project("p1").context(context))
//!     })
//!     .await?;
//! engine.wait(&operation, std::time::Duration::from_secs(10)).await?;
//! engine.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Operations of one resource run strictly one after the other in the order of submission; different resources run at the
//! same time. A [`Reconciler`] takes no input: it compares what is wanted with what is, and repairs. Test every operation
//! with [`testing::four_runs`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod db;
mod engine;
mod operation;
mod place;
mod reconcile;
mod run;
pub mod testing;

pub use engine::Engine;
pub use operation::{Effect, Operation, Retry, StepContext};
pub use reconcile::{Nudge, Reconciler, nudge_here, nudge_in};

use base::{Context, Timestamp};
use serde_json::Value;
use store::Migration;

/// The tables, for `store.migrate("task", task::MIGRATIONS)`.
pub static MIGRATIONS: &[Migration] = &[Migration { name: "0001_operations", sql: include_str!("../migrations/0001_operations.sql") }];

/// An operation to be submitted.
#[derive(Clone, Debug, Default)]
pub struct New {
    pub kind: String,
    pub resource_kind: String,
    pub resource_id: String,
    pub project_id: String,
    pub params: Value,
    pub context: Context,
}

impl New {
    #[allow(clippy::self_named_constructors)]
    pub fn new(kind: impl Into<String>, resource_kind: impl Into<String>, resource_id: impl Into<String>) -> Self {
        New { kind: kind.into(), resource_kind: resource_kind.into(), resource_id: resource_id.into(), ..New::default() }
    }
    pub fn project(mut self, project_id: impl Into<String>) -> Self {
        self.project_id = project_id.into();
        self
    }
    pub fn params(mut self, params: Value) -> Self {
        self.params = params;
        self
    }
    pub fn context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Pending,
    Running,
    Undoing,
    Done,
    Failed,
    Cancelled,
}

impl State {
    pub const ALL: [State; 6] = [State::Pending, State::Running, State::Undoing, State::Done, State::Failed, State::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Running => "running",
            State::Undoing => "undoing",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
    pub fn is_final(self) -> bool {
        matches!(self, State::Done | State::Failed | State::Cancelled)
    }
    pub fn parse(text: &str) -> Option<Self> {
        State::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// An operation as it can be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationView {
    pub id: String,
    pub kind: String,
    pub resource_kind: String,
    pub resource_id: String,
    pub project_id: String,
    pub state: State,
    /// The last step that was begun or undone on record.
    pub step: String,
    pub progress: u8,
    pub cancel: bool,
    /// The public message of the error that ended it.
    pub error: Option<String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub updated_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// The controller that runs or ran it.
    pub owner: Option<String>,
}

/// Which operations to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub kind: Option<String>,
    pub resource_kind: Option<String>,
    pub resource_id: Option<String>,
    pub project_id: Option<String>,
    pub state: Option<State>,
    /// Only those that are not over.
    pub open: bool,
    /// Behind this one: its creation time and id.
    pub after: Option<(Timestamp, String)>,
    pub limit: Option<u64>,
}
