//! Access and audit log: one line a request, written by a thread of their own.
//!
//! `access.log` has every request; `audit.log` those that may change something, with who asked. Lines wait
//! in a bounded queue: when the disk stalls, access lines are dropped and counted rather than requests delayed.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use base::{Result, error::Internal};

const QUEUE: usize = 8192;

struct Line {
    text: String,
    audit: bool,
}

/// Cheap to clone; without a directory it drops everything (tests).
#[derive(Clone, Default)]
pub struct AccessLog {
    queue: Option<SyncSender<Line>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    pub fn open(directory: &Path) -> Result<AccessLog> {
        std::fs::create_dir_all(directory).internal("making the log directory")?;
        let open = |name: &str| std::fs::OpenOptions::new().create(true).append(true).open(directory.join(name)).internal("opening a log");
        let (access, audit) = (open("access.log")?, open("audit.log")?);
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(&lines, access, audit))
            .internal("starting the log thread")?;
        Ok(AccessLog { queue: Some(queue), dropped: Arc::default() })
    }

    /// Whether anybody reads: callers need not format a line otherwise.
    pub fn enabled(&self) -> bool {
        self.queue.is_some()
    }

    pub fn write(&self, text: String, audit: bool) {
        let Some(queue) = &self.queue else { return };
        let line = Line { text, audit };
        if audit {
            // An audit line is worth waiting for. The writer ends only with the process.
            let _ = queue.send(line);
        } else if queue.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn write_lines(lines: &Receiver<Line>, access: std::fs::File, audit: std::fs::File) {
    let mut access = std::io::BufWriter::new(access);
    let mut audit = std::io::BufWriter::new(audit);
    let mut failed = false;
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        // Whatever came in the meantime goes out with one write.
        while let Some(line) = next {
            let mut done = writeln!(access, "{}", line.text);
            if line.audit {
                done = done.and(writeln!(audit, "{}", line.text));
            }
            if done.is_err() && !failed {
                failed = true;
                tracing::error!("the access log cannot be written");
            }
            next = lines.recv_timeout(Duration::from_millis(50)).ok();
        }
        failed = access.flush().and(audit.flush()).is_err();
    }
}
