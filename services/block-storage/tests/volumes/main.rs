//! The service in a whole cloud on simulated hosts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api;
mod groups;
mod images;
mod operations;
mod room;
