//! The agent's side of the guard: keeps it running and tells it what to go by.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::Result;
use base::error::Internal;
use heartbeat::LEASE;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rpc::heartbeat::HeartbeatDocument;
use tokio::process::Command;
use tokio::sync::Notify;

use crate::documents;
use crate::guard::{document_path, leave_path, lock_path};
use crate::lease::{LeaseFile, now};

/// A host that has a guard, or will have one as soon as its controller tells it of the site.
pub(crate) struct Guarded {
    home: PathBuf,
    program: PathBuf,
    lease: LeaseFile,
    /// The host knows of its site, so it needs a lease.
    told: AtomicBool,
    first: Notify,
}

impl Guarded {
    pub fn open(home: &std::path::Path, program: PathBuf) -> Result<Guarded> {
        Ok(Guarded {
            home: home.to_path_buf(),
            program,
            lease: LeaseFile::open(home)?,
            told: AtomicBool::new(document_path(home).exists()),
            first: Notify::new(),
        })
    }

    pub fn holds(&self) -> bool {
        match self.lease.until() {
            Some(until) => now() < until,
            None => !self.told.load(Ordering::Acquire),
        }
    }

    /// Whether this host is locked, as far as its controller has said.
    pub fn locked(&self) -> bool {
        documents::read::<HeartbeatDocument>(&document_path(&self.home)).is_ok_and(|document| document.is_some_and(|d| d.locked))
    }

    /// Stores what the controller says of the site; the guard sees it.
    pub fn take(&self, document: &HeartbeatDocument) -> Result<()> {
        if !self.told.load(Ordering::Acquire) && self.lease.until().is_none() {
            // Until now this host needed none, and the controller counts on one only from the first answer of its guard on.
            self.lease.write(now() + LEASE)?;
        }
        let text = serde_json::to_vec(document).internal("cannot write a document")?;
        documents::replace(&document_path(&self.home), &text, true)?;
        self.told.store(true, Ordering::Release);
        self.first.notify_one();
        Ok(())
    }

    /// Runs a guard until it ends; in place of the one there is, which may be of an older release.
    pub async fn watch(&self) -> Result<()> {
        while !self.told.load(Ordering::Acquire) {
            self.first.notified().await;
        }
        end(&self.home);
        let log = std::fs::File::options().create(true).append(true).open(self.home.join("guard.log")).internal("cannot open its log")?;
        // A group of its own, and not ended with us.
        let mut child = Command::new(&self.program)
            .arg("guard")
            .arg("--home")
            .arg(&self.home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .internal("cannot be started")?;
        let status = child.wait().await.internal("cannot be waited for")?;
        tracing::warn!("the guard ended: {status}");
        Ok(())
    }
}

/// How long a guard may take to leave.
const LEAVE: Duration = Duration::from_secs(2);

/// Has the guard of a home, if one runs, leave for good: nothing is left to be guarded. The machine's watchdog stops with it.
pub fn leave(home: &std::path::Path) {
    let runs = || std::fs::File::open(lock_path(home)).is_ok_and(|file| file.try_lock().is_err());
    if !runs() {
        return;
    }
    if let Err(e) = std::fs::write(leave_path(home), "") {
        tracing::warn!("the guard cannot be told to leave: {e}");
    }
    let began = std::time::Instant::now();
    while runs() && began.elapsed() < LEAVE {
        std::thread::sleep(Duration::from_millis(10));
    }
    end(home);
    let _ = std::fs::remove_file(leave_path(home));
}

/// Ends the guard of a home, if one runs. What it guards is then guarded by the agent alone.
pub fn end(home: &std::path::Path) {
    let Ok(file) = std::fs::File::open(lock_path(home)) else { return };
    if file.try_lock().is_ok() {
        return;
    }
    let pid = std::fs::read_to_string(lock_path(home)).ok().and_then(|text| text.trim().parse().ok());
    match pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM)) {
        None | Some(Ok(()) | Err(Errno::ESRCH)) => {}
        Some(Err(e)) => tracing::warn!("the guard cannot be ended: {e}"),
    }
}
