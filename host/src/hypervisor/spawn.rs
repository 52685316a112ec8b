//! The start of a guest's process: all it needs is opened by us and handed over as descriptors.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base::error::Internal;
use base::{Error, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use rpc::instance::{DiskSource, Firmware, InstanceSpec, tap_name};

use super::command::{self, Descriptors, DiskFiles, FirmwareFiles, LayerFile};
use super::process::{Identity, Launch, launch};
use super::{Launch as Start, probe, volumes};
use crate::cpus::machine::mask;
use crate::{cgroup, tap};

/// The socket of the guest's heartbeat, in its directory.
pub(super) const HEARTBEAT: &str = "heartbeat.sock";
/// The socket of its messages.
pub(super) const MESSAGING: &str = "messaging.sock";
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";

/// Everything opened for one start; closed in our process when dropped.
#[derive(Default)]
struct Opened {
    files: Vec<OwnedFd>,
    listeners: Vec<RawFd>,
}

impl Opened {
    fn keep(&mut self, fd: impl Into<OwnedFd>) -> RawFd {
        let fd = fd.into();
        let number = fd.as_raw_fd();
        self.files.push(fd);
        number
    }
    fn reading(&mut self, path: &Path) -> Result<RawFd> {
        Ok(self.keep(File::open(path).internal(&format!("cannot open {}", path.display()))?))
    }
    fn writing(&mut self, path: &Path) -> Result<RawFd> {
        let file = OpenOptions::new().read(true).write(true).open(path).internal(&format!("cannot open {}", path.display()))?;
        Ok(self.keep(file))
    }
    fn appending(&mut self, path: &Path) -> Result<RawFd> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).internal("cannot open the console log")?;
        Ok(self.keep(file))
    }
    /// A socket bound under this name; the process itself will listen.
    fn listener(&mut self, directory: &File, name: &str) -> Result<RawFd> {
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).internal("cannot remove an old socket"),
            _ => {}
        }
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).internal("cannot make a socket")?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&path).internal("a socket's path is too long")?).internal("cannot bind a socket")?;
        let number = self.keep(fd);
        self.listeners.push(number);
        Ok(number)
    }
}

/// A volume's layers with their files, the uppermost first.
pub(super) type VolumeFiles = (String, Vec<volumes::Named>);

/// Opens all that the guest needs and starts its process.
pub(super) fn spawn(
    directory: &Path,
    backings: &[Option<PathBuf>],
    volumes: &[VolumeFiles],
    spec: &InstanceSpec,
    accelerator: &str,
    identity: Option<&Identity>,
    start: &Start,
) -> Result<OwnedFd> {
    let mut opened = Opened::default();
    let here = File::open(directory).internal("cannot open the guest's directory")?;
    let mut open = Descriptors {
        monitor: opened.listener(&here, "qmp.sock")?,
        console: opened.listener(&here, "console.sock")?,
        agent: opened.listener(&here, "agent.sock")?,
        console_log: opened.appending(&directory.join("console.log"))?,
        ..Default::default()
    };
    for (disk, backing) in spec.disks.iter().zip(backings) {
        if let DiskSource::Volume { id, read_only, .. } = &disk.source {
            let (_, files) =
                volumes.iter().find(|(v, _)| v == id).ok_or_else(|| Error::internal(format!("volume {id} has not been claimed")))?;
            let mut layers = Vec::new();
            for (n, file) in files.iter().enumerate() {
                let mut descriptors = vec![opened.reading(&file.path)?];
                if n == 0 && !read_only {
                    descriptors.insert(0, opened.writing(&file.path)?);
                }
                layers.push(LayerFile { node: file.node.clone(), format: file.format.clone(), descriptors });
            }
            open.disks.push(DiskFiles::Volume(layers));
            continue;
        }
        let path = directory.join(format!("{}.qcow2", disk.file()));
        let backing = match (backing, &disk.source) {
            (Some(below), DiskSource::Image { format, .. }) => Some((opened.reading(below)?, format.clone())),
            _ => None,
        };
        open.disks.push(DiskFiles::Overlay { writable: opened.writing(&path)?, readable: opened.reading(&path)?, backing });
    }
    for nic in &spec.nics {
        open.taps.push(opened.keep(tap::open(&tap_name(&nic.port_id))?));
    }
    if spec.metadata.config_drive {
        open.config_drive = Some(opened.reading(&directory.join("config.iso"))?);
    }
    if spec.machine.firmware == Firmware::Uefi {
        let variables = directory.join("firmware.fd");
        open.firmware = Some(FirmwareFiles {
            code: opened.reading(Path::new(OVMF_CODE))?,
            variables_writable: opened.writing(&variables)?,
            variables_readable: opened.reading(&variables)?,
        });
    }
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(directory.join("qemu.log"))
        .internal("cannot open the process' log")?;
    if start.memory {
        open.memory = Some(opened.reading(&directory.join("memory.img"))?);
    }
    if start.slots.heartbeat {
        open.heartbeat = Some(opened.listener(&here, HEARTBEAT)?);
    }
    if start.slots.messaging {
        open.messaging = Some(opened.listener(&here, MESSAGING)?);
    }
    open.incoming = start.incoming;
    let arguments = command::arguments(spec, accelerator, &open, &start.slots)?;
    let cgroups = cgroup::make(&spec.id, spec.vcpus);
    let descriptors: Vec<RawFd> = opened.files.iter().map(AsRawFd::as_raw_fd).filter(|fd| !opened.listeners.contains(fd)).collect();
    launch(&Launch {
        program: probe::QEMU,
        arguments: &arguments,
        identity,
        descriptors: &descriptors,
        listeners: &opened.listeners,
        cgroups: &cgroups,
        log: &log,
        cpu_seconds: None,
        processors: start.affinity.as_ref().map(|affinity| mask(&affinity.others)).transpose()?,
    })
}
