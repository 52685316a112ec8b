//! The host: its documents over simulated machines, guests in QEMU (tests whose names begin with `vm_`), and networks in namespaces
//! (`net_`). One executable: each takes as long to link as all of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_days;
mod common;
mod net_apply;
mod net_cipher;
mod net_ports;
mod net_routers;
mod net_services;
mod net_support;
mod net_tunnels;
mod net_vlans;
mod shared_storage;
mod simulated;
mod vm;
mod vm_actions;
mod vm_consoles;
mod vm_moves;
mod vm_processors;
mod vm_snapshots;
mod vm_troubles;
mod volumes;
