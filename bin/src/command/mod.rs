//! The command line.

mod config;
mod doctor;
mod down;
mod fm;
mod guest;
mod host;
mod identity;
mod init;
mod join;
mod operation;
mod policy;
mod pretty;
mod seed;
mod system;
mod table;
mod up;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use base::Config;
use clap::{Args, CommandFactory, Parser, Subcommand};

/// One program that turns a Linux machine into a carrier-grade OpenStack cloud.
///
/// Start a cloud with `sturnus up`, then use the stock `openstack` command with the `openrc` or
/// `clouds.yaml` it writes into its home.
#[derive(Parser)]
#[command(
    name = "sturnus",
    version,
    propagate_version = true,
    after_help = "The home of a cloud is --home, else STURNUS_HOME, else /var/lib/sturnus."
)]
struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Which cloud on this machine is meant.
#[derive(Args, Clone)]
pub struct Place {
    /// Directory of all state
    #[arg(long, global = true, env = "STURNUS_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Configuration file [default: sturnus.toml in the home]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    fn home(&self) -> Result<PathBuf> {
        Ok(std::path::absolute(self.home.clone().unwrap_or_else(|| "/var/lib/sturnus".into()))?)
    }

    /// The configuration's file, there or not.
    pub fn file(&self) -> Result<PathBuf> {
        Ok(self.config.clone().unwrap_or(self.home()?.join("sturnus.toml")))
    }

    /// The configuration in force.
    pub fn load(&self) -> Result<Config> {
        let (home, file) = (self.home()?, self.file()?);
        let mut config = Config::load(&file, self.config.is_some(), std::env::vars())?;
        if self.home.is_some() || config.text("home").is_empty() {
            config.set("home", &home.to_string_lossy());
        }
        Ok(config)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Run what this machine is: a cloud of its own (controller and host in one process), or a host that joined one
    Up(up::Up),
    /// Run the controller only: no guests on this machine
    Controller(up::Up),
    /// Run this machine's host, or list, lock, unlock and delete hosts of the cloud
    Host(host::Host),
    /// Make this machine the first one of a cloud that others can join
    Init(init::Init),
    /// Make this machine a host of a cloud
    Join(join::Join),
    /// Stop the cloud of this home; guests go on running unless --guests is given
    Down(down::Down),
    /// Create what a new cloud needs for a first try: flavors, an image, networks (repeatable)
    Seed(seed::Seed),
    /// Show the configuration in force, or document every key
    Config(config::Show),
    /// List policy rules, or ask who may do what
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Look after accounts and tokens at the machine itself: when nobody can log in, keys have leaked, a mapping is being written
    #[command(subcommand)]
    Identity(identity::Identity),
    /// Alarms and events (also called as `fm`)
    Fm(Box<fm::Command>),
    /// Hosts, in StarlingX's words (also called as `system`)
    #[command(subcommand)]
    System(system::System),
    /// Look for anything on this machine that a host left behind
    Doctor(doctor::Doctor),
    /// What the cloud is busy with: durable operations of every service
    #[command(subcommand)]
    Operation(operation::Operation),
    /// Guests of this machine
    #[command(subcommand)]
    Guest(guest::Guest),
    /// Answer the controller's pulses and guard this host's lease (the host starts it itself)
    #[command(hide = true)]
    Guard,
    /// Print the completion script of a shell
    Completion { shell: clap_complete::Shell },
}

/// Runs the command line; called as `fm` or `system` it is that command.
pub fn main(args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let args: Vec<OsString> = args.collect();
    if called_as(&args, "fm") {
        let fm::Alone { place, command } = fm::Alone::parse_from(args);
        return block_on(command.run(&place));
    }
    if called_as(&args, "system") {
        return system::Alone::parse_from(args).run();
    }
    let cli = Cli::parse_from(args);
    match cli.command {
        Command::Up(up) => up.run(&cli.place, None),
        Command::Controller(up) => up.run(&cli.place, Some("controller")),
        Command::Host(host) => host.run(&cli.place),
        Command::Init(init) => init.run(&cli.place),
        Command::Join(join) => block_on(join.run(&cli.place)),
        Command::Down(down) => down.run(&cli.place),
        Command::Config(show) => show.run(&cli.place),
        Command::Policy(policy) => policy.run(&cli.place),
        Command::Identity(identity) => block_on(identity.run(&cli.place)),
        Command::Fm(fm) => block_on(fm.run(&cli.place)),
        Command::System(system) => block_on(system.run(&cli.place)),
        Command::Doctor(doctor) => doctor.run(&cli.place),
        Command::Operation(operation) => block_on(operation.run(&cli.place)),
        Command::Guest(guest) => guest.run(&cli.place),
        Command::Seed(seed) => block_on(seed.run(&cli.place)),
        Command::Guard => {
            tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
            ::host::guard::run(&cli.place.load()?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sturnus", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A link named like a command of ours is that command.
fn called_as(args: &[OsString], name: &str) -> bool {
    args.first().is_some_and(|first| Path::new(first).file_name().is_some_and(|file| file == name))
}

/// Writes the configuration's file, whole or not at all.
fn write_config(path: &Path, text: &str) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let part = path.with_extension("part");
    std::fs::write(&part, text)?;
    std::fs::File::open(&part)?.sync_all()?;
    Ok(std::fs::rename(&part, path)?)
}

/// A small runtime for client commands.
fn block_on(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
