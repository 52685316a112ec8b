//! The fault manager's TCP port: for C and Python clients that know nothing of REST.

mod access;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, Kind, Result};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use store::Tx;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use access::Access;
use wire::{Code, Key, Packet, Record, Request, State};

use crate::Faults;
use crate::engine::{Active, Setting, Which, alarms_in};

/// More clients at a time are turned away.
const CLIENTS: usize = 512;
/// How long a packet that has begun may take to end, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the port is tried, and how far apart.
const TRIES: u32 = 5;
const APART: Duration = Duration::from_secs(2);

/// What became of packets and connections.
#[derive(Clone, Default)]
pub(crate) struct Counters {
    packets: Family<[(&'static str, &'static str); 1], Counter>,
    connections: Gauge,
}

impl Counters {
    pub fn new(metrics: &http_api::metrics::Metrics) -> Counters {
        let counters = Counters::default();
        metrics.register("fault_client_packets", "Packets of C clients by what became of them", counters.packets.clone());
        metrics.register("fault_client_connections", "Connections of C clients", counters.connections.clone());
        counters
    }

    fn count(&self, outcome: &'static str) {
        self.packets.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// For tests, and for those who want to know without a scraper.
    pub fn of(&self, outcome: &'static str) -> u64 {
        self.packets.get_or_create(&[("outcome", outcome)]).get()
    }
}

impl Faults {
    /// Serves C clients where the configuration says, until `stop` becomes true; none when it says nowhere. A port that is taken
    /// costs these clients their alarms, but not the cloud its life.
    pub fn clients(&self, mut stop: watch::Receiver<bool>) -> Result<Option<impl Future<Output = ()> + use<>>> {
        let text = self.core.config.text("fault.listen");
        if text.is_empty() {
            return Ok(None);
        }
        let address: SocketAddr = text.parse().map_err(|_| Error::invalid("`fault.listen` must be ADDRESS:PORT"))?;
        let access = Access::new(address.ip(), self.core.config.text("fault.peers"))?;
        let faults = self.clone();
        Ok(Some(async move {
            for attempt in 1..=TRIES {
                match TcpListener::bind(address).await {
                    Ok(listener) => return faults.clients_serve(listener, access, stop).await,
                    Err(error) => tracing::warn!(%address, attempt, "no C client can raise alarms here: {error}"),
                }
                if tokio::time::timeout(APART, stop.wait_for(|stop| *stop)).await.is_ok() {
                    return;
                }
            }
        }))
    }

    /// Serves those whom `access` lets in.
    pub async fn clients_serve(&self, listener: TcpListener, access: Access, mut stop: watch::Receiver<bool>) {
        let access = Arc::new(access);
        let mut running = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = running.join_next(), if !running.is_empty() => continue,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others will close theirs.
                    tracing::warn!("a C client could not connect: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if running.len() >= CLIENTS || !stream.local_addr().is_ok_and(|local| access.lets_in(peer, local)) {
                self.counters.count("stranger");
                continue;
            }
            let faults = self.clone();
            running.spawn(async move {
                faults.counters.connections.inc();
                faults.client(stream).await;
                faults.counters.connections.dec();
            });
        }
        // What is under way is in the store or not; a client that got no answer asks again.
        running.shutdown().await;
    }

    /// One connection, to its end.
    async fn client(&self, mut stream: TcpStream) {
        // Without it small answers wait for each other.
        let _ = stream.set_nodelay(true);
        while let Ok(length) = stream.read_u32().await {
            let length = length as usize;
            if !(wire::HEADER..=wire::LONGEST).contains(&length) {
                return self.counters.count("length");
            }
            let packet = match tokio::time::timeout(PATIENCE, body(&mut stream, length)).await {
                Ok(Some(packet)) => packet,
                Ok(None) => return self.counters.count("broken"),
                Err(_) => return self.counters.count("late"),
            };
            let answer = match wire::parse(&packet) {
                Packet::Foreign => return self.counters.count("foreign"),
                Packet::Refused(action, code) => {
                    self.counters.count("refused");
                    Some(wire::reply(action, code, &[]))
                }
                Packet::Request(action, request) => {
                    self.counters.count("taken");
                    self.answer(request).await.map(|(code, payload)| wire::reply(action, code, &payload))
                }
            };
            if let Some(answer) = answer {
                if !matches!(tokio::time::timeout(PATIENCE, stream.write_all(&answer)).await, Ok(Ok(()))) {
                    return self.counters.count("unread");
                }
            }
        }
    }

    async fn answer(&self, request: Request) -> Option<(Code, Vec<u8>)> {
        Some(match request {
            Request::Nothing => return None,
            Request::Update(record) => {
                self.create(*record).await;
                return None;
            }
            Request::Create(record) => self.create(*record).await,
            Request::CreateList(records) => (self.create_list(records).await, Vec::new()),
            Request::Delete(key) => (self.delete_list(vec![key], false).await, Vec::new()),
            Request::DeleteList(keys) => (self.delete_list(keys, true).await, Vec::new()),
            Request::DeleteUnder(entity) => {
                let faults = self.clone();
                let cleared = self.core.store.write(move |tx| faults.alarms_clear_under_in(tx, &entity)).await;
                let code = match cleared {
                    Ok(0) => Code::NotFound,
                    Ok(_) => Code::Ok,
                    Err(error) => code(&error),
                };
                (code, Vec::new())
            }
            Request::Get(key) => {
                let found = self.found(Which::Key(&key.alarm_id, &key.entity)).await;
                found.map_or_else(|code| (code, Vec::new()), |list| (Code::Ok, wire::encode(&list[0])))
            }
            Request::GetEntity(entity) => self.list(Which::Entity(&entity)).await,
            Request::GetId(id) => self.list(Which::Id(&id)).await,
            Request::GetKey(key) => self.list(Which::Key(&key.alarm_id, &key.entity)).await,
        })
    }

    /// At least one.
    async fn found(&self, which: Which<'_>) -> std::result::Result<Vec<Active>, Code> {
        let found = self.core.store.read(|tx| alarms_in(tx, which)).await.map_err(|error| code(&error))?;
        if found.is_empty() { Err(Code::NotFound) } else { Ok(found) }
    }

    async fn list(&self, which: Which<'_>) -> (Code, Vec<u8>) {
        self.found(which).await.map_or_else(|code| (code, Vec::new()), |list| (Code::Ok, wire::encode_list(&list)))
    }

    /// The answer names the alarm, whether it could be stored or not.
    async fn create(&self, record: Record) -> (Code, Vec<u8>) {
        let (faults, sent) = (self.clone(), record.uuid.clone());
        match self.core.store.write(move |tx| faults.record_in(tx, record)).await {
            Ok(uuid) => (Code::Ok, wire::field(&uuid).to_vec()),
            Err(error) => (code(&error), wire::field(&sent).to_vec()),
        }
    }

    /// Stops at the first that cannot be stored; those before it stay.
    async fn create_list(&self, records: Vec<Record>) -> Code {
        let faults = self.clone();
        let stored = self.core.store.write(move |tx| {
            for record in records {
                if let Err(error) = tx.attempt(|tx| faults.record_in(tx, record)) {
                    return Ok(code(&error));
                }
            }
            Ok(Code::Ok)
        });
        stored.await.unwrap_or_else(|error| code(&error))
    }

    /// A list may name what is not there.
    async fn delete_list(&self, keys: Vec<Key>, lenient: bool) -> Code {
        let faults = self.clone();
        let cleared = self.core.store.write(move |tx| {
            let mut cleared = 0;
            for key in &keys {
                cleared += faults.clear_in(tx, Which::IdUnder(&key.alarm_id, &key.entity))?;
            }
            Ok(cleared)
        });
        match cleared.await {
            Ok(0) if !lenient => Code::NotFound,
            Ok(_) => Code::Ok,
            Err(error) => code(&error),
        }
    }

    fn record_in(&self, tx: &Tx, record: Record) -> Result<String> {
        let Record { uuid, state, alarm, keep_existing } = record;
        match state {
            State::Set => self.set_in(tx, alarm, &Setting { uuid, keep_existing }),
            State::Log => {
                self.message_in(tx, alarm)?;
                Ok(if uuid.len() == 36 { uuid } else { base::id::uuid() })
            }
            State::Clear => match self.clear_in(tx, Which::Key(&alarm.alarm_id, &alarm.entity_instance_id))? {
                0 => Err(Error::new(Kind::NotFound, "there is no such alarm")),
                _ => Ok(uuid),
            },
        }
    }
}

/// What an error is to a C client; what is our own fault is logged here, as nobody else will tell.
fn code(error: &Error) -> Code {
    match error.kind() {
        Kind::Invalid => Code::InvalidAttribute,
        Kind::NotFound => Code::NotFound,
        _ => {
            tracing::error!("a C client's alarm: {}", error.chain());
            Code::Database
        }
    }
}

/// A packet of this length; none when its connection ends before. Memory grows with what comes, not with what was announced.
async fn body(stream: &mut TcpStream, length: usize) -> Option<Vec<u8>> {
    let mut packet = Vec::new();
    let read = stream.take(length as u64).read_to_end(&mut packet).await.ok()?;
    (read == length).then_some(packet)
}
