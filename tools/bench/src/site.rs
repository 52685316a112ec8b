//! Guests that go from host to host while they run; and a host that is lost: when that is noticed, and when its guest runs on another
//! one. A site of namespaces with real guests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::pings::Pings;
use crate::report::{Report, Want, percentile};

const ROUNDS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    home: PathBuf,
}

impl Drop for Site {
    fn drop(&mut self) {
        // What is left of it ends with the sandbox.
        let _ = Command::new("tools/site").arg("down").output();
    }
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    if !done.status.success() {
        bail!("{command:?}: {}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_string())
}

impl Site {
    /// A command in a shell with the administrator's credentials.
    fn cloud(&self, command: &str) -> Result<String> {
        output(Command::new("bash").args(["-c", &format!(". {}/env; {command}", self.home.display())]))
    }

    /// What `tools/site` does to a host.
    fn host(&self, verb: &str, host: usize) -> Result<()> {
        output(Command::new("tools/site").args([verb, &host.to_string()])).map(drop)
    }

    fn until<T>(&self, what: &str, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let began = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if began.elapsed() > PATIENCE {
                bail!("not within a minute: {what}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// When the alarm of a lost host was raised, as the alarm itself says.
    fn alarm(&self, host: usize) -> Result<Option<f64>> {
        let list = self.cloud("fm alarm-list")?;
        let row = list.lines().find(|l| l.contains("200.005") && l.contains("critical") && l.contains(&format!("host=host-{host} ")));
        let Some(row) = row else { return Ok(None) };
        let at = row.trim_matches('|').rsplit('|').next().unwrap_or_default().trim().to_string();
        Ok(Some(output(Command::new("date").args(["-u", "-d", &format!("{at}Z"), "+%s.%N"]))?.parse()?))
    }
}

/// The processes of a guest on this machine, which has all hosts of the site.
fn processes(id: &str) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.starts_with(b"qemu-system") && String::from_utf8_lossy(&line).contains(id) {
            found.insert(pid);
        }
    }
    found
}

impl Site {
    /// A guest that answers pings, and the address at which it does.
    fn answering(&self, name: &str, host: usize) -> Result<String> {
        let create = "openstack server create --flavor m1.tiny --image cirros --network private --wait -f value -c id";
        self.cloud(&format!("{create} --availability-zone nova:host-{host} {name}"))?;
        let address = self.cloud("openstack floating ip create public -f value -c floating_ip_address")?;
        self.cloud(&format!("openstack server add floating ip {name} {address}"))?;
        self.until("the guest answers", || {
            let ping = Command::new("ping").args(["-c", "1", "-W", "1", &address]).output()?;
            Ok(ping.status.success().then_some(()))
        })?;
        // It answers long before it has nothing left to do.
        self.until("the guest is up", || {
            Ok(self.cloud(&format!("openstack console log show {name}"))?.contains(&format!("{name} is up")).then_some(()))
        })?;
        Ok(address)
    }
}

/// Live migrations of one guest, and the lock of a host with four.
fn moves(report: &mut Report, site: &Site) -> Result<()> {
    site.cloud("openstack security group rule create --protocol icmp default")?;
    let address = site.answering("moving", 1)?;
    let (mut took, mut gaps) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let pings = Pings::begin(&address)?;
        std::thread::sleep(Duration::from_millis(500));
        let host = 2 - round % 2;
        site.cloud(&format!("openstack --os-compute-api-version 2.30 server migrate --live-migration --host host-{host} --wait moving"))?;
        std::thread::sleep(Duration::from_millis(500));
        gaps.push(pings.gap()?);
        // As the cloud itself has written down.
        let list = site.cloud("openstack --os-compute-api-version 2.80 server migration list --server moving -f json")?;
        let list: serde_json::Value = serde_json::from_str(&list)?;
        let time = |key: &str| -> Result<f64> {
            let text = list[0][key].as_str().context("a migration without times")?;
            Ok(output(Command::new("date").args(["-u", "-d", &format!("{text}Z"), "+%s.%N"]))?.parse()?)
        };
        if list[0]["Status"] != "completed" {
            bail!("a live migration failed: {list}");
        }
        took.push(Duration::from_secs_f64(time("Updated At")? - time("Created At")?));
    }
    report.add("live migration of an idle guest of 128 MiB, slowest of 4", percentile(&mut took, 1.0), "ms", Want::Below(2000.0), None);
    report.add("longest time it answered no ping, slowest of 4", percentile(&mut gaps, 1.0), "ms", Want::Below(200.0), None);
    site.cloud("openstack server delete --wait moving")?;
    let addresses: Vec<String> = (0..4).map(|n| site.answering(&format!("locked-{n}"), 2)).collect::<Result<_>>()?;
    let pings: Vec<Pings> = addresses.iter().map(|a| Pings::begin(a)).collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    site.cloud("sturnus host lock host-2")?;
    let locked = began.elapsed();
    std::thread::sleep(Duration::from_millis(500));
    let mut gaps: Vec<Duration> = pings.into_iter().map(Pings::gap).collect::<Result<_>>()?;
    report.add("lock of a host with 4 guests", percentile(&mut [locked], 1.0), "ms", Want::Any, None);
    report.add("longest time one of them answered no ping", percentile(&mut gaps, 1.0), "ms", Want::Below(200.0), None);
    site.cloud("openstack server delete --wait locked-0 locked-1 locked-2 locked-3")?;
    site.cloud("sturnus host unlock host-2").map(drop)
}

pub fn run(report: &mut Report, home: &Path) -> Result<()> {
    output(Command::new("tools/site").args(["up", "3"]))?;
    let site = Site { home: home.parent().context("no home")?.join("site") };
    moves(report, &site)?;
    // It is alive, and must end its guests itself.
    lost(report, &site, "cut off", ["cut", "mend"])?;
    lost(report, &site, "all its processes killed", ["off", "on"])
}

/// A host is lost, in this way, and comes back.
fn lost(report: &mut Report, site: &Site, how: &str, [gone, back]: [&str; 2]) -> Result<()> {
    let (mut noticed, mut elsewhere) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let host = 1 + round % 2;
        let create = "openstack server create --flavor m1.tiny --image cirros --network private --wait -f value -c id";
        let id = site.cloud(&format!("{create} --availability-zone nova:host-{host} lost"))?;
        // The host has told by then that the guest goes with its lease.
        std::thread::sleep(Duration::from_secs(2));
        let before = processes(&id);
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs_f64());
        site.host(gone, host)?;
        let cut = now()?;
        site.until("the guest runs elsewhere", || Ok((!processes(&id).is_subset(&before)).then_some(())))?;
        let running = now()?;
        let alarm = site.until("the alarm", || site.alarm(host))?;
        noticed.push(Duration::from_secs_f64(alarm - cut));
        elsewhere.push(Duration::from_secs_f64(running - alarm));
        site.host(back, host)?;
        site.until("the host is back", || {
            let list = site.cloud("sturnus host list")?;
            Ok(list.lines().any(|l| l.contains(&format!("host-{host} ")) && l.contains(" available ")).then_some(()))
        })?;
        site.cloud("openstack server delete --wait lost")?;
    }
    report.add(&format!("host lost, {how}: noticed (alarm), slowest of 4"), percentile(&mut noticed, 1.0), "ms", Want::Below(1100.0), None);
    report.add(
        &format!("{how}: its guest runs elsewhere after that, slowest of 4"),
        percentile(&mut elsewhere, 1.0),
        "ms",
        Want::Below(5000.0),
        None,
    );
    Ok(())
}
