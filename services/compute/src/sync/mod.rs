//! Reconcilers.

pub mod server_power;
