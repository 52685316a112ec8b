//! The serial port to the host.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often a device that cannot be opened is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Something to talk over that may be closed for a while.
pub trait Port {
    /// What to wait on, if it is open.
    fn fd(&mut self) -> Option<BorrowedFd<'_>>;
    /// Bytes that have come, none if there are no more now. An error: it is closed.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize>;
    /// How many of the bytes it has taken.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize>;
    fn close(&mut self);
}

/// A device that may not be there yet.
pub struct Device {
    path: PathBuf,
    file: Option<File>,
    tried: Option<Instant>,
}

impl Device {
    pub fn new(path: PathBuf) -> Device {
        Device { path, file: None, tried: None }
    }
}

impl Port for Device {
    fn fd(&mut self) -> Option<BorrowedFd<'_>> {
        if self.file.is_none() && self.tried.is_none_or(|at| at.elapsed() >= AGAIN) {
            self.tried = Some(Instant::now());
            self.file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&self.path).ok();
        }
        self.file.as_ref().map(File::as_fd)
    }
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.file.as_mut().map(|file| file.read(buffer)) {
            // Nobody has it open on the other side.
            Some(Ok(0)) | None => Err(ErrorKind::NotConnected.into()),
            Some(read) => patient(read),
        }
    }
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.file.as_mut() {
            Some(file) => patient(file.write(bytes)),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }
    fn close(&mut self) {
        self.file = None;
    }
}

/// Nothing now is no error.
pub fn patient(done: std::io::Result<usize>) -> std::io::Result<usize> {
    match done {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        done => done,
    }
}

/// One end of a pair of sockets as a port.
#[cfg(test)]
pub struct Socket(pub std::os::unix::net::UnixStream);

#[cfg(test)]
impl Port for Socket {
    fn fd(&mut self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        patient(self.0.read(buffer))
    }
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        patient(self.0.write(bytes))
    }
    fn close(&mut self) {}
}
