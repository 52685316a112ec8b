//! The heartbeats of this host's guests: one conversation a guest, over its serial port, as long as its process lives.
//!
//! Whether a guest's heart beats is told whenever it changes, and what it did is an event that is kept until the controller has
//! it. A guest may do what it likes: what is read of it at a time, what is written for it and what is told of it have limits.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::Timestamp;
use guest::host::{Host, Report, Verdict};
use guest::message::{Action, Event, Notification};
use rpc::guest::{GuestBeat, GuestEvent, GuestStatus, GuestVerdict, Repair};
use rpc::message::HostEventKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::consoles::Console;
use crate::events::Events;
use crate::hypervisor::{Machine, Process};
use crate::instance::blocking;

/// The pause after a connection, growing; a port that nobody in the guest reads is looked at again.
const REDIAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A connection over which no heart beats is made anew.
const STALE: Duration = Duration::from_secs(120);
/// Messages of a guest that are taken at a time, and the pause when there are more.
const AT_ONCE: usize = 5;
const BREATH: Duration = Duration::from_millis(20);
/// Bytes that may wait for a guest which does not read.
const WAITING: usize = 16 << 10;
/// Events that a guest may cause at once; one more each so often.
const EVENTS: u32 = 10;
const EVENT_EACH: Duration = Duration::from_secs(10);

struct Ask {
    event: Event,
    vote: bool,
    answer: oneshot::Sender<GuestVerdict>,
}

struct Channel {
    process: Process,
    running: watch::Sender<bool>,
    asks: mpsc::Sender<Ask>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Board {
    channels: HashMap<String, Channel>,
    beats: HashMap<String, GuestBeat>,
    dirty: BTreeSet<String>,
}

struct Shared {
    board: Mutex<Board>,
    events: Arc<Events>,
    changed: Arc<Notify>,
}

pub(crate) struct Channels {
    shared: Arc<Shared>,
    /// There is something to be told.
    pub(crate) changed: Arc<Notify>,
}

impl Channels {
    pub(crate) fn new(events: Arc<Events>) -> Channels {
        let changed = Arc::new(Notify::new());
        Channels { shared: Arc::new(Shared { board: Mutex::default(), events, changed: changed.clone() }), changed }
    }

    /// A guest as its reconciler sees it: its process, if it has one with a port, and whether its processors run.
    pub(crate) fn seen(&self, id: &str, machine: Option<&Arc<dyn Machine>>, running: bool) {
        let mut board = self.shared.board();
        let Some(machine) = machine else {
            if board.channels.remove(id).is_some() {
                drop(board);
                self.shared.beat(id, None);
            }
            return;
        };
        match board.channels.get(id).filter(|channel| channel.process == *machine.process()) {
            Some(channel) => {
                channel.running.send_if_modified(|known| std::mem::replace(known, running) != running);
            }
            None => {
                let (sender, receiver) = watch::channel(running);
                let (asks, asked) = mpsc::channel(4);
                let talk = Talk { id: id.to_string(), shared: self.shared.clone(), machine: machine.clone(), running: receiver, asked };
                let task = tokio::spawn(talk.run());
                let channel = Channel { process: machine.process().clone(), running: sender, asks, task };
                // The task of an earlier process ends with its channel.
                board.channels.insert(id.to_string(), channel);
                drop(board);
                self.shared.beat(id, None);
            }
        }
    }

    /// Asks a guest, or tells it, and waits for its answer as long as it has said that it needs.
    pub(crate) async fn ask(&self, id: &str, event: Event, vote: bool) -> GuestVerdict {
        let (answer, answered) = oneshot::channel();
        let asks = match self.shared.board().channels.get(id) {
            Some(channel) => channel.asks.clone(),
            None => return GuestVerdict::Absent,
        };
        if asks.send(Ask { event, vote, answer }).await.is_err() {
            return GuestVerdict::Absent;
        }
        // Its process ended: nobody is left to wait for.
        answered.await.unwrap_or(GuestVerdict::Silent)
    }

    pub(crate) fn all_dirty(&self) {
        let mut board = self.shared.board();
        board.dirty = board.beats.keys().cloned().collect();
    }

    pub(crate) fn take_dirty(&self) -> Vec<GuestStatus> {
        let mut board = self.shared.board();
        let dirty = std::mem::take(&mut board.dirty);
        dirty.into_iter().map(|id| GuestStatus { beat: board.beats.get(&id).copied(), instance_id: id }).collect()
    }

    /// Hangs up everywhere.
    pub(crate) fn end(&self) {
        self.shared.board().channels.clear();
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn beat(&self, id: &str, beat: Option<GuestBeat>) {
        let mut board = self.board();
        let before = match beat {
            Some(beat) => board.beats.insert(id.to_string(), beat),
            None => board.beats.remove(id),
        };
        if before != beat {
            board.dirty.insert(id.to_string());
            drop(board);
            self.changed.notify_one();
        }
    }
}

/// How many events a guest may still cause.
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn take(&mut self) -> bool {
        let earned = u32::try_from(self.since.elapsed().as_secs() / EVENT_EACH.as_secs()).unwrap_or(EVENTS);
        if earned > 0 {
            (self.left, self.since) = (self.left.saturating_add(earned).min(EVENTS), Instant::now());
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

fn repair(action: Action) -> Repair {
    match action {
        Action::Unknown | Action::None => Repair::None,
        Action::Log => Repair::Log,
        Action::Reboot => Repair::Reboot,
        Action::Stop => Repair::Stop,
    }
}

/// Numbers that a guest cannot guess. Without a source there are none, and then it may.
fn random() -> u32 {
    getrandom::u32().unwrap_or(1) >> 1
}

struct Talk {
    id: String,
    shared: Arc<Shared>,
    machine: Arc<dyn Machine>,
    running: watch::Receiver<bool>,
    asked: mpsc::Receiver<Ask>,
}

/// One connection's conversation.
struct Line {
    host: Host,
    began: Instant,
    /// Since when no heart has beaten.
    still: Option<Instant>,
    unread: Vec<u8>,
    unwritten: Vec<u8>,
    waiting: HashMap<u64, oneshot::Sender<GuestVerdict>>,
    tickets: u64,
}

impl Talk {
    async fn run(mut self) {
        let mut pause = REDIAL.0;
        let mut allowance = Allowance { left: EVENTS, since: Instant::now() };
        loop {
            // A process that waits for a guest from elsewhere has none to talk to yet.
            if self.running.wait_for(|running| *running).await.is_err() {
                return;
            }
            match self.machine.heartbeat().await {
                Ok(port) => {
                    if self.serve(port, &mut allowance).await {
                        pause = REDIAL.0;
                    }
                }
                Err(e) => tracing::debug!(instance = self.id, "no heartbeat: {}", e.chain()),
            }
            let wait = tokio::time::sleep(pause);
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    // Nobody is there; the asker need not wait.
                    ask = self.asked.recv() => match ask {
                        Some(ask) => drop(ask.answer.send(GuestVerdict::Absent)),
                        None => return,
                    },
                }
            }
            pause = (pause * 2).min(REDIAL.1);
        }
    }

    /// Talks until the connection ends or nobody is there. Whether a heart has beaten over it.
    async fn serve(&mut self, port: Box<dyn Console>, allowance: &mut Allowance) -> bool {
        let (mut read, mut write) = tokio::io::split(port);
        let mut line = Line {
            host: Host::new(Box::new(random)),
            began: Instant::now(),
            still: Some(Instant::now()),
            unread: Vec::new(),
            unwritten: Vec::new(),
            waiting: HashMap::new(),
            tickets: 0,
        };
        let mut buffer = [0u8; 2048];
        let mut beaten = false;
        line.host.running(*self.running.borrow_and_update(), line.began.elapsed());
        loop {
            self.reports(&mut line, allowance, &mut beaten).await;
            line.unwritten.extend(line.host.output());
            if line.unwritten.len() > WAITING {
                // Each message begins with a newline, so one that is torn harms no other.
                line.unwritten.clear();
            }
            let due = line.host.due().map(|due| line.began + due).into_iter().chain(line.still.map(|at| at + STALE)).min();
            let due = due.filter(|_| line.unread.is_empty()).unwrap_or_else(|| Instant::now() + BREATH);
            tokio::select! {
                // What was said in time counts, however late we are.
                biased;
                got = read.read(&mut buffer), if line.unread.is_empty() => match got {
                    Ok(0) | Err(_) => break,
                    Ok(n) => line.unread.extend_from_slice(&buffer[..n]),
                },
                wrote = write.write(&line.unwritten), if !line.unwritten.is_empty() => match wrote {
                    Ok(0) | Err(_) => break,
                    Ok(n) => drop(line.unwritten.drain(..n)),
                },
                ask = self.asked.recv() => match ask {
                    Some(ask) => line.ask(ask),
                    None => break,
                },
                changed = self.running.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let running = *self.running.borrow_and_update();
                    line.host.running(running, line.began.elapsed());
                }
                () = tokio::time::sleep_until(due) => {}
            }
            let now = line.began.elapsed();
            let mut bytes = &line.unread[..];
            line.host.received(&mut bytes, AT_ONCE, now);
            let taken = line.unread.len() - bytes.len();
            line.unread.drain(..taken);
            line.host.tick(now);
            if line.still.is_some_and(|at| at.elapsed() >= STALE) {
                break;
            }
        }
        if line.host.terms().is_some() {
            self.shared.beat(&self.id, None);
            self.event(allowance, GuestEvent::Disconnected { reason: "its port was closed".into() }).await;
        }
        beaten
    }

    async fn reports(&self, line: &mut Line, allowance: &mut Allowance, beaten: &mut bool) {
        // Before what it did, which takes a write to the disk: who hears of a beginning knows that it beats.
        let beat = line.host.terms().map(|t| GuestBeat { restart_seconds: u32::try_from(t.restart.as_secs()).unwrap_or(u32::MAX) });
        line.still = if beat.is_some() { None } else { line.still.or_else(|| Some(Instant::now())) };
        self.shared.beat(&self.id, beat);
        for report in line.host.reports() {
            let event = match report {
                Report::Answered { ticket, verdict } => {
                    let verdict = match verdict {
                        Verdict::Accepted => GuestVerdict::Accepted,
                        Verdict::Silent => GuestVerdict::Silent,
                        Verdict::Rejected(why) => GuestVerdict::Rejected(why),
                    };
                    if let Some(waiter) = line.waiting.remove(&ticket) {
                        // The asker may have gone.
                        let _ = waiter.send(verdict);
                    }
                    continue;
                }
                Report::Established => {
                    *beaten = true;
                    GuestEvent::Established
                }
                Report::Disconnected { log } => GuestEvent::Disconnected { reason: log },
                Report::Lost { action } => GuestEvent::Lost { repair: repair(action) },
                Report::Unhealthy { action, log } => GuestEvent::Unhealthy { repair: repair(action), reason: log },
            };
            self.event(allowance, event).await;
        }
    }

    async fn event(&self, allowance: &mut Allowance, event: GuestEvent) {
        if !allowance.take() {
            tracing::warn!(instance = self.id, ?event, "a guest's heart does too much: not told");
            return;
        }
        tracing::info!(instance = self.id, ?event);
        let (events, kind) = (self.shared.events.clone(), HostEventKind::Guest { instance_id: self.id.clone(), event });
        if let Err(e) = blocking(move || events.record(Timestamp::now(), kind).map(drop)).await {
            tracing::error!(instance = self.id, "{}", e.chain());
        }
    }
}

impl Line {
    fn ask(&mut self, ask: Ask) {
        self.tickets += 1;
        let notification = if ask.vote { Notification::Revocable } else { Notification::Irrevocable };
        // The asker may have gone: it matters to the guest all the same.
        match self.host.ask(self.tickets, ask.event, notification, self.began.elapsed()) {
            Some(_) => drop(self.waiting.insert(self.tickets, ask.answer)),
            None => drop(ask.answer.send(GuestVerdict::Absent)),
        }
    }
}
