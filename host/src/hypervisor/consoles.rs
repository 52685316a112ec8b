//! A QEMU guest's screen and serial port.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use base::error::Internal;
use base::{Error, Kind, Result};
use serde_json::json;
use tokio::net::UnixStream;

use super::qmp::{self, Qmp};

const COMMAND: Duration = Duration::from_secs(10);

/// A new connection to the guest's VNC server. It listens nowhere: each of its clients is handed to it, so nobody else can be one.
pub async fn display(qmp: &Qmp) -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().internal("cannot make a pair of sockets")?;
    let name = format!("vnc-{}", base::id::hex());
    qmp.execute_with("getfd", json!({ "fdname": name }), theirs.as_fd(), COMMAND).await?;
    drop(theirs);
    let client = json!({"protocol": "vnc", "fdname": name, "skipauth": true});
    match qmp.execute("add_client", client, COMMAND).await {
        Ok(_) => Ok(ours),
        Err(error) => {
            // A descriptor that nobody took would stay open in the process.
            let _ = qmp.execute("closefd", json!({ "fdname": name }), COMMAND).await;
            // Guests that were started by an earlier release have no screen.
            Err(Error::conflict("The guest has no display until it is started again.").caused_by(error))
        }
    }
}

/// A connection to the guest's first serial port; it begins when the one before it has ended.
pub async fn serial(directory: &Path) -> Result<UnixStream> {
    qmp::dial(&directory.join("console.sock")).await.map_err(|error| match error.kind() {
        Kind::NotFound => Error::conflict("The guest has no serial port.").caused_by(error),
        _ => error,
    })
}
