//! A volume that goes to another host together with its snapshots: the layers that they are frozen in are carried as they are, each
//! a file of its own, which over there gets a name of that host.
//!
//! What lies below the oldest snapshot of a chain is not the volume's alone (an image, what it is a copy of): it goes along inside that
//! snapshot's file, which lies over nothing then.

use std::collections::{BTreeMap, BTreeSet};

use base::{Error, Result};
use rpc::volume::{Export, Head, Part, Parts, VolumeSource, VolumeSpec, part_key};

use super::index::{Below, ExportFile, Index, Layer, Shape, Volume, home, is_raw};
use super::work::head_name;
use super::{Volumes, lock};

/// The format of an export that is all layers of a volume, with its head frozen.
const LAYERS: &str = "layers";
/// As that, of a volume in use: without its head, which its guest's process carries.
const BELOW: &str = "below";

/// Whether an export of this format is several files.
pub fn is_parts(format: &str) -> bool {
    matches!(format, LAYERS | BELOW)
}

/// What a file is a part of, if not all: a UUID, and behind it the number of the part.
pub fn whole_of(key: &str) -> Option<&str> {
    let (id, number) = key.split_at_checked(36)?;
    let numbered = number.strip_prefix('-').is_some_and(|n| !n.is_empty() && n.len() < 10 && n.bytes().all(|b| b.is_ascii_digit()));
    (base::id::is_uuid(id) && (number.is_empty() || numbered)).then_some(id)
}

impl Index {
    /// What a volume's snapshots are frozen in, from below, and above that its frozen head if it is named; with the layers that these are
    /// files of, and whether such a file is all that can be seen there.
    pub fn parts(&self, volume: &Volume, frozen: Option<&str>) -> Result<(Vec<(String, bool)>, Parts)> {
        let mut marks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (snapshot, layer) in &volume.snapshots {
            marks.entry(layer).or_default().push(snapshot.clone());
        }
        let mut chains: Vec<String> = marks.keys().map(|layer| layer.to_string()).collect();
        chains.extend(frozen.map(str::to_string));
        // The present head is not one of them, only what it lies over.
        let under = match (frozen, &volume.head) {
            (None, Some(head)) => self.stack(head)?.layers.get(1).cloned(),
            _ => None,
        };
        chains.extend(under.clone());
        let (mut files, mut parts, mut numbers) = (Vec::new(), Vec::new(), BTreeMap::<String, u32>::new());
        for top in chains {
            let stack = self.stack(&top)?;
            let marked = |layer: &String| marks.contains_key(layer.as_str()) || frozen == Some(layer.as_str());
            let Some(lowest) = stack.layers.iter().rposition(marked) else { continue };
            let whole = stack.image.is_some() || lowest + 1 < stack.layers.len();
            let mut below = None;
            for (n, layer) in stack.layers[..=lowest].iter().enumerate().rev() {
                let number = match numbers.get(layer) {
                    Some(number) => *number,
                    None => {
                        let number = u32::try_from(parts.len()).unwrap_or(u32::MAX);
                        numbers.insert(layer.clone(), number);
                        files.push((layer.clone(), whole && n == lowest));
                        let snapshots = marks.get(layer.as_str()).cloned().unwrap_or_default();
                        let bytes = self.layers.get(layer).map_or(0, |l| l.bytes);
                        parts.push(Part { below, bytes, raw: is_raw(layer), snapshots });
                        number
                    }
                };
                below = Some(number);
            }
        }
        let head = match (frozen, under.and_then(|layer| numbers.get(&layer).copied())) {
            (Some(_), _) => Head::Last,
            (None, Some(number)) => Head::Over(number),
            (None, None) => Head::Blank,
        };
        Ok((files, Parts { parts, head }))
    }

    /// The files of an export.
    pub fn export_files(&self, id: &str) -> Vec<String> {
        match self.exports.get(id) {
            Some(ExportFile { format, files, .. }) if is_parts(format) => (0..).zip(files).map(|(n, _)| part_key(id, n)).collect(),
            _ => vec![id.to_string()],
        }
    }
}

impl Volumes {
    /// Writes down which files an export of a volume's layers will be. The caller has the volume's turn.
    pub(super) async fn parts_note(&self, id: &str, export: &Export) -> Result<()> {
        let (volume, wanted) = (id.to_string(), export.clone());
        let note = move |index: &mut Index, frozen: Option<&str>| -> Result<()> {
            let known = index.volumes.get(&volume).ok_or_else(|| Error::not_found("Volume", &volume))?;
            let layer = frozen.map(str::to_string).or_else(|| known.head.clone());
            let layer = layer.ok_or_else(|| Error::internal("a volume without a head"))?;
            let (files, parts) = index.parts(known, frozen)?;
            let file = ExportFile { volume, layer, format: wanted.format, bytes: None, files, parts: Some(parts) };
            index.exports.insert(wanted.id, file);
            Ok(())
        };
        if export.format == BELOW {
            return self.update(|index| note(index, None)).await?;
        }
        let mut noted = Ok(());
        self.freeze(id, |index, old| noted = note(index, Some(old))).await?;
        noted
    }

    /// Makes the files of such an export; answers the size of all.
    pub(super) async fn parts_export(&self, id: &str, files: &[(String, bool)]) -> Result<u64> {
        let mut bytes = 0;
        for (n, (layer, whole)) in (0..).zip(files) {
            let key = part_key(id, n);
            bytes += match whole {
                true => {
                    let stack = lock(&self.index).stack(layer)?;
                    self.layers.export(&stack, &key, "qcow2").await?
                }
                false => self.layers.share(layer, &key).await?,
            };
        }
        Ok(bytes)
    }

    /// Writes down the layers of a volume that came in parts; answers its head.
    pub(super) async fn parts_lay(&self, spec: &VolumeSpec, id: &str, came: &Parts) -> Result<String> {
        let parts = &came.parts;
        let frozen: BTreeSet<&String> = parts.iter().flat_map(|part| &part.snapshots).collect();
        let ordered = (0..).zip(parts).all(|(n, part)| part.below.is_none_or(|below| below < n));
        // A snapshot that did not come would be taken anew, of something else.
        if !base::id::is_uuid(id) || !ordered || spec.snapshots.iter().any(|snapshot| !frozen.contains(snapshot)) {
            return Err(Error::invalid(format!("the parts of volume {} do not fit each other", spec.id)));
        }
        let name = |part: &Part| Index::layer_name(if part.raw { Shape::Raw } else { Shape::Over }, false);
        let names: Vec<String> = parts.iter().map(name).collect();
        let over = |number: Option<u32>| {
            let layer = number.and_then(|n| names.get(n as usize)).cloned();
            layer.map_or(Below::Nothing, Below::Layer)
        };
        let mut layers: Vec<(String, Layer)> = names
            .iter()
            .cloned()
            .zip(parts.iter().map(|part| Layer { below: over(part.below), bytes: part.bytes, volume: None }))
            .collect();
        let mut empty = |below: Below| {
            layers.push((head_name(spec, false), Layer { below, bytes: spec.bytes, volume: home(spec) }));
            layers.last().map(|(name, _)| name.clone())
        };
        let head = match came.head {
            Head::Last => names.last().cloned(),
            Head::Over(number) => empty(over(Some(number))),
            Head::Blank => empty(Below::Nothing),
        };
        let head = head.ok_or_else(|| Error::invalid("a volume without parts"))?;
        self.update(|index| {
            index.layers.extend(layers);
            if let Some(volume) = index.volumes.get_mut(&spec.id) {
                (volume.coming, volume.next) = (names, Some(head.clone()));
            }
        })
        .await?;
        Ok(head)
    }

    /// Makes layers of the files that came.
    pub(super) async fn parts_take(&self, volume: &str, id: &str) -> Result<()> {
        let coming: Vec<(String, Option<Below>)> = {
            let index = lock(&self.index);
            let names = index.volumes.get(volume).map(|v| v.coming.clone()).unwrap_or_default();
            names.into_iter().map(|name| (name.clone(), index.layers.get(&name).map(|l| l.below.clone()))).collect()
        };
        for (n, (name, below)) in (0..).zip(coming) {
            self.layers.parcel_take(&part_key(id, n), &name).await?;
            if let Some(Below::Layer(below)) = below {
                self.layers.lay_over(&name, &below).await?;
            }
        }
        Ok(())
    }

    /// Those of a guest's volumes of which the next host has everything below the head already.
    pub fn went_ahead(&self) -> BTreeSet<String> {
        let index = lock(&self.index);
        let over = |export: &&ExportFile| matches!(&export.parts, Some(Parts { head: Head::Over(_), .. }));
        index.exports.values().filter(over).map(|export| export.volume.clone()).collect()
    }
}

/// All of a volume that came in parts is there: its snapshots are where they are frozen.
pub fn arrived(volume: &mut Volume, source: &VolumeSource) {
    let VolumeSource::Parts { parts, .. } = source else { return };
    for (layer, part) in std::mem::take(&mut volume.coming).iter().zip(&parts.parts) {
        volume.snapshots.extend(part.snapshots.iter().map(|snapshot| (snapshot.clone(), layer.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_have_numbers() {
        let id = base::id::uuid();
        assert_eq!(whole_of(&id), Some(id.as_str()));
        assert_eq!(whole_of(&part_key(&id, 12)), Some(id.as_str()));
        for bad in
            ["..", "", &id[1..], &format!("{id}-"), &format!("{id}-x"), &format!("{id}-+1"), &format!("{id}/../x"), &format!("{id}1")]
        {
            assert_eq!(whole_of(bad), None, "{bad}");
        }
    }

    /// Layers by name, each over another one or over an image, and a volume of head and snapshots.
    fn index(layers: &[(&str, &str)], head: &str, snapshots: &[(&str, &str)]) -> (Index, Volume) {
        let mut index = Index::default();
        for (name, below) in layers {
            let below = match *below {
                "" => Below::Nothing,
                "image" => Below::Image { sha256: "i".into(), format: "raw".into() },
                layer => Below::Layer(layer.into()),
            };
            index.layers.insert(name.to_string(), Layer { below, bytes: 1, volume: None });
        }
        let spec = VolumeSpec { absent: false, ..rpc::volume::absent("v", 1) };
        let snapshots = snapshots.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let volume = Volume { head: Some(head.into()), snapshots, ..super::super::work::fresh(&spec) };
        (index, volume)
    }

    fn shown(index: &Index, volume: &Volume, frozen: Option<&str>) -> (Vec<String>, Head) {
        let (files, parts) = index.parts(volume, frozen).unwrap();
        let text = |((layer, whole), part): (&(String, bool), &Part)| {
            let below = part.below.map_or_else(|| "-".into(), |n| files[n as usize].0.clone());
            format!("{layer}{} over {below}: {}", if *whole { " whole" } else { "" }, part.snapshots.join(","))
        };
        (files.iter().zip(&parts.parts).map(text).collect(), parts.head)
    }

    #[test]
    fn parts_are_from_the_oldest_snapshot_up() {
        // A snapshot that is gone lies between two that are there; the oldest is over a copy of an image.
        let layers = [("base", "image"), ("one", "base"), ("between", "one"), ("two", "between"), ("head", "two"), ("new", "head")];
        let (index, volume) = index(&layers, "head", &[("s1", "one"), ("s2", "two"), ("s3", "two")]);
        let ahead = ["one whole over -: s1", "between over one: ", "two over between: s2,s3"];
        assert_eq!(shown(&index, &volume, None), (ahead.map(String::from).to_vec(), Head::Over(2)));
        let all = [&ahead[..], &["head over two: "]].concat();
        assert_eq!(shown(&index, &volume, Some("head")), (all.into_iter().map(String::from).collect(), Head::Last));
    }

    #[test]
    fn what_went_back_to_a_snapshot_branches() {
        let layers = [("one", ""), ("two", "one"), ("back", "one"), ("other", "image"), ("three", "other"), ("plain", "other")];
        let (with, mut volume) = index(&layers, "back", &[("s1", "one"), ("s2", "two"), ("s3", "three")]);
        let all = ["one over -: s1", "three whole over -: s3", "two over one: s2", "back over one: "];
        assert_eq!(shown(&with, &volume, Some("back")), (all.map(String::from).to_vec(), Head::Last));
        // A head with none of its snapshots below it goes by itself.
        volume.head = Some("plain".into());
        let (parts, head) = shown(&with, &volume, None);
        assert_eq!((parts.len(), head), (3, Head::Blank));
        volume.snapshots.clear();
        assert_eq!(shown(&with, &volume, None), (vec![], Head::Blank));
        assert_eq!(shown(&with, &volume, Some("plain")), (vec!["plain whole over -: ".to_string()], Head::Last));
    }

    #[test]
    fn a_volume_for_several_goes_as_the_raw_files_it_is() {
        let (index, volume) = index(&[("r1", ""), ("r2", ""), ("r3", "")], "r1", &[("s", "r2")]);
        let (files, parts) = index.parts(&volume, Some("r3")).unwrap();
        assert_eq!(files, [("r2".to_string(), false), ("r3".to_string(), false)]);
        assert!(parts.parts.iter().all(|part| part.raw && part.below.is_none()));
        assert_eq!(shown(&index, &volume, None).1, Head::Blank);
    }
}
