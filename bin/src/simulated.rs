//! Hosts that are only played, in this process: for tests of a whole cloud at any size. What each has lies in `simulated/NAME` of
//! the home, so that guests and disks outlive the process. A socket in `run` takes orders: who dies, who vanishes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Config;
use host::simulated::{SimulatedHypervisor, SimulatedWire};
use host::{Agent, AgentHandle, Dial, Options};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

struct Host {
    config: Config,
    hypervisor: SimulatedHypervisor,
    agent: Option<AgentHandle>,
}

/// All simulated hosts of this process.
pub struct Simulated {
    hosts: Arc<Mutex<BTreeMap<String, Host>>>,
    orders: JoinHandle<()>,
}

impl Simulated {
    pub async fn start(config: &Config, dial: Dial) -> Result<Simulated> {
        let mut hosts = BTreeMap::new();
        for number in 0..config.int("host.simulated_hosts") {
            let name = format!("simulated-{number}");
            let home = config.home().join("simulated").join(&name);
            let mut own = config.clone();
            own.set("home", &home.to_string_lossy());
            own.set("host.name", &name);
            let hypervisor = SimulatedHypervisor::open(&home.join("machine"))?;
            let mut host = Host { config: own, hypervisor, agent: None };
            host.come(&dial).await?;
            hosts.insert(name, host);
        }
        let hosts = Arc::new(Mutex::new(hosts));
        let orders = tokio::spawn(listen(socket(config)?, hosts.clone(), dial));
        Ok(Simulated { hosts, orders })
    }

    pub async fn stop(self) {
        self.orders.abort();
        for host in self.hosts.lock().await.values_mut() {
            host.vanish().await;
        }
    }
}

impl Host {
    async fn come(&mut self, dial: &Dial) -> Result<()> {
        if self.agent.is_none() {
            let (hypervisor, wire) = (Arc::new(self.hypervisor.clone()), Arc::new(SimulatedWire::default()));
            let options = Options { config: self.config.clone(), hypervisor, wire, dial: dial.clone(), sync: false, id: None, guard: None };
            self.agent = Some(Agent::start(options).await?);
        }
        Ok(())
    }

    /// In the middle of whatever it does; guests go on.
    async fn vanish(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
    }

    async fn obey(&mut self, order: &str, dial: &Dial) -> Result<String> {
        let done = match order.split_whitespace().collect::<Vec<_>>()[..] {
            ["guests"] => return Ok(self.hypervisor.running().join(" ")),
            ["kill", guest] => self.hypervisor.kill(guest, "killed by SIGKILL"),
            ["panic", guest] => self.hypervisor.panic(guest),
            ["vanish"] => {
                self.vanish().await;
                true
            }
            ["return"] => {
                self.come(dial).await?;
                true
            }
            ["cut"] => {
                self.vanish().await;
                self.hypervisor.power_cut();
                self.come(dial).await?;
                true
            }
            ["delay", ms] => {
                let delay = Duration::from_millis(ms.parse()?);
                self.hypervisor.trouble(|t| t.delay = delay);
                true
            }
            _ => bail!("no such order: {order}"),
        };
        Ok(if done { "done" } else { "no such guest" }.to_string())
    }
}

fn socket(config: &Config) -> Result<UnixListener> {
    let path: PathBuf = config.home().join("run/simulated.sock");
    // What is there belongs to a process that is gone: the home's lock is ours.
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).with_context(|| path.display().to_string())
}

async fn listen(socket: UnixListener, hosts: Arc<Mutex<BTreeMap<String, Host>>>, dial: Dial) {
    let mut talks = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = socket.accept().await {
        let (hosts, dial) = (hosts.clone(), dial.clone());
        talks.spawn(async move {
            if let Err(error) = talk(stream, &hosts, &dial).await {
                tracing::warn!("orders to simulated hosts: {error:#}");
            }
        });
        while talks.try_join_next().is_some() {}
    }
}

/// Each line is an order, `HOST WORD...`, and is answered by one.
async fn talk(stream: UnixStream, hosts: &Mutex<BTreeMap<String, Host>>, dial: &Dial) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let mut hosts = hosts.lock().await;
        let (name, order) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match hosts.get_mut(name) {
            Some(host) => host.obey(order, dial).await.unwrap_or_else(|error| format!("error: {error:#}")),
            None => format!("error: no host {name}"),
        };
        drop(hosts);
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}
