//! The TCP port of the fault manager's C clients, with records laid out as a C compiler lays them out.

use fault::{Access, Alarm, Severity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{World, until, world};

struct Port {
    w: World,
    address: std::net::SocketAddr,
    _stop: watch::Sender<bool>,
}

async fn port() -> Port {
    let w = world().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let faults = w.faults.clone();
    tokio::spawn(async move { faults.clients_serve(listener, Access::Local, stopped).await });
    Port { w, address, _stop: stop }
}

/// A C client's connection.
pub struct Client(pub TcpStream);

/// What goes over it for an action.
pub fn packet(action: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = u32::try_from(16 + payload.len()).unwrap().to_be_bytes().to_vec();
    for number in [1, action, u32::try_from(payload.len()).unwrap(), 0] {
        packet.extend(number.to_le_bytes());
    }
    packet.extend(payload);
    packet
}

impl Port {
    async fn client(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }
}

impl Client {
    async fn send(&mut self, action: u32, payload: &[u8]) {
        self.0.write_all(&packet(action, payload)).await.unwrap();
    }

    /// Code and payload of the next answer.
    pub async fn read(&mut self, action: u32) -> (u32, Vec<u8>) {
        let length = self.0.read_u32().await.unwrap();
        let mut packet = vec![0; length as usize];
        self.0.read_exact(&mut packet).await.unwrap();
        let number = |at: usize| u32::from_le_bytes(packet[at..at + 4].try_into().unwrap());
        assert_eq!((number(0), number(4), number(8) as usize), (1, action, packet.len() - 16));
        (number(12), packet[16..].to_vec())
    }

    pub async fn ask(&mut self, action: u32, payload: &[u8]) -> (u32, Vec<u8>) {
        self.send(action, payload).await;
        self.read(action).await
    }

    async fn ends(mut self) {
        assert_eq!(self.0.read(&mut [0; 1]).await.unwrap_or(0), 0, "the connection is closed");
    }
}

fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    record[at..at + bytes.len()].copy_from_slice(bytes);
}

pub fn record(id: &str, entity: &str, severity: u8) -> Vec<u8> {
    let mut record = vec![0; 1568];
    put(&mut record, 255, id.as_bytes());
    record[512] = 1;
    put(&mut record, 516, b"host");
    put(&mut record, 771, entity.as_bytes());
    record[1040] = severity;
    put(&mut record, 1044, b"it is hot");
    record[1300] = 7;
    record[1304] = 50;
    put(&mut record, 1308, b"cool it");
    record[1564] = 1;
    record
}

fn key(id: &str, entity: &str) -> Vec<u8> {
    let mut key = vec![0; 510];
    put(&mut key, 0, id.as_bytes());
    put(&mut key, 255, entity.as_bytes());
    key
}

fn one(text: &str) -> Vec<u8> {
    key(text, "")[..255].to_vec()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.iter().copied().take_while(|b| *b != 0).collect()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_comes_in_changes_and_goes() {
    let p = port().await;
    let mut c = p.client().await;
    let (code, uuid) = c.ask(0, &record("100.101", "host=a", 2)).await;
    assert_eq!((code, uuid.len()), (0, 255));
    let listed = p.w.get("/v1/alarms/detail").await["alarms"][0].clone();
    assert_eq!((listed["uuid"].as_str().unwrap(), &listed["severity"]), (text(&uuid).as_str(), &"minor".into()));
    assert_eq!((&listed["probable_cause"], &listed["alarm_type"]), (&"threshold-crossed".into(), &"operational-violation".into()));
    let (_, again) = c.ask(0, &record("100.101", "host=a", 3)).await;
    assert_eq!(again, uuid, "the same alarm");
    // An existing one is to be kept.
    let mut keep = record("100.101", "host=a", 1);
    keep[1566] = 1;
    assert_eq!(c.ask(0, &keep).await, (0, uuid.clone()));
    let (code, got) = c.ask(4, &key("100.101", "host=a")).await;
    assert_eq!((code, got.len(), got[1040], text(&got[..255])), (0, 1568, 3, text(&uuid)));
    assert_eq!((text(&got[1044..1299]), got[1564], &got[512]), ("it is hot".into(), 1, &1));
    assert_eq!(c.ask(2, &key("100.101", "host=a")).await, (0, vec![]));
    assert_eq!(c.ask(2, &key("100.101", "host=a")).await, (10, vec![]));
    assert_eq!(c.ask(4, &key("100.101", "host=a")).await, (10, vec![]));
    assert_eq!(p.w.states().await, ["clear", "set", "set"]);
    // A message is a log; an update is never answered.
    let mut message = record("700.114", "tenant=t.instance=i", 4);
    message[512] = 2;
    assert_eq!(c.ask(0, &message).await.0, 0);
    c.send(1, &record("100.101", "host=b", 4)).await;
    c.send(6, &[]).await;
    assert_eq!(c.ask(4, &key("100.101", "host=b")).await.0, 0);
    assert_eq!(p.w.states().await, ["set", "log", "clear", "set", "set"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_set_got_and_cleared() {
    let p = port().await;
    let mut c = p.client().await;
    let mut records: Vec<u8> = ["host=c-1", "host=c-1.port=eth0", "host=c-10"].iter().flat_map(|e| record("200.006", e, 3)).collect();
    assert_eq!(c.ask(9, &records).await, (0, vec![]));
    // The first that is wrong stops it; those before it stay.
    records = [record("200.007", "host=x", 3), record("nonsense", "host=x", 3), record("200.009", "host=x", 3)].concat();
    assert_eq!(c.ask(9, &records).await, (2, vec![]));
    assert_eq!(p.w.column("/v1/alarms?q.field=entity_instance_id&q.value=host%3Dx", "alarm_id").await, ["200.007"]);
    let counted = |payload: &[u8]| (u32::from_le_bytes(payload[..4].try_into().unwrap()), (payload.len() - 4) / 1568);
    for (action, payload, count) in [(5, one("host=c-1"), 1), (7, one("200.006"), 3), (8, key("200.006", "host=c-10"), 1)] {
        let (code, list) = c.ask(action, &payload).await;
        assert_eq!((code, counted(&list)), (0, (count, count as usize)), "action {action}");
    }
    assert_eq!(c.ask(7, &one("999.999")).await, (10, vec![]));
    let keys = [key("200.007", "host=x"), key("200.009", "host=nowhere")].concat();
    assert_eq!(c.ask(10, &keys).await, (0, vec![]), "what is not there is no harm in a list");
    assert_eq!(c.ask(3, &one("host=c-1")).await, (0, vec![]));
    assert_eq!(c.ask(3, &one("host=c-1")).await, (10, vec![]));
    assert_eq!(p.w.column("/v1/alarms", "entity_instance_id").await, ["host=c-10"]);
    // A clear covers what lies below, as clients rely on.
    c.ask(0, &record("200.006", "host=c-10.port=eth1", 3)).await;
    c.ask(0, &record("200.006", "host=c-100", 3)).await;
    assert_eq!(c.ask(2, &key("200.006", "host=c-10")).await.0, 0);
    assert_eq!(p.w.column("/v1/alarms", "entity_instance_id").await, ["host=c-100"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_costs_its_sender_only() {
    let p = port().await;
    let mut good = p.client().await;
    assert_eq!(good.ask(0, &record("100.101", "host=a", 3)).await.0, 0);
    let mut c = p.client().await;
    assert_eq!(c.ask(0, &[1, 2, 3]).await, (7, vec![]));
    assert_eq!(c.ask(4, &one("x")).await, (7, vec![]));
    let mut bad = record("100.101", "host=a", 9);
    assert_eq!(c.ask(0, &bad).await, (2, vec![]));
    bad = record("1", "host=a", 3);
    assert_eq!(c.ask(0, &bad).await.0, 2);
    c.send(99, &[]).await;
    c.ends().await;
    for length in [0u32, 15, 1_568_017, u32::MAX] {
        let mut c = p.client().await;
        c.0.write_all(&length.to_be_bytes()).await.unwrap();
        c.ends().await;
    }
    let mut half = p.client().await;
    half.0.write_all(&1584u32.to_be_bytes()).await.unwrap();
    half.0.write_all(&[1, 0, 0, 0]).await.unwrap();
    // The others are served meanwhile, and half a packet whose sender leaves is dropped.
    assert_eq!(good.ask(4, &key("100.101", "host=a")).await.0, 0);
    drop(half);
    until(async || p.w.faults.client_packets("broken") == 1).await;
    let counted = ["foreign", "length", "refused"].map(|outcome| p.w.faults.client_packets(outcome));
    assert_eq!(counted, [1, 4, 3]);
    assert_eq!(p.w.column("/v1/alarms", "uuid").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_lose_nothing() {
    let p = port().await;
    let work = (0..4).map(|n| {
        let address = p.address;
        tokio::spawn(async move {
            let mut c = Client(TcpStream::connect(address).await.unwrap());
            for i in 0..100 {
                assert_eq!(c.ask(0, &record("100.101", &format!("host=h{n}-{i}"), 3)).await.0, 0);
            }
        })
    });
    for task in work.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(p.w.get("/v1/alarms/summary").await["major"], 400);
    assert_eq!(p.w.states().await.len(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_is_cut_for_them_alone() {
    let p = port().await;
    p.w.set(Alarm::known("100.101", "host=a".into(), Severity::Major, "é".repeat(300), "")).await;
    let mut c = p.client().await;
    let (_, got) = c.ask(4, &key("100.101", "host=a")).await;
    assert_eq!(text(&got[1044..1299]), "é".repeat(127));
    assert_eq!(p.w.column("/v1/alarms", "reason_text").await[0].chars().count(), 300);
}
