//! Consoles of guests, led into a session as streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base::{Error, Result};
use rpc::message::ToController;
use rpc::stream::{End, Frame, Target};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use crate::agent::{Shared, machine_of};

/// What a console is on the host: something to read from and write to.
pub trait Console: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Console for T {}

/// Streams that may be open at once, of all guests.
pub(crate) const MOST: usize = 256;

/// Who has each guest's serial port: it has room for one, and whoever comes takes it over.
#[derive(Default)]
pub(crate) struct Holders(Mutex<HashMap<String, oneshot::Sender<()>>>);

impl Holders {
    /// Takes the port; resolves when the next one takes it.
    fn take(&self, instance_id: &str) -> oneshot::Receiver<()> {
        let (sender, taken) = oneshot::channel();
        let mut holders = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        holders.retain(|_, holder| !holder.is_closed());
        // The earlier holder learns it by the dropped sender.
        holders.insert(instance_id.to_string(), sender);
        taken
    }
}

/// One stream, from its beginning to its end.
pub(crate) async fn serve(shared: Arc<Shared>, outgoing: mpsc::Sender<ToController>, id: u64, target: Target, end: End) {
    let say = |frame| async {
        let said = outgoing.send(ToController::Stream { id, frame }).await;
        said.map_err(|_| Error::unavailable("the controller has gone"))
    };
    let (io, taken) = match open(&shared, &target).await {
        Ok(opened) => opened,
        Err(error) => {
            // When the session has ended nobody waits any more.
            let _ = say(Frame::Closed(Some(error.message().to_string()))).await;
            return;
        }
    };
    if say(Frame::Opened).await.is_err() {
        return;
    }
    match taken {
        None => end.carry(io, say).await,
        Some(taken) => tokio::select! {
            () = end.carry(io, say) => {}
            // Whether it was dropped or sent does not matter.
            _ = taken => {
                let _ = say(Frame::Closed(None)).await;
            }
        },
    }
}

async fn open(shared: &Shared, target: &Target) -> Result<(Box<dyn Console>, Option<oneshot::Receiver<()>>)> {
    match target {
        Target::Display { instance_id } => Ok((machine_of(shared, instance_id)?.display().await?, None)),
        Target::Serial { instance_id } => {
            let machine = machine_of(shared, instance_id)?;
            let taken = shared.holders.take(instance_id);
            Ok((machine.serial().await?, Some(taken)))
        }
    }
}
