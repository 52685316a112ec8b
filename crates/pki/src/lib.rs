//! The built-in authority.
//!
//! One directory holds all of it: `ca.key` and `ca.crt`, `issued` (one line of JSON for each certificate) and
//! `revoked` (the same for those that are no longer good). Every file is replaced whole and synced before its new
//! name counts; `lock` keeps processes apart. A host that joined has a directory of the same kind with its own key and
//! certificate ([`HostFiles`]): its key never leaves it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod authority;
mod files;
mod host;
mod life;
mod pair;
mod peer;
mod revocations;
mod served;

pub use authority::{Authority, Issued, request_check};
pub use host::{HostFiles, Request, fingerprint};
pub use life::Life;
pub use pair::{End, Pair};
pub use peer::{Peer, peer};
pub use revocations::Revocations;
pub use served::Served;
