//! What the host wrote down: wanted documents, journals of guests, the switch's record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base::error::Internal;
use base::{Error, Result};
use rpc::instance::InstanceSpec;
use rpc::network::NetworkDocument;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Kind, Report, Verdict};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Journal {
    pub process: Option<Process>,
    pub ending: Option<serde_json::Value>,
    pub recovering: bool,
    pub hold: Option<serde_json::Value>,
    pub memory: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    pub pid: i32,
    pub start_ticks: u64,
    pub boot_id: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SwitchRecord {
    pub namespaces: BTreeSet<String>,
    pub addresses: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Default)]
pub struct Records {
    pub instances: BTreeMap<String, (InstanceSpec, Journal)>,
    /// Guests whose document cannot be read: nothing of theirs may be called stale.
    pub unreadable: BTreeSet<String>,
    pub network: Option<NetworkDocument>,
    pub network_readable: bool,
    pub switch: SwitchRecord,
}

impl Records {
    /// Whether a guest of this id is, or may be, wanted.
    pub fn knows(&self, id: &str) -> bool {
        self.instances.contains_key(id) || self.unreadable.contains(id)
    }
}

pub fn read(home: &Path, report: &mut Report) -> Result<Records> {
    let mut records = Records { network_readable: true, ..Default::default() };
    let host = home.join("host");
    for path in list(&host.join("instances"))? {
        let name = file_name(&path);
        let shown = format!("host/instances/{name}");
        if let Some(id) = name.strip_suffix(".state.json").or_else(|| name.strip_suffix(".left.mark")) {
            if !host.join("instances").join(format!("{id}.json")).exists() {
                report.add(Kind::Document, shown, Verdict::Stale, "the journal of a guest without a document");
            }
            continue;
        }
        let Some(id) = name.strip_suffix(".json").filter(|id| base::id::is_uuid(id)) else {
            report.add(Kind::Document, shown, Verdict::Stale, "no document: a write that broke off, or not ours");
            continue;
        };
        let Some(spec) = parse::<InstanceSpec>(&path, &shown, report)? else {
            records.unreadable.insert(id.to_string());
            continue;
        };
        if spec.id != id {
            report.add(Kind::Document, shown, Verdict::Contradictory, format!("is the document of guest {}", spec.id));
            records.unreadable.insert(id.to_string());
            continue;
        }
        let journal = host.join("instances").join(format!("{id}.state.json"));
        let journal = match journal.exists() {
            true => parse::<Journal>(&journal, &format!("host/instances/{id}.state.json"), report)?.unwrap_or_default(),
            false => Journal::default(),
        };
        report.add(Kind::Document, shown, Verdict::Live, format!("guest {} is wanted {:?}", spec.name, spec.power).to_lowercase());
        records.instances.insert(id.to_string(), (spec, journal));
    }
    let wanted = host.join("network-wanted.json");
    if wanted.exists() {
        records.network = parse(&wanted, "host/network-wanted.json", report)?;
        records.network_readable = records.network.is_some();
    }
    let record = host.join("network.json");
    if record.exists() {
        match parse(&record, "host/network.json", report)? {
            Some(switch) => records.switch = switch,
            None => records.network_readable = false,
        }
    }
    Ok(records)
}

fn parse<T: DeserializeOwned>(path: &Path, shown: &str, report: &mut Report) -> Result<Option<T>> {
    let bytes = std::fs::read(path).map_err(|e| Error::internal(format!("cannot read {}", path.display())).caused_by(e))?;
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(e) => {
            report.add(Kind::Document, shown, Verdict::Contradictory, format!("damaged: {e}"));
            Ok(None)
        }
    }
}

/// Entries of a directory; none when it does not exist.
pub fn list(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            let mut all = entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>().internal("cannot list a directory")?;
            all.sort();
            Ok(all)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) => Err(Error::internal(format!("cannot list {}", directory.display())).caused_by(e)),
    }
}

pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
