//! What the switch remembers on disk: namespaces it made or is about to make, addresses it put on a bridge
//! of the machine, and the conntrack zone of each network (live connections depend on it).
//!
//! Written before the act it describes, so that after a crash nothing of ours is without proof.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Probe;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    namespaces: BTreeSet<String>,
    addresses: BTreeMap<String, BTreeSet<IpNet>>,
    zones: BTreeMap<String, u16>,
}

pub struct Record {
    path: PathBuf,
    content: Content,
}

impl Record {
    pub fn load(home: &Path) -> io::Result<Record> {
        let path = home.join("host").join("network.json");
        let content = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(e) => return Err(e),
        };
        Ok(Record { path, content })
    }
    fn change(&mut self, probe: &Probe, edit: impl FnOnce(&mut Content)) -> io::Result<()> {
        let mut next = self.content.clone();
        edit(&mut next);
        if next == self.content {
            return Ok(());
        }
        probe.step("write record")?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let new = self.path.with_extension("json.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&next)?)?;
        file.sync_data()?;
        fs::rename(&new, &self.path)?;
        self.content = next;
        Ok(())
    }
    pub fn namespaces(&self) -> &BTreeSet<String> {
        &self.content.namespaces
    }
    pub fn namespaces_add(&mut self, probe: &Probe, names: &[&str]) -> io::Result<()> {
        self.change(probe, |c| c.namespaces.extend(names.iter().map(|n| n.to_string())))
    }
    pub fn namespaces_remove(&mut self, probe: &Probe, names: &[String]) -> io::Result<()> {
        self.change(probe, |c| c.namespaces.retain(|n| !names.contains(n)))
    }
    pub fn addresses(&self) -> &BTreeMap<String, BTreeSet<IpNet>> {
        &self.content.addresses
    }
    pub fn address_add(&mut self, probe: &Probe, link: &str, address: IpNet) -> io::Result<()> {
        self.change(probe, |c| {
            c.addresses.entry(link.into()).or_default().insert(address);
        })
    }
    pub fn address_remove(&mut self, probe: &Probe, link: &str, address: IpNet) -> io::Result<()> {
        self.change(probe, |c| {
            if let Some(set) = c.addresses.get_mut(link) {
                set.remove(&address);
                if set.is_empty() {
                    c.addresses.remove(link);
                }
            }
        })
    }
    /// The zone of each of these networks; those of other networks are given up.
    pub fn zones(&mut self, probe: &Probe, networks: &BTreeSet<&str>) -> io::Result<BTreeMap<String, u16>> {
        self.change(probe, |c| {
            c.zones.retain(|id, _| networks.contains(id.as_str()));
            let mut used: BTreeSet<u16> = c.zones.values().copied().collect();
            for id in networks {
                if !c.zones.contains_key(*id)
                    && let Some(zone) = (1..=u16::MAX).find(|z| !used.contains(z))
                {
                    used.insert(zone);
                    c.zones.insert(id.to_string(), zone);
                }
            }
        })?;
        Ok(self.content.zones.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_stay_and_are_given_up() {
        let home = tempfile::tempdir().unwrap();
        let probe = Probe::default();
        let mut record = Record::load(home.path()).unwrap();
        let first = record.zones(&probe, &BTreeSet::from(["a", "b"])).unwrap();
        let mut record = Record::load(home.path()).unwrap();
        let second = record.zones(&probe, &BTreeSet::from(["b", "c"])).unwrap();
        assert_eq!(first["b"], second["b"]);
        assert_eq!(second["c"], first["a"]);
        assert!(!second.contains_key("a"));
    }
}
