//! The machine's hardware watchdog (decision 0013): the guard winds it up, so that a machine on which nobody is left to end guests is
//! reset, and ends them so. Once it is open the machine depends on it, unless it is closed by its magic word.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use base::Config;
use heartbeat::Moment;
use nix::libc;

/// How often it is wound up.
const WIND: Duration = Duration::from_secs(1);
/// How often it is told that it cannot be.
const TELL: Duration = Duration::from_secs(60);
/// What makes the driver stop it when it is closed; one that was built or told not to stop (`nowayout`) goes on all the same.
const MAGIC: &[u8] = b"V";
/// `WDIOC_SETTIMEOUT` of the kernel's watchdog API: `_IOWR('W', 6, int)`.
const SET_TIMEOUT: libc::c_ulong = 0xc004_5706;

pub struct Watchdog {
    path: PathBuf,
    seconds: libc::c_int,
    device: Option<File>,
    /// When that was last tried, and when a failure was last told.
    tried: Option<Moment>,
    told: Option<Moment>,
}

impl Watchdog {
    /// None where the host has none.
    pub fn of(config: &Config) -> Option<Watchdog> {
        let path = config.text("host.watchdog");
        let seconds = libc::c_int::try_from(config.int("host.watchdog_seconds")).unwrap_or(libc::c_int::MAX);
        (!path.is_empty()).then(|| Watchdog { path: path.into(), seconds, device: None, tried: None, told: None })
    }

    /// Winds it up, when it is time to. What goes wrong is told, and tried again.
    pub fn wind(&mut self, now: Moment) {
        if self.tried.is_some_and(|tried| now < tried + WIND) {
            return;
        }
        self.tried = Some(now);
        let outcome = match &mut self.device {
            Some(device) => device.write_all(b"\0"),
            None => self.open(),
        };
        if let Err(error) = outcome {
            self.device = None;
            if self.told.is_none_or(|told| now > told + TELL) {
                tracing::error!("{} cannot be wound up: {error}", self.path.display());
                self.told = Some(now);
            }
        }
    }

    /// Opening it begins its time.
    fn open(&mut self) -> std::io::Result<()> {
        // Whatever lies there, nobody waits for it.
        let device = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.path)?;
        if device.metadata()?.file_type().is_char_device() {
            let mut seconds = self.seconds;
            // SAFETY: the descriptor is open, and the call writes one int, to a live local.
            let set = unsafe { libc::ioctl(device.as_raw_fd(), SET_TIMEOUT as _, &mut seconds) };
            if set < 0 {
                tracing::warn!("{} keeps its own time: {}", self.path.display(), std::io::Error::last_os_error());
            }
        }
        tracing::info!("{} resets this machine when it is not wound up for {} s", self.path.display(), self.seconds);
        self.device = Some(device);
        Ok(())
    }

    /// Ends it in an orderly way.
    pub fn close(mut self) {
        if let Some(mut device) = self.device.take()
            && let Err(error) = device.write_all(MAGIC)
        {
            tracing::error!("{} cannot be stopped, and will reset this machine: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watchdog(path: &std::path::Path) -> Watchdog {
        let mut config = Config::for_home("/nowhere");
        config.set("host.watchdog", &path.to_string_lossy());
        Watchdog::of(&config).unwrap()
    }

    #[test]
    fn it_is_wound_up_once_a_second_and_stopped_by_its_word() {
        assert!(Watchdog::of(&Config::for_home("/nowhere")).is_none());
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("watchdog");
        let mut watchdog = watchdog(&path);
        // One that is not there yet is opened as soon as it is.
        watchdog.wind(Duration::from_secs(1));
        std::fs::write(&path, "").unwrap();
        let wound = |watchdog: &mut Watchdog, millis| {
            watchdog.wind(Duration::from_millis(millis));
            std::fs::read(&path).unwrap()
        };
        assert_eq!(wound(&mut watchdog, 1500), b"");
        assert_eq!(wound(&mut watchdog, 2000), b"");
        assert_eq!(wound(&mut watchdog, 3000), b"\0");
        assert_eq!(wound(&mut watchdog, 3999), b"\0");
        assert_eq!(wound(&mut watchdog, 4000), b"\0\0");
        watchdog.close();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0V");
    }
}
