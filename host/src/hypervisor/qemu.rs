//! The real hypervisor: one QEMU process a guest, reached over QMP, given descriptors instead of paths so
//! that its unprivileged user needs no right to any file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base::error::Internal;
use base::{Config, Error, Kind, Result};
use rpc::instance::{Disk, DiskSource, Doors, Firmware, InstanceSpec, Moving, Nic, Snapshot, Way, tap_name};
use rpc::message::{DiskFile, DiskPiece};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::command;
use super::consoles;
use super::probe::{self, Accelerator};
use super::process::{self, Identity, Silent, Watched};
use super::qmp::{self, Qmp};
use super::spawn::{VolumeFiles, spawn};
use super::{
    Abilities, Found, Hypervisor, Launch as Start, Machine, MachineEvent, Process, RunState, Side, Transit, card_name, guest_agent, moving,
    volumes,
};
use crate::cache::{Cache, ImageSource};
use crate::consoles::Console;
use crate::cpus::{Affinity, machine};
use crate::instance::blocking;
use crate::volume::index::Stack;
use crate::volume::layers::{FileLayers, Layers};
use crate::volume::store;
use crate::{cgroup, config_drive, console, disk_files, disks, tap};

const COMMAND: Duration = Duration::from_secs(10);
/// After which an answer that nobody needs at once is asked for again.
const PATIENT: Duration = Duration::from_secs(3600);
/// From the process' start to its first word; also under a load that makes everything slow.
const START: Duration = Duration::from_secs(60);
/// How long a guest's process that has run for a while may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a process may take to end by itself when asked to.
const QUIT: Duration = Duration::from_secs(5);
/// From a closed monitor to a gone process.
const LAST_BREATH: Duration = Duration::from_secs(1);
/// How long a guest's memory may take to reach the disk, and to come back.
const MEMORY: Duration = Duration::from_secs(600);
/// How often work inside QEMU is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a guest may take to let go of a device.
const LET_GO: Duration = Duration::from_secs(8);
/// Name of the one copy that may be under way in a guest.
const COPY: &str = "snapshot";
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What a first start has to find out, which may take longer than anyone wants to wait for the cloud.
#[derive(Clone)]
struct Ready {
    identity: Option<Identity>,
    accelerator: Accelerator,
}

pub struct Qemu {
    instances: PathBuf,
    cache: Arc<Cache>,
    layers: Arc<FileLayers>,
    /// None while user and accelerator are being found.
    ready: watch::Receiver<Option<Result<Ready, String>>>,
    probe: tokio::task::JoinHandle<()>,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.probe.abort();
    }
}

impl Qemu {
    /// Begins the probe; guests wait for it, nothing else does.
    pub fn open(config: &Config, source: ImageSource) -> Result<Arc<Qemu>> {
        let home = config.home();
        let instances = home.join("instances");
        let host = home.join("host");
        for directory in [&instances, &host] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).internal("cannot make the host's directories")?;
        }
        let cache = Arc::new(Cache::open(home.join("cache"), source)?);
        let layers = Arc::new(FileLayers::open(home.join("volumes"), store::files(config), cache.clone())?);
        let (sender, ready) = watch::channel(None);
        let (user, wanted) = (config.text("host.user").to_string(), config.text("host.accelerator").to_string());
        let probe = tokio::spawn(async move {
            let find = async {
                let identity = crate::instance::blocking(move || identity(&user)).await?;
                let accelerator = probe::accelerator(&host, &wanted, identity.as_ref()).await?;
                Ok(Ready { identity, accelerator })
            };
            let found: Result<Ready> = find.await;
            if let Err(e) = &found {
                tracing::error!("no guest can run here: {}", e.chain());
            }
            sender.send_replace(Some(found.map_err(|e| e.message().to_string())));
        });
        Ok(Arc::new(Qemu { instances, cache, layers, ready, probe }))
    }

    async fn ready(&self) -> Result<Ready> {
        let mut receiver = self.ready.clone();
        let found = receiver.wait_for(Option::is_some).await.internal("the accelerator probe broke off")?.clone();
        match found {
            Some(Ok(ready)) => Ok(ready),
            Some(Err(text)) => Err(Error::unavailable(text)),
            None => Err(Error::internal("the accelerator probe broke off")),
        }
    }

    fn directory(&self, instance_id: &str) -> PathBuf {
        self.instances.join(instance_id)
    }

    /// The cached image below each disk.
    async fn images(&self, spec: &InstanceSpec) -> Result<Vec<Option<PathBuf>>> {
        let mut all = Vec::new();
        for disk in &spec.disks {
            all.push(match &disk.source {
                DiskSource::Image { sha256, format } => Some(self.cache.image(sha256, format).await?),
                DiskSource::Blank | DiskSource::Volume { .. } => None,
            });
        }
        Ok(all)
    }

    /// Takes hold of whoever listens on the guest's monitor. None when nobody does.
    /// Path of a file that goes from host to host.
    fn movable(&self, instance_id: &str, file: &str) -> Result<PathBuf> {
        disk_files::check(instance_id, file)?;
        Ok(match file.strip_prefix(disk_files::IMAGE) {
            Some(sha256) => self.cache.path(sha256),
            None => self.directory(instance_id).join(file),
        })
    }

    async fn listener(&self, directory: &Path) -> Result<Option<(Watched, UnixStream)>> {
        match qmp::call(&directory.join("qmp.sock")).await {
            Ok((stream, pid)) => Ok(Watched::open(pid)?.map(|watched| (watched, stream))),
            Err(e) if e.is(Kind::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The user that guests run as; made when missing. None when we are not root and thus run them as ourselves.
fn identity(user: &str) -> Result<Option<Identity>> {
    if !nix::unistd::geteuid().is_root() || user.is_empty() {
        return Ok(None);
    }
    let find = || nix::unistd::User::from_name(user).internal("cannot look up the guests' user");
    let found = match find()? {
        Some(found) => found,
        None => {
            let made = std::process::Command::new("useradd")
                .args(["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", user])
                .output()
                .internal("cannot run useradd")?;
            match find()? {
                Some(found) => found,
                None => {
                    let text = String::from_utf8_lossy(&made.stderr).trim().to_string();
                    return Err(Error::internal(format!("cannot make the user {user}: {text}")));
                }
            }
        }
    };
    if found.uid.is_root() {
        return Err(Error::invalid("`host.user` must not be root"));
    }
    // Where a group may use KVM, guests belong to it.
    let kvm = std::fs::metadata("/dev/kvm").ok().filter(|m| m.mode() & 0o060 == 0o060 && m.gid() != 0).map(|m| m.gid());
    Ok(Some(Identity { uid: found.uid.as_raw(), gid: found.gid.as_raw(), groups: kvm.into_iter().collect() }))
}

/// What QEMU says of a disk, in words.
fn disk_failed(data: &Value) -> String {
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
    let disk = text("node-name").strip_prefix("disk-").map_or_else(|| "a volume".to_string(), |name| format!("disk {name}"));
    let done = if text("operation") == "read" { "read" } else { "written" };
    format!("{disk} could not be {done}: {}", text("reason"))
}

/// The process that the journal speaks of, if it lives.
fn known_alive(known: Option<&Process>) -> Result<Option<Watched>> {
    match known.filter(|k| k.boot_id == super::boot_id()) {
        Some(known) => Ok(Watched::open(known.pid)?.filter(|w| w.process.start_ticks == known.start_ticks)),
        None => Ok(None),
    }
}

/// The last line QEMU wrote: why it ended.
fn last_words(log: &Path) -> String {
    let mut text = String::new();
    // The log may hold anything, and may be missing; then there is nothing to add.
    let _ = File::open(log).and_then(|f| f.take(64 << 10).read_to_string(&mut text));
    let line = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default();
    let line = line.split_once(&format!("{}: ", probe::QEMU)).map_or(line, |(_, rest)| rest);
    line.trim().to_string()
}

#[async_trait]
impl Hypervisor for Qemu {
    fn abilities(&self) -> Abilities {
        match &*self.ready.borrow() {
            Some(Ok(Ready { accelerator: a, .. })) => Abilities { accelerator: a.name.clone(), version: a.version },
            _ => Abilities::default(),
        }
    }

    async fn find(&self, instance_id: &str, known: Option<&Process>) -> Result<Found> {
        let directory = self.directory(instance_id);
        let listener = match self.listener(&directory).await {
            // Nobody takes calls there, and no more can wait.
            Err(e) if e.is(Kind::Timeout) => match known_alive(known)? {
                Some(watched) => return Ok(Found::Silent(Silent(watched))),
                None => return Err(e),
            },
            listener => listener?,
        };
        if let Some((watched, stream)) = listener {
            // Only the guest's own process ever listens there, and the kernel says which that is.
            return match qmp::greet(stream, ANSWER).await {
                Ok((qmp, events)) => Ok(Found::Machine(Arc::new(QemuMachine::new(watched, qmp, events, &directory, self.layers.clone())))),
                Err(e) => {
                    tracing::warn!(instance = instance_id, pid = watched.process.pid, "{}", e.chain());
                    Ok(Found::Silent(Silent(watched)))
                }
            };
        }
        if let Some(process) = known_alive(known)? {
            // Ours by number, start and boot, yet out of reach for good: its socket is gone.
            tracing::warn!(instance = instance_id, pid = process.process.pid, "ending a guest that can no longer be reached");
            Silent(process).kill().await?;
        }
        Ok(Found::Nothing)
    }

    async fn fetch(&self, spec: &InstanceSpec) -> Result<()> {
        command::check(spec)?;
        self.images(spec).await.map(|_| ())
    }

    async fn prepare(&self, spec: &InstanceSpec) -> Result<()> {
        command::check(spec)?;
        let backings = self.images(spec).await?;
        let (spec, directory) = (spec.clone(), self.directory(&spec.id));
        tokio::task::spawn_blocking(move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).internal("cannot make the guest's directory")?;
            let comes = matches!(&spec.moving, Some(Moving { way: Way::Here { .. }, .. }));
            for (disk, backing) in spec.disks.iter().zip(&backings) {
                if matches!(disk.source, DiskSource::Volume { .. }) {
                    continue;
                }
                let below = match (backing, &disk.source) {
                    (Some(path), DiskSource::Image { format, .. }) => Some(disks::Backing { path, format }),
                    _ => None,
                };
                let path = directory.join(format!("{}.qcow2", disk.file()));
                if let Some(origin) = disk.copy_of.as_ref().filter(|_| !comes) {
                    disks::copy(&directory.join(format!("{origin}.qcow2")), &path, true)?;
                }
                disks::make(&path, disk.bytes, below.as_ref(), true)?;
            }
            sweep(&directory, &spec, true)?;
            if spec.metadata.config_drive {
                // The same metadata gives the same bytes, so a difference is news.
                let (path, image) = (directory.join("config.iso"), config_drive::image(&spec.metadata)?);
                // A guest that comes while it runs must find the one it had.
                let stays = comes && path.exists();
                if !stays && std::fs::read(&path).ok().as_ref() != Some(&image) {
                    crate::documents::replace(&path, &image, true)?;
                }
            }
            if spec.machine.firmware == Firmware::Uefi && !directory.join("firmware.fd").exists() {
                let variables =
                    std::fs::read(OVMF_VARIABLES).map_err(|e| Error::unavailable("UEFI firmware is not installed").caused_by(e))?;
                crate::documents::replace(&directory.join("firmware.fd"), &variables, true)?;
            }
            File::open(&directory).and_then(|d| d.sync_all()).internal("cannot sync the guest's directory")
        })
        .await
        .internal("preparing a guest broke off")?
    }

    async fn start(&self, spec: &InstanceSpec, start: &Start) -> Result<Arc<dyn Machine>> {
        let Ready { identity, accelerator } = self.ready().await?;
        let directory = self.directory(&spec.id);
        let backings = self.images(spec).await?;
        let mut files: Vec<VolumeFiles> = Vec::new();
        for (id, stack) in &start.volumes {
            files.push((id.clone(), volumes::named(id, stack, self.layers.files(stack).await?)));
        }
        let (work, here, how) = (spec.clone(), directory.clone(), start.clone());
        let pidfd = tokio::task::spawn_blocking(move || spawn(&here, &backings, &files, &work, &accelerator.name, identity.as_ref(), &how))
            .await
            .internal("starting a guest broke off")??;
        let log = directory.join("qemu.log");
        let failed = |reason: &str| match last_words(&log) {
            words if words.is_empty() => Error::internal(format!("QEMU {reason}")),
            words => Error::internal(format!("QEMU: {words}")),
        };
        let watched = Watched::with(pidfd)?.ok_or_else(|| failed("ended at once"))?;
        let greeted = {
            let greet = async {
                let (stream, pid) = qmp::call(&directory.join("qmp.sock")).await?;
                if pid != watched.process.pid {
                    return Err(Error::internal(format!("process {pid} sits on the guest's monitor")));
                }
                qmp::greet(stream, START).await
            };
            tokio::select! {
                biased;
                reason = watched.ended() => return Err(failed(&reason)),
                greeted = greet => greeted,
            }
        };
        let machine = match greeted {
            Ok((qmp, events)) => QemuMachine::new(watched, qmp, events, &directory, self.layers.clone()),
            Err(e) => {
                let reason = tokio::time::timeout(LAST_BREATH, watched.ended()).await;
                if let Ok(reason) = reason {
                    return Err(failed(&reason));
                }
                Silent(watched).kill().await?;
                return Err(e);
            }
        };
        let wanted = if start.memory {
            if let Err(e) = machine.restored().await {
                let reason = tokio::time::timeout(LAST_BREATH, machine.watched.ended()).await;
                machine.end().await?;
                return Err(reason.map_or(e, |reason| failed(&reason)));
            }
            RunState::Paused
        } else if start.incoming {
            RunState::Paused
        } else {
            RunState::Running
        };
        if machine.state().await? != wanted {
            machine.end().await?;
            return Err(failed("did not run"));
        }
        if let Some(affinity) = &start.affinity
            && let Err(e) = machine.pin(affinity).await
        {
            machine.end().await?;
            return Err(e);
        }
        Ok(Arc::new(machine))
    }

    fn layers(&self) -> Arc<dyn Layers> {
        self.layers.clone()
    }

    async fn disk_files(&self, instance_id: &str) -> Result<Vec<DiskFile>> {
        let directory = self.directory(instance_id);
        blocking(move || disk_files::list(&directory)).await
    }

    async fn disk_read(&self, instance_id: &str, file: &str, offset: u64, length: u32) -> Result<DiskPiece> {
        let path = self.movable(instance_id, file)?;
        blocking(move || disk_files::read(&path, offset, length)).await
    }

    async fn disk_write(&self, instance_id: &str, file: &str, offset: u64, piece: &DiskPiece) -> Result<()> {
        let (path, piece) = (self.movable(instance_id, file)?, piece.clone());
        blocking(move || disk_files::write(&path, offset, &piece)).await
    }

    async fn disk_keep(&self, instance_id: &str, file: &str, bytes: u64) -> Result<()> {
        let path = self.movable(instance_id, file)?;
        let image = file.strip_prefix(disk_files::IMAGE).map(str::to_string);
        blocking(move || disk_files::keep(&path, bytes, image.as_deref())).await
    }

    async fn rest(&self, instance_id: &str) -> Result<()> {
        cgroup::remove(instance_id).await
    }

    async fn sweep(&self, spec: &InstanceSpec) -> Result<()> {
        let (spec, directory) = (spec.clone(), self.directory(&spec.id));
        tokio::task::spawn_blocking(move || sweep(&directory, &spec, false)).await.internal("removing disks broke off")?
    }

    async fn forget_memory(&self, instance_id: &str) -> Result<()> {
        unlink(&self.directory(instance_id).join("memory.img"))
    }

    async fn snapshot_cold(&self, spec: &InstanceSpec, snapshot: &Snapshot, disk: &Disk) -> Result<u64> {
        let directory = self.directory(&spec.id);
        let (from, to) = (directory.join(format!("{}.qcow2", disk.file())), copy_path(&directory, &snapshot.id));
        tokio::task::spawn_blocking(move || disks::flatten(&from, &to)).await.internal("copying a disk broke off")?
    }

    async fn snapshot_read(&self, instance_id: &str, snapshot_id: &str, offset: u64, length: u32) -> Result<Vec<u8>> {
        if !base::id::is_uuid(instance_id) || !base::id::is_uuid(snapshot_id) {
            return Err(Error::invalid("instance or snapshot: the id is no UUID"));
        }
        let path = copy_path(&self.directory(instance_id), snapshot_id);
        let work = move || {
            let file = File::open(&path).map_err(|_| Error::not_found("Snapshot", &path.to_string_lossy()))?;
            let mut bytes = vec![0; length as usize];
            let mut have = 0;
            while have < bytes.len() {
                match file.read_at(&mut bytes[have..], offset + have as u64).internal("cannot read a copy")? {
                    0 => break,
                    n => have += n,
                }
            }
            bytes.truncate(have);
            Ok(bytes)
        };
        tokio::task::spawn_blocking(work).await.internal("reading a copy broke off")?
    }

    async fn snapshot_remove(&self, instance_id: &str, snapshot_id: &str) -> Result<()> {
        let path = copy_path(&self.directory(instance_id), snapshot_id);
        unlink(&path.with_extension("part"))?;
        unlink(&path)
    }

    async fn remove(&self, instance_id: &str) -> Result<()> {
        if !base::id::is_uuid(instance_id) {
            return Err(Error::invalid("instance: the id is no UUID"));
        }
        cgroup::remove(instance_id).await?;
        let directory = self.directory(instance_id);
        tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).internal("cannot remove the guest's directory"),
            _ => Ok(()),
        })
        .await
        .internal("removing a guest broke off")?
    }

    async fn console_log(&self, instance_id: &str, lines: Option<u32>) -> Result<String> {
        if !base::id::is_uuid(instance_id) {
            return Err(Error::invalid("instance: the id is no UUID"));
        }
        let path = self.directory(instance_id).join("console.log");
        tokio::task::spawn_blocking(move || console::tail(&path, lines)).await.internal("reading a console broke off")?
    }

    async fn cache_image(&self, sha256: &str, format: &str) -> Result<()> {
        self.cache.image(sha256, format).await.map(|_| ())
    }

    fn cache(&self) -> Option<Arc<Cache>> {
        Some(self.cache.clone())
    }

    async fn maintain(&self, wanted: &[InstanceSpec], kept: &BTreeSet<String>) -> Result<()> {
        let logs: Vec<PathBuf> = wanted.iter().map(|s| self.directory(&s.id).join("console.log")).collect();
        let mut images = kept.clone();
        for disk in wanted.iter().flat_map(|s| s.disks.iter().chain(&s.kept)) {
            if let DiskSource::Image { sha256, .. } = &disk.source {
                images.insert(sha256.clone());
            }
        }
        let cache = self.cache.clone();
        tokio::task::spawn_blocking(move || {
            for log in &logs {
                console::trim(log)?;
            }
            cache.prune(|hash| images.contains(hash), SystemTime::now())
        })
        .await
        .internal("housekeeping broke off")?
    }
}

fn copy_path(directory: &Path, snapshot_id: &str) -> PathBuf {
    directory.join(format!("snapshot-{snapshot_id}.img"))
}

fn unlink(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).internal("cannot remove a guest's file"),
        _ => Ok(()),
    }
}

/// Removes disks that the document no longer names, and, beside no process, what a broken-off write left.
fn sweep(directory: &Path, spec: &InstanceSpec, parts: bool) -> Result<()> {
    let wanted: std::collections::BTreeSet<String> = spec.disks.iter().chain(&spec.kept).map(|d| format!("{}.qcow2", d.file())).collect();
    for entry in std::fs::read_dir(directory).internal("cannot list a guest's directory")? {
        let path = entry.internal("cannot list a guest's directory")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if (name.ends_with(".qcow2") && !wanted.contains(&name)) || (parts && name.ends_with(".part")) {
            unlink(&path)?;
        }
    }
    Ok(())
}

struct QemuMachine {
    directory: PathBuf,
    watched: Watched,
    qmp: Qmp,
    events: tokio::sync::Mutex<mpsc::Receiver<qmp::Event>>,
    log: PathBuf,
    layers: Arc<FileLayers>,
}

impl QemuMachine {
    fn new(mut watched: Watched, qmp: Qmp, events: mpsc::Receiver<qmp::Event>, directory: &Path, layers: Arc<FileLayers>) -> QemuMachine {
        watched.threads_watch();
        QemuMachine { directory: directory.to_path_buf(), watched, qmp, events: events.into(), log: directory.join("qemu.log"), layers }
    }

    async fn status(&self) -> Result<String> {
        let status = self.qmp.execute("query-status", json!({}), COMMAND).await?;
        Ok(status["status"].as_str().unwrap_or_default().to_string())
    }

    /// Waits until the memory has come back.
    async fn restored(&self) -> Result<()> {
        let wait = async {
            while self.status().await? == "inmigrate" {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        tokio::time::timeout(MEMORY, wait).await.unwrap_or_else(|_| Err(Error::timeout("a guest's memory does not come back")))
    }

    /// Waits until the memory has gone out.
    async fn sent(&self) -> Result<()> {
        let wait = async {
            loop {
                let now = self.qmp.execute("query-migrate", json!({}), COMMAND).await?;
                match now["status"].as_str().unwrap_or_default() {
                    "completed" => return Ok(()),
                    "failed" | "cancelled" => {
                        let why = now["error-desc"].as_str().unwrap_or("QEMU gives no reason");
                        return Err(Error::internal(format!("the guest's memory cannot be saved: {why}")));
                    }
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::time::timeout(MEMORY, wait).await.unwrap_or_else(|_| Err(Error::timeout("the guest's memory is not saved in time")))
    }

    /// Gives QEMU a file it may open by the name this answers.
    async fn lend(&self, path: &Path) -> Result<(i64, String)> {
        let open = |write: bool| OpenOptions::new().read(true).write(write).open(path).internal("cannot open a copy");
        let (writable, readable) = (open(true)?, open(false)?);
        let first = self.qmp.execute_with("add-fd", json!({}), writable.as_fd(), COMMAND).await?;
        let set = first["fdset-id"].as_i64().ok_or_else(|| Error::internal("add-fd: no set"))?;
        self.qmp.execute_with("add-fd", json!({"fdset-id": set}), readable.as_fd(), COMMAND).await?;
        Ok((set, format!("/dev/fdset/{set}")))
    }

    async fn copy(&self, disk: &Disk, part: &Path) -> Result<()> {
        let (set, file) = self.lend(part).await?;
        let nodes = [
            json!({"driver": "file", "filename": file, "node-name": "snapshot-file"}),
            json!({"driver": "qcow2", "file": "snapshot-file", "node-name": "snapshot-disk", "backing": null}),
        ];
        for node in nodes {
            self.qmp.execute("blockdev-add", node, COMMAND).await?;
        }
        let source = format!("disk-{}", disk.name);
        let job = json!({"job-id": COPY, "device": source, "target": "snapshot-disk", "sync": "full", "auto-dismiss": false});
        self.qmp.execute("blockdev-backup", job, COMMAND).await?;
        let outcome = loop {
            match self.job().await? {
                Some((status, error)) if status == "concluded" => break error,
                Some(_) => tokio::time::sleep(LOOK).await,
                None => break Some("the copy has vanished".into()),
            }
        };
        self.snapshot_stop().await?;
        // What QEMU held open is closed; that it is counted no more is not worth an error.
        let _ = self.qmp.execute("remove-fd", json!({"fdset-id": set}), COMMAND).await;
        outcome.map_or(Ok(()), |why| Err(Error::internal(format!("the disk cannot be copied: {why}"))))
    }

    /// State and error of the copy that is under way.
    async fn job(&self) -> Result<Option<(String, Option<String>)>> {
        let jobs = self.qmp.execute("query-jobs", json!({}), COMMAND).await?;
        let job = jobs.as_array().and_then(|all| all.iter().find(|job| job["id"] == COPY));
        Ok(job.map(|job| (job["status"].as_str().unwrap_or_default().to_string(), job["error"].as_str().map(str::to_string))))
    }

    async fn has_device(&self, name: &str) -> Result<bool> {
        let list = self.qmp.execute("qom-list", json!({"path": "/machine/peripheral"}), COMMAND).await?;
        Ok(list.as_array().is_some_and(|all| all.iter().any(|device| device["name"] == name)))
    }

    async fn pass(&self, command: &str, arguments: Value, fd: BorrowedFd<'_>) -> Result<()> {
        self.qmp.execute_with(command, arguments, fd, COMMAND).await.map(|_| ())
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn process(&self) -> &Process {
        &self.watched.process
    }

    async fn state(&self) -> Result<RunState> {
        let status = self.qmp.execute("query-status", json!({}), COMMAND).await?;
        Ok(match status.get("status").and_then(Value::as_str).unwrap_or_default() {
            "running" => RunState::Running,
            "shutdown" => RunState::ShutDown,
            "guest-panicked" => RunState::Panicked,
            "watchdog" => RunState::Watchdog,
            "io-error" => RunState::IoError,
            "internal-error" => RunState::Panicked,
            _ => RunState::Paused,
        })
    }

    async fn answers(&self) -> bool {
        loop {
            match self.qmp.execute("query-status", json!({}), PATIENT).await {
                Err(e) if e.is(Kind::Timeout) => {}
                Err(e) if e.is(Kind::Unavailable) => return false,
                // An error is an answer too.
                Ok(_) | Err(_) => return true,
            }
        }
    }

    fn waits_for_device(&self) -> bool {
        process::waits_for_device(self.watched.process.pid)
    }

    async fn event(&self) -> MachineEvent {
        let died = |reason: String| {
            let words = last_words(&self.log);
            MachineEvent::Died { reason: if words.is_empty() { reason } else { format!("{reason}: {words}") } }
        };
        let mut events = self.events.lock().await;
        loop {
            let event = tokio::select! {
                biased;
                reason = self.watched.dying() => return died(reason),
                event = events.recv() => event,
            };
            let Some(event) = event else {
                // A dying process closes its sockets a moment before it is gone.
                return match tokio::time::timeout(LAST_BREATH, self.watched.dying()).await {
                    Ok(reason) => died(reason),
                    Err(_) => MachineEvent::Lost,
                };
            };
            match event.name.as_str() {
                "WATCHDOG" if event.data.get("action").and_then(Value::as_str) == Some("reset") => return MachineEvent::WatchdogReset,
                "BLOCK_IO_ERROR" if event.data.get("action").and_then(Value::as_str) == Some("stop") => {
                    return MachineEvent::DiskFailed { why: disk_failed(&event.data) };
                }
                "SHUTDOWN" | "STOP" | "RESUME" | "GUEST_PANICKED" | "WATCHDOG" | "BLOCK_IO_ERROR" | "MIGRATION" | "BLOCK_JOB_READY"
                | "BLOCK_JOB_ERROR" => {
                    return MachineEvent::Changed;
                }
                _ => {}
            }
        }
    }

    async fn gone(&self) {
        self.watched.ended().await;
    }

    async fn power_button(&self) -> Result<()> {
        self.qmp.execute("system_powerdown", json!({}), COMMAND).await.map(|_| ())
    }

    async fn pause(&self) -> Result<()> {
        self.qmp.execute("stop", json!({}), COMMAND).await.map(|_| ())
    }

    async fn resume(&self) -> Result<()> {
        self.qmp.execute("cont", json!({}), COMMAND).await.map(|_| ())
    }

    async fn end(&self) -> Result<()> {
        // Asked, QEMU writes out what it holds back; whether it answers does not matter.
        let _ = self.qmp.execute("quit", json!({}), QUIT).await;
        if tokio::time::timeout(QUIT, self.watched.ended()).await.is_ok() {
            return Ok(());
        }
        self.kill().await
    }

    async fn kill(&self) -> Result<()> {
        self.watched.kill().internal("cannot kill a guest's process")?;
        tokio::time::timeout(START, self.watched.ended())
            .await
            .map(|_| ())
            .map_err(|_| Error::timeout(format!("process {} does not end", self.watched.process.pid)))
    }

    async fn save(&self) -> Result<()> {
        if self.status().await? == "postmigrate" {
            // Saved before, and what came of it was lost: QEMU has to own its disks again first.
            self.resume().await?;
        }
        self.pause().await?;
        let (part, path) = (self.directory.join("memory.part"), self.directory.join("memory.img"));
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).internal("cannot make a memory file")?;
        self.pass("getfd", json!({"fdname": "memory"}), file.as_fd()).await?;
        self.qmp.execute("migrate-set-parameters", json!({"max-bandwidth": 1u64 << 40}), COMMAND).await?;
        self.qmp.execute("migrate", json!({"uri": "fd:memory"}), COMMAND).await?;
        self.sent().await?;
        crate::instance::blocking(move || disks::publish(&part, &path).map(|_| ())).await
    }

    async fn snapshot(&self, snapshot: &Snapshot, disk: &Disk) -> Result<u64> {
        // One that an earlier agent began.
        self.snapshot_stop().await?;
        let (from, path) = (self.directory.join(format!("{}.qcow2", disk.file())), copy_path(&self.directory, &snapshot.id));
        let part = path.with_extension("part");
        let new = part.clone();
        crate::instance::blocking(move || {
            unlink(&new)?;
            let header = disks::header(&mut File::open(&from).internal("cannot open a disk file")?)?;
            let bytes = header.ok_or_else(|| Error::internal("a disk file is no qcow2 file"))?.virtual_bytes;
            disks::make(&new, bytes, None, false)
        })
        .await?;
        self.copy(disk, &part).await?;
        crate::instance::blocking(move || disks::publish(&part, &path)).await
    }

    async fn snapshot_stop(&self) -> Result<()> {
        let wait = async {
            while let Some((status, _)) = self.job().await? {
                if status == "concluded" {
                    self.qmp.execute("job-dismiss", json!({"id": COPY}), COMMAND).await?;
                    break;
                }
                // It may end by itself in this very moment.
                let _ = self.qmp.execute("job-cancel", json!({"id": COPY}), COMMAND).await;
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        tokio::time::timeout(COMMAND, wait).await.unwrap_or_else(|_| Err(Error::timeout("a copy does not end")))?;
        for node in ["snapshot-disk", "snapshot-file"] {
            // Mostly it is not there.
            let _ = self.qmp.execute("blockdev-del", json!({"node-name": node}), COMMAND).await;
        }
        Ok(())
    }

    async fn plug(&self, nic: &Nic, bus: Option<&str>) -> Result<()> {
        let name = card_name(&nic.port_id);
        if self.has_device(&name).await? {
            return Ok(());
        }
        let net = format!("net-{name}");
        // One of an attempt that broke off; its tap is free again with it.
        let _ = self.qmp.execute("netdev_del", json!({"id": net}), COMMAND).await;
        let tap = tap::open(&tap_name(&nic.port_id))?;
        self.pass("getfd", json!({"fdname": net}), tap.as_fd()).await?;
        self.qmp.execute("netdev_add", json!({"type": "tap", "id": net, "fd": net}), COMMAND).await?;
        let mut card = command::card(nic)?;
        if let Some(bus) = bus {
            card["bus"] = bus.into();
        }
        let plugged = self.qmp.execute("device_add", card, COMMAND).await;
        if plugged.is_err() {
            let _ = self.qmp.execute("netdev_del", json!({"id": net}), COMMAND).await;
        }
        plugged.map(|_| ())
    }

    async fn unplug(&self, port_id: &str) -> Result<()> {
        let name = card_name(port_id);
        let limit = tokio::time::Instant::now() + LET_GO;
        let mut asked = false;
        while self.has_device(&name).await? {
            if !asked {
                // An error means that it was asked before.
                let _ = self.qmp.execute("device_del", json!({"id": name}), COMMAND).await;
                asked = true;
            }
            if tokio::time::Instant::now() > limit {
                tracing::warn!(device = name, "the guest does not let go of a network card; it is cut off");
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let _ = self.qmp.execute("netdev_del", json!({"id": format!("net-{name}")}), COMMAND).await;
        Ok(())
    }

    async fn set_password(&self, user: &str, password: &str) -> Result<Option<String>> {
        use base64::Engine;
        let secret = base64::engine::general_purpose::STANDARD.encode(password);
        let arguments = json!({"username": user, "password": secret, "crypted": false});
        guest_agent::execute(&self.directory.join("agent.sock"), "guest-set-user-password", arguments).await
    }

    async fn interrupt(&self) -> Result<()> {
        self.qmp.execute("inject-nmi", json!({}), COMMAND).await.map(|_| ())
    }

    async fn diagnostics(&self) -> Result<Value> {
        let mut out = serde_json::Map::new();
        for (name, command) in
            [("status", "query-status"), ("blockstats", "query-blockstats"), ("balloon", "query-balloon"), ("cpus", "query-cpus-fast")]
        {
            out.insert(name.into(), self.qmp.execute(command, json!({}), COMMAND).await?);
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.watched.process.pid)).unwrap_or_default();
        let fields: Vec<u64> =
            stat.rsplit_once(") ").map_or(vec![], |(_, f)| f.split(' ').map(|v| v.parse().unwrap_or_default()).collect());
        let field = |n: usize| fields.get(n).copied().unwrap_or_default();
        out.insert("process".into(), json!({"user_ticks": field(11), "system_ticks": field(12), "resident_pages": field(21)}));
        Ok(Value::Object(out))
    }

    async fn pin(&self, affinity: &Affinity) -> Result<()> {
        let cpus = self.qmp.execute("query-cpus-fast", json!({}), COMMAND).await?;
        let thread = |cpu: &Value| Some((cpu["cpu-index"].as_u64()?, i32::try_from(cpu["thread-id"].as_i64()?).ok()?));
        let threads: BTreeMap<u64, i32> = cpus.as_array().into_iter().flatten().filter_map(thread).collect();
        let (pid, affinity) = (self.watched.process.pid, affinity.clone());
        blocking(move || {
            for (vcpu, cpus) in affinity.vcpus.iter().enumerate() {
                let Some(thread) = threads.get(&(vcpu as u64)) else {
                    return Err(Error::internal(format!("vCPU {vcpu} has no thread")));
                };
                machine::thread_pin(*thread, cpus)?;
            }
            machine::others_pin(pid, &threads.into_values().collect(), &affinity.others)
        })
        .await
    }

    async fn volumes(&self) -> Result<Vec<String>> {
        volumes::plugged(&self.qmp).await
    }

    async fn volume_plug(&self, disk: &Disk, volume: &str, stack: &Stack, bus: Option<&str>) -> Result<()> {
        let read_only = matches!(disk.source, DiskSource::Volume { read_only: true, .. });
        let files = volumes::named(volume, stack, self.layers.files(stack).await?);
        volumes::plug(&self.qmp, volume, &files, read_only, disk.boot_index, bus).await
    }

    async fn volume_unplug(&self, volume: &str) -> Result<bool> {
        volumes::unplug(&self.qmp, volume).await
    }

    async fn volume_head(&self, volume: &str) -> Result<Option<String>> {
        volumes::head(&self.qmp, volume).await
    }

    async fn volume_switch(&self, volume: &str, from: &str, to: &str) -> Result<()> {
        volumes::switch(&self.qmp, volume, from, to, &self.layers.path(to)).await
    }

    async fn volume_resize(&self, volume: &str, head: &str, bytes: u64) -> Result<()> {
        volumes::resize(&self.qmp, volume, head, bytes).await
    }

    async fn await_guest(&self, moving: &Moving, disks: &[Disk], address: &str) -> Result<Doors> {
        moving::await_guest(&self.qmp, self.watched.process.pid, &self.directory, moving, disks, address).await
    }

    async fn transit(&self, side: Side) -> Result<Transit> {
        moving::transit(&self.qmp, side).await
    }

    async fn depart(&self, moving: &Moving, doors: &Doors, disks: &[Disk], ahead: &BTreeSet<String>) -> Result<()> {
        let freight = moving::freight(&self.qmp, disks, ahead).await?;
        moving::depart(&self.qmp, self.watched.process.pid, &self.directory, moving, doors, freight).await
    }

    async fn depart_memory(&self, moving: &Moving, doors: &Doors, downtime: u32) -> Result<()> {
        moving::memory(&self.qmp, moving, doors, downtime).await
    }

    async fn depart_downtime(&self, downtime: u32) -> Result<()> {
        moving::downtime(&self.qmp, downtime).await
    }

    async fn depart_last(&self) -> Result<()> {
        moving::last(&self.qmp).await
    }

    async fn depart_go(&self) -> Result<()> {
        moving::go(&self.qmp).await
    }

    async fn moved_clear(&self) -> Result<()> {
        moving::over(&self.qmp).await
    }

    async fn display(&self) -> Result<Box<dyn Console>> {
        Ok(Box::new(consoles::display(&self.qmp).await?))
    }

    async fn heartbeat(&self) -> Result<Box<dyn Console>> {
        Ok(Box::new(qmp::dial(&self.directory.join(super::spawn::HEARTBEAT)).await?))
    }

    async fn messaging(&self) -> Result<Box<dyn Console>> {
        Ok(Box::new(qmp::dial(&self.directory.join(super::spawn::MESSAGING)).await?))
    }

    async fn serial(&self) -> Result<Box<dyn Console>> {
        let directory = self.log.parent().ok_or_else(|| Error::internal("a guest's log has no directory"))?;
        Ok(Box::new(consoles::serial(directory).await?))
    }
}
