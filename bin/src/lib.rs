//! The program as a library: [`cloud::Cloud`] is a whole all-in-one cloud in this process. The executable
//! and the tests start it the same way.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod certificates;
pub mod client;
pub mod cloud;
pub mod command;
pub mod credentials;
mod housekeeping;
pub mod joined;
mod lenders;
pub mod machine;
mod simulated;
