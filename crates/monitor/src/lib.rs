//! Watches this machine (maintenance specification, sections 7 and 8): the processes that packages name in a directory, the
//! processor, memory and filesystems, the links, and the clock. What is not well stands on a [`Board`], as alarms of the catalogue, for the
//! host's agent to report; processes that fail are restarted, everything else is only told.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod board;
mod clocks;
mod filesystems;
mod links;
mod process;
mod resources;

pub use board::Board;
pub use clocks::Clocks;
pub use resources::{Debounce, RAISE, SETTLE};

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::Config;
use tokio::task::JoinSet;

/// What is watched, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A file for each process that is watched.
    pub processes: PathBuf,
    /// How long a second of these files lasts: a test has no time.
    pub second: Duration,
    /// Where orders for processes come, and answers of those that are asked.
    pub orders: SocketAddr,
    pub answers: SocketAddr,
    /// Whether processor, memory and filesystems are watched.
    pub resources: bool,
    pub home: PathBuf,
    /// Directories that are written to and read, besides the home.
    pub filesystems: Vec<PathBuf>,
    /// The address by which other machines reach this one.
    pub address: Option<IpAddr>,
    /// The same on the network among the hosts, and that where users call this machine.
    pub cluster_address: Option<IpAddr>,
    pub public_address: Option<IpAddr>,
    /// Who keeps this machine's time.
    pub clocks: Clocks,
    /// Where the state of links is asked for; none: nowhere.
    pub links: Option<SocketAddr>,
}

impl Settings {
    pub fn of(config: &Config) -> Settings {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Settings {
            processes: config.text("monitor.processes").into(),
            second: Duration::from_secs(1),
            orders: local(2117),
            answers: local(2200),
            resources: config.flag("monitor.resources"),
            home: config.home(),
            filesystems: config
                .text("monitor.filesystems")
                .split(',')
                .map(str::trim)
                .filter(|p| !p.is_empty())
                .map(PathBuf::from)
                .collect(),
            address: config.text("host.address").parse().ok(),
            cluster_address: config.text("host.cluster_address").parse().ok(),
            public_address: Some(config.listen().ip()),
            clocks: Clocks::default(),
            links: config.text("monitor.links").parse().ok(),
        }
    }
}

/// Everything that watches. Ends with this value.
pub struct Monitor {
    pub board: Arc<Board>,
    _tasks: JoinSet<()>,
}

impl Monitor {
    pub fn start(settings: Settings) -> Monitor {
        let board = Arc::new(Board::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(process::watch(settings.clone(), board.clone()));
        let since = Arc::new(links::Since::default());
        tasks.spawn(links::watch(settings.clone(), board.clone(), since.clone()));
        tasks.spawn(clocks::watch(settings.clone(), board.clone()));
        if let Some(at) = settings.links {
            tasks.spawn(links::serve(at, settings.clone(), since));
        }
        if settings.resources {
            let unwritten = Arc::new(filesystems::Unwritten::default());
            tasks.spawn(resources::watch(settings.clone(), board.clone(), unwritten.clone()));
            tasks.spawn(filesystems::watch(settings, board.clone(), unwritten));
        }
        Monitor { board, _tasks: tasks }
    }
}
