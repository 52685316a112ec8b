//! The host of this machine, as the configuration describes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base::{Config, Error, Result};
use host::simulated::{SimulatedHypervisor, SimulatedWire};
use host::switch::{self, Switch};
use host::wire::{Applied, Wire};
use host::{Dial, ImageSource, Options, Qemu};
use nix::unistd::User;

/// Real QEMU on a real network, or simulated ones where the configuration asks for that.
pub fn options(config: &Config, dial: Dial) -> Result<Options> {
    if config.flag("host.simulated") {
        let hypervisor = Arc::new(SimulatedHypervisor::default());
        return Ok(Options { config: config.clone(), hypervisor, wire: Arc::new(SimulatedWire::default()), dial, sync: true });
    }
    let hypervisor = Qemu::open(config, ImageSource::Directory(config.home().join("images")))?;
    let wire = Arc::new(SwitchWire(Switch::start(config.home(), switch_options(config)?)?));
    Ok(Options { config: config.clone(), hypervisor, wire, dial, sync: true })
}

/// What the switch takes from the configuration. The guests' user exists: the hypervisor has made it.
fn switch_options(config: &Config) -> Result<switch::Options> {
    let user = User::from_name(config.text("host.user")).ok().flatten();
    let resolvers = config.text("host.dns").split(',').map(str::trim).filter(|a| !a.is_empty());
    let resolvers =
        resolvers.map(|a| a.parse().map_err(|_| Error::invalid(format!("`host.dns`: {a} is no address")))).collect::<Result<_>>()?;
    Ok(switch::Options {
        guest_uid: user.as_ref().map_or(0, |u| u.uid.as_raw()),
        guest_gid: user.as_ref().map_or(0, |u| u.gid.as_raw()),
        physical_networks: BTreeMap::from([("public".to_string(), config.text("host.external_bridge").to_string())]),
        resolvers,
        vtep: None,
    })
}

/// The switch behind the agent's seam.
struct SwitchWire(Arc<Switch>);

#[async_trait]
impl Wire for SwitchWire {
    async fn apply(&self, document: &rpc::network::NetworkDocument) -> Result<Applied> {
        self.0.apply(document).await
    }
    fn port_ready(&self, port_id: &str) -> bool {
        self.0.port_ready(port_id)
    }
    fn instance_metadata_set(&self, instance_id: &str, metadata: rpc::instance::Metadata) {
        self.0.instance_metadata_set(instance_id, metadata);
    }
    fn instance_metadata_remove(&self, instance_id: &str) {
        self.0.instance_metadata_remove(instance_id);
    }
}
