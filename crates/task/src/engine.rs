//! The engine: takes operations from the store, runs them, gives them back.

use base::{Error, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use store::{Store, Tx};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::db::{self, CHANNEL, Claimant, Claimed};
use crate::reconcile::{self, Nudge, Reconciler};
use crate::{Filter, New, Operation, OperationView, run};

/// Steps that run at the same time.
const PARALLEL: usize = 64;
/// How long a controller may be silent before others take its operations over.
const LEASE: Duration = Duration::from_secs(30);
/// How often an engine looks for operations nobody told it about.
const LOOK: Duration = Duration::from_secs(5);
/// How long `stop` waits for running steps.
const STOP: Duration = Duration::from_secs(20);
/// How many operations one look claims.
const CLAIM: u64 = 256;

/// Runs operations and reconcilers; cheap to clone. See the crate's description.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub store: Store,
    pub claimant: Claimant,
    operations: Mutex<HashMap<&'static str, Arc<dyn Operation>>>,
    reconcilers: Mutex<Vec<Arc<dyn Reconciler>>>,
    /// Whether operations submitted here are claimed here.
    taking: AtomicBool,
    queue: mpsc::UnboundedSender<Claimed>,
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Claimed>>>,
    /// For steps that run.
    pub places: Arc<Semaphore>,
    /// What runs here, by operation id: the flag that cancels it.
    running: Mutex<HashMap<String, Arc<AtomicBool>>>,
    waiters: Mutex<HashMap<String, Vec<oneshot::Sender<()>>>>,
    /// True once the engine stops: running operations pause after their step.
    pub stopping: watch::Sender<bool>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    /// The engine's own loops: ended at once.
    loops: JoinSet<()>,
    /// Operations, which finish their step, and reconcilers, which finish their run.
    runs: JoinSet<()>,
    reconcilers: JoinSet<()>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Engine {
    /// `controller_id` names this controller across restarts: an engine takes back what an earlier one of the same id left.
    pub fn new(store: Store, controller_id: impl Into<String>) -> Engine {
        Engine::with_lease(store, controller_id, LEASE)
    }

    /// Like [`Engine::new`] with another lease.
    pub fn with_lease(store: Store, controller_id: impl Into<String>, lease: Duration) -> Engine {
        let (queue, inbox) = mpsc::unbounded_channel();
        Engine(Arc::new(Shared {
            store,
            claimant: Claimant { owner: controller_id.into(), lease },
            operations: Mutex::default(),
            reconcilers: Mutex::default(),
            taking: AtomicBool::new(false),
            queue,
            inbox: Mutex::new(Some(inbox)),
            places: Arc::new(Semaphore::new(PARALLEL)),
            running: Mutex::default(),
            waiters: Mutex::default(),
            stopping: watch::channel(false).0,
            tasks: Mutex::default(),
        }))
    }

    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Makes a kind of operation known; before [`Engine::start`].
    pub fn register(&self, operation: Arc<dyn Operation>) {
        lock(&self.0.operations).insert(operation.kind(), operation);
    }

    /// Runs this reconciler from [`Engine::start`] on (or from now on, when started).
    pub fn reconcile(&self, reconciler: Arc<dyn Reconciler>) -> Nudge {
        let nudge = Nudge::new(&self.0.store, reconciler.name());
        if self.0.taking.load(Ordering::SeqCst) {
            self.spawn_reconciler(reconciler);
        } else {
            lock(&self.0.reconcilers).push(reconciler);
        }
        nudge
    }

    /// Takes back what was under way, then starts to work. An engine is started once.
    pub async fn start(&self) -> Result<()> {
        let Some(inbox) = lock(&self.0.inbox).take() else {
            return Err(Error::internal("the operations engine was started before"));
        };
        let mine = self.0.claim(true).await?;
        self.0.taking.store(true, Ordering::SeqCst);
        for claimed in mine {
            self.0.enqueue(claimed);
        }
        self.spawn_loop(dispatch(self.0.clone(), inbox));
        self.spawn_loop(look(self.0.clone()));
        self.spawn_loop(renew(self.0.clone()));
        let reconcilers: Vec<_> = lock(&self.0.reconcilers).drain(..).collect();
        for reconciler in reconcilers {
            self.spawn_reconciler(reconciler);
        }
        Ok(())
    }

    /// Takes no more work, lets each running step come to its record (up to a bound), and gives the rest back. What is
    /// unfinished goes on in the next engine that starts.
    pub async fn stop(&self) {
        self.0.taking.store(false, Ordering::SeqCst);
        self.0.stopping.send_replace(true);
        let mut tasks = std::mem::take(&mut *lock(&self.0.tasks));
        // The leases are kept while the last steps end.
        let all = async {
            while tasks.runs.join_next().await.is_some() {}
            while tasks.reconcilers.join_next().await.is_some() {}
        };
        if tokio::time::timeout(STOP, all).await.is_err() {
            tracing::warn!(
                still = tasks.runs.len(),
                "operations did not reach the end of their step in time; they resume at the next start"
            );
        }
        tasks.end().await;
    }

    /// Ends everything at once, wherever it is, as a crash would.
    pub async fn kill(&self) {
        self.0.taking.store(false, Ordering::SeqCst);
        let mut tasks = std::mem::take(&mut *lock(&self.0.tasks));
        tasks.end().await;
    }

    /// Stores an operation in the caller's transaction; it begins when that is committed. Answers its id.
    pub fn submit(&self, tx: &Tx, new: New) -> Result<String> {
        let id = base::id::uuid();
        let deadline = match lock(&self.0.operations).get(new.kind.as_str()) {
            Some(operation) => base::Timestamp::now().plus(operation.deadline()),
            None => return Err(Error::internal(format!("operation kind {:?} is not registered", new.kind))),
        };
        let claimant = self.0.taking.load(Ordering::SeqCst).then_some(&self.0.claimant);
        match db::insert(tx, &id, &new, deadline, claimant)? {
            Some(claimed) => {
                let shared = self.0.clone();
                tx.after_commit(move || shared.enqueue(claimed));
            }
            // Either it waits behind another of its resource, or nobody has claimed it: then someone has to look.
            None if claimant.is_none() => tx.nudge(CHANNEL),
            None => {}
        }
        Ok(id)
    }

    /// Waits for the end of an operation; [`base::Kind::Timeout`] when it does not come in time.
    pub async fn wait(&self, operation_id: &str, timeout: Duration) -> Result<OperationView> {
        let end = Instant::now() + timeout;
        loop {
            let (done, wait) = oneshot::channel();
            {
                let mut waiters = lock(&self.0.waiters);
                let mine = waiters.entry(operation_id.to_owned()).or_default();
                mine.retain(|w| !w.is_closed());
                mine.push(done);
            }
            let view = self.show(operation_id).await;
            let left = end.saturating_duration_since(Instant::now());
            let over = view.as_ref().map_or(true, |v| v.state.is_final());
            if over || left.is_zero() {
                drop(wait);
                self.0.forget_waiters(operation_id);
                let view = view?;
                return if over {
                    Ok(view)
                } else {
                    Err(Error::timeout(format!("Operation {operation_id} is still {}.", view.state.as_str())))
                };
            }
            // Another controller may be the one that ends it, so look now and then.
            let _ = tokio::time::timeout(left.min(Duration::from_millis(500)), wait).await;
        }
    }

    pub async fn show(&self, operation_id: &str) -> Result<OperationView> {
        let found = self.0.store.read(|tx| db::show(tx, operation_id)).await?;
        found.ok_or_else(|| Error::not_found("Operation", operation_id))
    }

    pub async fn list(&self, filter: &Filter) -> Result<Vec<OperationView>> {
        self.0.store.read(|tx| db::list(tx, filter)).await
    }

    /// Stops the operation before its next step and undoes it. `Conflict` when it is over.
    pub async fn cancel(&self, operation_id: &str) -> Result<()> {
        let id = operation_id.to_owned();
        let asked = self.0.store.write(move |tx| db::cancel(tx, &id)).await?;
        if !asked {
            let view = self.show(operation_id).await?;
            return Err(Error::conflict(format!("Operation {operation_id} is {} already.", view.state.as_str())));
        }
        if let Some(flag) = lock(&self.0.running).get(operation_id) {
            flag.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Deletes operations that ended longer ago than `keep`; answers how many.
    pub async fn prune(&self, keep: Duration) -> Result<u64> {
        let keep = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
        let before = base::Timestamp(base::Timestamp::now().micros().saturating_sub(keep));
        self.0.store.write(move |tx| db::prune(tx, before)).await
    }

    fn spawn_loop(&self, future: impl Future<Output = ()> + Send + 'static) {
        lock(&self.0.tasks).loops.spawn(future);
    }

    fn spawn_reconciler(&self, reconciler: Arc<dyn Reconciler>) {
        let future = reconcile::run(self.0.store.clone(), self.0.claimant.clone(), reconciler, self.0.stopping.subscribe());
        lock(&self.0.tasks).reconcilers.spawn(future);
    }
}

impl Shared {
    pub(crate) fn enqueue(&self, claimed: Claimed) {
        // Without a receiver the engine has ended: the claim lapses, or the next start takes it back.
        let _ = self.queue.send(claimed);
    }

    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        lock(&self.operations).keys().copied().collect()
    }

    pub(crate) fn taking(&self) -> bool {
        self.taking.load(Ordering::SeqCst)
    }

    async fn claim(&self, own: bool) -> Result<Vec<Claimed>> {
        let (claimant, kinds) = (self.claimant.clone(), self.kinds());
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        // The look at start takes everything that is ours; a later one takes a bounded part and comes again.
        let limit = if own { i64::MAX as u64 } else { CLAIM };
        let found = self.store.read(|tx| db::claimable(tx, &claimant, &kinds, own, limit)).await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        self.store.write(move |tx| db::claim(tx, &claimant, found)).await
    }

    /// The operation no longer runs here, without being over.
    pub(crate) fn left(&self, operation_id: &str) {
        lock(&self.running).remove(operation_id);
    }

    pub(crate) fn ended(&self, operation_id: &str) {
        lock(&self.running).remove(operation_id);
        for waiter in lock(&self.waiters).remove(operation_id).unwrap_or_default() {
            let _ = waiter.send(());
        }
    }

    fn forget_waiters(&self, operation_id: &str) {
        let mut waiters = lock(&self.waiters);
        if let Some(mine) = waiters.get_mut(operation_id) {
            mine.retain(|w| !w.is_closed());
            if mine.is_empty() {
                waiters.remove(operation_id);
            }
        }
    }

    /// Stops all runs without a record: they are no longer ours.
    fn abandon(&self) {
        tracing::error!("the leases of this controller's operations ran out: they are left to others");
        lock(&self.tasks).runs.abort_all();
        lock(&self.running).clear();
    }
}

impl Tasks {
    async fn end(&mut self) {
        self.loops.shutdown().await;
        self.runs.shutdown().await;
        self.reconcilers.shutdown().await;
    }
}

/// Starts a task for each operation that was claimed.
async fn dispatch(shared: Arc<Shared>, mut inbox: mpsc::UnboundedReceiver<Claimed>) {
    while let Some(claimed) = inbox.recv().await {
        let Some(operation) = lock(&shared.operations).get(claimed.kind.as_str()).cloned() else { continue };
        let cancel = Arc::new(AtomicBool::new(claimed.cancel));
        lock(&shared.running).insert(claimed.fence.id.clone(), cancel.clone());
        let mut tasks = lock(&shared.tasks);
        while tasks.runs.try_join_next().is_some() {}
        tasks.runs.spawn(run::operation(shared.clone(), operation, claimed, cancel));
    }
}

/// Looks for what nobody told us about: operations submitted before a start, on a controller that does not run them, or
/// left by one that died.
async fn look(shared: Arc<Shared>) {
    let mut watch = shared.store.watch(CHANNEL);
    loop {
        match shared.claim(false).await {
            Ok(claimed) => {
                let full = claimed.len() as u64 == CLAIM;
                claimed.into_iter().for_each(|c| shared.enqueue(c));
                if full {
                    continue;
                }
            }
            Err(error) => tracing::warn!(error = %error.chain(), "looking for operations"),
        }
        let owner = shared.claimant.owner.clone();
        match shared.store.read(|tx| db::cancel_asked(tx, &owner)).await {
            Ok(ids) => {
                let running = lock(&shared.running);
                for flag in ids.iter().filter_map(|id| running.get(id)) {
                    flag.store(true, Ordering::SeqCst);
                }
            }
            Err(error) => tracing::warn!(error = %error.chain(), "looking for cancelled operations"),
        }
        let _ = tokio::time::timeout(LOOK.min(shared.claimant.lease / 2), watch.wait()).await;
    }
}

/// Keeps the leases of what runs here.
async fn renew(shared: Arc<Shared>) {
    let lease = shared.claimant.lease;
    let mut good = Instant::now();
    loop {
        tokio::time::sleep(lease / 3).await;
        if lock(&shared.running).is_empty() {
            good = Instant::now();
            continue;
        }
        let claimant = shared.claimant.clone();
        let asked = Instant::now();
        match tokio::time::timeout(lease / 3, shared.store.write(move |tx| db::renew(tx, &claimant))).await {
            Ok(Ok(_)) => good = asked,
            Ok(Err(error)) => tracing::warn!(error = %error.chain(), "renewing the leases of operations"),
            Err(_) => tracing::warn!("renewing the leases of operations takes too long"),
        }
        if good.elapsed() >= lease {
            shared.abandon();
            good = Instant::now();
        }
    }
}
