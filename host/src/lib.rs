//! The host side of the cloud: runs guests, networks and images of one machine from wanted documents.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

use base::error::Internal;

pub mod agent;
mod arrivals;
pub mod cache;
mod cgroup;
mod config_drive;
mod console;
pub mod consoles;
mod cpus;
mod disk_files;
mod disks;
mod documents;
mod drops;
mod events;
mod group_channel;
pub mod guard;
mod guarded;
mod guest_channel;
mod guests;
pub mod hypervisor;
mod info;
mod instance;
mod lease;
pub mod lend;
mod promises;
mod ready;
mod reboot;
pub mod simulated;
mod simulated_consoles;
mod simulated_disk;
mod simulated_guest;
pub mod switch;
mod tap;
#[cfg(test)]
mod testing;
pub mod volume;
mod watchdog;
pub mod wire;

pub use agent::{Agent, AgentHandle, Dial, Options};
pub use cache::{Fetch, ImageSource};
pub use documents::{id, id_set};
pub use guests::{Guest, guests, guests_stop};
pub use hypervisor::qemu::Qemu;

/// Takes a host's key of encrypted tunnels away: it makes a new one at its next start. For a host that joins anew.
pub fn tunnel_key_forget(home: &std::path::Path) -> base::Result<()> {
    switch::cipher::Key::forget(home).internal("the key of encrypted tunnels")
}
