//! A running guest from one QEMU process to another: its memory by QEMU's own migration, its disks by mirrors over NBD, both over
//! TLS. The process here goes on by itself once all has come; the one there waits before its last step for us (`migrate-continue`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use base::error::Internal;
use base::{Error, Result};
use rpc::instance::{Amount, Disk, DiskSource, Doors, Moving, MovingTls};
use serde_json::{Value, json};

use super::qmp::Qmp;
use super::{At, Side, Transit, volumes};

const COMMAND: Duration = Duration::from_secs(10);
/// How long a mirror, or a migration, may take to end.
const END: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(2);
/// Name of the credentials, and of what is handed over for them.
const TLS: &str = "moving-tls";
/// Before a disk's name: its mirror, and the node that leads there.
const MIRROR: &str = "moving-";
/// The downtime that QEMU is content with by itself, in milliseconds.
const DOWNTIME: u32 = 300;

/// A disk that travels.
pub struct Freight {
    /// On both sides.
    name: String,
    /// In this process.
    node: String,
    /// What of it the other side does not have.
    sync: &'static str,
}

/// The disks of a guest. `ahead`: volumes of which all that lies below their heads is there already.
pub async fn freight(qmp: &Qmp, disks: &[Disk], ahead: &BTreeSet<String>) -> Result<Vec<Freight>> {
    let mut all = Vec::new();
    for disk in disks {
        let name = disk.name.clone();
        all.push(match &disk.source {
            // The other host sees the same files.
            DiskSource::Volume { stored: true, .. } => continue,
            // There an empty one waits, or an empty head.
            DiskSource::Volume { id, .. } => {
                let head = volumes::head(qmp, id).await?.ok_or_else(|| Error::conflict(format!("the guest does not have volume {id}")))?;
                Freight { name, node: volumes::node(id, &head), sync: if ahead.contains(id) { "top" } else { "full" } }
            }
            // What lies below the disk is there already.
            _ => Freight { node: format!("disk-{name}"), name, sync: "top" },
        });
    }
    Ok(all)
}

fn place(doors: &Doors) -> Result<IpAddr> {
    doors.address.parse().map_err(|_| Error::invalid(format!("`{}` is no address", doors.address)))
}

/// Gives the process its credentials: a directory that it enters by a descriptor, gone again when they have been read.
async fn credentials(qmp: &Qmp, pid: i32, directory: &Path, tls: &MovingTls, endpoint: &str) -> Result<()> {
    let who = std::fs::metadata(format!("/proc/{pid}")).internal("cannot see whose a process is")?;
    let (path, tls) = (directory.join("tls"), tls.clone());
    let (end, at) = (endpoint.to_string(), path.clone());
    let handle = crate::instance::blocking(move || {
        clear(&at)?;
        std::fs::DirBuilder::new().mode(0o700).create(&at).internal("cannot make a directory of credentials")?;
        let files = [("ca-cert", tls.authority.as_str()), (&format!("{end}-cert"), &tls.certificate), (&format!("{end}-key"), &tls.key.0)]
            .map(|(name, text)| (at.join(format!("{name}.pem")), text.to_string()));
        for (path, text) in &files {
            use std::io::Write;
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).internal("cannot write credentials")?;
            std::os::unix::fs::chown(path, Some(who.uid()), Some(who.gid())).internal("cannot give credentials away")?;
        }
        std::os::unix::fs::chown(&at, Some(who.uid()), Some(who.gid())).internal("cannot give credentials away")?;
        std::fs::File::open(&at).internal("cannot open a directory of credentials")
    })
    .await?;
    let taken = async {
        let answer = qmp.execute_with("add-fd", json!({"opaque": TLS}), handle.as_fd(), COMMAND).await?;
        let (fd, set) = (&answer["fd"], &answer["fdset-id"]);
        let object = json!({
            "qom-type": "tls-creds-x509", "id": TLS, "endpoint": endpoint, "dir": format!("/proc/self/fd/{fd}"), "verify-peer": true,
        });
        let made = qmp.execute("object-add", object, COMMAND).await;
        qmp.execute("remove-fd", json!({"fdset-id": set}), COMMAND).await?;
        made.map(drop)
    };
    let outcome = taken.await;
    crate::instance::blocking(move || clear(&path)).await?;
    outcome
}

fn clear(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).internal("cannot remove credentials"),
        _ => Ok(()),
    }
}

async fn capabilities(qmp: &Qmp, names: &[&str], on: bool) -> Result<()> {
    let all: Vec<Value> = names.iter().map(|name| json!({"capability": name, "state": on})).collect();
    qmp.execute("migrate-set-capabilities", json!({"capabilities": all}), COMMAND).await.map(drop)
}

/// Has a process that waits for a guest listen for it.
pub async fn await_guest(qmp: &Qmp, pid: i32, directory: &Path, moving: &Moving, disks: &[Disk], address: &str) -> Result<Doors> {
    let ip: IpAddr = address.parse().map_err(|_| Error::invalid(format!("`host.address`: `{address}` is no address")))?;
    credentials(qmp, pid, directory, &moving.tls, "server").await?;
    let listener = TcpListener::bind(SocketAddr::new(ip, 0)).internal("cannot listen for a guest's disks")?;
    let port = listener.local_addr().internal("cannot listen for a guest's disks")?.port();
    qmp.execute_with("getfd", json!({"fdname": "moving-disks"}), listener.as_fd(), COMMAND).await?;
    let server = json!({"addr": {"type": "fd", "data": {"str": "moving-disks"}}, "tls-creds": TLS});
    qmp.execute("nbd-server-start", server, COMMAND).await?;
    for Freight { name, node, .. } in freight(qmp, disks, &BTreeSet::new()).await? {
        let export = json!({"type": "nbd", "id": format!("{MIRROR}{name}"), "node-name": node, "name": name, "writable": true});
        qmp.execute("block-export-add", export, COMMAND).await?;
    }
    capabilities(qmp, &["events"], true).await?;
    qmp.execute("migrate-set-parameters", json!({"tls-creds": TLS}), COMMAND).await?;
    qmp.execute("migrate-incoming", json!({"uri": format!("tcp:{}", SocketAddr::new(ip, 0))}), COMMAND).await?;
    let now = qmp.execute("query-migrate", json!({}), COMMAND).await?;
    let memory = now.pointer("/socket-address/0/port").and_then(Value::as_str).and_then(|port| port.parse().ok());
    let memory = memory.ok_or_else(|| Error::internal("QEMU does not say where it listens"))?;
    Ok(Doors { address: address.to_string(), memory, disks: port })
}

/// Begins to mirror the disks.
pub async fn depart(qmp: &Qmp, pid: i32, directory: &Path, moving: &Moving, doors: &Doors, freight: Vec<Freight>) -> Result<()> {
    // What an attempt that broke off has left.
    over(qmp).await?;
    credentials(qmp, pid, directory, &moving.tls, "client").await?;
    let host = place(doors)?.to_string();
    for Freight { name, node: here, sync } in freight {
        let node = format!("{MIRROR}{name}");
        let there = json!({
            "driver": "nbd", "node-name": node, "export": name, "tls-creds": TLS, "tls-hostname": moving.tls.name, "discard": "unmap",
            "server": {"type": "inet", "host": host, "port": doors.disks.to_string()},
        });
        qmp.execute("blockdev-add", there, COMMAND).await?;
        // A guest's writes wait for the other side, so the mirror always gets there.
        let job = json!({
            "job-id": node, "device": here, "target": node, "sync": sync, "copy-mode": "write-blocking",
            "auto-dismiss": false,
        });
        qmp.execute("blockdev-mirror", job, COMMAND).await?;
    }
    Ok(())
}

/// Begins to send the memory.
pub async fn memory(qmp: &Qmp, moving: &Moving, doors: &Doors, downtime: u32) -> Result<()> {
    capabilities(qmp, &["events", "auto-converge", "pause-before-switchover"], true).await?;
    let parameters = json!({"tls-creds": TLS, "tls-hostname": moving.tls.name, "max-bandwidth": 1u64 << 40, "downtime-limit": downtime});
    qmp.execute("migrate-set-parameters", parameters, COMMAND).await?;
    let to = SocketAddr::new(place(doors)?, doors.memory);
    qmp.execute("migrate", json!({"uri": format!("tcp:{to}")}), COMMAND).await.map(drop)
}

pub async fn downtime(qmp: &Qmp, milliseconds: u32) -> Result<()> {
    qmp.execute("migrate-set-parameters", json!({"downtime-limit": milliseconds}), COMMAND).await.map(drop)
}

/// The mirrors there are: name, state, error, bytes in all, bytes done.
async fn mirrors(qmp: &Qmp) -> Result<Vec<(String, String, Option<String>, Amount)>> {
    let jobs = qmp.execute("query-jobs", json!({}), COMMAND).await?;
    let text = |job: &Value, key: &str| job.get(key).and_then(Value::as_str).map(str::to_string);
    let number = |job: &Value, key: &str| job.get(key).and_then(Value::as_u64).unwrap_or_default();
    let all = jobs.as_array().into_iter().flatten().filter_map(|job| {
        let id = text(job, "id").filter(|id| id.starts_with(MIRROR))?;
        let (total, done) = (number(job, "total-progress"), number(job, "current-progress"));
        let amount = Amount { total, done, left: total.saturating_sub(done) };
        Some((id, text(job, "status").unwrap_or_default(), text(job, "error"), amount))
    });
    Ok(all.collect())
}

/// Whether the process has sent all of its guest away.
async fn has_sent(qmp: &Qmp) -> Result<bool> {
    let now = qmp.execute("query-status", json!({}), COMMAND).await?;
    Ok(now.get("status").and_then(Value::as_str) == Some("postmigrate"))
}

pub async fn transit(qmp: &Qmp, side: Side) -> Result<Transit> {
    let now = qmp.execute("query-migrate", json!({}), COMMAND).await?;
    let number = |key: &str| now.pointer(&format!("/ram/{key}")).and_then(Value::as_u64).unwrap_or_default();
    let memory = Amount { total: number("total"), done: number("transferred"), left: number("remaining") };
    let status = match (side, now.get("status").and_then(Value::as_str).unwrap_or_default()) {
        // Before a process sends its guest away it says this of how the guest came: from another host, or from its saved memory.
        (Side::Away { .. }, "completed") if !has_sent(qmp).await? => "none",
        (_, status) => status,
    };
    let why = now.get("error-desc").and_then(Value::as_str).unwrap_or("QEMU gives no reason");
    let mirrors = mirrors(qmp).await?;
    let mut amount = Amount::default();
    for (_, _, _, one) in &mirrors {
        amount = Amount { total: amount.total + one.total, done: amount.done + one.done, left: amount.left + one.left };
    }
    let at = match (side, status) {
        (Side::Here, "failed") => At::Failed(why.into()),
        (Side::Here, "completed") => At::Here,
        (Side::Here, _) => At::Awaited,
        (Side::Away { memory: false }, _) => match mirrors.iter().find(|(_, status, ..)| status == "concluded") {
            Some((.., error, _)) => At::Failed(format!("a disk cannot be copied: {}", error.as_deref().unwrap_or("QEMU gives no reason"))),
            None if mirrors.iter().all(|(_, status, ..)| status == "ready") => At::Ready,
            None => At::Disks,
        },
        (Side::Away { .. }, "pre-switchover") => At::Door,
        (Side::Away { .. }, "device" | "completed") => At::Gone,
        (Side::Away { .. }, "failed") => At::Failed(why.into()),
        (Side::Away { .. }, "cancelled" | "cancelling") => At::Failed("it was cancelled".into()),
        (Side::Away { .. }, "" | "none") => At::Ready,
        (Side::Away { .. }, _) => match mirrors.iter().find(|(_, status, ..)| status == "concluded") {
            Some((.., error, _)) => At::Failed(format!("a disk cannot be copied: {}", error.as_deref().unwrap_or("QEMU gives no reason"))),
            None => At::Memory,
        },
    };
    Ok(Transit { at, memory, disks: amount })
}

/// The guest stands still: brings the mirrors to their end. Both sides are equal when this returns.
pub async fn last(qmp: &Qmp) -> Result<()> {
    for (id, ..) in mirrors(qmp).await? {
        // An error means that it ends already.
        let _ = qmp.execute("block-job-cancel", json!({"device": id}), COMMAND).await;
    }
    let wait = async {
        loop {
            let all = mirrors(qmp).await?;
            if let Some(error) = all.iter().find_map(|(_, _, error, _)| error.as_ref()) {
                return Err(Error::internal(format!("a disk cannot be copied: {error}")));
            }
            if all.iter().all(|(_, status, ..)| status == "concluded") {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(END, wait).await.unwrap_or_else(|_| Err(Error::timeout("a mirror does not end")))
}

pub async fn go(qmp: &Qmp) -> Result<()> {
    qmp.execute("migrate-continue", json!({"state": "pre-switchover"}), COMMAND).await.map(drop)
}

/// Ends what is under way, on either side, and takes away all that served it. Fine when there is nothing.
pub async fn over(qmp: &Qmp) -> Result<()> {
    let under_way = |status: &str| !matches!(status, "" | "none" | "failed" | "cancelled" | "completed");
    let wait = async {
        loop {
            let now = qmp.execute("query-migrate", json!({}), COMMAND).await?;
            if !under_way(now.get("status").and_then(Value::as_str).unwrap_or_default()) {
                break;
            }
            // It may end by itself in this very moment.
            let _ = qmp.execute("migrate_cancel", json!({}), COMMAND).await;
            tokio::time::sleep(LOOK).await;
        }
        loop {
            let all = mirrors(qmp).await?;
            if all.is_empty() {
                return Ok(());
            }
            for (id, status, ..) in all {
                let _ = match status.as_str() {
                    "concluded" => qmp.execute("job-dismiss", json!({"id": id}), COMMAND).await,
                    _ => qmp.execute("block-job-cancel", json!({"device": id, "force": true}), COMMAND).await,
                };
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(END, wait)
        .await
        .unwrap_or_else(|_: tokio::time::error::Elapsed| Err(Error::timeout("a migration does not end")))?;
    // Mostly they are not there.
    let _ = qmp.execute("nbd-server-stop", json!({}), COMMAND).await;
    let nodes = qmp.execute("query-named-block-nodes", json!({"flat": true}), COMMAND).await?;
    let name = |node: &Value| node.get("node-name").and_then(Value::as_str).filter(|n| n.starts_with(MIRROR)).map(str::to_string);
    for node in nodes.as_array().into_iter().flatten().filter_map(name) {
        let _ = qmp.execute("blockdev-del", json!({"node-name": node}), COMMAND).await;
    }
    // What comes later, as a suspend, must find things as they are in a new process.
    let _ = capabilities(qmp, &["events", "auto-converge", "pause-before-switchover"], false).await;
    let plain = json!({"tls-creds": "", "tls-hostname": "", "downtime-limit": DOWNTIME});
    let _ = qmp.execute("migrate-set-parameters", plain, COMMAND).await;
    let _ = qmp.execute("object-del", json!({"id": TLS}), COMMAND).await;
    Ok(())
}
