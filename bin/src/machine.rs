//! The host of this machine, as the configuration describes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Config, Error, Result};
use host::simulated::{SimulatedHypervisor, SimulatedWire};
use host::switch::{self, Switch};
use host::{Dial, ImageSource, Options, Qemu};

/// Real QEMU on a real network, or simulated ones where the configuration asks for that.
pub fn options(config: &Config, dial: Dial) -> Result<Options> {
    if config.flag("host.simulated") {
        let hypervisor = Arc::new(SimulatedHypervisor::default());
        return Ok(Options { config: config.clone(), hypervisor, wire: Arc::new(SimulatedWire::default()), dial, sync: true });
    }
    let hypervisor = Qemu::open(config, ImageSource::Directory(config.home().join("images")))?;
    let wire = Switch::start(config.home(), switch_options(config)?)?;
    Ok(Options { config: config.clone(), hypervisor, wire, dial, sync: true })
}

/// What the switch takes from the configuration.
fn switch_options(config: &Config) -> Result<switch::Options> {
    let resolvers = config.text("host.dns").split(',').map(str::trim).filter(|a| !a.is_empty());
    let resolvers =
        resolvers.map(|a| a.parse().map_err(|_| Error::invalid(format!("`host.dns`: {a} is no address")))).collect::<Result<_>>()?;
    Ok(switch::Options {
        physical_networks: BTreeMap::from([("public".to_string(), config.text("host.external_bridge").to_string())]),
        resolvers,
        vtep: None,
    })
}
