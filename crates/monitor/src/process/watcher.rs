//! One process: watched, and restarted when it fails.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rpc::monitor::{Condition, Level};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::Order;
use super::active::Answers;
use super::file::{Mode, Process};
use crate::Board;

/// A monitored process has failed.
pub const ALARM: &str = "200.006";
/// Seconds: how long one that was stopped stays so without an order, until a process that is asked must have answered once, for a
/// command, and between looks for one that others start.
const STOPPED: u32 = 1800;
const FIRST_ANSWER: u32 = 180;
const COMMAND: u32 = 60;
/// How often a pid is looked for, in parts of a second.
const LOOKS: u32 = 2;

pub fn entity(name: &str) -> String {
    format!("process={name}")
}

pub struct Watcher {
    process: Process,
    second: Duration,
    board: Arc<Board>,
    answers: Option<Arc<Answers>>,
    orders: mpsc::Receiver<Order>,
    asserted: bool,
    /// Times in a row that it was said, without a recovery between.
    assertions: u32,
}

enum Seen {
    Failed(String),
    Ordered(Order),
    /// Whoever gives orders is gone.
    Over,
}

/// Whether there is a systemd that runs services.
fn systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

impl Watcher {
    /// None when there is nothing by which it could be restarted.
    pub fn new(
        process: Process,
        second: Duration,
        board: Arc<Board>,
        answers: Option<Arc<Answers>>,
        orders: mpsc::Receiver<Order>,
    ) -> Option<Watcher> {
        let by_service = process.service.is_some() && systemd();
        let by_script = process.script.as_ref().is_some_and(|script| script.exists());
        (by_service || by_script).then_some(Watcher { process, second, board, answers, orders, asserted: false, assertions: 0 })
    }

    fn seconds(&self, count: u32) -> Duration {
        self.second * count
    }

    pub async fn run(mut self) {
        let mut next = self.watch().await;
        loop {
            next = match next {
                Seen::Failed(why) => match self.recover(&why).await {
                    Some(seen) => seen,
                    None => self.watch().await,
                },
                Seen::Ordered(Order::Stop) => self.stop().await,
                Seen::Ordered(Order::Restart) => {
                    self.command("restart").await;
                    sleep(self.seconds(self.process.startuptime)).await;
                    self.watch().await
                }
                Seen::Ordered(Order::Start) => self.watch().await,
                Seen::Over => return,
            };
        }
    }

    /// The next order; `Over` when none will come.
    async fn ordered(orders: &mut mpsc::Receiver<Order>) -> Seen {
        orders.recv().await.map_or(Seen::Over, Seen::Ordered)
    }

    /// A hold on the process that the pid file names, if it lives.
    #[allow(unsafe_code)]
    fn held(&self) -> Option<AsyncFd<OwnedFd>> {
        let text = std::fs::read_to_string(&self.process.pidfile).ok()?;
        let pid = Pid::from_raw(text.split_whitespace().next()?.parse().ok()?)?;
        let held = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // SAFETY: an `OwnedFd` owns its descriptor, and nothing replaces or closes it inside the `AsyncFd`.
        unsafe { AsyncFd::register_with_interest(held, Interest::READABLE) }.ok()
    }

    /// Watches it until it fails or there is an order.
    async fn watch(&mut self) -> Seen {
        let held = match self.process.mode {
            Mode::Passive | Mode::Active { .. } => match self.held() {
                Some(held) => Some(held),
                None => return Seen::Failed("it does not run".into()),
            },
            _ => None,
        };
        let death = async {
            match &held {
                // Readable: it has ended.
                Some(held) => drop(held.readable().await),
                None => std::future::pending().await,
            }
        };
        let (process, second, answers) = (&self.process, self.second, self.answers.as_deref());
        let silence = async {
            match (&process.mode, answers) {
                (Mode::Active { port, period, timeout, threshold }, Some(answers)) => {
                    asked(answers, &process.name, second, (*port, *period, *timeout, *threshold)).await;
                }
                (Mode::Status { .. }, _) => return statuses(process, second).await,
                _ => std::future::pending().await,
            }
            "it does not answer".to_string()
        };
        tokio::select! {
            () = death => Seen::Failed("it has ended".into()),
            why = silence => Seen::Failed(why),
            order = Self::ordered(&mut self.orders) => order,
        }
    }

    /// Restarts it until it stays; None: it does. What else is to be done is the answer otherwise.
    async fn recover(&mut self, why: &str) -> Option<Seen> {
        tracing::warn!(process = self.process.name, "{why}");
        if self.process.restarts == 0 {
            self.assert(why);
        }
        let mut failed = 0;
        loop {
            if self.process.restarts > 0 {
                self.command("restart").await;
            }
            if self.stays().await {
                tracing::info!(process = self.process.name, "it runs again");
                self.board.clear(ALARM, &entity(&self.process.name));
                (self.asserted, self.assertions) = (false, 0);
                return None;
            }
            failed += 1;
            if self.process.restarts > 0 && failed >= self.process.restarts {
                self.assert(why);
                failed = 0;
            }
            let pause = match self.process.restarts {
                // Somebody else starts it.
                0 => self.second / LOOKS,
                _ => self.seconds(self.process.interval),
            };
            tokio::select! {
                () = sleep(pause) => {}
                order = Self::ordered(&mut self.orders) => match order {
                    // It is being started anyway; a restart is what comes next.
                    Seen::Ordered(Order::Start | Order::Restart) => {}
                    other => return Some(other),
                },
            }
        }
    }

    /// Whether it runs, and for as long as it must to count.
    async fn stays(&self) -> bool {
        sleep(self.seconds(self.process.startuptime)).await;
        let debounce = self.seconds(self.process.debounce);
        if matches!(self.process.mode, Mode::Status { .. }) {
            return healthy(&self.process, self.second).await;
        }
        let Some(held) = self.held() else { return false };
        // It ended before the time was over, or it did not.
        timeout(debounce, held.readable()).await.is_err()
    }

    fn assert(&mut self, why: &str) {
        let Process { name, severity, quorum, .. } = &self.process;
        self.asserted = true;
        self.assertions += 1;
        if *quorum && self.assertions > 1 {
            tracing::error!(process = name, "a process without which this machine cannot be counted on does not come back");
            self.board.quorum_lost(name);
        }
        let reason = match severity {
            Level::Minor => format!("'{name}' has failed: {why}; it is being restarted"),
            Level::Major => format!("'{name}' has failed: {why}; the host is degraded while it is being restarted"),
            Level::Critical => format!("'{name}' has failed: {why}; the host is out of service until it runs again"),
        };
        self.board.set(Condition {
            alarm_id: ALARM.into(),
            entity: entity(name),
            level: *severity,
            reason,
            degrades: *severity == Level::Major,
            fails: *severity == Level::Critical,
        });
    }

    /// Stops it, until it is to run again.
    async fn stop(&mut self) -> Seen {
        self.command("stop").await;
        self.board.clear(ALARM, &entity(&self.process.name));
        (self.asserted, self.assertions) = (false, 0);
        let until = Instant::now() + self.seconds(STOPPED);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => {
                    tracing::warn!(process = self.process.name, "it was stopped for long; it is started again");
                    break;
                }
                order = Self::ordered(&mut self.orders) => match order {
                    Seen::Ordered(Order::Stop) => {}
                    Seen::Ordered(_) => break,
                    other => return other,
                },
            }
        }
        self.command("start").await;
        sleep(self.seconds(self.process.startuptime)).await;
        self.watch().await
    }

    async fn command(&self, word: &str) -> bool {
        let word = match (&self.process.mode, word) {
            (Mode::Status { start, .. }, "start" | "restart") => start.as_str(),
            _ => word,
        };
        run(&self.process, word, self.seconds(COMMAND)).await
    }
}

/// Runs what starts and stops it; false when it failed or took too long.
async fn run(process: &Process, word: &str, longest: Duration) -> bool {
    let mut command = match (&process.service, &process.script) {
        (Some(unit), _) if systemd() => {
            let mut command = Command::new("systemctl");
            command.args([word, unit]);
            command
        }
        (_, Some(script)) => {
            let mut command = Command::new(script);
            command.arg(word);
            command
        }
        _ => return false,
    };
    // What it starts is not ours to end.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
    match timeout(longest, command.status()).await {
        Ok(Ok(status)) => status.success(),
        Ok(Err(e)) => {
            tracing::warn!(process = process.name, "{word}: {e}");
            false
        }
        Err(_) => {
            tracing::warn!(process = process.name, "{word} takes too long");
            false
        }
    }
}

/// Asks it again and again; returns when it has not answered often enough.
async fn asked(answers: &Answers, name: &str, second: Duration, (port, period, patience, threshold): (u16, u32, u32, u32)) {
    let mut newest = answers.of(name);
    let began = Instant::now();
    let (mut misses, mut heard) = (0, false);
    let mut turns = tokio::time::interval(second * period);
    for sequence in 1.. {
        turns.tick().await;
        answers.ask(name, port, sequence).await;
        match timeout(second * patience, newest.wait_for(|answered| *answered == sequence)).await {
            Ok(Ok(_)) => (misses, heard) = (0, true),
            // It may still be starting.
            _ if !heard && began.elapsed() < second * FIRST_ANSWER => {}
            _ => misses += 1,
        }
        if misses >= threshold {
            return;
        }
    }
}

async fn healthy(process: &Process, second: Duration) -> bool {
    match &process.mode {
        Mode::Status { status, timeout, .. } => run(process, status, second * *timeout).await,
        _ => true,
    }
}

/// Looks at its status again and again; why it is bad.
async fn statuses(process: &Process, second: Duration) -> String {
    let Mode::Status { period, failure, .. } = &process.mode else { return std::future::pending().await };
    let mut turns = tokio::time::interval(second * *period);
    loop {
        turns.tick().await;
        if !healthy(process, second).await {
            let said = failure.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
            return match said.trim() {
                "" => "its status is bad".into(),
                said => said.chars().take(200).collect(),
            };
        }
    }
}
