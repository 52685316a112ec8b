//! A whole cloud as its clients see it, on simulated hosts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bodies;
mod cases;
mod coverage;
mod fencing;
mod losses;
mod recovery;
mod servers;
