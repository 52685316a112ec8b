//! Requests that wait for a guest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Error, Result};
use tokio::sync::oneshot;

struct Waiter {
    permit: String,
    answer: oneshot::Sender<Result<()>>,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    all: BTreeMap<u64, Waiter>,
}

/// Who waits for what becomes of which permit; the oldest gives way when there are too many.
pub struct Held {
    most: usize,
    waiters: Arc<Mutex<Waiters>>,
}

/// One of them. It leaves when it is dropped.
pub struct Place {
    number: u64,
    waiters: Arc<Mutex<Waiters>>,
    answer: oneshot::Receiver<Result<()>>,
}

fn lock(waiters: &Mutex<Waiters>) -> MutexGuard<'_, Waiters> {
    waiters.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    pub fn new(most: u64) -> Held {
        Held { most: usize::try_from(most).unwrap_or(usize::MAX).max(1), waiters: Arc::default() }
    }

    pub(crate) fn enter(&self, permit: &str) -> Place {
        let (sender, answer) = oneshot::channel();
        let mut waiters = lock(&self.waiters);
        let number = waiters.next;
        waiters.next += 1;
        waiters.all.insert(number, Waiter { permit: permit.to_string(), answer: sender });
        while waiters.all.len() > self.most {
            if let Some((_, oldest)) = waiters.all.pop_first() {
                let busy = Error::unavailable("Too many requests wait for instances to agree.").named(http_api::fault::GATE_BUSY);
                // It may have gone.
                let _ = oldest.answer.send(Err(busy));
            }
        }
        Place { number, waiters: self.waiters.clone(), answer }
    }

    /// What has become of it, for who still waits.
    pub(crate) fn answer(&self, permit: &str, outcome: Result<()>) {
        let mut waiters = lock(&self.waiters);
        let number = waiters.all.iter().find(|(_, waiter)| waiter.permit == permit).map(|(number, _)| *number);
        if let Some(waiter) = number.and_then(|number| waiters.all.remove(&number)) {
            // It may have gone.
            let _ = waiter.answer.send(outcome);
        }
    }
}

impl Place {
    /// Waits for the outcome. When that takes too long it is as good as accepted: it is on record, and goes on.
    pub(crate) async fn wait(mut self, limit: Duration) -> Result<()> {
        match tokio::time::timeout(limit, &mut self.answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.waiters).all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way_and_who_leaves_is_forgotten() {
        let held = Held::new(2);
        let places: Vec<Place> = ["a", "b", "c"].into_iter().map(|permit| held.enter(permit)).collect();
        held.answer("b", Err(Error::conflict("no")));
        held.answer("b", Ok(()));
        held.answer("nobody", Ok(()));
        let mut outcomes = Vec::new();
        for place in places {
            outcomes.push(place.wait(Duration::from_millis(1)).await.map_err(|e| e.kind()));
        }
        assert_eq!(outcomes, [Err(base::Kind::Unavailable), Err(base::Kind::Conflict), Ok(())]);
        assert!(lock(&held.waiters).all.is_empty());
    }
}
