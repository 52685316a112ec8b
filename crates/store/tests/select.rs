//! List queries: filters, and pages that together are the whole sorted list.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use base::Kind;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::cmp::Ordering;
use store::testing::each_backend;
use store::{Dir, Migration, Select, Store, Value, escape_like, params};

static TABLES: &[Migration] =
    &[Migration { name: "0001_t", sql: "CREATE TABLE t (id TEXT PRIMARY KEY, a BIGINT, b TEXT, r DOUBLE PRECISION);" }];

async fn fill(store: &Store, rows: Vec<(String, Option<i64>, Option<String>)>) {
    store
        .write(move |tx| {
            tx.execute("DELETE FROM t", &[])?;
            for (id, a, b) in rows {
                tx.execute("INSERT INTO t (id, a, b) VALUES (?1, ?2, ?3)", params![id, a, b])?;
            }
            Ok(())
        })
        .await
        .unwrap();
}

async fn found(store: &Store, select: Select) -> Vec<String> {
    let order = [("id", Dir::Asc)];
    let (list, count) = store
        .read(|tx| Ok((select.clone().order(&order).fetch(tx, |row| row.text(0))?, select.clone().order(&order).limit(1).count(tx)?)))
        .await
        .unwrap();
    assert_eq!(list.len() as u64, count);
    list
}

#[tokio::test]
async fn filters_mean_the_same_on_both() {
    each_backend(|store| async move {
        store.migrate("test", TABLES).await.unwrap();
        let text = |s: &str| Some(s.to_owned());
        fill(
            &store,
            vec![
                ("1".into(), Some(1), text("Web")),
                ("2".into(), Some(2), text("web_1")),
                ("3".into(), None, text("webx1")),
                ("4".into(), Some(2), None),
                ("5".into(), Some(5), text("50%")),
            ],
        )
        .await;
        let all = || Select::new("SELECT id FROM t");
        assert_eq!(found(&store, all()).await, ["1", "2", "3", "4", "5"]);
        assert_eq!(found(&store, all().eq("a", 2)).await, ["2", "4"]);
        assert_eq!(found(&store, all().eq("a", Value::Null)).await, ["3"]);
        assert_eq!(found(&store, all().ne("a", 2)).await, ["1", "3", "5"]);
        assert_eq!(found(&store, all().ne("a", Value::Null)).await, ["1", "2", "4", "5"]);
        assert_eq!(found(&store, all().opt_eq("a", None::<i64>).opt_eq("b", Some("Web"))).await, ["1"]);
        assert_eq!(found(&store, all().ge("a", 2).lt("a", 5)).await, ["2", "4"]);
        assert_eq!(found(&store, all().gt("a", 1).le("a", 5)).await, ["2", "4", "5"]);
        assert_eq!(found(&store, all().in_list("id", ["1", "2", "9"])).await, ["1", "2"]);
        assert_eq!(found(&store, all().in_list("id", Vec::<String>::new())).await, Vec::<String>::new());
        assert_eq!(found(&store, all().not_in("id", ["1", "2", "3"])).await, ["4", "5"]);
        assert_eq!(found(&store, all().not_in("id", Vec::<String>::new())).await.len(), 5);
        assert_eq!(found(&store, all().like("b", "web%")).await, ["2", "3"], "case matters");
        assert_eq!(found(&store, all().like("b", format!("{}%", escape_like("web_")))).await, ["2"]);
        assert_eq!(found(&store, all().like("b", format!("%{}", escape_like("%")))).await, ["5"]);
        assert_eq!(found(&store, all().any(|or| or.eq("a", 1).eq("b", Value::Null).like("b", "50%"))).await, ["1", "4", "5"]);
        assert_eq!(found(&store, all().any(|or| or)).await, Vec::<String>::new());
        assert_eq!(found(&store, all().cond("LENGTH(b) = ? OR a = ?", params![3, 1].to_vec()).ne("id", "5")).await, ["1"]);
        for bad in ["a; DROP TABLE t", "a\"", "", "a?"] {
            let error = store.read(|tx| all().eq(bad, 1).fetch(tx, |row| row.text(0))).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Internal, "{bad}");
            assert!(store.read(|tx| all().any(|or| or.eq(bad, 1)).fetch(tx, |row| row.text(0))).await.is_err(), "{bad}");
            assert!(store.read(|tx| all().order(&[(bad, Dir::Asc)]).fetch(tx, |row| row.text(0))).await.is_err(), "{bad}");
        }
        let short = store.read(|tx| all().order(&[("id", Dir::Asc)]).after(vec![]).fetch(tx, |row| row.text(0))).await;
        assert_eq!(short.unwrap_err().kind(), Kind::Internal);
    })
    .await;
}

type Line = (String, Option<i64>, Option<String>);

/// The order of [`Dir`] in memory: NULL after everything when ascending, the whole turned round when descending.
fn compare<T: Ord>(a: &Option<T>, b: &Option<T>, dir: Dir) -> Ordering {
    let ascending = match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    };
    if dir == Dir::Asc { ascending } else { ascending.reverse() }
}

#[tokio::test]
async fn pages_put_together_are_the_sorted_list() {
    // Few different values, so that ties and NULLs are everywhere; texts that sort otherwise in other collations.
    let line = (proptest::option::of(-1i64..3), proptest::option::of(prop_oneof![Just("a"), Just("B"), Just("b"), Just("ä"), Just("")]));
    let dir = || prop_oneof![Just(Dir::Asc), Just(Dir::Desc)];
    let case = (proptest::collection::vec(line, 0..25), dir(), dir(), dir(), 1u64..6, 0usize..4);
    let mut runner = TestRunner::deterministic();
    let cases: Vec<_> = (0..60).map(|_| case.new_tree(&mut runner).unwrap().current()).collect();
    each_backend(|store| {
        let cases = cases.clone();
        async move {
            store.migrate("test", TABLES).await.unwrap();
            for (lines, first, second, third, page, begin) in cases {
                let mut wanted: Vec<Line> =
                    lines.into_iter().enumerate().map(|(i, (a, b))| (format!("{:02}", i * 7 % 29), a, b.map(str::to_owned))).collect();
                fill(&store, wanted.clone()).await;
                // From the first column, or only from a later one on; with the unique one always last.
                let columns = [("a", first), ("b", second), ("id", third)];
                let columns = &columns[begin.min(2)..];
                wanted.sort_by(|x, y| {
                    let a = if begin == 0 { compare(&x.1, &y.1, first) } else { Ordering::Equal };
                    let b = if begin <= 1 { compare(&x.2, &y.2, second) } else { Ordering::Equal };
                    a.then(b).then(compare(&Some(&x.0), &Some(&y.0), third))
                });
                let mut got: Vec<Line> = Vec::new();
                loop {
                    let mut select = Select::new("SELECT id, a, b FROM t").order(columns).limit(page);
                    if let Some((id, a, b)) = got.last() {
                        select = select.after(params![a, b, id][begin.min(2)..].to_vec());
                    }
                    let next =
                        store.read(|tx| select.fetch(tx, |row| Ok((row.text(0)?, row.opt_int(1)?, row.opt_text(2)?)))).await.unwrap();
                    let last = (next.len() as u64) < page;
                    got.extend(next);
                    if last {
                        break;
                    }
                    assert!(got.len() <= wanted.len(), "a page repeats");
                }
                assert_eq!(got, wanted, "{first:?} {second:?} {third:?} by {page}");
            }
        }
    })
    .await;
}
