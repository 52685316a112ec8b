//! Whether memory stays where it is while requests come and go.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};
use serde_json::json;

use crate::cloud::Cloud;
use crate::http::Client;
use crate::report::{Report, Want};

const CLIENTS: u32 = 4;

/// One request in five writes. What is made is deleted, so that nothing but leaks can add up.
fn requests(cloud: &Cloud, count: u32) -> Result<()> {
    let networks = cloud.path("network", "/v2.0/networks")?;
    let reads = [
        cloud.path("compute", "/servers/detail")?,
        cloud.path("network", "/v2.0/ports")?,
        cloud.path("image", "/v2/images")?,
        cloud.path("identity", "/users")?,
        cloud.path("block-storage", "/volumes/detail")?,
        format!("{networks}/no-such-network"),
        cloud.path("placement", "/resource_providers")?,
        cloud.path("compute", "/flavors/detail")?,
    ];
    let done = AtomicU32::new(0);
    let work = |client: &mut Client| -> Result<()> {
        while done.fetch_add(10, Ordering::Relaxed) < count {
            for path in &reads {
                let status = client.get(path)?.status;
                if status != 200 && status != 404 {
                    bail!("GET {path}: {status}");
                }
            }
            let made = client.post(&networks, &json!({"network": {"name": "bench-memory"}}))?.expect(201)?;
            client.delete(&format!("{networks}/{}", made["network"]["id"].as_str().unwrap_or_default()))?.expect(204)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| work(&mut cloud.client()))).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| bail!("a client panicked")))
    })
}

/// The store's caches (16 MiB of its writer, 4 of each reader) are full after so many.
const WARM: u32 = 50_000;
const MORE: u32 = 100_000;

pub fn run(cloud: &mut Cloud, report: &mut Report) -> Result<()> {
    requests(cloud, WARM)?;
    let early = cloud.pss()?;
    let cpu = cloud.cpu()?;
    requests(cloud, MORE)?;
    let (late, each) = (cloud.pss()?, (cloud.cpu()? - cpu).as_secs_f64() * 1000.0 / f64::from(MORE));
    report.add("memory (PSS) after 50,000 requests", early, "MiB", Want::Any, None);
    report.add("memory (PSS) after 100,000 more", late, "MiB", Want::Below(early * 1.1), Some(each));
    Ok(())
}
