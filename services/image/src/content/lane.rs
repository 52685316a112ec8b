//! A thread that is fed one thing after another.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use base::{Error, Result, error::Internal};

/// What waits for a lane at most; whoever feeds it waits too then.
const AHEAD: usize = 3;

/// A thread whose state becomes what is asked for at its end. Dropped before, it ends by itself once it has done what waits.
pub struct Lane<M, S> {
    inbox: SyncSender<M>,
    thread: JoinHandle<S>,
}

impl<M: Send + 'static, S: Send + 'static> Lane<M, S> {
    pub fn start(name: &str, mut state: S, take: impl Fn(&mut S, M) + Send + 'static) -> Result<Lane<M, S>> {
        let (inbox, waiting) = sync_channel(AHEAD);
        let work = move || {
            waiting.iter().for_each(|message| take(&mut state, message));
            state
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(work).internal("starting a thread for image content")?;
        Ok(Lane { inbox, thread })
    }

    /// Waits while the lane is behind. A lane that has died says so at its end.
    pub fn feed(&self, message: M) {
        let _ = self.inbox.send(message);
    }

    /// Waits for nothing: what finds no room is forgotten.
    pub fn offer(&self, message: M) {
        let _ = self.inbox.try_send(message);
    }

    /// Waits until all is done.
    pub fn end(self) -> Result<S> {
        let Lane { inbox, thread } = self;
        drop(inbox);
        thread.join().map_err(|_| Error::internal("a thread for image content has died"))
    }
}
