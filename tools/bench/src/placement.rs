//! Placement: where something would fit, among a thousand hosts and among ten thousand trees; and claims.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::api::{load, many};
use crate::cloud::Cloud;
use crate::http::Client;
use crate::report::{Report, Want, percentile};

const VERSION: &str = "OpenStack-API-Version: placement 1.39\r\n";
const ASKED: &str = "/allocation_candidates?resources=VCPU:2,MEMORY_MB:512,DISK_GB:10";
const FLAT: usize = 1_000;
const TREES: usize = 10_000;

pub fn run(cloud: &mut Cloud, report: &mut Report) -> Result<()> {
    let hosts: Vec<String> = (0..FLAT).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    many(cloud, FLAT, |client, n| {
        let host = Made { cloud, uuid: &hosts[n], name: format!("bench-{n}"), parent: None };
        host.make(
            client,
            &json!({"VCPU": {"total": 64, "allocation_ratio": 16.0}, "MEMORY_MB": {"total": 524_288}, "DISK_GB": {"total": 100_000}}),
        )
    })?;
    for (limit, most) in [(1000, 5.0), (10, 0.5)] {
        candidates(cloud, report, &format!("candidates, 1,000 providers, limit={limit}, p50"), limit, most)?;
    }
    let consumers = claims(cloud, report, &hosts)?;
    many(cloud, consumers.len(), |client, n| removed(cloud, client, &format!("/allocations/{}", consumers[n])))?;
    many(cloud, FLAT, |client, n| removed(cloud, client, &format!("/resource_providers/{}", hosts[n])))?;
    trees(cloud, report)?;
    first(cloud, report)
}

/// A provider to be.
struct Made<'a> {
    cloud: &'a Cloud,
    uuid: &'a str,
    name: String,
    parent: Option<&'a str>,
}

impl Made<'_> {
    fn make(&self, client: &mut Client, inventories: &Value) -> Result<()> {
        let body = json!({"name": self.name, "uuid": self.uuid, "parent_provider_uuid": self.parent});
        client.call("POST", &self.cloud.path("placement", "/resource_providers")?, VERSION, Some(&body))?.expect(200)?;
        let path = self.cloud.path("placement", &format!("/resource_providers/{}/inventories", self.uuid))?;
        let body = json!({"resource_provider_generation": 0, "inventories": inventories});
        client.call("PUT", &path, VERSION, Some(&body))?.expect(200).map(|_| ())
    }
}

fn removed(cloud: &Cloud, client: &mut Client, path: &str) -> Result<()> {
    client.call("DELETE", &cloud.path("placement", path)?, VERSION, None)?.expect(204).map(|_| ())
}

fn candidates(cloud: &Cloud, report: &mut Report, name: &str, limit: usize, most: f64) -> Result<()> {
    let path = cloud.path("placement", &format!("{ASKED}&limit={limit}"))?;
    let found = cloud.client().call("GET", &path, VERSION, None)?.expect(200)?;
    let count = found["allocation_requests"].as_array().map_or(0, Vec::len);
    if count != limit {
        bail!("{count} candidates instead of {limit}");
    }
    // Reading the body's JSON is the client's affair.
    let get = |client: &mut Client| match client.call("GET", &path, VERSION, None)?.status {
        200 => Ok(()),
        status => bail!("{path} was answered with {status}"),
    };
    let (mut samples, cpu) = load(cloud, 1, Duration::from_secs(3), get)?;
    report.add(name, percentile(&mut samples, 0.5), "ms", Want::Below(most), Some(cpu));
    Ok(())
}

/// Each claim is a consumer of its own, with three classes of one provider. Returns the consumers.
fn claims(cloud: &Cloud, report: &mut Report, hosts: &[String]) -> Result<Vec<String>> {
    let next = AtomicUsize::new(0);
    let consumers = std::sync::Mutex::new(Vec::new());
    let claim = |client: &mut Client| -> Result<()> {
        let consumer = uuid::Uuid::new_v4().to_string();
        let host = &hosts[next.fetch_add(1, Ordering::Relaxed) % hosts.len()];
        let body = json!({"allocations": {host: {"resources": {"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1}}},
                          "project_id": "bench", "user_id": "bench", "consumer_generation": null, "consumer_type": "INSTANCE"});
        client.call("PUT", &cloud.path("placement", &format!("/allocations/{consumer}"))?, VERSION, Some(&body))?.expect(204)?;
        consumers.lock().unwrap_or_else(|e| e.into_inner()).push(consumer);
        Ok(())
    };
    let (mut samples, cpu) = load(cloud, 1, Duration::from_secs(3), claim)?;
    report.add("claim of three classes, 1 client, p50", percentile(&mut samples, 0.5), "ms", Want::Any, Some(cpu));
    let (samples, cpu) = load(cloud, 32, Duration::from_secs(5), claim)?;
    report.add("claims of three classes, 32 clients", samples.len() as f64 / 5.0, "/s", Want::Above(3_000.0), Some(cpu));
    Ok(consumers.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// Each a root with disk, two with processors and memory, two with devices.
fn trees(cloud: &Cloud, report: &mut Report) -> Result<()> {
    let before = cloud.anonymous()?;
    let (numa, device) =
        (json!({"VCPU": {"total": 32, "allocation_ratio": 16.0}, "MEMORY_MB": {"total": 262_144}}), json!({"SRIOV_NET_VF": {"total": 8}}));
    many(cloud, TREES, |client, n| {
        let root = uuid::Uuid::new_v4().to_string();
        let disk = json!({"DISK_GB": {"total": 10_000}});
        Made { cloud, uuid: &root, name: format!("bench-{n}"), parent: None }.make(client, &disk)?;
        for (part, inventories) in [&numa, &numa, &device, &device].into_iter().enumerate() {
            let uuid = uuid::Uuid::new_v4().to_string();
            Made { cloud, uuid: &uuid, name: format!("bench-{n}-{part}"), parent: Some(&root) }.make(client, inventories)?;
        }
        Ok(())
    })?;
    candidates(cloud, report, "candidates, 10,000 trees of 5 providers, limit=10, p50", 10, 2.0)?;
    // The store's caches are in it too: they are full after so many writes.
    let each = (cloud.anonymous()? - before) * 1024.0 * 1024.0 / (5 * TREES) as f64;
    report.add("memory per provider, 50,000 of them (anonymous)", each, "bytes", Want::Any, None);
    Ok(())
}

/// What the first search after a start takes: it reads all providers.
fn first(cloud: &mut Cloud, report: &mut Report) -> Result<()> {
    let mut samples = Vec::new();
    for _ in 0..3 {
        cloud.end("TERM")?;
        cloud.start()?;
        let path = cloud.path("placement", &format!("{ASKED}&limit=10"))?;
        let mut client = cloud.client();
        // A connection of its own is not what is measured.
        client.call("GET", &cloud.path("placement", "/")?, VERSION, None)?.expect(200)?;
        let begun = Instant::now();
        client.call("GET", &path, VERSION, None)?.expect(200)?;
        samples.push(begun.elapsed());
    }
    report.add("first search after a start, 50,000 providers, p50", percentile(&mut samples, 0.5), "ms", Want::Below(1_000.0), None);
    Ok(())
}
