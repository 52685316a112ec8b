//! Sessions over real connections on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod trust;
mod wire;
mod world;
