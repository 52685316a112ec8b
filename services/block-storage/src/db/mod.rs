//! SQL over `&Tx`, one file a resource.

pub mod attachments;
pub mod hosts;
pub mod snapshots;
pub mod types;
pub mod volumes;

use store::Migration;

pub static MIGRATIONS: &[Migration] = &[Migration { name: "0001_volumes", sql: include_str!("../../migrations/0001_volumes.sql") }];
