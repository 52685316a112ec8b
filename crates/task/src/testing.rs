//! The test that every operation has to pass.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use async_trait::async_trait;
use base::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::{Store, Tx};
use tokio::sync::Notify;

use crate::{Effect, Engine, Operation, OperationView, Retry, State, StepContext};

/// A world for one run of an operation: a migrated store and whatever the steps act on.
#[async_trait]
pub trait Fixture: Send + Sync {
    fn store(&self) -> Store;
    /// The operation under test, acting on this world. Called again for an engine that resumes after a crash.
    fn operation(&self) -> Arc<dyn Operation>;
    /// Other kinds the operation submits or waits for.
    fn others(&self) -> Vec<Arc<dyn Operation>> {
        Vec::new()
    }
    /// Makes the resource and submits the operation; answers the operation's id.
    async fn submit(&self, engine: &Engine) -> Result<String>;
    /// The operation is done: asserts that everything is as it should be.
    async fn check_done(&self);
    /// The operation failed and was undone: asserts that the resource says so and nothing is left.
    async fn check_undone(&self);
    /// The run is over. A world with a store of its own closes it: tasks may outlive it, and connections must not add up.
    async fn leave(&self) {}
}

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(30);
const CONTROLLER: &str = "controller-under-test";

/// Runs an operation in all the ways it must survive, each in a new world:
///
/// 1. to completion;
/// 2. failing at each step in turn, once before its work and once after it;
/// 3. every step twice, and after a failure every undo twice;
/// 4. killed at each step before and after its work (that is after the record of the step before, and before its own), and
///    killed after each undo before its record, each time resumed by a new engine on the same store.
///
/// What may happen between steps is one matter, what a database makes of their SQL another: on PostgreSQL an operation runs to
/// completion, every step and every undo twice, and is resumed at each step.
///
/// ```no_run
/// # async fn example<F: task::testing::Fixture, W: Future<Output = F>>(world: impl Fn() -> W) {
/// task::testing::four_runs(world).await;
/// # }
/// ```
pub async fn four_runs<F: Fixture, W: Future<Output = F>>(make: impl Fn() -> W) {
    let world = make().await;
    let (steps, every) = (world.operation().steps(), world.store().is_sqlite());
    world.leave().await;
    drop(world);
    whole(&make, Plan::None, State::Done).await;
    for step in steps.iter().copied().filter(|_| every) {
        whole(&make, Plan::FailBefore(step), State::Failed).await;
        whole(&make, Plan::FailAfter(step), State::Failed).await;
    }
    whole(&make, Plan::Twice, State::Done).await;
    if let Some(last) = steps.last().copied() {
        whole(&make, Plan::UndoTwice(last), State::Failed).await;
        for step in steps.iter().copied() {
            killed(&make, Plan::HangBefore(step), State::Done).await;
        }
        for step in steps.iter().copied().filter(|_| every) {
            killed(&make, Plan::HangAfter(step), State::Done).await;
            killed(&make, Plan::HangUndo { last, step }, State::Failed).await;
        }
    }
}

async fn engine(world: &impl Fixture, operation: Arc<dyn Operation>) -> Engine {
    let engine = Engine::new(world.store(), CONTROLLER);
    engine.register(operation);
    for other in world.others() {
        engine.register(other);
    }
    engine.start().await.expect("starting the engine");
    engine
}

async fn check(world: &impl Fixture, view: &OperationView, plan: Plan, wanted: State) {
    println!("    {:?} {}", view.state, view.error.as_deref().unwrap_or_default());
    assert_eq!(view.state, wanted, "{plan:?}: {view:?}");
    if wanted == State::Done {
        world.check_done().await;
    } else {
        world.check_undone().await;
    }
    let open = world.store().read(|tx| crate::db::list(tx, &crate::Filter { open: true, ..Default::default() })).await.expect("listing");
    assert_eq!(open, [], "{plan:?}: operations are left");
}

/// A run by one engine.
async fn whole<F: Fixture, W: Future<Output = F>>(make: &impl Fn() -> W, plan: Plan, wanted: State) {
    println!("--- {plan:?}");
    let world = make().await;
    let faulty = Arc::new(Faulty::new(world.operation(), plan));
    let engine = engine(&world, faulty.clone()).await;
    let id = world.submit(&engine).await.expect("submitting");
    let view = engine.wait(&id, LIMIT).await.expect("the operation ends");
    // An operation may well never come to a step (finish early); then nothing was injected.
    let wanted = if faulty.fired() { wanted } else { State::Done };
    check(&world, &view, plan, wanted).await;
    engine.stop().await;
    world.leave().await;
}

/// A run that is killed where the plan says, and resumed.
async fn killed<F: Fixture, W: Future<Output = F>>(make: &impl Fn() -> W, plan: Plan, wanted: State) {
    println!("--- killed: {plan:?}");
    let world = make().await;
    let faulty = Arc::new(Faulty::new(world.operation(), plan));
    let first = engine(&world, faulty.clone()).await;
    let id = world.submit(&first).await.expect("submitting");
    tokio::select! {
        () = faulty.reached.notified() => {}
        over = first.wait(&id, LIMIT) => drop(over.expect("the operation reaches the step or ends")),
    }
    first.kill().await;
    let second = engine(&world, world.operation()).await;
    let view = second.wait(&id, LIMIT).await.expect("the operation ends after the crash");
    let wanted = if faulty.fired() { wanted } else { State::Done };
    check(&world, &view, plan, wanted).await;
    second.stop().await;
    world.leave().await;
}

#[derive(Clone, Copy, Debug)]
enum Plan {
    None,
    FailBefore(&'static str),
    FailAfter(&'static str),
    Twice,
    /// Fails after the work of this step and runs every undo twice.
    UndoTwice(&'static str),
    HangBefore(&'static str),
    HangAfter(&'static str),
    /// Fails after the work of `last`, and hangs after the undo of `step`.
    HangUndo {
        last: &'static str,
        step: &'static str,
    },
}

/// The operation under test with something going wrong.
struct Faulty {
    inner: Arc<dyn Operation>,
    plan: Plan,
    fired: AtomicBool,
    reached: Notify,
}

impl Faulty {
    fn new(inner: Arc<dyn Operation>, plan: Plan) -> Self {
        Faulty { inner, plan, fired: AtomicBool::new(false), reached: Notify::new() }
    }
    fn fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }
    fn fail<T>(&self) -> Result<T> {
        self.fired.store(true, Ordering::SeqCst);
        Err(Error::conflict("An injected failure."))
    }
    async fn hang(&self) -> Result<Effect> {
        self.fired.store(true, Ordering::SeqCst);
        self.reached.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl Operation for Faulty {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
    fn steps(&self) -> &'static [&'static str] {
        self.inner.steps()
    }
    fn deadline(&self) -> Duration {
        self.inner.deadline()
    }
    fn retry(&self, step: &str) -> Retry {
        self.inner.retry(step)
    }
    fn pure(&self, step: &str) -> bool {
        self.inner.pure(step)
    }
    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        match self.plan {
            Plan::FailBefore(s) if s == step => return self.fail(),
            Plan::HangBefore(s) if s == step => return self.hang().await,
            Plan::Twice => {
                self.fired.store(true, Ordering::SeqCst);
                drop(self.inner.run(cx, step).await?);
            }
            _ => {}
        }
        let effect = self.inner.run(cx, step).await?;
        match self.plan {
            Plan::FailAfter(s) | Plan::UndoTwice(s) if s == step => self.fail(),
            Plan::HangUndo { last, .. } if last == step => {
                drop(effect);
                self.fail()
            }
            Plan::HangAfter(s) if s == step => self.hang().await,
            _ => Ok(effect),
        }
    }
    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        if matches!(self.plan, Plan::UndoTwice(_)) {
            drop(self.inner.undo(cx, step).await?);
        }
        let effect = self.inner.undo(cx, step).await?;
        match self.plan {
            // Not in the undo of a restart, which comes before the failure.
            Plan::HangUndo { step: s, .. } if s == step && self.fired() => self.hang().await,
            _ => Ok(effect),
        }
    }
    fn failed(&self, tx: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        self.inner.failed(tx, cx, error)
    }
}
