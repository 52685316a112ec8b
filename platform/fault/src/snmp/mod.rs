//! SNMP: an agent that only reads, v2c and v3, and notifications to configured sinks.

mod message;
mod mib;
mod usm;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::{Config, Error, Result, Timestamp, error::Internal};
use events::Recorded;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use rasn_snmp::v2::{Pdu, Pdus, Report, Response, Trap, VarBind, VarBindValue};
use store::Store;
use tokio::net::UdpSocket;
use tokio::sync::{Mutex, watch};

use crate::Faults;
use crate::carry::Way;
use message::{Level, Secured, Seen};
use mib::{Oid, Value, View};
use usm::User;

/// How long a walk reads the same state.
const FRESH: Duration = Duration::from_secs(1);
/// Most variables of an answer, and about how many bytes of them.
const VARIABLES: usize = 200;
const BYTES: usize = 8000;
/// How far an asker's clock may be from ours (RFC 3414).
const WINDOW: u32 = 150;

/// What both sides of the protocol need.
pub(crate) struct Snmp {
    store: Store,
    name: String,
    community: Vec<u8>,
    /// Who sends notifications of version 3; none: version 2c.
    sender: Option<User>,
    users: Vec<User>,
    engine: Vec<u8>,
    boots: u32,
    started: Timestamp,
    listen: Option<SocketAddr>,
    sinks: Vec<SocketAddr>,
    /// Before a notification's entity: `region=R.system=S.`.
    prefix: String,
    view: Mutex<Option<(Instant, Arc<View>)>>,
    salt: AtomicU64,
    packets: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Snmp {
    /// None when the configuration wants neither an agent nor notifications.
    pub fn new(config: &Config, store: &Store, metrics: &http_api::metrics::Metrics) -> Result<Option<Arc<Snmp>>> {
        let address = |key: &str, text: &str| -> Result<SocketAddr> {
            text.parse().map_err(|_| Error::invalid(format!("`{text}` is no value for `{key}`: it must be ADDRESS:PORT")))
        };
        let listen = Some(config.text("fault.snmp_listen")).filter(|text| !text.is_empty());
        let listen = listen.map(|text| address("fault.snmp_listen", text)).transpose()?;
        let sinks = config.text("fault.snmp_traps").split(',').map(str::trim).filter(|text| !text.is_empty());
        let sinks: Vec<SocketAddr> = sinks.map(|text| address("fault.snmp_traps", text)).collect::<Result<_>>()?;
        if listen.is_none() && sinks.is_empty() {
            return Ok(None);
        }
        let (engine, boots) = usm::engine(&config.home().join("keys"))?;
        let users = match config.text("fault.snmp_users") {
            "" => Vec::new(),
            path => usm::users(Path::new(path), &engine)?,
        };
        let sender = match config.text("fault.snmp_trap_user") {
            "" => None,
            name => Some(users.iter().find(|user| user.name == name).cloned().ok_or_else(|| {
                Error::invalid(format!("`{name}` is no value for `fault.snmp_trap_user`: `fault.snmp_users` has nobody of that name"))
            })?),
        };
        let community = config.text("fault.snmp_community").as_bytes().to_vec();
        if community.is_empty() && (users.is_empty() || !sinks.is_empty() && sender.is_none()) {
            return Err(Error::invalid("SNMP needs `fault.snmp_community`, or `fault.snmp_users` and for traps `fault.snmp_trap_user`"));
        }
        let system = Some(config.text("fault.system_name")).filter(|name| !name.is_empty());
        let prefix = format!("region={}.{}", config.text("region"), system.map(|name| format!("system={name}.")).unwrap_or_default());
        let packets = Family::default();
        metrics.register("fault_snmp_packets", "SNMP requests by what became of them", packets.clone());
        Ok(Some(Arc::new(Snmp {
            store: store.clone(),
            name: system.unwrap_or("sturnus").to_string(),
            community,
            sender,
            users,
            engine,
            boots,
            started: Timestamp::now(),
            listen,
            sinks,
            prefix,
            view: Mutex::new(None),
            // Never twice the same under one key: starts are counted, and so are messages.
            salt: AtomicU64::new(u64::from(boots) << 32),
            packets,
        })))
    }

    pub fn has_sinks(&self) -> bool {
        !self.sinks.is_empty()
    }

    fn time(&self) -> u32 {
        mib::ticks(self.started) / 100
    }

    /// The answer to a packet, when it deserves one.
    async fn answer(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let (outcome, answer) = match message::read(packet) {
            Seen::Community(community, pdus) => {
                let known = !self.community.is_empty() && same(&community, &self.community);
                match known {
                    true => ("answered", self.pdus(pdus).await.and_then(|pdus| message::with_community(&self.community, pdus))),
                    false => ("stranger", None),
                }
            }
            Seen::Secured(secured) => self.secured(packet, *secured).await,
            Seen::Foreign => ("foreign", None),
        };
        self.packets.get_or_create(&[("outcome", outcome)]).inc();
        answer
    }

    /// A message of version 3: who sent it, whether it is his, whether it is new; then what it asks.
    async fn secured(&self, packet: &[u8], message: Secured) -> (&'static str, Option<Vec<u8>>) {
        let report = |number: u32, outcome: &'static str, level: Level, user: Option<&User>| {
            let counted = u32::try_from(self.packets.get_or_create(&[("outcome", outcome)]).get()).unwrap_or(0);
            let name = [1, 3, 6, 1, 6, 3, 15, 1, 1, number, 0].to_vec();
            let variable = variable(&name, message::counter(counted.saturating_add(1)))?;
            let pdu = Pdu { request_id: message.request_id, error_status: 0, error_index: 0, variable_bindings: vec![variable] };
            message.reportable.then(|| self.seal(&message, level, user, Pdus::Report(Report(pdu)))).flatten()
        };
        if message.engine != self.engine {
            return ("discovery", report(4, "discovery", Level::Plain, None));
        }
        let Some(user) = self.users.iter().find(|user| user.name.as_bytes() == message.user) else {
            return ("unknown-user", report(3, "unknown-user", Level::Plain, None));
        };
        let level = user.level();
        if message.level != level {
            return ("level", report(1, "level", Level::Plain, None));
        }
        // Who signs nothing cannot be told from others, nor an old message from a new one.
        if level == Level::Plain {
            let Some(pdus) = message.opened(user) else { return ("unreadable", None) };
            let answer = self.pdus(pdus).await.and_then(|pdus| self.seal(&message, level, Some(user), pdus));
            return ("answered", answer);
        }
        let genuine = message::unsigned(packet, &message).is_some_and(|(zeroed, digest)| same(&user.digest(&zeroed), &digest));
        if !genuine {
            return ("digest", report(5, "digest", Level::Plain, None));
        }
        if message.boots != self.boots || message.time.abs_diff(self.time()) > WINDOW {
            return ("late", report(2, "late", Level::Signed, Some(user)));
        }
        let Some(pdus) = message.opened(user) else {
            return ("unreadable", report(6, "unreadable", Level::Signed, Some(user)));
        };
        let answer = self.pdus(pdus).await.and_then(|pdus| self.seal(&message, level, Some(user), pdus));
        ("answered", answer)
    }

    fn seal(&self, to: &Secured, level: Level, user: Option<&User>, pdus: Pdus) -> Option<Vec<u8>> {
        let salt = self.salt.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let envelope = message::Envelope { id: to.id, engine: &self.engine, boots: self.boots, time: self.time(), salt };
        message::sealed(&envelope, &to.context, level, user, pdus)
    }

    /// What is asked for. Nothing can be written, and what is no question gets no answer.
    async fn pdus(&self, pdus: Pdus) -> Option<Pdus> {
        let view = self.view().await?;
        let (id, variables) = match pdus {
            Pdus::GetRequest(get) => {
                let found = |asked: &VarBind| match view.get(&asked.name) {
                    Some(value) => variable(&asked.name, message::value(&value)),
                    None => variable(&asked.name, VarBindValue::NoSuchObject),
                };
                (get.0.request_id, get.0.variable_bindings.iter().take(VARIABLES).map(found).collect::<Option<Vec<_>>>()?)
            }
            Pdus::GetNextRequest(get) => {
                let found = |asked: &VarBind| behind(&view, &asked.name).map(|(_, variable)| variable);
                (get.0.request_id, get.0.variable_bindings.iter().take(VARIABLES).map(found).collect::<Option<Vec<_>>>()?)
            }
            Pdus::GetBulkRequest(bulk) => {
                let once = usize::try_from(bulk.0.non_repeaters).unwrap_or(usize::MAX).min(bulk.0.variable_bindings.len());
                let (first, repeated) = bulk.0.variable_bindings.split_at(once);
                (bulk.0.request_id, many(&view, first, repeated, bulk.0.max_repetitions)?)
            }
            Pdus::SetRequest(set) => {
                let pdu = Pdu { error_status: Pdu::ERROR_STATUS_NOT_WRITABLE, error_index: 1, ..set.0 };
                return Some(Pdus::Response(Response(pdu)));
            }
            _ => return None,
        };
        Some(Pdus::Response(Response(Pdu { request_id: id, error_status: 0, error_index: 0, variable_bindings: variables })))
    }

    async fn view(&self) -> Option<Arc<View>> {
        let mut kept = self.view.lock().await;
        if let Some((_, view)) = kept.as_ref().filter(|(read, _)| read.elapsed() < FRESH) {
            return Some(view.clone());
        }
        let read = self.store.read(|tx| View::read(tx, &self.name)).await;
        let mut view = read.inspect_err(|error| tracing::error!("an SNMP agent's view: {}", error.chain())).ok()?;
        view.up_since(mib::ticks(self.started));
        let view = Arc::new(view);
        *kept = Some((Instant::now(), view.clone()));
        Some(view)
    }

    async fn notify(&self, id: Oid, variables: Vec<(Oid, Value)>) -> Result<()> {
        let head = [(mib::UP_TIME.to_vec(), Value::Ticks(mib::ticks(self.started))), (mib::TRAP_ID.to_vec(), Value::Oid(id))];
        let all = head.iter().chain(&variables).map(|(name, value)| variable(name, message::value(value))).collect::<Option<Vec<_>>>();
        let variable_bindings = all.ok_or_else(|| Error::internal("a notification with a name that is none"))?;
        let number = i32::try_from(self.salt.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff).unwrap_or(0);
        let pdus = Pdus::Trap(Trap(Pdu { request_id: number, error_status: 0, error_index: 0, variable_bindings }));
        let packet = match &self.sender {
            None => message::with_community(&self.community, pdus),
            Some(user) => {
                let salt = self.salt.fetch_add(1, Ordering::Relaxed).to_be_bytes();
                let envelope = message::Envelope { id: number, engine: &self.engine, boots: self.boots, time: self.time(), salt };
                message::sealed(&envelope, &[], user.level(), Some(user), pdus)
            }
        };
        let packet = packet.ok_or_else(|| Error::internal("a notification that cannot be encoded"))?;
        for sink in &self.sinks {
            let any: SocketAddr = if sink.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
            let socket = UdpSocket::bind(any).await.internal("a socket for a trap")?;
            socket.send_to(&packet, sink).await.internal("sending a trap")?;
        }
        Ok(())
    }
}

/// Notifications follow the outbox like every other way out.
pub(crate) struct Traps(pub Arc<Snmp>);

#[async_trait]
impl Way for Traps {
    fn name(&self) -> &'static str {
        "fault.traps"
    }

    async fn deliver(&self, event: &Recorded) -> Result<()> {
        match mib::notification(&event.event.event_type, &event.event.payload, &self.0.prefix) {
            Some((id, variables)) => self.0.notify(id, variables).await,
            None => Ok(()),
        }
    }
}

impl Faults {
    /// Serves SNMP where the configuration says, until `stop` becomes true.
    pub fn snmp(&self, mut stop: watch::Receiver<bool>) -> Option<impl Future<Output = ()> + use<>> {
        let snmp = self.snmp.clone()?;
        Some(async move {
            if let Err(error) = snmp.notify(mib::COLD_START.to_vec(), Vec::new()).await {
                tracing::warn!("nobody was told of this start: {}", error.chain());
            }
            let Some(address) = snmp.listen else { return };
            let socket = match UdpSocket::bind(address).await {
                Ok(socket) => socket,
                Err(error) => return tracing::warn!(%address, "no SNMP agent can listen here: {error}"),
            };
            tokio::select! {
                () = snmp.serve(socket) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        })
    }

    /// Serves SNMP on a socket that is there already, for as long as this is awaited.
    pub async fn snmp_serve(&self, socket: UdpSocket) {
        if let Some(snmp) = &self.snmp {
            snmp.serve(socket).await;
        }
    }
}

impl Snmp {
    async fn serve(&self, socket: UdpSocket) {
        let mut buffer = vec![0; 65536];
        loop {
            // An error is an earlier answer's, whose asker is gone.
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            if let Some(answer) = self.answer(&buffer[..length]).await {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    }
}

fn variable(name: &[u32], value: VarBindValue) -> Option<VarBind> {
    Some(VarBind { name: message::oid(name)?, value })
}

/// The variable behind a name, and its name; at the end, the name itself.
fn behind(view: &View, name: &[u32]) -> Option<(Oid, VarBind)> {
    match view.next(name) {
        Some((next, value)) => Some((next.clone(), variable(&next, message::value(&value))?)),
        None => Some((name.to_vec(), variable(name, VarBindValue::EndOfMibView)?)),
    }
}

fn many(view: &View, first: &[VarBind], repeated: &[VarBind], times: u32) -> Option<Vec<VarBind>> {
    let mut found = Vec::new();
    for asked in first.iter().take(VARIABLES) {
        found.push(behind(view, &asked.name)?.1);
    }
    let mut at: Vec<Oid> = repeated.iter().map(|asked| asked.name.to_vec()).collect();
    let mut bytes = 0;
    for _ in 0..times {
        for name in &mut at {
            if found.len() >= VARIABLES || bytes > BYTES {
                return Some(found);
            }
            let (next, variable) = behind(view, name)?;
            bytes += message::size(&variable);
            found.push(variable);
            *name = next;
        }
        if at.is_empty() {
            break;
        }
    }
    Some(found)
}

/// Equal, in a time that tells nothing of where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use rasn_snmp::v2::{BulkPdu, GetBulkRequest, GetNextRequest, GetRequest, SetRequest};
    use service::testing::core;

    use super::*;
    use crate::{Alarm, Severity};

    const ALARM_ID: [u32; 14] = [1, 3, 6, 1, 4, 1, 731, 1, 1, 1, 1, 1, 1, 3];

    struct World {
        faults: Faults,
        snmp: Arc<Snmp>,
        _home: tempfile::TempDir,
    }

    async fn world(sinks: &str) -> World {
        let (mut core, home) = core("fault", crate::RULES).await;
        let users = home.path().join("users");
        std::fs::write(&users, "alice sha password1 aes password2\nbob md5 password3\ncarol md5 password4 des password5\ndave none\n")
            .unwrap();
        let mut config = (*core.config).clone();
        for (key, value) in [
            ("fault.snmp_listen", "127.0.0.1:0"),
            ("fault.snmp_community", "secret"),
            ("fault.snmp_users", users.to_str().unwrap()),
            ("fault.snmp_traps", sinks),
            ("fault.system_name", "edge"),
        ] {
            config.set(key, value);
        }
        core.config = config.into();
        let faults = Faults::new(core).await.unwrap();
        World { snmp: faults.snmp.clone().unwrap(), faults, _home: home }
    }

    impl World {
        async fn set(&self, alarm: Alarm) {
            let faults = self.faults.clone();
            self.faults.core.store.write(move |tx| faults.alarm_set_in(tx, &alarm)).await.unwrap();
            *self.snmp.view.lock().await = None;
        }

        /// Asks as a client of version 2c.
        async fn ask(&self, community: &str, pdus: Pdus) -> Option<Pdu> {
            let packet = message::with_community(community.as_bytes(), pdus).unwrap();
            let Seen::Community(_, Pdus::Response(answer)) = message::read(&self.snmp.answer(&packet).await?) else {
                panic!("no response")
            };
            Some(answer.0)
        }

        /// What lies behind a name, up to its end.
        async fn walk(&self, root: &[u32]) -> Vec<VarBind> {
            let (mut at, mut found) = (root.to_vec(), Vec::new());
            loop {
                let answer = self.ask("secret", Pdus::GetNextRequest(GetNextRequest(pdu(&at)))).await.unwrap();
                let variable = answer.variable_bindings[0].clone();
                if variable.value == VarBindValue::EndOfMibView || !variable.name.starts_with(root) {
                    return found;
                }
                at = variable.name.to_vec();
                found.push(variable);
            }
        }

        /// Seals a question as a client of version 3 does, and reads the report or answer.
        async fn secure(&self, user: &User, level: Level, boots: u32, time: u32, engine: &[u8]) -> Pdus {
            let envelope = message::Envelope { id: 77, engine, boots, time, salt: [3; 8] };
            let mut packet = message::sealed(&envelope, b"", level, Some(user), Pdus::GetRequest(GetRequest(pdu(&mib::UP_TIME)))).unwrap();
            // Reportable: the bit is set in the one octet of the flags, and signed again.
            let flags = packet.windows(3).position(|w| w[0] == 4 && w[1] == 1 && w[2] < 4).unwrap() + 2;
            packet[flags] |= 4;
            if let Seen::Secured(message) = message::read(&packet)
                && level != Level::Plain
            {
                let Some((zeroed, old)) = message::unsigned(&packet, &message).map(|(mut packet, old)| {
                    let at = packet.windows(12).position(|w| w == [0; 12]).unwrap();
                    packet[at..at + 12].fill(0);
                    (packet, old)
                }) else {
                    panic!("unsigned")
                };
                let at = packet.windows(12).position(|w| w == old).unwrap();
                packet[at..at + 12].copy_from_slice(&user.digest(&zeroed));
            }
            let answer = self.snmp.answer(&packet).await.unwrap();
            let Seen::Secured(message) = message::read(&answer) else { panic!("no v3") };
            assert_eq!(message.id, 77);
            match message.level {
                Level::Plain => message.in_the_clear(),
                _ => {
                    let (zeroed, digest) = message::unsigned(&answer, &message).unwrap();
                    assert_eq!(user.digest(&zeroed), digest, "the answer is signed");
                    message.opened(user).unwrap()
                }
            }
        }

        fn user(&self, name: &str) -> User {
            self.snmp.users.iter().find(|user| user.name == name).cloned().unwrap()
        }
    }

    fn pdu(name: &[u32]) -> Pdu {
        Pdu { request_id: 5, error_status: 0, error_index: 0, variable_bindings: vec![variable(name, VarBindValue::Unspecified).unwrap()] }
    }

    fn hot(entity: &str, severity: Severity) -> Alarm {
        Alarm::known("100.101", entity.into(), severity, "hot".into(), "cool it")
    }

    #[tokio::test]
    async fn a_walk_shows_what_an_operator_sees() {
        let w = world("").await;
        for n in 0..3 {
            w.set(hot(&format!("host=h{n}"), Severity::Major)).await;
        }
        w.set(Alarm::known("100.103", "host=a".into(), Severity::Major, "full".into(), "")).await;
        let hide = "UPDATE event_suppression SET suppressed = 1 WHERE alarm_id = '100.103'";
        w.faults.core.store.write(move |tx| tx.execute(hide, &[])).await.unwrap();
        *w.snmp.view.lock().await = None;
        let ids = w.walk(&ALARM_ID).await;
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|v| v.value == message::value(&"100.101".into())));
        assert_eq!(w.walk(&ALARM_ID[..12]).await.len(), 3 * 11);
        assert_eq!(w.walk(&[1, 3]).await.len(), 4 + 3 * 11 + 3 * 12);
        let hide = "INSERT INTO entity_suppression (id, uuid, alarm_id, entity_pattern, likeness, owner, comment, created_at)
             VALUES (1, 'u', '', 'host=h*', 'host=h%', 'x', '', 0)";
        w.faults.core.store.write(move |tx| tx.execute(hide, &[])).await.unwrap();
        *w.snmp.view.lock().await = None;
        assert_eq!(w.walk(&[1, 3]).await.len(), 4, "neither alarms nor their events");
        w.faults.core.store.write(|tx| tx.execute("UPDATE entity_suppression SET expires_at = 1", &[])).await.unwrap();
        *w.snmp.view.lock().await = None;
        // All at once.
        let bulk =
            BulkPdu { request_id: 9, non_repeaters: 0, max_repetitions: 50, variable_bindings: pdu(&ALARM_ID[..12]).variable_bindings };
        let answer = w.ask("secret", Pdus::GetBulkRequest(GetBulkRequest(bulk))).await.unwrap();
        assert_eq!((answer.request_id, answer.variable_bindings.len()), (9, 50));
        let endless = BulkPdu { request_id: 9, non_repeaters: 9, max_repetitions: u32::MAX, variable_bindings: vec![] };
        assert_eq!(w.ask("secret", Pdus::GetBulkRequest(GetBulkRequest(endless))).await.unwrap().variable_bindings.len(), 0);
        let answer = w.ask("secret", Pdus::GetRequest(GetRequest(pdu(&[1, 3, 9])))).await.unwrap();
        assert_eq!(answer.variable_bindings[0].value, VarBindValue::NoSuchObject);
        let answer = w.ask("secret", Pdus::SetRequest(SetRequest(pdu(&mib::UP_TIME)))).await.unwrap();
        assert_eq!((answer.error_status, answer.error_index), (Pdu::ERROR_STATUS_NOT_WRITABLE, 1));
        assert!(w.ask("public", Pdus::GetRequest(GetRequest(pdu(&mib::UP_TIME)))).await.is_none(), "a stranger hears nothing");
    }

    #[tokio::test]
    async fn users_are_known_by_their_keys_and_the_time() {
        let w = world("").await;
        let (engine, boots, now) = (w.snmp.engine.clone(), w.snmp.boots, w.snmp.time());
        let reported = |pdus: Pdus| match pdus {
            Pdus::Report(report) => report.0.variable_bindings[0].name[9],
            other => panic!("no report: {other:?}"),
        };
        for (name, level) in [("alice", Level::Private), ("bob", Level::Signed), ("carol", Level::Private)] {
            let user = w.user(name);
            let answer = w.secure(&user, level, boots, now, &engine).await;
            assert!(matches!(&answer, Pdus::Response(r) if r.0.variable_bindings.len() == 1 && r.0.request_id == 5), "{answer:?}");
            assert_eq!(reported(w.secure(&user, level, boots, now + 200, &engine).await), 2, "not in the window of time");
            assert_eq!(reported(w.secure(&user, level, boots + 1, now, &engine).await), 2, "of another start");
            assert_eq!(reported(w.secure(&user, level, boots, now, &[1, 2, 3, 4, 5]).await), 4, "to another engine");
        }
        let dave = w.user("dave");
        assert!(matches!(w.secure(&dave, Level::Plain, boots, now + 200, &engine).await, Pdus::Response(_)), "no time counts");
        let alice = w.user("alice");
        assert_eq!(reported(w.secure(&alice, Level::Plain, boots, now, &engine).await), 1, "nor by her name alone");
        assert_eq!(reported(w.secure(&alice, Level::Signed, boots, now, &engine).await), 1, "less than her level");
        let mut impostor = w.user("bob");
        impostor.name = "alice".into();
        let mut forged = w.secure_packet(&impostor, boots, now);
        assert!(w.snmp.answer(&forged).await.is_none(), "not reportable: no answer to a wrong digest or level");
        // Of an earlier start, cut off, larger than any question.
        let mut old = w.secure_packet(&w.user("bob"), boots - 1, now);
        assert!(w.snmp.answer(&old).await.is_none());
        forged.truncate(40);
        old.resize(60_000, 0);
        for bytes in [&forged, &old] {
            w.snmp.answer(bytes).await;
        }
        let counted = |outcome| w.snmp.packets.get_or_create(&[("outcome", outcome)]).get();
        assert_eq!((counted("answered"), counted("late"), counted("digest")), (4, 7, 1));
        assert_eq!((counted("discovery"), counted("level"), counted("foreign")), (3, 3, 1));
    }

    impl World {
        fn secure_packet(&self, user: &User, boots: u32, time: u32) -> Vec<u8> {
            let envelope = message::Envelope { id: 1, engine: &self.snmp.engine, boots, time, salt: [0; 8] };
            message::sealed(&envelope, b"", Level::Signed, Some(user), Pdus::GetRequest(GetRequest(pdu(&mib::UP_TIME)))).unwrap()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_set_makes_a_trap_with_ten_variables() {
        let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let w = world(&sink.local_addr().unwrap().to_string()).await;
        w.faults.core.tasks.start().await.unwrap();
        for severity in [Severity::Critical, Severity::Major] {
            w.set(hot("host=a", severity)).await;
        }
        let faults = w.faults.clone();
        let all = move |tx: &store::Tx| {
            faults.log_in(tx, &Alarm::known("700.114", "host=b".into(), Severity::Critical, "gone".into(), ""))?;
            faults.alarm_clear_in(tx, "100.101", "host=a")?;
            faults.alarm_set_in(tx, &hot("host=a", Severity::Minor))?;
            faults.alarms_clear_under_in(tx, "host=a")
        };
        w.faults.core.store.write(all).await.unwrap();
        let mut kinds = Vec::new();
        for _ in 0..6 {
            let mut buffer = vec![0; 65536];
            let length = tokio::time::timeout(Duration::from_secs(30), sink.recv(&mut buffer)).await.unwrap().unwrap();
            let Seen::Community(community, Pdus::Trap(trap)) = message::read(&buffer[..length]) else { panic!("no trap") };
            assert_eq!(community, b"secret");
            let variables = trap.0.variable_bindings;
            assert_eq!((&variables[0].name[..], &variables[1].name[..]), (&mib::UP_TIME[..], &mib::TRAP_ID[..]));
            let VarBindValue::Value(rasn_snmp::v2::ObjectSyntax::Simple(rasn_smi::v2::SimpleSyntax::ObjectId(id))) = &variables[1].value
            else {
                panic!("no id")
            };
            let columns: Vec<u32> = variables[2..].iter().map(|v| *v.name.last().unwrap()).collect();
            kinds.push((*id.last().unwrap(), columns));
            let entity = variables.iter().find(|v| v.value == message::value(&"region=RegionOne.system=edge.host=a".into()));
            assert!(entity.is_some() || kinds.last().unwrap().0 == 5);
        }
        let ten: Vec<u32> = (3..=12).collect();
        let expected = vec![
            (1, ten.clone()),
            (2, ten.clone()),
            (5, vec![3, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
            (9, vec![3, 4, 5, 7]),
            (3, ten),
            (99, vec![4, 5, 7]),
        ];
        assert_eq!(kinds, expected);
        w.faults.core.tasks.stop().await;
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = message::read(&bytes);
        }

        #[test]
        fn no_change_of_a_good_packet_does(changes in proptest::collection::vec((0usize..200, 0u8..=255), 0..6), cut in 0usize..200) {
            let mut packet = message::with_community(b"public", Pdus::GetRequest(GetRequest(pdu(&mib::UP_TIME)))).unwrap();
            for (at, byte) in changes {
                let at = at % packet.len();
                packet[at] = byte;
            }
            packet.truncate(cut);
            let _ = message::read(&packet);
        }
    }
}
