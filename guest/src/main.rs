//! The client inside a guest: keeps a heartbeat with the host over a serial port, and has its scripts and applications vote on what is done
//! with the guest; called with `messages`, it has the port for messages of the server's group instead. One small program without threads, to be linked statically, so that it runs in any guest.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod api;
mod config;
mod messages;
mod port;
mod run;
mod script;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::api::Api;
use crate::config::Config;
use crate::port::Device;

const DEVICE: &str = "/dev/virtio-ports/cgcs.heartbeat";
const MESSAGES: &str = "/dev/virtio-ports/cgcs.messaging";
const CONFIG: &str = "/etc/guest-client/heartbeat/guest_heartbeat.conf";
const USAGE: &str =
    "usage: sturnus-guest [--device PATH] [--config PATH] [--applications PATH]\n       sturnus-guest messages [--device PATH]";
/// Init systems know by it that there is nothing to be started again.
const NOT_CONFIGURED: u8 = 6;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let messages = arguments.next_if(|word| word == "messages").is_some();
    let mut device = PathBuf::from(if messages { MESSAGES } else { DEVICE });
    let (mut config, mut applications) = (PathBuf::from(CONFIG), PathBuf::from(api::SOCKET));
    while let Some(argument) = arguments.next() {
        let place = match argument.to_str() {
            Some("--device") => &mut device,
            Some("--config") if !messages => &mut config,
            Some("--applications") if !messages => &mut applications,
            _ => return usage(),
        };
        match arguments.next() {
            Some(path) => *place = path.into(),
            None => return usage(),
        }
    }
    // Asked to end, it takes leave first.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    let stop = signals.thread_block().and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC));
    let stop = match stop {
        Ok(stop) => stop,
        Err(e) => {
            eprintln!("signals: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut device = Device::new(device);
    if messages {
        return match messages::bind(guest::messaging::PORT) {
            Ok(socket) => {
                messages::run(&mut device, &socket, stop.as_fd());
                ExitCode::SUCCESS
            }
            Err(e) => {
                eprintln!("@{}: {e}", guest::messaging::PORT);
                ExitCode::FAILURE
            }
        };
    }
    let config = match std::fs::read_to_string(&config).map_err(|e| e.to_string()).and_then(|text| Config::parse(&text)) {
        Ok(config) => config,
        Err(why) => {
            eprintln!("{}: {why}", config.display());
            return ExitCode::from(NOT_CONFIGURED);
        }
    };
    // The guest can do without applications.
    let api = Api::open(&applications).inspect_err(|e| eprintln!("{}: {e}", applications.display())).ok();
    run::run(&mut device, &config, api, stop.as_fd());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
