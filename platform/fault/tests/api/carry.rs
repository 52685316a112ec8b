//! Events on their way out: syslog, webhook, metrics.

use std::sync::{Arc, Mutex};

use fault::{Alarm, Severity};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::{failed, until, world_with};

/// A receiver of webhooks: answers with these statuses in turn, then 204.
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

#[derive(Clone, Debug)]
struct Got {
    head: String,
    body: String,
    status: u16,
}

impl Got {
    fn header(&self, name: &str) -> String {
        let of = |line: &str| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_string());
        self.head.lines().find_map(of).unwrap()
    }
    fn text(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["event"]["reason_text"].as_str().unwrap().to_string()
    }
}

async fn receiver(statuses: &'static [u16]) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let got = Arc::new(Mutex::new(Vec::new()));
    let (all, mut statuses) = (got.clone(), statuses.iter().copied());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = String::new();
            let (head, body) = loop {
                let mut piece = [0; 4096];
                let n = stream.read(&mut piece).await.unwrap();
                text.push_str(std::str::from_utf8(&piece[..n]).unwrap());
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length =
                        head.to_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse::<usize>().unwrap();
                    if body.len() >= length {
                        break (head.to_string(), body.to_string());
                    }
                }
                assert!(n > 0, "{text}");
            };
            let status = statuses.next().unwrap_or(204);
            all.lock().unwrap().push(Got { head, body, status });
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    Receiver { url, got }
}

impl Receiver {
    fn all(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
    fn delivered(&self) -> Vec<Got> {
        self.all().into_iter().filter(|got| got.status == 204).collect()
    }
}

fn alarm(n: usize) -> Alarm {
    Alarm { reason_text: format!("alarm {n}"), ..failed(&format!("i{n}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_signed_retried_and_in_order() {
    let receiver = receiver(&[500, 503, 422]).await;
    let w = world_with(&[("fault.webhook_url", &receiver.url)]).await;
    w.core.tasks.start().await.unwrap();
    for n in 0..5 {
        w.set(alarm(n)).await;
    }
    until(async || receiver.delivered().len() == 4).await;
    let texts: Vec<String> = receiver.all().iter().map(Got::text).collect();
    // Twice put off, once refused for good: those behind it go on.
    assert_eq!(texts, ["alarm 0", "alarm 0", "alarm 0", "alarm 1", "alarm 2", "alarm 3", "alarm 4"]);
    let got = &receiver.delivered()[0];
    let secret = std::fs::read_to_string(w.core.config.home().join("keys/webhook.secret")).unwrap();
    let signed = |secret: &str| {
        use hmac::Mac;
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.trim().as_bytes()).unwrap();
        mac.update(format!("{}.{}", got.header("x-sturnus-timestamp"), got.body).as_bytes());
        format!("v1={}", mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>())
    };
    assert_eq!(got.header("x-sturnus-signature"), signed(&secret));
    assert_ne!(got.header("x-sturnus-signature"), signed("another"));
    let body: Value = serde_json::from_str(&got.body).unwrap();
    assert_eq!(
        (&body["type"], &body["event"]["severity"], body["id"].to_string()),
        (&"set".into(), &"critical".into(), got.header("x-sturnus-event"))
    );
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(w.core.config.home().join("keys/webhook.secret")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    w.core.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_nobody_carried_is_carried_later() {
    let receiver = receiver(&[]).await;
    // The receiver is told of first, but nothing runs: as a process that died between its answer and the delivery.
    let mut w = world_with(&[("fault.webhook_url", &receiver.url)]).await;
    for n in 0..3 {
        w.set(alarm(n)).await;
    }
    w.core.tasks = task::Engine::new(w.core.store.clone(), "next");
    w.faults = fault::Faults::new(w.core.clone()).await.unwrap();
    w.set(alarm(3)).await;
    assert!(receiver.all().is_empty());
    w.core.tasks.start().await.unwrap();
    until(async || receiver.delivered().len() == 4).await;
    assert_eq!(receiver.delivered().iter().map(Got::text).collect::<Vec<_>>(), ["alarm 0", "alarm 1", "alarm 2", "alarm 3"]);
    w.core.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_has_a_line_of_json_for_each_event() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let w = world_with(&[("fault.syslog", &socket.local_addr().unwrap().to_string())]).await;
    w.core.tasks.start().await.unwrap();
    w.core.store.write(|tx| tx.execute("UPDATE event_suppression SET suppressed = 1 WHERE alarm_id = '700.001'", &[])).await.unwrap();
    w.set(Alarm { reason_text: "two\nlines, \"quoted\" é".into(), ..failed("i1") }).await;
    let faults = w.faults.clone();
    w.core.store.write(move |tx| faults.alarms_clear_under_in(tx, "tenant=01234567-89ab-cdef-0123-456789abcdef")).await.unwrap();
    let mut lines = Vec::new();
    for _ in 0..2 {
        let mut buffer = vec![0; 65536];
        let read = tokio::time::timeout(std::time::Duration::from_secs(30), socket.recv(&mut buffer)).await.unwrap().unwrap();
        lines.push(String::from_utf8(buffer[..read].to_vec()).unwrap());
    }
    for (line, state) in lines.iter().zip(["set", "clear"]) {
        assert!(line.starts_with("<174>1 20") && !line.contains('\n'), "{line}");
        let head: Vec<&str> = line.splitn(8, ' ').collect();
        assert_eq!((head[3], head[5], head[6]), ("sturnus", "fault", "-"), "{line}");
        let text: Value = serde_json::from_str(head[7]).unwrap();
        assert_eq!((&text["state"], &text["event_log_id"], &text["severity"]), (&state.into(), &"700.001".into(), &"critical".into()));
        assert!(text.as_object().unwrap().len() == 7 && text.as_object().unwrap().values().all(Value::is_string), "{text}");
    }
    w.core.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_follow_the_alarms() {
    let w = world_with(&[]).await;
    w.core.tasks.start().await.unwrap();
    let shows = |line: &str| w.core.metrics.render().unwrap().lines().any(|l| l == line);
    until(async || shows("sturnus_fault_alarms{severity=\"critical\"} 0")).await;
    w.set(failed("i1")).await;
    w.set(Alarm::known("100.101", "host=a".into(), Severity::Major, "hot".into(), "")).await;
    until(async || shows("sturnus_fault_alarms{severity=\"critical\"} 1") && shows("sturnus_fault_alarms{severity=\"major\"} 1")).await;
    let found = w.get("/v1/event_suppression?q.field=alarm_id&q.value=100.101").await;
    let line = format!("PATCH /v1/event_suppression/{}", found["event_suppression"][0]["uuid"].as_str().unwrap());
    let change = serde_json::json!([{"path": "/suppression_status", "value": "suppressed", "op": "replace"}]);
    assert_eq!(w.bench.call("admin", &line, change).await.0, 200);
    until(async || shows("sturnus_fault_alarms{severity=\"major\"} 0") && shows("sturnus_fault_alarms_hidden{reason=\"suppressed\"} 1"))
        .await;
    w.core.tasks.stop().await;
}

#[tokio::test]
async fn what_the_configuration_gets_wrong_is_told_at_the_start() {
    let (core, _home) = service::testing::core("fault", fault::RULES).await;
    let outcome = async |key: &'static str, value: &str| {
        let mut changed = (*core.config).clone();
        changed.set("fault.webhook_url", "http://127.0.0.1:1/");
        changed.set(key, value);
        let changed = service::Core { config: changed.into(), ..core.clone() };
        fault::Faults::new(changed).await.err().map(|error| error.message().to_string()).unwrap_or_default()
    };
    assert!(outcome("fault.webhook_url", "ftp://x").await.contains("fault.webhook_url"));
    assert!(outcome("fault.webhook_secret_file", "/nowhere").await.contains("/nowhere"));
    assert!(outcome("fault.webhook_ca", "/nowhere").await.contains("fault.webhook_ca"));
    assert!(outcome("fault.syslog", "here").await.contains("fault.syslog"));
    let short = core.config.home().join("short");
    std::fs::write(&short, "abc").unwrap();
    assert!(outcome("fault.webhook_secret_file", short.to_str().unwrap()).await.contains("shorter"));
}
