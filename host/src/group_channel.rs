//! The ports over which guests talk to the other servers of their group, and are asked how many vCPUs they do with: a task a guest,
//! nothing of it is kept, and nobody waits for long for one that does not read.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use guest::messaging::{Port, Said, Tell};
use guest::scale::{Change, Outcome, TIMEOUT};
use rpc::guest::{GroupSaid, GroupTell, GuestScaled};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::consoles::Console;
use crate::hypervisor::{Machine, Process};

/// The pause after a connection, growing.
const REDIAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Messages of a guest that are taken at a time, and the pause when there are more.
const AT_ONCE: usize = 5;
const BREATH: Duration = Duration::from_millis(20);
/// What a guest may say at once, and how soon one more: a group is no network.
const BURST: u32 = 100;
const EACH: Duration = Duration::from_millis(100);
/// Questions to a guest that wait for its port, one of which at most is not given up.
const ASKS: usize = 8;
/// Words of guests that wait for the controller; then the oldest are lost.
const OUTBOX: usize = 512;

struct Channel {
    process: Process,
    running: watch::Sender<bool>,
    tell: mpsc::Sender<Tell>,
    ask: mpsc::Sender<Ask>,
    task: tokio::task::JoinHandle<()>,
}

/// A guest is asked to do with one vCPU more or less. Who has asked leaves when the guest's time is over.
struct Ask {
    change: Change,
    answer: oneshot::Sender<Outcome>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Board {
    channels: HashMap<String, Channel>,
    said: VecDeque<(String, GroupSaid)>,
}

struct Shared {
    board: Mutex<Board>,
    changed: Arc<Notify>,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub(crate) struct Groups {
    shared: Arc<Shared>,
    /// Somebody has said something.
    pub(crate) changed: Arc<Notify>,
}

impl Groups {
    pub(crate) fn new() -> Groups {
        let changed = Arc::new(Notify::new());
        Groups { shared: Arc::new(Shared { board: Mutex::default(), changed: changed.clone() }), changed }
    }

    /// A guest as its reconciler sees it: its process, if it has one with a port, and whether its processors run.
    pub(crate) fn seen(&self, id: &str, machine: Option<&Arc<dyn Machine>>, running: bool) {
        let mut board = self.shared.board();
        let Some(machine) = machine else {
            board.channels.remove(id);
            return;
        };
        if let Some(channel) = board.channels.get(id).filter(|channel| channel.process == *machine.process()) {
            channel.running.send_if_modified(|known| std::mem::replace(known, running) != running);
            return;
        }
        let (sender, receiver) = watch::channel(running);
        let (tell, told) = mpsc::channel(guest::messaging::QUEUE);
        let (ask, asked) = mpsc::channel(ASKS);
        let talk = Talk { id: id.to_string(), shared: self.shared.clone(), machine: machine.clone(), running: receiver, told, asked };
        let task = tokio::spawn(talk.run());
        // The task of an earlier process ends with its channel.
        board.channels.insert(id.to_string(), Channel { process: machine.process().clone(), running: sender, tell, ask, task });
    }

    /// Tells a guest, if it is here and has a port. Nobody learns whether it has heard it.
    pub(crate) fn tell(&self, id: &str, tell: GroupTell) {
        let tell = match tell {
            GroupTell::Broadcast { source, text } => Tell::Broadcast { source, text },
            GroupTell::Status { seq, of } => Tell::Status { seq, of },
            GroupTell::StatusDone { seq } => Tell::StatusDone { seq },
            GroupTell::Notification(data) => Tell::Notification(data),
        };
        if let Some(channel) = self.shared.board().channels.get(id) {
            // Its task only has to take it; when it does not get to that, this is lost as anything may be.
            let _ = channel.tell.try_send(tell);
        }
    }

    /// Asks a guest to do with one vCPU more or less, and waits as long as it has time.
    pub(crate) async fn scale(&self, id: &str, change: Change) -> GuestScaled {
        let (answer, answered) = oneshot::channel();
        let asked = self.shared.board().channels.get(id).map(|channel| channel.ask.try_send(Ask { change, answer }));
        match asked {
            None => return GuestScaled::Absent,
            Some(Err(_)) => return GuestScaled::Silent,
            Some(Ok(())) => {}
        }
        match tokio::time::timeout(TIMEOUT, answered).await {
            Ok(Ok(Outcome::Done { cpu, online })) => GuestScaled::Done { cpu, online },
            Ok(Ok(Outcome::Failed(why))) => GuestScaled::Failed(why),
            Ok(Err(_)) | Err(_) => GuestScaled::Silent,
        }
    }

    /// What guests have said since the last time.
    pub(crate) fn take(&self) -> Vec<(String, GroupSaid)> {
        self.shared.board().said.drain(..).collect()
    }

    /// Hangs up everywhere.
    pub(crate) fn end(&self) {
        self.shared.board().channels.clear();
    }
}

/// How much a guest may still say.
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn take(&mut self) -> bool {
        let earned = u32::try_from(self.since.elapsed().as_millis() / EACH.as_millis()).unwrap_or(BURST);
        if earned > 0 {
            (self.left, self.since) = (self.left.saturating_add(earned).min(BURST), Instant::now());
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

struct Talk {
    id: String,
    shared: Arc<Shared>,
    machine: Arc<dyn Machine>,
    running: watch::Receiver<bool>,
    told: mpsc::Receiver<Tell>,
    asked: mpsc::Receiver<Ask>,
}

/// Resolves when who has asked waits no more.
async fn given_up(ask: &mut Option<Ask>) {
    match ask {
        Some(ask) => ask.answer.closed().await,
        None => std::future::pending().await,
    }
}

impl Talk {
    async fn run(mut self) {
        let mut pause = REDIAL.0;
        let mut allowance = Allowance { left: BURST, since: Instant::now() };
        loop {
            // A process that waits for a guest from elsewhere has none to talk to yet.
            if self.running.wait_for(|running| *running).await.is_err() {
                return;
            }
            match self.machine.messaging().await {
                Ok(port) => {
                    if self.serve(port, &mut allowance).await {
                        pause = REDIAL.0;
                    }
                }
                Err(e) => tracing::debug!(instance = self.id, "no port for messages: {}", e.chain()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REDIAL.1);
        }
    }

    /// Talks until the connection ends. Whether the guest has said anything, or was hung up on.
    async fn serve(&mut self, stream: Box<dyn Console>, allowance: &mut Allowance) -> bool {
        let (mut read, mut write) = tokio::io::split(stream);
        let (mut port, mut spoke) = (Port::default(), false);
        let mut open: Option<Ask> = None;
        let (mut unread, mut unwritten): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut buffer = [0u8; 2048];
        loop {
            if unwritten.is_empty() {
                unwritten = port.pop().unwrap_or_default();
            }
            tokio::select! {
                got = read.read(&mut buffer), if unread.is_empty() => match got {
                    Ok(0) | Err(_) => break,
                    Ok(n) => unread.extend_from_slice(&buffer[..n]),
                },
                wrote = write.write(&unwritten), if !unwritten.is_empty() => match wrote {
                    Ok(0) | Err(_) => break,
                    Ok(n) => drop(unwritten.drain(..n)),
                },
                told = self.told.recv() => match told {
                    Some(tell) => port.tell(tell),
                    None => break,
                },
                asked = self.asked.recv(), if open.is_none() => match asked {
                    // One that was given up before its turn is of no use any more.
                    Some(ask) if ask.answer.is_closed() => {}
                    Some(ask) => {
                        port.tell(Tell::Scale(ask.change.clone()));
                        open = Some(ask);
                    }
                    None => break,
                },
                // What the guest has not read goes with the connection: it must not do much later what nobody waits for.
                () = given_up(&mut open) => {
                    spoke = true;
                    break;
                }
                () = tokio::time::sleep(BREATH), if !unread.is_empty() => {}
            }
            let mut bytes = &unread[..];
            port.received(&mut bytes, AT_ONCE);
            let taken = unread.len() - bytes.len();
            unread.drain(..taken);
            for said in port.said() {
                spoke = true;
                if let Said::Scaled { up, outcome } = said {
                    match open.take_if(|ask| ask.change.is_answered_by(up, &outcome)) {
                        // Who asked may have gone in this very moment.
                        Some(ask) => drop(ask.answer.send(outcome)),
                        None => tracing::info!(instance = self.id, up, ?outcome, "a guest answers what nobody asks any more"),
                    }
                } else if allowance.take() {
                    self.said(said);
                } else {
                    tracing::debug!(instance = self.id, "a guest says too much to its group: not passed on");
                }
            }
        }
        if port.lost() > 0 {
            tracing::info!(instance = self.id, lost = port.lost(), "a guest did not read what its group said");
        }
        spoke
    }

    fn said(&self, said: Said) {
        let said = match said {
            Said::Broadcast(text) => GroupSaid::Broadcast { text },
            Said::Query(seq) => GroupSaid::StatusQuery { seq },
            Said::Scaled { .. } => return,
        };
        let mut board = self.shared.board();
        board.said.push_back((self.id.clone(), said));
        if board.said.len() > OUTBOX {
            board.said.pop_front();
        }
        drop(board);
        self.shared.changed.notify_one();
    }
}
