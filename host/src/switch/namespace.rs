//! Network namespaces of our own under `/run/netns`.
//!
//! A namespace is ours when the record names it *and* its loopback link carries the alias we gave it before the
//! name became visible. A recorded name with a plain file behind it is a creation that was cut short.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::Probe;
use super::link;
use super::netlink::Netlink;

const DIRECTORY: &str = "/run/netns";

/// An open namespace: the file that names it, and sockets that live in it.
pub struct Namespace {
    pub name: String,
    pub fd: OwnedFd,
    pub route: Netlink,
    pub netfilter: Netlink,
}

/// What is behind a name.
pub enum Found {
    Nothing,
    /// A file that is no namespace: what a crash between making the file and mounting on it leaves.
    File,
    /// A namespace with this alias on its loopback link.
    Namespace(Box<Namespace>, String),
}

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Runs `f` on a thread of its own inside a namespace.
pub fn inside<T: Send>(fd: BorrowedFd<'_>, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_thread(|| {
        setns(fd, CloneFlags::CLONE_NEWNET)?;
        f()
    })
}

fn on_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).stack_size(256 * 1024).spawn_scoped(scope, f)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("namespace thread panicked")))
    })
}

impl Namespace {
    /// Looks behind a name under `/run/netns`.
    pub fn find(name: &str, probe: &Arc<Probe>) -> io::Result<Found> {
        let file = match File::open(path(name)) {
            Ok(file) => OwnedFd::from(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(e),
        };
        let opened = inside(file.as_fd(), || {
            let mut route = Netlink::route(probe.clone())?;
            let alias = link::link_get(&mut route, "lo")?.map(|l| l.alias).unwrap_or_default();
            Ok((route, Netlink::netfilter(probe.clone())?, alias))
        });
        match opened {
            Ok((route, netfilter, alias)) => {
                Ok(Found::Namespace(Box::new(Namespace { name: name.into(), fd: file, route, netfilter }), alias))
            }
            Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(Found::File),
            Err(e) => Err(e),
        }
    }
    /// Makes a namespace: marked, with its settings and its loopback up before it gets its name.
    pub fn create(name: &str, alias: &str, settings: &[(&str, &str)], probe: &Arc<Probe>) -> io::Result<Namespace> {
        share_directory()?;
        let path = path(name);
        probe.step("make namespace file")?;
        File::options().read(true).create(true).write(true).truncate(false).open(&path)?;
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            for (key, value) in settings {
                setting_write(key, value)?;
            }
            let mut route = Netlink::route(probe.clone())?;
            let lo = link::link_get(&mut route, "lo")?.ok_or_else(|| io::Error::other("namespace without loopback"))?;
            link::link_mark(&mut route, lo.index, alias, false)?;
            link::link_set(&mut route, lo.index, "lo", link::Change { up: true, ..Default::default() })?;
            let netfilter = Netlink::netfilter(probe.clone())?;
            probe.step("name namespace")?;
            // The thread's own entry, not `self`: only this thread has changed its namespace.
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            let fd = OwnedFd::from(File::open(&path)?);
            Ok(Namespace { name: name.into(), fd, route, netfilter })
        })
    }
}

/// Removes a namespace by its name; what lives in it goes with the last socket and process in it.
pub fn remove(name: &str, probe: &Probe) -> io::Result<()> {
    let path = path(name);
    probe.step("remove namespace")?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) | Err(Errno::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Writes a kernel setting of the calling thread's namespace: `net/ipv4/ip_forward`.
pub fn setting_write(key: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(key);
    // Where IPv6 is compiled out or off there is nothing to set.
    match fs::write(&path, value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
        Ok(()) => Ok(()),
    }
}

/// Makes `/run/netns` a shared mount, as iproute2 does, so that a namespace unmounted here is unmounted in
/// every mount namespace and does not live on where nobody sees it.
fn share_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let shared = || mount(None::<&str>, DIRECTORY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match shared() {
        Err(Errno::EINVAL) => {
            mount(Some(DIRECTORY), DIRECTORY, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
            Ok(shared()?)
        }
        other => Ok(other?),
    }
}
