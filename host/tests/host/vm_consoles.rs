//! Consoles of real guests: a screen over VNC and a serial port that can be typed into, both through a session.

use std::time::{Duration, Instant};

use rpc::instance::InstanceState;
use rpc::stream::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::common::{Bench, vm};

const PATIENCE: Duration = Duration::from_secs(60);

async fn open(bench: &Bench, target: Target) -> DuplexStream {
    let begun = Instant::now();
    let stream = loop {
        match bench.hosts.stream(&bench.host_id(), target.clone()).await {
            Ok(stream) => break stream,
            // An agent that has just come back is still looking for its guests.
            Err(error) => assert!(error.is(base::Kind::Conflict) && begun.elapsed() < PATIENCE, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(stream.carry(far));
    near
}

async fn read(io: &mut DuplexStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; length];
    tokio::time::timeout(PATIENCE, io.read_exact(&mut bytes)).await.expect("an answer in time").unwrap();
    bytes
}

/// Reads until `text` has come.
async fn shows(io: &mut DuplexStream, text: &str) -> String {
    let mut seen = Vec::new();
    let find = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut chunk = [0u8; 1024];
            let n = io.read(&mut chunk).await.unwrap();
            assert!(n > 0, "it ended after {:?}", String::from_utf8_lossy(&seen));
            seen.extend(&chunk[..n]);
        }
    };
    let found = tokio::time::timeout(PATIENCE, find).await;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(found.is_ok(), "no {text:?} in {seen:?}");
    seen
}

/// Shakes hands as a VNC client; answers the size of the screen.
async fn handshake(io: &mut DuplexStream) -> (u16, u16) {
    assert_eq!(read(io, 12).await, b"RFB 003.008\n");
    io.write_all(b"RFB 003.008\n").await.unwrap();
    let ways = read(io, 1).await[0];
    assert!(read(io, ways.into()).await.contains(&1), "no password is asked");
    io.write_all(&[1]).await.unwrap();
    assert_eq!(read(io, 4).await, [0; 4]);
    io.write_all(&[1]).await.unwrap();
    let init = read(io, 24).await;
    let name = u32::from_be_bytes(init[20..24].try_into().unwrap());
    read(io, name as usize).await;
    (u16::from_be_bytes([init[0], init[1]]), u16::from_be_bytes([init[2], init[3]]))
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_shows_its_screen_and_takes_what_is_typed() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = vm();
    let display = || Target::Display { instance_id: spec.id.clone() };
    let serial = || Target::Serial { instance_id: spec.id.clone() };
    let early = bench.hosts.stream(&bench.host_id(), display()).await.err().unwrap();
    assert!(early.is(base::Kind::Conflict), "{early:?}");
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;

    // Two look at one screen; a whole picture comes, not only a greeting.
    let (mut first, mut second) = (open(&bench, display()).await, open(&bench, display()).await);
    let (width, height) = handshake(&mut first).await;
    assert_eq!(handshake(&mut second).await, (width, height));
    assert!(width >= 640 && height >= 400, "{width}x{height}");
    first.write_all(&[2, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
    let mut ask = vec![3, 0, 0, 0, 0, 0];
    ask.extend(width.to_be_bytes());
    ask.extend(height.to_be_bytes());
    first.write_all(&ask).await.unwrap();
    let update = read(&mut first, 4).await;
    assert_eq!(update[0], 0);
    let rectangle = read(&mut first, 12).await;
    let (w, h) = (u16::from_be_bytes([rectangle[4], rectangle[5]]), u16::from_be_bytes([rectangle[6], rectangle[7]]));
    assert_eq!(rectangle[8..], [0; 4], "as it was asked for: raw");
    read(&mut first, usize::from(w) * usize::from(h) * 4).await;
    drop(first);

    // Whoever takes the serial port has it, and whoever had it is told.
    let mut had = open(&bench, serial()).await;
    let mut port = open(&bench, serial()).await;
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, had.read_to_end(&mut rest)).await.expect("the end").unwrap();
    bench.console_shows(&spec, "is up", 1).await;
    port.write_all(b"\r").await.unwrap();
    shows(&mut port, "login:").await;

    // The agent goes and comes back; the same process is reached again.
    drop((second, port));
    bench.stop().await;
    bench.start().await;
    bench.state(&spec, InstanceState::Running).await;
    handshake(&mut open(&bench, display()).await).await;
    bench.clean(&[&spec]).await;
}
