//! Reconcilers.

pub mod group_alarms;
pub mod server_alarms;
pub mod server_power;
