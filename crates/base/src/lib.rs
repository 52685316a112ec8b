//! What every crate shares and what needs no I/O: errors, ids, time, the caller's context, configuration.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod context;
pub mod error;
pub mod id;
pub mod time;

pub use config::Config;
pub use context::{Context, Scope};
pub use error::{Error, Kind, Result};
pub use time::Timestamp;
