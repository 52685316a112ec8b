//! Sessions of the controller-host protocol over the network: one bidirectional gRPC stream, dialled by the host,
//! with certificates on both sides. Beside the session a host fetches images and renews its certificate ([`Desk`]).
//!
//! What travels is `rpc::message` as JSON in numbered envelopes; what it means, and the greeting that settles the
//! version, is the business of [`rpc::session`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod codec;
mod dial;
mod serve;
mod tls;

use std::time::Duration;

pub use codec::LIMIT;
pub use dial::{dial, dial_with, image, renew};
pub use serve::{Desk, Renewed, serve, serve_with};
pub use tls::{ClientTls, ServerTls};

/// Code from `proto/session.proto`.
mod wire {
    #![allow(clippy::all, clippy::unwrap_used, clippy::expect_used)]
    tonic::include_proto!("sturnus.session.v1");
}

/// Messages that wait at each end of a stream before their sender does.
const BACKLOG: usize = 64;
/// What may be under way in one direction.
const WINDOW: u32 = 1024 * 1024;

/// How patient an end is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For a connection, its handshake and its first answer.
    pub handshake: Duration,
    /// Silence after which the peer is asked whether it lives.
    pub keep_alive: Duration,
    /// How long it may take to answer that: after both a cut connection is noticed.
    pub keep_alive_answer: Duration,
    /// How often a live session's certificate is looked up among the revoked.
    pub revocation: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Timing { handshake: seconds(10), keep_alive: seconds(5), keep_alive_answer: seconds(5), revocation: seconds(2) }
    }
}
