//! What a transaction promises, on both backends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use base::{Error, Kind, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use store::testing::{each_backend, sqlite};
use store::{Migration, Store, Value, params};

static TABLES: &[Migration] = &[Migration {
    name: "0001_tables",
    sql: "CREATE TABLE parent (id TEXT PRIMARY KEY);
          CREATE TABLE item (
              id TEXT PRIMARY KEY, parent_id TEXT REFERENCES parent (id), name TEXT UNIQUE, n BIGINT, r DOUBLE PRECISION, raw BYTEA, doc TEXT
          );",
}];

async fn tables(store: &Store) {
    store.migrate("test", TABLES).await.unwrap();
}

async fn insert(store: &Store, id: &str, name: Option<&str>) -> base::Result<u64> {
    let (id, name) = (id.to_owned(), name.map(str::to_owned));
    store.write(move |tx| tx.execute("INSERT INTO item (id, name) VALUES (?1, ?2)", params![id, name])).await
}

async fn ids(store: &Store) -> Vec<String> {
    store.read(|tx| tx.query("SELECT id FROM item ORDER BY id", &[], |row| row.text(0))).await.unwrap()
}

fn bump(counter: &AtomicU32, by: u32) {
    counter.fetch_add(by, Ordering::SeqCst);
}

#[tokio::test]
async fn values_come_back_as_they_went_in() {
    each_backend(|store| async move {
        tables(&store).await;
        let now = Timestamp::now();
        let doc = serde_json::json!({"a": [1, "ü?1"]});
        let given = params!["a", "it's ?1 \"q\"", i64::MIN, 1.5, vec![0u8, 255], doc].to_vec();
        store
            .write(move |tx| tx.execute("INSERT INTO item (id, name, n, r, raw, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)", &given))
            .await
            .unwrap();
        let sql = "INSERT INTO item (id, name, n, r, raw, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        store.write(move |tx| tx.execute(sql, params!["b", Value::Null, now, 2, Value::Null, None::<String>])).await.unwrap();
        store
            .read(|tx| {
                tx.query_one("SELECT id, name, n, r, raw, doc FROM item WHERE id = ?1", params!["a"], |row| {
                    assert_eq!(row.text(1)?, "it's ?1 \"q\"");
                    assert_eq!(row.int(2)?, i64::MIN);
                    assert_eq!(row.real(3)?, 1.5);
                    assert_eq!(row.bytes(4)?, [0, 255]);
                    assert_eq!(row.json::<serde_json::Value>(5)?, serde_json::json!({"a": [1, "ü?1"]}));
                    assert_eq!(row.int(0).unwrap_err().kind(), Kind::Internal);
                    Ok(())
                })?;
                tx.query_one("SELECT id, name, n, r, raw, doc FROM item WHERE id = 'b'", &[], |row| {
                    assert_eq!(row.opt_text(1)?, None);
                    assert_eq!(row.time(2)?, now);
                    assert_eq!(row.real(3)?, 2.0);
                    assert_eq!(row.opt_bytes(4)?, None);
                    assert_eq!(row.text(1).unwrap_err().kind(), Kind::Internal);
                    assert_eq!(row.value(2)?, Value::from(now));
                    Ok(())
                })?;
                // The aggregates of both: PostgreSQL sums BIGINT as NUMERIC.
                let sums =
                    tx.query_one("SELECT SUM(n / 2), COUNT(*), SUM(n) FROM item WHERE id = ?1 OR n IS NULL", params!["a"], |row| {
                        Ok((row.int(0)?, row.count(1)?, row.int(2)?))
                    })?;
                assert_eq!(sums, (i64::MIN / 2, 1, i64::MIN));
                assert_eq!(tx.query_opt("SELECT id FROM item WHERE id = 'z'", &[], |row| row.text(0))?, None);
                assert_eq!(tx.query_one("SELECT id FROM item WHERE id = 'z'", &[], |row| row.text(0)).unwrap_err().kind(), Kind::Internal);
                Ok(())
            })
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn violations_are_sorted_into_kinds() {
    each_backend(|store| async move {
        tables(&store).await;
        insert(&store, "a", Some("x")).await.unwrap();
        for (id, name) in [("a", "y"), ("b", "x")] {
            let error = insert(&store, id, Some(name)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Exists);
            assert!(!error.message().contains("item") && error.chain().contains("item"), "{error:?}");
        }
        let error = store.write(|tx| tx.execute("INSERT INTO item (id, parent_id) VALUES ('c', 'none')", &[])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        store
            .write(|tx| {
                tx.execute("INSERT INTO parent (id) VALUES ('p')", &[])?;
                tx.execute("INSERT INTO item (id, parent_id) VALUES ('c', 'p')", &[])
            })
            .await
            .unwrap();
        let error = store.write(|tx| tx.execute("DELETE FROM parent WHERE id = 'p'", &[])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        for wrong in ["SELEC", "SELECT nothing FROM item", "SELECT id FROM item WHERE id = ?1"] {
            assert_eq!(store.read(|tx| tx.query(wrong, &[], |_| Ok(()))).await.unwrap_err().kind(), Kind::Internal, "{wrong}");
        }
        assert_eq!(ids(&store).await, ["a", "c"]);
    })
    .await;
}

#[tokio::test]
async fn a_failure_takes_back_its_own_closure_only() {
    each_backend(|store| async move {
        tables(&store).await;
        let ran = Arc::new(AtomicU32::new(0));
        let write = |id: &'static str, fate: &'static str| {
            let (store, ran) = (store.clone(), ran.clone());
            async move {
                store
                    .write(move |tx| {
                        tx.execute("INSERT INTO item (id) VALUES (?1)", params![id])?;
                        tx.after_commit(move || bump(&ran, 1));
                        match fate {
                            "error" => Err(Error::invalid("asked to")),
                            "panic" => panic!("asked to"),
                            "swallow" => {
                                let _ = tx.execute("INSERT INTO item (id) VALUES (?1)", params![id]);
                                Ok(())
                            }
                            "after" => {
                                let _ = tx.execute("INSERT INTO item (id) VALUES (?1)", params![id]);
                                tx.execute("INSERT INTO item (id) VALUES ('late')", &[]).map(drop)
                            }
                            _ => Ok(()),
                        }
                    })
                    .await
            }
        };
        let (a, b, c, d, e, f) = tokio::join!(
            write("a", ""),
            write("b", "error"),
            write("c", "panic"),
            write("d", "swallow"),
            write("e", "after"),
            write("f", "")
        );
        a.unwrap();
        assert_eq!(b.unwrap_err().kind(), Kind::Invalid);
        let panic = c.unwrap_err();
        assert!(panic.is(Kind::Internal) && panic.message().contains("asked to"), "{panic:?}");
        assert_eq!(d.unwrap_err().kind(), Kind::Internal);
        assert_eq!(e.unwrap_err().kind(), Kind::Internal);
        f.unwrap();
        assert_eq!(ids(&store).await, ["a", "f"]);
        assert_eq!(ran.load(Ordering::SeqCst), 2, "hooks run exactly for what was committed");
    })
    .await;
}

#[tokio::test]
async fn an_attempt_fails_alone() {
    each_backend(|store| async move {
        tables(&store).await;
        insert(&store, "a", None).await.unwrap();
        let ran = Arc::new(AtomicU32::new(0));
        let mine = ran.clone();
        store
            .write(move |tx| {
                tx.execute("INSERT INTO item (id) VALUES ('b')", &[])?;
                let (one, two) = (mine.clone(), mine.clone());
                let error = tx
                    .attempt(|tx| {
                        tx.execute("INSERT INTO item (id) VALUES ('c')", &[])?;
                        tx.after_commit(move || bump(&one, 1));
                        tx.attempt(|tx| tx.execute("INSERT INTO item (id) VALUES ('d')", &[]))?;
                        tx.execute("INSERT INTO item (id) VALUES ('a')", &[])
                    })
                    .unwrap_err();
                assert_eq!(error.kind(), Kind::Exists);
                tx.attempt(|tx| {
                    tx.after_commit(move || bump(&two, 10));
                    tx.execute("INSERT INTO item (id) VALUES ('e')", &[])
                })?;
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(ids(&store).await, ["a", "b", "e"]);
        assert_eq!(ran.load(Ordering::SeqCst), 10);
    })
    .await;
}

#[tokio::test]
async fn what_comes_before_the_commit_belongs_to_it() {
    each_backend(|store| async move {
        tables(&store).await;
        store
            .write(|tx| {
                tx.before_commit(|tx| {
                    tx.before_commit(|tx| tx.execute("INSERT INTO item (id) VALUES ('c')", &[]).map(drop));
                    tx.execute("INSERT INTO item (id) VALUES ('b')", &[]).map(drop)
                });
                tx.execute("INSERT INTO item (id) VALUES ('a')", &[])
            })
            .await
            .unwrap();
        let failed = store
            .write(|tx| {
                tx.before_commit(|_| Err(Error::conflict("no")));
                tx.execute("INSERT INTO item (id) VALUES ('d')", &[])
            })
            .await;
        assert_eq!(failed.unwrap_err().kind(), Kind::Conflict);
        assert_eq!(ids(&store).await, ["a", "b", "c"]);
    })
    .await;
}

#[tokio::test]
async fn a_read_sees_one_moment_and_cannot_write() {
    each_backend(|store| async move {
        tables(&store).await;
        insert(&store, "a", None).await.unwrap();
        let error = store.read(|tx| tx.execute("INSERT INTO item (id) VALUES ('x')", &[])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        // Panics of readers are the caller's, and leave nothing behind.
        let other = store.clone();
        let panicked = tokio::spawn(async move { other.read(|_| -> base::Result<()> { panic!("asked to") }).await }).await;
        assert!(panicked.is_err());
        insert(&store, "b", None).await.unwrap();
        assert_eq!(ids(&store).await, ["a", "b"], "a write is seen by every later read");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_is_a_snapshot_while_others_write() {
    each_backend(|store| async move {
        tables(&store).await;
        let (ready, wait) = std::sync::mpsc::channel();
        let (written, go) = std::sync::mpsc::channel();
        let reader = {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .read(move |tx| {
                        let count = || tx.query_one("SELECT COUNT(*) FROM item", &[], |row| row.int(0));
                        let before = count()?;
                        ready.send(()).unwrap();
                        go.recv_timeout(Duration::from_secs(10)).unwrap();
                        Ok((before, count()?))
                    })
                    .await
            })
        };
        tokio::task::spawn_blocking(move || wait.recv_timeout(Duration::from_secs(10)).unwrap()).await.unwrap();
        insert(&store, "a", None).await.unwrap();
        written.send(()).unwrap();
        assert_eq!(reader.await.unwrap().unwrap(), (0, 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_lose_nothing() {
    each_backend(|store| async move {
        tables(&store).await;
        store.write(|tx| tx.execute("INSERT INTO item (id, n) VALUES ('counter', 0)", &[])).await.unwrap();
        let tasks: Vec<_> = (0..16)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for i in 0..25 {
                        let id = format!("{writer}-{i}");
                        store
                            .write(move |tx| {
                                tx.lock("counter")?;
                                let n = tx.query_one("SELECT n FROM item WHERE id = 'counter'", &[], |row| row.int(0))?;
                                tx.execute("UPDATE item SET n = ?1 WHERE id = 'counter'", params![n + 1])?;
                                tx.execute("INSERT INTO item (id) VALUES (?1)", params![id])
                            })
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let n = store.read(|tx| {
            tx.query_one("SELECT n, (SELECT COUNT(*) FROM item) FROM item WHERE id = 'counter'", &[], |row| Ok((row.int(0)?, row.int(1)?)))
        });
        assert_eq!(n.await.unwrap(), (400, 401));
    })
    .await;
}

#[tokio::test]
async fn migrations_are_only_appended() {
    each_backend(|store| async move {
        static ONE: &[Migration] = &[Migration { name: "0001_a", sql: "CREATE TABLE a (id TEXT PRIMARY KEY);" }];
        static TWO: &[Migration] =
            &[ONE[0], Migration { name: "0002_b", sql: "CREATE TABLE b (id TEXT);\nINSERT INTO b (id) VALUES ('x;y');" }];
        static OTHER: &[Migration] = &[TWO[1], ONE[0]];
        static BROKEN: &[Migration] = &[TWO[0], TWO[1], Migration { name: "0003_c", sql: "CREATE TABLE c (id TEXT); NONSENSE;" }];
        store.migrate("one", ONE).await.unwrap();
        store.migrate("one", TWO).await.unwrap();
        store.migrate("one", TWO).await.unwrap();
        let error = store.migrate("one", ONE).await.unwrap_err();
        assert!(error.message().contains("older"), "{error:?}");
        let error = store.migrate("one", OTHER).await.unwrap_err();
        assert!(error.message().contains("appended"), "{error:?}");
        store.migrate("one", BROKEN).await.unwrap_err();
        let tables = store.read(|tx| tx.query("SELECT id FROM b", &[], |row| row.text(0))).await.unwrap();
        assert_eq!(tables, ["x;y"]);
        // All of a service's migrations or none.
        assert!(store.read(|tx| tx.query("SELECT id FROM c", &[], |row| row.text(0))).await.is_err());
        let both = tokio::join!(store.migrate("two", &[]), store.migrate("one", TWO));
        both.0.unwrap();
        both.1.unwrap();
    })
    .await;
}

#[tokio::test]
async fn nudges_arrive_after_the_commit_and_not_without() {
    each_backend(|store| async move {
        tables(&store).await;
        let mut watch = store.watch("things");
        let mut other = store.watch("others");
        // A listener that becomes ready wakes whoever waits: it may have missed something until then.
        for watch in [&mut watch, &mut other] {
            while tokio::time::timeout(Duration::from_millis(500), watch.wait()).await.is_ok() {}
        }
        let failed = store.write(|tx| {
            tx.nudge("things");
            Err::<(), _>(Error::invalid("no"))
        });
        failed.await.unwrap_err();
        assert!(tokio::time::timeout(Duration::from_millis(20), watch.wait()).await.is_err());
        store
            .write(|tx| {
                tx.nudge("things");
                tx.nudge("things");
                Ok(())
            })
            .await
            .unwrap();
        tokio::time::timeout(Duration::from_secs(5), watch.wait()).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), other.wait()).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn nudges_reach_other_controllers() {
    let database = store::testing::postgres(&[]).await;
    let (a, b) = (Store::open(&database.url).await.unwrap(), Store::open(&database.url).await.unwrap());
    let mut watch = b.watch("things");
    // The first may be the one that says the listener is ready.
    for _ in 0..3 {
        a.write(|tx| {
            tx.nudge("things");
            Ok(())
        })
        .await
        .unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.wait()).await.unwrap();
    }
    a.close().await;
    b.close().await;
    database.delete().await;
}

#[tokio::test]
async fn a_closed_store_finishes_what_it_accepted() {
    each_backend(|store| async move {
        tables(&store).await;
        let (a, ()) = tokio::join!(insert(&store, "a", None), store.close());
        a.unwrap();
        assert_eq!(insert(&store, "b", None).await.unwrap_err().kind(), Kind::Unavailable);
    })
    .await;
}

#[tokio::test]
async fn bad_addresses_are_refused() {
    for url in ["", "sqlite:", "sqlite::memory:", "mysql://x", "postgresql://h:port/x"] {
        assert_eq!(Store::open(url).await.err().map(|e| e.kind()), Some(Kind::Invalid), "{url}");
    }
    assert_eq!(Store::open("postgresql://u@127.0.0.1:1/x").await.err().map(|e| e.kind()), Some(Kind::Unavailable));
}

#[tokio::test]
async fn sqlite_is_private_and_durable() {
    use std::os::unix::fs::PermissionsExt;
    let store = sqlite().await;
    tables(&store).await;
    let settings = store.write(|tx| {
        let one = |name: &str| tx.query_one(&format!("PRAGMA {name}"), &[], |row| row.value(0));
        Ok((one("synchronous")?, one("journal_mode")?, one("foreign_keys")?))
    });
    assert_eq!(settings.await.unwrap(), (Value::Int(2), Value::from("wal"), Value::Int(1)));
    for file in ["test.db", "test.db-wal"] {
        let mode = std::fs::metadata(store.directory.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

/// The writer takes what waits into one transaction: while the first write of a burst is held up, the others queue, and
/// they all become durable together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_commits_waiting_writes_together() {
    let store = sqlite().await;
    tables(&store).await;
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let (started, start) = std::sync::mpsc::channel::<()>();
    let first = {
        let store = store.store.clone();
        tokio::spawn(async move {
            store
                .write(move |_| {
                    started.send(()).unwrap();
                    held.recv_timeout(Duration::from_secs(10)).unwrap();
                    Ok(())
                })
                .await
        })
    };
    tokio::task::spawn_blocking(move || start.recv_timeout(Duration::from_secs(10)).unwrap()).await.unwrap();
    let before = store.stats();
    let tasks: Vec<_> = (0..50)
        .map(|i| {
            let store = store.store.clone();
            let mut write = Box::pin(async move {
                store
                    .write(move |tx| {
                        tx.execute("INSERT INTO item (id) VALUES (?1)", params![format!("{i:03}")])?;
                        tx.query_one("SELECT COUNT(*) FROM item", &[], |row| row.int(0))
                    })
                    .await
            });
            // Queued in this order.
            assert!(Future::poll(write.as_mut(), &mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
            write
        })
        .collect();
    hold.send(()).unwrap();
    first.await.unwrap().unwrap();
    let mut seen = Vec::new();
    for task in tasks {
        seen.push(task.await.unwrap());
    }
    assert_eq!(seen, (1..=50).collect::<Vec<_>>(), "in the order they were given");
    let after = store.stats();
    assert_eq!(after.writes - before.writes, 50);
    assert!(after.commits - before.commits <= 5, "{} commits", after.commits - before.commits);
}

/// Two who read a row to change it take turns: no change is lost, and nobody fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_locked_row_is_changed_by_one_at_a_time() {
    each_backend(|store| async move {
        tables(&store).await;
        store.write(|tx| tx.execute("INSERT INTO item (id, n) VALUES ('one', 0)", &[])).await.unwrap();
        let add = |store: Store| async move {
            for _ in 0..25 {
                store
                    .write(|tx| {
                        let n = tx.query_opt_locked("SELECT n FROM item WHERE id = 'one'", &[], |row| row.int(0))?.unwrap();
                        tx.execute("UPDATE item SET n = ?1 WHERE id = 'one'", params![n + 1])
                    })
                    .await
                    .unwrap();
            }
        };
        let all: Vec<_> = (0..4).map(|_| tokio::spawn(add(store.clone()))).collect();
        for one in all {
            one.await.unwrap();
        }
        let n = store.read(|tx| tx.query_opt_locked("SELECT n FROM item WHERE id = 'one'", &[], |row| row.int(0))).await.unwrap();
        assert_eq!(n, Some(100));
    })
    .await;
}

/// A server that drops every connection (a restart, a failover) costs some answers, never the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_connections_come_back() {
    let database = store::testing::postgres(&[]).await;
    let (store, other) = (Store::open(&database.url).await.unwrap(), Store::open(&database.url).await.unwrap());
    tables(&store).await;
    let mut watch = store.watch("things");
    let end = std::time::Instant::now() + Duration::from_secs(20);
    for round in 0..3 {
        let killed = store.write(|tx| {
            let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()";
            tx.query(others, &[], |_| Ok(()))
        });
        let error = killed.await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        let id = format!("round-{round}");
        while let Err(error) = insert(&store, &id, None).await {
            assert!(error.is_transient() && std::time::Instant::now() < end, "{error:?}");
        }
        // The listener comes back too: what is said from now on arrives in the end.
        let nudged = async {
            loop {
                let said = other.write(|tx| {
                    tx.nudge("things");
                    Ok(())
                });
                if said.await.is_ok() && tokio::time::timeout(Duration::from_millis(200), watch.wait()).await.is_ok() {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), nudged).await.unwrap();
    }
    assert_eq!(ids(&store).await, ["round-0", "round-1", "round-2"]);
    store.close().await;
    other.close().await;
    database.delete().await;
}
