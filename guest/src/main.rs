//! The client inside a guest: keeps a heartbeat with the host over a serial port, and has its scripts vote on what is done with the
//! guest. One small program without threads, to be linked statically, so that it runs in any guest.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod config;
mod port;
mod run;
mod script;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::config::Config;
use crate::port::Device;

const DEVICE: &str = "/dev/virtio-ports/cgcs.heartbeat";
const CONFIG: &str = "/etc/guest-client/heartbeat/guest_heartbeat.conf";
const USAGE: &str = "usage: sturnus-guest [--device PATH] [--config PATH]";
/// Init systems know by it that there is nothing to be started again.
const NOT_CONFIGURED: u8 = 6;

fn main() -> ExitCode {
    let (mut device, mut config) = (PathBuf::from(DEVICE), PathBuf::from(CONFIG));
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let place = match argument.to_str() {
            Some("--device") => &mut device,
            Some("--config") => &mut config,
            _ => return usage(),
        };
        match arguments.next() {
            Some(path) => *place = path.into(),
            None => return usage(),
        }
    }
    let config = match std::fs::read_to_string(&config).map_err(|e| e.to_string()).and_then(|text| Config::parse(&text)) {
        Ok(config) => config,
        Err(why) => {
            eprintln!("{}: {why}", config.display());
            return ExitCode::from(NOT_CONFIGURED);
        }
    };
    // Asked to end, it takes leave first.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    let stop = signals.thread_block().and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC));
    match stop {
        Ok(stop) => {
            run::run(&mut Device::new(device), &config, stop.as_fd());
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("signals: {e}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
