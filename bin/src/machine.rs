//! The hosts of this machine, as the configuration describes it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use base::{Config, Error, Result};
use host::switch::{self, Switch};
use host::{Agent, AgentHandle, Dial, ImageSource, Options, Qemu};

use crate::simulated::Simulated;

/// The hosts of this process: this machine's own, with real QEMU on a real network, or simulated ones where the configuration
/// asks for them.
pub enum Hosts {
    Real(AgentHandle),
    Simulated(Simulated),
}

impl Hosts {
    /// `images`: where this machine's host has its images from. `joined`: of a host of another machine's cloud its id there, and the
    /// program that guards it.
    pub async fn start(config: &Config, dial: Dial, images: ImageSource, joined: Option<(String, PathBuf)>) -> anyhow::Result<Hosts> {
        if config.flag("host.simulated") {
            return Simulated::start(config, dial).await.map(Hosts::Simulated);
        }
        let hypervisor = Qemu::open(config, images)?;
        let wire = Switch::start(config.home(), switch_options(config)?)?;
        let (id, guard) = joined.unzip();
        Ok(Hosts::Real(Agent::start(Options { config: config.clone(), hypervisor, wire, dial, sync: true, id, guard }).await?))
    }

    /// Guests and network stay as they are.
    pub async fn stop(self) {
        match self {
            Hosts::Real(agent) => agent.stop().await,
            Hosts::Simulated(simulated) => simulated.stop().await,
        }
    }
}

/// Where tunnels to other hosts end. A machine that others cannot reach has none.
fn vtep(config: &Config) -> Option<IpAddr> {
    let given = config.text("host.address").parse().ok();
    given.or_else(|| Some(config.listen().ip())).filter(|address: &IpAddr| !address.is_loopback() && !address.is_unspecified())
}

/// What the switch takes from the configuration.
fn switch_options(config: &Config) -> Result<switch::Options> {
    let resolvers = config.text("host.dns").split(',').map(str::trim).filter(|a| !a.is_empty());
    let resolvers =
        resolvers.map(|a| a.parse().map_err(|_| Error::invalid(format!("`host.dns`: {a} is no address")))).collect::<Result<_>>()?;
    Ok(switch::Options {
        physical_networks: BTreeMap::from([("public".to_string(), config.text("host.external_bridge").to_string())]),
        resolvers,
        vtep: vtep(config),
    })
}
