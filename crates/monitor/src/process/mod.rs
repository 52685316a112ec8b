//! The process monitor: a task for each process that is watched.

mod active;
mod file;
mod watcher;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::{Board, Settings};
use active::Answers;
use file::Process;
use watcher::Watcher;

/// Seconds between looks at the directory.
const LOOK: u32 = 5;
/// Orders that wait for one process.
const ORDERS: usize = 8;

/// What a process may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Start,
    Stop,
    Restart,
}

#[derive(Deserialize)]
struct Said {
    command: Order,
    process: String,
}

struct Watched {
    process: Process,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

/// They end with whoever began them.
impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What tells whether the directory is another one: each file's name, length and time.
fn stamp(directory: &Path) -> Vec<(std::ffi::OsString, u64, Option<SystemTime>)> {
    let mut all: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let meta = std::fs::metadata(entry.path());
            (entry.file_name(), meta.as_ref().map_or(0, |m| m.len()), meta.and_then(|m| m.modified()).ok())
        })
        .collect();
    all.sort();
    all
}

/// Takes orders, and follows the directory.
pub async fn watch(settings: Settings, board: Arc<Board>) {
    let mut all: BTreeMap<String, Watched> = BTreeMap::new();
    let mut known = None;
    let mut answers = None;
    let mut orders: Option<UdpSocket> = None;
    let mut packet = [0; 1024];
    loop {
        let now = stamp(&settings.processes);
        if known.as_ref() != Some(&now) {
            let wanted = file::read(&settings.processes);
            known = Some(now);
            if !wanted.is_empty() && orders.is_none() {
                orders = bind(settings.orders).await.map_err(|e| tracing::warn!("no orders for processes can come: {e}")).ok();
            }
            let asked = wanted.values().any(|p| matches!(p.mode, file::Mode::Active { .. }));
            if asked && answers.is_none() {
                answers = Answers::open(settings.answers).await.map_err(|e| tracing::warn!("no process can be asked: {e}")).ok();
            }
            follow(&mut all, wanted, &settings, &board, answers.as_ref());
        }
        let order = async {
            match &orders {
                Some(socket) => socket.recv_from(&mut packet).await.map(|(n, _)| n),
                None => std::future::pending().await,
            }
        };
        let heard = tokio::select! {
            () = tokio::time::sleep(settings.second * LOOK) => None,
            heard = order => heard.ok(),
        };
        if let Some(n) = heard {
            let said: Option<Said> = serde_json::from_slice(packet.get(..n).unwrap_or_default()).ok();
            match said.as_ref().and_then(|said| Some((all.get(&said.process)?, said.command))) {
                Some((watched, order)) => {
                    tracing::info!(process = watched.process.name, ?order, "ordered");
                    // One that has so many before it will do them.
                    let _ = watched.orders.try_send(order);
                }
                None => tracing::warn!("an order for no process that is watched"),
            }
        }
    }
}

async fn bind(at: SocketAddr) -> std::io::Result<UdpSocket> {
    UdpSocket::bind(at).await
}

/// Ends the tasks of what is no longer there or is another one now, and begins those that are missing.
fn follow(
    all: &mut BTreeMap<String, Watched>,
    wanted: BTreeMap<String, Process>,
    settings: &Settings,
    board: &Arc<Board>,
    answers: Option<&Arc<Answers>>,
) {
    all.retain(|name, watched| {
        let stays = wanted.get(name) == Some(&watched.process);
        if !stays {
            board.clear(watcher::ALARM, &watcher::entity(name));
        }
        stays
    });
    for (name, process) in wanted {
        if all.contains_key(&name) {
            continue;
        }
        let (orders, taken) = mpsc::channel(ORDERS);
        let Some(watcher) = Watcher::new(process.clone(), settings.second, board.clone(), answers.cloned(), taken) else {
            tracing::warn!(process = name, "not watched: neither its service nor its script is here");
            continue;
        };
        tracing::info!(process = name, "watched");
        all.insert(name, Watched { process, orders, task: tokio::spawn(watcher.run()) });
    }
}
