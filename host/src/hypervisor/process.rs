//! Processes: starting one that outlives us, watching it by pidfd, and knowing it again.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use base::error::Internal;
use base::{Error, Result, Timestamp};
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Process, boot_id};

/// Who a guest's process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Further groups, for `/dev/kvm`.
    pub groups: Vec<u32>,
}

/// A process to be started.
pub struct Launch<'a> {
    pub program: &'a str,
    pub arguments: &'a [String],
    /// None: as ourselves (when we are not root ourselves).
    pub identity: Option<&'a Identity>,
    /// Descriptors it inherits under the same numbers.
    pub descriptors: &'a [RawFd],
    /// Bound sockets that it listens on from the first moment, so that the kernel can tell who listens.
    pub listeners: &'a [RawFd],
    /// `cgroup.procs` files, open for writing, of the groups it enters.
    pub cgroups: &'a [File],
    pub log: &'a File,
    /// Seconds of processor time it may use at all.
    pub cpu_seconds: Option<u64>,
    /// Processors that it runs on; none: ours.
    pub processors: Option<CpuSet>,
}

/// Starts it in a session of its own: nothing that ends us ends it. It is our child as long as we live, so
/// that we learn its exit status; after that it is init's.
pub fn launch(launch: &Launch) -> Result<OwnedFd> {
    let mut command = Command::new(launch.program);
    command.args(launch.arguments).env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command.env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
    command.stderr(launch.log.try_clone().internal("cannot duplicate a guest's log")?);
    let identity = launch.identity.cloned();
    let keep: Vec<RawFd> = launch.descriptors.iter().chain(launch.listeners).copied().collect();
    let listeners = launch.listeners.to_vec();
    let groups: Vec<RawFd> = launch.cgroups.iter().map(AsRawFd::as_raw_fd).collect();
    let (cpu_seconds, processors) = (launch.cpu_seconds, launch.processors);
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: it makes
    // system calls on values copied before the fork and allocates nothing.
    unsafe {
        command.pre_exec(move || enter(identity.as_ref(), &keep, &listeners, &groups, cpu_seconds, processors.as_ref()));
    }
    let child = command.spawn().map_err(|e| Error::internal(format!("cannot start {}", launch.program)).caused_by(e))?;
    let pid = child.id() as i32;
    // The child is ours and not waited for, so its number cannot have been given away.
    pidfd_open(pid).map_err(|e| Error::internal("cannot watch a process just started").caused_by(e))
}

/// What the child does before it becomes the program.
fn enter(
    identity: Option<&Identity>,
    keep: &[RawFd],
    listeners: &[RawFd],
    cgroups: &[RawFd],
    cpu_seconds: Option<u64>,
    processors: Option<&CpuSet>,
) -> io::Result<()> {
    if let Some(processors) = processors {
        // One system call, on a value copied before the fork.
        sched_setaffinity(Pid::from_raw(0), processors)?;
    }
    // SAFETY: plain system calls; every pointer is to a live local or to memory copied before the fork.
    unsafe {
        check(libc::setsid())?;
        libc::umask(0o077);
        for group in cgroups {
            // "0" stands for the writer. A group that refuses costs accounting only, not the guest.
            libc::write(*group, c"0".as_ptr().cast(), 1);
        }
        if let Some(seconds) = cpu_seconds {
            let limit = libc::rlimit { rlim_cur: seconds, rlim_max: seconds };
            check(libc::setrlimit(libc::RLIMIT_CPU, &limit))?;
        }
        let core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(libc::setrlimit(libc::RLIMIT_CORE, &core))?;
        if let Some(who) = identity {
            check(libc::setgroups(who.groups.len(), who.groups.as_ptr()))?;
            check(libc::setresgid(who.gid, who.gid, who.gid))?;
            check(libc::setresuid(who.uid, who.uid, who.uid))?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // Nothing of ours goes along but what was named. Kernels before 5.11 lack the call; there every
        // descriptor has been opened close-on-exec one by one.
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for fd in keep {
            check(libc::fcntl(*fd, libc::F_SETFD, 0))?;
        }
        for fd in listeners {
            check(libc::listen(*fd, 8))?;
        }
    }
    Ok(())
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers; on success it returns a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as RawFd)) }
    }
}

/// Threads of a process that are watched beside it: one of them may be the last to go.
const THREADS: usize = 3;

fn pidfd_of_thread(tid: i32) -> io::Result<OwnedFd> {
    // What the kernel calls PIDFD_THREAD.
    const THREAD: libc::c_int = libc::O_EXCL;
    // SAFETY: as in `pidfd_open`.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, tid, THREAD);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as RawFd)) }
    }
}

/// How a process that loses its threads ends, when it is certain that it does.
fn fate(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status: i32 = stat.split_whitespace().next_back()?.parse().ok()?;
    match (status & 0x7f, status >> 8) {
        // It goes on, or ends well, which can wait.
        (0, 0) => None,
        (0, code) => Some(format!("exited with status {}", code & 0xff)),
        // Not ended but stopped, which shows in the same place.
        (libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU | 0x7f, _) => None,
        (signal, _) => Some(nix::sys::signal::Signal::try_from(signal).map_or_else(|_| "ended".into(), |s| format!("killed by {s}"))),
    }
}

/// Whether any thread of a process waits in the kernel for what nothing can interrupt, mostly a disk. Such a process cannot be ended either.
pub fn waits_for_device(pid: i32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().any(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The name in parentheses may hold anything.
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('D'))
    })
}

/// A live process, held by its pidfd.
pub struct Watched {
    pub process: Process,
    pidfd: AsyncFd<OwnedFd>,
    threads: Vec<Thread>,
}

/// A thread that lives as long as its process does, as far as one can tell.
struct Thread {
    pidfd: AsyncFd<OwnedFd>,
    /// It has ended, and its process goes on.
    over: AtomicBool,
}

impl Watched {
    /// Takes hold of a process by number. None when there is no such process or it has ended.
    pub fn open(pid: i32) -> Result<Option<Watched>> {
        match pidfd_open(pid) {
            Ok(fd) => Self::with(fd),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(e) => Err(Error::internal(format!("cannot watch process {pid}")).caused_by(e)),
        }
    }

    /// The same for a process whose pidfd is at hand.
    pub fn with(pidfd: OwnedFd) -> Result<Option<Watched>> {
        let known = pid_of(&pidfd).and_then(|pid| Some((pid, start_ticks(pid)?)));
        // The start was read of the number; it is this process's only if it still lives.
        let Some((pid, start_ticks)) = known.filter(|(pid, _)| pid_of(&pidfd) == Some(*pid)) else {
            reap(&pidfd);
            return Ok(None);
        };
        // SAFETY: an `OwnedFd` owns its descriptor, and nothing replaces or closes it inside the `AsyncFd`.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.internal("cannot watch a process")?;
        Ok(Some(Watched {
            process: Process { pid, start_ticks, boot_id: boot_id(), started_at: started_at(start_ticks) },
            pidfd,
            threads: Vec::new(),
        }))
    }

    /// Watches threads of the process too. The kernel tells of a process' end only when its memory has been taken down, which
    /// takes a guest's many milliseconds; all threads but the last are gone before that. Kernels before 6.9 cannot watch a
    /// thread: there nothing is gained.
    pub fn threads_watch(&mut self) {
        let pid = self.process.pid;
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
        let mut tids: Vec<i32> = tasks.flatten().filter_map(|t| t.file_name().to_str()?.parse().ok()).filter(|t| *t != pid).collect();
        tids.sort_unstable();
        let lasting = |tid: &i32| {
            // Those of QEMU's pool come and go.
            std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).is_ok_and(|name| name.trim() != "worker")
        };
        for tid in tids.iter().filter(|tid| lasting(tid)).take(THREADS) {
            let Ok(fd) = pidfd_of_thread(*tid) else { return };
            // SAFETY: an `OwnedFd` owns its descriptor, and nothing replaces or closes it inside the `AsyncFd`.
            match unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) } {
                Ok(pidfd) => self.threads.push(Thread { pidfd, over: AtomicBool::new(false) }),
                Err(_) => return,
            }
        }
    }

    /// As [`Watched::ended`], but as soon as the end is certain: the process may still hold its memory and its files.
    pub async fn dying(&self) -> String {
        loop {
            let waits = self.threads.iter().filter(|t| !t.over.load(Ordering::Relaxed)).map(|thread| {
                Box::pin(async move {
                    let _ = thread.pidfd.readable().await;
                    thread
                })
            });
            let waits: Vec<_> = waits.collect();
            let one =
                async { if waits.is_empty() { std::future::pending().await } else { futures_util::future::select_all(waits).await.0 } };
            tokio::select! {
                biased;
                reason = self.ended() => return reason,
                thread = one => match fate(self.process.pid) {
                    Some(reason) => return reason,
                    None => thread.over.store(true, Ordering::Relaxed),
                }
            }
        }
    }

    /// Waits for the end and says how it came, as far as anyone can know.
    pub async fn ended(&self) -> String {
        // An error here would mean a broken descriptor: treated as ended, and the next look tells.
        let _ = self.pidfd.readable().await;
        describe_end(self.pidfd.get_ref())
    }

    pub fn kill(&self) -> io::Result<()> {
        kill(self.pidfd.get_ref())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        reap(self.pidfd.get_ref());
    }
}

/// A process that is known to be a guest's and cannot be talked to.
pub struct Silent(pub(super) Watched);

impl Silent {
    pub fn pid(&self) -> i32 {
        self.0.process.pid
    }
    pub fn known(&self) -> &Process {
        &self.0.process
    }
    pub fn waits_for_device(&self) -> bool {
        waits_for_device(self.pid())
    }
    /// Ends it; returns when it is gone.
    pub async fn kill(&self) -> Result<()> {
        self.0.kill().internal("cannot kill a guest's process")?;
        tokio::time::timeout(std::time::Duration::from_secs(30), self.0.ended())
            .await
            .map(|_| ())
            .map_err(|_| Error::timeout(format!("process {} does not end", self.pid())))
    }
}

/// Ends a process of which only the number is at hand, if it still is the one that started then. False: it is not, or has ended.
pub fn end(pid: i32, ticks: Option<u64>) -> io::Result<bool> {
    let pidfd = match pidfd_open(pid) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
        opened => opened?,
    };
    // Read of the number, so only after the descriptor keeps the number from being given away.
    if start_ticks(pid).is_none_or(|started| ticks.is_some_and(|ticks| ticks != started)) {
        return Ok(false);
    }
    kill(&pidfd).map(|()| true)
}

/// Has this process run before others, and stay when memory runs out: what it does is little and must not wait. A machine that does
/// not allow it runs it as any other.
pub fn first_in_line() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: a number and a pointer to a live local.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &priority) } < 0 {
        tracing::debug!("no priority: {}", io::Error::last_os_error());
    }
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::debug!("not kept when memory runs out: {e}");
    }
}

fn kill(pidfd: &OwnedFd) -> io::Result<()> {
    // SAFETY: numbers and a null pointer, which the call allows; the descriptor is open.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, std::ptr::null::<libc::siginfo_t>(), 0) };
    match sent {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            e => Err(e),
        },
    }
}

/// Takes the remains of a child that has ended; harmless for any other process.
fn reap(pidfd: &OwnedFd) {
    let _ = waitid(Id::PIDFd(borrowed(pidfd)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
}

fn borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

fn describe_end(pidfd: &OwnedFd) -> String {
    match waitid(Id::PIDFd(borrowed(pidfd)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => format!("exited with status {code}"),
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("killed by {signal}"),
        // Not our child (started by an earlier sturnus): nobody can tell any more.
        _ => "ended".to_string(),
    }
}

/// The pid behind a pidfd; none once the process has been reaped.
fn pid_of(pidfd: &OwnedFd) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid: i32 = text.lines().find_map(|l| l.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (pid > 0).then_some(pid)
}

/// Start of a process in ticks after boot. None when there is none, or only its remains (a zombie).
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from the last one.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    if matches!(fields.first(), Some(&"Z") | Some(&"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn started_at(ticks: u64) -> Timestamp {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1) as u64;
    let uptime = uptime_micros();
    let age = uptime.saturating_sub(ticks.saturating_mul(1_000_000) / per_second);
    Timestamp(Timestamp::now().micros().saturating_sub(i64::try_from(age).unwrap_or(0)))
}

/// Microseconds since the machine booted.
pub fn uptime_micros() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = text.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or_default();
    (seconds * 1e6) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(arguments: &[&str]) -> OwnedFd {
        let log = tempfile::tempfile().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|s| s.to_string()).collect();
        let what = Launch {
            program: "/bin/sh",
            arguments: &arguments,
            identity: None,
            descriptors: &[],
            listeners: &[],
            cgroups: &[],
            log: &log,
            cpu_seconds: Some(5),
            processors: None,
        };
        launch(&what).unwrap()
    }

    /// A process whose memory takes long to take down: its end is certain well before it is gone.
    #[tokio::test]
    async fn the_end_of_a_process_with_threads_is_certain_before_it_is_gone() {
        let script = "import threading, time, sys\nfor _ in range(3): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nprint(1, flush=True)\ntime.sleep(60)";
        let mut child = Command::new("python3").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0u8; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let mut watched = Watched::open(child.id() as i32).unwrap().unwrap();
        watched.threads_watch();
        let alive = tokio::time::timeout(std::time::Duration::from_millis(100), watched.dying()).await;
        assert!(alive.is_err(), "{alive:?}");
        watched.kill().unwrap();
        assert_eq!(watched.dying().await, "killed by SIGKILL");
        watched.ended().await;
        child.wait().unwrap_or_default();
    }

    #[tokio::test]
    async fn tells_how_a_process_ended() {
        let watched = Watched::with(start(&["-c", "exec sleep 60"])).unwrap().unwrap();
        let again = Watched::open(watched.process.pid).unwrap().unwrap();
        assert_eq!(again.process.start_ticks, watched.process.start_ticks);
        drop(again);
        watched.kill().unwrap();
        assert_eq!(watched.ended().await, "killed by SIGKILL");
        assert!(Watched::open(watched.process.pid).unwrap().is_none());

        let mut watched = Watched::with(start(&["-c", "exec sleep 60"])).unwrap().unwrap();
        watched.threads_watch();
        watched.kill().unwrap();
        assert_eq!(watched.dying().await, "killed by SIGKILL");

        let fd = start(&["-c", "exit 3"]);
        assert_eq!(
            waitid(Id::PIDFd(borrowed(&fd)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap().pid(),
            pid_of(&fd).map(nix::unistd::Pid::from_raw)
        );
        assert_eq!(describe_end(&fd), "exited with status 3");
    }
}
