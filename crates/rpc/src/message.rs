//! What travels between controller and host, on any transport.

use std::collections::BTreeSet;

use base::{Error, Result, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::guest::{GroupSaid, GroupTell, GuestEvent, GuestStatus};
use crate::heartbeat::HeartbeatDocument;
use crate::instance::{InstanceSpec, InstanceStatus};
use crate::monitor::MonitorReport;
use crate::network::NetworkDocument;
use crate::stream::Frame;
use crate::volume::{VolumeSpec, VolumeStatus};

/// Protocol versions this build speaks. What a version brings goes only where both sides speak it, and releases next to each other
/// have one in common, unless hosts of the older one cannot be in one site with others: those before version 7 know nothing of routers
/// with parts on every host, and would answer for addresses that are elsewhere.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 7..=7;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToHost {
    /// Answers `Hello`: the version both speak from now on.
    Welcome {
        version: u32,
    },
    /// Answers a `Hello` whose versions do not overlap, or a host that is not known; the session ends.
    Refused {
        reason: String,
    },
    Instance(Box<InstanceSpec>),
    Network(Box<NetworkDocument>),
    Volume(Box<VolumeSpec>),
    Heartbeat(Box<HeartbeatDocument>),
    /// For a guest, if it is there and listens.
    Group {
        instance_id: String,
        tell: GroupTell,
    },
    /// Everything up to this event is stored; the host may forget it.
    EventsStored {
        up_to: u64,
    },
    Request {
        id: u64,
        request: Request,
    },
    /// Part of a stream; only to hosts that know them ([`HostInfo::streams`]).
    Stream {
        id: u64,
        frame: Frame,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToController {
    /// First message of a session.
    Hello {
        versions: (u32, u32),
        host: HostInfo,
    },
    /// Sent when the host's inventory changed.
    Host(HostInfo),
    Status(InstanceStatus),
    Volume(VolumeStatus),
    /// Outcome of the newest network document: `error` holds what could not be applied. `ports_up`: ports whose guest is attached and forwarding.
    Network {
        generation: u64,
        ports_up: Vec<String>,
        error: Option<String>,
    },
    /// Something happened. Kept on the host's disk, and sent again in each session, until stored.
    Event {
        number: u64,
        event: HostEvent,
    },
    /// All that the host's monitors see now; at the beginning of a session, at each change, and each minute.
    Monitor(MonitorReport),
    Guest(GuestStatus),
    /// A guest's word to its group.
    Group {
        instance_id: String,
        said: GroupSaid,
    },
    Response {
        id: u64,
        response: Result<Response, String>,
    },
    Stream {
        id: u64,
        frame: Frame,
    },
}

/// A host's name and what it offers. Part of `Hello`, so a release that adds a field must still read one without it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostInfo {
    /// Stable id, made at first start and kept on the host's disk.
    pub id: String,
    pub name: String,
    pub address: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_gib: u64,
    pub free_disk_gib: u64,
    pub used_memory_mib: u64,
    /// `kvm` or `tcg`: what a probe guest really ran under.
    pub accelerator: String,
    pub hypervisor_version: u32,
    pub cpu: serde_json::Value,
    /// The machine's boot: changes when it rebooted.
    pub boot_id: String,
    pub uptime_seconds: u64,
    /// Whether this host keeps volumes.
    pub volumes: bool,
    /// Whether this host knows streams.
    pub streams: bool,
    /// Whether it has a guard, which answers pulses and keeps its lease.
    pub guarded: bool,
    /// Whether this host gives and takes disks.
    pub moves: bool,
    /// Whether it knows how it is told to reboot.
    pub reboots: bool,
    /// Whether it starts, after the machine has booted, nothing that may be elsewhere before its controller has said so.
    pub waits: bool,
    /// Whether this host gives and takes guests that run.
    pub live: bool,
    /// Whether it knows how to make itself ready ([`Request::Ready`]).
    pub readies: bool,
    /// Whether this host gives and takes volumes that nobody has open.
    pub carries: bool,
    /// Whether it gives and takes them with their snapshots, layer by layer.
    pub layers: bool,
    /// Processors that guests get as their own (`host.cpu_dedicated_set`).
    pub dedicated: Vec<u32>,
    /// Processors that all other guests share (`host.cpu_shared_set`). None: as many as there are, unless some are dedicated.
    pub shared: Option<Vec<u32>>,
    /// Whether some of its processors are threads of the same core.
    pub threads: bool,
    /// Its address on the network among the hosts; empty: it has none.
    pub cluster_address: String,
    /// The public key of its encrypted tunnels (Curve25519), as base64; empty: it has none.
    pub tunnel_key: String,
    /// Storage that it shares with other hosts, as long as it sees it.
    pub storage: Option<SharedStorage>,
    /// Whether it gives images to other hosts ([`Request::ImageLend`]).
    pub lends: bool,
    /// What may be promised to ports, by physical network (`host.resource_provider_bandwidths`).
    pub bandwidths: Vec<Bandwidth>,
    /// What may be promised to ports of the packets that it works on (`host.resource_provider_packet_processing`).
    pub packet_rates: PacketRates,
}

/// What a host can send to a network and take from it, in kilobits per second; 0: not told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// A physical network, or `rp_tunnelled`: all tunnels together.
    pub network: String,
    pub egress: u64,
    pub ingress: u64,
}

/// The packets that a host works on, in thousands per second: in one amount, or by direction as guests see it. 0: not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PacketRates {
    pub any: u64,
    pub egress: u64,
    pub ingress: u64,
}

/// A directory that several hosts see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SharedStorage {
    /// The same for all who see the same.
    pub id: String,
    /// What the backend is called.
    pub name: String,
    pub gib: u64,
    pub free_gib: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostEvent {
    pub at: Timestamp,
    pub kind: HostEventKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostEventKind {
    /// A guest's process ended without anyone wanting it.
    InstanceDied { instance_id: String, pid: i32, reason: String, will_recover: bool },
    /// It runs again. `attempt` counts within the window.
    InstanceRecovered { instance_id: String, pid: i32, attempt: u32 },
    /// Recovery gave up; the guest is held failed.
    InstanceRecoveryFailed { instance_id: String, reason: String },
    /// The guest shut itself down.
    InstanceShutDown { instance_id: String },
    /// The guest's kernel panicked (pvpanic) or its watchdog fired.
    InstancePanicked { instance_id: String, cause: String },
    /// The guest has left its password at the metadata address, encrypted for its user.
    PasswordPosted { instance_id: String, password: Secret },
    /// Its heart began or ceased to beat, or it is not well.
    Guest { instance_id: String, event: GuestEvent },
}

/// Questions a controller asks a host, and what is only worth doing now: nothing of it is part of what is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The last `lines` of the serial console (all that is kept when absent).
    ConsoleLog {
        instance_id: String,
        lines: Option<u32>,
    },
    Diagnostics {
        instance_id: String,
    },
    /// A piece of a copy that is whole, as base64 in `Text`; empty behind its end.
    ReadSnapshot {
        instance_id: String,
        snapshot_id: String,
        offset: u64,
        length: u32,
    },
    /// Has the guest's agent set a password.
    SetPassword {
        instance_id: String,
        user: String,
        password: Secret,
    },
    /// Interrupts the guest (NMI), so that its kernel dumps itself.
    Interrupt {
        instance_id: String,
    },
    /// A part of a finished export of a volume, as base64 of at most `length` bytes; shorter at its end.
    ExportRead {
        export_id: String,
        offset: u64,
        length: u32,
    },
    /// A part of a finished export of a volume that goes to another host, or of one of its files ([`crate::volume::part_key`]): a
    /// [`DiskPiece`] in `Json`, empty behind the end.
    ExportPiece {
        export_id: String,
        offset: u64,
        length: u32,
    },
    /// Writes a part of what a volume that comes from another host will hold, or of one of its files ([`crate::volume::part_key`]). The
    /// first part, at 0, begins it anew.
    ParcelWrite {
        parcel_id: String,
        volume_id: String,
        offset: u64,
        piece: DiskPiece,
    },
    /// It is whole and this large; the volume's document may name it as its source.
    ParcelKeep {
        parcel_id: String,
        bytes: u64,
    },
    /// The files of a guest that is off, as [`DiskFile`]s in `Json`.
    DiskFiles {
        instance_id: String,
    },
    /// A part of such a file, or of the cached image `image-SHA256`: a [`DiskPiece`] in `Json`, empty behind the end.
    DiskRead {
        instance_id: String,
        file: String,
        offset: u64,
        length: u32,
    },
    /// Writes a part of a file that comes from another host. The first part, at 0, begins it anew.
    DiskWrite {
        instance_id: String,
        file: String,
        offset: u64,
        piece: DiskPiece,
    },
    /// The file is whole and this large: it gets its name, on the disk for good.
    DiskKeep {
        instance_id: String,
        file: String,
        bytes: u64,
    },
    /// Reboot the machine; `Refused` when it does not know how. Only to hosts that know it ([`HostInfo::reboots`]).
    Reboot,
    /// Part of what comes before the host is in service. A `run` that is known is asked about, any other is begun in the place of
    /// what there was. Answered by a [`Readiness`] in `Json`, after a while also when it is not over. Only to hosts that know it
    /// ([`HostInfo::readies`]).
    Ready {
        part: Part,
        run: String,
        /// How long it may take.
        seconds: u64,
    },
    /// Where the devices of a guest's process sit, as `Json`: a process that it is to go on in must have them there too.
    Slots {
        instance_id: String,
    },
    /// Has a guest vote on something that is about to be done with it, or tells it of it: a [`crate::guest::GuestVerdict`] in `Json`,
    /// when the guest has spoken or its time is over. `event` is a word of the guest's protocol.
    GuestAsk {
        instance_id: String,
        event: String,
        vote: bool,
    },
    /// Has a guest do with one vCPU more, this one, or with one less of its own choice: a [`crate::guest::GuestScaled`] in `Json`, when
    /// the guest has answered or its time is over. Only to hosts that give processors away ([`HostInfo::dedicated`]).
    GuestScale {
        instance_id: String,
        cpu: Option<u32>,
        /// Those that are online: with it, or before one is gone.
        online: BTreeSet<u32>,
    },
    /// Fill the image cache ahead of use.
    CacheImage {
        sha256: String,
        format: String,
    },
    /// Lets one other host come for the cached image with this SHA-256; answered by the address where, as `Text`. The certificate is for
    /// this one connection, the authority (all in PEM) that of the one who may come. `NotFound` when the image is neither here nor on its way. Only to hosts that
    /// know it ([`HostInfo::lends`]).
    ImageLend {
        sha256: String,
        authority: String,
        certificate: String,
        key: Secret,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Text(String),
    Json(serde_json::Value),
    Done,
    /// The guest, not the host, does not do it: why.
    Refused(String),
}

/// What a host does before it is in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Its own tests.
    Tests,
    /// Services of the machine are started.
    Services,
    /// They are stopped. Only to hosts that have said that they started any.
    Stop,
}

/// How far that is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readiness {
    pub over: bool,
    /// Executables that failed, with the end of what they said.
    pub failures: Vec<(String, String)>,
    /// Why nothing could be looked for.
    pub unusable: Option<String>,
    /// How many executables there were.
    pub count: usize,
}

/// A file that a guest has on its host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskFile {
    pub name: String,
    pub bytes: u64,
}

/// A part of a file, with the digest that who reads it made and who writes it compares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskPiece {
    pub bytes: u64,
    /// Base64; none: they are all zero.
    pub data: Option<String>,
    pub sha256: String,
}

impl DiskPiece {
    /// The most that one piece stands for.
    pub const MOST: u64 = 16 << 20;

    /// These bytes as they travel.
    pub fn of(bytes: &[u8]) -> DiskPiece {
        let data = bytes.iter().any(|b| *b != 0).then(|| STANDARD.encode(bytes));
        DiskPiece { bytes: bytes.len() as u64, data, sha256: digest(bytes) }
    }

    /// The bytes of a piece that is what it was; none when they are all zero.
    pub fn data(&self) -> Result<Option<Vec<u8>>> {
        let damaged = || Error::unavailable("a piece of a disk arrived damaged");
        if self.bytes > DiskPiece::MOST {
            return Err(Error::invalid("a piece of a disk is too large"));
        }
        let Some(data) = &self.data else { return Ok(None) };
        let bytes = STANDARD.decode(data).map_err(|_| damaged())?;
        if bytes.len() as u64 != self.bytes || digest(&bytes) != self.sha256 {
            return Err(damaged());
        }
        Ok(Some(bytes))
    }

    /// As that, zeros written out.
    pub fn content(&self) -> Result<Vec<u8>> {
        let zeros = || usize::try_from(self.bytes).map_or_else(|_| Vec::new(), |length| vec![0; length]);
        Ok(self.data()?.unwrap_or_else(zeros))
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A host that has an image, or is about to, and what another one must show there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lender {
    pub address: String,
    /// What the lender is called in its certificate.
    pub name: String,
    /// In PEM, as the two that follow.
    pub authority: String,
    pub certificate: String,
    pub key: Secret,
}

/// A text that logs do not show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
