//! Scripts that answer for the guest.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// A script that runs. It is ended when it is dropped.
pub struct Script {
    child: Child,
    until: Instant,
}

/// What a script said: whether it ended well, and the first line it wrote.
#[derive(Debug, PartialEq)]
pub enum Said {
    Yes(String),
    No(String),
    /// It could not be run, or took too long.
    Nothing(String),
}

impl Script {
    pub fn start(path: &Path, arguments: &[&str], time: Duration) -> Result<Script, String> {
        let child = Command::new(path).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        child.map(|child| Script { child, until: Instant::now() + time }).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// What has come of it, once something has.
    pub fn said(&mut self) -> Option<Said> {
        match self.child.try_wait() {
            Ok(Some(status)) if status.success() => Some(Said::Yes(self.line())),
            Ok(Some(_)) => Some(Said::No(self.line())),
            Ok(None) if Instant::now() < self.until => None,
            Ok(None) => Some(Said::Nothing("the script takes too long".into())),
            Err(e) => Some(Said::Nothing(e.to_string())),
        }
    }

    fn line(&mut self) -> String {
        let Some(mut output) = self.child.stdout.take() else { return String::new() };
        // What it has left running may hold its output open.
        if fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_err() {
            return String::new();
        }
        let mut buffer = [0u8; 512];
        let read = output.read(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..read]).lines().next().unwrap_or_default().trim().to_string()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
