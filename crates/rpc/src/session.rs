//! Sessions: the controller's view of its hosts, and the host's view of its controller.
//!
//! Both ends are a pair of bounded channels of messages; what carries them (memory, gRPC over mutual TLS)
//! is the transport's business.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};

use crate::message::{HostInfo, Request, Response, ToController, ToHost, VERSIONS};
use crate::stream::{End, Frame, Streams, Target};

/// Messages that may wait in one direction before the sender does.
const BACKLOG: usize = 1024;
/// How long a host may take to answer a [`Request`], and to take a message when others wait before it.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a session may be silent before its `Hello`.
const GREETING: Duration = Duration::from_secs(10);

/// The host's end of a session.
pub struct HostEnd {
    pub outgoing: mpsc::Sender<ToController>,
    pub incoming: mpsc::Receiver<ToHost>,
}

/// The transport's end of a session at the controller.
pub struct ControllerEnd {
    pub outgoing: mpsc::Sender<ToHost>,
    pub incoming: mpsc::Receiver<ToController>,
}

/// An in-memory link, as an all-in-one process uses.
pub fn link() -> (HostEnd, ControllerEnd) {
    link_with(BACKLOG)
}

/// A link that holds at most `backlog` messages in each direction.
pub fn link_with(backlog: usize) -> (HostEnd, ControllerEnd) {
    let (to_controller, from_host) = mpsc::channel(backlog);
    let (to_host, from_controller) = mpsc::channel(backlog);
    (HostEnd { outgoing: to_controller, incoming: from_controller }, ControllerEnd { outgoing: to_host, incoming: from_host })
}

/// What the controller hears, from any host.
#[derive(Clone, Debug)]
pub struct Heard {
    pub host_id: String,
    pub message: Said,
}

#[derive(Clone, Debug)]
pub enum Said {
    /// A session began (documents must be sent again) or the inventory changed.
    Connected(HostInfo),
    Info(HostInfo),
    /// A host whose identity is proved was sent away: why.
    Refused(String),
    Disconnected,
    Message(ToController),
}

/// Who waits for the answer to which request.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Response, String>>>>>;

struct Session {
    number: u64,
    info: HostInfo,
    outgoing: mpsc::Sender<ToHost>,
    waiting: Waiting,
    streams: Streams,
}

/// All connected hosts of a controller. Cheap to clone.
#[derive(Clone)]
pub struct Hosts(Arc<Shared>);

/// The newest session that asked for a host's place. `turn` is held from `Connected` to `Disconnected`, so what the
/// older session said is always heard before the newer one connects.
struct Claim {
    number: u64,
    end: watch::Sender<Option<String>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Shared {
    claims: Mutex<HashMap<String, Claim>>,
    sessions: Mutex<HashMap<String, Session>>,
    next: AtomicU64,
    heard: mpsc::Sender<Heard>,
}

impl Hosts {
    /// The registry, and the one stream of everything hosts say, in order for each host.
    pub fn new() -> (Hosts, mpsc::Receiver<Heard>) {
        let (heard, receiver) = mpsc::channel(BACKLOG);
        (Hosts(Arc::new(Shared { claims: Mutex::default(), sessions: Mutex::default(), next: AtomicU64::new(1), heard })), receiver)
    }

    /// Serves one session until either side ends it. The first message must be `Hello`. Run it to its end: dropped in
    /// between, the host stays in the list.
    pub async fn serve(&self, end: ControllerEnd) -> Result<()> {
        self.serve_peer(end, None).await
    }

    /// The same for a host whose identity the transport has proved: it may greet under no other id and no other name.
    pub async fn serve_known(&self, end: ControllerEnd, host_id: &str, name: &str) -> Result<()> {
        self.serve_peer(end, Some((host_id, name))).await
    }

    async fn serve_peer(&self, mut end: ControllerEnd, peer: Option<(&str, &str)>) -> Result<()> {
        let first = tokio::time::timeout(GREETING, end.incoming.recv()).await;
        let (version, host) = match first.map(|first| greet(first, peer)) {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                // The refusal is a courtesy: a host that already left does not need it, one that does not listen shall not hold us.
                let _ = end.outgoing.try_send(ToHost::Refused { reason: error.message().to_string() });
                if let Some((host_id, _)) = peer {
                    self.tell(host_id, Said::Refused(error.message().to_string())).await;
                }
                return Err(error);
            }
            Err(_) => return Err(Error::timeout("the host does not greet")),
        };
        let host_id = host.id.clone();
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (turn, mut ended) = self.claim(&host_id, number);
        let _turn = tokio::select! {
            biased;
            // Not yet begun and already replaced.
            _ = ended.wait_for(Option::is_some) => return Ok(()),
            turn = turn.lock() => turn,
        };
        if end.outgoing.try_send(ToHost::Welcome { version }).is_err() {
            self.unclaim(&host_id, number);
            return Ok(());
        }
        let waiting = Waiting::default();
        let streams = Streams::default();
        let (outgoing, waiters) = (end.outgoing.clone(), waiting.clone());
        let session = Session { number, info: host.clone(), outgoing, waiting: waiters, streams: streams.clone() };
        lock(&self.0.sessions).insert(host_id.clone(), session);
        self.tell(&host_id, Said::Connected(host)).await;
        let reason = tokio::select! {
            biased;
            reason = ended.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
            () = self.hear(&host_id, &mut end, &waiting, &streams) => None,
        };
        streams.end();
        let session = lock(&self.0.sessions).remove(&host_id);
        // Whoever still waits for an answer gets none.
        lock(&waiting).clear();
        if let (Some(session), Some(reason)) = (session, reason) {
            let _ = session.outgoing.try_send(ToHost::Refused { reason });
        }
        self.tell(&host_id, Said::Disconnected).await;
        self.unclaim(&host_id, number);
        Ok(())
    }

    /// Takes a host's place; the session that has it, ends.
    fn claim(&self, host_id: &str, number: u64) -> (Arc<tokio::sync::Mutex<()>>, watch::Receiver<Option<String>>) {
        let (end, ended) = watch::channel(None);
        let mut claims = lock(&self.0.claims);
        let turn = match claims.get(host_id) {
            Some(older) => {
                older.end.send_replace(Some("a newer session of this host has begun".to_string()));
                older.turn.clone()
            }
            None => Arc::default(),
        };
        claims.insert(host_id.to_string(), Claim { number, end, turn: turn.clone() });
        (turn, ended)
    }

    fn unclaim(&self, host_id: &str, number: u64) {
        let mut claims = lock(&self.0.claims);
        if claims.get(host_id).is_some_and(|claim| claim.number == number) {
            claims.remove(host_id);
        }
    }

    /// Ends a host's session, if it has one. Nothing keeps the host from beginning another.
    pub fn end(&self, host_id: &str, reason: &str) {
        if let Some(claim) = lock(&self.0.claims).get(host_id) {
            claim.end.send_replace(Some(reason.to_string()));
        }
    }

    /// Takes in what a host says until it stops.
    async fn hear(&self, host_id: &str, end: &mut ControllerEnd, waiting: &Waiting, streams: &Streams) {
        while let Some(message) = end.incoming.recv().await {
            match message {
                ToController::Response { id, response } => {
                    if let Some(waiter) = lock(waiting).remove(&id) {
                        // The asker may have given up.
                        let _ = waiter.send(response);
                    }
                }
                ToController::Stream { id, frame } => {
                    if !streams.deliver(id, frame) {
                        // When there is no room now, its next frame says the same again.
                        let _ = end.outgoing.try_send(ToHost::Stream { id, frame: Frame::Closed(None) });
                    }
                }
                ToController::Host(info) if info.id != host_id => {
                    tracing::warn!(host_id, "a host spoke of itself as {}", info.id);
                }
                ToController::Host(info) => {
                    if let Some(session) = lock(&self.0.sessions).get_mut(host_id) {
                        session.info = info.clone();
                    }
                    self.tell(host_id, Said::Info(info)).await;
                }
                ToController::Hello { .. } => tracing::warn!(host_id, "a host greeted twice"),
                other => self.tell(host_id, Said::Message(other)).await,
            }
        }
    }

    async fn tell(&self, host_id: &str, message: Said) {
        // The receiver lives as long as the controller; without it nobody is left to tell.
        let _ = self.0.heard.send(Heard { host_id: host_id.to_string(), message }).await;
    }

    /// Hands a message to the host's session. `Unavailable` when there is none: the document is sent again when it
    /// returns. `Timeout` when the host takes in nothing.
    pub async fn send(&self, host_id: &str, message: ToHost) -> Result<()> {
        let outgoing = lock(&self.0.sessions).get(host_id).map(|s| s.outgoing.clone()).ok_or_else(|| gone(host_id))?;
        deliver(host_id, &outgoing, message).await
    }

    /// Asks and waits for the answer. `Unavailable` as soon as the session ends.
    pub async fn ask(&self, host_id: &str, request: Request) -> Result<Response> {
        self.ask_within(host_id, request, ANSWER).await
    }

    /// The same for what may take longer.
    pub async fn ask_within(&self, host_id: &str, request: Request, limit: Duration) -> Result<Response> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let (outgoing, question) = {
            let sessions = lock(&self.0.sessions);
            let session = sessions.get(host_id).ok_or_else(|| gone(host_id))?;
            lock(&session.waiting).insert(id, answer);
            (session.outgoing.clone(), Question { id, waiting: session.waiting.clone() })
        };
        let exchange = async {
            deliver(host_id, &outgoing, ToHost::Request { id, request }).await?;
            // The question holds no sender: the session alone decides whether an answer can still come.
            drop(outgoing);
            match answered.await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(text)) => Err(Error::internal(text)),
                Err(_) => Err(gone(host_id)),
            }
        };
        let outcome = tokio::time::timeout(limit, exchange).await;
        drop(question);
        outcome.unwrap_or_else(|_| Err(Error::timeout(format!("Host {host_id} did not answer."))))
    }

    /// Begins a stream to something on a host. `Conflict` when the host cannot lead there.
    pub async fn stream(&self, host_id: &str, target: Target) -> Result<Stream> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (outgoing, mut end) = {
            let sessions = lock(&self.0.sessions);
            let session = sessions.get(host_id).ok_or_else(|| gone(host_id))?;
            if !session.info.streams {
                return Err(Error::conflict(format!("Host {host_id} is of a release without streams.")));
            }
            (session.outgoing.clone(), session.streams.enter(id))
        };
        let begin = async {
            deliver(host_id, &outgoing, ToHost::Stream { id, frame: Frame::Open(target) }).await?;
            end.opened().await
        };
        match tokio::time::timeout(ANSWER, begin).await {
            Ok(begun) => begun.map(|()| Stream { id, end, outgoing }),
            Err(_) => Err(Error::timeout(format!("Host {host_id} did not answer."))),
        }
    }

    /// Hosts with a session now.
    pub fn connected(&self) -> Vec<HostInfo> {
        lock(&self.0.sessions).values().map(|s| s.info.clone()).collect()
    }

    pub fn is_connected(&self, host_id: &str) -> bool {
        lock(&self.0.sessions).contains_key(host_id)
    }

    /// Which session the host has now: another number, another session.
    pub fn session(&self, host_id: &str) -> Option<u64> {
        lock(&self.0.sessions).get(host_id).map(|session| session.number)
    }
}

/// A stream that has begun.
pub struct Stream {
    id: u64,
    end: End,
    outgoing: mpsc::Sender<ToHost>,
}

impl Stream {
    /// Carries bytes between `io` and the host until either side is done.
    pub async fn carry(self, io: impl AsyncRead + AsyncWrite) {
        let (id, outgoing) = (self.id, self.outgoing);
        let say = |frame| async { outgoing.send(ToHost::Stream { id, frame }).await.map_err(|_| Error::unavailable("the host has gone")) };
        self.end.carry(io, say).await;
    }
}

/// A request under way: when its asker leaves, nothing of it stays.
struct Question {
    id: u64,
    waiting: Waiting,
}

impl Drop for Question {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.id);
    }
}

/// The version both speak and the host, from the session's first message.
fn greet(first: Option<ToController>, peer: Option<(&str, &str)>) -> Result<(u32, HostInfo)> {
    let Some(ToController::Hello { versions, host }) = first else {
        return Err(Error::invalid("a session must begin with Hello"));
    };
    let version = versions.1.min(*VERSIONS.end());
    if version < versions.0 || version < *VERSIONS.start() {
        let (first, last) = (VERSIONS.start(), VERSIONS.end());
        let (older, which) = if versions.1 < *first { ("older", "host") } else { ("newer", "controller") };
        return Err(Error::invalid(format!(
            "the host's release is {older} than this controller's, and the two do not work together: this controller speaks versions \
             {first} to {last} of their protocol, the host {} to {}. Bring the {which} to the other's release; the host's guests run on",
            versions.0, versions.1
        )));
    }
    if host.id.is_empty() {
        return Err(Error::invalid("a host must name its id"));
    }
    match peer {
        Some((id, _)) if id != host.id => Err(Error::forbidden(format!("the host's certificate is for {id}, not for {}", host.id))),
        Some((_, name)) if name != host.name => Err(Error::forbidden(format!(
            "the host's certificate is for the name {name}, not for {}: it joins again to be called otherwise",
            host.name
        ))),
        _ => Ok((version, host)),
    }
}

/// A message to a session that may be slow or over.
async fn deliver(host_id: &str, outgoing: &mpsc::Sender<ToHost>, message: ToHost) -> Result<()> {
    match outgoing.send_timeout(message, ANSWER).await {
        Ok(()) => Ok(()),
        Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(gone(host_id)),
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Error::timeout(format!("Host {host_id} takes in nothing."))),
    }
}

fn gone(host_id: &str) -> Error {
    Error::unavailable(format!("Host {host_id} is not connected."))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
