//! `sturnus up`, `sturnus controller` and `sturnus host`: the cloud itself, whole or one side of it.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base::Config;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{Place, down};
use crate::cloud::Cloud;
use crate::joined::Joined;
use crate::machine;

/// How long `--daemon` waits for the cloud to serve.
const START: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Up {
    /// Go on in the background once every API answers; log to sturnus.log in the home
    #[arg(long)]
    daemon: bool,
}

impl Up {
    /// `role`: other than the configuration's.
    pub fn run(self, place: &Place, role: Option<&str>) -> Result<ExitCode> {
        let mut config = place.load()?;
        if let Some(role) = role {
            config.set("role", role);
        }
        if self.daemon { start_in_background(&config) } else { serve(config) }
    }
}

fn start_in_background(config: &Config) -> Result<ExitCode> {
    let home = config.home();
    if let Some(pid) = down::running(&home)? {
        println!("sturnus is already running (process {pid})");
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
    let log_path = home.join("sturnus.log");
    let log = File::options().create(true).append(true).open(&log_path).with_context(|| log_path.display().to_string())?;
    let started = Instant::now();
    let args: Vec<_> = std::env::args_os().skip(1).filter(|a| a != "--daemon").collect();
    // A process group of its own: a terminal's interrupt is not meant for the cloud.
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("starting sturnus")?;
    let ready = home.join("run/ready");
    while started.elapsed() < START {
        if let Some(status) = child.try_wait()? {
            bail!("sturnus ended at once ({status}); see {}", log_path.display());
        }
        if std::fs::read_to_string(&ready).is_ok_and(|pid| pid == child.id().to_string()) {
            let what = match config.text("role") {
                "host" => format!("a host of {}", config.text("controller.url")),
                _ => format!("serving at {}", config.public_url()),
            };
            println!("sturnus is {what} after {} ms (process {})", started.elapsed().as_millis(), child.id());
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bail!("sturnus is not ready after {} s; see {}", START.as_secs(), log_path.display());
}

fn serve(config: Config) -> Result<ExitCode> {
    // Each tunnel's library tells of every host that is away; which hosts are, is known better.
    let filter = format!("boringtun=off,{}", config.text("log"));
    let filter = tracing_subscriber::EnvFilter::try_new(filter).context("`log`")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let home = config.home();
    std::fs::create_dir_all(home.join("run")).with_context(|| home.display().to_string())?;
    let _lock = lock(&home)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build()?;
    runtime.block_on(run(config))?;
    // Blocking work that nobody waits for any more must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 16))
}

/// One process a home: the lock goes with the process, however it ends.
fn lock(home: &Path) -> Result<File> {
    let path = home.join("run/sturnus.pid");
    let mut file = File::options().create(true).truncate(false).write(true).open(&path).with_context(|| path.display().to_string())?;
    // A killed process keeps its lock until the kernel has closed its files, and so does a child of it that has not become
    // another program yet: only one that lasts is another cloud.
    let started = Instant::now();
    while file.try_lock().is_err() {
        if started.elapsed() > down::LEAVING {
            bail!("another sturnus runs in {}", home.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

async fn run(config: Config) -> Result<()> {
    match config.text("role") {
        "host" => run_host(config).await,
        role => run_controller(&config, role != "controller").await,
    }
}

/// What the user wants of a running process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let [terminate, interrupt, hangup] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Signals { terminate: terminate?, interrupt: interrupt?, hangup: hangup? })
    }

    /// True: read the configuration's files again. False: stop.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
            _ = self.hangup.recv() => true,
        }
    }
}

/// The file that says that this process serves, as long as it does.
struct Ready(PathBuf);

impl Ready {
    fn say(home: &Path) -> Result<Ready> {
        let path = home.join("run/ready");
        std::fs::write(&path, std::process::id().to_string())?;
        Ok(Ready(path))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // It may be gone with the whole home; what matters is that it does not outlive us.
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn run_host(mut config: Config) -> Result<()> {
    let joined = Joined::open(&config)?;
    let mut signals = Signals::new()?;
    if config.text("host.address").is_empty() {
        config.set("host.address", &joined.address().await?.to_string());
    }
    let own = (joined.id()?, std::env::current_exe()?);
    let hosts = machine::Hosts::start(&config, joined.dial(), joined.images(), Some(own)).await?;
    let renewing = tokio::spawn(joined.clone().renew());
    let ready = Ready::say(&config.home())?;
    tracing::info!("a host of {}, at {}", joined.url(), config.text("host.address"));
    while signals.next().await {}
    tracing::info!("stopping");
    drop(ready);
    renewing.abort();
    hosts.stop().await;
    Ok(())
}

async fn run_controller(config: &Config, with_host: bool) -> Result<()> {
    let started = Instant::now();
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(config.listen()).await.with_context(|| format!("listening on {}", config.listen()))?;
    let cloud = Cloud::open(config.clone()).await?;
    let images = host::ImageSource::Directory(config.home().join("images"));
    let hosts = if with_host { Some(machine::Hosts::start(config, cloud.dial(), images, None).await?) } else { None };
    let (stop, stopped) = watch::channel(false);
    let app = cloud.app.clone();
    let tls = cloud.tls(listener.local_addr()?.ip())?;
    let sessions = match config.text("hosts.listen") {
        "" => None,
        address => {
            let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
            let address = listener.local_addr()?.ip();
            Some((
                tokio::spawn(cloud.sessions(listener, stopped.clone()).await?),
                tokio::spawn(cloud.maintenance.clone().watch(address, stopped.clone())?),
            ))
        }
    };
    let clients = cloud.faults.clients(stopped.clone())?.map(tokio::spawn);
    let snmp = cloud.faults.snmp(stopped.clone()).map(tokio::spawn);
    let server = tokio::spawn(Cloud::serve(app, listener, tls, stopped));
    let ready = Ready::say(&config.home())?;
    tracing::info!("serving at {} after {} ms", config.public_url(), started.elapsed().as_millis());
    while signals.next().await {
        match cloud.policy_reload() {
            Ok(()) => tracing::info!("policy reloaded"),
            Err(error) => tracing::error!("policy stays as it was: {}", error.chain()),
        }
    }
    tracing::info!("stopping");
    drop(ready);
    let _ = stop.send(true);
    server.await.context("the server task")??;
    if let Some(clients) = clients {
        clients.await.context("the fault clients' task")?;
    }
    if let Some(snmp) = snmp {
        snmp.await.context("the SNMP task")?;
    }
    if let Some((sessions, watch)) = sessions {
        sessions.await.context("the sessions' task")??;
        watch.await.context("the task that watches hosts")?;
    }
    if let Some(hosts) = hosts {
        hosts.stop().await;
    }
    cloud.close().await;
    Ok(())
}
