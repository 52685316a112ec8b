//! Following changes: polls and server-sent events.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{World, failed, instance, world};

/// Reads of a stream until this many messages have come.
struct Reader {
    body: axum::body::BodyDataStream,
    text: String,
}

impl Reader {
    async fn open(w: &World, line: &str) -> Reader {
        let response = w.bench.response("reader", &format!("GET {line}"), String::new()).await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Reader { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next message's lines.
    async fn next(&mut self) -> Vec<String> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let lines = message.lines().map(str::to_string).collect();
                self.text = rest.to_string();
                return lines;
            }
            let piece = tokio::time::timeout(Duration::from_secs(30), self.body.next()).await.unwrap().unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}

fn data(message: &[String]) -> Value {
    serde_json::from_str(message.iter().find_map(|line| line.strip_prefix("data: ")).unwrap()).unwrap()
}

fn id(message: &[String]) -> String {
    message.iter().find_map(|line| line.strip_prefix("id: ")).unwrap().to_string()
}

const STREAM: &str = "/v1/stream accept=text/event-stream";

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_changes_and_resumes_where_he_was() {
    let w = world().await;
    w.set(failed("before")).await;
    let mut reader = Reader::open(&w, STREAM).await;
    let first = reader.next().await;
    assert!(first.contains(&"retry: 1000".to_string()) && !first.iter().any(|l| l.starts_with("event")), "{first:?}");
    w.set(failed("i1")).await;
    let set = reader.next().await;
    assert!(set.contains(&"event: set".to_string()), "{set:?}");
    assert_eq!(data(&set)["event"]["reason_text"], "Instance i1 has failed");
    drop(reader);
    w.clear("700.001", instance("i1")).await;
    w.set(failed("i2")).await;
    // By the header, as browsers do, and by the query.
    for resumed in [format!("{STREAM} last-event-id={}", id(&set)), format!("/v1/stream?last_id={} accept=text/event-stream", id(&set))] {
        let mut reader = Reader::open(&w, &resumed).await;
        reader.next().await;
        let (clear, again) = (reader.next().await, reader.next().await);
        assert_eq!((data(&clear)["type"].clone(), data(&again)["event"]["state"].clone()), (json!("clear"), json!("set")));
    }
    // From where nobody can go on he is told to read everything again.
    let mut lost = Reader::open(&w, &format!("{STREAM} last-event-id=999999")).await;
    let told = lost.next().await;
    assert!(told.contains(&"event: reset".to_string()), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_answers_at_once_or_when_something_happens() {
    let w = world().await;
    w.set(failed("i1")).await;
    let now = w.get("/v1/stream").await;
    assert_eq!((&now["events"], &now["reset"]), (&json!([]), &json!(false)));
    let last = now["last_id"].as_i64().unwrap();
    let poll = format!("/v1/stream?timeout=60&last_id={last}");
    let (polled, ()) = tokio::join!(w.get(&poll), async {
        // The poll begins now or finds it at once; either way it ends long before its time.
        tokio::task::yield_now().await;
        w.set(failed("i2")).await;
    });
    let behind = w.get(&format!("/v1/stream?last_id={last}")).await;
    assert_eq!(behind["events"][0]["event"]["entity_instance_id"], instance("i2"));
    assert!(polled["last_id"].as_i64().unwrap() > last);
    assert_eq!(w.get("/v1/stream?last_id=99999").await["reset"], true);
    for bad in ["/v1/stream?last_id=x", "/v1/stream?last_id=-1", "/v1/stream?timeout=soon"] {
        assert_eq!(w.bench.call("admin", &format!("GET {bad}"), Value::Null).await.0, 400, "{bad}");
    }
    assert_eq!(w.bench.call("", "GET /v1/stream", Value::Null).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_followers() {
    let w = world().await;
    let mut readers = Vec::new();
    for _ in 0..128 {
        readers.push(Reader::open(&w, STREAM).await);
    }
    assert_eq!(w.bench.call("reader", "GET /v1/stream", Value::Null).await.0, 503);
    readers.pop();
    assert_eq!(w.bench.call("reader", "GET /v1/stream", Value::Null).await.0, 200);
}
