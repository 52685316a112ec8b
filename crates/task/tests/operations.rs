//! The engine, on both backends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use async_trait::async_trait;
use base::{Context, Error, Kind, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store::testing::{Temporary, each_backend, sqlite};
use store::{Migration, Store, Tx, params};
use task::testing::{Fixture, four_runs};
use task::{Effect, Engine, Filter, New, Operation, Retry, State, StepContext};
use tokio::sync::Notify;

const SOON: Duration = Duration::from_secs(20);

static TABLES: &[Migration] = &[Migration {
    name: "0001_server",
    sql: "CREATE TABLE server (id TEXT PRIMARY KEY, status TEXT NOT NULL);
          CREATE TABLE claim (server_id TEXT PRIMARY KEY, host TEXT NOT NULL);",
}];

async fn migrated(store: &Store) {
    store.migrate("task", task::MIGRATIONS).await.unwrap();
    store.migrate("test", TABLES).await.unwrap();
}

/// What runs on hosts: by server, where.
type Hosts = Arc<Mutex<BTreeMap<String, String>>>;

/// Creates a server: claims a host, starts something there.
struct ServerCreate {
    hosts: Hosts,
    /// Hosts that refuse.
    broken: Vec<&'static str>,
}

#[async_trait]
impl Operation for ServerCreate {
    fn kind(&self) -> &'static str {
        "test.server_create"
    }
    fn steps(&self) -> &'static [&'static str] {
        &["weigh", "place", "spawn", "finish"]
    }
    fn pure(&self, step: &str) -> bool {
        step == "weigh"
    }
    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let id = cx.resource_id.clone();
        match step {
            "weigh" => Ok(Effect::with(["a", "b", "c"])),
            "place" => {
                let tried: Vec<String> = cx.excluded("place")?;
                let all: Vec<String> = cx.output("weigh")?;
                let host = all.into_iter().find(|h| !tried.contains(h)).ok_or_else(|| Error::new(Kind::NoCapacity, "No valid host."))?;
                let chosen = host.clone();
                Ok(Effect::with(host)
                    .commit(move |tx| tx.execute("INSERT INTO claim (server_id, host) VALUES (?1, ?2)", params![id, chosen]).map(drop)))
            }
            "spawn" => {
                let host: String = cx.output("place")?;
                self.hosts.lock().unwrap().insert(id, host.clone());
                if self.broken.contains(&host.as_str()) {
                    return Ok(Effect::restart_from("place"));
                }
                Ok(Effect::none())
            }
            _ => {
                Ok(Effect::none().commit(move |tx| tx.execute("UPDATE server SET status = 'ACTIVE' WHERE id = ?1", params![id]).map(drop)))
            }
        }
    }
    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let id = cx.resource_id.clone();
        match step {
            "place" => Ok(Effect::none().commit(move |tx| tx.execute("DELETE FROM claim WHERE server_id = ?1", params![id]).map(drop))),
            "spawn" => {
                self.hosts.lock().unwrap().remove(&id);
                Ok(Effect::none())
            }
            _ => Ok(Effect::none()),
        }
    }
    fn failed(&self, tx: &Tx, cx: &StepContext, _: &Error) -> Result<()> {
        tx.execute("UPDATE server SET status = 'ERROR' WHERE id = ?1", params![cx.resource_id]).map(drop)
    }
}

struct World {
    store: Store,
    _directory: Option<Temporary>,
    hosts: Hosts,
    broken: Vec<&'static str>,
}

impl World {
    async fn on(store: Store, broken: &[&'static str]) -> World {
        migrated(&store).await;
        store
            .write(|tx| {
                tx.execute("DELETE FROM claim", &[])?;
                tx.execute("DELETE FROM server", &[])
            })
            .await
            .unwrap();
        World { store, _directory: None, hosts: Hosts::default(), broken: broken.to_vec() }
    }
    async fn state(&self) -> (Vec<String>, Vec<String>, Vec<String>) {
        let (status, claims) = self
            .store
            .read(|tx| {
                let status = tx.query("SELECT status FROM server ORDER BY id", &[], |row| row.text(0))?;
                Ok((status, tx.query("SELECT host FROM claim ORDER BY host", &[], |row| row.text(0))?))
            })
            .await
            .unwrap();
        (status, claims, self.hosts.lock().unwrap().values().cloned().collect())
    }
}

#[async_trait]
impl Fixture for World {
    fn store(&self) -> Store {
        self.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        Arc::new(ServerCreate { hosts: self.hosts.clone(), broken: self.broken.clone() })
    }
    async fn submit(&self, engine: &Engine) -> Result<String> {
        let engine = engine.clone();
        let write = self.store.write(move |tx| {
            tx.execute("INSERT INTO server (id, status) VALUES ('s1', 'BUILD')", &[])?;
            engine.submit(tx, New::new("test.server_create", "server", "s1").project("p1").context(Context::system("req-1")))
        });
        write.await
    }
    async fn check_done(&self) {
        let host = ["a", "b", "c"].into_iter().find(|h| !self.broken.contains(h)).unwrap().to_owned();
        assert_eq!(self.state().await, (vec!["ACTIVE".into()], vec![host.clone()], vec![host]));
    }
    async fn check_undone(&self) {
        assert_eq!(self.state().await, (vec!["ERROR".into()], vec![], vec![]));
    }
}

#[tokio::test]
async fn an_operation_survives_everything() {
    each_backend(|store| async move {
        four_runs(|| World::on(store.clone(), &[])).await;
    })
    .await;
}

#[tokio::test]
async fn an_operation_that_places_again_survives_everything() {
    four_runs(|| async {
        let directory = sqlite().await;
        let world = World::on(directory.store.clone(), &["a"]).await;
        World { _directory: Some(directory), ..world }
    })
    .await;
}

#[tokio::test]
async fn placing_again_ends_when_nothing_is_left() {
    each_backend(|store| async move {
        let world = World::on(store, &["a", "b", "c"]).await;
        let engine = Engine::new(world.store(), "c0");
        engine.register(world.operation());
        engine.start().await.unwrap();
        let id = world.submit(&engine).await.unwrap();
        let view = engine.wait(&id, SOON).await.unwrap();
        assert_eq!((view.state, view.error.as_deref()), (State::Failed, Some("No valid host.")));
        world.check_undone().await;
        engine.stop().await;
    })
    .await;
}

/// One step after another, told by its parameters what to do; keeps a log.
#[derive(Default)]
struct Script {
    log: Mutex<Vec<String>>,
    /// Steps named "gate" wait for this.
    gate: Notify,
    /// Told when a step waits at the gate.
    waiting: Notify,
    inside: AtomicU32,
    most: AtomicU32,
}

impl Script {
    fn say(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }
    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

#[async_trait]
impl Operation for Script {
    fn kind(&self) -> &'static str {
        "test.script"
    }
    fn steps(&self) -> &'static [&'static str] {
        &["first", "second"]
    }
    fn deadline(&self) -> Duration {
        Duration::from_secs(30)
    }
    fn retry(&self, _: &str) -> Retry {
        Retry { first: Duration::from_millis(1), ..Retry::within(Duration::from_secs(5)) }
    }
    async fn run(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        let name = cx.params["name"].as_str().unwrap_or_default();
        self.say(format!("{name} {step} {}", cx.attempt));
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let what = cx.params[step].as_str().unwrap_or_default();
        let result = match what {
            "busy twice" if cx.attempt < 3 => Err(Error::unavailable("busy")),
            "busy" => Err(Error::unavailable("busy")),
            "fail" => Err(Error::internal("secret")),
            "panic" => panic!("asked to"),
            "finish" => Ok(Effect::finish_early()),
            "gate" => {
                self.waiting.notify_one();
                self.gate.notified().await;
                cx.progress(77).await.map(|()| Effect::with(name))
            }
            "gate aside" => {
                let opened = self.gate.notified();
                self.waiting.notify_one();
                cx.aside(opened).await.map(|()| Effect::none())
            }
            "until cancelled" => {
                self.waiting.notify_one();
                while !cx.cancelled() {
                    tokio::task::yield_now().await;
                }
                Ok(Effect::none())
            }
            "bad commit" => Ok(Effect::none().commit(|tx| tx.execute("INSERT INTO claim (server_id) VALUES ('x')", &[]).map(drop))),
            _ => Ok(Effect::with(json!({"by": name}))),
        };
        self.inside.fetch_sub(1, Ordering::SeqCst);
        result
    }
    async fn undo(&self, cx: &StepContext, step: &str) -> Result<Effect> {
        self.say(format!("{} undo {step}", cx.params["name"].as_str().unwrap_or_default()));
        match cx.params["undo"].as_str() {
            Some("fail") => Err(Error::internal("cannot")),
            Some("busy twice") if cx.attempt < 3 => Err(Error::timeout("lost")),
            _ => Ok(Effect::none()),
        }
    }
    fn failed(&self, _: &Tx, cx: &StepContext, error: &Error) -> Result<()> {
        self.say(format!("{} failed {:?} {}", cx.params["name"].as_str().unwrap_or_default(), error.kind(), error.message()));
        Ok(())
    }
}

async fn started(store: &Store, id: &str) -> (Engine, Arc<Script>) {
    let script = Arc::new(Script::default());
    let engine = Engine::with_lease(store.clone(), id, Duration::from_secs(2));
    engine.register(script.clone());
    engine.start().await.unwrap();
    (engine, script)
}

async fn submit(engine: &Engine, resource: &str, params: Value) -> String {
    let (submitter, resource) = (engine.clone(), resource.to_owned());
    let new = New::new("test.script", "thing", resource).project("p1").params(params).context(Context::system("req-7"));
    engine.store().write(move |tx| submitter.submit(tx, new)).await.unwrap()
}

#[tokio::test]
async fn failures_are_retried_undone_or_reported() {
    each_backend(|store| async move {
        migrated(&store).await;
        let (engine, script) = started(&store, "c0").await;
        let cases = [
            (json!({"name": "a", "second": "busy twice"}), State::Done, None, "a first 1, a second 1, a second 2, a second 3"),
            (
                json!({"name": "b", "second": "fail"}),
                State::Failed,
                Some("An internal error occurred (req-7)."),
                "b first 1, b second 1, b undo second, b undo first, b failed Internal An internal error occurred (req-7).",
            ),
            (
                json!({"name": "c", "first": "panic"}),
                State::Failed,
                Some("An internal error occurred (req-7)."),
                "c first 1, c undo first, c failed Internal An internal error occurred (req-7).",
            ),
            (json!({"name": "d", "first": "finish"}), State::Done, None, "d first 1"),
            (
                json!({"name": "e", "second": "bad commit", "undo": "busy twice"}),
                State::Failed,
                Some("An internal error occurred (req-7)."),
                "e first 1, e second 1, e undo second, e undo second, e undo second, e undo first, e undo first, e undo first, \
                 e failed Internal An internal error occurred (req-7).",
            ),
        ];
        for (params, state, error, log) in cases {
            script.log.lock().unwrap().clear();
            let id = submit(&engine, "r1", params.clone()).await;
            let view = engine.wait(&id, SOON).await.unwrap();
            assert_eq!((view.state, view.error.as_deref()), (state, error), "{params}");
            assert_eq!(script.log().join(", "), log);
            assert!(view.finished_at.is_some() && view.owner.as_deref() == Some("c0"));
        }
        // What cannot be undone is given up in the end: the resource must not hang.
        let id = submit(&engine, "r1", json!({"name": "f", "second": "fail", "undo": "fail"})).await;
        assert_eq!(engine.wait(&id, SOON).await.unwrap().state, State::Failed);
        let unknown = engine.clone();
        let error = store.write(move |tx| unknown.submit(tx, New::new("test.unknown", "thing", "r1"))).await.unwrap_err();
        assert!(error.is(Kind::Internal));
        let all = engine.list(&Filter { resource_id: Some("r1".into()), ..Default::default() }).await.unwrap();
        assert_eq!(all.len(), 6);
        let page = Filter {
            after: Some((all[1].created_at, all[1].id.clone())),
            limit: Some(2),
            state: Some(State::Failed),
            ..Default::default()
        };
        let ids: Vec<_> = engine.list(&page).await.unwrap().into_iter().map(|v| v.id).collect();
        let wanted: Vec<_> = all[2..].iter().filter(|v| v.state == State::Failed).take(2).map(|v| v.id.clone()).collect();
        assert_eq!(ids, wanted);
        assert_eq!(engine.prune(Duration::from_secs(3600)).await.unwrap(), 0);
        assert_eq!(engine.prune(Duration::ZERO).await.unwrap(), 6);
        assert_eq!(engine.show(&id).await.unwrap_err().kind(), Kind::NotFound);
        engine.stop().await;
    })
    .await;
}

#[tokio::test]
async fn one_resource_in_order_and_others_at_the_same_time() {
    each_backend(|store| async move {
        migrated(&store).await;
        let (engine, script) = started(&store, "c0").await;
        let first = submit(&engine, "r1", json!({"name": "a", "first": "gate"})).await;
        script.waiting.notified().await;
        let second = submit(&engine, "r1", json!({"name": "b"})).await;
        let third = submit(&engine, "r1", json!({"name": "c"})).await;
        let other = submit(&engine, "r2", json!({"name": "x"})).await;
        assert_eq!(engine.wait(&other, SOON).await.unwrap().state, State::Done);
        assert_eq!(engine.show(&second).await.unwrap().state, State::Pending);
        assert_eq!(engine.wait(&second, Duration::from_millis(30)).await.unwrap_err().kind(), Kind::Timeout);
        script.gate.notify_one();
        for id in [&first, &second, &third] {
            assert_eq!(engine.wait(id, SOON).await.unwrap().state, State::Done);
        }
        let log: Vec<_> = script.log().into_iter().filter(|l| !l.starts_with('x')).collect();
        assert_eq!(log, ["a first 1", "a second 1", "b first 1", "b second 1", "c first 1", "c second 1"]);
        assert_eq!(engine.show(&first).await.unwrap().progress, 100);
        // Many at once.
        let mut all = Vec::new();
        for i in 0..100 {
            all.push(submit(&engine, &format!("many-{i}"), json!({"name": "m"})).await);
        }
        for id in &all {
            assert_eq!(engine.wait(id, SOON).await.unwrap().state, State::Done);
        }
        engine.stop().await;
    })
    .await;
}

#[tokio::test]
async fn who_waits_aside_holds_up_nobody() {
    each_backend(|store| async move {
        migrated(&store).await;
        let (engine, script) = started(&store, "c0").await;
        let mut waiting = Vec::new();
        // More than run at the same time.
        for i in 0..100 {
            waiting.push(submit(&engine, &format!("slow-{i}"), json!({"name": "s", "first": "gate aside"})).await);
            script.waiting.notified().await;
        }
        let other = submit(&engine, "other", json!({"name": "x"})).await;
        assert_eq!(engine.wait(&other, SOON).await.unwrap().state, State::Done);
        script.gate.notify_waiters();
        for id in &waiting {
            assert_eq!(engine.wait(id, SOON).await.unwrap().state, State::Done);
        }
        engine.stop().await;
    })
    .await;
}

#[tokio::test]
async fn cancelling_stops_before_the_next_step_and_undoes() {
    each_backend(|store| async move {
        migrated(&store).await;
        let (engine, script) = started(&store, "c0").await;
        let id = submit(&engine, "r1", json!({"name": "a", "first": "until cancelled"})).await;
        script.waiting.notified().await;
        let waiting = submit(&engine, "r1", json!({"name": "b"})).await;
        engine.cancel(&waiting).await.unwrap();
        engine.cancel(&id).await.unwrap();
        assert_eq!(engine.wait(&id, SOON).await.unwrap().state, State::Cancelled);
        assert_eq!(engine.wait(&waiting, SOON).await.unwrap().state, State::Cancelled);
        let cancelled = "failed Conflict The operation was cancelled.";
        assert_eq!(script.log(), ["a first 1".into(), "a undo first".into(), format!("a {cancelled}"), format!("b {cancelled}")]);
        assert_eq!(engine.cancel(&id).await.unwrap_err().kind(), Kind::Conflict);
        assert_eq!(engine.cancel("none").await.unwrap_err().kind(), Kind::NotFound);
        engine.stop().await;
    })
    .await;
}

#[tokio::test]
async fn stopping_ends_the_step_and_the_next_engine_goes_on() {
    each_backend(|store| async move {
        migrated(&store).await;
        let (engine, script) = started(&store, "c0").await;
        let id = submit(&engine, "r1", json!({"name": "a", "first": "gate"})).await;
        let later = submit(&engine, "r1", json!({"name": "b"})).await;
        script.waiting.notified().await;
        let stop = tokio::spawn({
            let engine = engine.clone();
            async move { engine.stop().await }
        });
        tokio::task::yield_now().await;
        script.gate.notify_one();
        stop.await.unwrap();
        assert_eq!(script.log(), ["a first 1"]);
        let view = engine.show(&id).await.unwrap();
        assert_eq!((view.state, view.step.as_str(), view.progress), (State::Running, "first", 77));
        // Another controller need not wait for a lease: it was given back.
        let (next, script) = started(&store, "c1").await;
        assert_eq!(next.wait(&id, SOON).await.unwrap().owner.as_deref(), Some("c1"));
        assert_eq!(next.wait(&later, SOON).await.unwrap().state, State::Done);
        assert_eq!(script.log(), ["a second 1", "b first 1", "b second 1"]);
        next.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_lease_fences_the_one_who_lost_it() {
    each_backend(|store| async move {
        migrated(&store).await;
        let (old, slow) = started(&store, "c0").await;
        let id = submit(&old, "r1", json!({"name": "a", "first": "gate"})).await;
        slow.waiting.notified().await;
        // As if the controller had been silent for longer than its lease.
        store.write(|tx| tx.execute("UPDATE operation SET lease_until = 1", &[])).await.unwrap();
        let (new, quick) = started(&store, "c1").await;
        quick.waiting.notified().await;
        slow.gate.notify_one();
        let end = Instant::now() + SOON;
        while slow.inside.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            tokio::task::yield_now().await;
        }
        quick.gate.notify_one();
        let view = new.wait(&id, SOON).await.unwrap();
        assert_eq!((view.state, view.owner.as_deref()), (State::Done, Some("c1")), "{view:?}");
        old.stop().await;
        assert_eq!(slow.log(), ["a first 1"], "the old one went no further and undid nothing");
        assert_eq!(quick.log(), ["a first 1", "a second 1"]);
        new.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_dead_controllers_operations_are_taken_over() {
    each_backend(|store| async move {
        migrated(&store).await;
        let (dead, script) = started(&store, "c0").await;
        let id = submit(&dead, "r1", json!({"name": "a", "first": "gate"})).await;
        script.waiting.notified().await;
        let (alive, script) = started(&store, "c1").await;
        assert_eq!(alive.show(&id).await.unwrap().owner.as_deref(), Some("c0"));
        dead.kill().await;
        script.gate.notify_one();
        let view = alive.wait(&id, SOON).await.unwrap();
        assert_eq!((view.state, view.owner.as_deref()), (State::Done, Some("c1")), "{view:?}");
        alive.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_submitted_where_nothing_runs_is_done_elsewhere() {
    each_backend(|store| async move {
        migrated(&store).await;
        let api = Engine::new(store.clone(), "api");
        api.register(Arc::new(Script::default()));
        let before = submit(&api, "r1", json!({"name": "a"})).await;
        let (worker, _script) = started(&store, "c0").await;
        let after = submit(&api, "r2", json!({"name": "b"})).await;
        for id in [&before, &after] {
            assert_eq!(api.wait(id, SOON).await.unwrap().owner.as_deref(), Some("c0"));
        }
        assert!(worker.start().await.is_err());
        worker.stop().await;
    })
    .await;
}

/// Past its deadline an operation is undone, also when it never began.
#[tokio::test]
async fn the_deadline_ends_it() {
    let store = sqlite().await;
    migrated(&store).await;
    let api = Engine::new(store.store.clone(), "api");
    api.register(Arc::new(Script::default()));
    let id = submit(&api, "r1", json!({"name": "a"})).await;
    store.write(|tx| tx.execute("UPDATE operation SET deadline_at = 1", &[])).await.unwrap();
    let (engine, script) = started(&store, "c0").await;
    let view = engine.wait(&id, SOON).await.unwrap();
    assert_eq!((view.state, view.error.as_deref()), (State::Failed, Some("The operation did not finish in time.")));
    assert_eq!(script.log(), ["a failed Timeout The operation did not finish in time."]);
    engine.stop().await;
}

#[tokio::test]
async fn a_rolled_back_submission_never_was() {
    let store = sqlite().await;
    migrated(&store).await;
    let (engine, script) = started(&store, "c0").await;
    let submitter = engine.clone();
    let refused: Result<String> = store
        .write(move |tx| {
            submitter.submit(tx, New::new("test.script", "thing", "r1"))?;
            Err(Error::conflict("no"))
        })
        .await;
    refused.unwrap_err();
    let id = submit(&engine, "r1", json!({"name": "a"})).await;
    engine.wait(&id, SOON).await.unwrap();
    assert_eq!(script.log(), ["a first 1", "a second 1"]);
    engine.stop().await;
}

struct Counting {
    name: &'static str,
    runs: AtomicU32,
    inside: AtomicBool,
    fail_first: u32,
    ran: Notify,
}

impl Counting {
    fn new(name: &'static str, fail_first: u32) -> Arc<Self> {
        Arc::new(Counting { name, runs: AtomicU32::new(0), inside: AtomicBool::new(false), fail_first, ran: Notify::new() })
    }
    async fn until(&self, runs: u32) {
        let wait = async {
            while self.runs.load(Ordering::SeqCst) < runs {
                self.ran.notified().await;
            }
        };
        tokio::time::timeout(SOON, wait).await.unwrap();
    }
}

#[async_trait]
impl task::Reconciler for Counting {
    fn name(&self) -> &'static str {
        self.name
    }
    fn every(&self) -> Duration {
        Duration::from_secs(3600)
    }
    async fn run(&self) -> Result<()> {
        assert!(!self.inside.swap(true, Ordering::SeqCst), "it runs twice at the same time");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.inside.store(false, Ordering::SeqCst);
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        self.ran.notify_one();
        match run {
            1 if self.fail_first > 0 => panic!("asked to"),
            run if run <= self.fail_first => Err(Error::unavailable("busy")),
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn reconcilers_run_at_start_when_nudged_and_after_errors() {
    each_backend(|store| async move {
        migrated(&store).await;
        let engine = Engine::new(store.clone(), "c0");
        let quiet = Counting::new("test.quiet", 0);
        let nudge = engine.reconcile(quiet.clone());
        engine.start().await.unwrap();
        quiet.until(1).await;
        nudge.nudge();
        quiet.until(2).await;
        let mine = nudge.clone();
        let refused = store.write(move |tx| {
            mine.nudge_after_commit(tx);
            Err::<(), _>(Error::conflict("no"))
        });
        refused.await.unwrap_err();
        let mine = nudge.clone();
        store
            .write(move |tx| {
                mine.nudge_after_commit(tx);
                Ok(())
            })
            .await
            .unwrap();
        quiet.until(3).await;
        for _ in 0..100 {
            nudge.nudge();
        }
        quiet.until(4).await;
        let failing = Counting::new("test.failing", 2);
        engine.reconcile(failing.clone());
        failing.until(3).await;
        assert!(quiet.runs.load(Ordering::SeqCst) <= 6, "nudges come together");
        // A second controller does not run it where there is a lease, until the first is gone.
        if !store.is_sqlite() {
            let other = Engine::new(store.clone(), "c1");
            let there = Counting::new("test.quiet", 0);
            let nudge_there = other.reconcile(there.clone());
            other.start().await.unwrap();
            let before = quiet.runs.load(Ordering::SeqCst);
            store
                .write(move |tx| {
                    nudge_there.nudge_after_commit(tx);
                    Ok(())
                })
                .await
                .unwrap();
            quiet.until(before + 1).await;
            assert_eq!(there.runs.load(Ordering::SeqCst), 0);
            engine.stop().await;
            nudge.nudge();
            there.until(1).await;
            other.stop().await;
        } else {
            engine.stop().await;
        }
        let runs = quiet.runs.load(Ordering::SeqCst);
        nudge.nudge();
        tokio::task::yield_now().await;
        assert_eq!(quiet.runs.load(Ordering::SeqCst), runs);
    })
    .await;
}
