//! Guests' processes: whose they are is told by the files they hold open, not by their names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base::Result;
use rpc::instance::Power;

use crate::records::{Records, file_name, list};
use crate::{Kind, Report, Verdict};

/// Live processes of this home, by guest; and of all, the pids of foreign ones that look like guests.
pub type Processes = BTreeMap<String, Vec<i32>>;

struct Seen {
    pid: i32,
    id: String,
    /// Holds files of this home.
    ours: bool,
}

pub fn check(home: &Path, records: &Records, report: &mut Report) -> Result<Processes> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_string()).unwrap_or_default();
    let mut ours = Processes::new();
    for seen in scan(home)? {
        let name = format!("{} (guest {})", seen.pid, seen.id);
        if !seen.ours {
            report.add(Kind::Process, name, Verdict::Foreign, "holds no file of this home");
            continue;
        }
        ours.entry(seen.id.clone()).or_default().push(seen.pid);
        let (verdict, why) = match records.instances.get(&seen.id) {
            None if records.knows(&seen.id) => (Verdict::Kept, "its document cannot be read".to_string()),
            None => (Verdict::Stale, "no document wants it".to_string()),
            Some((spec, _)) if matches!(spec.power, Power::Stopped | Power::Suspended | Power::Absent) => {
                (Verdict::Contradictory, format!("wanted {:?}", spec.power).to_lowercase())
            }
            Some((_, journal)) => match &journal.process {
                Some(p) if (p.pid, Some(p.start_ticks), &p.boot_id) == (seen.pid, start_ticks(seen.pid), &boot) => {
                    (Verdict::Live, "as the journal says".to_string())
                }
                Some(p) => (Verdict::Contradictory, format!("the journal names process {}", p.pid)),
                None => (Verdict::Contradictory, "the journal names no process".to_string()),
            },
        };
        report.add(Kind::Process, name, verdict, why);
    }
    for (id, pids) in ours.iter().filter(|(_, pids)| pids.len() > 1) {
        report.add(Kind::Process, format!("guest {id}"), Verdict::Contradictory, format!("runs {} times: {pids:?}", pids.len()));
    }
    for (id, (_, journal)) in &records.instances {
        if let Some(process) = &journal.process
            && !ours.get(id).is_some_and(|pids| pids.contains(&process.pid))
        {
            report.add(Kind::Process, format!("{} (guest {id})", process.pid), Verdict::Contradictory, "named by the journal, and gone");
        }
    }
    Ok(ours)
}

fn scan(home: &Path) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    for path in list(Path::new("/proc"))? {
        let Ok(pid) = file_name(&path).parse::<i32>() else { continue };
        // A process may end between any two looks; then it is none any more.
        let Ok(bytes) = std::fs::read(path.join("cmdline")) else { continue };
        let arguments: Vec<String> = bytes.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        if !arguments.first().is_some_and(|a| a.rsplit('/').next().unwrap_or_default().starts_with("qemu-system-")) {
            continue;
        }
        let held = held_files(&path, &home.join("instances"));
        let named = arguments.iter().find_map(|a| a.strip_prefix("guest=sturnus-")).map(|a| a.split(',').next().unwrap_or(a).to_string());
        let Some(id) = held.iter().next().cloned().or(named) else { continue };
        all.push(Seen { pid, id, ours: !held.is_empty() });
    }
    Ok(all)
}

/// Guests of this home whose files a process has open.
fn held_files(process: &Path, instances: &Path) -> BTreeSet<String> {
    let links = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten().filter_map(|e| std::fs::read_link(e.path()).ok());
    let guests = links.filter_map(|target| {
        let inside = target.strip_prefix(instances).ok()?.components().next()?;
        Some(inside.as_os_str().to_string_lossy().into_owned())
    });
    guests.collect()
}

/// Start of a process in ticks after boot; none for a zombie.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    (fields.next()? != "Z").then_some(())?;
    fields.nth(18)?.parse().ok()
}
