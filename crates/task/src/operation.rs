//! What an operation is made of.

use async_trait::async_trait;
use base::error::Internal;
use base::{Context, Error, Result, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::{Store, Tx};

use crate::db;
use crate::place::Place;

/// A kind of durable operation: named steps, each with its undo. The same value serves all operations of the kind.
///
/// Every step can be run more than once (a crash may come between the work and its record), so `run` looks before it acts,
/// and `undo` may find all, some or nothing of the step's work.
#[async_trait]
pub trait Operation: Send + Sync + 'static {
    /// `compute.server_create`; stored, so never renamed.
    fn kind(&self) -> &'static str;
    /// The names in order; stored, so only changed with care for operations under way.
    fn steps(&self) -> &'static [&'static str];
    /// From submission; when it has passed, the operation is undone.
    fn deadline(&self) -> Duration {
        Duration::from_secs(3600)
    }
    fn retry(&self, _step: &str) -> Retry {
        Retry::default()
    }
    /// Whether the step only computes: then it is not recorded by itself but along with the next one, and runs again after a crash.
    fn pure(&self, _step: &str) -> bool {
        false
    }
    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect>;
    /// Takes the step back. Also called for a step that failed or may have happened in part.
    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect>;
    /// In the transaction that ends the operation without success, all undone: puts the resource in its final error state.
    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()>;
}

/// How a step that fails for a passing reason ([`Error::is_transient`]) is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub most: Duration,
    /// The time for all attempts of the step together, the running one included.
    pub within: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { first: Duration::from_millis(50), most: Duration::from_secs(5), within: Duration::from_secs(300) }
    }
}

impl Retry {
    /// The default pauses, but this much time for the step.
    pub fn within(within: Duration) -> Self {
        Retry { within, ..Retry::default() }
    }
    pub(crate) fn pause(&self, attempt: u32) -> Duration {
        self.first.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(self.most)
    }
}

pub(crate) type Commit = Box<dyn FnOnce(&Tx) -> Result<()> + Send>;

/// What came of a step, and what shall be written in the same transaction as the record of it.
#[derive(Default)]
pub struct Effect {
    pub(crate) output: Value,
    pub(crate) commits: Vec<Commit>,
    pub(crate) next: Next,
}

#[derive(Default)]
pub(crate) enum Next {
    #[default]
    Step,
    Restart(String),
    Finish,
}

impl Effect {
    pub fn none() -> Self {
        Effect::default()
    }
    /// The step's output, for later steps ([`StepContext::output`]) and for its undo.
    pub fn with(output: impl Serialize) -> Self {
        // What cannot be written as JSON shows as a missing output in the step that asks for it.
        Effect { output: serde_json::to_value(output).unwrap_or(Value::Null), ..Effect::default() }
    }
    /// Adds rows to the transaction that records the step. When it fails, the step has failed.
    pub fn commit(mut self, f: impl FnOnce(&Tx) -> Result<()> + Send + 'static) -> Self {
        self.commits.push(Box::new(f));
        self
    }
    /// Undoes this step and all before it back to and with `step`, then goes on from there. What those steps had put out
    /// is kept for [`StepContext::excluded`], so that `step` can choose otherwise.
    pub fn restart_from(step: impl Into<String>) -> Self {
        Effect { next: Next::Restart(step.into()), ..Effect::default() }
    }
    /// The operation is done; the remaining steps are not run.
    pub fn finish_early() -> Self {
        Effect { next: Next::Finish, ..Effect::default() }
    }
    pub(crate) fn apply(self, tx: &Tx) -> Result<()> {
        self.commits.into_iter().try_for_each(|commit| commit(tx))
    }
}

/// What a step is told.
#[derive(Clone)]
pub struct StepContext {
    pub operation_id: String,
    pub resource_kind: String,
    pub resource_id: String,
    pub project_id: String,
    pub params: Value,
    /// The caller's.
    pub context: Context,
    /// Counts from 1 for each step; attempts before a crash are not counted.
    pub attempt: u32,
    /// When the operation has to be finished.
    pub deadline: Timestamp,
    pub(crate) journal: Journal,
    pub(crate) cancel: Arc<AtomicBool>,
    pub(crate) fence: db::Fence,
    pub(crate) store: Store,
    pub(crate) place: Place,
}

/// The stored progress of an operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// Names and outputs of the finished steps, in order.
    #[serde(default)]
    pub done: Vec<(String, Value)>,
    /// Outputs that a restart has thrown away, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<(String, Value)>,
    #[serde(default)]
    pub restarts: u32,
    /// While undoing: why, and what is still to be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Undo {
    /// Steps yet to undo, the next one last.
    pub steps: Vec<String>,
    /// Go on from here afterwards; None: the operation ends.
    pub restart: Option<String>,
    pub cancelled: bool,
    pub error: Option<Failure>,
}

/// An error as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub kind: String,
    pub message: String,
    pub detail: String,
}

impl StepContext {
    /// The operation's parameters.
    pub fn param<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.params).internal("reading the operation's parameters")
    }
    /// What an earlier step (or, in `undo`, this one) has put out.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<T> {
        self.opt_output(step)?.ok_or_else(|| Error::internal(format!("step {step} has no output")))
    }
    /// Like [`StepContext::output`]; None when the step was not finished or put nothing out. For `undo`.
    pub fn opt_output<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>> {
        match self.journal.done.iter().find(|(name, _)| name == step) {
            Some((_, value)) if !value.is_null() => T::deserialize(value).internal("reading a step's output").map(Some),
            _ => Ok(None),
        }
    }
    /// What `step` had put out each time before a restart ([`Effect::restart_from`]) took it back.
    pub fn excluded<T: DeserializeOwned>(&self, step: &str) -> Result<Vec<T>> {
        let mine = self.journal.excluded.iter().filter(|(name, value)| name == step && !value.is_null());
        mine.map(|(_, value)| T::deserialize(value).internal("reading an excluded output")).collect()
    }
    /// How often the operation has been restarted by [`Effect::restart_from`].
    pub fn restarts(&self) -> u32 {
        self.journal.restarts
    }
    /// Whether the operation is to be cancelled: a long step may stop early with an error.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
    /// Awaits what takes as long as a guest or a person likes, and leaves the step's place to others meanwhile.
    pub async fn aside<T>(&self, awaited: impl Future<Output = T>) -> Result<T> {
        self.place.leave();
        let outcome = awaited.await;
        self.place.enter().await?;
        Ok(outcome)
    }
    /// Shows how far the operation is, from 0 to 100.
    pub async fn progress(&self, percent: u8) -> Result<()> {
        let fence = self.fence.clone();
        let percent = percent.min(100);
        self.store.write(move |tx| db::progress(tx, &fence, percent)).await
    }
}
