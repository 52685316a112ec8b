//! SQL over `&Tx`, one file a resource.

pub mod actions;
pub mod aggregates;
pub mod console_tokens;
pub mod leases;
pub mod migrations;
pub mod nodes;
pub mod server_groups;
pub mod server_list;
pub mod servers;
pub mod tags;
pub mod tombstones;
pub mod volumes;

use store::Migration;

/// The tables. Numbers below 20 are of servers and what they stand on, the others of the remaining resources.
pub static MIGRATIONS: &[Migration] = &[
    Migration { name: "0001_servers", sql: include_str!("../../migrations/0001_servers.sql") },
    Migration { name: "0002_flavors_keypairs", sql: include_str!("../../migrations/0002_flavors_keypairs.sql") },
    Migration { name: "0020_aggregates", sql: include_str!("../../migrations/0020_aggregates.sql") },
    Migration { name: "0030_volumes", sql: include_str!("../../migrations/0030_volumes.sql") },
    Migration { name: "0021_console_tokens", sql: include_str!("../../migrations/0021_console_tokens.sql") },
    Migration { name: "0010_server_migrations", sql: include_str!("../../migrations/0010_server_migrations.sql") },
    Migration { name: "0031_many_servers", sql: include_str!("../../migrations/0031_many_servers.sql") },
    Migration { name: "0032_leases", sql: include_str!("../../migrations/0032_leases.sql") },
    Migration { name: "0033_migration_progress", sql: include_str!("../../migrations/0033_migration_progress.sql") },
    Migration { name: "0034_conditions", sql: include_str!("../../migrations/0034_conditions.sql") },
    Migration { name: "0035_resting_hosts", sql: include_str!("../../migrations/0035_resting_hosts.sql") },
    Migration { name: "0036_told", sql: include_str!("../../migrations/0036_told.sql") },
    Migration { name: "0037_fenced_hosts", sql: include_str!("../../migrations/0037_fenced_hosts.sql") },
];
