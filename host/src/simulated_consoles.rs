//! What a simulated guest shows: a screen that says hello as RFB 3.8 does, and a serial port that echoes.

use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const ROOM: usize = 4096;

/// The beginning of a VNC session, up to the size and name of the screen; then whatever comes is swallowed.
pub fn display(name: String, gone: impl Future<Output = ()> + Send + 'static) -> DuplexStream {
    let (ours, theirs) = duplex(ROOM);
    tokio::spawn(async move {
        tokio::select! {
            // Ends with its peer, whatever it was about to say.
            _ = greet(theirs, &name) => {}
            () = gone => {}
        }
    });
    ours
}

async fn greet(mut peer: DuplexStream, name: &str) -> std::io::Result<()> {
    peer.write_all(b"RFB 003.008\n").await?;
    peer.read_exact(&mut [0u8; 12]).await?;
    // One way to prove oneself: none.
    peer.write_all(&[1, 1]).await?;
    peer.read_exact(&mut [0u8; 1]).await?;
    peer.write_all(&[0; 4]).await?;
    peer.read_exact(&mut [0u8; 1]).await?;
    let mut init = vec![0, 16, 0, 8, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
    init.extend(u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
    init.extend(name.as_bytes());
    peer.write_all(&init).await?;
    let mut rest = [0u8; 256];
    while peer.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Says whose port it is and gives back what is typed.
pub fn serial(name: String, gone: impl Future<Output = ()> + Send + 'static) -> DuplexStream {
    let (ours, mut theirs) = duplex(ROOM);
    tokio::spawn(async move {
        let echo = async {
            theirs.write_all(format!("{name} login: ").as_bytes()).await?;
            let (mut read, mut write) = tokio::io::split(theirs);
            tokio::io::copy(&mut read, &mut write).await
        };
        tokio::select! {
            _ = echo => {}
            () = gone => {}
        }
    });
    ours
}
