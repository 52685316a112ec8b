//! Volumes of servers: what a create asks for, attaching and detaching, and their part of the guest's document.

use base::{Context, Error, Kind, Result, Timestamp};
use block_storage::bring::Destination;
use block_storage::{VolumeFacts, VolumeWish};
use rpc::instance::{Disk, DiskSource, InstanceSpec};
use serde_json::json;
use store::Tx;
use task::StepContext;

use crate::Compute;
use crate::api::server_body::{BlockDevice, ServerCreate};
use crate::db::servers::{self as db, Server};
use crate::db::volumes::{self as rows, Plan, ServerVolume, State};
use crate::db::{actions, nodes};
use crate::op;
use crate::scheduler::{self, Choice};
use crate::servers::{require_unlocked, wrong_state};
use crate::states::vm;

/// States a server may get or lose a volume in.
const CHANGEABLE: &[&str] = &[vm::ACTIVE, vm::PAUSED, vm::STOPPED, "resized"];
/// And these since 2.20.
const SHELVED: &[&str] = &[vm::SHELVED, vm::SHELVED_OFFLOADED];
/// Letters of disks.
const LETTERS: std::ops::RangeInclusive<char> = 'a'..='z';

/// What a create wants of volumes.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub devices: Vec<ServerVolume>,
    /// The first one that cannot go to another host, and the host (id) it is on.
    pub bound: Option<(String, Option<String>)>,
    /// Facts of what the server boots from, when that is a volume.
    pub root: Option<Root>,
}

#[derive(Clone, Debug)]
pub struct Root {
    /// GiB.
    pub size: Option<i64>,
    pub image_metadata: std::collections::BTreeMap<String, String>,
    /// The image it is made of.
    pub image: Option<String>,
}

fn bad(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Block Device Mapping is Invalid: {why}"))
}

/// Whether a device is of a volume, and not a local disk.
pub fn is_volume(device: &BlockDevice) -> bool {
    device.names_volume || matches!(device.source, Some("volume" | "snapshot")) || device.destination == Some("volume")
}

/// The block devices that an image names in its properties.
pub fn image_devices(properties: &std::collections::BTreeMap<String, String>) -> Result<Vec<BlockDevice>> {
    let Some(text) = properties.get("block_device_mapping") else { return Ok(Vec::new()) };
    if properties.get("bdm_v2").is_none_or(|v| http_api::query::parse_bool(v) != Some(true)) {
        return Ok(Vec::new());
    }
    let wrong = || bad("the image's block_device_mapping cannot be read.");
    let listed: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(text).map_err(|_| wrong())?;
    let word = |known: &[&'static str], value: Option<&str>| match value {
        None => Ok(None),
        Some(value) => known.iter().find(|k| **k == value).map(|k| Some(*k)).ok_or_else(wrong),
    };
    let device = |map: &serde_json::Map<String, serde_json::Value>| {
        let text = |name: &str| map.get(name).and_then(serde_json::Value::as_str);
        let flag = |name: &str| map.get(name).and_then(serde_json::Value::as_bool).unwrap_or(false);
        let source = word(&["image", "volume", "snapshot", "blank"], text("source_type"))?;
        let uuid = source.and_then(|source| text(&format!("{source}_id")));
        if uuid.is_some_and(|id| !base::id::is_uuid(id)) {
            return Err(wrong());
        }
        Ok(BlockDevice {
            source,
            destination: word(&["volume", "local"], text("destination_type"))?,
            uuid: uuid.map(str::to_string),
            volume_size: map.get("volume_size").and_then(serde_json::Value::as_i64).filter(|n| *n > 0),
            guest_format: text("guest_format").map(str::to_string),
            boot_index: map.get("boot_index").and_then(serde_json::Value::as_i64),
            no_device: flag("no_device"),
            device_name: text("device_name").map(str::to_string),
            delete_on_termination: flag("delete_on_termination"),
            tag: text("tag").map(str::to_string),
            volume_type: text("volume_type").map(str::to_string),
            ..BlockDevice::default()
        })
    };
    listed.iter().map(device).collect()
}

impl Server {
    /// Its root disk is a volume.
    pub fn boots_from_volume(&self) -> bool {
        self.image_ref.is_empty()
    }
}

impl Compute {
    /// Reads the block devices of a create that are volumes, and looks at what they name.
    pub(crate) async fn volumes_wanted(&self, ctx: &Context, wish: &ServerCreate) -> Result<Wanted> {
        let mut wanted = Wanted::default();
        let many = wish.max_count > 1;
        for device in wish.devices.iter().filter(|d| !d.no_device && is_volume(d)) {
            let source = device.source.or(if wish.legacy_devices { legacy_source(device) } else { None });
            let id = device.uuid.clone();
            let mut plan = Plan { size: device.volume_size, volume_type: device.volume_type.clone(), ours: true, ..Plan::default() };
            let mut root = Root { size: device.volume_size, image_metadata: Default::default(), image: None };
            let mut volume_id = None;
            let need = || bad("a uuid is needed for this source_type.");
            match source {
                Some("volume") => {
                    let id = id.ok_or_else(need)?;
                    if many {
                        return Err(Error::invalid("Cannot attach one or more volumes to multiple instances"));
                    }
                    let facts = self.volumes.volume_facts(ctx, &id).await.map_err(|e| missing(e, format!("failed to get volume {id}.")))?;
                    if facts.multiattach && !wish.multiattach {
                        return Err(too_old());
                    }
                    if facts.status != "available" && !(facts.multiattach && facts.status == "in-use") {
                        return Err(Error::invalid(format!(
                            "Invalid volume: Volume {id} status must be available, currently {}.",
                            facts.status
                        )));
                    }
                    self.bind(&mut wanted, &facts).await?;
                    if device.boot_index == Some(0) && !facts.bootable {
                        return Err(bad(format!("Volume {id} is not bootable thus can not be booted from.")));
                    }
                    root = Root { size: Some(facts.size), image_metadata: facts.image_metadata, image: None };
                    (volume_id, plan.ours) = (Some(id), false);
                }
                Some("snapshot") => {
                    let id = id.ok_or_else(need)?;
                    let found = self.volumes.snapshot_facts(ctx, &id).await;
                    let (size, facts) = found.map_err(|e| missing(e, format!("failed to get snapshot {id}.")))?;
                    root = Root { size: Some(device.volume_size.unwrap_or(size)), image_metadata: facts.image_metadata, image: None };
                    plan.snapshot = Some(id);
                }
                Some("image") => {
                    let id = id.or_else(|| wish.image_ref.clone()).ok_or_else(need)?;
                    if device.volume_size.is_none() {
                        return Err(bad("Images with destination_type 'volume' need to have a non-zero size specified"));
                    }
                    root.image = Some(id.clone());
                    plan.image = Some(id);
                }
                Some("blank") => {
                    if id.is_some() {
                        return Err(bad("Invalid device UUID."));
                    }
                    if device.volume_size.is_none() {
                        return Err(bad("Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size"));
                    }
                }
                _ => return Err(bad("Unrecognized legacy format.")),
            }
            let first = device.boot_index == Some(0) || (wish.legacy_devices && device.device_name.as_deref().is_some_and(is_first));
            if first {
                if wanted.root.is_some() {
                    return Err(bad("Boot sequence for the instance and image/block device mapping combination is not valid."));
                }
                wanted.root = Some(root);
            }
            let place = wanted.devices.len() as i64 + 1;
            wanted.devices.push(ServerVolume {
                id: base::id::uuid(),
                server_id: String::new(),
                place: if first { 0 } else { place },
                volume_id,
                attachment_id: None,
                state: State::Planned,
                device: device.device_name.clone().unwrap_or_default(),
                boot_index: if first { Some(0) } else { device.boot_index.filter(|n| *n > 0) },
                delete_on_termination: device.delete_on_termination,
                tag: device.tag.clone(),
                plan,
            });
        }
        Ok(wanted)
    }

    /// All volumes of a server come to one host: of those that have to stay where they are, none may be on another one.
    async fn bind(&self, wanted: &mut Wanted, facts: &VolumeFacts) -> Result<()> {
        let stays = self.core.store.read(|tx| self.volumes.volume_stays_in(tx, &facts.id)).await?;
        match (stays, &wanted.bound) {
            (Some(why), Some((other, host))) if *host != facts.host_id => {
                Err(bad(format!("volumes {other} and {} are on different hosts and have to stay there. {why}", facts.id)))
            }
            (Some(_), None) => {
                wanted.bound = Some((facts.id.clone(), facts.host_id.clone()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The best host for a server, apart from those in `ignored` (host ids): where most of its volumes are, for the others come to it.
    pub(crate) fn host_choose_in(&self, tx: &Tx, server: &Server, ignored: &[String]) -> Result<Choice> {
        self.host_choose_with_in(tx, server, ignored, self.groups_in(tx, &server.id)?)
    }

    /// As [`Compute::host_choose_in`], for a server whose ports will ask for these groups.
    pub(crate) fn host_choose_with_in(
        &self,
        tx: &Tx,
        server: &Server,
        ignored: &[String],
        groups: Vec<placement::Group>,
    ) -> Result<Choice> {
        let rows = rows::volumes_of_in(tx, &server.id)?;
        let made: Vec<String> = rows.iter().filter_map(|row| row.volume_id.clone()).collect();
        let of_snapshots = rows.into_iter().filter(|row| row.volume_id.is_none()).filter_map(|row| row.plan.snapshot);
        let places = self.volumes.places_in(tx, &server.id, &made, &of_snapshots.collect::<Vec<_>>())?;
        scheduler::choose_among_in(tx, &self.placement, server, ignored, &places, groups)
    }

    /// A server is on a host: those of its volumes that are on another one are called there, and are no part of its document before they
    /// have come.
    pub(crate) fn volumes_call_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        for mut row in rows::volumes_of_in(tx, &server.id)? {
            let (Some(id), State::Planned | State::Coming) = (&row.volume_id, row.state) else { continue };
            let here = self.volumes.volume_host_in(tx, id)? == server.host_id;
            row.state = if here { State::Planned } else { State::Coming };
            rows::volume_put_in(tx, &row)?;
        }
        Ok(())
    }

    /// Brings what was called to the host that its server is on.
    pub(crate) async fn volumes_come(&self, cx: &StepContext) -> Result<()> {
        let (server, rows) =
            self.core.store.read(|tx| Ok((db::server_get_in(tx, &cx.resource_id)?, rows::volumes_of_in(tx, &cx.resource_id)?))).await?;
        let Some(to) = destination(&server) else { return Ok(()) };
        for id in rows.into_iter().filter(|row| row.state == State::Coming).filter_map(|row| row.volume_id) {
            self.volumes.volume_bring(cx, &id, &to).await?;
        }
        Ok(())
    }

    /// It has come: the server may have it.
    pub(crate) fn volumes_came_in(&self, tx: &Tx, server_id: &str) -> Result<()> {
        for mut row in rows::volumes_of_in(tx, server_id)?.into_iter().filter(|row| row.state == State::Coming) {
            row.state = State::Planned;
            rows::volume_put_in(tx, &row)?;
        }
        Ok(())
    }

    /// The server is not made there after all. What has come by then may stay.
    pub(crate) fn volumes_call_off_in(&self, tx: &Tx, cx: &StepContext) -> Result<()> {
        let to = db::server_fetch_in(tx, &cx.resource_id, false)?.and_then(|server| server.host_id);
        for row in rows::volumes_of_in(tx, &cx.resource_id)?.into_iter().filter(|row| row.state == State::Coming) {
            if let (Some(id), Some(to)) = (&row.volume_id, &to) {
                self.volumes.bring_over_in(tx, cx, id, to)?;
            }
        }
        self.volumes_came_in(tx, &cx.resource_id)
    }

    /// Writes a new server's volumes; those that exist are reserved.
    pub(crate) fn volumes_plan_in(&self, tx: &Tx, ctx: &Context, server: &Server, wanted: &Wanted, locals: usize) -> Result<()> {
        // The guest's own disks come after a volume it boots from.
        let boots = wanted.root.is_some();
        let mut letters = LETTERS.skip(locals + usize::from(boots));
        for device in &wanted.devices {
            let mut row = device.clone();
            row.id = base::id::uuid();
            row.server_id.clone_from(&server.id);
            row.device = match (&row.device, row.boot_index) {
                (name, _) if !name.is_empty() => named(name),
                (_, Some(0)) => "/dev/vda".into(),
                _ => letters.next().map_or_else(|| "/dev/vdz".into(), |l| format!("/dev/vd{l}")),
            };
            if let Some(id) = &row.volume_id {
                row.attachment_id = Some(self.volumes.server_attach_in(tx, ctx, id, &server.id, &row.device)?);
            }
            rows::volume_put_in(tx, &row)?;
        }
        Ok(())
    }

    /// Adds a server's volumes to its document.
    pub(crate) fn volumes_document_in(&self, tx: &Tx, document: &mut InstanceSpec) -> Result<()> {
        let mut first = Vec::new();
        // A rescued guest boots from its rescue disk, and has the others beside it.
        let rescued = document.disks.first().is_some_and(|d| d.name == "rescue");
        for row in rows::volumes_of_in(tx, &document.id)? {
            let (Some(id), false) = (&row.volume_id, matches!(row.state, State::Detaching | State::Coming)) else { continue };
            let read_only = match &row.attachment_id {
                Some(attachment) => self.volumes.server_only_reads_in(tx, attachment)?,
                None => false,
            };
            let disk = Disk {
                name: format!("vol-{}", base::id::short(id, 13)),
                revision: 0,
                copy_of: None,
                bytes: 0,
                source: DiskSource::Volume { id: id.clone(), read_only, stored: self.volumes.is_shared_in(tx, id)? },
                boot_index: row.boot_index.filter(|_| !rescued).and_then(|n| u32::try_from(n).ok()),
                serial: id.clone(),
                cdrom: false,
            };
            crate::metadata::volume_add(&mut document.metadata, &row);
            if row.boot_index == Some(0) && !rescued { first.push(disk) } else { document.disks.push(disk) }
        }
        document.disks.splice(0..0, first);
        // Volumes that are files of its host keep it there: it cannot be anywhere else.
        document.recovery.elsewhere &= !document.disks.iter().any(|d| matches!(d.source, DiskSource::Volume { stored: false, .. }));
        Ok(())
    }

    /// A server that may get or lose volumes now.
    fn volumes_changeable(&self, action: &str, server: &Server, ctx: &Context, shelved: bool) -> Result<()> {
        require_unlocked(server, ctx)?;
        let state = server.vm_state.as_str();
        let on_shelf = shelved && SHELVED.contains(&state);
        if !CHANGEABLE.contains(&state) && !on_shelf {
            return Err(wrong_state(action, server, "vm_state"));
        }
        if server.task_state.is_some() {
            return Err(wrong_state(action, server, "task_state"));
        }
        Ok(())
    }

    pub async fn volume_attach(&self, ctx: &Context, id: &str, wish: AttachWish) -> Result<ServerVolume> {
        self.server_for(ctx, id, "os_compute_api:os-volumes-attachments:create").await?;
        let asked = wish.volume_id.clone();
        let done = self.server_change(ctx, id, move |this, tx, ctx, server| {
            this.volumes_changeable("attach_volume", server, ctx, wish.shelved)?;
            let facts = this.volumes.volume_facts_in(tx, ctx, &wish.volume_id)?;
            let offloaded = server.vm_state == vm::SHELVED_OFFLOADED;
            if offloaded && wish.tag.is_some() {
                return Err(Error::invalid("Attaching volumes with tags is not supported for shelved-offloaded instances."));
            }
            if offloaded && facts.multiattach {
                return Err(Error::invalid("Attaching multiattach volumes is not supported for shelved-offloaded instances."));
            }
            if facts.multiattach && !wish.multiattach {
                return Err(too_old());
            }
            let all = rows::volumes_of_in(tx, &server.id)?;
            if all.iter().any(|v| v.volume_id.as_ref() == Some(&wish.volume_id)) {
                return Err(Error::invalid(format!("Invalid volume: volume {} already attached", wish.volume_id)));
            }
            let away = server.host_id.as_deref().filter(|host| facts.host_id.as_deref() != Some(host));
            if let Some(host) = away {
                let there = format!("Invalid volume: volume {} is on another host than instance {}.", facts.id, server.id);
                this.volumes
                    .bring_check_in(tx, &facts.id, host, &server.id)
                    .map_err(|why| Error::invalid(format!("{there} {}", why.message())))?;
            }
            let elsewhere = away.is_some();
            let device = match &wish.device {
                Some(name) => named(name),
                None => free_device(server, &all)?,
            };
            if all.iter().any(|v| v.device == device) || server.root_device_name.as_deref() == Some(device.as_str()) {
                return Err(Error::conflict(format!("The supplied device path ({device}) is in use.")));
            }
            let row = ServerVolume {
                id: base::id::uuid(),
                server_id: server.id.clone(),
                place: all.iter().map(|v| v.place).max().unwrap_or(0) + 1,
                attachment_id: Some(this.volumes.server_attach_in(tx, ctx, &wish.volume_id, &server.id, &device)?),
                volume_id: Some(wish.volume_id),
                state: if elsewhere { State::Coming } else { State::Planned },
                device,
                boot_index: None,
                delete_on_termination: wish.delete_on_termination,
                tag: wish.tag,
                plan: Plan::default(),
            };
            rows::volume_put_in(tx, &row)?;
            server.spec_generation += 1;
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "attach_volume", ctx)?;
            crate::notify::server_event_in(tx, "volume_attach.start", server, ctx, None)?;
            if offloaded {
                // No guest has to hear of it before the server is off the shelf; for its users it is in use, as upstream.
                this.volumes.server_attached_on_shelf_in(tx, ctx, row.attachment_id.as_deref().unwrap_or_default())?;
                actions::action_event_in(tx, &server.id, &ctx.request_id, "compute_attach_volume", None, Timestamp::now(), None)?;
                crate::notify::server_event_in(tx, "volume_attach.end", server, ctx, None)?;
                return Ok(row);
            }
            this.core.tasks.submit(tx, op::submit(op::server_volume::ATTACH, server, ctx, json!({"row": row.id})))?;
            Ok(row)
        });
        done.await.map_err(|e| match e.kind() {
            Kind::NotFound if e.message().contains(&asked) => Error::new(Kind::NotFound, format!("Volume {asked} could not be found.")),
            _ => e,
        })
    }

    /// `shelved`: also of a server on the shelf.
    pub async fn volume_detach(&self, ctx: &Context, id: &str, volume_id: &str, shelved: bool) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-volumes-attachments:delete").await?;
        let volume_id = volume_id.to_string();
        self.server_change(ctx, id, move |this, tx, ctx, server| {
            this.volumes_changeable("detach_volume", server, ctx, shelved)?;
            let all = rows::volumes_of_in(tx, &server.id)?;
            let mut row = attached(all, &server.id, &volume_id)?;
            if row.boot_index == Some(0) {
                return Err(Error::forbidden("Cannot detach a root device volume"));
            }
            if server.vm_state == vm::SHELVED_OFFLOADED {
                return this.volume_put_back_in(tx, ctx, server, &row);
            }
            if row.state != State::Attached {
                return Err(Error::conflict(format!("Volume {volume_id} is being attached or detached.")));
            }
            this.volumes.server_detaching_in(tx, &volume_id)?;
            row.state = State::Detaching;
            rows::volume_put_in(tx, &row)?;
            server.spec_generation += 1;
            db::server_update_in(tx, server)?;
            actions::action_start_in(tx, &server.id, "detach_volume", ctx)?;
            crate::notify::server_event_in(tx, "volume_detach.start", server, ctx, None)?;
            this.core.tasks.submit(tx, op::submit(op::server_volume::DETACH, server, ctx, json!({"row": row.id}))).map(drop)
        })
        .await
    }

    /// Detaches a volume from a server on the shelf: no guest has to let go of it.
    fn volume_put_back_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, row: &ServerVolume) -> Result<()> {
        actions::action_start_in(tx, &server.id, "detach_volume", ctx)?;
        crate::notify::server_event_in(tx, "volume_detach.start", server, ctx, None)?;
        rows::volume_remove_in(tx, &row.id)?;
        self.volumes.server_detached_in(tx, ctx, row.attachment_id.as_deref().unwrap_or_default())?;
        db::server_update_in(tx, server)?;
        actions::action_event_in(tx, &server.id, &ctx.request_id, "compute_detach_volume", None, Timestamp::now(), None)?;
        crate::notify::server_event_in(tx, "volume_detach.end", server, ctx, None)
    }

    /// The server gives up its place: its volumes stay where they are, and are reserved for it.
    pub(crate) fn volumes_shelve_in(&self, tx: &Tx, server: &Server) -> Result<()> {
        for mut row in rows::volumes_of_in(tx, &server.id)? {
            if let Some(attachment) = &row.attachment_id {
                self.volumes.server_shelved_in(tx, attachment)?;
            }
            row.state = State::Planned;
            rows::volume_put_in(tx, &row)?;
        }
        Ok(())
    }

    /// The volumes of a server in storage that several hosts see.
    pub(crate) fn volumes_shared_in(&self, tx: &Tx, server_id: &str) -> Result<Vec<String>> {
        let mut shared = Vec::new();
        for id in rows::volumes_of_in(tx, server_id)?.into_iter().filter_map(|row| row.volume_id) {
            if self.volumes.is_shared_in(tx, &id)? {
                shared.push(id);
            }
        }
        Ok(shared)
    }

    /// Hosts (ids) that do not see the storage that a server's volumes are in.
    pub(crate) fn hosts_unseeing_in(&self, tx: &Tx, server_id: &str) -> Result<Vec<String>> {
        let shared = self.volumes_shared_in(tx, server_id)?;
        let mut all = Vec::new();
        for node in nodes::node_list_in(tx)? {
            for id in &shared {
                if !self.volumes.is_seen_in(tx, id, &node.id)? {
                    all.push(node.id.clone());
                    break;
                }
            }
        }
        Ok(all)
    }

    /// Passes a server's volumes in shared storage to the host that it gets. `certain`: on a host that is fenced it runs no more.
    pub(crate) fn volumes_pass_in(&self, tx: &Tx, server_id: &str, to: &Destination, certain: bool) -> Result<()> {
        for id in self.volumes_shared_in(tx, server_id)? {
            self.volumes.pass_in(tx, &id, to, certain)?;
        }
        Ok(())
    }

    /// Changes whether a volume goes with its server.
    pub async fn volume_keep(&self, ctx: &Context, id: &str, volume_id: &str, wish: KeepWish) -> Result<()> {
        self.server_for(ctx, id, "os_compute_api:os-volumes-attachments:update").await?;
        let volume_id = volume_id.to_string();
        self.server_change(ctx, id, move |_, tx, _, server| {
            let mut row = attached(rows::volumes_of_in(tx, &server.id)?, &server.id, &volume_id)?;
            let as_it_is = [
                ("id", wish.id.map(Some), Some(volume_id)),
                ("serverId", wish.server_id.map(Some), Some(server.id.clone())),
                ("device", wish.device, Some(row.device.clone())),
                ("tag", wish.tag, row.tag.clone()),
            ];
            if let Some((name, ..)) = as_it_is.iter().find(|(_, wished, is)| wished.as_ref().is_some_and(|wished| wished != is)) {
                return Err(Error::invalid(format!("The {name} property is not mutable")));
            }
            row.delete_on_termination = wish.delete_on_termination.unwrap_or(row.delete_on_termination);
            rows::volume_put_in(tx, &row)
        })
        .await
    }

    /// A server's volumes, for those who may see them.
    pub async fn volumes_list(&self, ctx: &Context, id: &str, rule: &str) -> Result<Vec<ServerVolume>> {
        let server = self.server_for(ctx, id, rule).await?;
        let all = self.core.store.read(|tx| rows::volumes_of_in(tx, &server.id)).await?;
        Ok(all.into_iter().filter(|v| v.volume_id.is_some()).collect())
    }

    /// Has the volumes made that are made for a server; answers those that have to be waited for.
    pub(crate) async fn volumes_make(&self, ctx: &Context, server_id: &str, host_id: &str) -> Result<Vec<String>> {
        let all = self.core.store.read(|tx| rows::volumes_of_in(tx, server_id)).await?;
        let mut made = Vec::new();
        for row in all.into_iter().filter(|r| r.plan.ours) {
            let image = self.volumes.volume_image(ctx, row.plan.image.as_deref()).await?;
            let wish = VolumeWish {
                name: Some(String::new()),
                description: Some(String::new()),
                size: row.plan.size,
                volume_type: row.plan.volume_type.clone(),
                snapshot_id: row.plan.snapshot.clone(),
                image: row.plan.image.clone(),
                // One of a snapshot is made where that is.
                host_id: row.plan.snapshot.is_none().then(|| host_id.to_string()),
                ..VolumeWish::default()
            };
            let (this, ctx, server_id) = (self.clone(), ctx.clone(), server_id.to_string());
            // The volume and the note of it in one transaction: it is made once, whatever happens.
            let id = self
                .core
                .store
                .write(move |tx| {
                    let Some(mut now) = rows::volumes_of_in(tx, &server_id)?.into_iter().find(|r| r.id == row.id) else { return Ok(None) };
                    if now.volume_id.is_none() {
                        now.volume_id = Some(this.volumes.volume_create_in(tx, &ctx, &wish, image.as_ref())?.id);
                        rows::volume_put_in(tx, &now)?;
                    }
                    Ok(now.volume_id)
                })
                .await?;
            made.extend(id);
        }
        Ok(made)
    }

    /// Reserves what was made for a server.
    pub(crate) fn volumes_reserve_in(&self, tx: &Tx, ctx: &Context, server_id: &str) -> Result<()> {
        for mut row in rows::volumes_of_in(tx, server_id)? {
            if let (Some(id), None) = (&row.volume_id, &row.attachment_id) {
                row.attachment_id = Some(self.volumes.server_attach_in(tx, ctx, id, server_id, &row.device)?);
                rows::volume_put_in(tx, &row)?;
            }
        }
        Ok(())
    }

    /// Takes back what was made for a server that is not built here.
    pub(crate) fn volumes_unmake_in(&self, tx: &Tx, ctx: &Context, server_id: &str) -> Result<()> {
        for mut row in rows::volumes_of_in(tx, server_id)?.into_iter().filter(|r| r.plan.ours) {
            if let Some(attachment) = row.attachment_id.take() {
                self.volumes.server_detached_in(tx, ctx, &attachment)?;
            }
            if let Some(id) = row.volume_id.take() {
                self.volumes.server_volume_drop_in(tx, ctx, &id)?;
            }
            rows::volume_put_in(tx, &row)?;
        }
        Ok(())
    }

    /// The guest runs, with all its volumes.
    pub(crate) fn volumes_attached_in(&self, tx: &Tx, ctx: &Context, server: &Server) -> Result<()> {
        for mut row in rows::volumes_of_in(tx, &server.id)?.into_iter().filter(|r| r.state == State::Planned) {
            let Some(attachment) = row.attachment_id.clone() else { continue };
            self.volumes.server_attached_in(tx, ctx, &attachment, server.host.as_deref().unwrap_or_default())?;
            row.state = State::Attached;
            rows::volume_put_in(tx, &row)?;
        }
        Ok(())
    }

    /// Lets go of all volumes of a server that is gone: those that go with it begin to be deleted.
    pub(crate) fn volumes_release_in(&self, tx: &Tx, ctx: &Context, server: &Server, built: bool) -> Result<()> {
        for row in rows::volumes_of_in(tx, &server.id)? {
            if let Some(attachment) = &row.attachment_id {
                self.volumes.server_detached_in(tx, ctx, attachment)?;
            }
            // One that was there before a server that could not be built, stays.
            let goes = if built { row.delete_on_termination } else { row.plan.ours };
            if let Some(id) = row.volume_id.as_ref().filter(|_| goes) {
                self.volumes.server_volume_delete_in(tx, ctx, id)?;
            }
            rows::volume_remove_in(tx, &row.id)?;
        }
        Ok(())
    }
}

/// What is to be attached.
#[derive(Clone, Debug)]
pub struct AttachWish {
    pub volume_id: String,
    pub device: Option<String>,
    pub tag: Option<String>,
    pub delete_on_termination: bool,
    /// Also to a server on the shelf.
    pub shelved: bool,
    /// Also one that others have too.
    pub multiattach: bool,
}

/// What of an attachment may be named in a change; only whether the volume goes with its server may differ.
#[derive(Clone, Debug, Default)]
pub struct KeepWish {
    pub id: Option<String>,
    pub server_id: Option<String>,
    pub device: Option<Option<String>>,
    pub tag: Option<Option<String>>,
    pub delete_on_termination: Option<bool>,
}

/// Where what a server needs goes.
pub fn destination(server: &Server) -> Option<Destination> {
    Some(Destination { host_id: server.host_id.clone()?, host: server.host.clone()? })
}

fn too_old() -> Error {
    Error::invalid("Multiattach volumes are only supported starting with compute API version 2.60.")
}

/// The row of a volume that a server has.
pub fn attached(all: Vec<ServerVolume>, server_id: &str, volume_id: &str) -> Result<ServerVolume> {
    all.into_iter().find(|v| v.volume_id.as_deref() == Some(volume_id)).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("Instance {server_id} is not attached to volume {volume_id}, or the volume could not be found."))
    })
}

fn missing(error: Error, why: String) -> Error {
    if error.is(Kind::NotFound) || error.is(Kind::Forbidden) { bad(why) } else { error }
}

fn legacy_source(device: &BlockDevice) -> Option<&'static str> {
    device.legacy_snapshot.then_some("snapshot").or(device.names_volume.then_some("volume"))
}

fn is_first(name: &str) -> bool {
    matches!(name.trim_start_matches("/dev/"), "vda" | "sda" | "hda" | "xvda")
}

fn named(name: &str) -> String {
    if name.starts_with("/dev/") { name.to_string() } else { format!("/dev/{name}") }
}

/// The next name behind those of the guest's own disks and volumes.
fn free_device(server: &Server, all: &[ServerVolume]) -> Result<String> {
    let flavor = server.flavor()?;
    let root = usize::from(server.doc.image.as_ref().is_some_and(|i| !i.sha256.is_empty()) || all.iter().any(|v| v.boot_index == Some(0)));
    let locals = root
        + usize::from(server.doc.ephemeral.unwrap_or(flavor.ephemeral_gb) > 0)
        + usize::from(server.doc.swap.unwrap_or(flavor.swap_mb) > 0);
    let taken = |name: &str| all.iter().any(|v| v.device == name);
    let free = LETTERS.skip(locals.max(1)).map(|l| format!("/dev/vd{l}")).find(|name| !taken(name));
    free.ok_or_else(|| Error::forbidden("No free disk device names for prefix 'vd'"))
}
