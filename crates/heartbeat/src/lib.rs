//! Heartbeat between a controller and its hosts, and the lease by which a host that is cut off stops its guests before they are
//! started elsewhere (design sections 4 and 5, maintenance specification section 6, decision 0013).
//!
//! Nothing here has a socket or a clock: [`Watch`] is the controller's side and [`Lease`] the host's, both are told what came and
//! what time it is, and say what to send. That makes the promise they keep together testable in every order of events:
//!
//! > when [`Watch::fenced`] says so of a host, that host's [`Lease::holds`] is false, and stays so until the controller admits it
//! > again ([`Watch::admit`]).
//!
//! It rests on clocks that advance at the same rate within [`MARGIN`], and on nothing that the network does: packets may be lost,
//! late, doubled, forged or come in any order.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod frame;
mod lease;
#[cfg(test)]
mod simulation;
mod watch;

pub use frame::{FRAME, Frame, Key, Kind, Refused};
pub use lease::Lease;
pub use watch::{Change, Health, Rules, Watch, Way};

use std::time::Duration;

/// Time since an origin that does not change while the machine is up and also counts while it sleeps (`CLOCK_BOOTTIME`). Each
/// side has its own; they are never compared.
pub type Moment = Duration;

/// From one pulse to the next.
pub const PERIOD: Duration = Duration::from_millis(100);
/// Pulses in a row without an answer until something is said of it, until the host counts as degraded, and until it is lost; the last two
/// unless other ones are set ([`Rules`]).
pub const MINOR: u32 = 4;
pub const DEGRADE: u32 = 6;
pub const LOSS: u32 = 10;
/// Answers in a row until a host that was lost is back.
pub const BACK: u32 = 10;
/// How long a host may keep guests that others could start, from the moment for which the controller last gave it the right.
/// Long enough for a controller that restarts, short enough for guests to run elsewhere within five seconds of a loss.
pub const LEASE: Duration = Duration::from_secs(3);
/// What the controller waits beyond the lease: for clocks that differ in rate, and for a host to end its guests' processes.
pub const MARGIN: Duration = Duration::from_millis(500);
/// A host that has heard no pulse for so long says of itself, when another one asks, that it does not hear the controller. More
/// than [`DEGRADE`] and [`WINDOW`] periods together, each as long as it may last: a host that is not degraded to the controller
/// never says so.
pub const SILENT: Duration = Duration::from_millis(1700);
/// A period that lasted longer than this is one in which the controller itself stood still.
pub const LATE: Duration = Duration::from_millis(150);
/// Answers to older pulses than so many tell nothing of now.
pub const WINDOW: u64 = 5;
/// How long what another host said of the controller counts.
pub const VOTE: Duration = Duration::from_millis(500);
/// Machines a site must have for leases. Of two, neither can tell whether the other one is gone or the way to it: there guests
/// run on, and none is started elsewhere before somebody else has switched its host off.
pub const SITE: usize = 3;

/// How many times as long a period is while more hosts are silent at once than fail at once: a network that is overloaded gets less.
pub const BACKOFF: u32 = 4;
/// For how long it stays so when they answer again.
pub const SETTLE: Duration = Duration::from_secs(3);

const _: () = assert!(SILENT.as_millis() > (DEGRADE as u128 + WINDOW as u128) * LATE.as_millis());
const _: () = assert!(LEASE.as_millis() > SILENT.as_millis() + 2 * VOTE.as_millis());
