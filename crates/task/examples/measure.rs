//! Prints what the store and the operations engine cost: `cargo run --release -p task --example measure [URL]`.

use async_trait::async_trait;
use base::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Migration, Store, Tx, params};
use task::{Effect, Engine, New, Operation, StepContext};

static TABLES: &[Migration] = &[Migration {
    name: "0001_t",
    sql: "CREATE TABLE measured (id TEXT PRIMARY KEY, project_id TEXT NOT NULL, doc TEXT NOT NULL); \
          CREATE INDEX measured_project ON measured (project_id, id);",
}];

struct Three;

#[async_trait]
impl Operation for Three {
    fn kind(&self) -> &'static str {
        "measure.three"
    }
    fn steps(&self) -> &'static [&'static str] {
        &["a", "b", "c"]
    }
    async fn run(&self, _: &StepContext, step: &str) -> Result<Effect> {
        Ok(Effect::with(step))
    }
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }
    fn failed(&self, _: &Tx, _: &StepContext, _: &Error) -> Result<()> {
        Ok(())
    }
}

async fn insert(store: &Store, id: String) -> Result<u64> {
    let doc = serde_json::json!({"name": id, "filler": "x".repeat(400)});
    store.write(move |tx| tx.execute("INSERT INTO measured (id, project_id, doc) VALUES (?1, 'p1', ?2)", params![id, doc])).await
}

fn print(what: &str, begun: Instant, n: u32) {
    let all = begun.elapsed();
    println!("{what:<48} {:>9.1} us each {:>10.0} /s", all.as_secs_f64() * 1e6 / f64::from(n), f64::from(n) / all.as_secs_f64());
}

async fn submit(engine: &Engine, resource: String) -> Result<String> {
    let submitter = engine.clone();
    engine.store().write(move |tx| submitter.submit(tx, New::new("measure.three", "thing", resource))).await
}

#[tokio::main]
async fn main() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("sturnus-measure-{}", std::process::id()));
    let url = std::env::args().nth(1).unwrap_or_else(|| format!("sqlite:{}/measure.db", directory.display()));
    let begun = Instant::now();
    let store = Store::open(&url).await?;
    store.migrate("measure", TABLES).await?;
    store.migrate("task", task::MIGRATIONS).await?;
    print("open and migrate", begun, 1);

    let begun = Instant::now();
    for i in 0..500 {
        insert(&store, format!("one-{i:05}")).await?;
    }
    print("durable insert, one after the other", begun, 500);
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..32 {
        let store = store.clone();
        tasks.spawn(async move {
            for i in 0..200 {
                insert(&store, format!("many-{writer}-{i}")).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|e| Error::internal("a writer ended").caused_by(e))??;
    }
    print("durable insert, 32 at once", begun, 6400);

    let n = 20_000;
    let begun = Instant::now();
    for i in 0..n {
        let id = format!("one-{:05}", i % 500);
        store.read(|tx| tx.query_one("SELECT doc FROM measured WHERE id = ?1", params![id], |row| row.text(0))).await?;
    }
    print("point read", begun, n);
    let begun = Instant::now();
    for _ in 0..50 {
        let all = store.read(|tx| {
            let page =
                store::Select::new("SELECT id, doc FROM measured").eq("project_id", "p1").order(&[("id", store::Dir::Asc)]).limit(1000);
            page.fetch(tx, |row| Ok((row.text(0)?, row.text(1)?)))
        });
        all.await?;
    }
    print("page of 1000 rows", begun, 50);

    let engine = Engine::new(store.clone(), "measure");
    engine.register(Arc::new(Three));
    engine.start().await?;
    let begun = Instant::now();
    for i in 0..200 {
        let id = submit(&engine, format!("r{i}")).await?;
        engine.wait(&id, Duration::from_secs(10)).await?;
    }
    print("operation of three steps, one after the other", begun, 200);
    let begun = Instant::now();
    let mut ids = Vec::new();
    for i in 0..1000 {
        ids.push(submit(&engine, format!("s{i}")).await?);
    }
    for id in ids {
        engine.wait(&id, Duration::from_secs(60)).await?;
    }
    print("operation of three steps, 1000 at once", begun, 1000);
    engine.stop().await;
    store.close().await;
    let _ = std::fs::remove_dir_all(directory);
    Ok(())
}
