//! A write that was acknowledged is there after the process was killed in the middle of others.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use store::{Migration, Store, params};

const DATABASE: &str = "STURNUS_CRASH_TEST_DATABASE";

static TABLES: &[Migration] = &[Migration { name: "0001_t", sql: "CREATE TABLE t (id TEXT PRIMARY KEY, pair BIGINT NOT NULL);" }];

/// The victim: started by the test below as a process of its own, it writes until it is killed and says what it was told is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(url) = std::env::var(DATABASE) else { return };
    let store = Store::open(&url).await.unwrap();
    store.migrate("test", TABLES).await.unwrap();
    let run = base::id::hex();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (store, run) = (store.clone(), run.clone());
            tokio::spawn(async move {
                for i in 0.. {
                    let id = format!("{run}-{writer}-{i}");
                    let mine = id.clone();
                    let write = store.write(move |tx| {
                        for half in 0..2 {
                            tx.execute("INSERT INTO t (id, pair) VALUES (?1, ?2)", params![format!("{mine}/{half}"), half])?;
                        }
                        Ok(())
                    });
                    write.await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {id}").unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn acknowledged_writes_survive_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/crash.db", directory.path().display());
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(DATABASE, &url)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = 0;
        for line in lines {
            let Some(id) = line.split("acknowledged ").nth(1) else { continue };
            acknowledged.push(id.to_owned());
            seen += 1;
            if seen == 20 + round * 37 {
                // SIGKILL; what is still in the pipe was acknowledged too.
                victim.kill().unwrap();
            }
        }
        victim.wait().unwrap();
        assert!(seen >= 20 + round * 37, "the victim died by itself after {seen} writes");
        let store = Store::open(&url).await.unwrap();
        store
            .read(|tx| {
                let check = tx.query_one("PRAGMA integrity_check", &[], |row| row.text(0))?;
                assert_eq!(check, "ok");
                for id in &acknowledged {
                    let halves =
                        tx.query_one("SELECT COUNT(*) FROM t WHERE id IN (?1 || '/0', ?1 || '/1')", params![id], |row| row.int(0))?;
                    assert_eq!(halves, 2, "{id} was acknowledged");
                }
                let torn = tx.query_one("SELECT SUM(pair = 0) - SUM(pair = 1) FROM t", &[], |row| row.int(0))?;
                assert_eq!(torn, 0, "a closure was written in part");
                Ok(())
            })
            .await
            .unwrap();
        store.close().await;
    }
}
