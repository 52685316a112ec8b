//! The outbox, on both backends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use base::{Context, Error, Scope};
use events::{Event, Feed, Priority, record};
use serde_json::json;
use std::time::Duration;
use store::Store;
use store::testing::each_backend;

fn context() -> Context {
    let scope = Scope::Project { id: "p1".into(), name: "demo".into(), domain_id: "default".into(), domain_name: "Default".into() };
    Context { user_id: "u1".into(), scope, ..Context::system("req-1") }
}

async fn write(store: &Store, resource: &str) -> String {
    let event = Event::new("compute.instance.create.end", resource, &context()).payload(json!({"instance": resource}));
    store.write(move |tx| record(tx, &event)).await.unwrap()
}

async fn resources(feed: &Feed) -> Vec<String> {
    feed.next(100).await.unwrap().into_iter().map(|e| e.event.resource).collect()
}

#[tokio::test]
async fn a_cursor_outlives_its_reader() {
    each_backend(|store| async move {
        store.migrate("events", events::MIGRATIONS).await.unwrap();
        let mut feed = Feed::open(&store, "audit").await.unwrap();
        let mut live = Feed::live(&store).await.unwrap();
        let id = write(&store, "a").await;
        write(&store, "b").await;
        let refused = store.write(|tx| {
            record(tx, &Event::new("x.y", "lost", &context()))?;
            Err::<(), _>(Error::conflict("no"))
        });
        refused.await.unwrap_err();
        let two = store.write(|tx| {
            record(tx, &Event::new("x.y", "c", &context()).priority(Priority::Error).publisher("compute.host1").project("p2"))?;
            let lost: base::Result<()> = tx.attempt(|tx| {
                record(tx, &Event::new("x.y", "lost", &context()))?;
                Err(Error::conflict("no"))
            });
            lost.unwrap_err();
            record(tx, &Event::new("x.y", "d", &context()))
        });
        two.await.unwrap();
        let batch = feed.next_batch(100).await.unwrap();
        assert_eq!(batch.iter().map(|e| (e.seq, e.event.resource.as_str())).collect::<Vec<_>>(), [(1, "a"), (2, "b"), (3, "c"), (4, "d")]);
        let first = &batch[0];
        assert_eq!(first.message_id, id);
        let expected = Event {
            event_type: "compute.instance.create.end".into(),
            project_id: "p1".into(),
            user_id: "u1".into(),
            request_id: "req-1".into(),
            resource: "a".into(),
            priority: Priority::Info,
            publisher: "compute".into(),
            payload: json!({"instance": "a"}),
        };
        assert_eq!(first.event, expected);
        assert_eq!((batch[2].event.priority, batch[2].event.publisher.as_str()), (Priority::Error, "compute.host1"));
        assert_eq!(batch[2].event.project_id, "p2");
        let shown = events::notification(first);
        assert_eq!(shown["priority"], "INFO");
        assert_eq!(shown["publisher_id"], "compute");
        assert_eq!(shown["payload"], json!({"instance": "a"}));
        assert_eq!(shown["timestamp"].as_str().unwrap().len(), "2026-11-20 12:00:00.000000".len());
        let envelope = events::envelope(first);
        assert_eq!(envelope["oslo.version"], "2.0");
        let inside: serde_json::Value = serde_json::from_str(envelope["oslo.message"].as_str().unwrap()).unwrap();
        assert_eq!(inside, shown);
        feed.commit(2).await.unwrap();
        drop(feed);
        let mut feed = Feed::open(&store, "audit").await.unwrap();
        assert_eq!(resources(&feed).await, ["c", "d"]);
        feed.commit(1).await.unwrap();
        assert_eq!(feed.position(), 2, "a cursor never goes back");
        assert_eq!(live.next_batch(1).await.unwrap()[0].event.resource, "a");
        live.commit(4).await.unwrap();
        assert_eq!(resources(&live).await, Vec::<String>::new());
        assert_eq!(resources(&Feed::live(&store).await.unwrap()).await, Vec::<String>::new());
        // What a consumer has not passed is kept, however old; without it, nothing is in the way.
        assert_eq!(events::prune(&store, Duration::from_secs(3600)).await.unwrap(), 0);
        assert_eq!(events::prune(&store, Duration::ZERO).await.unwrap(), 2);
        assert_eq!(resources(&feed).await, ["c", "d"]);
        events::forget(&store, "audit").await.unwrap();
        assert_eq!(events::prune(&store, Duration::ZERO).await.unwrap(), 2);
        write(&store, "e").await;
        assert_eq!(Feed::open(&store, "new").await.unwrap().next(5).await.unwrap()[0].seq, 5, "numbers are never used again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_misses_nothing_while_many_write() {
    each_backend(|store| async move {
        store.migrate("events", events::MIGRATIONS).await.unwrap();
        store.write(|tx| tx.execute("CREATE TABLE thing (id TEXT PRIMARY KEY, n BIGINT)", &[])).await.unwrap();
        store.write(|tx| tx.execute("INSERT INTO thing (id, n) VALUES ('x', 0), ('y', 0)", &[])).await.unwrap();
        let mut feed = Feed::open(&store, "follower").await.unwrap();
        let writers: Vec<_> = (0..8)
            .map(|writer: usize| {
                let store = store.clone();
                tokio::spawn(async move {
                    for i in 0..25 {
                        store
                            .write(move |tx| {
                                // Recorded before rows are locked: the numbering must not deadlock with that.
                                record(tx, &Event::new("x.y", format!("{writer}-{i}"), &context()))?;
                                tx.execute(&format!("UPDATE thing SET n = n + 1 WHERE id = '{}'", if writer < 4 { "x" } else { "y" }), &[])
                            })
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        let mut seen = Vec::new();
        while seen.len() < 200 {
            let batch = tokio::time::timeout(Duration::from_secs(20), feed.next_batch(7)).await.unwrap().unwrap();
            seen.extend(batch.iter().map(|e| e.seq));
            feed.commit(*seen.last().unwrap()).await.unwrap();
        }
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(seen, (1..=200).collect::<Vec<i64>>());
    })
    .await;
}

#[tokio::test]
async fn a_follower_goes_on_where_it_was_or_is_told_that_it_cannot() {
    each_backend(|store| async move {
        store.migrate("events", events::MIGRATIONS).await.unwrap();
        for resource in ["a", "b", "c"] {
            write(&store, resource).await;
        }
        let late = Feed::open_new(&store, "late").await.unwrap();
        assert!(resources(&late).await.is_empty(), "what was before is not its business");
        write(&store, "d").await;
        assert_eq!(resources(&late).await, ["d"]);
        assert_eq!(resources(&Feed::open_new(&store, "late").await.unwrap()).await, ["d"], "it starts now only once");
        let again = Feed::after(&store, 2).await.unwrap().unwrap();
        assert_eq!(resources(&again).await, ["c", "d"]);
        assert!(Feed::after(&store, 5).await.unwrap().is_none(), "nobody was ever there");
        store.write(|tx| tx.execute("DELETE FROM event WHERE seq <= 2", &[])).await.unwrap();
        assert!(Feed::after(&store, 1).await.unwrap().is_none(), "the one behind it is gone");
        assert_eq!(resources(&Feed::after(&store, 2).await.unwrap().unwrap()).await, ["c", "d"]);
        store.write(|tx| tx.execute("DELETE FROM event", &[])).await.unwrap();
        assert!(Feed::after(&store, 3).await.unwrap().is_none());
        assert!(Feed::after(&store, 4).await.unwrap().is_some());
    })
    .await;
}
