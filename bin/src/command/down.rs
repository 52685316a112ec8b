//! `sturnus down`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Place;

/// How long the cloud may take to end its requests and steps.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Down {
    /// Also stop the guests of this home
    #[arg(long)]
    guests: bool,
}

impl Down {
    pub fn run(self, place: &Place) -> Result<ExitCode> {
        let home = place.load()?.home();
        match running(&home)? {
            None => println!("sturnus is not running in {}", home.display()),
            Some(pid) => {
                kill(pid, Signal::SIGTERM).context("asking it to stop")?;
                let started = Instant::now();
                while running(&home)?.is_some() {
                    if started.elapsed() > PATIENCE {
                        bail!("process {pid} does not stop; see sturnus.log");
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                println!("sturnus stopped");
            }
        }
        if self.guests {
            let ended = host::guests_stop(&home).context("stopping guests")?;
            println!("{ended} guests stopped");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How long the lock of a process that was killed may outlast it.
pub const LEAVING: Duration = Duration::from_secs(3);

/// The process that holds this home's lock, if any. The number in the file alone proves nothing: it may be of an
/// earlier boot. Nor does the lock: a killed process has it until the kernel has closed its files.
pub fn running(home: &Path) -> Result<Option<Pid>> {
    let path = home.join("run/sturnus.pid");
    let started = Instant::now();
    loop {
        let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(&path) else { return Ok(None) };
        match file.try_lock() {
            Ok(()) => return Ok(None),
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(error) => return Err(error.into()),
        }
        // empty for a moment while the holder writes itself into it
        let pid: Option<i32> = std::fs::read_to_string(&path)?.trim().parse().ok();
        if let Some(pid) = pid.filter(|pid| Path::new(&format!("/proc/{pid}/exe")).exists() || started.elapsed() > LEAVING) {
            return Ok(Some(Pid::from_raw(pid)));
        }
        if started.elapsed() > LEAVING {
            bail!("{} holds no process id", path.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
