//! Servers with a real QEMU each: making them, losing them, and the cloud's own restart beside them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cloud::{Cloud, guest_pid, send};
use crate::http::Client;
use crate::report::{Report, Want, percentile};

/// What a new server is made of.
pub struct Plan {
    pub servers: String,
    pub flavor: String,
    pub image: String,
    pub network: String,
}

/// How many guests fit is not a question of the machine's disk: theirs are as small as their image.
pub fn plan(cloud: &Cloud) -> Result<Plan> {
    let mut client = cloud.client();
    let flavor = "bench";
    let body = json!({"flavor": {"id": flavor, "name": flavor, "vcpus": 1, "ram": 128, "disk": 0}});
    let status = client.post(&cloud.path("compute", "/flavors")?, &body)?.status;
    if status != 200 && status != 409 {
        bail!("POST /flavors: {status}");
    }
    let mut find = |kind: &str, path: &str, list: &str, name: &str| -> Result<String> {
        let found = client.get(&cloud.path(kind, path)?)?.expect(200)?;
        let row = found[list].as_array().into_iter().flatten().find(|row| row["name"] == name);
        Ok(row.and_then(|row| row["id"].as_str()).with_context(|| format!("no {name} in {list}"))?.to_string())
    };
    Ok(Plan {
        servers: cloud.path("compute", "/servers")?,
        flavor: flavor.to_string(),
        image: find("image", "/v2/images", "images", "cirros")?,
        network: find("network", "/v2.0/networks", "networks", "private")?,
    })
}

impl Plan {
    /// Asks for a server: its id, and how long the answer took.
    fn create(&self, client: &mut Client, name: &str) -> Result<(String, Duration)> {
        let body =
            json!({"server": {"name": name, "flavorRef": self.flavor, "imageRef": self.image, "networks": [{"uuid": self.network}]}});
        let began = Instant::now();
        let made = client.post(&self.servers, &body)?.expect(202)?;
        let took = began.elapsed();
        Ok((made["server"]["id"].as_str().context("no id")?.to_string(), took))
    }

    fn wait_active(&self, client: &mut Client, id: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let server: Value = client.get(&format!("{}/{id}", self.servers))?.expect(200)?;
            match server["server"]["status"].as_str() {
                Some("ACTIVE") => break,
                Some("ERROR") => bail!("server {id}: {}", server["server"]["fault"]),
                _ if Instant::now() > deadline => bail!("server {id} is not active after two minutes"),
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        guest_pid(id).with_context(|| format!("server {id} is active without a QEMU"))?;
        Ok(())
    }

    fn delete(&self, client: &mut Client, id: &str) -> Result<()> {
        delete(&self.servers, client, id)
    }
}

pub fn run(cloud: &mut Cloud, report: &mut Report) -> Result<()> {
    let plan = plan(cloud)?;
    let mut client = cloud.client();
    let limits = json!({"quota_class_set": {"instances": -1, "cores": -1, "ram": -1}});
    client.put(&cloud.path("compute", "/os-quota-class-sets/default")?, &limits)?.expect(200)?;
    let (first, _) = plan.create(&mut client, "bench-first")?; // fills the image cache
    plan.wait_active(&mut client, &first)?;
    plan.delete(&mut client, &first)?;

    let (mut answered, mut active) = (Vec::new(), Vec::new());
    let cpu = cloud.cpu()?;
    for n in 0..10 {
        let began = Instant::now();
        let (id, took) = plan.create(&mut client, &format!("bench-{n}"))?;
        plan.wait_active(&mut client, &id)?;
        active.push(began.elapsed());
        answered.push(took);
        plan.delete(&mut client, &id)?;
    }
    let each = (cloud.cpu()? - cpu).as_secs_f64() * 1000.0 / 10.0;
    report.add("POST /servers answered, p50", percentile(&mut answered, 0.5), "ms", Want::Below(20.0), None);
    report.add("POST /servers to ACTIVE with a running QEMU, p50", percentile(&mut active, 0.5), "ms", Want::Below(300.0), Some(each));

    at_once(cloud, report, &plan, 20, 6.0)?;
    at_once(cloud, report, &plan, 50, 20.0)?;
    volumes(cloud, report, &plan)?;
    heal(cloud, report, &plan)
}

/// Deletes what a part that failed has left: the parts after it would measure with guests beside them.
pub fn clear(cloud: &Cloud) -> Result<()> {
    let Some(servers) = cloud.path("compute", "/servers").ok().filter(|_| cloud.pid().is_ok()) else { return Ok(()) };
    let mut client = cloud.client();
    let left = client.get(&servers)?.expect(200)?;
    for id in left["servers"].as_array().into_iter().flatten().filter_map(|server| server["id"].as_str()) {
        delete(&servers, &mut client, id)?;
    }
    Ok(())
}

fn delete(servers: &str, client: &mut Client, id: &str) -> Result<()> {
    client.delete(&format!("{servers}/{id}"))?.expect(204)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while client.get(&format!("{servers}/{id}"))?.status != 404 {
        if Instant::now() > deadline {
            bail!("server {id} is not gone after a minute");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// So many servers, each asked for by a client of its own.
fn at_once(cloud: &Cloud, report: &mut Report, plan: &Plan, count: u32, limit: f64) -> Result<()> {
    let mut client = cloud.client();
    let (cpu, began) = (cloud.cpu()?, Instant::now());
    let servers: Vec<Result<String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|n| {
                let mut client = cloud.client();
                scope.spawn(move || {
                    let (id, _) = plan.create(&mut client, &format!("bench-many-{n}"))?;
                    Ok(id)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
    });
    let servers: Vec<String> = servers.into_iter().collect::<Result<_>>()?;
    // One watcher: as many as there are servers would take more of the processors than the servers do.
    while client.get(&format!("{}?status=BUILD&limit=1", plan.servers))?.expect(200)?["servers"] != json!([]) {
        if began.elapsed() > Duration::from_secs(120) {
            bail!("servers are still being built after two minutes");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = began.elapsed();
    let each = (cloud.cpu()? - cpu).as_secs_f64() * 1000.0 / f64::from(count);
    for id in &servers {
        plan.wait_active(&mut client, id)?;
    }
    report.add(&format!("{count} servers at once, all ACTIVE"), took.as_secs_f64(), "s", Want::Below(limit), Some(each));
    let detail = cloud.path("compute", "/servers/detail")?;
    let mut samples: Vec<Duration> = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        client.get(&detail)?.expect(200)?;
        samples.push(began.elapsed());
    }
    report.add(&format!("GET servers/detail, {count} there, p50"), percentile(&mut samples, 0.5), "ms", Want::Any, None);
    for id in &servers {
        plan.delete(&mut client, id)?;
    }
    Ok(())
}

/// Volumes of an image that the host has, and their way into a running guest and out of it.
fn volumes(cloud: &Cloud, report: &mut Report, plan: &Plan) -> Result<()> {
    let (mut client, volumes) = (cloud.client(), cloud.path("block-storage", "/volumes")?);
    let (server, _) = plan.create(&mut client, "bench-volumes")?;
    plan.wait_active(&mut client, &server)?;
    wait_booted(&mut client, plan, &server)?;
    let becomes = |client: &mut Client, id: &str, status: &str| -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let volume = client.get(&format!("{volumes}/{id}"))?.expect(200)?;
            match volume["volume"]["status"].as_str() {
                Some(now) if now == status => return Ok(()),
                Some(now) if now.starts_with("error") => bail!("volume {id} is {now}"),
                _ if Instant::now() > deadline => bail!("volume {id} is not {status} after a minute: {volume}"),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    };
    let attachments = format!("{}/{server}/os-volume_attachments", plan.servers);
    let (mut available, mut attached, mut detached) = (Vec::new(), Vec::new(), Vec::new());
    let (mut making, mut plugging) = (Duration::ZERO, Duration::ZERO);
    const TIMES: u32 = 10;
    for n in 0..TIMES {
        let (cpu, began) = (cloud.cpu()?, Instant::now());
        let body = json!({"volume": {"name": format!("bench-{n}"), "size": 1, "imageRef": plan.image}});
        let made = client.post(&volumes, &body)?.expect(202)?;
        let id = made["volume"]["id"].as_str().context("no id")?.to_string();
        becomes(&mut client, &id, "available")?;
        available.push(began.elapsed());
        making += cloud.cpu()? - cpu;

        let (cpu, began) = (cloud.cpu()?, Instant::now());
        client.post(&attachments, &json!({"volumeAttachment": {"volumeId": id}}))?.expect(200)?;
        becomes(&mut client, &id, "in-use")?;
        attached.push(began.elapsed());
        plugging += cloud.cpu()? - cpu;

        let began = Instant::now();
        client.delete(&format!("{attachments}/{id}"))?.expect(202)?;
        becomes(&mut client, &id, "available")?;
        detached.push(began.elapsed());
        client.delete(&format!("{volumes}/{id}"))?.expect(202)?;
    }
    let each = |spent: Duration| Some(spent.as_secs_f64() * 1000.0 / f64::from(TIMES));
    report.add("volume of a cached image, to available, p50", percentile(&mut available, 0.5), "ms", Want::Below(100.0), each(making));
    report.add("volume into a running guest, p50", percentile(&mut attached, 0.5), "ms", Want::Below(200.0), each(plugging));
    report.add("volume out of a running guest, p50", percentile(&mut detached, 0.5), "ms", Want::Any, None);
    plan.delete(&mut client, &server)
}

/// Kills guests that have booted and reads from the event log when that was noticed and when they ran again. Each guest
/// dies once: before the second restart of the same one there is a pause on purpose.
fn heal(cloud: &Cloud, report: &mut Report, plan: &Plan) -> Result<()> {
    let mut client = cloud.client();
    let (mut noticed, mut readable, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..5 {
        let (id, _) = plan.create(&mut client, &format!("bench-heal-{n}"))?;
        plan.wait_active(&mut client, &id)?;
        wait_booted(&mut client, plan, &id)?;
        let pid = guest_pid(&id).context("no QEMU to kill")?;
        let killed = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let began = Instant::now();
        send("KILL", pid)?;
        readable.push(alarm_of(cloud, &mut client, &id, began)?);
        let since = |state: &str| -> Result<Duration> {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                if let Some(at) = event_after(cloud, &id, state, killed)? {
                    return Ok(at - killed);
                }
                if Instant::now() > deadline {
                    bail!("no event `{state}` for server {id} within 20 s of its death");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        noticed.push(since("set")?);
        again.push(since("clear")?);
        plan.delete(&mut client, &id)?;
    }
    report.add("QEMU killed to noticed (alarm's time), p50", percentile(&mut noticed, 0.5), "ms", Want::Below(10.0), None);
    report.add("QEMU killed to its alarm in an answer, slowest of 5", percentile(&mut readable, 1.0), "ms", Want::Below(50.0), None);
    report.add("QEMU killed to running again (clear's time), p50", percentile(&mut again, 0.5), "ms", Want::Below(500.0), None);
    Ok(())
}

/// How long after its cause an alarm of the server is in an answer of the API.
fn alarm_of(cloud: &Cloud, client: &mut Client, id: &str, cause: Instant) -> Result<Duration> {
    let path = cloud.path("faultmanagement", "/v1/alarms")?.replace("/v1/v1", "/v1");
    loop {
        let alarms = client.get(&path)?.expect(200)?;
        let mut about = alarms["alarms"].as_array().into_iter().flatten().filter_map(|a| a["entity_instance_id"].as_str());
        if about.any(|entity| entity.contains(id)) {
            return Ok(cause.elapsed());
        }
        if cause.elapsed() > Duration::from_secs(20) {
            bail!("no alarm of server {id} within 20 s of its death");
        }
    }
}

/// Until the console tells of a complete boot, so that the first kill does not compete with it.
fn wait_booted(client: &mut Client, plan: &Plan, id: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let answer = client.post(&format!("{}/{id}/action", plan.servers), &json!({"os-getConsoleOutput": {}}))?.expect(200)?;
        if answer["output"].as_str().is_some_and(|text| text.contains(" is up after ")) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("server {id} did not boot within two minutes");
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// The time of the server's first event with this state after `after`, since the epoch.
fn event_after(cloud: &Cloud, id: &str, state: &str, after: Duration) -> Result<Option<Duration>> {
    let path = cloud.path("faultmanagement", "/v1/event_log?alarms=True&expand=True&limit=50")?.replace("/v1/v1", "/v1");
    let log = cloud.client().get(&path)?.expect(200)?;
    let mut found: Option<Duration> = None;
    for event in log["event_log"].as_array().into_iter().flatten() {
        let about = event["entity_instance_id"].as_str().is_some_and(|e| e.contains(id));
        let at = event["timestamp"].as_str().and_then(micros);
        if let (true, true, Some(at)) = (about, event["state"] == state, at)
            && at >= after
            && found.is_none_or(|f| at < f)
        {
            found = Some(at);
        }
    }
    Ok(found)
}

/// `2026-11-20T13:05:06.123456` in UTC, since the epoch.
fn micros(text: &str) -> Option<Duration> {
    let (date, time) = text.trim_end_matches('Z').split_once(['T', ' '])?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split(['+', ':']).map(|part| part.parse::<f64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // days since 1970-03-01-based years: the usual civil-calendar arithmetic
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let era_days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    let days = era_days + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(Duration::from_secs_f64(days as f64 * 86_400.0 + hour * 3600.0 + minute * 60.0 + second))
}

/// The longest time without a good answer while `sturnus` is restarted under a client.
pub fn gap(cloud: &mut Cloud, report: &mut Report) -> Result<()> {
    for (name, signal) in [("API gap when sturnus is restarted", "TERM"), ("API gap when sturnus is killed and started", "KILL")] {
        let (path, address, token) = (cloud.path("identity", "/users")?, cloud.address, cloud.token.clone());
        let ended = AtomicBool::new(false);
        let longest = std::thread::scope(|scope| -> Result<Duration> {
            let watch = scope.spawn(|| {
                let (mut client, mut last, mut longest) = (Client::new(address, &token), Instant::now(), Duration::ZERO);
                while !ended.load(Ordering::Relaxed) {
                    if client.get(&path).is_ok_and(|answer| answer.status == 200) {
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                longest.max(last.elapsed())
            });
            std::thread::sleep(Duration::from_millis(300));
            let restarted = cloud.end(signal).and_then(|()| cloud.start());
            std::thread::sleep(Duration::from_millis(300));
            ended.store(true, Ordering::Relaxed);
            restarted?;
            watch.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))
        })?;
        report.add(name, longest.as_secs_f64() * 1000.0, "ms", Want::Below(1000.0), None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_events() {
        assert_eq!(micros("1970-01-01T00:00:00.000000"), Some(Duration::ZERO));
        assert_eq!(micros("2026-11-20T13:05:06.5"), Some(Duration::from_millis(1_795_179_906_500)));
        assert_eq!(micros("2024-02-29 23:59:59Z"), Some(Duration::from_secs(1_709_251_199)));
        assert_eq!(micros("yesterday"), None);
    }
}
