//! The guest heartbeat of StarlingX, version 3: what existing guest images speak over the virtio-serial port `cgcs.heartbeat`; and the
//! messages of server groups, version 2, over `cgcs.messaging` ([`messaging`]).
//!
//! [`message`] has the messages, [`lines`] cuts them out of a stream, [`host`] and [`client`] are the two sides as state machines
//! without sockets, clocks or threads: they are given bytes and times, and give bytes and what has happened.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod client;
pub mod host;
pub mod lines;
pub mod message;
pub mod messaging;
pub mod scale;

/// Random numbers, from whoever has them. They are all below 2^31: clients read them into signed numbers.
pub type Random = Box<dyn FnMut() -> u32 + Send>;

/// The port's name.
pub const PORT: &str = "cgcs.heartbeat";
