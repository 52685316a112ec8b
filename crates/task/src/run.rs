//! Running one operation, from wherever its journal says it is.

use base::{Error, Kind, Result, Timestamp};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::db::{self, Claimed};
use crate::engine::Shared;
use crate::operation::{Effect, Failure, Journal, Next, Undo};
use crate::place::Place;
use crate::{Operation, Retry, State, StepContext};

/// How an undo is tried again: longer than a step, because what it leaves behind nobody else takes away at once.
const UNDO: Retry = Retry { first: Duration::from_millis(50), most: Duration::from_secs(30), within: Duration::from_secs(3600) };
/// How often an undo is tried that fails for a reason that will not pass by itself.
const UNDO_ATTEMPTS: u32 = 5;

struct Run {
    shared: Arc<Shared>,
    operation: Arc<dyn Operation>,
    claimed: Claimed,
    cancel: Arc<AtomicBool>,
    journal: Journal,
    /// The next step may have happened in part, before a crash.
    resumed: bool,
}

enum End {
    /// Over, and here is the next one of the resource.
    Over(Option<Box<Claimed>>),
    /// The engine stops.
    Paused,
}

pub(crate) async fn operation(shared: Arc<Shared>, operation: Arc<dyn Operation>, claimed: Claimed, cancel: Arc<AtomicBool>) {
    let fence = claimed.fence.clone();
    let (journal, resumed) = (claimed.journal.clone(), claimed.resumed);
    let mut run = Run { shared: shared.clone(), operation, claimed, cancel, journal, resumed };
    match run.drive().await {
        Ok(End::Over(next)) => {
            shared.ended(&fence.id);
            if let Some(next) = next {
                shared.enqueue(*next);
            }
        }
        Ok(End::Paused) => {
            let id = fence.id.clone();
            if let Err(error) = shared.store.write(move |tx| db::release(tx, &fence)).await {
                tracing::warn!(operation = id, error = %error.chain(), "giving an operation back");
            }
            shared.left(&id);
        }
        Err(error) => {
            tracing::warn!(operation = fence.id, error = %error.chain(), "leaving an operation");
            shared.left(&fence.id);
        }
    }
}

impl Run {
    async fn drive(&mut self) -> Result<End> {
        loop {
            let end = if self.journal.undo.is_some() { self.undo().await? } else { self.forward().await? };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Runs the next step; None when there is more to do.
    async fn forward(&mut self) -> Result<Option<End>> {
        let steps = self.operation.steps();
        let at = steps.iter().position(|s| !self.journal.done.iter().any(|(name, _)| name == s)).unwrap_or(steps.len());
        let Some(step) = steps.get(at).copied() else {
            return self.finish(Effect::none(), "", self.journal.clone()).await.map(Some);
        };
        let retry = self.operation.retry(step);
        let begun = Instant::now();
        let mut attempt = 0;
        let error = loop {
            if self.stopping() {
                return Ok(Some(End::Paused));
            }
            // A step that was not begun needs no undo.
            let through = if attempt > 0 || self.resumed { at + 1 } else { at };
            if self.cancel.load(Ordering::SeqCst) {
                let error = Error::conflict("The operation was cancelled.");
                self.turn(&error, true, &steps[..through], step).await?;
                return Ok(None);
            }
            let left = self.claimed.deadline.since(Timestamp::now());
            if left.is_zero() {
                let error = Error::timeout("The operation did not finish in time.");
                self.turn(&error, false, &steps[..through], step).await?;
                return Ok(None);
            }
            attempt += 1;
            let left = left.min(retry.within.saturating_sub(begun.elapsed()).max(retry.first));
            match self.attempt(step, attempt, left).await {
                Ok(end) => {
                    self.resumed = false;
                    return Ok(end);
                }
                Err(error) if error.name() == Some(db::LOST) => return Err(error),
                Err(error) => {
                    let pause = retry.pause(attempt);
                    if !error.is_transient() || begun.elapsed() + pause >= retry.within {
                        break error;
                    }
                    tracing::debug!(operation = self.claimed.fence.id, step, attempt, error = %error.chain(), "a step is tried again");
                    self.pause(pause).await;
                }
            }
        };
        // A step that ends early because it was asked to has been cancelled, whatever its error says.
        let cancelled = self.cancel.load(Ordering::SeqCst);
        self.turn(&error, cancelled, &steps[..=at], step).await?;
        Ok(None)
    }

    /// One attempt of a step with its record. An error leaves the journal as it was.
    async fn attempt(&mut self, step: &'static str, attempt: u32, left: Duration) -> Result<Option<End>> {
        let cx = self.context(attempt);
        cx.place.enter().await?;
        let ran = guarded(self.operation.run(&cx, step), left).await;
        cx.place.leave();
        let mut effect = ran?;
        let steps = self.operation.steps();
        let mut journal = self.journal.clone();
        match std::mem::take(&mut effect.next) {
            Next::Restart(to) => {
                let at = steps.iter().position(|s| *s == step).unwrap_or_default();
                let from = steps.iter().take(at + 1).position(|s| *s == to);
                let from = from.ok_or_else(|| Error::internal(format!("step {step} cannot restart from {to}")))?;
                let undo = steps.iter().take(at + 1).skip(from).map(|s| (*s).to_owned()).collect();
                journal.undo = Some(Undo { steps: undo, restart: Some(to), cancelled: false, error: None });
                self.record(effect, State::Undoing, step, journal).await?;
                Ok(None)
            }
            next => {
                journal.done.push((step.to_owned(), std::mem::take(&mut effect.output)));
                if matches!(next, Next::Finish) || steps.last() == Some(&step) {
                    return self.finish(effect, step, journal).await.map(Some);
                }
                if effect.commits.is_empty() && self.operation.pure(step) {
                    self.journal = journal;
                } else {
                    self.record(effect, State::Running, step, journal).await?;
                }
                Ok(None)
            }
        }
    }

    /// Undoes the next step, or ends the operation when nothing is left to undo.
    async fn undo(&mut self) -> Result<Option<End>> {
        let Some(undo) = self.journal.undo.clone() else { return Ok(None) };
        let Some(step) = undo.steps.last().cloned() else {
            if undo.restart.is_some() {
                let mut journal = self.journal.clone();
                journal.undo = None;
                self.persist(State::Running, "", journal).await?;
                return Ok(None);
            }
            return self.fail(undo).await.map(Some);
        };
        let begun = Instant::now();
        let mut attempt = 0;
        loop {
            if self.stopping() {
                return Ok(Some(End::Paused));
            }
            attempt += 1;
            let error = match self.attempt_undo(&step, attempt).await {
                Ok(()) => return Ok(None),
                Err(error) if error.name() == Some(db::LOST) => return Err(error),
                Err(error) => error,
            };
            let hopeless = if error.is_transient() { begun.elapsed() > UNDO.within } else { attempt >= UNDO_ATTEMPTS };
            if hopeless {
                // The resource must reach its final state; what this step left is for the reconcilers.
                tracing::error!(operation = self.claimed.fence.id, step, error = %error.chain(), "a step could not be undone");
                let journal = self.undone(&step);
                self.persist(after_undo(&journal), &step, journal).await?;
                return Ok(None);
            }
            tracing::warn!(operation = self.claimed.fence.id, step, attempt, error = %error.chain(), "undoing a step is tried again");
            self.pause(UNDO.pause(attempt)).await;
        }
    }

    async fn attempt_undo(&mut self, step: &str, attempt: u32) -> Result<()> {
        let cx = self.context(attempt);
        cx.place.enter().await?;
        let undone = guarded(self.operation.undo(&cx, step), UNDO.within).await;
        cx.place.leave();
        let effect = undone?;
        let journal = self.undone(step);
        self.record(effect, after_undo(&journal), step, journal).await
    }

    /// The journal without this step.
    fn undone(&self, step: &str) -> Journal {
        let mut journal = self.journal.clone();
        let (taken, done) = journal.done.into_iter().partition(|(name, _)| name == step);
        journal.done = done;
        if let Some(undo) = &mut journal.undo {
            undo.steps.pop();
            if undo.restart.is_some() {
                let taken: Vec<_> = taken;
                journal.excluded.extend(taken);
                if undo.steps.is_empty() {
                    journal.undo = None;
                    journal.restarts += 1;
                }
            }
        }
        journal
    }

    /// Turns round: from here on the operation is undone.
    async fn turn(&mut self, error: &Error, cancelled: bool, steps: &[&str], step: &str) -> Result<()> {
        let (operation, kind) = (&self.claimed.fence.id, self.operation.kind());
        if error.is(Kind::Internal) {
            tracing::error!(operation, kind, step, error = %error.chain(), "an operation failed");
        } else {
            tracing::info!(operation, kind, step, error = %error.chain(), "an operation is undone");
        }
        let mut journal = self.journal.clone();
        let steps = steps.iter().map(|s| (*s).to_owned()).collect();
        journal.undo = Some(Undo { steps, restart: None, cancelled, error: Some(Failure::of(error, &self.claimed.context.request_id)) });
        self.persist(State::Undoing, step, journal).await
    }

    async fn finish(&mut self, effect: Effect, step: &str, journal: Journal) -> Result<End> {
        let (run, step, shared) = (self.claimed.clone(), step.to_owned(), self.shared.clone());
        let kinds = shared.taking().then(|| shared.kinds());
        let claimant = self.shared.claimant.clone();
        let next = self
            .shared
            .store
            .write(move |tx| {
                effect.apply(tx)?;
                db::finish(tx, &run, State::Done, &step, &journal, None, kinds.as_deref().map(|k| (&claimant, k)))
            })
            .await?;
        Ok(End::Over(next.map(Box::new)))
    }

    async fn fail(&mut self, undo: Undo) -> Result<End> {
        let failure = undo.error.unwrap_or_else(|| Failure::of(&Error::internal("an operation ended without a reason"), ""));
        let state = if undo.cancelled { State::Cancelled } else { State::Failed };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (run, journal, failure, operation) = (self.claimed.clone(), self.journal.clone(), failure.clone(), self.operation.clone());
            let cx = self.context(attempt);
            let kinds = self.shared.taking().then(|| self.shared.kinds());
            let claimant = self.shared.claimant.clone();
            let ended = self
                .shared
                .store
                .write(move |tx| {
                    operation.failed(tx, &cx, &failure.error())?;
                    db::finish(tx, &run, state, "", &journal, Some(&failure), kinds.as_deref().map(|k| (&claimant, k)))
                })
                .await;
            match ended {
                Ok(next) => return Ok(End::Over(next.map(Box::new))),
                Err(error) if error.name() == Some(db::LOST) => return Err(error),
                Err(error) => {
                    tracing::error!(operation = self.claimed.fence.id, error = %error.chain(), "the end of an operation could not be recorded");
                    self.pause(UNDO.pause(attempt)).await;
                    if self.stopping() {
                        return Ok(End::Paused);
                    }
                }
            }
        }
    }

    /// Writes the journal with a step's effect.
    async fn record(&mut self, effect: Effect, state: State, step: &str, journal: Journal) -> Result<()> {
        let (fence, name, new) = (self.claimed.fence.clone(), step.to_owned(), journal.clone());
        let progress = journal.done.len() * 100 / self.operation.steps().len().max(1);
        let progress = u8::try_from(progress).unwrap_or(100);
        let cancel = self
            .shared
            .store
            .write(move |tx| {
                effect.apply(tx)?;
                db::journal(tx, &fence, state, &name, progress, &new)
            })
            .await?;
        if cancel {
            self.cancel.store(true, Ordering::SeqCst);
        }
        self.journal = journal;
        Ok(())
    }

    /// Writes the journal alone, as long as it takes.
    async fn persist(&mut self, state: State, step: &str, journal: Journal) -> Result<()> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.record(Effect::none(), state, step, journal.clone()).await {
                Err(error) if error.name() != Some(db::LOST) && !self.stopping() => {
                    tracing::warn!(operation = self.claimed.fence.id, error = %error.chain(), "recording an operation is tried again");
                    self.pause(UNDO.pause(attempt)).await;
                }
                result => return result,
            }
        }
    }

    fn context(&self, attempt: u32) -> StepContext {
        let c = &self.claimed;
        StepContext {
            operation_id: c.fence.id.clone(),
            resource_kind: c.resource_kind.clone(),
            resource_id: c.resource_id.clone(),
            project_id: c.project_id.clone(),
            params: c.params.clone(),
            context: c.context.clone(),
            attempt,
            deadline: c.deadline,
            journal: self.journal.clone(),
            cancel: self.cancel.clone(),
            fence: c.fence.clone(),
            store: self.shared.store.clone(),
            place: Place::new(self.shared.places.clone()),
        }
    }

    fn stopping(&self) -> bool {
        *self.shared.stopping.borrow()
    }

    /// Sleeps, but not longer than the engine runs.
    async fn pause(&self, time: Duration) {
        let mut stopping = self.shared.stopping.subscribe();
        let _ = tokio::time::timeout(time, stopping.wait_for(|stop| *stop)).await;
    }
}

/// The state that goes with a journal after an undo.
fn after_undo(journal: &Journal) -> State {
    if journal.undo.is_some() { State::Undoing } else { State::Running }
}

/// A step with a time limit; a panic becomes an error.
async fn guarded(step: impl Future<Output = Result<Effect>>, left: Duration) -> Result<Effect> {
    match tokio::time::timeout(left, AssertUnwindSafe(step).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Error::internal(format!("panic in a step: {}", text.unwrap_or("no message"))))
        }
        Err(_) => Err(Error::timeout("The step did not finish in time.")),
    }
}

const KINDS: &[Kind] = &[
    Kind::NotFound,
    Kind::Exists,
    Kind::Invalid,
    Kind::Unauthenticated,
    Kind::Forbidden,
    Kind::Conflict,
    Kind::QuotaExceeded,
    Kind::NoCapacity,
    Kind::NotSupported,
    Kind::NotAcceptable,
    Kind::MethodNotAllowed,
    Kind::UnsupportedMediaType,
    Kind::PreconditionFailed,
    Kind::TooLarge,
    Kind::Unavailable,
    Kind::Timeout,
    Kind::Gone,
    Kind::Internal,
];

impl Failure {
    /// An internal error shows the request id only; its text stays in the detail.
    fn of(error: &Error, request_id: &str) -> Self {
        let message =
            if error.is(Kind::Internal) { format!("An internal error occurred ({request_id}).") } else { error.message().to_owned() };
        Failure { kind: format!("{:?}", error.kind()), message, detail: error.chain() }
    }
    fn error(&self) -> Error {
        let kind = KINDS.iter().find(|k| format!("{k:?}") == self.kind).copied().unwrap_or(Kind::Internal);
        Error::new(kind, self.message.clone()).caused_by(self.detail.clone())
    }
}
