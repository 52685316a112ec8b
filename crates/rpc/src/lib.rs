//! The controller-host protocol.
//!
//! The controller sends *wanted documents*, complete and with a generation; the host stores them, makes
//! them so and reports what it observes. [`instance`], [`network`] and [`volume`] hold the documents, [`guest`] what guests say of themselves, [`message`] what
//! travels, [`stream`] byte streams beside it, [`session`] the controller's end ([`session::Hosts`]) and the host's end of
//! one link.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod guest;
pub mod heartbeat;
pub mod instance;
pub mod message;
pub mod monitor;
pub mod network;
pub mod session;
pub mod stream;
pub mod volume;
