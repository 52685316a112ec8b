//! What it costs to watch 500 hosts while the machine is busy: real packets over loopback, hosts that only answer.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use heartbeat::{FRAME, Frame, Health, Key, Kind};
use maintenance::{Pulse, Target};
use uuid::Uuid;

use crate::report::{Report, Want};

const HOSTS: u128 = 500;

/// Processor time of the thread that sends and hears, in seconds.
fn spent() -> Result<f64> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "pulse") {
            let nanos = std::fs::read_to_string(path.join("schedstat"))?;
            return Ok(nanos.split(' ').next().context("no time")?.parse::<f64>()? / 1e9);
        }
    }
    bail!("the pulse's thread does not run")
}

pub fn run(report: &mut Report) -> Result<()> {
    // The figure asked for is of ten minutes: BENCH_SECONDS=600.
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let over = Arc::new(AtomicBool::new(false));
    let hosts = UdpSocket::bind("127.0.0.1:0")?;
    hosts.set_read_timeout(Some(Duration::from_millis(200)))?;
    // Each of 500 hosts would have a socket of its own.
    nix::sys::socket::setsockopt(&hosts, nix::sys::socket::sockopt::RcvBufForce, &(4 << 20))?;
    let address: SocketAddr = hosts.local_addr()?;
    let secret = Key::new([9; 32]);
    let key = |id: &Uuid| secret.derive(&id.to_string());
    let targets: BTreeMap<Uuid, Target> = (1..=HOSTS)
        .map(|n| {
            let id = Uuid::from_u128(n);
            let (cluster, ways) = (None, [Health::Well; 2]);
            (id, Target { address, cluster, ways, key: key(&id), health: Health::Well, bound: false, fenced: false })
        })
        .collect();
    let keys: BTreeMap<Uuid, Key> = targets.keys().map(|id| (*id, key(id))).collect();
    let own = Uuid::from_u128(HOSTS + 1);
    let mut threads = Vec::new();
    let ended = over.clone();
    threads.push(std::thread::spawn(move || {
        let mut packet = [0; FRAME];
        while !ended.load(Ordering::Relaxed) {
            let Ok((n, from)) = hosts.recv_from(&mut packet) else { continue };
            let id = Uuid::from_u128(packet[24..40].iter().fold(0, |at, byte| at << 8 | u128::from(*byte)));
            let Some(Ok(pulse)) = keys.get(&id).map(|key| Frame::open(&packet[..n], key)) else { continue };
            let answer = Frame { kind: Kind::Answer, grant: false, sender: id, receiver: own, ..pulse };
            // One that is lost counts as one that was not answered.
            let _ = hosts.send_to(&answer.seal(&keys[&id]), from);
        }
    }));
    for _ in 0..std::thread::available_parallelism()?.get() {
        let ended = over.clone();
        threads.push(std::thread::spawn(move || {
            let mut n = 0u64;
            while !ended.load(Ordering::Relaxed) {
                n = std::hint::black_box(n.wrapping_add(1));
            }
        }));
    }
    let (reports, mut heard) = maintenance::reports();
    let pulse = Pulse::start(own, address.ip(), None, reports)?;
    pulse.site_set(targets);
    std::thread::sleep(Duration::from_secs(2));
    let (began, before) = (Instant::now(), spent()?);
    std::thread::sleep(Duration::from_secs(seconds));
    let share = (spent()? - before) / began.elapsed().as_secs_f64() * 100.0;
    let mut alarms = 0;
    while let Ok(seen) = heard.try_recv() {
        alarms += usize::from(matches!(seen, maintenance::Report::Changed { now, .. } if now >= Health::Degraded));
    }
    over.store(true, Ordering::Relaxed);
    drop(pulse);
    for thread in threads {
        thread.join().ok().context("a thread of the bench broke")?;
    }
    report.add("heartbeat of 500 simulated hosts, all cores busy", share, "% of core", Want::Below(5.0), None);
    report.add(&format!("false alarms in {seconds} s of it"), alarms as f64, "", Want::Below(1.0), None);
    Ok(())
}
