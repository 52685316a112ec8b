//! Latencies and rates of the APIs, without guests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::cloud::Cloud;
use crate::http::Client;
use crate::report::{Report, Want, percentile};

/// Clients that make and remove what is measured.
const HANDS: usize = 8;

/// Calls `request` in a loop on `clients` connections for a while; all samples, and the CPU time of one call in ms.
pub fn load(
    cloud: &Cloud,
    clients: usize,
    time: Duration,
    request: impl Fn(&mut Client) -> Result<()> + Sync,
) -> Result<(Vec<Duration>, f64)> {
    let cpu = cloud.cpu()?;
    let end = Instant::now() + time;
    let samples: Vec<Result<Vec<Duration>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut samples) = (cloud.client(), Vec::new());
                    while Instant::now() < end {
                        let began = Instant::now();
                        request(&mut client)?;
                        samples.push(began.elapsed());
                    }
                    Ok(samples)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))).collect()
    });
    let mut all = Vec::new();
    for part in samples {
        all.extend(part?);
    }
    let used = (cloud.cpu()? - cpu).as_secs_f64() * 1000.0;
    let each = used / all.len().max(1) as f64;
    Ok((all, each))
}

/// Does `count` things, by several clients.
pub fn many(cloud: &Cloud, count: usize, one: impl Fn(&mut Client, usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut client = cloud.client();
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                n if n < count => one(&mut client, n)?,
                _ => return Ok(()),
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..HANDS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| bail!("a client panicked")))
    })
}

pub fn run(cloud: &Cloud, report: &mut Report) -> Result<()> {
    let mut client = cloud.client();
    // something to list
    let networks = cloud.path("network", "/v2.0/networks")?;
    let mut made = Vec::new();
    for n in 0..50 {
        let network = client.post(&networks, &json!({"network": {"name": format!("bench-{n}")}}))?.expect(201)?;
        made.push(network["network"]["id"].as_str().unwrap_or_default().to_string());
    }
    for (name, kind, rest) in [
        ("GET users", "identity", "/users"),
        ("GET images", "image", "/v2/images"),
        ("GET 50 networks", "network", "/v2.0/networks"),
        ("GET ports", "network", "/v2.0/ports"),
        ("GET flavors/detail", "compute", "/flavors/detail"),
        ("GET servers/detail, none there", "compute", "/servers/detail"),
        ("GET allocation_candidates", "placement", "/allocation_candidates?resources=VCPU:1,MEMORY_MB:128"),
    ] {
        let path = cloud.path(kind, rest)?;
        let get =
            |client: &mut Client| client.call("GET", &path, "OpenStack-API-Version: placement 1.29\r\n", None)?.expect(200).map(|_| ());
        let (mut samples, cpu) = load(cloud, 1, Duration::from_secs(1), get)?;
        report.add(&format!("{name}, p50"), percentile(&mut samples, 0.5), "ms", Want::Any, Some(cpu));
    }
    for (name, clients) in [("POST network and DELETE it, 1 client, p50", 1), ("POST network and DELETE it, 8 clients, p50", 8)] {
        let (mut samples, cpu) = load(cloud, clients, Duration::from_secs(2), |client| {
            let network: Value = client.post(&networks, &json!({"network": {"name": "bench"}}))?.expect(201)?;
            let id = network["network"]["id"].as_str().unwrap_or_default().to_string();
            client.delete(&format!("{networks}/{id}"))?.expect(204).map(|_| ())
        })?;
        report.add(name, percentile(&mut samples, 0.5), "ms", Want::Any, Some(cpu));
    }
    for id in made {
        client.delete(&format!("{networks}/{id}"))?.expect(204)?;
    }
    Ok(())
}
