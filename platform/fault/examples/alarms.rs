//! How fast alarms come in over one connection of a C client: `cargo run --release -p fault --example alarms [PER_SECOND [SECONDS]]`.

use std::time::{Duration, Instant};

use fault::{Access, Faults, MIGRATIONS, RULES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

type Failure = Box<dyn std::error::Error>;

/// A packet that sets 100.101 on a host of its own, as a C compiler lays it out.
fn packet(number: u32) -> Vec<u8> {
    let mut record = vec![0; 1568];
    let mut put = |at: usize, text: &str| record[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(255, "100.101");
    put(516, "host");
    put(771, &format!("host=h{number}"));
    put(1044, "it is hot");
    put(1308, "cool it");
    // Set, major, an operational violation, a threshold crossed, affecting service.
    for (at, value) in [(512, 1), (1040, 3), (1300, 7), (1304, 50), (1564, 1)] {
        record[at] = value;
    }
    let mut packet = 1584u32.to_be_bytes().to_vec();
    for word in [1u32, 0, 1568, 0] {
        packet.extend(word.to_le_bytes());
    }
    packet.extend(record);
    packet
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u32>());
    let (rate, seconds) = (args.next().transpose()?.unwrap_or(1000), args.next().transpose()?.unwrap_or(10));
    let (core, _home) = service::testing::core("fault", RULES).await;
    core.store.migrate("fault", MIGRATIONS).await?;
    let faults = Faults::new(core.clone()).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (reading, mut writing) = TcpStream::connect(listener.local_addr()?).await?.into_split();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(async move { faults.clients_serve(listener, Access::Local, stopped).await });

    // When each was due: what waits behind another counts.
    let begun = Instant::now();
    let due = move |number: u32| begun + Duration::from_secs(1) * number / rate;
    let total = rate * seconds;
    let sender = tokio::spawn(async move {
        for number in 0..total {
            tokio::time::sleep_until(due(number).into()).await;
            writing.write_all(&packet(number)).await?;
        }
        Ok::<_, std::io::Error>(writing)
    });
    let mut reading = tokio::io::BufReader::new(reading);
    let mut times = Vec::new();
    for number in 0..total {
        let length = reading.read_u32().await?;
        let mut answer = vec![0; usize::try_from(length)?];
        reading.read_exact(&mut answer).await?;
        if answer.get(12..16) != Some(&[0; 4]) {
            return Err(format!("set {number} was refused").into());
        }
        times.push(due(number).elapsed());
    }
    let took = begun.elapsed();
    sender.await??;
    let rows = core.store.read(|tx| tx.query_one("SELECT COUNT(*) FROM alarm", &[], |row| row.int(0))).await?;
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 1000).copied().unwrap_or_default();
    println!("{total} sets at {rate}/s, answered within {took:?}; {rows} alarms are there");
    println!("from due to answered: median {:?}, p99 {:?}, longest {:?}", at(500), at(990), times.last().copied().unwrap_or_default());
    Ok(())
}
