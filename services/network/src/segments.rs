//! What a network is on the wire: its type, and the segment it takes.

use base::{Config, Error, Kind as ErrorKind, Result};
use serde_json::Value;
use store::Tx;

use crate::attr::Object;
use crate::networks::Net;
use crate::row::Resource;
use crate::{Network, db, fault};

/// The one physical network a host has a bridge for.
const PHYSICAL: &str = "public";
pub const LAST_VNI: i64 = (1 << 24) - 1;
const LAST_VLAN: i64 = 4094;

/// Which VLANs are given out (`network.vlan_ranges`): those of a physical network, from the first to the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(String, i64, i64)>);

impl Ranges {
    /// `NETWORK:FIRST:LAST`, or `NETWORK` for all there are; several with commas between them.
    pub fn of(config: &Config) -> Result<Ranges> {
        let entries = config.text("network.vlan_ranges").split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries.map(Ranges::entry).collect::<Result<_>>().map(Ranges)
    }

    fn entry(text: &str) -> Result<(String, i64, i64)> {
        let wrong = |why: &str| Error::invalid(format!("`network.vlan_ranges`: `{text}` {why}"));
        let parts: Vec<&str> = text.split(':').collect();
        let number =
            |text: &str| text.parse().ok().filter(|id| (1..=LAST_VLAN).contains(id)).ok_or_else(|| wrong("has no VLAN from 1 to 4094"));
        let (name, first, last) = match parts[..] {
            [name] => (name, 1, LAST_VLAN),
            [name, first, last] => (name, number(first)?, number(last)?),
            _ => return Err(wrong("is no NETWORK:FIRST:LAST")),
        };
        match () {
            () if name != PHYSICAL => Err(wrong("names no physical network there is")),
            () if first > last => Err(wrong("ends before it begins")),
            () => Ok((name.into(), first, last)),
        }
    }

    /// Physical networks with a range, each once.
    fn networks(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|(name, ..)| name.as_str()).collect();
        names.dedup();
        names
    }

    /// The first of a physical network that is not among these.
    fn free(&self, physical: &str, used: &[i64]) -> Option<i64> {
        let own = self.0.iter().filter(|(name, ..)| name == physical);
        own.flat_map(|(_, first, last)| *first..=*last).find(|id| !used.contains(id))
    }
}

/// What was asked for, and may be had.
pub enum Segment {
    Flat { physical: String },
    Vlan { physical: Option<String>, id: Option<i64> },
    Vxlan { vni: Option<i64> },
}

impl Segment {
    pub fn asked(net: &Network, body: &Object) -> Result<Segment> {
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_string);
        let (network_type, physical) = (text("provider:network_type"), text("provider:physical_network"));
        let id = body.get("provider:segmentation_id").and_then(Value::as_i64);
        match network_type.as_deref() {
            None if physical.is_none() && id.is_none() => Ok(Segment::Vxlan { vni: None }),
            None => Err(fault::input("network_type required")),
            Some("flat") => Segment::flat(physical, id),
            Some("vlan") => Segment::vlan(net.vlans(), physical, id),
            Some("vxlan") => match (physical, id) {
                (Some(_), _) => Err(fault::input("provider:physical_network specified for VXLAN network")),
                (None, Some(0)) => Err(fault::input(format!("segmentation_id out of range (1 through {LAST_VNI})"))),
                (None, vni) => Ok(Segment::Vxlan { vni }),
            },
            Some(other) => Err(fault::input(format!("network_type value '{other}' not supported"))),
        }
    }

    fn flat(physical: Option<String>, id: Option<i64>) -> Result<Segment> {
        match physical {
            None => Err(fault::input("physical_network required for flat provider network")),
            Some(name) if name != PHYSICAL => Err(fault::input(format!("physical_network '{name}' unknown for flat provider network"))),
            Some(_) if id.is_some() => Err(fault::input("segmentation_id prohibited for flat provider network")),
            Some(physical) => Ok(Segment::Flat { physical }),
        }
    }

    fn vlan(ranges: &Ranges, physical: Option<String>, id: Option<i64>) -> Result<Segment> {
        match (physical, id) {
            (Some(name), _) if name != PHYSICAL => {
                Err(fault::input(format!("physical_network '{name}' unknown for VLAN provider network")))
            }
            (Some(_), Some(id)) if !(1..=LAST_VLAN).contains(&id) => {
                Err(fault::input(format!("segmentation_id out of range (1 through {LAST_VLAN})")))
            }
            (Some(name), None) if !ranges.networks().contains(&name.as_str()) => {
                let message = format!("Physical network {name} requires segmentation_id to be specified when creating a provider network");
                Err(fault::input(message))
            }
            (None, Some(_)) => Err(fault::input("segmentation_id requires physical_network for VLAN provider network")),
            (physical, id) => Ok(Segment::Vlan { physical, id }),
        }
    }

    pub fn network_type(&self) -> &'static str {
        match self {
            Segment::Flat { .. } => "flat",
            Segment::Vlan { .. } => "vlan",
            Segment::Vxlan { .. } => "vxlan",
        }
    }

    /// Takes it for a network that has just been written down, which says so from then on.
    pub fn take(&self, net: &Network, tx: &Tx, item: &mut Net) -> Result<()> {
        let (physical, id) = match self {
            Segment::Flat { physical } => {
                if !take(tx, "flat", physical, 0, item.id())? {
                    let message = format!("Unable to create the flat network. Physical network {physical} is in use.");
                    return Err(fault::in_use("FlatNetworkInUse", message));
                }
                (Some(physical.clone()), None)
            }
            Segment::Vlan { physical: Some(physical), id: Some(id) } => {
                if !take(tx, "vlan", physical, *id, item.id())? {
                    let message = format!("Unable to create the network. The VLAN {id} on physical network {physical} is in use.");
                    return Err(fault::in_use("VlanIdInUse", message));
                }
                (Some(physical.clone()), Some(*id))
            }
            Segment::Vlan { physical, .. } => {
                let (physical, id) = vlan_allocate(net.vlans(), tx, physical.as_deref(), item.id())?;
                (Some(physical), Some(id))
            }
            Segment::Vxlan { vni: Some(vni) } => {
                if !take(tx, "vxlan", "", *vni, item.id())? {
                    let message = format!("Unable to create the network. The tunnel ID {vni} is in use.");
                    return Err(fault::in_use("TunnelIdInUse", message));
                }
                (None, Some(*vni))
            }
            Segment::Vxlan { vni: None } => (None, Some(vni_allocate(tx, item.id())?)),
        };
        (item.physical_network, item.segmentation_id) = (physical, id);
        db::networks::segment_set(tx, item)
    }
}

fn take(tx: &Tx, network_type: &str, physical: &str, id: i64, network_id: &str) -> Result<bool> {
    match tx.attempt(|tx| db::networks::segment_insert(tx, network_type, physical, id, network_id)) {
        Ok(()) => Ok(true),
        Err(error) if error.is(ErrorKind::Exists) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How often somebody else may be faster.
const TRIES: usize = 8;

fn vni_allocate(tx: &Tx, network_id: &str) -> Result<i64> {
    for _ in 0..TRIES {
        let Some(vni) = db::networks::vni_free(tx, LAST_VNI)? else { break };
        if take(tx, "vxlan", "", vni, network_id)? {
            return Ok(vni);
        }
    }
    Err(none_left())
}

/// A VLAN of the given physical network, or of any.
fn vlan_allocate(ranges: &Ranges, tx: &Tx, physical: Option<&str>, network_id: &str) -> Result<(String, i64)> {
    for name in ranges.networks().into_iter().filter(|name| physical.is_none_or(|wanted| wanted == *name)) {
        for _ in 0..TRIES {
            let Some(id) = ranges.free(name, &db::networks::vlans_used(tx, name)?) else { break };
            if take(tx, "vlan", name, id, network_id)? {
                return Ok((name.into(), id));
            }
        }
    }
    Err(none_left())
}

fn none_left() -> Error {
    Error::unavailable("Unable to create the network. No tenant network is available for allocation.").named("NoNetworkAvailable")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Result<Ranges> {
        let mut config = Config::for_home(std::path::Path::new("/nowhere"));
        config.set("network.vlan_ranges", text);
        Ranges::of(&config)
    }

    #[test]
    fn ranges_of_vlans_are_read() {
        assert_eq!(ranges("").unwrap(), Ranges::default());
        assert_eq!(ranges("public").unwrap().free("public", &[1, 2, 4]), Some(3));
        let two = ranges("public:100:101, public:7:7").unwrap();
        assert_eq!(
            (two.free("public", &[]), two.free("public", &[100, 101]), two.free("public", &[7, 100, 101])),
            (Some(100), Some(7), None)
        );
        assert_eq!((two.networks(), two.free("mars", &[])), (vec!["public"], None));
        for bad in
            ["mars:1:2", "public:0:5", "public:5:4095", "public:9:8", "public:1", "public:1:2:3", "public:a:b", ":1:2", "public:-1:2"]
        {
            let message = ranges(bad).unwrap_err().message().to_string();
            assert!(message.contains("network.vlan_ranges") && message.contains(bad), "{bad}: {message}");
        }
    }
}
