//! Servers as a client sees them, on simulated hosts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod aggregates;
mod conditions;
mod consoles;
mod groups;
mod guests;
mod legacy;
mod life;
mod lifecycle;
mod lists;
mod live;
mod messages;
mod moves;
mod older;
mod operations;
mod parts;
mod proxies;
mod proxies_images;
mod proxies_networks;
mod proxies_volumes;
mod refusals;
mod shelf;
mod troubles;
mod volume_backed;
mod volumes;
mod world;
