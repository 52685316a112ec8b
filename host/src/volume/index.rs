//! What the host knows of its volumes: one file, replaced whole. Whatever it does not name, no volume needs; whatever it
//! names as made or being made, the host has made.

use std::collections::{BTreeMap, BTreeSet};

use base::{Error, Result};
use rpc::volume::{Parts, Role, VolumeSpec};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Index {
    pub volumes: BTreeMap<String, Volume>,
    /// Every file of a layer that exists or may exist. Named here before it is made, and until it is surely gone.
    pub layers: BTreeMap<String, Layer>,
    /// Files of exports, named alike.
    pub exports: BTreeMap<String, ExportFile>,
    /// Files that come from other hosts, named alike, with the volumes that will be made of them.
    pub parcels: BTreeMap<String, String>,
    /// Volumes in the storage that hosts share, as far as this host was told of them. What they are made of is written down there
    /// ([`super::store`]); those that this host has taken up, or visits, are in `volumes` too, but only in memory.
    pub stored: BTreeMap<String, VolumeSpec>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// The newest wanted document.
    pub spec: VolumeSpec,
    /// Of the document applied last.
    #[serde(default)]
    pub generation: u64,
    /// The layer that is written to; none before the volume is made.
    #[serde(default)]
    pub head: Option<String>,
    /// A layer on its way to become the head: over the present head, whose place it takes.
    #[serde(default)]
    pub next: Option<String>,
    /// A copy of the head that is being made; worth nothing before it is whole.
    #[serde(default)]
    pub copying: Option<String>,
    /// Layers that came from another host and are being taken, in the order of their parts.
    #[serde(default)]
    pub coming: Vec<String>,
    /// Present size.
    #[serde(default)]
    pub bytes: u64,
    #[serde(default)]
    pub snapshots: BTreeMap<String, String>,
    /// The last return to a snapshot that was carried out.
    #[serde(default)]
    pub reverted: u64,
    /// Why the newest document cannot be applied.
    #[serde(default)]
    pub failed: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    pub below: Below,
    pub bytes: u64,
    /// The volume that it belongs to, in the storage that hosts share: there no two have a layer together. None: it lies on the host's own
    /// disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
}

impl Volume {
    /// Another host keeps it.
    pub fn is_visited(&self) -> bool {
        self.spec.stored.as_ref().is_some_and(|stored| stored.role == Role::Visit)
    }

    /// For its layers: the volume, if they are its own.
    pub fn home(&self) -> Option<String> {
        home(&self.spec)
    }
}

/// As [`Volume::home`].
pub fn home(spec: &VolumeSpec) -> Option<String> {
    spec.stored.as_ref().map(|_| spec.id.clone())
}

/// What a layer lies over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Below {
    Nothing,
    Layer(String),
    Image { sha256: String, format: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportFile {
    pub volume: String,
    /// The frozen layer it is a copy of.
    pub layer: String,
    pub format: String,
    /// Size of the finished file, or of all its files.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Of an export in several files: the layers they are made of, and whether such a file is all that can be seen there.
    #[serde(default)]
    pub files: Vec<(String, bool)>,
    #[serde(default)]
    pub parts: Option<Parts>,
}

/// Names of layers begin with a letter that says what they are, because a file's own header is not to be believed: raw, or qcow2.
pub fn is_raw(layer: &str) -> bool {
    layer.starts_with(['r', 'u'])
}

/// Whether a layer lies over nothing: it begins as a copy of what it is noted to lie over, and is noted to lie over nothing as soon as it is
/// whole.
pub fn is_copy(layer: &str) -> bool {
    is_raw(layer) || layer.starts_with(['t', 'w'])
}

/// Whether its file is where other hosts see it too.
pub fn is_stored(layer: &str) -> bool {
    layer.starts_with(['s', 't', 'u'])
}

/// What a new layer is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Qcow2, over another or over nothing.
    Over,
    /// Qcow2, beginning as a copy.
    Copy,
    /// Raw, beginning as a copy.
    Raw,
}

/// A layer with all that lies below it, the uppermost first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stack {
    pub layers: Vec<String>,
    pub image: Option<(String, String)>,
    pub bytes: u64,
}

/// Layers that may lie over each other. Beyond that a circle is suspected.
const DEEP: usize = 4096;

impl Index {
    /// Name of a layer that no other has, on any host. Short: QEMU's node names hold 31 characters.
    pub fn layer_name(shape: Shape, stored: bool) -> String {
        let letter = match (shape, stored) {
            (Shape::Over, false) => return base::id::short(&base::id::hex(), 16).to_string(),
            (Shape::Copy, false) => 'w',
            (Shape::Raw, false) => 'r',
            (Shape::Over, true) => 's',
            (Shape::Copy, true) => 't',
            (Shape::Raw, true) => 'u',
        };
        format!("{letter}{}", base::id::short(&base::id::hex(), 15))
    }

    pub fn stack(&self, top: &str) -> Result<Stack> {
        self.stack_over(&Below::Layer(top.to_string()))
    }

    /// All that can be seen from above.
    pub fn stack_over(&self, below: &Below) -> Result<Stack> {
        let mut stack = Stack::default();
        let mut next = match below {
            Below::Layer(top) => {
                stack.bytes = self.layers.get(top).map_or(0, |l| l.bytes);
                Some(top.as_str())
            }
            Below::Image { sha256, format } => {
                stack.image = Some((sha256.clone(), format.clone()));
                None
            }
            Below::Nothing => None,
        };
        while let Some(name) = next {
            let layer = self.layers.get(name).ok_or_else(|| Error::internal(format!("layer {name} of a volume is not known")))?;
            if stack.layers.len() > DEEP {
                return Err(Error::internal(format!("layer {name} lies over itself")));
            }
            stack.layers.push(name.to_string());
            next = match &layer.below {
                Below::Layer(below) => Some(below),
                Below::Image { sha256, format } => {
                    stack.image = Some((sha256.clone(), format.clone()));
                    None
                }
                Below::Nothing => None,
            };
        }
        Ok(stack)
    }

    /// The layer of a snapshot of any volume.
    pub fn snapshot(&self, id: &str) -> Option<&str> {
        self.volumes.values().find_map(|v| v.snapshots.get(id)).map(String::as_str)
    }

    /// Layers that nothing needs any more.
    pub fn unused_layers(&self) -> Vec<String> {
        let mut used: BTreeSet<&str> = BTreeSet::new();
        let tops =
            self.volumes.values().flat_map(|v| v.head.iter().chain(&v.next).chain(&v.copying).chain(&v.coming).chain(v.snapshots.values()));
        let exported = self.exports.iter().filter(|(id, e)| self.is_wanted(id, e)).map(|(_, e)| &e.layer);
        for top in tops.chain(exported) {
            let mut next = Some(top.as_str());
            while let Some(name) = next.filter(|name| used.insert(name)) {
                next = match self.layers.get(name).map(|l| &l.below) {
                    Some(Below::Layer(below)) => Some(below),
                    _ => None,
                };
            }
        }
        // Of a volume that another host keeps nothing is ours to remove.
        let ours = |layer: &Layer| layer.volume.as_ref().is_none_or(|id| self.volumes.get(id).is_some_and(|v| !v.is_visited()));
        self.layers.iter().filter(|(name, layer)| !used.contains(name.as_str()) && ours(layer)).map(|(name, _)| name.clone()).collect()
    }

    /// Exports that no volume wants any more.
    pub fn unused_exports(&self) -> Vec<String> {
        self.exports.iter().filter(|(id, e)| !self.is_wanted(id, e)).map(|(id, _)| id.clone()).collect()
    }

    fn is_wanted(&self, id: &str, export: &ExportFile) -> bool {
        let known = self.volumes.get(&export.volume).map(|v| &v.spec).or(self.stored.get(&export.volume));
        known.is_some_and(|spec| !spec.absent && spec.exports.iter().any(|x| x.id == id))
    }

    /// What is kept on the host's own disk.
    pub fn own(&self) -> Index {
        let mut own = self.clone();
        own.volumes.retain(|_, volume| volume.spec.stored.is_none());
        own.layers.retain(|_, layer| layer.volume.is_none());
        own
    }

    /// What a volume in the storage that hosts share is made of.
    pub fn layers_of(&self, id: &str) -> BTreeMap<String, Layer> {
        self.layers
            .iter()
            .filter(|(_, layer)| layer.volume.as_deref() == Some(id))
            .map(|(name, layer)| (name.clone(), layer.clone()))
            .collect()
    }

    /// Takes up a volume as it is written down there.
    pub fn take(&mut self, id: &str, volume: Volume, layers: BTreeMap<String, Layer>) {
        self.forget(id);
        self.volumes.insert(id.to_string(), volume);
        self.layers.extend(layers);
    }

    /// Forgets a volume in the storage that hosts share, but not that this host was told of it.
    pub fn forget(&mut self, id: &str) {
        self.volumes.remove(id);
        self.layers.retain(|_, layer| layer.volume.as_deref() != Some(id));
    }

    /// Parcels of a volume.
    pub fn parcels_of(&self, volume: &str) -> Vec<String> {
        self.parcels.iter().filter(|(_, of)| *of == volume).map(|(id, _)| id.clone()).collect()
    }

    /// Images that volumes lie over.
    pub fn images(&self) -> BTreeSet<String> {
        let image = |layer: &Layer| match &layer.below {
            Below::Image { sha256, .. } => Some(sha256.clone()),
            _ => None,
        };
        self.layers.values().filter_map(image).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::volume::VolumeSource;

    fn volume(head: &str, snapshots: &[(&str, &str)]) -> Volume {
        let spec = VolumeSpec { absent: false, source: VolumeSource::Blank, ..rpc::volume::absent("v", 1) };
        Volume {
            spec,
            generation: 1,
            head: Some(head.into()),
            next: None,
            copying: None,
            coming: Vec::new(),
            bytes: 1,
            snapshots: snapshots.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect(),
            reverted: 0,
            failed: None,
        }
    }

    #[test]
    fn a_layer_stays_as_long_as_anything_lies_over_it() {
        let layer = |below: &str| Layer { below: Below::Layer(below.into()), bytes: 1, volume: None };
        let mut index = Index::default();
        let image = Below::Image { sha256: "i".into(), format: "raw".into() };
        index.layers.insert("a".into(), Layer { below: image, bytes: 1, volume: None });
        index.layers.insert("b".into(), layer("a"));
        index.layers.insert("c".into(), layer("a"));
        index.layers.insert("stray".into(), layer("b"));
        index.volumes.insert("one".into(), volume("b", &[("s", "a")]));
        index.volumes.insert("two".into(), volume("c", &[]));
        assert_eq!(index.unused_layers(), ["stray"]);
        assert_eq!(
            index.stack("c").unwrap(),
            Stack { layers: vec!["c".into(), "a".into()], image: Some(("i".into(), "raw".into())), bytes: 1 }
        );
        index.layers.remove("stray");
        index.volumes.remove("one");
        assert_eq!(index.unused_layers(), ["b"]);
        assert_eq!(index.images().len(), 1);
        index.layers.insert("a".into(), layer("c"));
        let export =
            ExportFile { volume: "two".into(), layer: "b".into(), format: "raw".into(), bytes: Some(1), files: Vec::new(), parts: None };
        index.exports.insert("x".into(), export);
        assert_eq!((index.unused_layers(), index.unused_exports()), (vec!["b".to_string()], vec!["x".to_string()]), "both at once");
        assert!(index.stack("c").is_err(), "a circle is an error, not a loop");
        assert_eq!(index.unused_layers(), ["b"]);
    }
}
