//! Thousands of servers on simulated hosts, in a cloud of their own: what the controller takes for them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cloud::Cloud;
use crate::guests;
use crate::http::Client;
use crate::report::{Report, Want, percentile};

const SETTINGS: [(&str, &str); 4] = [
    ("STURNUS_HOST_SIMULATED", "true"),
    ("STURNUS_HOST_SIMULATED_HOSTS", "10"),
    ("STURNUS_HOST_CPU_ALLOCATION_RATIO", "10000.0"),
    ("STURNUS_HOST_RAM_ALLOCATION_RATIO", "1000.0"),
];
const BULK: usize = 1000;
const BULKS: usize = 10;

/// The cloud of the other parts stops meanwhile: both want the same address.
pub fn run(other: &mut Cloud, report: &mut Report, image: &Path) -> Result<()> {
    other.end("TERM")?;
    let home = other.home.with_file_name("bench-scale");
    if home.exists() {
        std::fs::remove_dir_all(&home)?;
    }
    let mut cloud = Cloud::new(&other.program, &home, &SETTINGS)?;
    cloud.start()?;
    cloud.seed(image)?;
    let body = plan(&cloud)?;
    let mut client = cloud.client();
    let detail = cloud.path("compute", "/servers/detail")?;

    let (cpu, took) = (cloud.cpu()?, bulk(&cloud, &body, BULK)?);
    let each = (cloud.cpu()? - cpu).as_secs_f64() * 1000.0 / BULK as f64;
    report.add("1,000 servers by one request, simulated, all ACTIVE", took.as_secs_f64(), "s", Want::Below(10.0), Some(each));
    let page = Page { path: format!("{detail}?limit=1000"), list: "servers", rows: 1000, times: 20 };
    page.measure(&cloud, report, "GET servers/detail of 1,000, p50", 50.0)?;

    for number in 1..BULKS {
        bulk(&cloud, &body, BULK * (number + 1))?;
    }
    let first = client.get(&format!("{detail}?limit=50"))?.expect(200)?;
    let marker = first["servers"][49]["id"].as_str().context("no 50th server")?;
    let page = Page { path: format!("{detail}?limit=50&marker={marker}"), list: "servers", rows: 50, times: 200 };
    page.measure(&cloud, report, "GET servers/detail, 50 of 10,000, p50", 5.0)?;
    let ports = cloud.path("network", "/v2.0/ports?limit=100")?;
    let first = client.get(&ports)?.expect(200)?;
    let marker = first["ports"][99]["id"].as_str().context("no 100th port")?;
    let page = Page { path: format!("{ports}&marker={marker}"), list: "ports", rows: 100, times: 100 };
    page.measure(&cloud, report, "GET ports, 100 of 10,000, p50", 10.0)?;
    report.add("memory (PSS) with 10,000 servers on simulated hosts", cloud.pss()?, "MiB", Want::Any, None);
    let began = Instant::now();
    cloud.end("KILL")?;
    cloud.start()?;
    report.add("start with 10,000 servers, killed before", began.elapsed().as_secs_f64() * 1000.0, "ms", Want::Any, None);
    cloud.end("KILL")
}

/// Quotas without limits, a network with room, and the body of a request for a bulk.
fn plan(cloud: &Cloud) -> Result<Value> {
    let mut client = cloud.client();
    let limits = json!({"quota_class_set": {"instances": -1, "cores": -1, "ram": -1}});
    client.put(&cloud.path("compute", "/os-quota-class-sets/default")?, &limits)?.expect(200)?;
    let project = client.get(&cloud.path("identity", "/auth/projects")?)?.expect(200)?;
    let project = project["projects"].as_array().into_iter().flatten().find(|p| p["name"] == "admin");
    let project = project.and_then(|p| p["id"].as_str()).context("no project admin")?.to_string();
    client.put(&cloud.path("network", &format!("/v2.0/quotas/{project}"))?, &json!({"quota": {"port": -1}}))?.expect(200)?;
    let network = client.post(&cloud.path("network", "/v2.0/networks")?, &json!({"network": {"name": "wide"}}))?.expect(201)?;
    let network = network["network"]["id"].as_str().context("no id")?.to_string();
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.64.0.0/16"}});
    client.post(&cloud.path("network", "/v2.0/subnets")?, &subnet)?.expect(201)?;
    let plan = guests::plan(cloud)?;
    Ok(json!({"server": {"name": "bulk", "flavorRef": plan.flavor, "imageRef": plan.image, "networks": [{"uuid": network}],
        "min_count": BULK, "max_count": BULK}}))
}

/// Asks for a bulk and waits until this many servers are active in all.
fn bulk(cloud: &Cloud, body: &Value, wanted: usize) -> Result<Duration> {
    let mut client = cloud.client();
    let servers = cloud.path("compute", "/servers")?;
    let began = Instant::now();
    client.post(&servers, body)?.expect(202)?;
    loop {
        // The least that can be asked for: how many are still on their way.
        let building = client.get(&format!("{servers}?status=BUILD&limit=1"))?.expect(200)?;
        if building["servers"] == json!([]) {
            break;
        }
        if began.elapsed() > Duration::from_secs(300) {
            bail!("servers are still being built after five minutes");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = began.elapsed();
    let (mut active, mut marker) = (0, String::new());
    loop {
        let page = client.get(&format!("{servers}?status=ACTIVE&limit=1000{marker}"))?.expect(200)?;
        let rows = page["servers"].as_array().context("no list")?;
        active += rows.len();
        match rows.last().and_then(|row| row["id"].as_str()) {
            Some(id) if rows.len() == 1000 => marker = format!("&marker={id}"),
            _ => break,
        }
    }
    if active != wanted {
        bail!("{active} servers are active, wanted are {wanted}");
    }
    Ok(took)
}

/// A list that is asked for again and again.
struct Page {
    path: String,
    list: &'static str,
    rows: usize,
    times: u32,
}

impl Page {
    fn measure(&self, cloud: &Cloud, report: &mut Report, name: &str, limit: f64) -> Result<()> {
        let mut client: Client = cloud.client();
        let rows = client.get(&self.path)?.expect(200)?[self.list].as_array().map(Vec::len);
        if rows != Some(self.rows) {
            bail!("{}: {rows:?} rows instead of {}", self.path, self.rows);
        }
        let (cpu, mut samples) = (cloud.cpu()?, Vec::new());
        for _ in 0..self.times {
            let began = Instant::now();
            let status = client.get(&self.path)?.status;
            samples.push(began.elapsed());
            if status != 200 {
                bail!("{}: {status}", self.path);
            }
        }
        let each = (cloud.cpu()? - cpu).as_secs_f64() * 1000.0 / f64::from(self.times);
        report.add(name, percentile(&mut samples, 0.5), "ms", Want::Below(limit), Some(each));
        Ok(())
    }
}
