//! `make bench`: what the design promises, measured on the release build with real guests.
//!
//! It wants a machine, or a `tests/sandbox`, of its own: it starts a cloud at the default address, with its state in
//! `$STURNUS_HOME/bench`. The table goes to standard output, the same as JSON to `target/bench/bench.json`; the file of
//! the run before is kept and shown beside.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod api;
mod cloud;
mod guests;
mod heartbeat;
mod http;
mod identity;
mod image;
mod memory;
mod pings;
mod placement;
mod report;
mod scale;
mod site;

use std::path::PathBuf;

use anyhow::{Context, Result};

use cloud::Cloud;
use report::{Report, Want};

fn main() -> Result<()> {
    type Part = fn(&mut Cloud, &mut Report, &std::path::Path) -> Result<()>;
    let parts: [(&str, Part); 11] = [
        ("start", start),
        ("api", |c, r, _| api::run(c, r)),
        ("identity", |c, r, _| identity::run(c, r)),
        ("image", |c, r, _| image::run(c, r)),
        ("guests", |c, r, _| guests::run(c, r)),
        ("memory", |c, r, _| memory::run(c, r)),
        ("gap", |c, r, _| guests::gap(c, r)),
        ("scale", |c, r, i| scale::run(c, r, i)),
        // After all that boots guests: it leaves ten thousand hosts behind that are none.
        ("placement", |c, r, _| placement::run(c, r)),
        ("heartbeat", |_, r, _| heartbeat::run(r)),
        ("site", |c, r, _| {
            c.end("TERM")?;
            site::run(r, &c.home)
        }),
    ];
    let only: Vec<String> = std::env::args().skip(1).collect();
    let known: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    if let Some(other) = only.iter().find(|o| !known.contains(&o.as_str())) {
        let wanted = format!("bench [PART...]: measures all, or only these parts: {}", known.join(" "));
        if matches!(other.as_str(), "-h" | "--help" | "help") {
            println!("{wanted}");
            return Ok(());
        }
        anyhow::bail!("{other} is no part. {wanted}");
    }

    let program = std::env::current_exe()?;
    let release = program.parent().context("no directory")?;
    let target = release.parent().context("no target directory")?;
    let home = PathBuf::from(std::env::var("STURNUS_HOME").unwrap_or_else(|_| ".sturnus".into()));
    let home = std::path::absolute(home)?.join("bench");
    if home.exists() {
        std::fs::remove_dir_all(&home).context("state of an earlier bench")?;
    }
    let image = target.join("guest-image/disk.qcow2");
    // More guests than this machine has processors for: most of them idle.
    let settings = [("STURNUS_HOST_CPU_ALLOCATION_RATIO", "64.0")];
    let mut cloud = Cloud::new(&release.join("sturnus"), &home, &settings)?;
    let mut report = Report::default();

    for (name, part) in parts {
        let needed = name == "start" && only.iter().any(|o| !["scale", "heartbeat", "site"].contains(&o.as_str()));
        if !needed && !only.is_empty() && !only.iter().any(|o| o == name) {
            continue;
        }
        eprintln!("{name}");
        // one that fails must not hide what the others measured
        if let Err(e) = part(&mut cloud, &mut report, &image) {
            report.failures.push(format!("{name}: {e:#}"));
            guests::clear(&cloud).with_context(|| format!("{name} has failed and left guests behind"))?;
        }
    }
    drop(cloud);

    let out = target.join("bench");
    std::fs::create_dir_all(&out)?;
    let (now, before) = (out.join("bench.json"), out.join("before.json"));
    if now.exists() {
        std::fs::rename(&now, &before)?;
    }
    std::fs::write(&now, serde_json::to_string_pretty(&report.json())?)?;
    let earlier = std::fs::read_to_string(&before).ok().and_then(|text| serde_json::from_str(&text).ok());
    print!("{}", report.table(earlier.as_ref()));
    if report.failures.is_empty() { Ok(()) } else { std::process::exit(1) }
}

/// Also makes what the other parts work with.
fn start(cloud: &mut Cloud, report: &mut Report, image: &std::path::Path) -> Result<()> {
    let first = cloud.start()?;
    report.add("start to all APIs answering, first time", first.as_secs_f64() * 1000.0, "ms", Want::Below(300.0), None);
    let mut again = Vec::new();
    for _ in 0..5 {
        cloud.end("TERM")?;
        again.push(cloud.start()?);
    }
    report.add("start to all APIs answering, again, p50", report::percentile(&mut again, 0.5), "ms", Want::Below(150.0), None);
    std::thread::sleep(std::time::Duration::from_secs(5));
    let (pss, cpu) = (cloud.pss()?, cloud.cpu()?);
    std::thread::sleep(std::time::Duration::from_secs(5));
    report.add("idle memory (PSS), all-in-one, no guests", pss, "MiB", Want::Below(50.0), None);
    report.add("idle CPU", (cloud.cpu()? - cpu).as_secs_f64() / 5.0 * 100.0, "%", Want::Any, None);
    cloud.seed(image)
}
