//! Files of volumes, against the host's index of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base::Result;
use serde::Deserialize;

use crate::records::{file_name, list};
use crate::{Kind, Report, Verdict};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Index {
    volumes: BTreeMap<String, Volume>,
    layers: BTreeMap<String, Layer>,
    exports: BTreeMap<String, Export>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Volume {
    head: Option<String>,
    next: Option<String>,
    copying: Option<String>,
    snapshots: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    below: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct Export {
    volume: String,
    layer: String,
    #[serde(default)]
    bytes: Option<u64>,
}

pub fn check(home: &Path, report: &mut Report) -> Result<()> {
    let path = home.join("host").join("volumes.json");
    let index = match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice::<Index>(&bytes) {
            Ok(index) => index,
            Err(e) => {
                report.add(Kind::Document, "host/volumes.json", Verdict::Contradictory, format!("cannot be read: {e}"));
                for path in list(&home.join("volumes"))? {
                    let name = file_name(&path);
                    report.add(Kind::File, format!("volumes/{name}"), Verdict::Kept, "the index of volumes cannot be read");
                }
                return Ok(());
            }
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Index::default(),
        Err(e) => {
            report.add(Kind::Document, "host/volumes.json", Verdict::Contradictory, format!("cannot be read: {e}"));
            return Ok(());
        }
    };
    let below = |layer: &Layer| layer.below.get("layer").and_then(serde_json::Value::as_str).map(str::to_string);
    let heads = index.volumes.values().flat_map(|v| v.head.iter().chain(&v.next).chain(&v.copying).chain(v.snapshots.values()));
    let mut todo: Vec<String> = heads.chain(index.exports.values().map(|e| &e.layer)).cloned().collect();
    let mut needed: BTreeSet<String> = BTreeSet::new();
    while let Some(layer) = todo.pop() {
        // What lies in storage that hosts share is written down there: its names begin with one of these letters.
        if !layer.starts_with(['s', 't', 'u']) && needed.insert(layer.clone()) {
            todo.extend(index.layers.get(&layer).and_then(below));
        }
    }
    let unmade: BTreeSet<&String> = index.volumes.values().flat_map(|v| v.next.iter().chain(&v.copying)).collect();
    let directory = home.join("volumes");
    for layer in &needed {
        // Raw layers' names begin with a letter that no hexadecimal number has.
        let file = format!("{layer}.{}", if layer.starts_with('r') { "raw" } else { "qcow2" });
        let shown = format!("volumes/{file}");
        if !index.layers.contains_key(layer) {
            report.add(Kind::Document, shown, Verdict::Contradictory, "a volume needs this layer, which the index does not know");
        } else if !directory.join(&file).exists() && !unmade.contains(layer) {
            report.add(Kind::File, shown, Verdict::Contradictory, "a volume needs this layer, and it is gone");
        }
    }
    for path in list(&directory)? {
        let name = file_name(&path);
        let shown = format!("volumes/{name}");
        let (verdict, why) = match name.split_once('.') {
            Some((layer, "qcow2" | "raw")) if needed.contains(layer) => (Verdict::Live, "a layer of a volume"),
            Some((layer, "qcow2" | "raw" | "part")) if index.layers.contains_key(layer) => (Verdict::Stale, "a layer that no volume needs"),
            Some((id, "export")) if index.exports.get(id).is_some_and(|e| e.bytes.is_some() && index.volumes.contains_key(&e.volume)) => {
                (Verdict::Live, "a copy of a volume that is being read")
            }
            Some((id, "export" | "part")) if index.exports.contains_key(id) => (Verdict::Stale, "a copy of a volume that broke off"),
            // Nothing says that the host made it.
            _ => (Verdict::Foreign, "the index of volumes does not know it"),
        };
        report.add(Kind::File, shown, verdict, why);
    }
    Ok(())
}
