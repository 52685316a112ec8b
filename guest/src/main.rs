//! The client inside a guest: keeps a heartbeat with the host over a serial port, and has its scripts and applications vote on what is done
//! with the guest; called with `messages`, it has the port for messages instead, and called with `scale`, it does with more or fewer vCPUs as
//! the host asks over that port. One small program without threads, to be linked statically, so that it runs in any guest.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod api;
mod config;
mod cpus;
mod messages;
mod port;
mod run;
mod scale;
mod script;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::api::Api;
use crate::config::Config;
use crate::cpus::Cpus;
use crate::port::Device;
use crate::scale::Scaler;

const DEVICE: &str = "/dev/virtio-ports/cgcs.heartbeat";
const MESSAGES: &str = "/dev/virtio-ports/cgcs.messaging";
const CONFIG: &str = "/etc/guest-client/heartbeat/guest_heartbeat.conf";
const CPUS: &str = "/sys/devices/system/cpu";
const HELPER: &str = "/usr/sbin/app_scale_helper";
const METADATA: &str = "169.254.169.254:80";
const USAGE: &str = "usage: sturnus-guest [--device PATH] [--config PATH] [--applications PATH]
       sturnus-guest messages [--device PATH]
       sturnus-guest scale [--cpus PATH] [--helper PATH] [--metadata ADDRESS:PORT]";
/// Init systems know by it that there is nothing to be started again.
const NOT_CONFIGURED: u8 = 6;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let messages = arguments.next_if(|word| word == "messages").is_some();
    let scales = !messages && arguments.next_if(|word| word == "scale").is_some();
    let beats = !messages && !scales;
    let mut device = PathBuf::from(if messages { MESSAGES } else { DEVICE });
    let (mut config, mut applications) = (PathBuf::from(CONFIG), PathBuf::from(api::SOCKET));
    let (mut cpus, mut helper, mut metadata) = (PathBuf::from(CPUS), PathBuf::from(HELPER), PathBuf::from(METADATA));
    while let Some(argument) = arguments.next() {
        let place = match argument.to_str() {
            Some("--device") if !scales => &mut device,
            Some("--config") if beats => &mut config,
            Some("--applications") if beats => &mut applications,
            Some("--cpus") if scales => &mut cpus,
            Some("--helper") if scales => &mut helper,
            Some("--metadata") if scales => &mut metadata,
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
    if scales {
        let Some(metadata) = metadata.to_str().and_then(|address| address.parse().ok()) else { return usage() };
        return scale(Scaler { cpus: Cpus(cpus), helper, daemon: guest::messaging::PORT.into() }, metadata, &stop);
    }
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

/// Has the address of scaling, and does without what the metadata says first.
fn scale(scaler: Scaler, metadata: SocketAddr, stop: &SignalFd) -> ExitCode {
    // Bound first: what is asked meanwhile waits.
    let socket = match messages::bind(guest::scale::SCALE) {
        Ok(socket) => socket,
        Err(e) => {
            eprintln!("@{}: {e}", guest::scale::SCALE);
            return ExitCode::FAILURE;
        }
    };
    scaler.without(&scale::offline_at_boot(metadata));
    scaler.run(&socket, stop.as_fd());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
