//! A step's place among those that run at the same time.

use std::sync::{Arc, Mutex};

use base::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::lock;

#[derive(Clone)]
pub(crate) struct Place {
    all: Arc<Semaphore>,
    own: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Place {
    pub fn new(all: Arc<Semaphore>) -> Place {
        Place { all, own: Arc::default() }
    }

    pub async fn enter(&self) -> Result<()> {
        let permit = self.all.clone().acquire_owned().await.map_err(|_| Error::unavailable("The engine stops."))?;
        lock(&self.own).replace(permit);
        Ok(())
    }

    pub fn leave(&self) {
        lock(&self.own).take();
    }
}
