//! The operation API on an operation that waits to be told.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Context, Error, Result};
use operation::{Operations, RULES};
use serde_json::{Value, json};
use service::Core;
use service::testing::{Bench, core};
use store::Tx;
use task::{Effect, New, Operation, StepContext};
use tokio::sync::Semaphore;

/// One step that shows progress and then waits for a permit, or for being cancelled.
struct Wait(Arc<Semaphore>);

#[async_trait]
impl Operation for Wait {
    fn kind(&self) -> &'static str {
        "test.wait"
    }
    fn steps(&self) -> &'static [&'static str] {
        &["wait"]
    }
    async fn run(&self, cx: &StepContext, _: &str) -> Result<Effect> {
        cx.progress(40).await?;
        while !cx.cancelled() {
            if let Ok(permit) = self.0.try_acquire() {
                permit.forget();
                return Ok(Effect::none());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(Error::conflict("cancelled"))
    }
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }
    fn failed(&self, _: &Tx, _: &StepContext, _: &Error) -> Result<()> {
        Ok(())
    }
}

struct World {
    bench: Bench,
    core: Core,
    go: Arc<Semaphore>,
    _home: tempfile::TempDir,
}

async fn world() -> World {
    let (core, home) = core("operation", RULES).await;
    let go = Arc::new(Semaphore::new(0));
    core.tasks.register(Arc::new(Wait(go.clone())));
    core.tasks.start().await.unwrap();
    World { bench: Bench::new(Operations::new(core.clone()).service().unwrap()), core, go, _home: home }
}

impl World {
    async fn submit(&self, resource: &'static str, project: &'static str) -> String {
        let tasks = self.core.tasks.clone();
        let new = New::new("test.wait", "thing", resource).project(project).context(Context::system("req-1"));
        self.core.store.write(move |tx| tasks.submit(tx, new)).await.unwrap()
    }
    async fn get(&self, token: &str, path: &str) -> Value {
        let (status, body) = self.bench.call(token, &format!("GET {path}"), Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
    async fn until(&self, id: &str, fits: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1000 {
            let operation = self.get("admin", &format!("/v1/operations/{id}")).await["operation"].take();
            if fits(&operation) {
                return operation;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("operation {id} does not become what it should");
    }
    async fn ids(&self, token: &str, query: &str) -> Vec<String> {
        let found = self.get(token, &format!("/v1/operations?{query}")).await;
        found["operations"].as_array().unwrap().iter().map(|o| o["id"].as_str().unwrap().to_string()).collect()
    }
}

#[tokio::test]
async fn an_operation_shows_how_far_it_is_and_what_came_of_it() {
    let w = world().await;
    let id = w.submit("t1", "p1").await;
    let seen = w.until(&id, |o| o["progress"] == 40).await;
    assert_eq!((&seen["state"], &seen["kind"], &seen["resource_id"]), (&json!("running"), &json!("test.wait"), &json!("t1")));
    assert!(seen["finished_at"].is_null() && seen["error"].is_null());
    w.go.add_permits(1);
    let seen = w.until(&id, |o| o["state"] == "done").await;
    assert!(seen["finished_at"].is_string());
    let (status, body) = w.bench.call("admin", &format!("DELETE /v1/operations/{id}"), Value::Null).await;
    assert_eq!(status, 409, "{body}");
}

#[tokio::test]
async fn an_administrator_cancels() {
    let w = world().await;
    let id = w.submit("t1", "p1").await;
    w.until(&id, |o| o["progress"] == 40).await;
    for (token, expected) in [("other", 404), ("member", 403), ("admin", 202)] {
        let (status, body) = w.bench.call(token, &format!("DELETE /v1/operations/{id}"), Value::Null).await;
        assert_eq!(status, expected, "{token}: {body}");
    }
    let seen = w.until(&id, |o| !o["finished_at"].is_null()).await;
    assert_eq!(seen["state"], "cancelled");
}

#[tokio::test]
async fn lists_are_filtered_paged_and_each_projects_own() {
    let w = world().await;
    let (one, two, three) = (w.submit("t1", "p1").await, w.submit("t2", "p2").await, w.submit("t3", "p1").await);
    assert_eq!(w.ids("admin", "").await, [&three, &two, &one].map(String::clone), "newest first");
    assert_eq!(w.ids("reader", "").await, [&three, &one].map(String::clone));
    assert_eq!(w.ids("reader", "project_id=p2").await, Vec::<String>::new());
    assert_eq!(w.ids("admin", "project_id=p2").await, std::slice::from_ref(&two));
    assert_eq!(w.ids("admin", "resource_id=t3").await, std::slice::from_ref(&three));
    assert_eq!(w.ids("admin", "kind=other").await, Vec::<String>::new());
    let page = w.get("admin", "/v1/operations?limit=2").await;
    assert_eq!(page["operations"].as_array().unwrap().len(), 2);
    let next = page["operations_links"][0]["href"].as_str().unwrap();
    assert!(next.ends_with(&format!("marker={two}")), "{next}");
    assert_eq!(w.ids("admin", &format!("limit=2&marker={two}")).await, std::slice::from_ref(&one));
    w.go.add_permits(3);
    for id in [&one, &two, &three] {
        w.until(id, |o| o["state"] == "done").await;
    }
    assert_eq!(w.ids("admin", "open=true").await, Vec::<String>::new());
    assert_eq!(w.ids("admin", "state=done").await.len(), 3);
    for (query, word) in [("state=lost", "state"), ("marker=nothing", "marker"), ("stat=done", "stat"), ("limit=x", "limit")] {
        let (status, body) = w.bench.call("admin", &format!("GET /v1/operations?{query}"), Value::Null).await;
        assert!(status == 400 && body.to_string().contains(word), "{query}: {status} {body}");
    }
    let (status, _) = w.bench.call("reader", &format!("GET /v1/operations?marker={two}"), Value::Null).await;
    assert_eq!(status, 400, "another project's operation is no marker");
    let (status, _) = w.bench.call("reader", &format!("GET /v1/operations/{two}"), Value::Null).await;
    assert_eq!(status, 404);
}
