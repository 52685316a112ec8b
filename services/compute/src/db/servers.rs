//! Servers: the stored form, and changing it.

use std::collections::{BTreeMap, BTreeSet};

use base::{Error, Result, Timestamp};
use image::bootable;
use rpc::instance::{Doors, InstanceState, Power, Restart};
use rpc::message::Secret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Row, Tx, params};

use crate::flavors::Flavor;
use crate::servers::Mend;
use crate::states::{power, vm};
use crate::vim::Issuer;

/// A server as it is stored. What is filtered, sorted or counted is a field of its own, the rest is in [`ServerDoc`].
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub id: String,
    /// Raised by every change; a change based on an older one is refused.
    pub generation: u64,
    pub number: u64,
    pub project_id: String,
    pub user_id: String,
    pub display_name: String,
    pub display_description: Option<String>,
    pub hostname: String,
    pub vm_state: String,
    pub task_state: Option<String>,
    pub power_state: i64,
    pub host_id: Option<String>,
    pub host: Option<String>,
    pub node: Option<String>,
    pub availability_zone: Option<String>,
    /// Empty without an image.
    pub image_ref: String,
    pub flavor_id: String,
    pub vcpus: u32,
    pub memory_mb: u64,
    pub key_name: Option<String>,
    /// `True` or empty, as clients see it.
    pub config_drive: String,
    pub reservation_id: String,
    pub launch_index: u32,
    pub root_device_name: Option<String>,
    /// `owner` or `admin`.
    pub locked_by: Option<String>,
    pub access_ip_v4: Option<String>,
    pub access_ip_v6: Option<String>,
    pub auto_disk_config: bool,
    pub progress: u8,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub launched_at: Option<Timestamp>,
    pub terminated_at: Option<Timestamp>,
    pub deleted: bool,
    /// What the guest should be doing.
    pub wanted: Power,
    /// Of the document the host has to have.
    pub spec_generation: u64,
    /// Restarts asked for so far.
    pub boot: u64,
    pub doc: ServerDoc,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerDoc {
    pub flavor: Option<Flavor>,
    pub image: Option<ImageFacts>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    pub user_data: Option<String>,
    /// Ids of the certificates that its user trusts to issue those of images' signers.
    pub trusted_certs: Option<Vec<String>>,
    /// Public key put into the guest's metadata, kept so that deleting the keypair changes nothing.
    pub public_key: Option<PublicKey>,
    /// Files put into the config drive (versions before 2.57): path → base64.
    #[serde(default)]
    pub files: Vec<(String, String)>,
    /// The zone the user asked for.
    pub pinned_zone: Option<String>,
    #[serde(default)]
    pub hints: Value,
    pub locked_reason: Option<String>,
    /// Kept until the guest has read it; never shown.
    pub admin_pass: Option<String>,
    /// The password that the guest has posted, encrypted for its user. Empty: none.
    #[serde(default)]
    pub posted_password: String,
    /// What a create asked of the scheduler, for retries.
    #[serde(default)]
    pub placement: PlacementWish,
    /// Kind of the newest wanted restart.
    #[serde(default)]
    pub restart: Restart,
    /// Why the host has stopped the guest for now, as for a disk that cannot be written. Empty: it has not.
    #[serde(default)]
    pub stopped_because: String,
    /// The host holds the guest failed; cleared when it says the guest runs.
    #[serde(default)]
    pub held_failed: bool,
    /// Sizes asked for in place of the flavor's: GiB and MiB.
    pub ephemeral: Option<u64>,
    pub swap: Option<u64>,
    /// Secret from which the guest's random seed is made.
    #[serde(default)]
    pub seed: String,
    /// Name of the project at the time of creation, for logs.
    #[serde(default)]
    pub owner_name: String,
    /// As asked for at creation.
    #[serde(default)]
    pub security_groups: Vec<String>,
    #[serde(default)]
    pub disks: DiskRevisions,
    /// What the root disk lies over, when that is not the server's image: it was shelved.
    pub root_image: Option<ImageFacts>,
    pub rescue: Option<Rescue>,
    pub resize: Option<Resize>,
    /// A copy of the root disk that is being made.
    pub snapshot: Option<String>,
    pub shelved: Option<Shelved>,
    /// Ports that the guest is to let go of.
    #[serde(default)]
    pub detaching: Vec<String>,
    /// It goes to another host while it runs.
    #[serde(default)]
    pub live: Option<Live>,
    /// Its guest is being asked about this; until then nothing else is done with it.
    #[serde(default)]
    pub gate: Option<Gate>,
    /// When it was last repaired because its guest was not well.
    #[serde(default)]
    pub repairs: Vec<Timestamp>,
    /// By whom what is begun now was issued.
    #[serde(skip)]
    pub issuer: Issuer,
    /// The system's tries to mend it, the newest last.
    #[serde(default)]
    pub mends: Vec<Mend>,
    /// vCPUs that it does without: it has been scaled down.
    #[serde(default)]
    pub offline: BTreeSet<u32>,
    /// The start after which it was given up.
    #[serde(default)]
    pub exhausted: Option<u64>,
}

/// An action that waits for the guest's word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Who has this may carry the action out, once.
    pub permit: String,
    /// Its word, as faults have it.
    pub action: String,
    /// The operation that asks.
    #[serde(default)]
    pub operation: String,
}

/// A live migration that is under way: what both hosts' documents say of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    pub migration: String,
    /// The host (id) it goes to.
    pub dest: String,
    /// See [`rpc::instance::Way::Here`].
    pub slots: Value,
    pub name: String,
    pub authority: String,
    pub server: LiveEnd,
    pub client: LiveEnd,
    /// Where the other host waits for it: from then on its own host sends it.
    pub doors: Option<Doors>,
    /// In milliseconds.
    pub downtime: u32,
    /// An administrator wants it there, even standing still.
    #[serde(default)]
    pub force: bool,
    /// It is to stay, unless it has gone already.
    #[serde(default)]
    pub stop: bool,
}

/// A certificate and its key, good for this migration alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveEnd {
    pub certificate: String,
    pub key: Secret,
}

/// Which of all the disks it ever had a server has. A new one gets the next number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskRevisions {
    pub last: u32,
    pub root: u32,
    pub ephemeral: u32,
    pub swap: u32,
    /// Those that began as a copy: of which revision.
    pub root_from: Option<u32>,
    pub ephemeral_from: Option<u32>,
}

impl DiskRevisions {
    pub fn fresh(&mut self) -> u32 {
        self.last += 1;
        self.last
    }
}

/// A server that runs from another image, its own disks beside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rescue {
    pub image: ImageFacts,
    pub revision: u32,
    /// Told to the guest while it is rescued.
    pub admin_pass: Option<String>,
}

/// A resize that is neither confirmed nor reverted: what there is to go back to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    pub migration: String,
    pub flavor: Flavor,
    pub disks: DiskRevisions,
    pub ephemeral: Option<u64>,
    pub swap: Option<u64>,
    /// The vCPUs it did without.
    #[serde(default)]
    pub offline: BTreeSet<u32>,
    /// The state it had, and gets again.
    pub vm_state: String,
    pub at: Timestamp,
    /// The host it came from, where it is kept, off. None: it is on its host still.
    #[serde(default)]
    pub source: Option<Source>,
}

/// A host that a server was on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub host_id: String,
    pub host: String,
    pub zone: Option<String>,
}

/// Where the disk of a shelved server is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shelved {
    /// None: it boots from a volume, which stays as it is.
    pub image_id: Option<String>,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublicKey {
    pub name: String,
    pub kind: String,
    pub data: String,
}

/// What of an image a server keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageFacts {
    pub id: String,
    pub name: String,
    pub sha256: String,
    pub disk_format: String,
    pub size: u64,
    pub virtual_size: Option<u64>,
    pub min_disk_gib: u64,
    pub min_ram_mib: u64,
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// While there is any, no host hears of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<image::Doubt>,
    /// What hosts get in its place. Of a format that takes a conversion no host hears before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converted: Option<image::Converted>,
}

impl ImageFacts {
    /// Whether hosts may hear of it.
    pub fn is_ready(&self) -> bool {
        self.doubt.is_none() && (self.converted.is_some() || !bootable::is_converted(&self.disk_format))
    }
    /// Whether it is one that machines have as a CD-ROM.
    pub fn is_cdrom(&self) -> bool {
        self.disk_format == "iso"
    }
    /// What hosts lay a disk over: its SHA-256 and format.
    pub fn content(&self) -> (&str, &str) {
        match &self.converted {
            Some(converted) => (&converted.sha256, "qcow2"),
            None => (&self.sha256, bootable::for_hosts(&self.disk_format)),
        }
    }
}

impl From<image::BootImage> for ImageFacts {
    fn from(image: image::BootImage) -> ImageFacts {
        ImageFacts {
            id: image.id,
            name: image.name,
            sha256: image.sha256,
            disk_format: image.disk_format,
            size: image.size,
            virtual_size: image.virtual_size,
            min_disk_gib: image.min_disk_gib,
            min_ram_mib: image.min_ram_mib,
            properties: image.properties,
            doubt: None,
            converted: None,
        }
    }
}

/// Where a server may or must run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlacementWish {
    pub zone: Option<String>,
    /// Past the filters.
    pub forced_host: Option<String>,
    /// Through the filters.
    pub requested_host: Option<String>,
    #[serde(default)]
    pub same_host: Vec<String>,
    #[serde(default)]
    pub different_host: Vec<String>,
    pub group: Option<String>,
}

impl Server {
    /// The images that it starts from.
    pub fn images(&mut self) -> impl Iterator<Item = &mut ImageFacts> {
        let doc = &mut self.doc;
        let root = doc.root_image.as_mut().or(doc.image.as_mut());
        root.into_iter().chain(doc.rescue.as_mut().map(|rescue| &mut rescue.image))
    }
    /// Whether an image that it starts from is not verified yet, or not converted.
    pub fn is_doubtful(&self) -> bool {
        let doc = &self.doc;
        let rescue = doc.rescue.as_ref().map(|rescue| &rescue.image);
        doc.root_image.iter().chain(&doc.image).chain(rescue).any(|image| !image.is_ready())
    }
    /// What users see.
    pub fn status(&self) -> &'static str {
        if self.deleted { "DELETED" } else { crate::states::status(&self.vm_state, self.task_state.as_deref()) }
    }
    /// The hypervisor's name of the guest.
    pub fn instance_name(&self) -> String {
        format!("instance-{:08x}", self.number)
    }
    pub fn is_locked(&self) -> bool {
        self.locked_by.is_some()
    }
    pub fn flavor(&self) -> Result<&Flavor> {
        self.doc.flavor.as_ref().ok_or_else(|| Error::internal(format!("server {} has no flavor", self.id)))
    }
    /// Asks the host for something else: a new generation of its document.
    pub fn want(&mut self, wanted: Power) {
        self.wanted = wanted;
        self.spec_generation += 1;
    }
    /// The state of a server whose guest is seen so.
    pub fn state_seen(&self, state: InstanceState) -> Option<&'static str> {
        let plain = crate::hosts::vm_state_of(state)?;
        Some(match state {
            InstanceState::Running | InstanceState::Stopped if self.doc.resize.is_some() => vm::RESIZED,
            InstanceState::Running if self.doc.rescue.is_some() => vm::RESCUED,
            InstanceState::Stopped if self.vm_state == vm::SHELVED => vm::SHELVED,
            _ => plain,
        })
    }
    /// The other host that is to take the guest while it runs.
    pub fn coming_to(&self) -> Option<&str> {
        self.doc.live.as_ref().map(|live| live.dest.as_str())
    }
    /// The other host that has the guest, off, until its move is confirmed.
    pub fn kept_on(&self) -> Option<&str> {
        self.doc.resize.as_ref().and_then(|before| before.source.as_ref()).map(|source| source.host_id.as_str())
    }
    /// The state that goes with a guest in this power state.
    pub fn settle(&mut self, state: &'static str) {
        self.vm_state = state.into();
        self.task_state = None;
        self.power_state = match state {
            vm::ACTIVE | vm::RESCUED => power::RUNNING,
            vm::PAUSED => power::PAUSED,
            vm::STOPPED | vm::SUSPENDED | vm::SHELVED => power::SHUTDOWN,
            vm::RESIZED if self.wanted == Power::Stopped => power::SHUTDOWN,
            vm::RESIZED => power::RUNNING,
            vm::SHELVED_OFFLOADED => power::SHUTDOWN,
            _ => self.power_state,
        };
    }
}

pub const SERVER_COLUMNS: &str = "id, generation, number, project_id, user_id, display_name, display_description, hostname, vm_state, task_state, \
     power_state, host_id, host, node, availability_zone, image_ref, flavor_id, vcpus, memory_mb, key_name, config_drive, reservation_id, \
     launch_index, root_device_name, locked_by, access_ip_v4, access_ip_v6, auto_disk_config, progress, created_at, updated_at, launched_at, \
     terminated_at, deleted, wanted, spec_generation, boot, doc";

pub fn server_row(r: &Row) -> Result<Server> {
    Ok(Server {
        id: r.text(0)?,
        generation: r.count(1)?,
        number: r.count(2)?,
        project_id: r.text(3)?,
        user_id: r.text(4)?,
        display_name: r.text(5)?,
        display_description: r.opt_text(6)?,
        hostname: r.text(7)?,
        vm_state: r.text(8)?,
        task_state: r.opt_text(9)?,
        power_state: r.int(10)?,
        host_id: r.opt_text(11)?,
        host: r.opt_text(12)?,
        node: r.opt_text(13)?,
        availability_zone: r.opt_text(14)?,
        image_ref: r.text(15)?,
        flavor_id: r.text(16)?,
        vcpus: u32::try_from(r.count(17)?).unwrap_or(u32::MAX),
        memory_mb: r.count(18)?,
        key_name: r.opt_text(19)?,
        config_drive: r.text(20)?,
        reservation_id: r.text(21)?,
        launch_index: u32::try_from(r.count(22)?).unwrap_or(u32::MAX),
        root_device_name: r.opt_text(23)?,
        locked_by: r.opt_text(24)?,
        access_ip_v4: r.opt_text(25)?,
        access_ip_v6: r.opt_text(26)?,
        auto_disk_config: r.flag(27)?,
        progress: u8::try_from(r.int(28)?).unwrap_or(100),
        created_at: r.time(29)?,
        updated_at: r.time(30)?,
        launched_at: r.opt_time(31)?,
        terminated_at: r.opt_time(32)?,
        deleted: r.flag(33)?,
        wanted: power_parse(&r.text(34)?)?,
        spec_generation: r.count(35)?,
        boot: r.count(36)?,
        doc: r.json(37)?,
    })
}

fn power_name(power: Power) -> &'static str {
    match power {
        Power::Running => "running",
        Power::Paused => "paused",
        Power::Suspended => "suspended",
        Power::Stopped => "stopped",
        Power::Absent => "absent",
    }
}

fn power_parse(name: &str) -> Result<Power> {
    [Power::Running, Power::Paused, Power::Suspended, Power::Stopped, Power::Absent]
        .into_iter()
        .find(|p| power_name(*p) == name)
        .ok_or_else(|| Error::internal(format!("wanted power {name:?}")))
}

/// The next number of a server, for its instance name.
pub fn server_number_in(tx: &Tx) -> Result<u64> {
    tx.query_one("UPDATE server_number SET last = last + 1 WHERE one = 1 RETURNING last", &[], |r| r.count(0))
}

pub fn server_insert_in(tx: &Tx, s: &Server) -> Result<()> {
    tx.execute(
        &format!(
            "INSERT INTO server ({SERVER_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, \
             ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35, ?36, ?37, ?38)"
        ),
        &values(s)?,
    )?;
    Ok(())
}

fn values(s: &Server) -> Result<[store::Value; 38]> {
    use store::Value as V;
    Ok([
        V::from(&s.id),
        V::from(s.generation),
        V::from(s.number),
        V::from(&s.project_id),
        V::from(&s.user_id),
        V::from(&s.display_name),
        V::from(&s.display_description),
        V::from(&s.hostname),
        V::from(&s.vm_state),
        V::from(&s.task_state),
        V::from(s.power_state),
        V::from(&s.host_id),
        V::from(&s.host),
        V::from(&s.node),
        V::from(&s.availability_zone),
        V::from(&s.image_ref),
        V::from(&s.flavor_id),
        V::from(s.vcpus),
        V::from(s.memory_mb),
        V::from(&s.key_name),
        V::from(&s.config_drive),
        V::from(&s.reservation_id),
        V::from(s.launch_index),
        V::from(&s.root_device_name),
        V::from(&s.locked_by),
        V::from(&s.access_ip_v4),
        V::from(&s.access_ip_v6),
        V::from(s.auto_disk_config),
        V::from(s.progress),
        V::from(s.created_at),
        V::from(s.updated_at),
        V::from(s.launched_at),
        V::from(s.terminated_at),
        V::from(s.deleted),
        V::from(power_name(s.wanted)),
        V::from(s.spec_generation),
        V::from(s.boot),
        V::json(&s.doc)?,
    ])
}

/// A server that is there, or was (then only with `deleted`). Within a write it stays as it is until the write's end: two who
/// change a server take turns, and neither fails for the other's sake.
pub fn server_fetch_in(tx: &Tx, id: &str, deleted: bool) -> Result<Option<Server>> {
    let sql = format!("SELECT {SERVER_COLUMNS} FROM server WHERE id = ?1 AND (deleted = 0 OR ?2 = 1)");
    tx.query_opt_locked(&sql, params![id, deleted], server_row)
}

/// The project of a server, also of one that was deleted.
pub fn server_project_in(tx: &Tx, id: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT project_id FROM server WHERE id = ?1", params![id], |row| row.text(0))
}

/// A server that is there; `NotFound` otherwise.
pub fn server_get_in(tx: &Tx, id: &str) -> Result<Server> {
    server_fetch_in(tx, id, false)?.ok_or_else(|| not_found(id))
}

/// The 404 of a server that is not there, or not to be seen.
pub fn not_found(id: &str) -> Error {
    Error::new(base::Kind::NotFound, format!("Instance {id} could not be found."))
}

/// Writes a server back if nobody else has since it was read.
pub fn server_update_in(tx: &Tx, s: &mut Server) -> Result<()> {
    s.updated_at = Timestamp::now();
    task::nudge_in(tx, crate::sync::server_alarms::NAME);
    server_save_in(tx, s)
}

/// As [`server_update_in`], without moving `updated_at`: for what users do not see as a change.
pub fn server_save_in(tx: &Tx, s: &mut Server) -> Result<()> {
    let before = s.generation;
    s.generation += 1;
    let mut all = values(s)?.to_vec();
    all.push(store::Value::from(before));
    let changed = tx.execute(
        "UPDATE server SET generation = ?2, number = ?3, project_id = ?4, user_id = ?5, display_name = ?6, display_description = ?7, \
         hostname = ?8, vm_state = ?9, task_state = ?10, power_state = ?11, host_id = ?12, host = ?13, node = ?14, availability_zone = ?15, \
         image_ref = ?16, flavor_id = ?17, vcpus = ?18, memory_mb = ?19, key_name = ?20, config_drive = ?21, reservation_id = ?22, \
         launch_index = ?23, root_device_name = ?24, locked_by = ?25, access_ip_v4 = ?26, access_ip_v6 = ?27, auto_disk_config = ?28, \
         progress = ?29, created_at = ?30, updated_at = ?31, launched_at = ?32, terminated_at = ?33, deleted = ?34, wanted = ?35, \
         spec_generation = ?36, boot = ?37, doc = ?38 WHERE id = ?1 AND generation = ?39",
        &all,
    )?;
    if changed == 0 {
        return Err(Error::conflict(format!("Server {} was changed by another request. Please try again.", s.id)));
    }
    Ok(())
}

/// All servers that live on a host.
pub fn servers_on_host_in(tx: &Tx, host_id: &str) -> Result<Vec<Server>> {
    let sql = format!("SELECT {SERVER_COLUMNS} FROM server WHERE host_id = ?1 AND deleted = 0 ORDER BY number");
    tx.query(&sql, params![host_id], server_row)
}

/// Servers that have failed.
pub fn servers_failed_in(tx: &Tx) -> Result<Vec<Server>> {
    let sql = format!("SELECT {SERVER_COLUMNS} FROM server WHERE vm_state = 'error' AND deleted = 0 ORDER BY number");
    tx.query(&sql, &[], server_row)
}

/// Servers that are to come to a host while they run.
pub fn servers_coming_in(tx: &Tx, host_id: &str) -> Result<Vec<Server>> {
    let sql = format!(
        "SELECT {SERVER_COLUMNS} FROM server WHERE deleted = 0 AND id IN (SELECT server_id FROM server_migration \
         WHERE kind = 'live-migration' AND status IN ('preparing', 'running', 'post-migrating'))"
    );
    let all = tx.query(&sql, &[], server_row)?;
    Ok(all.into_iter().filter(|server| server.coming_to() == Some(host_id)).collect())
}

/// What went wrong with a server, as its `fault` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub code: i64,
    pub message: String,
    pub details: String,
    pub created_at: Timestamp,
}

pub fn fault_put_in(tx: &Tx, server_id: &str, code: i64, message: &str, details: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO server_fault (server_id, code, message, details, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (server_id) DO UPDATE SET code = excluded.code, message = excluded.message, details = excluded.details, \
         created_at = excluded.created_at",
        params![server_id, code, message, details, Timestamp::now()],
    )?;
    Ok(())
}

/// The faults of many servers, by server.
pub fn faults_of_in(tx: &Tx, server_ids: &[String]) -> Result<std::collections::HashMap<String, Fault>> {
    let rows = store::Select::new("SELECT server_id, code, message, details, created_at FROM server_fault")
        .in_list("server_id", server_ids)
        .fetch(tx, |r| Ok((r.text(0)?, Fault { code: r.int(1)?, message: r.text(2)?, details: r.text(3)?, created_at: r.time(4)? })))?;
    Ok(rows.into_iter().collect())
}
