//! `sturnus up`: the cloud itself.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base::Config;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Place, down};
use crate::cloud::Cloud;
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
    pub fn run(self, place: &Place) -> Result<ExitCode> {
        let config = place.load()?;
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
            println!("sturnus serves at {} after {} ms (process {})", config.public_url(), started.elapsed().as_millis(), child.id());
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bail!("sturnus does not serve after {} s; see {}", START.as_secs(), log_path.display());
}

fn serve(config: Config) -> Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_new(config.text("log")).context("`log`")?;
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
    let started = Instant::now();
    let home = config.home();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = TcpListener::bind(config.listen()).await.with_context(|| format!("listening on {}", config.listen()))?;
    let cloud = Cloud::open(config.clone()).await?;
    let hosts = machine::Hosts::start(&config, cloud.dial()).await?;
    let (stop, stopped) = watch::channel(false);
    let app = cloud.app.clone();
    let tls = cloud.tls(listener.local_addr()?.ip())?;
    let server = tokio::spawn(Cloud::serve(app, listener, tls, stopped));
    let ready = home.join("run/ready");
    std::fs::write(&ready, std::process::id().to_string())?;
    tracing::info!("serving at {} after {} ms", config.public_url(), started.elapsed().as_millis());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => match cloud.policy_reload() {
                Ok(()) => tracing::info!("policy reloaded"),
                Err(error) => tracing::error!("policy stays as it was: {}", error.chain()),
            },
        }
    }
    tracing::info!("stopping");
    // The ready file may be gone with the whole home; what matters is that it does not outlive us.
    let _ = std::fs::remove_file(&ready);
    let _ = stop.send(true);
    server.await.context("the server task")??;
    hosts.stop().await;
    cloud.close().await;
    Ok(())
}
