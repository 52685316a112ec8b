//! Volumes of a running guest, over QMP: block nodes named by volume and layer, files handed over as open descriptors, one
//! PCI device a volume.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::error::Internal;
use base::{Error, Result};
use serde_json::{Value, json};

use super::command::ON_ERROR;
use super::qmp::Qmp;
use crate::volume::index::{Stack, is_stored};

const COMMAND: Duration = Duration::from_secs(10);
/// How long an attempt to take out a device waits for the guest.
const LET_GO: Duration = Duration::from_secs(1);
/// How long a request to the guest may remain without effect until it is made again.
const ASK: Duration = Duration::from_millis(250);
/// How often the devices are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);
const DEVICES: &str = "/machine/peripheral";

/// Whether a file is written to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rights {
    Read,
    Write,
}

/// A layer's file under the name of its node.
#[derive(Clone, Debug)]
pub struct Named {
    pub node: String,
    pub path: PathBuf,
    pub format: String,
}

/// Node, format and file name as QEMU shall open it.
pub type Opened = (String, String, String);

fn prefix(volume: &str) -> String {
    format!("v{}-", base::id::short(volume, 8))
}

/// At most 31 characters, which is all that QEMU takes.
pub fn node(volume: &str, layer: &str) -> String {
    format!("{}{layer}", prefix(volume))
}

pub fn device(volume: &str) -> String {
    format!("volume-{volume}")
}

/// The files of a stack, in its order, under the names of their nodes.
pub fn named(volume: &str, stack: &Stack, files: Vec<(PathBuf, String)>) -> Vec<Named> {
    let names = stack.layers.iter().map(String::as_str).chain(std::iter::once("image"));
    files.into_iter().zip(names).map(|((path, format), layer)| Named { node: node(volume, layer), path, format }).collect()
}

/// How a layer's file is read and written. The page cache of one machine does not know what another one writes: past it where other hosts see
/// the file too.
fn cache(node: &str) -> Value {
    json!({"direct": node.split_once('-').is_some_and(|(_, layer)| is_stored(layer))})
}

/// The block nodes of a volume, in the order in which they are to be made. `layers` has the uppermost first.
pub fn nodes(layers: &[Opened], read_only: bool) -> Vec<Value> {
    let mut all = Vec::new();
    let mut below = Value::Null;
    for (n, (node, format, file)) in layers.iter().enumerate().rev() {
        let frozen = read_only || n > 0;
        let name = format!("{node}-f");
        let cache = cache(node);
        all.push(json!({"driver": "file", "filename": file, "node-name": name, "read-only": frozen, "discard": "unmap", "cache": cache}));
        let mut layer = json!({"driver": format, "node-name": node, "file": name, "read-only": frozen, "discard": "unmap", "cache": cache});
        if format == "qcow2" {
            // Named also when there is none: what the file's header says of others is not followed.
            layer["backing"] = below;
        }
        all.push(layer);
        below = Value::from(node.clone());
    }
    all
}

/// The guest's end of a volume.
pub fn front(volume: &str, head: &Opened, boot_index: Option<u32>) -> Value {
    let (node, format, _) = head;
    // virtio-blk has room for twenty bytes of serial number.
    let mut front = json!({
        "driver": "virtio-blk-pci", "id": device(volume), "drive": node, "serial": base::id::short(volume, 20),
        "werror": ON_ERROR, "rerror": ON_ERROR,
    });
    if format == "raw" {
        // Only volumes that several guests may have are raw. All of them are on this machine, so what one process writes to the
        // page cache is what the next one reads: nothing has to bypass it.
        front["share-rw"] = true.into();
    }
    if let Some(index) = boot_index {
        front["bootindex"] = index.into();
    }
    front
}

async fn devices(qmp: &Qmp) -> Result<Vec<String>> {
    let list = qmp.execute("qom-list", json!({"path": DEVICES}), COMMAND).await?;
    let names = list.as_array().into_iter().flatten().filter_map(|d| d.get("name").and_then(Value::as_str));
    Ok(names.map(str::to_string).collect())
}

pub async fn plugged(qmp: &Qmp) -> Result<Vec<String>> {
    let devices = devices(qmp).await?;
    Ok(devices.iter().filter_map(|d| d.strip_prefix("volume-")).map(str::to_string).collect())
}

/// Hands a file to the process; answers the name under which it opens it.
async fn hand_over(qmp: &Qmp, path: &Path, word: &str, rights: Rights) -> Result<String> {
    let open = |write: bool| OpenOptions::new().read(true).write(write).open(path).internal("cannot open a layer of a volume");
    let files: Vec<File> = if rights == Rights::Write { vec![open(true)?, open(false)?] } else { vec![open(false)?] };
    let mut set: Option<u64> = None;
    for file in &files {
        let mut arguments = json!({"opaque": word});
        if let Some(set) = set {
            arguments["fdset-id"] = set.into();
        }
        let answer = qmp.execute_with("add-fd", arguments, file.as_fd(), COMMAND).await?;
        set = answer.get("fdset-id").and_then(Value::as_u64);
    }
    let set = set.ok_or_else(|| Error::internal("the monitor took no file"))?;
    Ok(format!("/dev/fdset/{set}"))
}

pub async fn plug(qmp: &Qmp, volume: &str, files: &[Named], read_only: bool, boot_index: Option<u32>, bus: Option<&str>) -> Result<()> {
    if devices(qmp).await?.contains(&device(volume)) {
        return Ok(());
    }
    // What an attempt that broke off has left.
    nodes_remove(qmp, volume).await?;
    let outcome = plug_new(qmp, volume, files, read_only, boot_index, bus).await;
    if outcome.is_err()
        && let Err(e) = nodes_remove(qmp, volume).await
    {
        tracing::debug!(volume, "{}", e.chain());
    }
    outcome
}

async fn plug_new(qmp: &Qmp, volume: &str, files: &[Named], read_only: bool, boot_index: Option<u32>, bus: Option<&str>) -> Result<()> {
    let mut opened: Vec<Opened> = Vec::new();
    for (n, file) in files.iter().enumerate() {
        let rights = if n == 0 && !read_only { Rights::Write } else { Rights::Read };
        let name = hand_over(qmp, &file.path, &file.node, rights).await?;
        opened.push((file.node.clone(), file.format.clone(), name));
    }
    for node in nodes(&opened, read_only) {
        qmp.execute("blockdev-add", node, COMMAND).await?;
    }
    let head = opened.first().ok_or_else(|| Error::internal("a volume without layers"))?;
    let mut front = front(volume, head, boot_index);
    if let Some(bus) = bus {
        front["bus"] = bus.into();
    }
    qmp.execute("device_add", front, COMMAND).await.map(drop)
}

pub async fn unplug(qmp: &Qmp, volume: &str) -> Result<bool> {
    let device = device(volume);
    let began = Instant::now();
    let mut asked: Option<Instant> = None;
    while devices(qmp).await?.contains(&device) {
        if began.elapsed() > LET_GO {
            return Ok(false);
        }
        // A guest that is just booting or still busy taking the volume in does not hear the request: it is made again.
        if asked.is_none_or(|at| at.elapsed() > ASK) {
            // While an earlier one is with the guest, another is refused; the wait is the same.
            if let Err(e) = qmp.execute("device_del", json!({"id": device}), COMMAND).await {
                tracing::debug!(volume, "{}", e.chain());
            }
            asked = Some(Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
    nodes_remove(qmp, volume).await?;
    Ok(true)
}

/// Names of all block nodes of a volume.
async fn own_nodes(qmp: &Qmp, volume: &str) -> Result<Vec<Value>> {
    let all = qmp.execute("query-named-block-nodes", json!({"flat": true}), COMMAND).await?;
    let prefix = prefix(volume);
    let own = |n: &&Value| n.get("node-name").and_then(Value::as_str).is_some_and(|name| name.starts_with(&prefix));
    Ok(all.as_array().into_iter().flatten().filter(own).cloned().collect())
}

/// Closes a volume's files. The nodes lie over each other, so the uppermost goes first.
async fn nodes_remove(qmp: &Qmp, volume: &str) -> Result<()> {
    let name = |n: &Value| n.get("node-name").and_then(Value::as_str).unwrap_or_default().to_string();
    let mut left: Vec<String> = own_nodes(qmp, volume).await?.iter().map(name).collect();
    let mut last = None;
    while !left.is_empty() {
        let mut stayed = Vec::new();
        for node in &left {
            if let Err(e) = qmp.execute("blockdev-del", json!({"node-name": node}), COMMAND).await {
                stayed.push(node.clone());
                last = Some(e);
            }
        }
        if stayed.len() == left.len() {
            return Err(last.unwrap_or_else(|| Error::internal("a volume's files do not close")));
        }
        left = stayed;
    }
    let sets = qmp.execute("query-fdsets", json!({}), COMMAND).await?;
    let prefix = prefix(volume);
    for set in sets.as_array().into_iter().flatten() {
        let own = set.get("fds").and_then(Value::as_array).into_iter().flatten();
        let mut own = own.filter_map(|fd| fd.get("opaque").and_then(Value::as_str));
        if own.any(|word| word.starts_with(&prefix))
            && let Some(id) = set.get("fdset-id")
            && let Err(e) = qmp.execute("remove-fd", json!({"fdset-id": id}), COMMAND).await
        {
            tracing::debug!(volume, "{}", e.chain());
        }
    }
    Ok(())
}

/// The layer that the guest's writes go to.
pub async fn head(qmp: &Qmp, volume: &str) -> Result<Option<String>> {
    let blocks = qmp.execute("query-block", json!({}), COMMAND).await?;
    let path = format!("{DEVICES}/{}", device(volume));
    let of_volume = |b: &&Value| b.get("qdev").and_then(Value::as_str).is_some_and(|q| q == path || q.starts_with(&format!("{path}/")));
    let found = blocks.as_array().into_iter().flatten().find(of_volume);
    let node = found.and_then(|b| b.pointer("/inserted/node-name")).and_then(Value::as_str);
    Ok(node.and_then(|n| n.strip_prefix(&prefix(volume))).map(str::to_string))
}

pub async fn switch(qmp: &Qmp, volume: &str, from: &str, to: &str, path: &Path) -> Result<()> {
    let (old, new) = (node(volume, from), node(volume, to));
    let known = own_nodes(qmp, volume).await?;
    let has = |name: &str| known.iter().any(|n| n.get("node-name").and_then(Value::as_str) == Some(name));
    if !has(&new) {
        let file = format!("{new}-f");
        if !has(&file) {
            let name = hand_over(qmp, path, &new, Rights::Write).await?;
            let node = json!({"driver": "file", "filename": name, "node-name": file, "discard": "unmap", "cache": cache(&new)});
            qmp.execute("blockdev-add", node, COMMAND).await?;
        }
        let node = json!({
            "driver": "qcow2", "node-name": new, "file": file, "backing": null, "discard": "unmap", "cache": cache(&new),
        });
        qmp.execute("blockdev-add", node, COMMAND).await?;
    }
    qmp.execute("blockdev-snapshot", json!({"node": old, "overlay": new}), COMMAND).await.map(drop)
}

pub async fn resize(qmp: &Qmp, volume: &str, head: &str, bytes: u64) -> Result<()> {
    qmp.execute("block_resize", json!({"node-name": node(volume, head), "size": bytes}), COMMAND).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_made_from_below_and_follow_no_header() {
        let stack = Stack { layers: vec!["b".repeat(16), "a".repeat(16)], image: Some(("i".into(), "raw".into())), bytes: 1 };
        let file = |name: &str, format: &str| (PathBuf::from(name), format.to_string());
        let volume = "0f1e2d3c-0000-4000-8000-000000000000";
        let files = named(volume, &stack, vec![file("/b", "qcow2"), file("/a", "qcow2"), file("/i", "raw")]);
        let opened: Vec<Opened> = files.iter().map(|f| (f.node.clone(), f.format.clone(), "/dev/fdset/1".into())).collect();
        let nodes = nodes(&opened, false);
        assert_eq!(nodes.len(), 6);
        assert!(nodes.iter().all(|n| n["node-name"].as_str().unwrap().len() <= 31), "QEMU takes no longer names");
        let frozen: Vec<bool> = nodes.iter().map(|n| n["read-only"].as_bool().unwrap()).collect();
        assert_eq!(frozen, [true, true, true, true, false, false]);
        assert_eq!(nodes[5]["backing"], nodes[3]["node-name"]);
        assert_eq!(nodes[3]["backing"], nodes[1]["node-name"]);
        assert!(nodes[1].get("backing").is_none(), "a raw image has nothing below it");
        assert!(nodes.iter().all(|n| n["cache"]["direct"] == false));
        let stored: Opened = (node(volume, "s23456789abcdef0"), "qcow2".into(), "/dev/fdset/1".into());
        assert!(super::nodes(&[stored], false).iter().all(|n| n["cache"]["direct"] == true), "other hosts see it too");
        assert_eq!(front(volume, &opened[0], None).get("share-rw"), None, "qcow2 is never open twice");
        let raw: Opened = (opened[0].0.clone(), "raw".into(), opened[0].2.clone());
        assert_eq!(front(volume, &raw, None)["share-rw"], true);
        let lone = super::nodes(&opened[..1], true);
        assert_eq!((&lone[1]["backing"], &lone[1]["read-only"]), (&Value::Null, &Value::Bool(true)));
    }
}
