//! SQL over `&Tx`, one file a resource.

pub mod attachments;
pub mod groups;
pub mod hosts;
pub mod images;
pub mod messages;
pub mod pools;
pub mod snapshots;
pub mod types;
pub mod visits;
pub mod volumes;

use store::Migration;

pub static MIGRATIONS: &[Migration] = &[
    Migration { name: "0001_volumes", sql: include_str!("../../migrations/0001_volumes.sql") },
    Migration { name: "0002_messages", sql: include_str!("../../migrations/0002_messages.sql") },
    Migration { name: "0003_groups", sql: include_str!("../../migrations/0003_groups.sql") },
    Migration { name: "0004_visits", sql: include_str!("../../migrations/0004_visits.sql") },
    Migration { name: "0005_shared_storage", sql: include_str!("../../migrations/0005_shared_storage.sql") },
    Migration { name: "0006_pools", sql: include_str!("../../migrations/0006_pools.sql") },
    Migration { name: "0007_images", sql: include_str!("../../migrations/0007_images.sql") },
];
