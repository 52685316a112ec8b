//! Whether a guest's process still answers. Its death is told by the kernel; one that only stands still is found by asking it.

use std::time::Duration;

use base::{Config, Result};
use rpc::instance::{InstanceSpec, InstanceState, Power};
use rpc::message::HostEventKind;
use tokio::time::Instant;

use super::{Instance, Next};
use crate::documents::Ending;
use crate::hypervisor::{Machine, process::Silent};

/// How long a process' silence is borne.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From an answer to the next question, and for each time that one may be missed.
    every: Duration,
    /// In a row, until it counts as hung; 0: nobody asks.
    misses: u32,
}

impl Patience {
    pub fn of(config: &Config) -> Patience {
        let misses = u32::try_from(config.int("host.guest_misses")).unwrap_or(u32::MAX);
        Patience { every: Duration::from_secs(config.int("host.guest_ask_seconds").max(1)), misses }
    }
}

/// What has been heard of the present process.
pub(super) struct Silence {
    patience: Patience,
    heard: Instant,
    /// When an answer was last counted as missed.
    missed: Instant,
    misses: u32,
    /// What has been told of it: it does not answer, and is left as it is.
    told: Option<InstanceState>,
}

impl Silence {
    pub fn new(patience: Patience) -> Silence {
        let now = Instant::now();
        Silence { patience, heard: now, missed: now, misses: 0, told: None }
    }

    /// The process has answered, or is another one.
    pub fn over(&mut self) {
        (self.heard, self.misses, self.told) = (Instant::now(), 0, None);
    }

    /// One more answer has not come. Attempts that fail at once, as when nobody takes calls, are one in their time.
    pub fn missed(&mut self) {
        let now = Instant::now();
        if now >= self.heard.max(self.missed) + self.patience.every {
            (self.misses, self.missed) = (self.misses.saturating_add(1), now);
        }
    }

    fn is_long(&self) -> bool {
        self.patience.misses > 0 && self.misses >= self.patience.misses
    }

    /// The state in which a process is shown that is silent and left as it is.
    pub fn told(&self) -> Option<InstanceState> {
        self.told
    }

    /// Asks again and again. Returns when the process has been silent for too long, or answers after it was silent.
    pub async fn watch(&mut self, machine: &dyn Machine) {
        if self.patience.misses == 0 {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep_until(self.heard + self.patience.every).await;
            // One question is enough: whoever can answer the next one can answer this one too. The waits are many, so that when it was
            // this program that stood still, one of them ends early and not all.
            let answer = machine.answers();
            tokio::pin!(answer);
            loop {
                match tokio::time::timeout(self.patience.every, &mut answer).await {
                    Ok(true) => break,
                    // The connection is lost, which is told elsewhere.
                    Ok(false) => return std::future::pending().await,
                    Err(_) => self.missed(),
                }
                if self.is_long() {
                    return;
                }
            }
            let was_silent = self.misses > 0 || self.told.is_some();
            self.over();
            if was_silent {
                return;
            }
        }
    }
}

/// What becomes of a process that hangs.
enum Verdict {
    /// It is ended, for this reason, and the guest healed as after any death.
    End(String),
    /// It stays as it is, and this is told of it.
    Stay(InstanceState, String),
}

impl Instance {
    /// Whether somebody may have the process do what takes long without its being hung: it is on its way between hosts, or stands still
    /// for a copy of its volumes. (Snapshots and suspends are steps of this task, which asks nothing meanwhile.)
    pub(super) fn is_held(&self, spec: &InstanceSpec) -> bool {
        spec.moving.is_some() || self.journal.moved.is_some() || self.shared.volumes.stands_still(&self.id)
    }

    /// Deals with a process that is connected to and has been silent for too long. None: there is none.
    pub(super) async fn silent_step(&mut self, spec: &InstanceSpec) -> Result<Option<Next>> {
        let Some(machine) = self.machine.clone().filter(|_| self.silence.is_long() && !self.is_held(spec) && !self.ends_anyway(spec))
        else {
            return Ok(None);
        };
        match self.verdict(spec, machine.process().pid, machine.waits_for_device()).await? {
            Verdict::End(reason) => {
                self.report(spec, InstanceState::Recovering, Some(reason.clone()));
                self.journal.ending = Some(Ending::Dead { reason });
                // On a disk that is full it is ended all the same: whoever finds it gone takes it for dead, which it is.
                if let Err(e) = self.write().await {
                    tracing::warn!(instance = self.id, "{}", e.chain());
                }
                machine.kill().await?;
                self.gone(String::new());
                self.obituary = None;
            }
            Verdict::Stay(state, why) => {
                self.report(spec, state, Some(why));
                self.wait(None).await;
            }
        }
        Ok(Some(Next::Again))
    }

    /// The same of one that cannot be connected to, after one more time in vain. False: it stays.
    pub(super) async fn silent_look(&mut self, spec: &InstanceSpec, process: &Silent) -> Result<bool> {
        if self.is_held(spec) {
            return Ok(false);
        }
        self.silence.missed();
        if !self.silence.is_long() {
            return Ok(false);
        }
        match self.verdict(spec, process.pid(), process.waits_for_device()).await? {
            Verdict::End(reason) => {
                self.journal.process = Some(process.known().clone());
                self.journal.ending = Some(Ending::Dead { reason });
                Ok(true)
            }
            Verdict::Stay(..) => Ok(false),
        }
    }

    async fn verdict(&mut self, spec: &InstanceSpec, pid: i32, waits_for_device: bool) -> Result<Verdict> {
        let silent = self.silence.patience.every * self.silence.misses;
        // Whatever follows, it is counted anew.
        self.silence.misses = 0;
        if waits_for_device {
            tracing::warn!(instance = self.id, pid, "silent, and waits for a device");
            let why = format!("process {pid} has not answered for {silent:?}: it waits for a disk, and can neither go on nor be ended");
            let state = if spec.power == Power::Paused { InstanceState::Paused } else { InstanceState::Running };
            self.silence.told = Some(state);
            return Ok(Verdict::Stay(state, why));
        }
        let reason = format!("hung: process {pid} has not answered for {silent:?}");
        if spec.recovery.auto {
            return Ok(Verdict::End(reason));
        }
        let reason = format!("{reason}; this guest is not restarted by itself");
        if self.silence.told != Some(InstanceState::Failed) {
            self.event(HostEventKind::InstanceRecoveryFailed { instance_id: self.id.clone(), reason: reason.clone() }).await?;
            self.silence.told = Some(InstanceState::Failed);
        }
        Ok(Verdict::Stay(InstanceState::Failed, reason))
    }
}
