//! A host of a site is lost: when that is noticed, and when its guest runs on another one. A site of namespaces with real guests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

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

    fn link(&self, host: usize, verb: &str) -> Result<()> {
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

pub fn run(report: &mut Report, home: &Path) -> Result<()> {
    output(Command::new("tools/site").args(["up", "3"]))?;
    let site = Site { home: home.parent().context("no home")?.join("site") };
    let (mut noticed, mut elsewhere) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let host = 1 + round % 2;
        let create = "openstack server create --flavor m1.tiny --image cirros --network private --wait -f value -c id";
        let id = site.cloud(&format!("{create} --availability-zone nova:host-{host} lost"))?;
        // The host has told by then that the guest goes with its lease.
        std::thread::sleep(Duration::from_secs(2));
        let before = processes(&id);
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs_f64());
        site.link(host, "cut")?;
        let cut = now()?;
        site.until("the guest runs elsewhere", || Ok((!processes(&id).is_subset(&before)).then_some(())))?;
        let running = now()?;
        let alarm = site.until("the alarm", || site.alarm(host))?;
        noticed.push(Duration::from_secs_f64(alarm - cut));
        elsewhere.push(Duration::from_secs_f64(running - alarm));
        site.link(host, "mend")?;
        site.until("the host is back", || {
            let list = site.cloud("sturnus host list")?;
            Ok(list.lines().any(|l| l.contains(&format!("host-{host} ")) && l.contains(" available ")).then_some(()))
        })?;
        site.cloud("openstack server delete --wait lost")?;
    }
    report.add("host cut off, noticed (alarm), slowest of 4", percentile(&mut noticed, 1.0), "ms", Want::Below(1100.0), None);
    report.add("its guest runs elsewhere after that, slowest of 4", percentile(&mut elsewhere, 1.0), "ms", Want::Below(5000.0), None);
    Ok(())
}
